//! Counting: what libtest prints, and how a step ended, becomes passed, failed and skipped.
//! Runs nothing.

use std::{fmt, process::ExitCode};

/// Results so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    pub(crate) const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    /// Adds another result to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Reads one `test result:` line of libtest or libtest-mimic; any other line is `None`.
    /// What libtest calls ignored did not run, and is called skipped here.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |label: &str| {
            counts
                .split(';')
                .find_map(|part| part.trim().strip_suffix(label)?.trim().parse::<u64>().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }
}

/// How a step that is not a test binary ended.
pub(crate) enum Outcome {
    Passed,
    /// What is wrong.
    Failed(String),
    /// Why it could not run here.
    Skipped(String),
}

impl Outcome {
    /// For a verb that is one such step: says how it ended, and how to exit.
    pub(crate) fn report(&self, verb: &str) -> ExitCode {
        match self {
            Self::Passed => println!("{verb}: passed"),
            Self::Failed(why) => println!("{verb}: FAILED: {why}"),
            Self::Skipped(why) => println!("{verb}: SKIPPED: {why}"),
        }
        if matches!(self, Self::Failed(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

impl From<anyhow::Result<Self>> for Outcome {
    fn from(result: anyhow::Result<Self>) -> Self {
        result.unwrap_or_else(|error| Self::Failed(format!("{error:#}")))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let tally = |passed, failed, skipped| Some(Tally { passed, failed, skipped });
        for (line, expected) in [
            (
                "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; \
                 finished in 0.00s",
                tally(5, 0, 2),
            ),
            (
                "test result: FAILED. 15 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; \
                 finished in 1.20s",
                tally(15, 3, 0),
            ),
            ("test result: ok. 7 passed", None),
            ("test codec::round_trip ... ok", None),
            ("", None),
        ] {
            assert_eq!(Tally::from_line(line), expected, "{line}");
        }
    }

    #[test]
    fn the_summary_is_one_line_in_a_fixed_form() {
        let mut tally = Tally::PASSED;
        tally.add(Tally::SKIPPED);
        tally.add(Tally { passed: 10, failed: 2, skipped: 0 });
        assert_eq!(tally.to_string(), "11 passed, 2 failed, 1 skipped");
    }
}
