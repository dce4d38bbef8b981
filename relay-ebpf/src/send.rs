//! Send indications (RFC 8656 §11.2) to a peer with a permission: of one shape, XOR-PEER-ADDRESS
//! and DATA in this order and nothing else, leave as plain datagrams. Every other shape goes up.

use relay_common::abi::{ACTION_SEND, Config, FLAG_POLICED, FLAG_V6, Reason, Route};
use relay_common::addr::Family;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::checksum::{fold, sum_words};
use relay_common::wire::fixed::{
    AttributeHeader, COOKIE, IndicationV4, IndicationV6, Stun, xor_port, xor_v4, xor_v6,
};
use relay_common::wire::net::be16;
use zerocopy::{transmute, transmute_ref};

use crate::decide::in_force;
use crate::general::{self, Change, HEAD_V4_BYTES, HEAD_V6_BYTES, Leaving, Place};
use crate::leave::{UDP_BYTES, ip_bytes};
use crate::stun::{Arrived, Way, permission, route};
use crate::{Frame, Tables, Verdict};

const STUN_BYTES: u32 = 20;
const _: () = assert!(size_of::<IndicationV4>() == HEAD_V4_BYTES as usize);
const _: () = assert!(size_of::<IndicationV6>() == HEAD_V6_BYTES as usize);
/// Where the length of XOR-PEER-ADDRESS stands, from the message's start.
const PEER_LEN_AT: u32 = 22;

/// Relays a Send indication, or says why not.
#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    place: Place,
) -> Verdict {
    let Some(mut leaving) = tables.scratch() else { return Verdict::Pass(Reason::NoRoom) };
    let leaving = &mut *leaving;
    match prepare(frame, tables, config, place, leaving) {
        Ok(()) => general::forward(frame, tables, &leaving.route, &leaving.change),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// Reads and looks up. Out of line: its stack is free when the rest needs some.
#[inline(never)]
fn prepare<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    config: &Config,
    place: Place,
    leaving: &mut Leaving,
) -> Result<(), Reason> {
    leaving.route = Route::default();
    leaving.change = Change::new(place, Reason::SendIndication);
    let change = &mut leaving.change;
    let arrived = Arrived::read(frame, place).ok_or(Reason::Truncated)?;
    let at = u32::from(place.ip_at) + ip_bytes(place.family) + UDP_BYTES;
    let message = read(frame, at, arrived.payload).ok_or(Reason::Stun)?;
    change.head = message.head;
    change.data = message.data;
    change.padding = message.padding;
    change.sum = u32::from(!message.sum);
    decide(tables, config, &arrived.way, &message, leaving)
}

/// What a Send indication says.
struct Message {
    family: Family,
    peer: [u32; 4],
    port: u16,
    /// Bytes in front of the application data, and their sum.
    head: u32,
    sum: u16,
    /// Application data.
    data: u32,
    /// Behind it.
    padding: u32,
}

/// `at` is where the message begins, `payload` the bytes of UDP's payload. `None`: another shape.
#[inline(always)]
fn read<F: Frame>(frame: &F, at: u32, payload: u32) -> Option<Message> {
    const V4: u16 = be16(8);
    const V6: u16 = be16(20);
    match *frame.at::<u16>(at + PEER_LEN_AT)? {
        V4 => {
            let head = frame.at::<IndicationV4>(at)?;
            let words: &[u16; 18] = transmute_ref!(head);
            if !head.peer.is(AttributeType::XOR_PEER_ADDRESS) {
                return None;
            }
            let (data, padding) = lengths(&head.stun, head.data, HEAD_V4_BYTES, payload)?;
            Some(Message {
                family: Family::V4,
                peer: [transmute!(xor_v4(head.peer.ip)), 0, 0, 0],
                port: xor_port(head.peer.port),
                head: HEAD_V4_BYTES,
                sum: fold(sum_words(words)),
                data,
                padding,
            })
        }
        V6 => {
            let head = frame.at::<IndicationV6>(at)?;
            let words: &[u16; 24] = transmute_ref!(head);
            if !head.peer.is(AttributeType::XOR_PEER_ADDRESS) {
                return None;
            }
            let (data, padding) = lengths(&head.stun, head.data, HEAD_V6_BYTES, payload)?;
            Some(Message {
                family: Family::V6,
                peer: transmute!(xor_v6(head.peer.ip, &head.stun.transaction)),
                port: xor_port(head.peer.port),
                head: HEAD_V6_BYTES,
                sum: fold(sum_words(words)),
                data,
                padding,
            })
        }
        _ => None,
    }
}

/// Bytes of application data and of padding: the message ends with them, and the datagram does.
#[inline(always)]
fn lengths(stun: &Stun, data: AttributeHeader, head: u32, payload: u32) -> Option<(u32, u32)> {
    let bytes = u32::from(u16::from_be(data.len));
    let padding = bytes.wrapping_neg() & 3;
    let whole = u32::from(u16::from_be(stun.len)) + STUN_BYTES;
    let fits = whole == payload
        && head + bytes + padding == payload
        && stun.cookie == COOKIE
        && data.kind == be16(AttributeType::DATA.0);
    fits.then_some((bytes, padding))
}

/// Looks up the allocation and the permission; composes a route of them.
#[inline(always)]
fn decide<T: Tables>(
    tables: &T,
    config: &Config,
    arrived: &Way,
    message: &Message,
    leaving: &mut Leaving,
) -> Result<(), Reason> {
    let family = leaving.change.place.family;
    let allocation = route(tables, family, arrived).ok_or(Reason::NoRoute)?;
    in_force(tables, config, &allocation.terms)?;
    if allocation.terms.action != ACTION_SEND {
        return Err(Reason::UnknownAction);
    }
    let relayed_family =
        if allocation.terms.flags & FLAG_V6 == 0 { Family::V4 } else { Family::V6 };
    // Userspace finds no permission for either.
    if message.family != relayed_family || message.port == 0 {
        return Err(Reason::NoPermission);
    }
    let relayed = (&allocation.src, allocation.terms.src_port);
    let allowed = permission(tables, config, message.family, relayed, &message.peer)?;
    let leaves = Way {
        src: allocation.src,
        dst: message.peer,
        src_port: allocation.terms.src_port,
        dst_port: message.port,
    };
    let route = &mut leaving.route;
    arrived.rewrite(family, &leaves, message.family, route);
    route.terms.flags |= allocation.terms.flags & FLAG_POLICED;
    route.terms.slot = allocation.terms.slot;
    route.terms.next_hop = allowed.to_peer;
    Ok(())
}
