//! What an `alloc` run is to do, what each of its phases found, and how the run ended.
//! Does nothing itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::clock::SECOND_NS;
use crate::turn::client::{ClientSetup, Step};
use crate::turn::failure::{self, TurnFailure};

/// The longest latency that is told from longer ones: an hour, nanoseconds.
const LATENCY_NS_MAX: u64 = 3600 * SECOND_NS;

/// When a client begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pacing {
    /// When one of so many is done.
    Closed {
        /// Clients with a request under way.
        concurrency: u32,
    },
    /// At its time, so many a second.
    Open {
        /// Clients a second.
        rate: u32,
    },
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The TURN server transport address.
    pub(crate) server: SocketAddr,
    /// Local addresses, in turns; none: the kernel's choice.
    pub(crate) sources: Vec<IpAddr>,
    /// Credentials, peer, retransmission.
    pub(crate) client: Arc<ClientSetup>,
    /// Allocations.
    pub(crate) allocations: u32,
    /// When each begins.
    pub(crate) pacing: Pacing,
    /// The steps before the deletion, in order.
    pub(crate) steps: Vec<Step>,
    /// With requests under way and no answer for so long, the server counts as gone; nanoseconds.
    pub(crate) stall_ns: u64,
    /// How long the allocations idle behind the last step but Refresh, nanoseconds.
    pub(crate) hold_ns: u64,
}

/// What one phase found.
#[derive(Debug)]
pub(crate) struct Phase {
    /// The request.
    pub(crate) step: Step,
    /// Clients that there are for it.
    pub(crate) clients: u64,
    /// Clients that began.
    pub(crate) requests: u64,
    /// Clients whose step went well.
    pub(crate) succeeded: u64,
    /// Those it did not go well for, by error code or a word.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Round trips more, for a 401 or 438 on the way.
    pub(crate) challenges: u64,
    /// Requests sent again because no answer came.
    pub(crate) retransmissions: u64,
    /// From the beginning to the last end of a client, nanoseconds.
    pub(crate) ns: u64,
    /// From when each client was due (open loop) or began (closed loop) to its success.
    pub(crate) latency_ns: Histogram<u64>,
    /// Processor time of the server's process, nanoseconds.
    pub(crate) cpu_ns: Option<u64>,
    /// Processor time of this tool, nanoseconds.
    pub(crate) tool_cpu_ns: Option<u64>,
}

impl Phase {
    /// Nothing found yet.
    pub(crate) fn new(step: Step) -> Self {
        Self {
            step,
            clients: 0,
            requests: 0,
            succeeded: 0,
            failures: BTreeMap::new(),
            challenges: 0,
            retransmissions: 0,
            ns: 0,
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("the bounds are constants"),
            cpu_ns: None,
            tool_cpu_ns: None,
        }
    }

    /// Clients whose step failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// The name of a phase in reports.
pub(crate) fn name(step: Step) -> &'static str {
    match step {
        Step::Challenge => "challenge",
        Step::Allocate => "allocate",
        Step::Permit => "permission",
        Step::Bind => "channel",
        Step::Refresh => "refresh",
        Step::Delete => "delete",
    }
}

/// Why a run ended before its end.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A failure that the next client would meet too.
    Turn {
        /// The phase.
        step: Step,
        /// The allocation, from 1.
        allocation: usize,
        /// Those before it that went well in the phase.
        succeeded: u64,
        /// Why.
        failure: TurnFailure,
    },
    /// No answer to anything for the stall time.
    ServerGone {
        /// The phase.
        step: Step,
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// Allocations that could not be kept alive while they idled.
    LostInHold {
        /// How many.
        lost: usize,
    },
    /// An allocation without credentials, when a challenge was asked for.
    NoChallenge,
    /// This host has no socket for each allocation.
    NoSockets(io::Error),
    /// This host could not do it.
    Host(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn { step, allocation, succeeded, failure } => write!(
                f,
                "the {} phase ended at allocation {allocation}, after {succeeded} that went well: \
                 {}",
                name(*step),
                Explained(failure)
            ),
            Self::ServerGone { step, waited_ms } => write!(
                f,
                "the server answered nothing for {waited_ms} ms in the {} phase: it is gone, or a \
                 firewall or its rate limit drops this host's requests (--stall)",
                name(*step)
            ),
            Self::LostInHold { lost } => write!(
                f,
                "{lost} allocations were lost while they idled (--hold): the server no longer \
                 answers their Refresh or ChannelBind, or refuses it"
            ),
            Self::NoChallenge => f.write_str(
                "the server asks for no credentials, so there is no nonce to reuse: run without \
                 --reuse-nonce",
            ),
            Self::NoSockets(error) => write!(
                f,
                "cannot open a socket for each allocation: {error}; see ulimit -n and \
                 net.ipv4.ip_local_port_range, or give more source addresses (--bind)"
            ),
            Self::Host(error) => write!(f, "this host failed: {error}"),
        }
    }
}

/// A failure with what to do about it here, where the peer is only named: no peer is opened.
struct Explained<'a>(&'a TurnFailure);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TurnFailure::Refused { method, code: 403, reason, peer } => write!(
                f,
                "{} refused: 403 {reason}. The server denies the peer {peer}: allow it there \
                 (turnpike: [peers] allow; coturn: --allowed-peer-ip; for loopback: \
                 allow_loopback, --allow-loopback-peers), or name one that it allows (--peer)",
                failure::name(*method)
            ),
            TurnFailure::Refused { method, code: code @ (440 | 443), reason, peer } => write!(
                f,
                "{} refused: {code} {reason}. The server relays no {}: name a peer of the other \
                 family (--peer)",
                failure::name(*method),
                peer.family().name()
            ),
            other => other.fmt(f),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Every phase ran.
    Completed,
    /// The user asked for the end.
    Interrupted,
    /// Before its end.
    Early(Trouble),
}

impl Ending {
    /// One word for machines.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::Early(Trouble::Turn { .. }) => "refused",
            Self::Early(Trouble::ServerGone { .. }) => "server_gone",
            Self::Early(Trouble::LostInHold { .. }) => "lost_in_hold",
            Self::Early(Trouble::NoChallenge) => "no_challenge",
            Self::Early(Trouble::NoSockets(_)) => "no_sockets",
            Self::Early(Trouble::Host(_)) => "host_failed",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Interrupted => f.write_str("interrupted: the figures are of the part that ran"),
            Self::Early(trouble) => trouble.fmt(f),
        }
    }
}
