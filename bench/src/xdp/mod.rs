//! `relay-bench xdp`: nanoseconds a packet of Turnpike's kernel program, beside the C yardstick,
//! an empty program and a reflector. Owns its command line, the rounds and the exit code. Attaches
//! nothing and sends nothing: `BPF_PROG_TEST_RUN` runs the programs on frames in memory.

mod frame;
mod indications;
mod lab;
mod path;
mod relay;
mod report;
mod samples;
mod shapes;
mod stage;
mod straight;
mod stun;
mod tables;
mod yardstick;

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use relay_common::abi::{ROUTES_MAX, Reason};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::lab::{Lab, Subject, Void};
use self::path::Path;
use self::relay::Relay;
use self::report::{Asked, Measured, Report};
use self::samples::{Cell, Samples};
use self::stage::Stage;
use self::yardstick::Yardstick;
use crate::cli::{EXIT_INTERRUPTED, EXIT_LIMIT, from_one_to};
use crate::host::{self, Host};
use crate::objects::{NotEmbedded, Object};

/// What `--payload` may be: the stage restores longer headers than a short frame has, and the
/// frame has to fit the MTU.
const PAYLOAD_BYTES: std::ops::RangeInclusive<i64> = 32..=1400;
/// Where `--json` writes when it names no file.
const LAST_LINE: &str = "-";

#[derive(Debug, Args)]
pub(crate) struct Xdp {
    /// Times taken for each figure, after one that is not counted.
    #[arg(long, value_name = "N", default_value = "20", value_parser = from_one_to(10_000))]
    rounds: NonZeroU32,
    /// Packets in each of them.
    #[arg(long, value_name = "N", default_value = "50000", value_parser = from_one_to(10_000_000))]
    repeat: NonZeroU32,
    /// Live channels; each packet on the straight paths belongs to one, picked at random.
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_one_to(500_000))]
    live: NonZeroU32,
    /// Bytes of application data; the first is the headline's.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "64,200,1200")]
    #[arg(value_parser = clap::value_parser!(u16).range(PAYLOAD_BYTES))]
    payload: Vec<u16>,
    /// Run on this core [default: the last one allowed].
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    /// Measure Turnpike's program in this object, not the one that is built in.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Compare with the yardstick in this object, not the one that is built in.
    #[arg(long, value_name = "FILE")]
    yardstick: Option<PathBuf>,
    /// End with the result as one line of JSON; with a FILE, write it there too.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = LAST_LINE)]
    json: Option<PathBuf>,
    /// No progress on stderr.
    #[arg(long)]
    quiet: bool,
}

impl Xdp {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The programs cannot be loaded or run.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let host = Host::here();
        let mut lab = self.open().map_err(explain)?;
        let cpu = pin(self.cpu)?;
        let measured = match self.measure(&mut lab, &stop) {
            Ok(measured) => measured,
            Err(error) if error.is::<Void>() => {
                eprintln!("relay-bench: {error}");
                return Ok(ExitCode::from(EXIT_LIMIT));
            }
            Err(error) => return Err(error),
        };
        let interrupted = measured.rounds < self.rounds.get();
        let ending = if interrupted { "interrupted" } else { "completed" };
        let Some(report) = Report::new(host, self.asked(cpu), &measured, ending) else {
            eprintln!("relay-bench: interrupted before the end of the first round: no figures");
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        };
        let mut out = report.text();
        if let Some(path) = &self.json {
            let json = report.json()? + "\n";
            if path.as_os_str() != LAST_LINE {
                fs::write(path, &json)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            out.push_str(&json);
        }
        // A reader that has gone has seen what it wanted.
        let _ = io::stdout().write_all(out.as_bytes());
        Ok(if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS })
    }

    /// Loads every program and fills its maps.
    fn open(&self) -> anyhow::Result<Lab> {
        let stage =
            Stage::load(&Object::Tool.bytes()?).context("cannot load this tool's programs")?;
        let live = self.live.get();
        // Two routes for each binding, and for one that has expired; and those of other shapes.
        let routes_max = ROUTES_MAX.max(2 * live + 2 + tables::OTHER_ROUTES_MAX);
        let object = bytes(self.object.as_ref(), Object::Relay)?;
        let relay = Relay::load(&object, live, routes_max)
            .context("cannot set Turnpike's program up (--object?)")?;
        let yardstick = match bytes(self.yardstick.as_ref(), Object::Yardstick) {
            Ok(object) => Some(
                Yardstick::load(&object, live, routes_max)
                    .context("cannot set the yardstick up (--yardstick?)")?,
            ),
            Err(error) if error.is::<NotEmbedded>() => {
                eprintln!("relay-bench: {error}; measuring without it");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Lab::new(stage, relay, yardstick))
    }

    fn paths(&self) -> Vec<Path> {
        let live = self.live.get();
        let mut paths = Path::straight(&self.payload, live);
        paths.extend(shapes::paths(self.payload[0]));
        paths.extend(indications::paths(self.payload[0]));
        paths.extend(Path::passed(self.payload[0], live));
        paths
    }

    /// All rounds, or those before a signal.
    fn measure(&self, lab: &mut Lab, stop: &AtomicBool) -> anyhow::Result<Measured> {
        let mut measured = Measured {
            rounds: 0,
            cells: self.paths().into_iter().map(|path| (path, Cell::default())).collect(),
            empty: Samples::default(),
            reflector: Samples::default(),
            no_route: Samples::default(),
        };
        for (path, _) in &measured.cells {
            for subject in lab.subjects(path) {
                lab.prove(subject, path)?;
            }
        }
        let progress = self.progress();
        // The round before the first warms caches and branch predictors up.
        for round in 0..=self.rounds.get() {
            match self.round(lab, &measured.cells, round + 1, stop) {
                Ok(Some(times)) if round > 0 => {
                    measured.take(times);
                    progress.inc(1);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                // A signal ends the kernel's test run as well.
                Err(_) if stop.load(Ordering::Relaxed) => break,
                Err(error) => return Err(error),
            }
        }
        progress.finish_and_clear();
        Ok(measured)
    }

    /// One time for each program on each path; `None` when a signal came before the last.
    fn round(
        &self,
        lab: &mut Lab,
        cells: &[(Path, Cell)],
        seed: u32,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Round>> {
        let repeat = self.repeat.get();
        let mut round = Round::default();
        for (index, (path, _)) in cells.iter().enumerate() {
            if index == 0 {
                round.empty = lab.time_alone(Subject::Empty, path, repeat)?;
                round.reflector = lab.time_alone(Subject::Reflector, path, repeat)?;
            }
            if path.reason == Reason::NoRoute {
                round.no_route = lab.time_alone(Subject::Relay, path, repeat)?;
            }
            for subject in lab.subjects(path) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let ns = lab.time(subject, path, repeat, seed)?;
                round.staged.push((index, subject, ns));
            }
        }
        Ok(Some(round))
    }

    fn progress(&self) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:40} round {pos} of {len}, {eta} left");
        let style = style.expect("a constant that indicatif understands");
        ProgressBar::new(self.rounds.get().into()).with_style(style)
    }

    fn asked(&self, cpu: usize) -> Asked {
        Asked {
            command: host::command_line(),
            rounds: self.rounds.get(),
            repeat: self.repeat.get(),
            live: self.live.get(),
            payloads: self.payload.clone(),
            cpu,
            object: self
                .object
                .as_ref()
                .map_or_else(|| "built in".to_owned(), |path| path.display().to_string()),
        }
    }
}

/// One round's times.
#[derive(Default)]
struct Round {
    empty: u32,
    reflector: u32,
    no_route: u32,
    /// Index of the cell, program, nanoseconds.
    staged: Vec<(usize, Subject, u32)>,
}

impl Measured {
    fn take(&mut self, round: Round) {
        self.rounds += 1;
        self.empty.push(round.empty);
        self.reflector.push(round.reflector);
        self.no_route.push(round.no_route);
        for (index, subject, ns) in round.staged {
            self.cells[index].1.of_mut(subject).push(ns);
        }
    }
}

/// An object from a file, or the one that is built in.
fn bytes(file: Option<&PathBuf>, object: Object) -> anyhow::Result<Vec<u8>> {
    let Some(file) = file else { return Ok(object.bytes()?) };
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Says what to do when the kernel refuses for lack of rights.
fn explain(error: anyhow::Error) -> anyhow::Error {
    let denied = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        // EACCES, the other error of this kind, is the verifier's.
        .any(|cause| cause.raw_os_error() == Some(Errno::PERM.raw_os_error()));
    if denied {
        return error.context(
            "loading kernel programs needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run \
             it with sudo",
        );
    }
    error
}

/// Keeps this thread on one core, and says on which.
fn pin(wanted: Option<usize>) -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(None).context("cannot see the cores of this process")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu));
    let cpu = wanted.or(last).context("this process may run on no core")?;
    ensure!(
        cpu < CpuSet::MAX_CPU && allowed.is_set(cpu),
        "core {cpu} is not one that this process may run on (--cpu)"
    );
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).with_context(|| format!("cannot stay on core {cpu}"))?;
    Ok(cpu)
}
