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
mod life;
mod look_ups;
mod network;
mod signing;
mod subset;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_common::abi::{Count, Reason};
use relay_turn::{AllocationId, Code, Ledger, LookUpOutcome, RequestMethod, Turn};

use self::client::Client;
use self::datapath::Datapath;
use self::network::{Faults, Network};
use crate::accounts::{Accounts, Store};
use crate::model::{Model, Sent, Time, Tuple};
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
    /// Its answers.
    answers: BTreeMap<(RequestMethod, Code), u64>,
    /// Users that it wants to be looked up.
    look_ups: Vec<Vec<u8>>,
    looked_up: BTreeMap<LookUpOutcome, u64>,
}

impl Shard {
    fn new(turn: Turn) -> Self {
        Self {
            turn,
            inputs: 0,
            relayed: Default::default(),
            icmp: 0,
            answers: BTreeMap::new(),
            look_ups: Vec::new(),
            looked_up: BTreeMap::new(),
        }
    }
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
    /// Who is found elsewhere.
    store: Store,
    /// The server's process is stopped: datagrams wait in its sockets, while the step goes on.
    stopped: Option<Vec<Sent>>,
    /// How many processes there were before this one.
    life: u8,
    /// What was relayed for each allocation, by direction: by the kernel, and by its shard.
    by_kernel: BTreeMap<Tuple, [Count; 2]>,
    by_shard: BTreeMap<Tuple, [Count; 2]>,
    trace: Trace,
    steps: u64,
    /// How often each of the step's verdicts was seen.
    pub reasons: BTreeMap<Reason, u64>,
    /// How often the model's expectations were of each kind.
    pub seen: BTreeMap<&'static str, u64>,
    /// Answers by their code, requests by what proved them.
    pub tally: BTreeMap<String, u64>,
}

impl World {
    pub fn new(mut random: Random, is_shown: bool) -> Self {
        let rules = Rules::choose(&mut random);
        let faults = Faults::choose(&mut random);
        let mut trace = Trace::new(is_shown);
        trace.event(0, "rules", || format!("{rules:?} {faults:?}"));
        let mut world = Self {
            now: Time { ns: 5_000_000_000, unix: UNIX_START },
            shards: shards(&rules, 0, &Accounts::first()),
            datapath: Datapath::new(&rules),
            model: Model::new(rules.clone()),
            network: Network::new(faults),
            clients: Vec::new(),
            pending: Vec::new(),
            sockets: BTreeMap::new(),
            store: Store::choose(&mut random),
            stopped: None,
            life: 0,
            by_kernel: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            trace,
            steps: 0,
            reasons: BTreeMap::new(),
            seen: BTreeMap::new(),
            tally: BTreeMap::new(),
            rules,
            random,
        };
        for _ in 0..2 + world.random.index(4) {
            let address = world.free_address();
            let servers = world.rules.servers(address.is_ipv4());
            let server = world.random.pick(&servers);
            let (has_tokens, unix) = (world.rules.has_tokens, world.now.unix);
            let client = Client::new(&mut world.random, (address, server), has_tokens, unix);
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

    /// What has happened, and how often.
    pub fn met(&self) -> impl Iterator<Item = (String, u64)> {
        let reasons = self.reasons.iter().map(|(reason, count)| (format!("{reason:?}"), *count));
        let seen = self.seen.iter().chain(&self.model.met);
        let seen = seen.map(|(kind, count)| ((*kind).to_owned(), *count));
        let tally = self.tally.iter().map(|(kind, count)| (kind.clone(), *count));
        reasons.chain(seen).chain(tally)
    }

    pub const fn steps(&self) -> u64 {
        self.steps
    }

    pub const fn hash(&self) -> u64 {
        self.trace.hash
    }
}

fn shards(rules: &Rules, life: u8, accounts: &Accounts) -> Vec<Shard> {
    let ledger = Ledger::new([3; 16]);
    let turn = |shard| Turn::new(rules.config(shard, life, &ledger, accounts));
    (0..rules.shards).map(|shard| Shard::new(turn(shard))).collect()
}
