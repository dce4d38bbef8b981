//! DTLS over UDP: one association with the server, its handshake, and the messages in its records.
//! The library does the protocol; the certificate is judged here, as TLS judges it.

use std::collections::VecDeque;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use dimpl::{Config, Dtls, DtlsCertificate, Output};

use crate::clock::{Clock, MILLISECOND_NS};
use crate::turn::transport::failure::LinkFailure;
use crate::turn::transport::trust::{Security, TrustError};
use crate::turn::transport::{
    LinkError, PATIENCE_RTOS, Sent, Transport, connect_udp, receive_datagram, send_datagram,
};

/// Retransmissions of a flight, as many as of a request (RFC 8489 §6.2.1).
const FLIGHT_RETRIES: usize = 6;
/// A datagram of this size passes an IPv6 link with the usual MTU of 1500 bytes.
const DATAGRAM_BYTES: usize = 1452;
/// No record is larger (RFC 9147 §4), with room for its header.
const RECORD_BYTES_MAX: usize = 17 << 10;

/// What the DTLS links to one server share.
#[derive(Clone)]
pub(crate) struct DtlsSetup {
    security: Security,
    config: Arc<Config>,
    identity: DtlsCertificate,
    clock: Clock,
}

impl fmt::Debug for DtlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsSetup").field("security", &self.security).finish_non_exhaustive()
    }
}

impl DtlsSetup {
    /// With handshakes that begin to retransmit after `rto_ns`.
    ///
    /// # Errors
    /// The library does not take the settings.
    pub(crate) fn new(security: Security, rto_ns: u64) -> Result<Self, TrustError> {
        let config = Config::builder()
            .mtu(DATAGRAM_BYTES)
            .flight_start_rto(Duration::from_nanos(rto_ns))
            .flight_retries(FLIGHT_RETRIES)
            .handshake_timeout(Duration::from_nanos(rto_ns.saturating_mul(PATIENCE_RTOS)))
            .with_crypto_provider(dimpl::crypto::rust_crypto::default_provider())
            .build()
            .map_err(TrustError::Dtls)?;
        let (config, identity) = (Arc::new(config), identity()?);
        Ok(Self { security, config, identity, clock: Clock::start() })
    }
}

/// The library wants a certificate of the client. Few servers ask for it, and none for more than
/// that there is one: clients of TURN prove who they are with MESSAGE-INTEGRITY.
fn identity() -> Result<DtlsCertificate, TrustError> {
    let made = rcgen::generate_simple_self_signed(["relay-bench".to_owned()])
        .map_err(TrustError::Identity)?;
    let certificate = made.cert.der().to_vec();
    Ok(DtlsCertificate { certificate, private_key: made.signing_key.serialize_der() })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing was sent.
    Idle,
    /// No certificate was seen yet.
    Handshaking,
    /// The server's certificate is good.
    Trusted,
    /// Messages can be sent.
    Open,
}

/// What the library said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Polled {
    /// A message of this length, in the caller's buffer; there may be more.
    Message(usize),
    /// Nothing more until the deadline.
    Idle,
}

/// An association with the server.
pub(crate) struct DtlsConnection {
    socket: UdpSocket,
    server: SocketAddr,
    security: Security,
    clock: Clock,
    dtls: Box<Dtls>,
    stage: Stage,
    since: u64,
    deadline: Option<u64>,
    polled: Polled,
    /// Messages that came to light while something else was sent: none, as a rule.
    held: VecDeque<Vec<u8>>,
    /// Whether the kernel took the datagrams of the last poll.
    sent: Sent,
    out: Box<[u8]>,
}

impl fmt::Debug for DtlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsConnection")
            .field("server", &self.server)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl AsFd for DtlsConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl DtlsConnection {
    /// On a socket that is not connected yet.
    pub(crate) fn open(socket: UdpSocket, server: SocketAddr, setup: &DtlsSetup) -> Self {
        let config = Arc::clone(&setup.config);
        let mut dtls = Dtls::new_auto(config, setup.identity.clone(), setup.clock.at(0));
        dtls.set_active(true);
        Self {
            socket,
            server,
            security: setup.security.clone(),
            clock: setup.clock,
            dtls: Box::new(dtls),
            stage: Stage::Idle,
            since: 0,
            deadline: None,
            polled: Polled::Idle,
            held: VecDeque::new(),
            sent: Sent::Taken,
            out: vec![0; RECORD_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Sends the first flight.
    ///
    /// # Errors
    /// No way to the server.
    pub(crate) fn connect(&mut self, now: u64) -> Result<(), LinkError> {
        connect_udp(&self.socket, self.server)?;
        self.stage = Stage::Handshaking;
        self.since = now;
        self.run_timers(now)
    }

    /// Whether messages can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Sends a message in a record of its own.
    ///
    /// # Errors
    /// The association is gone.
    pub(crate) fn send(&mut self, now: u64, message: &[u8]) -> Result<Sent, LinkError> {
        self.advance(now)?;
        let sent = self.dtls.send_application_data(message);
        sent.map_err(|error| self.failed(now, &error))?;
        self.sent = Sent::Taken;
        self.drain(now)?;
        Ok(self.sent)
    }

    /// The next message.
    ///
    /// # Errors
    /// The association is gone, or did not come to be.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, LinkError> {
        if let Some(message) = self.held.pop_front() {
            let length = message.len().min(buffer.len());
            buffer[..length].copy_from_slice(&message[..length]);
            return Ok(Some(length));
        }
        loop {
            if self.polled != Polled::Idle
                && let Polled::Message(length) = self.poll(now, buffer)?
            {
                return Ok(Some(length));
            }
            let Some(length) = receive_datagram(&self.socket, buffer)? else { return Ok(None) };
            self.advance(now)?;
            let handled = self.dtls.handle_packet(&buffer[..length]);
            handled.map_err(|error| self.failed(now, &error))?;
            self.polled = Polled::Message(0);
        }
    }

    /// Whether a datagram that was read holds more messages.
    pub(crate) fn holds_message(&self) -> bool {
        self.polled != Polled::Idle || !self.held.is_empty()
    }

    /// When the library wants to do something.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Sends again what was not answered, or gives up.
    ///
    /// # Errors
    /// The handshake took too long.
    pub(crate) fn run_timers(&mut self, now: u64) -> Result<(), LinkError> {
        self.advance(now)?;
        self.drain(now)
    }

    /// Sends a close_notify.
    pub(crate) fn close(&mut self) {
        // Whoever leaves does not care whether it arrives.
        if self.is_open() && self.dtls.close().is_ok() {
            while let Output::Packet(datagram) = self.dtls.poll_output(&mut self.out) {
                let _ = send_datagram(&self.socket, datagram);
            }
        }
    }

    fn advance(&mut self, now: u64) -> Result<(), LinkError> {
        let advanced = self.dtls.handle_timeout(self.clock.at(now));
        advanced.map_err(|error| self.failed(now, &error).into())
    }

    /// Polls the library to the end, and keeps messages for [`DtlsConnection::receive`].
    fn drain(&mut self, now: u64) -> Result<(), LinkError> {
        let mut message = [0; RECORD_BYTES_MAX];
        while let Polled::Message(length) = self.poll(now, &mut message)? {
            self.held.push_back(message[..length].to_vec());
        }
        Ok(())
    }

    /// Does what the library wants until it has a message or nothing more.
    fn poll(&mut self, now: u64, buffer: &mut [u8]) -> Result<Polled, LinkError> {
        loop {
            match self.dtls.poll_output(&mut self.out) {
                Output::Packet(datagram) => match send_datagram(&self.socket, datagram)? {
                    Sent::Taken => {}
                    Sent::Full => self.sent = Sent::Full,
                },
                Output::PeerCert(certificate) => {
                    self.security.judge(certificate).map_err(|error| {
                        let name = self.security.host();
                        LinkFailure::Certificate { transport: Transport::Dtls, name, error }
                    })?;
                    self.stage = Stage::Trusted;
                }
                Output::Connected => {
                    assert_eq!(self.stage, Stage::Trusted, "a certificate comes before");
                    self.stage = Stage::Open;
                }
                Output::ApplicationData(message) => {
                    let length = message.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&message[..length]);
                    self.polled = Polled::Message(length);
                    return Ok(self.polled);
                }
                Output::CloseNotify => return Err(LinkFailure::Closed.into()),
                Output::Timeout(at) => {
                    // A deadline that has passed already is one for the next look.
                    let at = self.clock.reading(at);
                    self.deadline = Some(at.max(now + MILLISECOND_NS));
                    self.polled = Polled::Idle;
                    return Ok(self.polled);
                }
                // No key is exported, the buffer holds every record, and what a later version
                // of the library adds is not asked for.
                _ => {}
            }
        }
    }

    fn failed(&self, now: u64, error: &dimpl::Error) -> LinkFailure {
        use dimpl::UnexpectedMessageError::UnrecognizedAutoServerResponse;
        let transport = Transport::Dtls;
        match error {
            dimpl::Error::Timeout(_) => {
                let waited_ms = now.saturating_sub(self.since) / MILLISECOND_NS;
                LinkFailure::HandshakeTimeout { transport, waited_ms }
            }
            dimpl::Error::ConnectionClosed => LinkFailure::Closed,
            dimpl::Error::UnexpectedMessage(UnrecognizedAutoServerResponse) => {
                LinkFailure::NotSecure { transport }
            }
            error if self.is_open() => LinkFailure::Broken { transport, reason: error.to_string() },
            error => LinkFailure::Handshake { transport, reason: error.to_string() },
        }
    }
}
