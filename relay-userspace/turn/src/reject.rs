//! Why a request is refused, and the error code that says so (RFC 8489 §14.8, RFC 8656 §19).
//! Owns the mapping; who refuses is elsewhere.

use std::borrow::Cow;

use relay_common::wire::attribute::AttributeType;

use crate::Refusal;
use crate::quota::Quota;
use crate::snapshot::Code;
use crate::special::Denial;

/// The client is told, with an error response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reject {
    /// 300: another server is to be asked.
    TryAlternate,
    /// 400: the request makes no sense, or breaks a rule of its method.
    BadRequest,
    /// 401: no credentials, unknown or expired ones, or a wrong MESSAGE-INTEGRITY.
    Unauthenticated,
    /// 403: the policy denies the peer.
    Forbidden(Denial),
    /// 405: no allocation moves here.
    MobilityForbidden,
    /// 420: comprehension-required attributes that this server does not know.
    UnknownAttributes(Vec<AttributeType>),
    /// 437: no allocation on the 5-tuple, or one where none may be.
    AllocationMismatch,
    /// 438: the nonce is not, or no longer, good.
    StaleNonce,
    /// 440: no relayed address of the family.
    AddressFamilyNotSupported,
    /// 441: another user made the allocation.
    WrongCredentials,
    /// 442: REQUESTED-TRANSPORT is not UDP.
    UnsupportedTransport,
    /// 443: the family is not the relayed transport address's.
    PeerAddressFamilyMismatch,
    /// 486 or 508: a quota is used up.
    Quota(Quota),
    /// 500: who the user is cannot be found out now; the client may try again.
    ServerError,
    /// 508: no port, or a table is full.
    InsufficientCapacity,
}

impl Reject {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::TryAlternate => Code::TryAlternate,
            Self::BadRequest => Code::BadRequest,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden(_) => Code::Forbidden,
            Self::MobilityForbidden => Code::MobilityForbidden,
            Self::UnknownAttributes(_) => Code::UnknownAttribute,
            Self::AllocationMismatch => Code::AllocationMismatch,
            Self::StaleNonce => Code::StaleNonce,
            Self::AddressFamilyNotSupported => Code::AddressFamilyNotSupported,
            Self::WrongCredentials => Code::WrongCredentials,
            Self::UnsupportedTransport => Code::UnsupportedTransport,
            Self::PeerAddressFamilyMismatch => Code::PeerAddressFamilyMismatch,
            Self::Quota(quota) => quota.code(),
            Self::ServerError => Code::ServerError,
            Self::InsufficientCapacity => Code::InsufficientCapacity,
        }
    }

    /// The reason phrase (RFC 8489 §14.8): the rule or quota that refuses, else what the RFC calls
    /// the number. Only for those who are authenticated.
    pub(crate) fn phrase(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Forbidden(_) | Self::Quota(_) => {
                return self.refusal().map_or(Cow::Borrowed(""), |it| it.to_string().into());
            }
            Self::TryAlternate => "Try Alternate",
            Self::BadRequest => "Bad Request",
            Self::Unauthenticated => "Unauthenticated",
            Self::UnknownAttributes(_) => "Unknown Attribute",
            Self::AllocationMismatch => "Allocation Mismatch",
            Self::StaleNonce => "Stale Nonce",
            Self::MobilityForbidden => "Mobility Forbidden",
            Self::AddressFamilyNotSupported => "Address Family not Supported",
            Self::WrongCredentials => "Wrong Credentials",
            Self::UnsupportedTransport => "Unsupported Transport Protocol",
            Self::PeerAddressFamilyMismatch => "Peer Address Family Mismatch",
            Self::ServerError => "Server Error",
            Self::InsufficientCapacity => "Insufficient Capacity",
        })
    }

    /// The rule or quota that refuses: what only those learn who are authenticated, as the reason
    /// phrase and in the log.
    pub(crate) const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Forbidden(denial) => Some(Refusal::Denied(*denial)),
            Self::Quota(quota) => Some(Refusal::Quota(*quota)),
            Self::BadRequest
            | Self::Unauthenticated
            | Self::MobilityForbidden
            | Self::UnknownAttributes(_)
            | Self::AllocationMismatch
            | Self::StaleNonce
            | Self::AddressFamilyNotSupported
            | Self::WrongCredentials
            | Self::UnsupportedTransport
            | Self::PeerAddressFamilyMismatch
            | Self::TryAlternate
            | Self::ServerError
            | Self::InsufficientCapacity => None,
        }
    }
}

impl From<Denial> for Reject {
    fn from(denial: Denial) -> Self {
        Self::Forbidden(denial)
    }
}

impl From<Quota> for Reject {
    fn from(quota: Quota) -> Self {
        Self::Quota(quota)
    }
}
