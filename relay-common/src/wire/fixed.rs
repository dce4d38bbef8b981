//! STUN messages of one fixed shape each, as they lie in memory: what the kernel program reads and
//! writes without walking attributes.
//!
//! As in [`super::net`], fields are words in network byte order, types have alignment 2 and no
//! padding. Every other shape is [`super::stun`]'s. Judges nothing but shapes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::attribute::AttributeType;
use super::crc32;
use super::net::{Ipv4, Ipv6, Udp, be16};
use super::stun::{
    ATTRIBUTE_HEADER_BYTES, Class, FINGERPRINT_XOR, HEADER_BYTES, MAGIC_COOKIE, Method,
    message_type,
};

/// The magic cookie (RFC 8489 §5).
pub const COOKIE: [u16; 2] = {
    let [a, b, c, d] = MAGIC_COOKIE.to_be_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
};
const FAMILY_V4: u16 = be16(0x0001);
const FAMILY_V6: u16 = be16(0x0002);

/// The STUN header (RFC 8489 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stun {
    /// Method and class.
    pub kind: u16,
    /// Bytes behind this header.
    pub len: u16,
    /// [`COOKIE`].
    pub cookie: [u16; 2],
    /// Transaction ID.
    pub transaction: [u16; 6],
}

impl Stun {
    /// A Binding request's `kind` (RFC 8489).
    pub const BINDING_REQUEST: u16 = be16(message_type(Class::Request, Method::BINDING));
    /// A Binding success response's.
    pub const BINDING_SUCCESS: u16 = be16(message_type(Class::Success, Method::BINDING));
    /// A Send indication's (RFC 8656 §11.1).
    pub const SEND: u16 = be16(message_type(Class::Indication, Method::SEND));
    /// A Data indication's (RFC 8656 §11.3).
    pub const DATA: u16 = be16(message_type(Class::Indication, Method::DATA));

    /// A header in front of `len` bytes (host order).
    #[must_use]
    #[inline(always)]
    pub const fn new(kind: u16, len: u16, transaction: [u16; 6]) -> Self {
        Self { kind, len: be16(len), cookie: COOKIE, transaction }
    }
}

/// Type and length of an attribute (RFC 8489 §14).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttributeHeader {
    /// Type.
    pub kind: u16,
    /// Bytes of the value, without padding.
    pub len: u16,
}

impl AttributeHeader {
    /// From a type and a length in host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(kind: AttributeType, len: u16) -> Self {
        Self { kind: be16(kind.0), len: be16(len) }
    }

    /// Compares both.
    #[must_use]
    #[inline(always)]
    pub const fn is(self, kind: AttributeType, len: u16) -> bool {
        self.kind == be16(kind.0) && self.len == be16(len)
    }
}

/// An attribute with an XORed IPv4 address (RFC 8489 §14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XorAddressV4 {
    /// Type and length.
    pub header: AttributeHeader,
    /// A zero byte and 0x01.
    pub family: u16,
    /// Port, XORed.
    pub port: u16,
    /// Address, XORed.
    pub ip: [u16; 2],
}

/// An attribute with an XORed IPv6 address (RFC 8489 §14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XorAddressV6 {
    /// Type and length.
    pub header: AttributeHeader,
    /// A zero byte and 0x02.
    pub family: u16,
    /// Port, XORed.
    pub port: u16,
    /// Address, XORed.
    pub ip: [u16; 8],
}

const VALUE_V4_BYTES: u16 = 8;
const VALUE_V6_BYTES: u16 = 20;
const _: () = assert!(size_of::<XorAddressV4>() - ATTRIBUTE_HEADER_BYTES == 8);
const _: () = assert!(size_of::<XorAddressV6>() - ATTRIBUTE_HEADER_BYTES == 20);

/// XORs a port, there and back (wire).
#[must_use]
#[inline(always)]
pub const fn xor_port(port: u16) -> u16 {
    port ^ COOKIE[0]
}

/// XORs an IPv4 address, there and back (wire).
#[must_use]
#[inline(always)]
pub const fn xor_v4(ip: [u16; 2]) -> [u16; 2] {
    [ip[0] ^ COOKIE[0], ip[1] ^ COOKIE[1]]
}

/// XORs an IPv6 address, there and back (wire).
#[must_use]
#[inline(always)]
pub const fn xor_v6(ip: [u16; 8], transaction: &[u16; 6]) -> [u16; 8] {
    let t = transaction;
    [
        ip[0] ^ COOKIE[0],
        ip[1] ^ COOKIE[1],
        ip[2] ^ t[0],
        ip[3] ^ t[1],
        ip[4] ^ t[2],
        ip[5] ^ t[3],
        ip[6] ^ t[4],
        ip[7] ^ t[5],
    ]
}

impl XorAddressV4 {
    /// From an address and a port (wire), not yet XORed.
    #[must_use]
    #[inline(always)]
    pub const fn new(kind: AttributeType, ip: [u16; 2], port: u16) -> Self {
        let header = AttributeHeader::new(kind, VALUE_V4_BYTES);
        Self { header, family: FAMILY_V4, port: xor_port(port), ip: xor_v4(ip) }
    }

    /// Whether it is one, of this type.
    #[must_use]
    #[inline(always)]
    pub const fn is(&self, kind: AttributeType) -> bool {
        self.header.is(kind, VALUE_V4_BYTES) && self.family == FAMILY_V4
    }
}

impl XorAddressV6 {
    /// From an address and a port (wire), not yet XORed.
    #[must_use]
    #[inline(always)]
    pub const fn new(kind: AttributeType, ip: [u16; 8], port: u16, transaction: &[u16; 6]) -> Self {
        let header = AttributeHeader::new(kind, VALUE_V6_BYTES);
        Self { header, family: FAMILY_V6, port: xor_port(port), ip: xor_v6(ip, transaction) }
    }

    /// Whether it is one, of this type.
    #[must_use]
    #[inline(always)]
    pub const fn is(&self, kind: AttributeType) -> bool {
        self.header.is(kind, VALUE_V6_BYTES) && self.family == FAMILY_V6
    }
}

/// A Send or Data indication about an IPv4 peer, up to its application data (RFC 8656 §11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndicationV4 {
    /// Header.
    pub stun: Stun,
    /// XOR-PEER-ADDRESS.
    pub peer: XorAddressV4,
    /// DATA, up to its value.
    pub data: AttributeHeader,
}

/// A Send or Data indication about an IPv6 peer, up to its application data (RFC 8656 §11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndicationV6 {
    /// Header.
    pub stun: Stun,
    /// XOR-PEER-ADDRESS.
    pub peer: XorAddressV6,
    /// DATA, up to its value.
    pub data: AttributeHeader,
}

/// FINGERPRINT (RFC 8489 §14.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fingerprint {
    /// Type and length.
    pub header: AttributeHeader,
    /// The XORed CRC-32.
    pub value: [u16; 2],
}

impl Fingerprint {
    /// Behind what gave the sum.
    #[must_use]
    #[inline(always)]
    pub const fn of(crc: u32) -> Self {
        let [a, b, c, d] = (!crc ^ FINGERPRINT_XOR).to_be_bytes();
        let value = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
        Self { header: AttributeHeader::new(AttributeType::FINGERPRINT, 4), value }
    }
}

/// A Binding request with nothing but FINGERPRINT. Without it, it is a [`Stun`] alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SealedRequest {
    /// Header.
    pub stun: Stun,
    /// FINGERPRINT.
    pub fingerprint: Fingerprint,
}

/// A Binding success response to an IPv4 client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MappedV4 {
    /// Header.
    pub stun: Stun,
    /// XOR-MAPPED-ADDRESS.
    pub reflexive: XorAddressV4,
}

/// A Binding success response to an IPv6 client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MappedV6 {
    /// Header.
    pub stun: Stun,
    /// XOR-MAPPED-ADDRESS.
    pub reflexive: XorAddressV6,
}

/// IPv4, UDP, STUN header: what is behind the link's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Stun {
    /// Network.
    pub ip: Ipv4,
    /// Transport.
    pub udp: Udp,
    /// STUN.
    pub stun: Stun,
}

/// IPv4, UDP, Binding success response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Mapped {
    /// Network.
    pub ip: Ipv4,
    /// Transport.
    pub udp: Udp,
    /// STUN.
    pub response: MappedV4,
}

/// IPv6, UDP, STUN header: what is behind the link's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Stun {
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub udp: Udp,
    /// STUN.
    pub stun: Stun,
}

/// IPv6, UDP, Binding success response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Mapped {
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub udp: Udp,
    /// STUN.
    pub response: MappedV6,
}

/// The sum of a header that has nothing behind it but what is summed next, and FINGERPRINT.
#[must_use]
#[inline(always)]
pub fn crc_of(stun: &Stun) -> u32 {
    let Stun { kind, len, cookie, transaction } = stun;
    crc32::words(crc32::words(crc32::START, &[*kind, *len, cookie[0], cookie[1]]), transaction)
}

const _: () = assert!(size_of::<Stun>() == HEADER_BYTES);
const _: () = assert!(size_of::<IndicationV4>() == 36 && size_of::<IndicationV6>() == 48);
const _: () = assert!(size_of::<SealedRequest>() == 28 && size_of::<Fingerprint>() == 8);
const _: () = assert!(size_of::<MappedV4>() == 32 && size_of::<MappedV6>() == 44);
const _: () = assert!(align_of::<IndicationV6>() == 2 && align_of::<SealedRequest>() == 2);

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::super::attribute::xor_address;
    use super::super::stun::{self, Message, TransactionId};
    use super::super::writer::MessageWriter;
    use super::*;
    extern crate std;
    use std::vec::Vec;

    const TRANSACTION: [u8; 12] = [0x81, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0xFC];
    const V4: ([u8; 4], u16) = ([192, 0, 2, 77], 40_001);
    const V6: ([u8; 16], u16) = ([0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 0xFF], 7);

    fn words() -> [u16; 6] {
        zerocopy::transmute!(TRANSACTION)
    }

    /// As the writer lays it out: `build` fills a message.
    fn written(class: Class, method: Method, build: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = [0; 128];
        let mut writer = MessageWriter::new(&mut buffer, class, method, TransactionId(TRANSACTION));
        build(&mut writer);
        let bytes = writer.finish().unwrap();
        buffer[..bytes].to_vec()
    }

    #[test]
    fn indications_are_what_the_writer_writes() {
        let kind = AttributeType::XOR_PEER_ADDRESS;
        let (v4, v6) = (SocketAddr::from(V4), SocketAddr::from(V6));
        let data = |peer: SocketAddr| {
            written(Class::Indication, Method::DATA, |w| {
                w.xor_address(kind, peer);
                w.attribute(AttributeType::DATA, b"12345");
            })
        };
        let header = AttributeHeader::new(AttributeType::DATA, 5);
        let head = IndicationV4 {
            stun: Stun::new(Stun::DATA, 24, words()),
            peer: XorAddressV4::new(kind, zerocopy::transmute!(V4.0), be16(V4.1)),
            data: header,
        };
        assert_eq!(head.as_bytes(), &data(v4)[..36]);
        assert!(head.peer.is(kind) && head.data.is(AttributeType::DATA, 5));
        let head = IndicationV6 {
            stun: Stun::new(Stun::DATA, 36, words()),
            peer: XorAddressV6::new(kind, zerocopy::transmute!(V6.0), be16(V6.1), &words()),
            data: header,
        };
        assert_eq!(head.as_bytes(), &data(v6)[..48]);
        assert!(head.peer.is(kind) && !head.peer.is(AttributeType::DATA));
        assert_eq!(xor_v6(head.peer.ip, &words()).as_bytes(), V6.0);
        let read = xor_address(&head.peer.as_bytes()[4..], TransactionId(TRANSACTION));
        assert_eq!(read, Some(v6));
    }

    #[test]
    fn binding_messages_are_what_the_writer_writes() {
        let kind = AttributeType::XOR_MAPPED_ADDRESS;
        let request = written(Class::Request, Method::BINDING, |w| w.fingerprint());
        let stun = Stun::new(Stun::BINDING_REQUEST, 8, words());
        let sealed = SealedRequest { stun, fingerprint: Fingerprint::of(crc_of(&stun)) };
        assert_eq!(sealed.as_bytes(), request);
        let parsed = Message::parse(&request).unwrap();
        assert_eq!(parsed.fingerprint(), stun::Fingerprint::Valid);

        let response = written(Class::Success, Method::BINDING, |w| {
            w.xor_address(kind, V4.into());
            w.fingerprint();
        });
        let stun = Stun::new(Stun::BINDING_SUCCESS, 20, words());
        let reflexive = XorAddressV4::new(kind, zerocopy::transmute!(V4.0), be16(V4.1));
        assert_eq!(MappedV4 { stun, reflexive }.as_bytes(), &response[..32]);
        let attribute: [u16; 6] = zerocopy::transmute!(reflexive);
        let fingerprint = Fingerprint::of(crc32::words(crc_of(&stun), &attribute));
        assert_eq!(fingerprint.as_bytes(), &response[32..]);

        let response = written(Class::Success, Method::BINDING, |w| {
            w.xor_address(kind, V6.into());
        });
        let stun = Stun::new(Stun::BINDING_SUCCESS, 24, words());
        let reflexive = XorAddressV6::new(kind, zerocopy::transmute!(V6.0), be16(V6.1), &words());
        assert_eq!(MappedV6 { stun, reflexive }.as_bytes(), response);
    }
}
