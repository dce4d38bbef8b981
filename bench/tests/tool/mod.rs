//! `relay-bench load` as its user runs it, with what it said.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A finished run.
pub(crate) struct Run {
    output: Output,
    json: Option<Value>,
}

impl Run {
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The whole document.
    pub(crate) fn json(&self) -> &Value {
        self.json.as_ref().unwrap_or_else(|| panic!("no report: {}", self.stderr()))
    }

    pub(crate) fn figure(&self, name: &str) -> u64 {
        self.json()[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.json()))
    }
}

/// Loads `target` with the right password unless `arguments` say otherwise: 2 allocations × 200
/// a second, with payloads that need padding.
pub(crate) fn load(target: &str, arguments: &str) -> Run {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    // `timeout` ends a tool that does not end by itself: no test hangs.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60", env!("CARGO_BIN_EXE_relay-bench"), "load", target]);
    command.args(["--quiet", "--user", "alice", "--json"]).arg(file.path());
    command.args(arguments.split_whitespace());
    let defaults = "--allocations=2 --rate=200 --rto=300 --drain=1500 --duration=1 \
                    --password=north --payload=201";
    for default in defaults.split_whitespace() {
        if !arguments.contains(default.split_once('=').unwrap().0) {
            command.arg(default);
        }
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let json = std::fs::read(file.path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Run { output, json }
}
