//! What a frame of STUN leads to, checked to the byte.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]

use relay_common::abi::Reason;
use relay_ebpf::{Verdict, step};

use super::common::*;

/// What a frame leads to, and what it is afterwards.
pub fn check(tables: &HostTables, what: &str, frame: &[u8], verdict: Verdict, out: &[u8]) {
    tables.counts.borrow_mut().clear();
    let mut host = HostFrame::new(frame);
    assert_eq!(step(&mut host, tables), verdict, "{what}");
    assert_eq!(hex(host.as_bytes()), hex(out), "{what}");
}

pub fn passes(tables: &HostTables, what: &str, frame: &[u8], reason: Reason) {
    check(tables, what, frame, Verdict::Pass(reason), frame);
    assert!(tables.counts.borrow().is_empty(), "{what}");
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

pub fn families() -> [Ends; 2] {
    [Ends::v4(), Ends::v6()]
}
