//! The IPv6 wire (RFC 8200): reads, proves, looks up, and the straight paths of packets that come
//! untagged and leave untagged on the same wire. RFC 8656 §14 says what is copied.

use relay_common::abi::{Config, FLAG_V6, Reason, Route, RouteKeyV6, Terms, other_place, place_v6};
use relay_common::addr::Family;
use relay_common::wire::net::{
    Channel, IPV6_BYTES, Ipv6, Ipv6Channel, Ipv6Udp, PROTOCOL_UDP, Udp, be16, ether_type,
};

use crate::decide::{
    Datagram, Key, LINK_BYTES, Plan, STRIP, Side, WRAP, arrival, commit, in_force, key_tail,
    lengths, plan,
};
use crate::general::{self, Place, VERSION_CLASS_MASK};
use crate::{Frame, Tables, Verdict, data, stun, tagged};

const HEADER_BYTES: u16 = 40;
const _: () = assert!(IPV6_BYTES == HEADER_BYTES as usize);
const CHANNEL_AT: u32 = HEADER_BYTES as u32 + 8;

/// The version's bits in the first word, and its number.
const VERSION_MASK: u16 = be16(0xF000);
const VERSION: u16 = be16(0x6000);

/// An untagged packet.
#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
) -> Result<Verdict, Reason> {
    let old = frame.headers::<Ipv6Udp>().ok_or(Reason::Truncated)?;
    let channel = || frame.headers::<Ipv6Channel>().map(|headers| headers.channel);
    let side = side(frame.bytes(), config, &old.ip, &old.udp, LINK_BYTES, channel)?;
    // RFC 8656 §13.2: the traffic class is copied; the flow label is the sender's own, and is not.
    let class = old.ip.version_class_flow[0] & VERSION_CLASS_MASK;
    let kept = (class, old.ip.hop_limit);
    // One straight path for each side: the verifier follows values better than their merging.
    match side {
        Side::Listening(..) => {
            let key = key(&old.ip, &old.udp, side);
            let found = straight(tables, config, &key)?.ok_or(Reason::NoRoute)?;
            if let Some(plan) = decide(frame, tables, &found, old, side) {
                if !plan.admitted(tables, found.now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, STRIP, |new: &mut Ipv6Udp| {
                    write(new, kept, &found, &plan);
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
            if let Some(plan) = decide(frame, tables, &found, old, side) {
                if !plan.admitted(tables, found.now_ns) {
                    return Ok(Verdict::Drop(Reason::Policed));
                }
                return commit(frame, tables, &plan, WRAP, |new: &mut Ipv6Channel| {
                    write(&mut new.outer, kept, &found, &plan);
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
    let ip = frame.at::<Ipv6>(ip_at).ok_or(Reason::Truncated)?;
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
    Place { ip_at, family: Family::V6, listening: side.is_listening() }
}

/// Proves that a packet is a whole UDP datagram, and says which side it arrived on. `frame` is in
/// bytes.
#[inline(always)]
fn side(
    frame: u32,
    config: &Config,
    ip: &Ipv6,
    udp: &Udp,
    ip_at: u32,
    channel: impl FnOnce() -> Option<Channel>,
) -> Result<Side, Reason> {
    if ip.version_class_flow[0] & VERSION_MASK != VERSION {
        return Err(Reason::NotIp);
    }
    if ip.next_header != PROTOCOL_UDP {
        return Err(Reason::NotUdp);
    }
    let total = u32::from(u16::from_be(ip.payload_len)) + u32::from(HEADER_BYTES);
    lengths(frame, ip_at, total, HEADER_BYTES, u16::from_be(udp.len))?;
    arrival(config, udp, channel)
}

/// What a datagram is known by.
#[inline(always)]
fn key(ip: &Ipv6, udp: &Udp, side: Side) -> Key<5> {
    let [a, b]: [u64; 2] = zerocopy::transmute!(ip.src);
    let [c, d]: [u64; 2] = zerocopy::transmute!(ip.dst);
    Key([a, b, c, d, key_tail(udp, side.channel())])
}

/// Looks the route up; if there is one, it is in force.
#[inline(always)]
fn find<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    key: &Key<5>,
) -> Result<Option<&'t Route>, Reason> {
    let key: &RouteKeyV6 = zerocopy::transmute_ref!(&key.0);
    let Some(route) = tables.route_v6(key) else { return Ok(None) };
    in_force(tables, config, &route.terms)?;
    Ok(Some(route))
}

/// What a straight path needs of a route, which is in force.
struct Found<'t> {
    terms: &'t Terms,
    src: &'t [u32; 4],
    dst: &'t [u32; 4],
    now_ns: u64,
    /// All of it, if it was found where all are.
    route: Option<&'t Route>,
}

/// Looks a route up in its places, and if others stand there, where all are.
#[inline(always)]
fn straight<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    key: &Key<5>,
) -> Result<Option<Found<'t>>, Reason> {
    let at = place_v6(&key.0, config.place_key);
    let stands = |at| tables.straight_v6(at).filter(|place| key.is(&place.key));
    let (terms, src, dst, route) = match stands(at).or_else(|| stands(other_place(at))) {
        Some(place) => (&place.terms, &place.src, &place.dst, None),
        None => {
            let key: &RouteKeyV6 = zerocopy::transmute_ref!(&key.0);
            let Some(route) = tables.route_v6(key) else { return Ok(None) };
            (&route.terms, &route.src, &route.dst, Some(route))
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
    key: &Key<5>,
    found: &Found<'t>,
) -> Result<&'t Route, Reason> {
    match found.route {
        Some(route) => Ok(route),
        None => find(tables, config, key)?.ok_or(Reason::NoRoute),
    }
}

/// `None` is for the general path.
#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    found: &Found<'t>,
    old: &Ipv6Udp,
    side: Side,
) -> Option<Plan<'t>> {
    // RFC 8200 §8.1: there must be a checksum; without it there is nothing to adjust.
    if found.terms.flags & FLAG_V6 == 0 || old.udp.checksum == 0 {
        return None;
    }
    let datagram = Datagram {
        ingress: frame.ingress(),
        ip_bytes: HEADER_BYTES,
        udp: old.udp,
        hop_limit: old.ip.hop_limit,
    };
    plan(tables, found.terms, &datagram, &old.eth.dst, side)
}

/// `kept` are version and traffic class, and the old hop limit.
#[inline(always)]
fn write(new: &mut Ipv6Udp, (class, hop_limit): (u16, u8), found: &Found<'_>, plan: &Plan<'_>) {
    plan.write_link(&mut new.eth);
    new.eth.ether_type = ether_type::IPV6;
    let version_class_flow: u32 = zerocopy::transmute!([class, 0]);
    let hops = u16::from_ne_bytes([PROTOCOL_UDP, hop_limit - 1]);
    let length_hops: u32 = zerocopy::transmute!([plan.udp_len, hops]);
    let ([a, b, c, d], [e, f, g, h]) = (*found.src, *found.dst);
    new.ip = zerocopy::transmute!([version_class_flow, length_hops, a, b, c, d, e, f, g, h]);
    plan.write_udp(&mut new.udp);
}
