//! Stateless nonces (RFC 8489 §9.2): the time of issue, and a keyed hash of it and of the
//! client. Owns what a good nonce is; remembers none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use relay_common::addr::ClientAddr;
use sha1::Sha1;
use subtle::ConstantTimeEq;

const TIME_BYTES: usize = 4;
const MAC_BYTES: usize = 11;
const RAW_BYTES: usize = TIME_BYTES + MAC_BYTES;
/// Characters of a nonce: fifteen bytes in base64.
pub(crate) const NONCE_CHARS: usize = 20;

/// Issues and checks.
#[derive(Clone)]
pub(crate) struct Nonces {
    key: [u8; 32],
    lifetime_secs: u32,
}

impl Nonces {
    pub(crate) const fn new(key: [u8; 32], lifetime_secs: u32) -> Self {
        Self { key, lifetime_secs }
    }

    /// A nonce for a client, good from now on.
    pub(crate) fn issue(&self, unix_secs: u64, client: ClientAddr) -> [u8; NONCE_CHARS] {
        let raw = self.raw(wrapped(unix_secs), client);
        let mut text = [b'A'; NONCE_CHARS];
        STANDARD_NO_PAD
            .encode_slice(raw, &mut text)
            .expect("fifteen bytes are twenty characters of base64");
        text
    }

    /// Whether this server gave the nonce to this client, not longer than its lifetime ago.
    pub(crate) fn is_good(&self, unix_secs: u64, client: ClientAddr, nonce: &[u8]) -> bool {
        let mut raw = [0; RAW_BYTES + 3];
        let Ok(RAW_BYTES) = STANDARD_NO_PAD.decode_slice(nonce, &mut raw) else { return false };
        let [t0, t1, t2, t3, ..] = raw;
        let issued = u32::from_be_bytes([t0, t1, t2, t3]);
        let expected = self.raw(issued, client);
        let genuine = bool::from(expected.ct_eq(&raw[..RAW_BYTES]));
        // A nonce from the future (the clock was set back) is older than anything.
        genuine && wrapped(unix_secs).wrapping_sub(issued) <= self.lifetime_secs
    }

    fn raw(&self, issued: u32, client: ClientAddr) -> [u8; RAW_BYTES] {
        let ip = match client.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.key).expect("HMAC takes any key");
        mac.update(&issued.to_be_bytes());
        mac.update(&ip.octets());
        mac.update(&client.port().to_be_bytes());
        let mut raw = [0; RAW_BYTES];
        raw[..TIME_BYTES].copy_from_slice(&issued.to_be_bytes());
        raw[TIME_BYTES..].copy_from_slice(&mac.finalize().into_bytes()[..MAC_BYTES]);
        raw
    }
}

/// The low 32 bits: differences stay right, whatever the century.
fn wrapped(unix_secs: u64) -> u32 {
    let [.., s0, s1, s2, s3] = unix_secs.to_be_bytes();
    u32::from_be_bytes([s0, s1, s2, s3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(addr: &str) -> ClientAddr {
        ClientAddr::new(addr.parse().unwrap())
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_lifetime_only() {
        let nonces = Nonces::new([1; 32], 100);
        let alice = client("192.0.2.1:5000");
        let nonce = nonces.issue(1_000_000, alice);
        assert!(nonces.is_good(1_000_000, alice, &nonce));
        assert!(nonces.is_good(1_000_100, alice, &nonce));
        assert!(!nonces.is_good(1_000_101, alice, &nonce), "one past");
        assert!(!nonces.is_good(999_999, alice, &nonce), "from the future");
        assert!(!nonces.is_good(1_000_000, client("192.0.2.1:5001"), &nonce));
        assert!(!nonces.is_good(1_000_000, client("192.0.2.2:5000"), &nonce));
        assert!(!nonces.is_good(1_000_000, client("[2001:db8::1]:5000"), &nonce));
        assert!(!Nonces::new([2; 32], 100).is_good(1_000_000, alice, &nonce));
    }

    #[test]
    fn no_changed_character_and_no_other_length_is_good() {
        let nonces = Nonces::new([1; 32], 100);
        let alice = client("[2001:db8::1]:5000");
        let nonce = nonces.issue(5, alice);
        for at in 0..NONCE_CHARS {
            for bit in 0..8 {
                let mut forged = nonce;
                forged[at] ^= 1 << bit;
                assert!(!nonces.is_good(5, alice, &forged), "{at} {bit}");
            }
            assert!(!nonces.is_good(5, alice, &nonce[..at]));
        }
        assert!(!nonces.is_good(5, alice, &[nonce.as_slice(), b"AAAA"].concat()));
        assert!(!nonces.is_good(5, alice, &[b'A'; 763]));
    }
}
