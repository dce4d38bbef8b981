//! One run of `relay-bench check`: its exit code, what it said, what it wrote.

use std::process::{Command, Output};

use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::tool;
use crate::running::Running;

/// A run that has begun.
pub(crate) struct Begun {
    place: TempDir,
    running: Running,
}

/// A run that has ended.
pub(crate) struct Run {
    output: Output,
    /// The document; null when there is none.
    pub(crate) json: Value,
}

/// Starts it with these words behind `check`.
pub(crate) fn begin(words: &str) -> Begun {
    let place = tempfile::tempdir().unwrap();
    let mut command: Command = tool(&format!("check {words}"));
    command.arg("--json").arg(place.path().join("result.json"));
    if !words.contains("--rto") {
        command.arg("--rto=100");
    }
    if !words.contains("--wait") {
        command.arg("--wait=900");
    }
    Begun { place, running: Running::start(&mut command) }
}

/// Runs it to its end.
pub(crate) fn check(words: &str) -> Run {
    begin(words).end()
}

impl Begun {
    /// Its process id, for signals.
    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Run {
        let output = self.running.end();
        let json = std::fs::read(self.place.path().join("result.json"));
        let json = json.map_or(Value::Null, |it| serde_json::from_slice(&it).unwrap());
        Run { output, json }
    }
}

impl Run {
    /// The exit code.
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Everything that it printed.
    pub(crate) fn text(&self) -> String {
        let Output { stdout, stderr, .. } = &self.output;
        format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
    }

    /// Asserts the exit code, and shows everything when it is another one.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "{}", self.text());
        self
    }

    /// Asserts that a check came to a verdict with these words in message or advice.
    #[track_caller]
    pub(crate) fn says(&self, check: &str, verdict: &str, words: &str) -> &Self {
        let found = self.json["findings"].as_array().unwrap().iter().any(|finding| {
            let text = format!("{} {}", finding["message"], finding["advice"]);
            finding["check"] == check && finding["verdict"] == verdict && text.contains(words)
        });
        assert!(found, "no {check} that is {verdict} and says {words:?}:\n{}", self.text());
        self
    }

    /// Asserts that no check came to a verdict.
    #[track_caller]
    pub(crate) fn never_says(&self, verdict: &str) -> &Self {
        let findings = self.json["findings"].as_array().unwrap();
        assert!(findings.iter().all(|it| it["verdict"] != verdict), "{}", self.text());
        self
    }

    /// Asserts a figure.
    #[track_caller]
    pub(crate) fn measured(&self, name: &str, value: impl Into<Value>) -> &Self {
        assert_eq!(self.json["measured"][name], value.into(), "{name}:\n{}", self.text());
        self
    }
}
