//! TCP, and TLS over it: one connection, its handshake, and the messages in its bytes.
//! Judges no certificate itself and knows no request from another.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use relay_common::wire::Demux;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::ClientConnection;

use crate::clock::MILLISECOND_NS;
use crate::turn::transport::failure::LinkFailure;
use crate::turn::transport::queue::{Incoming, Outgoing, padding};
use crate::turn::transport::trust::Security;
use crate::turn::transport::{LinkError, Sent, Transport};

/// Application data that waits for the kernel's send buffer, bytes; what comes on top is not
/// sent. Enough for the longest message, little enough that a stuck connection shows.
const QUEUE_BYTES_MAX: usize = 128 << 10;
/// Bytes taken from the socket at once.
const READ_BYTES: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Connecting { since: u64 },
    Handshaking { since: u64 },
    Open,
}

/// A connection over TCP.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    server: SocketAddr,
    patience_ns: u64,
    stage: Stage,
    security: Option<Security>,
    tls: Option<Box<ClientConnection>>,
    incoming: Incoming,
    outgoing: Outgoing,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Opens a socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(
        server: SocketAddr,
        local: Option<IpAddr>,
        security: Option<Security>,
        patience_ns: u64,
    ) -> io::Result<Self> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(local) = local {
            rustix::net::bind(&socket, &SocketAddr::new(local, 0))?;
        }
        // A packet leaves when it is due, and does not wait for another.
        sockopt::set_tcp_nodelay(&socket, true)?;
        Ok(Self {
            socket: socket.into(),
            server,
            patience_ns,
            stage: Stage::Idle,
            security,
            tls: None,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
        })
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// The kernel says no at once.
    pub(crate) fn connect(&mut self, now: u64) -> Result<(), LinkError> {
        self.stage = Stage::Connecting { since: now };
        match rustix::net::connect(&self.socket, &self.server) {
            Ok(()) => self.connected(),
            Err(Errno::INPROGRESS) => Ok(()),
            Err(error) => Err(unconnected(error)),
        }
    }

    /// Whether messages can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Sends application data, unless too much waits already.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<Sent, LinkError> {
        if self.outgoing.len() + message.len() > QUEUE_BYTES_MAX {
            return Ok(Sent::Full);
        }
        self.send_request(message)
    }

    /// Sends a message, however much waits.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn send_request(&mut self, message: &[u8]) -> Result<Sent, LinkError> {
        // STUN messages are multiples of four by themselves.
        let padding = match Demux::of(message) {
            Demux::ChannelData => padding(message),
            Demux::Stun | Demux::Other => &[],
        };
        match &mut self.tls {
            None => {
                let back = self.outgoing.back();
                back.extend_from_slice(message);
                back.extend_from_slice(padding);
            }
            Some(tls) => {
                let parts = [io::IoSlice::new(message), io::IoSlice::new(padding)];
                let taken = tls.writer().write_vectored(&parts).map_err(gone)?;
                assert_eq!(taken, message.len() + padding.len(), "rustls is emptied each time");
            }
        }
        self.flush()?;
        Ok(Sent::Taken)
    }

    /// The next message, from what was read before or from the socket.
    ///
    /// # Errors
    /// The connection is gone, or carries no TURN.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, LinkError> {
        if matches!(self.stage, Stage::Idle | Stage::Connecting { .. }) {
            return Ok(None);
        }
        loop {
            if let Some(length) = self.incoming.take(buffer)? {
                return Ok(Some(length));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Whether a whole message was read and not received yet.
    pub(crate) fn holds_message(&self) -> bool {
        self.incoming.holds_message()
    }

    /// Whether bytes wait for the socket, or its connection is under way.
    pub(crate) fn wants_write(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. }) || self.outgoing.len() > 0
    }

    /// Goes on when the socket is writable.
    ///
    /// # Errors
    /// The connection did not come to be, or is gone.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        if matches!(self.stage, Stage::Connecting { .. }) {
            match sockopt::socket_error(&self.socket).map_err(host)? {
                Ok(()) => return self.connected(),
                Err(error) => return Err(unconnected(error)),
            }
        }
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(self.outgoing.back()).map_err(LinkError::Io)?;
            }
        }
        self.outgoing.flush(&mut self.socket).map_err(gone)
    }

    /// When the connection or its handshake is given up.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self.stage {
            Stage::Idle | Stage::Open => None,
            Stage::Connecting { since } | Stage::Handshaking { since } => {
                Some(since + self.patience_ns)
            }
        }
    }

    /// Gives up what took too long.
    ///
    /// # Errors
    /// It did.
    pub(crate) fn run_timers(&mut self, now: u64) -> Result<(), LinkError> {
        let late = |since| now.saturating_sub(since) >= self.patience_ns;
        let waited_ms = |since| (now - since) / MILLISECOND_NS;
        match self.stage {
            Stage::Connecting { since } if late(since) => {
                Err(LinkFailure::ConnectTimeout { waited_ms: waited_ms(since) }.into())
            }
            Stage::Handshaking { since } if late(since) => {
                let waited_ms = waited_ms(since);
                Err(LinkFailure::HandshakeTimeout { transport: Transport::Tls, waited_ms }.into())
            }
            Stage::Connecting { .. } | Stage::Handshaking { .. } | Stage::Idle | Stage::Open => {
                Ok(())
            }
        }
    }

    /// Ends TLS in order; TCP ends with the socket.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Whoever leaves does not care whether it arrives.
            let _ = self.flush();
        }
    }

    /// TCP is connected: TLS begins, if it is asked for.
    fn connected(&mut self) -> Result<(), LinkError> {
        let (Some(security), Stage::Connecting { since }) = (&self.security, self.stage) else {
            self.stage = Stage::Open;
            return Ok(());
        };
        let tls = ClientConnection::new(security.tls.clone(), security.name.clone())
            .map_err(|error| self.unsecured(error))?;
        self.tls = Some(Box::new(tls));
        self.stage = Stage::Handshaking { since };
        self.flush()
    }

    /// Takes what is there now; whether there was anything.
    fn read(&mut self) -> Result<bool, LinkError> {
        if self.tls.is_some() {
            return self.read_tls();
        }
        let mut bytes = [0; READ_BYTES];
        match read_some(&mut self.socket, &mut bytes)? {
            None => Ok(false),
            Some(0) => Err(LinkFailure::Closed.into()),
            Some(length) => {
                self.incoming.push(&bytes[..length]);
                Ok(true)
            }
        }
    }

    fn read_tls(&mut self) -> Result<bool, LinkError> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        let handshaking = tls.is_handshaking();
        match tls.read_tls(&mut self.socket) {
            Ok(0) if handshaking => return Err(LinkFailure::HandshakeClosed.into()),
            Ok(0) => return Err(LinkFailure::Closed.into()),
            Ok(_) => {}
            Err(error) if is_not_now(&error) => return Ok(false),
            Err(error) if handshaking && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(LinkFailure::HandshakeClosed.into());
            }
            Err(error) => return Err(gone(error)),
        }
        if let Err(error) = tls.process_new_packets() {
            // The alert that says why is for the server; nobody waits for it.
            let _ = self.flush();
            return Err(self.unsecured(error).into());
        }
        let mut bytes = [0; READ_BYTES];
        let mut ended = false;
        while let Some(length) = read_some(&mut tls.reader(), &mut bytes)? {
            if length == 0 {
                ended = true;
                break;
            }
            self.incoming.push(&bytes[..length]);
        }
        if !tls.is_handshaking() {
            self.stage = Stage::Open;
        }
        if ended && !self.holds_message() {
            return Err(LinkFailure::Closed.into());
        }
        self.flush()?;
        Ok(true)
    }

    fn unsecured(&self, error: rustls::Error) -> LinkFailure {
        let transport = Transport::Tls;
        match error {
            rustls::Error::InvalidCertificate(error) => {
                let name = self.security.as_ref().map(Security::host).unwrap_or_default();
                LinkFailure::Certificate { transport, name, error }
            }
            other if self.is_open() => LinkFailure::Broken { transport, reason: other.to_string() },
            rustls::Error::InvalidMessage(_) => LinkFailure::NotSecure { transport },
            other => LinkFailure::Handshake { transport, reason: other.to_string() },
        }
    }
}

/// What a reader has now; `None` when it has nothing yet.
fn read_some(reader: &mut impl io::Read, bytes: &mut [u8]) -> Result<Option<usize>, LinkError> {
    match reader.read(bytes) {
        Ok(length) => Ok(Some(length)),
        Err(error) if is_not_now(&error) => Ok(None),
        // A peer that ends TCP without ending TLS first.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
        Err(error) => Err(gone(error)),
    }
}

/// Nothing is there, or a signal came: the descriptor shows when to look again.
fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn host(error: Errno) -> LinkError {
    LinkError::Io(error.into())
}

fn unconnected(error: Errno) -> LinkError {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET => LinkFailure::Refused.into(),
        Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS => {
            LinkFailure::NoWay { error: io::Error::from(error).kind() }.into()
        }
        other => host(other),
    }
}

fn gone(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LinkFailure::Reset.into(),
        kind @ (io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable) => LinkFailure::NoWay { error: kind }.into(),
        _ => LinkError::Io(error),
    }
}
