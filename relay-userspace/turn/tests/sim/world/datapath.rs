//! The kernel's maps in memory, filled as the appliance fills them: the same composition of
//! routes, the same hairpins, the same retreat when something does not fit. And a list of what the
//! server has said, which is what the model is asked about.

#[path = "../../../../src/datapath/hairpins.rs"]
mod hairpins;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use relay_common::abi::{Config, Count, Direction, Policer};
use relay_common::addr::{Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr};
use relay_common::police;
use relay_common::route::{self, Entry, Leg, PermissionEntry, Stamp};
use relay_turn::{Binding, POLICING_BURST_NS, Permission};

use self::hairpins::{Hairpins, Side};
use super::host::{self, HostPolicer, HostTables, hop};
use crate::model::{Told, Tuple};
use crate::rules::{ALTERNATE_PORT, LISTEN_PORT, Rules};

/// What does not fit.
struct Full;

pub struct Datapath {
    pub tables: HostTables,
    /// What the server said and did not take back.
    pub told: BTreeMap<Key, Told>,
    /// No new entry fits.
    pub is_full: bool,
    rules: Rules,
    hairpins: Hairpins,
    held: BTreeMap<Tuple, Held>,
    slots: u32,
}

/// Who said it, and of which binding or permission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    Binding(usize, SocketAddr, u16),
    Permission(usize, SocketAddr, IpAddr),
}

impl Key {
    pub const fn shard(&self) -> usize {
        match self {
            Self::Binding(shard, ..) | Self::Permission(shard, ..) => *shard,
        }
    }
}

struct Held {
    five_tuple: FiveTuple,
    /// In order of [`Family`].
    relayed: [Option<RelayedAddr>; 2],
    stamp: Option<Stamp>,
    /// One for a 5-tuple: Send indications to peers of the other family are userspace's.
    send: Option<(RelayedAddr, u64)>,
    channels: BTreeMap<u16, Channel>,
    permissions: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy)]
enum Channel {
    Routed(Binding),
    Hairpin(PeerAddr),
    Refused(PeerAddr),
}

impl Datapath {
    pub fn new(rules: &Rules) -> Self {
        let mut tables = host::tables();
        let ports = rules.ports_all();
        let cost = police::packet_cost(rules.limits.unauthenticated_replies_per_sec.into());
        tables.config = Config {
            relayed_first: *ports.start(),
            relayed_last: *ports.end(),
            channel_last: rules.channels.last(),
            answer_cost_ns: cost,
            answer_burst_ns: 2_000_000_000 - cost,
            budget_key: 7,
            place_key: 8,
            ..tables.config
        };
        if !rules.has_kernel {
            tables.config.abi_version = 0;
        }
        // In the place of one that nobody here listens on.
        tables.config.listen_ports[0] = ALTERNATE_PORT.to_be();
        let mut datapath = Self {
            tables,
            told: BTreeMap::new(),
            is_full: false,
            rules: rules.clone(),
            hairpins: Hairpins::default(),
            held: BTreeMap::new(),
            slots: 0,
        };
        datapath.answer();
        datapath
    }

    /// Binding requests are answered, where the answer is a plain one.
    fn answer(&mut self) {
        for server in Self::answered(&self.rules) {
            self.tables.insert(route::answer(ServerAddr::new(server), self.tables.config.epoch));
        }
    }

    fn answered(rules: &Rules) -> Vec<SocketAddr> {
        let is_plain = |ip: &IpAddr| ip.is_ipv6() || !rules.is_discovering;
        let all = Rules::here().into_iter().filter(is_plain);
        all.map(|ip| SocketAddr::new(ip, LISTEN_PORT)).collect()
    }

    /// The process that filled the maps is gone; another one begins, and what is there counts no
    /// more.
    pub fn restart(&mut self) {
        self.tables.config.epoch += 1;
        self.tables.counts.borrow_mut().clear();
        self.told.clear();
        self.held.clear();
        self.hairpins = Hairpins::default();
        self.answer();
    }

    pub fn install(&mut self, shard: usize, binding: &Binding) {
        let (relayed, peer) = (binding.relayed.socket(), binding.peer.socket());
        let number = binding.number.value();
        let (there, back) =
            (binding.client_to_peer_deadline_ns, binding.peer_to_client_deadline_ns);
        let told = Told::Binding(relayed, number, peer, there, back);
        self.told.insert(Key::Binding(shard, relayed, number), told);
        let mut held = self.take_held(binding.five_tuple, binding.relayed);
        if self.rules.is_own(peer.ip()) {
            let installed = self.open(&mut held).and_then(|stamp| {
                let side = Side::new(binding, stamp, hop::SAME);
                let entries = self.hairpins.install(side);
                entries.into_iter().try_for_each(|entry| self.insert(entry))
            });
            held.channels.insert(number, Channel::Hairpin(binding.peer));
            if installed.is_err() {
                self.withdraw_hairpin(binding.relayed, binding.peer);
            }
        } else if self.install_routes(&mut held, binding).is_err() {
            // What belongs into the channel would leave as an indication.
            let refused = held.channels.insert(number, Channel::Refused(binding.peer));
            self.forbid_ip(&mut held, peer.ip());
            if let Some(Channel::Routed(before)) = refused {
                self.remove_routes(&held, &before);
            }
        }
        self.held.insert(of(&binding.five_tuple), held);
    }

    pub fn withdraw(&mut self, shard: usize, binding: &Binding) {
        let key = Key::Binding(shard, binding.relayed.socket(), binding.number.value());
        assert!(self.told.remove(&key).is_some(), "withdrawn without having been told: {key:?}");
        let Some(mut held) = self.held.remove(&of(&binding.five_tuple)) else { return };
        match held.channels.remove(&binding.number.value()) {
            Some(Channel::Routed(before)) => self.remove_routes(&held, &before),
            Some(Channel::Hairpin(peer)) => self.withdraw_hairpin(binding.relayed, peer),
            Some(Channel::Refused(_)) | None => {}
        }
        self.held.insert(of(&binding.five_tuple), held);
    }

    pub fn permit(&mut self, shard: usize, permission: &Permission) {
        let (relayed, ip) = (permission.relayed.socket(), permission.peer);
        let (until, allocation) = (permission.deadline_ns, permission.allocation_deadline_ns);
        let told = Told::Permission(relayed, ip, until, allocation);
        self.told.insert(Key::Permission(shard, relayed, ip), told);
        assert!(!self.rules.is_own(ip), "never for a peer on one of our own addresses");
        let mut held = self.take_held(permission.five_tuple, permission.relayed);
        let is_refused = held.channels.values().any(|channel| match channel {
            Channel::Refused(peer) => peer.ip() == ip,
            Channel::Routed(_) | Channel::Hairpin(_) => false,
        });
        if !is_refused && self.install_permission(&mut held, permission).is_err() {
            self.forbid_ip(&mut held, ip);
        }
        self.held.insert(of(&permission.five_tuple), held);
    }

    pub fn forbid(&mut self, shard: usize, permission: &Permission) {
        let key = Key::Permission(shard, permission.relayed.socket(), permission.peer);
        assert!(self.told.remove(&key).is_some(), "forbidden without having been told: {key:?}");
        if let Some(mut held) = self.held.remove(&of(&permission.five_tuple)) {
            self.forbid_ip(&mut held, permission.peer);
            self.held.insert(of(&permission.five_tuple), held);
        }
    }

    /// A relayed transport address closes, and must have taken everything back by now.
    pub fn closed(&self, shard: usize, relayed: SocketAddr) {
        let left = self.told.keys().find(|key| match key {
            Key::Binding(of, at, _) | Key::Permission(of, at, _) => (*of, *at) == (shard, relayed),
        });
        assert_eq!(left, None, "an address closed, and the datapath knows of it");
    }

    /// Forgets an allocation: what the kernel relayed for it.
    pub fn end(&mut self, tuple: Tuple) -> [Count; 2] {
        let Some(mut held) = self.held.remove(&tuple) else { return Default::default() };
        assert!(held.permissions.is_empty() && held.channels.is_empty());
        let Some(stamp) = held.stamp else { return Default::default() };
        self.remove_send(&mut held);
        let mut counts = self.tables.counts.borrow_mut();
        Direction::ALL.map(|direction| counts.remove(&(stamp.slot, direction)).unwrap_or_default())
    }

    /// Panics if anything of any allocation is left.
    pub fn check_empty(&self) {
        assert!(self.told.is_empty(), "{:?}", self.told);
        let epoch = self.tables.config.epoch;
        let v4 = self.tables.v4.values().filter(|route| route.terms.epoch == epoch).count();
        let v6 = self.tables.v6.values().filter(|route| route.terms.epoch == epoch).count();
        assert_eq!(v4 + v6, Self::answered(&self.rules).len(), "routes are left");
        let mut v4 = self.tables.permissions_v4.values();
        let mut v6 = self.tables.permissions_v6.values();
        let is_left = v4.any(|p| p.epoch == epoch) || v6.any(|p| p.epoch == epoch);
        assert!(!is_left, "permissions are left");
        assert_eq!(self.hairpins.composed(), 0);
    }

    fn take_held(&mut self, five_tuple: FiveTuple, relayed: RelayedAddr) -> Held {
        let mut held = self.held.remove(&of(&five_tuple)).unwrap_or_else(|| Held {
            five_tuple,
            relayed: [None; 2],
            stamp: None,
            send: None,
            channels: BTreeMap::new(),
            permissions: BTreeSet::new(),
        });
        held.relayed[relayed.family() as usize] = Some(relayed);
        held
    }

    /// What all entries of an allocation share; made with the first of them.
    fn open(&mut self, held: &mut Held) -> Result<Stamp, Full> {
        if let Some(stamp) = held.stamp {
            return Ok(stamp);
        }
        let slot = self.slots;
        self.slots += 1;
        let limits = &self.rules.limits;
        let policed = self.rules.is_policed;
        for direction in Direction::ALL.into_iter().filter(|_| policed) {
            let limits = Policer {
                packet_cost: police::packet_cost(limits.allocation_packets_per_sec.into()),
                byte_cost: police::byte_cost(limits.allocation_bytes_per_sec.into()),
                burst_ns: POLICING_BURST_NS,
                ..Policer::default()
            };
            let policer = HostPolicer { limits, ..HostPolicer::default() };
            self.tables.policers.insert((slot, direction), policer);
        }
        Ok(*held.stamp.insert(Stamp { slot, epoch: self.tables.config.epoch, policed }))
    }

    fn install_routes(&mut self, held: &mut Held, binding: &Binding) -> Result<(), Full> {
        let stamp = self.open(held)?;
        let before = held.channels.insert(binding.number.value(), Channel::Routed(*binding));
        if let Some(Channel::Routed(before)) = before
            && before.peer != binding.peer
        {
            self.remove_routes(held, &before);
        }
        let entries = route::channel(&routed(binding, stamp));
        entries.into_iter().flatten().try_for_each(|entry| self.insert(entry))
    }

    fn remove_routes(&mut self, held: &Held, binding: &Binding) {
        let Some(stamp) = held.stamp else { return };
        route::channel(&routed(binding, stamp)).into_iter().flatten().for_each(|entry| {
            self.tables.remove(entry);
        });
    }

    fn withdraw_hairpin(&mut self, relayed: RelayedAddr, peer: PeerAddr) {
        let gone = self.hairpins.withdraw(relayed, RelayedAddr::new(peer.socket()));
        gone.into_iter().for_each(|entry| self.tables.remove(entry));
    }

    fn install_permission(&mut self, held: &mut Held, given: &Permission) -> Result<(), Full> {
        let stamp = self.open(held)?;
        let wanted = (given.relayed, given.allocation_deadline_ns);
        let is_of_other = held.send.is_some_and(|(relayed, _)| relayed != given.relayed);
        if !is_of_other && held.send != Some(wanted) {
            let entry = route::send(&held.five_tuple, wanted.0, stamp, wanted.1).unwrap();
            if self.insert(entry).is_err() {
                self.remove_send(held);
                return Err(Full);
            }
            held.send = Some(wanted);
        }
        held.permissions.insert(given.peer);
        let entry = permitted(held, given.relayed, given.peer, stamp, given.deadline_ns);
        let tables = &mut self.tables;
        let is_full = self.is_full
            || tables.permissions_v4.len() + tables.permissions_v6.len() >= self.rules.routes_max;
        match entry {
            PermissionEntry::V4(key, _) if is_full && !tables.permissions_v4.contains_key(&key) => {
                return Err(Full);
            }
            PermissionEntry::V6(key, _) if is_full && !tables.permissions_v6.contains_key(&key) => {
                return Err(Full);
            }
            PermissionEntry::V4(key, value) => drop(tables.permissions_v4.insert(key, value)),
            PermissionEntry::V6(key, value) => drop(tables.permissions_v6.insert(key, value)),
        }
        Ok(())
    }

    /// With the last permission of a family goes the route of Send indications.
    fn forbid_ip(&mut self, held: &mut Held, ip: IpAddr) {
        let family = Family::of(ip);
        if let Some(stamp) = held.stamp.filter(|_| held.permissions.remove(&ip)) {
            let relayed = held.relayed[family as usize].expect("permitted for it");
            match permitted(held, relayed, ip, stamp, 0) {
                PermissionEntry::V4(key, _) => drop(self.tables.permissions_v4.remove(&key)),
                PermissionEntry::V6(key, _) => drop(self.tables.permissions_v6.remove(&key)),
            }
        }
        let is_left = held.permissions.iter().any(|ip| Family::of(*ip) == family);
        if !is_left && held.send.is_some_and(|(relayed, _)| relayed.family() == family) {
            self.remove_send(held);
        }
    }

    fn remove_send(&mut self, held: &mut Held) {
        if let Some((stamp, (relayed, _))) = held.stamp.zip(held.send.take()) {
            self.tables.remove(route::send(&held.five_tuple, relayed, stamp, 0).unwrap());
        }
    }

    fn insert(&mut self, entry: Entry) -> Result<(), Full> {
        let is_there = match entry {
            Entry::V4(key, _) => self.tables.v4.contains_key(&key),
            Entry::V6(key, _) => self.tables.v6.contains_key(&key),
        };
        let count = self.tables.v4.len() + self.tables.v6.len();
        if !is_there && (self.is_full || count >= self.rules.routes_max) {
            return Err(Full);
        }
        self.tables.insert(entry);
        Ok(())
    }
}

fn of(five_tuple: &FiveTuple) -> Tuple {
    (five_tuple.client.socket(), five_tuple.server.socket())
}

fn routed(binding: &Binding, stamp: Stamp) -> route::Binding {
    let leg = |deadline_ns| Leg { deadline_ns, next_hop: hop::SAME };
    route::Binding {
        five_tuple: binding.five_tuple,
        relayed: binding.relayed,
        peer: binding.peer,
        channel: binding.number,
        stamp,
        to_peer: leg(binding.client_to_peer_deadline_ns),
        to_client: leg(binding.peer_to_client_deadline_ns),
    }
}

fn permitted(
    held: &Held,
    relayed: RelayedAddr,
    ip: IpAddr,
    stamp: Stamp,
    deadline_ns: u64,
) -> PermissionEntry {
    let hops = [hop::SAME; 2];
    route::permission(&held.five_tuple, relayed, ip, stamp, deadline_ns, hops).unwrap()
}
