//! `relay-bench load`: packets at fixed rates through real allocations to a peer, and back.
//! Owns its command line and exit code.

mod account;
pub(crate) mod echo;
mod flow;
mod jitter;
mod limits;
pub(crate) mod line;
mod payload;
mod peer;
mod plan;
mod progress;
mod pulse;
mod ramp;
mod report;
mod run;
mod schedule;
mod section;
mod sink;
mod watch;
mod worker;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use relay_common::addr::PeerAddr;

use crate::cli::{
    EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_SETUP, EXIT_USAGE, ServerArgs, bind_address,
    from_one_to, limit,
};
use crate::clock::{MILLISECOND_NS, SECOND_NS};
use crate::host;
use crate::load::limits::{Limits, Violation};
use crate::load::line::{Kind, sustained};
use crate::load::plan::{PeerMode, Plan};
use crate::load::progress::Progress;
use crate::load::ramp::{RATE_MAX, Ramp, Unusable, ramp_secs, time};
use crate::load::report::{Asked, Report};
use crate::load::run::{Ending, Outcome};
use crate::load::schedule::{PAUSE_SECS, Schedule};
use crate::load::section::Cut;
use crate::load::watch::Watch;
use crate::turn::client::ClientSetup;
use crate::turn::framing::Framing;

/// Steps of a ramp, unless told otherwise.
const STEPS: u32 = 10;
/// What `--steps` may be at most.
const STEPS_MAX: i64 = 1000;
/// Seconds of a step, unless told otherwise.
const STEP_SECS: u32 = 5;
/// Intervals of a run: each is an entry of the JSON document.
const INTERVALS_MAX: u32 = 100_000;
/// How long late packets of an interval are waited for, nanoseconds.
const INTERVAL_GRACE_NS: u64 = 2 * SECOND_NS;
/// How much of the pause behind a step is waited before it is judged, nanoseconds.
const STEP_GRACE_NS: u64 = PAUSE_SECS as u64 * SECOND_NS * 4 / 5;
/// What `--payload` may be.
const PAYLOAD_BYTES: RangeInclusive<i64> = payload::HEADER_BYTES as i64..=payload::BYTES_MAX as i64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    /// ChannelData over a channel binding.
    Channel,
    /// Send and Data indications over a permission.
    Send,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    server: ServerArgs,
    /// How many allocations.
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_one_to(65_535))]
    allocations: NonZeroU32,
    /// Packets a second of each allocation (the total is N times that).
    #[arg(long, value_name = "PPS", default_value = "50")]
    #[arg(value_parser = from_one_to(RATE_MAX.into()))]
    rate: NonZeroU32,
    /// Bytes of application data in a packet, 32 to 1400.
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u16).range(PAYLOAD_BYTES))]
    payload: u16,
    /// How long to send: 90, 90s, 30m, 12h, 7d.
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = time)]
    duration: NonZeroU32,
    /// A line of figures for each such time of the run, and for the memory of this tool.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "ramp")]
    interval: Option<NonZeroU32>,
    /// Rising rates, in packets a second of each allocation, instead of --rate and --duration.
    #[arg(long, value_name = "FROM..TO", conflicts_with_all = ["rate", "duration"])]
    ramp: Option<Ramp>,
    /// Steps of the ramp [default: 10].
    #[arg(long, value_name = "N", value_parser = from_one_to(STEPS_MAX))]
    steps: Option<NonZeroU32>,
    /// How long a step of the ramp lasts; a pause of a second follows [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = time)]
    step_duration: Option<NonZeroU32>,
    /// End the ramp with the first step that breaks a limit.
    #[arg(long)]
    stop_at_limit: bool,
    /// How application data is framed.
    #[arg(long, value_enum, default_value = "channel")]
    mode: Mode,
    /// What the built-in peer does.
    #[arg(long, value_enum, default_value = "echo", conflicts_with = "peer")]
    peer_mode: PeerMode,
    /// The address of the built-in peer [default: the one that faces the server, any port].
    #[arg(long, value_name = "ADDR", value_parser = bind_address, conflicts_with = "peer")]
    peer_bind: Option<SocketAddr>,
    /// A `relay-bench echo` elsewhere, instead of the built-in peer.
    #[arg(long, value_name = "ADDR:PORT")]
    peer: Option<SocketAddr>,
    /// Threads that send and receive.
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_one_to(256))]
    threads: NonZeroU32,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail when more than this share of the packets does not come back intact, percent.
    #[arg(long, value_name = "PCT", value_parser = limit)]
    max_loss: Option<f64>,
    /// Fail when the 99th percentile of the latency is above this, milliseconds.
    #[arg(long, value_name = "MS", value_parser = limit)]
    max_p99: Option<f64>,
    /// Fail when the jitter of a flow (RFC 3550 §6.4.1, its mean) is above this, milliseconds.
    #[arg(long, value_name = "MS", value_parser = limit)]
    max_jitter: Option<f64>,
    /// Give up when nothing came back for so long, milliseconds.
    #[arg(long, value_name = "MS", default_value = "5000")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    stall: u64,
    /// Wait so long for late packets at the end, milliseconds.
    #[arg(long, value_name = "MS", default_value = "2000")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=600_000))]
    drain: u64,
    /// No progress on stderr.
    #[arg(long)]
    quiet: bool,
}

/// When packets are due, and how the run is cut.
#[derive(Debug)]
struct Course {
    schedule: Schedule,
    duration_secs: u32,
    section_secs: u32,
    cut: Cut,
    lines: Option<Kind>,
    /// Of a ramp.
    rates: Option<Vec<u32>>,
}

impl Load {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The run cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let course = match self.course() {
            Ok(course) => course,
            Err(unusable) => {
                eprintln!("relay-bench: {unusable}");
                return Ok(ExitCode::from(EXIT_USAGE));
            }
        };
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let server = self.server.resolve()?;
        let (peer, peer_addr) = self.open_peer(server)?;
        host::raise_file_limit();
        let plan = self.plan(&course, server, peer_addr)?;
        let mut json = self.create_json()?;
        let progress = if self.quiet { Progress::silent() } else { Progress::shown(plan.flows) };
        let mut watch = Watch::new(&plan, progress);
        let outcome = run::run(&plan, peer.as_ref(), stop, &mut watch);
        let violations = self.violations(&plan, &outcome);
        let code = match outcome.ending {
            Ending::Completed if violations.is_empty() => None,
            Ending::Completed => Some(EXIT_LIMIT),
            Ending::Interrupted => Some(EXIT_INTERRUPTED),
            Ending::Host(_) if outcome.tally.offered() > 0 => Some(EXIT_PARTIAL),
            Ending::NotSetUp { .. } | Ending::NoSockets(_) | Ending::Host(_) => Some(EXIT_SETUP),
            Ending::AllocationLost { .. } | Ending::ServerGone | Ending::NothingRelayed => {
                Some(EXIT_PARTIAL)
            }
        };
        let report = Report::new(self.asked(&plan, &course), &outcome, plan.limits, violations);
        // A reader who has gone leaves the JSON document and the exit code.
        let _ = io::stdout().write_all(report.text().as_bytes());
        if let Some((path, file)) = &mut json {
            file.write_all((report.json()? + "\n").as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let Some(code) = code else { return Ok(ExitCode::SUCCESS) };
        eprintln!("relay-bench: {}", outcome.ending);
        Ok(ExitCode::from(code))
    }

    /// The file of `--json`, before the run: a long one is not to end with a wrong path.
    fn create_json(&self) -> anyhow::Result<Option<(&Path, File)>> {
        let Some(path) = self.json.as_deref() else { return Ok(None) };
        let file = File::create(path)
            .with_context(|| format!("cannot write {} (--json)", path.display()))?;
        Ok(Some((path, file)))
    }

    /// What was broken. A ramp is there to find a limit: only one that has no step within the
    /// limits fails.
    fn violations(&self, plan: &Plan, outcome: &Outcome) -> Vec<String> {
        let broken = plan.limits.violations(&outcome.tally);
        match plan.lines {
            Some(Kind::Step) if sustained(&outcome.lines).is_some() => Vec::new(),
            Some(Kind::Step) => {
                outcome.lines.first().map(|step| step.violations.clone()).unwrap_or_default()
            }
            Some(Kind::Interval) | None => broken.iter().map(Violation::to_string).collect(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            loss_percent_max: self.max_loss,
            p99_ms_max: self.max_p99,
            jitter_ms_max: self.max_jitter,
        }
    }

    /// When packets are due.
    fn course(&self) -> Result<Course, Unusable> {
        if self.stop_at_limit && !self.limits().any() {
            return Err(Unusable::NoLimit);
        }
        // Not `requires` of clap: that looks away where --rate or --duration is given too.
        if self.ramp.is_none()
            && (self.steps.or(self.step_duration).is_some() || self.stop_at_limit)
        {
            return Err(Unusable::NoRamp);
        }
        if let Some(ramp) = self.ramp {
            let rates = ramp.rates(self.steps.map_or(STEPS, NonZeroU32::get))?;
            let step_secs = self.step_duration.map_or(STEP_SECS, NonZeroU32::get);
            let length_ns = u64::from(step_secs + PAUSE_SECS) * SECOND_NS;
            let close_after_ns = u64::from(step_secs) * SECOND_NS + STEP_GRACE_NS;
            return Ok(Course {
                schedule: Schedule::steps(self.allocations, &rates, step_secs),
                duration_secs: ramp_secs(rates.len(), step_secs, PAUSE_SECS)?,
                section_secs: step_secs,
                cut: Cut { count: rates.len() as u64, length_ns, close_after_ns },
                lines: Some(Kind::Step),
                rates: Some(rates),
            });
        }
        let duration_secs = self.duration.get();
        let section_secs = self.interval.map_or(duration_secs, NonZeroU32::get);
        let count = duration_secs.div_ceil(section_secs);
        if count > INTERVALS_MAX {
            let secs_min = duration_secs.div_ceil(INTERVALS_MAX);
            return Err(Unusable::Intervals { secs_min });
        }
        let length_ns = u64::from(section_secs) * SECOND_NS;
        let grace_ns = self.interval.map_or(0, |_| INTERVAL_GRACE_NS);
        Ok(Course {
            schedule: Schedule::steady(self.allocations, self.rate, duration_secs),
            duration_secs,
            section_secs,
            cut: Cut { count: count.into(), length_ns, close_after_ns: length_ns + grace_ns },
            lines: self.interval.map(|_| Kind::Interval),
            rates: None,
        })
    }

    fn plan(&self, course: &Course, server: SocketAddr, peer: SocketAddr) -> anyhow::Result<Plan> {
        let client = ClientSetup {
            credentials: self.server.credentials(course.duration_secs.into()),
            peer: PeerAddr::new(peer),
            framing: match self.mode {
                Mode::Channel => Framing::Channel,
                Mode::Send => Framing::Indication,
            },
            transport: self.server.target.transport(),
            rto_ns: self.server.rto_ns(),
        };
        let links = self.server.links(server)?;
        let mut run = [0; 4];
        getrandom::fill(&mut run).context("no random numbers from the operating system")?;
        // Nothing comes back in the pause between two steps.
        let silence_ns = course.rates.as_ref().map_or(0, |_| u64::from(PAUSE_SECS) * SECOND_NS);
        Ok(Plan {
            server,
            links,
            client: Arc::new(client),
            schedule: course.schedule.clone(),
            flows: self.allocations.get(),
            peer_mode: self.peer_mode,
            cut: course.cut,
            section_secs: course.section_secs.into(),
            lines: course.lines,
            limits: self.limits(),
            stop_at_limit: self.stop_at_limit,
            duration_secs: course.duration_secs.into(),
            threads: self.threads.min(self.allocations).get(),
            payload_bytes: usize::from(self.payload),
            run: u32::from_be_bytes(run),
            stall_ns: self.stall * MILLISECOND_NS + silence_ns,
            drain_ns: self.drain * MILLISECOND_NS,
        })
    }

    /// The socket of the built-in peer, unless there is one elsewhere, and the peer's address.
    fn open_peer(&self, server: SocketAddr) -> anyhow::Result<(Option<UdpSocket>, SocketAddr)> {
        if let Some(peer) = self.peer {
            return Ok((None, peer));
        }
        let addr = match self.peer_bind {
            Some(addr) => addr,
            None => SocketAddr::new(host::address_towards(server)?, 0),
        };
        let socket = peer::open(addr)
            .with_context(|| format!("cannot bind the peer to {addr} (--peer-bind)"))?;
        let addr = socket.local_addr().context("the peer has no address")?;
        Ok((Some(socket), addr))
    }

    fn asked(&self, plan: &Plan, course: &Course) -> Asked {
        let steps = course.rates.as_ref().map_or(1, Vec::len);
        Asked {
            command: host::command_line(),
            target: self.server.target.to_string(),
            server: plan.server.to_string(),
            transport: plan.client.transport,
            peer: plan.client.peer.to_string(),
            mode: match self.mode {
                Mode::Channel => "channel",
                Mode::Send => "send",
            },
            peer_mode: match plan.peer_mode {
                PeerMode::Echo => "echo",
                PeerMode::Sink => "sink",
            },
            allocations: plan.flows,
            rate_per_allocation: plan.schedule.rate_max(),
            rate_total: plan.schedule.rate_total(steps - 1).unwrap_or(0),
            ramp: course.rates.clone(),
            step_secs: course.rates.as_ref().map(|_| course.section_secs),
            interval_secs: self.interval.map(NonZeroU32::get),
            payload_bytes: plan.payload_bytes,
            duration_secs: plan.duration_secs,
            threads: plan.threads,
        }
    }
}
