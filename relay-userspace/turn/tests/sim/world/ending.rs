//! The end of a run: the counters agree with what was seen, and closing leaves nothing.

use std::net::SocketAddr;

use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;
use relay_turn::{
    Code, DropReason, IcmpOutcome, Input, IntegrityKind, KeyKind, LookUpOutcome, RequestMethod,
};

use super::{Pending, Socket, World};
use crate::accounts::{Accounts, USERS};
use crate::model::wire::{self, Stun, Writer};
use crate::model::{Actual, RESERVATION_NS, SEC};
use crate::rules::REALM;

/// Relayed ports are counted by taking them all, if they are not too many.
const PORTS_COUNTED_MAX: u16 = 6;

impl World {
    pub(super) fn end(&mut self) {
        self.trace.event(self.now.ns, "end", || format!("after {} steps", self.steps));
        if self.stopped.is_some() {
            self.go_on();
        }
        self.check_counters();
        self.check_reasons();
        self.close_all();
        let secs = RESERVATION_NS / SEC;
        self.now.ns += RESERVATION_NS;
        self.now.unix += secs;
        for shard in 0..self.shards.len() {
            self.deadline(shard);
        }
        assert!(self.model.held.is_empty() && self.model.allocations.is_empty());
        if self.rules.ports_each <= PORTS_COUNTED_MAX && !self.rules.is_throttled {
            self.replace(Accounts::first());
            let shards = 0..self.shards.len();
            shards.fold(0, |taken, shard| taken + self.take_every_port(shard, taken));
            self.close_all();
        }
    }

    /// What a process has counted, when it comes to its end.
    pub(super) fn check_counters(&mut self) {
        for shard in 0..self.shards.len() {
            self.check_counters_of(shard);
            for ((_, code), count) in &self.shards[shard].answers {
                *self.tally.entry(code.name().to_owned()).or_default() += count;
            }
        }
        for ((_, integrity, key), count) in &self.model.proofs {
            let proof = format!("{} by {}", integrity.name(), key.name());
            *self.tally.entry(proof).or_default() += count;
        }
    }

    /// Every datagram was answered, relayed or dropped, once; or waits for its socket or its user.
    fn check_counters_of(&self, shard: usize) {
        let snapshot = self.shards[shard].turn.snapshot();
        let relayed = Direction::ALL.map(|direction| snapshot.relayed(direction));
        assert_eq!(relayed, self.shards[shard].relayed, "relayed by shard {shard}");
        let answered: u64 = RequestMethod::ALL
            .iter()
            .flat_map(|method| Code::ALL.map(|code| snapshot.requests(*method, code)))
            .sum();
        let dropped: u64 = DropReason::ALL.map(|reason| snapshot.dropped(reason)).iter().sum();
        let of_shard = self.model.allocations.iter().filter(|a| a.shard == shard);
        let waiting = of_shard.filter(|a| !a.is_open()).count() + self.model.parked_count(shard);
        let waiting = waiting as u64;
        let relayed = relayed[0].packets + relayed[1].packets;
        let seen = answered + dropped + relayed + waiting;
        assert_eq!(seen, self.shards[shard].inputs, "shard {shard}: {snapshot:?}");
        let icmp: u64 = IcmpOutcome::ALL.map(|outcome| snapshot.icmp(outcome)).iter().sum();
        assert_eq!(icmp, self.shards[shard].icmp, "ICMP errors");
        for method in RequestMethod::ALL {
            for code in Code::ALL {
                let seen = self.shards[shard].answers.get(&(method, code)).copied();
                assert_eq!(
                    snapshot.requests(method, code),
                    seen.unwrap_or(0),
                    "{method:?} {code:?}"
                );
            }
        }
        for integrity in IntegrityKind::ALL {
            for key in KeyKind::ALL {
                let proved = self.model.proofs.get(&(shard, integrity, key)).copied();
                let counted = snapshot.authenticated(integrity, key);
                assert_eq!(counted, proved.unwrap_or(0), "{integrity:?} {key:?}");
            }
        }
        for outcome in LookUpOutcome::ALL {
            let seen = self.shards[shard].looked_up.get(&outcome).copied();
            assert_eq!(snapshot.look_ups(outcome), seen.unwrap_or(0), "{outcome:?}");
        }
    }

    /// The step's own counters.
    fn check_reasons(&self) {
        let counted = self.datapath.tables.reasons.borrow();
        for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::Fragment) {
            let packets = counted.get(&reason).map_or(0, |count| count.packets);
            assert_eq!(packets, self.reasons.get(&reason).copied().unwrap_or(0), "{reason:?}");
        }
    }

    fn close_all(&mut self) {
        for shard in 0..self.shards.len() {
            self.shards[shard].turn.close();
            let actual = self.drain(shard, &[]);
            assert_eq!(actual, Actual::default());
        }
        self.model.allocations.clear();
        // What was being opened meanwhile is open now, and nobody wants it.
        while let Some(at) =
            self.pending.iter().position(|p| !self.sockets.contains_key(&p.relayed))
        {
            let Pending { shard, id, relayed, .. } = self.pending.swap_remove(at);
            self.sockets.insert(relayed, Socket { shard, id });
            let family = Family::of(relayed.ip());
            let input = Input::RelayOpened { allocation: id, family };
            let actual = self.input(shard, input, &[]);
            assert_eq!(actual, Actual::default());
        }
        assert!(self.sockets.is_empty(), "sockets stay open: {:?}", self.sockets);
        assert!(self.by_shard.is_empty() && self.by_kernel.is_empty());
        self.datapath.check_empty();
        self.pending.clear();
    }

    /// New clients take one port after the other, until the model says that there is none.
    fn take_every_port(&mut self, shard: usize, taken: u64) -> u64 {
        let limits = &self.rules.limits;
        let shares = |bytes: u64| {
            let each = u64::from(limits.allocation_bytes_per_sec).max(1);
            u32::try_from(bytes / each).unwrap()
        };
        let quotas = [
            limits.allocations_max,
            limits.user_allocations_max,
            limits.source_allocations_max,
            shares(limits.user_bytes_per_sec),
            shares(limits.total_bytes_per_sec),
        ];
        let quota = quotas.into_iter().filter(|max| *max != 0).min().unwrap_or(u32::MAX);
        let family = if self.rules.families[0] { 1 } else { 2 };
        let wanted = u64::from(self.rules.ports_each).min(u64::from(quota) - taken);
        for count in 0..=wanted {
            let step = u16::try_from(2 * count).unwrap();
            let src = SocketAddr::new(
                "198.18.0.9".parse().unwrap(),
                7000 + step + u16::try_from(shard).unwrap() % 2,
            );
            let asked = Writer::new(wire::REQUEST, wire::ALLOCATE, [1; 12]).0;
            let actual = self.straight(src, asked);
            let reply = Stun::read(&actual.sent[0].payload).unwrap();
            let nonce = reply.value(wire::NONCE).unwrap();
            let mut writer = Writer::new(wire::REQUEST, wire::ALLOCATE, [2; 12]);
            writer.attribute(wire::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            writer.attribute(wire::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
            writer.attribute(wire::USERNAME, USERS[0].0.as_bytes());
            writer.attribute(wire::REALM, REALM.as_bytes());
            writer.attribute(wire::NONCE, nonce);
            let key = wire::md5_key(USERS[0].0.as_bytes(), REALM, USERS[0].1[0].as_bytes());
            writer.sign(wire::MESSAGE_INTEGRITY, &key);
            let actual = self.straight(src, writer.0);
            assert_eq!(actual.opens.len(), usize::from(count < wanted), "port {count}");
        }
        wanted
    }
}
