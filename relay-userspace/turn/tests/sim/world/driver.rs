//! Does what the appliance does: gives a datagram to the step and then to its shard, executes
//! outputs in order. And asks the model about each of them.

use std::net::SocketAddr;

use relay_common::abi::{Count, Direction, Reason};
use relay_common::addr::{ClientAddr, Family, FiveTuple, PeerAddr, ServerAddr, Transport};
use relay_turn::{AllocationId, Code, Fragments, Input, Now, Output, RequestMethod};

use super::kernel::{self, Stepped};
use super::{Pending, Socket, World};
use crate::model::wire::{self, Stun};
use crate::model::{Actual, Expected, Sent, Told, Tuple, is_denied};
use crate::rules::Rules;

impl World {
    /// A datagram arrives at the machine.
    pub(super) fn arrive(&mut self, datagram: &Sent) -> Actual {
        let Sent { src, dst, payload, .. } = datagram;
        self.steps += 1;
        self.trace.datagram(self.now.ns, "arrives", (*src, *dst), payload);
        let expected = self.expected(datagram);
        self.note(&expected);
        // What goes from one socket of this machine to another passes no interface.
        let stepped = match Rules::is_here(src.ip()) {
            true => Stepped::Passed(Reason::NotOurPort),
            false => self.step(datagram),
        };
        match stepped {
            Stepped::Passed(_) if self.stopped.is_some() => {
                self.wait(datagram);
                Actual::default()
            }
            Stepped::Passed(_) => self.hand_up(datagram, expected),
            Stepped::Dropped(reason) => {
                let is_limit = match reason {
                    Reason::BindingOverBudget => self.rules.is_throttled,
                    _ => self.rules.is_policed,
                };
                assert!(is_limit, "dropped: {reason:?}, and no limit was reached");
                let shard = self.model.shard_of((*src, *dst));
                self.model.settle(self.now, shard, expected, &Actual::default());
                Actual::default()
            }
            Stepped::Sent(sent, reason) => self.sent_by_step(datagram, expected, sent, reason),
        }
    }

    pub(super) fn expected(&mut self, Sent { src, dst, payload, .. }: &Sent) -> Expected {
        if Rules::is_listened(dst.port()) {
            self.model.client_sends(self.now, (*src, *dst), payload)
        } else {
            self.model.peer_sends(self.now, *dst, *src, payload)
        }
    }

    fn step(&mut self, datagram: &Sent) -> Stepped {
        let chance = self.random.bytes(12).try_into().unwrap();
        self.datapath.tables.now_ns = self.now.ns;
        let stepped = kernel::run(&self.datapath.tables, datagram, chance);
        let (Stepped::Passed(reason) | Stepped::Dropped(reason) | Stepped::Sent(_, reason)) =
            &stepped;
        *self.reasons.entry(*reason).or_default() += 1;
        self.trace.event(self.now.ns, "step", || format!("{reason:?}"));
        stepped
    }

    fn sent_by_step(
        &mut self,
        datagram: &Sent,
        mut expected: Expected,
        sent: Sent,
        reason: Reason,
    ) -> Actual {
        let Sent { src, dst, payload, .. } = datagram;
        let kernel = |world: &mut Self, relayed: SocketAddr, direction: Direction, bytes| {
            let of = world.model.open_by_relayed(relayed).expect("it relays");
            let counts = world.by_kernel.entry(of.tuple).or_default();
            add(&mut counts[direction as usize], bytes);
        };
        match (&expected, reason) {
            // Two allocations at once: what the first sends is what the second hears.
            (Expected::Relay(first) | Expected::LimitedRelay(first), Reason::Hairpin) => {
                let first = first.clone();
                let bytes = first.payload.len();
                kernel(self, first.src, Direction::ClientToPeer, bytes);
                kernel(self, first.dst, Direction::PeerToClient, bytes);
                let of = self.model.shard_of((*src, *dst));
                let heard = Actual { sent: vec![first.clone()], ..Actual::default() };
                self.model.settle(self.now, of, expected, &heard);
                expected = self.model.peer_sends(self.now, first.dst, first.src, &first.payload);
            }
            (Expected::Relay(to) | Expected::LimitedRelay(to), _) => {
                if Rules::is_listened(dst.port()) {
                    kernel(self, to.src, Direction::ClientToPeer, to.payload.len());
                } else {
                    kernel(self, *dst, Direction::PeerToClient, payload.len());
                }
            }
            (Expected::Answer(_), Reason::BindingAnswered) => {}
            _ => panic!("{reason:?}: the step sent {sent:02x?}\ninstead of {expected:02x?}"),
        }
        let actual = Actual { sent: vec![sent], ..Actual::default() };
        let shard = self.model.shard_of((*src, *dst));
        self.model.settle(self.now, shard, expected, &actual);
        self.carry(&actual);
        actual
    }

    /// What the step left alone.
    pub(super) fn hand_up(&mut self, datagram: &Sent, expected: Expected) -> Actual {
        let Sent { src, dst, payload, .. } = datagram;
        // Quotas are of all shards: what one has not noticed to be over still counts.
        while let Some(shard) = self.due_shard() {
            self.deadline(shard);
        }
        let (shard, input) = if Rules::is_listened(dst.port()) {
            let five_tuple = FiveTuple {
                transport: Transport::Udp,
                client: ClientAddr::new(*src),
                server: ServerAddr::new(*dst),
            };
            let shard = self.model.shard_of((*src, *dst));
            (shard, Input::FromClient { five_tuple, datagram: payload })
        } else {
            let Some(Socket { shard, id }) = self.sockets.get(dst).copied() else {
                // Nobody listens there.
                self.model.settle(self.now, 0, expected, &Actual::default());
                return Actual::default();
            };
            let peer = PeerAddr::new(*src);
            (shard, Input::FromPeer { allocation: id, peer, datagram: payload })
        };
        self.shards[shard].inputs += 1;
        let actual = self.input(shard, input, payload);
        self.settled(shard, expected, &actual);
        actual
    }

    /// Asks the model about what a shard did, and looks at all that it holds.
    pub(super) fn settled(&mut self, shard: usize, expected: Expected, actual: &Actual) {
        self.model.purge(self.now);
        self.model.settle(self.now, shard, expected, actual);
        self.check(shard);
        self.carry(actual);
    }

    /// One input to a shard, and its outputs executed in order.
    pub(super) fn input(&mut self, shard: usize, input: Input<'_>, datagram: &[u8]) -> Actual {
        let now = Now { monotonic_ns: self.now.ns, unix_secs: self.now.unix };
        self.shards[shard].turn.handle(now, input);
        self.drain(shard, datagram)
    }

    pub(super) fn drain(&mut self, shard: usize, datagram: &[u8]) -> Actual {
        let mut actual = Actual::default();
        // Many requests at once may have waited for one look-up: the last thing is an answer.
        let mut late = None;
        while let Some(output) = self.shards[shard].turn.poll() {
            match output {
                Output::Reply { .. } => late = None,
                Output::Install(_) | Output::Permit(_) if !actual.sent.is_empty() => {
                    late = Some(output.clone());
                }
                _ => {}
            }
            self.execute(shard, output, datagram, &mut actual);
        }
        assert_eq!(late, None, "told after the answer");
        actual
    }

    fn execute(&mut self, shard: usize, output: Output, datagram: &[u8], actual: &mut Actual) {
        match output {
            Output::Reply { five_tuple, bytes } => {
                let payload = self.shards[shard].turn.bytes(bytes).to_vec();
                self.count_answer(shard, &payload);
                let (src, dst) = (five_tuple.server.socket(), five_tuple.client.socket());
                actual.sent.push(Sent::new(src, dst, payload));
            }
            Output::ToPeer { allocation, peer, fragments, payload } => {
                let is_v4 = peer.socket().is_ipv4();
                let src =
                    self.relayed_of(shard, allocation, is_v4).expect("only an open one relays");
                let payload = datagram[payload].to_vec();
                let of = self.model.by_id(shard, allocation).expect("only a living one relays");
                let tuple = self.model.allocations[of].tuple;
                self.relayed_by_shard(shard, tuple, Direction::ClientToPeer, payload.len());
                let dont_fragment = fragments == Fragments::Forbidden;
                actual.sent.push(Sent { src, dst: peer.socket(), payload, dont_fragment });
            }
            Output::ToClient { five_tuple, head, padding } => {
                let (src, dst) = (five_tuple.server.socket(), five_tuple.client.socket());
                self.relayed_by_shard(shard, (dst, src), Direction::PeerToClient, datagram.len());
                let payload = [head.as_slice(), datagram, &vec![0; padding]].concat();
                actual.sent.push(Sent::new(src, dst, payload));
            }
            Output::OpenRelay { allocation: id, relayed } => {
                let relayed = relayed.socket();
                self.pending.push(Pending { shard, id, relayed, is_abandoned: false });
                actual.opens.push((id, relayed));
            }
            Output::CloseRelay { allocation, family } => {
                self.close(shard, allocation, family == Family::V4);
            }
            Output::Ended { five_tuple, counts } => {
                let tuple = (five_tuple.client.socket(), five_tuple.server.socket());
                let counted = self.by_shard.remove(&tuple).unwrap_or_default();
                assert_eq!(counts, counted, "counts of {tuple:?}");
                let by_kernel = self.datapath.end(tuple);
                let counted = self.by_kernel.remove(&tuple).unwrap_or_default();
                assert_eq!(by_kernel, counted, "the kernel's counts of {tuple:?}");
            }
            Output::Install(binding) => self.datapath.install(shard, &binding),
            Output::Withdraw(binding) => self.datapath.withdraw(shard, &binding),
            Output::Permit(permission) => self.datapath.permit(shard, &permission),
            Output::Forbid(permission) => self.datapath.forbid(shard, &permission),
            // For the log.
            Output::Refused(_) | Output::HintChannelNumber => {}
            Output::LookUp { user, .. } => {
                self.shards[shard].look_ups.push(user.to_vec());
                actual.look_ups.push(user.into_vec());
            }
            Output::HandOver { .. }
            | Output::Adopt { .. }
            | Output::Disown { .. }
            | Output::Moved { .. } => panic!("allocations do not move"),
        }
    }

    fn close(&mut self, shard: usize, id: AllocationId, is_v4: bool) {
        for pending in &mut self.pending {
            let of = (pending.shard, pending.id, pending.relayed.is_ipv4());
            pending.is_abandoned |= of == (shard, id, is_v4);
        }
        let Some(relayed) = self.relayed_of(shard, id, is_v4) else { return };
        self.sockets.remove(&relayed);
        self.datapath.closed(shard, relayed);
    }

    fn relayed_by_shard(&mut self, shard: usize, tuple: Tuple, way: Direction, bytes: usize) {
        add(&mut self.by_shard.entry(tuple).or_default()[way as usize], bytes);
        add(&mut self.shards[shard].relayed[way as usize], bytes);
    }

    /// The open socket of a family.
    fn relayed_of(&self, shard: usize, id: AllocationId, is_v4: bool) -> Option<SocketAddr> {
        let is_it = |(relayed, socket): &(&SocketAddr, &Socket)| {
            (socket.shard, socket.id, relayed.is_ipv4()) == (shard, id, is_v4)
        };
        self.sockets.iter().find(is_it).map(|(relayed, _)| *relayed)
    }

    fn count_answer(&mut self, shard: usize, payload: &[u8]) {
        let stun = Stun::read(payload).expect("a server writes STUN messages");
        let method = match stun.method {
            wire::BINDING => RequestMethod::Binding,
            wire::ALLOCATE => RequestMethod::Allocate,
            wire::REFRESH => RequestMethod::Refresh,
            wire::CREATE_PERMISSION => RequestMethod::CreatePermission,
            wire::CHANNEL_BIND => RequestMethod::ChannelBind,
            // An ICMP error, in an indication.
            _ => return,
        };
        let number = stun.error_code().unwrap_or(0);
        let code = Code::ALL.into_iter().find(|code| code.number() == number).unwrap();
        *self.shards[shard].answers.entry((method, code)).or_default() += 1;
    }

    /// What a shard has told, counts and keeps open is what the model says there is.
    pub(super) fn check(&self, shard: usize) {
        let mut told: Vec<Told> = (self.datapath.told.iter())
            .filter(|(key, _)| key.shard() == shard)
            .map(|(_, told)| told.seen_at(self.now))
            .collect();
        told.sort_unstable();
        assert_eq!(told, self.model.told(self.now, shard), "what the datapath was told");
        self.model.check_gauges(self.now, shard, &self.shards[shard].turn.snapshot());
        let sockets = self.sockets.values().filter(|socket| socket.shard == shard).count();
        let of_shard = self.model.allocations.iter().filter(|a| a.shard == shard);
        let open = of_shard.flat_map(|a| &a.relayed).filter(|relayed| relayed.is_open).count();
        assert_eq!(sockets, open, "sockets of shard {shard}");
        // What is in the maps stays there for a while.
        if self.steps.is_multiple_of(4) {
            self.check_subset();
        }
    }

    /// What leaves is under way from now on.
    pub(super) fn carry(&mut self, actual: &Actual) {
        for sent in &actual.sent {
            self.trace.datagram(self.now.ns, "leaves", (sent.src, sent.dst), &sent.payload);
            let is_to_peer = !Rules::is_listened(sent.src.port());
            assert!(!is_to_peer || !is_denied(sent.dst.ip()), "to whom nobody may send: {sent:?}");
            if Rules::is_here(sent.dst.ip()) {
                self.network.loop_back(self.now.ns, sent.clone());
            } else {
                self.network.send(self.now.ns, &mut self.random, sent.clone());
            }
        }
    }

    fn note(&mut self, expected: &Expected) {
        let kind = match expected {
            Expected::Silence => "silence",
            Expected::Relay(_) => "data",
            Expected::PerhapsRelay(_) | Expected::LimitedRelay(_) => "data, perhaps",
            Expected::Another(..) => "another port",
            Expected::Parked { .. } => "looked up",
            Expected::Answer(answer) => match answer.codes.first() {
                Some(0) => "success",
                Some(401 | 438) => "a nonce",
                _ => "an error",
            },
        };
        *self.seen.entry(kind).or_default() += 1;
    }
}

fn add(count: &mut Count, bytes: usize) {
    count.packets += 1;
    count.bytes += bytes as u64;
}
