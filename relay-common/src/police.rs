//! Token buckets as virtual times (the generic cell rate algorithm): how the kernel program and
//! userspace hold a sender to a rate. One number is a whole bucket: the time at which it is full
//! again. Owns the arithmetic; times, costs and where the number lies are values.

/// Nanoseconds that [`byte_cost`] counts in a nanosecond.
const FRACTION: u64 = 1 << 16;
const NS_PER_SEC: u64 = 1_000_000_000;

/// The bucket after something that costs `cost_ns`, or `None` when there is no room for it: when
/// the bucket is already more than `burst_ns` ahead of `now_ns`. Whatever a packet costs, an idle
/// bucket takes one.
#[must_use]
#[inline(always)]
pub const fn admit(full_ns: u64, now_ns: u64, cost_ns: u64, burst_ns: u64) -> Option<u64> {
    let start = if full_ns > now_ns { full_ns } else { now_ns };
    if start - now_ns > burst_ns { None } else { Some(start.wrapping_add(cost_ns)) }
}

/// What a packet costs at a rate of packets per second, nanoseconds; 0 for a rate of 0, which is no
/// limit.
#[must_use]
pub const fn packet_cost(packets_per_sec: u64) -> u64 {
    if packets_per_sec == 0 { 0 } else { NS_PER_SEC.div_ceil(packets_per_sec) }
}

/// What a byte costs at a rate of bytes per second, 2⁻¹⁶ nanoseconds; 0 for a rate of 0, which is
/// no limit.
#[must_use]
pub const fn byte_cost(bytes_per_sec: u64) -> u64 {
    if bytes_per_sec == 0 { 0 } else { (NS_PER_SEC * FRACTION).div_ceil(bytes_per_sec) }
}

/// What `bytes` (65,535 at most) cost at a [`byte_cost`], nanoseconds.
#[must_use]
#[inline(always)]
pub const fn bytes_cost(bytes: u32, byte_cost: u64) -> u64 {
    (bytes as u64).wrapping_mul(byte_cost) / FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u64 = NS_PER_SEC / 10;

    /// How many of a packet every `every_ns` pass in `secs`.
    fn passed(cost: u64, every_ns: u64, secs: u64) -> u64 {
        let (mut full, mut passed) = (0, 0);
        let mut now = 7 * NS_PER_SEC;
        for _ in 0..secs * NS_PER_SEC / every_ns {
            if let Some(next) = admit(full, now, cost, BURST) {
                (full, passed) = (next, passed + 1);
            }
            now += every_ns;
        }
        passed
    }

    #[test]
    fn a_sender_over_the_rate_gets_the_rate_and_the_burst() {
        assert_eq!(passed(packet_cost(1000), 100_000, 10), 10_000 + 100);
        assert_eq!(passed(packet_cost(1000), 1_000_000, 10), 10_000, "at the rate");
        assert_eq!(passed(packet_cost(1000), 2_000_000, 10), 5_000, "below");
    }

    #[test]
    fn bytes_are_exact_at_high_and_low_rates() {
        assert_eq!(bytes_cost(1250, byte_cost(125_000_000)), 10_000);
        assert_eq!(bytes_cost(65_535, byte_cost(1)), 65_535 * NS_PER_SEC);
        let at_100_gigabits = bytes_cost(1_250_000 / 20, byte_cost(12_500_000_000));
        assert!(at_100_gigabits.abs_diff(5_000) <= 1, "{at_100_gigabits}");
        assert_eq!((packet_cost(0), byte_cost(0)), (0, 0));
    }

    #[test]
    fn a_packet_dearer_than_the_burst_passes_an_idle_bucket_once() {
        let cost = packet_cost(1);
        let full = admit(0, 5, cost, BURST).unwrap();
        assert_eq!(admit(full, 5 + cost - BURST - 1, cost, BURST), None);
        assert!(admit(full, 5 + cost - BURST, cost, BURST).is_some());
    }
}
