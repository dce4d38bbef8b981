//! What is in the kernel's maps is what the model allows, entry by entry: each of them could be
//! used by a packet that nobody has sent yet.

use std::net::{IpAddr, SocketAddr};

use relay_common::abi::{
    ACTION_ANSWER, ACTION_SEND, ACTION_STRIP, ACTION_SWAP, ACTION_WRAP, FLAG_V6, Permission, Route,
};

use super::World;
use crate::model::{Allocation, Channel};
use crate::rules::Rules;

/// A route, its words made addresses.
#[derive(Debug)]
struct Way {
    src: SocketAddr,
    dst: SocketAddr,
    channel: u16,
    out_src: SocketAddr,
    out_dst: SocketAddr,
    out_channel: u16,
}

fn v4(word: u32) -> IpAddr {
    word.to_ne_bytes().into()
}

fn v6(words: [u32; 4]) -> IpAddr {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    <[u8; 16]>::try_from(bytes).unwrap().into()
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, u16::from_be(port))
}

/// Addresses of a rewrite: IPv4 is in the first word.
fn out(words: [u32; 4], is_v6: bool) -> IpAddr {
    if is_v6 { v6(words) } else { v4(words[0]) }
}

impl World {
    /// Panics if the kernel could relay something that the model does not allow.
    pub(super) fn check_subset(&self) {
        let tables = &self.datapath.tables;
        let keys = (tables.v4.iter().map(|(key, route)| {
            let ends = (at(v4(key.src), key.src_port), at(v4(key.dst), key.dst_port));
            (ends, key.channel, route)
        }))
        .chain(tables.v6.iter().map(|(key, route)| {
            let ends = (at(v6(key.src), key.src_port), at(v6(key.dst), key.dst_port));
            (ends, key.channel, route)
        }));
        for ((src, dst), channel, route) in keys.filter(|(.., route)| self.counts(route)) {
            let is_v6 = route.terms.flags & FLAG_V6 != 0;
            let way = Way {
                src,
                dst,
                channel: u16::from_be(channel),
                out_src: at(out(route.src, is_v6), route.terms.src_port),
                out_dst: at(out(route.dst, is_v6), route.terms.dst_port),
                out_channel: u16::from_be(route.terms.channel),
            };
            let is_allowed =
                self.is_allowed(&way, route).is_some_and(|end| route.terms.deadline_ns <= end);
            assert!(is_allowed, "in the kernel, and nobody allowed it: {way:?} {route:?}");
        }
        self.check_places();
        let permissions =
            (tables.permissions_v4.iter())
                .map(|(key, value)| (at(v4(key.relayed), key.relayed_port), v4(key.peer), value))
                .chain(tables.permissions_v6.iter().map(|(key, value)| {
                    (at(v6(key.relayed), key.relayed_port), v6(key.peer), value)
                }));
        let counts = |p: &Permission| self.is_current(p.epoch) && p.deadline_ns > self.now.ns;
        for (relayed, peer, value) in permissions.filter(|(.., value)| counts(value)) {
            let is_v6 = value.flags & FLAG_V6 != 0;
            let client = at(out(value.client, is_v6), value.client_port);
            let server = at(out(value.server, is_v6), value.server_port);
            let allocation = self.model.open_by_relayed(relayed);
            let is_allowed = allocation.is_some_and(|allocation| {
                let end = allocation.permission(peer).unwrap_or(0);
                allocation.tuple == (client, server)
                    && value.deadline_ns <= end.min(end_of(allocation, relayed))
            });
            assert!(is_allowed, "permitted, and by nobody: {relayed} {peer} {value:?}");
        }
    }

    /// What stands in a place is a route that is there, as it is there.
    fn check_places(&self) {
        let tables = &self.datapath.tables;
        for straight in tables.places.v4.values().filter(|place| place.key != [0; 2]) {
            let route = tables.v4.get(&zerocopy::transmute!(straight.key)).expect("a route");
            let leaves = ([straight.src, 0, 0, 0], [straight.dst, 0, 0, 0]);
            assert_eq!((straight.terms, leaves), (route.terms, (route.src, route.dst)));
        }
        for straight in tables.places.v6.values().filter(|place| place.key != [0; 5]) {
            let route = tables.v6.get(&zerocopy::transmute!(straight.key)).expect("a route");
            let leaves = (straight.src, straight.dst);
            assert_eq!((straight.terms, leaves), (route.terms, (route.src, route.dst)));
        }
    }

    fn is_current(&self, epoch: u16) -> bool {
        epoch == self.datapath.tables.config.epoch
    }

    fn counts(&self, route: &Route) -> bool {
        self.is_current(route.terms.epoch) && route.terms.deadline_ns > self.now.ns
    }

    /// Until when the model allows it, if it does.
    fn is_allowed(&self, way: &Way, route: &Route) -> Option<u64> {
        let of_client = || {
            let all = &self.model.allocations;
            all.iter().find(|a| a.is_open() && a.tuple == (way.src, way.dst))
        };
        match route.terms.action {
            ACTION_ANSWER => {
                let is_plain = !(self.rules.is_discovering && way.dst.is_ipv4());
                let is_here = Rules::is_here(way.dst.ip()) && Rules::is_listened(way.dst.port());
                (is_plain && is_here).then_some(u64::MAX)
            }
            ACTION_STRIP => {
                let allocation = of_client()?;
                let channel =
                    bound(allocation, |c| (c.number, c.peer) == (way.channel, way.out_dst));
                Some(channel?.deadline.min(end_of(allocation, way.out_src)))
            }
            ACTION_WRAP => {
                let allocation = self.model.open_by_relayed(way.dst)?;
                let is_client = allocation.tuple == (way.out_dst, way.out_src);
                let channel =
                    bound(allocation, |c| (c.number, c.peer) == (way.out_channel, way.src));
                let permission = allocation.permission(way.src.ip())?;
                let end = channel?.deadline.min(permission).min(end_of(allocation, way.dst));
                is_client.then_some(end)
            }
            ACTION_SEND => Some(end_of(of_client()?, way.out_src)),
            ACTION_SWAP => self.hairpin(of_client()?, way),
            _ => None,
        }
    }

    /// From one client to another, by two channels at once.
    fn hairpin(&self, from: &Allocation, way: &Way) -> Option<u64> {
        let there = bound(from, |c| c.number == way.channel)?;
        let to = self.model.open_by_relayed(there.peer)?;
        let is_client = to.tuple == (way.out_dst, way.out_src);
        let mut relayed = from.relayed.iter().map(|relayed| relayed.address);
        let back = bound(to, |c| c.number == way.out_channel)?;
        let here = relayed.find(|address| *address == back.peer)?;
        let hears = to.permission(here.ip())?.min(back.deadline).min(end_of(to, there.peer));
        is_client.then_some(there.deadline.min(end_of(from, here)).min(hears))
    }
}

fn bound(allocation: &Allocation, is_it: impl Fn(&Channel) -> bool) -> Option<&Channel> {
    allocation.channels.iter().find(|channel| is_it(channel))
}

/// When a relayed transport address ends; 0: it is not the allocation's.
fn end_of(allocation: &Allocation, address: SocketAddr) -> u64 {
    let relayed = allocation.relayed.iter().find(|relayed| relayed.address == address);
    relayed.and_then(|relayed| relayed.deadline).unwrap_or(0)
}
