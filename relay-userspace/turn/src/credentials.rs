//! Long-term credentials (RFC 8489 §9.2): static users, and time-limited ones whose password is
//! derived from a secret shared with an application server (the "TURN REST API").
//!
//! Owns who there is and which password is theirs. Does not know keys, nonces, methods or error
//! responses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use crate::key::userhash;

/// Who may allocate. Printing it shows how many there are, never who or with what.
#[derive(Clone, Default)]
pub struct Credentials {
    users: Vec<(String, Zeroizing<String>)>,
    secrets: Vec<Zeroizing<String>>,
    /// The static users' names by their USERHASH.
    userhashes: Arc<BTreeMap<[u8; 32], Box<[u8]>>>,
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
            userhashes: Arc::default(),
        }
    }

    /// Static users are also found by USERHASH (RFC 8489 §14.4). A time-limited name cannot be:
    /// nobody but its client knows it.
    #[must_use]
    pub fn with_userhashes(self, realm: &str) -> Self {
        let names = self.users.iter().map(|(name, _)| name.as_bytes());
        let userhashes = names.map(|name| (userhash(name, realm), name.into())).collect();
        Self { userhashes: Arc::new(userhashes), ..self }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} users, {} secrets)", self.users.len(), self.secrets.len())
    }
}

/// [`Credentials`], to be asked by name.
pub(crate) struct Users {
    passwords: BTreeMap<Box<[u8]>, Zeroizing<String>>,
    secrets: Vec<Zeroizing<String>>,
    userhashes: Arc<BTreeMap<[u8; 32], Box<[u8]>>>,
}

impl Users {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let user = |(name, password): &(String, Zeroizing<String>)| {
            (Box::from(name.as_bytes()), password.clone())
        };
        Self {
            passwords: credentials.users.iter().map(user).collect(),
            secrets: credentials.secrets.clone(),
            userhashes: Arc::clone(&credentials.userhashes),
        }
    }

    /// Whether the name is that of a static user.
    pub(crate) fn is_static(&self, user: &[u8]) -> bool {
        self.passwords.contains_key(user)
    }

    /// The user name behind a USERHASH.
    pub(crate) fn name_of(&self, userhash: &[u8]) -> Option<&[u8]> {
        self.userhashes.get(userhash).map(|name| &**name)
    }

    /// The passwords that the user may have now, each made when it is asked for: the only one of a
    /// static user, one of each secret for a time-limited name, none for anybody else.
    pub(crate) fn passwords<'a>(
        &'a self,
        unix_secs: u64,
        user: &'a [u8],
    ) -> impl Iterator<Item = Zeroizing<String>> + 'a {
        let known = self.passwords.get(user);
        let is_in_time = known.is_none() && expiry(user).is_some_and(|expiry| unix_secs < expiry);
        let secrets = if is_in_time { self.secrets.as_slice() } else { &[] };
        known.cloned().into_iter().chain(secrets.iter().map(|secret| rest_password(secret, user)))
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

    fn accepted(users: &Users, unix_secs: u64, user: &str, password: &str) -> bool {
        users.passwords(unix_secs, user.as_bytes()).any(|good| *good == password)
    }

    fn users() -> Users {
        let users = [("bob".to_owned(), "pw".to_owned()), ("77:x".to_owned(), "pw".to_owned())];
        Users::new(&Credentials::new(users, vec!["old".to_owned(), "new".to_owned()]))
    }

    #[test]
    fn a_rest_password_is_base64_of_hmac_sha1() {
        // printf %s 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(*rest_password("north", b"1700000000:alice"), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn static_users_and_every_secret_are_good_at_once() {
        let password = |secret: &str, user: &str| rest_password(secret, user.as_bytes());
        assert!(accepted(&users(), 0, "bob", "pw"));
        assert!(!accepted(&users(), 0, "bob", "wp"));
        assert!(!accepted(&users(), 0, "eve", "pw"));
        for secret in ["old", "new"] {
            for user in ["100", "100:", "100:a:b"] {
                assert!(accepted(&users(), 99, user, &password(secret, user)), "{secret} {user}");
                assert!(!accepted(&users(), 100, user, &password(secret, user)), "one past");
            }
        }
        assert!(!accepted(&users(), 99, "100:a", &password("other", "100:a")));
        assert!(accepted(&users(), 0, "77:x", "pw"), "a static user comes first");
        assert!(!accepted(&users(), 0, "77:x", &password("old", "77:x")));
        for user in ["", ":a", "x100:a", "+100:a", "-1", "99999999999999999999999:a"] {
            assert!(!accepted(&users(), 0, user, &password("old", user)), "{user}");
        }
    }

    #[test]
    fn printing_shows_no_name_and_no_secret() {
        let users = [("bob".to_owned(), "hush".to_owned())];
        let credentials = Credentials::new(users, vec!["hush".to_owned()]);
        assert_eq!(format!("{credentials:?}"), "Credentials(1 users, 1 secrets)");
    }
}
