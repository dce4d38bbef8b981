//! STUN (RFC 8489 §5, §14) read and written the slow way: lists of attributes, no code of the
//! server's. Owns bytes, no rule.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

pub const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

pub const REQUEST: u16 = 0;
pub const INDICATION: u16 = 1;
pub const SUCCESS: u16 = 2;
pub const ERROR: u16 = 3;

pub const BINDING: u16 = 1;
pub const ALLOCATE: u16 = 3;
pub const REFRESH: u16 = 4;
pub const SEND: u16 = 6;
pub const DATA_METHOD: u16 = 7;
pub const CREATE_PERMISSION: u16 = 8;
pub const CHANNEL_BIND: u16 = 9;

pub const MAPPED_ADDRESS: u16 = 0x0001;
pub const CHANGE_REQUEST: u16 = 0x0003;
pub const USERNAME: u16 = 0x0006;
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
pub const ERROR_CODE: u16 = 0x0009;
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
pub const CHANNEL_NUMBER: u16 = 0x000C;
pub const LIFETIME: u16 = 0x000D;
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
pub const DATA: u16 = 0x0013;
pub const REALM: u16 = 0x0014;
pub const NONCE: u16 = 0x0015;
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub const EVEN_PORT: u16 = 0x0018;
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
pub const DONT_FRAGMENT: u16 = 0x001A;
pub const ACCESS_TOKEN: u16 = 0x001B;
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
pub const PASSWORD_ALGORITHM: u16 = 0x001D;
pub const USERHASH: u16 = 0x001E;
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub const RESERVATION_TOKEN: u16 = 0x0022;
pub const PADDING: u16 = 0x0026;
pub const RESPONSE_PORT: u16 = 0x0027;
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
pub const ICMP: u16 = 0x8004;
pub const FINGERPRINT: u16 = 0x8028;
pub const RESPONSE_ORIGIN: u16 = 0x802B;
pub const OTHER_ADDRESS: u16 = 0x802C;
pub const THIRD_PARTY_AUTHORIZATION: u16 = 0x802E;
/// Comprehension-required, and assigned to nothing.
pub const UNKNOWN: u16 = 0x7FFE;

/// Comprehension-required attributes that any TURN server may be expected to know.
const BASIC: [u16; 21] = [
    MAPPED_ADDRESS,
    DONT_FRAGMENT,
    ACCESS_TOKEN,
    MESSAGE_INTEGRITY_SHA256,
    PASSWORD_ALGORITHM,
    USERHASH,
    USERNAME,
    MESSAGE_INTEGRITY,
    ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    CHANNEL_NUMBER,
    LIFETIME,
    XOR_PEER_ADDRESS,
    DATA,
    REALM,
    NONCE,
    XOR_RELAYED_ADDRESS,
    REQUESTED_ADDRESS_FAMILY,
    EVEN_PORT,
    REQUESTED_TRANSPORT,
    XOR_MAPPED_ADDRESS,
];

/// What a server makes of an attribute that it may not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// All are known, or may be ignored.
    Yes,
    /// One is of a kind that nobody knows.
    No,
    /// One belongs to an extension that a server has or has not.
    Perhaps,
}

/// A message, taken apart.
#[derive(Clone, Debug)]
pub struct Stun {
    pub class: u16,
    pub method: u16,
    pub transaction: [u8; 12],
    pub attributes: Vec<Attribute>,
    /// Whether FINGERPRINT is the last attribute, and right.
    pub fingerprint: Option<bool>,
}

/// One attribute: its value, and where it starts.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub kind: u16,
    pub value: Vec<u8>,
    pub at: usize,
}

impl Stun {
    /// `None` for anything that is not one well-formed message.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let pair = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        if bytes.len() < 20 || bytes[0] & 0xC0 != 0 || bytes[4..8] != COOKIE {
            return None;
        }
        let length = usize::from(pair(2)?);
        if length != bytes.len() - 20 || length % 4 != 0 {
            return None;
        }
        let kind = pair(0)?;
        let mut attributes = Vec::new();
        let mut at = 20;
        while at < bytes.len() {
            let (kind, length) = (pair(at)?, usize::from(pair(at + 2)?));
            let value = bytes.get(at + 4..at + 4 + length)?.to_vec();
            attributes.push(Attribute { kind, value, at });
            at += 4 + length.div_ceil(4) * 4;
        }
        if at != bytes.len() {
            return None;
        }
        let last = attributes.last().filter(|a| a.kind == FINGERPRINT && a.value.len() == 4);
        let fingerprint = last.map(|a| a.value == crc(&bytes[..a.at]));
        Some(Self {
            class: (kind >> 7 & 2) | (kind >> 4 & 1),
            method: (kind & 0xF) | (kind >> 1 & 0x70) | (kind >> 2 & 0xF80),
            transaction: bytes[8..20].try_into().unwrap(),
            attributes,
            fingerprint,
        })
    }

    /// What counts: behind an integrity attribute nothing does but stronger ones (RFC 8489 §14.5).
    pub fn counting(&self) -> impl Iterator<Item = &Attribute> {
        let mut sealed = 0;
        self.attributes.iter().filter(move |attribute| {
            let strength = match attribute.kind {
                MESSAGE_INTEGRITY => 1,
                MESSAGE_INTEGRITY_SHA256 => 2,
                FINGERPRINT => 3,
                _ => 0,
            };
            let counts = sealed == 0 || strength > sealed;
            sealed = sealed.max(strength);
            counts
        })
    }

    /// The first value of a kind that counts.
    pub fn value(&self, kind: u16) -> Option<&[u8]> {
        self.counting().find(|attribute| attribute.kind == kind).map(|a| a.value.as_slice())
    }

    /// `more` are kinds that are known as well, `less` those that are not.
    pub fn known(&self, more: &[u16], less: &[u16]) -> Known {
        let mut known = Known::Yes;
        for Attribute { kind, .. } in self.counting() {
            match *kind {
                RESERVATION_TOKEN | 0x8000.. => {}
                kind if less.contains(&kind) => return Known::No,
                kind if BASIC.contains(&kind) || more.contains(&kind) => {}
                UNKNOWN => return Known::No,
                _ => known = Known::Perhaps,
            }
        }
        known
    }

    /// Whether an integrity attribute of this kind is there and made with the key.
    pub fn is_signed(&self, bytes: &[u8], kind: u16, key: &[u8]) -> bool {
        let Some(found) = self.counting().find(|a| a.kind == kind) else { return false };
        let mut covered = bytes[..found.at].to_vec();
        set_length(&mut covered, found.at + 4 + found.value.len());
        found.value == mac(kind, key, &covered)
    }

    pub fn error_code(&self) -> Option<u16> {
        match self.value(ERROR_CODE)? {
            [_, _, class, number, ..] => Some(u16::from(*class) * 100 + u16::from(*number)),
            _ => None,
        }
    }

    pub fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.value(kind)?.try_into().ok()?))
    }

    pub fn address(&self, kind: u16) -> Option<SocketAddr> {
        xored_address(self.value(kind)?, &self.transaction)
    }

    /// An address that is not XORed.
    pub fn plain_address(&self, kind: u16) -> Option<SocketAddr> {
        let value = self.value(kind)?;
        let mask = xored_value(SocketAddr::new([0; 4].into(), 0), &self.transaction);
        let ports = [value.get(2)? ^ mask[2], value.get(3)? ^ mask[3]];
        let ip = masked(value.get(4..)?, &self.transaction);
        let xored = [&value[..2], &ports, &ip].concat();
        xored_address(&xored, &self.transaction)
    }
}

/// A message being written.
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn new(class: u16, method: u16, transaction: [u8; 12]) -> Self {
        let kind = (method & 0xF)
            | (method & 0x70) << 1
            | (method & 0xF80) << 2
            | (class & 1) << 4
            | (class & 2) << 7;
        Self([&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat())
    }

    pub fn transaction(&self) -> [u8; 12] {
        self.0[8..20].try_into().unwrap()
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(kind.to_be_bytes());
        self.0.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let length = self.0.len();
        set_length(&mut self.0, length);
    }

    pub fn address(&mut self, kind: u16, address: SocketAddr) {
        let transaction = self.transaction();
        self.attribute(kind, &xored_value(address, &transaction));
    }

    /// Adds an integrity attribute.
    pub fn sign(&mut self, kind: u16, key: &[u8]) {
        let length = self.0.len() + if kind == MESSAGE_INTEGRITY { 24 } else { 36 };
        set_length(&mut self.0, length);
        let mac = mac(kind, key, &self.0);
        self.attribute(kind, &mac);
    }

    pub fn seal(&mut self) {
        let length = self.0.len() + 8;
        set_length(&mut self.0, length);
        let crc = crc(&self.0);
        self.attribute(FINGERPRINT, &crc);
    }
}

/// The key of a user (RFC 8489 §9.2.2, §18.5.1.1).
pub fn md5_key(user: &[u8], realm: &str, password: &[u8]) -> [u8; 16] {
    Md5::digest([user, b":", realm.as_bytes(), b":", password].concat()).into()
}

/// The key of a user (§18.5.1.2).
pub fn sha256_key(user: &[u8], realm: &str, password: &[u8]) -> [u8; 32] {
    Sha256::digest([user, b":", realm.as_bytes(), b":", password].concat()).into()
}

/// USERHASH of a user (§14.4).
pub fn userhash(user: &[u8], realm: &str) -> [u8; 32] {
    Sha256::digest([user, b":", realm.as_bytes()].concat()).into()
}

pub fn hmac_sha1(key: &[u8], bytes: &[u8]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// What an integrity attribute of a kind has in it (§14.5, §14.6).
fn mac(kind: u16, key: &[u8], bytes: &[u8]) -> Vec<u8> {
    if kind == MESSAGE_INTEGRITY {
        return hmac_sha1(key, bytes).to_vec();
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn set_length(message: &mut [u8], whole: usize) {
    let length = u16::try_from(whole - 20).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// FINGERPRINT's value for what stands before it.
fn crc(covered: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in covered {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    (!crc ^ 0x5354_554E).to_be_bytes()
}

fn masked(ip: &[u8], transaction: &[u8; 12]) -> Vec<u8> {
    ip.iter().zip(COOKIE.iter().chain(transaction)).map(|(a, b)| a ^ b).collect()
}

/// The value of an attribute with a XORed address.
pub fn xored_value(address: SocketAddr, transaction: &[u8; 12]) -> Vec<u8> {
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let [high, low] = address.port().to_be_bytes();
    [vec![0, family, high ^ COOKIE[0], low ^ COOKIE[1]], masked(&ip, transaction)].concat()
}

/// The address in such a value.
pub fn xored_address(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let [_, family, high, low, ip @ ..] = value else { return None };
    let ip = masked(ip, transaction);
    let ip: IpAddr = match family {
        1 => <[u8; 4]>::try_from(ip).ok().filter(|_| value.len() == 8)?.into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok().filter(|_| value.len() == 20)?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([high ^ COOKIE[0], low ^ COOKIE[1]])))
}

/// A Data indication (RFC 8656 §11.3) as it leaves the server.
pub fn data_indication(transaction: [u8; 12], peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(INDICATION, DATA_METHOD, transaction);
    writer.address(XOR_PEER_ADDRESS, peer);
    writer.attribute(DATA, data);
    writer.0
}

/// A ChannelData message without padding (RFC 8656 §12.4).
pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}
