//! What a flood says at its end: a text for people, a JSON document for machines, and the verdict
//! on limits and damage. Computes nothing that the run did not measure.

use std::fmt::{self, Write as _};

use relay_bench_ebpf::packet::SinkCounts;
use serde::Serialize;

use crate::flood::findings::{Asked, Control, Findings, Name, PerFlow};
use crate::flood::place::Interface;
use crate::flood::run::FlowResult;
use crate::host::Host;

/// A paced generator that reached less than this share of its rate was the limit.
const RATE_REACHED: f64 = 0.99;
/// A flat-out run that loses less than this was limited by the generator or this host, percent.
const LOSS_PERCENT_OF_A_LIMIT: f64 = 0.1;
/// A generator that was later than this sent bursts, milliseconds.
const LAG_MS_NOTABLE: f64 = 5.0;
/// An interface that counted less than this share of what was sent did not carry it all.
const CARRIED: f64 = 0.999;
/// Flows listed in the text.
const WORST_FLOWS: usize = 5;

/// One flow.
#[derive(Clone, Debug, Serialize)]
struct Flow {
    allocation: usize,
    client: String,
    relayed: Option<String>,
    sent: u64,
    received: u64,
    lost: u64,
    reordered: u64,
    duplicates: u64,
}

/// A finished report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    host: Host,
    asked: Asked,
    ending: &'static str,
    explanation: String,
    #[serde(flatten)]
    control: Control,
    from: Option<Interface>,
    at: Option<Interface>,
    send_secs: f64,
    sent: u64,
    sent_per_second: f64,
    lag_max_ms: Option<f64>,
    interface_sent: Option<u64>,
    sink_queues: Option<usize>,
    received: u64,
    received_per_second: f64,
    delivered: u64,
    lost: u64,
    loss_percent: f64,
    reordered: u64,
    duplicates: u64,
    too_late: u64,
    sampled: u64,
    corrupted: u64,
    corrupted_estimate: u64,
    bad_checksum: u64,
    partial_checksum: u64,
    no_checksum: u64,
    misdelivered: u64,
    generator_limited: bool,
    flows_with_loss: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_flow: Option<Vec<Flow>>,
    violations: Vec<String>,
    #[serde(skip)]
    worst: Vec<Flow>,
    /// Damaged packets that no flow knows of.
    #[serde(skip)]
    untold: u64,
}

impl Report {
    /// Of a run.
    pub(crate) fn new(findings: Findings<'_>) -> Self {
        let Findings { asked, ending, control, interfaces, measured, names, .. } = &findings;
        let counts = measured.map(|measured| measured.counts).unwrap_or_default();
        let sent = measured.map_or(0, |measured| measured.sent);
        let send_secs = measured.map_or(0.0, |measured| measured.send_ns as f64 / 1e9);
        let per_second = |count: u64| if send_secs > 0.0 { count as f64 / send_secs } else { 0.0 };
        let wrong = counts.corrupted + counts.bad_checksum;
        // Of the packets that the sample is taken of, as many as of the sample.
        let rest = counts.packets - counts.damaged - counts.misdelivered;
        let scaled = (wrong * rest + counts.sampled / 2).checked_div(counts.sampled).unwrap_or(0);
        let corrupted_estimate = scaled + counts.damaged;
        // One that is too late may be a duplicate, which must not stand for a packet that is lost.
        let arrived = counts.received + counts.damaged + counts.misdelivered + wrong;
        let lost = sent.saturating_sub(arrived);
        let loss_percent = percent(lost, sent);
        let flows = flows(measured.as_ref().map_or(&[], |measured| &measured.flows), names);
        let told = measured
            .map_or(0, |measured| measured.flows.iter().map(|flow| flow.sink.wrong).sum::<u64>());
        let untold = (counts.damaged + counts.misdelivered + wrong).saturating_sub(told);
        let flows_with_loss = flows.iter().filter(|flow| flow.lost > 0).count();
        let mut worst: Vec<Flow> = flows.iter().filter(|flow| flow.lost > 0).cloned().collect();
        worst.sort_by_key(|flow| std::cmp::Reverse(flow.lost));
        worst.truncate(WORST_FLOWS);
        let interface_sent = measured.and_then(|measured| measured.interface_sent);
        // A veth has no ring of its own: what it did not send, its far end did not take.
        let has_ring = interfaces.as_ref().is_some_and(|(from, _)| from.driver != "veth");
        let generator_limited = match asked.rate_total {
            Some(rate) => per_second(sent) < rate as f64 * RATE_REACHED,
            None => loss_percent < LOSS_PERCENT_OF_A_LIMIT,
        };
        let generator_limited = generator_limited || has_ring && is_short(interface_sent, sent);
        let violations = violations(&counts, loss_percent, findings.max_loss, corrupted_estimate);
        Self {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            host: Host::here(),
            asked: asked.clone(),
            ending: ending.0,
            explanation: ending.1.clone(),
            control: *control,
            from: interfaces.as_ref().map(|(from, _)| from.clone()),
            at: interfaces.as_ref().map(|(_, at)| at.clone()),
            send_secs,
            sent,
            sent_per_second: per_second(sent),
            lag_max_ms: measured.and_then(|measured| Some(measured.lag_max_ns? as f64 / 1e6)),
            interface_sent,
            sink_queues: findings.sink_queues,
            received: counts.received,
            received_per_second: per_second(counts.received),
            delivered: counts.received.saturating_sub(scaled.saturating_sub(wrong)),
            lost,
            loss_percent,
            reordered: counts.reordered,
            duplicates: counts.duplicates,
            too_late: counts.too_late,
            sampled: counts.sampled,
            corrupted: counts.damaged + counts.corrupted,
            corrupted_estimate,
            bad_checksum: counts.bad_checksum,
            partial_checksum: counts.partial_checksum,
            no_checksum: counts.no_checksum,
            misdelivered: counts.misdelivered,
            generator_limited,
            flows_with_loss,
            per_flow: (findings.per_flow == PerFlow::Listed).then_some(flows),
            violations,
            worst,
            untold,
        }
    }

    /// Whether no limit was broken and nothing was damaged.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
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
        write!(out, "server      {}", asked.server)?;
        match &asked.peer {
            Some(peer) => writeln!(out, ", peer {peer}, {}", asked.direction)?,
            None => writeln!(out, ", {}", asked.direction)?,
        }
        if let (Some(from), Some(at)) = (&self.from, &self.at) {
            writeln!(
                out,
                "interfaces  from {} ({}, MTU {}), at {} ({}, MTU {})",
                from.name, from.driver, from.mtu, at.name, at.driver, at.mtu
            )?;
        }
        let rate = asked.rate_total.map_or("flat out".to_owned(), |rate| format!("{rate}/s"));
        writeln!(
            out,
            "offered     {} flows, {rate}, {} bytes, for {} s",
            asked.allocations, asked.payload_bytes, asked.duration_secs
        )?;
        writeln!(out, "ending      {}", self.explanation)?;
        let control = &self.control;
        if control.allocations_made > 0 {
            writeln!(
                out,
                "allocations {} made, {} ready in {} ms, {} deleted, {} left behind",
                control.allocations_made,
                control.allocations_ready,
                control.setup_ms,
                control.allocations_deleted,
                control.allocations_made - control.allocations_deleted
            )?;
        }
        if self.sent > 0 {
            self.write_figures(out)?;
            self.write_notes(out)?;
        }
        for violation in &self.violations {
            writeln!(out, "{violation}")?;
        }
        Ok(())
    }

    fn write_figures(&self, out: &mut String) -> fmt::Result {
        write!(
            out,
            "sent        {} in {:.3} s, {:.0}/s",
            self.sent, self.send_secs, self.sent_per_second
        )?;
        match self.interface_sent {
            Some(count) => writeln!(out, "; {count} by the interface's own count")?,
            None => writeln!(out)?,
        }
        writeln!(
            out,
            "received    {} ({:.4} %), {:.0}/s",
            self.received,
            percent(self.received, self.sent),
            self.received_per_second
        )?;
        writeln!(
            out,
            "lost        {} ({:.4} %), in {} of {} flows",
            self.lost, self.loss_percent, self.flows_with_loss, self.asked.allocations
        )?;
        for flow in &self.worst {
            writeln!(
                out,
                "  worst     allocation {} ({}): {} of {} lost",
                flow.allocation, flow.client, flow.lost, flow.sent
            )?;
        }
        writeln!(
            out,
            "order       {} reordered, {} duplicates, {} too late to tell from them, and so lost",
            self.reordered, self.duplicates, self.too_late
        )?;
        writeln!(
            out,
            "checked     {} whole: {} corrupted, {} with a bad checksum; {} misdelivered",
            self.sampled, self.corrupted, self.bad_checksum, self.misdelivered
        )
    }

    fn write_notes(&self, out: &mut String) -> fmt::Result {
        if self.generator_limited {
            let what = match self.asked.rate_total {
                _ if is_short(self.interface_sent, self.sent) => "frames did not leave",
                Some(_) => "the offered rate was not reached",
                None => "flat out, and next to nothing was lost",
            };
            writeln!(out, "note        {what}: this tool or its host was the limit")?;
        }
        if let Some(lag) = self.lag_max_ms.filter(|lag| *lag > LAG_MS_NOTABLE) {
            writeln!(
                out,
                "note        this tool sent up to {lag:.1} ms late and caught up: a loss may be \
                 its burst's"
            )?;
        }
        if is_short(self.interface_sent, self.sent) {
            writeln!(
                out,
                "note        the interface did not carry all frames: its queue overflowed, or the \
                 far end does not take them by XDP (`relay-bench reflect`, or any XDP program)"
            )?;
        }
        if let Some(queues) = self.sink_queues.filter(|queues| *queues > 1) {
            writeln!(
                out,
                "note        the sink's interface has {queues} receive queues: if packets of one \
                 flow come by several, order, duplicates and each flow's counts are not exact"
            )?;
        }
        if self.flows_with_loss > 0 && self.untold > 0 {
            writeln!(
                out,
                "note        {} packets came with a stamp that does not say whose they are: their \
                 flows count them as lost, the sum does not",
                self.untold
            )?;
        }
        if self.partial_checksum > 0 {
            writeln!(
                out,
                "note        {} packets of the sample have only a partial UDP checksum: the \
                 sender leaves it to hardware that a veth is not; `ethtool -K IF tx off` at the \
                 relay makes it checkable",
                self.partial_checksum
            )?;
        }
        if self.no_checksum > 0 {
            writeln!(
                out,
                "note        {} packets of the sample came without a UDP checksum, and were sent \
                 with one",
                self.no_checksum
            )?;
        }
        Ok(())
    }
}

/// Whether the sending interface counted fewer packets than were sent.
fn is_short(interface_sent: Option<u64>, sent: u64) -> bool {
    interface_sent.is_some_and(|count| (count as f64) < sent as f64 * CARRIED)
}

fn flows(flows: &[FlowResult], names: &[Name]) -> Vec<Flow> {
    let line = |(index, (flow, name)): (usize, (&FlowResult, &Name))| Flow {
        allocation: index + 1,
        client: name.client.clone(),
        relayed: name.relayed.clone(),
        sent: flow.sent,
        received: flow.sink.received,
        lost: flow.sent.saturating_sub(flow.sink.received + flow.sink.wrong),
        reordered: flow.sink.reordered,
        duplicates: flow.sink.duplicates,
    };
    flows.iter().zip(names).enumerate().map(line).collect()
}

fn violations(
    counts: &SinkCounts,
    loss_percent: f64,
    max_loss: Option<f64>,
    corrupted_estimate: u64,
) -> Vec<String> {
    let mut violations = Vec::new();
    if let Some(max) = max_loss.filter(|max| loss_percent > *max) {
        violations.push(format!("limit broken: {loss_percent:.4} % lost, --max-loss is {max} %"));
    }
    if corrupted_estimate > 0 {
        violations.push(format!(
            "damage: some {corrupted_estimate} packets did not arrive as they were sent ({} \
             with a wrong stamp, length or hop limit, {} with wrong bytes and {} with a wrong \
             checksum among {} checked whole)",
            counts.damaged, counts.corrupted, counts.bad_checksum, counts.sampled
        ));
    }
    if counts.misdelivered > 0 {
        violations.push(format!(
            "misdelivery: {} packets arrived between other addresses than their own, \
             or for another MAC address than the sink's",
            counts.misdelivered
        ));
    }
    violations
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flood::run::{Measured, Stopped};
    use relay_bench_ebpf::packet::SinkFlow;
    use zerocopy::FromZeros as _;

    fn asked(rate_total: Option<u64>) -> Asked {
        Asked {
            command: String::new(),
            server: String::new(),
            peer: None,
            direction: "to-peer",
            allocations: 1,
            rate_total,
            payload_bytes: 200,
            duration_secs: 1,
            threads: 1,
            sample: 1,
        }
    }

    /// The report of one flow that sent 1000 packets in a second through such an interface.
    fn report(driver: &str, interface_sent: u64, counts: SinkCounts, sink: SinkFlow) -> Report {
        let interface = Interface {
            name: "eth0".to_owned(),
            index: 2,
            mac: [2; 6],
            mtu: 1500,
            driver: driver.to_owned(),
            xdp: None,
        };
        let measured = Measured {
            sent: 1000,
            send_ns: 1_000_000_000,
            lag_max_ns: Some(0),
            interface_sent: Some(interface_sent),
            counts,
            flows: vec![FlowResult { sent: 1000, sink }],
            stopped: Stopped::Done,
        };
        Report::new(Findings {
            asked: asked(Some(1000)),
            ending: ("completed", "completed".to_owned()),
            control: Control::default(),
            interfaces: Some((interface.clone(), interface)),
            sink_queues: Some(1),
            measured: Some(&measured),
            names: &[Name { client: "c".to_owned(), relayed: None }],
            max_loss: None,
            per_flow: PerFlow::Listed,
        })
    }

    fn lost(report: &Report) -> (u64, u64) {
        let flows = report.per_flow.as_ref().unwrap();
        (report.lost, flows.iter().map(|flow| flow.lost).sum())
    }

    fn flow(received: u64, wrong: u64, too_late: u64) -> SinkFlow {
        SinkFlow { received, wrong, too_late, ..SinkFlow::new_zeroed() }
    }

    #[test]
    fn a_late_duplicate_does_not_stand_for_a_lost_packet() {
        let counts =
            SinkCounts { packets: 1000, received: 990, too_late: 10, ..Default::default() };
        assert_eq!(lost(&report("veth", 1000, counts, flow(990, 0, 10))), (10, 10));
    }

    #[test]
    fn what_arrived_wrong_is_lost_neither_in_the_sum_nor_in_its_flow() {
        let counts = SinkCounts {
            packets: 1000,
            received: 985,
            sampled: 992,
            damaged: 1,
            corrupted: 2,
            bad_checksum: 5,
            misdelivered: 7,
            ..Default::default()
        };
        let all_told = report("veth", 1000, counts, flow(985, 15, 0));
        assert_eq!((lost(&all_told), all_told.flows_with_loss), ((0, 0), 0));
        let untold = report("veth", 1000, counts, flow(985, 14, 0));
        assert_eq!((lost(&untold), untold.untold), ((0, 1), 1));
        assert!(untold.text().contains("1 packets came with a stamp"), "{}", untold.text());
    }

    #[test]
    fn frames_that_do_not_leave_a_card_are_not_the_relays_loss() {
        let counts = SinkCounts { packets: 900, received: 900, ..Default::default() };
        let of = |driver, sent| report(driver, sent, counts, flow(900, 0, 0)).generator_limited;
        assert!(of("ixgbe", 998) && !of("ixgbe", 999) && !of("veth", 900));
    }
}
