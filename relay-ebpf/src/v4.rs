//! The IPv4 wire (RFC 791): reads, proves, looks up, and the straight paths of packets that come
//! untagged and leave untagged on the same wire. RFC 8656 §14 says what is copied.

use relay_common::abi::{Config, FLAG_V6, Reason, Route, RouteKeyV4};
use relay_common::addr::Family;
use relay_common::wire::checksum;
use relay_common::wire::net::{
    Channel, IPV4_BYTES, Ipv4, Ipv4Channel, Ipv4Udp, PROTOCOL_UDP, Udp, be16, ether_type,
};

use crate::decide::{
    Datagram, Key, LINK_BYTES, Plan, STRIP, Side, WRAP, arrival, commit, in_force, key_tail,
    lengths, plan,
};
use crate::general::{self, Place};
use crate::leave::VERSION_IHL;
use crate::tagged::Found;
use crate::{Frame, Tables, Verdict, data, stun};

const HEADER_BYTES: u16 = 20;
const _: () = assert!(IPV4_BYTES == HEADER_BYTES as usize);
const CHANNEL_AT: u32 = HEADER_BYTES as u32 + 8;

/// MF and the fragment offset: everything but the reserved bit and DF.
const FRAGMENT_MASK: u16 = be16(0x3FFF);
/// What one hop less adds to the header checksum's sum: the TTL is the first byte of its word.
const HOP_DELTA: u16 = !u16::from_ne_bytes([1, 0]);

/// An untagged packet.
#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
) -> Result<Verdict, Reason> {
    let old = frame.headers::<Ipv4Udp>().ok_or(Reason::Truncated)?;
    let channel = || frame.headers::<Ipv4Channel>().map(|headers| headers.channel);
    let side = side(frame.bytes(), config, &old.ip, &old.udp, LINK_BYTES, channel)?;
    // One straight path for each side: the verifier follows values better than their merging.
    match side {
        Side::Listening(..) => {
            let found = find(tables, config, &old.ip, &old.udp, side)?;
            let (route, now_ns) = found.ok_or(Reason::NoRoute)?;
            if let Some((ip, plan)) = decide(frame, tables, route, old, side) {
                if !plan.admitted(tables, now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, STRIP, |new: &mut Ipv4Udp| {
                    write(new, ip, &plan);
                });
            }
            Ok(general::relay(frame, tables, route, place(LINK_BYTES, side)))
        }
        Side::Stun => Ok(stun::from_client(frame, tables, config, place(LINK_BYTES, side))),
        Side::Relayed => {
            let Some((route, now_ns)) = find(tables, config, &old.ip, &old.udp, side)? else {
                return Ok(data::relay(frame, tables, config, place(LINK_BYTES, side)));
            };
            if let Some((ip, plan)) = decide(frame, tables, route, old, side) {
                if !plan.admitted(tables, now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, WRAP, |new: &mut Ipv4Channel| {
                    write(&mut new.outer, ip, &plan);
                    plan.write_channel(&mut new.channel);
                });
            }
            Ok(general::relay(frame, tables, route, place(LINK_BYTES, side)))
        }
    }
}

/// A packet behind tags. [`Reason::Stun`] and [`Reason::NoPermission`] are not the last word: what
/// is there is for `stun` and `data`.
#[inline(always)]
pub(crate) fn find_at<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    ip_at: u32,
    found: &mut Found,
) -> Result<&'t Route, Reason> {
    let ip = frame.at::<Ipv4>(ip_at).ok_or(Reason::Truncated)?;
    let udp = frame.at::<Udp>(ip_at + u32::from(HEADER_BYTES)).ok_or(Reason::Truncated)?;
    let channel = || frame.at::<Channel>(ip_at + CHANNEL_AT).copied();
    let side = side(frame.bytes(), config, ip, udp, ip_at, channel)?;
    found.place = place(ip_at, side);
    let miss = match side {
        Side::Stun => return Err(Reason::Stun),
        Side::Listening(..) => Reason::NoRoute,
        Side::Relayed => Reason::NoPermission,
    };
    let (route, _) = find(tables, config, ip, udp, side)?.ok_or(miss)?;
    Ok(route)
}

#[inline(always)]
fn place(ip_at: u32, side: Side) -> Place {
    #[allow(clippy::cast_possible_truncation, reason = "one of three small numbers")]
    let ip_at = ip_at as u16;
    Place { ip_at, family: Family::V4, listening: side.is_listening() }
}

/// Proves that a packet is a whole UDP datagram, and says which side it arrived on. `frame` is in
/// bytes.
#[inline(always)]
fn side(
    frame: u32,
    config: &Config,
    ip: &Ipv4,
    udp: &Udp,
    ip_at: u32,
    channel: impl FnOnce() -> Option<Channel>,
) -> Result<Side, Reason> {
    if ip.version_ihl != VERSION_IHL {
        return Err(Reason::Ipv4Options);
    }
    if ip.fragment & FRAGMENT_MASK != 0 {
        return Err(Reason::Fragment);
    }
    if ip.protocol != PROTOCOL_UDP {
        return Err(Reason::NotUdp);
    }
    let total = u32::from(u16::from_be(ip.total_len));
    lengths(frame, ip_at, total, HEADER_BYTES, u16::from_be(udp.len))?;
    arrival(config, udp, channel)
}

/// Looks the route up; if there is one, it is in force at the time that comes with it.
#[inline(always)]
fn find<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    ip: &Ipv4,
    udp: &Udp,
    side: Side,
) -> Result<Option<(&'t Route, u64)>, Reason> {
    let addresses: u64 = zerocopy::transmute!([ip.src, ip.dst]);
    let key = Key([addresses, key_tail(udp, side.channel())]);
    let key: &RouteKeyV4 = zerocopy::transmute_ref!(&key.0);
    let Some(route) = tables.route_v4(key) else { return Ok(None) };
    let now_ns = in_force(tables, config, route)?;
    Ok(Some((route, now_ns)))
}

/// Gives the new IP header but for its addresses, and the rest as a plan; `None` is for the
/// general path.
#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    route: &'t Route,
    old: &Ipv4Udp,
    side: Side,
) -> Option<(Kept, Plan<'t>)> {
    if route.flags & FLAG_V6 != 0 {
        return None;
    }
    let datagram = Datagram {
        ingress: frame.ingress(),
        ip_bytes: HEADER_BYTES,
        udp: old.udp,
        hop_limit: old.ip.ttl,
    };
    let plan = plan(tables, route, &datagram, &old.eth.dst, side)?;
    let total_len = be16(u16::from_be(plan.udp_len) + HEADER_BYTES);
    let added = u32::from(route.ip_delta) + u32::from(plan.length_delta) + u32::from(HOP_DELTA);
    let checksum = checksum::update(old.ip.checksum, added);
    let kept = Kept {
        version_length: zerocopy::transmute!([[VERSION_IHL, old.ip.tos], total_len.to_ne_bytes()]),
        id_fragment: zerocopy::transmute!([old.ip.id, old.ip.fragment]),
        ttl_checksum: zerocopy::transmute!([
            [old.ip.ttl - 1, PROTOCOL_UDP],
            checksum.to_ne_bytes()
        ]),
    };
    Some((kept, plan))
}

/// The first words of the new IP header: what comes from the old one.
struct Kept {
    version_length: u32,
    id_fragment: u32,
    ttl_checksum: u32,
}

#[inline(always)]
fn write(new: &mut Ipv4Udp, kept: Kept, plan: &Plan<'_>) {
    plan.write_link(&mut new.eth);
    new.eth.ether_type = ether_type::IPV4;
    let Kept { version_length, id_fragment, ttl_checksum } = kept;
    let Route { src, dst, .. } = *plan.route;
    let words = [version_length, id_fragment, ttl_checksum, src[0], dst[0]];
    new.ip = zerocopy::transmute!(words);
    plan.write_udp(&mut new.udp);
}
