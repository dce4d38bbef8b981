//! What `check` says: one line for each thing it found out, as soon as it knows, and all of it as
//! JSON. Finds out nothing itself.

use std::fmt;
use std::io::{self, Write as _};

use serde::Serialize;

/// Where the text of a finding begins.
const INDENT: usize = 14;

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Fine,
    /// Good to know, neither good nor bad.
    Note,
    /// It may hurt some clients.
    Suspect,
    /// It does not work, and something is to be done.
    Wrong,
}

impl Verdict {
    fn sign(self) -> char {
        match self {
            Self::Fine => '✓',
            Self::Note => '·',
            Self::Suspect => '!',
            Self::Wrong => '✗',
        }
    }
}

/// One thing that was found out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How it is to be taken.
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:<width$}{}",
            self.verdict.sign(),
            self.check,
            self.message,
            width = INDENT - 2
        )?;
        match &self.advice {
            Some(advice) => write!(f, "\n{:INDENT$}→ {advice}", ""),
            None => Ok(()),
        }
    }
}

/// Everything that was found out so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    /// It is as it should be.
    pub(crate) fn fine(&mut self, check: &'static str, message: impl fmt::Display) {
        self.add(check, Verdict::Fine, message, None);
    }

    /// It is good to know.
    pub(crate) fn note(&mut self, check: &'static str, message: impl fmt::Display) {
        self.add(check, Verdict::Note, message, None);
    }

    /// It may hurt some clients; the advice says what to do.
    pub(crate) fn suspect(
        &mut self,
        check: &'static str,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) {
        self.add(check, Verdict::Suspect, message, Some(advice.to_string()));
    }

    /// It does not work; the advice says what to do.
    pub(crate) fn wrong(
        &mut self,
        check: &'static str,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) {
        self.add(check, Verdict::Wrong, message, Some(advice.to_string()));
    }

    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        message: impl fmt::Display,
        advice: Option<String>,
    ) {
        let finding = Finding { check, verdict, message: message.to_string(), advice };
        // A reader who has gone leaves the JSON document and the exit code.
        let _ = writeln!(io::stdout(), "{finding}");
        self.list.push(finding);
    }

    /// How many are to be taken so.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.list.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// In the order they were found.
    pub(crate) fn list(&self) -> &[Finding] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_it_is_about() {
        let finding = Finding {
            check: "udp",
            verdict: Verdict::Wrong,
            message: "no answer".into(),
            advice: Some("open the port".into()),
        };
        let lines = "✗ udp         no answer\n              → open the port";
        assert_eq!(finding.to_string(), lines);
    }
}
