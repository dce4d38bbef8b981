//! What happens next: who sends what, what goes wrong, and how much time passes.

use std::net::SocketAddr;

use relay_common::addr::{Family, PeerAddr};
use relay_common::wire::attribute::Icmp;
use relay_turn::Input;

use super::client::{CHANNELS, Client, Wanted};
use super::{Socket, World};
use crate::model::wire;
use crate::model::{Actual, Expected, SEC, Sent};
use crate::rules::{LISTEN_PORT, Rules};

/// Whom clients want to reach.
const PEERS: [&str; 7] = [
    "9.9.9.1:7000",
    "9.9.9.1:7001",
    "9.9.9.2:7000",
    "9.9.9.3:7000",
    "[2a00:9::1]:7000",
    "[2a00:9::1]:7001",
    "[2a00:9::2]:7000",
];
/// Whom they must not.
const STRANGE_PEERS: [&str; 11] = [
    "10.0.0.1:80",
    "127.0.0.1:3478",
    "192.168.1.1:53",
    "224.0.0.1:9",
    "0.0.0.0:9",
    "[::1]:3478",
    "[64:ff9b::10.0.0.1]:80",
    "[fe80::1]:9",
    "[::ffff:9.9.9.1]:7000",
    "9.9.9.1:0",
    "11.0.0.2:50000",
];

impl World {
    /// The next thing.
    pub(super) fn act(&mut self) {
        let is_running = self.stopped.is_none();
        if let Some(shard) = self.due_shard()
            && is_running
            && !self.random.one_in(6)
        {
            return self.deadline(shard);
        }
        if is_running && !self.pending.is_empty() && self.random.one_in(4) {
            return self.answer_pending();
        }
        if is_running && self.rules.limits.look_ups.is_some() && self.random.one_in(10) {
            return self.answer_look_up();
        }
        if self.random.one_in(if is_running { self.rules.calm } else { 25 }) {
            return self.upheaval();
        }
        if let Some(datagram) = self.network.arrived(self.now.ns) {
            return self.deliver(&datagram);
        }
        match self.random.index(33) {
            0..=9 => self.pass_time(),
            10..=15 => self.next_request(),
            16..=20 => self.channel_data(),
            21..=22 => self.send_indication(),
            23..=27 => self.peer_speaks(),
            28 if is_running => self.icmp(),
            28 => {}
            29 => self.junk(),
            30 | 31 => self.again(),
            _ => self.mishap(),
        }
    }

    /// A shard whose deadline has come.
    pub(super) fn due_shard(&self) -> Option<usize> {
        let is_due = |shard: &super::Shard| shard.turn.deadline().is_some_and(|d| d <= self.now.ns);
        self.shards.iter().position(is_due)
    }

    pub(super) fn deadline(&mut self, shard: usize) {
        self.steps += 1;
        self.trace.event(self.now.ns, "deadline", || format!("of shard {shard}"));
        let actual = self.input(shard, Input::Deadline, &[]);
        self.settled(shard, Expected::Silence, &actual);
        let next = self.shards[shard].turn.deadline();
        assert!(next.is_none_or(|next| next > self.now.ns), "a deadline that stays due");
    }

    /// A datagram has arrived at whom it is for.
    fn deliver(&mut self, datagram: &Sent) {
        if Rules::is_here(datagram.dst.ip()) {
            self.arrive(datagram);
            return;
        }
        let Some(at) = self.clients.iter().position(|c| c.address == datagram.dst) else { return };
        let is_again = self.clients[at].receive(&datagram.payload);
        // It finds another name in the end.
        if self.clients[at].unwelcome > 3 {
            let (has_tokens, unix) = (self.rules.has_tokens, self.now.unix);
            self.clients[at].log_in(&mut self.random, has_tokens, unix);
        }
        if is_again && !self.random.one_in(6) {
            let wanted = self.clients[at].wanted;
            self.request(at, wanted);
        }
    }

    /// Opens a relayed transport address that waits for it, or fails to.
    fn answer_pending(&mut self) {
        let at = self.random.index(self.pending.len());
        let pending = self.pending.remove(at);
        let super::Pending { shard, id, relayed, is_abandoned } = pending;
        let family = Family::of(relayed.ip());
        let is_taken = self.sockets.contains_key(&relayed);
        self.steps += 1;
        if is_taken || self.random.one_in(5) {
            self.trace.event(self.now.ns, "failed", || format!("{pending:?}"));
            let expected = self.model.failed(self.now, shard, id, relayed);
            let actual = self.input(shard, Input::RelayFailed { allocation: id, family }, &[]);
            return self.settled(shard, expected, &actual);
        }
        self.trace.event(self.now.ns, "opened", || format!("{pending:?}"));
        self.sockets.insert(relayed, Socket { shard, id });
        let expected = self.model.opened(self.now, shard, id, relayed);
        assert_eq!(expected.is_none(), is_abandoned, "{pending:?}");
        let actual = self.input(shard, Input::RelayOpened { allocation: id, family }, &[]);
        self.settled(shard, expected.unwrap_or(Expected::Silence), &actual);
    }

    /// Mostly a little; now and then to something's very end, or past it.
    fn pass_time(&mut self) {
        let before = self.now.ns;
        let until = match self.random.index(80) {
            0..=69 => self.network.next_ns().unwrap_or(before + 1_000_000),
            70..=74 => before + self.random.below(SEC),
            75 => before + self.random.below(40 * SEC),
            76 if self.random.one_in(3) => before + self.random.below(400 * SEC),
            _ => {
                let mut all = self.model.deadlines();
                all.sort_unstable();
                // The nearest come first.
                let count = if self.random.one_in(3) { all.len() } else { all.len().min(2) };
                match count {
                    0 => before + SEC,
                    count => all[self.random.index(count)] - 1 + self.random.below(3),
                }
            }
        };
        self.now.ns = before.max(until);
        self.now.unix += self.now.ns / SEC - before / SEC;
    }

    fn peer(&mut self) -> SocketAddr {
        let sockets: Vec<SocketAddr> = self.sockets.keys().copied().collect();
        match self.random.index(16) {
            0 => self.random.pick(&STRANGE_PEERS).parse().unwrap(),
            1..=3 if !sockets.is_empty() => {
                let relayed = self.random.pick(&sockets);
                let relayed =
                    if self.random.one_in(2) { self.rules.outside(relayed) } else { relayed };
                if self.random.one_in(10) {
                    return SocketAddr::new(relayed.ip(), LISTEN_PORT);
                }
                relayed
            }
            _ => self.random.pick(&PEERS).parse().unwrap(),
        }
    }

    /// A peer that the client's allocation can have: most of the time of its family.
    fn peer_for(&mut self, client: usize) -> SocketAddr {
        let relayed = self.clients[client].relayed.clone();
        let mut peer = self.peer();
        for _ in 0..3 {
            if relayed.is_empty() || relayed.iter().any(|r| r.is_ipv4() == peer.is_ipv4()) {
                break;
            }
            peer = self.peer();
        }
        peer
    }

    pub(super) fn client(&mut self) -> usize {
        self.random.index(self.clients.len())
    }

    /// One who may have something to say: mostly a client that has an allocation.
    fn talker(&mut self) -> usize {
        let at = self.client();
        let count = self.clients.len();
        let next = (at..at + count).map(|at| at % count);
        match self.random.one_in(8) {
            true => at,
            false => {
                next.into_iter().find(|at| !self.clients[*at].relayed.is_empty()).unwrap_or(at)
            }
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let count = match self.random.index(16) {
            0 => 0,
            1 => 1200 + self.random.index(300),
            _ => 1 + self.random.index(40),
        };
        self.random.bytes(count)
    }

    fn speak(&mut self, client: usize, payload: Vec<u8>) {
        let src = self.clients[client].address;
        let datagram = Sent::new(src, self.clients[client].server, payload);
        self.network.send(self.now.ns, &mut self.random, datagram);
    }

    fn next_request(&mut self) {
        let at = if self.random.one_in(3) { self.client() } else { self.talker() };
        let is_discovering = self.rules.is_discovering && self.random.one_in(2);
        let wanted = match (self.clients[at].relayed.is_empty(), self.random.index(16)) {
            (_, 0) | (_, 1..=2) if is_discovering => Wanted::Discovery,
            (_, 0) => Wanted::Binding,
            (true, 1..=13) | (false, 1) => Wanted::Allocate,
            (_, 2) => Wanted::Refresh,
            (_, 3..=5) if self.clients[at].relayed.len() > 1 => Wanted::Refresh,
            (_, 3) if self.rules.limits.new_peers_per_sec != 0 => Wanted::Many,
            (_, 3..=7) => Wanted::Permission,
            (_, _) => Wanted::Channel,
        };
        self.request(at, wanted);
    }

    fn request(&mut self, at: usize, wanted: Wanted) {
        let peers = [self.peer_for(at), self.peer_for(at)];
        let held: Vec<Vec<u8>> = self.model.held.iter().map(|held| held.token.clone()).collect();
        let token = if held.is_empty() { None } else { Some(self.random.index(held.len())) };
        let token = token.map(|at| held[at].as_slice());
        let unix = self.now.unix;
        let payload = self.clients[at].request(&mut self.random, wanted, &peers, token, unix);
        self.speak(at, payload);
    }

    fn channel_data(&mut self) {
        let at = self.talker();
        if self.clients[at].relayed.is_empty() && !self.random.one_in(8) {
            return;
        }
        let data = self.data();
        let bound = self.clients[at].channels.clone();
        if bound.is_empty() && !self.random.one_in(4) {
            return;
        }
        let is_bound = !bound.is_empty() && !self.random.one_in(6);
        let number = self.random.pick(if is_bound { &bound } else { &CHANNELS });
        let mut payload = wire::channel_data(number, &data);
        let padding = self.random.pick(&[0, 0, 0, 1, 2, 3, 4]);
        payload.resize(payload.len() + padding, 0);
        self.speak(at, payload);
    }

    fn send_indication(&mut self) {
        let at = self.talker();
        if self.clients[at].relayed.is_empty() && !self.random.one_in(8) {
            return;
        }
        let data = self.data();
        let friends = self.clients[at].friends.clone();
        let is_friend = !friends.is_empty() && !self.random.one_in(5);
        let peer = if is_friend { self.random.pick(&friends) } else { self.peer_for(at) };
        let payload = Client::send_indication(&mut self.random, peer, &data);
        self.speak(at, payload);
    }

    /// A peer sends to a relayed transport address, open or not.
    fn peer_speaks(&mut self) {
        let sockets: Vec<SocketAddr> = self.sockets.keys().copied().collect();
        let ports: Vec<u16> = self.rules.ports_all().collect();
        let dst = match sockets.len() {
            0 if !self.random.one_in(8) => return,
            0 => {
                SocketAddr::new(self.random.pick(&self.rules.relay_ips()), self.random.pick(&ports))
            }
            _ => self.random.pick(&sockets),
        };
        let src = self.heard_by(dst);
        let allocation = self.model.open_by_relayed(dst);
        let is_quiet = allocation.is_none_or(|allocation| allocation.permissions.is_empty());
        let is_odd = src.is_ipv4() != dst.is_ipv4() || Rules::is_here(src.ip());
        if is_odd || (is_quiet && !self.random.one_in(8)) {
            return;
        }
        let payload = self.data();
        self.network.send(self.now.ns, &mut self.random, Sent::new(src, dst, payload));
    }

    /// Somebody who sends to a relayed transport address: mostly one whom its client knows.
    fn heard_by(&mut self, relayed: SocketAddr) -> SocketAddr {
        let known: Vec<SocketAddr> = match self.model.open_by_relayed(relayed) {
            Some(allocation) => {
                let bound = allocation.channels.iter().map(|channel| channel.peer);
                let permitted = allocation.permissions.iter();
                bound.chain(permitted.map(|(ip, _)| SocketAddr::new(*ip, 7000))).collect()
            }
            None => Vec::new(),
        };
        match known.is_empty() || self.random.one_in(4) {
            true => self.random.pick(&PEERS).parse().unwrap(),
            false => self.random.pick(&known),
        }
    }

    fn icmp(&mut self) {
        let sockets: Vec<(SocketAddr, Socket)> =
            self.sockets.iter().map(|(relayed, socket)| (*relayed, *socket)).collect();
        if sockets.is_empty() {
            return;
        }
        let (relayed, Socket { shard, id }) = self.random.pick(&sockets);
        let peer = self.heard_by(relayed);
        if peer.is_ipv4() != relayed.is_ipv4() {
            return;
        }
        let kind = self.random.pick(&[0, 1, 2, 3, 4, 8, 11]);
        let code = self.random.pick(&[0, 1, 4]);
        let icmp = Icmp { kind, code, data: 1280 };
        let expected = self.model.icmp(self.now, relayed, peer, icmp);
        self.steps += 1;
        self.trace.event(self.now.ns, "icmp", || format!("{relayed} {peer} {icmp:?}"));
        self.shards[shard].icmp += 1;
        let input = Input::PeerIcmp { allocation: id, peer: PeerAddr::new(peer), icmp };
        let actual = self.input(shard, input, &[]);
        self.settled(shard, expected, &actual);
    }

    /// Bytes that mean nothing, or nearly.
    fn junk(&mut self) {
        let at = self.client();
        let count = self.random.index(60);
        let mut payload = self.random.bytes(count);
        if count >= 20 && self.random.one_in(2) {
            payload[0] = self.random.pick(&[0, 0, 1, 2, 3]);
            let length = (count - 20).to_be_bytes();
            payload[2..4].copy_from_slice(&length[6..]);
            payload[4..8].copy_from_slice(&wire::COOKIE);
        }
        self.speak(at, payload);
    }

    /// The same request again.
    fn again(&mut self) {
        let at = self.talker();
        let payload = self.clients[at].last.clone();
        self.speak(at, payload);
    }

    /// A datagram that skips the network.
    pub(super) fn straight(&mut self, src: SocketAddr, payload: Vec<u8>) -> Actual {
        let server = self.rules.servers(src.is_ipv4())[0];
        self.arrive(&Sent::new(src, server, payload))
    }
}
