//! The receive buffers that the kernel picks from: one allocation, handed over by a buffer ring.
//!
//! A buffer is owned by the kernel, or by exactly one [`BufferId`], which is neither `Copy` nor
//! `Clone`. Whoever holds it may read and write; [`Pool::give_back`] takes it.
#![allow(unsafe_code, reason = "memory shared with the kernel, see each block")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::{AtomicU16, Ordering};
use std::{io, ptr};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Bytes of one buffer: what stands in front of the payload, a payload of up to 9 KiB (jumbo
/// frames), and [`TAIL_BYTES`].
pub(super) const BUFFER_BYTES: usize = 9216 + 512;
/// What the kernel may write of a buffer, bytes.
const WRITABLE_BYTES: u32 = 9216 + 512 - 4;
const _: () = assert!(WRITABLE_BYTES as usize == BUFFER_BYTES - TAIL_BYTES);
/// Bytes behind the largest payload that the kernel never writes: room for padding.
pub(super) const TAIL_BYTES: usize = 4;
/// Buffers of a pool; a power of two.
pub(super) const BUFFERS: u16 = 2048;

const PAGE: usize = 4096;
/// What a datagram of an Ethernet without jumbo frames needs of a buffer: it has these pages before
/// the first one comes, and does not wait for them then.
const USUAL_BYTES: usize = 2048;
pub(super) const GROUP: u16 = 0;

/// A buffer that userspace holds.
#[derive(Debug)]
pub(super) struct BufferId(u16);

/// All buffers, and the ring they are handed to the kernel by. Never freed: the kernel tears a
/// closed io_uring down in its own time, and could still write.
pub(super) struct Pool {
    entries: *mut BufRingEntry,
    data: *mut u8,
    tail: u16,
    /// Buffers that userspace holds.
    held: u16,
}

fn entries_layout() -> Layout {
    Layout::array::<BufRingEntry>(usize::from(BUFFERS))
        .and_then(|layout| layout.align_to(PAGE))
        .expect("a constant that fits")
}

fn data_layout() -> Layout {
    Layout::from_size_align(BUFFER_BYTES * usize::from(BUFFERS), PAGE)
        .expect("a constant that fits")
}

impl Pool {
    /// Allocates the buffers; the kernel has none of them yet.
    pub(super) fn new() -> Self {
        // SAFETY: both layouts have a size above zero, by the constants above.
        let (entries, data) =
            unsafe { (alloc_zeroed(entries_layout()), alloc_zeroed(data_layout())) };
        if entries.is_null() || data.is_null() {
            handle_alloc_error(data_layout());
        }
        for buffer in 0..usize::from(BUFFERS) {
            for touched in [0, USUAL_BYTES - 1] {
                // SAFETY: below `BUFFERS` buffers of more than `USUAL_BYTES`, in memory that
                // nobody else knows yet. Volatile: the store is for the page behind it.
                unsafe { data.add(buffer * BUFFER_BYTES + touched).write_volatile(0) };
            }
        }
        Self { entries: entries.cast(), data, tail: 0, held: BUFFERS }
    }

    /// Registers the ring and hands every buffer to the kernel.
    pub(super) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: the entries are page aligned, `BUFFERS` long, and never freed.
        unsafe {
            submitter.register_buf_ring_with_flags(self.entries as u64, BUFFERS, GROUP, 0)?;
        }
        for id in 0..BUFFERS {
            self.give_back(BufferId(id));
        }
        Ok(())
    }

    /// The buffer that a completion names, which the kernel thereby gave up. Called once for each
    /// completion with a buffer, by `Ring` only.
    pub(super) fn take(&mut self, id: u16) -> BufferId {
        assert!(id < BUFFERS, "the kernel only knows ids below BUFFERS");
        self.held += 1;
        BufferId(id)
    }

    /// Hands a buffer to the kernel again.
    pub(super) fn give_back(&mut self, BufferId(id): BufferId) {
        self.held -= 1;
        let place = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `place` is below `BUFFERS`. The kernel reads entries only up to the tail it
        // has seen, and at most `BUFFERS` are out, so it does not read this one until the store
        // below. `tail` overlays the `resv` field of the first entry, which the three setters
        // leave alone, and is aligned for u16.
        unsafe {
            let entry = &mut *self.entries.add(place);
            entry.set_addr(self.data.add(usize::from(id) * BUFFER_BYTES) as u64);
            entry.set_len(WRITABLE_BYTES);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut());
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Whether the kernel has a buffer left.
    pub(super) const fn has_free(&self) -> bool {
        self.held < BUFFERS
    }

    /// The bytes of a held buffer.
    pub(super) fn bytes(&self, BufferId(id): &BufferId) -> &[u8] {
        // SAFETY: ids are below `BUFFERS`; holding the id means that the kernel does not write.
        unsafe { &*ptr::slice_from_raw_parts(self.at(*id), BUFFER_BYTES) }
    }

    /// The bytes of a held buffer, to change.
    pub(super) fn bytes_mut(&mut self, BufferId(id): &mut BufferId) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the exclusive borrow of the pool excludes another slice.
        unsafe { &mut *ptr::slice_from_raw_parts_mut(self.at(*id), BUFFER_BYTES) }
    }

    fn at(&self, id: u16) -> *mut u8 {
        // SAFETY: ids are below `BUFFERS`, so the result lies inside the allocation.
        unsafe { self.data.add(usize::from(id) * BUFFER_BYTES) }
    }
}
