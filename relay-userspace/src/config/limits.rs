//! `[limits]`: how much of everything there may be.

use relay_common::abi::SLOTS_MAX;

use super::document::{Reader, Section};
use super::{Limits, checks};

/// What a network card of today can carry, and then some: 8 Tbit/s.
const BYTES_PER_SEC_MAX: u64 = 1_000_000_000_000;

/// Reads `[limits]`.
pub(super) fn read<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Limits {
    // 0 is no limit.
    let mut up_to = |key, default, high| {
        let found = reader.number(section, key, 0..=high);
        found.unwrap_or(default)
    };
    let allocation_bytes_per_sec = up_to("allocation_bytes_per_sec", 0, u32::MAX);
    let allocation_packets_per_sec = up_to("allocation_packets_per_sec", 0, u32::MAX);
    let user_allocations_max = up_to("user_allocations_max", 1024, SLOTS_MAX);
    let source_allocations_max = up_to("source_allocations_max", 4096, SLOTS_MAX);
    let new_peers_per_sec = up_to("new_peers_per_sec", 5, 1_000_000);
    let mut rate = |key| reader.wide_number(section, key, 0..=BYTES_PER_SEC_MAX).unwrap_or(0);
    let user_bytes_per_sec = rate("user_bytes_per_sec");
    let total_bytes_per_sec = rate("total_bytes_per_sec");
    let mut number = |key, default, high| {
        let found = reader.number(section, key, 1..=high);
        found.unwrap_or(default)
    };
    let prefix = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
    let limits = Limits {
        allocations_max: number("allocations_max", 16_384, SLOTS_MAX),
        user_allocations_max,
        source_allocations_max,
        source_prefix_ipv4: prefix(number("source_prefix_ipv4", 32, 32)),
        source_prefix_ipv6: prefix(number("source_prefix_ipv6", 64, 128)),
        permissions_per_allocation_max: number("permissions_per_allocation_max", 128, 65_536),
        channels_per_allocation_max: number("channels_per_allocation_max", 128, 16_384),
        new_peers_per_sec,
        lifetime_secs_default: number("lifetime_secs_default", 600, 86_400),
        lifetime_secs_max: number("lifetime_secs_max", 3600, 86_400),
        nonce_secs: number("nonce_secs", 3600, 86_400),
        unauthenticated_replies_per_sec: number("unauthenticated_replies_per_sec", 256, 1_000_000),
        allocation_bytes_per_sec,
        allocation_packets_per_sec,
        user_bytes_per_sec,
        total_bytes_per_sec,
    };
    checks::lifetimes(reader, section, &limits);
    checks::bandwidths(reader, section, &limits);
    limits
}
