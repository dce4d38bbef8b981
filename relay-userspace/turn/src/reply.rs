//! Responses (RFC 8489 §6.3.1, §9.2.4): what is in each, who signs it, and whether it may leave.
//! Owns the bytes in the reply arena.

use std::borrow::Cow;

use rand_chacha::rand_core::RngCore;
use relay_common::addr::{Family, FiveTuple, RelayedAddr};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Class, TransactionId};
use relay_common::wire::writer::MessageWriter;

use crate::allocation::{Refused, Terms};
use crate::discovery::Discovered;
use crate::key::Signer;
use crate::nonce::{Chance, Nonce};
use crate::reject::Reject;
use crate::snapshot::{Code, DropReason, RequestMethod};
use crate::ticket::Ticket;
use crate::{Now, Output, Turn};

/// More than any reply takes: the longest carries a realm of 508 bytes and the name of a server, or
/// SOFTWARE of 509 and the name of a domain; the rest are small.
const REPLY_BYTES_MAX: usize = 1024;
/// UNKNOWN-ATTRIBUTES names this many at most, so that a reply stays one small datagram.
pub(crate) const UNKNOWN_ATTRIBUTES_MAX: usize = 64;

/// A reply to who has not authenticated has at most this many bytes for each of the request's, as
/// UDP's payload: it may go to a victim whose address was forged. A 401 to the shortest Allocate
/// request, 28 bytes, needs some four, depending on the realm.
pub(crate) const REPLY_RATIO_MAX: usize = 6;

/// Where a response goes and what it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyTo {
    pub(crate) five_tuple: FiveTuple,
    pub(crate) method: RequestMethod,
    pub(crate) transaction: TransactionId,
    /// The request had FINGERPRINT, so the response does.
    pub(crate) fingerprint: bool,
    /// What the response is signed with. None: the request was not authenticated.
    pub(crate) signer: Option<Signer>,
    /// Bytes of the request.
    pub(crate) request_bytes: usize,
}

/// What a success response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Success {
    /// Binding: the client's reflexive address.
    Binding,
    /// Binding, where a client can find out about its NAT.
    Discovered(Discovered),
    /// Allocate: the relayed transport addresses, as clients are told, and their terms.
    Allocate {
        advertised: [Option<RelayedAddr>; Family::ALL.len()],
        terms: Terms,
        ticket: Option<Ticket>,
    },
    /// Refresh.
    Refresh { lifetime_secs: u32, ticket: Option<Ticket> },
    /// CreatePermission and ChannelBind: nothing more.
    Done,
}

impl Turn {
    /// Answers a request, unless an unauthenticated source has had its share.
    pub(crate) fn respond(&mut self, now: Now, to: &ReplyTo, answer: &Result<Success, Reject>) {
        let client = to.five_tuple.client;
        let rate = self.limits.unauthenticated_replies_per_sec;
        if to.signer.is_none() && !self.ledger.throttle().admit(now, client.ip(), rate) {
            self.stats.count_dropped(DropReason::RateLimited);
            return;
        }
        let padding = match answer {
            Ok(Success::Discovered(discovered)) => discovered.padding.unwrap_or(0),
            _ => 0,
        };
        let mut arena = std::mem::take(&mut self.arena);
        let start = arena.len();
        arena.resize(start + REPLY_BYTES_MAX + padding, 0);
        // A challenge has a nonce of its own (RFC 8656 §5); nothing else needs chance.
        let nonce = match answer {
            Err(Reject::Unauthenticated | Reject::StaleNonce) => {
                let mut chance = Chance::default();
                self.rng.fill_bytes(&mut chance);
                Some(self.nonces.issue(now.unix_secs, chance, client))
            }
            Ok(_) | Err(_) => None,
        };
        let written = self.write(to, answer, nonce, &mut arena[start..]);
        let is_too_long = to.signer.is_none() && written > REPLY_RATIO_MAX * to.request_bytes;
        arena.truncate(if is_too_long { start } else { start + written });
        self.arena = arena;
        if is_too_long {
            self.stats.count_dropped(DropReason::Amplification);
            return;
        }
        let bytes = start..start + written;
        self.outputs.push_back(Output::Reply { five_tuple: to.five_tuple, bytes });
        let code = answer.as_ref().err().map_or(Code::Success, Reject::code);
        self.stats.count_request(to.method, code);
        if let Some(refusal) = answer.as_ref().err().and_then(Reject::refusal) {
            self.stats.count_refusal(refusal);
            self.outputs.push_back(Output::Refused(refusal));
        }
    }

    /// Writes a response; gives its bytes.
    fn write(
        &self,
        to: &ReplyTo,
        answer: &Result<Success, Reject>,
        nonce: Option<Nonce>,
        buffer: &mut [u8],
    ) -> usize {
        let class = if answer.is_ok() { Class::Success } else { Class::Error };
        let mut writer = MessageWriter::new(buffer, class, to.method.method(), to.transaction);
        match answer {
            Ok(success) => success.write(&mut writer, to.five_tuple),
            Err(reject) => self.write_error(to, reject, nonce, &mut writer),
        }
        if let Some(signer) = to.signer {
            if let Some(software) = &self.offers.software {
                writer.attribute(AttributeType::SOFTWARE, software.as_bytes());
            }
            signer.sign(&mut writer);
        }
        if to.fingerprint {
            writer.fingerprint();
        }
        writer.finish().expect("replies are bounded by REPLY_BYTES_MAX")
    }

    fn write_error(
        &self,
        to: &ReplyTo,
        reject: &Reject,
        nonce: Option<Nonce>,
        writer: &mut MessageWriter<'_>,
    ) {
        // Who has not authenticated is told a number: it may be somebody else who gets the answer.
        let phrase = to.signer.map_or(Cow::Borrowed(""), |_| reject.phrase());
        writer.error_code(reject.code().number(), &phrase);
        match reject {
            // What a client needs to prove who it is (RFC 8489 §9.2.4).
            Reject::Unauthenticated | Reject::StaleNonce => {
                let realm = self.realms.name(self.realms.at(to.five_tuple.server));
                writer.attribute(AttributeType::REALM, realm.as_bytes());
                if let Some(nonce) = nonce {
                    writer.attribute(AttributeType::NONCE, &nonce);
                }
                if let Some(list) = self.algorithms.list() {
                    writer.attribute(AttributeType::PASSWORD_ALGORITHMS, list);
                }
                // RFC 7635 §6.1 has it in 401 only; who is stale knows it.
                let tokens = self.access_tokens(to.five_tuple.server);
                if let Some(tokens) = tokens.filter(|_| *reject == Reject::Unauthenticated) {
                    let name = tokens.server_name();
                    writer.attribute(AttributeType::THIRD_PARTY_AUTHORIZATION, name);
                }
            }
            Reject::TryAlternate => {
                if let Some(redirect) = &self.offers.redirect {
                    redirect.write(writer, &to.five_tuple, to.transaction);
                }
            }
            Reject::UnknownAttributes(kinds) => writer.unknown_attributes(kinds),
            Reject::BadRequest
            | Reject::Forbidden(_)
            | Reject::MobilityForbidden
            | Reject::AllocationMismatch
            | Reject::AddressFamilyNotSupported
            | Reject::WrongCredentials
            | Reject::UnsupportedTransport
            | Reject::PeerAddressFamilyMismatch
            | Reject::Quota(_)
            | Reject::ServerError
            | Reject::InsufficientCapacity => {}
        }
    }
}

impl Success {
    fn write(&self, writer: &mut MessageWriter<'_>, five_tuple: FiveTuple) {
        let reflexive = five_tuple.client.socket();
        match *self {
            Self::Binding => writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, reflexive),
            Self::Discovered(Discovered { mapped, origin, other, padding }) => {
                writer.address(AttributeType::MAPPED_ADDRESS, mapped.socket());
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped.socket());
                writer.address(AttributeType::RESPONSE_ORIGIN, origin);
                writer.address(AttributeType::OTHER_ADDRESS, other);
                if let Some(bytes) = padding {
                    writer.attribute(AttributeType::PADDING, &vec![0; bytes]);
                }
            }
            // RFC 8656 §7.2.
            Self::Allocate { advertised, terms, ticket } => {
                for relayed in advertised.into_iter().flatten() {
                    writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed.socket());
                }
                writer.number(AttributeType::LIFETIME, terms.lifetime_secs);
                if let Some(token) = terms.token {
                    writer.attribute(AttributeType::RESERVATION_TOKEN, &token);
                }
                if let Some(Refused { family, code }) = terms.refused {
                    writer.address_error_code(family, code.number());
                }
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, reflexive);
                write_ticket(writer, ticket);
            }
            Self::Refresh { lifetime_secs, ticket } => {
                writer.number(AttributeType::LIFETIME, lifetime_secs);
                write_ticket(writer, ticket);
            }
            Self::Done => {}
        }
    }
}

fn write_ticket(writer: &mut MessageWriter<'_>, ticket: Option<Ticket>) {
    if let Some(ticket) = ticket {
        writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
    }
}
