//! Processes on a rig: confined to a host of it, their output in a file, ended by
//! process number. Does not know what they are.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use relay_common::wire::stun::MAGIC_COOKIE;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::clock::{Clock, SECOND_NS};
use crate::lab::namespace::Namespace;

/// Between two looks at a process.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long a process has to end when it is asked to.
const END_SECS: u64 = 5;
/// Lines of a log that a message repeats.
const LOG_LINES: usize = 3;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status: {code}"),
            Self::Killed(signal) => write!(f, "signal: {signal}"),
        }
    }
}

/// A process of a group of its own, ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program on a host of the rig. A Ctrl-C at the terminal does not reach it.
    ///
    /// # Errors
    /// It cannot be started, or its log not be written.
    pub(crate) fn start(host: &Namespace, words: &[String], log: &Path) -> io::Result<Self> {
        let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = File::create(log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.process_group(0);
        let child = host.within(|| command.spawn())??;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has. It is not reaped: its number stays its own until [`Self::end`].
    pub(crate) fn ended(&self) -> Option<Fate> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), look).ok()??;
        Some(match status.exit_status() {
            Some(code) => Fate::Exited(code),
            None => Fate::Killed(status.terminating_signal().unwrap_or(0)),
        })
    }

    /// The last lines that it wrote, as one.
    pub(crate) fn last_words(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        last.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" / ")
    }

    /// Asks it to end, waits, and ends it with its children if it does not.
    pub(crate) fn end(&mut self, by: Signal) {
        let pid = Pid::from_child(&self.child);
        // Looks without reaping: the number stays this process's until the last signal is sent.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let runs = || matches!(waitid(WaitId::Pid(pid), look), Ok(None));
        if runs() {
            // Fails for one that ends at this moment.
            let _ = kill_process(pid, by);
        }
        let clock = Clock::start();
        while runs() && clock.now() < END_SECS * SECOND_NS {
            thread::sleep(POLL);
        }
        if waitid(WaitId::Pid(pid), look).is_ok() {
            // Also what it started and left behind; fails when there is nothing.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// Whether a TURN server answers a Binding request (RFC 8489 §2) from the calling thread's
/// namespace, within 300 ms.
///
/// # Errors
/// No answer, or this host fails.
pub(crate) fn answers_binding(server: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    socket.connect(server)?;
    let mut request = [0; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    request[8..].copy_from_slice(b"is it ready?");
    socket.send(&request)?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer)?;
    Ok(length >= request.len() && answer[8..20] == request[8..])
}

/// A directory of its own, removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one for this process and subcommand. Only root may look into it: configurations hold
    /// passwords.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) fn make(subcommand: &str) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("relay-bench-{subcommand}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("relay-bench: cannot remove {}: {error}", self.0.display());
        }
    }
}
