//! The same datagrams to a userspace server and to the step: what both relay is equal to the byte,
//! and what userspace drops or refuses, the step passes up.
//!
//! The step's routes and permissions are composed of what the server was asked and told; its
//! transaction IDs are the server's, which are chance there too.
#![allow(clippy::unwrap_used, reason = "helpers of tests; each number here fits")]

mod common;
#[path = "common/indications.rs"]
mod indications;
#[path = "common/server.rs"]
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;

use common::*;
use indications::{Sealed, install_answer};
use relay_common::abi::{Config, Reason};
use relay_common::addr::Family;
use relay_common::route::{self, Binding, HairpinEnd, Leg, PermissionEntry, Stamp};
use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};
use relay_ebpf::{Verdict, step};
use relay_turn::Permission;
use server::{Outcome, Sent, Server};

const CHANNELS: [u16; 3] = [0x4000, 0x4ABC, 0x4FFF];

/// A server with allocations of every mix of families, each with two permitted peers, one of them
/// with a channel, and a channel to the next allocation of its family.
struct World {
    server: Server,
    tables: HostTables,
    /// What clients and peers may send: source, destination, and the peer that is meant.
    permitted: Vec<[SocketAddr; 4]>,
    /// How often each reason was the verdict.
    seen: HashMap<Reason, u64>,
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let mut tables = tables();
        tables.config = Config { answer_cost_ns: 1, answer_burst_ns: FUTURE, ..tables.config };
        let mut world =
            Self { server: Server::new(), tables, permitted: Vec::new(), seen: HashMap::new() };
        for server in [world.server_of(Family::V4), world.server_of(Family::V6)] {
            install_answer(&mut world.tables, server, |_| {});
        }
        let mut port = 6000;
        for near in [Family::V4, Family::V6] {
            for far in [Family::V4, Family::V6] {
                let allocations: Vec<usize> = (0..2)
                    .map(|_| {
                        port += 1;
                        world.allocate(near, far, port)
                    })
                    .collect();
                world.connect(allocations[0], allocations[1]);
            }
        }
        world.install_channels();
        world
    }

    fn server_of(&self, family: Family) -> SocketAddr {
        let ip = if family == Family::V4 { server::RELAY_V4 } else { server::RELAY_V6 };
        SocketAddr::new(ip.parse().unwrap(), 3478)
    }

    fn allocate(&mut self, near: Family, far: Family, port: u16) -> usize {
        let client = if near == Family::V4 { "198.51.100.1:0" } else { "[2a00:2::77]:0" };
        let mut client = at(client);
        client.set_port(port);
        let five_tuple = server::five_tuple(client, self.server_of(near));
        let index = self.server.allocate(five_tuple, far);
        let peers = if far == Family::V4 {
            [at("9.9.9.1:7000"), at("9.9.9.2:7001")]
        } else {
            [at("[2a00:9::1]:7000"), at("[2a00:9::2]:7001")]
        };
        self.server.permit(index, peers[0]);
        self.server.bind(index, CHANNELS[0], peers[1]);
        self.install_permissions(index);
        let relayed = self.server.allocations[index].relayed;
        for peer in peers {
            self.permitted.push([client, five_tuple.server.socket(), relayed, peer]);
        }
        index
    }

    fn stamp(index: usize) -> Stamp {
        Stamp { slot: u32::try_from(index).unwrap(), epoch: EPOCH, policed: false }
    }

    /// What the server told its datapath of permissions.
    fn install_permissions(&mut self, index: usize) {
        let stamp = Self::stamp(index);
        for told in std::mem::take(&mut self.server.permissions) {
            let Permission { five_tuple, relayed, peer, deadline_ns, .. } = told;
            let allocation_ns = told.allocation_deadline_ns;
            self.tables.insert(route::send(&five_tuple, relayed, stamp, allocation_ns).unwrap());
            let hops = [hop::SAME; 2];
            let entry = route::permission(&five_tuple, relayed, peer, stamp, deadline_ns, hops);
            match entry.unwrap() {
                PermissionEntry::V4(key, value) => {
                    self.tables.permissions_v4.insert(key, value);
                }
                PermissionEntry::V6(key, value) => {
                    self.tables.permissions_v6.insert(key, value);
                }
            }
        }
    }

    /// Channels between two allocations, and the hairpin's routes.
    fn connect(&mut self, a: usize, b: usize) {
        let (at_a, at_b) = (self.server.allocations[a].relayed, self.server.allocations[b].relayed);
        self.server.bind(a, CHANNELS[1], at_b);
        self.server.bind(b, CHANNELS[2], at_a);
        let end = |index: usize, channel| HairpinEnd {
            five_tuple: self.server.allocations[index].five_tuple,
            channel: ChannelNumber::new(channel, ChannelRange::Rfc8656).unwrap(),
            stamp: Self::stamp(index),
        };
        let (a, b) = (end(a, CHANNELS[1]), end(b, CHANNELS[2]));
        let leg = Leg { deadline_ns: FUTURE, next_hop: hop::SAME };
        self.tables.insert(route::hairpin(&a, &b, leg).unwrap());
        self.tables.insert(route::hairpin(&b, &a, leg).unwrap());
    }

    /// What the server told its datapath.
    fn install_channels(&mut self) {
        for told in std::mem::take(&mut self.server.bindings) {
            // Between two of them there are hairpins.
            if self.server.allocations.iter().any(|a| a.relayed == told.peer.socket()) {
                continue;
            }
            let index = self.server.allocations.iter().position(|a| a.id == told.allocation);
            let leg = |deadline_ns| Leg { deadline_ns, next_hop: hop::SAME };
            let entries = route::channel(&Binding {
                five_tuple: told.five_tuple,
                relayed: told.relayed,
                peer: told.peer,
                channel: told.number,
                stamp: Self::stamp(index.unwrap()),
                to_peer: leg(told.client_to_peer_deadline_ns),
                to_client: leg(told.peer_to_client_deadline_ns),
            });
            entries.unwrap().into_iter().for_each(|entry| self.tables.insert(entry));
        }
    }

    /// A datagram to both: the step's reason.
    fn feed(&mut self, what: &str, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Reason {
        let outcome = self.server.handle(src, dst, payload);
        if let Outcome::Sent(sent) = &outcome
            && let Some(chance) = sent.payload.get(8..20)
        {
            // Of a Data indication; of anything else it does not matter.
            self.tables.random.set(chance.try_into().unwrap());
        }
        let datagram = Datagram::new(src, dst, payload.to_vec());
        let frame = datagram.bytes();
        let mut host = HostFrame::new(&frame);
        let verdict = step(&mut host, &self.tables);
        match verdict {
            Verdict::Transmit(_) => {
                assert_eq!(Outcome::Sent(sent(host.as_bytes())), outcome, "{what}: {payload:02x?}");
            }
            Verdict::Pass(_) => assert_eq!(host.as_bytes(), frame, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        *self.seen.entry(verdict.reason()).or_default() += 1;
        verdict.reason()
    }
}

/// Reads a frame that leaves, whose checksums must hold.
fn sent(frame: &[u8]) -> Sent {
    assert!(checksums_hold(frame));
    let (ips, udp) = if frame[12..14] == [0x08, 0x00] {
        ([&frame[26..30], &frame[30..34]], 34)
    } else {
        ([&frame[22..38], &frame[38..54]], 54)
    };
    let pair = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let [src, dst] = ips.map(|ip| match <[u8; 4]>::try_from(ip) {
        Ok(ip) => std::net::IpAddr::from(ip),
        Err(_) => <[u8; 16]>::try_from(ip).unwrap().into(),
    });
    let end = udp + usize::from(pair(udp + 4));
    Sent {
        src: SocketAddr::new(src, pair(udp)),
        dst: SocketAddr::new(dst, pair(udp + 2)),
        payload: frame[udp + 8..end].to_vec(),
    }
}

/// A datagram, its way, and what the step does with it when nothing is wrong.
type Message = (&'static str, SocketAddr, SocketAddr, Vec<u8>, Reason);

fn padded(mut message: Vec<u8>, by: usize) -> Vec<u8> {
    message.resize(message.len() + by, 0x5A);
    message
}

/// Everything that the step relays or answers of its own.
fn messages(world: &World) -> Vec<Message> {
    let mut all = Vec::new();
    for (index, [client, server, relayed, peer]) in world.permitted.iter().copied().enumerate() {
        // Of each allocation's two, the second has the channel.
        let bound = index % 2 == 1;
        for length in [0, 1, 2, 3, 4, 5, 100, 1001] {
            let data: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
            let send = indications::send(peer, &data);
            all.push(("Send", client, server, send, Reason::SendIndication));
            let back = if bound { Reason::PeerToClient } else { Reason::DataIndication };
            all.push(("from the peer", peer, relayed, data.clone(), back));
            let elsewhere = SocketAddr::new(peer.ip(), 9);
            let from = ("from another port", elsewhere, relayed, data.clone());
            all.push((from.0, from.1, from.2, from.3, Reason::DataIndication));
            let message = channel_data(CHANNELS[0], &data);
            for by in 0..4 {
                let message = padded(message.clone(), by);
                all.push(("ChannelData", client, server, message, Reason::ClientToPeer));
            }
            let number = CHANNELS[1 + index / 2 % 2];
            let message = channel_data(number, &data);
            all.push(("hairpin", client, server, message, Reason::Hairpin));
        }
        for sealed in Sealed::BOTH {
            let request = indications::request(sealed);
            all.push(("Binding", client, server, request, Reason::BindingAnswered));
        }
    }
    all
}

#[test]
fn what_is_relayed_is_the_same_to_the_byte() {
    let mut world = World::new();
    for (what, src, dst, payload, reason) in messages(&world) {
        assert_eq!(world.feed(what, src, dst, &payload), reason, "{what} {src} {dst}");
    }
    for reason in [
        Reason::ClientToPeer,
        Reason::PeerToClient,
        Reason::Hairpin,
        Reason::SendIndication,
        Reason::DataIndication,
        Reason::BindingAnswered,
    ] {
        assert!(world.seen[&reason] >= 16, "{reason:?}");
    }
}

#[test]
fn what_is_unusual_goes_up_or_is_the_same() {
    let mut world = World::new();
    for [client, server, relayed, peer] in world.permitted.clone() {
        for (what, payload) in indications::unusual(peer) {
            let reason = world.feed(what, client, server, &payload);
            assert_eq!(reason, Reason::Stun, "{what}");
        }
        let strangers = ["9.9.9.3:7000", "[2a00:9::3]:7000", "[::ffff:9.9.9.1]:7000"].map(at);
        for stranger in strangers {
            let send = indications::send(stranger, b"data");
            assert_eq!(world.feed("a stranger", client, server, &send), Reason::NoPermission);
            if stranger.is_ipv4() == relayed.is_ipv4()
                && stranger.ip().to_canonical() == stranger.ip()
            {
                let reason = world.feed("a stranger", stranger, relayed, b"data");
                assert_eq!(reason, Reason::NoPermission);
            }
        }
        for to in [relayed, SocketAddr::new(peer.ip(), 0), server] {
            let send = indications::send(to, b"data");
            assert_eq!(world.feed("no peer", client, server, &send), Reason::NoPermission);
        }
        let nobody = SocketAddr::new(client.ip(), 1);
        let send = indications::send(peer, b"data");
        assert_eq!(world.feed("nobody", nobody, server, &send), Reason::NoRoute);
        let request = indications::request(Sealed::Yes);
        assert_eq!(world.feed("anybody", nobody, server, &request), Reason::BindingAnswered);
        let from_nowhere = SocketAddr::new(peer.ip(), 0);
        let reason = world.feed("port 0", from_nowhere, relayed, b"data");
        assert_eq!(reason, Reason::NoPermission);
    }
}

/// A small seeded generator (xorshift): what a seed gives never changes.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

#[test]
fn mutated_messages_are_never_relayed_otherwise_than_by_userspace() {
    const FRAMES: usize = 60_000;
    let mut world = World::new();
    let messages = messages(&world);
    let mut random = Random(8656);
    for _ in 0..FRAMES {
        let (what, src, dst, payload, _) = &messages[random.below(messages.len())];
        let (mut src, mut payload) = (*src, payload.clone());
        for _ in 0..=random.below(3) {
            let length = payload.len();
            match random.below(12) {
                0 => payload.truncate(random.below(length + 1)),
                1 => payload.resize(length + 1 + random.below(8), 0),
                2 if length >= 20 => indications::set_length(&mut payload),
                3 => src.set_port([0, 1, 7000, 7001, 6001][random.below(5)]),
                _ if length > 0 => {
                    let at = random.below(length.min(56));
                    payload[at] ^= 1 << random.below(8);
                }
                _ => {}
            }
        }
        world.feed(what, src, *dst, &payload);
    }
    let of = |reason| world.seen.get(&reason).copied().unwrap_or(0);
    let relayed: u64 =
        world.seen.iter().filter(|(r, _)| r.direction().is_some()).map(|r| r.1).sum();
    assert!(relayed > 10_000, "{:?}", world.seen);
    for reason in [Reason::Stun, Reason::NoPermission, Reason::NoRoute, Reason::ChannelLength] {
        assert!(of(reason) > 500, "{:?}", world.seen);
    }
}
