//! Allocate (RFC 8656 §7): who gets which relayed transport address.

use std::net::SocketAddr;

use relay_turn::AllocationId;

use super::answer::kept;
use super::limits::Limited;
use super::wire::{self, Stun};
use super::{
    Actual, Allocation, Answer, Effect, Expected, Held, Model, RESERVATION_NS, SEC, Stage, Time,
};
use crate::rules::Rules;

/// How many other addresses are tried at most when one cannot be opened.
const OTHERS_MAX: usize = 8;

/// What an Allocate request asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub user: Vec<u8>,
    is_v4: bool,
    is_even: bool,
    /// With the port behind it held for a token.
    pub is_pair: bool,
    /// Behind a token; `None` inside: one that this shard did not give.
    reserved: Option<Option<Held>>,
    pub lifetime_secs: u32,
}

impl Model {
    pub(super) fn allocate(&mut self, stun: &Stun, user: &[u8], mut answer: Answer) -> Expected {
        let shard = self.shard_of(answer.tuple);
        // Check 2: the 5-tuple has no allocation; the same request again has its answer.
        if let Some(at) = self.by_tuple(answer.tuple) {
            let allocation = &self.allocations[at];
            let is_again = allocation.transaction == answer.transaction && allocation.user == user;
            match &allocation.stage {
                Stage::Open { attributes, .. } if is_again => {
                    answer.codes.push(0);
                    answer.effect = Effect::Again(attributes.clone());
                }
                Stage::Opening { .. } if is_again => return Expected::Silence,
                Stage::Open { .. } | Stage::Opening { .. } => answer.codes.push(437),
            }
            return Expected::Answer(Box::new(answer));
        }
        let (wish, mut wrong) = self.wish(shard, stun, user);
        let is_full = self.is_full(&mut wrong, user, answer.tuple.0);
        let may_lack = match &wish.reserved {
            Some(Some(_)) => false,
            Some(None) => true,
            None => !self.has_place(shard, &wish),
        };
        if may_lack {
            wrong.push(508);
        }
        // A token of another shard may still be good.
        let is_foreign = matches!(wish.reserved, Some(None)) && self.rules.shards > 1 && !is_full;
        if wrong.is_empty() || (wrong == [508] && is_foreign) {
            answer.codes.push(0);
        }
        answer.codes.extend(wrong);
        answer.effect = Effect::Open(wish);
        Expected::Answer(Box::new(answer))
    }

    /// Check 9 of §7.2: quotas of the server, of a user and of a source.
    fn is_full(&self, wrong: &mut Vec<u16>, user: &[u8], client: SocketAddr) -> bool {
        let limits = &self.rules.limits;
        let is_over = |max: u32, is_it: &dyn Fn(&Allocation) -> bool| {
            let count = self.allocations.iter().filter(|allocation| is_it(allocation)).count();
            max != 0 && count >= usize::try_from(max).unwrap()
        };
        let is_full = is_over(limits.allocations_max, &|_| true);
        if is_full {
            wrong.push(508);
        }
        let source = Limited::source(client);
        if is_over(limits.user_allocations_max, &|a| charged(&a.user) == charged(user))
            || is_over(limits.source_allocations_max, &|a| Limited::source(a.tuple.0) == source)
        {
            wrong.push(486);
            return true;
        }
        is_full
    }

    /// Checks 3 to 8 of §7.2: the wish, and the codes of all that is wrong with it.
    fn wish(&self, shard: usize, stun: &Stun, user: &[u8]) -> (Wish, Vec<u16>) {
        let mut wrong = Vec::new();
        match stun.value(wire::REQUESTED_TRANSPORT) {
            Some([17, _, _, _]) => {}
            Some([_, _, _, _]) => wrong.push(442),
            _ => wrong.push(400),
        }
        let family = stun.value(wire::REQUESTED_ADDRESS_FAMILY);
        match family {
            None | Some([1 | 2, _, _, _]) => {}
            Some([_, _, _, _]) => wrong.push(440),
            Some(_) => wrong.push(400),
        }
        let even = stun.value(wire::EVEN_PORT);
        let token = stun.value(wire::RESERVATION_TOKEN);
        let is_both = token.is_some() && (even.is_some() || family.is_some());
        let is_short = token.is_some_and(|token| token.len() != 8);
        if is_both || is_short || even.is_some_and(|even| even.len() != 1) {
            wrong.push(400);
        }
        let lifetime = stun.value(wire::LIFETIME);
        if lifetime.is_some_and(|lifetime| lifetime.len() != 4) {
            wrong.push(400);
        }
        let held = |token: &[u8]| {
            self.held.iter().find(|held| held.shard == shard && held.token == token).cloned()
        };
        let wish = Wish {
            user: user.to_vec(),
            is_v4: family.is_none_or(|family| family.first() == Some(&1)),
            is_even: even.is_some(),
            is_pair: even.is_some_and(|even| even.first().is_some_and(|bits| bits & 0x80 != 0)),
            reserved: token.map(held),
            lifetime_secs: self.lifetime(stun.number(wire::LIFETIME)),
        };
        (wish, wrong)
    }

    /// §7.2, §8.2: what is asked for, within bounds.
    pub(super) fn lifetime(&self, asked: Option<u32>) -> u32 {
        let limits = &self.rules.limits;
        asked.unwrap_or(0).clamp(limits.lifetime_secs_default, limits.lifetime_secs_max)
    }

    /// Whether a shard may give the address to somebody.
    fn is_free(&self, shard: usize, relayed: SocketAddr) -> bool {
        let behind = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + 1);
        let takes = |allocation: &Allocation| {
            let here = allocation.relayed;
            here == relayed
                || match &allocation.stage {
                    Stage::Opening { wish, failed, .. } => {
                        failed.contains(&relayed) || (wish.is_pair && behind(here) == relayed)
                    }
                    Stage::Open { .. } => false,
                }
        };
        Rules::is_own(relayed.ip())
            && self.rules.ports(shard).contains(&relayed.port())
            && !self.allocations.iter().any(|a| a.shard == shard && takes(a))
            && !self.held.iter().any(|held| held.shard == shard && held.relayed == relayed)
    }

    /// Whether an address is one that may be opened for a wish.
    fn fits(&self, shard: usize, wish: &Wish, relayed: SocketAddr) -> bool {
        let behind = SocketAddr::new(relayed.ip(), relayed.port() + 1);
        match &wish.reserved {
            Some(Some(held)) => held.relayed == relayed,
            Some(None) => {
                let all = self.rules.ports_all();
                all.contains(&relayed.port()) && !self.rules.ports(shard).contains(&relayed.port())
            }
            None => {
                relayed.is_ipv4() == wish.is_v4
                    && (!wish.is_even || relayed.port().is_multiple_of(2))
                    && self.is_free(shard, relayed)
                    && (!wish.is_pair || self.is_free(shard, behind))
            }
        }
    }

    fn has_place(&self, shard: usize, wish: &Wish) -> bool {
        let ports = self.rules.ports(shard);
        let all = Rules::relay_ips().map(|ip| ports.clone().map(move |port| (ip, port).into()));
        all.into_iter().flatten().any(|relayed| self.fits(shard, wish, relayed))
    }

    /// The request was accepted, if its address can be opened.
    pub(super) fn opening(
        &mut self,
        shard: usize,
        answer: &Answer,
        wish: &Wish,
        id: AllocationId,
        relayed: SocketAddr,
    ) {
        assert!(self.fits(shard, wish, relayed), "{relayed} is not for {wish:?}");
        if let Some(Some(taken)) = &wish.reserved {
            self.held.retain(|held| held.shard != shard || held.token != taken.token);
        }
        assert!(self.by_id(shard, id).is_none(), "{id:?} is taken");
        self.starts_anew(answer.tuple.0, relayed);
        let answer =
            Answer { effect: Effect::Opened(id, wish.clone()), codes: vec![0], ..answer.clone() };
        self.allocations.push(Allocation {
            shard,
            tuple: answer.tuple,
            id,
            relayed,
            user: wish.user.clone(),
            transaction: answer.transaction,
            stage: Stage::Opening {
                wish: wish.clone(),
                answer: Box::new(answer),
                failed: Vec::new(),
            },
            permissions: Vec::new(),
            channels: Vec::new(),
        });
    }

    /// Its address is open: the allocation begins. `None`: there is none to begin.
    pub fn opened(&mut self, now: Time, shard: usize, id: AllocationId) -> Option<Expected> {
        self.purge(now);
        match &self.allocations[self.by_id(shard, id)?].stage {
            Stage::Opening { answer, .. } => Some(Expected::Answer(answer.clone())),
            Stage::Open { .. } => panic!("{id:?} is opened twice"),
        }
    }

    pub(super) fn begun(
        &mut self,
        now: Time,
        shard: usize,
        id: AllocationId,
        wish: &Wish,
        stun: &Stun,
    ) -> Result<(), String> {
        let at = self.by_id(shard, id).ok_or("no allocation")?;
        let (relayed, tuple) = (self.allocations[at].relayed, self.allocations[at].tuple);
        if stun.address(wire::XOR_RELAYED_ADDRESS) != Some(self.rules.outside(relayed)) {
            return Err("XOR-RELAYED-ADDRESS".to_owned());
        }
        if stun.address(wire::XOR_MAPPED_ADDRESS) != Some(tuple.0) {
            return Err("XOR-MAPPED-ADDRESS".to_owned());
        }
        if stun.number(wire::LIFETIME) != Some(wish.lifetime_secs) {
            return Err("LIFETIME".to_owned());
        }
        let token = stun.value(wire::RESERVATION_TOKEN);
        if token.is_some() != wish.is_pair || token.is_some_and(|token| token.len() != 8) {
            return Err("RESERVATION-TOKEN".to_owned());
        }
        if let Some(token) = token {
            let relayed = SocketAddr::new(relayed.ip(), relayed.port() + 1);
            let deadline = now.ns + RESERVATION_NS;
            self.held.push(Held { shard, token: token.to_vec(), relayed, deadline });
        }
        let deadline = now.ns + u64::from(wish.lifetime_secs) * SEC;
        self.allocations[at].stage = Stage::Open { deadline, attributes: kept(stun) };
        Ok(())
    }

    /// Its address cannot be opened: another, or none.
    pub fn failed(&mut self, now: Time, shard: usize, id: AllocationId) -> Expected {
        self.purge(now);
        match self.by_id(shard, id) {
            Some(at) => Expected::Another(Box::new(self.allocations[at].clone())),
            None => Expected::Silence,
        }
    }

    pub(super) fn tried_again(
        &mut self,
        now: Time,
        shard: usize,
        before: &Allocation,
        actual: &Actual,
    ) {
        let at = self.by_id(shard, before.id).expect("it was there a moment ago");
        let mut allocation = self.allocations.swap_remove(at);
        let Stage::Opening { wish, answer, failed } = &mut allocation.stage else {
            panic!("what is open does not fail: {before:?}");
        };
        failed.push(allocation.relayed);
        let wish = wish.clone();
        match (&actual.sent[..], &actual.opens[..]) {
            ([], [(id, relayed)]) => {
                let is_new = *id == before.id && !failed.contains(relayed);
                let is_allowed = failed.len() <= OTHERS_MAX && wish.reserved.is_none();
                let fits = self.fits(shard, &wish, *relayed);
                assert!(is_new && is_allowed && fits, "{actual:?} after {before:?}");
                allocation.relayed = *relayed;
                self.allocations.push(allocation);
            }
            ([reply], []) => {
                let answer = Answer { codes: vec![508], ..(**answer).clone() };
                let is_last = failed.len() > OTHERS_MAX || wish.reserved.is_some();
                self.answered(now, shard, &answer, reply).unwrap();
                // The addresses that failed are free again, but were not when it was decided.
                self.allocations.push(allocation);
                assert!(is_last || !self.has_place(shard, &wish), "508 for {before:?}");
                self.allocations.pop();
            }
            _ => panic!("{actual:?} after {before:?}"),
        }
    }

    /// The shard that a 5-tuple's packets reach.
    pub fn shard_of(&self, tuple: super::Tuple) -> usize {
        usize::from(tuple.0.port()) % self.rules.shards
    }
}

/// Whom an allocation of a user name is charged to: of a time-limited one, who is behind the
/// expiry.
fn charged(user: &[u8]) -> &[u8] {
    let at = user.iter().position(|byte| *byte == b':');
    at.map_or(user, |at| &user[at + 1..])
}
