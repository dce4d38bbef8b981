//! Turnpike's developer commands: `cargo xtask VERB`, one file per verb.
//! Owns the command line. Holds no product logic: it builds, starts and checks the product.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build;
mod credentials;
mod dev_config;
mod fuzz;
mod host;
mod kernels;
mod objects;
mod run;
mod sim;
mod tally;
mod test;
mod tidy;
mod toolchain;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run and check Turnpike.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Set up everything, build, and start a relay with a safe development configuration
    Run(run::Args),
    /// Install what the tests need and run all of them
    Test(test::Args),
    /// Compare the relay with other servers under the same load
    Bench(bench::Args),
    /// Build the kernel objects and the binaries that embed them
    Build(build::Args),
    /// Hold what the kernel object costs the kernel's verifier against the committed budget
    Verify(verify::Args),
    /// Run everything on Debian's kernels as well, in guests with virtio-net
    Kernels(kernels::Args),
    /// Run the simulation of server and step for many seeds, or show one
    Sim(sim::Args),
    /// Build the fuzz targets and run them
    Fuzz(fuzz::Args),
    /// Find (or get) a toolchain that can build the kernel object
    Toolchain(toolchain::Args),
    /// Check the house rules that the compiler cannot check
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::main(args),
        Verb::Test(args) => test::main(&args),
        Verb::Bench(args) => bench::main(args),
        Verb::Build(args) => build::main(&args),
        Verb::Verify(args) => verify::main(&args),
        Verb::Kernels(args) => kernels::main(&args),
        Verb::Sim(args) => sim::main(&args),
        Verb::Fuzz(args) => fuzz::main(&args),
        Verb::Toolchain(args) => toolchain::main(&args),
        Verb::Tidy => tidy::main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
