//! How many replies a source gets that has not authenticated: a fixed table of token buckets, one
//! for each IPv4 address or IPv6 /64. Owns the rate; keeps nothing about anybody else.

use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::Now;
use crate::tables::KeyedHash;

const NS_PER_SEC: u64 = 1_000_000_000;
/// A bucket holds what two seconds bring.
const BURST_SECS: u64 = 2;
/// Sources share a bucket when their keyed hashes meet; a power of two.
const BUCKETS: usize = 16_384;

/// The table. A bucket is one number: the time at which it is full again.
pub(crate) struct Throttle {
    full_at_ns: Box<[u64]>,
    hash: KeyedHash,
    token_ns: u64,
}

impl Throttle {
    pub(crate) fn new(replies_per_sec: u32, hash: KeyedHash) -> Self {
        Self {
            full_at_ns: vec![0; BUCKETS].into_boxed_slice(),
            hash,
            token_ns: NS_PER_SEC / u64::from(replies_per_sec.max(1)),
        }
    }

    /// Takes a token, if the source has one left.
    pub(crate) fn admit(&mut self, now: Now, source: IpAddr) -> bool {
        let prefix = match source {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            // No IPv6 prefix is as small as an IPv4 address: the halves cannot meet.
            IpAddr::V6(ip) => ip.to_bits() >> 64 | 1 << 64,
        };
        let [.., low, high] = self.hash.hash_one(prefix).to_be_bytes();
        let bucket = usize::from(u16::from_be_bytes([low, high])) % BUCKETS;
        let full_at_ns = &mut self.full_at_ns[bucket];
        let next = (*full_at_ns).max(now.monotonic_ns).saturating_add(self.token_ns);
        let admitted = next - now.monotonic_ns <= BURST_SECS * NS_PER_SEC;
        if admitted {
            *full_at_ns = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(throttle: &mut Throttle, at_ns: u64, source: &str) -> usize {
        let now = Now { monotonic_ns: at_ns, unix_secs: 0 };
        (0..1000).filter(|_| throttle.admit(now, source.parse().unwrap())).count()
    }

    #[test]
    fn a_source_gets_two_seconds_worth_at_once_and_then_its_rate() {
        let mut throttle = Throttle::new(10, KeyedHash::new(1, 2));
        assert_eq!(admitted(&mut throttle, 5, "192.0.2.1"), 20);
        assert_eq!(admitted(&mut throttle, 5 + NS_PER_SEC / 10 - 1, "192.0.2.1"), 0);
        assert_eq!(admitted(&mut throttle, 5 + NS_PER_SEC / 10, "192.0.2.1"), 1);
        assert_eq!(admitted(&mut throttle, 5 + NS_PER_SEC, "192.0.2.1"), 9);
        assert_eq!(admitted(&mut throttle, 9 * NS_PER_SEC, "192.0.2.1"), 20, "never more");
    }

    #[test]
    fn ipv6_counts_by_its_64_bit_prefix() {
        let mut throttle = Throttle::new(10, KeyedHash::new(1, 2));
        assert_eq!(admitted(&mut throttle, 0, "2001:db8::1"), 20);
        assert_eq!(admitted(&mut throttle, 0, "2001:db8::ffff:1"), 0);
        assert_eq!(admitted(&mut throttle, 0, "2001:db8:0:1::1"), 20);
        assert_eq!(admitted(&mut throttle, 0, "0.0.0.1"), 20);
    }
}
