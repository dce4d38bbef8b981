//! Long-term credentials (RFC 8489 §9.2), given or minted from a shared secret, and the
//! message integrity made with them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{HEADER_BYTES, INTEGRITY_BYTES, Integrity, Message};
use sha1::Sha1;

/// A user name and its password.
#[derive(Clone)]
pub(crate) struct Credentials {
    username: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// A user the server knows.
    pub(crate) fn known(username: String, password: String) -> Self {
        Self { username, password }
    }

    /// Time-limited credentials of the TURN REST convention: the user name is
    /// `expiry:name`, the password the Base64 HMAC-SHA1 of it under the shared secret.
    pub(crate) fn minted(secret: &str, name: &str, expiry_unix_secs: u64) -> Self {
        let username = format!("{expiry_unix_secs}:{name}");
        let password = STANDARD.encode(hmac_sha1(secret.as_bytes(), &[username.as_bytes()]));
        Self { username, password }
    }

    /// The value of USERNAME.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// The password.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// The answer to a 401 or 438 response; `None` when it lacks REALM or NONCE.
    pub(crate) fn challenged(&self, response: Message<'_>) -> Option<Auth> {
        let nonce = response.attribute(AttributeType::NONCE)?.to_vec();
        let realm = response.attribute(AttributeType::REALM)?.to_vec();
        let key = self.key(&realm);
        Some(Auth { realm, nonce, key })
    }

    /// The key for a realm (RFC 8489 §9.2.2).
    fn key(&self, realm: &[u8]) -> Key {
        let mut md5 = Md5::new();
        md5.update(self.username.as_bytes());
        md5.update(b":");
        md5.update(realm);
        md5.update(b":");
        md5.update(self.password.as_bytes());
        Key(md5.finalize().into())
    }
}

/// What the requests after a challenge are signed with.
#[derive(Debug)]
pub(crate) struct Auth {
    /// The value of REALM.
    pub(crate) realm: Vec<u8>,
    /// The value of NONCE.
    pub(crate) nonce: Vec<u8>,
    /// The key for the realm.
    pub(crate) key: Key,
}

/// A long-term key.
#[derive(Clone)]
pub(crate) struct Key([u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// MESSAGE-INTEGRITY over a header and the attributes behind it.
    pub(crate) fn sign(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> [u8; INTEGRITY_BYTES] {
        hmac_sha1(&self.0, &[header, body])
    }

    /// Whether a received MESSAGE-INTEGRITY is this key's.
    pub(crate) fn verifies(&self, integrity: &Integrity<'_>) -> bool {
        let mut mac = keyed(&self.0);
        mac.update(&integrity.header);
        mac.update(integrity.body);
        mac.verify_slice(integrity.mac).is_ok()
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha1> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; INTEGRITY_BYTES] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: `printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64`.
    #[test]
    fn a_minted_password_is_the_hmac_of_the_user_name() {
        let minted = Credentials::minted("north", "alice", 1_700_000_000);
        assert_eq!(minted.username(), "1700000000:alice");
        assert_eq!(minted.password, "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    /// Reference: `printf user:realm:pass | md5sum` (RFC 8489 §9.2.2 gives the same example).
    #[test]
    fn the_key_is_the_md5_of_user_realm_and_password() {
        let key = Credentials::known("user".into(), "pass".into()).key(b"realm");
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "8493fbc53ba582fb4c044c456bdc40eb");
    }
}
