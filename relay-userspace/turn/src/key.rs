//! The key of long-term credentials (RFC 8489 §9.2.2) and what is signed with it (§14.5).
//! Owns the arithmetic; whose password it is, is `credentials.rs`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::wire::stun::{HEADER_BYTES, INTEGRITY_BYTES, Integrity};
use sha1::Sha1;

/// The key of a user: MD5 of user name, realm and password (RFC 8489 §9.2.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(crate) fn new(user: &[u8], realm: &str, password: &str) -> Self {
        let mut hash = Md5::new();
        for part in [user, b":", realm.as_bytes(), b":", password.as_bytes()] {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// MESSAGE-INTEGRITY over a header and the attributes before it (RFC 8489 §14.5).
    pub(crate) fn sign(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> [u8; INTEGRITY_BYTES] {
        self.mac(header, body).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(crate) fn verifies(&self, integrity: &Integrity<'_>) -> bool {
        self.mac(&integrity.header, integrity.body).verify_slice(integrity.mac).is_ok()
    }

    fn mac(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> Hmac<Sha1> {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(header);
        mac.update(body);
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_rfc_8489_9_2_2() {
        let key = Key::new(b"user", "realm", "pass");
        // The example of the RFC.
        assert_eq!(key.0[..4], [0x84, 0x93, 0xfb, 0xc5]);
    }

    #[test]
    fn printing_shows_no_key() {
        assert_eq!(format!("{:?}", Key::new(b"user", "realm", "pass")), "Key(..)");
    }
}
