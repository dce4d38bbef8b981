//! A conversation with the server over any transport, one question at a time: waits for the
//! answer and sends a question again where the transport loses. Knows no methods.

use std::collections::VecDeque;
use std::net::SocketAddr;

use relay_common::wire::Demux;
use rustix::event::PollFlags;

use crate::check::message::{Answer, Request};
use crate::check::probe::{Departure, forbid_fragments, is_too_big};
use crate::check::watch::{Trouble, Watch};
use crate::turn::transport::{Link, LinkError, LinkSetup, Transport};

/// Bytes of the largest message.
const MESSAGE_BYTES_MAX: usize = 65_536;
/// Messages that are taken before time and stop are looked at again: a flood must not hide them.
const BURST_MESSAGES: usize = 256;
/// Messages that wait for [`Line::receive`]; older ones are forgotten.
const INBOX_MESSAGES_MAX: usize = 1024;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Line {
    link: Link,
    transport: Transport,
    watch: Watch,
    buffer: Box<[u8]>,
    inbox: VecDeque<Vec<u8>>,
}

/// An answer and what it took.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What the server said.
    pub(crate) answer: Answer,
    /// From the request to the answer, nanoseconds; `None` when it was sent more than once.
    pub(crate) rtt_ns: Option<u64>,
    /// How often the request was sent.
    pub(crate) transmissions: u32,
}

impl Line {
    /// Connects, with the handshake that the transport has.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn open(
        setup: &LinkSetup,
        transport: Transport,
        watch: &Watch,
    ) -> Result<Self, Trouble> {
        let link = setup.open(None).map_err(Trouble::Host)?;
        let buffer = vec![0; MESSAGE_BYTES_MAX].into_boxed_slice();
        let watch = watch.clone();
        let mut line = Self { link, transport, watch, buffer, inbox: VecDeque::new() };
        let start = line.watch.clock.now();
        line.link.connect(start).map_err(trouble)?;
        let end = start + line.watch.wait_ns;
        while !line.link.is_open() {
            if line.watch.clock.now() >= end {
                let waited_ns = line.watch.wait_ns;
                return Err(Trouble::Silence { waited_ns, transmissions: 0 });
            }
            line.turn(end)?;
        }
        Ok(line)
    }

    /// This side's transport address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn local(&self) -> Result<SocketAddr, Trouble> {
        let local = rustix::net::getsockname(&self.link).map_err(|e| Trouble::Host(e.into()))?;
        local.try_into().map_err(|e: rustix::io::Errno| Trouble::Host(e.into()))
    }

    /// Asks, and waits for the answer. Application data that comes meanwhile is kept.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, Trouble> {
        let start = self.watch.clock.now();
        let end = start + self.watch.wait_ns;
        let (mut next, mut distance) = (start, self.watch.rto_ns);
        let mut transmissions = 0;
        loop {
            let now = self.watch.clock.now();
            if now >= end {
                return Err(Trouble::Silence { waited_ns: now - start, transmissions });
            }
            if now >= next {
                self.link.send_request(now, &request.bytes).map_err(trouble)?;
                transmissions += 1;
                next = if self.transport.is_stream() { u64::MAX } else { now + distance };
                distance *= 2;
            }
            self.turn(next.min(end))?;
            let found = self.inbox.iter().position(|it| Answer::to(request, it).is_some());
            if let Some(bytes) = found.and_then(|place| self.inbox.remove(place))
                && let Some(answer) = Answer::to(request, &bytes)
            {
                let took = self.watch.clock.now() - start;
                let rtt_ns = (transmissions == 1).then_some(took);
                return Ok(Reply { answer, rtt_ns, transmissions });
            }
        }
    }

    /// Sends application data, which may get lost.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<Departure, Trouble> {
        match self.link.send(self.watch.clock.now(), message) {
            Err(LinkError::Io(error)) if is_too_big(&error) => Ok(Departure::TooBig),
            result => result.map(|_| Departure::Left).map_err(trouble),
        }
    }

    /// From now on datagrams leave whole, as [`crate::check::probe::Probe::forbid_fragments`] has
    /// it; a stream has its own ways.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn forbid_fragments(&self, server: SocketAddr) -> Result<(), Trouble> {
        match self.transport.is_stream() {
            true => Ok(()),
            false => forbid_fragments(&self.link, server),
        }
    }

    /// The next message that is no answer, if one comes until then.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn receive(&mut self, until: u64) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(Some(message));
            }
            if self.watch.clock.now() >= until {
                return Ok(None);
            }
            self.turn(until)?;
        }
    }

    /// From now on nothing interrupts it, and it waits no longer than that: for the deletion of
    /// what the server would keep otherwise.
    pub(crate) fn hurry(&mut self, wait_ns: u64) {
        self.watch.stop = std::sync::Arc::default();
        self.watch.wait_ns = wait_ns;
    }

    /// Waits until `until` at most, and takes what came.
    fn turn(&mut self, until: u64) -> Result<(), Trouble> {
        let until = until.min(self.link.deadline().unwrap_or(u64::MAX));
        if !self.link.holds_message() {
            let output = if self.link.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            self.watch.wait(&self.link, PollFlags::IN | output, until)?;
        }
        let now = self.watch.clock.now();
        if self.link.deadline().is_some_and(|deadline| deadline <= now) {
            self.link.run_timers(now).map_err(trouble)?;
        }
        if self.link.wants_write() {
            self.link.flush().map_err(trouble)?;
        }
        for _ in 0..BURST_MESSAGES {
            let received = self.link.receive(now, &mut self.buffer).map_err(trouble)?;
            let Some(length) = received else { break };
            // What is neither STUN nor ChannelData is nobody's.
            if Demux::of(&self.buffer[..length]) != Demux::Other {
                if self.inbox.len() == INBOX_MESSAGES_MAX {
                    self.inbox.pop_front();
                }
                self.inbox.push_back(self.buffer[..length].to_vec());
            }
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.link.close();
    }
}

fn trouble(error: LinkError) -> Trouble {
    match error {
        LinkError::Unreachable => Trouble::Unreachable,
        LinkError::Failed(failure) => Trouble::Link(failure),
        LinkError::Io(error) => Trouble::Host(error),
    }
}
