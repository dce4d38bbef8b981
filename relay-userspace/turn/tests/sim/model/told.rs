//! What the datapath has to know after each input, and what the gauges have to say.

use std::net::{IpAddr, SocketAddr};

use relay_common::addr::{Family, Transport};
use relay_turn::Snapshot;

use super::{Model, Time};

/// A channel binding or permission that the datapath was told of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Told {
    /// Relayed transport address, channel number, peer; until when to the peer, and to the client
    /// (0: not at all).
    Binding(SocketAddr, u16, SocketAddr, u64, u64),
    /// Relayed transport address, peer; the permission's and the allocation's deadline.
    Permission(SocketAddr, IpAddr, u64, u64),
}

impl Told {
    /// A deadline that is over is as good as none.
    pub fn seen_at(self, now: Time) -> Self {
        match self {
            Self::Binding(relayed, number, peer, there, back) => {
                let back = if back > now.ns { back } else { 0 };
                Self::Binding(relayed, number, peer, there, back)
            }
            Self::Permission(..) => self,
        }
    }
}

impl Model {
    /// Everything that a shard has told the datapath and not taken back, sorted.
    pub fn told(&self, now: Time, shard: usize) -> Vec<Told> {
        let mut all = Vec::new();
        let of_shard = self.allocations.iter().filter(|a| a.shard == shard);
        for allocation in of_shard.filter(|a| a.is_open()) {
            let end = |ip: IpAddr| allocation.relayed(ip.is_ipv4()).expect("closed with it");
            for channel in allocation.channels.iter().filter(|c| c.deadline > now.ns) {
                let (relayed, deadline) = end(channel.peer.ip());
                let there = channel.deadline.min(deadline);
                let back = allocation.permission(channel.peer.ip()).unwrap_or(0).min(there);
                all.push(Told::Binding(relayed, channel.number, channel.peer, there, back));
            }
            let permissions = allocation.permissions.iter();
            for (ip, until) in permissions.filter(|(ip, _)| !self.rules.is_own(*ip)) {
                let (relayed, deadline) = end(*ip);
                all.push(Told::Permission(relayed, *ip, deadline.min(*until), deadline));
            }
        }
        all.sort_unstable();
        all
    }

    /// Panics if a shard's gauges say something else than what there is.
    pub fn check_gauges(&self, now: Time, shard: usize, snapshot: &Snapshot) {
        let open = || {
            let of_shard = self.allocations.iter().filter(move |a| a.shard == shard);
            of_shard.filter(|a| a.is_open())
        };
        for (family, is_v4) in [(Family::V4, true), (Family::V6, false)] {
            let count = open().filter(|a| a.relayed(is_v4).is_some()).count();
            let gauge = snapshot.allocations(Transport::Udp, family);
            assert_eq!(gauge, count as u64, "allocations, {family:?}");
        }
        let permissions: usize = open().map(|a| a.permissions.len()).sum();
        assert_eq!(snapshot.permissions, permissions as u64, "permissions");
        let bound = open().flat_map(|a| &a.channels).filter(|c| c.deadline > now.ns).count();
        assert_eq!(snapshot.channels, bound as u64, "channels");
        let held = self.held.iter().filter(|held| held.shard == shard).count();
        assert_eq!(snapshot.reservations, held as u64, "reservations");
    }
}
