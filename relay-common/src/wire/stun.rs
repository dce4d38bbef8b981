//! STUN messages (RFC 8489 §5, §14), read in place.
//!
//! [`Message::parse`] checks the header and walks the attributes once; afterwards nothing can
//! fail. Judging the content is the server's: the codec has no opinion on methods or attributes.

use core::fmt;

use super::attribute::AttributeType;
use super::crc32;

/// Bytes of the header (§5).
pub const HEADER_BYTES: usize = 20;
/// The magic cookie (§5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
/// Bytes of an attribute's type and length.
pub const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Bytes of a MESSAGE-INTEGRITY value: HMAC-SHA1 (§14.5).
pub const INTEGRITY_BYTES: usize = 20;
/// Bytes of a MESSAGE-INTEGRITY-SHA256 value that is not truncated: HMAC-SHA256 (§14.6).
pub const INTEGRITY_SHA256_BYTES: usize = 32;
/// Bytes that truncation leaves at least (§14.6).
const INTEGRITY_SHA256_BYTES_MIN: usize = 16;
pub(super) const FINGERPRINT_XOR: u32 = 0x5354_554E;
const FINGERPRINT_ATTRIBUTE_BYTES: usize = 8;

/// What a message is for (RFC 8489 §18.2, RFC 8656 §17): twelve bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Method(pub u16);

impl Method {
    /// Binding (RFC 8489).
    pub const BINDING: Self = Self(0x001);
    /// Allocate: request and responses.
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh: request and responses.
    pub const REFRESH: Self = Self(0x004);
    /// Send: indication only, client to server.
    pub const SEND: Self = Self(0x006);
    /// Data: indication only, server to client.
    pub const DATA: Self = Self(0x007);
    /// CreatePermission: request and responses.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind: request and responses.
    pub const CHANNEL_BIND: Self = Self(0x009);
}

/// Request, indication or response (§5): two bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Expects a response.
    Request,
    /// Expects none.
    Indication,
    /// A success response.
    Success,
    /// An error response.
    Error,
}

/// Ties a response to its request (§5): 96 bits chosen by the requester.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransactionId(pub [u8; 12]);

/// The type field: method and class, interleaved (§5, figure 3).
#[must_use]
pub const fn message_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let m = method.0;
    (m & 0x000F) | (m & 0x0070) << 1 | (m & 0x0F80) << 2 | class
}

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Fewer than 20 bytes.
    Truncated,
    /// The two leading bits are not zero, or the magic cookie is wrong.
    NotStun,
    /// The length field disagrees with the bytes, or is no multiple of four.
    Length,
    /// An attribute reaches beyond the message.
    Attribute,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "shorter than a STUN header",
            Self::NotStun => "no STUN message: leading bits or magic cookie",
            Self::Length => "length field disagrees with the datagram",
            Self::Attribute => "an attribute reaches beyond the message",
        })
    }
}

impl core::error::Error for ParseError {}

/// A well-formed message: header valid, every attribute inside.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_BYTES],
    body: &'a [u8],
}

/// One attribute of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attribute<'a> {
    /// Its type.
    pub kind: AttributeType,
    /// Its value, without padding.
    pub value: &'a [u8],
    /// Where its type field starts, bytes from the start of the message.
    pub offset: usize,
}

/// FINGERPRINT of a message (§14.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fingerprint {
    /// The last attribute is something else.
    Absent,
    /// Present and right.
    Valid,
    /// Present and wrong: these bytes are not STUN, or were damaged.
    Invalid,
}

/// What MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 is computed over (§14.5, §14.6), and what the
/// message carries. The MAC is the HMAC of `header`, then `body`; compare it in constant time.
#[derive(Clone, Copy, Debug)]
pub struct Integrity<'a> {
    /// The header with the length that the message had up to and including this attribute.
    pub header: [u8; HEADER_BYTES],
    /// The attributes before this one.
    pub body: &'a [u8],
    /// The value to compare with.
    pub mac: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks header, length and the bounds of every attribute. The datagram is one message:
    /// nothing may follow it.
    ///
    /// # Errors
    /// See [`ParseError`].
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let (header, body) =
            datagram.split_first_chunk::<HEADER_BYTES>().ok_or(ParseError::Truncated)?;
        if header[0] & 0xC0 != 0 || header[4..8] != MAGIC_COOKIE.to_be_bytes() {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != body.len() || length % 4 != 0 {
            return Err(ParseError::Length);
        }
        let mut rest = body;
        while !rest.is_empty() {
            (_, rest) = split_attribute(rest).ok_or(ParseError::Attribute)?;
        }
        Ok(Self { header, body })
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        let t = u16::from_be_bytes([self.header[0], self.header[1]]);
        Method((t & 0x000F) | (t & 0x00E0) >> 1 | (t & 0x3E00) >> 2)
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match (self.header[0] & 0x01, self.header[1] & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            _ => Class::Error,
        }
    }

    /// The transaction id.
    #[must_use]
    pub fn transaction_id(&self) -> TransactionId {
        let [.., t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb] = *self.header;
        TransactionId([t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb])
    }

    /// Bytes of the whole message.
    #[must_use]
    pub const fn len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Whether it has no attributes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The attributes that count, in wire order: behind MESSAGE-INTEGRITY only
    /// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT do (§14.5), behind MESSAGE-INTEGRITY-SHA256 only
    /// FINGERPRINT (§14.6), behind FINGERPRINT nothing (§14.7).
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut sealed = Seal::Open;
        self.all_attributes().filter(move |attribute| {
            let counts = sealed.admits(attribute.kind);
            sealed = sealed.after(attribute.kind);
            counts
        })
    }

    /// The value of the first attribute of a type that counts: later duplicates are ignored (§14).
    #[must_use]
    pub fn attribute(&self, kind: AttributeType) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.kind == kind).map(|a| a.value)
    }

    /// Checks FINGERPRINT, which is always the last attribute (§14.7).
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let Some((covered, [0x80, 0x28, 0x00, 0x04, value @ ..])) =
            self.body.split_last_chunk::<FINGERPRINT_ATTRIBUTE_BYTES>()
        else {
            return Fingerprint::Absent;
        };
        // The eight bytes could also be the tail of a longer value.
        let offset = HEADER_BYTES + covered.len();
        if !self.all_attributes().any(|a| a.offset == offset) {
            return Fingerprint::Absent;
        }
        let value = u32::from_be_bytes(*value);
        if value == fingerprint(self.header, covered) {
            Fingerprint::Valid
        } else {
            Fingerprint::Invalid
        }
    }

    /// MESSAGE-INTEGRITY and what it covers. `None`: absent, or not 20 bytes.
    #[must_use]
    pub fn integrity(&self) -> Option<Integrity<'a>> {
        self.sealed_by(AttributeType::MESSAGE_INTEGRITY, |bytes| bytes == INTEGRITY_BYTES)
    }

    /// MESSAGE-INTEGRITY-SHA256 and what it covers. `None`: absent, or not 16 to 32 bytes in steps
    /// of four. Whether less than 32 are enough is for the usage to say (§14.6).
    #[must_use]
    pub fn integrity_sha256(&self) -> Option<Integrity<'a>> {
        self.sealed_by(AttributeType::MESSAGE_INTEGRITY_SHA256, |bytes| {
            (INTEGRITY_SHA256_BYTES_MIN..=INTEGRITY_SHA256_BYTES).contains(&bytes) && bytes % 4 == 0
        })
    }

    fn sealed_by(
        &self,
        kind: AttributeType,
        is_size: impl FnOnce(usize) -> bool,
    ) -> Option<Integrity<'a>> {
        let attribute = self.attributes().find(|attribute| attribute.kind == kind)?;
        let mac = attribute.value;
        if !is_size(mac.len()) {
            return None;
        }
        let body = self.body.get(..attribute.offset - HEADER_BYTES)?;
        let length = body.len() + ATTRIBUTE_HEADER_BYTES + mac.len();
        Some(Integrity { header: header_with_length(self.header, length)?, body, mac })
    }

    fn all_attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let whole = self.body.len();
        let mut rest = self.body;
        core::iter::from_fn(move || {
            let offset = HEADER_BYTES + whole - rest.len();
            let ((kind, value), behind) = split_attribute(rest)?;
            rest = behind;
            Some(Attribute { kind, value, offset })
        })
    }
}

/// How far an integrity attribute has closed the message.
#[derive(Clone, Copy)]
enum Seal {
    Open,
    Sha1,
    Sha256,
    Closed,
}

impl Seal {
    fn admits(self, kind: AttributeType) -> bool {
        match self {
            Self::Open => true,
            Self::Sha1 => {
                kind == AttributeType::MESSAGE_INTEGRITY_SHA256
                    || kind == AttributeType::FINGERPRINT
            }
            Self::Sha256 => kind == AttributeType::FINGERPRINT,
            Self::Closed => false,
        }
    }

    fn after(self, kind: AttributeType) -> Self {
        match (self, kind) {
            (Self::Closed, _) | (_, AttributeType::FINGERPRINT) => Self::Closed,
            (Self::Open | Self::Sha1, AttributeType::MESSAGE_INTEGRITY_SHA256) => Self::Sha256,
            (Self::Open, AttributeType::MESSAGE_INTEGRITY) => Self::Sha1,
            (state, _) => state,
        }
    }
}

type Split<'a> = ((AttributeType, &'a [u8]), &'a [u8]);

fn split_attribute(bytes: &[u8]) -> Option<Split<'_>> {
    let (&[t0, t1, l0, l1], rest) = bytes.split_first_chunk::<ATTRIBUTE_HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let value = rest.get(..length)?;
    let behind = rest.get(length.next_multiple_of(4)..)?;
    Some(((AttributeType(u16::from_be_bytes([t0, t1])), value), behind))
}

pub(super) fn header_with_length(
    header: &[u8; HEADER_BYTES],
    length: usize,
) -> Option<[u8; HEADER_BYTES]> {
    let mut header = *header;
    [header[2], header[3]] = u16::try_from(length).ok()?.to_be_bytes();
    Some(header)
}

/// FINGERPRINT's value: CRC-32 of everything before it, XORed (§14.7). `header` carries the
/// length including the attribute.
pub(super) fn fingerprint(header: &[u8; HEADER_BYTES], covered: &[u8]) -> u32 {
    !crc32::bytes(crc32::bytes(crc32::START, header), covered) ^ FINGERPRINT_XOR
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::from([0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
        bytes.extend([7; 12]);
        for (kind, value) in attributes {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = u16::try_from(bytes.len() - HEADER_BYTES).unwrap().to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        bytes
    }

    #[test]
    fn every_method_and_class_survives_the_type_field() {
        for method in (0..0x1000).map(Method) {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                let mut bytes = message(&[]);
                bytes[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
                let parsed = Message::parse(&bytes).unwrap();
                assert_eq!((parsed.method(), parsed.class()), (method, class));
            }
        }
    }

    #[test]
    fn bytes_that_are_not_one_whole_message_are_refused() {
        let good = message(&[(6, b"abc")]);
        let refused = |bytes: &[u8]| Message::parse(bytes).err();
        assert_eq!(refused(&good), None);
        assert_eq!(refused(&good[..19]), Some(ParseError::Truncated));
        assert_eq!(refused(&good[..24]), Some(ParseError::Length));
        let mut longer = good.clone();
        longer.extend([0; 4]);
        assert_eq!(refused(&longer), Some(ParseError::Length));
        let mut cookie = good.clone();
        cookie[4] ^= 1;
        assert_eq!(refused(&cookie), Some(ParseError::NotStun));
        let mut leading = good.clone();
        leading[0] |= 0x40;
        assert_eq!(refused(&leading), Some(ParseError::NotStun));
        let mut beyond = good.clone();
        beyond[23] = 9;
        assert_eq!(refused(&beyond), Some(ParseError::Attribute));
    }

    #[test]
    fn only_the_first_duplicate_counts_and_nothing_behind_integrity() {
        let mac = [1u8; 20];
        let bytes =
            message(&[(6, b"first"), (6, b"second"), (8, &mac), (0x14, b"late"), (8, &[2; 20])]);
        let parsed = Message::parse(&bytes).unwrap();
        assert_eq!(parsed.attribute(AttributeType::USERNAME), Some(&b"first"[..]));
        assert_eq!(parsed.attribute(AttributeType::REALM), None);
        let integrity = parsed.integrity().unwrap();
        assert_eq!(integrity.mac, mac);
        assert_eq!(integrity.body.len(), 12 + 12);
        assert_eq!(integrity.header[2..4], [0, 24 + 24]);
    }

    #[test]
    fn a_sha256_integrity_has_16_to_32_bytes_in_steps_of_four() {
        for length in 0..=40 {
            let bytes = message(&[(6, b"abc"), (0x1C, &[9; 40][..length])]);
            let integrity = Message::parse(&bytes).unwrap().integrity_sha256();
            let covered = integrity.map(|i| (i.header[2..4].to_vec(), i.body.len(), i.mac.len()));
            let length_field = u16::try_from(12 + length).unwrap().to_be_bytes().to_vec();
            let expected = [16, 20, 24, 28, 32].contains(&length);
            assert_eq!(covered, expected.then_some((length_field, 8, length)), "{length}");
        }
    }

    #[test]
    fn behind_one_integrity_only_the_stronger_one_counts() {
        let (sha1, sha256) = ([1u8; 20], [2u8; 32]);
        let both = message(&[(8, &sha1), (6, b"late"), (0x1C, &sha256), (8, &[3; 20])]);
        let parsed = Message::parse(&both).unwrap();
        assert_eq!(parsed.integrity().unwrap().mac, sha1);
        let stronger = parsed.integrity_sha256().unwrap();
        // It covers all that is in front of it, also what does not count.
        assert_eq!((stronger.mac, stronger.body.len()), (&sha256[..], 24 + 8));
        assert_eq!(parsed.attribute(AttributeType::USERNAME), None);
        let reversed = message(&[(0x1C, &sha256), (8, &sha1), (0x1C, &[4; 32])]);
        let parsed = Message::parse(&reversed).unwrap();
        assert!(parsed.integrity().is_none());
        assert_eq!(parsed.integrity_sha256().unwrap().mac, sha256);
    }

    #[test]
    fn a_fingerprint_lookalike_inside_a_value_is_absent() {
        let bytes = message(&[(6, &[0, 0, 0, 0, 0x80, 0x28, 0, 4, 1, 2, 3, 4])]);
        assert_eq!(Message::parse(&bytes).unwrap().fingerprint(), Fingerprint::Absent);
    }

    #[test]
    fn no_prefix_and_no_flipped_bit_panics() {
        let good =
            message(&[(6, b"abc"), (8, &[1; 20]), (0x1C, &[2; 20]), (0x8028, &[1, 2, 3, 4])]);
        for end in 0..good.len() {
            assert!(Message::parse(&good[..end]).is_err());
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = Message::parse(&bytes) {
                let _ = (parsed.attributes().count(), parsed.fingerprint(), parsed.integrity());
                let _ = parsed.integrity_sha256();
            }
        }
    }
}
