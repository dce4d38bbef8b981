//! Stateless nonces (RFC 8489 §9.2): the nonce cookie with the security features, the time of
//! issue, chance, and a keyed hash of them and of the client. Owns what a good nonce is; remembers
//! none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use relay_common::addr::ClientAddr;
use sha1::Sha1;
use subtle::ConstantTimeEq;

/// What every nonce starts with (§9.2).
const COOKIE: &[u8] = b"obMatJos2";
/// The features: 24 bits in base64, the first bit leftmost (§18.1).
const FEATURE_CHARS: usize = 4;
const PREFIX_CHARS: usize = COOKIE.len() + FEATURE_CHARS;
/// Feature bit 0: the response with this nonce has PASSWORD-ALGORITHMS.
const PASSWORD_ALGORITHMS: u8 = 0x80;
/// Feature bit 1: USERHASH is understood.
const USERNAME_ANONYMITY: u8 = 0x40;

const TIME_BYTES: usize = 4;
const CHANCE_BYTES: usize = 3;
const MAC_BYTES: usize = 10;
const RAW_BYTES: usize = TIME_BYTES + CHANCE_BYTES + MAC_BYTES;
/// Seventeen bytes in base64.
const RAW_CHARS: usize = 23;
/// Characters of a nonce: no byte of padding in NONCE.
const NONCE_CHARS: usize = PREFIX_CHARS + RAW_CHARS;

/// What a nonce says that the server can do (RFC 8489 §18.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    /// PASSWORD-ALGORITHMS is sent with it.
    pub(crate) password_algorithms: bool,
    /// Clients are to send USERHASH in place of USERNAME.
    pub(crate) username_anonymity: bool,
}

/// What makes a nonce another one.
pub(crate) type Chance = [u8; CHANCE_BYTES];

/// The characters of a nonce.
pub(crate) type Nonce = [u8; NONCE_CHARS];

/// Issues and checks.
#[derive(Clone)]
pub(crate) struct Nonces {
    key: [u8; 32],
    lifetime_secs: u32,
    /// The first of the three bytes of features; the others are zero.
    features: u8,
}

impl Nonces {
    pub(crate) const fn new(key: [u8; 32], lifetime_secs: u32, features: Features) -> Self {
        let algorithms = if features.password_algorithms { PASSWORD_ALGORITHMS } else { 0 };
        let anonymity = if features.username_anonymity { USERNAME_ANONYMITY } else { 0 };
        Self { key, lifetime_secs, features: algorithms | anonymity }
    }

    /// A nonce for a client, good from now on. With another `chance` it is another one
    /// (RFC 8656 §5).
    pub(crate) fn issue(&self, unix_secs: u64, chance: Chance, client: ClientAddr) -> Nonce {
        self.nonce(wrapped(unix_secs), chance, client)
    }

    /// Whether this server gave the nonce to this client, not longer than its lifetime ago. One
    /// with other features is not ours: they are part of what the hash is over.
    pub(crate) fn is_good(&self, unix_secs: u64, client: ClientAddr, nonce: &[u8]) -> bool {
        let Some((_, chars)) = nonce.split_last_chunk::<RAW_CHARS>() else { return false };
        let mut raw = [0; RAW_BYTES + 1];
        let Ok(RAW_BYTES) = STANDARD_NO_PAD.decode_slice(chars, &mut raw) else { return false };
        let [t0, t1, t2, t3, c0, c1, c2, ..] = raw;
        let issued = u32::from_be_bytes([t0, t1, t2, t3]);
        let expected = self.nonce(issued, [c0, c1, c2], client);
        let genuine = bool::from(expected.ct_eq(nonce));
        // A nonce from the future (the clock was set back) is older than anything.
        genuine && wrapped(unix_secs).wrapping_sub(issued) <= self.lifetime_secs
    }

    fn nonce(&self, issued: u32, chance: Chance, client: ClientAddr) -> Nonce {
        let mut chars = [0; NONCE_CHARS];
        let (prefix, rest) = chars.split_at_mut(PREFIX_CHARS);
        let (cookie, features) = prefix.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE);
        STANDARD_NO_PAD
            .encode_slice([self.features, 0, 0], features)
            .expect("three bytes are four characters of base64");
        STANDARD_NO_PAD
            .encode_slice(self.raw(issued, chance, client), rest)
            .expect("seventeen bytes are 23 characters of base64");
        chars
    }

    fn raw(&self, issued: u32, chance: Chance, client: ClientAddr) -> [u8; RAW_BYTES] {
        let ip = match client.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.key).expect("HMAC takes any key");
        mac.update(&[self.features]);
        mac.update(&issued.to_be_bytes());
        mac.update(&chance);
        mac.update(&ip.octets());
        mac.update(&client.port().to_be_bytes());
        let mut raw = [0; RAW_BYTES];
        let (time, rest) = raw.split_at_mut(TIME_BYTES);
        let (drawn, hash) = rest.split_at_mut(CHANCE_BYTES);
        time.copy_from_slice(&issued.to_be_bytes());
        drawn.copy_from_slice(&chance);
        hash.copy_from_slice(&mac.finalize().into_bytes()[..MAC_BYTES]);
        raw
    }
}

/// Whether a nonce starts with the cookie and says that PASSWORD-ALGORITHMS was sent with it. Says
/// nothing of who made the nonce.
pub(crate) fn promises_algorithms(nonce: &[u8]) -> bool {
    let features = nonce.strip_prefix(COOKIE).and_then(|rest| rest.first_chunk());
    features.is_some_and(|chars: &[u8; FEATURE_CHARS]| {
        let mut bytes = [0; FEATURE_CHARS];
        let is_base64 = STANDARD_NO_PAD.decode_slice(chars, &mut bytes) == Ok(3);
        is_base64 && bytes[0] & PASSWORD_ALGORITHMS != 0
    })
}

/// The low 32 bits: differences stay right, whatever the century.
fn wrapped(unix_secs: u64) -> u32 {
    let [.., s0, s1, s2, s3] = unix_secs.to_be_bytes();
    u32::from_be_bytes([s0, s1, s2, s3])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Features = Features { password_algorithms: false, username_anonymity: false };
    const BOTH: Features = Features { password_algorithms: true, username_anonymity: true };
    const SEVEN: Chance = [7; CHANCE_BYTES];
    const ALGORITHMS: Features = Features { username_anonymity: false, ..BOTH };

    fn client(addr: &str) -> ClientAddr {
        ClientAddr::new(addr.parse().unwrap())
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_lifetime_only() {
        for features in [PLAIN, ALGORITHMS, BOTH] {
            let nonces = Nonces::new([1; 32], 100, features);
            let alice = client("192.0.2.1:5000");
            let nonce = nonces.issue(1_000_000, SEVEN, alice);
            let nonce = nonce.as_slice();
            assert!(nonces.is_good(1_000_000, alice, nonce));
            assert!(nonces.is_good(1_000_100, alice, nonce));
            assert!(!nonces.is_good(1_000_101, alice, nonce), "one past");
            assert!(!nonces.is_good(999_999, alice, nonce), "from the future");
            assert!(!nonces.is_good(1_000_000, client("192.0.2.1:5001"), nonce));
            assert!(!nonces.is_good(1_000_000, client("192.0.2.2:5000"), nonce));
            assert!(!nonces.is_good(1_000_000, client("[2001:db8::1]:5000"), nonce));
            assert!(!Nonces::new([2; 32], 100, features).is_good(1_000_000, alice, nonce));
        }
    }

    #[test]
    fn every_nonce_starts_with_the_cookie_and_the_features() {
        let issue =
            |features| Nonces::new([1; 32], 100, features).issue(5, SEVEN, client("1.2.3.4:5"));
        let starts = |features, prefix: &[u8]| issue(features).as_slice().starts_with(prefix);
        assert!(starts(ALGORITHMS, b"obMatJos2gAAA"));
        assert!(starts(BOTH, b"obMatJos2wAAA"));
        assert!(starts(Features { username_anonymity: true, ..PLAIN }, b"obMatJos2QAAA"));
        assert!(starts(PLAIN, b"obMatJos2AAAA"));
        assert_eq!(issue(BOTH).len(), 36);
    }

    #[test]
    fn chance_makes_another_nonce_that_is_as_good() {
        let nonces = Nonces::new([1; 32], 100, BOTH);
        let alice = client("192.0.2.1:5000");
        let [one, other] = [[1; 3], [2; 3]].map(|chance| nonces.issue(5, chance, alice));
        assert_ne!(one, other);
        assert!(nonces.is_good(5, alice, &one) && nonces.is_good(5, alice, &other));
        // Neither the characters of the chance alone nor those of the hash are the difference.
        let differs = |range: std::ops::Range<usize>| one[range.clone()] != other[range];
        assert!(
            differs(PREFIX_CHARS + 6..PREFIX_CHARS + 9) && differs(NONCE_CHARS - 13..NONCE_CHARS)
        );
    }

    #[test]
    fn features_cannot_be_changed_taken_away_or_added() {
        let alice = client("192.0.2.1:5000");
        for ours in [PLAIN, ALGORITHMS, BOTH] {
            let nonces = Nonces::new([1; 32], 100, ours);
            for theirs in [PLAIN, ALGORITHMS, BOTH] {
                let nonce = Nonces::new([1; 32], 100, theirs).issue(5, SEVEN, alice);
                assert_eq!(nonces.is_good(5, alice, nonce.as_slice()), ours == theirs);
            }
            let nonce = nonces.issue(5, SEVEN, alice);
            let (_, bare) = nonce.as_slice().split_last_chunk::<RAW_CHARS>().unwrap();
            for prefix in ["", "obMatJos2", "obMatJos2AAAA", "obMatJos2gAAA", "obMatJos2wAAA"] {
                let forged = [prefix.as_bytes(), bare].concat();
                let is_good = nonces.is_good(5, alice, &forged);
                assert_eq!(is_good, forged == nonce.as_slice(), "{prefix}");
            }
        }
    }

    #[test]
    fn no_changed_character_and_no_other_length_is_good() {
        for features in [PLAIN, BOTH] {
            let nonces = Nonces::new([1; 32], 100, features);
            let alice = client("[2001:db8::1]:5000");
            let nonce = nonces.issue(5, SEVEN, alice).as_slice().to_vec();
            for at in 0..nonce.len() {
                for bit in 0..8 {
                    let mut forged = nonce.clone();
                    forged[at] ^= 1 << bit;
                    assert!(!nonces.is_good(5, alice, &forged), "{at} {bit}");
                }
                assert!(!nonces.is_good(5, alice, &nonce[..at]));
            }
            assert!(!nonces.is_good(5, alice, &[nonce.as_slice(), b"AAAA"].concat()));
            assert!(!nonces.is_good(5, alice, &[b'A'; 763]));
        }
    }

    #[test]
    fn only_the_leftmost_feature_bit_promises_algorithms() {
        for (nonce, promises) in [
            ("obMatJos2gAAAabc", true),
            ("obMatJos2wAAA", true),
            ("obMatJos2QAAAabc", false),
            ("obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA", false),
            ("obMatJos2gAA", false),
            ("obMatJos2g*AA", false),
            ("obmatjos2gAAAabc", false),
            ("gAAA", false),
            ("", false),
        ] {
            assert_eq!(promises_algorithms(nonce.as_bytes()), promises, "{nonce}");
        }
    }
}
