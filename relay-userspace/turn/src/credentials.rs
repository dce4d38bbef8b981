//! Long-term credentials (RFC 8489 §9.2): static users, and time-limited ones whose password is
//! derived from a secret shared with an application server (the "TURN REST API").
//!
//! Owns the keys and the MAC. Does not know nonces, methods or error responses.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::wire::stun::{HEADER_BYTES, INTEGRITY_BYTES, Integrity};
use sha1::Sha1;
use zeroize::{Zeroize, Zeroizing};

/// Who may allocate. Printing it shows how many there are, never who or with what.
#[derive(Clone, Default)]
pub struct Credentials {
    users: Vec<(String, Zeroizing<String>)>,
    secrets: Vec<Zeroizing<String>>,
}

impl Credentials {
    /// Static users with their passwords (of two of the same name, the last counts), and any
    /// number of secrets, each good for time-limited user names: `expiry` or `expiry:anything`,
    /// with the seconds since 1970 at which it ends, and base64 of HMAC-SHA1(secret, user name)
    /// as the password. A static user of such a name is a static user.
    pub fn new(users: impl IntoIterator<Item = (String, String)>, secrets: Vec<String>) -> Self {
        Self {
            users: users.into_iter().map(|(name, password)| (name, password.into())).collect(),
            secrets: secrets.into_iter().map(Zeroizing::new).collect(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} users, {} secrets)", self.users.len(), self.secrets.len())
    }
}

/// The key of a user: MD5 of user name, realm and password (RFC 8489 §9.2.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u8; 16]);

impl Key {
    fn new(user: &[u8], realm: &str, password: &str) -> Self {
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
    fn verifies(&self, integrity: &Integrity<'_>) -> bool {
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

/// [`Credentials`] in a realm.
pub(crate) struct Keys {
    realm: String,
    users: BTreeMap<Box<[u8]>, Key>,
    secrets: Vec<Zeroizing<String>>,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.users.values_mut().for_each(|key| key.0.zeroize());
    }
}

impl Keys {
    pub(crate) fn new(realm: &str, credentials: &Credentials) -> Self {
        let key = |(name, password): &(String, Zeroizing<String>)| {
            let name = name.as_bytes();
            (Box::from(name), Key::new(name, realm, password))
        };
        Self {
            realm: realm.to_owned(),
            users: credentials.users.iter().map(key).collect(),
            secrets: credentials.secrets.clone(),
        }
    }

    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }

    /// The key of the user, if it is the one that the message was signed with.
    pub(crate) fn verify(
        &self,
        unix_secs: u64,
        user: &[u8],
        integrity: &Integrity<'_>,
    ) -> Option<Key> {
        if let Some(key) = self.users.get(user) {
            return key.verifies(integrity).then_some(*key);
        }
        if unix_secs >= expiry(user)? {
            return None;
        }
        let keys = self.secrets.iter().map(|secret| {
            let password = rest_password(secret, user);
            Key::new(user, &self.realm, &password)
        });
        keys.into_iter().find(|key| key.verifies(integrity))
    }
}

/// The time in front of a time-limited user name: all of it, or up to the first colon.
fn expiry(user: &[u8]) -> Option<u64> {
    let digits = user.split(|byte| *byte == b':').next()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn rest_password(secret: &str, user: &[u8]) -> Zeroizing<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes any key");
    mac.update(user);
    Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; HEADER_BYTES] = [3; HEADER_BYTES];

    fn accepted(keys: &Keys, unix_secs: u64, user: &str, password: &str) -> bool {
        let mac = Key::new(user.as_bytes(), "realm", password).sign(&HEADER, b"body");
        let integrity = Integrity { header: HEADER, body: b"body", mac: &mac };
        keys.verify(unix_secs, user.as_bytes(), &integrity).is_some()
    }

    fn keys() -> Keys {
        let users = [("bob".to_owned(), "pw".to_owned()), ("77:x".to_owned(), "pw".to_owned())];
        Keys::new("realm", &Credentials::new(users, vec!["old".to_owned(), "new".to_owned()]))
    }

    #[test]
    fn the_key_of_rfc_8489_9_2_2() {
        let key = Key::new(b"user", "realm", "pass");
        // The example of the RFC.
        assert_eq!(key.0[..4], [0x84, 0x93, 0xfb, 0xc5]);
    }

    #[test]
    fn a_rest_password_is_base64_of_hmac_sha1() {
        // printf %s 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(*rest_password("north", b"1700000000:alice"), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn static_users_and_every_secret_are_good_at_once() {
        let password = |secret: &str, user: &str| rest_password(secret, user.as_bytes());
        assert!(accepted(&keys(), 0, "bob", "pw"));
        assert!(!accepted(&keys(), 0, "bob", "wp"));
        assert!(!accepted(&keys(), 0, "eve", "pw"));
        for secret in ["old", "new"] {
            for user in ["100", "100:", "100:a:b"] {
                assert!(accepted(&keys(), 99, user, &password(secret, user)), "{secret} {user}");
                assert!(!accepted(&keys(), 100, user, &password(secret, user)), "one past");
            }
        }
        assert!(!accepted(&keys(), 99, "100:a", &password("other", "100:a")));
        assert!(accepted(&keys(), 0, "77:x", "pw"), "a static user comes first");
        assert!(!accepted(&keys(), 0, "77:x", &password("old", "77:x")));
        for user in ["", ":a", "x100:a", "+100:a", "-1", "99999999999999999999999:a"] {
            assert!(!accepted(&keys(), 0, user, &password("old", user)), "{user}");
        }
    }

    #[test]
    fn printing_shows_no_name_and_no_secret() {
        let users = [("bob".to_owned(), "hush".to_owned())];
        let credentials = Credentials::new(users, vec!["hush".to_owned()]);
        assert_eq!(format!("{credentials:?}"), "Credentials(1 users, 1 secrets)");
        assert_eq!(format!("{:?}", Key([7; 16])), "Key(..)");
    }
}
