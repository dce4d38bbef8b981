//! One thread's share of a run: its sockets, its part of the schedule, its sums.
//! Sets up, sends and receives, drains, releases. Once set up it does not allocate.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use rustix::event::epoll;

use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::host;
use crate::load::account::Tally;
use crate::load::flow::Flow;
use crate::load::payload::{self, Leg, Returned, Stamp};
use crate::load::plan::{FlowCount, PeerMode, Plan, Share, Shared, Trouble};
use crate::load::schedule::Slot;
use crate::load::section::Sections;
use crate::turn::client::{Inbound, Stage};
use crate::turn::framing::Wrapper;
use crate::turn::transport::{LinkError, Sent};

/// Allocations one thread sets up at the same time: more would overflow a server's socket buffer.
const SETUP_CONCURRENCY: usize = 32;
/// Packets sent, or taken from one socket, before the other direction has its turn.
const BURST_PACKETS: usize = 32;
/// Sockets looked at after one wait.
const EVENTS: usize = 256;
/// How long the answers to Allocate requests are waited for when the set-up ends early.
const SETTLE_NS: u64 = 2 * SECOND_NS;
/// How long a wait is at most, so that a stop is noticed.
const WAIT_NS_MAX: u64 = 50 * MILLISECOND_NS;

/// A thread at work.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    clock: Clock,
    index: u32,
    epoll: OwnedFd,
    buffer: Box<[u8]>,
    flows: Vec<Flow>,
    wrapper: Wrapper,
    control_at: u64,
    load_start: u64,
    unanswered_since: Option<u64>,
    /// What all threads had when it was last looked at.
    arrived: u64,
    sections: Sections<'a>,
    /// When the packet that was sent last was due.
    last_due_ns: u64,
    /// When the last packet of the section before was due, and how long that stays open for it.
    kept: (u64, u64),
    share: Share,
}

impl<'a> Worker<'a> {
    /// The thread of that index: opens its sockets.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        clock: Clock,
        index: u32,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let threads = usize::try_from(plan.threads).unwrap_or(usize::MAX);
        let flows = (index..plan.flows)
            .step_by(threads)
            .map(|number| Flow::open(plan, number))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            plan,
            shared,
            clock,
            index,
            epoll,
            buffer: vec![0; 65_536].into_boxed_slice(),
            flows,
            wrapper: Wrapper::new(plan.client.framing, plan.client.peer, plan.payload_bytes),
            control_at: 0,
            load_start: 0,
            unanswered_since: None,
            arrived: 0,
            sections: Sections::new(&shared.collector),
            last_due_ns: 0,
            kept: (0, 0),
            share: Share {
                tally: Tally::new(),
                flows: Vec::new(),
                trouble: None,
                load_ns: 0,
                allocated: 0,
                released: 0,
                retransmissions: 0,
            },
        })
    }

    /// From Allocate to release. Says on `ready` when set up, then waits for the start time; a
    /// closed `start` means that another thread failed.
    pub(crate) fn run(mut self, ready: &Sender<()>, start: &Receiver<u64>) -> Share {
        // The default of 50 µs would be the largest part of the latency on a fast path.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        if let Err(trouble) = self.set_up() {
            self.give_up(trouble);
        }
        // Nobody listens any more only when the run is over anyway.
        let _ = ready.send(());
        if let Ok(start) = start.recv()
            && let Err(trouble) = self.load(start)
        {
            self.give_up(trouble);
        }
        if let Err(trouble) = self.release() {
            self.give_up(trouble);
        }
        self.sum_up()
    }

    fn sum_up(mut self) -> Share {
        let arrivals = self.flows.iter_mut().map(|flow| &mut flow.arrivals);
        self.share.tally.add(&self.sections.finish(self.share.load_ns, arrivals));
        let count = |flow: &Flow| FlowCount {
            flow: flow.number,
            offered: flow.offered,
            delivered: flow.arrivals.delivered,
        };
        self.share.flows = self.flows.iter().map(count).collect();
        self.share
    }

    fn give_up(&mut self, trouble: Trouble) {
        self.shared.abort.store(true, Ordering::Relaxed);
        self.share.trouble.get_or_insert(trouble);
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        let mut started = 0;
        let mut ready = 0;
        while ready < self.flows.len() && !self.shared.ends() {
            let now = self.clock.now();
            while started < self.flows.len() && started - ready < SETUP_CONCURRENCY {
                self.flows[started].connect(now, &self.epoll, started)?;
                self.control_at = now;
                started += 1;
            }
            self.step(now + WAIT_NS_MAX)?;
            let before = ready;
            let is_ready = |flow: &&Flow| flow.client.stage() == Stage::Ready;
            ready = self.flows[..started].iter().filter(is_ready).count();
            self.shared.ready.fetch_add((ready - before) as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn load(&mut self, start: u64) -> Result<(), Trouble> {
        self.load_start = start;
        let sent = self.send_all(start);
        self.share.load_ns = self.clock.now().saturating_sub(start);
        sent?;
        let end = self.clock.now() + self.plan.drain_ns;
        while self.outstanding() && self.clock.now() < end {
            self.step(end.min(self.clock.now() + WAIT_NS_MAX))?;
            self.close_sections(u64::MAX);
        }
        Ok(())
    }

    /// Whether packets may still be under way.
    fn outstanding(&self) -> bool {
        match self.plan.peer_mode {
            PeerMode::Echo => self.sections.lost() > 0,
            PeerMode::Sink => {
                let Shared { sent, delivered, .. } = self.shared;
                sent.load(Ordering::Relaxed) > delivered.load(Ordering::Relaxed)
            }
        }
    }

    /// A section whose packets are not all sent stays open, however late it is, and the last ones
    /// have their time to arrive.
    fn close_sections(&mut self, next_due_ns: u64) {
        let now = self.clock.now();
        let (kept_due_ns, until) = self.kept;
        let due_ns = if now < until { kept_due_ns } else { next_due_ns };
        let time = now.saturating_sub(self.load_start);
        let time = time.min(self.plan.cut.keeps_open_ns(due_ns));
        self.sections.close(time, self.flows.iter_mut().map(|flow| &mut flow.arrivals));
    }

    fn send_all(&mut self, start: u64) -> Result<(), Trouble> {
        let mut walk = self.plan.schedule.walk(self.index, self.plan.threads);
        while walk.peek().is_some() && !self.shared.ends() {
            let now = self.clock.now();
            let due = |slot: &Slot| start + slot.due_ns <= now;
            for _ in 0..BURST_PACKETS {
                let Some(slot) = walk.peek().filter(due) else { break };
                self.send(slot)?;
                walk.advance();
            }
            let until = walk.peek().map_or(now, |slot| start + slot.due_ns);
            self.step(until.min(now + WAIT_NS_MAX))?;
            self.close_sections(walk.peek().map_or(u64::MAX, |slot| slot.due_ns));
            self.watch_for_silence()?;
        }
        Ok(())
    }

    /// Silence is that of the whole run: a thread whose only flow is dead leaves the others be.
    fn watch_for_silence(&mut self) -> Result<(), Trouble> {
        let arrived = self.shared.delivered.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.arrived, arrived) != arrived {
            self.unanswered_since = None;
        }
        let silent = |since| self.clock.now() - since > self.plan.stall_ns;
        if self.unanswered_since.is_some_and(silent) { Err(Trouble::Silence) } else { Ok(()) }
    }

    fn send(&mut self, slot: Slot) -> Result<(), Trouble> {
        let place = usize::try_from((slot.flow - self.index) / self.plan.threads)
            .expect("a flow number fits an index");
        let stamp = Stamp {
            run: self.plan.run,
            flow: slot.flow,
            sequence: slot.sequence,
            due_ns: slot.due_ns,
        };
        let datagram = self.wrapper.wrap(|bytes| payload::write(bytes, stamp));
        let now = self.clock.now();
        if self.plan.cut.parts(self.last_due_ns, slot.due_ns) {
            self.kept = (self.last_due_ns, now + self.plan.section_grace_ns());
        }
        self.last_due_ns = slot.due_ns;
        let tally = self.sections.at(slot.due_ns);
        tally.lateness_ns.saturating_record(now.saturating_sub(self.load_start + slot.due_ns));
        let flow = &mut self.flows[place];
        flow.offered += 1;
        let mut result = flow.link.send(now, datagram);
        if matches!(result, Err(LinkError::Unreachable)) {
            // The error belongs to an earlier datagram, and reading it cleared it.
            tally.unreachable += 1;
            result = flow.link.send(now, datagram);
        }
        match result {
            Ok(Sent::Taken) => {
                tally.sent += 1;
                self.shared.sent.fetch_add(1, Ordering::Relaxed);
                self.unanswered_since.get_or_insert(now);
            }
            Ok(Sent::Full) | Err(LinkError::Unreachable) => tally.unsent += 1,
            Err(error) => return Err(flow.gone(error, &self.epoll)),
        }
        flow.watch(&self.epoll, place)
    }

    fn release(&mut self) -> Result<(), Trouble> {
        let end = self.clock.now() + SETTLE_NS;
        // The server may have made what was asked for, and only its answer says so.
        self.step_while(|flow| flow.client.stage() == Stage::Allocating, end)?;
        let now = self.clock.now();
        self.control_at = now;
        for flow in &mut self.flows {
            self.share.allocated += u64::from(flow.client.allocated());
            if flow.is_connected() {
                flow.client.release(now);
            }
        }
        self.step_while(|flow| flow.client.stage() == Stage::Releasing, u64::MAX)?;
        for flow in &mut self.flows {
            flow.link.close();
            let gone = flow.client.allocated() && flow.client.stage() == Stage::Released;
            self.share.released += u64::from(gone);
            self.share.retransmissions += flow.client.retransmissions;
        }
        Ok(())
    }

    /// Goes on while there is such a flow, until `end` at most.
    fn step_while(&mut self, open: fn(&Flow) -> bool, end: u64) -> Result<(), Trouble> {
        while self.flows.iter().any(open) && self.clock.now() < end {
            match self.step(end.min(self.clock.now() + WAIT_NS_MAX)) {
                // One flow that fails says nothing of the others: they are counted at the end.
                Ok(()) | Err(Trouble::Turn { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Runs the timers that are due, then waits for datagrams until `until` and takes them.
    fn step(&mut self, until: u64) -> Result<(), Trouble> {
        let now = self.clock.now();
        if now >= self.control_at {
            self.run_timers(now)?;
        }
        let wait = until.min(self.control_at).saturating_sub(self.clock.now());
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = host::wait(&self.epoll, wait, &mut space).map_err(Trouble::Io)?;
        for event in events {
            let place = event.data.u64();
            let place = usize::try_from(place).expect("it was given as an index");
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                self.flows[place].flush(&self.epoll)?;
            }
            self.receive(place)?;
        }
        Ok(())
    }

    fn run_timers(&mut self, now: u64) -> Result<(), Trouble> {
        self.control_at = u64::MAX;
        let mut failed = None;
        for (place, flow) in self.flows.iter_mut().enumerate() {
            if flow.deadline() <= now {
                match flow.run_timers(now, &self.epoll, place) {
                    Ok(()) => {}
                    Err(trouble @ Trouble::Turn { .. }) => failed = failed.or(Some(trouble)),
                    Err(trouble) => return Err(trouble),
                }
            }
            self.control_at = self.control_at.min(flow.deadline());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes a burst from one link, and what it holds beyond: the kernel no longer shows that.
    fn receive(&mut self, place: usize) -> Result<(), Trouble> {
        let Self { plan, shared, clock, flows, buffer, share, load_start, sections, epoll, .. } =
            self;
        let flow = &mut flows[place];
        let mut burst = 0;
        while burst < BURST_PACKETS || flow.link.holds_message() {
            burst += 1;
            let now = clock.now();
            let length = match flow.link.receive(now, buffer) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(LinkError::Unreachable) => {
                    share.tally.unreachable += 1;
                    flow.client.unreachable();
                    flow.trouble().map_or(Ok(()), Err)?;
                    continue;
                }
                Err(error) => return Err(flow.gone(error, epoll)),
            };
            match flow.client.receive(now, &buffer[..length]) {
                Inbound::Data(data) => {
                    let time = now.saturating_sub(*load_start);
                    match payload::read(data, Leg::Back, plan.run, plan.payload_bytes) {
                        Returned::Intact(stamp) if !plan.has(&stamp) => {
                            sections.at(time).corrupted += 1;
                        }
                        Returned::Intact(stamp) if stamp.flow == flow.number => {
                            let latency = time.saturating_sub(stamp.due_ns);
                            let Stamp { sequence, due_ns, .. } = stamp;
                            if sections.arrived(&mut flow.arrivals, sequence, due_ns, latency) {
                                shared.arrived(latency);
                            }
                        }
                        Returned::Intact(stamp) => sections.at(stamp.due_ns).misdelivered += 1,
                        Returned::Corrupted => sections.at(time).corrupted += 1,
                        Returned::Foreign => share.tally.foreign += 1,
                    }
                }
                Inbound::Answer => flow.trouble().map_or(Ok(()), Err)?,
                Inbound::Foreign => share.tally.foreign += 1,
            }
        }
        flow.begin(clock.now());
        self.control_at = self.control_at.min(flow.deadline());
        flow.watch(epoll, place)
    }
}
