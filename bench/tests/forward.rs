//! `relay-bench forward` as its users run it: every subject in both arrangements, short; what it
//! refuses; and what it leaves behind on the machine: nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;

use lab::Need::{Namespaces, Turnpike as TurnpikeHere, Xdp};
use lab::{Test, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const TESTS: &[Test] = &[
    ("every_subject_is_measured_in_turn", &[Namespaces, Xdp, TurnpikeHere], in_turn),
    ("a_relay_in_userspace_is_refused", &[Namespaces, Xdp, TurnpikeHere], refused),
    ("ctrl_c_leaves_a_partial_report", &[Namespaces, Xdp, TurnpikeHere], interrupted),
    ("what_makes_no_sense_is_a_wrong_command_line", &[], usage),
];

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// A run under way.
struct Run {
    child: Child,
    place: TempDir,
}

/// A run's end.
struct Ended {
    code: Option<i32>,
    stderr: String,
    document: Option<Value>,
}

impl Run {
    fn start(arguments: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut command = tool(&format!("forward --rounds 1 --sample 1 {arguments}"));
        command.arg("--json").arg(place.path().join("json"));
        command.stdin(Stdio::null()).stdout(File::create(place.path().join("stdout")).unwrap());
        command.stderr(File::create(place.path().join("stderr")).unwrap());
        Self { child: command.spawn().unwrap(), place }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.place.path().join("stderr")).unwrap()
    }

    /// Waits for its end, and sees that it has tidied up.
    fn end(mut self) -> Ended {
        let pid = self.child.id();
        let status =
            lab::until("the run ends", Duration::from_secs(120), || self.child.try_wait().unwrap());
        let stderr = self.stderr();
        assert_eq!(left_behind(pid), Vec::<String>::new(), "{stderr}");
        let document = fs::read(self.place.path().join("json")).ok();
        let document = document.map(|text| serde_json::from_slice(&text).unwrap());
        Ended { code: status.code(), stderr, document }
    }
}

/// Namespaces, directories and processes of a run.
fn left_behind(pid: u32) -> Vec<String> {
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap().stdout;
    let namespaces = String::from_utf8(namespaces).unwrap();
    let ours = format!("relay-bench-{pid}-");
    let mut left: Vec<String> =
        namespaces.lines().filter(|name| name.starts_with(&ours)).map(str::to_owned).collect();
    let scratch = std::env::temp_dir().join(format!("relay-bench-forward-{pid}"));
    if scratch.exists() {
        left.push(scratch.display().to_string());
    }
    let mine = format!("{}/", scratch.display());
    left.extend(fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let command = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains(&mine).then_some(command)
    }));
    left
}

fn turnpike() -> String {
    std::env::var("TURNPIKE_BIN").unwrap()
}

fn in_turn() {
    let arguments = format!("--turnpike {} --channels 40 --duration 100 --quiet", turnpike());
    let ended = Run::start(&arguments).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let document = ended.document.unwrap();
    let samples = document["samples"].as_array().unwrap();
    let shown = |sample: &Value| {
        let word = |name: &str| sample[name].as_str().unwrap().to_owned();
        (word("subject"), word("speed"))
    };
    for (arms, between) in [("one", None), ("two", Some("redirect"))] {
        let own = samples.iter().filter(|sample| sample["arms"] == arms);
        let measured: Vec<_> = own.map(shown).collect();
        let mut expected: Vec<_> =
            ["generator", "reflector", "stateful_reflector"].map(|bare| (bare, "flat_out")).into();
        expected.extend(between.map(|redirect| (redirect, "flat_out")));
        for way in ["to_peer", "to_client"] {
            expected.extend([(way, "flat_out"), (way, "sustained")]);
        }
        let expected: Vec<_> =
            expected.iter().map(|(s, p)| ((*s).to_owned(), (*p).to_owned())).collect();
        assert_eq!(measured, expected, "{arms}");
    }
    for sample in samples {
        let count = |name: &str| sample[name].as_u64().unwrap();
        assert!(count("received") > 0, "{sample}");
        assert_eq!(count("wrong"), 0, "{sample}");
        assert_eq!(count("sampled"), count("received"), "all were checked whole: {sample}");
        assert_eq!(count("lost") + count("received"), count("sent"), "{sample}");
        let is_relay = sample["subject"].as_str().unwrap().starts_with("to_");
        assert_eq!(sample["went_up"].is_u64(), is_relay, "{sample}");
    }
    let lines = document["lines"].as_array().unwrap();
    let relayed = lines.iter().filter(|line| line["subject"] == "to_peer");
    for line in relayed.filter(|line| line["speed"] == "flat_out") {
        for bare in ["of_reflector", "of_stateful_reflector"] {
            assert!(line[bare]["median"].as_f64().unwrap() > 0.0, "{line}");
        }
        assert_eq!(line["of_redirect"].is_object(), line["arms"] == "two", "{line}");
    }
    for field in ["commit", "tool"] {
        assert!(document[field].is_string(), "{field}");
    }
    assert!(document["asked"]["host"]["kernel"].is_string());
}

/// A stand-in for the binary that never uses XDP.
fn refused() {
    let place = tempfile::tempdir().unwrap();
    let stand_in = place.path().join("turnpike");
    let script = format!("#!/bin/sh\nexec {} \"$@\" --datapath userspace\n", turnpike());
    fs::write(&stand_in, script).unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    let ended =
        Run::start(&format!("--turnpike {} --arms two --channels 2", stand_in.display())).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("has no XDP program in the driver"), "{}", ended.stderr);
    assert!(ended.document.is_none(), "nothing was compared");
}

fn interrupted() {
    let arguments = format!("--turnpike {} --arms one --channels 2 --duration 30000", turnpike());
    let run = Run::start(&arguments);
    let begun = || run.stderr().contains("round 1").then_some(());
    lab::until("the course begins", Duration::from_secs(30), begun);
    kill_process(Pid::from_child(&run.child), Signal::INT).unwrap();
    let ended = run.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
}

fn usage() {
    for (arguments, words) in [
        ("--payload 31", "31 is not in"),
        ("--channels 16001", "16001 is not in"),
        ("--arms three", "possible values: one, two"),
        ("--relay-cores 0", "--load-cores"),
    ] {
        let Output { status, stderr, .. } =
            tool(&format!("forward {arguments}")).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(words), "{arguments}: {stderr}");
    }
}
