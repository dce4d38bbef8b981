//! Refresh (RFC 8656 §8).

use super::wire::{self, Stun};
use super::{Answer, Effect, Model, SEC, Stage, Time};

impl Model {
    pub(super) fn refresh(&mut self, stun: &Stun, user: &[u8], answer: &mut Answer) {
        let Some(at) = self.owned(user, answer) else { return };
        let mut wrong = Vec::new();
        let is_v4 = self.allocations[at].relayed.is_ipv4();
        match stun.value(wire::REQUESTED_ADDRESS_FAMILY) {
            None => {}
            Some([family, _, _, _]) if *family == if is_v4 { 1 } else { 2 } => {}
            Some([_, _, _, _]) => wrong.push(443),
            Some(_) => wrong.push(400),
        }
        if stun.value(wire::LIFETIME).is_some_and(|lifetime| lifetime.len() != 4) {
            wrong.push(400);
        }
        if wrong.is_empty() {
            answer.effect = Effect::Refresh(match stun.number(wire::LIFETIME) {
                Some(0) => 0,
                asked => self.lifetime(asked),
            });
            wrong.push(0);
        }
        answer.codes.extend(wrong);
    }

    pub(super) fn refreshed(
        &mut self,
        now: Time,
        at: usize,
        secs: u32,
        stun: &Stun,
    ) -> Result<(), String> {
        if stun.number(wire::LIFETIME) != Some(secs) {
            return Err("LIFETIME".to_owned());
        }
        if secs == 0 {
            self.allocations.remove(at);
        } else if let Stage::Open { deadline, .. } = &mut self.allocations[at].stage {
            *deadline = now.ns + u64::from(secs) * SEC;
        }
        Ok(())
    }

    /// The allocation that a request is about (§5): 437 without one, 441 if it is another user's.
    pub(super) fn owned(&self, user: &[u8], answer: &mut Answer) -> Option<usize> {
        let at =
            self.by_tuple(answer.tuple).filter(|at| self.allocations[*at].deadline().is_some());
        match at {
            None => answer.codes.push(437),
            Some(at) if self.allocations[at].user != user => answer.codes.push(441),
            Some(at) => return Some(at),
        }
        None
    }
}
