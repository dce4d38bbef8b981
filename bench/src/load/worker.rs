//! One thread's share of a run: its sockets, its part of the schedule, its sums.
//! Sets up, sends and receives, drains, releases. Once set up it does not allocate.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use rustix::event::{Timespec, epoll};

use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::load::account::{Tally, Window};
use crate::load::payload::{self, Returned, Stamp};
use crate::load::plan::{Plan, Share, Shared, Trouble};
use crate::load::schedule::Slot;
use crate::turn::client::{Inbound, Stage, TurnClient};
use crate::turn::framing::Wrapper;

/// Allocations one thread sets up at the same time: more would overflow a server's socket buffer.
const SETUP_CONCURRENCY: usize = 32;
/// Packets sent, or taken from one socket, before the other direction has its turn.
const BURST_PACKETS: usize = 32;
/// Sockets looked at after one wait.
const EVENTS: usize = 256;
/// How long a wait is at most, so that a stop is noticed.
const WAIT_NS_MAX: u64 = 50 * MILLISECOND_NS;
/// Receive buffer asked of the kernel for each client socket, which may give less.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Seconds of traffic that the duplicate window of a flow holds.
const WINDOW_SECS: u64 = 4;

#[derive(Debug)]
struct Flow {
    number: u32,
    socket: UdpSocket,
    client: TurnClient,
    window: Window,
}

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
            .enumerate()
            .map(|(place, number)| Flow::open(plan, number, place, &epoll))
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
            share: Share {
                tally: Tally::new(),
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
                self.flows[started].client.allocate(now);
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
        while self.share.tally.lost() > 0 && self.clock.now() < end {
            self.step(end.min(self.clock.now() + WAIT_NS_MAX))?;
        }
        Ok(())
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
            self.watch_for_silence()?;
        }
        Ok(())
    }

    fn watch_for_silence(&self) -> Result<(), Trouble> {
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
        let tally = &mut self.share.tally;
        tally.lateness_ns.saturating_record(now.saturating_sub(self.load_start + slot.due_ns));
        let socket = &self.flows[place].socket;
        let mut result = socket.send(datagram);
        if is_refused(&result) {
            // The error belongs to an earlier datagram, and reading it cleared it.
            tally.unreachable += 1;
            result = socket.send(datagram);
        }
        match result {
            Ok(_) => {
                tally.sent += 1;
                self.shared.sent.fetch_add(1, Ordering::Relaxed);
                self.unanswered_since.get_or_insert(now);
            }
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {
                tally.unsent += 1;
            }
            Err(error) => return Err(Trouble::Io(error)),
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), Trouble> {
        let now = self.clock.now();
        self.control_at = now;
        for flow in &mut self.flows {
            self.share.allocated += u64::from(flow.client.allocated());
            flow.client.release(now);
        }
        let open = |flow: &Flow| flow.client.stage() == Stage::Releasing;
        while self.flows.iter().any(open) {
            match self.step(self.clock.now() + WAIT_NS_MAX) {
                // One silent release says nothing of the others: they are counted at the end.
                Ok(()) | Err(Trouble::Turn { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        for flow in &self.flows {
            let gone = flow.client.allocated() && flow.client.stage() == Stage::Released;
            self.share.released += u64::from(gone);
            self.share.retransmissions += flow.client.retransmissions;
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
        let timeout = Timespec {
            tv_sec: i64::try_from(wait / SECOND_NS).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(wait % SECOND_NS).unwrap_or(0),
        };
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events: &[epoll::Event] = match epoll::wait(&self.epoll, &mut space, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => &[],
            Err(error) => return Err(Trouble::Io(error.into())),
        };
        for event in events {
            let place = event.data.u64();
            self.receive(usize::try_from(place).expect("it was given as an index"))?;
        }
        Ok(())
    }

    fn run_timers(&mut self, now: u64) -> Result<(), Trouble> {
        self.control_at = u64::MAX;
        let mut failed = None;
        for flow in &mut self.flows {
            if flow.client.deadline().is_some_and(|deadline| deadline <= now) {
                flow.transmit(now)?;
                failed = failed.or(flow.trouble());
            }
            self.control_at = self.control_at.min(flow.client.deadline().unwrap_or(u64::MAX));
        }
        failed.map_or(Ok(()), Err)
    }

    fn receive(&mut self, place: usize) -> Result<(), Trouble> {
        let Self { plan, shared, clock, flows, buffer, share, load_start, .. } = self;
        let flow = &mut flows[place];
        for _ in 0..BURST_PACKETS {
            let length = match flow.socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    share.tally.unreachable += 1;
                    flow.client.unreachable();
                    flow.trouble().map_or(Ok(()), Err)?;
                    continue;
                }
                Err(error) => return Err(Trouble::Io(error)),
            };
            let now = clock.now();
            match flow.client.receive(now, &buffer[..length]) {
                Inbound::Data(data) => match payload::read(data, plan.run, plan.payload_bytes) {
                    Returned::Intact(stamp) if stamp.flow == flow.number => {
                        let arrival = flow.window.arrive(stamp.sequence);
                        share.tally.arrived(arrival, stamp.due_ns, now - *load_start);
                        self.unanswered_since = None;
                        shared.delivered.fetch_add(1, Ordering::Relaxed);
                    }
                    Returned::Intact(_) => share.tally.misdelivered += 1,
                    Returned::Corrupted => share.tally.corrupted += 1,
                    Returned::Foreign => share.tally.foreign += 1,
                },
                Inbound::Answer => {
                    self.control_at =
                        self.control_at.min(flow.client.deadline().unwrap_or(u64::MAX));
                    flow.trouble().map_or(Ok(()), Err)?;
                }
                Inbound::Foreign => share.tally.foreign += 1,
            }
        }
        Ok(())
    }
}

impl Flow {
    fn open(plan: &Plan, number: u32, place: usize, epoll: &OwnedFd) -> io::Result<Self> {
        let any: SocketAddr = match plan.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(plan.server)?;
        socket.set_nonblocking(true)?;
        // Best effort: what the machine does not give shows as loss.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(epoll, &socket, data, epoll::EventFlags::IN)?;
        let window = Window::new(u64::from(plan.rate) * WINDOW_SECS);
        Ok(Self { number, socket, client: TurnClient::new(Arc::clone(&plan.client)), window })
    }

    fn transmit(&mut self, now: u64) -> Result<(), Trouble> {
        let Some(request) = self.client.transmit(now) else { return Ok(()) };
        match self.socket.send(request) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.client.unreachable();
                Ok(())
            }
            // A request that did not leave is sent again like one that was lost.
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => Err(Trouble::Io(error)),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let failure = self.client.failure()?.clone();
        Some(Trouble::Turn { flow: self.number, failure })
    }
}

fn is_refused(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The kernel of this host has no room for a datagram now.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
