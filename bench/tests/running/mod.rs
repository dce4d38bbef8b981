//! A tool that a test has started: what it prints is read all the time, and it does not outlive
//! the test.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// A tool that did not end by then never will: no test hangs.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        Self { child, stdout, stderr }
    }

    /// Its process id, for signals.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end: its exit code and what it printed.
    ///
    /// # Panics
    /// It does not end.
    pub(crate) fn end(mut self) -> Output {
        let started = Instant::now();
        let mut late = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > END_WITHIN && !late {
                late = true;
                self.child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        };
        let printed = |pipe: Option<JoinHandle<Vec<u8>>>| pipe.unwrap().join().unwrap();
        let (stdout, stderr) = (printed(self.stdout.take()), printed(self.stderr.take()));
        let output = Output { status, stdout, stderr };
        assert!(!late, "not ended within {END_WITHIN:?}: {output:?}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}
