//! Policing: each direction of an allocation is held to a rate of packets and of bytes. Owns the
//! rate and what is used up of it; the arithmetic is the kernel's, which has a bucket of its own.

use relay_common::police::{admit, byte_cost, bytes_cost, packet_cost};

use crate::{Limits, Now};

/// How far a direction of an allocation may be ahead of its rate, nanoseconds: what a tenth of a
/// second brings may come at once.
pub const POLICING_BURST_NS: u64 = 100_000_000;

/// What a packet costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    packet_cost: u64,
    byte_cost: u64,
}

/// What one direction of an allocation has used up: when each bucket is full again.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Used {
    packets_full_ns: u64,
    bytes_full_ns: u64,
}

impl Rate {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self {
            packet_cost: packet_cost(limits.allocation_packets_per_sec as u64),
            byte_cost: byte_cost(limits.allocation_bytes_per_sec as u64),
        }
    }

    /// Takes a packet's share of both buckets, or of neither.
    pub(crate) fn admit(&self, used: &mut Used, now: Now, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let next = |unit_cost, full_ns, cost| match unit_cost {
            0 => Some(full_ns),
            _ => admit(full_ns, now.monotonic_ns, cost, POLICING_BURST_NS),
        };
        let packets = next(self.packet_cost, used.packets_full_ns, self.packet_cost);
        let cost = bytes_cost(bytes, self.byte_cost);
        let bytes = next(self.byte_cost, used.bytes_full_ns, cost);
        let (Some(packets_full_ns), Some(bytes_full_ns)) = (packets, bytes) else {
            return false;
        };
        *used = Used { packets_full_ns, bytes_full_ns };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `offered` packets pass, one each millisecond.
    fn passed(limits: Limits, bytes: usize, offered: u64) -> u64 {
        let (rate, mut used) = (Rate::new(&limits), Used::default());
        let at = |ms: u64| Now { monotonic_ns: (1_000 + ms) * 1_000_000, unix_secs: 0 };
        (0..offered).filter(|ms| rate.admit(&mut used, at(*ms), bytes)).count() as u64
    }

    #[test]
    fn the_tighter_of_both_limits_holds_and_a_refused_packet_costs_nothing() {
        let none = Limits::default();
        assert_eq!(passed(none, 1_000, 2_000), 2_000, "no limit");
        let packets = Limits { allocation_packets_per_sec: 100, ..none };
        assert_eq!(passed(packets, 1_000, 2_000), 200 + 10);
        let bytes = Limits { allocation_bytes_per_sec: 50_000, ..none };
        assert_eq!(passed(bytes, 1_000, 2_000), 100 + 5);
        let both = Limits { allocation_bytes_per_sec: 50_000, ..packets };
        assert_eq!(passed(both, 1_000, 2_000), 100 + 5);
        assert_eq!(passed(both, 0, 2_000), 200 + 10, "empty packets are packets");
    }
}
