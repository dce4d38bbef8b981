//! `relay-bench`: measures a TURN server from outside, with real clients.
//!
//! Owns the list of subcommands. Shares no code with the server: what it knows of TURN is the
//! codec of relay-common and RFC 8656.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod host;
mod load;
mod objects;
mod turn;
mod xdp;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::{EXIT_CODES, EXIT_SETUP};

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
    Load(Box<load::Load>),
    /// Runs only the echo peer, for a `load --peer` elsewhere.
    Echo(load::echo::Echo),
    /// Times Turnpike's kernel program beside a C relay, an empty program and a reflector.
    #[command(after_help = EXIT_CODES)]
    Xdp(xdp::Xdp),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(load) => load.run(),
        Command::Echo(echo) => echo.run(),
        Command::Xdp(xdp) => xdp.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("relay-bench: {error:#}");
        ExitCode::from(EXIT_SETUP)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
