//! `relay-bench`: measures a TURN server from outside, with real clients.
//!
//! Owns the list of subcommands. Shares no code with the server: what it knows of TURN is the
//! codec of relay-common and RFC 8656.
#![forbid(unsafe_code)]

mod alloc;
mod check;
mod cli;
mod clock;
mod compare;
mod conform;
mod flood;
mod forward;
mod host;
mod lab;
mod load;
mod objects;
mod spread;
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
    /// Measures allocations, permissions, channels, refreshes a second, and the server's memory.
    #[command(after_help = alloc::ALLOC_EXIT_CODES)]
    Alloc(Box<alloc::Alloc>),
    /// Finds out what is wrong with a server, as its clients see it, and what to do about it.
    #[command(after_help = check::CHECK_EXIT_CODES)]
    Check(Box<check::Check>),
    /// Asks a server, case by case, whether it keeps RFC 8489, RFC 8656 and their companions.
    #[command(after_help = conform::CONFORM_EXIT_CODES)]
    Conform(Box<conform::Conform>),
    /// Prints reports of `conform` side by side, as Markdown.
    ConformTable(conform::table::ConformTable),
    /// Relays packets at a fixed rate through real allocations to an echo peer and back.
    #[command(after_help = EXIT_CODES)]
    Load(Box<load::Load>),
    /// Runs only the echo peer, for a `load --peer` elsewhere.
    Echo(load::echo::Echo),
    /// Times Turnpike's kernel program beside a C relay, an empty program and a reflector.
    #[command(after_help = EXIT_CODES)]
    Xdp(xdp::Xdp),
    /// Relays packets made in the kernel, millions a second, through real allocations to a sink.
    #[command(after_help = EXIT_CODES)]
    Flood(Box<flood::FloodArgs>),
    /// Measures what `flood` itself can do, against a `reflect` at the far end of a link.
    #[command(after_help = EXIT_CODES)]
    Ceiling(Box<flood::ceiling::Ceiling>),
    /// Sends everything back that comes in by an interface, for a `ceiling` elsewhere.
    Reflect(flood::ceiling::Reflect),
    /// Compares Turnpike's XDP program, flat out, with programs that only send frames on.
    #[command(after_help = EXIT_CODES)]
    Forward(forward::Forward),
    /// Compares TURN servers: same loads, same cores, in turn, in network namespaces of its own.
    #[command(after_help = EXIT_CODES)]
    Compare(Box<compare::Compare>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Alloc(alloc) => alloc.run(),
        Command::Check(check) => check.run(),
        Command::Conform(conform) => conform.run(),
        Command::ConformTable(table) => table.run(),
        Command::Load(load) => load.run(),
        Command::Echo(echo) => echo.run(),
        Command::Xdp(xdp) => xdp.run(),
        Command::Flood(flood) => flood.run(),
        Command::Ceiling(ceiling) => ceiling.run(),
        Command::Reflect(reflect) => reflect.run(),
        Command::Forward(forward) => forward.run(),
        Command::Compare(compare) => compare.run(),
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
