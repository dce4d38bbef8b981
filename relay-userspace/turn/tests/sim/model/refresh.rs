//! Refresh (RFC 8656 §8).

use super::users::Session;
use super::wire::{self, Stun};
use super::{Answer, Effect, Model, SEC, Time, Who};

/// What a Refresh request changes.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// IPv4, IPv6.
    families: [bool; 2],
    /// 0: the end.
    secs: u32,
    /// A token that takes the place of another, and its end.
    token: Option<(Vec<u8>, u64)>,
}

impl Model {
    pub(super) fn refresh(
        &mut self,
        now: Time,
        stun: &Stun,
        session: &Session,
        answer: &mut Answer,
    ) {
        let Some(at) = self.owned(&session.who, answer) else { return };
        let mut wrong = Vec::new();
        // §8.1, §8.2: about the address of one family, which there must be, or about all.
        let has = |is_v4| self.allocations[at].relayed(is_v4).is_some();
        let families = match stun.value(wire::REQUESTED_ADDRESS_FAMILY) {
            None => [true; 2],
            Some([1, _, _, _]) if has(true) => [true, false],
            Some([2, _, _, _]) if has(false) => [false, true],
            Some(value) => {
                wrong.push(if value.len() == 4 { 443 } else { 400 });
                [false; 2]
            }
        };
        if stun.value(wire::LIFETIME).is_some_and(|lifetime| lifetime.len() != 4) {
            wrong.push(400);
        }
        if wrong.is_empty() {
            let secs = match stun.number(wire::LIFETIME) {
                Some(0) => 0,
                asked => self.lifetime(now, asked, session),
            };
            let token = session.token_end.map(|end| (session.key.clone(), end));
            answer.effect = Effect::Refresh(Refreshed { families, secs, token });
            wrong.push(0);
        }
        answer.codes.extend(wrong);
    }

    pub(super) fn refreshed(
        &mut self,
        now: Time,
        at: usize,
        refreshed: &Refreshed,
        stun: &Stun,
    ) -> Result<(), String> {
        let Refreshed { families, secs, token } = refreshed;
        if stun.number(wire::LIFETIME) != Some(*secs) {
            return Err(format!("LIFETIME is not {secs}"));
        }
        if self.allocations[at].relayed.len() == 2 && *families != [true; 2] {
            self.note(if *secs == 0 { "one address of two ends" } else { "one of two refreshed" });
        }
        let allocation = &mut self.allocations[at];
        for relayed in &mut allocation.relayed {
            if families[usize::from(relayed.address.is_ipv6())] {
                relayed.deadline = Some(now.ns + u64::from(*secs) * SEC);
            }
        }
        if *secs != 0 && token.is_some() {
            allocation.token.clone_from(token);
        }
        self.purge(now);
        Ok(())
    }

    /// The allocation that a request is about (§5): 437 without one, 441 if it is another user's.
    pub(super) fn owned(&self, who: &Who, answer: &mut Answer) -> Option<usize> {
        let at = self.by_tuple(answer.tuple).filter(|at| self.allocations[*at].is_open());
        match at {
            None => answer.codes.push(437),
            Some(at) if !self.allocations[at].who.is_same(who) => answer.codes.push(441),
            Some(at) => return Some(at),
        }
        None
    }
}
