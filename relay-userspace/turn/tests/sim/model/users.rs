//! Who is who, by which key: static users, time-limited names, users found elsewhere, and holders
//! of tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay_turn::PasswordAlgorithm;

use super::{Model, Time, Tuple, wire};
use crate::accounts::Password;
use crate::model::token::Token;
use crate::rules::REALM;

/// Who made a request or an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    Named(Vec<u8>),
    /// Whoever has a token, with its key; it does not say who that is.
    Bearer(Vec<u8>),
}

impl Who {
    /// RFC 7635 §9: one token takes the place of another.
    pub fn is_same(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Bearer(_), Self::Bearer(_))) || self == other
    }
}

/// What proves a request, and what limits it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) who: Who,
    pub(super) key: Vec<u8>,
    /// When the token that it came with ends.
    pub(super) token_end: Option<u64>,
}

/// The password of a time-limited user name.
pub fn rest_password(secret: &str, user: &[u8]) -> String {
    STANDARD.encode(wire::hmac_sha1(secret.as_bytes(), user))
}

impl Model {
    /// When a time-limited name ends. Without a secret there are none, and a static user is none.
    pub(super) fn expiry(&self, user: &[u8]) -> Option<u64> {
        let is_static = self.accounts.users.iter().any(|(name, _)| name.as_bytes() == user);
        let digits = user.split(|byte| *byte == b':').next()?;
        if is_static || self.accounts.secrets.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    pub(super) fn static_user(&self, user: &[u8]) -> Option<&Password> {
        let is_it = |(name, _): &&(String, Password)| name.as_bytes() == user;
        self.accounts.users.iter().find(is_it).map(|(_, password)| password)
    }

    /// Everything that the user may know at this time.
    fn passwords(&self, now: Time, shard: usize, user: &[u8]) -> Vec<Password> {
        if let Some(password) = self.static_user(user) {
            return vec![password.clone()];
        }
        match self.expiry(user) {
            Some(expiry) if now.unix >= expiry => Vec::new(),
            Some(_) => {
                let text = |secret: &String| Password::Text(rest_password(secret, user));
                self.accounts.secrets.iter().map(text).collect()
            }
            None => self.found(now, shard, user).into_iter().collect(),
        }
    }

    /// The user's keys for an algorithm.
    pub(super) fn keys(
        &mut self,
        now: Time,
        shard: usize,
        user: &[u8],
        algorithm: PasswordAlgorithm,
    ) -> Vec<Vec<u8>> {
        let passwords = self.passwords(now, shard, user);
        let key = |password: &Password| match (password, algorithm) {
            (Password::Text(text), PasswordAlgorithm::Md5) => {
                Some(wire::md5_key(user, REALM, text.as_bytes()).to_vec())
            }
            (Password::Text(text), PasswordAlgorithm::Sha256) => {
                Some(wire::sha256_key(user, REALM, text.as_bytes()).to_vec())
            }
            (Password::Key(key), PasswordAlgorithm::Md5) => Some(key.to_vec()),
            // A key of MD5 is none of SHA-256.
            (Password::Key(_), PasswordAlgorithm::Sha256) => None,
        };
        passwords.iter().filter_map(key).collect()
    }

    /// The name behind a USERHASH: only static users are known before they say who they are.
    pub(super) fn name_of(&self, hash: &[u8]) -> Option<Vec<u8>> {
        let mut names = self.accounts.users.iter().map(|(name, _)| name.as_bytes());
        let name = names.find(|name| wire::userhash(name, REALM) == *hash);
        name.filter(|_| self.rules.has_userhashes).map(<[u8]>::to_vec)
    }

    /// The keys of a token, and when it ends: of the one in the request, or of the one that an
    /// allocation stands on.
    pub(super) fn token(
        &self,
        now: Time,
        tuple: Tuple,
        kid: &[u8],
        sealed: Option<&[u8]>,
    ) -> Option<(Vec<Vec<u8>>, u64)> {
        let Some(sealed) = sealed else {
            let at = self.by_tuple(tuple)?;
            let (key, end) = self.allocations[at].token.clone()?;
            return (now.unix < end).then(|| (vec![key], end));
        };
        let token = Token::open(kid, sealed)?;
        if !(16..=32).contains(&token.key.len()) {
            return None;
        }
        // coturn's way is to use the first 16 bytes.
        let keys = vec![token.key.clone(), token.key[..16].to_vec()];
        Some((keys, token.end(now.unix)?))
    }

    /// Whom an allocation is charged to: of a time-limited name, who is behind the expiry, if
    /// there is somebody.
    pub(super) fn charged(&self, who: &Who) -> Vec<u8> {
        match who {
            Who::Bearer(key) => [b"a token: ", &key[..]].concat(),
            Who::Named(name) => {
                let colon = name.iter().position(|byte| *byte == b':');
                let behind = colon.map(|at| &name[at + 1..]).filter(|behind| !behind.is_empty());
                match self.expiry(name).and(behind) {
                    Some(behind) => behind.to_vec(),
                    None => name.clone(),
                }
            }
        }
    }
}
