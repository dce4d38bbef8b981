//! What befalls whom: clients move, clocks jump, next hops are lost; the server gets other
//! credentials, is stopped while the kernel goes on, or killed, and another one started.

use std::net::SocketAddr;

use relay_common::abi::NEXT_HOP_VALID;
use relay_turn::RealmId;

use super::host::hop;
use super::{World, shards};
use crate::accounts::{Accounts, Store};
use crate::model::Sent;
use crate::rules::Rules;

/// Where clients are.
const CLIENTS: [&str; 4] = ["198.18.0.1", "198.18.0.2", "198.18.9.3", "2a00:2::1"];
/// Where clients are that are refused: 6to4, Teredo.
const TUNNELLED: [&str; 2] = ["2002:c612:1::1", "2001:0:c612:1::1"];
/// Datagrams that wait for a process that is stopped.
const BACKLOG_MAX: usize = 24;

impl World {
    /// Something changes that nobody asked for.
    pub(super) fn mishap(&mut self) {
        let at = self.client();
        let what = self.random.index(8);
        self.trace.event(self.now.ns, "mishap", || format!("{what}, client {at}"));
        match what {
            // A NAT forgets, and takes another port.
            0 => self.move_client(at),
            1 => {
                let (has_tokens, unix) = (self.rules.has_tokens, self.now.unix);
                self.clients[at].log_in(&mut self.random, has_tokens, unix);
            }
            2 if self.random.one_in(3) => self.now.unix += self.random.below(4000),
            3 if self.random.one_in(3) => self.now.unix -= self.random.below(4000),
            4 => self.datapath.is_full = self.random.one_in(4),
            5 | 6 => {
                let is_lost = self.random.one_in(4);
                let next_hop = &mut self.datapath.tables.next_hops[usize::from(hop::SAME)];
                next_hop.state = if is_lost { 0 } else { NEXT_HOP_VALID };
            }
            7 => self.clients[at].relayed.clear(),
            _ => {}
        }
    }

    /// A client's NAT gives it another address, or it takes another one of the server's.
    fn move_client(&mut self, at: usize) {
        let address = self.free_address();
        let servers = self.rules.servers(address.is_ipv4());
        self.clients[at].address = address;
        self.clients[at].server = self.random.pick(&servers);
    }

    /// An address that a client can have now; another may have had it before.
    pub(super) fn free_address(&mut self) -> SocketAddr {
        let ips: &[&str] = if self.random.one_in(16) { &TUNNELLED } else { &CLIENTS };
        let all: Vec<SocketAddr> = (ips.iter())
            .flat_map(|ip| (6000..6004).map(move |port| SocketAddr::new(ip.parse().unwrap(), port)))
            .filter(|address| self.clients.iter().all(|client| client.address != *address))
            .collect();
        self.random.pick(&all)
    }

    /// Something that is about all of the server.
    pub(super) fn upheaval(&mut self) {
        match (&self.stopped, self.random.index(8)) {
            (None, 0..=2) => self.rotate(),
            (None, 3) => self.store = Store::choose(&mut self.random),
            (None, 4..=6) => {
                self.trace.event(self.now.ns, "stopped", || "by a signal".to_owned());
                *self.seen.entry("stopped").or_default() += 1;
                self.stopped = Some(Vec::new());
            }
            (Some(_), 0) => self.restart(),
            (Some(_), _) => self.go_on(),
            (None, _) => {}
        }
    }

    /// Another file, or a secret more and one less: all shards have it before the next packet.
    fn rotate(&mut self) {
        *self.seen.entry("rotated").or_default() += 1;
        let accounts = Accounts::choose(&mut self.random);
        self.trace.event(self.now.ns, "rotated", || format!("{accounts:?}"));
        self.replace(accounts);
    }

    pub(super) fn replace(&mut self, accounts: Accounts) {
        for shard in &mut self.shards {
            let credentials = accounts.credentials(self.rules.has_userhashes);
            shard.turn.replace_credentials(RealmId::DEFAULT, credentials);
        }
        self.model.accounts = accounts;
    }

    /// A datagram that the step passed, while nobody reads.
    pub(super) fn wait(&mut self, datagram: &Sent) {
        let is_server = Rules::is_listened(datagram.dst.port());
        let is_read = is_server || self.sockets.contains_key(&datagram.dst);
        if let Some(backlog) = self.stopped.as_mut().filter(|_| is_read)
            && backlog.len() < BACKLOG_MAX
        {
            backlog.push(datagram.clone());
        }
    }

    /// The process goes on, with all that has come meanwhile.
    pub(super) fn go_on(&mut self) {
        self.trace.event(self.now.ns, "goes on", String::new);
        for datagram in self.stopped.take().unwrap_or_default() {
            let expected = self.expected(&datagram);
            self.hand_up(&datagram, expected);
        }
    }

    /// The process was killed. What it put into the kernel is still there.
    fn restart(&mut self) {
        self.trace.event(self.now.ns, "restarted", String::new);
        *self.seen.entry("restarted").or_default() += 1;
        self.check_counters();
        self.stopped = None;
        self.life = self.life.wrapping_add(1);
        self.shards = shards(&self.rules, self.life, &self.model.accounts);
        self.model.restart();
        self.datapath.restart();
        self.pending.clear();
        self.sockets.clear();
        self.by_kernel.clear();
        self.by_shard.clear();
        self.check_subset();
    }
}
