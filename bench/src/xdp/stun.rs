//! STUN messages as plain bytes (RFC 8489 §5, §14; RFC 8656 §11, §18), laid out from scratch. Uses
//! none of the code that writes or reads them elsewhere.

use std::net::{IpAddr, SocketAddr};

/// Message types.
pub(super) const BINDING_REQUEST: u16 = 0x0001;
pub(super) const BINDING_SUCCESS: u16 = 0x0101;
pub(super) const SEND_INDICATION: u16 = 0x0016;
pub(super) const DATA_INDICATION: u16 = 0x0017;
/// Attribute types.
pub(super) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(super) const DATA: u16 = 0x0013;
pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// Where the transaction ID stands in a message.
pub(super) const TRANSACTION_AT: usize = 8;

pub(super) type Transaction = [u8; 12];

/// A message of attributes, each padded with zeros.
pub(super) fn message(kind: u16, id: &Transaction, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend(length(value));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    [&kind.to_be_bytes()[..], &length(&body), &COOKIE, id, &body].concat()
}

/// The value of a XORed address attribute.
pub(super) fn xored(addr: SocketAddr, id: &Transaction) -> Vec<u8> {
    let (family, ip) = match addr.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let [high, low] = addr.port().to_be_bytes();
    let mut value = vec![0, family, high ^ COOKIE[0], low ^ COOKIE[1]];
    value.extend(ip.iter().zip(COOKIE.iter().chain(id)).map(|(byte, mask)| byte ^ mask));
    value
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len())
        .expect("--payload keeps a packet far below sixteen bits")
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 and §2.3 have these addresses and this transaction ID.
    #[test]
    fn addresses_are_those_of_the_test_vectors() {
        let id = [0xB7, 0xE7, 0xA7, 0x01, 0xBC, 0x34, 0xD6, 0x86, 0xFA, 0x87, 0xDF, 0xAE];
        let v4 = xored("192.0.2.1:32853".parse().unwrap(), &id);
        assert_eq!(v4, [0, 1, 0xA1, 0x47, 0xE1, 0x12, 0xA6, 0x43]);
        let v6 = xored("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap(), &id);
        let ip = [
            0x01, 0x13, 0xA9, 0xFA, 0xA5, 0xD3, 0xF1, 0x79, 0xBC, 0x25, 0xF4, 0xB5, 0xBE, 0xD2,
            0xB9, 0xD9,
        ];
        assert_eq!(v6, [&[0, 2, 0xA1, 0x47][..], &ip].concat());
    }
}
