//! `relay-bench conform` as its user runs it: what a right server does passes, each wrong thing of
//! a fake server is found by the case that is about it, and so are known habits of coturn.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]
#![allow(dead_code, reason = "the laboratory can do more than these tests ask of it")]

mod fake;
#[path = "../lab/mod.rs"]
mod lab;
mod message;
#[path = "../running/mod.rs"]
mod running;
mod servers;
mod wrongs;

use std::process::{ExitCode, Output};

use running::Running;
use serde_json::Value;

/// A run that has ended.
pub(crate) struct Run {
    output: Output,
    /// The document; null when there is none.
    pub(crate) json: Value,
}

/// Runs it with these words behind `conform`; anywhere.
pub(crate) fn conform(words: &str) -> Run {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("result.json");
    let mut command = lab::tool(&format!("conform {words}"));
    command.arg("--json").arg(&file);
    let output = Running::start(&mut command).end();
    let json = std::fs::read(&file).ok().filter(|text| !text.is_empty());
    Run { output, json: json.map_or(Value::Null, |it| serde_json::from_slice(&it).unwrap()) }
}

impl Run {
    /// Everything that it printed.
    pub(crate) fn text(&self) -> String {
        let Output { stdout, stderr, .. } = &self.output;
        format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.text());
        self
    }

    /// The outcomes of the cases, by name.
    pub(crate) fn outcomes(&self) -> Vec<(&str, &str, &str)> {
        let cases = self.json["cases"].as_array().unwrap_or_else(|| panic!("{}", self.text()));
        cases
            .iter()
            .map(|case| {
                let of = |key: &str| case[key].as_str().unwrap();
                (of("id"), of("level"), of("outcome"))
            })
            .collect()
    }

    /// The names of the cases with an outcome.
    pub(crate) fn with_outcome(&self, outcome: &str) -> Vec<&str> {
        let all = self.outcomes().into_iter();
        all.filter(|(_, _, it)| *it == outcome).map(|(id, ..)| id).collect()
    }
}

fn main() -> ExitCode {
    lab::run(&[wrongs::TESTS, servers::TESTS].concat())
}
