//! What every flood is asked on its command line, with or without a server: how much, how fast,
//! and what becomes of the result.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use relay_bench_ebpf::packet::{Common, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
use relay_common::wire::channel_data::ChannelNumber;

use crate::cli::{EXIT_LIMIT, from_one_to, limit};
use crate::clock::{MILLISECOND_NS, SECOND_NS};
use crate::flood::findings::{Asked, PerFlow};
use crate::flood::forge::{self, Make, Mould};
use crate::flood::place::{self, Interface, Place};
use crate::flood::report::Report;
use crate::flood::run::{self, Ends, Flood};
use crate::host;

/// The longest `--duration`: a day.
const DURATION_SECS_MAX: i64 = 86_400;
/// More packets a second than any kernel's generator makes.
const RATE_MAX: u64 = 100_000_000;

/// What is sent, how fast and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// How many flows: an allocation each.
    #[arg(long, value_name = "N", default_value = "32", value_parser = from_one_to(65_535))]
    pub(crate) allocations: NonZeroU32,
    /// Packets a second, all flows together [default: as many as it can].
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u64).range(1..=RATE_MAX))]
    pub(crate) rate: Option<u64>,
    /// How long to send, seconds.
    #[arg(long, value_name = "SECS", default_value = "10")]
    #[arg(value_parser = from_one_to(DURATION_SECS_MAX))]
    pub(crate) duration: NonZeroU32,
    /// Bytes of application data in a packet, 24 to 1400.
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u16)
        .range(i64::from(PAYLOAD_BYTES_MIN)..=i64::from(PAYLOAD_BYTES_MAX)))]
    pub(crate) payload: u16,
    /// Check one in N packets whole, payload and checksums, as chance has it; 1: all of them.
    #[arg(long, value_name = "N", default_value = "64", value_parser = from_one_to(1_000_000))]
    pub(crate) sample: NonZeroU32,
    /// Threads that generate, each with its share of flows and rate.
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_one_to(64))]
    pub(crate) threads: NonZeroU32,
    /// Give up when nothing arrived for so long, milliseconds.
    #[arg(long, value_name = "MS", default_value = "5000")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub(crate) stall: u64,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// List every flow in the JSON result.
    #[arg(long)]
    pub(crate) per_flow: bool,
    /// Fail when more than this share of the packets is lost, percent.
    #[arg(long, value_name = "PCT", value_parser = limit)]
    pub(crate) max_loss: Option<f64>,
    /// No progress on stderr.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A text that is no MAC address.
#[derive(Debug)]
pub(crate) struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address reads 02:00:00:00:00:01")
    }
}

impl std::error::Error for NotAMac {}

/// A MAC address as it is written.
///
/// # Errors
/// It is not written so.
pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6], NotAMac> {
    place::mac(text).ok_or(NotAMac)
}

/// Arguments that make no sense together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unusable {
    /// The target's transport is not UDP.
    NotUdp,
    /// At that rate a thread of these has nothing to send.
    RateTooSmall {
        /// `--rate`.
        rate: u64,
        /// `--threads`.
        threads: u32,
    },
    /// The payload and its headers do not fit the smaller MTU.
    PayloadTooLarge {
        /// `--payload`.
        payload: u16,
        /// The MTU, bytes.
        mtu: u64,
        /// What fits, bytes.
        fits: u64,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUdp => f.write_str(
                "flood forges UDP packets: measure turn:HOST, and the other transports with `load`",
            ),
            Self::RateTooSmall { rate, threads } => write!(
                f,
                "--rate {rate} leaves one of {threads} threads with nothing to send: fewer \
                 --threads, or a higher --rate"
            ),
            Self::PayloadTooLarge { payload, mtu, fits } => write!(
                f,
                "--payload {payload} does not fit an MTU of {mtu} bytes with its headers: \
                 --payload {fits} does, or a larger MTU (`ip link set IF mtu BYTES`)"
            ),
        }
    }
}

impl std::error::Error for Unusable {}

/// The next hop, the channel number of what is sent, whether ChannelData arrives, and which end
/// of that is the same for all flows.
pub(crate) type Way = ([u8; 6], Option<ChannelNumber>, bool, Common);

impl Shape {
    /// Whether the run makes sense, before anything is done for it.
    ///
    /// # Errors
    /// The rate leaves a thread without packets.
    pub(crate) fn check(&self) -> Result<(), Unusable> {
        let (flows, threads) = (self.allocations.get(), self.threads.get());
        let rate = self.rate.filter(|rate| !run::is_dealt(*rate, flows, threads));
        rate.map_or(Ok(()), |rate| Err(Unusable::RateTooSmall { rate, threads }))
    }

    /// Whether frames fit an MTU with `headers` bytes around the payload.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn check_mtu(&self, mtu: u64, headers: u64) -> Result<(), Unusable> {
        let (payload, fits) = (self.payload, mtu.saturating_sub(headers));
        if u64::from(payload) <= fits {
            return Ok(());
        }
        Err(Unusable::PayloadTooLarge { payload, mtu, fits })
    }

    /// A flood of this shape, to a sink on the interface with that MAC address.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub(crate) fn flood(
        &self,
        place: &Place,
        interface: &Interface,
        flows: Vec<Ends>,
        sink_mac: [u8; 6],
        (dst_mac, channel, framed, common): Way,
    ) -> anyhow::Result<Flood> {
        let mut run = [0; 4];
        getrandom::fill(&mut run).context("no random numbers from the operating system")?;
        let run = u32::from_ne_bytes(run);
        Ok(Flood {
            run,
            flows,
            mould: Mould {
                make: Make::Full,
                dst_mac,
                src_mac: interface.mac,
                channel,
                payload_bytes: self.payload,
                fill: forge::fill(run, self.payload),
            },
            framed,
            common,
            sink_mac,
            sample: self.sample.get(),
            rate: self.rate,
            duration_ns: u64::from(self.duration.get()) * SECOND_NS,
            threads: self.threads.get(),
            stall_ns: self.stall * MILLISECOND_NS,
            place: place.clone(),
            interface: interface.clone(),
        })
    }

    /// As a report repeats it.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            command: host::command_line(),
            server: String::new(),
            peer: None,
            direction: "reflect",
            allocations: self.allocations.get(),
            rate_total: self.rate,
            payload_bytes: self.payload,
            duration_secs: self.duration.get(),
            threads: self.threads.get(),
            sample: self.sample.get(),
        }
    }

    /// The progress bar.
    pub(crate) fn bar(&self) -> ProgressBar {
        if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) }
    }

    /// Whether the result lists every flow.
    pub(crate) fn per_flow(&self) -> PerFlow {
        if self.per_flow { PerFlow::Listed } else { PerFlow::Summed }
    }

    /// Writes the report where it was asked for, and prints it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn publish(&self, report: &Report) -> anyhow::Result<()> {
        let written = self.json.as_ref().map_or(Ok(()), |path| {
            fs::write(path, report.json()? + "\n")
                .with_context(|| format!("cannot write {}", path.display()))
        });
        // Nobody may be reading any more, which changes no result.
        let _ = io::stdout().write_all(report.text().as_bytes());
        written
    }

    /// How a complete run exits.
    pub(crate) fn verdict(&self, report: &Report) -> ExitCode {
        if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_LIMIT) }
    }
}
