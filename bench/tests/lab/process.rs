//! A process in a namespace: its log, its signals, its end.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::namespace::Namespace;
use super::wait;

/// A started process, killed when dropped. Shows its log if the test fails.
pub(crate) struct Process {
    name: String,
    child: Child,
    place: TempDir,
}

impl Process {
    /// Starts a command in a namespace, with everything that it prints in a log. `place` is the
    /// directory with its files; it is removed with the process.
    pub(crate) fn start(
        name: &str,
        namespace: &Namespace,
        mut command: Command,
        place: TempDir,
    ) -> Self {
        let log = File::create(place.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = namespace.within(|| command.spawn()).unwrap();
        Self { name: name.to_owned(), child, place }
    }

    /// Starts a command that needs no files.
    pub(crate) fn bare(name: &str, namespace: &Namespace, command: Command) -> Self {
        Self::start(name, namespace, command, tempfile::tempdir().unwrap())
    }

    /// Its process id, for `--pid`.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory with its files.
    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    /// Everything that it printed.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.place.path().join("log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has printed a text.
    ///
    /// # Panics
    /// It ends before, or does not print it `within` that time.
    pub(crate) fn await_log(&mut self, text: &str, within: Duration) {
        wait::until(&format!("{} says {text:?}", self.name), within, || {
            let said = self.log().contains(text);
            assert!(said || self.is_alive(), "{} ended", self.name);
            said.then_some(())
        });
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end `within` that time.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let (name, child) = (&self.name, &mut self.child);
        wait::until(&format!("{name} ends"), within, || child.try_wait().unwrap())
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end_by(&mut self, signal: Signal, within: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(within)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails for one that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("what {} said:\n{}", self.name, self.log());
        }
    }
}

/// `relay-bench` with these words: the binary that cargo built along.
pub(crate) fn tool(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(words.split_whitespace());
    command
}
