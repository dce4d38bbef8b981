//! How a client and the server talk: UDP, TCP, TLS over TCP, or DTLS over UDP (RFC 8656 §3.1).
//! A [`Link`] is one nonblocking connection that carries whole STUN and ChannelData messages.
//! Knows no TURN beyond their framing (§12.5), reads no clock and waits for nothing: its owner
//! polls the descriptor.

mod dtls;
pub(crate) mod failure;
mod queue;
mod stream;
pub(crate) mod trust;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use serde::Serialize;

use crate::turn::transport::dtls::{DtlsConnection, DtlsSetup};
use crate::turn::transport::failure::LinkFailure;
use crate::turn::transport::stream::Stream;
use crate::turn::transport::trust::{Security, TrustArgs, TrustError};

/// How long a connection and its handshake may take, in first retransmission timeouts: as long as
/// an unanswered request over UDP (RFC 8489 §6.2.1), and Ti of §6.2.2 at the default RTO.
pub(crate) const PATIENCE_RTOS: u64 = 79;
/// Receive buffer asked of the kernel for each UDP socket, which may give less.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// What is between a client and the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// Plain UDP.
    Udp,
    /// Plain TCP.
    Tcp,
    /// TLS 1.2 or 1.3 over TCP.
    Tls,
    /// DTLS 1.2 or 1.3 over UDP.
    Dtls,
}

impl Transport {
    /// Whether it delivers by itself, so that requests are sent once (RFC 8489 §6.2.2).
    pub(crate) fn is_stream(self) -> bool {
        match self {
            Self::Tcp | Self::Tls => true,
            Self::Udp | Self::Dtls => false,
        }
    }

    /// Its name in texts.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Dtls => "DTLS",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What became of a message that was given to [`Link::send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It is under way, or waits behind others that are.
    Taken,
    /// There is no room for it now: it is forgotten.
    Full,
}

/// What went wrong on a link.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// ICMP: port, host or network unreachable, or a firewall rejects. The link lives on.
    Unreachable,
    /// The link is gone.
    Failed(LinkFailure),
    /// This host failed.
    Io(io::Error),
}

impl From<LinkFailure> for LinkError {
    fn from(failure: LinkFailure) -> Self {
        Self::Failed(failure)
    }
}

/// What the links to one server share.
#[derive(Clone, Debug)]
pub(crate) struct LinkSetup {
    server: SocketAddr,
    patience_ns: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Udp,
    Tcp,
    Tls(Security),
    Dtls(DtlsSetup),
}

impl LinkSetup {
    /// For links to `server`, which calls itself `host`. `rto_ns` is the first retransmission
    /// timeout: a connection and its handshake may take [`PATIENCE_RTOS`] of it.
    ///
    /// # Errors
    /// A secure transport, and nobody to trust.
    pub(crate) fn new(
        server: SocketAddr,
        transport: Transport,
        trust: &TrustArgs,
        host: &str,
        rto_ns: u64,
    ) -> Result<Self, TrustError> {
        let kind = match transport {
            Transport::Udp => Kind::Udp,
            Transport::Tcp => Kind::Tcp,
            Transport::Tls => Kind::Tls(Security::new(trust, host)?),
            Transport::Dtls => Kind::Dtls(DtlsSetup::new(Security::new(trust, host)?, rto_ns)?),
        };
        Ok(Self { server, patience_ns: rto_ns.saturating_mul(PATIENCE_RTOS), kind })
    }

    /// Opens a socket, on an address of this host if one is given. Nothing is sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(&self, local: Option<IpAddr>) -> io::Result<Link> {
        let Self { server, patience_ns, .. } = *self;
        Ok(match &self.kind {
            Kind::Udp => Link::Udp(UdpLink { socket: udp(server, local)?, server }),
            Kind::Tcp => Link::Stream(Box::new(Stream::open(server, local, None, patience_ns)?)),
            Kind::Tls(security) => {
                let security = Some(security.clone());
                Link::Stream(Box::new(Stream::open(server, local, security, patience_ns)?))
            }
            Kind::Dtls(setup) => {
                let socket = udp(server, local)?;
                Link::Dtls(Box::new(DtlsConnection::open(socket, server, setup)))
            }
        })
    }
}

/// A nonblocking UDP socket for one server.
fn udp(server: SocketAddr, local: Option<IpAddr>) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((local.unwrap_or_else(|| unspecified(server)), 0))?;
    socket.set_nonblocking(true)?;
    // Best effort: what the machine does not give shows as loss.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
    Ok(socket)
}

fn unspecified(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// One connection to the server.
///
/// The owner polls the descriptor for input, and for output while [`Link::wants_write`]; calls
/// [`Link::flush`] when it is writable, and [`Link::receive`] until it gives nothing when it is
/// readable or [`Link::holds_message`]; calls [`Link::run_timers`] at [`Link::deadline`].
#[derive(Debug)]
pub(crate) enum Link {
    /// Plain datagrams.
    Udp(UdpLink),
    /// TCP, with TLS or without.
    Stream(Box<Stream>),
    /// DTLS.
    Dtls(Box<DtlsConnection>),
}

/// A UDP socket and where it leads.
#[derive(Debug)]
pub(crate) struct UdpLink {
    socket: UdpSocket,
    server: SocketAddr,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(link) => link.socket.as_fd(),
            Self::Stream(stream) => stream.as_fd(),
            Self::Dtls(dtls) => dtls.as_fd(),
        }
    }
}

impl Link {
    /// Begins to connect.
    ///
    /// # Errors
    /// The link failed at once.
    pub(crate) fn connect(&mut self, now: u64) -> Result<(), LinkError> {
        match self {
            Self::Udp(link) => connect_udp(&link.socket, link.server),
            Self::Stream(stream) => stream.connect(now),
            Self::Dtls(dtls) => dtls.connect(now),
        }
    }

    /// Whether connection and handshake are done: messages can be sent.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Udp(_) => true,
            Self::Stream(stream) => stream.is_open(),
            Self::Dtls(dtls) => dtls.is_open(),
        }
    }

    /// Sends application data, if there is room for it.
    ///
    /// # Errors
    /// See [`LinkError`]; an ICMP error belongs to an earlier datagram, and this one did not leave.
    #[inline]
    pub(crate) fn send(&mut self, now: u64, message: &[u8]) -> Result<Sent, LinkError> {
        match self {
            Self::Udp(link) => send_datagram(&link.socket, message),
            Self::Stream(stream) => stream.send(message),
            Self::Dtls(dtls) => dtls.send(now, message),
        }
    }

    /// Sends a request: a stream takes it also when there is no room for application data, for
    /// nobody repeats it.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub(crate) fn send_request(&mut self, now: u64, message: &[u8]) -> Result<Sent, LinkError> {
        match self {
            Self::Stream(stream) => stream.send_request(message),
            Self::Udp(_) | Self::Dtls(_) => self.send(now, message),
        }
    }

    /// The next message, if there is one: its length in `buffer`, which holds any datagram.
    ///
    /// # Errors
    /// See [`LinkError`].
    #[inline]
    pub(crate) fn receive(
        &mut self,
        now: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, LinkError> {
        match self {
            Self::Udp(link) => receive_datagram(&link.socket, buffer),
            Self::Stream(stream) => stream.receive(buffer),
            Self::Dtls(dtls) => dtls.receive(now, buffer),
        }
    }

    /// Whether [`Link::receive`] gives something that the descriptor does not show.
    #[inline]
    pub(crate) fn holds_message(&self) -> bool {
        match self {
            Self::Udp(_) => false,
            Self::Stream(stream) => stream.holds_message(),
            Self::Dtls(dtls) => dtls.holds_message(),
        }
    }

    /// Whether to poll for output.
    #[inline]
    pub(crate) fn wants_write(&self) -> bool {
        match self {
            Self::Udp(_) | Self::Dtls(_) => false,
            Self::Stream(stream) => stream.wants_write(),
        }
    }

    /// Goes on when the descriptor is writable.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        match self {
            Self::Udp(_) | Self::Dtls(_) => Ok(()),
            Self::Stream(stream) => stream.flush(),
        }
    }

    /// When [`Link::run_timers`] has something to do next.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self {
            Self::Udp(_) => None,
            Self::Stream(stream) => stream.deadline(),
            Self::Dtls(dtls) => dtls.deadline(),
        }
    }

    /// Sends a handshake again, or gives it up.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub(crate) fn run_timers(&mut self, now: u64) -> Result<(), LinkError> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Stream(stream) => stream.run_timers(now),
            Self::Dtls(dtls) => dtls.run_timers(now),
        }
    }

    /// Says good-bye as the transport does, as far as it goes without waiting.
    pub(crate) fn close(&mut self) {
        match self {
            Self::Udp(_) => {}
            Self::Stream(stream) => stream.close(),
            Self::Dtls(dtls) => dtls.close(),
        }
    }
}

fn connect_udp(socket: &UdpSocket, server: SocketAddr) -> Result<(), LinkError> {
    socket.connect(server).map_err(|error| match error.kind() {
        kind @ (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            LinkFailure::NoWay { error: kind }.into()
        }
        _ => LinkError::Io(error),
    })
}

#[inline]
fn send_datagram(socket: &UdpSocket, datagram: &[u8]) -> Result<Sent, LinkError> {
    let mut result = socket.send(datagram);
    if result.as_ref().is_err_and(is_too_big) {
        // As a rule the error belongs to an earlier datagram, by which the kernel has learned the
        // path's MTU: this one it fragments. One that may not be fragmented fails again.
        result = socket.send(datagram);
    }
    match result {
        Ok(_) => Ok(Sent::Taken),
        Err(error) if is_full(&error) => Ok(Sent::Full),
        Err(error) if is_unreachable(&error) => Err(LinkError::Unreachable),
        Err(error) => Err(LinkError::Io(error)),
    }
}

#[inline]
fn receive_datagram(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>, LinkError> {
    loop {
        return match socket.recv(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                io::ErrorKind::Interrupted => continue,
                _ if is_unreachable(&error) => Err(LinkError::Unreachable),
                // A datagram that was sent is lost, and the next one fits.
                _ if is_too_big(&error) => continue,
                _ => Err(LinkError::Io(error)),
            },
        };
    }
}

/// The network or a firewall says that there is no way to the server.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    // What the kernel makes of the codes of ICMP's Destination Unreachable; the last two are a
    // firewall's on this host.
    let errors = [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::NOPROTOOPT,
        Errno::ACCESS,
        Errno::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// A datagram is larger than the path's MTU, as ICMP said or as the kernel knows.
fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// The kernel of this host has no room for a datagram now.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
