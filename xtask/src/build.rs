//! `cargo xtask build`: the kernel object from source, then the binaries that embed it.
//! Leaves what is up to date alone: a second run takes seconds.

use std::{env::consts::ARCH, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    host,
    toolchain::{self, Install, Toolchain},
};

const OBJECT_TARGET: &str = "bpfel-unknown-none";
const OBJECT_PROFILE: &str = "bpf";
const OBJECT_NAME: &str = "turnpike-xdp";

/// What relay-userspace's build script reads: the object to embed, and the commit to report.
pub(crate) const OBJECT_VARIABLE: &str = "TURNPIKE_XDP_OBJECT";
pub(crate) const COMMIT_VARIABLE: &str = "TURNPIKE_COMMIT";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build optimised binaries (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Build the binaries unoptimised; the kernel object is always optimised
    #[arg(long)]
    debug: bool,
    /// Build only the kernel object and print its path
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

/// What a warning from the kernel program's crates does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warnings {
    Shown,
    /// For `cargo xtask test`: clippy cannot see the kernel program, so this is its check.
    Denied,
}

/// What a full build leaves behind.
pub(crate) struct Built {
    /// The kernel object (ELF, with BTF).
    pub(crate) object: PathBuf,
    /// The daemon, with that object inside.
    pub(crate) turnpike: PathBuf,
    /// The load generator.
    pub(crate) relay_bench: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let toolchain = toolchain::require(Install::allowed_if(args.install))?;
    if args.object {
        println!("{}", object(&toolchain, Warnings::Shown)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    // `--release` only spells out the default.
    let profile = if args.debug && !args.release { Profile::Debug } else { Profile::Release };
    let built = all(&toolchain, profile, Warnings::Shown)?;
    println!("kernel object  {}", built.object.display());
    println!("relay          {}", built.turnpike.display());
    println!("load generator {}", built.relay_bench.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the kernel object, `turnpike` around it, and `relay-bench`.
///
/// # Errors
/// A failed compilation; the compiler's output is on the terminal.
pub(crate) fn all(toolchain: &Toolchain, profile: Profile, warnings: Warnings) -> Result<Built> {
    let object = object(toolchain, warnings)?;
    let mut cargo = host::cargo();
    cargo
        .args(["build", "--package", "relay-userspace", "--package", "relay-bench", "--bins"])
        .env(OBJECT_VARIABLE, &object)
        .env(COMMIT_VARIABLE, commit());
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
    Ok(Built { object, turnpike, relay_bench })
}

/// Builds the kernel object for this machine's architecture and returns its path.
///
/// # Errors
/// A failed compilation or link; the compiler's output is on the terminal.
pub(crate) fn object(toolchain: &Toolchain, warnings: Warnings) -> Result<PathBuf> {
    let directory = host::root().join("target/bpf");
    let flags = [
        // Which kernel's register layout and system-call numbers aya-ebpf assumes.
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
        // BTF is made from debug information, by the linker.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--package", "relay-ebpf", "--bin", OBJECT_NAME, "--features", "kernel"])
        .args(["--profile", OBJECT_PROFILE, "--target", OBJECT_TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR));
    if warnings == Warnings::Denied {
        // Cargo's own switch: `-D warnings` among the flags would rebuild `core` as well.
        cargo.args(["-Z", "warnings", "--config", "build.warnings='deny'"]);
    }
    host::run(&mut cargo)?;
    let object = directory.join(OBJECT_TARGET).join(OBJECT_PROFILE).join(OBJECT_NAME);
    if !object.is_file() {
        bail!("cargo succeeded but {} is not there", object.display());
    }
    Ok(object)
}

/// The commit being built, marked when the tree differs from it; `unknown` outside git.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| host::output(host::command("git").args(args));
    let Ok(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    // A status that cannot be read counts as changed: never claim a clean build unseen.
    let clean = git(&["status", "--porcelain"]).is_ok_and(|changes| changes.is_empty());
    if clean { head } else { format!("{head}-dirty") }
}
