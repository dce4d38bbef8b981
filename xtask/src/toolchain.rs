//! `cargo xtask toolchain`: finds a toolchain that can build the kernel object, says exactly what
//! is missing, and gets it. Two routes: rustup's nightly with `rust-src`, else Debian's own
//! rustc 1.96 with LLVM 22. Does not build the object.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{apt, host};

/// Debian's route: the compiler and the matching sources of `core`, LLVM for bpf-linker, and the
/// C tools that any Rust build with C parts needs.
const DEBIAN_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "gcc",
    "g++",
    "libc6-dev",
];

// The distribution's compiler, by full path: on PATH, rustup's proxies win.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// bpf-linker must be built against the LLVM that the compiler writes bitcode with.
const DEBIAN_LLVM_MAJOR: &str = "22";
const DEBIAN_LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// The oldest compiler that the workspace accepts (`rust-version`): (major, minor).
const RUSTC_MIN: (u32, u32) = (1, 95);

const LINKER_VERSION: &str = "0.13.0";

/// Variables that would make another cargo use rustup's compiler or the host build's flags.
const HOST_BUILD_VARIABLES: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// `cargo xtask toolchain`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Get what is missing: Debian packages with apt-get (through sudo when not root), bpf-linker
    /// with cargo
    #[arg(long)]
    install: bool,
}

/// Whether a verb may change the machine to get what it needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    Allowed,
    Forbidden,
}

impl Install {
    /// From the `--install` flag of a verb.
    pub(crate) fn allowed_if(flag: bool) -> Self {
        if flag { Self::Allowed } else { Self::Forbidden }
    }
}

/// A toolchain that can build the kernel object.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// rustup's nightly with `rust-src`, and a bpf-linker of the user's.
    RustupNightly { linker: PathBuf },
    /// The distribution's compiler, and a bpf-linker that xtask built against its LLVM.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// A cargo that accepts `-Z` flags, with its bpf-linker first on `PATH`.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self {
            Self::RustupNightly { .. } => {
                let mut command = host::command("rustup");
                command.args(["run", "nightly", "cargo"]);
                forget_host_build(&mut command);
                command
            }
            Self::Debian { .. } => {
                let mut command = debian_cargo();
                command.env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        let (Self::RustupNightly { linker } | Self::Debian { linker }) = self;
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = linker.parent().map(Path::to_path_buf).into_iter();
        if let Ok(path) = env::join_paths(directories.chain(env::split_paths(&path))) {
            command.env("PATH", path);
        }
        command
    }

    fn describe(&self) -> String {
        match self {
            Self::RustupNightly { linker } => {
                format!("rustup's nightly with rust-src, {}", linker.display())
            }
            Self::Debian { linker } => {
                format!("{DEBIAN_RUSTC} with LLVM {DEBIAN_LLVM_MAJOR}, {}", linker.display())
            }
        }
    }
}

/// What one route lacks, each with the command that gets it.
#[derive(Debug)]
struct Missing {
    what: String,
    fix: String,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let toolchain = require(Install::allowed_if(args.install))?;
    println!("the kernel object is built with {}", toolchain.describe());
    Ok(ExitCode::SUCCESS)
}

/// A working toolchain; with [`Install::Allowed`], after getting what was missing.
///
/// # Errors
/// Nothing usable: the text lists what each route lacks and the commands that get it.
pub(crate) fn require(install: Install) -> Result<Toolchain> {
    let rustup = match find_rustup_nightly() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    let debian = match find_debian() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    if install == Install::Forbidden {
        bail!("{}", explain(&rustup, &debian));
    }
    if !apt::is_available() {
        bail!("only apt-get is known here for --install\n{}", explain(&rustup, &debian));
    }
    apt::install(&apt::missing(DEBIAN_PACKAGES)).with_context(|| explain(&rustup, &debian))?;
    if !tools_linker().exists() {
        install_linker().context("bpf-linker could not be built")?;
    }
    find_debian().map_err(|debian| anyhow::anyhow!("{}", explain(&rustup, &debian)))
}

fn find_rustup_nightly() -> Result<Toolchain, Vec<Missing>> {
    if host::which("rustup").is_none() {
        return Err(vec![Missing { what: "rustup".into(), fix: "see https://rustup.rs".into() }]);
    }
    let mut missing = Vec::new();
    // No auto-install: looking must not change the machine.
    let sysroot = host::output(
        host::command("rustup")
            .env("RUSTUP_AUTO_INSTALL", "0")
            .args(["run", "nightly", "rustc", "--print", "sysroot"]),
    );
    match sysroot {
        Ok(sysroot) if has_core_sources(Path::new(&sysroot)) => {}
        Ok(_) => missing.push(Missing {
            what: "the nightly toolchain's rust-src component".into(),
            fix: "rustup component add rust-src --toolchain nightly".into(),
        }),
        Err(_) => missing.push(Missing {
            what: "rustup's nightly toolchain".into(),
            fix: "rustup toolchain install nightly --component rust-src".into(),
        }),
    }
    let linker = host::which("bpf-linker");
    if linker.is_none() {
        missing.push(Missing {
            what: "bpf-linker on PATH".into(),
            fix: "cargo install bpf-linker  (needs the LLVM that nightly uses)".into(),
        });
    }
    match linker {
        Some(linker) if missing.is_empty() => Ok(Toolchain::RustupNightly { linker }),
        _ => Err(missing),
    }
}

fn find_debian() -> Result<Toolchain, Vec<Missing>> {
    let mut missing = Vec::new();
    let compiler = host::output(host::command(DEBIAN_RUSTC).arg("-vV"));
    let compiler_fits = compiler.is_ok_and(|text| fits_debian_llvm(&text));
    let llvm_config = Path::new(DEBIAN_LLVM_PREFIX).join("bin/llvm-config");
    let parts = [
        (compiler_fits, format!("{DEBIAN_RUSTC} 1.95 or newer with LLVM {DEBIAN_LLVM_MAJOR}")),
        (Path::new(DEBIAN_CARGO).exists(), DEBIAN_CARGO.to_owned()),
        (has_core_sources(Path::new("/usr")), "the sources of Debian's core library".to_owned()),
        (llvm_config.exists(), format!("LLVM {DEBIAN_LLVM_MAJOR}'s development files")),
    ];
    for (present, what) in parts {
        if !present {
            missing.push(Missing { what, fix: apt::install_command(DEBIAN_PACKAGES) });
        }
    }
    // Also when the tool is cached: an upgrade of LLVM leaves a linker that no longer starts.
    let linker = tools_linker();
    if !host::output(host::command(&linker).arg("--version")).is_ok_and(|v| v.contains("bpf")) {
        missing.push(Missing {
            what: format!("bpf-linker {LINKER_VERSION} for LLVM {DEBIAN_LLVM_MAJOR}"),
            fix: "cargo xtask toolchain --install".into(),
        });
    }
    if missing.is_empty() { Ok(Toolchain::Debian { linker }) } else { Err(missing) }
}

/// Whether `rustc -vV` describes a compiler that is new enough and writes our LLVM's bitcode.
fn fits_debian_llvm(version_text: &str) -> bool {
    let field = |name: &str| version_text.lines().find_map(|line| line.strip_prefix(name));
    let new_enough = field("release: ").is_some_and(|release| {
        let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= RUSTC_MIN
    });
    let llvm_major = field("LLVM version: ").and_then(|version| version.split('.').next());
    new_enough && llvm_major == Some(DEBIAN_LLVM_MAJOR)
}

/// `-Z build-std` reads the standard library's workspace from here.
fn has_core_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

fn tools_linker() -> PathBuf {
    host::tools_dir().join("bin/bpf-linker")
}

fn debian_cargo() -> Command {
    let mut command = host::command(DEBIAN_CARGO);
    forget_host_build(&mut command);
    command.env("RUSTC", DEBIAN_RUSTC);
    command
}

fn forget_host_build(command: &mut Command) {
    for name in HOST_BUILD_VARIABLES {
        command.env_remove(name);
    }
}

/// Builds bpf-linker against Debian's LLVM; about a minute on two cores, then cached.
fn install_linker() -> Result<()> {
    println!("building bpf-linker {LINKER_VERSION} (about a minute, once)");
    let tools = host::tools_dir();
    let mut command = debian_cargo();
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM_MAJOR}")])
        .arg("--root")
        .arg(&tools)
        // llvm-sys and bpf-linker's own build script each have a variable; without both, the
        // first llvm-config on PATH wins.
        .env(format!("LLVM_SYS_{DEBIAN_LLVM_MAJOR}1_PREFIX"), DEBIAN_LLVM_PREFIX)
        .env("LLVM_PREFIX", DEBIAN_LLVM_PREFIX)
        .env("CARGO_TARGET_DIR", tools.join("build"));
    host::run(&mut command)
}

fn explain(rustup: &[Missing], debian: &[Missing]) -> String {
    let mut text = String::from("no toolchain here can build the kernel object.");
    let routes =
        [("Debian 12 (does it all: cargo xtask toolchain --install)", debian), ("rustup", rustup)];
    for (route, missing) in routes {
        text.push_str(&format!("\n  with {route}, missing:"));
        for part in missing {
            text.push_str(&format!("\n    - {}", part.what));
        }
        let mut fixes: Vec<&str> = missing.iter().map(|part| part.fix.as_str()).collect();
        fixes.dedup();
        text.push_str("\n    get it with:");
        for fix in fixes {
            text.push_str(&format!("\n      {fix}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_fits_by_version_and_by_llvm() {
        for (release, llvm, fits) in [
            ("1.96.0", "22.1.8", true),
            ("1.95.0", "22.1.2", true),
            ("2.0.0", "22.0.0", true),
            ("1.94.1", "22.1.8", false),
            ("1.96.0", "21.1.8", false),
            ("1.96.0", "2.2", false),
        ] {
            let text = format!("rustc {release}\nrelease: {release}\nLLVM version: {llvm}\n");
            assert_eq!(fits_debian_llvm(&text), fits, "{release} {llvm}");
        }
        assert!(!fits_debian_llvm(""));
    }

    #[test]
    fn the_explanation_names_each_missing_part_and_each_fix_once() {
        let part = |what: &str, fix: &str| Missing { what: what.into(), fix: fix.into() };
        let text = explain(&[part("nightly", "get N")], &[part("a", "apt X"), part("b", "apt X")]);
        assert!(text.contains("- nightly") && text.contains("get N"), "{text}");
        assert!(text.contains("- a") && text.contains("- b"), "{text}");
        assert_eq!(text.matches("apt X").count(), 1, "{text}");
    }
}
