//! Policing: whether an allocation may send one packet more. The arithmetic is
//! `relay_common::police`; what a refusal means is its caller's.

use relay_common::abi::Direction;
use relay_common::police;

use crate::{Policing, Tables, Word};

/// Whose limits, and which.
pub(crate) type Party = (u32, Direction);

/// Whether both buckets have room. Charges nothing, so a refusal of one costs the other nothing.
#[inline(always)]
fn has_room<W: Word>(policing: &Policing<W>, now_ns: u64) -> bool {
    let room = |cost, full: &W| {
        cost == 0 || police::admit(full.load(), now_ns, 0, policing.burst_ns).is_some()
    };
    room(policing.packet_cost, &policing.packets_full_ns)
        && room(policing.byte_cost, &policing.bytes_full_ns)
}

/// Charges a packet and its bytes of application data.
#[inline(always)]
fn charge<W: Word>(policing: &Policing<W>, now_ns: u64, bytes: u32) {
    pay(&policing.packets_full_ns, now_ns, policing.packet_cost);
    pay(&policing.bytes_full_ns, now_ns, police::bytes_cost(bytes, policing.byte_cost));
}

/// One slot's direction, decided and charged.
#[inline(always)]
pub(crate) fn admit<T: Tables>(
    tables: &T,
    (slot, direction): Party,
    now_ns: u64,
    bytes: u32,
) -> bool {
    let Some(policing) = tables.policer(slot, direction) else { return true };
    let room = has_room(&policing, now_ns);
    if room {
        charge(&policing, now_ns, bytes);
    }
    room
}

/// Two slots' directions, for a hairpin: both are asked before either is charged.
#[inline(always)]
pub(crate) fn admit_both<T: Tables>(
    tables: &T,
    parties: [Party; 2],
    now_ns: u64,
    bytes: u32,
) -> bool {
    let [first, second] = parties.map(|(slot, direction)| tables.policer(slot, direction));
    let room = |policing: &Option<Policing<T::Word<'_>>>| {
        policing.as_ref().is_none_or(|policing| has_room(policing, now_ns))
    };
    if !room(&first) || !room(&second) {
        return false;
    }
    if let Some(policing) = first {
        charge(&policing, now_ns, bytes);
    }
    if let Some(policing) = second {
        charge(&policing, now_ns, bytes);
    }
    true
}

#[inline(always)]
fn pay<W: Word>(full: &W, now_ns: u64, cost: u64) {
    if cost == 0 {
        return;
    }
    let seen = full.load();
    // The packet is let through; another CPU's charge in between does not change that.
    let next = police::admit(seen, now_ns, cost, u64::MAX);
    if !next.is_some_and(|next| full.exchange(seen, next)) {
        // The other's charge began at the present at least; ours goes on top.
        full.add(cost);
    }
}

/// Gives back what a packet was charged that goes up after all.
#[inline(always)]
pub(crate) fn refund<T: Tables>(tables: &T, slot: u32, direction: Direction, bytes: u32) {
    let Some(policing) = tables.policer(slot, direction) else { return };
    policing.packets_full_ns.add(policing.packet_cost.wrapping_neg());
    let bytes_cost = police::bytes_cost(bytes, policing.byte_cost);
    policing.bytes_full_ns.add(bytes_cost.wrapping_neg());
}
