//! ChannelData (RFC 8656 §12.4, §12.5): four bytes of header, then application data.

use core::fmt;
use core::ops::Range;

/// Bytes of the header: channel number and length, both big endian.
pub const HEADER_BYTES: usize = 4;

/// Which numbers a client may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChannelRange {
    /// 0x4000–0x4FFF (RFC 8656 §12).
    #[default]
    Rfc8656,
    /// 0x4000–0x7FFF (RFC 5766 §11), for clients older than 2020.
    Rfc5766,
}

impl ChannelRange {
    /// The highest number of the range.
    #[must_use]
    pub const fn last(self) -> u16 {
        match self {
            Self::Rfc8656 => 0x4FFF,
            Self::Rfc5766 => 0x7FFF,
        }
    }
}

/// A channel number that a client may use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest number.
    pub const FIRST: u16 = 0x4000;

    /// `None` outside the range.
    #[must_use]
    pub const fn new(number: u16, range: ChannelRange) -> Option<Self> {
        if number >= Self::FIRST && number <= range.last() { Some(Self(number)) } else { None }
    }

    /// The number, host byte order.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelNumber({:#06x})", self.0)
    }
}

/// A ChannelData message over UDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelData {
    /// The channel.
    pub number: ChannelNumber,
    /// Where the application data lies in the datagram; padding behind it is not part of it.
    pub payload: Range<usize>,
}

impl ChannelData {
    /// `None` when the number is outside `range`, or the length field says more than there is.
    /// Up to three bytes may follow the data: padding is optional over UDP (§12.5), and what is
    /// longer is not a ChannelData message.
    #[must_use]
    pub fn parse(datagram: &[u8], range: ChannelRange) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let [n0, n1, l0, l1] = *header;
        let number = ChannelNumber::new(u16::from_be_bytes([n0, n1]), range)?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let padding = rest.len().checked_sub(length)?;
        (padding <= 3).then_some(Self { number, payload: HEADER_BYTES..HEADER_BYTES + length })
    }

    /// The header in front of `length` bytes of application data.
    #[must_use]
    pub const fn header(number: ChannelNumber, length: u16) -> [u8; HEADER_BYTES] {
        let [n0, n1] = number.0.to_be_bytes();
        let [l0, l1] = length.to_be_bytes();
        [n0, n1, l0, l1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(datagram: &[u8]) -> Option<Range<usize>> {
        ChannelData::parse(datagram, ChannelRange::Rfc8656).map(|m| m.payload)
    }

    #[test]
    fn the_range_ends_where_its_rfc_says() {
        let allowed = |n, range| ChannelNumber::new(n, range).is_some();
        assert!(!allowed(0x3FFF, ChannelRange::Rfc8656));
        assert!(allowed(0x4000, ChannelRange::Rfc8656));
        assert!(allowed(0x4FFF, ChannelRange::Rfc8656));
        assert!(!allowed(0x5000, ChannelRange::Rfc8656));
        assert!(allowed(0x7FFF, ChannelRange::Rfc5766));
        assert!(!allowed(0x8000, ChannelRange::Rfc5766));
    }

    #[test]
    fn the_length_field_rules_and_padding_is_not_data() {
        assert_eq!(payload(&[0x40, 0, 0, 0]), Some(4..4));
        assert_eq!(payload(&[0x40, 0, 0, 1, 9]), Some(4..5));
        assert_eq!(payload(&[0x40, 0, 0, 1, 9, 0, 0, 0]), Some(4..5));
        assert_eq!(payload(&[0x40, 0, 0, 1, 9, 0, 0, 0, 0]), None, "four bytes too many");
        assert_eq!(payload(&[0x40, 0, 0, 2, 9]), None, "one byte too few");
        assert_eq!(payload(&[0x40, 0, 0]), None);
        assert_eq!(payload(&[0x40, 0, 0xFF, 0xFF, 1]), None);
    }

    #[test]
    fn header_and_parse_agree() {
        let number = ChannelNumber::new(0x4ABC, ChannelRange::Rfc8656).unwrap();
        let mut datagram = [7u8; 4 + 6];
        datagram[..4].copy_from_slice(&ChannelData::header(number, 6));
        let parsed = ChannelData::parse(&datagram, ChannelRange::Rfc8656).unwrap();
        assert_eq!((parsed.number, parsed.payload), (number, 4..10));
    }
}
