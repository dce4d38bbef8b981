//! One allocation of a run: its link, its client, and what epoll shows of it.
//! Judges no application data.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;

use crate::load::account::Arrivals;
use crate::load::plan::{Plan, Trouble};
use crate::turn::client::{Stage, TurnClient};
use crate::turn::failure::TurnFailure;
use crate::turn::transport::failure::LinkFailure;
use crate::turn::transport::{Link, LinkError, Sent};

/// An allocation, and the packets of it.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Its number, 0-based over the whole run.
    pub(crate) number: u32,
    /// The connection to the server.
    pub(crate) link: Link,
    /// What is said over it.
    pub(crate) client: TurnClient,
    /// What came back.
    pub(crate) arrivals: Arrivals,
    /// Packets that were due.
    pub(crate) offered: u64,
    /// What epoll was asked for; nothing before the link connects and after it failed.
    watched: Option<epoll::EventFlags>,
}

impl Flow {
    /// Opens its socket. Nothing is sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(plan: &Plan, number: u32) -> io::Result<Self> {
        Ok(Self {
            number,
            link: plan.links.open(None)?,
            client: TurnClient::new(Arc::clone(&plan.client)),
            arrivals: Arrivals::new(plan.window_packets()),
            offered: 0,
            watched: None,
        })
    }

    /// Begins to connect; `place` is what epoll gives back for it.
    ///
    /// # Errors
    /// The link failed, or this host did.
    pub(crate) fn connect(
        &mut self,
        now: u64,
        epoll: &OwnedFd,
        place: usize,
    ) -> Result<(), Trouble> {
        self.link.connect(now).map_err(|error| self.gone(error, epoll))?;
        let flags = self.flags();
        epoll::add(epoll, &self.link, event_data(place), flags).map_err(host)?;
        self.watched = Some(flags);
        self.begin(now);
        Ok(())
    }

    /// Allocates, as soon as the link carries messages.
    pub(crate) fn begin(&mut self, now: u64) {
        if self.client.stage() == Stage::Idle && self.link.is_open() {
            self.client.allocate(now);
        }
    }

    /// Goes on when the link is writable.
    ///
    /// # Errors
    /// The link failed.
    pub(crate) fn flush(&mut self, epoll: &OwnedFd) -> Result<(), Trouble> {
        self.link.flush().map_err(|error| self.gone(error, epoll))
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The link or the client failed, or this host did.
    pub(crate) fn run_timers(
        &mut self,
        now: u64,
        epoll: &OwnedFd,
        place: usize,
    ) -> Result<(), Trouble> {
        if self.link.deadline().is_some_and(|deadline| deadline <= now) {
            self.link.run_timers(now).map_err(|error| self.gone(error, epoll))?;
            self.begin(now);
        }
        if self.client.deadline().is_some_and(|deadline| deadline <= now) {
            self.transmit(now, epoll)?;
            self.trouble().map_or(Ok(()), Err)?;
        }
        self.watch(epoll, place)
    }

    fn transmit(&mut self, now: u64, epoll: &OwnedFd) -> Result<(), Trouble> {
        let Some(request) = self.client.transmit(now) else { return Ok(()) };
        match self.link.send_request(now, request) {
            // A request that did not leave is sent again like one that was lost.
            Ok(Sent::Taken | Sent::Full) => Ok(()),
            Err(LinkError::Unreachable) => {
                self.client.unreachable();
                Ok(())
            }
            Err(error) => Err(self.gone(error, epoll)),
        }
    }

    /// When the next timer runs out. A link that is not looked at has none: what is left of it
    /// after a failure would be due for ever.
    pub(crate) fn deadline(&self) -> u64 {
        let never = u64::MAX;
        if self.watched.is_none() {
            return never;
        }
        self.link.deadline().unwrap_or(never).min(self.client.deadline().unwrap_or(never))
    }

    /// Whether the link connects or is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.watched.is_some()
    }

    fn flags(&self) -> epoll::EventFlags {
        match self.link.wants_write() {
            true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            false => epoll::EventFlags::IN,
        }
    }

    /// Asks epoll for what the link waits for now.
    ///
    /// # Errors
    /// This host failed.
    pub(crate) fn watch(&mut self, epoll: &OwnedFd, place: usize) -> Result<(), Trouble> {
        let flags = self.flags();
        if self.watched.is_some_and(|watched| watched != flags) {
            epoll::modify(epoll, &self.link, event_data(place), flags).map_err(host)?;
            self.watched = Some(flags);
        }
        Ok(())
    }

    /// What an error of the link is for the run. A link that failed is not looked at any more.
    pub(crate) fn gone(&mut self, error: LinkError, epoll: &OwnedFd) -> Trouble {
        let failure = match error {
            LinkError::Io(error) => return Trouble::Io(error),
            LinkError::Failed(failure) => failure,
            LinkError::Unreachable => LinkFailure::Refused,
        };
        if self.watched.take().is_some() {
            // It cannot fail for a descriptor that was added, and nothing depends on it.
            let _ = epoll::delete(epoll, &self.link);
        }
        self.client.disconnected(failure.clone());
        Trouble::Turn { flow: self.number, failure: TurnFailure::Link(failure) }
    }

    /// Why the client failed, if it did.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let failure = self.client.failure()?.clone();
        Some(Trouble::Turn { flow: self.number, failure })
    }
}

fn event_data(place: usize) -> epoll::EventData {
    epoll::EventData::new_u64(place as u64)
}

fn host(error: rustix::io::Errno) -> Trouble {
    Trouble::Io(error.into())
}
