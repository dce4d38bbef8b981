//! RESERVATION-TOKEN (RFC 8656 §7.2, §18.10): what an Allocate with EVEN-PORT gets for the second
//! port of its pair.
//!
//! The pair's second 5-tuple may reach another shard than the first. So a token says by itself
//! which port it stands for, under a key that all shards share: any of them can open the port.
//! The shard that holds the reservation keeps the port away from others until it is over; a
//! second use fails because the port is open.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::Now;
use crate::ports::Place;
use crate::timers::{NS_PER_SEC, RESERVATION_NS};

/// A token as it stands in the attribute.
pub(crate) type Token = [u8; 8];

const MAC_BYTES: usize = 3;

/// Issues and reads tokens.
#[derive(Clone)]
pub(crate) struct Tokens {
    key: [u8; 32],
}

impl Tokens {
    pub(crate) const fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A token for a place that is held from now on.
    pub(crate) fn issue(&self, now: Now, place: Place) -> Token {
        self.token(place, wrapped_secs(now))
    }

    /// The place behind a token of any shard, while it is held. Three bytes of MAC are enough:
    /// whoever guesses one has authenticated, and gains a port.
    pub(crate) fn read(&self, now: Now, token: Token) -> Option<Place> {
        let [pool, p0, p1, s0, s1, ..] = token;
        let place = Place::new(usize::from(pool), u16::from_be_bytes([p0, p1]));
        let issued = u16::from_be_bytes([s0, s1]);
        let genuine = bool::from(self.token(place, issued).ct_eq(&token));
        let age_ns = u64::from(wrapped_secs(now).wrapping_sub(issued)) * NS_PER_SEC;
        (genuine && age_ns < RESERVATION_NS).then_some(place)
    }

    fn token(&self, place: Place, issued: u16) -> Token {
        // An address beyond the 255th has no token that leads to it: 508 instead of a pair.
        let pool = u8::try_from(place.pool()).unwrap_or(u8::MAX);
        let [p0, p1] = place.port().to_be_bytes();
        let [s0, s1] = issued.to_be_bytes();
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.key).expect("HMAC takes any key");
        // Nonces are made with the same key from other text.
        mac.update(b"RESERVATION-TOKEN");
        mac.update(&[pool, p0, p1, s0, s1]);
        let mut sum = [0; MAC_BYTES];
        sum.copy_from_slice(&mac.finalize().into_bytes()[..MAC_BYTES]);
        let [m0, m1, m2] = sum;
        [pool, p0, p1, s0, s1, m0, m1, m2]
    }
}

/// The low sixteen bits of the seconds: differences stay right for eighteen hours.
const fn wrapped_secs(now: Now) -> u16 {
    let [.., s0, s1] = (now.monotonic_ns / NS_PER_SEC).to_be_bytes();
    u16::from_be_bytes([s0, s1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { monotonic_ns: secs * NS_PER_SEC, unix_secs: 0 }
    }

    #[test]
    fn a_token_leads_to_its_place_for_thirty_seconds_on_every_shard() {
        let place = Place::new(3, 49_153);
        let token = Tokens::new([1; 32]).issue(at(65_530), place);
        let other_shard = Tokens::new([1; 32]);
        assert_eq!(other_shard.read(at(65_530), token), Some(place));
        assert_eq!(other_shard.read(at(65_559), token), Some(place), "the seconds wrapped");
        assert_eq!(other_shard.read(at(65_560), token), None, "one past");
        assert_eq!(other_shard.read(at(65_529), token), None, "from the future");
        assert_eq!(Tokens::new([2; 32]).read(at(65_530), token), None, "another server");
    }

    #[test]
    fn no_changed_bit_leads_anywhere() {
        let tokens = Tokens::new([1; 32]);
        let token = tokens.issue(at(5), Place::new(0, 50_001));
        for bit in 0..64 {
            let mut forged = token;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tokens.read(at(5), forged), None, "{bit}");
        }
    }
}
