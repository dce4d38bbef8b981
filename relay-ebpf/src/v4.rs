//! The IPv4 wire (RFC 791): reads, proves, looks up, and the straight paths of packets that come
//! untagged and leave untagged on the same wire. RFC 8656 §14 says what is copied.

use relay_common::abi::{Config, FLAG_V6, Reason, Route, RouteKeyV4, Terms, other_place, place_v4};
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
use crate::{Frame, Tables, Verdict, data, stun, tagged};

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
            let key = key(&old.ip, &old.udp, side);
            let found = straight(tables, config, &key)?.ok_or(Reason::NoRoute)?;
            if let Some((ip, plan)) = decide(frame, tables, &found, old, side) {
                if !plan.admitted(tables, found.now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, STRIP, |new: &mut Ipv4Udp| {
                    write(new, ip, &plan);
                });
            }
            let route = whole(tables, config, &key, &found)?;
            Ok(general::relay(frame, tables, route, place(LINK_BYTES, side)))
        }
        Side::Stun => Ok(stun::from_client(frame, tables, config, place(LINK_BYTES, side))),
        Side::Relayed => {
            let key = key(&old.ip, &old.udp, side);
            let Some(found) = straight(tables, config, &key)? else {
                return Ok(data::relay(frame, tables, config, place(LINK_BYTES, side)));
            };
            if let Some((ip, plan)) = decide(frame, tables, &found, old, side) {
                if !plan.admitted(tables, found.now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, WRAP, |new: &mut Ipv4Channel| {
                    write(&mut new.outer, ip, &plan);
                    plan.write_channel(&mut new.channel);
                });
            }
            let route = whole(tables, config, &key, &found)?;
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
    found: &mut tagged::Found,
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
    find(tables, config, &key(ip, udp, side))?.ok_or(miss)
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

/// What a datagram is known by.
#[inline(always)]
fn key(ip: &Ipv4, udp: &Udp, side: Side) -> Key<2> {
    let addresses: u64 = zerocopy::transmute!([ip.src, ip.dst]);
    Key([addresses, key_tail(udp, side.channel())])
}

/// Looks the route up; if there is one, it is in force.
#[inline(always)]
fn find<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    key: &Key<2>,
) -> Result<Option<&'t Route>, Reason> {
    let key: &RouteKeyV4 = zerocopy::transmute_ref!(&key.0);
    let Some(route) = tables.route_v4(key) else { return Ok(None) };
    in_force(tables, config, &route.terms)?;
    Ok(Some(route))
}

/// What a straight path needs of a route, which is in force.
struct Found<'t> {
    terms: &'t Terms,
    src: u32,
    dst: u32,
    now_ns: u64,
    /// All of it, if it was found where all are.
    route: Option<&'t Route>,
}

/// Looks a route up in its places, and if others stand there, where all are.
#[inline(always)]
fn straight<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    key: &Key<2>,
) -> Result<Option<Found<'t>>, Reason> {
    let at = place_v4(&key.0, config.place_key);
    let stands = |at| tables.straight_v4(at).filter(|place| key.is(&place.key));
    let (terms, src, dst, route) = match stands(at).or_else(|| stands(other_place(at))) {
        Some(place) => (&place.terms, place.src, place.dst, None),
        None => {
            let key: &RouteKeyV4 = zerocopy::transmute_ref!(&key.0);
            let Some(route) = tables.route_v4(key) else { return Ok(None) };
            (&route.terms, route.src[0], route.dst[0], Some(route))
        }
    };
    let now_ns = in_force(tables, config, terms)?;
    Ok(Some(Found { terms, src, dst, now_ns, route }))
}

/// The route of what was found and is not for a straight path.
#[inline(always)]
fn whole<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    key: &Key<2>,
    found: &Found<'t>,
) -> Result<&'t Route, Reason> {
    match found.route {
        Some(route) => Ok(route),
        None => find(tables, config, key)?.ok_or(Reason::NoRoute),
    }
}

/// Gives the new IP header, and the rest as a plan; `None` is for the general path.
#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    found: &Found<'t>,
    old: &Ipv4Udp,
    side: Side,
) -> Option<(IpWords, Plan<'t>)> {
    if found.terms.flags & FLAG_V6 != 0 {
        return None;
    }
    let datagram = Datagram {
        ingress: frame.ingress(),
        ip_bytes: HEADER_BYTES,
        udp: old.udp,
        hop_limit: old.ip.ttl,
    };
    let plan = plan(tables, found.terms, &datagram, &old.eth.dst, side)?;
    let total_len = be16(u16::from_be(plan.udp_len) + HEADER_BYTES);
    let delta = u32::from(found.terms.ip_delta);
    let added = delta + u32::from(plan.length_delta) + u32::from(HOP_DELTA);
    let checksum = checksum::update(old.ip.checksum, added);
    let words = [
        zerocopy::transmute!([[VERSION_IHL, old.ip.tos], total_len.to_ne_bytes()]),
        zerocopy::transmute!([old.ip.id, old.ip.fragment]),
        zerocopy::transmute!([[old.ip.ttl - 1, PROTOCOL_UDP], checksum.to_ne_bytes()]),
        found.src,
        found.dst,
    ];
    Some((words, plan))
}

/// An IP header.
type IpWords = [u32; 5];

#[inline(always)]
fn write(new: &mut Ipv4Udp, ip: IpWords, plan: &Plan<'_>) {
    plan.write_link(&mut new.eth);
    new.eth.ether_type = ether_type::IPV4;
    new.ip = zerocopy::transmute!(ip);
    plan.write_udp(&mut new.udp);
}
