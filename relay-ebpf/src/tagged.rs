//! VLAN tags (IEEE 802.1Q, 802.1ad): whether a tagged frame is for this machine, and where its
//! packet begins. What leaves has the tags of its next hop, whatever it came with.

use relay_common::abi::{Config, LinkKey, Reason, Route, Tag};
use relay_common::addr::Family;
use relay_common::wire::net::{be16, ether_type};
use zerocopy::{transmute, transmute_ref};

use crate::decide::{Key, is_for};
use crate::general::Place;
use crate::leave::{MACS_BYTES, TAG_BYTES};
use crate::{Frame, Tables, v4, v6};

/// The identifier, without priority and drop eligibility.
const ID_MASK: u16 = be16(0x0FFF);
const ETHER_TYPE_BYTES: u32 = 2;

#[inline(always)]
pub(crate) const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, ether_type::VLAN | ether_type::VLAN_OUTER)
}

/// What [`find`] has to say beside the route.
pub(crate) struct Found {
    /// With a route, and for what is not a channel's.
    pub(crate) place: Place,
    /// Without a route.
    pub(crate) reason: Reason,
}

impl Default for Found {
    #[inline(always)]
    fn default() -> Self {
        let place = Place { ip_at: 0, family: Family::V4, listening: false };
        Self { place, reason: Reason::Truncated }
    }
}

/// Finds the route of what is behind the tags. Out of line: untagged frames do not pay for it. The
/// verifier follows a pointer that is returned in a register, and loses one in an enum.
#[inline(never)]
pub(crate) fn find<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    found: &mut Found,
) -> Option<&'t Route> {
    match unwrap(frame, tables, config, found) {
        Ok(route) => Some(route),
        Err(reason) => {
            found.reason = reason;
            None
        }
    }
}

#[inline(always)]
fn unwrap<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    found: &mut Found,
) -> Result<&'t Route, Reason> {
    const SECOND_AT: u32 = MACS_BYTES + TAG_BYTES;
    const ONE: u32 = SECOND_AT + ETHER_TYPE_BYTES;
    const TWO: u32 = ONE + TAG_BYTES;
    let first = tag(frame, MACS_BYTES)?;
    let inner = *frame.at::<u16>(SECOND_AT).ok_or(Reason::Truncated)?;
    if !is_tag(inner) {
        known(frame, tables, [first, Tag { protocol: 0, id: 0 }])?;
        return packet(frame, tables, config, inner, ONE, found);
    }
    let second = tag(frame, SECOND_AT)?;
    known(frame, tables, [first, second])?;
    let inner = *frame.at::<u16>(SECOND_AT + TAG_BYTES).ok_or(Reason::Truncated)?;
    packet(frame, tables, config, inner, TWO, found)
}

/// A tag without its priority. An identifier of zero is no VLAN, but a priority alone.
#[inline(always)]
fn tag<F: Frame>(frame: &F, at: u32) -> Result<Tag, Reason> {
    let Tag { protocol, id } = *frame.at::<Tag>(at).ok_or(Reason::Truncated)?;
    let id = id & ID_MASK;
    if id == 0 { Err(Reason::UnknownVlan) } else { Ok(Tag { protocol, id }) }
}

/// The frame is for a VLAN device of ours.
#[inline(always)]
fn known<F: Frame, T: Tables>(frame: &F, tables: &T, tags: [Tag; 2]) -> Result<(), Reason> {
    let key = Key([transmute!(tags), transmute!([frame.ingress(), 0])]);
    let key: &LinkKey = transmute_ref!(&key.0);
    let station = tables.link(key).ok_or(Reason::UnknownVlan)?;
    is_for(frame.headers().ok_or(Reason::Truncated)?, station)
}

#[inline(always)]
fn packet<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    ether_type: u16,
    ip_at: u32,
    found: &mut Found,
) -> Result<&'t Route, Reason> {
    match ether_type {
        ether_type::IPV4 => v4::find_at(frame, tables, config, ip_at, found),
        ether_type::IPV6 => v6::find_at(frame, tables, config, ip_at, found),
        _ => Err(Reason::NotIp),
    }
}
