//! A TURN client (RFC 8656), one allocation each: what it says, when, and what the
//! answers mean. Owns no socket and reads no clock: the worker carries its bytes.

use std::sync::Arc;

use relay_common::addr::{PeerAddr, RelayedAddr};
use relay_common::wire::Demux;
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::channel_data::{ChannelData, ChannelRange};
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::BufferFull;

use crate::clock::SECOND_NS;
use crate::turn::credentials::{Auth, Credentials};
use crate::turn::failure::TurnFailure;
use crate::turn::framing::{Framing, channel};
use crate::turn::request::{self, Due, Patience, Request};
use crate::turn::transport::Transport;
use crate::turn::transport::failure::LinkFailure;

/// 438 answers in a row before the server is taken at its word.
const STALE_NONCES_MAX: u32 = 3;
/// Permissions last 300 s (RFC 8656 §9), channel bindings 600 s and renew the permission (§12).
const OPEN_REFRESH_NS: u64 = 240 * SECOND_NS;
/// Room for USERNAME, REALM and NONCE at their largest (RFC 8489 §14) and the rest.
const REQUEST_BYTES_MAX: usize = 2560;
/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct ClientSetup {
    /// The credentials of every allocation.
    pub(crate) credentials: Credentials,
    /// Where application data goes.
    pub(crate) peer: PeerAddr,
    /// How it goes there.
    pub(crate) framing: Framing,
    /// What carries requests: over a stream each is sent once (RFC 8489 §6.2.2).
    pub(crate) transport: Transport,
    /// The first retransmission timeout, nanoseconds.
    pub(crate) rto_ns: u64,
}

/// Who says what a client asks for next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// The client: after Allocate it opens the way to the peer.
    Straight,
    /// The caller, request by request; see [`TurnClient::step`].
    Stepwise,
}

/// One request of a stepwise client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Allocate without credentials, for the realm and nonce in the 401 answer.
    Challenge,
    /// Allocate; one more round trip when the client was not challenged before.
    Allocate,
    /// CreatePermission for the peer.
    Permit,
    /// ChannelBind to the peer.
    Bind,
    /// Refresh for the lifetime that the server likes.
    Refresh,
    /// Refresh with lifetime zero.
    Delete,
}

/// Where in its life a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Nothing was sent yet.
    Idle,
    /// An Allocate without credentials is under way, for its refusal.
    Challenging,
    /// Allocate is under way.
    Allocating,
    /// A stepwise client has its allocation; nothing but that is kept alive.
    Resting,
    /// CreatePermission or ChannelBind is under way.
    Opening,
    /// Application data can flow.
    Ready,
    /// The Refresh with lifetime zero is under way.
    Releasing,
    /// The allocation is gone.
    Released,
    /// See [`TurnClient::failure`].
    Failed,
}

/// What a received datagram was.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Inbound<'a> {
    /// Application data from the peer.
    Data(&'a [u8]),
    /// An answer to the request under way.
    Answer,
    /// Nothing this client waits for.
    Foreign,
}

/// One client with at most one allocation and one request under way.
#[derive(Debug)]
pub(crate) struct TurnClient {
    setup: Arc<ClientSetup>,
    pace: Pace,
    stage: Stage,
    auth: Option<Auth>,
    request: Option<Request>,
    bytes: Box<[u8]>,
    relayed: Option<RelayedAddr>,
    refresh_at: u64,
    open_at: u64,
    stale_nonces: u32,
    failure: Option<TurnFailure>,
    /// Requests made anew because the answer was a challenge (401 or 438).
    pub(crate) challenges: u64,
    /// Requests sent again because no answer came.
    pub(crate) retransmissions: u64,
    /// Answers dropped because their MESSAGE-INTEGRITY is missing or wrong.
    pub(crate) unauthentic: u64,
}

impl TurnClient {
    /// A client that has said nothing yet.
    pub(crate) fn new(setup: Arc<ClientSetup>) -> Self {
        Self {
            setup,
            pace: Pace::Straight,
            stage: Stage::Idle,
            auth: None,
            request: None,
            bytes: vec![0; REQUEST_BYTES_MAX].into_boxed_slice(),
            relayed: None,
            refresh_at: 0,
            open_at: 0,
            stale_nonces: 0,
            failure: None,
            challenges: 0,
            retransmissions: 0,
            unauthentic: 0,
        }
    }

    /// A client that asks for what [`TurnClient::step`] says, one step at a time.
    pub(crate) fn stepwise(setup: Arc<ClientSetup>) -> Self {
        Self { pace: Pace::Stepwise, ..Self::new(setup) }
    }

    /// Begins the next step of a stepwise client. It is over when the client is no longer
    /// [busy](TurnClient::busy), and went well when there is no [failure](TurnClient::failure).
    pub(crate) fn step(&mut self, now: u64, step: Step) {
        match step {
            Step::Challenge => {
                self.stage = Stage::Challenging;
                self.begin(now, Method::ALLOCATE);
            }
            Step::Allocate => self.allocate(now),
            Step::Permit => self.begin_at_rest(now, Method::CREATE_PERMISSION),
            Step::Bind => self.begin_at_rest(now, Method::CHANNEL_BIND),
            Step::Refresh => self.begin_at_rest(now, Method::REFRESH),
            Step::Delete => self.release(now),
        }
    }

    fn begin_at_rest(&mut self, now: u64, method: Method) {
        self.stage = Stage::Resting;
        self.begin(now, method);
    }

    /// Whether a request is under way.
    pub(crate) fn busy(&self) -> bool {
        self.request.is_some()
    }

    /// Where it is.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the server gave it an allocation.
    pub(crate) fn allocated(&self) -> bool {
        self.relayed.is_some()
    }

    /// The allocation's relayed transport address.
    pub(crate) fn relayed(&self) -> Option<RelayedAddr> {
        self.relayed
    }

    /// Why it is [`Stage::Failed`].
    pub(crate) fn failure(&self) -> Option<&TurnFailure> {
        self.failure.as_ref()
    }

    /// Begins with Allocate.
    pub(crate) fn allocate(&mut self, now: u64) {
        self.stage = Stage::Allocating;
        self.begin(now, Method::ALLOCATE);
    }

    /// Gives the allocation back; a client without one is done at once.
    pub(crate) fn release(&mut self, now: u64) {
        // What went wrong before is not why this does.
        self.failure = None;
        if self.relayed.is_none() {
            self.request = None;
            self.stage = Stage::Released;
            return;
        }
        self.stage = Stage::Releasing;
        self.begin(now, Method::REFRESH);
    }

    /// When [`TurnClient::transmit`] has something to do next.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match (&self.request, self.stage) {
            (Some(request), _) => Some(request.deadline()),
            (None, Stage::Ready) => Some(self.refresh_at.min(self.open_at)),
            (None, Stage::Resting) => Some(self.refresh_at),
            (None, _) => None,
        }
    }

    /// The request to send now, if one is due: new, again, or a refresh. Gives up after the
    /// transmissions of RFC 8489 §6.2.1.
    pub(crate) fn transmit(&mut self, now: u64) -> Option<&[u8]> {
        if self.request.is_none() && matches!(self.stage, Stage::Ready | Stage::Resting) {
            if now >= self.refresh_at {
                self.begin(now, Method::REFRESH);
            } else if self.stage == Stage::Ready && now >= self.open_at {
                self.begin(now, self.open_method());
            }
        }
        let request = self.request.as_mut()?;
        let (method, length) = (request.method, request.length);
        match request.due(now, self.setup.rto_ns) {
            Due::Nothing => return None,
            Due::First => {}
            Due::Again => self.retransmissions += 1,
            Due::GiveUp { transmissions, waited_ms } => {
                let (transport, unauthentic) = (self.setup.transport, self.unauthentic);
                self.fail(TurnFailure::NoAnswer {
                    method,
                    transmissions,
                    waited_ms,
                    transport,
                    unauthentic,
                });
                return None;
            }
        }
        Some(&self.bytes[..length])
    }

    /// The host of the server answered a datagram with an ICMP error. During set-up that ends
    /// the transaction (RFC 8489 §6.2.1).
    pub(crate) fn unreachable(&mut self) {
        if self.stage != Stage::Ready {
            self.fail(TurnFailure::PortUnreachable);
        }
    }

    /// The connection to the server is gone, and with it what was allocated over it. A client
    /// that is done does not care.
    pub(crate) fn disconnected(&mut self, failure: LinkFailure) {
        if !matches!(self.stage, Stage::Released | Stage::Failed) {
            self.fail(TurnFailure::Link(failure));
        }
    }

    /// Judges a message from the server.
    pub(crate) fn receive<'a>(&mut self, now: u64, datagram: &'a [u8]) -> Inbound<'a> {
        match Demux::of(datagram) {
            Demux::ChannelData => match ChannelData::parse(datagram, ChannelRange::Rfc8656) {
                Some(data) if data.number == channel() => Inbound::Data(&datagram[data.payload]),
                _ => Inbound::Foreign,
            },
            Demux::Stun => match Message::parse(datagram) {
                Ok(message) => self.message(now, message),
                Err(_) => Inbound::Foreign,
            },
            Demux::Other => Inbound::Foreign,
        }
    }

    fn message<'a>(&mut self, now: u64, message: Message<'a>) -> Inbound<'a> {
        let (method, class) = (message.method(), message.class());
        if class == Class::Indication && method == Method::DATA {
            let from = message
                .attribute(AttributeType::XOR_PEER_ADDRESS)
                .and_then(|value| attribute::xor_address(value, message.transaction_id()));
            let data = message.attribute(AttributeType::DATA);
            return match data {
                Some(data) if from == Some(self.setup.peer.socket()) => Inbound::Data(data),
                _ => Inbound::Foreign,
            };
        }
        let answers = self.request.as_ref().is_some_and(|it| it.is_answered_by(&message));
        match class {
            Class::Success if answers => self.accept(now, method, message),
            Class::Error if answers => self.refused(now, method, message),
            Class::Success | Class::Error | Class::Request | Class::Indication => Inbound::Foreign,
        }
    }

    fn accept(&mut self, now: u64, method: Method, message: Message<'_>) -> Inbound<'static> {
        // RFC 8489 §9.2.5: an answer without the right integrity is as good as none.
        let authentic = self.auth.as_ref().is_none_or(|auth| {
            message.integrity().is_some_and(|integrity| auth.key.verifies(&integrity))
        });
        if !authentic {
            self.unauthentic += 1;
            return Inbound::Foreign;
        }
        self.request = None;
        self.stale_nonces = 0;
        let lifetime = message.attribute(AttributeType::LIFETIME).and_then(attribute::number);
        // Half of it leaves room for a whole series of retransmissions. A lifetime of zero would
        // make a request of every moment.
        let refresh_at = |secs: u32| now + u64::from(secs.max(1)) * SECOND_NS / 2;
        match (method, self.stage) {
            (Method::ALLOCATE, _) => {
                let relayed = message
                    .attribute(AttributeType::XOR_RELAYED_ADDRESS)
                    .and_then(|value| attribute::xor_address(value, message.transaction_id()));
                let (Some(relayed), Some(lifetime)) = (relayed, lifetime) else {
                    self.fail(TurnFailure::Incomplete { method });
                    return Inbound::Answer;
                };
                self.relayed = Some(RelayedAddr::new(relayed));
                self.refresh_at = refresh_at(lifetime);
                match self.pace {
                    Pace::Stepwise => self.stage = Stage::Resting,
                    Pace::Straight => {
                        self.stage = Stage::Opening;
                        self.begin(now, self.open_method());
                    }
                }
            }
            (Method::REFRESH, Stage::Releasing) => self.stage = Stage::Released,
            (Method::REFRESH, _) => match lifetime {
                Some(lifetime) => self.refresh_at = refresh_at(lifetime),
                None => self.fail(TurnFailure::Incomplete { method }),
            },
            // Only the last step is kept alive: before it, the caller is about to take the next.
            (Method::CREATE_PERMISSION, _) if self.pace == Pace::Stepwise => {}
            _ => {
                self.open_at = now + OPEN_REFRESH_NS;
                self.stage = Stage::Ready;
            }
        }
        Inbound::Answer
    }

    fn refused(&mut self, now: u64, method: Method, message: Message<'_>) -> Inbound<'static> {
        let error = message.attribute(AttributeType::ERROR_CODE).and_then(attribute::error_code);
        let Some((code, reason)) = error else {
            self.fail(TurnFailure::Incomplete { method });
            return Inbound::Answer;
        };
        match code {
            // What is to be deleted is gone already (RFC 8656 §7.2).
            437 if self.stage == Stage::Releasing => {
                self.request = None;
                self.stage = Stage::Released;
            }
            401 if self.auth.is_some() => self.fail(TurnFailure::WrongCredentials { method }),
            401 | 438 if self.stale_nonces < STALE_NONCES_MAX => {
                self.stale_nonces += u32::from(code == 438);
                match self.setup.credentials.challenged(message) {
                    Some(auth) if self.stage == Stage::Challenging => {
                        self.auth = Some(auth);
                        self.request = None;
                        self.stage = Stage::Idle;
                    }
                    Some(auth) => {
                        self.auth = Some(auth);
                        self.challenges += 1;
                        self.begin(now, method);
                    }
                    None => self.fail(TurnFailure::Incomplete { method }),
                }
            }
            _ => self.fail(TurnFailure::Refused {
                method,
                code,
                // They go to a terminal.
                reason: reason.chars().filter(|letter| !letter.is_control()).collect(),
                peer: self.setup.peer,
            }),
        }
        Inbound::Answer
    }

    fn open_method(&self) -> Method {
        match self.setup.framing {
            Framing::Channel => Method::CHANNEL_BIND,
            Framing::Indication => Method::CREATE_PERMISSION,
        }
    }

    fn begin(&mut self, now: u64, method: Method) {
        let mut id = [0; 12];
        getrandom::fill(&mut id).expect("the operating system gives random numbers");
        let transaction = TransactionId(id);
        let patience = match self.stage {
            Stage::Releasing => Patience::Release,
            _ => Patience::Full,
        };
        let (what, auth) = ((method, transaction), self.auth.as_ref());
        match request::write(&mut self.bytes, what, &self.setup, auth, patience) {
            Ok(length) => {
                let transport = self.setup.transport;
                self.request = Some(Request::new(now, what, length, transport, patience));
            }
            Err(BufferFull) => self.fail(TurnFailure::RequestTooLong { method }),
        }
    }

    fn fail(&mut self, failure: TurnFailure) {
        self.request = None;
        self.stage = Stage::Failed;
        self.failure = Some(failure);
    }
}

#[cfg(test)]
mod tests;
