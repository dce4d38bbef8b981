//! The allocations that a flood goes through: their sockets stay open, and refreshes go on while
//! the kernel sends. Owns the control traffic; no flood packet passes here.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;

use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::host;
use crate::turn::client::{ClientSetup, Inbound, Stage, TurnClient};
use crate::turn::failure::TurnFailure;
use crate::turn::framing::Wrapper;

/// Allocations set up or given back at the same time: more would overflow a server's socket buffer.
const CONCURRENCY: usize = 32;
/// How long a wait is at most, so that a stop is noticed.
const WAIT_NS_MAX: u64 = 50 * MILLISECOND_NS;
/// How long the answers to Allocate requests are waited for when set-up ends early.
const SETTLE_NS: u64 = 500 * MILLISECOND_NS;
/// Sockets looked at after one wait.
const EVENTS: usize = 256;
/// Bytes of a packet that only tries the way: too short to be taken for one of the flood.
const PROBE_BYTES: usize = 4;

/// Why the clients cannot go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// One allocation failed.
    Turn {
        /// Its number, from 1.
        allocation: u32,
        /// Why.
        failure: TurnFailure,
    },
    /// This host failed.
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
struct Client {
    socket: UdpSocket,
    turn: TurnClient,
    has_data: bool,
}

/// An allocation's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Addresses {
    /// The client's end of the 5-tuple.
    pub(crate) client: SocketAddr,
    /// The relayed transport address.
    pub(crate) relayed: SocketAddr,
}

/// All clients of a run.
#[derive(Debug)]
pub(crate) struct Clients {
    clients: Vec<Client>,
    setup: Arc<ClientSetup>,
    clock: Clock,
    epoll: OwnedFd,
    buffer: Box<[u8]>,
    control_at: u64,
}

impl Clients {
    /// Opens `count` sockets to the server, in the calling thread's namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(
        setup: Arc<ClientSetup>,
        server: SocketAddr,
        count: u32,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let open = |place| {
            let any: SocketAddr = match server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(place), epoll::EventFlags::IN)?;
            Ok(Client { socket, turn: TurnClient::new(Arc::clone(&setup)), has_data: false })
        };
        let clients = (0..u64::from(count)).map(open).collect::<io::Result<_>>()?;
        let buffer = vec![0; 65_536].into_boxed_slice();
        Ok(Self { clients, setup, clock: Clock::start(), epoll, buffer, control_at: 0 })
    }

    /// Allocates and binds a channel for every client, until `ends` says so.
    ///
    /// # Errors
    /// An allocation is refused or stays without an answer.
    pub(crate) fn set_up(
        &mut self,
        ends: impl Fn() -> bool,
        progress: impl Fn(u64),
    ) -> Result<(), Trouble> {
        let (mut started, mut ready) = (0, 0);
        while ready < self.clients.len() && !ends() {
            let now = self.clock.now();
            while started < self.clients.len() && started - ready < CONCURRENCY {
                self.clients[started].turn.allocate(now);
                self.go_on(started, now)?;
                started += 1;
            }
            self.step()?;
            // All but the latest are ready: their predecessors need not be looked at again.
            let is_ready = |client: &Client| client.turn.stage() == Stage::Ready;
            while ready < started && is_ready(&self.clients[ready]) {
                ready += 1;
            }
            progress(ready as u64);
        }
        Ok(())
    }

    /// Sends a few bytes from the first client to the peer and back until both came through, so
    /// that everybody on the way knows his neighbours. `false`: they did not in time.
    ///
    /// # Errors
    /// The allocation is lost meanwhile, or this host fails.
    pub(crate) fn try_the_way(
        &mut self,
        peer: &UdpSocket,
        ends: impl Fn() -> bool,
    ) -> Result<bool, Trouble> {
        let mut wrapper = Wrapper::new(self.setup.framing, self.setup.peer, PROBE_BYTES);
        let deadline = self.clock.now() + 5 * SECOND_NS;
        let mut bytes = [0; PROBE_BYTES];
        while self.clock.now() < deadline && !ends() {
            let Some(first) = self.clients.first_mut() else { return Ok(true) };
            if std::mem::take(&mut first.has_data) {
                return Ok(true);
            }
            // Loss is what this finds out.
            let _ = first.socket.send(wrapper.wrap(|payload| payload.fill(0xA5)));
            self.step()?;
            while let Ok((_, from)) = peer.recv_from(&mut bytes) {
                let _ = peer.send_to(&bytes, from);
            }
            self.step()?;
        }
        Ok(false)
    }

    /// Answers, refreshes and retransmissions for up to 50 ms.
    ///
    /// # Errors
    /// An allocation is lost, or this host fails.
    pub(crate) fn step(&mut self) -> Result<(), Trouble> {
        let now = self.clock.now();
        if now >= self.control_at {
            self.run_timers(now)?;
        }
        let until = (now + WAIT_NS_MAX).min(self.control_at);
        let wait = until.saturating_sub(self.clock.now());
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = host::wait(&self.epoll, wait, &mut space).map_err(Trouble::Io)?;
        for event in events {
            let place = event.data.u64();
            self.receive(usize::try_from(place).expect("it was given as an index"))?;
        }
        Ok(())
    }

    /// Gives every allocation back; what does not answer is left.
    pub(crate) fn release(&mut self) {
        // An allocation whose answer is still on its way can be given back only after it.
        let until = self.clock.now() + SETTLE_NS;
        while self.count(Stage::Allocating) > 0 && self.clock.now() < until {
            if let Err(Trouble::Io(_)) = self.step() {
                return;
            }
        }
        let mut from = 0;
        while from < self.clients.len() {
            let now = self.clock.now();
            let to = self.clients.len().min(from + CONCURRENCY);
            for index in from..to {
                self.clients[index].turn.release(now);
                // One that does not leave is sent again.
                let _ = self.go_on(index, now);
            }
            let open = |client: &Client| client.turn.stage() == Stage::Releasing;
            while self.clients[from..to].iter().any(open) {
                match self.step() {
                    // One silent release says nothing of the others.
                    Ok(()) | Err(Trouble::Turn { .. }) => {}
                    Err(Trouble::Io(_)) => return,
                }
            }
            // A server that answers none of these will not answer the others.
            let silent = |client: &Client| client.turn.stage() == Stage::Failed;
            if to - from == CONCURRENCY && self.clients[from..to].iter().all(silent) {
                return;
            }
            from = to;
        }
    }

    /// The allocations' addresses, of clients that are ready.
    ///
    /// # Errors
    /// The kernel does not say a socket's address.
    pub(crate) fn addresses(&self) -> io::Result<Vec<Addresses>> {
        let of = |client: &Client| {
            let relayed = client.turn.relayed()?.socket();
            Some(client.socket.local_addr().map(|client| Addresses { client, relayed }))
        };
        self.clients.iter().filter_map(of).collect()
    }

    /// Clients in a stage.
    pub(crate) fn count(&self, stage: Stage) -> usize {
        self.clients.iter().filter(|client| client.turn.stage() == stage).count()
    }

    /// Allocations made, and of those the ones that the server confirmed to have deleted.
    pub(crate) fn made_and_deleted(&self) -> (u64, u64) {
        let made = self.clients.iter().filter(|client| client.turn.allocated());
        let deleted = made.clone().filter(|client| client.turn.stage() == Stage::Released);
        (made.count() as u64, deleted.count() as u64)
    }

    fn run_timers(&mut self, now: u64) -> Result<(), Trouble> {
        self.control_at = u64::MAX;
        let mut failed = None;
        for (index, client) in self.clients.iter_mut().enumerate() {
            self.control_at = client.go_on(now)?.min(self.control_at);
            failed = failed.or_else(|| client.trouble(index));
        }
        failed.map_or(Ok(()), Err)
    }

    fn go_on(&mut self, index: usize, now: u64) -> Result<(), Trouble> {
        self.control_at = self.clients[index].go_on(now)?.min(self.control_at);
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), Trouble> {
        let Self { clients, buffer, clock, control_at, .. } = self;
        let client = &mut clients[index];
        loop {
            let length = match client.socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    client.turn.unreachable();
                    client.trouble(index).map_or(Ok(()), Err)?;
                    continue;
                }
                Err(error) => return Err(Trouble::Io(error)),
            };
            match client.turn.receive(clock.now(), &buffer[..length]) {
                Inbound::Data(_) => client.has_data = true,
                Inbound::Answer => {
                    client.trouble(index).map_or(Ok(()), Err)?;
                    *control_at = client.go_on(clock.now())?.min(*control_at);
                }
                Inbound::Foreign => {}
            }
        }
    }
}

impl Client {
    /// Sends what is due; when the next thing is.
    fn go_on(&mut self, now: u64) -> Result<u64, Trouble> {
        if self.turn.deadline().is_some_and(|deadline| deadline <= now) {
            self.transmit(now)?;
        }
        Ok(self.turn.deadline().unwrap_or(u64::MAX))
    }

    fn transmit(&mut self, now: u64) -> Result<(), Trouble> {
        let Some(request) = self.turn.transmit(now) else { return Ok(()) };
        match self.socket.send(request) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.turn.unreachable();
                Ok(())
            }
            // A request that did not leave is sent again like one that was lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(Trouble::Io(error)),
        }
    }

    fn trouble(&self, index: usize) -> Option<Trouble> {
        let failure = self.turn.failure()?.clone();
        let allocation = u32::try_from(index + 1).unwrap_or(u32::MAX);
        Some(Trouble::Turn { allocation, failure })
    }
}
