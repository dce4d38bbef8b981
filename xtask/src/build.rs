//! `cargo xtask build`: the kernel objects from source, then the binaries that embed it.
//! Leaves what is up to date alone: a second run takes seconds.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    host,
    objects::{self, Objects, Warnings},
    toolchain::{self, Install, Toolchain},
};

/// What the build scripts read besides the objects: the commit to report.
pub(crate) const COMMIT_VARIABLE: &str = "TURNPIKE_COMMIT";

/// `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build optimised binaries (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Build the binaries unoptimised; the kernel object is always optimised
    #[arg(long)]
    debug: bool,
    /// Build only Turnpike's kernel object and print its path
    #[arg(long)]
    object: bool,
    /// Get a missing toolchain first, as `cargo xtask toolchain --install` does
    #[arg(long)]
    install: bool,
}

/// How the host binaries are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Debug,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// What a full build leaves behind.
pub(crate) struct Built {
    /// The kernel objects.
    pub(crate) objects: Objects,
    /// The daemon, with Turnpike's object inside.
    pub(crate) turnpike: PathBuf,
    /// The load generator, with all of them inside.
    pub(crate) relay_bench: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let toolchain = toolchain::require(Install::allowed_if(args.install))?;
    if args.object {
        println!("{}", objects::relay(&toolchain, Warnings::Shown)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    // `--release` only spells out the default.
    let profile = if args.debug && !args.release { Profile::Debug } else { Profile::Release };
    let built = all(&toolchain, profile, Warnings::Shown)?;
    println!("kernel object  {}", built.objects.relay.display());
    println!("relay          {}", built.turnpike.display());
    println!("load generator {}", built.relay_bench.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the kernel objects, and `turnpike` and `relay-bench` around them.
///
/// # Errors
/// A failed compilation; the compiler's output is on the terminal.
pub(crate) fn all(toolchain: &Toolchain, profile: Profile, warnings: Warnings) -> Result<Built> {
    let objects = objects::all(toolchain, warnings)?;
    let mut cargo = host::cargo();
    cargo
        .args(["build", "--package", "relay-userspace", "--package", "relay-bench", "--bins"])
        .env(COMMIT_VARIABLE, commit());
    objects.embed(&mut cargo);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    host::run(&mut cargo)?;
    let directory = host::target_dir().join(profile.directory());
    let turnpike = directory.join("turnpike");
    let relay_bench = directory.join("relay-bench");
    for binary in [&turnpike, &relay_bench] {
        if !host::is_executable(binary) {
            bail!("cargo succeeded but {} is not there", binary.display());
        }
    }
    Ok(Built { objects, turnpike, relay_bench })
}

/// The commit being built, marked when the tree differs from it; `unknown` outside git.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| host::output(host::command("git").args(args));
    let Ok(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    // A status that cannot be read counts as changed: never claim a clean build unseen.
    let clean = git(&["status", "--porcelain"]).is_ok_and(|changes| changes.is_empty());
    if clean { head } else { format!("{head}-dirty") }
}
