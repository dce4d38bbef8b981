//! How many replies a source gets that has not authenticated: a fixed table of token buckets, one
//! for each IPv4 address or IPv6 /64, for all state machines of a server. Owns the rate; keeps
//! nothing about anybody else.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Now;
use crate::tables::KeyedHash;

const NS_PER_SEC: u64 = 1_000_000_000;
/// A bucket holds what two seconds bring.
const BURST_SECS: u64 = 2;
/// Sources share a bucket when their keyed hashes meet; a power of two.
const BUCKETS: usize = 16_384;

/// The table. A bucket is one number: the time at which it is full again.
pub(crate) struct Throttle {
    full_at_ns: Box<[AtomicU64]>,
    hash: KeyedHash,
}

impl Throttle {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let (key0, key1) = (u128::from_ne_bytes(seed) >> 64, u128::from_ne_bytes(seed));
        let half = |key: u128| u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0);
        Self {
            full_at_ns: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            hash: KeyedHash::new(half(key0), half(key1)),
        }
    }

    /// Takes a token, if the source has one left at this rate.
    pub(crate) fn admit(&self, now: Now, source: IpAddr, replies_per_sec: u32) -> bool {
        let token_ns = NS_PER_SEC / u64::from(replies_per_sec.max(1));
        let prefix = match source {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            // No IPv6 prefix is as small as an IPv4 address: the halves cannot meet.
            IpAddr::V6(ip) => ip.to_bits() >> 64 | 1 << 64,
        };
        let [.., low, high] = self.hash.hash_one(prefix).to_be_bytes();
        let bucket = usize::from(u16::from_be_bytes([low, high])) % BUCKETS;
        let take = |full_at_ns: u64| {
            let next = full_at_ns.max(now.monotonic_ns).saturating_add(token_ns);
            (next - now.monotonic_ns <= BURST_SECS * NS_PER_SEC).then_some(next)
        };
        // The number is all there is: nothing is ordered by it.
        let bucket = &self.full_at_ns[bucket];
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(throttle: &Throttle, at_ns: u64, source: &str) -> usize {
        let now = Now { monotonic_ns: at_ns, unix_secs: 0 };
        (0..1000).filter(|_| throttle.admit(now, source.parse().unwrap(), 10)).count()
    }

    #[test]
    fn a_source_gets_two_seconds_worth_at_once_and_then_its_rate() {
        let throttle = Throttle::new([1; 16]);
        assert_eq!(admitted(&throttle, 5, "192.0.2.1"), 20);
        assert_eq!(admitted(&throttle, 5 + NS_PER_SEC / 10 - 1, "192.0.2.1"), 0);
        assert_eq!(admitted(&throttle, 5 + NS_PER_SEC / 10, "192.0.2.1"), 1);
        assert_eq!(admitted(&throttle, 5 + NS_PER_SEC, "192.0.2.1"), 9);
        assert_eq!(admitted(&throttle, 9 * NS_PER_SEC, "192.0.2.1"), 20, "never more");
    }

    #[test]
    fn ipv6_counts_by_its_64_bit_prefix() {
        let throttle = Throttle::new([1; 16]);
        assert_eq!(admitted(&throttle, 0, "2001:db8::1"), 20);
        assert_eq!(admitted(&throttle, 0, "2001:db8::ffff:1"), 0);
        assert_eq!(admitted(&throttle, 0, "2001:db8:0:1::1"), 20);
        assert_eq!(admitted(&throttle, 0, "0.0.0.1"), 20);
    }
}
