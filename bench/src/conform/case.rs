//! A case: one sentence of an RFC, and how a server is asked whether it keeps it. What comes out
//! is one of four outcomes. Asks nothing itself.

use std::fmt;

use serde::Serialize;

use super::wire::{Answer, Class};
use super::world::World;

/// How strongly the RFC asks for it. What the RFC states as the procedure without a keyword counts
/// as MUST: clients rely on it all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Level {
    /// MUST, MUST NOT, or the procedure.
    Must,
    /// SHOULD, SHOULD NOT, RECOMMENDED.
    Should,
    /// MAY: what most would expect of a server that has the choice.
    May,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
        })
    }
}

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The server does something else.
    Fail {
        /// What the RFC says.
        expected: String,
        /// What was seen.
        got: String,
    },
    /// The server says, in the way that the RFC has for it, that it does not have this.
    NotSupported(String),
    /// The case needs something that is not given.
    Skipped(String),
    /// This host failed, or the user wants the end.
    Broken(anyhow::Error),
}

/// What a case comes to.
pub(crate) type Check = Result<(), Verdict>;

/// One rule.
pub(crate) struct Case {
    /// The RFC's number.
    pub(crate) rfc: u16,
    /// The section in it.
    pub(crate) section: &'static str,
    /// The rest of its name.
    pub(crate) name: &'static str,
    /// MUST, SHOULD or MAY.
    pub(crate) level: Level,
    /// The rule, in our own words.
    pub(crate) rule: &'static str,
    /// Whether it takes minutes.
    pub(crate) slow: bool,
    /// Finds out.
    pub(crate) run: fn(&World) -> Check,
}

impl Case {
    /// Its name for ever, such as `8656-7.2-second-allocation`.
    pub(crate) fn id(&self) -> String {
        format!("{}-{}-{}", self.rfc, self.section, self.name)
    }

    /// Whether `--only` means it: by its whole name, or by its RFC and as much of the section as
    /// is given.
    pub(crate) fn is_meant_by(&self, only: &str) -> bool {
        let place = format!("{}-{}", self.rfc, self.section);
        let rest = place.strip_prefix(only);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
            || self.id() == only
    }

    /// The same, but it takes minutes.
    pub(crate) const fn slow(self) -> Self {
        Self { slow: true, ..self }
    }
}

/// A rule that a server has to keep.
pub(crate) const fn must(
    rfc: u16,
    section: &'static str,
    name: &'static str,
    rule: &'static str,
    run: fn(&World) -> Check,
) -> Case {
    Case { rfc, section, name, level: Level::Must, rule, slow: false, run }
}

/// A rule that a server keeps unless it has a reason.
pub(crate) const fn should(
    rfc: u16,
    section: &'static str,
    name: &'static str,
    rule: &'static str,
    run: fn(&World) -> Check,
) -> Case {
    Case { level: Level::Should, ..must(rfc, section, name, rule, run) }
}

/// What a server may do.
pub(crate) const fn may(
    rfc: u16,
    section: &'static str,
    name: &'static str,
    rule: &'static str,
    run: fn(&World) -> Check,
) -> Case {
    Case { level: Level::May, ..must(rfc, section, name, rule, run) }
}

/// The server does something else.
pub(crate) fn fail<T>(expected: impl Into<String>, got: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::Fail { expected: expected.into(), got: got.into() })
}

/// The server does not have this.
pub(crate) fn unsupported<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::NotSupported(why.into()))
}

/// Something is not given.
pub(crate) fn skip<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::Skipped(why.into()))
}

/// Fails unless something is so.
pub(crate) fn ensure(holds: bool, expected: impl Into<String>, got: impl Into<String>) -> Check {
    if holds { Ok(()) } else { fail(expected, got) }
}

/// What an answer that may have stayed away is called.
pub(crate) fn shown(answer: Option<&Answer>) -> String {
    answer.map_or_else(|| "no answer".to_owned(), Answer::describe)
}

/// Insists on a success response.
pub(crate) fn success(answer: Option<Answer>) -> Result<Answer, Verdict> {
    match answer {
        Some(answer) if answer.class() == Class::Success => Ok(answer),
        other => fail("success", shown(other.as_ref())),
    }
}

/// Insists on an error response with one of these codes.
pub(crate) fn refused(answer: Option<Answer>, codes: &[u16]) -> Result<Answer, Verdict> {
    match answer {
        Some(answer) if answer.code().is_some_and(|code| codes.contains(&code)) => Ok(answer),
        other => {
            let codes: Vec<String> = codes.iter().map(u16::to_string).collect();
            fail(codes.join(" or "), shown(other.as_ref()))
        }
    }
}

/// Insists on an attribute.
pub(crate) fn carries<'a>(answer: &'a Answer, kind: u16, name: &str) -> Result<&'a [u8], Verdict> {
    answer.value(kind).map_or_else(
        || fail(format!("{name} in the answer"), format!("{} without it", answer.describe())),
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_means_a_case_or_a_section_or_an_rfc() {
        let case = must(8489, "9.2.4", "no-integrity", "", |_| Ok(()));
        for only in ["8489", "8489-9", "8489-9.2", "8489-9.2.4", "8489-9.2.4-no-integrity"] {
            assert!(case.is_meant_by(only), "{only}");
        }
        for only in ["848", "8656", "8489-9.2.4-no", "8489-9.2.41", "8489-9.", "9.2.4", ""] {
            assert!(!case.is_meant_by(only), "{only}");
        }
    }
}
