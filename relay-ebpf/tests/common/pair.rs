//! The step on the host beside the loaded program, when there is one to load.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]

use std::env;
use std::path::PathBuf;

use libtest_mimic::{Completion, Failed};
use relay_common::abi::Reason;
use relay_ebpf::{Verdict, step};

use super::common::{self, HostFrame, HostTables};
use super::kernel::Kernel;

/// The object, or why there is nothing to test with.
pub fn object() -> Result<PathBuf, &'static str> {
    let object = env::var_os("TURNPIKE_XDP_OBJECT").filter(|path| !path.is_empty());
    let object = object.ok_or("TURNPIKE_XDP_OBJECT names no object")?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if root { Ok(object.into()) } else { Err("loading a program needs root") }
}

pub fn when_possible(test: fn(Kernel) -> Result<(), Failed>) -> Result<Completion, Failed> {
    match object() {
        Ok(object) => test(Kernel::load(&object)?).map(|()| Completion::Completed),
        Err(why) => {
            println!("SKIPPED: {why}");
            Ok(Completion::ignored_with(why))
        }
    }
}

pub fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// One frame through both.
pub fn same(kernel: &mut Kernel, tables: &HostTables, frame: &[u8]) -> Result<Reason, Failed> {
    let mut host = HostFrame::new(frame);
    let verdict = step(&mut host, tables);
    let (action, out) = kernel.run(frame)?;
    if action != common::action(verdict) {
        return Err(format!("host {verdict:?}, kernel's action {action}: {frame:02x?}").into());
    }
    if out != host.as_bytes() {
        let host = host.as_bytes();
        return Err(
            format!("{verdict:?}: {frame:02x?}\nhost {host:02x?}\nkernel {out:02x?}").into()
        );
    }
    match verdict {
        Verdict::Pass(_) if out != frame => Err(format!("{verdict:?}, changed").into()),
        _ => Ok(verdict.reason()),
    }
}
