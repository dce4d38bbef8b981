//! Policing: whether an allocation may send one packet more. The arithmetic is
//! `relay_common::police`; what a refusal means is its caller's.

use relay_common::abi::Direction;
use relay_common::police;

use crate::{Policing, Tables, Word};

/// Attempts to write a bucket that other CPUs write too; after them a packet goes unpaid.
const TRIES: usize = 4;

/// Whether both buckets of a slot's direction have room. Charges nothing.
#[inline(always)]
pub(crate) fn has_room<T: Tables>(
    tables: &T,
    slot: u32,
    direction: Direction,
    now_ns: u64,
) -> bool {
    let Some(policing) = tables.policer(slot, direction) else { return true };
    let Policing { packets_full_ns, bytes_full_ns, packet_cost, byte_cost, burst_ns } = policing;
    let room = |cost, full: T::Word<'_>| {
        cost == 0 || police::admit(full.load(), now_ns, 0, burst_ns).is_some()
    };
    room(packet_cost, packets_full_ns) && room(byte_cost, bytes_full_ns)
}

/// Charges a packet and its bytes of application data.
#[inline(always)]
pub(crate) fn charge<T: Tables>(
    tables: &T,
    slot: u32,
    direction: Direction,
    now_ns: u64,
    bytes: u32,
) {
    let Some(policing) = tables.policer(slot, direction) else { return };
    pay(&policing.packets_full_ns, now_ns, policing.packet_cost);
    pay(&policing.bytes_full_ns, now_ns, police::bytes_cost(bytes, policing.byte_cost));
}

/// One slot's direction, decided and charged. Both buckets are asked before either is charged, so a
/// refusal of one costs the other nothing.
#[inline(always)]
pub(crate) fn admit<T: Tables>(tables: &T, slot: u32, direction: Direction, bytes: u32) -> bool {
    let now_ns = tables.now_ns();
    let room = has_room(tables, slot, direction, now_ns);
    if room {
        charge(tables, slot, direction, now_ns, bytes);
    }
    room
}

#[inline(always)]
fn pay<W: Word>(full: &W, now_ns: u64, cost: u64) {
    if cost == 0 {
        return;
    }
    for _ in 0..TRIES {
        let seen = full.load();
        // The packet is let through; another CPU's charge in between does not change that.
        let Some(next) = police::admit(seen, now_ns, cost, u64::MAX) else { return };
        if full.exchange(seen, next) {
            return;
        }
    }
}
