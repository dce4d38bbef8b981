//! The clients of an `alloc` run and the loop that carries their requests: one thread, one socket
//! for each allocation. Owns pacing and timers; what is asked for and when is the run's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use rustix::event::epoll;
use rustix::io::Errno;

use crate::alloc::plan::{Pacing, Phase, Plan, Trouble};
use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::host;
use crate::turn::client::{Stage, Step, TurnClient};
use crate::turn::failure::TurnFailure;
use crate::turn::transport::is_unreachable;

/// Sockets looked at after one wait.
const EVENTS: usize = 256;
/// Clients that begin before answers have their turn.
const BURST_CLIENTS: usize = 32;
/// So many failures and no success in a phase, and the next client would fail too.
const HOPELESS_FAILURES: u64 = 32;
/// How long a wait is at most, so that a stop is noticed.
const WAIT_NS_MAX: u64 = 50 * MILLISECOND_NS;
/// How long answers that are under way are waited for when a phase ends early: an allocation whose
/// answer is not heard cannot be given back.
const DRAIN_NS: u64 = 2 * SECOND_NS;

/// One allocation's place.
#[derive(Debug)]
struct Seat {
    socket: UdpSocket,
    client: TurnClient,
    due: u64,
    in_step: bool,
}

/// The clients at work.
#[derive(Debug)]
pub(crate) struct Driver<'a> {
    plan: &'a Plan,
    stop: &'a AtomicBool,
    clock: Clock,
    epoll: OwnedFd,
    seats: Vec<Seat>,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    outstanding: usize,
    unanswered_since: u64,
    /// Clients that are done with their step, and when.
    finished: Vec<(usize, u64)>,
}

impl<'a> Driver<'a> {
    /// Opens every socket; nothing is sent.
    ///
    /// # Errors
    /// [`Trouble::NoSockets`].
    pub(crate) fn open(plan: &'a Plan, stop: &'a AtomicBool) -> Result<Self, Trouble> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Trouble::Host(e.into()))?;
        let any: IpAddr = match plan.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let sources = if plan.sources.is_empty() { &[any][..] } else { &plan.sources };
        let places = (0u64..).zip(sources.iter().cycle());
        let seats = places
            .take(usize::try_from(plan.allocations).unwrap_or(usize::MAX))
            .map(|(place, source)| Seat::open(plan, *source, place, &epoll))
            .collect::<io::Result<Vec<_>>>()
            .map_err(Trouble::NoSockets)?;
        Ok(Self {
            plan,
            stop,
            clock: Clock::start(),
            epoll,
            seats,
            timers: BinaryHeap::new(),
            outstanding: 0,
            unanswered_since: 0,
            finished: Vec::new(),
        })
    }

    /// Clients that have an allocation.
    pub(crate) fn allocated(&self) -> u64 {
        self.seats.iter().filter(|seat| seat.client.allocated()).count() as u64
    }

    /// Takes every client that can through one step.
    pub(crate) fn phase(&mut self, step: Step, bar: &ProgressBar) -> (Phase, Option<Trouble>) {
        let mut phase = Phase::new(step);
        let before = self.extra_messages();
        let trouble = self.run(&mut phase, bar).err();
        let after = self.extra_messages();
        phase.challenges = after.0 - before.0;
        phase.retransmissions = after.1 - before.1;
        (phase, trouble)
    }

    /// Keeps the allocations alive for some time.
    ///
    /// # Errors
    /// One of them was lost, or this host failed.
    pub(crate) fn hold(&mut self, ns: u64) -> Result<(), Trouble> {
        let end = self.clock.now() + ns;
        let ready = |seats: &[Seat]| {
            seats.iter().filter(|seat| seat.client.stage() == Stage::Ready).count()
        };
        let before = ready(&self.seats);
        while self.clock.now() < end && !self.stop.load(Ordering::Relaxed) {
            self.turn(end)?;
        }
        match before - ready(&self.seats) {
            0 => Ok(()),
            lost => Err(Trouble::LostInHold { lost }),
        }
    }

    /// Challenges followed and requests sent again so far.
    fn extra_messages(&self) -> (u64, u64) {
        let clients = || self.seats.iter().map(|seat| &seat.client);
        (clients().map(|c| c.challenges).sum(), clients().map(|c| c.retransmissions).sum())
    }

    fn run(&mut self, phase: &mut Phase, bar: &ProgressBar) -> Result<(), Trouble> {
        let start = self.clock.now();
        let result = self.take_all(phase, start, bar);
        // Also when this host failed: what is allocated meanwhile cannot be given back.
        result.and(self.drain(phase, start, bar))
    }

    /// Until every client is done, or until the user, the server or this host ends it.
    fn take_all(
        &mut self,
        phase: &mut Phase,
        start: u64,
        bar: &ProgressBar,
    ) -> Result<(), Trouble> {
        let deletes = phase.step == Step::Delete;
        let places: Vec<usize> =
            (0..self.seats.len()).filter(|place| self.seats[*place].takes(phase.step)).collect();
        phase.clients = places.len() as u64;
        bar.set_length(phase.clients);
        let mut places = places.into_iter().peekable();
        self.unanswered_since = start;
        let mut next = 0;
        // What is there is given back also when the user asks for the end.
        while deletes || !self.stop.load(Ordering::Relaxed) {
            let mut until = u64::MAX;
            for _ in 0..BURST_CLIENTS {
                let now = self.clock.now();
                let due = self.due(start, next, now);
                if due > now || places.peek().is_none() {
                    until = if places.peek().is_none() { u64::MAX } else { due };
                    break;
                }
                let place = places.next().expect("it was peeked at");
                next += 1;
                phase.requests += 1;
                self.begin(place, phase.step, due)?;
                until = now;
            }
            if places.peek().is_none() && self.outstanding == 0 {
                return Ok(());
            }
            self.turn(until)?;
            let trouble = self.settle(phase, start, bar).or_else(|| self.silence(phase.step));
            trouble.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// When the client of that number is due.
    fn due(&self, start: u64, number: u64, now: u64) -> u64 {
        match self.plan.pacing {
            Pacing::Open { rate } => start + number * SECOND_NS / u64::from(rate),
            Pacing::Closed { concurrency } => {
                let full = self.outstanding >= usize::try_from(concurrency).unwrap_or(usize::MAX);
                if full { u64::MAX } else { now }
            }
        }
    }

    fn begin(&mut self, place: usize, step: Step, due: u64) -> Result<(), Trouble> {
        if self.outstanding == 0 {
            self.unanswered_since = self.clock.now();
        }
        self.outstanding += 1;
        let seat = &mut self.seats[place];
        seat.due = due;
        seat.in_step = true;
        seat.client.step(self.clock.now(), step);
        self.transmit(place)
    }

    /// Counts the clients that are done with the step, and says what the next would meet too.
    fn settle(&mut self, phase: &mut Phase, start: u64, bar: &ProgressBar) -> Option<Trouble> {
        let mut trouble = None;
        for (place, now) in std::mem::take(&mut self.finished) {
            bar.inc(1);
            self.outstanding -= 1;
            phase.ns = now - start;
            let seat = &self.seats[place];
            let Some(failure) = seat.client.failure() else {
                phase.succeeded += 1;
                if phase.step == Step::Challenge && seat.client.allocated() {
                    trouble = trouble.or(Some(Trouble::NoChallenge));
                }
                phase.latency_ns.saturating_record(now - seat.due);
                continue;
            };
            *phase.failures.entry(failure.label()).or_default() += 1;
            if phase.step != Step::Delete && (hopeless(phase) || meets_all(failure)) {
                let (step, succeeded) = (phase.step, phase.succeeded);
                let (allocation, failure) = (place + 1, failure.clone());
                trouble = trouble.or(Some(Trouble::Turn { step, allocation, succeeded, failure }));
            }
        }
        trouble
    }

    fn silence(&self, step: Step) -> Option<Trouble> {
        let waited = self.clock.now().saturating_sub(self.unanswered_since);
        let gone = self.outstanding > 0 && waited > self.plan.stall_ns;
        gone.then_some(Trouble::ServerGone { step, waited_ms: waited / MILLISECOND_NS })
    }

    /// Hears the answers that are under way; the next phase finds nothing of this one.
    fn drain(&mut self, phase: &mut Phase, start: u64, bar: &ProgressBar) -> Result<(), Trouble> {
        let end = self.clock.now() + DRAIN_NS;
        let mut result = Ok(());
        while result.is_ok() && self.outstanding > 0 && self.clock.now() < end {
            result = self.turn(end);
            // What ended the phase is known already.
            let _ = self.settle(phase, start, bar);
        }
        let left = self.seats.iter().filter(|seat| seat.in_step).count();
        self.seats.iter_mut().for_each(|seat| seat.in_step = false);
        if left > 0 {
            *phase.failures.entry("unanswered".to_owned()).or_default() += left as u64;
        }
        self.outstanding = 0;
        result
    }

    /// Runs the timers that are due, then waits for answers until `until` at most.
    fn turn(&mut self, until: u64) -> Result<(), Trouble> {
        let now = self.clock.now();
        while let Some(Reverse((at, place))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if self.seats[place].client.deadline().is_some_and(|deadline| deadline <= now) {
                self.transmit(place)?;
            }
        }
        let timer = self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let until = until.min(timer).min(now + WAIT_NS_MAX);
        let until = if self.finished.is_empty() { until } else { now };
        let wait = until.saturating_sub(self.clock.now());
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = host::wait(&self.epoll, wait, &mut space).map_err(Trouble::Host)?;
        for event in events {
            self.receive(usize::try_from(event.data.u64()).expect("it was given as an index"))?;
        }
        Ok(())
    }

    /// One datagram: the wait tells of the next one again.
    fn receive(&mut self, place: usize) -> Result<(), Trouble> {
        let mut buffer = [0; 2048];
        let seat = &mut self.seats[place];
        match seat.socket.recv(&mut buffer) {
            Ok(length) => {
                let now = self.clock.now();
                self.unanswered_since = now;
                seat.client.receive(now, &buffer[..length]);
            }
            Err(error) if is_unreachable(&error) => seat.client.unreachable(),
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    || error.kind() == io::ErrorKind::Interrupted
                    || is_too_big(&error) => {}
            Err(error) => return Err(Trouble::Host(error)),
        }
        self.transmit(place)
    }

    /// Sends what the client has to say now, and sees whether its step is over.
    fn transmit(&mut self, place: usize) -> Result<(), Trouble> {
        let seat = &mut self.seats[place];
        let now = self.clock.now();
        if let Some(request) = seat.client.transmit(now) {
            let sent = match seat.socket.send(request) {
                // It tells of an earlier datagram, once, and this one did not leave.
                Err(error) if is_too_big(&error) => seat.socket.send(request),
                sent => sent,
            };
            match sent {
                Ok(_) => {}
                Err(error) if is_unreachable(&error) => seat.client.unreachable(),
                // A request that did not leave is sent again like one that was lost.
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(Trouble::Host(error)),
            }
        }
        if let Some(deadline) = seat.client.deadline() {
            self.timers.push(Reverse((deadline, place)));
        }
        if seat.in_step && !seat.client.busy() {
            seat.in_step = false;
            self.finished.push((place, now));
        }
        Ok(())
    }
}

impl Seat {
    fn open(plan: &Plan, source: IpAddr, place: u64, epoll: &OwnedFd) -> io::Result<Self> {
        let socket = UdpSocket::bind((source, 0))?;
        socket.connect(plan.server)?;
        socket.set_nonblocking(true)?;
        epoll::add(epoll, &socket, epoll::EventData::new_u64(place), epoll::EventFlags::IN)?;
        let client = TurnClient::stepwise(Arc::clone(&plan.client));
        Ok(Self { socket, client, due: 0, in_step: false })
    }

    /// Whether its client is one for that step.
    fn takes(&self, step: Step) -> bool {
        let stage = self.client.stage();
        match step {
            Step::Challenge | Step::Allocate => stage == Stage::Idle,
            Step::Permit | Step::Bind | Step::Refresh => {
                matches!(stage, Stage::Resting | Stage::Ready)
            }
            Step::Delete => self.client.allocated() && stage != Stage::Released,
        }
    }
}

/// Whether all that answered so far failed, and that is all there are or enough to believe it.
fn hopeless(phase: &Phase) -> bool {
    phase.succeeded == 0 && phase.failed() >= phase.clients.min(HOPELESS_FAILURES)
}

/// Whether the server would tell every other client the same.
fn meets_all(failure: &TurnFailure) -> bool {
    match failure {
        TurnFailure::Refused { code, .. } => matches!(code, 486 | 508),
        TurnFailure::PortUnreachable
        | TurnFailure::Link(_)
        | TurnFailure::WrongCredentials { .. } => true,
        TurnFailure::NoAnswer { .. }
        | TurnFailure::Incomplete { .. }
        | TurnFailure::RequestTooLong { .. } => false,
    }
}

/// The network tells of the path's MTU: the kernel has it in mind from now on.
fn is_too_big(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

/// The kernel of this host has no room for a datagram now.
fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::WOULDBLOCK | Errno::NOBUFS))
}

#[cfg(test)]
mod tests {
    use relay_common::addr::PeerAddr;
    use rustix::net::{Shutdown, shutdown};

    use super::*;
    use crate::turn::client::ClientSetup;
    use crate::turn::credentials::Credentials;
    use crate::turn::framing::Framing;
    use crate::turn::transport::Transport;

    #[test]
    fn a_phase_that_this_host_ends_leaves_nothing_to_the_next() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = silent.local_addr().unwrap();
        let client = ClientSetup {
            credentials: Credentials::known("alice".to_owned(), "north".to_owned()),
            peer: PeerAddr::new(server),
            framing: Framing::Channel,
            transport: Transport::Udp,
            rto_ns: SECOND_NS,
        };
        let plan = Plan {
            server,
            sources: Vec::new(),
            client: Arc::new(client),
            allocations: 2,
            pacing: Pacing::Closed { concurrency: 2 },
            steps: Vec::new(),
            stall_ns: SECOND_NS,
            hold_ns: 0,
        };
        let stop = AtomicBool::new(false);
        let mut driver = Driver::open(&plan, &stop).unwrap();
        // The kernel refuses to send on it.
        shutdown(&driver.seats[1].socket, Shutdown::Write).unwrap();
        let (phase, trouble) = driver.phase(Step::Allocate, &ProgressBar::hidden());
        assert!(matches!(trouble, Some(Trouble::Host(_))), "{trouble:?}");
        assert_eq!((phase.requests, phase.failures["unanswered"]), (2, 2));
        assert!(driver.finished.is_empty() && driver.outstanding == 0);
        let (phase, trouble) = driver.phase(Step::Delete, &ProgressBar::hidden());
        assert!(trouble.is_none(), "{trouble:?}");
        assert_eq!((phase.clients, phase.failed()), (0, 0));
    }
}
