//! Users who are looked up elsewhere: requests that wait, answers that are remembered.

use relay_turn::{LookUpOutcome, LookUps, LookedUp};

use super::wire::{self, Stun};
use super::{Expected, Model, Time, Tuple};
use crate::accounts::Password;
use crate::rules::{LOOK_UPS_UNLIMITED, REALM};

/// Requests of one user that wait at most, and users.
const PARKED_MAX: usize = 16;
const WAITING_MAX: usize = 64;
const PARKED_BYTES_MAX: usize = 1500;
/// How long what is stale is good for before the next try.
const STALE_RETRY_SECS: u64 = 5;

/// What a shard knows of users elsewhere.
#[derive(Default)]
pub(super) struct Directory {
    found: Vec<Found>,
    /// Name, from when, until when.
    absent: Vec<(Vec<u8>, u64, u64)>,
    waiting: Vec<(Vec<u8>, Vec<Parked>)>,
}

/// Where from, and what.
pub type Parked = (Tuple, Vec<u8>);

struct Found {
    name: Vec<u8>,
    password: Password,
    from: u64,
    good_until: u64,
    kept_until: u64,
}

impl Model {
    /// A request that has to wait, is refused at once, or is nobody's here: `None`.
    pub(super) fn held_up(
        &mut self,
        now: Time,
        tuple: Tuple,
        bytes: &[u8],
        stun: &Stun,
    ) -> Option<Result<Expected, u16>> {
        self.rules.limits.look_ups?;
        let user = stun.value(wire::USERNAME).filter(|user| (1..=508).contains(&user.len()))?;
        let nonce = stun.value(wire::NONCE)?;
        let is_signed = stun.value(wire::MESSAGE_INTEGRITY).is_some()
            || stun.value(wire::MESSAGE_INTEGRITY_SHA256).is_some();
        if !is_signed || stun.value(wire::REALM)? != REALM.as_bytes() {
            return None;
        }
        let stands_on_token = self.by_tuple(tuple).is_some_and(|at| {
            let token = &self.allocations[at].token;
            token.is_some()
        });
        let has_token = stands_on_token || stun.value(wire::ACCESS_TOKEN).is_some();
        if self.rules.has_tokens && has_token {
            return None;
        }
        // Nobody else is looked up, and all get the same answer.
        if !self.is_nonce_good(now, tuple.0, nonce) {
            return Some(Err(438));
        }
        let shard = self.shard_of(tuple);
        let is_known = self.static_user(user).is_some()
            || self.expiry(user).is_some()
            || self.found(now, shard, user).is_some()
            || self.directories[shard].is_absent(now, user);
        let parked = || Expected::Parked { user: user.to_vec(), parked: (tuple, bytes.to_vec()) };
        (!is_known).then(|| Ok(parked()))
    }

    pub(super) fn found(&self, now: Time, shard: usize, user: &[u8]) -> Option<Password> {
        let is_it = |f: &&Found| f.name == user && (f.from..f.good_until).contains(&now.unix);
        self.directories[shard].found.iter().find(is_it).map(|found| found.password.clone())
    }

    /// What came of a request that had to wait: whether a look-up began.
    pub(super) fn parked(
        &mut self,
        now: Time,
        shard: usize,
        user: &[u8],
        parked: &Parked,
        look_ups: &[Vec<u8>],
    ) -> Result<(), String> {
        let waiting = &self.directories[shard].waiting;
        let others = waiting.iter().find(|(name, _)| name == user);
        let is_first = others.is_none();
        let is_long = parked.1.len() > PARKED_BYTES_MAX;
        let is_full = others.map_or(waiting.len() >= WAITING_MAX, |(_, others)| {
            others.len() >= PARKED_MAX || others.contains(parked)
        });
        let (may_begin, must_begin) = match is_first && !is_long && !is_full {
            false => (false, false),
            true => (true, self.look_up_rate() == LOOK_UPS_UNLIMITED),
        };
        match look_ups {
            [] if must_begin => return Err("nobody is looked up".to_owned()),
            [] if is_first || is_long || is_full => return Ok(()),
            [] => {}
            [one] if may_begin && one == user => {
                self.passed(now, super::limits::Limited::look_ups(parked.0.0), 0)?;
            }
            other => return Err(format!("looked up: {other:?}, and not {user:?}")),
        }
        let waiting = &mut self.directories[shard].waiting;
        match waiting.iter_mut().find(|(name, _)| name == user) {
            Some((_, others)) => others.push(parked.clone()),
            None => waiting.push((user.to_vec(), vec![parked.clone()])),
        }
        Ok(())
    }

    pub(super) fn look_up_rate(&self) -> u32 {
        self.rules.limits.look_ups.map_or(0, |terms| terms.per_source_per_sec)
    }

    /// An answer arrives: the requests that waited for it, and how the look-up ended. `None`:
    /// nobody waited.
    pub fn looked_up(
        &mut self,
        now: Time,
        shard: usize,
        user: &[u8],
        answer: &LookedUp,
        password: Option<&Password>,
    ) -> Option<(Vec<Parked>, LookUpOutcome)> {
        self.purge(now);
        let terms = self.rules.limits.look_ups?;
        let directory = &mut self.directories[shard];
        let at = directory.waiting.iter().position(|(name, _)| name == user)?;
        let (_, parked) = directory.waiting.remove(at);
        Some((parked, directory.learn(now.unix, user, answer, password, terms)))
    }

    /// Requests that wait.
    pub fn parked_count(&self, shard: usize) -> usize {
        self.directories[shard].waiting.iter().map(|(_, parked)| parked.len()).sum()
    }
}

impl Directory {
    fn is_absent(&self, now: Time, user: &[u8]) -> bool {
        self.absent.iter().any(|(name, from, to)| name == user && (*from..*to).contains(&now.unix))
    }

    fn learn(
        &mut self,
        unix: u64,
        user: &[u8],
        answer: &LookedUp,
        password: Option<&Password>,
        terms: LookUps,
    ) -> LookUpOutcome {
        match answer {
            LookedUp::Found(_) => {
                self.absent.retain(|(name, ..)| name != user);
                // What is over may be forgotten, should the clock be set back or not.
                self.found.retain(|found| found.name != user && found.kept_until > unix);
                let good_until = unix + u64::from(terms.cache_secs);
                self.found.push(Found {
                    name: user.to_vec(),
                    password: password.unwrap().clone(),
                    from: unix,
                    good_until,
                    kept_until: good_until + u64::from(terms.stale_secs),
                });
                LookUpOutcome::Found
            }
            LookedUp::Absent => {
                self.found.retain(|found| found.name != user);
                self.absent.retain(|(name, _, to)| name != user && *to > unix);
                let until = unix + u64::from(terms.negative_cache_secs);
                self.absent.push((user.to_vec(), unix, until));
                LookUpOutcome::Absent
            }
            LookedUp::Failed => {
                let kept =
                    |f: &&mut Found| f.name == user && (f.from..f.kept_until).contains(&unix);
                let Some(found) = self.found.iter_mut().find(kept) else {
                    return LookUpOutcome::Failed;
                };
                found.good_until = (unix + STALE_RETRY_SECS).min(found.kept_until);
                LookUpOutcome::Stale
            }
        }
    }
}
