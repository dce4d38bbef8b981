//! What a run says at its end: a text for people and a JSON document for machines.
//! Computes nothing that the run did not measure.

use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::host::Host;
use crate::load::account::percent;
use crate::load::limits::Limits;
use crate::load::line::{JitterFigures, LATENESS_MS_NOTABLE, Line, Percentiles, ms, sustained};
use crate::load::plan::FlowCount;
use crate::load::run::Outcome;
use crate::turn::transport::Transport;

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
    /// `echo` or `sink`.
    pub(crate) peer_mode: &'static str,
    /// Allocations.
    pub(crate) allocations: u32,
    /// Packets a second of each allocation; of a ramp, in its last step.
    pub(crate) rate_per_allocation: u64,
    /// Packets a second of all; of a ramp, in its last step.
    pub(crate) rate_total: u64,
    /// Packets a second of each allocation, by step.
    pub(crate) ramp: Option<Vec<u32>>,
    /// Seconds of a step of the ramp.
    pub(crate) step_secs: Option<u32>,
    /// Seconds for which there is a line.
    pub(crate) interval_secs: Option<u32>,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: usize,
    /// How long packets are due, seconds, with the pauses of a ramp.
    pub(crate) duration_secs: u64,
    /// Threads that send and receive.
    pub(crate) threads: u32,
}

/// How the flows shared the loss.
#[derive(Clone, Copy, Debug, Serialize)]
struct FlowLoss {
    /// Flows with packets that were offered and did not arrive intact.
    flows: u64,
    /// The flow with most of them, from 1, as in messages about allocations.
    worst: u32,
    worst_undelivered: u64,
    worst_undelivered_percent: f64,
}

impl FlowLoss {
    /// `None` when every flow delivered everything.
    fn of(flows: &[FlowCount]) -> Option<Self> {
        let missing = |flow: &&FlowCount| flow.offered.saturating_sub(flow.delivered);
        let worst = flows.iter().max_by_key(missing).filter(|worst| missing(worst) > 0)?;
        Some(Self {
            flows: flows.iter().filter(|flow| missing(flow) > 0).count() as u64,
            worst: worst.flow + 1,
            worst_undelivered: missing(&worst),
            worst_undelivered_percent: percent(missing(&worst), worst.offered),
        })
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
    jitter_ms: Option<JitterFigures>,
    flow_loss: Option<FlowLoss>,
    steps: Vec<Line>,
    intervals: Vec<Line>,
    /// Of a ramp with limits: packets a second over all allocations, in the fastest step up to
    /// which every one was within the limits.
    sustained_rate_total: Option<u64>,
    stopped_at_limit: bool,
    violations: Vec<String>,
    #[serde(skip)]
    limits: Limits,
}

impl Report {
    /// Of a run, the limits that were set, and what it broke of them.
    pub(crate) fn new(
        asked: Asked,
        outcome: &Outcome,
        limits: Limits,
        violations: Vec<String>,
    ) -> Self {
        let tally = &outcome.tally;
        let lines = outcome.lines.clone();
        let (steps, intervals) =
            if asked.ramp.is_some() { (lines, Vec::new()) } else { (Vec::new(), lines) };
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
            jitter_ms: JitterFigures::of(tally),
            flow_loss: FlowLoss::of(&outcome.flows),
            sustained_rate_total: sustained(&steps)
                .filter(|_| limits.any())
                .map(|step| step.rate_total),
            steps,
            intervals,
            stopped_at_limit: outcome.stopped_at_limit,
            violations,
            limits,
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
            "server      {} over {}, peer {} ({}), mode {}",
            asked.server, asked.transport, asked.peer, asked.peer_mode, asked.mode
        )?;
        self.write_offer(out)?;
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
        self.write_sustained(out)?;
        for violation in &self.violations {
            writeln!(out, "{violation}")?;
        }
        Ok(())
    }

    fn write_offer(&self, out: &mut String) -> fmt::Result {
        let asked = &self.asked;
        write!(out, "offered     {} allocations × ", asked.allocations)?;
        match (asked.ramp.as_deref(), asked.step_secs) {
            (Some([first, .., last]), Some(secs)) => write!(
                out,
                "{first}..{last}/s in {} steps of {secs} s, up to {}/s",
                asked.ramp.iter().flatten().count(),
                asked.rate_total
            )?,
            _ => write!(out, "{}/s = {}/s", asked.rate_per_allocation, asked.rate_total)?,
        }
        writeln!(out, " of {} bytes for {} s", asked.payload_bytes, asked.duration_secs)
    }

    fn write_sustained(&self, out: &mut String) -> fmt::Result {
        if self.steps.is_empty() {
            return Ok(());
        }
        match self.sustained_rate_total {
            Some(rate) => write!(out, "sustains    {rate}/s within the limits")?,
            None if self.limits.any() => {
                write!(out, "sustains    not even the first step within the limits")?;
            }
            None => write!(out, "sustains    not judged: --max-loss, --max-p99 or --max-jitter")?,
        }
        let stopped = if self.stopped_at_limit { "; stopped at the limit" } else { "" };
        writeln!(out, "{stopped}")
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
        if let Some(loss) = &self.flow_loss {
            writeln!(
                out,
                "flows       {} of {} without some packets; worst: allocation {} without {} \
                 ({:.4} %)",
                loss.flows,
                self.asked.allocations,
                loss.worst,
                loss.worst_undelivered,
                loss.worst_undelivered_percent
            )?;
        }
        if let Some(latency) = &self.latency_ms {
            let way = match self.asked.peer_mode {
                "sink" => "one way, client to peer",
                _ => "there and back",
            };
            writeln!(out, "latency ms  {latency}  ({way}, from when the packet was due)")?;
        }
        if let Some(JitterFigures { flows_p50, flows_max, difference }) = &self.jitter_ms {
            writeln!(
                out,
                "jitter ms   median flow {flows_p50:.3}  worst flow {flows_max:.3}  (RFC 3550)"
            )?;
            writeln!(
                out,
                "differ ms   {difference}  (|D|: from one packet of a flow to the next)"
            )?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_flow_is_named_and_flows_that_lost_nothing_are_not_counted() {
        let flow = |flow, delivered| FlowCount { flow, offered: 100, delivered };
        assert!(FlowLoss::of(&[flow(0, 100), flow(1, 100)]).is_none());
        let loss = FlowLoss::of(&[flow(0, 99), flow(2, 60), flow(1, 100)]).unwrap();
        assert_eq!((loss.flows, loss.worst, loss.worst_undelivered), (2, 3, 40));
        assert!((loss.worst_undelivered_percent - 40.0).abs() < 1e-9);
    }
}
