//! Turns channel bindings and permissions (RFC 8656 §9, §12) into the entries that the kernel
//! relays by.
//!
//! Owns the mapping from addresses to keys, rewrites and checksum deltas. Knows nothing of maps,
//! neighbours or clocks: indexes and deadlines come in as values.

use core::net::{IpAddr, SocketAddr};

use crate::abi::{
    ACTION_ANSWER, ACTION_SEND, ACTION_STRIP, ACTION_SWAP, ACTION_WRAP, FLAG_POLICED, FLAG_V6,
    Permission, PermissionKeyV4, PermissionKeyV6, Route, RouteKeyV4, RouteKeyV6, Terms,
};
use crate::addr::{Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use crate::wire::channel_data::ChannelNumber;
use crate::wire::checksum;
use crate::wire::net::be16;

/// One direction of a channel binding, or one use of a permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    /// Relayed strictly before this time; CLOCK_MONOTONIC, nanoseconds.
    pub deadline_ns: u64,
    /// Index into `NEXT_HOPS`.
    pub next_hop: u16,
}

/// What every entry of an allocation carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The allocation's slot in `SLOTS` and `POLICERS`.
    pub slot: u32,
    /// The configuration epoch that allowed it.
    pub epoch: u16,
    /// Whether `POLICERS` has limits for the slot.
    pub policed: bool,
}

/// A channel binding and where its packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The allocation's 5-tuple. The server's address is the one that packets carry here, not one
    /// that a NAT in front shows.
    pub five_tuple: FiveTuple,
    /// The relayed transport address, as packets carry it here.
    pub relayed: RelayedAddr,
    /// The peer that the channel is bound to, of the relayed transport address's family.
    pub peer: PeerAddr,
    /// The channel's number.
    pub channel: ChannelNumber,
    /// The allocation's.
    pub stamp: Stamp,
    /// Towards the peer: until the end of the channel binding.
    pub to_peer: Leg,
    /// Towards the client: until the earlier of binding and permission.
    pub to_client: Leg,
}

/// A client's side of a hairpin: what its ChannelData is known by, or becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HairpinEnd {
    /// The allocation's 5-tuple.
    pub five_tuple: FiveTuple,
    /// The channel that is bound to the other's relayed transport address.
    pub channel: ChannelNumber,
    /// The allocation's.
    pub stamp: Stamp,
}

/// A key and what it leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// For `ROUTES_V4`.
    V4(RouteKeyV4, Route),
    /// For `ROUTES_V6`.
    V6(RouteKeyV6, Route),
}

/// A permission's key and value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PermissionEntry {
    /// For `PERMISSIONS_V4`.
    V4(PermissionKeyV4, Permission),
    /// For `PERMISSIONS_V6`.
    V6(PermissionKeyV6, Permission),
}

/// Both directions of a channel binding: from the client's ChannelData to the peer, and from the
/// peer to the client's ChannelData. `None` if the client does not use UDP, or peer and relayed
/// transport address are of two families.
#[must_use]
pub fn channel(binding: &Binding) -> Option<[Entry; 2]> {
    let FiveTuple { transport: Transport::Udp, client, server } = binding.five_tuple;
    let client_side = Way::new(client.socket(), server.socket())?;
    let peer_side = Way::new(binding.relayed.socket(), binding.peer.socket())?;
    let number = be16(binding.channel.value());
    let mut strip = rewrite(&client_side, &peer_side);
    strip.terms.action = ACTION_STRIP;
    let (from_peer, to_client) = (peer_side.back(), client_side.back());
    let mut wrap = rewrite(&from_peer, &to_client);
    (wrap.terms.action, wrap.terms.channel) = (ACTION_WRAP, number);
    Some([
        client_side.entry(number, stamped(strip, binding.stamp, binding.to_peer)),
        from_peer.entry(0, stamped(wrap, binding.stamp, binding.to_client)),
    ])
}

/// The way from one client of this relay to another: each has a channel to the other's relayed
/// transport address, and `leg` ends when the first of `from`'s binding and `to`'s binding and
/// permission does. `None` if one of them does not use UDP.
#[must_use]
pub fn hairpin(from: &HairpinEnd, to: &HairpinEnd, leg: Leg) -> Option<Entry> {
    let FiveTuple { transport: Transport::Udp, .. } = from.five_tuple;
    let FiveTuple { transport: Transport::Udp, .. } = to.five_tuple;
    let arrives = Way::new(from.five_tuple.client.socket(), from.five_tuple.server.socket())?;
    let leaves = Way::new(to.five_tuple.server.socket(), to.five_tuple.client.socket())?;
    let (old, new) = (be16(from.channel.value()), be16(to.channel.value()));
    let mut route = rewrite(&arrives, &leaves);
    let renumbered = u32::from(checksum::delta(&[old], &[new]));
    route.terms = Terms {
        action: ACTION_SWAP,
        channel: new,
        udp_delta: checksum::fold(u32::from(route.terms.udp_delta) + renumbered),
        peer_slot: to.stamp.slot,
        ..route.terms
    };
    // A limit of either of them holds; a slot without limits has none in its policer.
    let policed = from.stamp.policed || to.stamp.policed;
    Some(arrives.entry(old, stamped(route, Stamp { policed, ..from.stamp }, leg)))
}

/// What Send indications of an allocation are known by. `None` if its client does not use UDP.
#[must_use]
pub fn send(
    five_tuple: &FiveTuple,
    relayed: RelayedAddr,
    stamp: Stamp,
    deadline_ns: u64,
) -> Option<Entry> {
    let FiveTuple { transport: Transport::Udp, client, server } = *five_tuple;
    let terms = Terms {
        action: ACTION_SEND,
        flags: family_flag(Family::of(relayed.ip())),
        src_port: be16(relayed.port()),
        ..Terms::default()
    };
    let src = in_route(&Address::of(relayed.ip()));
    let route = Route { terms, src, ..Route::default() };
    let leg = Leg { deadline_ns, next_hop: 0 };
    Some(Way::new(client.socket(), server.socket())?.entry(0, stamped(route, stamp, leg)))
}

/// That Binding requests to a TURN server transport address are answered, for as long as the
/// program runs.
#[must_use]
pub fn answer(server: ServerAddr, epoch: u16) -> Entry {
    let (ip, dst_port) = (in_route(&Address::of(server.ip())), be16(server.port()));
    let terms = Terms { action: ACTION_ANSWER, deadline_ns: u64::MAX, epoch, ..Terms::default() };
    let route = Route { terms, ..Route::default() };
    match Family::of(server.ip()) {
        Family::V4 => {
            Entry::V4(RouteKeyV4 { dst: ip[0], dst_port, ..RouteKeyV4::default() }, route)
        }
        Family::V6 => Entry::V6(RouteKeyV6 { dst: ip, dst_port, ..RouteKeyV6::default() }, route),
    }
}

/// A permission of an allocation for a peer's address, of the relayed transport address's family.
/// `to_client` and `to_peer` are indexes into `NEXT_HOPS`. `None` if the client does not use UDP,
/// or the families differ.
#[must_use]
pub fn permission(
    five_tuple: &FiveTuple,
    relayed: RelayedAddr,
    peer: IpAddr,
    stamp: Stamp,
    deadline_ns: u64,
    [to_client, to_peer]: [u16; 2],
) -> Option<PermissionEntry> {
    let FiveTuple { transport: Transport::Udp, client, server } = *five_tuple;
    let policed = if stamp.policed { FLAG_POLICED } else { 0 };
    let value = Permission {
        deadline_ns,
        client: in_route(&Address::of(client.ip())),
        server: in_route(&Address::of(server.ip())),
        client_port: be16(client.port()),
        server_port: be16(server.port()),
        flags: family_flag(Family::of(client.ip())) | policed,
        epoch: stamp.epoch,
        slot: stamp.slot,
        to_client,
        to_peer,
        ..Permission::default()
    };
    let (ours, theirs) = (Address::of(relayed.ip()), Address::of(peer));
    let relayed_port = be16(relayed.port());
    match (ours, theirs) {
        (Address::V4(_), Address::V4(_)) => {
            let (relayed, peer) = (in_route(&ours)[0], in_route(&theirs)[0]);
            let key = PermissionKeyV4 { relayed, peer, relayed_port, ..Default::default() };
            Some(PermissionEntry::V4(key, value))
        }
        (Address::V6(_), Address::V6(_)) => {
            let (relayed, peer) = (in_route(&ours), in_route(&theirs));
            let key = PermissionKeyV6 { relayed, peer, relayed_port, ..Default::default() };
            Some(PermissionEntry::V6(key, value))
        }
        _ => None,
    }
}

fn stamped(route: Route, stamp: Stamp, leg: Leg) -> Route {
    let terms = Terms {
        deadline_ns: leg.deadline_ns,
        next_hop: leg.next_hop,
        slot: stamp.slot,
        epoch: stamp.epoch,
        flags: route.terms.flags | if stamp.policed { FLAG_POLICED } else { 0 },
        ..route.terms
    };
    Route { terms, ..route }
}

const fn family_flag(family: Family) -> u8 {
    match family {
        Family::V4 => 0,
        Family::V6 => FLAG_V6,
    }
}

/// An address as words in network byte order.
#[derive(Clone, Copy)]
enum Address {
    V4([u16; 2]),
    V6([u16; 8]),
}

impl Address {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Self::V4([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])])
            }
            IpAddr::V6(ip) => Self::V6(ip.segments().map(be16)),
        }
    }

    fn words(&self) -> &[u16] {
        match self {
            Self::V4(words) => words,
            Self::V6(words) => words,
        }
    }
}

/// Source and destination of a packet, of one family.
#[derive(Clone, Copy)]
struct Way {
    src: Address,
    dst: Address,
    src_port: u16,
    dst_port: u16,
    family: Family,
}

impl Way {
    fn new(src: SocketAddr, dst: SocketAddr) -> Option<Self> {
        let family = Family::of(src.ip());
        (family == Family::of(dst.ip())).then(|| Self {
            src: Address::of(src.ip()),
            dst: Address::of(dst.ip()),
            src_port: be16(src.port()),
            dst_port: be16(dst.port()),
            family,
        })
    }

    /// The other way round.
    const fn back(self) -> Self {
        let Self { src, dst, src_port, dst_port, family } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port, family }
    }

    /// What arrives this way leads to a route.
    fn entry(&self, channel: u16, route: Route) -> Entry {
        let (src, dst) = (in_route(&self.src), in_route(&self.dst));
        let (src_port, dst_port) = (self.src_port, self.dst_port);
        match self.family {
            Family::V4 => {
                let (src, dst) = (src[0], dst[0]);
                let key = RouteKeyV4 { src, dst, src_port, dst_port, channel, reserved: 0 };
                Entry::V4(key, route)
            }
            Family::V6 => {
                let key = RouteKeyV6 { src, dst, src_port, dst_port, channel, reserved: 0 };
                Entry::V6(key, route)
            }
        }
    }

    /// The sum of the addresses: their part of the pseudo-header, and of an IPv4 header.
    fn addresses(&self) -> u16 {
        let sum = checksum::sum_words(self.src.words()) + checksum::sum_words(self.dst.words());
        checksum::fold(sum)
    }
}

/// A route's addresses, ports, family and checksum deltas.
fn rewrite(old: &Way, new: &Way) -> Route {
    let addresses = checksum::delta(&[old.addresses()], &[new.addresses()]);
    let ports = checksum::delta(&[old.src_port, old.dst_port], &[new.src_port, new.dst_port]);
    let ip_delta = match (old.family, new.family) {
        (Family::V4, Family::V4) => addresses,
        (Family::V6, Family::V4) => new.addresses(),
        (_, Family::V6) => 0,
    };
    let terms = Terms {
        src_port: new.src_port,
        dst_port: new.dst_port,
        flags: family_flag(new.family),
        udp_delta: checksum::fold(u32::from(addresses) + u32::from(ports)),
        ip_delta,
        ..Terms::default()
    };
    Route { terms, src: in_route(&new.src), dst: in_route(&new.dst) }
}

/// An address as it stands in keys and routes: IPv4 in the first word, the rest zero.
fn in_route(address: &Address) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, pair) in words.iter_mut().zip(address.words().chunks_exact(2)) {
        let ([a, b], [c, d]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
        *word = u32::from_ne_bytes([a, b, c, d]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, ServerAddr};
    use crate::wire::channel_data::ChannelRange;

    const STAMP: Stamp = Stamp { slot: 7, epoch: 3, policed: false };

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn number(value: u16) -> ChannelNumber {
        ChannelNumber::new(value, ChannelRange::Rfc8656).unwrap()
    }

    fn five_tuple(client: &str, server: &str) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr::new(at(client)),
            server: ServerAddr::new(at(server)),
        }
    }

    fn binding(client: &str, server: &str, relayed: &str, peer: &str) -> Binding {
        Binding {
            five_tuple: five_tuple(client, server),
            relayed: RelayedAddr::new(at(relayed)),
            peer: PeerAddr::new(at(peer)),
            channel: number(0x4ABC),
            stamp: STAMP,
            to_peer: Leg { deadline_ns: 600, next_hop: 1 },
            to_client: Leg { deadline_ns: 300, next_hop: 2 },
        }
    }

    fn ip(octets: [u8; 4]) -> u32 {
        u32::from_ne_bytes(octets)
    }

    #[test]
    fn both_directions_of_an_ipv4_binding() {
        let pair = channel(&binding(
            "192.0.2.1:1000",
            "10.0.0.1:3478",
            "10.0.0.2:49152",
            "198.51.100.9:53",
        ));
        let Some([Entry::V4(from_client, to_peer), Entry::V4(from_peer, to_client)]) = pair else {
            panic!("{pair:?}")
        };
        assert_eq!(
            from_client,
            RouteKeyV4 {
                src: ip([192, 0, 2, 1]),
                dst: ip([10, 0, 0, 1]),
                src_port: be16(1000),
                dst_port: be16(3478),
                channel: be16(0x4ABC),
                reserved: 0,
            }
        );
        assert_eq!(to_peer.src, [ip([10, 0, 0, 2]), 0, 0, 0]);
        assert_eq!(to_peer.dst, [ip([198, 51, 100, 9]), 0, 0, 0]);
        assert_eq!((to_peer.terms.src_port, to_peer.terms.dst_port), (be16(49152), be16(53)));
        assert_eq!(
            (to_peer.terms.action, to_peer.terms.channel, to_peer.terms.flags),
            (ACTION_STRIP, 0, 0)
        );
        assert_eq!((to_peer.terms.deadline_ns, to_peer.terms.next_hop), (600, 1));
        assert_eq!((to_peer.terms.slot, to_peer.terms.epoch), (7, 3));

        assert_eq!(from_peer.src, ip([198, 51, 100, 9]));
        assert_eq!(from_peer.dst, ip([10, 0, 0, 2]));
        assert_eq!((from_peer.src_port, from_peer.dst_port), (be16(53), be16(49152)));
        assert_eq!(from_peer.channel, 0);
        assert_eq!(to_client.src, [ip([10, 0, 0, 1]), 0, 0, 0]);
        assert_eq!(to_client.dst, [ip([192, 0, 2, 1]), 0, 0, 0]);
        assert_eq!((to_client.terms.action, to_client.terms.channel), (ACTION_WRAP, be16(0x4ABC)));
        assert_eq!((to_client.terms.deadline_ns, to_client.terms.next_hop), (300, 2));
    }

    #[test]
    fn deltas_move_a_sum_from_the_old_words_to_the_new() {
        let old = Way::new(at("192.0.2.77:65535"), at("255.255.0.1:1")).unwrap();
        let sum = |way: &Way| {
            let ports = u32::from(way.src_port) + u32::from(way.dst_port);
            checksum::fold(u32::from(way.addresses()) + ports)
        };
        for new in ["10.0.0.2:3478 10.9.8.7:4", "[2001:db8::7]:6 [2001:db8:1:2:3:4:5:6]:0"] {
            let (src, dst) = new.split_once(' ').unwrap();
            let new = Way::new(at(src), at(dst)).unwrap();
            for (old, new) in [(old, new), (new, old)] {
                let route = rewrite(&old, &new);
                let moved = u32::from(sum(&old)) + u32::from(route.terms.udp_delta);
                assert_eq!(checksum::fold(moved), sum(&new));
                match (old.family, new.family) {
                    (Family::V4, Family::V4) => {
                        let moved = u32::from(old.addresses()) + u32::from(route.terms.ip_delta);
                        assert_eq!(checksum::fold(moved), new.addresses());
                    }
                    (Family::V6, Family::V4) => assert_eq!(route.terms.ip_delta, new.addresses()),
                    (_, Family::V6) => assert_eq!(route.terms.ip_delta, 0),
                }
            }
        }
    }

    #[test]
    fn a_crossing_is_looked_up_on_one_wire_and_leaves_on_the_other() {
        let (v4, v6) = ("192.0.2.1:1", "[2001:db8::1]:1");
        let pair = channel(&binding(v4, "10.0.0.1:3478", v6, "[2001:db8::2]:9"));
        let Some([Entry::V4(_, to_peer), Entry::V6(from_peer, to_client)]) = pair else {
            panic!("{pair:?}")
        };
        assert_eq!((to_peer.terms.flags, to_client.terms.flags), (FLAG_V6, 0));
        assert_eq!(from_peer.src[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(to_client.dst, [ip([192, 0, 2, 1]), 0, 0, 0]);
        assert_eq!(channel(&binding(v4, v4, v6, v4)), None, "a peer of the other family");
        assert_eq!(channel(&binding(v4, v6, v4, v4)), None, "no 5-tuple");
    }

    #[test]
    fn a_hairpin_leaves_by_the_channel_of_the_receiver() {
        let end = |client, server, channel, slot| HairpinEnd {
            five_tuple: five_tuple(client, server),
            channel: number(channel),
            stamp: Stamp { slot, epoch: 3, policed: slot == 2 },
        };
        let a = end("192.0.2.1:1000", "10.0.0.1:3478", 0x4001, 1);
        let b = end("[2001:db8::9]:2000", "[2001:db8::1]:3478", 0x4FFF, 2);
        let leg = Leg { deadline_ns: 5, next_hop: 9 };
        let Some(Entry::V4(key, route)) = hairpin(&a, &b, leg) else { panic!() };
        assert_eq!((key.src, key.channel), (ip([192, 0, 2, 1]), be16(0x4001)));
        assert_eq!((route.terms.action, route.terms.channel), (ACTION_SWAP, be16(0x4FFF)));
        assert_eq!((route.terms.slot, route.terms.peer_slot, route.terms.epoch), (1, 2, 3));
        assert_eq!(route.terms.flags, FLAG_V6 | FLAG_POLICED);
        assert_eq!((route.terms.src_port, route.terms.dst_port), (be16(3478), be16(2000)));
        let Some(Entry::V6(key, route)) = hairpin(&b, &a, leg) else { panic!() };
        assert_eq!((key.dst_port, key.channel), (be16(3478), be16(0x4FFF)));
        assert_eq!(
            (route.terms.slot, route.terms.peer_slot, route.terms.channel),
            (2, 1, be16(0x4001))
        );
        assert_eq!(route.terms.flags, FLAG_POLICED);
    }

    #[test]
    fn indications_are_known_by_5_tuple_and_by_permission() {
        let tuple = five_tuple("[2001:db8::9]:2000", "[2001:db8::1]:3478");
        let relayed = RelayedAddr::new(at("10.0.0.2:50000"));
        let Some(Entry::V6(key, route)) = send(&tuple, relayed, STAMP, 44) else { panic!() };
        assert_eq!((key.src_port, key.channel), (be16(2000), 0));
        assert_eq!(
            (route.terms.action, route.terms.flags, route.terms.deadline_ns),
            (ACTION_SEND, 0, 44)
        );
        assert_eq!((route.src[0], route.terms.src_port), (ip([10, 0, 0, 2]), be16(50000)));
        let peer = IpAddr::from([198, 51, 100, 9]);
        let stamp = Stamp { policed: true, ..STAMP };
        let entry = permission(&tuple, relayed, peer, stamp, 33, [4, 5]);
        let Some(PermissionEntry::V4(key, value)) = entry else { panic!("{entry:?}") };
        assert_eq!((key.relayed, key.peer), (ip([10, 0, 0, 2]), ip([198, 51, 100, 9])));
        assert_eq!(key.relayed_port, be16(50000));
        assert_eq!((value.flags, value.deadline_ns), (FLAG_V6 | FLAG_POLICED, 33));
        assert_eq!((value.to_client, value.to_peer), (4, 5));
        assert_eq!((value.client_port, value.server_port), (be16(2000), be16(3478)));
        let other = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        assert_eq!(permission(&tuple, relayed, other, STAMP, 1, [0, 0]), None);
    }

    #[test]
    fn a_binding_request_is_known_by_where_it_goes() {
        let Entry::V4(key, route) = answer(ServerAddr::new(at("10.0.0.1:3478")), 3) else {
            panic!()
        };
        assert_eq!((key.src, key.dst, key.src_port), (0, ip([10, 0, 0, 1]), 0));
        assert_eq!((key.dst_port, key.channel), (be16(3478), 0));
        assert_eq!(
            (route.terms.action, route.terms.epoch, route.terms.deadline_ns),
            (ACTION_ANSWER, 3, u64::MAX)
        );
    }
}
