//! `relay-bench load`: one run from the first Allocate to the report.
//! Owns the order of things; the packets are the workers'.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::load::account::Tally;
use crate::load::peer::{EchoPeer, PeerCounts};
use crate::load::plan::{Plan, Share, Shared, Trouble};
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
    /// Nothing comes back, but the server answers requests.
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
                "no packet comes back, but the server answers requests: can it reach the peer? \
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

/// Runs the plan. `peer` is the built-in one, if the run has one; progress goes to stderr.
pub(crate) fn run(
    plan: &Plan,
    peer: Option<&EchoPeer>,
    stop: std::sync::Arc<AtomicBool>,
    progress: Progress,
) -> Outcome {
    let shared =
        Shared { stop, abort: false.into(), ready: 0.into(), sent: 0.into(), delivered: 0.into() };
    let peer_stop = AtomicBool::new(false);
    let counts = PeerCounts::default();
    let (measured, echoed) = thread::scope(|scope| {
        let echo = peer.map(|peer| scope.spawn(|| peer.run(&peer_stop, &counts)));
        let measured = drive(plan, &shared, progress);
        peer_stop.store(true, Ordering::Relaxed);
        let echoed = echo.map_or(Ok(()), |echo| echo.join().expect("the peer does not panic"));
        (measured, echoed)
    });
    let mut outcome =
        sum_up(&shared, measured.and_then(|m| echoed.map(|()| m).map_err(Ending::Host)));
    outcome.peer = peer.map(|_| counts);
    outcome
}

/// Whether to say on stderr how it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Every second.
    Shown,
    /// Not at all.
    Silent,
}

struct Measured {
    shares: Vec<Share>,
    setup_ns: u64,
    started: bool,
}

fn drive(plan: &Plan, shared: &Shared, progress: Progress) -> Result<Measured, Ending> {
    let clock = Clock::start();
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
                worker.run(&ready, &started)
            }));
        }
        drop((ready, done));
        await_all(&set_up, running.len(), || show(plan, shared, None, progress));
        let setup_ns = clock.now();
        let start = setup_ns + START_DELAY_NS;
        let begin = !shared.stop.load(Ordering::Relaxed) && !shared.abort.load(Ordering::Relaxed);
        if begin {
            for channel in &starts {
                channel.send(start).expect("the thread waits for it");
            }
        }
        drop(starts);
        await_all(&finished, usize::MAX, || {
            show(plan, shared, Some(clock.now().saturating_sub(start)), progress);
        });
        let shares = running
            .into_iter()
            .map(|thread| thread.join().expect("a worker does not panic"))
            .collect();
        Ok(Measured { shares, setup_ns, started: begin })
    })
}

/// Waits for `count` messages or until all senders are gone; `tick` is called every second.
fn await_all(messages: &Receiver<()>, count: usize, tick: impl Fn()) {
    let mut left = count;
    while left > 0 {
        match messages.recv_timeout(Duration::from_secs(1)) {
            Ok(()) => left -= 1,
            Err(RecvTimeoutError::Timeout) => tick(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn show(plan: &Plan, shared: &Shared, load_ns: Option<u64>, progress: Progress) {
    if progress == Progress::Silent {
        return;
    }
    let mut stderr = io::stderr().lock();
    let end = if stderr.is_terminal() { "\x1b[K\r" } else { "\n" };
    // Progress is a courtesy: a closed stderr does not end a measurement.
    let _ = match load_ns {
        None => {
            let ready = shared.ready.load(Ordering::Relaxed);
            write!(stderr, "set-up: {ready} of {} allocations ready{end}", plan.flows)
        }
        Some(ns) => write!(
            stderr,
            "{} s: {} of {} packets sent, {} back{end}",
            ns / SECOND_NS,
            shared.sent.load(Ordering::Relaxed),
            plan.schedule.packets(),
            shared.delivered.load(Ordering::Relaxed),
        ),
    };
    let _ = stderr.flush();
}

fn sum_up(shared: &Shared, measured: Result<Measured, Ending>) -> Outcome {
    let mut outcome = Outcome {
        ending: Ending::Completed,
        tally: Tally::new(),
        ready: shared.ready.load(Ordering::Relaxed),
        allocated: 0,
        released: 0,
        retransmissions: 0,
        setup_ns: 0,
        load_ns: 0,
        peer: None,
    };
    let measured = match measured {
        Ok(measured) => measured,
        Err(ending) => {
            outcome.ending = ending;
            return outcome;
        }
    };
    outcome.setup_ns = measured.setup_ns;
    let mut trouble = None;
    for share in measured.shares {
        outcome.tally.add(&share.tally);
        outcome.allocated += share.allocated;
        outcome.released += share.released;
        outcome.retransmissions += share.retransmissions;
        outcome.load_ns = outcome.load_ns.max(share.load_ns);
        trouble = trouble.or(share.trouble);
    }
    let silent = outcome.tally.sent > 0 && outcome.tally.delivered == 0;
    let gone = measured.started && outcome.released == 0;
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
