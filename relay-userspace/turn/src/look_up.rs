//! Users that are known elsewhere: a request of one waits until the driver has looked the user up.
//!
//! Owns who is looked up and when, what is remembered of the answers, and the bounds of it all.
//! Does not look up, and does not judge requests: that is `authenticate.rs`, before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use relay_common::addr::FiveTuple;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Fingerprint, Message};

use crate::reject::Reject;
use crate::reply::ReplyTo;
use crate::snapshot::{DropReason, LookUpOutcome, RequestMethod};
use crate::throttle::Throttle;
use crate::{Now, Output, RealmId, Secret, Turn};

/// Users that are looked up at the same time, at most.
const WAITING_MAX: usize = 64;
/// Requests of one of them that wait, at most, and their size.
const PARKED_MAX: usize = 16;
const PARKED_BYTES_MAX: usize = 1_500;
/// How many who were found are remembered, and how many who were not: nobody can push real users
/// out of memory with names that do not exist.
const FOUND_MAX: usize = 16_384;
const ABSENT_MAX: usize = 4_096;
/// After a failure, what is stale is good for this long before the next try, seconds.
const STALE_RETRY_SECS: u64 = 5;
/// USERNAME has fewer bytes than 509 (RFC 8489 §14.3).
const USERNAME_BYTES: RangeInclusive<usize> = 1..=508;

/// Whether and how users are looked up elsewhere; times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LookUps {
    /// How long an answer is good that found the user; at least 1.
    pub cache_secs: u32,
    /// How long an answer is good that there is no such user; at least 1.
    pub negative_cache_secs: u32,
    /// How much longer a user who was found is let in while look-ups fail; 0: not.
    pub stale_secs: u32,
    /// Look-ups that one IPv4 address or IPv6 /64 may cause per second; at least 1.
    pub per_source_per_sec: u32,
}

/// What a look-up gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LookedUp {
    /// The user's password or key.
    Found(Secret),
    /// There is no such user.
    Absent,
    /// It could not be found out.
    Failed,
}

/// What is known of users elsewhere, and who waits for it.
pub(crate) struct Directory {
    terms: LookUps,
    found: Remembered<Secret>,
    absent: Remembered<()>,
    waiting: BTreeMap<(RealmId, Box<[u8]>), Vec<Parked>>,
}

/// A request that waits.
#[derive(PartialEq, Eq)]
struct Parked {
    five_tuple: FiveTuple,
    datagram: Box<[u8]>,
}

impl Directory {
    pub(crate) const fn new(terms: LookUps) -> Self {
        Self {
            terms,
            found: Remembered::new(FOUND_MAX),
            absent: Remembered::new(ABSENT_MAX),
            waiting: BTreeMap::new(),
        }
    }

    /// What a user who was found proves to know.
    pub(crate) fn found(&self, unix_secs: u64, realm: RealmId, user: &[u8]) -> Option<&Secret> {
        self.found.good(unix_secs, realm, user)
    }

    /// Whether a look-up of the user has an answer that is still good.
    pub(crate) fn remembers(&self, unix_secs: u64, realm: RealmId, user: &[u8]) -> bool {
        self.found(unix_secs, realm, user).is_some()
            || self.absent.good(unix_secs, realm, user).is_some()
    }

    /// Lets a request wait. Tells whether its user is to be looked up now, or why it cannot wait.
    fn park(
        &mut self,
        now: Now,
        (realm, user): (RealmId, &[u8]),
        parked: Parked,
        throttle: &Throttle,
    ) -> Result<Wait, DropReason> {
        let who = (realm, user.into());
        if parked.datagram.len() > PARKED_BYTES_MAX {
            return Err(DropReason::LookUpBusy);
        }
        if let Some(others) = self.waiting.get_mut(&who) {
            if others.contains(&parked) {
                return Err(DropReason::LookUpPending);
            }
            if others.len() >= PARKED_MAX {
                return Err(DropReason::LookUpBusy);
            }
            others.push(parked);
            return Ok(Wait::WithOthers);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(DropReason::LookUpBusy);
        }
        let rate = self.terms.per_source_per_sec;
        if !throttle.admit(now, parked.five_tuple.client.ip(), rate) {
            return Err(DropReason::RateLimited);
        }
        self.waiting.insert(who, vec![parked]);
        Ok(Wait::First)
    }

    /// Takes an answer. Whether requests of the user can be judged now.
    fn learn(
        &mut self,
        unix_secs: u64,
        (realm, user): (RealmId, &[u8]),
        answer: &LookedUp,
    ) -> LookUpOutcome {
        let terms = self.terms;
        match answer {
            LookedUp::Found(secret) => {
                let good_until = unix_secs + u64::from(terms.cache_secs.max(1));
                let kept_until = good_until + u64::from(terms.stale_secs);
                let answer = Answer::new(secret.clone(), unix_secs, good_until, kept_until);
                self.absent.forget(realm, user);
                self.found.insert(realm, user, answer);
                LookUpOutcome::Found
            }
            LookedUp::Absent => {
                let good_until = unix_secs + u64::from(terms.negative_cache_secs.max(1));
                let answer = Answer::new((), unix_secs, good_until, good_until);
                self.found.forget(realm, user);
                self.absent.insert(realm, user, answer);
                LookUpOutcome::Absent
            }
            LookedUp::Failed if self.found.extend(unix_secs, realm, user, STALE_RETRY_SECS) => {
                LookUpOutcome::Stale
            }
            LookedUp::Failed => LookUpOutcome::Failed,
        }
    }
}

/// How a request waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// It is the first of its user: the look-up begins.
    First,
    /// A look-up of the user is on its way.
    WithOthers,
}

impl Turn {
    /// Whether a request was dealt with here, because its user is not known yet. Only for a nonce
    /// that is ours and fresh: who sends from an address that is not his own causes no look-up.
    ///
    /// A nonce that is not good is refused here for everybody, known or not: the answer to a wrong
    /// password would else tell whose name is known.
    pub(crate) fn is_held(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        message: &Message<'_>,
        datagram: &[u8],
    ) -> bool {
        let of = |kind| message.attribute(kind);
        let is_signed = of(AttributeType::MESSAGE_INTEGRITY).is_some()
            || of(AttributeType::MESSAGE_INTEGRITY_SHA256).is_some();
        let (Some(user), Some(realm), Some(nonce)) = (
            of(AttributeType::USERNAME).filter(|user| USERNAME_BYTES.contains(&user.len())),
            of(AttributeType::REALM),
            of(AttributeType::NONCE),
        ) else {
            return false;
        };
        let id = self.realms.at(five_tuple.server);
        // Whatever else is wrong with it, authentication finds.
        if !self.realms.users(id).are_looked_up()
            || !is_signed
            || !RequestMethod::of(message.method()).is_some_and(asks_for_credentials)
            || realm != self.realms.name(id).as_bytes()
            || self.is_by_token(five_tuple, message)
        {
            return false;
        }
        if !self.nonces.is_good(now.unix_secs, five_tuple.client, nonce) {
            self.refuse(now, five_tuple, message, Reject::StaleNonce);
            return true;
        }
        if self.realms.users(id).is_decided(now.unix_secs, user) {
            return false;
        }
        let Some(directory) = self.realms.directory.as_mut() else { return false };
        let parked = Parked { five_tuple, datagram: datagram.into() };
        match directory.park(now, (id, user), parked, self.ledger.look_ups()) {
            Ok(Wait::First) => {
                self.outputs.push_back(Output::LookUp { realm: id, user: user.into() });
            }
            Ok(Wait::WithOthers) => {}
            Err(reason) => self.stats.count_dropped(reason),
        }
        true
    }

    /// The answer to [`Output::LookUp`]: the requests that wait for it are judged, or told that
    /// they cannot be (RFC 8489 §14.8: 500, try again).
    pub(crate) fn looked_up(&mut self, now: Now, realm: RealmId, user: &[u8], answer: &LookedUp) {
        let Some(directory) = self.realms.directory.as_mut() else { return };
        let Some(parked) = directory.waiting.remove(&(realm, user.into())) else { return };
        let outcome = directory.learn(now.unix_secs, (realm, user), answer);
        self.stats.count_look_up(outcome);
        for Parked { five_tuple, datagram } in parked {
            match (outcome, Message::parse(&datagram)) {
                (LookUpOutcome::Failed, Ok(message)) => {
                    self.refuse(now, five_tuple, &message, Reject::ServerError);
                }
                _ => self.client_datagram(now, five_tuple, &datagram),
            }
        }
    }

    /// Whether it is a token that proves who sent it (RFC 7635): USERNAME names the token's key.
    fn is_by_token(&self, five_tuple: FiveTuple, message: &Message<'_>) -> bool {
        let allocation = self.tables.by_five_tuple(&five_tuple);
        let allocation = allocation.or_else(|| self.named(message));
        self.access_tokens(five_tuple.server).is_some()
            && (message.attribute(AttributeType::ACCESS_TOKEN).is_some()
                || allocation.is_some_and(|allocation| allocation.token.is_some()))
    }

    fn refuse(&mut self, now: Now, five_tuple: FiveTuple, message: &Message<'_>, why: Reject) {
        let Some(method) = RequestMethod::of(message.method()) else { return };
        let reply_to = ReplyTo {
            five_tuple,
            method,
            transaction: message.transaction_id(),
            fingerprint: message.fingerprint() == Fingerprint::Valid,
            request_bytes: message.len(),
            signer: None,
        };
        self.respond(now, &reply_to, &Err(why));
    }
}

const fn asks_for_credentials(method: RequestMethod) -> bool {
    match method {
        RequestMethod::Allocate
        | RequestMethod::Refresh
        | RequestMethod::CreatePermission
        | RequestMethod::ChannelBind => true,
        RequestMethod::Binding => false,
    }
}

/// Answers by realm and user name: a bounded number, the one that is over first goes first.
struct Remembered<T> {
    // Two levels, so that a name is found without a copy of it.
    answers: BTreeMap<RealmId, BTreeMap<Box<[u8]>, Answer<T>>>,
    /// When each is forgotten.
    ends: BTreeSet<(u64, RealmId, Box<[u8]>)>,
    max: usize,
}

/// Times in seconds since 1970. Good from the first up to the second, kept up to the third.
struct Answer<T> {
    value: T,
    learnt: u64,
    good_until: u64,
    kept_until: u64,
}

impl<T> Answer<T> {
    const fn new(value: T, learnt: u64, good_until: u64, kept_until: u64) -> Self {
        Self { value, learnt, good_until, kept_until }
    }
}

impl<T> Remembered<T> {
    const fn new(max: usize) -> Self {
        Self { answers: BTreeMap::new(), ends: BTreeSet::new(), max }
    }

    /// What is remembered of the user. Nothing that was learnt in the future: the clock was set.
    fn good(&self, unix_secs: u64, realm: RealmId, user: &[u8]) -> Option<&T> {
        let answer = self.answers.get(&realm)?.get(user)?;
        (answer.learnt..answer.good_until).contains(&unix_secs).then_some(&answer.value)
    }

    /// Remembers what was learnt now.
    fn insert(&mut self, realm: RealmId, user: &[u8], answer: Answer<T>) {
        self.forget(realm, user);
        while let Some((end, ..)) = self.ends.first()
            && (*end <= answer.learnt || self.ends.len() >= self.max)
            && let Some((_, realm, other)) = self.ends.pop_first()
        {
            self.answers.entry(realm).or_default().remove(&other);
        }
        self.ends.insert((answer.kept_until, realm, user.into()));
        self.answers.entry(realm).or_default().insert(user.into(), answer);
    }

    fn forget(&mut self, realm: RealmId, user: &[u8]) {
        let Some(answers) = self.answers.get_mut(&realm) else { return };
        if let Some((user, answer)) = answers.remove_entry(user) {
            self.ends.remove(&(answer.kept_until, realm, user));
        }
    }

    /// Takes what is stale for good a little longer, if it is still kept.
    fn extend(&mut self, unix_secs: u64, realm: RealmId, user: &[u8], secs: u64) -> bool {
        let answers = self.answers.get_mut(&realm);
        let Some(answer) = answers.and_then(|answers| answers.get_mut(user)) else { return false };
        let is_kept = (answer.learnt..answer.kept_until).contains(&unix_secs);
        if is_kept {
            answer.good_until = (unix_secs + secs).min(answer.kept_until);
        }
        is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALM: RealmId = RealmId::DEFAULT;

    fn count<T>(names: &Remembered<T>) -> (usize, usize) {
        (names.answers.values().map(BTreeMap::len).sum(), names.ends.len())
    }

    #[test]
    fn what_is_over_goes_first_and_there_are_never_more_than_that() {
        let mut names = Remembered::new(3);
        let mut learn = |at, name: &[u8], end| {
            names.insert(REALM, name, Answer::new(end, at, end, end));
        };
        for (name, end) in [(b"a", 30), (b"b", 20), (b"c", 40)] {
            learn(10, name, end);
        }
        learn(10, b"d", 50);
        assert_eq!(names.good(10, REALM, b"b"), None, "its end is the next");
        let good = |name: &&str| names.good(10, REALM, name.as_bytes()).is_some();
        assert!(["a", "c", "d"].iter().all(good));
        names.insert(REALM, b"a", Answer::new(60, 10, 60, 60));
        assert_eq!(count(&names), (3, 3), "replaced");
        names.insert(REALM, b"e", Answer::new(70, 55, 70, 70));
        assert_eq!(count(&names), (2, 2), "two were over");
        names.forget(REALM, b"e");
        names.forget(REALM, b"nobody");
        assert_eq!(count(&names), (1, 1));
    }

    #[test]
    fn a_name_is_another_in_every_realm_and_all_realms_have_the_bound_together() {
        let ids: Vec<_> = RealmId::first(3).collect();
        let mut names = Remembered::new(2);
        names.insert(ids[1], b"a", Answer::new(1, 10, 30, 30));
        names.insert(ids[2], b"a", Answer::new(2, 10, 20, 20));
        let good = |names: &Remembered<i32>| {
            ids.iter().map(|id| names.good(10, *id, b"a").copied()).collect::<Vec<_>>()
        };
        assert_eq!(good(&names), [None, Some(1), Some(2)]);
        assert!(!names.extend(10, ids[0], b"a", 5));
        names.forget(ids[0], b"a");
        names.insert(ids[0], b"a", Answer::new(0, 10, 40, 40));
        assert_eq!(good(&names), [Some(0), Some(1), None], "its end was the next");
        names.forget(ids[1], b"a");
        assert_eq!(good(&names), [Some(0), None, None]);
        assert_eq!(count(&names), (1, 1));
    }

    #[test]
    fn an_answer_is_good_from_when_it_was_learnt_to_its_end() {
        let mut names = Remembered::new(3);
        names.insert(REALM, b"a", Answer::new((), 10, 20, 30));
        for (unix_secs, is_good) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(names.good(unix_secs, REALM, b"a").is_some(), is_good, "{unix_secs}");
        }
        assert!(names.extend(20, REALM, b"a", 5) && names.good(24, REALM, b"a").is_some());
        assert!(names.good(25, REALM, b"a").is_none());
        assert!(names.extend(29, REALM, b"a", 5) && names.good(29, REALM, b"a").is_some());
        assert!(names.good(30, REALM, b"a").is_none(), "one past");
        assert!(!names.extend(30, REALM, b"a", 5));
        assert!(!names.extend(9, REALM, b"a", 5), "the clock was set back");
    }
}
