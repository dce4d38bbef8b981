//! The figures of a section: a line for people, an entry of a list for machines. Also the
//! percentiles that every report shows. Computes nothing that was not counted.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::account::Tally;
use crate::load::limits::{Limits, Violation};

/// Above this the sender's own lateness is part of the story, milliseconds.
pub(crate) const LATENESS_MS_NOTABLE: f64 = 1.0;

/// Nanoseconds as milliseconds.
pub(crate) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Milliseconds at some percentiles.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    p50: f64,
    p90: f64,
    /// The one that a note and a limit may hang on.
    pub(crate) p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

impl Percentiles {
    /// Of nanoseconds; `None` of nothing.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(histogram.max()),
            mean: histogram.mean() / 1e6,
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p99_9, max, mean } = self;
        write!(
            f,
            "p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  p99.9 {p99_9:.3}  max {max:.3}  \
             mean {mean:.3}"
        )
    }
}

/// The jitter of the flows (RFC 3550 §6.4.1), milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct JitterFigures {
    /// The median over the flows of their mean jitter.
    pub(crate) flows_p50: f64,
    /// The flow with the largest mean jitter.
    pub(crate) flows_max: f64,
    /// |D|: from one packet of a flow to the next.
    pub(crate) difference: Percentiles,
}

impl JitterFigures {
    /// `None` when no flow had two packets.
    pub(crate) fn of(tally: &Tally) -> Option<Self> {
        (!tally.flow_jitter_ns.is_empty()).then_some(())?;
        Some(Self {
            flows_p50: ms(tally.flow_jitter_ns.value_at_quantile(0.5)),
            flows_max: ms(tally.flow_jitter_ns.max()),
            difference: Percentiles::of(&tally.difference_ns)?,
        })
    }
}

/// What a section is, beside its figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    /// Its number, 0-based.
    pub(crate) number: u64,
    /// When it starts, seconds after the start of the load.
    pub(crate) start_secs: u64,
    /// Packets a second of each allocation.
    pub(crate) rate_per_allocation: u64,
    /// Packets a second over all allocations.
    pub(crate) rate_total: u64,
    /// Packets that are due in it.
    pub(crate) planned: u64,
    /// Memory of this process, KiB, where it can be read.
    pub(crate) rss_kib: Option<u64>,
}

/// A section's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    number: u64,
    /// When it starts, seconds after the start of the load.
    pub(crate) start_secs: u64,
    rate_per_allocation: u64,
    /// Packets a second over all allocations.
    pub(crate) rate_total: u64,
    /// Whether every packet of it was due before the run ended.
    pub(crate) complete: bool,
    /// Packets that were due.
    pub(crate) offered: u64,
    sent: u64,
    unsent: u64,
    /// Packets that arrived intact, each counted once.
    pub(crate) delivered: u64,
    lost: u64,
    corrupted: u64,
    duplicates: u64,
    reordered: u64,
    undelivered_percent: f64,
    latency_ms: Option<Percentiles>,
    jitter_ms: Option<JitterFigures>,
    lateness_ms: Option<Percentiles>,
    rss_kib: Option<u64>,
    /// The limits that it breaks.
    pub(crate) violations: Vec<String>,
}

/// What the lines of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One for each rate of a ramp.
    Step,
    /// One for each interval of a long run.
    Interval,
}

impl Line {
    /// Of a section.
    pub(crate) fn new(section: Section, tally: &Tally, limits: &Limits) -> Self {
        let Section { number, start_secs, rate_per_allocation, rate_total, planned, rss_kib } =
            section;
        Self {
            number,
            start_secs,
            rate_per_allocation,
            rate_total,
            complete: tally.offered() == planned,
            offered: tally.offered(),
            sent: tally.sent,
            unsent: tally.unsent,
            delivered: tally.delivered,
            lost: tally.lost(),
            corrupted: tally.corrupted,
            duplicates: tally.duplicates,
            reordered: tally.reordered,
            undelivered_percent: tally.undelivered_percent(),
            latency_ms: Percentiles::of(&tally.latency_ns),
            jitter_ms: JitterFigures::of(tally),
            lateness_ms: Percentiles::of(&tally.lateness_ns),
            rss_kib,
            violations: limits.violations(tally).iter().map(Violation::to_string).collect(),
        }
    }

    /// The names of the columns.
    pub(crate) fn heading(kind: Kind) -> String {
        let (first, last) = match kind {
            Kind::Step => ("rate/s", "late p99"),
            Kind::Interval => ("from s", "RSS MiB"),
        };
        format!(
            "{first:>9} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {last:>9}",
            "offered", "delivered", "loss %", "p50 ms", "p99 ms", "jitter ms"
        )
    }

    /// The figures below [`Line::heading`].
    pub(crate) fn text(&self, kind: Kind) -> String {
        let shown = |figure: Option<f64>| figure.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
        let (first, last) = match kind {
            Kind::Step => (self.rate_total, shown(self.lateness_ms.map(|ms| ms.p99))),
            Kind::Interval => {
                let mib = self.rss_kib.map(|kib| format!("{:.1}", kib as f64 / 1024.0));
                (self.start_secs, mib.unwrap_or("-".to_owned()))
            }
        };
        let mut text = format!(
            "{first:>9} {:>10} {:>10} {:>9.4} {:>9} {:>9} {:>9} {last:>9}",
            self.offered,
            self.delivered,
            self.undelivered_percent,
            shown(self.latency_ms.map(|ms| ms.p50)),
            shown(self.latency_ms.map(|ms| ms.p99)),
            shown(self.jitter_ms.map(|ms| ms.flows_p50)),
        );
        if !self.complete {
            text += "  cut short";
        }
        if !self.violations.is_empty() {
            text += "  over the limit";
        }
        if self.lateness_ms.is_some_and(|late| late.p99 > LATENESS_MS_NOTABLE) {
            text += "  this tool sent late";
        }
        text
    }
}

/// The fastest step up to which every one was within the limits; `None` when the first was not.
pub(crate) fn sustained(steps: &[Line]) -> Option<&Line> {
    steps.iter().take_while(|step| step.complete && step.violations.is_empty()).last()
}
