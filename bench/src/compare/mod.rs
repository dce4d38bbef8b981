//! `relay-bench compare`: several TURN servers under the same loads, on the same cores, in turn.
//! Owns its command line and exit code; the loads are this tool's other subcommands.

mod climb;
mod drive;
#[cfg(test)]
mod fixture;
mod lab;
mod plan;
mod plot;
mod record;
mod report;
mod sample;
mod session;
mod subject;
mod summary;
mod table;
mod verdict;

use std::env;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::cli::{EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_SETUP, EXIT_USAGE, from_one_to};
use crate::clock;
use crate::compare::drive::Driver;
use crate::compare::lab::Lab;
use crate::compare::plan::{Plan, Progress};
use crate::compare::record::{Direction, Figures, Outcome};
use crate::compare::report::{Comparison, Ending, Report};
use crate::compare::session::{Session, State};
use crate::compare::subject::{Programs, Subject};
use crate::host::{self, Host};
use crate::lab::cores::Cores;
use crate::lab::namespace;
use crate::lab::process::Scratch;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Only {
    /// One-way packets of the in-kernel generator, by rate: throughput, loss, processor time.
    Throughput,
    /// Round trips over an echo peer, by rate: latency, processor time.
    Latency,
    /// Allocations: how many a second, memory for each.
    Allocations,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Which subjects, in this order: turnpike-xdp, turnpike-userspace, coturn, turn-rs,
    /// reflector, and names of --subject [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<String>,
    /// Another server: NAME=COMMAND, with {listen} {peer_side} {port} {user} {password} {realm}
    /// {secret} {dir} filled in. May be repeated.
    #[arg(long, value_name = "NAME=COMMAND")]
    subject: Vec<Subject>,
    /// How often each subject is measured [default: 3; 2 with --quick].
    #[arg(long, value_name = "N", value_parser = from_one_to(1000))]
    rounds: Option<NonZeroU32>,
    /// Few and short loads: two or three minutes instead of a quarter of an hour.
    #[arg(long)]
    quick: bool,
    /// Only these loads.
    #[arg(long, value_name = "LOADS", value_enum, value_delimiter = ',')]
    only: Vec<Only>,
    /// Ways of the one-way packets.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "to-peer")]
    directions: Vec<Direction>,
    /// Allocations that carry packets.
    #[arg(long, value_name = "N", default_value = "32", value_parser = from_one_to(10_000))]
    flows: NonZeroU32,
    /// Bytes of application data in a packet.
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u16).range(32..=1400))]
    payload: u16,
    /// One-way packets a second, of all flows, rising; rates in between are added where packets
    /// begin to be lost.
    #[arg(long, value_name = "PPS,…", value_delimiter = ',')]
    #[arg(value_parser = from_one_to(100_000_000))]
    rates: Vec<NonZeroU32>,
    /// Round trips a second, of all flows, rising.
    #[arg(long, value_name = "PPS,…", value_delimiter = ',')]
    #[arg(value_parser = from_one_to(1_000_000))]
    latency_rates: Vec<NonZeroU32>,
    /// Numbers of allocations, rising.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = from_one_to(60_000))]
    counts: Vec<NonZeroU32>,
    /// How long each load lasts, seconds [default: 2; 1 with --quick].
    #[arg(long, value_name = "SECS", value_parser = from_one_to(3600))]
    duration: Option<NonZeroU32>,
    /// Cores of the relay, like 0 or 2-3 [default: the first that this process may use].
    #[arg(long, value_name = "CORES", requires = "load_cores")]
    relay_cores: Option<Cores>,
    /// Cores of clients and peers [default: all others].
    #[arg(long, value_name = "CORES", requires = "relay_cores")]
    load_cores: Option<Cores>,
    /// Turnpike's program [default: beside this one, or turnpike on the PATH].
    #[arg(long, value_name = "PATH")]
    turnpike: Option<PathBuf>,
    /// coturn's program.
    #[arg(long, value_name = "PATH", default_value = "turnserver")]
    coturn: PathBuf,
    /// turn-rs' program.
    #[arg(long, value_name = "PATH", default_value = "turn-server")]
    turn_rs: PathBuf,
    /// Where compare.json, compare.md, compare.html and the plots go; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "relay-bench-compare")]
    out: PathBuf,
    /// No progress on stderr.
    #[arg(long)]
    quiet: bool,
}

impl Compare {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The comparison cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(error) => {
                eprintln!("relay-bench: {error:#}");
                return Ok(EXIT_USAGE.into());
            }
        };
        if let Some(why) = namespace::missing() {
            bail!(why);
        }
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {} (--out)", self.out.display()))?;
        let stop = host::stop_patiently()?;
        // Before the cores are confined: the machine has more than the load's.
        let machine = Host::here();
        let comparison = self.measure(&plan, machine, stop)?;
        let report = Report::of(&comparison)?;
        report.write(&self.out)?;
        print!("{}", report.text());
        plan.tell(&format!("report: {}", self.out.join("compare.html").display()));
        Ok(self.exit_code(&comparison))
    }

    /// On a rig of its own, which is gone afterwards.
    fn measure(
        &self,
        plan: &Plan,
        machine: Host,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Comparison> {
        let itself = env::current_exe().context("cannot find this program")?;
        let programs = Programs {
            turnpike: self.turnpike(&itself),
            coturn: self.coturn.clone(),
            turn_rs: self.turn_rs.clone(),
            itself: itself.clone(),
        };
        // This process's own work is the load host's.
        plan.load_cores.confine(None).context("cannot use the cores of --load-cores")?;
        let scratch = Scratch::make("compare").context("cannot make a temporary directory")?;
        let lab = Lab::build(&plan.relay_cores, &plan.load_cores)?;
        let rig = lab.layout();
        let driver = Driver {
            lab: &lab,
            tool: itself,
            directory: scratch.path().to_owned(),
            secs: plan.secs,
            stop: Arc::clone(&stop),
        };
        let mut session = Session::new(plan, &programs, driver);
        let ending = match session.measure() {
            _ if stop.load(Ordering::Relaxed) => Ending::Interrupted,
            Ok(()) => Ending::Completed,
            Err(error) => {
                eprintln!("relay-bench: {error:#}");
                Ending::RigFailed
            }
        };
        Ok(Comparison {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            commit: env!("TURNPIKE_COMMIT"),
            unix_secs: clock::unix_secs(),
            host: machine,
            asked: plan.asked(host::command_line()),
            rig,
            ending,
            subjects: session.subjects,
            idle: session.idle,
            runs: session.runs,
        })
    }

    fn exit_code(&self, comparison: &Comparison) -> ExitCode {
        let is_corrupted = comparison.runs.iter().any(|run| match &run.outcome {
            Outcome::Measured { figures } => match figures {
                Figures::Throughput { corrupted, .. } | Figures::Latency { corrupted, .. } => {
                    *corrupted > 0
                }
                Figures::Allocations { .. } => false,
            },
            Outcome::Failed { .. } => false,
        });
        let is_partial = comparison.subjects.iter().any(|subject| match subject.state {
            State::Measured => {
                // A named one of which every load failed.
                let mut runs = comparison.runs.iter().filter(|run| run.subject == subject.name);
                self.subjects.contains(&subject.name)
                    && runs.all(|run| matches!(run.outcome, Outcome::Failed { .. }))
            }
            // Of those that nobody named, some need not be there.
            State::Skipped { .. } => self.subjects.contains(&subject.name),
            State::Died { .. } => true,
        });
        match comparison.ending {
            Ending::Interrupted => EXIT_INTERRUPTED.into(),
            _ if comparison.runs.is_empty() => EXIT_SETUP.into(),
            Ending::RigFailed => EXIT_PARTIAL.into(),
            Ending::Completed if is_corrupted => EXIT_LIMIT.into(),
            Ending::Completed if is_partial => EXIT_PARTIAL.into(),
            Ending::Completed => ExitCode::SUCCESS,
        }
    }

    /// The program that is named, or the one beside this one, or whatever the PATH has.
    fn turnpike(&self, itself: &Path) -> PathBuf {
        let beside = itself.with_file_name("turnpike");
        match &self.turnpike {
            Some(path) => path.clone(),
            None if beside.is_file() => beside,
            None => "turnpike".into(),
        }
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let (relay_cores, load_cores) = self.cores()?;
        let wants = |load| self.only.is_empty() || self.only.contains(&load);
        let list = |load, given: &[NonZeroU32], full: &[u32], quick: &[u32]| {
            let mut numbers: Vec<u32> = match (wants(load), given.is_empty(), self.quick) {
                (false, _, _) => Vec::new(),
                (true, false, _) => given.iter().map(|number| number.get()).collect(),
                (true, true, true) => quick.to_vec(),
                (true, true, false) => full.to_vec(),
            };
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let rates: Vec<u32> = (0..8).map(|double| 25_000 << double).collect();
        let or = |given: Option<NonZeroU32>, full: u32, quick: u32| {
            given.map_or(if self.quick { quick } else { full }, NonZeroU32::get)
        };
        Ok(Plan {
            subjects: self.chosen()?,
            rounds: or(self.rounds, 3, 2),
            directions: if wants(Only::Throughput) { self.directions.clone() } else { Vec::new() },
            flows: self.flows.get(),
            payload_bytes: self.payload,
            rates: list(Only::Throughput, &self.rates, &rates, &[25_000, 100_000, 400_000]),
            bisections: if self.quick { 0 } else { 2 },
            latency_rates: list(
                Only::Latency,
                &self.latency_rates,
                &[1600, 6400, 12_800, 25_600],
                &[1600, 6400],
            ),
            counts: list(Only::Allocations, &self.counts, &[1000, 4000, 16_000], &[500, 2000]),
            secs: or(self.duration, 2, 1),
            relay_cores,
            load_cores,
            progress: if self.quiet { Progress::Silent } else { Progress::Shown },
        })
    }

    fn cores(&self) -> anyhow::Result<(Cores, Cores)> {
        let usable = Cores::usable().context("the kernel does not say which cores there are")?;
        let (relay, load) = match (&self.relay_cores, &self.load_cores) {
            (Some(relay), Some(load)) => (relay.clone(), load.clone()),
            _ => usable.split().context("compare needs two cores: one for the relay alone")?,
        };
        if relay.overlap(&load) {
            bail!("--relay-cores and --load-cores share a core: what is whose could not be told");
        }
        if !relay.are_among(&usable) || !load.are_among(&usable) {
            bail!("this process may use the cores {usable} only (--relay-cores, --load-cores)");
        }
        Ok((relay, load))
    }

    /// The subjects by name, in the order of the names.
    fn chosen(&self) -> anyhow::Result<Vec<Subject>> {
        let mut known = Subject::built_in();
        for subject in &self.subject {
            if known.iter().any(|other| other.name == subject.name) {
                bail!("--subject {}: the name is there twice", subject.name);
            }
            known.push(subject.clone());
        }
        if self.subjects.is_empty() {
            return Ok(known);
        }
        let mut chosen: Vec<Subject> = Vec::new();
        for name in &self.subjects {
            let Some(subject) = known.iter().find(|subject| subject.name == *name) else {
                let names: Vec<_> = known.iter().map(|subject| subject.name.as_str()).collect();
                bail!("--subjects: there is no {name}; there are {}", names.join(", "));
            };
            if !chosen.contains(subject) {
                chosen.push(subject.clone());
            }
        }
        Ok(chosen)
    }
}
