//! Long-term credentials (RFC 8489 §9.2): static users, and time-limited ones whose password is
//! derived from a secret shared with an application server (the "TURN REST API").
//!
//! Owns who there is, which password is theirs and how long. Who is looked up elsewhere is
//! `look_up.rs`. Does not know keys, nonces, methods or error
//! responses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use relay_common::addr::ServerAddr;
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::algorithms::PasswordAlgorithm;
use crate::key::{Key, userhash};
use crate::look_up::Directory;
use crate::{RealmId, Turn};

/// What a user proves to know. Shown to nobody, and wiped when dropped.
#[derive(Clone)]
pub enum Secret {
    /// The password.
    Password(Zeroizing<String>),
    /// The key in its place: MD5 of user name, realm and password (RFC 8489 §9.2.2).
    Key(Zeroizing<[u8; 16]>),
    /// What was a password: its key of each algorithm.
    Keys {
        /// By MD5.
        md5: Zeroizing<[u8; 16]>,
        /// By SHA-256.
        sha256: Zeroizing<[u8; 32]>,
    },
}

impl Secret {
    /// A key as it is written: 32 hexadecimal digits. `None` if it is anything else.
    #[must_use]
    pub fn key(digits: &str) -> Option<Self> {
        let mut key = Zeroizing::new([0; 16]);
        if digits.len() != 2 * key.len() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in key.iter_mut().zip((0..digits.len()).step_by(2)) {
            *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self::Key(key))
    }

    /// What is kept of it: keys in place of a password, which RFC 8656 §6 forbids to keep. They are
    /// good for this user in this realm only.
    #[must_use]
    pub fn sealed(self, user: &[u8], realm: &str) -> Self {
        match self {
            Self::Password(password) => Self::Keys {
                md5: Key::bytes_of::<Md5, 16>(user, realm, &password),
                sha256: Key::bytes_of::<Sha256, 32>(user, realm, &password),
            },
            Self::Key(_) | Self::Keys { .. } => self,
        }
    }

    /// The key of the user who has it. `None`: one made by MD5 serves no other algorithm.
    pub(crate) fn key_of(
        &self,
        algorithm: PasswordAlgorithm,
        user: &[u8],
        realm: &str,
    ) -> Option<Key> {
        match (self, algorithm) {
            (Self::Password(password), _) => Some(Key::new(algorithm, user, realm, password)),
            (Self::Key(key) | Self::Keys { md5: key, .. }, PasswordAlgorithm::Md5) => {
                Key::from_slice(&**key)
            }
            (Self::Keys { sha256, .. }, PasswordAlgorithm::Sha256) => Key::from_slice(&**sha256),
            (Self::Key(_), PasswordAlgorithm::Sha256) => None,
        }
    }
}

impl From<String> for Secret {
    /// A password.
    fn from(password: String) -> Self {
        Self::Password(Zeroizing::new(password))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(a), Self::Password(b)) => **a == **b,
            (Self::Key(a), Self::Key(b)) => **a == **b,
            (Self::Keys { md5: a, sha256: c }, Self::Keys { md5: b, sha256: d }) => {
                **a == **b && **c == **d
            }
            (Self::Password(_) | Self::Key(_) | Self::Keys { .. }, _) => false,
        }
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who may allocate. Printing it shows how many there are, never who or with what. A clone shares
/// what it holds, so that every state machine of a server can have one.
#[derive(Clone, Default)]
pub struct Credentials {
    users: Arc<BTreeMap<Box<[u8]>, Secret>>,
    secrets: Arc<[Zeroizing<String>]>,
    /// The static users' names by their USERHASH.
    userhashes: Arc<BTreeMap<[u8; 32], Box<[u8]>>>,
}

impl Credentials {
    /// Static users with their passwords (of two of the same name, the last counts), and
    /// any number of secrets, each good for time-limited user names: `expiry` or
    /// `expiry:anything`, with the seconds since 1970 at which it ends, and base64 of
    /// HMAC-SHA1(secret, user name) as the password. A static user of such a name is a static
    /// user.
    pub fn new(users: impl IntoIterator<Item = (String, String)>, secrets: Vec<String>) -> Self {
        Self::of(users.into_iter().map(|(name, password)| (name, password.into())), secrets)
    }

    /// The same with a password or a key for each user.
    pub fn of(users: impl IntoIterator<Item = (String, Secret)>, secrets: Vec<String>) -> Self {
        let user = |(name, secret): (String, Secret)| (name.into_bytes().into(), secret);
        Self {
            users: Arc::new(users.into_iter().map(user).collect()),
            secrets: secrets.into_iter().map(Zeroizing::new).collect(),
            userhashes: Arc::default(),
        }
    }

    /// Static users are also found by USERHASH (RFC 8489 §14.4). A time-limited name cannot be:
    /// nobody but its client knows it.
    #[must_use]
    pub fn with_userhashes(self, realm: &str) -> Self {
        let names = self.users.keys();
        let userhashes = names.map(|name| (userhash(name, realm), name.clone())).collect();
        Self { userhashes: Arc::new(userhashes), ..self }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} users, {} secrets)", self.users.len(), self.secrets.len())
    }
}

/// The users of one realm, to be asked by name: its [`Credentials`], and whom a look-up found.
#[derive(Clone, Copy)]
pub(crate) struct Users<'t> {
    realm: &'t str,
    credentials: &'t Credentials,
    /// Who is looked up elsewhere; `None`: nobody.
    directory: Option<(&'t Directory, RealmId)>,
}

impl<'t> Users<'t> {
    pub(crate) const fn new(
        realm: &'t str,
        credentials: &'t Credentials,
        directory: Option<(&'t Directory, RealmId)>,
    ) -> Self {
        Self { realm, credentials, directory }
    }

    /// What the realm is called.
    pub(crate) const fn realm(self) -> &'t str {
        self.realm
    }

    /// Whether the name is not a time-limited one, whatever it looks like.
    pub(crate) fn is_static(self, user: &[u8]) -> bool {
        self.expiry(user).is_none()
    }

    /// The user name behind a USERHASH.
    pub(crate) fn name_of(self, userhash: &[u8]) -> Option<&'t [u8]> {
        self.credentials.userhashes.get(userhash).map(|name| &**name)
    }

    /// Whether anybody is looked up elsewhere.
    pub(crate) const fn are_looked_up(self) -> bool {
        self.directory.is_some()
    }

    /// What the user may know now, each made when it is asked for: one password or key of a
    /// static user or of one that was looked up, one password of each secret for a time-limited
    /// name, none for anybody else.
    pub(crate) fn passwords(
        self,
        unix_secs: u64,
        user: &'t [u8],
    ) -> impl Iterator<Item = Secret> + 't {
        let expiry = self.expiry(user);
        let is_in_time = expiry.is_some_and(|expiry| unix_secs < expiry);
        let secrets = if is_in_time { &*self.credentials.secrets } else { &[] };
        let found = || {
            let (directory, realm) = self.directory?;
            directory.found(unix_secs, realm, user)
        };
        let known =
            self.credentials.users.get(user).or_else(|| found().filter(|_| expiry.is_none()));
        let derived = secrets.iter().map(|secret| Secret::Password(rest_password(secret, user)));
        known.cloned().into_iter().chain(derived)
    }

    /// Whether it is known here who the user is, or is not.
    pub(crate) fn is_decided(self, unix_secs: u64, user: &[u8]) -> bool {
        let remembers =
            |(directory, realm): (&Directory, RealmId)| directory.remembers(unix_secs, realm, user);
        self.credentials.users.contains_key(user)
            || self.expiry(user).is_some()
            || self.directory.is_none_or(remembers)
    }

    /// When the credentials of a time-limited name end, seconds since 1970; `None` for others.
    /// Without a secret, no name is a time-limited one.
    fn expiry(self, user: &[u8]) -> Option<u64> {
        let is_other =
            self.credentials.secrets.is_empty() || self.credentials.users.contains_key(user);
        if is_other { None } else { expiry(user) }
    }
}

impl Turn {
    /// When `strict_expiry` ends the allocations of a user of a server address, seconds since 1970.
    pub(crate) fn strict_end(&self, server: ServerAddr, user: &[u8]) -> Option<u64> {
        self.limits.strict_expiry.then(|| self.users(server).expiry(user)).flatten()
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

    fn accepted(all: &Credentials, unix_secs: u64, user: &str, password: &str) -> bool {
        let password = Secret::from(password.to_owned());
        users(all).passwords(unix_secs, user.as_bytes()).any(|good| good == password)
    }

    fn some() -> Credentials {
        let users = [("bob".to_owned(), "pw".to_owned()), ("77:x".to_owned(), "pw".to_owned())];
        Credentials::new(users, vec!["old".to_owned(), "new".to_owned()])
    }

    fn users(all: &Credentials) -> Users<'_> {
        Users::new("example.org", all, None)
    }

    #[test]
    fn a_rest_password_is_base64_of_hmac_sha1() {
        // printf %s 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(*rest_password("north", b"1700000000:alice"), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn static_users_and_every_secret_are_good_at_once() {
        let password = |secret: &str, user: &str| rest_password(secret, user.as_bytes());
        assert!(accepted(&some(), 0, "bob", "pw"));
        assert!(!accepted(&some(), 0, "bob", "wp"));
        assert!(!accepted(&some(), 0, "eve", "pw"));
        for secret in ["old", "new"] {
            for user in ["100", "100:", "100:a:b"] {
                assert!(accepted(&some(), 99, user, &password(secret, user)), "{secret} {user}");
                assert!(!accepted(&some(), 100, user, &password(secret, user)), "one past");
            }
        }
        assert!(!accepted(&some(), 99, "100:a", &password("other", "100:a")));
        assert!(accepted(&some(), 0, "77:x", "pw"), "a static user comes first");
        assert!(!accepted(&some(), 0, "77:x", &password("old", "77:x")));
        for user in ["", ":a", "x100:a", "+100:a", "-1", "99999999999999999999999:a"] {
            assert!(!accepted(&some(), 0, user, &password("old", user)), "{user}");
        }
    }

    #[test]
    fn printing_shows_no_name_and_no_secret() {
        let users = [("bob".to_owned(), "hush".to_owned())];
        let credentials = Credentials::new(users, vec!["hush".to_owned()]);
        assert_eq!(format!("{credentials:?}"), "Credentials(1 users, 1 secrets)");
        assert_eq!(format!("{:?}", Secret::from("hush".to_owned())), "Secret(..)");
    }

    #[test]
    fn a_key_is_as_good_as_the_password_it_is_made_of() {
        // turnadmin -k -u user -r realm -p pass
        let md5 = PasswordAlgorithm::Md5;
        let key = Secret::key("8493fbc53ba582fb4c044c456bdc40eb").unwrap();
        let password = Secret::from("pass".to_owned());
        assert_eq!(key.key_of(md5, b"user", "realm"), password.key_of(md5, b"user", "realm"));
        assert!(key.key_of(PasswordAlgorithm::Sha256, b"user", "realm").is_none());
        assert_ne!(key, password);
        let digits = "8493FBC53BA582FB4C044C456BDC40EB";
        assert_eq!(Secret::key(digits), Some(key), "either case");
        for wrong in ["", &digits[1..], &format!("{digits}0"), &digits.replace('F', "G"), "+é"] {
            assert_eq!(Secret::key(wrong), None, "{wrong}");
        }
        assert_eq!(Secret::key(&format!("+{}", &digits[1..])), None, "no sign");
    }

    #[test]
    fn a_password_is_not_kept_where_its_keys_are() {
        let (user, realm) = (&b"user"[..], "realm");
        let password = Secret::from("pass".to_owned());
        let sealed = password.clone().sealed(user, realm);
        assert!(matches!(sealed, Secret::Keys { .. }));
        for algorithm in PasswordAlgorithm::ALL {
            let key = sealed.key_of(algorithm, user, realm);
            assert!(key.is_some() && key == password.key_of(algorithm, user, realm));
        }
        assert_eq!(sealed.clone().sealed(b"other", "other"), sealed, "once");
        assert_ne!(password.clone().sealed(user, "other"), sealed);
        assert_ne!(password, sealed);
        let key = Secret::key("8493fbc53ba582fb4c044c456bdc40eb").unwrap();
        assert_eq!(key.clone().sealed(user, realm), key);
        assert_ne!(key, sealed);
    }

    #[test]
    fn without_a_secret_no_name_is_a_time_limited_one() {
        assert_eq!(users(&Credentials::default()).expiry(b"100:a"), None);
        assert_eq!(users(&some()).expiry(b"100:a"), Some(100));
        assert_eq!(users(&some()).expiry(b"77:x"), None, "a static user");
    }
}
