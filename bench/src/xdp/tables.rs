//! What Turnpike's maps hold: bindings, next hops, limits. The frames that meet them are laid out
//! elsewhere (`path`, `shapes`, `indications`); loads nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_common::abi::{
    LinkKey, NEXT_HOP_VALID, NextHop, Policer, SLOTS_MAX, STATIONS_MAX, Station, TAGS_MAX, Tag,
};
use relay_common::addr::{
    ClientAddr, Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport,
};
use relay_common::route::{self, Binding, Entry, HairpinEnd, Leg, PermissionEntry, Stamp};
use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};
use relay_common::wire::net::{be16, ether_type};

/// The interface that a test run's frames come in by: loopback. Nothing is sent there.
const INTERFACE: u32 = 1;
/// The epoch of all routes.
pub(super) const EPOCH: u16 = 1;
/// Which routes share a place; a relay draws it by lot.
pub(super) const PLACE_KEY: u64 = 0x7E57_7E57_7E57_7E57;
/// The listening port. The yardstick has it as a literal.
pub(super) const LISTEN_PORT: u16 = 3478;
/// Ports of the relayed range, as a configuration has them.
pub(super) const RELAYED_PORTS: (u16, u16) = (49_152, 65_535);
/// The channel of every binding.
pub(super) const CHANNEL: u16 = 0x4001;
/// A channel that nobody bound.
pub(super) const OTHER_CHANNEL: u16 = 0x4002;
/// The channel of the hairpin's receiver.
pub(super) const RECEIVER_CHANNEL: u16 = 0x4003;
/// The VLAN that tagged frames come from and leave by.
pub(super) const VLAN: u16 = 7;
/// The first client's address, and the first peer's; of an IPv6 address the last four bytes.
const CLIENTS: u32 = u32::from_be_bytes([10, 64, 0, 0]);
const PEERS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
/// Where frames come from, where they go to, and what they go to.
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Indexes of next hops.
const UNTAGGED: u16 = 0;
const TAGGED: u16 = 1;
/// A second.
const BURST_NS: u64 = 1_000_000_000;

/// What a binding is for. Each set has ports of its own, on both sides.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Set {
    /// One family, nothing else to do.
    Straight,
    /// Client and peer of two families.
    Crossing,
    /// Behind a VLAN tag on both sides.
    Tagged,
    /// From one client to another.
    Hairpin,
    /// No channel: an allocation with a permission.
    Indications,
}

/// Addresses of a binding.
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) relayed: SocketAddr,
    pub(super) peer: SocketAddr,
}

impl Ends {
    /// A live binding's by its index, within a family.
    pub(super) fn straight(family: Family, index: u32) -> Self {
        Self::of(Set::Straight, [family; 2], index)
    }

    /// With the families of client and peer.
    pub(super) fn of(set: Set, [client, peer]: [Family; 2], index: u32) -> Self {
        let ours = |family| at(family, 1, u32::from_be_bytes([192, 0, 2, 1]));
        Self {
            client: (at(client, 2, CLIENTS + index), 40_001 + set as u16).into(),
            server: (ours(client), LISTEN_PORT).into(),
            relayed: (ours(peer), 50_000 + set as u16).into(),
            peer: (at(peer, 3, PEERS + index), 7_000).into(),
        }
    }

    fn five_tuple(&self) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr::new(self.client),
            server: ServerAddr::new(self.server),
        }
    }
}

/// An address of a site; of an IPv6 address `number` is the last four bytes.
fn at(family: Family, site: u16, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number).into(),
        Family::V6 => {
            let prefix = u128::from(0x2001_0DB8_0000_u64 | u64::from(site)) << 80;
            Ipv6Addr::from(prefix | u128::from(number)).into()
        }
    }
}

/// The next hop of everything untagged: back to where frames come from.
pub(super) fn next_hop() -> NextHop {
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

fn tags() -> [Tag; TAGS_MAX] {
    [Tag { protocol: ether_type::VLAN, id: be16(VLAN) }, Tag::default()]
}

/// More than [`other_routes`] gives of a wire's family.
pub(super) const OTHER_ROUTES_MAX: u32 = 16;

/// All next hops, by their indexes.
pub(super) fn next_hops() -> [(u16, NextHop); 2] {
    let tagged = NextHop { tags: tags(), tag_count: 1, ..next_hop() };
    [(UNTAGGED, next_hop()), (TAGGED, tagged)]
}

/// The interface that frames come in by, and its place.
pub(super) fn station() -> (u32, Station) {
    (INTERFACE % STATIONS_MAX, Station { ifindex: INTERFACE, mac: words(OUR_MAC), reserved: 0 })
}

/// What tagged frames are taken from, and the interface that they are taken as.
pub(super) fn link() -> (LinkKey, Station) {
    (LinkKey::new(INTERFACE, tags()), station().1)
}

fn words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// Limits of packets and of bytes that no run reaches: a nanosecond for a packet, as much for 32
/// bytes. A cost that is rounded to nothing is not charged, and what charging costs is in every
/// figure.
pub(super) fn policer() -> Policer {
    Policer { packet_cost: 1, byte_cost: 1 << 11, burst_ns: BURST_NS, ..Policer::default() }
}

/// What an answered Binding request costs its source, and how far ahead that may be, nanoseconds;
/// no run reaches it.
pub(super) const ANSWER_COST: (u64, u64) = (1, BURST_NS);

/// Both routes of a live binding.
pub(super) fn routes(family: Family, index: u32) -> [Entry; 2] {
    channel(&Ends::straight(family, index), index, u64::MAX, UNTAGGED)
}

/// Both routes of a binding that has expired; its `index` is one that no live binding has.
pub(super) fn expired_routes(family: Family, index: u32) -> [Entry; 2] {
    channel(&Ends::straight(family, index), index, 1, UNTAGGED)
}

/// The routes of every other set: one binding each, whatever the number of live ones.
pub(super) fn other_routes() -> Vec<Entry> {
    let (v4, v6) = (Family::V4, Family::V6);
    let pairs = [
        (Set::Crossing, [v4, v6], UNTAGGED),
        (Set::Crossing, [v6, v4], UNTAGGED),
        (Set::Tagged, [v4, v4], TAGGED),
    ];
    let pairs = pairs.map(|(set, families, next_hop)| {
        channel(&Ends::of(set, families, 0), 0, u64::MAX, next_hop)
    });
    let stun = [v4, v6].into_iter().flat_map(|family| {
        let ends = allocation(family);
        let relayed = RelayedAddr::new(ends.relayed);
        let send = route::send(&ends.five_tuple(), relayed, stamp(0), u64::MAX);
        let answer = route::answer(ServerAddr::new(ends.server), EPOCH);
        [send.expect("it is on UDP"), answer]
    });
    pairs.into_iter().flatten().chain([hairpin()]).chain(stun).collect()
}

/// The ends of a family's allocation without a channel.
pub(super) fn allocation(family: Family) -> Ends {
    Ends::of(Set::Indications, [family; 2], 0)
}

/// The permissions of allocations without a channel.
pub(super) fn permissions() -> [PermissionEntry; 2] {
    [Family::V4, Family::V6].map(|family| {
        let ends = allocation(family);
        let (relayed, peer) = (RelayedAddr::new(ends.relayed), ends.peer.ip());
        let hops = [UNTAGGED; 2];
        route::permission(&ends.five_tuple(), relayed, peer, stamp(0), u64::MAX, hops)
            .expect("relayed address and peer are of one family")
    })
}

fn channel(ends: &Ends, index: u32, deadline_ns: u64, next_hop: u16) -> [Entry; 2] {
    let leg = Leg { deadline_ns, next_hop };
    let binding = Binding {
        five_tuple: ends.five_tuple(),
        relayed: RelayedAddr::new(ends.relayed),
        peer: PeerAddr::new(ends.peer),
        channel: number(CHANNEL),
        stamp: stamp(index),
        to_peer: leg,
        to_client: leg,
    };
    route::channel(&binding).expect("relayed address and peer are of one family")
}

/// The ends of a hairpin: of the sender and of the receiver.
pub(super) fn hairpin_ends() -> [Ends; 2] {
    [0, 1].map(|index| Ends::of(Set::Hairpin, [Family::V4; 2], index))
}

fn hairpin() -> Entry {
    let [from, to] = hairpin_ends();
    let end = |ends: &Ends, channel, index| HairpinEnd {
        five_tuple: ends.five_tuple(),
        channel: number(channel),
        stamp: stamp(index),
    };
    let leg = Leg { deadline_ns: u64::MAX, next_hop: UNTAGGED };
    let (from, to) = (end(&from, CHANNEL, 0), end(&to, RECEIVER_CHANNEL, 1));
    route::hairpin(&from, &to, leg).expect("both are on UDP")
}

fn number(channel: u16) -> ChannelNumber {
    ChannelNumber::new(channel, ChannelRange::Rfc8656)
        .expect("a constant in the range of RFC 8656 §12")
}

/// Of the slot that a binding is counted in: more bindings than slots share them, as an
/// allocation's channels do.
fn stamp(index: u32) -> Stamp {
    Stamp { slot: index % SLOTS_MAX, epoch: EPOCH, policed: true }
}

/// How many slots `live` bindings are counted in.
pub(super) fn slots(live: u32) -> u32 {
    live.min(SLOTS_MAX)
}

/// How many slots need limits: those of live bindings, and of the hairpin's receiver.
pub(super) fn policed_slots(live: u32) -> u32 {
    slots(live).max(2)
}
