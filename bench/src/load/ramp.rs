//! The command line of a ramp and of a long run: rates from one to another, times with units.
//! Only parses and judges what was asked for.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The largest rate of one allocation, packets a second.
pub(crate) const RATE_MAX: u32 = 100_000;
/// The longest time, seconds: a year.
const SECS_MAX: u32 = 365 * 86_400;

/// `FROM..TO`: packets a second of each allocation, in the first step and in the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ramp {
    from: u32,
    to: u32,
}

/// What is wrong with an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unusable {
    /// Not `FROM..TO` with rising rates.
    Ramp,
    /// More steps than whole rates between the two.
    Steps {
        /// The most that there can be.
        max: u32,
    },
    /// Not a time.
    Time,
    /// More intervals than the tool keeps in mind.
    Intervals {
        /// The shortest interval that will do, seconds.
        secs_min: u32,
    },
    /// What only a ramp has, without one.
    NoRamp,
    /// Nothing by which a step could break a limit.
    NoLimit,
    /// A longer run than the tool makes.
    TooLong,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ramp => write!(
                f,
                "a ramp reads FROM..TO in packets a second of each allocation, rising, from 1 to \
                 {RATE_MAX}"
            ),
            Self::Steps { max } => {
                write!(f, "--steps: between these rates there are at most {max} steps")
            }
            Self::Time => f.write_str(
                "a time is a number of seconds, or one with s, m, h or d behind it, up to a year",
            ),
            Self::Intervals { secs_min } => write!(
                f,
                "--interval: too many lines for this --duration; take at least {secs_min}s"
            ),
            Self::NoRamp => {
                f.write_str("--steps, --step-duration and --stop-at-limit are for a --ramp")
            }
            Self::NoLimit => {
                f.write_str("--stop-at-limit needs --max-loss, --max-p99 or --max-jitter")
            }
            Self::TooLong => f.write_str("--step-duration: the ramp is longer than a year"),
        }
    }
}

impl std::error::Error for Unusable {}

impl FromStr for Ramp {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let (from, to) = text.split_once("..").ok_or(Unusable::Ramp)?;
        let rate = |text: &str| {
            text.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate)).ok_or(Unusable::Ramp)
        };
        let ramp = Self { from: rate(from)?, to: rate(to)? };
        if ramp.from < ramp.to { Ok(ramp) } else { Err(Unusable::Ramp) }
    }
}

impl Ramp {
    /// The rates of so many steps, evenly spaced, both ends among them.
    ///
    /// # Errors
    /// There are not so many different rates, or fewer than two steps.
    pub(crate) fn rates(self, steps: u32) -> Result<Vec<u32>, Unusable> {
        let span = self.to - self.from;
        if steps < 2 || steps > span + 1 {
            return Err(Unusable::Steps { max: span + 1 });
        }
        let rate = |step: u32| {
            // Below 2^17 times below 2^10: no overflow.
            self.from + (span * step + (steps - 1) / 2) / (steps - 1)
        };
        Ok((0..steps).map(rate).collect())
    }
}

/// Seconds, from a number with or without a unit.
///
/// # Errors
/// It is no time from a second to a year.
pub(crate) fn time(text: &str) -> Result<NonZeroU32, Unusable> {
    let (number, unit_secs) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let secs = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit_secs));
    secs.filter(|secs| *secs <= SECS_MAX).and_then(NonZeroU32::new).ok_or(Unusable::Time)
}

/// Seconds from the first packet of a ramp to its last.
///
/// # Errors
/// It is longer than a year.
pub(crate) fn ramp_secs(steps: usize, step_secs: u32, pause_secs: u32) -> Result<u32, Unusable> {
    let steps = u64::try_from(steps).unwrap_or(u64::MAX);
    let secs = steps * u64::from(step_secs + pause_secs) - u64::from(pause_secs);
    u32::try_from(secs).ok().filter(|secs| *secs <= SECS_MAX).ok_or(Unusable::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_from_one_rate_to_another() {
        let ramp: Ramp = "100..1000".parse().unwrap();
        assert_eq!(ramp.rates(10).unwrap(), (1..=10).map(|n| n * 100).collect::<Vec<_>>());
        assert_eq!("1..3".parse::<Ramp>().unwrap().rates(3), Ok(vec![1, 2, 3]));
        assert_eq!(ramp.rates(2), Ok(vec![100, 1000]));
        let wide: Ramp = "1..100000".parse().unwrap();
        let rates = wide.rates(1000).unwrap();
        assert!(rates.is_sorted() && rates.last() == Some(&100_000));
        assert_eq!("1..3".parse::<Ramp>().unwrap().rates(4), Err(Unusable::Steps { max: 3 }));
        assert_eq!(ramp.rates(1), Err(Unusable::Steps { max: 901 }));
        for text in ["", "100", "100..", "..5", "5..5", "6..5", "0..5", "1..100001", "1...5"] {
            assert_eq!(text.parse::<Ramp>(), Err(Unusable::Ramp), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        let secs = |text: &str| time(text).map(NonZeroU32::get);
        assert_eq!(
            ["7", "90s", "30m", "12h", "2d", "365d"].map(secs),
            [7, 90, 1800, 43_200, 172_800, 31_536_000].map(Ok)
        );
        for text in ["", "s", "0", "0h", "-1", "1.5h", "366d", "9999999d", "5w", "ß"] {
            assert_eq!(secs(text), Err(Unusable::Time), "{text}");
        }
    }

    #[test]
    fn the_last_step_has_no_pause() {
        assert_eq!(ramp_secs(10, 5, 1), Ok(59));
        assert_eq!(ramp_secs(1000, 86_400, 1), Err(Unusable::TooLong));
    }
}
