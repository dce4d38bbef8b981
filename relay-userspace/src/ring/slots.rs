//! The sends under way: the message headers, addresses and control messages that submission
//! entries point to. They lie in one allocation that never moves, grows or is freed: the kernel
//! tears a closed io_uring down in its own time, and could still read.
#![allow(unsafe_code, reason = "message headers hold pointers into their own slot")]

use std::net::SocketAddr;
use std::{mem, ptr};

use relay_common::addr::Family;

use super::message::{self, CONTROL_BYTES, IpFields, NAME_BYTES};
use super::pool::BufferId;
use super::{Socket, Token};

/// A send that failed is repeated so often.
const RESENDS_MAX: u8 = 3;
/// Sends under way at most; a further one is dropped and counted.
const SLOTS: u32 = 8192;

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

struct Slot {
    header: libc::msghdr,
    part: libc::iovec,
    name: [u8; NAME_BYTES],
    control: Control,
    /// The pool's buffer that is being sent, if it is one.
    buffer: Option<BufferId>,
    /// The copy that is being sent, if it is one. Keeps its capacity.
    copy: Vec<u8>,
    /// The socket that sends.
    sender: Token,
    resends_left: u8,
}

/// All slots, and which of them are free.
pub(super) struct Slots {
    slots: &'static mut [Slot],
    free: Vec<u32>,
}

/// A filled slot's number, and the header for the submission entry.
pub(super) type Filled = (u64, *const libc::msghdr);

impl Slots {
    pub(super) fn new() -> Self {
        let slot = |_| Slot {
            // SAFETY: integers and pointers, for which zero is a value; set before each use.
            header: unsafe { mem::zeroed() },
            part: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            name: [0; NAME_BYTES],
            control: Control([0; CONTROL_BYTES]),
            buffer: None,
            copy: Vec::new(),
            sender: 0,
            resends_left: 0,
        };
        let slots: Vec<Slot> = (0..SLOTS).map(slot).collect();
        Self { slots: slots.leak(), free: (0..SLOTS).rev().collect() }
    }

    /// Fills a slot with a part of a pool buffer, which the slot keeps until [`Slots::empty`].
    /// Gives the buffer back when no slot is free.
    pub(super) fn fill_with_buffer(
        &mut self,
        (socket, to): (Socket, SocketAddr),
        fields: IpFields,
        buffer: BufferId,
        at: *const u8,
        length: usize,
    ) -> Result<Filled, BufferId> {
        let Some(index) = self.free.pop() else { return Err(buffer) };
        let slot = &mut self.slots[index as usize];
        slot.buffer = Some(buffer);
        slot.sent_by(socket);
        Ok((u64::from(index), slot.aim(to, fields, at, length)))
    }

    /// Fills a slot with a copy of `bytes`; `None` when no slot is free.
    pub(super) fn fill_with_copy(
        &mut self,
        (socket, to): (Socket, SocketAddr),
        fields: IpFields,
        bytes: &[u8],
    ) -> Option<Filled> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        slot.sent_by(socket);
        slot.copy.clear();
        slot.copy.extend_from_slice(bytes);
        let at = slot.copy.as_ptr();
        Some((u64::from(index), slot.aim(to, fields, at, bytes.len())))
    }

    /// Which socket sent, if a slot that was not sent may be sent again.
    pub(super) fn resender(&self, slot: u64) -> Option<Token> {
        let slot = &self.slots[index_of(slot)];
        (slot.resends_left > 0).then_some(slot.sender)
    }

    /// The header of a slot that is sent again.
    pub(super) fn again(&mut self, slot: u64) -> *const libc::msghdr {
        let slot = &mut self.slots[index_of(slot)];
        slot.resends_left -= 1;
        &raw const slot.header
    }

    /// Frees a slot after its completion, and gives the buffer it kept.
    pub(super) fn empty(&mut self, slot: u64) -> Option<BufferId> {
        let index = index_of(slot);
        self.free.push(u32::try_from(index).expect("below SLOTS"));
        self.slots[index].buffer.take()
    }
}

fn index_of(slot: u64) -> usize {
    usize::try_from(slot).expect("only slot numbers come back")
}

impl Slot {
    const fn sent_by(&mut self, socket: Socket) {
        self.sender = socket.token;
        self.resends_left = RESENDS_MAX;
    }

    fn aim(
        &mut self,
        to: SocketAddr,
        fields: IpFields,
        at: *const u8,
        length: usize,
    ) -> *const libc::msghdr {
        self.part = libc::iovec { iov_base: at.cast_mut().cast(), iov_len: length };
        self.header.msg_namelen = message::write_name(&mut self.name, to);
        self.header.msg_name = self.name.as_mut_ptr().cast();
        self.header.msg_iov = &raw mut self.part;
        self.header.msg_iovlen = 1;
        let control = &mut self.control.0;
        let used = message::write_control(control, Family::of(to.ip()), fields);
        self.header.msg_control =
            if used == 0 { ptr::null_mut() } else { control.as_mut_ptr().cast() };
        self.header.msg_controllen = used;
        &raw const self.header
    }
}
