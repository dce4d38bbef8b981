//! UDP in userspace over io_uring: multishot receive into a pool of buffers, batched sends, no
//! copy between receive and send.
//!
//! A received datagram is a value that owns its buffer. It is either sent on, framed anew in
//! place ([`Ring::forward`]), or released. Knows nothing of TURN.
#![allow(unsafe_code, reason = "submission entries point to memory owned here")]

mod message;
mod pool;
mod slots;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use std::{io, mem};

use io_uring::types::{Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use message::NAME_LENGTH;
pub(crate) use message::{
    CONTROL_BYTES, IpFields, NAME_BYTES, Queued, read_error, write_control, write_name,
};
use pool::{BufferId, Pool, TAIL_BYTES};
use slots::Slots;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16_384;
/// What stands in front of a received payload, and so the room for a new head.
const PAYLOAD_AT: usize = 16 + NAME_BYTES + CONTROL_BYTES;

/// Names a socket; the owner chooses the number, below 2^56.
pub(crate) type Token = u64;

/// A socket to send from or to receive from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Socket {
    /// Its name in events.
    pub(crate) token: Token,
    /// Its descriptor.
    pub(crate) fd: RawFd,
}

const KIND_SHIFT: u32 = 56;
const KIND_RECEIVE: u64 = 0;
const KIND_SEND: u64 = 1;
const KIND_WAKE: u64 = 2;
const KIND_CANCEL: u64 = 3;

/// Something completed.
pub(crate) enum Event {
    /// A datagram arrived.
    Received(Token, Datagram),
    /// The socket no longer receives: no buffers were left, or it was cancelled.
    Stopped(Token),
    /// The socket no longer receives: it had an error to tell. Nothing was lost by that.
    Failed(Token),
    /// A datagram did not leave, most likely for an error about an earlier one.
    Unsent(Token, Unsent),
    /// Somebody wrote to the wake-up descriptor.
    Woken,
}

/// A received datagram, and the buffer it lies in.
#[derive(Debug)]
pub(crate) struct Datagram {
    buffer: BufferId,
    payload: usize,
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// How it came.
    pub(crate) fields: IpFields,
}

/// A datagram that did not leave, and its place: for [`Ring::resend`] or [`Ring::give_up`].
#[derive(Debug)]
pub(crate) struct Unsent {
    slot: u64,
}

/// What the ring itself lost or failed to do; only ever grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Losses {
    /// Datagrams larger than a buffer, or from an address of an unknown kind.
    pub(crate) unusable: u64,
    /// Datagrams not sent because too many sends were under way.
    pub(crate) send_queue_full: u64,
    /// Sends that the kernel refused.
    pub(crate) send_errors: u64,
}

impl Losses {
    /// Adds what another ring lost.
    pub(crate) const fn add(&mut self, other: Self) {
        self.unusable += other.unusable;
        self.send_queue_full += other.send_queue_full;
        self.send_errors += other.send_errors;
    }
}

/// One io_uring instance with its buffers. Stays on the thread that made it.
pub(crate) struct Ring {
    uring: IoUring,
    pool: Pool,
    slots: Slots,
    receive: &'static libc::msghdr,
    wake: OwnedFd,
    wake_value: &'static mut u64,
    completed: VecDeque<(u64, i32, u32)>,
    losses: Losses,
}

impl Ring {
    /// Sets up the instance; `wake` is an eventfd that ends a [`Ring::wait`].
    ///
    /// # Errors
    /// The kernel is too old (multishot `recvmsg` came with 6.0), or io_uring is forbidden
    /// (`kernel.io_uring_disabled`, a seccomp filter), or memory is short.
    pub(crate) fn new(wake: OwnedFd) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS))?;
        // SAFETY: a msghdr is integers and pointers, for which zero is a value.
        let mut receive: libc::msghdr = unsafe { mem::zeroed() };
        receive.msg_namelen = NAME_LENGTH;
        receive.msg_controllen = CONTROL_BYTES;
        let mut ring = Self {
            uring,
            pool: Pool::new(),
            slots: Slots::new(),
            // Never freed, as the pool: the kernel may look at them until it is done.
            receive: Box::leak(Box::new(receive)),
            wake,
            wake_value: Box::leak(Box::new(0)),
            completed: VecDeque::new(),
            losses: Losses::default(),
        };
        ring.pool.register(&ring.uring.submitter())?;
        ring.arm_wake();
        Ok(ring)
    }

    /// Whether the kernel has a buffer to receive into. Without one, receiving stops at once.
    pub(crate) fn has_buffers(&self) -> bool {
        self.pool.has_free()
    }

    /// Starts receiving from a socket. Its owner keeps it open until [`Event::Stopped`], or
    /// cancels first.
    pub(crate) fn receive(&mut self, socket: Socket) {
        let message: *const libc::msghdr = self.receive;
        let entry = opcode::RecvMsgMulti::new(Fd(socket.fd), message, pool::GROUP)
            .build()
            .user_data(KIND_RECEIVE << KIND_SHIFT | socket.token);
        self.push(&entry);
    }

    /// Stops receiving: nothing keeps the socket once this is carried out.
    pub(crate) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(KIND_RECEIVE << KIND_SHIFT | token)
            .build()
            .user_data(KIND_CANCEL << KIND_SHIFT);
        self.push(&entry);
    }

    /// The bytes of a datagram.
    pub(crate) fn bytes(&self, datagram: &Datagram) -> &[u8] {
        &self.pool.bytes(&datagram.buffer)[PAYLOAD_AT..PAYLOAD_AT + datagram.payload]
    }

    /// Gives a datagram's buffer back.
    pub(crate) fn release(&mut self, datagram: Datagram) {
        self.pool.give_back(datagram.buffer);
    }

    /// Sends `payload`, a range of the datagram, behind `head` and before `padding` zero bytes
    /// (0–3), from the same buffer.
    pub(crate) fn forward(
        &mut self,
        socket: Socket,
        to: SocketAddr,
        fields: IpFields,
        mut datagram: Datagram,
        frame: &Frame<'_>,
    ) {
        assert!(frame.payload.end <= datagram.payload && frame.padding < TAIL_BYTES);
        let start = PAYLOAD_AT + frame.payload.start;
        let end = PAYLOAD_AT + frame.payload.end;
        let head = start - frame.head.len();
        let bytes = self.pool.bytes_mut(&mut datagram.buffer);
        bytes[head..start].copy_from_slice(frame.head);
        bytes[end..end + frame.padding].fill(0);
        let range = head..end + frame.padding;
        let at = self.pool.bytes(&datagram.buffer)[range].as_ptr();
        let length = frame.head.len() + frame.payload.len() + frame.padding;
        match self.slots.fill_with_buffer((socket, to), fields, datagram.buffer, at, length) {
            Ok((slot, message)) => self.push_send(socket.fd, slot, message),
            Err(buffer) => {
                self.losses.send_queue_full += 1;
                self.pool.give_back(buffer);
            }
        }
    }

    /// Sends a copy of `bytes`.
    pub(crate) fn send(&mut self, socket: Socket, to: SocketAddr, bytes: &[u8]) {
        self.send_with(socket, to, IpFields::default(), bytes);
    }

    /// Sends a copy of `bytes` with these fields of the IP header.
    pub(crate) fn send_with(
        &mut self,
        socket: Socket,
        to: SocketAddr,
        fields: IpFields,
        bytes: &[u8],
    ) {
        match self.slots.fill_with_copy((socket, to), fields, bytes) {
            Some((slot, message)) => self.push_send(socket.fd, slot, message),
            None => self.losses.send_queue_full += 1,
        }
    }

    /// Sends what did not leave again, from the same socket.
    pub(crate) fn resend(&mut self, socket: RawFd, unsent: Unsent) {
        let message = self.slots.again(unsent.slot);
        self.push_send(socket, unsent.slot, message);
    }

    /// Loses what did not leave.
    pub(crate) fn give_up(&mut self, unsent: Unsent) {
        self.losses.send_errors += 1;
        self.free(unsent.slot);
    }

    /// Submits what was asked for, and waits for a completion, a wake-up or the timeout.
    ///
    /// # Errors
    /// The kernel refused the submission; nothing can be done about it here.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let idle = self.completed.is_empty() && self.uring.completion().is_empty();
        let pending = usize::from(idle);
        let result = match timeout {
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timespec);
                self.uring.submitter().submit_with_args(pending, &args)
            }
            None => self.uring.submit_and_wait(pending),
        };
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) => {}
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        let completed = self.uring.completion();
        self.completed.extend(completed.map(|c| (c.user_data(), c.result(), c.flags())));
        Ok(())
    }

    /// Whether the kernel has taken everything that was asked for: it looks up a descriptor's
    /// number when it does.
    pub(crate) fn is_submitted(&mut self) -> bool {
        self.uring.submission().is_empty()
    }

    /// The next event of the last [`Ring::wait`].
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let (user_data, result, flags) = self.completed.pop_front()?;
            let low = user_data & ((1 << KIND_SHIFT) - 1);
            match user_data >> KIND_SHIFT {
                KIND_SEND => {
                    if let Some(event) = self.sent(low, result) {
                        return Some(event);
                    }
                }
                KIND_WAKE => {
                    self.arm_wake();
                    return Some(Event::Woken);
                }
                KIND_RECEIVE => {
                    if let Some(event) = self.received(low, result, flags) {
                        return Some(event);
                    }
                }
                _ => {}
            }
        }
    }

    /// What was lost so far.
    pub(crate) const fn losses(&self) -> Losses {
        self.losses
    }

    fn received(&mut self, token: Token, result: i32, flags: u32) -> Option<Event> {
        let datagram = cqueue::buffer_select(flags)
            .map(|id| self.pool.take(id))
            .and_then(|buffer| self.datagram(buffer, result));
        if !cqueue::more(flags) {
            // Behind the datagram, if there is one: `next` looks at the queue's front first.
            let stopped = (KIND_RECEIVE << KIND_SHIFT | token, -libc::ECANCELED, 0);
            if datagram.is_some() {
                self.completed.push_front(stopped);
            } else if message::told_by_network(result) {
                return Some(Event::Failed(token));
            } else {
                return Some(Event::Stopped(token));
            }
        }
        datagram.map(|datagram| Event::Received(token, datagram))
    }

    fn datagram(&mut self, buffer: BufferId, result: i32) -> Option<Datagram> {
        let filled = usize::try_from(result).unwrap_or(0);
        let bytes = &self.pool.bytes(&buffer)[..filled.min(pool::BUFFER_BYTES)];
        let parsed = RecvMsgOut::parse(bytes, self.receive).ok().and_then(|out| {
            let usable = !out.is_payload_truncated() && !out.is_name_data_truncated();
            let from = message::read_name(out.name_data()).filter(|_| usable)?;
            Some((from, message::read_control(out.control_data()), out.payload_data().len()))
        });
        match parsed {
            Some((from, fields, payload)) => Some(Datagram { buffer, payload, from, fields }),
            None => {
                self.losses.unusable += 1;
                self.pool.give_back(buffer);
                None
            }
        }
    }

    fn sent(&mut self, slot: u64, result: i32) -> Option<Event> {
        if message::told_by_network(result)
            && let Some(token) = self.slots.resender(slot)
        {
            return Some(Event::Unsent(token, Unsent { slot }));
        }
        self.losses.send_errors += u64::from(result < 0);
        self.free(slot);
        None
    }

    fn free(&mut self, slot: u64) {
        if let Some(buffer) = self.slots.empty(slot) {
            self.pool.give_back(buffer);
        }
    }

    fn push_send(&mut self, socket: RawFd, slot: u64, message: *const libc::msghdr) {
        // A full send buffer is a loss of this packet, as in any router. Waiting would let one
        // client's unreachable peers hold every buffer.
        let entry = opcode::SendMsg::new(Fd(socket), message)
            .flags(libc::MSG_DONTWAIT.cast_unsigned())
            .build()
            .user_data(KIND_SEND << KIND_SHIFT | slot);
        self.push(&entry);
    }

    fn arm_wake(&mut self) {
        let value = (&raw mut *self.wake_value).cast::<u8>();
        let entry = opcode::Read::new(Fd(self.wake.as_raw_fd()), value, 8)
            .build()
            .user_data(KIND_WAKE << KIND_SHIFT);
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every pointer in an entry made here leads to the receive header, the wake
            // value, a send slot or a buffer. None of them moves or is freed; a slot and its
            // buffer are not used again until its completion.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            // Full: hand over what is there. An error here shows again in `wait`.
            if self.uring.submit().is_err() {
                let completed = self.uring.completion();
                self.completed.extend(completed.map(|c| (c.user_data(), c.result(), c.flags())));
            }
        }
    }
}

/// How a datagram is framed when it is sent on.
pub(crate) struct Frame<'a> {
    /// Bytes in front; at most what the header in front of a received payload took.
    pub(crate) head: &'a [u8],
    /// What of the datagram is sent.
    pub(crate) payload: Range<usize>,
    /// Zero bytes behind, 0–3.
    pub(crate) padding: usize,
}

#[cfg(test)]
mod tests;
