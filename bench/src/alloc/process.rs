//! The server's process, as /proc of this machine shows it: memory, kernel maps, processor time.
//! Reads only; knows nothing of TURN.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A process of this machine.
#[derive(Debug)]
pub(crate) struct Process {
    proc: PathBuf,
}

/// What a process holds at one moment. Bytes, but for the count of sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Memory {
    /// Resident set.
    pub(crate) rss: u64,
    /// Resident set, pages shared with other processes counted by their share.
    pub(crate) pss: u64,
    /// Memory of the BPF maps that the process has open.
    pub(crate) maps: u64,
    /// UDP sockets in use in the process's network namespace, whoever owns them.
    pub(crate) udp_sockets: u64,
}

impl Process {
    /// The process of that id.
    ///
    /// # Errors
    /// There is none, or its memory may not be read by this user.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let process = Self { proc: Path::new("/proc").join(pid.to_string()) };
        process.memory()?;
        Ok(process)
    }

    /// This tool itself.
    pub(crate) fn itself() -> Self {
        Self { proc: "/proc/self".into() }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn memory(&self) -> io::Result<Memory> {
        let rollup = self.read("smaps_rollup")?;
        let sockets = self.read("net/sockstat")?;
        let kib = |name| field(&rollup, name).unwrap_or(0) * 1024;
        let udp = sockets.lines().find_map(|line| line.strip_prefix("UDP: inuse "));
        let udp6 = self.read("net/sockstat6").unwrap_or_default();
        let udp6 = udp6.lines().find_map(|line| line.strip_prefix("UDP6: inuse ")).map(number);
        Ok(Memory {
            rss: kib("Rss:"),
            pss: kib("Pss:"),
            maps: self.maps()?,
            udp_sockets: udp.map_or(0, number) + udp6.unwrap_or(0),
        })
    }

    /// Processor time of all its threads that still run, nanoseconds; `None` on a kernel without
    /// scheduler statistics. What the kernel does elsewhere in its name (XDP, softirq) is not in
    /// it.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        let threads = fs::read_dir(self.proc.join("task")).ok()?;
        let times = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Some(times.sum()).filter(|total| *total > 0)
    }

    fn maps(&self) -> io::Result<u64> {
        let mut maps = BTreeMap::new();
        for file in fs::read_dir(self.proc.join("fd"))? {
            // Descriptors come and go while they are read.
            let Ok(file) = file else { continue };
            let kind = fs::read_link(file.path()).unwrap_or_default();
            if !kind.to_string_lossy().contains("bpf-map") {
                continue;
            }
            let info = Path::new("fdinfo").join(file.file_name());
            let Ok(info) = fs::read_to_string(self.proc.join(info)) else { continue };
            if let (Some(id), Some(bytes)) = (field(&info, "map_id:"), field(&info, "memlock:")) {
                maps.insert(id, bytes);
            }
        }
        Ok(maps.values().sum())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.proc.join(name))
    }
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    Some(number(text.lines().find_map(|line| line.strip_prefix(name))?))
}

/// The number a text starts with, zero without one.
fn number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_taken_shows() {
        let before = Process::itself().memory().unwrap();
        let block = vec![1u8; 64 << 20];
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let with = Process::itself().memory().unwrap();
        assert!(with.rss >= before.rss + (60 << 20), "{before:?} {with:?}");
        assert!(with.pss >= before.pss + (60 << 20), "{before:?} {with:?}");
        assert!(with.udp_sockets > 0);
        drop((block, socket));
    }

    #[test]
    fn a_process_that_does_not_exist_is_not_found() {
        assert_eq!(Process::open(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
