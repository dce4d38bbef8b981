//! A run of `relay-bench load` and its report, for the tests that measure a faulty server.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

/// Packets of a run: 2 allocations × 200 a second × 2 s. Slow enough for a machine that does other
/// work too: half a second of them fits the smallest usual socket buffer.
pub(crate) const PACKETS: u64 = 800;
/// Packets of a run of one second.
pub(crate) const PACKETS_A_SECOND: u64 = 400;

/// No run of a test lasts longer: a tool that hangs fails the test, and does not stop the suite.
const RUN_MAX: Duration = Duration::from_secs(60);

/// A finished run.
pub(crate) struct Run {
    /// What it printed, and its exit code.
    pub(crate) output: Output,
    /// Its report, if it wrote one.
    pub(crate) json: Option<Value>,
}

impl Run {
    /// The exit code.
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// What it said on stderr.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// A whole number of the report.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let json = self.json.as_ref().unwrap_or_else(|| panic!("no report: {}", self.stderr()));
        json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"))
    }

    /// A percentile of the latency.
    pub(crate) fn latency_ms(&self, percentile: &str) -> f64 {
        self.json.as_ref().unwrap()["latency_ms"][percentile].as_f64().unwrap()
    }

    /// A figure by its path in the report.
    pub(crate) fn at(&self, path: &str) -> f64 {
        let json = self.json.as_ref().unwrap_or_else(|| panic!("no report: {}", self.stderr()));
        json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {json}"))
    }

    /// A list of the report.
    pub(crate) fn list(&self, name: &str) -> &[Value] {
        self.json.as_ref().unwrap()[name].as_array().unwrap()
    }

    /// What it said on stdout.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    /// The name of the ending.
    pub(crate) fn ending(&self) -> &str {
        self.json.as_ref().unwrap()["ending"].as_str().unwrap()
    }
}

/// Runs `relay-bench load` with the right password unless `arguments` say otherwise.
pub(crate) fn load(server: SocketAddr, arguments: &str) -> Run {
    load_and(server, arguments, |_| ())
}

/// As [`load`], and does something to the process meanwhile.
pub(crate) fn load_and(server: SocketAddr, arguments: &str, meanwhile: impl FnOnce(Pid)) -> Run {
    let name = thread::current().name().unwrap_or("test").to_owned();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(["load", &format!("turn:{server}"), "--quiet", "--user", "alice"]);
    command.arg("--json").arg(&file).args(arguments.split_whitespace());
    let defaults = "--allocations=2 --rate=200 --rto=50 --drain=1500 --duration=2 --password=north";
    for default in defaults.split(' ') {
        let name = default.split_once('=').unwrap().0;
        let other_kind = name == "--password" && arguments.contains("--secret");
        let ramp = arguments.contains("--ramp") && ["--rate", "--duration"].contains(&name);
        if !arguments.contains(name) && !other_kind && !ramp {
            command.arg(default);
        }
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = finish(child, meanwhile);
    let json = std::fs::read(&file).ok().map(|text| serde_json::from_slice(&text).unwrap());
    Run { output, json }
}

/// Waits for the end of a tool, and kills one that does not come to it.
fn finish(child: Child, meanwhile: impl FnOnce(Pid)) -> Output {
    let mut child = Killed(child);
    let (stdout, stderr) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    let (stdout, stderr) = (drain(stdout), drain(stderr));
    let deadline = Instant::now() + RUN_MAX;
    meanwhile(Pid::from_child(&child.0));
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            drop(child);
            let said = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
            panic!("the tool did not end in {RUN_MAX:?}: {said}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// A process that does not outlive the test, also when the test fails meanwhile.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a pipe to its end, so that the tool never waits for a reader.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Asserts that a figure is as expected, or off by the tolerance at most.
pub(crate) fn near(figure: u64, expected: u64, tolerance: u64) {
    assert!(figure.abs_diff(expected) <= tolerance, "{figure}, expected {expected}±{tolerance}");
}
