//! Words that other CPUs write, and policers made of them.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]

use std::cell::Cell;

use relay_common::abi::Policer;
use relay_ebpf::Word;

use super::NOW;

/// A bucket's word, and how many races for it are lost to another CPU, which adds [`RIVAL`].
#[derive(Clone, Copy)]
pub struct HostWord<'t>(pub &'t Cell<u64>, pub &'t Cell<u32>);

/// What another CPU charges.
pub const RIVAL: u64 = 77;

impl Word for HostWord<'_> {
    fn load(&self) -> u64 {
        self.0.get()
    }
    fn add(&self, by: u64) {
        self.0.set(self.0.get().wrapping_add(by));
    }
    fn exchange(&self, seen: u64, new: u64) -> bool {
        if let Some(left) = self.1.get().checked_sub(1) {
            self.1.set(left);
            self.0.set(self.0.get().max(NOW) + RIVAL);
        }
        let same = self.0.get() == seen;
        if same {
            self.0.set(new);
        }
        same
    }
}

/// A policer: what userspace wrote, and its two buckets.
#[derive(Clone, Default)]
pub struct HostPolicer {
    pub limits: Policer,
    pub packets_full_ns: Cell<u64>,
    pub bytes_full_ns: Cell<u64>,
}
