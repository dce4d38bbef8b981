//! The limits that turn a figure into a failure, and the verdict on them. Measures nothing.

use std::fmt;

use crate::load::account::Tally;
use crate::load::line::ms;

/// The limits that the user set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Largest share of offered packets that may not arrive intact, percent.
    pub(crate) loss_percent_max: Option<f64>,
    /// Largest 99th percentile of the latency, milliseconds.
    pub(crate) p99_ms_max: Option<f64>,
    /// Largest mean jitter of a flow, milliseconds.
    pub(crate) jitter_ms_max: Option<f64>,
}

/// A limit that was broken.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Violation {
    /// More than `--max-loss`.
    Loss {
        /// What was measured, percent.
        percent: f64,
        /// What was allowed.
        max: f64,
    },
    /// More than `--max-p99`.
    P99 {
        /// What was measured, milliseconds.
        ms: f64,
        /// What was allowed.
        max: f64,
    },
    /// More than `--max-jitter`.
    Jitter {
        /// What was measured, milliseconds.
        ms: f64,
        /// What was allowed.
        max: f64,
    },
    /// A limit on latency or jitter, and no packets to hold it against.
    NoLatency,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss { percent, max } => {
                write!(
                    f,
                    "limit broken: {percent:.4} % not delivered intact, --max-loss is {max} %"
                )
            }
            Self::P99 { ms, max } => {
                write!(f, "limit broken: the 99th percentile is {ms:.3} ms, --max-p99 is {max} ms")
            }
            Self::Jitter { ms, max } => {
                write!(f, "limit broken: a flow's jitter is {ms:.3} ms, --max-jitter is {max} ms")
            }
            Self::NoLatency => f.write_str(
                "limit broken: --max-p99 or --max-jitter is given and no packet arrived",
            ),
        }
    }
}

impl Limits {
    /// Whether there is one at all.
    pub(crate) fn any(&self) -> bool {
        [self.loss_percent_max, self.p99_ms_max, self.jitter_ms_max].iter().any(Option::is_some)
    }

    /// Every limit that these figures break.
    pub(crate) fn violations(&self, tally: &Tally) -> Vec<Violation> {
        let mut violations = Vec::new();
        let percent = tally.undelivered_percent();
        if let Some(max) = self.loss_percent_max.filter(|max| percent > *max) {
            violations.push(Violation::Loss { percent, max });
        }
        let limits_latency = self.p99_ms_max.or(self.jitter_ms_max).is_some();
        if limits_latency && tally.latency_ns.is_empty() {
            violations.push(Violation::NoLatency);
        }
        let p99 = ms(tally.latency_ns.value_at_quantile(0.99));
        if let Some(max) = self.p99_ms_max.filter(|max| p99 > *max) {
            violations.push(Violation::P99 { ms: p99, max });
        }
        let jitter = ms(tally.flow_jitter_ns.max());
        if let Some(max) = self.jitter_ms_max.filter(|max| jitter > *max) {
            violations.push(Violation::Jitter { ms: jitter, max });
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::account::Arrivals;

    fn tally(delivered: u64, sent: u64, latency_ns: u64, jitter_ns: f64) -> Tally {
        let mut tally = Tally::new();
        tally.sent = sent;
        let mut flow = Arrivals::new(0);
        for sequence in 0..delivered {
            assert!(tally.arrived(&mut flow, sequence, latency_ns));
        }
        tally.flow_jitter(Some(jitter_ns));
        tally
    }

    #[test]
    fn a_limit_holds_at_the_limit_and_breaks_past_it() {
        let limits =
            Limits { loss_percent_max: Some(1.0), p99_ms_max: Some(2.0), jitter_ms_max: Some(0.5) };
        assert!(limits.any() && !Limits::default().any());
        assert_eq!(limits.violations(&tally(99, 100, 1_990_000, 499_000.0)), []);
        let broken = limits.violations(&tally(98, 100, 2_010_000, 510_000.0));
        assert!(matches!(
            broken[..],
            [Violation::Loss { .. }, Violation::P99 { .. }, Violation::Jitter { .. }]
        ));
        assert_eq!(limits.violations(&tally(0, 0, 0, 0.0)), [Violation::NoLatency]);
        assert_eq!(Limits::default().violations(&tally(0, 100, 0, 9e9)), []);
    }
}
