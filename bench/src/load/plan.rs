//! What the threads of a run share: the plan they get, what they see of each other, and what each
//! brings home. Does nothing itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::SECOND_NS;
use crate::load::account::Tally;
use crate::load::limits::Limits;
use crate::load::line::{Kind, Section};
use crate::load::payload::Stamp;
use crate::load::pulse::Pulse;
use crate::load::schedule::Schedule;
use crate::load::section::{Collector, Cut};
use crate::turn::client::ClientSetup;
use crate::turn::failure::TurnFailure;
use crate::turn::transport::LinkSetup;

/// Seconds of traffic that the duplicate window of a flow holds.
const WINDOW_SECS: u64 = 4;

/// What the peer does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum PeerMode {
    /// Sends them back: the figures are of the way there and back.
    Echo,
    /// Keeps and judges them: the figures are of the way from client to peer.
    Sink,
}

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
    /// What the peer does.
    pub(crate) peer_mode: PeerMode,
    /// How the run is cut into sections.
    pub(crate) cut: Cut,
    /// Seconds of a section in which packets are due.
    pub(crate) section_secs: u64,
    /// What a line is printed for; `None`: the run is one section, and its report says it all.
    pub(crate) lines: Option<Kind>,
    /// What the user allows.
    pub(crate) limits: Limits,
    /// Whether a step that breaks a limit is the last one.
    pub(crate) stop_at_limit: bool,
    /// From the first packet to the end of the schedule, seconds.
    pub(crate) duration_secs: u64,
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

impl Plan {
    /// Packets that the duplicate window of a flow holds.
    pub(crate) fn window_packets(&self) -> u64 {
        self.schedule.rate_max() * WINDOW_SECS
    }

    /// From when the last packet of a section is sent to when its figures are taken, nanoseconds.
    pub(crate) fn section_grace_ns(&self) -> u64 {
        self.cut.close_after_ns.saturating_sub(self.section_secs * SECOND_NS)
    }

    /// Whether a packet of this run can say so of itself. What a broken server makes of the
    /// numbers, with a right checksum, does not pass for a packet, and no figure depends on it.
    pub(crate) fn has(&self, stamp: &Stamp) -> bool {
        let slot = |stamp: &Stamp| self.schedule.slot(stamp.flow, stamp.sequence);
        stamp.flow < self.flows && slot(stamp).is_some_and(|slot| slot.due_ns == stamp.due_ns)
    }

    /// Threads that count: the workers, and the sink.
    pub(crate) fn contributors(&self) -> u32 {
        self.threads + u32::from(self.peer_mode == PeerMode::Sink)
    }

    /// What a section is; all of a run that is not a ramp has the first step's rate.
    pub(crate) fn section(&self, number: u64, rss_kib: Option<u64>) -> Section {
        let start_secs = number * (self.cut.length_ns / SECOND_NS);
        let step = match self.lines {
            Some(Kind::Step) => usize::try_from(number).unwrap_or(usize::MAX),
            Some(Kind::Interval) | None => 0,
        };
        let rate_total = self.schedule.rate_total(step).unwrap_or(0);
        let secs = self.section_secs.min(self.duration_secs.saturating_sub(start_secs));
        Section {
            number,
            start_secs,
            rate_per_allocation: rate_total / u64::from(self.flows),
            rate_total,
            planned: rate_total * secs,
            rss_kib,
        }
    }
}

/// What all threads see while they run.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The user asked for the end.
    pub(crate) stop: Arc<AtomicBool>,
    /// A thread failed: the others end too.
    pub(crate) abort: AtomicBool,
    /// A step broke a limit, and no further one is wanted.
    pub(crate) enough: AtomicBool,
    /// When the load starts; zero until all allocations are ready.
    pub(crate) start_ns: AtomicU64,
    /// Allocations that are ready.
    pub(crate) ready: AtomicU64,
    /// Packets sent so far.
    pub(crate) sent: AtomicU64,
    /// Packets that arrived intact so far, each counted once.
    pub(crate) delivered: AtomicU64,
    /// How long they took.
    pub(crate) pulse: Pulse,
    /// Where the sections come together.
    pub(crate) collector: Collector,
}

impl Shared {
    /// At the start of a run that the user ends by `stop`.
    pub(crate) fn new(plan: &Plan, stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            abort: false.into(),
            enough: false.into(),
            start_ns: 0.into(),
            ready: 0.into(),
            sent: 0.into(),
            delivered: 0.into(),
            pulse: Pulse::new(),
            collector: Collector::new(plan.cut, plan.contributors()),
        }
    }

    /// Whether to stop.
    pub(crate) fn ends(&self) -> bool {
        [&self.stop, &self.abort, &self.enough].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Counts the first arrival of a packet.
    pub(crate) fn arrived(&self, latency_ns: u64) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.pulse.record(latency_ns);
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

/// The packets of one flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowCount {
    /// Its number, 0-based over the whole run.
    pub(crate) flow: u32,
    /// Packets that were due.
    pub(crate) offered: u64,
    /// Packets that arrived intact where the thread counts, each counted once.
    pub(crate) delivered: u64,
}

/// What a thread brings home.
#[derive(Debug)]
pub(crate) struct Share {
    /// The sums.
    pub(crate) tally: Tally,
    /// Its flows.
    pub(crate) flows: Vec<FlowCount>,
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
