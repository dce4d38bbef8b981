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
use zerocopy::{transmute, transmute_mut};

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
    let Some(mut leaving) = tables.scratch() else { return Verdict::Pass(Reason::NoRoom) };
    let leaving = &mut *leaving;
    match prepare(frame, tables, config, place, leaving) {
        Ok(()) => general::forward(frame, tables, &leaving.route, &leaving.change),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// Looks up and composes. Out of line: its stack is free when the rest needs some.
#[inline(never)]
fn prepare<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    config: &Config,
    place: Place,
    leaving: &mut Leaving,
) -> Result<(), Reason> {
    leaving.route = Route::default();
    leaving.change = Change::new(place, Reason::DataIndication);
    let Arrived { way, payload } = Arrived::read(frame, place).ok_or(Reason::Truncated)?;
    decide(tables, config, &way, leaving)?;
    let change = &mut leaving.change;
    change.data = payload;
    change.zeros = payload.wrapping_neg() & 3;
    let kind = AttributeType::XOR_PEER_ADDRESS;
    let gap = match change.place.family {
        Family::V4 => HEAD_V4_BYTES,
        Family::V6 => HEAD_V6_BYTES,
    };
    let len = gap - STUN_BYTES + payload + change.zeros;
    let len = u16::try_from(len).map_err(|_| Reason::TooBig)?;
    let transaction = chance(tables);
    change.gap = gap;
    // Written where it stays: on the stack, the verifier wants words aligned.
    match change.place.family {
        Family::V4 => {
            let (words, _) = change.words.split_first_chunk_mut::<18>().ok_or(Reason::TooBig)?;
            let head: &mut IndicationV4 = transmute_mut!(words);
            head.stun = Stun::new(Stun::DATA, len, transaction);
            head.peer = XorAddressV4::new(kind, transmute!(way.src[0]), way.src_port);
            head.data = attribute(payload);
            change.sum = sum_words(words);
        }
        Family::V6 => {
            let head: &mut IndicationV6 = transmute_mut!(&mut change.words);
            head.stun = Stun::new(Stun::DATA, len, transaction);
            head.peer = XorAddressV6::new(kind, halves(&way.src), way.src_port, &transaction);
            head.data = attribute(payload);
            change.sum = sum_words(&change.words);
        }
    }
    Ok(())
}

/// A transaction ID.
#[inline(always)]
fn chance<T: Tables>(tables: &T) -> [u16; 6] {
    let [a, b, c] = [tables.random(), tables.random(), tables.random()];
    let [a, b, c, d, e, f, _, _] = halves(&[a, b, c, 0]);
    [a, b, c, d, e, f]
}

/// The halves of words, without a way through memory.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "each half is one")]
const fn halves(words: &[u32; 4]) -> [u16; 8] {
    let [a, b, c, d] = *words;
    let halves = [
        (a as u16, (a >> 16) as u16),
        (b as u16, (b >> 16) as u16),
        (c as u16, (c >> 16) as u16),
        (d as u16, (d >> 16) as u16),
    ];
    let [(a, b), (c, d), (e, f), (g, h)] = halves;
    if cfg!(target_endian = "little") { [a, b, c, d, e, f, g, h] } else { [b, a, d, c, f, e, h, g] }
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
    route.terms.flags |= allowed.flags & FLAG_POLICED;
    route.terms.slot = allowed.slot;
    route.terms.next_hop = allowed.to_client;
    Ok(())
}
