//! Turns a channel binding (RFC 8656 §12) into the two entries that the kernel relays by.
//!
//! Owns the mapping from addresses to keys, rewrites and checksum deltas. Knows nothing of maps,
//! neighbours or clocks: indexes and deadlines come in as values.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::abi::{ACTION_STRIP, ACTION_WRAP, Route, RouteKeyV4, RouteKeyV6};
use crate::addr::{FiveTuple, PeerAddr, RelayedAddr, Transport};
use crate::wire::channel_data::ChannelNumber;
use crate::wire::checksum;
use crate::wire::net::be16;

/// A channel binding and where its packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The allocation's 5-tuple. The server's address is the one that packets carry here, not one
    /// that a NAT in front shows.
    pub five_tuple: FiveTuple,
    /// The relayed transport address, as packets carry it here.
    pub relayed: RelayedAddr,
    /// The peer that the channel is bound to.
    pub peer: PeerAddr,
    /// The channel's number.
    pub channel: ChannelNumber,
    /// The allocation's slot in `SLOTS`.
    pub slot: u32,
    /// The configuration epoch that allowed it.
    pub epoch: u32,
    /// Towards the peer.
    pub to_peer: Leg,
    /// Towards the client.
    pub to_client: Leg,
}

/// One direction of a [`Binding`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    /// Relayed strictly before this time; CLOCK_MONOTONIC, nanoseconds. Towards the peer that is
    /// the end of the channel binding, towards the client the earlier of binding and permission.
    pub deadline_ns: u64,
    /// Index into `NEXT_HOPS`.
    pub next_hop: u32,
}

/// A key and what it leads to.
pub type EntryV4 = (RouteKeyV4, Route);
/// A key and what it leads to.
pub type EntryV6 = (RouteKeyV6, Route);

/// Both directions of a binding, for the map of their family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoutePair {
    /// For `ROUTES_V4`.
    V4 {
        /// From the client's ChannelData to the peer.
        to_peer: EntryV4,
        /// From the peer to the client's ChannelData.
        to_client: EntryV4,
    },
    /// For `ROUTES_V6`.
    V6 {
        /// From the client's ChannelData to the peer.
        to_peer: EntryV6,
        /// From the peer to the client's ChannelData.
        to_client: EntryV6,
    },
}

impl RoutePair {
    /// `None` when the addresses are not all of one family: such packets are relayed in userspace.
    #[must_use]
    pub fn compose(binding: &Binding) -> Option<Self> {
        let FiveTuple { transport: Transport::Udp, client, server } = binding.five_tuple;
        let (relayed, peer) = (binding.relayed, binding.peer);
        let ports = [client.port(), server.port(), relayed.port(), peer.port()].map(be16);
        match (client.ip(), server.ip(), relayed.ip(), peer.ip()) {
            (IpAddr::V4(c), IpAddr::V4(s), IpAddr::V4(r), IpAddr::V4(p)) => {
                let (to_peer, to_client) = both(binding, [c, s, r, p].map(v4_words), ports);
                Some(Self::V4 {
                    to_peer: (to_peer.0.v4(), to_peer.1),
                    to_client: (to_client.0.v4(), to_client.1),
                })
            }
            (IpAddr::V6(c), IpAddr::V6(s), IpAddr::V6(r), IpAddr::V6(p)) => {
                let (to_peer, to_client) = both(binding, [c, s, r, p].map(v6_words), ports);
                Some(Self::V6 {
                    to_peer: (to_peer.0.v6(), to_peer.1),
                    to_client: (to_client.0.v6(), to_client.1),
                })
            }
            _ => None,
        }
    }
}

/// Addresses and ports of a packet, as words in network byte order.
#[derive(Clone, Copy)]
struct Ends<const N: usize> {
    src: [u16; N],
    dst: [u16; N],
    src_port: u16,
    dst_port: u16,
}

/// What a key is made of.
struct Key<const N: usize> {
    ends: Ends<N>,
    channel: u16,
}

impl Key<2> {
    fn v4(&self) -> RouteKeyV4 {
        let Ends { src, dst, src_port, dst_port } = self.ends;
        let ([src, ..], [dst, ..]) = (in_route(src), in_route(dst));
        RouteKeyV4 { src, dst, src_port, dst_port, channel: self.channel, reserved: 0 }
    }
}

impl Key<8> {
    fn v6(&self) -> RouteKeyV6 {
        let Ends { src, dst, src_port, dst_port } = self.ends;
        let (src, dst) = (in_route(src), in_route(dst));
        RouteKeyV6 { src, dst, src_port, dst_port, channel: self.channel, reserved: 0 }
    }
}

type Entry<const N: usize> = (Key<N>, Route);

/// Both entries, from the addresses and ports of client, server, relayed address and peer.
fn both<const N: usize>(
    binding: &Binding,
    [client, server, relayed, peer]: [[u16; N]; 4],
    [client_port, server_port, relayed_port, peer_port]: [u16; 4],
) -> (Entry<N>, Entry<N>) {
    let number = be16(binding.channel.value());
    let outside = |src, dst, src_port, dst_port| Ends { src, dst, src_port, dst_port };
    let from_client = outside(client, server, client_port, server_port);
    let to_peer = outside(relayed, peer, relayed_port, peer_port);
    let from_peer = outside(peer, relayed, peer_port, relayed_port);
    let to_client = outside(server, client, server_port, client_port);
    let strip = Route { action: ACTION_STRIP, channel: 0, ..rewrite(&from_client, &to_peer) };
    let wrap = Route { action: ACTION_WRAP, channel: number, ..rewrite(&from_peer, &to_client) };
    let stamped = |route: Route, leg: Leg| Route {
        deadline_ns: leg.deadline_ns,
        next_hop: leg.next_hop,
        slot: binding.slot,
        epoch: binding.epoch,
        ..route
    };
    (
        (Key { ends: from_client, channel: number }, stamped(strip, binding.to_peer)),
        (Key { ends: from_peer, channel: 0 }, stamped(wrap, binding.to_client)),
    )
}

/// A route's addresses, ports and checksum deltas.
fn rewrite<const N: usize>(old: &Ends<N>, new: &Ends<N>) -> Route {
    Route {
        src: in_route(new.src),
        dst: in_route(new.dst),
        src_port: new.src_port,
        dst_port: new.dst_port,
        udp_delta: udp_delta(old, new),
        // Only IPv4 has a header checksum.
        ip_delta: if N == 2 { ip_delta(old, new) } else { 0 },
        ..Route::default()
    }
}

/// What new addresses add to the sum that an IP header's checksum covers.
fn ip_delta<const N: usize>(old: &Ends<N>, new: &Ends<N>) -> u16 {
    let src = checksum::delta(&old.src, &new.src);
    let dst = checksum::delta(&old.dst, &new.dst);
    checksum::fold(u32::from(src) + u32::from(dst))
}

/// What new addresses (by the pseudo-header) and ports add to the sum of UDP's checksum.
fn udp_delta<const N: usize>(old: &Ends<N>, new: &Ends<N>) -> u16 {
    let ports = checksum::delta(&[old.src_port, old.dst_port], &[new.src_port, new.dst_port]);
    checksum::fold(u32::from(ip_delta(old, new)) + u32::from(ports))
}

/// An address as it stands in keys and routes: IPv4 in the first word, the rest zero.
fn in_route<const N: usize>(words: [u16; N]) -> [u32; 4] {
    let mut address = [0; 4];
    for (word, pair) in address.iter_mut().zip(words.chunks_exact(2)) {
        let ([a, b], [c, d]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
        *word = u32::from_ne_bytes([a, b, c, d]);
    }
    address
}

fn v4_words(ip: Ipv4Addr) -> [u16; 2] {
    let [a, b, c, d] = ip.octets();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

fn v6_words(ip: Ipv6Addr) -> [u16; 8] {
    ip.segments().map(be16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, ServerAddr};
    use crate::wire::channel_data::ChannelRange;
    use core::net::SocketAddr;

    fn binding(client: &str, server: &str, relayed: &str, peer: &str) -> Binding {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        Binding {
            five_tuple: FiveTuple {
                transport: Transport::Udp,
                client: ClientAddr::new(at(client)),
                server: ServerAddr::new(at(server)),
            },
            relayed: RelayedAddr::new(at(relayed)),
            peer: PeerAddr::new(at(peer)),
            channel: ChannelNumber::new(0x4ABC, ChannelRange::Rfc8656).unwrap(),
            slot: 7,
            epoch: 3,
            to_peer: Leg { deadline_ns: 600, next_hop: 1 },
            to_client: Leg { deadline_ns: 300, next_hop: 2 },
        }
    }

    #[test]
    fn both_directions_of_an_ipv4_binding() {
        let pair = RoutePair::compose(&binding(
            "192.0.2.1:1000",
            "10.0.0.1:3478",
            "10.0.0.2:49152",
            "198.51.100.9:53",
        ));
        let Some(RoutePair::V4 { to_peer, to_client }) = pair else { panic!("{pair:?}") };
        let ip = |octets: [u8; 4]| u32::from_ne_bytes(octets);
        assert_eq!(
            to_peer.0,
            RouteKeyV4 {
                src: ip([192, 0, 2, 1]),
                dst: ip([10, 0, 0, 1]),
                src_port: be16(1000),
                dst_port: be16(3478),
                channel: be16(0x4ABC),
                reserved: 0,
            }
        );
        assert_eq!(to_peer.1.src, [ip([10, 0, 0, 2]), 0, 0, 0]);
        assert_eq!(to_peer.1.dst, [ip([198, 51, 100, 9]), 0, 0, 0]);
        assert_eq!((to_peer.1.src_port, to_peer.1.dst_port), (be16(49152), be16(53)));
        assert_eq!((to_peer.1.action, to_peer.1.channel), (ACTION_STRIP, 0));
        assert_eq!((to_peer.1.deadline_ns, to_peer.1.next_hop), (600, 1));
        assert_eq!((to_peer.1.slot, to_peer.1.epoch), (7, 3));

        assert_eq!(to_client.0.src, ip([198, 51, 100, 9]));
        assert_eq!(to_client.0.dst, ip([10, 0, 0, 2]));
        assert_eq!((to_client.0.src_port, to_client.0.dst_port), (be16(53), be16(49152)));
        assert_eq!(to_client.0.channel, 0);
        assert_eq!(to_client.1.src, [ip([10, 0, 0, 1]), 0, 0, 0]);
        assert_eq!(to_client.1.dst, [ip([192, 0, 2, 1]), 0, 0, 0]);
        assert_eq!((to_client.1.action, to_client.1.channel), (ACTION_WRAP, be16(0x4ABC)));
        assert_eq!((to_client.1.deadline_ns, to_client.1.next_hop), (300, 2));
    }

    #[test]
    fn deltas_move_a_sum_from_the_old_words_to_the_new() {
        let old = Ends { src: [0x1234, 0xFFFF], dst: [1, 2], src_port: 3, dst_port: 0xFFFE };
        let new = Ends { src: [0xABCD, 0x0001], dst: [8, 9], src_port: 0xFFFF, dst_port: 0 };
        let addresses = |e: &Ends<2>| [e.src[0], e.src[1], e.dst[0], e.dst[1]];
        let sum = |words: &[u16]| checksum::fold(checksum::sum_words(words));
        let moved = u32::from(sum(&addresses(&old))) + u32::from(ip_delta(&old, &new));
        assert_eq!(checksum::fold(moved), sum(&addresses(&new)));
        let all = |e: &Ends<2>| [e.src[0], e.src[1], e.dst[0], e.dst[1], e.src_port, e.dst_port];
        let moved = u32::from(sum(&all(&old))) + u32::from(udp_delta(&old, &new));
        assert_eq!(checksum::fold(moved), sum(&all(&new)));
    }

    #[test]
    fn ipv6_has_no_header_checksum_and_crossings_are_not_composed() {
        let (v4, v6) = ("192.0.2.1:1", "[2001:db8::1]:1");
        let pair = RoutePair::compose(&binding(v6, "[::2]:1", "[::3]:1", "[::4]:1"));
        let Some(RoutePair::V6 { to_peer, to_client }) = pair else { panic!("{pair:?}") };
        assert_eq!((to_peer.1.ip_delta, to_client.1.ip_delta), (0, 0));
        assert_eq!(to_peer.0.src[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(to_client.1.dst, to_peer.0.src);
        assert_eq!(RoutePair::compose(&binding(v4, v4, v6, v6)), None);
        assert_eq!(RoutePair::compose(&binding(v6, v6, v4, v4)), None);
        assert_eq!(RoutePair::compose(&binding(v4, v4, v4, v6)), None);
    }
}
