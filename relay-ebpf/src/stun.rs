//! STUN on UDP: which of it the kernel program handles, and what Send and Data indications share.
//! Every other message is userspace's.

use relay_common::abi::{
    Config, FLAG_V6, Permission, PermissionKeyV4, PermissionKeyV6, Reason, Route, RouteKeyV4,
    RouteKeyV6,
};
use relay_common::addr::Family;
use relay_common::wire::checksum::fold;
use relay_common::wire::fixed::Stun;
use relay_common::wire::net::{Ipv4, Ipv6, Udp};
use zerocopy::{transmute, transmute_ref};

use crate::decide::Key;
use crate::general::Place;
use crate::leave::{UDP_BYTES, ip_bytes};
use crate::{Frame, Tables, Verdict, binding, send};

/// Handles STUN on a listening port, or passes it up.
#[inline(always)]
pub(crate) fn from_client<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    place: Place,
) -> Verdict {
    let at = u32::from(place.ip_at) + ip_bytes(place.family) + UDP_BYTES;
    let Some(kind) = frame.at::<u16>(at).copied() else { return Verdict::Pass(Reason::Stun) };
    match kind {
        Stun::SEND => send::relay(frame, tables, config, place),
        Stun::BINDING_REQUEST => binding::answer(frame, tables, config, place),
        _ => Verdict::Pass(Reason::Stun),
    }
}

/// A datagram, as far as routes and permissions know it.
pub(crate) struct Arrived {
    pub(crate) way: Way,
    /// UDP's, bytes.
    pub(crate) payload: u32,
}

impl Arrived {
    #[inline(always)]
    pub(crate) fn read<F: Frame>(frame: &F, place: Place) -> Option<Self> {
        let at = u32::from(place.ip_at);
        let udp = frame.at::<Udp>(at + ip_bytes(place.family))?;
        let (src_port, dst_port) = (udp.src, udp.dst);
        let payload = u32::from(u16::from_be(udp.len)).wrapping_sub(UDP_BYTES) & 0xFFFF;
        let (src, dst) = match place.family {
            Family::V4 => {
                let ip = frame.at::<Ipv4>(at)?;
                ([transmute!(ip.src), 0, 0, 0], [transmute!(ip.dst), 0, 0, 0])
            }
            Family::V6 => {
                let ip = frame.at::<Ipv6>(at)?;
                (transmute!(ip.src), transmute!(ip.dst))
            }
        };
        Some(Self { way: Way { src, dst, src_port, dst_port }, payload })
    }
}

/// Addresses and ports (wire), as routes and permissions have them.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) src: [u32; 4],
    pub(crate) dst: [u32; 4],
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

impl Way {
    /// The sum of the addresses. What IPv4 leaves empty adds nothing.
    #[inline(always)]
    fn addresses(&self) -> u32 {
        halves(&self.src) + halves(&self.dst)
    }

    /// The rewrite from this way to another: addresses, ports and checksum deltas. All else is the
    /// caller's to fill in.
    #[inline(always)]
    pub(crate) fn rewrite(&self, from: Family, new: &Self, to: Family, route: &mut Route) {
        let (old_sum, new_sum) = (fold(self.addresses()), fold(new.addresses()));
        let addresses = u32::from(new_sum) + u32::from(!old_sum);
        let old_ports = u32::from(!self.src_port) + u32::from(!self.dst_port);
        let ports = u32::from(new.src_port) + u32::from(new.dst_port) + old_ports;
        let ip_delta = match (from, to) {
            (Family::V4, Family::V4) => fold(addresses),
            (Family::V6, Family::V4) => new_sum,
            (_, Family::V6) => 0,
        };
        route.src = new.src;
        route.dst = new.dst;
        (route.terms.src_port, route.terms.dst_port) = (new.src_port, new.dst_port);
        route.terms.flags = if matches!(to, Family::V6) { FLAG_V6 } else { 0 };
        route.terms.udp_delta = fold(addresses + ports);
        route.terms.ip_delta = ip_delta;
    }
}

/// The sum of the halves of words.
#[inline(always)]
const fn halves(words: &[u32; 4]) -> u32 {
    let [a, b, c, d] = *words;
    (a & 0xFFFF)
        + (a >> 16)
        + (b & 0xFFFF)
        + (b >> 16)
        + (c & 0xFFFF)
        + (c >> 16)
        + (d & 0xFFFF)
        + (d >> 16)
}

/// A route, of any kind.
#[inline(always)]
pub(crate) fn route<'t, T: Tables>(tables: &'t T, family: Family, way: &Way) -> Option<&'t Route> {
    let tail: u64 = transmute!([way.src_port, way.dst_port, 0, 0]);
    match family {
        Family::V4 => {
            let key = Key([transmute!([way.src[0], way.dst[0]]), tail]);
            let key: &RouteKeyV4 = transmute_ref!(&key.0);
            tables.route_v4(key)
        }
        Family::V6 => {
            let ([a, b], [c, d]): ([u64; 2], [u64; 2]) = (transmute!(way.src), transmute!(way.dst));
            let key = Key([a, b, c, d, tail]);
            let key: &RouteKeyV6 = transmute_ref!(&key.0);
            tables.route_v6(key)
        }
    }
}

/// The permission of a relayed transport address for a peer, in force.
#[inline(always)]
pub(crate) fn permission<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    family: Family,
    relayed: (&[u32; 4], u16),
    peer: &[u32; 4],
) -> Result<&'t Permission, Reason> {
    let (relayed, relayed_port) = relayed;
    let port: u64 = transmute!([relayed_port, 0, 0, 0]);
    let found = match family {
        Family::V4 => {
            let key = Key([transmute!([relayed[0], peer[0]]), port]);
            let key: &PermissionKeyV4 = transmute_ref!(&key.0);
            tables.permission_v4(key)
        }
        Family::V6 => {
            let ([a, b], [c, d]): ([u64; 2], [u64; 2]) = (transmute!(*relayed), transmute!(*peer));
            let key = Key([a, b, c, d, port]);
            let key: &PermissionKeyV6 = transmute_ref!(&key.0);
            tables.permission_v6(key)
        }
    };
    let permission = found.ok_or(Reason::NoPermission)?;
    if permission.epoch != config.epoch {
        return Err(Reason::StaleEpoch);
    }
    if tables.now_ns() >= permission.deadline_ns {
        return Err(Reason::Expired);
    }
    Ok(permission)
}
