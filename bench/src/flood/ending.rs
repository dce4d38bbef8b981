//! How a flood can end: in one word, in a sentence that says what to do, and as an exit code.

use std::fmt;

use crate::cli::{EXIT_INTERRUPTED, EXIT_PARTIAL, EXIT_SETUP};
use crate::turn::failure::TurnFailure;

/// How a flood ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Everything was sent.
    Completed,
    /// The user asked for the end.
    Interrupted,
    /// The allocation of that number, from 1, did not come to be; nothing was sent.
    NotSetUp(u32, TurnFailure),
    /// The allocation of that number was lost while packets were sent.
    AllocationLost(u32, TurnFailure),
    /// Nothing came through the first allocation; nothing was sent.
    PeerUnreached,
    /// Nothing arrives any more, but the server answers requests.
    NothingRelayed,
    /// The server answers nothing any more.
    ServerGone,
}

impl Ending {
    /// One word for machines.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::NotSetUp(..) => "not_set_up",
            Self::AllocationLost(..) => "allocation_lost",
            Self::PeerUnreached => "peer_unreached",
            Self::NothingRelayed => "nothing_relayed",
            Self::ServerGone => "server_gone",
        }
    }

    /// The exit code, but for a complete run, whose limits decide.
    pub(crate) fn code(&self) -> Option<u8> {
        match self {
            Self::Completed => None,
            Self::Interrupted => Some(EXIT_INTERRUPTED),
            Self::NotSetUp(..) | Self::PeerUnreached => Some(EXIT_SETUP),
            Self::AllocationLost(..) | Self::NothingRelayed | Self::ServerGone => {
                Some(EXIT_PARTIAL)
            }
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Interrupted => f.write_str("interrupted: the figures are of the part that ran"),
            Self::NotSetUp(allocation, failure) => {
                write!(f, "set-up failed at allocation {allocation}: {failure}")
            }
            Self::AllocationLost(allocation, failure) => {
                write!(f, "allocation {allocation} was lost midway: {failure}")
            }
            Self::PeerUnreached => f.write_str(
                "a packet through the first allocation did not come to the peer and back: can the \
                 server reach the peer's address (--peer-address, --peer-netns)? Nothing was sent",
            ),
            Self::NothingRelayed => f.write_str(
                "no packet arrives any more, but the server answers requests: the figures are of \
                 the part that ran",
            ),
            Self::ServerGone => f.write_str(
                "the server is gone: it answers no request any more, and what was sent since is \
                 lost; the figures are of the part that ran",
            ),
        }
    }
}
