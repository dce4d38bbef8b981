//! STUN messages as the fake server reads and writes them: its own, so that it shares no mistake
//! with the tool. Panics on nothing that comes from the network.

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit as _, Mac as _};

pub(crate) const HEADER_BYTES: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const FINGERPRINT_XOR: u32 = 0x5354_554E;
pub(crate) const INTEGRITY: u16 = 0x0008;
pub(crate) const INTEGRITY_SHA256: u16 = 0x001C;
pub(crate) const FINGERPRINT: u16 = 0x8028;

/// A message from a client.
pub(crate) struct Received<'a> {
    bytes: &'a [u8],
    /// Type, where the attribute begins, and its value.
    attributes: Vec<(u16, usize, &'a [u8])>,
}

impl<'a> Received<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let good = header[0] < 0x40 && header[4..8] == COOKIE && length.is_multiple_of(4);
        let mut rest = bytes.get(HEADER_BYTES..HEADER_BYTES + length).filter(|_| good)?;
        let mut attributes = Vec::new();
        while let [a, b, c, d, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*c, *d]));
            let at = HEADER_BYTES + usize::from(u16::from_be_bytes([header[2], header[3]]));
            let value = after.get(..length)?;
            attributes.push((u16::from_be_bytes([*a, *b]), at - rest.len(), value));
            rest = after.get(length.next_multiple_of(4)..)?;
        }
        Some(Self { bytes, attributes })
    }

    /// Method and class: 0 request, 1 indication, 2 success, 3 error.
    pub(crate) fn kind(&self) -> (u16, u16) {
        let kind = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        let method = (kind & 0x3E00) >> 2 | (kind & 0x00E0) >> 1 | kind & 0x000F;
        (method, kind >> 7 & 2 | kind >> 4 & 1)
    }

    pub(crate) fn id(&self) -> [u8; 12] {
        self.bytes[8..HEADER_BYTES].try_into().unwrap()
    }

    /// All attributes, or those before what is signed with.
    pub(crate) fn attributes(&self, behind: bool) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut signed = false;
        self.attributes.iter().filter_map(move |(kind, _, value)| {
            let outside = [INTEGRITY, INTEGRITY_SHA256, FINGERPRINT].contains(kind);
            let shown = behind || outside || !signed;
            signed |= *kind == INTEGRITY || *kind == INTEGRITY_SHA256;
            shown.then_some((*kind, *value))
        })
    }

    /// What a MAC is of, with the length up to it, and the MAC.
    pub(crate) fn signed(&self, mac: u16) -> Option<(Vec<u8>, &'a [u8])> {
        let (_, at, value) = self.attributes.iter().find(|(kind, ..)| *kind == mac)?;
        let mut signed = self.bytes[..*at].to_vec();
        set_length(&mut signed, at + 4 + value.len());
        Some((signed, value))
    }

    /// Whether FINGERPRINT is absent or right.
    pub(crate) fn fingerprint_is_fine(&self) -> bool {
        self.attributes.iter().find(|(kind, ..)| *kind == FINGERPRINT).is_none_or(
            |(_, at, value)| {
                let crc = crc32fast::hash(&self.bytes[..*at]) ^ FINGERPRINT_XOR;
                *value == crc.to_be_bytes()
            },
        )
    }

    pub(crate) fn has_fingerprint(&self) -> bool {
        self.attributes.iter().any(|(kind, ..)| *kind == FINGERPRINT)
    }

    /// An XORed address.
    pub(crate) fn address(&self, value: &[u8]) -> Option<SocketAddr> {
        let mask = [&COOKIE[..], &self.id()].concat();
        let [_, family, rest @ ..] = value else { return None };
        let plain = |from: &[u8]| -> Vec<u8> {
            from.iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect()
        };
        let (port, ip) = (plain(rest.get(..2)?), plain(&rest[2..]));
        let ip: IpAddr = match family {
            1 => <[u8; 4]>::try_from(ip).ok()?.into(),
            2 => <[u8; 16]>::try_from(ip).ok()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
    }
}

/// A message to a client.
pub(crate) struct Sent(pub(crate) Vec<u8>);

impl Sent {
    /// `kind` is the whole message type.
    pub(crate) fn new(kind: u16, id: [u8; 12]) -> Self {
        Self([&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &id].concat())
    }

    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).unwrap();
        self.0.extend([kind.to_be_bytes(), length.to_be_bytes()].concat());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let total = self.0.len();
        set_length(&mut self.0, total);
        self
    }

    pub(crate) fn address(self, kind: u16, addr: SocketAddr) -> Self {
        let mask = [&COOKIE[..], &self.0[8..HEADER_BYTES]].concat();
        let (family, ip) = match addr.ip() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (2, ip.octets().to_vec()),
        };
        let port = addr.port().to_be_bytes();
        let port = port.iter().zip(&mask).map(|(byte, mask)| byte ^ mask);
        let ip = ip.iter().zip(&mask).map(|(byte, mask)| byte ^ mask);
        let value: Vec<u8> = [0, family].into_iter().chain(port).chain(ip).collect();
        self.with(kind, &value)
    }

    pub(crate) fn sign(mut self, key: &[u8], by_sha256: bool) -> Self {
        let (kind, bytes) = if by_sha256 { (INTEGRITY_SHA256, 32) } else { (INTEGRITY, 20) };
        let total = self.0.len() + 4 + bytes;
        set_length(&mut self.0, total);
        let mac = mac(key, &self.0, by_sha256);
        self.with(kind, &mac)
    }

    pub(crate) fn fingerprint(mut self, off_by: u32) -> Self {
        let total = self.0.len() + 8;
        set_length(&mut self.0, total);
        let crc = crc32fast::hash(&self.0) ^ FINGERPRINT_XOR ^ off_by;
        self.with(FINGERPRINT, &crc.to_be_bytes())
    }
}

pub(crate) fn mac(key: &[u8], bytes: &[u8], by_sha256: bool) -> Vec<u8> {
    if by_sha256 {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        mac.update(bytes);
        return mac.finalize().into_bytes().to_vec();
    }
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn set_length(bytes: &mut [u8], total: usize) {
    let length = u16::try_from(total - HEADER_BYTES).unwrap();
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}
