//! A UDP socket that talks to more than one address, for what one connection cannot show: NAT
//! behaviour, path MTU, the peer's side of the relay. Judges nothing.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use relay_common::addr::canonical;
use rustix::event::PollFlags;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use crate::check::line::Reply;
use crate::check::message::{Answer, Request};
use crate::check::watch::{Trouble, Watch};

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// An unconnected socket.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: UdpSocket,
    watch: Watch,
}

/// Whether a datagram left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Departure {
    /// It did.
    Left,
    /// It is larger than what the interface takes in one piece.
    TooBig,
}

impl Probe {
    /// On an address of this host, any port.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(local: IpAddr, watch: &Watch) -> Result<Self, Trouble> {
        let socket = UdpSocket::bind((local, 0)).map_err(Trouble::Host)?;
        socket.set_nonblocking(true).map_err(Trouble::Host)?;
        Ok(Self { socket, watch: watch.clone() })
    }

    /// From now on datagrams leave whole, with Don't Fragment, whatever the kernel thinks that
    /// the path takes: what it has heard of the path would hide what is to be measured.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn forbid_fragments(&self, server: SocketAddr) -> Result<(), Trouble> {
        forbid_fragments(&self.socket, server)
    }

    /// This side's transport address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn local(&self) -> Result<SocketAddr, Trouble> {
        self.socket.local_addr().map_err(Trouble::Host)
    }

    /// Asks at an address; the answer, and where it comes from, which may be another one.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn ask(
        &self,
        to: SocketAddr,
        request: &Request,
    ) -> Result<(Reply, SocketAddr), Trouble> {
        let start = self.watch.clock.now();
        let end = start + self.watch.wait_ns;
        let mut distance = self.watch.rto_ns;
        let mut transmissions = 0;
        while self.watch.clock.now() < end {
            self.send(to, &request.bytes)?;
            transmissions += 1;
            let until = end.min(self.watch.clock.now() + distance);
            distance *= 2;
            while let Some((datagram, from)) = self.receive(until)? {
                let Some(answer) = Answer::to(request, &datagram) else { continue };
                let took = self.watch.clock.now() - start;
                let rtt_ns = (transmissions == 1).then_some(took);
                return Ok((Reply { answer, rtt_ns, transmissions }, from));
            }
        }
        Err(Trouble::Silence { waited_ns: self.watch.wait_ns, transmissions })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What the kernel says, but for [`Departure::TooBig`].
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) -> Result<Departure, Trouble> {
        match self.socket.send_to(datagram, to) {
            Ok(_) => Ok(Departure::Left),
            Err(error) if is_too_big(&error) => Ok(Departure::TooBig),
            // Full buffers, errors of earlier datagrams, and no way there look like loss; so does
            // an address of the server's making that no packet can go to.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(Departure::Left)
            }
            Err(error) => Err(Trouble::Host(error)),
        }
    }

    /// The next datagram, if one comes until then, and where it comes from.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn receive(&self, until: u64) -> Result<Option<(Vec<u8>, SocketAddr)>, Trouble> {
        // A flood of foreign datagrams must not hide the time. What woke a wait is taken.
        if self.watch.clock.now() > until {
            return Ok(None);
        }
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    buffer.truncate(length);
                    return Ok(Some((buffer, canonical(from))));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.watch.wait(&self.socket, PollFlags::IN, until)? {
                        return Ok(None);
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(Trouble::Host(error)),
            }
        }
    }
}

/// See [`Probe::forbid_fragments`].
///
/// # Errors
/// What the kernel says.
pub(crate) fn forbid_fragments(socket: &impl AsFd, server: SocketAddr) -> Result<(), Trouble> {
    match server {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE),
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE),
    }
    .map_err(|error| Trouble::Host(error.into()))
}

/// Whether a datagram did not leave because the interface is too small for it.
pub(crate) fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}
