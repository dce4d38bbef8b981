//! The machine the tool runs on: what it is called, its limits, its signals, its way to the server.

use std::env;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::clock::SECOND_NS;

/// The machine that measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
}

impl Host {
    /// This machine.
    pub(crate) fn here() -> Self {
        let line = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = line("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned());
        Self {
            kernel: line("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The first signal asks for an orderly end; a second one ends the process at once,
/// with the exit code `again_exit`.
pub(crate) fn stop_on_signals(again_exit: u8) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, again_exit.into(), Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot watch for Ctrl-C")?;
    }
    Ok(stop)
}

/// Every signal asks for an orderly end, however often it comes: for who would leave namespaces and
/// servers behind.
pub(crate) fn stop_patiently() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&stop)).context("cannot watch for Ctrl-C")?;
    }
    Ok(stop)
}

/// Waits for events, `wait_ns` at most; a signal ends the wait with none.
///
/// # Errors
/// What the kernel says.
pub(crate) fn wait<'a>(
    epoll: &OwnedFd,
    wait_ns: u64,
    space: &'a mut [MaybeUninit<epoll::Event>],
) -> io::Result<&'a [epoll::Event]> {
    let timeout = Timespec {
        tv_sec: i64::try_from(wait_ns / SECOND_NS).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(wait_ns % SECOND_NS).unwrap_or(0),
    };
    match epoll::wait(epoll, space, Some(&timeout)) {
        Ok((events, _)) => Ok(events),
        Err(Errno::INTR) => Ok(&[]),
        Err(error) => Err(error.into()),
    }
}

/// Each allocation is a socket, and the usual soft limit is 1024. What cannot be had shows when
/// the sockets are opened.
pub(crate) fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Physical memory that this process holds, KiB; `None` where it cannot be read.
pub(crate) fn resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

/// The address of this host that faces the server. Nothing is sent.
pub(crate) fn address_towards(server: SocketAddr) -> anyhow::Result<IpAddr> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(server)?;
        socket.local_addr()
    });
    Ok(local.with_context(|| format!("no route to {server}"))?.ip())
}

/// The command line as a report may show it: without secrets, and with replacement characters
/// where it is not UTF-8.
pub(crate) fn command_line() -> String {
    without_secrets(env::args_os().map(|argument| argument.to_string_lossy().into_owned()))
}

fn without_secrets(arguments: impl Iterator<Item = String>) -> String {
    let mut hide_next = false;
    let shown = arguments.map(|argument| {
        if std::mem::take(&mut hide_next) {
            return "***".to_owned();
        }
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        if !["--password", "--secret", "--other-password"].contains(&name) {
            return argument;
        }
        if value.is_empty() {
            hide_next = true;
            return argument;
        }
        format!("{name}=***")
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_memory() {
        assert!(resident_kib().unwrap() > 100);
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = |text: &str| without_secrets(text.split(' ').map(str::to_owned));
        assert_eq!(shown("a --password p --user u"), "a --password *** --user u");
        assert_eq!(shown("a --secret=p --rate=5"), "a --secret=*** --rate=5");
    }
}
