//! What may come of an input, what did, and whether that is one of it.

use std::net::SocketAddr;

use relay_turn::{AllocationId, IntegrityKind, KeyKind};

use super::directory::Parked;
use super::discovery::Discovered;
use super::limits::Limited;
use super::refresh::Refreshed;
use super::wire::{self, Stun, Writer, XOR_PEER_ADDRESS};
use super::{Model, Time, Tuple, Wish};

/// A response to somebody who has not authenticated is at most so many times as long as what it
/// answers.
const UNAUTHENTICATED_RATIO: usize = 6;

/// A datagram that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
    /// Userspace sends it with DF set, or not at all.
    pub dont_fragment: bool,
}

impl Sent {
    pub const fn new(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Self {
        Self { src, dst, payload, dont_fragment: false }
    }
}

/// What came of an input, but for what only ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Actual {
    pub sent: Vec<Sent>,
    pub opens: Vec<(AllocationId, SocketAddr)>,
    /// Users who are to be looked up.
    pub look_ups: Vec<Vec<u8>>,
}

/// What may come of an input.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Nothing.
    Silence,
    /// A response.
    Answer(Box<Answer>),
    /// Exactly this datagram; in a Data indication, any transaction ID.
    Relay(Sent),
    /// The same, or nothing.
    PerhapsRelay(Sent),
    /// The same, or nothing: over the allocation's limit.
    LimitedRelay(Sent),
    /// Another relayed transport address is tried in place of this one, or done without.
    Another(AllocationId, SocketAddr),
    /// The request waits for its user to be looked up, if it may.
    Parked { user: Vec<u8>, parked: Parked },
}

/// A response, and what it means.
#[derive(Clone, Debug)]
pub struct Answer {
    pub tuple: Tuple,
    pub method: u16,
    pub transaction: [u8; 12],
    /// The request had FINGERPRINT.
    pub fingerprint: bool,
    /// Bytes of the request.
    pub asked_bytes: usize,
    /// What it is signed with; `None`: not at all.
    pub signed: Option<Signed>,
    /// Any of these; 0 is success.
    pub codes: Vec<u16>,
    /// What 420 has to name, and may name beside others.
    pub unknown: Vec<u16>,
    pub may_be_silent: bool,
    /// Of a success response.
    pub effect: Effect,
}

/// How a response is signed, and what proved the request.
#[derive(Clone, Debug)]
pub struct Signed {
    /// MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
    pub kind: u16,
    pub key: Vec<u8>,
    pub proof: (IntegrityKind, KeyKind),
}

/// What a success response changes, and what it has to say.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Binding.
    Reflexive,
    /// Binding, where there are two addresses.
    Discovered(Discovered),
    /// An Allocate request is answered later.
    Open(Wish),
    /// Now it is.
    Opened(AllocationId),
    /// The same Allocate request again.
    Again(Vec<(u16, Vec<u8>)>),
    /// Refresh.
    Refresh(Refreshed),
    /// CreatePermission.
    Permit(Vec<std::net::IpAddr>),
    /// ChannelBind.
    Bind(u16, SocketAddr),
}

impl Model {
    /// Takes note of what happened, and panics if it may not have.
    pub fn settle(&mut self, now: Time, shard: usize, expected: Expected, actual: &Actual) {
        if actual.sent.iter().any(|sent| sent.dont_fragment) {
            self.note("not to be fragmented");
        }
        let shown = || format!("\nexpected {expected:02x?}\nactual {actual:02x?}");
        match &expected {
            Expected::Silence => assert_eq!(*actual, Actual::default(), "{}", shown()),
            Expected::Relay(datagram) => {
                let is_it = actual.opens.is_empty() && is_datagram(&actual.sent, datagram);
                assert!(is_it, "not relayed as it must be{}", shown());
            }
            Expected::PerhapsRelay(datagram) | Expected::LimitedRelay(datagram) => {
                let is_it = actual.sent.is_empty() || is_datagram(&actual.sent, datagram);
                assert!(is_it && actual.opens.is_empty(), "not as it may be{}", shown());
                if matches!(expected, Expected::LimitedRelay(_)) {
                    self.limited(now, datagram, !actual.sent.is_empty()).unwrap();
                }
            }
            Expected::Parked { user, parked } => {
                let is_it = actual.sent.is_empty() && actual.opens.is_empty();
                assert!(is_it, "it has to wait{}", shown());
                self.parked(now, shard, user, parked, &actual.look_ups).unwrap();
            }
            Expected::Answer(answer) => self.settle_answer(now, shard, answer, actual),
            Expected::Another(id, address) => {
                self.tried_again(now, shard, (*id, *address), actual);
            }
        }
    }

    fn settle_answer(&mut self, now: Time, shard: usize, answer: &Answer, actual: &Actual) {
        let shown = || format!("\nexpected {answer:02x?}\nactual {actual:02x?}");
        // What is answered later was counted before.
        if let Some(Signed { proof, .. }) = &answer.signed
            && !matches!(answer.effect, Effect::Opened(_))
        {
            *self.proofs.entry((shard, proof.0, proof.1)).or_default() += 1;
        }
        match (&actual.sent[..], &actual.opens[..]) {
            ([], []) => assert!(answer.may_be_silent, "no answer{}", shown()),
            ([reply], []) => {
                self.answered(now, shard, answer, reply).unwrap_or_else(|why| {
                    panic!("{why}{}", shown());
                });
            }
            ([], opens) => match &answer.effect {
                Effect::Open(wish) if answer.codes.contains(&0) => {
                    self.opening(shard, answer, wish, opens);
                }
                other => panic!("an address is opened for {other:?}{}", shown()),
            },
            _ => panic!("more than one thing happened{}", shown()),
        }
        assert!(actual.look_ups.is_empty(), "nobody is to be looked up{}", shown());
    }

    pub(super) fn answered(
        &mut self,
        now: Time,
        shard: usize,
        answer: &Answer,
        reply: &Sent,
    ) -> Result<(), String> {
        let stun = Stun::read(&reply.payload).ok_or("the answer is no STUN message")?;
        let (client, server) = match &answer.effect {
            Effect::Discovered(discovered) if stun.class == wire::SUCCESS => discovered.way,
            _ => answer.tuple,
        };
        if (reply.src, reply.dst) != (server, client) {
            return Err("answered to somebody else".to_owned());
        }
        if (stun.method, stun.transaction) != (answer.method, answer.transaction) {
            return Err("the answer is one to another request".to_owned());
        }
        if stun.fingerprint != answer.fingerprint.then_some(true) {
            return Err("FINGERPRINT".to_owned());
        }
        let integrity = [wire::MESSAGE_INTEGRITY, wire::MESSAGE_INTEGRITY_SHA256];
        let is_there = |kind: &u16| stun.attributes.iter().any(|a| a.kind == *kind);
        match &answer.signed {
            Some(Signed { kind, key, .. }) if !stun.is_signed(&reply.payload, *kind, key) => {
                return Err("not signed with the client's key".to_owned());
            }
            Some(_) if integrity.iter().all(is_there) => {
                return Err("signed twice".to_owned());
            }
            None if integrity.iter().any(is_there) => {
                return Err("signed, to whom?".to_owned());
            }
            None if reply.payload.len() > UNAUTHENTICATED_RATIO * answer.asked_bytes => {
                return Err("amplified".to_owned());
            }
            None if self.rules.is_throttled => self.passed(now, Limited::source(client), 0)?,
            _ => {}
        }
        let code = match stun.class {
            wire::SUCCESS => 0,
            wire::ERROR => stun.error_code().ok_or("no ERROR-CODE")?,
            _ => return Err("no response".to_owned()),
        };
        if !answer.codes.contains(&code) {
            return Err(format!("{code} is not one of {:?}", answer.codes));
        }
        match code {
            0 => self.succeeded(now, shard, answer, &stun),
            401 | 438 => self.challenged(now, client, code, &stun),
            420 => unknown_are_named(answer, &stun),
            _ => Ok(()),
        }
    }

    fn succeeded(
        &mut self,
        now: Time,
        shard: usize,
        answer: &Answer,
        stun: &Stun,
    ) -> Result<(), String> {
        let at = self.by_tuple(answer.tuple);
        match &answer.effect {
            Effect::Nothing | Effect::Open(_) => Err("there is nothing to succeed in".to_owned()),
            Effect::Reflexive => {
                let told = stun.address(wire::XOR_MAPPED_ADDRESS);
                if told == Some(answer.tuple.0) { Ok(()) } else { Err("XOR-MAPPED".to_owned()) }
            }
            Effect::Discovered(discovered) => {
                self.note("discovered");
                self.discovered(answer.tuple, discovered, stun)
            }
            Effect::Again(attributes) if *attributes != kept(stun) => {
                Err("another answer than the first time".to_owned())
            }
            Effect::Again(_) => Ok(()),
            Effect::Opened(id) => self.begun(now, shard, *id, stun),
            Effect::Refresh(it) => self.refreshed(now, at.ok_or("no allocation")?, it, stun),
            Effect::Permit(ips) => {
                self.permitted(now, at.ok_or("no allocation")?, ips);
                Ok(())
            }
            Effect::Bind(number, peer) => {
                self.bound(now, at.ok_or("no allocation")?, *number, *peer);
                Ok(())
            }
        }
    }
}

/// RFC 8489 §6.3.1, §14.10: what is not understood is named.
fn unknown_are_named(answer: &Answer, stun: &Stun) -> Result<(), String> {
    let named = stun.value(wire::UNKNOWN_ATTRIBUTES).ok_or("no UNKNOWN-ATTRIBUTES")?;
    let named: Vec<u16> =
        named.chunks_exact(2).map(|kind| u16::from_be_bytes([kind[0], kind[1]])).collect();
    match !named.is_empty() && answer.unknown.iter().all(|kind| named.contains(kind)) {
        true => Ok(()),
        false => Err(format!("UNKNOWN-ATTRIBUTES: {named:04x?} for {:04x?}", answer.unknown)),
    }
}

/// What an answer says, but for who signed it.
pub(super) fn kept(stun: &Stun) -> Vec<(u16, Vec<u8>)> {
    let sealed = [wire::MESSAGE_INTEGRITY, wire::MESSAGE_INTEGRITY_SHA256, wire::FINGERPRINT];
    let all = stun.attributes.iter().filter(|a| !sealed.contains(&a.kind));
    all.map(|a| (a.kind, a.value.clone())).collect()
}

/// Whether the one datagram is this. The transaction ID of an indication is the sender's choice.
fn is_datagram(sent: &[Sent], expected: &Sent) -> bool {
    let [actual] = sent else { return false };
    let mut expected = expected.clone();
    let indication = Stun::read(&expected.payload).filter(|stun| stun.class == wire::INDICATION);
    if let Some(stun) = indication {
        let Some(chance) = actual.payload.get(8..20) else { return false };
        let mut writer = Writer::new(stun.class, stun.method, chance.try_into().unwrap());
        for attribute in &stun.attributes {
            match stun.address(attribute.kind).filter(|_| attribute.kind == XOR_PEER_ADDRESS) {
                Some(peer) => writer.address(attribute.kind, peer),
                None => writer.attribute(attribute.kind, &attribute.value),
            }
        }
        expected.payload = writer.0;
    }
    *actual == expected
}
