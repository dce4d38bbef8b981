//! Requests (RFC 8489 §6.3.1, §9.2.4, RFC 8656 §5): who asks, and which method answers.
//! Owns the check for unknown attributes; authentication and the methods have files of their own.

use relay_common::addr::{Family, FiveTuple};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::{Fingerprint, Message};

use crate::access_token::Held;
use crate::authenticate::is_same_user;
use crate::reject::Reject;
use crate::reply::{ReplyTo, Success, UNKNOWN_ATTRIBUTES_MAX};
use crate::snapshot::{DropReason, RequestMethod};
use crate::{AllocationId, Now, Turn};

/// A request whose sender is known.
pub(crate) struct Request<'a> {
    pub(crate) now: Now,
    pub(crate) message: &'a Message<'a>,
    pub(crate) reply_to: ReplyTo,
    pub(crate) username: &'a [u8],
    /// The token that it was proved with.
    pub(crate) token: Option<Held>,
}

/// The answer to a request. `None`: later, or none at all.
pub(crate) type Answer = Result<Option<Success>, Reject>;

impl Turn {
    pub(crate) fn request(
        &mut self,
        now: Now,
        five_tuple: FiveTuple,
        message: &Message<'_>,
        fingerprint: Fingerprint,
    ) {
        // RFC 8489 §6.3: a method that is not known is no error of the client's, but no message
        // for us.
        let Some(method) = RequestMethod::of(message.method()) else {
            return self.stats.count_dropped(DropReason::UnknownMethod);
        };
        let mut reply_to = ReplyTo {
            five_tuple,
            method,
            transaction: message.transaction_id(),
            fingerprint: fingerprint == Fingerprint::Valid,
            signer: None,
            request_bytes: message.len(),
        };
        let answer = match method {
            RequestMethod::Binding => self.binding(message, &mut reply_to),
            RequestMethod::Allocate
            | RequestMethod::Refresh
            | RequestMethod::CreatePermission
            | RequestMethod::ChannelBind => {
                self.authenticate(now, five_tuple, message).and_then(|session| {
                    self.stats.count_authenticated(session.proof);
                    reply_to.signer = Some(session.signer);
                    let (username, token) = (&*session.username, session.token);
                    let request = Request { now, message, reply_to, username, token };
                    self.execute(method, &request)
                })
            }
        };
        match answer {
            Ok(Some(success)) => self.respond(now, &reply_to, &Ok(success)),
            Ok(None) => {}
            Err(reject) => self.respond(now, &reply_to, &Err(reject)),
        }
    }

    /// The allocation that a request is about (RFC 8656 §5): 437 if there is none on its 5-tuple,
    /// 441 if another user made it.
    pub(crate) fn owned(&self, request: &Request<'_>) -> Result<AllocationId, Reject> {
        let allocation = self
            .tables
            .by_five_tuple(&request.reply_to.five_tuple)
            .filter(|allocation| allocation.open().is_some())
            .ok_or(Reject::AllocationMismatch)?;
        if !is_same_user(&allocation.username, request.username) {
            return Err(Reject::WrongCredentials);
        }
        Ok(allocation.id)
    }

    fn execute(&mut self, method: RequestMethod, request: &Request<'_>) -> Answer {
        // RFC 8489 §6.3.1: after authentication, before anything of the method.
        self.comprehend(request.message)?;
        match method {
            RequestMethod::Allocate => self.allocate(request),
            RequestMethod::Refresh => self.refresh(request).map(Some),
            RequestMethod::CreatePermission => self.create_permission(request).map(Some),
            RequestMethod::ChannelBind => self.channel_bind(request).map(Some),
            RequestMethod::Binding => Err(Reject::BadRequest),
        }
    }

    /// 420 if there is an attribute that must be understood and is not (RFC 8489 §6.3.1).
    fn comprehend(&self, message: &Message<'_>) -> Result<(), Reject> {
        let unknown = self.not_understood(message);
        if unknown.is_empty() { Ok(()) } else { Err(Reject::UnknownAttributes(unknown)) }
    }

    /// The comprehension-required attributes of a request that are not understood here, each once.
    pub(crate) fn not_understood(&self, message: &Message<'_>) -> Vec<AttributeType> {
        let mut unknown = unknown_attributes(message);
        // RFC 7635 §7: nor is a token, where no token was asked for.
        let token = AttributeType::ACCESS_TOKEN;
        if self.offers.access_tokens.is_none() && message.attribute(token).is_some() {
            unknown.truncate(UNKNOWN_ATTRIBUTES_MAX - 1);
            unknown.push(token);
        }
        unknown
    }
}

/// The comprehension-required attributes that this server does not know, each once.
pub(crate) fn unknown_attributes(message: &Message<'_>) -> Vec<AttributeType> {
    let mut unknown = Vec::new();
    for kind in message.attributes().map(|attribute| attribute.kind) {
        if kind.comprehension_required()
            && !is_known(kind)
            && unknown.len() < UNKNOWN_ATTRIBUTES_MAX
            && !unknown.contains(&kind)
        {
            unknown.push(kind);
        }
    }
    unknown
}

/// What is understood, be it only well enough to be ignored where it does not belong.
const fn is_known(kind: AttributeType) -> bool {
    matches!(
        kind,
        AttributeType::MAPPED_ADDRESS
            | AttributeType::USERNAME
            | AttributeType::MESSAGE_INTEGRITY
            | AttributeType::ERROR_CODE
            | AttributeType::UNKNOWN_ATTRIBUTES
            | AttributeType::CHANNEL_NUMBER
            | AttributeType::LIFETIME
            | AttributeType::XOR_PEER_ADDRESS
            | AttributeType::DATA
            | AttributeType::REALM
            | AttributeType::NONCE
            | AttributeType::XOR_RELAYED_ADDRESS
            | AttributeType::REQUESTED_ADDRESS_FAMILY
            | AttributeType::EVEN_PORT
            | AttributeType::REQUESTED_TRANSPORT
            | AttributeType::DONT_FRAGMENT
            | AttributeType::ACCESS_TOKEN
            | AttributeType::MESSAGE_INTEGRITY_SHA256
            | AttributeType::PASSWORD_ALGORITHM
            | AttributeType::USERHASH
            | AttributeType::XOR_MAPPED_ADDRESS
            | AttributeType::RESERVATION_TOKEN
    )
}

/// An optional attribute with a typed value: 400 if it is there and broken.
pub(crate) fn optional<'a, T>(
    message: &Message<'a>,
    kind: AttributeType,
    value: impl FnOnce(&'a [u8]) -> Option<T>,
) -> Result<Option<T>, Reject> {
    match message.attribute(kind) {
        None => Ok(None),
        Some(bytes) => value(bytes).map(Some).ok_or(Reject::BadRequest),
    }
}

/// What an address family attribute names (RFC 8656 §18.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NamedFamily {
    /// One that exists.
    Known(Family),
    /// A number that means nothing.
    Unknown,
}

/// REQUESTED-ADDRESS-FAMILY or ADDITIONAL-ADDRESS-FAMILY.
pub(crate) fn named_family(
    message: &Message<'_>,
    kind: AttributeType,
) -> Result<Option<NamedFamily>, Reject> {
    optional(message, kind, |value| {
        Some(match attribute::leading_byte(value)? {
            0x01 => NamedFamily::Known(Family::V4),
            0x02 => NamedFamily::Known(Family::V6),
            _ => NamedFamily::Unknown,
        })
    })
}
