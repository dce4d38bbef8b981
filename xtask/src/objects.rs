//! The kernel objects: Turnpike's program, the load tool's programs, and the C yardstick.
//! Builds them and hands them to the builds that embed them.

use std::{
    env::consts::ARCH,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{host, toolchain::Toolchain};

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "bpf";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// The relay that Turnpike's cost per packet is held against.
const YARDSTICK_SOURCE: &str = "bench/yardstick/relay.bpf.c";

/// Compilers of the yardstick, the first that is there: Debian's name beside LLVM 22, then any.
const CLANGS: &[&str] = &["clang-22", "clang"];

/// What Turnpike's program is compiled with beside the rest: it is the one whose time counts.
const RELAY_FLAGS: &[&str] = &[
    // Atomic instructions and 32-bit registers; every kernel that the program runs on has them.
    "-Ctarget-cpu=v3",
    // Packets start at even addresses: without this each word is put together of bytes.
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access,+alu32",
];

/// What a warning from the kernel programs' crates does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warnings {
    Shown,
    /// For `cargo xtask test`: clippy cannot see the kernel programs, so this is their check.
    Denied,
}

/// The built objects (ELF, with BTF).
#[derive(Clone)]
pub(crate) struct Objects {
    /// Turnpike's datapath.
    pub(crate) relay: PathBuf,
    /// What `relay-bench` attaches and runs.
    pub(crate) tool: PathBuf,
    /// The C yardstick; `None` on a machine without clang.
    pub(crate) yardstick: Option<PathBuf>,
}

impl Objects {
    /// Names them to the build scripts that embed them.
    pub(crate) fn embed(&self, cargo: &mut Command) {
        cargo.env("TURNPIKE_XDP_OBJECT", &self.relay).env("RELAY_BENCH_XDP_OBJECT", &self.tool);
        if let Some(yardstick) = &self.yardstick {
            cargo.env("RELAY_BENCH_YARDSTICK_OBJECT", yardstick);
        }
    }
}

/// Builds all of them.
///
/// # Errors
/// A failed compilation or link; the compiler's output is on the terminal.
pub(crate) fn all(toolchain: &Toolchain, warnings: Warnings) -> Result<Objects> {
    let relay = relay(toolchain, warnings)?;
    let tool = rust(toolchain, warnings, "relay-bench-ebpf", "relay-bench-xdp", &[])?;
    Ok(Objects { relay, tool, yardstick: yardstick(warnings)? })
}

/// Builds Turnpike's object for this machine's architecture and returns its path.
///
/// # Errors
/// As [`all`].
pub(crate) fn relay(toolchain: &Toolchain, warnings: Warnings) -> Result<PathBuf> {
    rust(toolchain, warnings, "relay-ebpf", "turnpike-xdp", RELAY_FLAGS)
}

fn rust(
    toolchain: &Toolchain,
    warnings: Warnings,
    package: &str,
    bin: &str,
    more_flags: &[&str],
) -> Result<PathBuf> {
    let directory = directory();
    let mut flags = vec![
        // Which kernel's register layout and system-call numbers aya-ebpf assumes.
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
        // BTF is made from debug information, by the linker.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    flags.extend(more_flags.iter().map(|flag| (*flag).to_owned()));
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--package", package, "--bin", bin, "--features", "kernel"])
        .args(["--profile", PROFILE, "--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR));
    if warnings == Warnings::Denied {
        // Cargo's own switch: `-D warnings` among the flags would rebuild `core` as well.
        cargo.args(["-Z", "warnings", "--config", "build.warnings='deny'"]);
    }
    host::run(&mut cargo)?;
    there(directory.join(TARGET).join(PROFILE).join(bin))
}

fn yardstick(warnings: Warnings) -> Result<Option<PathBuf>> {
    let Some(clang) = CLANGS.iter().find_map(|name| host::which(name)) else {
        println!("no clang here: relay-bench is built without the C yardstick (apt: clang-22)");
        return Ok(None);
    };
    let object = directory().join("yardstick.o");
    std::fs::create_dir_all(directory())?;
    let mut command = host::command(clang);
    command
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps <asm/types.h> apart for each architecture.
        .arg(format!("-I/usr/include/{ARCH}-linux-gnu"))
        .arg("-c")
        .arg(host::root().join(YARDSTICK_SOURCE))
        .arg("-o")
        .arg(&object);
    match host::run(&mut command) {
        // Nobody's relay fails to start for want of a yardstick.
        Err(error) if warnings == Warnings::Shown => {
            println!("relay-bench is built without the C yardstick: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(()) => there(object).map(Some),
    }
}

fn directory() -> PathBuf {
    host::root().join("target/bpf")
}

fn there(object: PathBuf) -> Result<PathBuf> {
    if !Path::is_file(&object) {
        bail!("the compiler succeeded but {} is not there", object.display());
    }
    Ok(object)
}
