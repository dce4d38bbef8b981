//! A TURN server as RFC 8656 tells it, the naive way: lists with deadlines, searched from end to
//! end. It says what may come of each input, is told what did, and complains about the rest.
//!
//! Shares no code with the server. Where the RFC leaves a choice, it takes any of them.

mod allocate;
mod answer;
mod auth;
mod channel;
mod data;
mod directory;
mod discovery;
mod limits;
mod opening;
mod permission;
mod refresh;
pub mod token;
mod told;
mod users;
pub mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use relay_turn::{AllocationId, IntegrityKind, KeyKind};

pub use allocate::Wish;
pub use answer::{Actual, Answer, Effect, Expected, Sent, Signed};
pub use permission::is_denied;
pub use told::Told;
pub use users::{Who, rest_password};

use crate::accounts::Accounts;
use crate::rules::Rules;

pub const SEC: u64 = 1_000_000_000;
/// RFC 8656 §9.
pub const PERMISSION_NS: u64 = 300 * SEC;
/// RFC 8656 §12.
pub const CHANNEL_NS: u64 = 600 * SEC;
/// RFC 8656 §12: neither number nor peer is bound to another for so long after the end.
pub const BAN_NS: u64 = 300 * SEC;
/// RFC 8656 §7.2.
pub const RESERVATION_NS: u64 = 30 * SEC;

/// Client and server, over UDP.
pub type Tuple = (SocketAddr, SocketAddr);

/// The time, as in [`relay_turn::Now`].
#[derive(Clone, Copy, Debug)]
pub struct Time {
    pub ns: u64,
    pub unix: u64,
}

/// Everything a server may keep.
pub struct Model {
    pub rules: Rules,
    pub accounts: Accounts,
    pub allocations: Vec<Allocation>,
    pub held: Vec<Held>,
    /// Requests that were proved, by shard and by what.
    pub proofs: BTreeMap<(usize, IntegrityKind, KeyKind), u64>,
    /// How often what happened that not every run brings.
    pub met: BTreeMap<&'static str, u64>,
    nonces: Vec<Issued>,
    directories: Vec<directory::Directory>,
    /// What passed a limit lately.
    passed: Vec<limits::Passed>,
}

/// RFC 8656 §3.2.
#[derive(Clone, Debug)]
pub struct Allocation {
    pub shard: usize,
    pub tuple: Tuple,
    pub id: AllocationId,
    /// One of each family at most.
    pub relayed: Vec<Relayed>,
    who: Who,
    charged: Vec<u8>,
    /// The key and the end of the token that it stands on.
    token: Option<(Vec<u8>, u64)>,
    transaction: [u8; 12],
    pub stage: Stage,
    pub permissions: Vec<(IpAddr, u64)>,
    pub channels: Vec<Channel>,
    /// How much of a bucket new peers have filled, in nanoseconds of its leak, and when.
    new_peers: (u64, u64),
}

/// A relayed transport address.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// As packets carry it.
    pub address: SocketAddr,
    /// It has a socket.
    pub is_open: bool,
    /// `None` before the allocation begins.
    pub deadline: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum Stage {
    /// Its sockets are being opened, or cannot be: addresses that failed, how often others were
    /// tried.
    Opening { wish: Wish, answer: Box<Answer>, failed: Vec<SocketAddr>, tries: usize },
    /// What its Allocate request was answered.
    Open { attributes: Vec<(u16, Vec<u8>)> },
}

/// RFC 8656 §12: relays until its deadline, and is remembered for [`BAN_NS`] more.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub number: u16,
    pub peer: SocketAddr,
    pub deadline: u64,
}

/// A port behind a token (RFC 8656 §7.2).
#[derive(Clone, Debug)]
pub struct Held {
    pub shard: usize,
    pub token: Vec<u8>,
    pub relayed: SocketAddr,
    pub deadline: u64,
}

/// A nonce that was in a response.
struct Issued {
    client: SocketAddr,
    nonce: Vec<u8>,
    unix: u64,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            directories: (0..rules.shards).map(|_| directory::Directory::default()).collect(),
            accounts: Accounts::first(),
            rules,
            allocations: Vec::new(),
            held: Vec::new(),
            proofs: BTreeMap::new(),
            met: BTreeMap::new(),
            nonces: Vec::new(),
            passed: Vec::new(),
        }
    }

    /// The server has ended, and another has begun: with the same key for nonces, and nothing else.
    pub fn restart(&mut self) {
        let (nonces, met) = (std::mem::take(&mut self.nonces), std::mem::take(&mut self.met));
        let accounts = self.accounts.clone();
        *self = Self { nonces, met, accounts, ..Self::new(self.rules.clone()) };
    }

    /// Something happened.
    pub fn note(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// Forgets what is over. A deadline is the first moment at which it is.
    pub fn purge(&mut self, now: Time) {
        let is_over = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now.ns);
        for allocation in &mut self.allocations {
            allocation.permissions.retain(|(_, deadline)| *deadline > now.ns);
            allocation.channels.retain(|channel| channel.deadline + BAN_NS > now.ns);
            while let Some(at) = allocation.relayed.iter().position(|r| is_over(r.deadline)) {
                allocation.close(at);
            }
        }
        self.allocations.retain(|allocation| !allocation.relayed.is_empty());
        self.held.retain(|held| held.deadline > now.ns);
    }

    /// Every moment at which something ends.
    pub fn deadlines(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.held.iter().map(|held| held.deadline).collect();
        for allocation in &self.allocations {
            all.extend(allocation.relayed.iter().filter_map(|relayed| relayed.deadline));
            all.extend(allocation.permissions.iter().map(|(_, deadline)| *deadline));
            for channel in &allocation.channels {
                all.extend([channel.deadline, channel.deadline + BAN_NS]);
            }
        }
        all
    }

    pub fn by_tuple(&self, tuple: Tuple) -> Option<usize> {
        self.allocations.iter().position(|a| a.tuple == tuple)
    }

    pub fn by_id(&self, shard: usize, id: AllocationId) -> Option<usize> {
        self.allocations.iter().position(|a| a.shard == shard && a.id == id)
    }

    /// The allocation that data on its 5-tuple belongs to.
    fn open_by_tuple(&self, tuple: Tuple) -> Option<&Allocation> {
        self.allocations.iter().find(|a| a.tuple == tuple && a.is_open())
    }

    pub fn open_by_relayed(&self, relayed: SocketAddr) -> Option<&Allocation> {
        let has = |a: &&Allocation| a.relayed.iter().any(|r| r.address == relayed);
        self.allocations.iter().filter(|a| a.is_open()).find(has)
    }
}

impl Allocation {
    pub const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// The address of a family, if it relays.
    fn relayed(&self, is_v4: bool) -> Option<(SocketAddr, u64)> {
        let relayed = self.relayed.iter().find(|r| r.address.is_ipv4() == is_v4)?;
        Some((relayed.address, relayed.deadline?))
    }

    /// One of its addresses ends, and what belongs to it.
    fn close(&mut self, at: usize) {
        let is_v4 = self.relayed.remove(at).address.is_ipv4();
        self.permissions.retain(|(ip, _)| ip.is_ipv4() != is_v4);
        self.channels.retain(|channel| channel.peer.is_ipv4() != is_v4);
    }

    pub fn permission(&self, ip: IpAddr) -> Option<u64> {
        self.permissions.iter().find(|(other, _)| *other == ip).map(|(_, deadline)| *deadline)
    }

    fn permit(&mut self, ip: IpAddr, deadline: u64) {
        self.permissions.retain(|(other, _)| *other != ip);
        self.permissions.push((ip, deadline));
    }
}
