//! The peer's socket, and the echo peer on it, which sends every packet of the tool back once.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::load::payload;

/// How long the peer waits before it looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Receive buffer asked of the kernel, which may give less.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// What passed through an echo peer.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    /// Datagrams received.
    pub(crate) received: AtomicU64,
    /// Datagrams sent back.
    pub(crate) echoed: AtomicU64,
    /// Datagrams that this host's kernel did not take.
    pub(crate) unsent: AtomicU64,
}

/// Opens a peer's socket; port 0 takes a free one.
///
/// # Errors
/// What the kernel says.
pub(crate) fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    // Best effort: the limit of the machine may be lower, and the report shows what is lost.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
    Ok(socket)
}

/// An echo peer.
#[derive(Debug)]
pub(crate) struct EchoPeer<'a> {
    socket: &'a UdpSocket,
}

impl<'a> EchoPeer<'a> {
    /// On a socket of [`open`].
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(socket: &'a UdpSocket) -> io::Result<Self> {
        socket.set_read_timeout(Some(STOP_CHECK))?;
        Ok(Self { socket })
    }

    /// Echoes until `stop`.
    ///
    /// # Errors
    /// What the kernel says about receiving; a failed send is counted.
    pub(crate) fn run(&self, stop: &AtomicBool, counts: &PeerCounts) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if passing(&error) => continue,
                Err(error) => return Err(error),
            };
            counts.received.fetch_add(1, Ordering::Relaxed);
            let datagram = &mut buffer[..length];
            if !payload::turn_round(datagram) {
                continue;
            }
            let counter = match self.socket.send_to(datagram, from) {
                Ok(_) => &counts.echoed,
                Err(_) => &counts.unsent,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Whether an error says nothing about the socket: time to look at the clock, or an ICMP answer to
/// an earlier packet.
pub(crate) fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
    )
}
