//! Users that a shard wants to be looked up: answers come late, in any order, or not at all.

use relay_turn::{Input, LookUpOutcome, LookedUp, RealmId};

use super::World;
use crate::model::wire::Stun;
use crate::model::{Actual, Effect, Expected, Tuple};

impl World {
    /// Answers one of them, by what there is in the store now.
    pub(super) fn answer_look_up(&mut self) {
        let all = self.shards.iter().enumerate();
        let waiting: Vec<(usize, Vec<u8>)> = all
            .flat_map(|(at, shard)| shard.look_ups.iter().map(move |u| (at, u.clone())))
            .collect();
        if waiting.is_empty() {
            return;
        }
        let (shard, user) = waiting[self.random.index(waiting.len())].clone();
        // Now and then the answer comes twice.
        if !self.random.one_in(12) {
            self.shards[shard].look_ups.retain(|other| *other != user);
        }
        let password = self.store.find(&user).cloned();
        let answer = match &password {
            _ if self.random.one_in(4) => LookedUp::Failed,
            Some(password) => LookedUp::Found(password.secret()),
            None => LookedUp::Absent,
        };
        while let Some(due) = self.due_shard() {
            self.deadline(due);
        }
        self.steps += 1;
        self.trace.event(self.now.ns, "looked up", || format!("{user:02x?}: {answer:?}"));
        let known = self.model.looked_up(self.now, shard, &user, &answer, password.as_ref());
        let input = Input::LookedUp { realm: RealmId::DEFAULT, user: &user, answer: &answer };
        let mut actual = self.input(shard, input, &[]);
        let left = actual.clone();
        let (parked, outcome) = known.map_or((Vec::new(), None), |(p, o)| (p, Some(o)));
        if let Some(outcome) = outcome {
            *self.shards[shard].looked_up.entry(outcome).or_default() += 1;
            *self.seen.entry(seen(outcome)).or_default() += 1;
        }
        for (tuple, bytes) in parked {
            let expected = match outcome {
                Some(LookUpOutcome::Failed) => self.model.not_looked_up(tuple, &bytes),
                _ => self.model.client_sends(self.now, tuple, &bytes),
            };
            let of_it = part(&mut actual, tuple, &bytes, &expected);
            self.model.settle(self.now, shard, expected, &of_it);
        }
        assert_eq!(actual, Actual::default(), "nobody asked for it");
        self.check(shard);
        self.carry(&left);
    }
}

/// What of all that happened is about a request: its response, or the addresses that are opened.
fn part(all: &mut Actual, tuple: Tuple, bytes: &[u8], expected: &Expected) -> Actual {
    let stun = Stun::read(bytes).expect("it was read before it had to wait");
    let is_its = |sent: &crate::model::Sent| {
        (sent.dst, sent.src) == tuple && sent.payload.get(8..20) == Some(&stun.transaction[..])
    };
    let mut part = Actual::default();
    if let Some(at) = all.sent.iter().position(is_its) {
        part.sent.push(all.sent.remove(at));
    } else if let Expected::Answer(answer) = expected
        && matches!(answer.effect, Effect::Open(_))
        && let Some((id, _)) = all.opens.first().copied()
    {
        part.opens = all.opens.iter().filter(|(other, _)| *other == id).copied().collect();
        all.opens.retain(|(other, _)| *other != id);
    }
    part
}

const fn seen(outcome: LookUpOutcome) -> &'static str {
    match outcome {
        LookUpOutcome::Found => "found",
        LookUpOutcome::Absent => "absent",
        LookUpOutcome::Stale => "stale",
        LookUpOutcome::Failed => "not found out",
    }
}
