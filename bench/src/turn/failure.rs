//! Why a client failed, in words that say what to do.

use std::fmt;

use relay_common::addr::{Family, PeerAddr};
use relay_common::wire::stun::Method;

use crate::turn::transport::Transport;
use crate::turn::transport::failure::LinkFailure;

/// The end of one client's conversation.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum TurnFailure {
    /// Every transmission of a request stayed without an answer.
    NoAnswer {
        /// The request.
        method: Method,
        /// How often it was sent.
        transmissions: u32,
        /// From the first transmission to giving up, milliseconds.
        waited_ms: u64,
        /// What carried it.
        transport: Transport,
        /// Answers that came but were not signed with the password's key.
        unauthentic: u64,
    },
    /// The connection to the server did not come to be, or is gone.
    Link(LinkFailure),
    /// ICMP: port, host or network unreachable, or a firewall rejects.
    PortUnreachable,
    /// 401 to a request that carried credentials.
    WrongCredentials {
        /// The request.
        method: Method,
    },
    /// Any other error response.
    Refused {
        /// The request.
        method: Method,
        /// ERROR-CODE.
        code: u16,
        /// The server's words.
        reason: String,
        /// The peer in question.
        peer: PeerAddr,
    },
    /// A response without an attribute that it must have.
    Incomplete {
        /// The request.
        method: Method,
    },
    /// User name, realm and nonce do not fit a request.
    RequestTooLong {
        /// The request.
        method: Method,
    },
}

impl fmt::Display for TurnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(failure) => failure.fmt(f),
            Self::NoAnswer { method, waited_ms, transport, unauthentic: 0, .. }
                if transport.is_stream() =>
            {
                write!(
                    f,
                    "no answer to {} in {waited_ms} ms, and the {transport} connection is open: \
                     does a TURN server listen there, and is it alive?",
                    name(*method)
                )
            }
            Self::NoAnswer { method, transmissions, waited_ms, unauthentic: 0, .. } => write!(
                f,
                "no answer to {} after {transmissions} transmissions in {waited_ms} ms: is this \
                 the right address and port, and does a firewall let UDP through?",
                name(*method)
            ),
            Self::NoAnswer { method, unauthentic, .. } => write!(
                f,
                "{unauthentic} answers to {} were dropped: their MESSAGE-INTEGRITY is not made \
                 with this password",
                name(*method)
            ),
            Self::PortUnreachable => f.write_str(
                "nothing listens there, or the way is closed (ICMP: port, host or network \
                 unreachable, or a firewall rejects): is the server running, and on this address \
                 and port?",
            ),
            Self::WrongCredentials { method } => write!(
                f,
                "401 to {} with credentials: wrong user name, password or secret, or expired",
                name(*method)
            ),
            Self::Refused { method, code, reason, peer } => {
                write!(f, "{} refused: {code} {reason}", name(*method))?;
                hint(f, *method, *code, *peer)
            }
            Self::Incomplete { method } => {
                write!(f, "the response to {} lacks an attribute it must have", name(*method))
            }
            Self::RequestTooLong { method } => {
                write!(f, "user name, realm and nonce do not fit a {} request", name(*method))
            }
        }
    }
}

impl std::error::Error for TurnFailure {}

impl TurnFailure {
    /// The error code, or a word where there is none, to count failures by.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Refused { code, .. } => code.to_string(),
            Self::WrongCredentials { .. } => "401".to_owned(),
            Self::NoAnswer { .. } => "unanswered".to_owned(),
            Self::Link(_) => "disconnected".to_owned(),
            Self::PortUnreachable => "unreachable".to_owned(),
            Self::Incomplete { .. } => "incomplete".to_owned(),
            Self::RequestTooLong { .. } => "too long".to_owned(),
        }
    }
}

/// What an operator can do about an error code.
fn hint(f: &mut fmt::Formatter<'_>, method: Method, code: u16, peer: PeerAddr) -> fmt::Result {
    match code {
        403 => {
            let bits = if peer.family() == Family::V4 { 32 } else { 128 };
            let (turnpike, coturn) = match peer.ip() {
                ip if ip.is_loopback() => {
                    ("allow_loopback = true".to_owned(), "--allow-loopback-peers")
                }
                ip => (format!("allow = [\"{ip}/{bits}\"]"), "--allowed-peer-ip"),
            };
            write!(
                f,
                ". The server denies the peer {peer}: allow it there (turnpike: [peers] \
                 {turnpike}; coturn: {coturn}), or put the peer elsewhere (--peer-bind, or \
                 relay-bench echo with --peer)"
            )
        }
        437 if method == Method::ALLOCATE => f.write_str(
            ". The server still holds an allocation of this address and port: an earlier run \
             left it, or the server keeps deleted ones for a while",
        ),
        437 => {
            f.write_str(". The server does not know the allocation: it was restarted, or lost it")
        }
        440 | 443 => write!(
            f,
            ". The server relays no {}: give the peer an address of the other family (--peer-bind)",
            peer.family().name()
        ),
        486 => f.write_str(". The user's quota is used up: fewer --allocations, or a larger quota"),
        508 => f.write_str(". The server has no relayed port left: widen its port range"),
        _ => Ok(()),
    }
}

/// The name of a method in RFC 8656.
pub(crate) fn name(method: Method) -> &'static str {
    match method {
        Method::ALLOCATE => "Allocate",
        Method::REFRESH => "Refresh",
        Method::CREATE_PERMISSION => "CreatePermission",
        Method::CHANNEL_BIND => "ChannelBind",
        _ => "a request",
    }
}
