//! `relay-bench forward`: how near Turnpike's XDP program comes to programs that look at nothing,
//! on the same links in one run. Owns its command line and exit code.

mod course;
mod relay;
mod report;
mod rig;

use std::env;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cli::{EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_SETUP, from_one_to};
use crate::clock::SECOND_NS;
use crate::flood::forge::LEAN_PAYLOAD_BYTES_MIN;
use crate::forward::course::{Course, Sample};
use crate::forward::report::{Asked, Report};
use crate::forward::rig::{Arms, Rig};
use crate::host;
use crate::lab::cores::Cores;
use crate::lab::namespace;
use crate::lab::process::Scratch;

/// Channels at most: an allocation each, and each a port of the one relayed address.
const CHANNELS_MAX: i64 = 16_000;
/// Bytes of the largest payload: an MTU of 1500 with all headers.
const PAYLOAD_BYTES_MAX: i64 = 1400;

#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// How the relay is connected: by one interface, by two.
    #[arg(long, value_name = "ARMS", value_enum, value_delimiter = ',', default_value = "one,two")]
    arms: Vec<Arms>,
    /// Channels that take turns, an allocation each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "32,10000")]
    #[arg(value_parser = from_one_to(CHANNELS_MAX))]
    channels: Vec<NonZeroU32>,
    /// How often everything is measured.
    #[arg(long, value_name = "N", default_value = "5", value_parser = from_one_to(1000))]
    rounds: NonZeroU32,
    /// How long each measurement lasts, milliseconds.
    #[arg(long, value_name = "MS", default_value = "2000", value_parser = from_one_to(3_600_000))]
    duration: NonZeroU32,
    /// Bytes of application data in a packet.
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u16)
        .range(i64::from(LEAN_PAYLOAD_BYTES_MIN)..=PAYLOAD_BYTES_MAX))]
    payload: u16,
    /// Check one in N packets whole: addresses, bytes and checksums.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = from_one_to(1_000_000))]
    sample: NonZeroU32,
    /// Turnpike's program [default: turnpike on the PATH].
    #[arg(long, value_name = "PATH", default_value = "turnpike")]
    turnpike: PathBuf,
    /// Cores of the relay's process, like 0 or 2-3 [default: the first that this one may use].
    #[arg(long, value_name = "CORES", requires = "load_cores")]
    relay_cores: Option<Cores>,
    /// Cores of generator, links, XDP programs and sinks [default: all others].
    #[arg(long, value_name = "CORES", requires = "relay_cores")]
    load_cores: Option<Cores>,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress on stderr.
    #[arg(long)]
    quiet: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    channels: Vec<u32>,
    rounds: u32,
    duration_ns: u64,
    payload_bytes: u16,
    sample: u32,
    turnpike: PathBuf,
    relay_cores: Cores,
    load_cores: Cores,
    quiet: bool,
}

impl Plan {
    fn tell(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

impl Forward {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// Nothing can be measured.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(why) = namespace::missing() {
            bail!(why);
        }
        let stop = host::stop_patiently()?;
        let plan = self.plan()?;
        host::raise_file_limit();
        let asked = Asked::new(&plan);
        let mut samples = Vec::new();
        let done = self.measure(&plan, &stop, &mut samples);
        let interrupted = stop.load(Ordering::Relaxed);
        if samples.is_empty() {
            done?;
            return Ok(if interrupted { EXIT_INTERRUPTED } else { EXIT_SETUP }.into());
        }
        let report = Report::new(asked, samples);
        if let Some(path) = &self.json {
            fs::write(path, report.json()? + "\n")
                .with_context(|| format!("cannot write {} (--json)", path.display()))?;
        }
        print!("{}", report.text());
        Ok(match done {
            _ if interrupted => EXIT_INTERRUPTED.into(),
            Err(error) => {
                eprintln!("relay-bench: {error:#}");
                EXIT_PARTIAL.into()
            }
            Ok(()) if report.is_damaged() => EXIT_LIMIT.into(),
            Ok(()) => ExitCode::SUCCESS,
        })
    }

    fn measure(
        &self,
        plan: &Plan,
        stop: &Arc<AtomicBool>,
        samples: &mut Vec<Sample>,
    ) -> anyhow::Result<()> {
        // The generator's core is where links, XDP programs and sinks work too.
        plan.load_cores.confine(None).context("cannot use the cores of --load-cores")?;
        let scratch = Scratch::make("forward").context("cannot make a temporary directory")?;
        for &arms in &self.arms {
            let rig = Rig::build(arms, &plan.relay_cores, &plan.load_cores)?;
            let mut course = Course { plan, rig: &rig, directory: scratch.path(), stop, samples };
            course.measure()?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let usable = Cores::usable().context("the kernel does not say which cores there are")?;
        let (relay_cores, load_cores) = match (&self.relay_cores, &self.load_cores) {
            (Some(relay), Some(load)) => (relay.clone(), load.clone()),
            _ => usable.split().context("forward needs two cores: one for the relay's process")?,
        };
        if relay_cores.overlap(&load_cores) || !load_cores.are_among(&usable) {
            bail!("--relay-cores and --load-cores are different ones of {usable}");
        }
        Ok(Plan {
            channels: self.channels.iter().map(|channels| channels.get()).collect(),
            rounds: self.rounds.get(),
            duration_ns: u64::from(self.duration.get()) * SECOND_NS / 1000,
            payload_bytes: self.payload,
            sample: self.sample.get(),
            turnpike: self.turnpike(),
            relay_cores,
            load_cores,
            quiet: self.quiet,
        })
    }

    /// The program that is named; a bare name may also be beside this one.
    fn turnpike(&self) -> PathBuf {
        let beside = env::current_exe().ok().map(|itself| itself.with_file_name(&self.turnpike));
        match beside.filter(|path| path.is_file()) {
            Some(beside) if self.turnpike.components().count() == 1 => beside,
            _ => self.turnpike.clone(),
        }
    }
}
