//! `cargo xtask sim`: the simulation for more seeds than a test run takes, or one seed with its
//! whole history. Owns the command line; the worlds are `relay-userspace/turn/tests/sim`.

use std::process::ExitCode;

use anyhow::Result;

use crate::host;

/// `cargo xtask sim`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Replay this one and show what happens
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Inputs to each world
    #[arg(long, value_name = "N", default_value_t = 500)]
    steps: u64,
}

/// The test that the variables below are for.
const TEST: &str = "every_seed_is_as_the_model_says";

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let mut cargo = host::cargo();
    cargo
        .args(["test", "--quiet", "--package", "relay-turn", "--test", "sim", "--"])
        .args(["--exact", TEST, "--nocapture"])
        .env("TURNPIKE_SIM_STEPS", args.steps.to_string());
    match args.seed {
        Some(seed) => cargo.env("TURNPIKE_SIM_SEED", seed.to_string()),
        None => cargo
            .env("TURNPIKE_SIM_SEEDS", args.seeds.to_string())
            .env("TURNPIKE_SIM_FIRST", args.first.to_string()),
    };
    host::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
