//! Writes a STUN message into a caller's buffer (RFC 8489 §5, §14).
//!
//! Attributes go in wire order, integrity and fingerprint last. A buffer that is too small is
//! reported once, by [`MessageWriter::finish`], and never written past.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use super::attribute::{AttributeType, Icmp, xor_mask};
use super::stun::{
    ATTRIBUTE_HEADER_BYTES, Class, HEADER_BYTES, INTEGRITY_BYTES, INTEGRITY_SHA256_BYTES,
    MAGIC_COOKIE, Method, TransactionId, fingerprint, header_with_length, message_type,
};
use crate::addr::Family;

/// The buffer cannot hold the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferFull;

impl fmt::Display for BufferFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer is too small for the STUN message")
    }
}

impl core::error::Error for BufferFull {}

/// A message being written.
#[derive(Debug)]
pub struct MessageWriter<'a> {
    buffer: &'a mut [u8],
    transaction: TransactionId,
    written: Result<usize, BufferFull>,
}

impl<'a> MessageWriter<'a> {
    /// Starts a message with its header.
    pub fn new(
        buffer: &'a mut [u8],
        class: Class,
        method: Method,
        transaction: TransactionId,
    ) -> Self {
        let mut writer = Self { buffer, transaction, written: Ok(0) };
        writer.append(&message_type(class, method).to_be_bytes());
        writer.append(&[0, 0]);
        writer.append(&MAGIC_COOKIE.to_be_bytes());
        writer.append(&transaction.0);
        writer
    }

    /// An attribute with a value as it is; padded with zeros to four bytes.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) {
        self.begin(kind, value.len());
        self.append(value);
        self.pad(value.len());
    }

    /// An attribute whose value is a 32-bit number.
    pub fn number(&mut self, kind: AttributeType, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// An attribute whose value is a XORed transport address (RFC 8489 §14.2).
    pub fn xor_address(&mut self, kind: AttributeType, addr: SocketAddr) {
        let [c0, c1, ..] = MAGIC_COOKIE.to_be_bytes();
        let [p0, p1] = addr.port().to_be_bytes();
        let port = [p0 ^ c0, p1 ^ c1];
        match addr.ip() {
            IpAddr::V4(ip) => {
                self.begin(kind, 8);
                self.append(&[0, 1]);
                self.append(&port);
                self.append(&(ip.to_bits() ^ MAGIC_COOKIE).to_be_bytes());
            }
            IpAddr::V6(ip) => {
                self.begin(kind, 20);
                self.append(&[0, 2]);
                self.append(&port);
                self.append(&(ip.to_bits() ^ xor_mask(self.transaction)).to_be_bytes());
            }
        }
    }

    /// An attribute whose value is a transport address as it is (RFC 8489 §14.1).
    pub fn address(&mut self, kind: AttributeType, addr: SocketAddr) {
        let port = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(ip) => {
                self.begin(kind, 8);
                self.append(&[0, 1]);
                self.append(&port);
                self.append(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.begin(kind, 20);
                self.append(&[0, 2]);
                self.append(&port);
                self.append(&ip.octets());
            }
        }
    }

    /// ICMP (RFC 8656 §18.13).
    pub fn icmp(&mut self, icmp: Icmp) {
        self.attribute(AttributeType::ICMP, &icmp.to_bytes());
    }

    /// ERROR-CODE (RFC 8489 §14.8): `code` is 300–699, `reason` may be empty.
    pub fn error_code(&mut self, code: u16, reason: &str) {
        let class = u8::try_from(code / 100).unwrap_or(0) & 0x07;
        let number = u8::try_from(code % 100).unwrap_or(0);
        self.begin(AttributeType::ERROR_CODE, 4 + reason.len());
        self.append(&[0, 0, class, number]);
        self.append(reason.as_bytes());
        self.pad(reason.len());
    }

    /// ADDRESS-ERROR-CODE (RFC 8656 §18.12), without a reason phrase: `code` is 300–699.
    pub fn address_error_code(&mut self, family: Family, code: u16) {
        let family = match family {
            Family::V4 => 0x01,
            Family::V6 => 0x02,
        };
        let class = u8::try_from(code / 100).unwrap_or(0) & 0x07;
        let number = u8::try_from(code % 100).unwrap_or(0);
        self.attribute(AttributeType::ADDRESS_ERROR_CODE, &[family, 0, class, number]);
    }

    /// UNKNOWN-ATTRIBUTES (RFC 8489 §14.9).
    pub fn unknown_attributes(&mut self, kinds: &[AttributeType]) {
        self.begin(AttributeType::UNKNOWN_ATTRIBUTES, kinds.len() * 2);
        for kind in kinds {
            self.append(&kind.0.to_be_bytes());
        }
        self.pad(kinds.len() * 2);
    }

    /// MESSAGE-INTEGRITY (RFC 8489 §14.5). `mac` is given the header, with the length it must
    /// have for this, and the attributes so far.
    pub fn integrity(
        &mut self,
        mac: impl FnOnce(&[u8; HEADER_BYTES], &[u8]) -> [u8; INTEGRITY_BYTES],
    ) {
        let behind = ATTRIBUTE_HEADER_BYTES + INTEGRITY_BYTES;
        if let Some((header, body)) = self.sealed(behind) {
            let value = mac(&header, body);
            self.attribute(AttributeType::MESSAGE_INTEGRITY, &value);
        }
    }

    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6), not truncated. `mac` as for
    /// [`MessageWriter::integrity`].
    pub fn integrity_sha256(
        &mut self,
        mac: impl FnOnce(&[u8; HEADER_BYTES], &[u8]) -> [u8; INTEGRITY_SHA256_BYTES],
    ) {
        let behind = ATTRIBUTE_HEADER_BYTES + INTEGRITY_SHA256_BYTES;
        if let Some((header, body)) = self.sealed(behind) {
            let value = mac(&header, body);
            self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &value);
        }
    }

    /// FINGERPRINT (RFC 8489 §14.7); nothing may follow.
    pub fn fingerprint(&mut self) {
        if let Some((header, body)) = self.sealed(ATTRIBUTE_HEADER_BYTES + 4) {
            let value = fingerprint(&header, body);
            self.number(AttributeType::FINGERPRINT, value);
        }
    }

    /// Sets the length field and gives the bytes of the whole message.
    ///
    /// # Errors
    /// [`BufferFull`] when any part did not fit; the buffer then holds no message.
    pub fn finish(self) -> Result<usize, BufferFull> {
        let written = self.written?;
        let length = u16::try_from(written - HEADER_BYTES).map_err(|_| BufferFull)?;
        self.buffer[2..4].copy_from_slice(&length.to_be_bytes());
        Ok(written)
    }

    /// The header as it reads when `behind` more bytes follow, and the attributes so far.
    fn sealed(&self, behind: usize) -> Option<([u8; HEADER_BYTES], &[u8])> {
        let written = self.written.ok()?;
        let (header, body) = self.buffer.get(..written)?.split_first_chunk::<HEADER_BYTES>()?;
        Some((header_with_length(header, body.len() + behind)?, body))
    }

    fn begin(&mut self, kind: AttributeType, length: usize) {
        self.append(&kind.0.to_be_bytes());
        match u16::try_from(length) {
            Ok(length) => self.append(&length.to_be_bytes()),
            Err(_) => self.written = Err(BufferFull),
        }
    }

    fn pad(&mut self, length: usize) {
        self.append(&[0; 3][..length.next_multiple_of(4) - length]);
    }

    fn append(&mut self, bytes: &[u8]) {
        let Ok(start) = self.written else { return };
        let end = start + bytes.len();
        self.written = match self.buffer.get_mut(start..end) {
            Some(space) => {
                space.copy_from_slice(bytes);
                Ok(end)
            }
            None => Err(BufferFull),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute;
    use super::super::stun::{Fingerprint, Message};
    use super::*;

    const TRANSACTION: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    fn write(buffer: &mut [u8]) -> Result<usize, BufferFull> {
        let mut w = MessageWriter::new(buffer, Class::Error, Method::ALLOCATE, TRANSACTION);
        w.error_code(438, "Stale Nonce");
        w.unknown_attributes(&[AttributeType(0x7777)]);
        w.xor_address(AttributeType::XOR_MAPPED_ADDRESS, "192.0.2.1:32853".parse().unwrap());
        w.xor_address(AttributeType::XOR_PEER_ADDRESS, "[2001:db8::1]:1".parse().unwrap());
        w.address(AttributeType::ALTERNATE_SERVER, "192.0.2.2:3478".parse().unwrap());
        w.address(AttributeType::MAPPED_ADDRESS, "[2001:db8::2]:3478".parse().unwrap());
        w.icmp(Icmp { kind: 11, code: 1, data: 7 });
        w.address_error_code(Family::V6, 440);
        w.integrity(|header, body| {
            assert_eq!(usize::from(header[3]), body.len() + 24);
            [0xAA; 20]
        });
        w.integrity_sha256(|header, body| {
            assert_eq!(usize::from(header[3]), body.len() + 36);
            [0xBB; 32]
        });
        w.fingerprint();
        w.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = [0u8; 256];
        let written = write(&mut buffer).unwrap();
        let message = Message::parse(&buffer[..written]).unwrap();
        let value = |kind| message.attribute(kind).unwrap();
        assert_eq!(
            attribute::error_code(value(AttributeType::ERROR_CODE)),
            Some((438, "Stale Nonce"))
        );
        assert_eq!(value(AttributeType::UNKNOWN_ATTRIBUTES), [0x77, 0x77]);
        let addr = |kind| attribute::xor_address(value(kind), TRANSACTION);
        assert_eq!(
            addr(AttributeType::XOR_MAPPED_ADDRESS),
            Some("192.0.2.1:32853".parse().unwrap())
        );
        assert_eq!(addr(AttributeType::XOR_PEER_ADDRESS), Some("[2001:db8::1]:1".parse().unwrap()));
        let plain = |kind| attribute::address(value(kind));
        assert_eq!(plain(AttributeType::ALTERNATE_SERVER), "192.0.2.2:3478".parse().ok());
        assert_eq!(plain(AttributeType::MAPPED_ADDRESS), "[2001:db8::2]:3478".parse().ok());
        let icmp = attribute::Icmp::parse(value(AttributeType::ICMP));
        assert_eq!(icmp, Some(Icmp { kind: 11, code: 1, data: 7 }));
        assert_eq!(value(AttributeType::ADDRESS_ERROR_CODE), [2, 0, 4, 40]);
        assert_eq!(message.integrity().unwrap().mac, [0xAA; 20]);
        assert_eq!(message.integrity_sha256().unwrap().mac, [0xBB; 32]);
        assert_eq!(message.fingerprint(), Fingerprint::Valid);
        buffer[21] ^= 1;
        let damaged = Message::parse(&buffer[..written]).unwrap();
        assert_eq!(damaged.fingerprint(), Fingerprint::Invalid);
    }

    #[test]
    fn every_buffer_that_is_too_small_is_reported() {
        let mut buffer = [0u8; 256];
        let needed = write(&mut buffer).unwrap();
        for size in 0..needed {
            assert_eq!(write(&mut buffer[..size]), Err(BufferFull), "{size} of {needed}");
        }
    }
}
