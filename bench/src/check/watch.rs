//! What every check shares: the clock, how long it waits for an answer, whether the user wants
//! the end, and why nothing came. Sends nothing.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{Clock, MILLISECOND_NS};
use crate::turn::transport::failure::LinkFailure;

/// How long one wait is at most, so that a stop is noticed.
const SLICE_NS: u64 = 50 * MILLISECOND_NS;

/// Clock, patience and the wish to end.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Monotonic time.
    pub(crate) clock: Clock,
    /// How long an answer is waited for, nanoseconds.
    pub(crate) wait_ns: u64,
    /// First retransmission timeout, nanoseconds.
    pub(crate) rto_ns: u64,
    /// The user asked for the end.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nothing came.
    Silence {
        /// How long it was waited for, nanoseconds.
        waited_ns: u64,
        /// How often the request was sent.
        transmissions: u32,
    },
    /// ICMP: the host says that nothing listens there.
    Unreachable,
    /// The connection failed, in words that say why.
    Link(LinkFailure),
    /// This host failed.
    Host(io::Error),
    /// The user asked for the end.
    Interrupted,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence { waited_ns, transmissions: 0 } => {
                write!(f, "no connection in {:.1} s", *waited_ns as f64 / 1e9)
            }
            Self::Silence { waited_ns, transmissions } => write!(
                f,
                "no answer in {:.1} s ({transmissions} requests sent)",
                *waited_ns as f64 / 1e9
            ),
            Self::Unreachable => f.write_str(
                "nothing listens there, or the way is closed (ICMP: port, host or network \
                 unreachable, or a firewall rejects)",
            ),
            Self::Link(failure) => failure.fmt(f),
            Self::Host(error) => write!(f, "this host failed: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Trouble {}

impl Watch {
    /// Waits until `until` at most for one of `events`; whether it came.
    ///
    /// # Errors
    /// [`Trouble::Interrupted`], or what the kernel says.
    pub(crate) fn wait(
        &self,
        socket: &impl AsFd,
        events: PollFlags,
        until: u64,
    ) -> Result<bool, Trouble> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
            let left = until.saturating_sub(self.clock.now());
            let slice = left.min(SLICE_NS);
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(slice).unwrap_or(0) };
            match poll(&mut [PollFd::new(socket, events)], Some(&timeout)) {
                Ok(0) if left <= SLICE_NS => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(Trouble::Host(error.into())),
            }
        }
    }
}
