//! Opens the UDP sockets: listening ones, shared by the shards, and relayed ones.
#![allow(unsafe_code, reason = "IP_RECVTTL has no safe wrapper")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Receive and send buffer of a listening socket, bytes; the kernel caps it at
/// `net.core.rmem_max` and `wmem_max`.
const LISTEN_BUFFER_BYTES: usize = 4 << 20;

/// Whether several sockets share the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// One socket of each shard; the kernel keeps a 5-tuple on one of them (SO_REUSEPORT).
    Shards,
    /// This socket alone: binding fails when anybody else has the address.
    Exclusive,
}

/// Opens a socket bound to `addr` that tells hop limit and traffic class of what arrives.
///
/// # Errors
/// The address is in use or not on this machine, the port is privileged, descriptors are short.
pub(crate) fn bind(addr: SocketAddr, sharing: Sharing) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if sharing == Sharing::Shards {
        socket.set_reuse_port(true)?;
        // A smaller buffer than asked for is no error: `net.core.*mem_max` is the operator's.
        let _ = socket.set_recv_buffer_size(LISTEN_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(LISTEN_BUFFER_BYTES);
    }
    match addr.ip() {
        IpAddr::V4(_) => {
            socket.set_recv_tos_v4(true)?;
            receive_ttl(&socket)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_recv_tclass_v6(true)?;
            socket.set_recv_hoplimit_v6(true)?;
        }
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

const INT_BYTES: libc::socklen_t = 4;
const _: () = assert!(INT_BYTES as usize == size_of::<libc::c_int>());

fn receive_ttl(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option's value is the `int` that `on` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_RECVTTL,
            (&raw const on).cast(),
            INT_BYTES,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
