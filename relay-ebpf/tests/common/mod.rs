//! Frames as plain bytes, a host's frame and tables, and an independent judge of checksums.
//!
//! Builds and checks with code of its own: nothing here uses the types that the step works with to
//! lay out or to verify a packet.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]
#![allow(clippy::unwrap_used, reason = "only tests use it, and each number here fits")]

mod buckets;
mod entries;
mod places;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use relay_common::abi::{
    ABI_VERSION, BUDGETS_MAX, Config, Count, Direction, LISTEN_PORTS_MAX, LinkKey, NEXT_HOP_VALID,
    NextHop, Permission, PermissionKeyV4, PermissionKeyV6, Reason, Route, RouteKeyV4, RouteKeyV6,
    STATIONS_MAX, Station, StraightV4, StraightV6, TAGS_MAX, Tag,
};
use relay_common::addr::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use relay_common::route::{self, Binding, Entry, HairpinEnd, Leg, Stamp};
use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};
use relay_ebpf::{FibQuery, Frame, Leaving, Policing, Tables, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use buckets::*;
pub use places::HostPlaces;

/// The interface that frames arrive on: the one that BPF_PROG_TEST_RUN uses.
pub const INGRESS: u32 = 1;
/// Another interface, index [`PORT`] in `PORTS`.
pub const EGRESS: u32 = 77;
pub const PORT: u32 = 0;
/// The epoch of valid routes.
pub const EPOCH: u16 = 5;
/// The host's clock; the kernel's is somewhere between [`PAST`] and [`FUTURE`] as well.
pub const NOW: u64 = 1_000_000_000;
pub const PAST: u64 = 1;
pub const FUTURE: u64 = u64::MAX / 2;
/// The slot of every route.
pub const SLOT: u32 = 3;
/// The slot of a hairpin's receiver.
pub const PEER_SLOT: u32 = 4;
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// A datagram to build a frame from.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
    /// DSCP and ECN.
    pub class: u8,
    pub hop_limit: u8,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv4 identification.
    pub id: u16,
    /// IPv6 flow label.
    pub flow: u32,
    /// Without it the field is zero.
    pub checksum: bool,
    /// Bytes behind the IP packet.
    pub tail: usize,
    /// VLAN tags: protocol, then priority and identifier.
    pub tags: Vec<(u16, u16)>,
}

impl Datagram {
    pub fn new(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            payload,
            class: 0xB9,
            hop_limit: 64,
            fragment: 0x4000,
            id: 0x1D1D,
            flow: 0xABCDE,
            checksum: true,
            tail: 0,
            tags: Vec::new(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [OUR_MAC, CLIENT_MAC].concat();
        let udp_len = u16::try_from(8 + self.payload.len()).unwrap_or(u16::MAX);
        let mut pseudo = Vec::new();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00, 0x45, self.class]);
                frame.extend(udp_len.saturating_add(20).to_be_bytes());
                frame.extend(self.id.to_be_bytes());
                frame.extend(self.fragment.to_be_bytes());
                frame.extend([self.hop_limit, 17, 0, 0]);
                pseudo.extend([src.octets(), dst.octets()].concat());
                frame.extend(&pseudo);
                let sum = !sum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                pseudo.extend([0, 17]);
                pseudo.extend(udp_len.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xDD]);
                let first = 6 << 28 | u32::from(self.class) << 20 | self.flow;
                frame.extend(first.to_be_bytes());
                frame.extend(udp_len.to_be_bytes());
                frame.extend([17, self.hop_limit]);
                pseudo.extend([src.octets(), dst.octets()].concat());
                frame.extend(&pseudo);
                pseudo.extend(u32::from(udp_len).to_be_bytes());
                pseudo.extend([0, 0, 0, 17]);
            }
            _ => panic!("families differ: {self:?}"),
        }
        let udp = frame.len();
        frame.extend(self.src.port().to_be_bytes());
        frame.extend(self.dst.port().to_be_bytes());
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(&self.payload);
        if self.checksum {
            pseudo.extend(&frame[udp..]);
            let sum = match !sum(&pseudo) {
                0 => 0xFFFF,
                sum => sum,
            };
            frame[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
        }
        frame.resize(frame.len() + self.tail, 0xEE);
        let tags: Vec<u8> = self
            .tags
            .iter()
            .flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat())
            .collect();
        frame.splice(12..12, tags);
        frame
    }

    /// What a relay makes of it on the other wire, but for its addresses: the traffic class stays,
    /// the rest is what the other wire has.
    pub fn crossed(self) -> Self {
        match self.src {
            SocketAddr::V4(_) => Self { id: 0, fragment: 0x4000, ..self },
            SocketAddr::V6(_) => Self { flow: 0, ..self },
        }
    }
}

/// A ChannelData message.
pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&number.to_be_bytes()[..], &length.to_be_bytes()[..], data].concat()
}

/// The ones' complement sum of big-endian words.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum.try_into().unwrap()
}

/// Recomputes every checksum of a frame from scratch.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let tags = frame[12..].chunks(4).take_while(|tag| matches!(tag[..2], [0x81, 0] | [0x88, 0xA8]));
    let frame = &frame[4 * tags.count()..];
    let pair = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (ip_holds, end, udp, mut pseudo) = match pair(12) {
        0x0800 => (sum(&frame[14..34]) == 0xFFFF, 14 + pair(16), 34, frame[26..34].to_vec()),
        0x86DD => (true, 54 + pair(18), 54, frame[22..54].to_vec()),
        other => panic!("EtherType {other:#06x}"),
    };
    if frame[udp + 6..udp + 8] == [0, 0] {
        return ip_holds && udp == 34;
    }
    pseudo.extend([0, 17]);
    pseudo.extend(&frame[udp + 4..udp + 6]);
    pseudo.extend(&frame[udp..end]);
    ip_holds && end == udp + pair(udp + 4) && sum(&pseudo) == 0xFFFF
}

/// A frame in the host's memory, with room in front.
pub struct HostFrame {
    /// Words, so that the frame starts at an even address.
    words: Vec<u16>,
    start: usize,
    end: usize,
    /// `move_head` fails.
    pub no_room: bool,
    /// `move_tail` fails.
    pub no_tailroom: bool,
    /// `at_mut` fails.
    pub no_write: bool,
}

const ROOM: usize = 256;

impl HostFrame {
    pub fn new(frame: &[u8]) -> Self {
        let end = ROOM + frame.len();
        let mut words = vec![0xDDDD; (end + ROOM).div_ceil(2)];
        words.as_mut_bytes()[ROOM..end].copy_from_slice(frame);
        let (no_room, no_tailroom, no_write) = (false, false, false);
        Self { words, start: ROOM, end, no_room, no_tailroom, no_write }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.words.as_bytes()[self.start..self.end]
    }
}

impl Frame for HostFrame {
    fn at<T: FromBytes + KnownLayout + Immutable>(&self, offset: u32) -> Option<&T> {
        let frame = self.as_bytes().get(offset.try_into().unwrap()..)?;
        T::ref_from_prefix(frame).ok().map(|(headers, _)| headers)
    }

    fn at_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self, offset: u32) -> Option<&mut T> {
        let frame = &mut self.words.as_mut_bytes()[self.start..self.end];
        let frame = frame.get_mut(offset.try_into().unwrap()..)?;
        if self.no_write {
            None
        } else {
            T::mut_from_prefix(frame).ok().map(|(headers, _)| headers)
        }
    }

    fn headers<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<&T> {
        self.at(0)
    }

    fn headers_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T> {
        self.at_mut(0)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.as_bytes().get(offset.try_into().unwrap()..)?.first_chunk().copied()
    }

    fn move_head(&mut self, by: i32) -> Option<()> {
        let start = self.start.checked_add_signed(by.try_into().ok()?)?;
        if self.no_room || start + 14 > self.end {
            return None;
        }
        self.start = start;
        Some(())
    }

    fn move_tail(&mut self, by: i32) -> Option<()> {
        let end = self.end.checked_add_signed((-by).try_into().ok()?)?;
        let room = self.words.len() * 2;
        if self.no_tailroom || end > room || self.start + 14 > end {
            return None;
        }
        if end > self.end {
            self.words.as_mut_bytes()[self.end..end].fill(0);
        }
        self.end = end;
        Some(())
    }

    fn bytes(&self) -> u32 {
        (self.end - self.start).try_into().unwrap()
    }

    fn ingress(&self) -> u32 {
        INGRESS
    }
}

/// Maps in the host's memory.
pub struct HostTables {
    pub config: Config,
    pub now_ns: u64,
    /// Changed by [`Self::insert`] and [`Self::remove`], as the appliance does it.
    pub v4: HashMap<RouteKeyV4, Route>,
    pub v6: HashMap<RouteKeyV6, Route>,
    pub places: HostPlaces,
    pub permissions_v4: HashMap<PermissionKeyV4, Permission>,
    pub permissions_v6: HashMap<PermissionKeyV6, Permission>,
    pub next_hops: Vec<NextHop>,
    pub ports: Vec<u32>,
    pub stations: HashMap<u32, Station>,
    pub links: HashMap<LinkKey, Station>,
    pub fib: HashMap<FibQuery, NextHop>,
    pub policers: HashMap<(u32, Direction), HostPolicer>,
    pub budgets: Vec<Cell<u64>>,
    /// Races for words that are lost.
    pub races: Cell<u32>,
    pub scratch: RefCell<Leaving>,
    /// The host's chance: three words, over and over. The kernel's is any.
    pub random: Cell<[u8; 12]>,
    pub counts: RefCell<HashMap<(u32, Direction), Count>>,
    pub reasons: RefCell<HashMap<Reason, Count>>,
    /// The last target of a redirect.
    pub aimed: Cell<Option<u32>>,
}

impl Tables for HostTables {
    type Word<'t> = HostWord<'t>;
    type Scratch<'t> = RefMut<'t, Leaving>;

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn route_v4(&self, key: &RouteKeyV4) -> Option<&Route> {
        self.v4.get(key)
    }
    fn route_v6(&self, key: &RouteKeyV6) -> Option<&Route> {
        self.v6.get(key)
    }
    fn straight_v4(&self, place: u32) -> Option<&StraightV4> {
        Some(self.places.stands_v4(place))
    }
    fn straight_v6(&self, place: u32) -> Option<&StraightV6> {
        Some(self.places.stands_v6(place))
    }
    fn permission_v4(&self, key: &PermissionKeyV4) -> Option<&Permission> {
        self.permissions_v4.get(key)
    }
    fn permission_v6(&self, key: &PermissionKeyV6) -> Option<&Permission> {
        self.permissions_v6.get(key)
    }
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.next_hops.get(usize::try_from(index).unwrap())
    }
    fn fib(&self, query: &FibQuery) -> Option<&NextHop> {
        self.fib.get(query)
    }
    fn station(&self, ifindex: u32) -> Option<&Station> {
        self.stations.get(&(ifindex % STATIONS_MAX))
    }
    fn link(&self, key: &LinkKey) -> Option<&Station> {
        self.links.get(key)
    }
    fn policer(&self, slot: u32, direction: Direction) -> Option<Policing<HostWord<'_>>> {
        let policer = self.policers.get(&(slot, direction))?;
        Some(Policing {
            packets_full_ns: HostWord(&policer.packets_full_ns, &self.races),
            bytes_full_ns: HostWord(&policer.bytes_full_ns, &self.races),
            packet_cost: policer.limits.packet_cost,
            byte_cost: policer.limits.byte_cost,
            burst_ns: policer.limits.burst_ns,
        })
    }
    fn budget(&self, index: u32) -> Option<HostWord<'_>> {
        self.budgets.get(usize::try_from(index).unwrap()).map(|word| HostWord(word, &self.races))
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
    fn scratch(&self) -> Option<RefMut<'_, Leaving>> {
        Some(self.scratch.borrow_mut())
    }
    fn random(&self) -> u32 {
        let [a, b, c, d, rest @ ..] = self.random.get();
        let [e, f, g, h, i, j, k, l] = rest;
        self.random.set([e, f, g, h, i, j, k, l, a, b, c, d]);
        u32::from_ne_bytes([a, b, c, d])
    }
    fn aim(&self, port: u32) -> bool {
        self.aimed.set(Some(port));
        self.ports.contains(&port)
    }
    fn note(&self, reason: Reason, bytes: u32) {
        add(self.reasons.borrow_mut().entry(reason).or_default(), bytes);
    }
    fn count(&self, slot: u32, direction: Direction, bytes: u32) {
        add(self.counts.borrow_mut().entry((slot, direction)).or_default(), bytes);
    }
}

fn add(count: &mut Count, bytes: u32) {
    count.packets += 1;
    count.bytes += u64::from(bytes);
}

/// What the tables of every test hold next hops for.
pub mod hop {
    /// The interface that the frame came in by.
    pub const SAME: u16 = 0;
    /// Another interface.
    pub const OTHER: u16 = 1;
    /// Known, not resolved.
    pub const UNRESOLVED: u16 = 2;
    /// An interface that no port stands for.
    pub const NO_PORT: u16 = 3;
    /// An MTU of 100 bytes.
    pub const NARROW: u16 = 4;
    /// An MTU of more than IPv4 can fill.
    pub const WIDE: u16 = 5;
    /// [`SAME`] and [`OTHER`] with the tags of [`super::ONE_TAG`] and [`super::TWO_TAGS`].
    pub const ONE_TAG: u16 = 6;
    pub const TWO_TAGS: u16 = 7;
    /// An index that no next hop can have.
    pub const ABSENT: u16 = u16::MAX;
    /// Every one.
    pub const ALL: [u16; 9] =
        [SAME, OTHER, UNRESOLVED, NO_PORT, NARROW, WIDE, ONE_TAG, TWO_TAGS, ABSENT];
}

/// Words of a MAC address.
pub fn mac(bytes: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = bytes;
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// What leaves by [`hop::ONE_TAG`] and [`hop::TWO_TAGS`]; frames with these tags are taken in.
pub const ONE_TAG: &[(u16, u16)] = &[(0x8100, 0x0FFE)];
pub const TWO_TAGS: &[(u16, u16)] = &[(0x88A8, 0x0123), (0x8100, 7)];

/// Tags as they stand in maps.
pub fn tags(tags: &[(u16, u16)]) -> [Tag; TAGS_MAX] {
    let mut all = [Tag::default(); TAGS_MAX];
    for (tag, (protocol, id)) in all.iter_mut().zip(tags) {
        *tag = Tag { protocol: protocol.to_be(), id: id.to_be() };
    }
    all
}

/// An interface with our MAC address.
pub fn station(ifindex: u32) -> Station {
    Station { ifindex, mac: mac(OUR_MAC), reserved: 0 }
}

/// Tables with next hops and a configuration, without routes.
pub fn tables() -> HostTables {
    let same = NextHop {
        dst_mac: mac(ROUTER_MAC),
        src_mac: mac(OUR_MAC),
        ifindex: INGRESS,
        port: 63,
        mtu: 1500,
        tags: [Tag::default(); TAGS_MAX],
        tag_count: 0,
        state: NEXT_HOP_VALID,
    };
    let mut listen_ports = [0; LISTEN_PORTS_MAX];
    listen_ports[0] = 5349u16.to_be();
    listen_ports[1] = 3478u16.to_be();
    HostTables {
        config: Config {
            abi_version: ABI_VERSION,
            epoch: EPOCH,
            relayed_first: 49152,
            relayed_last: 65534,
            channel_last: ChannelRange::Rfc8656.last(),
            listen_ports_count: 2,
            listen_ports,
            place_key: 0x5EED,
            ..Config::default()
        },
        now_ns: NOW,
        v4: HashMap::new(),
        v6: HashMap::new(),
        places: HostPlaces::default(),
        next_hops: vec![
            same,
            NextHop { ifindex: EGRESS, port: PORT, ..same },
            NextHop { state: 0, ..same },
            NextHop { ifindex: EGRESS, port: PORT + 1, ..same },
            NextHop { mtu: 100, ..same },
            NextHop { mtu: 1 << 20, ..same },
            NextHop { tags: tags(ONE_TAG), tag_count: 1, ..same },
            NextHop { tags: tags(TWO_TAGS), tag_count: 2, ifindex: EGRESS, port: PORT, ..same },
        ],
        permissions_v4: HashMap::new(),
        permissions_v6: HashMap::new(),
        ports: vec![PORT],
        stations: HashMap::from([(INGRESS, station(INGRESS))]),
        links: [ONE_TAG, TWO_TAGS]
            .map(|all| (LinkKey::new(INGRESS, tags(all)), station(INGRESS)))
            .into(),
        fib: HashMap::new(),
        policers: HashMap::new(),
        races: Cell::new(0),
        scratch: RefCell::default(),
        random: Cell::new([0; 12]),
        budgets: vec![Cell::new(0); BUDGETS_MAX.try_into().unwrap()],
        counts: RefCell::default(),
        reasons: RefCell::default(),
        aimed: Cell::new(None),
    }
}

/// A binding's addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub relayed: SocketAddr,
    pub peer: SocketAddr,
}

impl Ends {
    pub fn v4() -> Self {
        Self {
            client: ([192, 0, 2, 1], 40001).into(),
            server: ([10, 0, 0, 1], 3478).into(),
            relayed: ([10, 0, 0, 1], 50000).into(),
            peer: ([198, 51, 100, 7], 7000).into(),
        }
    }

    pub fn v6() -> Self {
        let at = |low, port| ([0x2001, 0xdb8, 0, 0, 0, 0, 0, low], port).into();
        Self {
            client: at(0xC, 40001),
            server: at(1, 3478),
            relayed: at(1, 50000),
            peer: at(0x9E, 7000),
        }
    }

    /// The client and server of one, the relayed address and peer of another.
    pub fn mixed(client_side: &Self, peer_side: &Self) -> Self {
        Self { relayed: peer_side.relayed, peer: peer_side.peer, ..*client_side }
    }

    /// From the client.
    pub fn ask(&self, number: u16, data: &[u8]) -> Datagram {
        Datagram::new(self.client, self.server, channel_data(number, data))
    }

    /// From the peer.
    pub fn answer(&self, data: &[u8]) -> Datagram {
        Datagram::new(self.peer, self.relayed, data.to_vec())
    }
}

/// The number of every channel.
pub const CHANNEL: u16 = 0x4001;

/// A valid binding over one next hop.
pub fn binding(ends: &Ends, next_hop: u16) -> Binding {
    let leg = Leg { deadline_ns: FUTURE, next_hop };
    Binding {
        five_tuple: FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr::new(ends.client),
            server: ServerAddr::new(ends.server),
        },
        relayed: RelayedAddr::new(ends.relayed),
        peer: PeerAddr::new(ends.peer),
        channel: ChannelNumber::new(CHANNEL, ChannelRange::Rfc8656).unwrap(),
        stamp: Stamp { slot: SLOT, epoch: EPOCH, policed: false },
        to_peer: leg,
        to_client: leg,
    }
}

/// Puts both routes of a binding into the tables, changed by `change`.
pub fn install(tables: &mut HostTables, binding: &Binding, change: impl Fn(&mut Route)) {
    for entry in route::channel(binding).expect("relayed address and peer are of a family") {
        put(tables, entry, &change);
    }
}

/// Puts an entry into the tables, its route changed by `change`.
pub fn put(tables: &mut HostTables, mut entry: Entry, change: impl Fn(&mut Route)) {
    let (Entry::V4(_, route) | Entry::V6(_, route)) = &mut entry;
    change(route);
    tables.insert(entry);
}

/// The channel of a hairpin's receiver.
pub const OTHER_CHANNEL: u16 = 0x4ABC;

/// From the client of `from` on [`CHANNEL`] to the client of `to` on [`OTHER_CHANNEL`].
pub fn hairpin(from: &Ends, to: &Ends, next_hop: u16) -> Entry {
    let end = |ends: &Ends, channel, slot| HairpinEnd {
        five_tuple: binding(ends, 0).five_tuple,
        channel: ChannelNumber::new(channel, ChannelRange::Rfc8656).unwrap(),
        stamp: Stamp { slot, epoch: EPOCH, policed: false },
    };
    let (from, to) = (end(from, CHANNEL, SLOT), end(to, OTHER_CHANNEL, PEER_SLOT));
    route::hairpin(&from, &to, Leg { deadline_ns: FUTURE, next_hop }).expect("over UDP")
}

/// The XDP action of a verdict, as the kernel numbers them.
pub fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Abort(_) => 0,
        Verdict::Drop(_) => 1,
        Verdict::Pass(_) => 2,
        Verdict::Transmit(_) => 3,
        Verdict::Redirect(_) => 4,
    }
}
