//! `relay-bench alloc`: how fast a server allocates, permits, binds, refreshes and deletes, and
//! what that costs it in memory and processor time. Owns its command line and exit code.

mod driver;
mod plan;
mod process;
mod report;
mod run;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use relay_common::addr::{Family, PeerAddr};

use crate::alloc::plan::{Ending, Pacing, Phase, Plan, Trouble};
use crate::alloc::process::Process;
use crate::alloc::report::{Asked, Report};
use crate::alloc::run::{Outcome, Progress};
use crate::cli::{
    EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_SETUP, EXIT_USAGE, ServerArgs, from_one_to,
};
use crate::clock::{MILLISECOND_NS, SECOND_NS};
use crate::host;
use crate::turn::client::{ClientSetup, Step};
use crate::turn::framing::Framing;
use crate::turn::transport::Transport;

/// The port of the peer that nothing is ever sent to: discard.
const PEER_PORT: u16 = 9;
/// The longest `--hold`: a day.
const HOLD_SECS_MAX: i64 = 86_400;

/// The exit codes, for the end of the help text.
pub(crate) const ALLOC_EXIT_CODES: &str = "\
Exit codes: 0 every request went well; 1 requests failed, and the run went on; 2 wrong usage; 3 \
set-up failed, nothing was allocated; 4 ended early (partial figures); 130 Ctrl-C (partial \
figures).";

#[derive(Debug, Args)]
pub(crate) struct Alloc {
    #[command(flatten)]
    server: ServerArgs,
    /// How many allocations, each on a UDP socket of its own.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = from_one_to(1_000_000))]
    allocations: NonZeroU32,
    /// Closed loop: so many clients have a request under way.
    #[arg(long, value_name = "N", default_value = "32", value_parser = from_one_to(65_536))]
    concurrency: NonZeroU32,
    /// Open loop: so many clients a second begin, whether the others are done or not.
    #[arg(long, value_name = "PER_SEC", conflicts_with = "concurrency")]
    #[arg(value_parser = from_one_to(1_000_000))]
    rate: Option<NonZeroU32>,
    /// A local address to send from; repeat it when one has too few ports.
    #[arg(long, value_name = "ADDR")]
    bind: Vec<IpAddr>,
    /// The peer of permissions and channel bindings; nothing is sent to it [default: port 9 of
    /// this host's address that faces the server].
    #[arg(long, value_name = "ADDR:PORT")]
    peer: Option<SocketAddr>,
    /// Collect the challenges (401) in a phase of their own: Allocate then is one round trip.
    #[arg(long)]
    reuse_nonce: bool,
    /// The server's process on this machine: adds its memory and processor time.
    #[arg(long)]
    pid: Option<u32>,
    /// Let the allocations idle so long before they are refreshed and deleted, seconds.
    #[arg(long, value_name = "SECS", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=HOLD_SECS_MAX))]
    hold: u32,
    /// Give up when no request was answered for so long, milliseconds.
    #[arg(long, value_name = "MS", default_value = "5000")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    stall: u64,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress on stderr.
    #[arg(long)]
    quiet: bool,
}

impl Alloc {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The run cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let target = &self.server.target;
        if target.transport() != Transport::Udp {
            eprintln!("relay-bench: alloc measures over UDP: give turn:HOST, not {target}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let plan = self.plan()?;
        let process = self.pid.map(|pid| {
            Process::open(pid)
                .with_context(|| format!("cannot read the memory of process {pid} (--pid; root?)"))
        });
        let process = process.transpose()?;
        host::raise_file_limit();
        // Found out now: the figures of a long run would have nowhere to go.
        if let Some(path) = &self.json {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write {} (--json)", path.display()))?;
        }
        let progress = if self.quiet { Progress::Silent } else { Progress::Shown };
        let outcome = run::run(&plan, process.as_ref(), &stop, progress);
        let report = Report::new(self.asked(&plan), &outcome);
        // A reader who has gone leaves the JSON document and the exit code.
        let _ = io::stdout().write_all(report.text().as_bytes());
        if let Some(path) = &self.json {
            fs::write(path, report.json()? + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(verdict(&outcome))
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let server = self.server.resolve()?;
        if let Some(other) = self.bind.iter().find(|ip| Family::of(**ip) != Family::of(server.ip()))
        {
            anyhow::bail!("--bind {other} is of another family than the server {server}");
        }
        let peer = match self.peer {
            Some(peer) => peer,
            None => SocketAddr::new(host::address_towards(server)?, PEER_PORT),
        };
        let client = ClientSetup {
            credentials: self.server.credentials(self.hold.into()),
            peer: PeerAddr::new(peer),
            framing: Framing::Channel,
            transport: self.server.target.transport(),
            rto_ns: self.server.rto_ns(),
        };
        let challenge = self.reuse_nonce.then_some(Step::Challenge);
        let steps = [Step::Allocate, Step::Permit, Step::Bind, Step::Refresh];
        Ok(Plan {
            server,
            sources: self.bind.clone(),
            client: Arc::new(client),
            allocations: self.allocations.get(),
            pacing: match self.rate {
                Some(rate) => Pacing::Open { rate: rate.get() },
                None => Pacing::Closed { concurrency: self.concurrency.get() },
            },
            steps: challenge.into_iter().chain(steps).collect(),
            stall_ns: self.stall * MILLISECOND_NS,
            hold_ns: u64::from(self.hold) * SECOND_NS,
        })
    }

    fn asked(&self, plan: &Plan) -> Asked {
        let (concurrency, rate) = match plan.pacing {
            Pacing::Closed { concurrency } => (Some(concurrency), None),
            Pacing::Open { rate } => (None, Some(rate)),
        };
        Asked {
            command: host::command_line(),
            target: self.server.target.to_string(),
            server: plan.server.to_string(),
            peer: plan.client.peer.to_string(),
            allocations: plan.allocations,
            concurrency,
            rate,
            reuse_nonce: self.reuse_nonce,
            pid: self.pid,
            hold_secs: self.hold,
        }
    }
}

/// The exit code, with a line on stderr unless all is well.
fn verdict(outcome: &Outcome) -> ExitCode {
    let failed: u64 = outcome.phases.iter().map(Phase::failed).sum();
    let code = match &outcome.ending {
        Ending::Completed if failed == 0 => return ExitCode::SUCCESS,
        Ending::Completed => {
            eprintln!("relay-bench: {failed} requests failed; the report counts them by code");
            return ExitCode::from(EXIT_LIMIT);
        }
        Ending::Interrupted => EXIT_INTERRUPTED,
        Ending::Early(Trouble::NoSockets(_) | Trouble::NoChallenge) => EXIT_SETUP,
        Ending::Early(_) if outcome.allocated == 0 => EXIT_SETUP,
        Ending::Early(_) => EXIT_PARTIAL,
    };
    eprintln!("relay-bench: {}", outcome.ending);
    ExitCode::from(code)
}
