//! Hairpins: both clients are on this relay, and each has a channel to the other's relayed
//! transport address. Two routes then stand for both bindings, from one client to the other.
//! Owns who belongs to whom and until when; knows no map.

use std::collections::HashMap;

use relay_common::addr::RelayedAddr;
use relay_common::route::{self, Entry, HairpinEnd, Leg, Stamp};
use relay_turn::Binding;

/// A channel to one of our own relayed transport addresses: half of a hairpin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Side {
    end: HairpinEnd,
    relayed: RelayedAddr,
    peer: RelayedAddr,
    client_to_peer_deadline_ns: u64,
    peer_to_client_deadline_ns: u64,
    /// Index of the next hop towards its client.
    to_client: u16,
}

impl Side {
    /// A binding, with its allocation's slot and the next hop towards its client.
    pub(super) fn new(binding: &Binding, stamp: Stamp, to_client: u16) -> Self {
        let Binding { five_tuple, relayed, peer, number, .. } = *binding;
        Self {
            end: HairpinEnd { five_tuple, channel: number, stamp },
            relayed,
            peer: RelayedAddr::new(peer.socket()),
            client_to_peer_deadline_ns: binding.client_to_peer_deadline_ns,
            peer_to_client_deadline_ns: binding.peer_to_client_deadline_ns,
            to_client,
        }
    }

    /// The way from this side's client to the other's: until the first of the sender's binding and
    /// the receiver's binding and permission ends.
    fn way_to(&self, other: &Self) -> Option<Entry> {
        let deadline_ns = self.client_to_peer_deadline_ns.min(other.peer_to_client_deadline_ns);
        let leg = Leg { deadline_ns, next_hop: other.to_client };
        route::hairpin(&self.end, &other.end, leg)
    }
}

/// Every side, by its own relayed transport address and the peer's.
#[derive(Default)]
pub(super) struct Hairpins {
    sides: HashMap<(RelayedAddr, RelayedAddr), Side>,
    composed: u64,
    /// Of a client with itself: one route is both ways.
    own: u64,
}

impl Hairpins {
    /// Adds a side, or moves its deadlines. The routes that now hold, both ways; none as long as
    /// the other side is missing.
    pub(super) fn install(&mut self, side: Side) -> Vec<Entry> {
        let is_new = self.sides.insert((side.relayed, side.peer), side).is_none();
        let Some(other) = self.sides.get(&(side.peer, side.relayed)) else { return Vec::new() };
        self.composed += u64::from(is_new);
        self.own += u64::from(is_new && side.relayed == side.peer);
        ways(&side, other)
    }

    /// Takes a side away. The routes that hold no longer, both ways.
    pub(super) fn withdraw(&mut self, relayed: RelayedAddr, peer: RelayedAddr) -> Vec<Entry> {
        // The other side is looked for first: a client's channel to itself is both.
        let other = self.sides.get(&(peer, relayed)).copied();
        let Some((side, other)) = self.sides.remove(&(relayed, peer)).zip(other) else {
            return Vec::new();
        };
        self.composed -= 1;
        self.own -= u64::from(relayed == peer);
        ways(&side, &other)
    }

    /// Pairs of sides.
    pub(super) const fn composed(&self) -> u64 {
        self.composed
    }

    /// Routes that they have.
    pub(super) const fn routes(&self) -> u64 {
        2 * self.composed - self.own
    }
}

fn ways(side: &Side, other: &Side) -> Vec<Entry> {
    [side.way_to(other), other.way_to(side)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_common::abi::{RouteKeyV4, RouteKeyV6};
    use relay_common::addr::{ClientAddr, FiveTuple, PeerAddr, ServerAddr, Transport};
    use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};
    use relay_turn::AllocationId;
    use std::net::SocketAddr;

    /// Clients of both families, relayed transport addresses of both families.
    const CLIENTS: [(&str, &str, &str); 6] = [
        ("192.0.2.1:1", "10.0.0.1:3478", "10.0.0.1:50000"),
        ("192.0.2.2:2", "10.0.0.1:3478", "10.0.0.1:50001"),
        ("[2001:db8::1]:1", "[2001:db8::9]:3478", "10.0.0.1:50002"),
        ("[2001:db8::2]:2", "[2001:db8::9]:3478", "[2001:db8::9]:50000"),
        ("[2001:db8::3]:3", "[2001:db8::9]:3478", "[2001:db8::9]:50001"),
        ("192.0.2.3:3", "10.0.0.1:3478", "[2001:db8::9]:50002"),
    ];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The channel of one client to another's relayed transport address.
    fn binding(from: usize, to: usize, deadlines: (u64, u64)) -> Binding {
        let number = 0x4000 + u16::try_from(to).unwrap();
        let (client, server, relayed) = CLIENTS[from];
        Binding {
            allocation: AllocationId { index: 0, generation: 0 },
            five_tuple: FiveTuple {
                transport: Transport::Udp,
                client: ClientAddr::new(at(client)),
                server: ServerAddr::new(at(server)),
            },
            relayed: RelayedAddr::new(at(relayed)),
            peer: PeerAddr::new(at(CLIENTS[to].2)),
            number: ChannelNumber::new(number, ChannelRange::Rfc8656).unwrap(),
            client_to_peer_deadline_ns: deadlines.0,
            peer_to_client_deadline_ns: deadlines.1,
        }
    }

    fn side(from: usize, to: usize, deadlines: (u64, u64)) -> Side {
        let slot = u32::try_from(from).unwrap();
        let stamp = Stamp { slot, epoch: 1, policed: false };
        Side::new(&binding(from, to, deadlines), stamp, 100 + u16::try_from(from).unwrap())
    }

    /// The kernel's maps, as far as hairpins go.
    #[derive(Default)]
    struct Maps(HashMap<RouteKeyV4, route::Entry>, HashMap<RouteKeyV6, route::Entry>);

    impl Maps {
        fn insert(&mut self, entries: Vec<Entry>) {
            for entry in entries {
                match entry {
                    Entry::V4(key, _) => drop(self.0.insert(key, entry)),
                    Entry::V6(key, _) => drop(self.1.insert(key, entry)),
                }
            }
        }

        fn remove(&mut self, entries: Vec<Entry>) {
            for entry in entries {
                match entry {
                    Entry::V4(key, _) => drop(self.0.remove(&key)),
                    Entry::V6(key, _) => drop(self.1.remove(&key)),
                }
            }
        }

        /// What everything leads to: (slots of sender and receiver, deadline, next hop).
        fn shown(&self) -> Vec<(u32, u32, u64, u16)> {
            let mut shown: Vec<_> = (self.0.values().chain(self.1.values()))
                .map(|entry| match entry {
                    Entry::V4(_, route) | Entry::V6(_, route) => (
                        route.terms.slot,
                        route.terms.peer_slot,
                        route.terms.deadline_ns,
                        route.terms.next_hop,
                    ),
                })
                .collect();
            shown.sort_unstable();
            shown
        }
    }

    #[test]
    fn a_way_lasts_as_long_as_the_sender_may_send_and_the_receiver_hear() {
        let (mut hairpins, mut maps) = (Hairpins::default(), Maps::default());
        maps.insert(hairpins.install(side(0, 1, (600, 300))));
        assert_eq!((maps.shown(), hairpins.composed()), (vec![], 0));
        maps.insert(hairpins.install(side(1, 0, (500, 200))));
        assert_eq!(maps.shown(), [(0, 1, 200, 101), (1, 0, 300, 100)]);
        maps.insert(hairpins.install(side(1, 0, (500, 450))));
        maps.insert(hairpins.install(side(0, 1, (400, 399))));
        assert_eq!(maps.shown(), [(0, 1, 400, 101), (1, 0, 399, 100)]);
        assert_eq!(hairpins.composed(), 1);
        let removed = hairpins.withdraw(side(0, 1, (0, 0)).relayed, side(0, 1, (0, 0)).peer);
        maps.remove(removed);
        assert_eq!((maps.shown(), hairpins.composed()), (vec![], 0));
    }

    #[test]
    fn a_channel_to_oneself_is_both_sides() {
        let (mut hairpins, mut maps) = (Hairpins::default(), Maps::default());
        let both = side(3, 3, (600, 300));
        maps.insert(hairpins.install(both));
        assert_eq!((maps.shown(), hairpins.composed()), (vec![(3, 3, 300, 103)], 1));
        assert_eq!(hairpins.routes(), 1);
        maps.insert(hairpins.install(both));
        assert_eq!(hairpins.routes(), 1, "a refresh");
        maps.remove(hairpins.withdraw(both.relayed, both.peer));
        assert_eq!((maps.shown(), hairpins.composed()), (vec![], 0));
        assert_eq!(hairpins.routes(), 0);
        assert!(hairpins.sides.is_empty());
    }

    /// Whatever comes and goes in whatever order: what the maps hold is what a look at all living
    /// sides says, no more and no less.
    #[test]
    fn no_partner_that_is_gone_or_old_survives() {
        let mut random = 1u64;
        let mut below = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % end
        };
        let (mut hairpins, mut maps) = (Hairpins::default(), Maps::default());
        let mut model: HashMap<(usize, usize), (u64, u64)> = HashMap::new();
        let mut most = 0;
        for _ in 0..20_000 {
            // Peers are of the relayed family: the first three with each other, or the last three.
            let base = 3 * usize::try_from(below(2)).unwrap();
            let mut one = || base + usize::try_from(below(3)).unwrap();
            let (from, to) = (one(), one());
            if below(5) < 3 {
                let deadlines = (below(1000), below(1000));
                model.insert((from, to), deadlines);
                maps.insert(hairpins.install(side(from, to, deadlines)));
            } else {
                model.remove(&(from, to));
                let gone = side(from, to, (0, 0));
                maps.remove(hairpins.withdraw(gone.relayed, gone.peer));
            }
            let mut expected = Vec::new();
            for ((from, to), (there, _)) in &model {
                if let Some((_, back)) = model.get(&(*to, *from)) {
                    let hop = 100 + u16::try_from(*to).unwrap();
                    let slots = (u32::try_from(*from).unwrap(), u32::try_from(*to).unwrap());
                    expected.push((slots.0, slots.1, *there.min(back), hop));
                }
            }
            expected.sort_unstable();
            assert_eq!(maps.shown(), expected);
            let to_themselves = model.keys().filter(|(from, to)| from == to).count();
            assert_eq!(2 * hairpins.composed(), (expected.len() + to_themselves) as u64);
            assert_eq!(hairpins.routes(), expected.len() as u64);
            most = most.max(expected.len());
        }
        assert!(most > 8, "{most}: there was something to do");
    }
}
