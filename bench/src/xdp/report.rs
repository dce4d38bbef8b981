//! What `xdp` says at its end: a table for people, one line of JSON for machines.

use std::fmt::{self, Write as _};

use relay_common::abi::Reason;
use relay_common::addr::Family;
use serde::Serialize;

use super::lab::Subject;
use super::path::{Kind, Path};
use super::samples::{Cell, Figures, Samples, tenths, thousandths};
use crate::host::Host;

/// The stage's own cost is a difference of two figures; this is how well it has to hold for other
/// programs, nanoseconds.
const STAGE_ERROR_NS_NOTABLE: f64 = 3.0;

/// The empty program's quartiles further apart than this share of its median tell of a machine
/// that does other work.
const SPREAD_NOTABLE: f64 = 0.1;

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Asked {
    /// The command.
    pub(super) command: String,
    /// Times taken for each figure.
    pub(super) rounds: u32,
    /// Packets in each of them.
    pub(super) repeat: u32,
    /// Live bindings that packets are picked from.
    pub(super) live: u32,
    /// Bytes of application data; the first is the headline's.
    pub(super) payloads: Vec<u16>,
    /// The core that it ran on.
    pub(super) cpu: usize,
    /// Where Turnpike's program is from.
    pub(super) object: String,
}

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// Rounds that were completed.
    pub(super) rounds: u32,
    /// Each path's times through the stage.
    pub(super) cells: Vec<(Path, Cell)>,
    /// The empty program's, run without the stage.
    pub(super) empty: Samples,
    /// The reflector's, run without the stage.
    pub(super) reflector: Samples,
    /// Turnpike's program on the path of no route, run without the stage.
    pub(super) no_route: Samples,
}

/// A path's line.
#[derive(Debug, Serialize)]
struct Line {
    path: &'static str,
    payload: u16,
    #[serde(flatten)]
    figures: Figures,
    yardstick_ns: Option<f64>,
    yardstick_net_ns: Option<f64>,
    yardstick_min: Option<f64>,
    yardstick_p25: Option<f64>,
    yardstick_p75: Option<f64>,
    ratio: Option<f64>,
    net_ratio: Option<f64>,
}

/// A finished report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tool: &'static str,
    ns: f64,
    yardstick_ns: Option<f64>,
    ratio_to_yardstick: Option<f64>,
    net_ns: f64,
    yardstick_net_ns: Option<f64>,
    net_ratio_to_yardstick: Option<f64>,
    /// The same as the first three, of the fastest rounds.
    min_ns: f64,
    yardstick_min_ns: Option<f64>,
    min_ratio_to_yardstick: Option<f64>,
    /// IPv6's `ns` in IPv4's.
    ipv6_to_ipv4: f64,
    empty_ns: f64,
    empty_p25: f64,
    empty_p75: f64,
    reflector_ns: f64,
    /// What programs that need no stage take through it, the stage's cost taken off, less what
    /// they take alone: the method's error. The reflector, and Turnpike's without a route.
    stage_error_ns: [f64; 2],
    ending: &'static str,
    rounds: u32,
    paths: Vec<Line>,
    kernel: String,
    cpu: String,
    commit: &'static str,
    command: String,
    host: Host,
    asked: Asked,
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn ratio(ours: f64, other: Option<f64>) -> Option<f64> {
    other.filter(|other| *other > 0.0).map(|other| thousandths(ours / other))
}

impl Line {
    fn new(path: &Path, cell: &Cell, empty: &Samples) -> Option<Self> {
        let figures = cell.figures(Subject::Relay, empty)?;
        let yardstick = cell.figures(Subject::Yardstick, empty);
        let (ns, net) = (yardstick.map(|y| y.ns), yardstick.map(|y| y.net_ns));
        Some(Self {
            path: path.name,
            payload: path.payload,
            figures,
            yardstick_ns: ns,
            yardstick_net_ns: net,
            yardstick_min: yardstick.map(|y| y.min),
            yardstick_p25: yardstick.map(|y| y.p25),
            yardstick_p75: yardstick.map(|y| y.p75),
            ratio: ratio(figures.ns, ns),
            net_ratio: ratio(figures.net_ns, net),
        })
    }
}

impl Report {
    /// Of what was measured on `host`; `None` before the end of the first round.
    pub(super) fn new(
        host: Host,
        asked: Asked,
        measured: &Measured,
        ending: &'static str,
    ) -> Option<Self> {
        let empty = measured.empty.median()?;
        let reflector = measured.reflector.median()?;
        let payload = *asked.payloads.first()?;
        let both = |family, subject, figure: fn(Figures) -> f64| {
            let headline = measured
                .cells
                .iter()
                .filter(|(path, _)| path.kind == Kind::Straight(family) && path.payload == payload);
            let figures =
                headline.map(|(_, cell)| cell.figures(subject, &measured.empty).map(figure));
            mean(figures).map(tenths)
        };
        let v4 = |subject, figure| both(Family::V4, subject, figure);
        let (ns, net_ns) = (v4(Subject::Relay, |f| f.ns)?, v4(Subject::Relay, |f| f.net_ns)?);
        let yardstick_ns = v4(Subject::Yardstick, |f| f.ns);
        let yardstick_net_ns = v4(Subject::Yardstick, |f| f.net_ns);
        let min_ns = v4(Subject::Relay, |f| f.min)?;
        let yardstick_min_ns = v4(Subject::Yardstick, |f| f.min);
        let v6_ns = both(Family::V6, Subject::Relay, |f| f.ns)?;
        let staged = v4(Subject::Reflector, |f| f.ns)?;
        let no_route = measured.cells.iter().find(|(path, _)| path.reason == Reason::NoRoute)?;
        let no_route =
            no_route.1.figures(Subject::Relay, &measured.empty)?.ns - measured.no_route.median()?;
        Some(Self {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            ns,
            yardstick_ns,
            ratio_to_yardstick: ratio(ns, yardstick_ns),
            net_ns,
            yardstick_net_ns,
            net_ratio_to_yardstick: ratio(net_ns, yardstick_net_ns),
            min_ns,
            yardstick_min_ns,
            min_ratio_to_yardstick: ratio(min_ns, yardstick_min_ns),
            ipv6_to_ipv4: thousandths(v6_ns / ns),
            empty_ns: tenths(empty),
            empty_p25: tenths(measured.empty.quantile(0.25)?),
            empty_p75: tenths(measured.empty.quantile(0.75)?),
            reflector_ns: tenths(reflector),
            stage_error_ns: [staged - reflector, no_route].map(tenths),
            ending,
            rounds: measured.rounds,
            paths: measured
                .cells
                .iter()
                .map(|(path, cell)| Line::new(path, cell, &measured.empty))
                .collect::<Option<_>>()?,
            kernel: host.kernel.clone(),
            cpu: host.cpu.clone(),
            commit: env!("TURNPIKE_COMMIT"),
            command: asked.command.clone(),
            host,
            asked,
        })
    }

    /// The document, on one line.
    ///
    /// # Errors
    /// None that this document can cause.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// The text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("a String takes every text");
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let Asked { repeat, live, cpu, object, .. } = &self.asked;
        writeln!(out, "{}: {}", self.tool, self.command)?;
        writeln!(
            out,
            "host        Linux {}, {} × {}, on core {cpu}",
            self.kernel, self.host.cores, self.cpu
        )?;
        writeln!(out, "programs    {object}; this tool is of commit {}", self.commit)?;
        writeln!(
            out,
            "method      BPF_PROG_TEST_RUN, medians of {} rounds of {repeat} packets, {live} live \
             channel(s), programs in turn",
            self.rounds
        )?;
        writeln!(out, "ending      {}", self.ending)?;
        writeln!(
            out,
            "references  empty {:.1} ns (p25 {:.1}, p75 {:.1}), reflector {:.1} ns",
            self.empty_ns, self.empty_p25, self.empty_p75, self.reflector_ns
        )?;
        let [reflector, no_route] = self.stage_error_ns;
        writeln!(
            out,
            "error       {reflector:+.1} ns by the reflector, {no_route:+.1} ns by pass_no_route, \
             both run without the stage too"
        )?;
        self.write_table(out)?;
        write!(out, "IPv4        {:.1} ns, {:.1} net of the empty program", self.ns, self.net_ns)?;
        match (self.yardstick_ns, self.ratio_to_yardstick, self.net_ratio_to_yardstick) {
            (Some(ns), Some(ratio), Some(net_ratio)) => writeln!(
                out,
                "; yardstick {ns:.1} ns: {ratio:.3} times as much, {net_ratio:.3} times net"
            )?,
            _ => writeln!(out, "; no yardstick in this build (it needs clang)")?,
        }
        write!(out, "fastest     {:.1} ns", self.min_ns)?;
        match (self.yardstick_min_ns, self.min_ratio_to_yardstick) {
            (Some(ns), Some(ratio)) => {
                writeln!(out, "; yardstick {ns:.1} ns: {ratio:.3} times as much")?;
            }
            _ => writeln!(out)?,
        }
        writeln!(out, "IPv6        {:.3} times as much as IPv4", self.ipv6_to_ipv4)?;
        let spread = (self.empty_p75 - self.empty_p25) / self.empty_ns;
        let error = self.stage_error_ns.iter().any(|ns| ns.abs() > STAGE_ERROR_NS_NOTABLE);
        if error || spread > SPREAD_NOTABLE {
            writeln!(
                out,
                "note        the references are not steady: this machine does other work, and all \
                 figures are as uncertain"
            )?;
        }
        Ok(())
    }

    fn write_table(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "{:<28} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8} {:>7} {:>7}",
            "ns a packet",
            "payload",
            "median",
            "min",
            "p25",
            "p75",
            "net",
            "yardstick",
            "net",
            "ratio",
            "net"
        )?;
        for line in &self.paths {
            let Figures { ns, net_ns, min, p25, p75 } = line.figures;
            let one = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
            let three =
                |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
            writeln!(
                out,
                "{:<28} {:>7} {ns:>8.1} {min:>8.1} {p25:>8.1} {p75:>8.1} {net_ns:>8.1} {:>10} \
                 {:>8} {:>7} {:>7}",
                line.path,
                line.payload,
                one(line.yardstick_ns),
                one(line.yardstick_net_ns),
                three(line.ratio),
                three(line.net_ratio),
            )?;
        }
        Ok(())
    }
}
