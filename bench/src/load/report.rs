//! What a run says at its end: a text for people, a JSON document for machines, and the verdict
//! on the limits. Computes nothing that the run did not measure.

use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::host::Host;
use crate::load::account::percent;
use crate::load::run::Outcome;
use crate::turn::transport::Transport;

/// Above this the sender's own lateness is part of the story, milliseconds.
const LATENESS_MS_NOTABLE: f64 = 1.0;

/// What was asked for, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// The command, without passwords.
    pub(crate) command: String,
    /// The server as given, and as resolved.
    pub(crate) target: String,
    /// The TURN server transport address.
    pub(crate) server: String,
    /// What carries messages between client and server.
    pub(crate) transport: Transport,
    /// The peer's transport address.
    pub(crate) peer: String,
    /// `channel` or `send`.
    pub(crate) mode: &'static str,
    /// Allocations.
    pub(crate) allocations: u32,
    /// Packets a second of each allocation.
    pub(crate) rate_per_allocation: u32,
    /// Packets a second of all.
    pub(crate) rate_total: u64,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: usize,
    /// How long packets are due, seconds.
    pub(crate) duration_secs: u32,
    /// Threads that send and receive.
    pub(crate) threads: u32,
}

/// The limits that turn a figure into a failure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Largest share of offered packets that may not come back intact, percent.
    pub(crate) loss_percent_max: Option<f64>,
    /// Largest 99th percentile of the latency, milliseconds.
    pub(crate) p99_ms_max: Option<f64>,
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
    /// A latency limit, and no packet to hold it against.
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
            Self::NoLatency => {
                f.write_str("limit broken: --max-p99 is given and no packet came back")
            }
        }
    }
}

impl Limits {
    /// Every limit that the run broke.
    pub(crate) fn violations(&self, outcome: &Outcome) -> Vec<Violation> {
        let mut violations = Vec::new();
        let percent = outcome.tally.undelivered_percent();
        if let Some(max) = self.loss_percent_max.filter(|max| percent > *max) {
            violations.push(Violation::Loss { percent, max });
        }
        if let Some(max) = self.p99_ms_max {
            if outcome.tally.latency_ns.is_empty() {
                violations.push(Violation::NoLatency);
            }
            let ms = ms(outcome.tally.latency_ns.value_at_quantile(0.99));
            if ms > max {
                violations.push(Violation::P99 { ms, max });
            }
        }
        violations
    }
}

/// Milliseconds at some percentiles.
#[derive(Clone, Copy, Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
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

/// A finished report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    host: Host,
    asked: Asked,
    ending: &'static str,
    explanation: String,
    allocations_made: u64,
    allocations_ready: u64,
    allocations_deleted: u64,
    allocations_left: u64,
    setup_ms: f64,
    control_retransmissions: u64,
    load_secs: f64,
    offered: u64,
    sent: u64,
    unsent: u64,
    delivered: u64,
    lost: u64,
    corrupted: u64,
    duplicates: u64,
    reordered: u64,
    too_late: u64,
    misdelivered: u64,
    foreign: u64,
    icmp_unreachable: u64,
    undelivered_percent: f64,
    peer_received: Option<u64>,
    peer_unsent: Option<u64>,
    latency_ms: Option<Percentiles>,
    lateness_ms: Option<Percentiles>,
    violations: Vec<String>,
}

impl Report {
    /// Of a run and the limits it broke.
    pub(crate) fn new(asked: Asked, outcome: &Outcome, violations: &[Violation]) -> Self {
        let tally = &outcome.tally;
        Self {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            host: Host::here(),
            asked,
            ending: outcome.ending.name(),
            explanation: outcome.ending.to_string(),
            allocations_made: outcome.allocated,
            allocations_ready: outcome.ready,
            allocations_deleted: outcome.released,
            allocations_left: outcome.allocated - outcome.released,
            setup_ms: ms(outcome.setup_ns),
            control_retransmissions: outcome.retransmissions,
            load_secs: ms(outcome.load_ns) / 1e3,
            offered: tally.offered(),
            sent: tally.sent,
            unsent: tally.unsent,
            delivered: tally.delivered,
            lost: tally.lost(),
            corrupted: tally.corrupted,
            duplicates: tally.duplicates,
            reordered: tally.reordered,
            too_late: tally.too_late,
            misdelivered: tally.misdelivered,
            foreign: tally.foreign,
            icmp_unreachable: tally.unreachable,
            undelivered_percent: tally.undelivered_percent(),
            peer_received: outcome.peer.as_ref().map(|p| p.received.load(Ordering::Relaxed)),
            peer_unsent: outcome.peer.as_ref().map(|p| p.unsent.load(Ordering::Relaxed)),
            latency_ms: Percentiles::of(&tally.latency_ns),
            lateness_ms: Percentiles::of(&tally.lateness_ns),
            violations: violations.iter().map(Violation::to_string).collect(),
        }
    }

    /// The JSON document.
    ///
    /// # Errors
    /// None that this document can cause.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("a String takes every text");
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let asked = &self.asked;
        writeln!(out, "{}: {}", self.tool, asked.command)?;
        let Host { kernel, cpu, cores } = &self.host;
        writeln!(out, "host        Linux {kernel}, {cores} × {cpu}, {} thread(s)", asked.threads)?;
        writeln!(
            out,
            "server      {} over {}, peer {}, mode {}",
            asked.server, asked.transport, asked.peer, asked.mode
        )?;
        writeln!(
            out,
            "offered     {} allocations × {}/s = {}/s of {} bytes for {} s",
            asked.allocations,
            asked.rate_per_allocation,
            asked.rate_total,
            asked.payload_bytes,
            asked.duration_secs
        )?;
        writeln!(out, "ending      {}", self.explanation)?;
        writeln!(
            out,
            "allocations {} made, {} ready in {:.1} ms, {} deleted, {} left behind, {} requests \
             sent \
             again",
            self.allocations_made,
            self.allocations_ready,
            self.setup_ms,
            self.allocations_deleted,
            self.allocations_left,
            self.control_retransmissions
        )?;
        if self.offered > 0 {
            self.write_figures(out)?;
        }
        for violation in &self.violations {
            writeln!(out, "{violation}")?;
        }
        Ok(())
    }

    fn write_figures(&self, out: &mut String) -> fmt::Result {
        let share = |part| percent(part, self.offered);
        writeln!(
            out,
            "sent        {} in {:.3} s, {} more were due but not taken by this host",
            self.sent, self.load_secs, self.unsent
        )?;
        let delivered = self.delivered;
        writeln!(out, "delivered   {delivered} intact ({:.4} %)", share(delivered))?;
        write!(out, "lost        {} ({:.4} %)", self.lost, share(self.lost))?;
        match self.peer_received {
            Some(received) => writeln!(out, "; {received} datagrams reached the peer")?,
            None => writeln!(out)?,
        }
        writeln!(
            out,
            "corrupted   {}   duplicates {}   reordered {}   too late {}",
            self.corrupted, self.duplicates, self.reordered, self.too_late
        )?;
        writeln!(
            out,
            "strays      {} of another flow, {} foreign, {} ICMP unreachable",
            self.misdelivered, self.foreign, self.icmp_unreachable
        )?;
        if let Some(latency) = &self.latency_ms {
            writeln!(out, "latency ms  {latency}  (there and back, from when the packet was due)")?;
        }
        let Some(lateness) = &self.lateness_ms else { return Ok(()) };
        writeln!(out, "lateness ms {lateness}  (of this tool's sends, part of the latency)")?;
        if lateness.p99 > LATENESS_MS_NOTABLE {
            writeln!(
                out,
                "note        this tool sent late: the latency is not the server's alone"
            )?;
        }
        let unsent = self.unsent + self.peer_unsent.unwrap_or(0);
        if unsent > 0 {
            writeln!(out, "note        this host's kernel did not take {unsent} packets to send")?;
        }
        Ok(())
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::account::{Arrival, Tally};
    use crate::load::run::Ending;

    fn outcome(delivered: u64, sent: u64, latency_ns: u64) -> Outcome {
        let mut tally = Tally::new();
        tally.sent = sent;
        for _ in 0..delivered {
            tally.arrived(Arrival::InOrder, 0, latency_ns);
        }
        Outcome {
            ending: Ending::Completed,
            tally,
            ready: 1,
            allocated: 1,
            released: 1,
            retransmissions: 0,
            setup_ns: 1,
            load_ns: 1,
            peer: None,
        }
    }

    #[test]
    fn a_limit_holds_at_the_limit_and_breaks_past_it() {
        let limits = Limits { loss_percent_max: Some(1.0), p99_ms_max: Some(2.0) };
        assert_eq!(limits.violations(&outcome(99, 100, 1_990_000)), []);
        let broken = limits.violations(&outcome(98, 100, 2_010_000));
        assert!(matches!(broken[..], [Violation::Loss { .. }, Violation::P99 { .. }]));
        assert_eq!(limits.violations(&outcome(0, 0, 0)), [Violation::NoLatency]);
        assert_eq!(Limits::default().violations(&outcome(0, 100, 0)), []);
    }
}
