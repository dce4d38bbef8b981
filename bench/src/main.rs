//! `relay-bench`: measures a TURN server from outside, with real clients.
//!
//! Owns the command line and the exit codes. Shares no code with the server: what it knows of
//! TURN is the codec of relay-common and RFC 8656.
#![forbid(unsafe_code)]

mod account;
mod client;
mod clock;
mod credentials;
mod failure;
mod framing;
mod host;
mod load;
mod payload;
mod peer;
mod plan;
mod report;
mod schedule;
mod target;
mod worker;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use relay_common::addr::{Family, PeerAddr};

use crate::client::ClientSetup;
use crate::clock::MILLISECOND_NS;
use crate::credentials::Credentials;
use crate::framing::Framing;
use crate::load::{Ending, Progress};
use crate::peer::{EchoPeer, PeerCounts};
use crate::plan::Plan;
use crate::report::{Asked, Limits, Report};
use crate::schedule::Schedule;
use crate::target::Target;

/// Exit code: a limit of `--max-loss` or `--max-p99` was broken.
const EXIT_LIMIT: u8 = 1;
/// Exit code: the run did not begin, or this host failed.
const EXIT_SETUP: u8 = 3;
/// Exit code: the run began and ended early; the figures are partial.
const EXIT_PARTIAL: u8 = 4;
/// Exit code: ended by Ctrl-C; the figures are partial.
const EXIT_INTERRUPTED: u8 = 130;
/// How long minted credentials live beyond the run, seconds.
const MINTED_SECS: u64 = 3600;

/// The longest `--duration`.
const YEAR_SECS: i64 = 365 * 86_400;
/// What `--payload` may be.
const PAYLOAD_BYTES: RangeInclusive<i64> = payload::HEADER_BYTES as i64..=payload::BYTES_MAX as i64;

const EXIT_CODES: &str = "\
Exit codes: 0 measured and within the limits; 1 a limit was broken; 2 wrong usage; 3 set-up \
failed; 4 ended early (partial figures); 130 Ctrl-C (partial figures).";

/// Measures TURN servers from outside, with real clients.
#[derive(Debug, Parser)]
#[command(name = "relay-bench", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relays packets at a fixed rate through real allocations to an echo peer and back.
    #[command(after_help = EXIT_CODES)]
    Load(Box<Load>),
    /// Runs only the echo peer, for a `load --peer` elsewhere.
    Echo(Echo),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    /// ChannelData over a channel binding.
    Channel,
    /// Send and Data indications over a permission.
    Send,
}

#[derive(Debug, Args)]
struct Load {
    /// The server: turn:HOST or turn:HOST:PORT (port 3478 unless given).
    target: Target,
    /// The user name; with --secret, the name behind the expiry.
    #[arg(long, env = "RELAY_BENCH_USER")]
    user: Option<String>,
    /// The user's password.
    #[arg(long, env = "RELAY_BENCH_PASSWORD", hide_env_values = true, requires = "user")]
    #[arg(conflicts_with = "secret", required_unless_present = "secret")]
    password: Option<String>,
    /// The shared secret to mint time-limited (TURN REST) credentials from.
    #[arg(long, env = "RELAY_BENCH_SECRET", hide_env_values = true)]
    secret: Option<String>,
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
    /// Use only server addresses of this family.
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=6))]
    family: Option<u8>,
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
    /// First retransmission timeout of requests (RFC 8489 §6.2.1), milliseconds.
    #[arg(long, value_name = "MS", default_value = "500")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=60_000))]
    rto: u64,
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

#[derive(Debug, Args)]
struct Echo {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(load) => load.run(),
        Command::Echo(echo) => echo.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("relay-bench: {error:#}");
        ExitCode::from(EXIT_SETUP)
    })
}

impl Load {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let target = &self.target;
        let server = target
            .resolve(self.wanted_family()?)
            .with_context(|| format!("no address of {target} to measure (--family?)"))?;
        let (peer, peer_addr) = self.open_peer(server)?;
        let client = ClientSetup {
            credentials: self.credentials(),
            peer: PeerAddr::new(peer_addr),
            framing: match self.mode {
                Mode::Channel => Framing::Channel,
                Mode::Send => Framing::Indication,
            },
            rto_ns: self.rto * MILLISECOND_NS,
        };
        host::raise_file_limit();
        let mut run = [0; 4];
        getrandom::fill(&mut run).context("no random numbers from the operating system")?;
        let plan = Plan {
            server,
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
        let outcome = load::run(&plan, peer.as_ref(), stop, progress);
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

    fn wanted_family(&self) -> anyhow::Result<Option<Family>> {
        Ok(match self.family {
            None => None,
            Some(4) => Some(Family::V4),
            Some(6) => Some(Family::V6),
            Some(other) => anyhow::bail!("--family is 4 or 6, not {other}"),
        })
    }

    fn credentials(&self) -> Credentials {
        match (&self.secret, &self.password) {
            (Some(secret), _) => {
                let expiry = clock::unix_secs() + u64::from(self.duration.get()) + MINTED_SECS;
                Credentials::minted(secret, self.user.as_deref().unwrap_or("relay-bench"), expiry)
            }
            (None, password) => Credentials::known(
                self.user.clone().unwrap_or_default(),
                password.clone().unwrap_or_default(),
            ),
        }
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
            target: self.target.to_string(),
            server: plan.server.to_string(),
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

impl Echo {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let peer = EchoPeer::bind(self.listen)
            .with_context(|| format!("cannot listen on {} (--listen)", self.listen))?;
        eprintln!("echo peer on {}; Ctrl-C ends it", peer.local_addr()?);
        let counts = PeerCounts::default();
        peer.run(&stop, &counts).context("the echo peer failed")?;
        println!(
            "received {}, echoed {}, not taken by this host {}",
            counts.received.load(Ordering::Relaxed),
            counts.echoed.load(Ordering::Relaxed),
            counts.unsent.load(Ordering::Relaxed)
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// A number from 1 up to a limit. The limits together keep the schedule inside 64 bits.
fn from_one_to(max: i64) -> impl TypedValueParser<Value = NonZeroU32> {
    clap::value_parser!(u32).range(1..=max).try_map(NonZeroU32::try_from)
}

/// An address with a port, or without one for any.
fn bind_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    text.parse().or_else(|_| Ok(SocketAddr::new(text.parse()?, 0)))
}

/// Why a text is no limit.
#[derive(Debug)]
struct NotALimit;

impl fmt::Display for NotALimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a limit is a number of 0 or more")
    }
}

impl std::error::Error for NotALimit {}

fn limit(text: &str) -> Result<f64, NotALimit> {
    text.parse().ok().filter(|limit: &f64| *limit >= 0.0).ok_or(NotALimit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bind_address_needs_no_port() {
        assert_eq!(bind_address("127.0.0.2"), Ok("127.0.0.2:0".parse().unwrap()));
        assert_eq!(bind_address("[::1]:5"), Ok("[::1]:5".parse().unwrap()));
        assert_eq!(bind_address("::1"), Ok("[::1]:0".parse().unwrap()));
        assert!(bind_address("host").is_err());
    }
}
