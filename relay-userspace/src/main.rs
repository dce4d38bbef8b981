//! Turnpike: a TURN relay (RFC 8656) whose packets stay in the kernel.
//!
//! This binary is the appliance around two pure parts: `relay-turn` decides, the XDP program
//! relays. Here are sockets, threads, maps, configuration and metrics.
#![deny(unsafe_code)]

mod admin;
mod cli;
mod clock;
mod config;
mod datapath;
mod hints;
mod icmp;
mod interfaces;
mod logging;
mod metrics;
mod overview;
mod realms;
mod refusals;
mod relays;
mod report;
mod ring;
mod scrape;
mod serve;
mod shard;
mod sockets;
mod store;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Config(args) => args.run(),
        Command::Credentials(args) => args.run(clock::unix_secs()),
        Command::Detach(args) => args.run(),
        Command::Datapath(args) => args.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turnpike: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &cli::ServeArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    logging::init(config.log)?;
    // Everything hot has its own thread; this one takes signals, scrapes and netlink.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve::serve(config))
}
