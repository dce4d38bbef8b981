//! `relay-bench load`: one run from the first Allocate to the report.
//! Owns the order of things; the packets are the workers'.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;

use crate::clock::{Clock, MILLISECOND_NS};
use crate::load::account::Tally;
use crate::load::line::Line;
use crate::load::peer::{EchoPeer, PeerCounts};
use crate::load::plan::{FlowCount, PeerMode, Plan, Share, Shared, Trouble};
use crate::load::sink::Sink;
use crate::load::watch::{TICK, Watch};
use crate::load::worker::Worker;
use crate::turn::failure::TurnFailure;

/// From the last set-up to the first packet: every thread waits for its clock to come to it.
const START_DELAY_NS: u64 = 20 * MILLISECOND_NS;

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The whole schedule was served.
    Completed,
    /// The user asked for the end.
    Interrupted,
    /// An allocation did not come to be; no load was sent.
    NotSetUp {
        /// Its number, from 1.
        allocation: u32,
        /// Why.
        failure: TurnFailure,
    },
    /// An allocation was lost under load.
    AllocationLost {
        /// Its number, from 1.
        allocation: u32,
        /// Why.
        failure: TurnFailure,
    },
    /// Nothing comes back, and the server answers no request either.
    ServerGone,
    /// No packet arrives, but the server answers requests.
    NothingRelayed,
    /// This host has no socket for each allocation.
    NoSockets(io::Error),
    /// This host could not do it.
    Host(io::Error),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Interrupted => f.write_str("interrupted: the figures are of the part that ran"),
            Self::NotSetUp { allocation, failure } => {
                write!(f, "set-up failed at allocation {allocation}: {failure}")
            }
            Self::AllocationLost { allocation, failure } => {
                write!(f, "allocation {allocation} was lost midway: {failure}")
            }
            Self::ServerGone => f.write_str(
                "the server stopped answering midway: no packet came back, and no answer to \
                 requests",
            ),
            Self::NothingRelayed => f.write_str(
                "no packet arrives, but the server answers requests: can it reach the peer? \
                 --peer-bind gives the built-in peer another address, --peer names a \
                 `relay-bench echo` elsewhere",
            ),
            Self::NoSockets(error) => write!(
                f,
                "cannot open a socket for each allocation: {error}; see ulimit -n and \
                 net.ipv4.ip_local_port_range"
            ),
            Self::Host(error) => write!(f, "this host failed: {error}"),
        }
    }
}

impl Ending {
    /// One word for machines.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::NotSetUp { .. } => "not_set_up",
            Self::AllocationLost { .. } => "allocation_lost",
            Self::ServerGone => "server_gone",
            Self::NothingRelayed => "nothing_relayed",
            Self::NoSockets(_) => "no_sockets",
            Self::Host(_) => "host_failed",
        }
    }
}

/// Everything a run found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) ending: Ending,
    /// The sums over all threads.
    pub(crate) tally: Tally,
    /// The packets of each flow, in no order.
    pub(crate) flows: Vec<FlowCount>,
    /// The figures of its sections.
    pub(crate) lines: Vec<Line>,
    /// Whether a step that broke a limit was the last one.
    pub(crate) stopped_at_limit: bool,
    /// Allocations that were ready for data.
    pub(crate) ready: u64,
    /// Allocations that existed.
    pub(crate) allocated: u64,
    /// Allocations that the server confirmed to have deleted.
    pub(crate) released: u64,
    /// Requests sent again.
    pub(crate) retransmissions: u64,
    /// From the first Allocate to the last allocation ready, nanoseconds.
    pub(crate) setup_ns: u64,
    /// From the start of the load to the last send, nanoseconds.
    pub(crate) load_ns: u64,
    /// What reached the built-in peer; `None` with a peer elsewhere.
    pub(crate) peer: Option<PeerCounts>,
}

/// What the built-in peer brings home: nothing but for a sink.
type Kept = (Tally, Vec<FlowCount>);

/// Ends the peer with the load, also when the load ends in a panic: its thread is waited for.
struct EndsPeer<'a>(&'a AtomicBool);

impl Drop for EndsPeer<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets nobody wait for a thread that panics: the panic is to be seen, not a tool that hangs.
struct EndsWithThread<'a> {
    shared: &'a Shared,
    ready: &'a Sender<()>,
}

impl Drop for EndsWithThread<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.abort.store(true, Ordering::Relaxed);
            let _ = self.ready.send(());
        }
    }
}

/// Runs the plan. `peer` is the built-in one's socket, if the run has one.
pub(crate) fn run(
    plan: &Plan,
    peer: Option<&UdpSocket>,
    stop: Arc<AtomicBool>,
    watch: &mut Watch<'_>,
) -> Outcome {
    let clock = Clock::start();
    let shared = Shared::new(plan, stop);
    let peer_stop = AtomicBool::new(false);
    let counts = PeerCounts::default();
    let (measured, kept) = thread::scope(|scope| {
        let keeps = |socket: &UdpSocket| match plan.peer_mode {
            PeerMode::Echo => {
                EchoPeer::new(socket)?.run(&peer_stop, &counts).map(|()| (Tally::new(), Vec::new()))
            }
            PeerMode::Sink => Sink::new(socket, plan, &shared, clock, &counts).run(&peer_stop),
        };
        let thread = peer.map(|socket| scope.spawn(move || keeps(socket)));
        let ends_peer = EndsPeer(&peer_stop);
        let measured = drive(plan, &shared, clock, watch);
        drop(ends_peer);
        let nothing = || Ok((Tally::new(), Vec::new()));
        let kept: io::Result<Kept> =
            thread.map_or_else(nothing, |peer| peer.join().expect("the peer does not panic"));
        (measured, kept)
    });
    watch.finish(&shared);
    let both = measured.and_then(|measured| Ok((measured, kept.map_err(Ending::Host)?)));
    let mut outcome = sum_up(&shared, both);
    outcome.peer = peer.map(|_| counts);
    outcome.lines = watch.take_lines();
    outcome
}

struct Measured {
    shares: Vec<Share>,
    setup_ns: u64,
    started: bool,
}

fn drive(
    plan: &Plan,
    shared: &Shared,
    clock: Clock,
    watch: &mut Watch<'_>,
) -> Result<Measured, Ending> {
    let workers = (0..plan.threads)
        .map(|index| Worker::new(plan, shared, clock, index))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Ending::NoSockets)?;
    thread::scope(|scope| {
        let (ready, set_up) = mpsc::channel();
        let (done, finished) = mpsc::channel::<()>();
        let mut starts = Vec::with_capacity(workers.len());
        let mut running = Vec::with_capacity(workers.len());
        for worker in workers {
            let (start, started) = mpsc::channel();
            let (ready, done) = (ready.clone(), done.clone());
            starts.push(start);
            running.push(scope.spawn(move || {
                // Held until the thread ends: the other side sees it closed.
                let _done = done;
                let _ends = EndsWithThread { shared, ready: &ready };
                worker.run(&ready, &started)
            }));
        }
        drop((ready, done));
        await_all(&set_up, running.len(), || watch.set_up(shared));
        let setup_ns = clock.now();
        let start = setup_ns + START_DELAY_NS;
        let begin = !shared.stop.load(Ordering::Relaxed) && !shared.abort.load(Ordering::Relaxed);
        if begin {
            shared.start_ns.store(start, Ordering::Relaxed);
            watch.begin();
            for channel in &starts {
                // A thread that is gone has panicked, and the end of the scope says so.
                let _ = channel.send(start);
            }
        }
        drop(starts);
        await_all(&finished, usize::MAX, || {
            watch.load(shared, clock.now().saturating_sub(start));
        });
        let shares = running
            .into_iter()
            .map(|thread| thread.join().expect("a worker does not panic"))
            .collect();
        Ok(Measured { shares, setup_ns, started: begin })
    })
}

/// Waits for `count` messages or until all senders are gone; calls `tick` meanwhile.
fn await_all(messages: &Receiver<()>, count: usize, mut tick: impl FnMut()) {
    let mut left = count;
    while left > 0 {
        match messages.recv_timeout(TICK) {
            Ok(()) => left -= 1,
            Err(RecvTimeoutError::Timeout) => tick(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn sum_up(shared: &Shared, both: Result<(Measured, Kept), Ending>) -> Outcome {
    let mut outcome = Outcome {
        ending: Ending::Completed,
        tally: Tally::new(),
        flows: Vec::new(),
        lines: Vec::new(),
        stopped_at_limit: shared.enough.load(Ordering::Relaxed),
        ready: shared.ready.load(Ordering::Relaxed),
        allocated: 0,
        released: 0,
        retransmissions: 0,
        setup_ns: 0,
        load_ns: 0,
        peer: None,
    };
    let (measured, (kept, kept_flows)) = match both {
        Ok(both) => both,
        Err(ending) => {
            outcome.ending = ending;
            return outcome;
        }
    };
    outcome.setup_ns = measured.setup_ns;
    let mut trouble = None;
    for share in measured.shares {
        outcome.tally.add(&share.tally);
        outcome.flows.extend(share.flows);
        outcome.allocated += share.allocated;
        outcome.released += share.released;
        outcome.retransmissions += share.retransmissions;
        outcome.load_ns = outcome.load_ns.max(share.load_ns);
        trouble = trouble.or(share.trouble);
    }
    outcome.tally.add(&kept);
    for flow in &mut outcome.flows {
        let kept = usize::try_from(flow.flow).ok().and_then(|place| kept_flows.get(place));
        flow.delivered += kept.map_or(0, |kept| kept.delivered);
    }
    let silent = outcome.tally.sent > 0 && outcome.tally.delivered == 0;
    // That no deletion is answered says nothing of the load: packets must be missing too.
    let gone = measured.started && outcome.released == 0 && (trouble.is_some() || silent);
    let disconnected = matches!(trouble, Some(Trouble::Turn { failure: TurnFailure::Link(_), .. }));
    let interrupted = shared.stop.load(Ordering::Relaxed);
    outcome.ending = match trouble {
        Some(Trouble::Io(error)) => Ending::Host(error),
        Some(Trouble::Turn { flow, failure }) if !measured.started => {
            Ending::NotSetUp { allocation: flow + 1, failure }
        }
        _ if gone && !disconnected => Ending::ServerGone,
        Some(Trouble::Turn { flow, failure }) => {
            Ending::AllocationLost { allocation: flow + 1, failure }
        }
        Some(Trouble::Silence) => Ending::NothingRelayed,
        None if interrupted => Ending::Interrupted,
        None if silent => Ending::NothingRelayed,
        None => Ending::Completed,
    };
    outcome
}
