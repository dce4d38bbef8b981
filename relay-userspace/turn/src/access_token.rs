//! Third-party authorization (RFC 7635): self-contained tokens that an authorization server made
//! and encrypted for this server. Owns their format, their keys and how long they are good; who
//! made the request is judged in `authenticate.rs`.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use relay_common::addr::ServerAddr;
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES_MAX, Key};
use crate::request::Request;
use crate::{RealmId, Turn};

/// Bytes of a nonce of AES-GCM.
const NONCE_BYTES: usize = 12;
/// Bytes of the tag behind the encrypted block.
const TAG_BYTES: usize = 16;
/// Bytes of the encrypted block without the session key: length, timestamp, lifetime.
const FIELDS_BYTES: usize = 2 + 8 + 4;
/// Bytes of the shortest session key that is taken: RFC 7635 has 20.
const SESSION_KEY_BYTES_MIN: usize = 16;
/// How far the clocks of two servers may be apart (RFC 7635 §7: 5 seconds).
const CLOCK_SKEW_SECS: u64 = 5;

/// A key shared with an authorization server. Printing it shows its name only.
#[derive(Clone)]
pub struct TokenKey {
    kid: Box<[u8]>,
    cipher: Cipher,
}

#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl TokenKey {
    /// A key by the name that clients send as USERNAME. `None` unless it has 16 bytes
    /// (AEAD_AES_128_GCM) or 32 (AEAD_AES_256_GCM).
    #[must_use]
    pub fn new(kid: &str, key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?)),
            32 => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?)),
            _ => return None,
        };
        Some(Self { kid: kid.as_bytes().into(), cipher })
    }

    fn decrypt(&self, nonce: &[u8; NONCE_BYTES], block: Payload<'_, '_>) -> Option<Vec<u8>> {
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt(nonce.into(), block).ok(),
            Cipher::Aes256(cipher) => cipher.decrypt(nonce.into(), block).ok(),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", String::from_utf8_lossy(&self.kid))
    }
}

/// Which tokens are taken.
#[derive(Clone, Debug)]
pub struct AccessTokens {
    server_name: String,
    keys: Vec<TokenKey>,
}

/// What a good token says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opened {
    /// What the request is signed with: the session key. coturn and its clients take its first
    /// 16 bytes only, as if it were an MD5 key; that is as good as any key of that length.
    pub(crate) keys: [Key; 2],
    /// When the token ends, seconds since 1970: later than now.
    pub(crate) ends_unix_secs: u64,
}

/// What an allocation keeps of the token that it was last allocated or refreshed with: other
/// requests come without one (§9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) key: Key,
    /// When the token ends, seconds since 1970.
    pub(crate) ends_unix_secs: u64,
}

impl AccessTokens {
    /// The name that clients hand to the authorization server, at most 255 bytes, and the keys
    /// that are shared with it, each under another name.
    ///
    /// # Panics
    /// If the name is longer.
    #[must_use]
    pub fn new(server_name: String, keys: Vec<TokenKey>) -> Self {
        assert!(server_name.len() <= 255, "a server name has at most 255 bytes");
        Self { server_name, keys }
    }

    /// The value of THIRD-PARTY-AUTHORIZATION (§6.1).
    pub(crate) fn server_name(&self) -> &[u8] {
        self.server_name.as_bytes()
    }

    /// Reads the value of ACCESS-TOKEN (§6.2). Every length is checked before anything is done
    /// with it. `None`: another key's, forged, damaged or over.
    pub(crate) fn open(&self, unix_secs: u64, kid: &[u8], token: &[u8]) -> Option<Opened> {
        let (&nonce_length, rest) = token.split_first_chunk::<2>()?;
        if usize::from(u16::from_be_bytes(nonce_length)) != NONCE_BYTES {
            return None;
        }
        let (nonce, encrypted) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let session_key_bytes = encrypted.len().checked_sub(FIELDS_BYTES + TAG_BYTES)?;
        if !(SESSION_KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&session_key_bytes) {
            return None;
        }
        let key = self.keys.iter().find(|key| *key.kid == *kid)?;
        let payload = Payload { msg: encrypted, aad: self.server_name() };
        let block = Zeroizing::new(key.decrypt(nonce, payload)?);
        let (&length, rest) = block.split_first_chunk::<2>()?;
        if usize::from(u16::from_be_bytes(length)) != session_key_bytes {
            return None;
        }
        let (session_key, rest) = rest.split_at_checked(session_key_bytes)?;
        let (&timestamp, lifetime) = rest.split_first_chunk::<8>()?;
        let lifetime = u32::from_be_bytes(lifetime.try_into().ok()?);
        // 48 bits of seconds since 1970, 16 bits of a fraction.
        let issued = u64::from_be_bytes(timestamp) >> 16;
        let left_secs = left(unix_secs, issued, lifetime)?;
        let ends_unix_secs = unix_secs.checked_add(left_secs.into())?;
        let shortened = session_key.get(..SESSION_KEY_BYTES_MIN)?;
        let keys = [Key::from_slice(session_key)?, Key::from_slice(shortened)?];
        Some(Opened { keys, ends_unix_secs })
    }
}

/// How long a token is good, if it is: until its lifetime and the clocks' difference are over, and
/// from as long before it was issued (§7), but never for longer than its lifetime.
fn left(unix_secs: u64, issued: u64, lifetime_secs: u32) -> Option<u32> {
    let slack = u64::from(lifetime_secs) + CLOCK_SKEW_SECS;
    let left = slack.checked_sub(unix_secs.abs_diff(issued)).filter(|left| *left > 0)?;
    Some(u32::try_from(left).unwrap_or(u32::MAX).min(lifetime_secs.max(1)))
}

impl Turn {
    /// The tokens that are taken at a server address: those of the default realm there, and none
    /// elsewhere, for a token names no realm and would be good in each.
    pub(crate) fn access_tokens(&self, server: ServerAddr) -> Option<&AccessTokens> {
        let tokens = self.offers.access_tokens.as_ref();
        tokens.filter(|_| self.realms.at(server) == RealmId::DEFAULT)
    }

    /// The lifetime that a request gets, seconds, at least 1: not more than what is left of its
    /// token (RFC 7635 §9), or with `strict_expiry` of its time-limited credentials.
    pub(crate) fn lifetime_secs(&self, request: &Request<'_>, asked: Option<u32>) -> u32 {
        let lifetime_secs = self.limits.lifetime_secs(asked);
        let token_end = request.token.map(|token| token.ends_unix_secs);
        let server = request.reply_to.five_tuple.server;
        let end = token_end.or_else(|| self.strict_end(server, request.username));
        end.map_or(lifetime_secs, |end| {
            let left = end.saturating_sub(request.now.unix_secs);
            lifetime_secs.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const NAME: &str = "turn.example.org";
    const NOW: u64 = 1_700_000_000;

    fn tokens() -> AccessTokens {
        let key = |kid: &str, bytes: &[u8]| TokenKey::new(kid, bytes).unwrap();
        AccessTokens::new(NAME.to_owned(), vec![key("long", &[7; 32]), key("short", &[8; 16])])
    }

    fn seal(key: &TokenKey, nonce: &[u8; 12], name: &str, block: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: block, aad: name.as_bytes() };
        let encrypted = match &key.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(nonce.into(), payload).unwrap(),
            Cipher::Aes256(cipher) => cipher.encrypt(nonce.into(), payload).unwrap(),
        };
        [&[0, 12][..], nonce, &encrypted].concat()
    }

    fn block(session_key: &[u8], issued: u64, lifetime_secs: u32) -> Vec<u8> {
        let length = u16::try_from(session_key.len()).unwrap().to_be_bytes();
        let timestamp = (issued << 16 | 0x8000).to_be_bytes();
        [&length[..], session_key, &timestamp, &lifetime_secs.to_be_bytes()].concat()
    }

    #[test]
    fn a_token_is_good_for_its_key_and_its_server() {
        let tokens = tokens();
        for (kid, key) in [("long", &tokens.keys[0]), ("short", &tokens.keys[1])] {
            for length in [16, 20, 32] {
                let session_key = vec![3; length];
                let token = seal(key, &[1; 12], NAME, &block(&session_key, NOW, 600));
                let opened = tokens.open(NOW, kid.as_bytes(), &token);
                let keys =
                    [length, 16].map(|bytes| Key::from_slice(&session_key[..bytes]).unwrap());
                assert_eq!(opened, Some(Opened { keys, ends_unix_secs: NOW + 600 }));
                for other in ["long", "short", "", "nobody"].into_iter().filter(|k| *k != kid) {
                    assert_eq!(tokens.open(NOW, other.as_bytes(), &token), None, "{other}");
                }
            }
            let token = seal(key, &[1; 12], "other.example.org", &block(&[3; 20], NOW, 600));
            assert_eq!(tokens.open(NOW, kid.as_bytes(), &token), None, "of another server");
        }
    }

    /// turnutils_oauth -e -i turn.example.org -j KID -k KEY -n ALG -o MTIzNDU2Nzg5MDEy
    /// -p SESSION_KEY -q $((1700000000 << 16)) -r 600
    #[test]
    fn tokens_of_coturns_tool_are_read() {
        let tokens = AccessTokens::new(
            NAME.to_owned(),
            vec![
                TokenKey::new("long", &[b'a'; 32]).unwrap(),
                TokenKey::new("short", &[b'b'; 16]).unwrap(),
            ],
        );
        for (kid, session_key, token) in [
            (
                "long",
                "01234567890123456789",
                "AAwxMjM0NTY3ODkwMTIsD6dYRzPdZ6vQMAFygeDFV9Gm1hucYpdoh/cNJoNxewj8xYRVF53EeL0dAd7/lk\
                 xRWQ==",
            ),
            (
                "short",
                "01234567890123456789012345678901",
                "AAwxMjM0NTY3ODkwMTJvqFAXG1RktlDbjx965o//hWYCwYpu3sAqsT568I11jJkrV+0Fji8JiW9uYoFB0H\
                 rpQ+tKahWA3XEdj6hlKA==",
            ),
        ] {
            let token = STANDARD.decode(token).unwrap();
            let opened = tokens.open(NOW + 5, kid.as_bytes(), &token).unwrap();
            assert_eq!(opened.keys[0], Key::from_slice(session_key.as_bytes()).unwrap());
            assert_eq!(opened.ends_unix_secs, NOW + 605);
        }
    }

    #[test]
    fn no_other_length_no_prefix_and_no_flipped_bit_is_a_token() {
        let tokens = tokens();
        let good = seal(&tokens.keys[0], &[1; 12], NAME, &block(&[3; 20], NOW, 600));
        let open = |token: &[u8]| tokens.open(NOW, b"long", token);
        assert!(open(&good).is_some());
        for end in 0..good.len() {
            assert_eq!(open(&good[..end]), None, "{end}");
        }
        for bit in 0..good.len() * 8 {
            let mut forged = good.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&forged), None, "{bit}");
        }
        for length in [0, 1, 12, 100, 1000, 65_000] {
            assert_eq!(open(&[&good[..], &vec![0; length + 1]].concat()), None);
            assert_eq!(open(&vec![0xFF; length]), None);
            assert_eq!(open(&vec![0; length]), None);
        }
    }

    #[test]
    fn a_session_key_has_the_length_that_its_token_says_and_16_to_32_bytes() {
        let tokens = tokens();
        for length in 0..=64 {
            let token = seal(&tokens.keys[0], &[1; 12], NAME, &block(&vec![3; length], NOW, 600));
            let is_good = tokens.open(NOW, b"long", &token).is_some();
            assert_eq!(is_good, (16..=32).contains(&length), "{length}");
        }
        for wrong in [0u16, 19, 21, 32, u16::MAX] {
            let mut block = block(&[3; 20], NOW, 600);
            block[..2].copy_from_slice(&wrong.to_be_bytes());
            let token = seal(&tokens.keys[0], &[1; 12], NAME, &block);
            assert_eq!(tokens.open(NOW, b"long", &token), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_lifetime_and_five_seconds() {
        assert_eq!(left(NOW, NOW, 600), Some(600));
        assert_eq!(left(NOW + 10, NOW, 600), Some(595), "the clocks may differ");
        assert_eq!(left(NOW + 604, NOW, 600), Some(1));
        assert_eq!(left(NOW + 605, NOW, 600), None, "one past");
        assert_eq!(left(NOW - 604, NOW, 600), Some(1), "from the future");
        assert_eq!(left(NOW - 605, NOW, 600), None);
        assert_eq!(left(NOW, NOW, 0), Some(1));
        assert_eq!(left(NOW, NOW, u32::MAX), Some(u32::MAX));
        assert_eq!(left(u64::MAX, 0, u32::MAX), None);
        assert_eq!(left(0, u64::MAX >> 16, u32::MAX), None);
    }

    #[test]
    fn printing_shows_no_key() {
        let keys = format!("{:?}", tokens());
        let shown = "AccessTokens { server_name: \"turn.example.org\", \
                     keys: [TokenKey(long), TokenKey(short)] }";
        assert_eq!(keys, shown);
        assert!(TokenKey::new("kid", &[1; 24]).is_none(), "no other length");
    }
}
