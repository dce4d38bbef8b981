//! The IPv6 wire (RFC 8200): reads, proves, rewrites. RFC 8656 §14 says what is copied.

use relay_common::abi::{Config, Reason, RouteKeyV6};
use relay_common::wire::net::{IPV6_BYTES, Ipv6Channel, Ipv6Udp, PROTOCOL_UDP, be16, ether_type};

use crate::decide::{Datagram, Plan, STRIP, Side, WRAP, arrival, commit, lengths, plan};
use crate::{Frame, Tables, Verdict};

const HEADER_BYTES: u16 = 40;
const _: () = assert!(IPV6_BYTES == HEADER_BYTES as usize);

/// The version's bits in the first word, and its number.
const VERSION_MASK: u16 = be16(0xF000);
const VERSION: u16 = be16(0x6000);

#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
) -> Result<Verdict, Reason> {
    let old = frame.headers::<Ipv6Udp>().ok_or(Reason::Truncated)?;
    check(frame.bytes(), old)?;
    let load = || frame.headers::<Ipv6Channel>().map(|headers| headers.channel);
    let side = arrival(config, &old.udp, load)?;
    // Version, traffic class and flow label.
    let kept = old.ip.version_class_flow;
    // One straight path for each side: the verifier follows values better than their merging.
    match side {
        Side::Listening(_) => {
            let plan = decide(frame, tables, config, old, side)?;
            commit(frame, tables, &plan, STRIP, |new: &mut Ipv6Udp| write(new, kept, &plan))
        }
        Side::Relayed => {
            let plan = decide(frame, tables, config, old, side)?;
            commit(frame, tables, &plan, WRAP, |new: &mut Ipv6Channel| {
                write(&mut new.outer, kept, &plan);
                plan.write_channel(&mut new.channel);
            })
        }
    }
}

#[inline(always)]
fn check(frame_bytes: u32, old: &Ipv6Udp) -> Result<(), Reason> {
    if old.ip.version_class_flow[0] & VERSION_MASK != VERSION {
        return Err(Reason::NotIp);
    }
    if old.ip.next_header != PROTOCOL_UDP {
        return Err(Reason::NotUdp);
    }
    let total = u32::from(u16::from_be(old.ip.payload_len)) + u32::from(HEADER_BYTES);
    lengths(frame_bytes, total, HEADER_BYTES, u16::from_be(old.udp.len))
}

#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    config: &Config,
    old: &Ipv6Udp,
    side: Side,
) -> Result<Plan<'t>, Reason> {
    let key = RouteKeyV6 {
        src: words(&old.ip.src),
        dst: words(&old.ip.dst),
        src_port: old.udp.src,
        dst_port: old.udp.dst,
        channel: side.channel(),
        reserved: 0,
    };
    let route = tables.route_v6(&key).ok_or(Reason::NoRoute)?;
    // RFC 8200 §8.1: there must be one; without it there is nothing to adjust.
    if old.udp.checksum == 0 {
        return Err(Reason::ChecksumMissing);
    }
    let datagram = Datagram {
        ingress: frame.ingress(),
        ip_bytes: HEADER_BYTES,
        len: old.udp.len,
        checksum: old.udp.checksum,
        hop_limit: old.ip.hop_limit,
    };
    plan(tables, config, route, &datagram, side)
}

/// An address in the words of a key.
#[inline(always)]
fn words(address: &[u16; 8]) -> [u32; 4] {
    zerocopy::transmute!(*address)
}

#[inline(always)]
fn write(new: &mut Ipv6Udp, version_class_flow: [u16; 2], plan: &Plan<'_>) {
    plan.write_link(&mut new.eth);
    new.eth.ether_type = ether_type::IPV6;
    new.ip.version_class_flow = version_class_flow;
    new.ip.payload_len = plan.udp_len;
    new.ip.next_header = PROTOCOL_UDP;
    new.ip.hop_limit = plan.hop_limit;
    new.ip.src = zerocopy::transmute!(plan.route.src);
    new.ip.dst = zerocopy::transmute!(plan.route.dst);
    plan.write_udp(&mut new.udp);
}
