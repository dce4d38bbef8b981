//! The world: virtual time, clients behind NATs, peers, a bad network, the server's shards with
//! their sockets, and the XDP step in front of them. Every input goes to the model too, which
//! judges what comes of it. One step is one input.

mod actions;
mod client;
mod datapath;
mod driver;
mod ending;
#[path = "../../../../../relay-ebpf/tests/common/mod.rs"]
mod host;
mod kernel;
mod network;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_common::abi::{Count, Reason};
use relay_turn::{AllocationId, Ledger, Turn};

use self::client::Client;
use self::datapath::Datapath;
use self::network::{Faults, Network};
use crate::model::{Model, Time, Tuple};
use crate::random::Random;
use crate::rules::{Rules, UNIX_START};
use crate::trace::Trace;

/// A shard, and what it was given and did, counted from outside.
struct Shard {
    turn: Turn,
    /// Datagrams that it was given.
    inputs: u64,
    /// Application data that it relayed, by direction.
    relayed: [Count; 2],
    icmp: u64,
}

/// A relayed transport address that is being opened.
#[derive(Clone, Copy, Debug)]
struct Pending {
    shard: usize,
    id: AllocationId,
    relayed: SocketAddr,
    /// Given up meanwhile.
    is_abandoned: bool,
}

/// An open socket.
#[derive(Clone, Copy, Debug)]
struct Socket {
    shard: usize,
    id: AllocationId,
}

pub struct World {
    random: Random,
    rules: Rules,
    now: Time,
    shards: Vec<Shard>,
    datapath: Datapath,
    model: Model,
    network: Network,
    clients: Vec<Client>,
    pending: Vec<Pending>,
    sockets: BTreeMap<SocketAddr, Socket>,
    /// What was relayed for each allocation, by direction: by the kernel, and by its shard.
    by_kernel: BTreeMap<SocketAddr, [Count; 2]>,
    by_shard: BTreeMap<Tuple, [Count; 2]>,
    trace: Trace,
    steps: u64,
    /// How often each of the step's verdicts was seen.
    pub reasons: BTreeMap<Reason, u64>,
    /// How often the model's expectations were of each kind.
    pub seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(mut random: Random, is_shown: bool) -> Self {
        let rules = Rules::choose(&mut random);
        let faults = Faults::choose(&mut random);
        let mut trace = Trace::new(is_shown);
        trace.event(0, "rules", || format!("{rules:?} {faults:?}"));
        let ledger = Ledger::new([3; 16]);
        let shards = (0..rules.shards).map(|shard| Shard {
            turn: Turn::new(rules.config(shard, &ledger)),
            inputs: 0,
            relayed: Default::default(),
            icmp: 0,
        });
        let mut world = Self {
            now: Time { ns: 5_000_000_000, unix: UNIX_START },
            shards: shards.collect(),
            datapath: Datapath::new(&rules),
            model: Model::new(rules.clone()),
            network: Network::new(faults),
            clients: Vec::new(),
            pending: Vec::new(),
            sockets: BTreeMap::new(),
            by_kernel: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            trace,
            steps: 0,
            reasons: BTreeMap::new(),
            seen: BTreeMap::new(),
            rules,
            random,
        };
        for _ in 0..2 + world.random.index(4) {
            let address = world.free_address();
            let client = Client::new(&mut world.random, address);
            world.clients.push(client);
        }
        world
    }

    /// So many inputs, or as many as a fuzzer's bytes are good for; then the end.
    pub fn run(&mut self, steps: u64) {
        let mut idle = 0;
        while self.steps < steps && !self.random.is_spent() && idle < 1000 {
            let before = self.steps;
            self.act();
            idle = if self.steps == before { idle + 1 } else { 0 };
        }
        self.end();
    }

    pub const fn steps(&self) -> u64 {
        self.steps
    }

    pub const fn hash(&self) -> u64 {
        self.trace.hash
    }
}
