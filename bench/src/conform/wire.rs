//! STUN messages written by hand, right or wrong as a case wants them, and answers taken apart
//! without the codec that servers of this repository use. Sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::Sha256;

/// Bytes before the attributes (RFC 8489 §5).
pub(crate) const HEADER_BYTES: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// What FINGERPRINT is XORed with (RFC 8489 §14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// Methods, by RFC 8489 §18.2 and RFC 8656 §17.
pub(crate) mod method {
    pub(crate) const BINDING: u16 = 0x001;
    pub(crate) const ALLOCATE: u16 = 0x003;
    pub(crate) const REFRESH: u16 = 0x004;
    pub(crate) const SEND: u16 = 0x006;
    pub(crate) const DATA: u16 = 0x007;
    pub(crate) const CREATE_PERMISSION: u16 = 0x008;
    pub(crate) const CHANNEL_BIND: u16 = 0x009;
    /// Assigned to nobody.
    pub(crate) const UNKNOWN: u16 = 0x0F7;
}

/// Attribute types.
pub(crate) mod kind {
    pub(crate) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(crate) const CHANGE_REQUEST: u16 = 0x0003;
    pub(crate) const USERNAME: u16 = 0x0006;
    pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(crate) const ERROR_CODE: u16 = 0x0009;
    pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(crate) const CHANNEL_NUMBER: u16 = 0x000C;
    pub(crate) const LIFETIME: u16 = 0x000D;
    pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(crate) const DATA: u16 = 0x0013;
    pub(crate) const REALM: u16 = 0x0014;
    pub(crate) const NONCE: u16 = 0x0015;
    pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(crate) const EVEN_PORT: u16 = 0x0018;
    pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(crate) const DONT_FRAGMENT: u16 = 0x001A;
    pub(crate) const ACCESS_TOKEN: u16 = 0x001B;
    pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub(crate) const PASSWORD_ALGORITHM: u16 = 0x001D;
    pub(crate) const USERHASH: u16 = 0x001E;
    pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
    pub(crate) const PADDING: u16 = 0x0026;
    pub(crate) const RESPONSE_PORT: u16 = 0x0027;
    /// Comprehension-required and assigned to nobody.
    pub(crate) const UNKNOWN_REQUIRED: u16 = 0x7FF1;
    pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub(crate) const PASSWORD_ALGORITHMS: u16 = 0x8002;
    pub(crate) const ICMP: u16 = 0x8004;
    pub(crate) const SOFTWARE: u16 = 0x8022;
    pub(crate) const FINGERPRINT: u16 = 0x8028;
    pub(crate) const RESPONSE_ORIGIN: u16 = 0x802B;
    pub(crate) const OTHER_ADDRESS: u16 = 0x802C;
    pub(crate) const THIRD_PARTY_AUTHORIZATION: u16 = 0x802E;
    pub(crate) const MOBILITY_TICKET: u16 = 0x8030;
    /// Comprehension-optional and assigned to nobody.
    pub(crate) const UNKNOWN_OPTIONAL: u16 = 0xFFF1;
}

/// What a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// It wants an answer.
    Request,
    /// It wants none.
    Indication,
    /// It was done.
    Success,
    /// It was not done.
    Error,
}

const CLASSES: [Class; 4] = [Class::Request, Class::Indication, Class::Success, Class::Error];

/// The first two bytes of a message (RFC 8489 §5).
fn message_type(class: Class, method: u16) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    (method & 0xF80) << 2 | (method & 0x070) << 1 | method & 0x00F | class
}

/// A message in the making; its length field is always right.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    /// A request with a transaction identifier of its own.
    pub(crate) fn request(method: u16, id: [u8; 12]) -> Self {
        Self::new(Class::Request, method, id)
    }

    /// Any message.
    pub(crate) fn new(class: Class, method: u16, id: [u8; 12]) -> Self {
        let kind = message_type(class, method).to_be_bytes();
        Self { bytes: [&kind[..], &[0, 0], &COOKIE, &id].concat() }
    }

    /// With one more attribute, padded with zeros.
    pub(crate) fn with(self, kind: u16, value: &[u8]) -> Self {
        self.padded_with(kind, value, 0)
    }

    /// With one more attribute, padded with something.
    pub(crate) fn padded_with(mut self, kind: u16, value: &[u8], padding: u8) -> Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.bytes.extend([kind.to_be_bytes(), length.to_be_bytes()].concat());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), padding);
        self.set_length(self.bytes.len());
        self
    }

    /// With a 32-bit number.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// With a transport address, XORed.
    pub(crate) fn address(self, kind: u16, addr: SocketAddr) -> Self {
        let value = xored(addr, &self.id());
        self.with(kind, &value)
    }

    /// Signed with MESSAGE-INTEGRITY (RFC 8489 §14.5).
    pub(crate) fn sign_sha1(mut self, key: &[u8]) -> Self {
        self.set_length(self.bytes.len() + 24);
        let mac = hmac_sha1(key, &self.bytes);
        self.with(kind::MESSAGE_INTEGRITY, &mac)
    }

    /// Signed with MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6), of which so many bytes are left.
    pub(crate) fn sign_sha256(mut self, key: &[u8], bytes: usize) -> Self {
        self.set_length(self.bytes.len() + 4 + bytes);
        let mac = hmac_sha256(key, &self.bytes);
        self.with(kind::MESSAGE_INTEGRITY_SHA256, &mac[..bytes])
    }

    /// With FINGERPRINT, off by so much.
    pub(crate) fn fingerprint(mut self, off_by: u32) -> Self {
        self.set_length(self.bytes.len() + 8);
        let crc = crc32fast::hash(&self.bytes) ^ FINGERPRINT_XOR ^ off_by;
        self.number(kind::FINGERPRINT, crc)
    }

    /// The transaction identifier.
    pub(crate) fn id(&self) -> [u8; 12] {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_BYTES]);
        id
    }

    /// The message.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message, for whoever wants to damage it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn set_length(&mut self, total: usize) {
        let length = u16::try_from(total - HEADER_BYTES).unwrap_or(u16::MAX);
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A whole STUN message from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    /// Type, and where its value begins and ends.
    attributes: Vec<(u16, usize, usize)>,
}

impl Answer {
    /// Takes a datagram apart; `None` if it is no well-formed STUN message.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let well_formed = header[0] & 0xC0 == 0
            && header[4..8] == COOKIE
            && length.is_multiple_of(4)
            && bytes.len() == HEADER_BYTES + length;
        if !well_formed {
            return None;
        }
        let mut attributes = Vec::new();
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            let head = bytes.get(at..at + 4)?;
            let end = at + 4 + usize::from(u16::from_be_bytes([head[2], head[3]]));
            bytes.get(at + 4..end.next_multiple_of(4))?;
            attributes.push((u16::from_be_bytes([head[0], head[1]]), at + 4, end));
            at = end.next_multiple_of(4);
        }
        Some(Self { bytes: bytes.to_vec(), attributes })
    }

    /// The method.
    pub(crate) fn method(&self) -> u16 {
        let kind = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        (kind >> 2) & 0xF80 | (kind >> 1) & 0x070 | kind & 0x00F
    }

    /// The class.
    pub(crate) fn class(&self) -> Class {
        let kind = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        CLASSES[usize::from(kind >> 7 & 2 | kind >> 4 & 1)]
    }

    /// The transaction identifier.
    pub(crate) fn id(&self) -> [u8; 12] {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_BYTES]);
        id
    }

    /// The types of its attributes, in order.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = u16> {
        self.attributes.iter().map(|(kind, ..)| *kind)
    }

    /// Whether it has an attribute.
    pub(crate) fn has(&self, kind: u16) -> bool {
        self.kinds().any(|it| it == kind)
    }

    /// The value of the first attribute of a type.
    pub(crate) fn value(&self, kind: u16) -> Option<&[u8]> {
        self.values(kind).next()
    }

    /// The values of all attributes of a type.
    pub(crate) fn values(&self, kind: u16) -> impl Iterator<Item = &[u8]> {
        let of_kind = self.attributes.iter().filter(move |(it, ..)| *it == kind);
        of_kind.map(|(_, from, to)| &self.bytes[*from..*to])
    }

    /// A 32-bit number.
    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A transport address that is XORed.
    pub(crate) fn address(&self, kind: u16) -> Option<SocketAddr> {
        self.addresses(kind).next()?
    }

    /// All XORed transport addresses of a type; `None` for one that is none.
    pub(crate) fn addresses(&self, kind: u16) -> impl Iterator<Item = Option<SocketAddr>> {
        let id = self.id();
        self.values(kind).map(move |value| address(value, Some(&id)))
    }

    /// A transport address as it is.
    pub(crate) fn plain_address(&self, kind: u16) -> Option<SocketAddr> {
        address(self.value(kind)?, None)
    }

    /// ERROR-CODE: class and number as one, if they are a code (RFC 8489 §14.8).
    pub(crate) fn code(&self) -> Option<u16> {
        match self.value(kind::ERROR_CODE)? {
            [_, _, class @ 3..=6, number @ 0..=99, ..] => {
                Some(u16::from(*class) * 100 + u16::from(*number))
            }
            _ => None,
        }
    }

    /// Whether MESSAGE-INTEGRITY is that of a key; `None` without one.
    pub(crate) fn sha1_verifies(&self, key: &[u8]) -> Option<bool> {
        let (signed, mac) = self.signed(kind::MESSAGE_INTEGRITY)?;
        Some(hmac_sha1(key, &signed)[..] == *mac)
    }

    /// Whether MESSAGE-INTEGRITY-SHA256 is that of a key, and whole; `None` without one.
    pub(crate) fn sha256_verifies(&self, key: &[u8]) -> Option<bool> {
        let (signed, mac) = self.signed(kind::MESSAGE_INTEGRITY_SHA256)?;
        Some(hmac_sha256(key, &signed)[..] == *mac)
    }

    /// Whether FINGERPRINT is right and last; `None` without one.
    pub(crate) fn fingerprint(&self) -> Option<bool> {
        let (kind, from, to) = self.attributes.iter().find(|(it, ..)| *it == kind::FINGERPRINT)?;
        let crc = crc32fast::hash(&self.bytes[..from - 4]) ^ FINGERPRINT_XOR;
        let last = self.attributes.last() == Some(&(*kind, *from, *to));
        Some(last && self.bytes[*from..*to] == crc.to_be_bytes())
    }

    /// Whether all padding is zero (RFC 8489 §14).
    pub(crate) fn padding_is_zero(&self) -> bool {
        self.attributes
            .iter()
            .all(|(_, _, to)| self.bytes[*to..to.next_multiple_of(4)].iter().all(|byte| *byte == 0))
    }

    /// In a few words.
    pub(crate) fn describe(&self) -> String {
        match (self.class(), self.code()) {
            (Class::Success, _) => "success".to_owned(),
            (Class::Error, Some(code)) => code.to_string(),
            (Class::Error, None) => "an error without a code".to_owned(),
            (Class::Request, _) => "a request".to_owned(),
            (Class::Indication, _) => "an indication".to_owned(),
        }
    }

    /// What a MAC is of, with the length that counts up to it, and the MAC.
    fn signed(&self, kind: u16) -> Option<(Vec<u8>, &[u8])> {
        let (_, from, to) = self.attributes.iter().find(|(it, ..)| *it == kind)?;
        let mut signed = self.bytes[..from - 4].to_vec();
        let length = u16::try_from(to - HEADER_BYTES).ok()?;
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        Some((signed, &self.bytes[*from..*to]))
    }
}

/// The value of an address attribute, XORed if a transaction identifier is given.
fn address(value: &[u8], id: Option<&[u8; 12]>) -> Option<SocketAddr> {
    let mask = |at: usize| match (id, at) {
        (None, _) => 0,
        (Some(_), 0..4) => COOKIE[at],
        (Some(id), _) => id[at - 4],
    };
    let [_, family, high, low, ip @ ..] = value else { return None };
    let port = u16::from_be_bytes([high ^ mask(0), low ^ mask(1)]);
    let ip: Vec<u8> = ip.iter().enumerate().map(|(at, byte)| byte ^ mask(at)).collect();
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The value of an XORed address attribute.
pub(crate) fn xored(addr: SocketAddr, id: &[u8; 12]) -> Vec<u8> {
    let mask = [&COOKIE[..], id].concat();
    let (family, ip) = match addr.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let port = addr.port().to_be_bytes();
    let plain = port.iter().zip(&mask).chain(ip.iter().zip(&mask));
    [0, family].into_iter().chain(plain.map(|(byte, mask)| byte ^ mask)).collect()
}

fn hmac_sha1(key: &[u8], bytes: &[u8]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

fn hmac_sha256(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 12] = [7; 12];

    #[test]
    fn what_is_written_is_read() {
        let addr: SocketAddr = "192.0.2.1:32853".parse().unwrap();
        let draft = Draft::new(Class::Error, method::CHANNEL_BIND, ID)
            .with(kind::ERROR_CODE, &[0, 0, 4, 38, b'x'])
            .address(kind::XOR_PEER_ADDRESS, addr)
            .sign_sha1(b"key")
            .sign_sha256(b"key", 32)
            .fingerprint(0);
        let answer = Answer::parse(draft.bytes()).unwrap();
        assert_eq!((answer.class(), answer.method()), (Class::Error, method::CHANNEL_BIND));
        assert_eq!((answer.id(), answer.code()), (ID, Some(438)));
        assert_eq!(answer.address(kind::XOR_PEER_ADDRESS), Some(addr));
        assert_eq!(answer.sha1_verifies(b"key"), Some(true));
        assert_eq!(answer.sha1_verifies(b"kez"), Some(false));
        assert_eq!(answer.sha256_verifies(b"key"), Some(true));
        assert_eq!(answer.fingerprint(), Some(true));
        assert!(answer.padding_is_zero());
    }

    /// RFC 5769 §2.2: the response that signs with a short-term password.
    #[test]
    fn the_response_of_rfc_5769_is_understood() {
        let text = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563\
                    746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f9\
                    2af9ba53f06be7d780280004c07d4c96";
        let bytes: Vec<u8> = (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let answer = Answer::parse(&bytes).unwrap();
        assert_eq!((answer.class(), answer.method()), (Class::Success, method::BINDING));
        let mapped = answer.address(kind::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some("192.0.2.1:32853".parse().unwrap()));
        assert_eq!(answer.sha1_verifies(b"VOkJxbRl1RmTxUk/WvJxBt"), Some(true));
        assert_eq!(answer.fingerprint(), Some(true));
        assert!(!answer.padding_is_zero(), "one blank");
    }

    #[test]
    fn what_is_damaged_is_not_read() {
        let whole = Draft::request(method::BINDING, ID).with(kind::SOFTWARE, b"abc").into_bytes();
        assert!(Answer::parse(&whole).is_some());
        assert!(Answer::parse(&whole[..whole.len() - 1]).is_none());
        let mut other = whole.clone();
        other[23] = 9;
        assert!(Answer::parse(&other).is_none());
        let mut other = whole;
        other[4] = 0;
        assert!(Answer::parse(&other).is_none());
    }
}
