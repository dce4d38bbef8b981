//! The time between an Allocate request and its answer: relayed transport addresses are opened,
//! one of each family at most, or others tried, or done without (RFC 8656 §7.2).

use std::net::SocketAddr;

use relay_turn::AllocationId;

use super::answer::kept;
use super::wire::{self, Stun};
use super::{
    Actual, Allocation, Answer, Effect, Expected, Held, Model, RESERVATION_NS, Relayed, SEC, Stage,
    Time, Wish,
};

/// How many other addresses are tried at most when one cannot be opened.
const OTHERS_MAX: usize = 8;

impl Model {
    /// The request was accepted, if its addresses can be opened.
    pub(super) fn opening(
        &mut self,
        shard: usize,
        answer: &Answer,
        wish: &Wish,
        opens: &[(AllocationId, SocketAddr)],
    ) {
        let id = opens[0].0;
        assert!(self.by_id(shard, id).is_none(), "{id:?} is taken");
        for (other, relayed) in opens {
            assert_eq!(*other, id, "addresses of two allocations");
            assert!(self.fits(shard, wish, *relayed), "{relayed} is not for {wish:?}");
        }
        self.starts_anew(answer.tuple);
        // Every family that can be had, once.
        let mut families = [false; 2];
        for (_, relayed) in opens {
            let family = &mut families[usize::from(relayed.is_ipv6())];
            assert!(!std::mem::replace(family, true), "two addresses of a family");
        }
        if wish.reserved.is_none() {
            let mut wanted = wish.families;
            if let Some((is_v4, _)) = wish.refused {
                wanted[usize::from(!is_v4)] = false;
            }
            assert_eq!(families, wanted, "{wish:?}");
        }
        if let Some(Some(taken)) = &wish.reserved {
            self.held.retain(|held| held.shard != shard || held.token != taken.token);
        }
        let answer = Answer { effect: Effect::Opened(id), codes: vec![0], ..answer.clone() };
        let relayed = |(_, address): &(AllocationId, SocketAddr)| Relayed {
            address: *address,
            is_open: false,
            deadline: None,
        };
        self.allocations.push(Allocation {
            shard,
            tuple: answer.tuple,
            id,
            relayed: opens.iter().map(relayed).collect(),
            who: wish.who.clone(),
            charged: wish.charged.clone(),
            token: wish.token.clone(),
            transaction: answer.transaction,
            stage: Stage::Opening {
                wish: wish.clone(),
                answer: Box::new(answer),
                failed: Vec::new(),
                tries: 0,
            },
            permissions: Vec::new(),
            channels: Vec::new(),
            new_peers: (0, 0),
        });
    }

    /// One of its addresses is open: with the last of them the allocation begins. `None`: there
    /// is none to begin.
    pub fn opened(
        &mut self,
        now: Time,
        shard: usize,
        id: AllocationId,
        address: SocketAddr,
    ) -> Option<Expected> {
        self.purge(now);
        let at = self.by_id(shard, id)?;
        let allocation = &mut self.allocations[at];
        let Stage::Opening { answer, .. } = &allocation.stage else { panic!("{id:?} is open") };
        let mut relayed = allocation.relayed.iter_mut();
        relayed.find(|relayed| relayed.address == address)?.is_open = true;
        Some(match allocation.relayed.iter().all(|relayed| relayed.is_open) {
            true => Expected::Answer(answer.clone()),
            false => Expected::Silence,
        })
    }

    pub(super) fn begun(
        &mut self,
        now: Time,
        shard: usize,
        id: AllocationId,
        stun: &Stun,
    ) -> Result<(), String> {
        let at = self.by_id(shard, id).ok_or("no allocation")?;
        let Allocation { relayed, tuple, stage, .. } = &self.allocations[at];
        let Stage::Opening { wish, .. } = stage else { return Err("it has begun".to_owned()) };
        let wish = wish.clone();
        let is_address = |a: &&wire::Attribute| a.kind == wire::XOR_RELAYED_ADDRESS;
        let told = stun.counting().filter(is_address);
        let mut told: Vec<_> =
            told.map(|a| wire::xored_address(&a.value, &stun.transaction)).collect();
        let mut all: Vec<_> =
            relayed.iter().map(|relayed| Some(self.rules.outside(relayed.address))).collect();
        told.sort_unstable();
        all.sort_unstable();
        if told != all {
            return Err(format!("XOR-RELAYED-ADDRESS: {told:?} for {all:?}"));
        }
        if stun.address(wire::XOR_MAPPED_ADDRESS) != Some(tuple.0) {
            return Err("XOR-MAPPED-ADDRESS".to_owned());
        }
        if stun.number(wire::LIFETIME) != Some(wish.lifetime_secs) {
            return Err(format!("LIFETIME is not {}", wish.lifetime_secs));
        }
        // §18.12: a family, and a code as in ERROR-CODE.
        let refused = wish.refused.map(|(is_v4, code)| {
            let family = if is_v4 { 1 } else { 2 };
            [family, 0, u8::try_from(code / 100).unwrap(), u8::try_from(code % 100).unwrap()]
        });
        let told = stun.value(wire::ADDRESS_ERROR_CODE).and_then(|value| value.get(..4));
        if told != refused.as_ref().map(|value| &value[..]) {
            return Err(format!("ADDRESS-ERROR-CODE is not {refused:?}"));
        }
        let token = stun.value(wire::RESERVATION_TOKEN);
        if token.is_some() != wish.is_pair || token.is_some_and(|token| token.len() != 8) {
            return Err("RESERVATION-TOKEN".to_owned());
        }
        if let Some(token) = token {
            let here = relayed[0].address;
            let relayed = SocketAddr::new(here.ip(), here.port() + 1);
            let deadline = now.ns + RESERVATION_NS;
            self.held.push(Held { shard, token: token.to_vec(), relayed, deadline });
        }
        match (relayed.len(), wish.refused) {
            (2, _) => self.note("two addresses"),
            (_, Some((_, 440))) => self.note("one address, and 440"),
            (_, Some(_)) => self.note("one address, and 508"),
            _ => {}
        }
        let allocation = &mut self.allocations[at];
        for relayed in &mut allocation.relayed {
            relayed.deadline = Some(now.ns + u64::from(wish.lifetime_secs) * SEC);
        }
        allocation.stage = Stage::Open { attributes: kept(stun) };
        Ok(())
    }

    /// One of its addresses cannot be opened: another, or none.
    pub fn failed(
        &mut self,
        now: Time,
        shard: usize,
        id: AllocationId,
        address: SocketAddr,
    ) -> Expected {
        self.purge(now);
        match self.by_id(shard, id) {
            Some(_) => Expected::Another(id, address),
            None => Expected::Silence,
        }
    }

    pub(super) fn tried_again(
        &mut self,
        now: Time,
        shard: usize,
        (id, address): (AllocationId, SocketAddr),
        actual: &Actual,
    ) {
        let at = self.by_id(shard, id).expect("it was there a moment ago");
        let Allocation { relayed, stage, .. } = &mut self.allocations[at];
        let Stage::Opening { wish, failed, tries, answer } = stage else {
            panic!("what is open does not fail: {id:?}");
        };
        relayed.retain(|relayed| relayed.address != address);
        failed.push(address);
        let (wish, answer, may_try) =
            (wish.clone(), answer.clone(), *tries < OTHERS_MAX && wish.reserved.is_none());
        if let [(again, other)] = actual.opens[..] {
            let is_same = again == id && other.is_ipv4() == address.is_ipv4();
            let is_it = is_same && may_try && self.fits(shard, &wish, other);
            assert!(is_it && actual.sent.is_empty(), "{actual:?} after {address}");
            let Allocation { relayed, stage, .. } = &mut self.allocations[at];
            relayed.push(Relayed { address: other, is_open: false, deadline: None });
            if let Stage::Opening { tries, .. } = stage {
                *tries += 1;
            }
            return;
        }
        let is_last = !may_try || !self.has_place(shard, &wish, address.is_ipv4());
        assert!(is_last && actual.opens.is_empty(), "{actual:?} after {address}, for {wish:?}");
        // The address is free again; the others that failed are kept away until it is decided.
        let Allocation { relayed, stage, .. } = &mut self.allocations[at];
        if let Stage::Opening { wish, failed, .. } = stage {
            failed.retain(|other| *other != address);
            wish.refused = Some((address.is_ipv4(), 508));
        }
        let are_open = relayed.iter().all(|relayed| relayed.is_open);
        match (&actual.sent[..], relayed.is_empty()) {
            ([reply], true) => {
                self.allocations.swap_remove(at);
                let answer = Answer { codes: vec![508], ..*answer };
                self.answered(now, shard, &answer, reply).unwrap();
            }
            // The other one is enough.
            ([reply], false) if are_open => self.answered(now, shard, &answer, reply).unwrap(),
            ([], false) if !are_open => {}
            _ => panic!("{actual:?} after {address}"),
        }
    }
}
