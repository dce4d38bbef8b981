//! The keys of requests (RFC 8489 §9.2.2, §18.5.1) and what is signed with them (§14.5, §14.6).
//! Owns the arithmetic; whose password it is, is `credentials.rs`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use relay_common::wire::stun::{HEADER_BYTES, INTEGRITY_BYTES, INTEGRITY_SHA256_BYTES, Integrity};
use relay_common::wire::writer::MessageWriter;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::algorithms::PasswordAlgorithm;

/// Bytes of the longest key.
pub(crate) const KEY_BYTES_MAX: usize = 32;

/// The key of a user: a hash of user name, realm and password, or the key in a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    length: u8,
}

/// Which attribute proves who sent a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IntegrityKind {
    /// MESSAGE-INTEGRITY: HMAC-SHA1.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// What a response is signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signer {
    pub(crate) key: Key,
    pub(crate) kind: IntegrityKind,
}

impl Key {
    /// The key of a password. Name, realm and password are as the OpaqueString profile
    /// (RFC 8265) leaves them: the configuration sees to it.
    pub(crate) fn new(
        algorithm: PasswordAlgorithm,
        user: &[u8],
        realm: &str,
        password: &str,
    ) -> Self {
        match algorithm {
            PasswordAlgorithm::Md5 => {
                Self::from_slice(&*Self::bytes_of::<Md5, 16>(user, realm, password))
            }
            PasswordAlgorithm::Sha256 => {
                Self::from_slice(&*Self::bytes_of::<Sha256, 32>(user, realm, password))
            }
        }
        .expect("a hash has 16 or 32 bytes")
    }

    /// The bytes of such a key, by a hash of `N` bytes.
    pub(crate) fn bytes_of<D: Digest, const N: usize>(
        user: &[u8],
        realm: &str,
        password: &str,
    ) -> Zeroizing<[u8; N]> {
        let mut bytes = Zeroizing::new([0; N]);
        let parts = [user, b":", realm.as_bytes(), b":", password.as_bytes()];
        bytes.copy_from_slice(&hash::<D>(&parts));
        bytes
    }

    /// A key as it is. `None` if it is longer than [`KEY_BYTES_MAX`].
    pub(crate) fn from_slice(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { bytes, length: u8::try_from(key.len()).ok()? })
    }

    /// Tells keys apart and gives nothing of them away.
    pub(crate) fn fingerprint(&self) -> [u8; 8] {
        let hash = hash::<Sha256>(&[&self.bytes[..usize::from(self.length)]]);
        *hash.first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// Compares in constant time.
    pub(crate) fn verifies(&self, kind: IntegrityKind, integrity: &Integrity<'_>) -> bool {
        let parts = [&integrity.header[..], integrity.body];
        match kind {
            IntegrityKind::Sha1 => {
                self.mac::<Hmac<Sha1>>(&parts).verify_slice(integrity.mac).is_ok()
            }
            IntegrityKind::Sha256 => {
                self.mac::<Hmac<Sha256>>(&parts).verify_slice(integrity.mac).is_ok()
            }
        }
    }

    /// MESSAGE-INTEGRITY over a header and the attributes before it (RFC 8489 §14.5).
    fn sha1(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> [u8; INTEGRITY_BYTES] {
        self.mac::<Hmac<Sha1>>(&[header, body]).finalize().into_bytes().into()
    }

    /// MESSAGE-INTEGRITY-SHA256, likewise (§14.6).
    fn sha256(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> [u8; INTEGRITY_SHA256_BYTES] {
        self.mac::<Hmac<Sha256>>(&[header, body]).finalize().into_bytes().into()
    }

    fn mac<M: Mac + KeyInit>(&self, parts: &[&[u8]]) -> M {
        let key = &self.bytes[..usize::from(self.length)];
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl Signer {
    /// Adds the attribute to a message that has all others.
    pub(crate) fn sign(&self, writer: &mut MessageWriter<'_>) {
        match self.kind {
            IntegrityKind::Sha1 => writer.integrity(|header, body| self.key.sha1(header, body)),
            IntegrityKind::Sha256 => {
                writer.integrity_sha256(|header, body| self.key.sha256(header, body));
            }
        }
    }
}

/// USERHASH of a user name (RFC 8489 §14.4).
pub(crate) fn userhash(user: &[u8], realm: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&hash::<Sha256>(&[user, b":", realm.as_bytes()]));
    bytes
}

fn hash<D: Digest>(parts: &[&[u8]]) -> sha2::digest::Output<D> {
    let mut hash = D::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: PasswordAlgorithm = PasswordAlgorithm::Md5;
    const SHA256: PasswordAlgorithm = PasswordAlgorithm::Sha256;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter(char::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn the_key_of_rfc_8489_9_2_2() {
        let key = Key::new(MD5, b"user", "realm", "pass");
        assert_eq!(key, Key::from_slice(&hex("8493fbc53ba582fb4c044c456bdc40eb")).unwrap());
    }

    #[test]
    fn the_key_of_sha_256_has_32_bytes() {
        // printf user:realm:pass | sha256sum
        let key = Key::new(SHA256, b"user", "realm", "pass");
        let expected = "07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b";
        assert_eq!(key, Key::from_slice(&hex(expected)).unwrap());
    }

    /// Appendix B.1. Its length field counts twenty bytes that the message does not have, and its
    /// MAC is over that field: so it cannot be parsed, but its parts can be checked.
    #[test]
    fn the_sample_request_of_rfc_8489_b_1() {
        let user = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}".as_bytes();
        let header = hex("0001009c2112a44278ad3433c6ad72c029da412e");
        let hashed = hex("4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704");
        let nonce = b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA\0\0\0";
        let realm = b"example.org\0";
        let body =
            [&[0, 0x1E, 0, 32][..], &hashed, &[0, 0x15, 0, 41], nonce, &[0, 0x14, 0, 11], realm];
        assert_eq!(userhash(user, "example.org")[..], hashed);
        let key = Key::new(SHA256, user, "example.org", "TheMatrIX");
        let mac = key.sha256(header[..].try_into().unwrap(), &body.concat());
        let expected = "e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01";
        assert_eq!(mac[..], hex(expected));
    }

    #[test]
    fn a_key_has_32_bytes_at_most() {
        assert!(Key::from_slice(&[1; 32]).is_some());
        assert!(Key::from_slice(&[1; 33]).is_none());
        assert_ne!(Key::from_slice(&[1; 20]), Key::from_slice(&[1; 21]));
        let fingerprint = |key: &[u8]| Key::from_slice(key).unwrap().fingerprint();
        assert_ne!(fingerprint(&[1; 20]), fingerprint(&[2; 20]));
        assert_eq!(fingerprint(&[0; 20]), Sha256::digest([0; 20])[..8]);
    }

    #[test]
    fn printing_shows_no_key() {
        assert_eq!(format!("{:?}", Key::new(MD5, b"user", "realm", "pass")), "Key(..)");
    }
}
