//! What `conform` says: a line for each case, by section, as soon as it is known; a summary; and
//! all of it as JSON.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::case::{Case, Check, Level, Verdict};
use crate::host::{self, Host};

const TOOL: &str = concat!("relay-bench ", env!("CARGO_PKG_VERSION"));
/// Where the rule of a case begins.
const NAME_COLUMNS: usize = 24;

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// As the RFC says.
    Pass,
    /// Otherwise.
    Fail,
    /// The server says that it does not have this.
    NotSupported,
    /// It was not tried.
    Skipped,
}

const OUTCOMES: [Outcome; 4] =
    [Outcome::Pass, Outcome::Fail, Outcome::NotSupported, Outcome::Skipped];

impl Outcome {
    fn sign(self) -> char {
        match self {
            Self::Pass => '✓',
            Self::Fail => '✗',
            Self::NotSupported => '–',
            Self::Skipped => '·',
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotSupported => "not supported",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Serialize)]
struct Result {
    id: String,
    rfc: u16,
    section: &'static str,
    level: Level,
    rule: &'static str,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct Summary {
    level: Level,
    pass: usize,
    fail: usize,
    not_supported: usize,
    skipped: usize,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    tool: &'static str,
    host: Host,
    command: String,
    target: &'a str,
    completed: bool,
    ok: bool,
    summary: Vec<Summary>,
    cases: &'a [Result],
}

/// Everything so far.
#[derive(Debug)]
pub(super) struct Report {
    target: String,
    results: Vec<Result>,
}

/// A reader who has gone leaves the JSON document and the exit code.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

impl Report {
    /// Nothing yet.
    pub(super) fn begin(target: String) -> Self {
        say(format_args!("{TOOL}: {}", host::command_line()));
        Self { target, results: Vec::new() }
    }

    /// How a case ended.
    pub(super) fn add(&mut self, case: &Case, came: Check) {
        let (outcome, expected, got, why) = match came {
            Ok(()) => (Outcome::Pass, None, None, None),
            Err(Verdict::Fail { expected, got }) => {
                (Outcome::Fail, Some(expected), Some(got), None)
            }
            Err(Verdict::NotSupported(why)) => (Outcome::NotSupported, None, None, Some(why)),
            Err(Verdict::Skipped(why)) => (Outcome::Skipped, None, None, Some(why)),
            Err(Verdict::Broken(error)) => (Outcome::Skipped, None, None, Some(error.to_string())),
        };
        let Case { rfc, section, name, level, rule, .. } = *case;
        if self.results.last().is_none_or(|it| (it.rfc, it.section) != (rfc, section)) {
            say(format_args!("\nRFC {rfc} §{section}"));
        }
        say(format_args!("{} {level:<6} {name:<NAME_COLUMNS$} {rule}", outcome.sign()));
        let indent = 9 + NAME_COLUMNS;
        if let (Some(expected), Some(got)) = (&expected, &got) {
            say(format_args!("{:indent$} → expected {expected}; got {got}", ""));
        }
        if let Some(why) = &why {
            say(format_args!("{:indent$} → {}: {why}", "", outcome.title()));
        }
        let id = case.id();
        self.results.push(Result { id, rfc, section, level, rule, outcome, expected, got, why });
    }

    /// Whether something fails that no server may do otherwise.
    pub(super) fn breaks_a_must(&self) -> bool {
        self.count(Level::Must, Outcome::Fail) > 0
    }

    /// Says how many of what, and writes the document.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn end(&self, completed: bool, json: Option<&Path>) -> anyhow::Result<()> {
        let levels = [Level::Must, Level::Should, Level::May];
        say(format_args!(""));
        for level in levels {
            let counts = OUTCOMES.map(|it| format!("{} {}", self.count(level, it), it.title()));
            say(format_args!("{level:<6} {}", counts.join(", ")));
        }
        let Some(path) = json else { return Ok(()) };
        let count = |level, outcome| self.count(level, outcome);
        let summary = levels.map(|level| Summary {
            level,
            pass: count(level, Outcome::Pass),
            fail: count(level, Outcome::Fail),
            not_supported: count(level, Outcome::NotSupported),
            skipped: count(level, Outcome::Skipped),
        });
        let document = Document {
            tool: TOOL,
            host: Host::here(),
            command: host::command_line(),
            target: &self.target,
            completed,
            ok: completed && !self.breaks_a_must(),
            summary: summary.into(),
            cases: &self.results,
        };
        let text = serde_json::to_string_pretty(&document)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    fn count(&self, level: Level, outcome: Outcome) -> usize {
        self.results.iter().filter(|it| (it.level, it.outcome) == (level, outcome)).count()
    }
}

/// Says what cases there are.
pub(super) fn list(cases: &[&Case]) {
    for case in cases {
        let slow = if case.slow { " (slow)" } else { "" };
        say(format_args!("{:<36} {:<6} {}{slow}", case.id(), case.level, case.rule));
    }
    say(format_args!("{} cases", cases.len()));
}
