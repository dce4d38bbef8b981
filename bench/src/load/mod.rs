//! `relay-bench load`: packets at a fixed rate through real allocations to a peer and back.
//! Owns its command line and exit code.

mod account;
pub(crate) mod echo;
mod payload;
mod peer;
mod plan;
mod report;
mod run;
mod schedule;
mod worker;

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use relay_common::addr::PeerAddr;

use crate::cli::{
    EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_SETUP, ServerArgs, bind_address, from_one_to,
    limit,
};
use crate::clock::MILLISECOND_NS;
use crate::host;
use crate::load::peer::EchoPeer;
use crate::load::plan::Plan;
use crate::load::report::{Asked, Limits, Report};
use crate::load::run::{Ending, Progress};
use crate::load::schedule::Schedule;
use crate::turn::client::ClientSetup;
use crate::turn::framing::Framing;

/// The longest `--duration`.
const YEAR_SECS: i64 = 365 * 86_400;
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
    #[arg(long, value_name = "PPS", default_value = "50", value_parser = from_one_to(100_000))]
    rate: NonZeroU32,
    /// Bytes of application data in a packet, 32 to 1400.
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u16).range(PAYLOAD_BYTES))]
    payload: u16,
    /// How long to send, seconds.
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = from_one_to(YEAR_SECS))]
    duration: NonZeroU32,
    /// How application data is framed.
    #[arg(long, value_enum, default_value = "channel")]
    mode: Mode,
    /// The address of the built-in echo peer [default: the one that faces the server, any port].
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

impl Load {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The run cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let server = self.server.resolve()?;
        let (peer, peer_addr) = self.open_peer(server)?;
        let client = ClientSetup {
            credentials: self.server.credentials(self.duration.get().into()),
            peer: PeerAddr::new(peer_addr),
            framing: match self.mode {
                Mode::Channel => Framing::Channel,
                Mode::Send => Framing::Indication,
            },
            transport: self.server.target.transport(),
            rto_ns: self.server.rto_ns(),
        };
        let links = self.server.links(server)?;
        host::raise_file_limit();
        let mut run = [0; 4];
        getrandom::fill(&mut run).context("no random numbers from the operating system")?;
        let plan = Plan {
            server,
            links,
            client: Arc::new(client),
            schedule: Schedule::new(self.allocations, self.rate, self.duration.get()),
            flows: self.allocations.get(),
            rate: self.rate.get(),
            threads: self.threads.min(self.allocations).get(),
            payload_bytes: usize::from(self.payload),
            run: u32::from_be_bytes(run),
            stall_ns: self.stall * MILLISECOND_NS,
            drain_ns: self.drain * MILLISECOND_NS,
        };
        let progress = if self.quiet { Progress::Silent } else { Progress::Shown };
        let outcome = run::run(&plan, peer.as_ref(), stop, progress);
        let limits = Limits { loss_percent_max: self.max_loss, p99_ms_max: self.max_p99 };
        let violations = limits.violations(&outcome);
        let report = Report::new(self.asked(&plan), &outcome, &violations);
        print!("{}", report.text());
        if let Some(path) = &self.json {
            fs::write(path, report.json()? + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let code = match outcome.ending {
            Ending::Completed if violations.is_empty() => return Ok(ExitCode::SUCCESS),
            Ending::Completed => EXIT_LIMIT,
            Ending::Interrupted => EXIT_INTERRUPTED,
            Ending::NotSetUp { .. } | Ending::NoSockets(_) | Ending::Host(_) => EXIT_SETUP,
            Ending::AllocationLost { .. } | Ending::ServerGone | Ending::NothingRelayed => {
                EXIT_PARTIAL
            }
        };
        eprintln!("relay-bench: {}", outcome.ending);
        Ok(ExitCode::from(code))
    }

    /// The built-in peer, unless there is one elsewhere, and the peer's address.
    fn open_peer(&self, server: SocketAddr) -> anyhow::Result<(Option<EchoPeer>, SocketAddr)> {
        if let Some(peer) = self.peer {
            return Ok((None, peer));
        }
        let addr = match self.peer_bind {
            Some(addr) => addr,
            None => SocketAddr::new(host::address_towards(server)?, 0),
        };
        let peer = EchoPeer::bind(addr)
            .with_context(|| format!("cannot bind the echo peer to {addr} (--peer-bind)"))?;
        let addr = peer.local_addr().context("the echo peer has no address")?;
        Ok((Some(peer), addr))
    }

    fn asked(&self, plan: &Plan) -> Asked {
        Asked {
            command: host::command_line(std::env::args()),
            target: self.server.target.to_string(),
            server: plan.server.to_string(),
            transport: plan.client.transport,
            peer: plan.client.peer.to_string(),
            mode: match self.mode {
                Mode::Channel => "channel",
                Mode::Send => "send",
            },
            allocations: plan.flows,
            rate_per_allocation: plan.rate,
            rate_total: plan.schedule.packets_per_second(),
            payload_bytes: plan.payload_bytes,
            duration_secs: self.duration.get(),
            threads: plan.threads,
        }
    }
}
