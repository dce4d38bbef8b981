//! What an `alloc` run says at its end: a text for people, a JSON document for machines.
//! Computes nothing that the run did not measure.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::alloc::plan::{Phase, name};
use crate::alloc::process::Memory;
use crate::alloc::run::{Memories, Outcome};
use crate::host::Host;
use crate::load::line::Percentiles;

/// From this share of one core on, the tool itself may be what limits a phase.
const TOOL_BUSY: f64 = 0.85;

/// What was asked for, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// The command, without passwords.
    pub(crate) command: String,
    /// The server as given.
    pub(crate) target: String,
    /// The TURN server transport address.
    pub(crate) server: String,
    /// The peer of permissions and channel bindings.
    pub(crate) peer: String,
    /// Allocations.
    pub(crate) allocations: u32,
    /// Clients with a request under way; `None` with a rate.
    pub(crate) concurrency: Option<u32>,
    /// Clients that begin a step in a second; `None` in a closed loop.
    pub(crate) rate: Option<u32>,
    /// The nonce of a phase of its own, or of the 401 on the way.
    pub(crate) reuse_nonce: bool,
    /// The server's process.
    pub(crate) pid: Option<u32>,
    /// How long the allocations idled, seconds.
    pub(crate) hold_secs: u32,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    name: &'static str,
    requests: u64,
    succeeded: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    challenges: u64,
    retransmissions: u64,
    secs: f64,
    per_second: f64,
    cpu_secs: Option<f64>,
    per_cpu_second: Option<f64>,
    tool_cpu_secs: Option<f64>,
    latency_ms: Option<Percentiles>,
}

/// One figure at every moment that was reached.
#[derive(Debug, Serialize)]
struct Stages {
    before: Option<u64>,
    allocated: Option<u64>,
    permitted: Option<u64>,
    bound: Option<u64>,
    held: Option<u64>,
    deleted: Option<u64>,
}

/// Bytes that the server took for one allocation, with its permission and channel binding.
#[derive(Debug, Serialize)]
struct PerAllocation {
    rss: Option<f64>,
    pss: Option<f64>,
    maps: Option<f64>,
    rss_by_step: ByStep,
    maps_by_step: ByStep,
}

/// Bytes that each step added, divided by the allocations.
#[derive(Debug, Serialize)]
struct ByStep {
    allocation: Option<f64>,
    permission: Option<f64>,
    channel: Option<f64>,
}

#[derive(Debug, Serialize)]
struct MemoryReport {
    rss_bytes: Stages,
    pss_bytes: Stages,
    map_bytes: Stages,
    udp_sockets: Stages,
    bytes_per_allocation: PerAllocation,
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
    allocations_deleted: u64,
    allocations_left: u64,
    phases: Vec<PhaseReport>,
    memory: Option<MemoryReport>,
}

impl Report {
    /// Of a run.
    pub(crate) fn new(asked: Asked, outcome: &Outcome) -> Self {
        let made = outcome.allocated;
        let watched = asked.pid.is_some() && outcome.memories.before.is_some();
        Self {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            host: Host::here(),
            asked,
            ending: outcome.ending.name(),
            explanation: outcome.ending.to_string(),
            allocations_made: made,
            allocations_deleted: outcome.deleted,
            allocations_left: made - outcome.deleted,
            phases: outcome.phases.iter().map(PhaseReport::of).collect(),
            memory: watched.then(|| MemoryReport::of(&outcome.memories, made)),
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
        writeln!(out, "host        Linux {kernel}, {cores} × {cpu}")?;
        writeln!(out, "server      {}, peer {}", asked.server, asked.peer)?;
        write!(out, "asked       {} allocations, ", asked.allocations)?;
        match (asked.rate, asked.concurrency) {
            (Some(rate), _) => writeln!(out, "{rate} a second (open loop)")?,
            (None, at_once) => {
                writeln!(out, "{} at a time (closed loop)", at_once.unwrap_or(0))?;
            }
        }
        writeln!(out, "ending      {}", self.explanation)?;
        writeln!(
            out,
            "allocations {} made, {} deleted, {} left behind",
            self.allocations_made, self.allocations_deleted, self.allocations_left
        )?;
        self.write_phases(out)?;
        self.memory.as_ref().map_or(Ok(()), |memory| memory.write_text(out))
    }

    fn write_phases(&self, out: &mut String) -> fmt::Result {
        if self.phases.is_empty() {
            return Ok(());
        }
        writeln!(out, "phase            ok  failed      secs        /s  /CPU s  latency ms")?;
        for phase in &self.phases {
            write!(
                out,
                "{:<11} {:>7} {:>7} {:>9.3} {:>9.0} ",
                phase.name, phase.succeeded, phase.failed, phase.secs, phase.per_second
            )?;
            match phase.per_cpu_second {
                Some(rate) => write!(out, "{rate:>7.0}")?,
                None => write!(out, "{:>7}", "-")?,
            }
            match &phase.latency_ms {
                Some(latency) => writeln!(out, "  {latency}")?,
                None => writeln!(out, "  -")?,
            }
        }
        for phase in &self.phases {
            let PhaseReport { name, failures, challenges, retransmissions, .. } = phase;
            if *challenges > 0 {
                writeln!(
                    out,
                    "note        {name}: {challenges} of them took one round trip more, for the \
                     challenge (401 or 438); it is in the latency"
                )?;
            }
            if *retransmissions > 0 {
                writeln!(out, "note        {name}: {retransmissions} requests sent again")?;
            }
            for (label, count) in failures {
                writeln!(out, "failed      {name}: {count} × {label}")?;
            }
            if phase.tool_share() > TOOL_BUSY {
                writeln!(
                    out,
                    "note        {name}: this tool used {:.0} % of a core; the server may be \
                     faster than this",
                    phase.tool_share() * 100.0
                )?;
            }
        }
        Ok(())
    }
}

impl PhaseReport {
    fn of(phase: &Phase) -> Self {
        let secs = seconds(phase.ns);
        let rate = |secs: f64| if secs > 0.0 { phase.succeeded as f64 / secs } else { 0.0 };
        Self {
            name: name(phase.step),
            requests: phase.requests,
            succeeded: phase.succeeded,
            failed: phase.failed(),
            failures: phase.failures.clone(),
            challenges: phase.challenges,
            retransmissions: phase.retransmissions,
            secs,
            per_second: rate(secs),
            cpu_secs: phase.cpu_ns.map(seconds),
            per_cpu_second: phase.cpu_ns.filter(|ns| *ns > 0).map(|ns| rate(seconds(ns))),
            tool_cpu_secs: phase.tool_cpu_ns.map(seconds),
            latency_ms: Percentiles::of(&phase.latency_ns),
        }
    }

    /// The share of one core that the tool used.
    fn tool_share(&self) -> f64 {
        match self.tool_cpu_secs {
            Some(cpu) if self.secs > 0.0 => cpu / self.secs,
            _ => 0.0,
        }
    }
}

impl Stages {
    fn of(memories: &Memories, figure: impl Fn(&Memory) -> u64) -> Self {
        let at = |memory: &Option<Memory>| memory.as_ref().map(&figure);
        Self {
            before: at(&memories.before),
            allocated: at(&memories.allocated),
            permitted: at(&memories.permitted),
            bound: at(&memories.bound),
            held: at(&memories.held),
            deleted: at(&memories.deleted),
        }
    }

    fn by_step(&self, made: u64) -> ByStep {
        ByStep {
            allocation: growth(self.before, self.allocated, made),
            permission: growth(self.allocated, self.permitted, made),
            channel: growth(self.permitted, self.bound, made),
        }
    }

    /// From before the first request to when every step was done.
    fn whole(&self, made: u64) -> Option<f64> {
        growth(self.before, self.bound.or(self.permitted).or(self.allocated), made)
    }

    fn shown(&self, unit: f64, digits: usize) -> String {
        let Self { before, allocated, permitted, bound, held, deleted } = self;
        let mut text = String::new();
        for stage in [before, allocated, permitted, bound, held, deleted] {
            let cell = stage.map_or("-".to_owned(), |it| format!("{:.digits$}", it as f64 / unit));
            text += &format!("{cell:>10}");
        }
        text
    }
}

impl MemoryReport {
    fn of(memories: &Memories, made: u64) -> Self {
        let rss_bytes = Stages::of(memories, |memory| memory.rss);
        let pss_bytes = Stages::of(memories, |memory| memory.pss);
        let map_bytes = Stages::of(memories, |memory| memory.maps);
        let bytes_per_allocation = PerAllocation {
            rss: rss_bytes.whole(made),
            pss: pss_bytes.whole(made),
            maps: map_bytes.whole(made),
            rss_by_step: rss_bytes.by_step(made),
            maps_by_step: map_bytes.by_step(made),
        };
        let udp_sockets = Stages::of(memories, |memory| memory.udp_sockets);
        Self { rss_bytes, pss_bytes, map_bytes, udp_sockets, bytes_per_allocation }
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        const MIB: f64 = 1048576.0;
        writeln!(
            out,
            "memory          before allocated permitted     bound      held   deleted  (MiB)"
        )?;
        writeln!(out, "RSS         {}", self.rss_bytes.shown(MIB, 2))?;
        writeln!(out, "PSS         {}", self.pss_bytes.shown(MIB, 2))?;
        writeln!(out, "BPF maps    {}", self.map_bytes.shown(MIB, 2))?;
        writeln!(out, "UDP sockets {}", self.udp_sockets.shown(1.0, 0))?;
        let per = &self.bytes_per_allocation;
        let shown = |bytes: Option<f64>| bytes.map_or("-".to_owned(), |it| format!("{it:.0}"));
        for (what, whole, step) in
            [("RSS", per.rss, &per.rss_by_step), ("BPF maps", per.maps, &per.maps_by_step)]
        {
            writeln!(
                out,
                "bytes each  {what}: {} = allocation {} + permission {} + channel {}",
                shown(whole),
                shown(step.allocation),
                shown(step.permission),
                shown(step.channel)
            )?;
        }
        writeln!(
            out,
            "note        the kernel's memory for sockets is in none of these lines; UDP sockets \
             counts those of the server's network namespace"
        )
    }
}

/// Bytes more for each allocation; less is negative.
fn growth(before: Option<u64>, after: Option<u64>, made: u64) -> Option<f64> {
    (made > 0).then_some((after? as f64 - before? as f64) / made as f64)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
