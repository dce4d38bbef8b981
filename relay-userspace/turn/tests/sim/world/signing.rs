//! How a client proves who it is: a password by the old rules or the new ones, or a third party's
//! token; and what somebody in between makes of it.

use crate::accounts::{ELSEWHERE, SECRETS, SERVER_NAME, STATIC_EXPIRY, TOKEN_KEYS, USERS};
use crate::model::token::Token;
use crate::model::wire::{self, Writer};
use crate::random::Random;
use crate::rules::{REALM, UNIX_START};

const MD5: [u8; 4] = [0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];
/// Characters in front of a nonce that say what the server can do.
const FEATURES: usize = 13;

/// Who a client says that it is.
#[derive(Clone, Debug)]
enum Login {
    Password { user: String, text: String },
    Token { kid: &'static str, sealed: Vec<u8>, key: Vec<u8> },
}

/// What a client knows to sign with.
#[derive(Clone, Debug)]
pub struct Signer {
    login: Login,
    /// It knows RFC 8489.
    is_new: bool,
    /// It sends USERHASH where it may.
    is_shy: bool,
    /// MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256.
    integrity: [bool; 2],
    /// PASSWORD-ALGORITHMS, as it came with the last nonce.
    pub offered: Option<Vec<u8>>,
}

impl Signer {
    pub fn choose(random: &mut Random, has_tokens: bool, unix: u64) -> Self {
        let login = match has_tokens && random.one_in(2) {
            true => token(random, unix),
            false => password(random),
        };
        let is_new = random.one_in(2);
        let integrity = match (is_new, random.index(4)) {
            (true, 0..=1) => [false, true],
            (true, 2) => [true, true],
            _ => [true, false],
        };
        Self { login, is_new, is_shy: is_new && random.one_in(2), integrity, offered: None }
    }

    /// Another token, before the old one ends.
    pub fn renew(&mut self, random: &mut Random, unix: u64) {
        if matches!(self.login, Login::Token { .. }) {
            self.login = token(random, unix);
        }
    }

    /// Adds everything that proves a request. `has_token`: it brings its token along.
    pub fn sign(&self, random: &mut Random, writer: &mut Writer, nonce: &[u8], has_token: bool) {
        let is_left_out = |random: &mut Random| random.one_in(60);
        let promises = |bit: u8| {
            let char = nonce.get(9).copied().unwrap_or(0);
            // The first character of the features: its six bits, of which two mean something.
            nonce.starts_with(b"obMatJos2") && (char == b'w' || char == bit)
        };
        if !is_left_out(random) {
            match &self.login {
                Login::Password { user, .. } if self.is_shy && promises(b'Q') => {
                    writer.attribute(wire::USERHASH, &wire::userhash(user.as_bytes(), REALM));
                }
                Login::Password { user, .. } => writer.attribute(wire::USERNAME, user.as_bytes()),
                Login::Token { kid, .. } => writer.attribute(wire::USERNAME, kid.as_bytes()),
            }
        }
        if !is_left_out(random) {
            writer.attribute(wire::REALM, REALM.as_bytes());
        }
        if !is_left_out(random) {
            let is_stripped = nonce.len() > FEATURES && random.one_in(60);
            writer.attribute(wire::NONCE, &nonce[if is_stripped { FEATURES } else { 0 }..]);
        }
        if let Login::Token { sealed, .. } = &self.login
            && has_token
        {
            writer.attribute(wire::ACCESS_TOKEN, sealed);
        }
        let algorithm = self.name_algorithm(random, writer);
        let mut key = self.key(algorithm);
        if random.one_in(40) {
            key[0] ^= 1;
        }
        if self.integrity[0] {
            writer.sign(wire::MESSAGE_INTEGRITY, &key);
        }
        if self.integrity[1] {
            writer.sign(wire::MESSAGE_INTEGRITY_SHA256, &key);
        }
    }

    /// The list that was offered and the choice, or what is left of them on the way.
    fn name_algorithm(&self, random: &mut Random, writer: &mut Writer) -> [u8; 4] {
        let Some(offered) = self.offered.as_ref().filter(|_| self.is_new) else { return MD5 };
        let at = random.index(offered.len() / 4) * 4;
        let mut choice: [u8; 4] = offered[at..at + 4].try_into().unwrap();
        let mut list = offered.clone();
        let mut has = [true; 2];
        match random.index(40) {
            // Bidding down, in every way there is.
            0 => list = MD5.to_vec(),
            1 => has = [false, true],
            2 => has = [true, false],
            3 => has = [false; 2],
            4 => choice = MD5,
            5 => choice = SHA256,
            6 => choice = [0, 3, 0, 0],
            7 => list.reverse(),
            _ => {}
        }
        if has[0] {
            writer.attribute(wire::PASSWORD_ALGORITHMS, &list);
        }
        if has[1] {
            writer.attribute(wire::PASSWORD_ALGORITHM, &choice);
        }
        if has[1] { choice } else { MD5 }
    }

    fn key(&self, algorithm: [u8; 4]) -> Vec<u8> {
        match &self.login {
            Login::Token { key, .. } => key.clone(),
            Login::Password { user, text } if algorithm == SHA256 => {
                wire::sha256_key(user.as_bytes(), REALM, text.as_bytes()).to_vec()
            }
            Login::Password { user, text } => {
                wire::md5_key(user.as_bytes(), REALM, text.as_bytes()).to_vec()
            }
        }
    }
}

fn password(random: &mut Random) -> Login {
    let known = |random: &mut Random, (name, passwords): (&str, [&str; 2])| {
        let text = if random.one_in(8) { passwords[1] } else { passwords[0] };
        (name.to_owned(), text.to_owned())
    };
    let (user, text) = match random.index(20) {
        0..=5 => known(random, USERS[0]),
        6..=8 => known(random, USERS[1]),
        9 => known(random, USERS[2]),
        10..=11 => known(random, ELSEWHERE[0]),
        12 => known(random, ELSEWHERE[1]),
        13 => ("mallory".to_owned(), "guess".to_owned()),
        14 => (STATIC_EXPIRY.to_owned(), "static".to_owned()),
        _ => {
            let expiry = UNIX_START + random.pick(&[100, 1000, 100_000, 100_000]);
            let user = match random.index(6) {
                0 => format!("{expiry}"),
                1 => format!("{expiry}:"),
                // Charged as the static user is.
                2 => format!("{expiry}:alice"),
                _ => format!("{expiry}:carol"),
            };
            let secret = if random.one_in(4) { random.pick(&SECRETS) } else { SECRETS[0] };
            let text = crate::model::rest_password(secret, user.as_bytes());
            (user, text)
        }
    };
    Login::Password { user, text: if random.one_in(20) { SECRETS[0].to_owned() } else { text } }
}

fn token(random: &mut Random, unix: u64) -> Login {
    let (kid, _) = random.pick(&TOKEN_KEYS);
    let length = random.pick(&[16, 20, 32]);
    let mut key = random.bytes(length);
    let token = Token {
        key: key.clone(),
        issued: unix + 10 - random.pick(&[10, 10, 10, 13, 15, 6, 4, 600]),
        lifetime_secs: random.pick(&[0, 10, 120, 590, 3600, 3600]),
    };
    let server = if random.one_in(20) { "turn.example.com" } else { SERVER_NAME };
    let nonce = random.bytes(12).try_into().unwrap();
    let mut sealed = token.seal(kid, server, nonce);
    if random.one_in(20) {
        let at = random.index(sealed.len());
        sealed[at] ^= 1;
    }
    if random.one_in(4) {
        key.truncate(16);
    }
    Login::Token { kid, sealed, key }
}
