//! What is measured: bindings and the frames that meet them, or meet nothing. Loads no program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_bench_ebpf::stage::{self, Template};
use relay_common::abi::{NEXT_HOP_VALID, NextHop, Policer, Reason, TAGS_MAX, Tag};
use relay_common::addr::{
    ClientAddr, Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport,
};
use relay_common::route::{self, Binding, Entry, Leg, Stamp};
use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};
use zerocopy::FromBytes as _;

use super::frame::{Datagram, TCP, UDP, channel_data};

/// The interface that a test run's frames come in by: loopback. Nothing is sent there.
const INTERFACE: u32 = 1;
/// The epoch of all routes.
pub(super) const EPOCH: u16 = 1;
/// The listening port. The yardstick has it as a literal.
pub(super) const LISTEN_PORT: u16 = 3478;
const RELAYED_PORT: u16 = 50_000;
const CHANNEL: u16 = 0x4001;
/// A channel that nobody bound.
const OTHER_CHANNEL: u16 = 0x4002;
/// The first client's address, and the first peer's; of an IPv6 address the last four bytes.
const CLIENTS: u32 = u32::from_be_bytes([10, 64, 0, 0]);
const PEERS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
/// Allocation slots in use; more bindings share them, as an allocation's channels do.
const SLOTS: u32 = relay_common::abi::SLOTS_MAX;
const HOP_LIMIT: u8 = 64;
/// A second.
const BURST_NS: u64 = 1_000_000_000;
/// Where frames come from, where they go to, and what they go to.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// Addresses of a binding.
struct Ends {
    client: SocketAddr,
    server: SocketAddr,
    relayed: SocketAddr,
    peer: SocketAddr,
}

impl Ends {
    fn of(family: Family, index: u32) -> Self {
        let at = |site: u16, number: u32| match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from(number)),
            Family::V6 => {
                let prefix = u128::from(0x2001_0DB8_0000_u64 | u64::from(site)) << 80;
                Ipv6Addr::from(prefix | u128::from(number)).into()
            }
        };
        let ours = at(1, u32::from_be_bytes([192, 0, 2, 1]));
        Self {
            client: (at(2, CLIENTS + index), 40_001).into(),
            server: (ours, LISTEN_PORT).into(),
            relayed: (ours, RELAYED_PORT).into(),
            peer: (at(3, PEERS + index), 7_000).into(),
        }
    }
}

/// The only next hop: back to where frames come from.
pub(super) fn next_hop() -> NextHop {
    let words = |[a, b, c, d, e, f]: [u8; 6]| [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
    NextHop {
        dst_mac: words(NEXT_MAC),
        src_mac: words(OUR_MAC),
        ifindex: INTERFACE,
        port: 0,
        mtu: 1500,
        tags: [Tag::default(); TAGS_MAX],
        tag_count: 0,
        state: NEXT_HOP_VALID,
    }
}

/// Limits of packets and of bytes that no run reaches: a nanosecond for a packet, less for a byte.
/// What it costs to look is in every figure.
pub(super) fn policer() -> Policer {
    Policer { packet_cost: 1, byte_cost: 1, burst_ns: BURST_NS, ..Policer::default() }
}

/// Ports of the relayed range, as a configuration has them.
pub(super) const RELAYED_PORTS: (u16, u16) = (49_152, 65_535);

/// Both routes of a live binding.
pub(super) fn routes(family: Family, index: u32) -> [Entry; 2] {
    compose(family, index, u64::MAX)
}

/// Both routes of a binding that has expired; its `index` is one that no live binding has.
pub(super) fn expired_routes(family: Family, index: u32) -> [Entry; 2] {
    compose(family, index, 1)
}

fn compose(family: Family, index: u32, deadline_ns: u64) -> [Entry; 2] {
    let Ends { client, server, relayed, peer } = Ends::of(family, index);
    let leg = Leg { deadline_ns, next_hop: 0 };
    let binding = Binding {
        five_tuple: FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr::new(client),
            server: ServerAddr::new(server),
        },
        relayed: RelayedAddr::new(relayed),
        peer: PeerAddr::new(peer),
        channel: ChannelNumber::new(CHANNEL, ChannelRange::Rfc8656)
            .expect("a constant in the range of RFC 8656 §12"),
        stamp: Stamp { slot: slot(index), epoch: EPOCH, policed: true },
        to_peer: leg,
        to_client: leg,
    };
    route::channel(&binding).expect("all addresses are of one family")
}

/// The slot that a binding is counted in.
fn slot(index: u32) -> u32 {
    index % SLOTS
}

/// How many slots `live` bindings are counted in.
pub(super) fn slots(live: u32) -> u32 {
    live.min(SLOTS)
}

/// One way through the program.
#[derive(Debug)]
pub(super) struct Path {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// The wire's family.
    pub(super) family: Family,
    /// Bytes of application data.
    pub(super) payload: u16,
    /// What Turnpike counts the packet under.
    pub(super) reason: Reason,
    /// What goes in.
    pub(super) frame: Vec<u8>,
    /// What comes out of a relay: the same when it is passed.
    pub(super) out: Vec<u8>,
    /// Bindings that a run picks from.
    picks: u32,
}

impl Path {
    /// A relay transmits the packet.
    pub(super) fn is_relayed(&self) -> bool {
        matches!(self.reason, Reason::ClientToPeer | Reason::PeerToClient)
    }

    /// The paths of relayed packets; the first two are the headline's when `payloads` begins with
    /// its payload.
    pub(super) fn relayed(payloads: &[u16], live: u32) -> Vec<Self> {
        let mut paths = Vec::new();
        for family in [Family::V4, Family::V6] {
            for &payload in payloads {
                paths.push(Self::to_peer(family, payload, live));
                paths.push(Self::to_client(family, payload, live));
            }
        }
        paths
    }

    fn to_peer(family: Family, payload: u16, live: u32) -> Self {
        let name = match family {
            Family::V4 => "ipv4_client_to_peer",
            Family::V6 => "ipv6_client_to_peer",
        };
        let (ends, data) = (Ends::of(family, 0), data(payload));
        let arrives = arriving(ends.client, ends.server, channel_data(CHANNEL, &data));
        let out = leaving(ends.relayed, ends.peer, data).bytes();
        let (reason, frame) = (Reason::ClientToPeer, arrives.bytes());
        Self { name, family, payload, reason, frame, out, picks: live }
    }

    fn to_client(family: Family, payload: u16, live: u32) -> Self {
        let name = match family {
            Family::V4 => "ipv4_peer_to_client",
            Family::V6 => "ipv6_peer_to_client",
        };
        let (ends, data) = (Ends::of(family, 0), data(payload));
        let out = leaving(ends.server, ends.client, channel_data(CHANNEL, &data)).bytes();
        let (reason, frame) = (Reason::PeerToClient, arriving(ends.peer, ends.relayed, data));
        Self { name, family, payload, reason, frame: frame.bytes(), out, picks: live }
    }

    /// Paths of packets that go up to userspace, which all of a host's other traffic does.
    pub(super) fn passed(payload: u16, live: u32) -> Vec<Self> {
        let Ends { client, server, .. } = Ends::of(Family::V4, 0);
        let path = |name, reason, datagram: &Datagram| Self {
            name,
            family: Family::V4,
            payload,
            reason,
            frame: datagram.bytes(),
            out: datagram.bytes(),
            picks: 1,
        };
        let ask = arriving(client, server, channel_data(CHANNEL, &data(payload)));
        let stun = Datagram { payload: binding_request(payload), ..ask.clone() };
        let unbound = channel_data(OTHER_CHANNEL, &data(payload));
        let unbound = Datagram { payload: unbound, ..ask.clone() };
        let expired = Datagram { src: Ends::of(Family::V4, live).client, ..ask.clone() };
        let elsewhere = Datagram { dst: (server.ip(), 53).into(), ..ask.clone() };
        let tcp = Datagram { protocol: TCP, ..ask };
        vec![
            path("pass_stun", Reason::NotTurn, &stun),
            path("pass_no_route", Reason::NoRoute, &unbound),
            path("pass_expired", Reason::Expired, &expired),
            path("pass_other_port", Reason::NotOurPort, &elsewhere),
            path("pass_tcp", Reason::NotUdp, &tcp),
        ]
    }

    /// What the stage restores: the frame as it is.
    pub(super) fn template(&self) -> Template {
        let (head, _) = self
            .frame
            .split_first_chunk::<{ stage::HEAD_BYTES }>()
            .expect("--payload keeps a frame longer than what is restored");
        let (first, words) = head.split_first_chunk::<2>().expect("HEAD_BYTES is more than two");
        let words = <[u32; stage::WORDS]>::read_from_bytes(words).expect("HEAD_BYTES - 2 bytes");
        let source_word = match self.family {
            Family::V4 => stage::SOURCE_WORD_V4,
            Family::V6 => stage::SOURCE_WORD_V6,
        };
        Template {
            random: 1,
            source: u32::from_be(words[usize::from(source_word)]),
            picks: 1,
            frame_bytes: u16::try_from(self.frame.len()).expect("a frame of one page at most"),
            source_word,
            first: u16::from_ne_bytes(*first),
            reserved: 0,
            words,
        }
    }

    /// What the stage restores: the frame from any live binding's source address. The same seed,
    /// which is not 0, picks the same bindings.
    pub(super) fn picking_template(&self, seed: u32) -> Template {
        Template { random: seed, picks: self.picks, ..self.template() }
    }
}

fn arriving(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Datagram {
    let macs = [OUR_MAC, ROUTER_MAC];
    Datagram { macs, src, dst, hop_limit: HOP_LIMIT, protocol: UDP, payload }
}

fn leaving(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Datagram {
    let macs = [NEXT_MAC, OUR_MAC];
    Datagram { macs, src, dst, hop_limit: HOP_LIMIT - 1, protocol: UDP, payload }
}

/// Application data.
fn data(bytes: u16) -> Vec<u8> {
    (0..bytes).map(|at| at.wrapping_mul(37).to_be_bytes()[1]).collect()
}

/// A STUN Binding request of some bytes (RFC 8489 §5), 20 or more.
fn binding_request(bytes: u16) -> Vec<u8> {
    let mut message = data(bytes);
    let [high, low] = (bytes - 20).to_be_bytes();
    message[..8].copy_from_slice(&[0, 1, high, low, 0x21, 0x12, 0xA4, 0x42]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes as _;

    #[test]
    fn a_template_is_the_frames_head_and_knows_the_source() {
        for path in Path::relayed(&[64], 9).iter().chain(&Path::passed(64, 9)) {
            let template = path.template();
            let head = [&template.first.to_ne_bytes(), template.words.as_bytes()].concat();
            assert_eq!(path.frame[..stage::HEAD_BYTES], head, "{}", path.name);
            let first = match path.reason {
                Reason::PeerToClient => PEERS,
                Reason::Expired => CLIENTS + 9,
                _ => CLIENTS,
            };
            assert_eq!(template.source, first, "{}", path.name);
            assert_eq!(path.picking_template(1).picks, if path.is_relayed() { 9 } else { 1 });
        }
    }

    #[test]
    fn relaying_takes_or_adds_a_channel_header() {
        for path in Path::relayed(&[64, 200], 1) {
            let change = if path.reason == Reason::ClientToPeer { -4 } else { 4 };
            assert_eq!(path.frame.len().checked_add_signed(change), Some(path.out.len()));
        }
    }
}
