//! `relay-bench compare` as its users run it: whole comparisons, short ones, of real servers; and
//! what it leaves behind on the machine: nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;

use lab::Need::{Coturn as CoturnHere, Namespaces, Turnpike as TurnpikeHere};
use lab::{Test, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const TESTS: &[Test] = &[
    ("two_servers_take_turns", &[Namespaces, TurnpikeHere, CoturnHere], two_servers),
    ("what_is_missing_is_skipped_with_the_reason", &[Namespaces, CoturnHere], missing),
    ("a_server_that_dies_midway_is_told", &[Namespaces, CoturnHere], mortal),
    ("ctrl_c_leaves_a_partial_report_and_nothing_else", &[Namespaces, CoturnHere], interrupted),
    ("what_there_is_not_is_a_wrong_command_line", &[], usage),
];

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// A comparison under way.
struct Comparison {
    child: Child,
    place: TempDir,
}

/// A comparison's end.
struct Ended {
    code: Option<i32>,
    stderr: String,
    place: TempDir,
}

impl Comparison {
    /// Starts one without progress and with short loads of round trips only.
    fn start(arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut command = tool("compare --quick --only latency --latency-rates 320 --quiet");
        command.args(arguments).arg("--out").arg(place.path().join("report"));
        command.stdin(Stdio::null()).stdout(File::create(place.path().join("stdout")).unwrap());
        command.stderr(File::create(place.path().join("stderr")).unwrap());
        Self { child: command.spawn().unwrap(), place }
    }

    /// Waits for its end, and sees that it has tidied up.
    fn end(mut self) -> Ended {
        let pid = self.child.id();
        let status = lab::until("the comparison ends", Duration::from_secs(120), || {
            self.child.try_wait().unwrap()
        });
        let stderr = fs::read_to_string(self.place.path().join("stderr")).unwrap();
        assert_eq!(left_behind(pid), Vec::<String>::new(), "{stderr}");
        Ended { code: status.code(), stderr, place: self.place }
    }
}

impl Ended {
    fn report(&self, name: &str) -> PathBuf {
        self.place.path().join("report").join(name)
    }

    fn document(&self) -> Value {
        let text = fs::read(self.report("compare.json")).unwrap_or_else(|error| {
            panic!("no document: {error}; {}", self.stderr);
        });
        serde_json::from_slice(&text).unwrap()
    }
}

/// Namespaces, directories and processes of a comparison.
fn left_behind(pid: u32) -> Vec<String> {
    let mut left = Vec::new();
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap().stdout;
    let namespaces = String::from_utf8(namespaces).unwrap();
    let ours = format!("relay-bench-{pid}-");
    left.extend(namespaces.lines().filter(|name| name.starts_with(&ours)).map(str::to_owned));
    let scratch = scratch(pid);
    if scratch.exists() {
        left.push(scratch.display().to_string());
    }
    left.extend(processes_of(pid).into_iter().map(|(_, command)| command));
    left
}

fn scratch(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("relay-bench-compare-{pid}"))
}

/// Processes with the comparison's directory on their command line: servers and loads.
fn processes_of(pid: u32) -> Vec<(i32, String)> {
    let scratch = scratch(pid).display().to_string();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // With the blank or slash behind it: 77 is not 771.
        let is_ours = command.contains(&format!("{scratch}/"));
        is_ours.then_some((pid, command))
    });
    processes.collect()
}

fn turnpike() -> String {
    std::env::var("TURNPIKE_BIN").unwrap()
}

fn two_servers() {
    let bin = turnpike();
    let subjects = "turnpike-userspace,coturn";
    let ended = Comparison::start(&["--subjects", subjects, "--turnpike", &bin]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let document = ended.document();

    // A B A B, each run with what it takes to believe it.
    let runs = document["runs"].as_array().unwrap();
    let order: Vec<_> = runs.iter().map(|run| run["subject"].as_str().unwrap()).collect();
    let turn = ["turnpike-userspace", "coturn"];
    assert_eq!(order, [turn, turn].concat());
    for run in runs {
        assert_eq!(run["outcome"]["ending"], "measured", "{run}");
        assert_eq!(run["point"]["rate"], 320);
        assert_eq!(
            (&run["point"]["flows"], &run["point"]["payload_bytes"]),
            (&32.into(), &200.into())
        );
        assert!(run["outcome"]["figures"]["latency_ms"]["p99"].as_f64().unwrap() > 0.0, "{run}");
        assert!(run["watched"]["cpu"]["window_secs"].as_f64().unwrap() > 0.5, "{run}");
        assert!(run["watched"]["cpu"]["relay_busy_cores"].as_f64().unwrap() >= 0.0, "{run}");
        assert!(run["saturated"].is_string(), "{run}");
        assert_eq!(run["document"]["delivered"], 320, "the whole document is kept: {run}");
    }
    for (name, expected) in [("ending", "completed"), ("tool", "relay-bench 0.1.0")] {
        assert_eq!(document[name], expected);
    }
    for field in ["commit", "date"] {
        assert!(document[field].is_string(), "{field}");
    }
    assert!(document["host"]["kernel"].is_string() && document["host"]["cpu"].is_string());
    assert!(document["asked"]["command"].as_str().unwrap().contains("compare --quick"));
    for subject in document["subjects"].as_array().unwrap() {
        assert_eq!(subject["state"], "measured");
        assert!(!subject["version"].as_str().unwrap().is_empty(), "{subject}");
        assert!(subject["configuration"].as_str().unwrap().contains("10.91.1.1"), "{subject}");
    }
    let tables = document["tables"].as_array().unwrap();
    assert!(tables.iter().any(|t| t["title"].as_str().unwrap().starts_with("Round trip, p99")));

    let html = fs::read_to_string(ended.report("compare.html")).unwrap();
    assert_eq!(html.matches("<svg ").count(), 4);
    let markdown = fs::read_to_string(ended.report("compare.md")).unwrap();
    assert!(markdown.contains("| rate, packets/s | turnpike-userspace | coturn |"), "{markdown}");
    for plot in ["throughput-loss", "latency-load", "cpu-per-packet", "memory-allocations"] {
        let svg = fs::read_to_string(ended.report(&format!("{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg "), "{plot}");
    }
}

fn missing() {
    let mortal = "stillborn=sh -c 'echo no such luck; exit 7'";
    let arguments = ["--rounds", "1", "--turn-rs", "/nowhere/turn-server", "--subject", mortal];
    let subjects = ["--subjects", "turn-rs,coturn,stillborn"];
    let ended = Comparison::start(&[&arguments[..], &subjects].concat()).end();
    assert_eq!(ended.code, Some(4), "what was asked for by name is missed: {}", ended.stderr);
    let document = ended.document();
    let states: Vec<_> = document["subjects"].as_array().unwrap().iter().collect();
    assert_eq!(states[0]["state"], "skipped");
    assert!(states[0]["why"].as_str().unwrap().contains("/nowhere/turn-server"), "{}", states[0]);
    assert_eq!(states[1]["state"], "measured");
    assert_eq!(states[2]["state"], "skipped");
    let why = states[2]["why"].as_str().unwrap();
    assert!(why.contains("exit status: 7") && why.contains("no such luck"), "{why}");
    let markdown = fs::read_to_string(ended.report("compare.md")).unwrap();
    assert!(markdown.contains("**Note:** turn-rs skipped: "), "{markdown}");
    assert!(markdown.contains("| rate, packets/s | coturn |"), "no column of dashes: {markdown}");
}

/// coturn by its command line, with a time to live.
const MORTAL: &str = "mortal=timeout 5 turnserver -n -L {listen} -p {port} -E {peer_side} -a \
                      -u {user}:{password} -r {realm} --no-tls --no-dtls --no-cli \
                      --log-file stdout --pidfile {dir}/mortal.pid --userdb {dir}/mortal.db";

fn mortal() {
    let arguments = ["--subjects", "mortal", "--subject", MORTAL, "--rounds", "1"];
    let ended = Comparison::start(&[&arguments[..], &["--duration", "20"]].concat()).end();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let document = ended.document();
    let subject = &document["subjects"][0];
    assert_eq!(subject["state"], "died", "{subject}");
    let why = subject["why"].as_str().unwrap();
    assert!(why.contains("exit status: 124") && why.contains("under echo 320/s"), "{why}");
    let run = &document["runs"][0];
    assert_eq!(run["outcome"]["ending"], "failed", "{run}");
    assert!(run["document"]["delivered"].as_u64().unwrap() > 0, "what there is stays: {run}");
}

fn interrupted() {
    let comparison =
        Comparison::start(&["--subjects", "coturn", "--duration", "60", "--latency-rates", "320"]);
    let pid = comparison.child.id();
    lab::until("the load runs", Duration::from_secs(30), || {
        processes_of(pid).iter().any(|(_, command)| command.contains(" load turn:")).then_some(())
    });
    // Into the load, past its allocations.
    std::thread::sleep(Duration::from_secs(2));
    kill_process(Pid::from_child(&comparison.child), Signal::INT).unwrap();
    let ended = comparison.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert_eq!(ended.document()["ending"], "interrupted");
    assert!(Path::new(&ended.report("compare.html")).is_file());
}

fn usage() {
    for (arguments, words) in [
        ("--subjects coturn,nobody", "there is no nobody"),
        ("--subject coturn=x", "built-in subject has this name"),
        ("--relay-cores 0 --load-cores 0", "share a core"),
        ("--relay-cores 0 --load-cores 900", "may use the cores"),
        ("--relay-cores x --load-cores 0", "cores are written like"),
        ("--latency-rates 0", "0 is not in"),
    ] {
        let Output { status, stderr, .. } =
            tool(&format!("compare {arguments}")).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(words), "{arguments}: {stderr}");
    }
}
