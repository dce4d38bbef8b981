//! The headers of a UDP packet as a sink sees them. Counts nothing, and changes no packet.
#![forbid(unsafe_code)]

use aya_ebpf::programs::XdpContext;
use relay_bench_ebpf::packet::{self, Common, Ends, SinkConfig};
use relay_common::wire::net::{
    Ethernet, Ipv4, Ipv4Udp, Ipv6, Ipv6Udp, PROTOCOL_UDP, Udp, be16, ether_type,
};

use crate::at;

/// More fragments, or an offset.
const FRAGMENT: u16 = be16(0x3FFF);

/// A UDP packet's headers.
pub(crate) struct Seen {
    pub(crate) ends: Ends,
    pub(crate) udp: Udp,
    /// The destination MAC address.
    pub(crate) mac: [u16; 3],
    /// Whether the IP header's hop limit and length are those of a packet that a host takes.
    pub(crate) is_whole: bool,
    /// Where the UDP header begins.
    pub(crate) at: usize,
}

impl Seen {
    /// Of an IPv4 packet without options that is no fragment.
    #[inline(always)]
    pub(crate) fn v4(ctx: &XdpContext) -> Option<Self> {
        let Ipv4Udp { eth, ip, udp } = at(ctx, 0)?;
        let plain = eth.ether_type == ether_type::IPV4
            && ip.version_ihl == 0x45
            && ip.fragment & FRAGMENT == 0
            && ip.protocol == PROTOCOL_UDP;
        if !plain {
            return None;
        }
        let mut ends = Ends { src_port: udp.src, dst_port: udp.dst, ..Ends::default() };
        (ends.src[0], ends.src[1]) = (ip.src[0], ip.src[1]);
        (ends.dst[0], ends.dst[1]) = (ip.dst[0], ip.dst[1]);
        let is_whole = packet::is_whole(ip.ttl, ip.total_len, size_of::<Ipv4>(), udp.len);
        let at = size_of::<Ethernet>() + size_of::<Ipv4>();
        Some(Self { ends, udp: *udp, mac: eth.dst, is_whole, at })
    }

    /// Of an IPv6 packet without extension headers.
    #[inline(always)]
    pub(crate) fn v6(ctx: &XdpContext) -> Option<Self> {
        let Ipv6Udp { eth, ip, udp } = at(ctx, 0)?;
        if eth.ether_type != ether_type::IPV6 || ip.next_header != PROTOCOL_UDP {
            return None;
        }
        let ends = Ends { src: ip.src, dst: ip.dst, src_port: udp.src, dst_port: udp.dst };
        let is_whole = packet::is_whole(ip.hop_limit, ip.payload_len, 0, udp.len);
        let at = size_of::<Ethernet>() + size_of::<Ipv6>();
        Some(Self { ends, udp: *udp, mac: eth.dst, is_whole, at })
    }

    /// Whether the end that all flows share is the run's.
    #[inline(always)]
    pub(crate) fn is_common(&self, config: &SinkConfig) -> bool {
        let (mine, expected) = (&self.ends, &config.ends);
        if config.common == Common::Source as u32 {
            mine.src_port == expected.src_port && same(&mine.src, &expected.src, config)
        } else {
            mine.dst_port == expected.dst_port && same(&mine.dst, &expected.dst, config)
        }
    }

    /// Whether they are a flow's, on their way to the run's sink.
    #[inline(always)]
    pub(crate) fn is_between(&self, ends: &Ends, config: &SinkConfig) -> bool {
        self.mac == config.mac
            && self.ends.src_port == ends.src_port
            && self.ends.dst_port == ends.dst_port
            && same(&self.ends.src, &ends.src, config)
            && same(&self.ends.dst, &ends.dst, config)
    }
}

#[inline(always)]
fn same(a: &[u16; 8], b: &[u16; 8], config: &SinkConfig) -> bool {
    let differ = |from: usize, to: usize| (from..to).fold(0, |all, i| all | (a[i] ^ b[i]));
    differ(0, 2) == 0 && (config.family == 4 || differ(2, 8) == 0)
}
