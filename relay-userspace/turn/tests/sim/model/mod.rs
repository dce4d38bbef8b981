//! A TURN server as RFC 8656 tells it, the naive way: lists with deadlines, searched from end to
//! end. It says what may come of each input, is told what did, and complains about the rest.
//!
//! Shares no code with the server. Where the RFC leaves a choice, it takes any of them.

mod allocate;
mod answer;
mod auth;
mod channel;
mod data;
mod limits;
mod permission;
mod refresh;
mod told;
pub mod wire;

use std::net::{IpAddr, SocketAddr};

use relay_turn::AllocationId;

pub use allocate::Wish;
pub use answer::{Actual, Answer, Effect, Expected, Sent};
pub use auth::rest_password;
pub use told::Told;

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
    pub allocations: Vec<Allocation>,
    pub held: Vec<Held>,
    nonces: Vec<Issued>,
    keys: Vec<(Vec<u8>, [u8; 16])>,
    /// What passed a limit lately.
    passed: Vec<(limits::Limited, u64)>,
}

/// RFC 8656 §3.2.
#[derive(Clone, Debug)]
pub struct Allocation {
    pub shard: usize,
    pub tuple: Tuple,
    pub id: AllocationId,
    /// As packets carry it.
    pub relayed: SocketAddr,
    user: Vec<u8>,
    transaction: [u8; 12],
    pub stage: Stage,
    pub permissions: Vec<(IpAddr, u64)>,
    pub channels: Vec<Channel>,
}

#[derive(Clone, Debug)]
pub enum Stage {
    /// Its socket is being opened, or cannot be: addresses that failed.
    Opening { wish: Wish, answer: Box<Answer>, failed: Vec<SocketAddr> },
    /// Until then, and what its Allocate request was answered.
    Open { deadline: u64, attributes: Vec<(u16, Vec<u8>)> },
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
            rules,
            allocations: Vec::new(),
            held: Vec::new(),
            nonces: Vec::new(),
            keys: Vec::new(),
            passed: Vec::new(),
        }
    }

    /// Forgets what is over. A deadline is the first moment at which it is.
    pub fn purge(&mut self, now: Time) {
        self.allocations.retain(|a| a.deadline().is_none_or(|deadline| deadline > now.ns));
        for allocation in &mut self.allocations {
            allocation.permissions.retain(|(_, deadline)| *deadline > now.ns);
            allocation.channels.retain(|channel| channel.deadline + BAN_NS > now.ns);
        }
        self.held.retain(|held| held.deadline > now.ns);
    }

    /// Every moment at which something ends.
    pub fn deadlines(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.held.iter().map(|held| held.deadline).collect();
        for allocation in &self.allocations {
            all.extend(allocation.deadline());
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
        self.allocations.iter().find(|a| a.tuple == tuple && a.deadline().is_some())
    }

    pub fn open_by_relayed(&self, relayed: SocketAddr) -> Option<&Allocation> {
        self.allocations.iter().find(|a| a.relayed == relayed && a.deadline().is_some())
    }
}

impl Allocation {
    /// `None` while it is being opened.
    pub fn deadline(&self) -> Option<u64> {
        match &self.stage {
            Stage::Opening { .. } => None,
            Stage::Open { deadline, .. } => Some(*deadline),
        }
    }

    pub fn permission(&self, ip: IpAddr) -> Option<u64> {
        self.permissions.iter().find(|(other, _)| *other == ip).map(|(_, deadline)| *deadline)
    }

    fn permit(&mut self, ip: IpAddr, deadline: u64) {
        self.permissions.retain(|(other, _)| *other != ip);
        self.permissions.push((ip, deadline));
    }
}
