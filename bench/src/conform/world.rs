//! What every case finds: the server, the users, this host's addresses for peers, and patience.
//! A lost datagram is sent again, as RFC 8489 §6.2.1 has it; what must not come is waited for
//! until something that was sent later has come.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::event::PollFlags;

use super::case::{Verdict, shown, skip};
use super::wire::{Answer, Class, Draft, kind, method};
use crate::check::watch::{Trouble, Watch};
use crate::clock::{MILLISECOND_NS, SECOND_NS};
use crate::turn::credentials::Credentials;

/// Any datagram fits.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// How many ports that were used before the kernel may offer in a row.
const PORTS_TRIED_MAX: usize = 1000;
/// How long after something that was sent later, what must not come is still waited for.
const GRACE_NS: u64 = 150 * MILLISECOND_NS;
/// How often what must not have an effect is said, lest a lost datagram pass for one.
const SAID: usize = 3;

/// The server under test, and what there is to test it with.
pub(crate) struct World {
    /// Where it listens.
    pub(crate) server: SocketAddr,
    /// This host's address towards it.
    pub(crate) local: IpAddr,
    /// The user.
    pub(crate) user: Credentials,
    /// Another user, if there is one.
    pub(crate) other: Option<Credentials>,
    /// Where peers live, if the command line says so: IPv4 and IPv6.
    pub(crate) peers: [Option<IpAddr>; 2],
    /// How many allocations the user may have, if the command line says so.
    pub(crate) quota: Option<u32>,
    /// Clock, patience and the wish to end.
    pub(crate) watch: Watch,
    /// What was found out about the first family's peers: an address, or why there is none.
    pub(crate) reach: OnceCell<Result<IpAddr, String>>,
    /// The next transaction's number.
    pub(crate) next: Cell<u64>,
    /// Where sockets of this run have been.
    pub(crate) used: RefCell<HashSet<SocketAddr>>,
}

/// A socket of this host.
pub(crate) struct Line<'w> {
    world: &'w World,
    socket: UdpSocket,
}

/// What must not come, and whether it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// It came.
    Yes,
    /// It did not, though what was sent later did.
    No,
}

impl World {
    /// A fresh transaction identifier: random but for its last bytes, which count.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub(crate) fn transaction(&self) -> Result<[u8; 12], Verdict> {
        let mut id = [0; 12];
        getrandom::fill(&mut id)
            .map_err(|error| Verdict::Broken(anyhow::anyhow!("no random numbers: {error}")))?;
        let count = self.next.get();
        self.next.set(count + 1);
        id[8..].copy_from_slice(&count.to_be_bytes()[4..]);
        Ok(id)
    }

    /// A request that is not signed.
    ///
    /// # Errors
    /// As [`World::transaction`].
    pub(crate) fn draft(&self, method: u16) -> Result<Draft, Verdict> {
        Ok(Draft::request(method, self.transaction()?))
    }

    /// A socket towards the server.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn line(&self) -> Result<Line<'_>, Verdict> {
        self.line_at(self.local)
    }

    /// A socket on an address of this host, on a port that no case has had before: a server may
    /// take a while to forget what it deletes.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn line_at(&self, ip: IpAddr) -> Result<Line<'_>, Verdict> {
        for _ in 0..PORTS_TRIED_MAX {
            let socket = UdpSocket::bind((ip, 0)).map_err(|error| broken(ip, error))?;
            let addr = socket.local_addr().map_err(|error| broken(ip, error))?;
            if self.used.borrow_mut().insert(addr) {
                socket.set_nonblocking(true).map_err(|error| broken(ip, error))?;
                return Ok(Line { world: self, socket });
            }
        }
        Err(broken(ip, io::ErrorKind::AddrInUse.into()))
    }

    /// A socket that the server reaches as a peer.
    ///
    /// # Errors
    /// There is no address for it.
    pub(crate) fn peer(&self) -> Result<Line<'_>, Verdict> {
        match self.reach.get_or_init(|| Err("no peer was looked for".to_owned())) {
            Ok(ip) => self.line_at(*ip),
            Err(why) => skip(why.clone()),
        }
    }

    /// The address of such sockets.
    ///
    /// # Errors
    /// As [`World::peer`].
    pub(crate) fn peer_ip(&self) -> Result<IpAddr, Verdict> {
        Ok(self.peer()?.addr()?.ip())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The user wants the end.
    pub(crate) fn pause(&self, secs: u64) -> Result<(), Verdict> {
        let until = self.watch.clock.now() + secs * SECOND_NS;
        self.line()?.receive(until, |_, _| None::<()>).map(drop)
    }

    /// A socket that the server reaches as an IPv6 peer.
    ///
    /// # Errors
    /// There is no address for it.
    pub(crate) fn peer_v6(&self) -> Result<Line<'_>, Verdict> {
        match self.peers[1] {
            Some(ip) => self.line_at(ip),
            None => skip("no IPv6 address for peers is given (--peer6)"),
        }
    }
}

impl Line<'_> {
    /// Where it is, on this host.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn addr(&self) -> Result<SocketAddr, Verdict> {
        self.socket.local_addr().map_err(|error| broken("a socket", error))
    }

    /// Sends a datagram to the server.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Verdict> {
        self.send_to(bytes, self.world.server)
    }

    /// Sends a datagram. One that this host has no room for is lost like any other.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<(), Verdict> {
        match self.socket.send_to(bytes, to) {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(broken(to, error)),
        }
    }

    /// Waits until `until` at most for a datagram that `wanted` makes something of.
    ///
    /// # Errors
    /// What the kernel says, or the user wants the end.
    pub(crate) fn receive<T>(
        &self,
        until: u64,
        mut wanted: impl FnMut(&[u8], SocketAddr) -> Option<T>,
    ) -> Result<Option<T>, Verdict> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(found) = wanted(&buffer[..length], from) {
                        return Ok(Some(found));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.world.watch.wait(&self.socket, PollFlags::IN, until)? {
                        return Ok(None);
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(broken("a socket", error)),
            }
        }
    }

    /// Sends again and again, at growing distances, until `wanted` has come at `at`.
    ///
    /// # Errors
    /// What the kernel says, or the user wants the end.
    pub(crate) fn until_it_comes<T>(
        &self,
        at: &Line<'_>,
        mut send: impl FnMut() -> Result<(), Verdict>,
        mut wanted: impl FnMut(&[u8], SocketAddr) -> Option<T>,
    ) -> Result<Option<T>, Verdict> {
        let Watch { clock, wait_ns, rto_ns, .. } = self.world.watch;
        let (started, mut interval) = (clock.now(), rto_ns);
        loop {
            send()?;
            let end = started + wait_ns;
            let until = (clock.now() + interval).min(end);
            if let Some(found) = at.receive(until, &mut wanted)? {
                return Ok(Some(found));
            }
            if clock.now() >= end {
                return Ok(None);
            }
            interval *= 2;
        }
    }

    /// Asks the server and waits for the answer; `None` when there is none. It comes from where
    /// it was asked, or it does not count.
    ///
    /// # Errors
    /// What the kernel says, or the user wants the end.
    pub(crate) fn ask(&self, request: &Draft) -> Result<Option<Answer>, Verdict> {
        let server = self.world.server;
        let answers = |from| from == server;
        self.ask_at(request, server, answers).map(|found| found.map(|(answer, _)| answer))
    }

    /// As [`Line::ask`], of any address, with answers from any that `counts`.
    ///
    /// # Errors
    /// As [`Line::ask`].
    pub(crate) fn ask_at(
        &self,
        request: &Draft,
        to: SocketAddr,
        counts: impl Fn(SocketAddr) -> bool,
    ) -> Result<Option<(Answer, SocketAddr)>, Verdict> {
        let id = request.id();
        let send = || self.send_to(request.bytes(), to);
        self.until_it_comes(self, send, |bytes, from| {
            let answer = Answer::parse(bytes).filter(|answer| answer.id() == id)?;
            let answers = matches!(answer.class(), Class::Success | Class::Error);
            (answers && counts(from)).then_some((answer, from))
        })
    }

    /// Says something that must stay without an answer, and then asks for one: what came before
    /// it, and shortly after.
    ///
    /// # Errors
    /// What the kernel says; the server does not answer Binding requests.
    pub(crate) fn provokes(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Verdict> {
        for _ in 0..SAID {
            self.send(bytes)?;
        }
        let control = self.world.draft(method::BINDING)?;
        let mut heard = None;
        let send = || self.send(control.bytes());
        let answered = self.until_it_comes(self, send, |bytes, _| {
            let answer = Answer::parse(bytes);
            if answer.as_ref().is_some_and(|answer| answer.id() == control.id()) {
                return answer;
            }
            heard.get_or_insert_with(|| bytes.to_vec());
            None
        })?;
        if answered.is_none() {
            return Err(Verdict::Fail {
                expected: "an answer to the Binding request that followed".to_owned(),
                got: shown(None),
            });
        }
        let until = self.world.watch.clock.now() + GRACE_NS;
        let late = |bytes: &[u8], _| {
            let control = Answer::parse(bytes).is_some_and(|answer| answer.id() == control.id());
            (!control).then(|| bytes.to_vec())
        };
        match heard {
            Some(heard) => Ok(Some(heard)),
            None => self.receive(until, late),
        }
    }

    /// Sends what must not arrive, and what must, until the latter has arrived at `at`.
    ///
    /// # Errors
    /// What the kernel says; what must arrive does not.
    pub(crate) fn withholds(
        &self,
        at: &Line<'_>,
        mut forbidden: impl FnMut() -> Result<(), Verdict>,
        control: impl FnMut() -> Result<(), Verdict>,
        is_forbidden: impl Fn(&[u8], SocketAddr) -> bool,
        is_control: impl Fn(&[u8], SocketAddr) -> bool,
    ) -> Result<Came, Verdict> {
        for _ in 0..SAID {
            forbidden()?;
        }
        let mut came = Came::No;
        let found = self.until_it_comes(at, control, |bytes, from| {
            if is_forbidden(bytes, from) {
                came = Came::Yes;
            }
            is_control(bytes, from).then_some(())
        })?;
        if found.is_none() {
            return Err(Verdict::Fail {
                expected: "what is permitted arrives".to_owned(),
                got: "nothing".to_owned(),
            });
        }
        let until = self.world.watch.clock.now() + GRACE_NS;
        let late = at.receive(until, |bytes, from| is_forbidden(bytes, from).then_some(()))?;
        Ok(if late.is_some() { Came::Yes } else { came })
    }
}

/// The application data of a Data indication and where it comes from.
pub(crate) fn data_indication(bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let message = Answer::parse(bytes)?;
    let is_data = message.class() == Class::Indication && message.method() == method::DATA;
    let peer = message.address(kind::XOR_PEER_ADDRESS)?;
    let data = message.value(kind::DATA)?.to_vec();
    is_data.then_some((peer, data))
}

/// Number and application data of a ChannelData message.
pub(crate) fn channel_data(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let [a, b, c, d, rest @ ..] = bytes else { return None };
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    let data = rest.get(..length)?.to_vec();
    matches!(a, 0x40..=0x7F).then(|| (u16::from_be_bytes([*a, *b]), data))
}

/// A ChannelData message (RFC 8656 §12.4).
pub(crate) fn channel_message(number: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// A datagram is lost, or an earlier one was answered by ICMP: both pass.
fn is_passing(error: &io::Error) -> bool {
    crate::turn::transport::is_unreachable(error)
        || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

fn broken(what: impl std::fmt::Display, error: io::Error) -> Verdict {
    Verdict::Broken(anyhow::Error::new(error).context(format!("this host failed at {what}")))
}

impl From<Trouble> for Verdict {
    fn from(trouble: Trouble) -> Self {
        Self::Broken(trouble.into())
    }
}
