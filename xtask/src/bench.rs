//! `cargo xtask bench`: builds everything, gets the servers that the comparison runs beside ours,
//! and starts `relay-bench compare`. Measures nothing itself.

use std::{env, os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    apt,
    build::{self, Profile},
    host,
    objects::Warnings,
    toolchain::{self, Install},
};

/// The other subjects, and the tools that the namespaces are made with.
const DEBIAN_PACKAGES: &[&str] = &["coturn", "ethtool", "iproute2"];

/// turn-rs, as its authors publish it.
const TURN_RS: &str = "turn-server";
const TURN_RS_VERSION: &str = "4.1.5";

/// `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Get nothing: what is missing is left out of the comparison, with the reason
    #[arg(long)]
    no_install: bool,
    /// Arguments for `relay-bench compare`, after `--`
    #[arg(last = true)]
    compare: Vec<String>,
}

pub(crate) fn main(args: Args) -> Result<ExitCode> {
    if !host::is_root() {
        bail!("the comparison makes network namespaces and attaches XDP programs: run it as root");
    }
    let install = Install::allowed_if(!args.no_install);
    if install == Install::Allowed
        && apt::is_available()
        && let Err(error) = apt::install(&apt::missing(DEBIAN_PACKAGES))
    {
        println!("the comparison does with what is here: {error:#}");
    }
    let built = build::all(&toolchain::require(install)?, Profile::Release, Warnings::Shown)?;
    let mut compare = host::command(&built.relay_bench);
    // Where it was asked for, its report goes.
    compare.current_dir(env::current_dir().context("no current directory")?);
    compare.args(["compare", "--turnpike"]).arg(&built.turnpike);
    match turn_rs(install) {
        Ok(path) => {
            compare.arg("--turn-rs").arg(path);
        }
        Err(error) => println!("the comparison runs without turn-rs: {error:#}"),
    }
    compare.args(args.compare);
    // Replaces this process, so that Ctrl-C and the exit code are the comparison's own.
    let error = compare.exec();
    Err(error).with_context(|| format!("cannot start {compare:?}"))
}

/// turn-rs with its UDP transport only, the one that is compared; built once.
fn turn_rs(install: Install) -> Result<PathBuf> {
    let root = host::tools_dir().join(format!("turn-rs-{TURN_RS_VERSION}"));
    let binary = root.join("bin").join(TURN_RS);
    if host::is_executable(&binary) {
        return Ok(binary);
    }
    if install == Install::Forbidden {
        bail!("{} is not there", binary.display());
    }
    println!("building {TURN_RS} {TURN_RS_VERSION} (some minutes, once)");
    let mut cargo = host::cargo();
    cargo
        .args(["install", TURN_RS, "--version", TURN_RS_VERSION, "--locked", "--root"])
        .arg(&root)
        .args(["--no-default-features", "--features", "udp"])
        .env("CARGO_TARGET_DIR", host::tools_dir().join("build"));
    host::run(&mut cargo)?;
    Ok(binary)
}
