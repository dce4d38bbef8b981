//! What may come of an input, what did, and whether that is one of it.

use std::net::SocketAddr;

use relay_turn::AllocationId;

use super::limits::Limited;
use super::wire::{self, Stun, Writer, XOR_PEER_ADDRESS};
use super::{Allocation, Model, Time, Tuple, Wish};
use crate::rules::LISTEN_PORT;

/// A response to somebody who has not authenticated is at most so many times as long as what it
/// answers.
const UNAUTHENTICATED_RATIO: usize = 6;

/// A datagram that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
}

/// What came of an input, but for what only ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Actual {
    pub sent: Vec<Sent>,
    pub opens: Vec<(AllocationId, SocketAddr)>,
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
    /// Another relayed transport address is tried, or the request is refused for want of one.
    Another(Box<Allocation>),
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
    pub key: Option<[u8; 16]>,
    /// Any of these; 0 is success.
    pub codes: Vec<u16>,
    pub may_be_silent: bool,
    /// Of a success response.
    pub effect: Effect,
}

/// What a success response changes, and what it has to say.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Binding.
    Reflexive,
    /// An Allocate request is answered later.
    Open(Wish),
    /// Now it is.
    Opened(AllocationId, Wish),
    /// The same Allocate request again.
    Again(Vec<(u16, Vec<u8>)>),
    /// Refresh: seconds from now; 0: the end.
    Refresh(u32),
    /// CreatePermission.
    Permit(Vec<std::net::IpAddr>),
    /// ChannelBind.
    Bind(u16, SocketAddr),
}

impl Model {
    /// Takes note of what happened, and panics if it may not have.
    pub fn settle(&mut self, now: Time, shard: usize, expected: Expected, actual: &Actual) {
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
                if matches!(expected, Expected::LimitedRelay(_)) && !actual.sent.is_empty() {
                    let who = match datagram.src.port() == LISTEN_PORT {
                        true => Limited::ToClient(datagram.dst),
                        false => Limited::ToPeers(datagram.src),
                    };
                    self.passed(now, who).unwrap();
                }
            }
            Expected::Answer(answer) => match (&actual.sent[..], &actual.opens[..]) {
                ([], []) => assert!(answer.may_be_silent, "no answer{}", shown()),
                ([reply], []) => {
                    self.answered(now, shard, answer, reply).unwrap_or_else(|why| {
                        panic!("{why}{}", shown());
                    });
                }
                ([], [(id, relayed)]) => match &answer.effect {
                    Effect::Open(wish) if answer.codes.contains(&0) => {
                        self.opening(shard, answer, wish, *id, *relayed);
                    }
                    other => panic!("an address is opened for {other:?}{}", shown()),
                },
                _ => panic!("more than one thing happened{}", shown()),
            },
            Expected::Another(allocation) => self.tried_again(now, shard, allocation, actual),
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Time,
        shard: usize,
        answer: &Answer,
        reply: &Sent,
    ) -> Result<(), String> {
        let (client, server) = answer.tuple;
        if (reply.src, reply.dst) != (server, client) {
            return Err("answered to somebody else".to_owned());
        }
        let stun = Stun::read(&reply.payload).ok_or("the answer is no STUN message")?;
        if (stun.method, stun.transaction) != (answer.method, answer.transaction) {
            return Err("the answer is one to another request".to_owned());
        }
        if stun.fingerprint != answer.fingerprint.then_some(true) {
            return Err("FINGERPRINT".to_owned());
        }
        match answer.key {
            Some(key) if !stun.is_signed(&reply.payload, &key) => {
                return Err("not signed with the client's key".to_owned());
            }
            None if stun.value(wire::MESSAGE_INTEGRITY).is_some() => {
                return Err("signed, to whom?".to_owned());
            }
            None if reply.payload.len() > UNAUTHENTICATED_RATIO * answer.asked_bytes => {
                return Err("amplified".to_owned());
            }
            None if self.rules.is_throttled => self.passed(now, Limited::source(client))?,
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
            401 | 438 => self.challenged(now, client, &stun),
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
            Effect::Again(attributes) if *attributes != kept(stun) => {
                Err("another answer than the first time".to_owned())
            }
            Effect::Again(_) => Ok(()),
            Effect::Opened(id, wish) => self.begun(now, shard, *id, wish, stun),
            Effect::Refresh(secs) => self.refreshed(now, at.ok_or("no allocation")?, *secs, stun),
            Effect::Permit(ips) => {
                let allocation = &mut self.allocations[at.ok_or("no allocation")?];
                ips.iter().for_each(|ip| allocation.permit(*ip, now.ns + super::PERMISSION_NS));
                Ok(())
            }
            Effect::Bind(number, peer) => {
                self.bound(now, at.ok_or("no allocation")?, *number, *peer);
                Ok(())
            }
        }
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
