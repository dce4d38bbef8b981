//! Data indications (RFC 8656 §11.3): what a peer with a permission sends leaves for the client
//! behind a STUN header, XOR-PEER-ADDRESS and DATA, as userspace would write them. The transaction
//! ID is chance.

use relay_common::abi::{Config, FLAG_POLICED, FLAG_V6, Reason, Route};
use relay_common::addr::Family;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::checksum::sum_words;
use relay_common::wire::fixed::{
    AttributeHeader, IndicationV4, IndicationV6, Stun, XorAddressV4, XorAddressV6,
};
use zerocopy::transmute;

use crate::general::{self, Change, HEAD_V4_BYTES, HEAD_V6_BYTES, Leaving, Place};
use crate::stun::{Arrived, Way, permission};
use crate::{Frame, Tables, Verdict};

const STUN_BYTES: u32 = 20;

/// Relays as a Data indication, or says why not.
#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    place: Place,
) -> Verdict {
    Verdict::from_code(by_permission(frame, tables, config, place))
}

/// Out of line: channels do not pay for it.
#[inline(never)]
fn by_permission<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    place: Place,
) -> u32 {
    let Some(mut leaving) = tables.scratch() else { return Verdict::Pass(Reason::NoRoom).code() };
    let leaving = &mut *leaving;
    *leaving =
        Leaving { route: Route::default(), change: Change::new(place, Reason::DataIndication) };
    let verdict = match prepare(frame, tables, config, leaving) {
        Ok(()) => general::forward(frame, tables, &leaving.route, &leaving.change),
        Err(reason) => Verdict::Pass(reason),
    };
    verdict.code()
}

/// Looks up and composes. Out of line: its stack is free when the rest needs some.
#[inline(never)]
fn prepare<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    config: &Config,
    leaving: &mut Leaving,
) -> Result<(), Reason> {
    let Arrived { way, payload } =
        Arrived::read(frame, leaving.change.place).ok_or(Reason::Truncated)?;
    decide(tables, config, &way, leaving)?;
    let change = &mut leaving.change;
    change.data = payload;
    change.zeros = payload.wrapping_neg() & 3;
    let kind = AttributeType::XOR_PEER_ADDRESS;
    match change.place.family {
        Family::V4 => {
            let stun = header(tables, HEAD_V4_BYTES, change)?;
            let peer = XorAddressV4::new(kind, transmute!(way.src[0]), way.src_port);
            let head = IndicationV4 { stun, peer, data: attribute(payload) };
            let words: [u16; 18] = transmute!(head);
            let (first, _) = change.words.split_first_chunk_mut().ok_or(Reason::TooBig)?;
            *first = words;
            (change.gap, change.sum) = (HEAD_V4_BYTES, sum_words(&words));
        }
        Family::V6 => {
            let stun = header(tables, HEAD_V6_BYTES, change)?;
            let ip = transmute!(way.src);
            let peer = XorAddressV6::new(kind, ip, way.src_port, &stun.transaction);
            let head = IndicationV6 { stun, peer, data: attribute(payload) };
            change.words = transmute!(head);
            (change.gap, change.sum) = (HEAD_V6_BYTES, sum_words(&change.words));
        }
    }
    Ok(())
}

/// A header in front of the attributes of a head, and of data and padding.
#[inline(always)]
fn header<T: Tables>(tables: &T, head: u32, change: &Change) -> Result<Stun, Reason> {
    let len = head - STUN_BYTES + change.data + change.zeros;
    let len = u16::try_from(len).map_err(|_| Reason::TooBig)?;
    let chance = [tables.random(), tables.random(), tables.random()];
    Ok(Stun::new(Stun::DATA, len, transmute!(chance)))
}

/// DATA's header.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "part of a UDP length")]
const fn attribute(data: u32) -> AttributeHeader {
    AttributeHeader::new(AttributeType::DATA, data as u16)
}

/// Looks up the permission; composes a route of it.
#[inline(always)]
fn decide<T: Tables>(
    tables: &T,
    config: &Config,
    arrived: &Way,
    leaving: &mut Leaving,
) -> Result<(), Reason> {
    let family = leaving.change.place.family;
    // Userspace calls nobody a peer who cannot be answered.
    if arrived.src_port == 0 {
        return Err(Reason::NoPermission);
    }
    let relayed = (&arrived.dst, arrived.dst_port);
    let allowed = permission(tables, config, family, relayed, &arrived.src)?;
    let to = if allowed.flags & FLAG_V6 == 0 { Family::V4 } else { Family::V6 };
    let leaves = Way {
        src: allowed.server,
        dst: allowed.client,
        src_port: allowed.server_port,
        dst_port: allowed.client_port,
    };
    let route = &mut leaving.route;
    arrived.rewrite(family, &leaves, to, route);
    route.flags |= allowed.flags & FLAG_POLICED;
    route.slot = allowed.slot;
    route.next_hop = allowed.to_client;
    Ok(())
}
