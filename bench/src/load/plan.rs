//! What the threads of a run share: the plan they get, what they see of each other, and what each
//! brings home. Does nothing itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::load::account::Tally;
use crate::load::schedule::Schedule;
use crate::turn::client::ClientSetup;
use crate::turn::failure::TurnFailure;
use crate::turn::transport::LinkSetup;

/// What is to be done, the same for every thread.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The TURN server transport address.
    pub(crate) server: SocketAddr,
    /// How clients connect to it.
    pub(crate) links: LinkSetup,
    /// Credentials, peer and framing.
    pub(crate) client: Arc<ClientSetup>,
    /// When packets are due.
    pub(crate) schedule: Schedule,
    /// Allocations of the whole run.
    pub(crate) flows: u32,
    /// Packets a second of each.
    pub(crate) rate: u32,
    /// Threads that share them.
    pub(crate) threads: u32,
    /// Bytes of each payload.
    pub(crate) payload_bytes: usize,
    /// The number that marks this run's packets.
    pub(crate) run: u32,
    /// Without any packet back for so long, the server counts as dead; nanoseconds.
    pub(crate) stall_ns: u64,
    /// How long late packets are waited for at the end, nanoseconds.
    pub(crate) drain_ns: u64,
}

/// What all threads see while they run.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The user asked for the end.
    pub(crate) stop: Arc<AtomicBool>,
    /// A thread failed: the others end too.
    pub(crate) abort: AtomicBool,
    /// Allocations that are ready.
    pub(crate) ready: AtomicU64,
    /// Packets sent so far.
    pub(crate) sent: AtomicU64,
    /// Packets back so far.
    pub(crate) delivered: AtomicU64,
}

impl Shared {
    /// Whether to stop.
    pub(crate) fn ends(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.abort.load(Ordering::Relaxed)
    }
}

/// Why a thread gave up.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The conversation of one allocation failed.
    Turn {
        /// The allocation, 0-based over the whole run.
        flow: u32,
        /// Why.
        failure: TurnFailure,
    },
    /// This host failed.
    Io(io::Error),
    /// Packets were sent and for the stall time nothing came back.
    Silence,
}

/// What a thread brings home.
#[derive(Debug)]
pub(crate) struct Share {
    /// The sums.
    pub(crate) tally: Tally,
    /// Why it ended early.
    pub(crate) trouble: Option<Trouble>,
    /// From the start of the load to its last send, nanoseconds.
    pub(crate) load_ns: u64,
    /// Allocations that existed.
    pub(crate) allocated: u64,
    /// Allocations that the server confirmed to have deleted.
    pub(crate) released: u64,
    /// Requests sent again.
    pub(crate) retransmissions: u64,
}
