//! `cargo xtask verify`: what the kernel object costs the running kernel's verifier, held against
//! the committed budget. Owns the verb and its table; changes only the budget file, when asked to.

mod budget;
mod measure;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use self::{budget::Budget, measure::Measured};
use crate::{
    host,
    objects::{self, Warnings},
    tally::Outcome,
    toolchain::{self, Install},
};

/// What a program may cost, or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Instructions that the verifier went through, all paths together.
    pub(crate) verified_instructions: u32,
    /// Instructions of the program, as the kernel keeps it before it is compiled (xlated).
    pub(crate) instructions: u32,
    /// Stack, bytes.
    pub(crate) stack_bytes: u32,
}

/// Costs by name of program.
pub(crate) type Costs = BTreeMap<String, Cost>;

/// `cargo xtask verify`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rewrite the budget: what the programs cost now, and a margin
    #[arg(long)]
    write: bool,
    /// Measure this object instead of building one
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Hold it against this file instead of the committed one
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let object = match &args.object {
        Some(object) => object.clone(),
        None => objects::relay(&toolchain::require(Install::Forbidden)?, Warnings::Shown)?,
    };
    let budget = args.budget.clone().unwrap_or_else(committed_budget);
    let outcome = if args.write { write(&object, &budget) } else { check(&object, &budget) };
    Ok(outcome?.report("verify"))
}

/// Loads every program of `object` and compares what the verifier says with the file `budget`.
///
/// # Errors
/// A file that cannot be read, or a program that the verifier refuses: the text has its reasons.
pub(crate) fn check(object: &Path, budget: &Path) -> Result<Outcome> {
    let costs = match measure::object(object)? {
        Measured::Costs(costs) => costs,
        Measured::Unable(why) => return Ok(Outcome::Skipped(why)),
    };
    let text = std::fs::read_to_string(budget)
        .with_context(|| format!("cannot read {}", budget.display()))?;
    let budget = Budget::parse(&text).with_context(|| format!("in {}", budget.display()))?;
    print!("{}", budget.table(&costs));
    let findings = budget.findings(&costs);
    if findings.is_empty() {
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Failed(format!(
        "{}. If it is worth it: cargo xtask verify --write, and commit the budget",
        findings.join("; ")
    )))
}

/// The budget in the checkout.
pub(crate) fn committed_budget() -> PathBuf {
    host::root().join("relay-ebpf/budget.toml")
}

fn write(object: &Path, path: &Path) -> Result<Outcome> {
    let costs = match measure::object(object)? {
        Measured::Costs(costs) => costs,
        Measured::Unable(why) => return Ok(Outcome::Skipped(why)),
    };
    let budget = Budget::with_margin(&costs);
    print!("{}", budget.table(&costs));
    std::fs::write(path, budget.text())
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(Outcome::Passed)
}
