//! The IPv4 wire (RFC 791): reads, proves, rewrites. RFC 8656 §14 says what is copied.

use relay_common::abi::{Config, Reason, RouteKeyV4};
use relay_common::wire::checksum;
use relay_common::wire::net::{
    IPV4_BYTES, Ipv4, Ipv4Channel, Ipv4Udp, PROTOCOL_UDP, be16, ether_type,
};

use crate::decide::{Datagram, Plan, STRIP, Side, WRAP, arrival, commit, lengths, plan};
use crate::{Frame, Tables, Verdict};

const HEADER_BYTES: u16 = 20;
const _: () = assert!(IPV4_BYTES == HEADER_BYTES as usize);

/// Version 4, no options.
const VERSION_IHL: u8 = 0x45;
/// MF and the fragment offset: everything but the reserved bit and DF.
const FRAGMENT_MASK: u16 = be16(0x3FFF);
/// What one hop less adds to the header checksum's sum: the TTL is the first byte of its word.
const HOP_DELTA: u16 = !u16::from_ne_bytes([1, 0]);

#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
) -> Result<Verdict, Reason> {
    let old = frame.headers::<Ipv4Udp>().ok_or(Reason::Truncated)?;
    check(frame.bytes(), old)?;
    let load = || frame.headers::<Ipv4Channel>().map(|headers| headers.channel);
    let side = arrival(config, &old.udp, load)?;
    // One straight path for each side: the verifier follows values better than their merging.
    match side {
        Side::Listening(_) => {
            let (ip, plan) = decide(frame, tables, config, old, side)?;
            commit(frame, tables, &plan, STRIP, |new: &mut Ipv4Udp| write(new, ip, &plan))
        }
        Side::Relayed => {
            let (ip, plan) = decide(frame, tables, config, old, side)?;
            commit(frame, tables, &plan, WRAP, |new: &mut Ipv4Channel| {
                write(&mut new.outer, ip, &plan);
                plan.write_channel(&mut new.channel);
            })
        }
    }
}

#[inline(always)]
fn check(frame_bytes: u32, old: &Ipv4Udp) -> Result<(), Reason> {
    if old.ip.version_ihl != VERSION_IHL {
        return Err(Reason::Ipv4Options);
    }
    if old.ip.fragment & FRAGMENT_MASK != 0 {
        return Err(Reason::Fragment);
    }
    if old.ip.protocol != PROTOCOL_UDP {
        return Err(Reason::NotUdp);
    }
    let total = u32::from(u16::from_be(old.ip.total_len));
    lengths(frame_bytes, total, HEADER_BYTES, u16::from_be(old.udp.len))
}

/// Looks the route up; gives the new IP header but for its addresses, and the rest as a plan.
#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    old: &Ipv4Udp,
    side: Side,
) -> Result<(Kept, Plan<'t>), Reason> {
    let key = RouteKeyV4 {
        src: zerocopy::transmute!(old.ip.src),
        dst: zerocopy::transmute!(old.ip.dst),
        src_port: old.udp.src,
        dst_port: old.udp.dst,
        channel: side.channel(),
        reserved: 0,
    };
    let route = tables.route_v4(&key).ok_or(Reason::NoRoute)?;
    let datagram = Datagram {
        ingress: frame.ingress(),
        ip_bytes: HEADER_BYTES,
        len: old.udp.len,
        checksum: old.udp.checksum,
        hop_limit: old.ip.ttl,
    };
    let plan = plan(tables, config, route, &datagram, side)?;
    let total_len = be16(u16::from_be(plan.udp_len) + HEADER_BYTES);
    let lengths = u32::from(total_len) + u32::from(!old.ip.total_len);
    let added = u32::from(route.ip_delta) + lengths + u32::from(HOP_DELTA);
    let checksum = checksum::update(old.ip.checksum, added);
    let Ipv4 { tos, id, fragment, .. } = old.ip;
    Ok((Kept { tos, total_len, id, fragment, checksum }, plan))
}

/// Fields of the new IP header that come from the old one.
struct Kept {
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    checksum: u16,
}

#[inline(always)]
fn write(new: &mut Ipv4Udp, kept: Kept, plan: &Plan<'_>) {
    plan.write_link(&mut new.eth);
    new.eth.ether_type = ether_type::IPV4;
    let Kept { tos, total_len, id, fragment, checksum } = kept;
    new.ip = Ipv4 {
        version_ihl: VERSION_IHL,
        tos,
        total_len,
        id,
        fragment,
        ttl: plan.hop_limit,
        protocol: PROTOCOL_UDP,
        checksum,
        src: zerocopy::transmute!(plan.route.src[0]),
        dst: zerocopy::transmute!(plan.route.dst[0]),
    };
    plan.write_udp(&mut new.udp);
}
