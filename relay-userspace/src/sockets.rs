//! Opens the UDP sockets: listening ones, shared by the shards, and relayed ones. Reads the ICMP
//! errors that a relayed one is told, and sends the datagram that must not be fragmented.
#![allow(unsafe_code, reason = "IP_RECVTTL, IP_RECVERR and the like have no safe wrapper")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::{io, mem};

use relay_common::addr::Family;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::ring::{self, CONTROL_BYTES, IpFields, NAME_BYTES, Queued};

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
            set(&socket, (libc::SOL_IP, libc::IP_RECVTTL), 1)?;
            // The DF of what came in cannot be seen here, so none is set (RFC 8656 §14, alternate
            // behaviour): what is too big for a link is fragmented, by us or by a router. A path
            // MTU that an ICMP message claims is not taken over, but told to the client.
            let option = (libc::SOL_IP, libc::IP_MTU_DISCOVER);
            set(&socket, option, libc::IP_PMTUDISC_OMIT)?;
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

/// Whether ICMP errors about what a socket sent are kept for [`next_error`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IcmpErrors {
    /// They are. The socket's next use then fails with the last one, once.
    Kept,
    /// They are not, and those that were kept are forgotten.
    Ignored,
}

/// Sets what becomes of ICMP errors; a new socket ignores them.
///
/// # Errors
/// None for a UDP socket.
pub(crate) fn set_icmp_errors(socket: &OwnedFd, errors: IcmpErrors) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let option = match socket.domain()? {
        Domain::IPV6 => (libc::SOL_IPV6, libc::IPV6_RECVERR),
        _ => (libc::SOL_IP, libc::IP_RECVERR),
    };
    set(&socket, option, libc::c_int::from(errors == IcmpErrors::Kept))
}

/// Takes the next error out of a socket's error queue. While errors are left behind it, the
/// socket's next use fails again.
pub(crate) fn next_error(socket: &OwnedFd) -> Queued {
    /// More than a socket address, hop limit, traffic class and an error with its own address.
    #[repr(C, align(8))]
    struct Control([u8; 256]);
    let mut control = Control([0; 256]);
    let mut name = [0u8; NAME_BYTES];
    // SAFETY: a msghdr is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = NAME_LENGTH;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open; name and control outlive the call, and their lengths are in
    // the header. There is no other part: the datagram itself is cut off.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) } < 0 {
        return Queued::Nothing;
    }
    let control = control.0.get(..header.msg_controllen).unwrap_or_default();
    ring::read_error(&name, control)
}

/// Sends a datagram over IPv4 that leaves with DF set, or not at all. No control message carries
/// that wish, so the socket is told for as long as the call takes: whatever else it sends is
/// handed to the kernel before or after, by the same thread.
///
/// # Errors
/// `EMSGSIZE` for one that is too big for the link, which [`next_error`] has more about; what the
/// socket was told by the network about an earlier one; a full send buffer.
pub(crate) fn send_whole(
    socket: &OwnedFd,
    to: SocketAddr,
    fields: IpFields,
    bytes: &[u8],
) -> io::Result<()> {
    /// Aligned as a `cmsghdr` is.
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_BYTES]);
    let mut control = Control([0; CONTROL_BYTES]);
    let mut name = [0u8; NAME_BYTES];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = ring::write_name(&mut name, to);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_controllen = ring::write_control(&mut control.0, Family::of(to.ip()), fields);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let option = (libc::SOL_IP, libc::IP_MTU_DISCOVER);
    set(&SockRef::from(socket), option, libc::IP_PMTUDISC_PROBE)?;
    // SAFETY: the descriptor is open; name, control, part and what it points to outlive the call,
    // and their lengths are in the header. Sending writes to none of them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    let result = if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    set(&SockRef::from(socket), option, libc::IP_PMTUDISC_OMIT)?;
    result
}

const INT_BYTES: libc::socklen_t = 4;
const _: () = assert!(INT_BYTES as usize == size_of::<libc::c_int>());
const NAME_LENGTH: libc::socklen_t = 28;
const _: () = assert!(NAME_LENGTH as usize == NAME_BYTES);

fn set(socket: &Socket, (level, option): (i32, i32), value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the value of each option used here is an `int`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), INT_BYTES)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
