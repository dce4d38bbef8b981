//! `cargo xtask test`: gets what the tests need, runs all of them, and ends with one line that
//! counts passed, failed and skipped. Skips nothing silently; decides nothing about single tests.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    apt,
    build::{self, Built, Profile},
    fuzz, host, kernels,
    objects::Warnings,
    tally::{Outcome, Tally},
    tidy,
    toolchain::{self, Install},
    verify,
};

/// What the suites that need root call: third-party TURN servers and clients, Redis, the tools that
/// make namespaces, links and captures and see processes; and the compilers of the C yardstick and
/// of libFuzzer.
const DEBIAN_PACKAGES: &[&str] = &[
    "clang-22",
    "coturn",
    "ethtool",
    "g++",
    "iproute2",
    "nftables",
    "procps",
    "redis-server",
    "redis-tools",
    "tcpdump",
    "util-linux",
];

/// Reasons repeated at the end of a run; more than this is noise.
const SKIP_LINES_MAX: usize = 60;

/// `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install nothing and build no kernel object: what needs either is skipped
    #[arg(long)]
    quick: bool,
    /// Run one step (fmt, clippy, tidy, doc, fuzz, verify, kernels, tests) or one test target of
    /// the workspace
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let mut session = Session::default();
    session.run(args);
    Ok(session.finish())
}

/// A step of its own, and how to run it.
type Check = (&'static str, fn(Option<&Built>) -> Outcome);

/// What needs neither the kernel object nor the machine's packages.
const CHECKS: &[Check] =
    &[("fmt", fmt), ("clippy", clippy), ("tidy", tidy), ("doc", doc), ("fuzz", fuzz)];

/// A step that looks at what was built.
type BuiltCheck = (&'static str, fn(&Built) -> Outcome);

const BUILT_CHECKS: &[BuiltCheck] = &[("verify", verify), ("kernels", kernels)];

struct Row {
    name: String,
    tally: Tally,
    secs: u64,
    note: String,
}

#[derive(Default)]
struct Session {
    rows: Vec<Row>,
    skip_lines: Vec<String>,
}

impl Session {
    fn run(&mut self, args: &Args) {
        let only = args.only.as_deref();
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        let checks = CHECKS.iter().map(|(name, _)| *name);
        let built_checks = BUILT_CHECKS.iter().map(|(name, _)| *name);
        // What is no step's name is a test target's.
        let tests = only.is_none_or(|only| checks.chain(built_checks).all(|name| name != only));

        // Building comes first: what is missing on the machine shows at once, not after minutes.
        let mut built = None;
        if tests || BUILT_CHECKS.iter().any(|(name, _)| wanted(name)) {
            if args.quick {
                self.step("build", || Outcome::Skipped("--quick builds no kernel object".into()));
            } else {
                if host::is_root() {
                    self.step("packages", packages);
                }
                self.step("build", || match build() {
                    Ok(result) => {
                        built = Some(result);
                        Outcome::Passed
                    }
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                });
            }
        }
        for &(name, check) in CHECKS {
            if wanted(name) {
                let skip = args.quick && name == "fuzz";
                let skipped = || Outcome::Skipped("--quick builds no fuzz targets".into());
                self.step(name, || if skip { skipped() } else { check(built.as_ref()) });
            }
        }
        for &(name, check) in BUILT_CHECKS {
            if wanted(name) {
                let unbuilt = || Outcome::Skipped("needs the build".into());
                self.step(name, || built.as_ref().map_or_else(unbuilt, check));
            }
        }
        if tests {
            let target = only.filter(|name| *name != "tests");
            self.tests(target, built.as_ref());
        }
    }

    fn step(&mut self, name: &str, step: impl FnOnce() -> Outcome) {
        heading(name);
        let started = now();
        let (tally, note) = match step() {
            Outcome::Passed => (Tally::PASSED, String::new()),
            Outcome::Failed(why) => (Tally::FAILED, why),
            Outcome::Skipped(why) => (Tally::SKIPPED, format!("SKIPPED: {why}")),
        };
        if !note.is_empty() {
            println!("{name}: {note}");
        }
        let secs = started.elapsed().as_secs();
        self.rows.push(Row { name: name.to_owned(), tally, secs, note });
    }

    /// `cargo test`, streamed; each `test result:` line counts.
    fn tests(&mut self, target: Option<&str>, built: Option<&Built>) {
        let name = target.map_or_else(|| "tests".to_owned(), |target| format!("tests: {target}"));
        heading(&name);
        let started = now();
        let mut command = cargo(built);
        command.args(["test", "--workspace", "--no-fail-fast"]);
        if let Some(target) = target {
            command.args(["--test", target]);
        }
        let (tally, note) = match self.stream(&mut command) {
            Ok((tally, true)) => (tally, String::new()),
            // Something other than a counted test went wrong: a crate does not compile, or a
            // test process died before it could report.
            Ok((mut tally, false)) if tally.failed == 0 => {
                tally.add(Tally::FAILED);
                (tally, "cargo test failed outside of any counted test: see above".to_owned())
            }
            Ok((tally, false)) => (tally, String::new()),
            Err(error) => (Tally::FAILED, format!("{error:#}")),
        };
        let secs = started.elapsed().as_secs();
        self.rows.push(Row { name, tally, secs, note });
    }

    fn stream(&mut self, command: &mut Command) -> Result<(Tally, bool)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().expect("stdout is piped: three lines up");
        let mut tally = Tally::default();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read the output of cargo test")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(result) = Tally::from_line(&line) {
                tally.add(result);
            } else if line.contains("SKIPPED") && self.skip_lines.len() < SKIP_LINES_MAX {
                self.skip_lines.push(line.trim().to_owned());
            }
        }
        Ok((tally, child.wait().context("cargo test vanished")?.success()))
    }

    /// Prints what happened, the counts as the very last line, and says how to exit.
    fn finish(self) -> ExitCode {
        let mut total = Tally::default();
        heading("summary");
        for line in &self.skip_lines {
            println!("  {line}");
        }
        for Row { name, tally, secs, note } in &self.rows {
            total.add(*tally);
            let note = note.lines().next().unwrap_or_default();
            println!("{name:<12} {secs:>4} s  {tally}  {note}");
        }
        println!("{total}");
        if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn heading(name: &str) {
    println!("\n== {name}");
}

#[allow(clippy::disallowed_methods, reason = "xtask's one reading of the monotonic clock")]
fn now() -> Instant {
    Instant::now()
}

fn packages() -> Outcome {
    let missing = apt::missing(DEBIAN_PACKAGES);
    if !apt::is_available() {
        let wanted = DEBIAN_PACKAGES.join(" ");
        return Outcome::Skipped(format!("no apt-get here; suites may need {wanted}"));
    }
    outcome(apt::install(&missing))
}

fn build() -> Result<Built> {
    let toolchain = toolchain::require(Install::Allowed)?;
    build::all(&toolchain, Profile::Release, Warnings::Denied)
}

/// One environment for every step: a step that saw another would rebuild what the last one built,
/// and would not see the code that is there only with an object.
fn cargo(built: Option<&Built>) -> Command {
    let mut cargo = host::cargo();
    if let Some(built) = built {
        built.objects.embed(&mut cargo);
        cargo
            .env(build::COMMIT_VARIABLE, build::commit())
            .env("TURNPIKE_BIN", &built.turnpike)
            .env("RELAY_BENCH_BIN", &built.relay_bench);
    }
    cargo.stdin(Stdio::null());
    cargo
}

fn fmt(built: Option<&Built>) -> Outcome {
    let mut cargo = cargo(built);
    cargo.args(["fmt", "--all", "--check"]);
    component("fmt", &mut cargo, "rustup component add rustfmt")
}

fn clippy(built: Option<&Built>) -> Outcome {
    let mut cargo = cargo(built);
    cargo.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    component("clippy", &mut cargo, "rustup component add clippy")
}

/// Runs a cargo subcommand that a minimal toolchain does not have.
fn component(name: &str, command: &mut Command, fix: &str) -> Outcome {
    if host::output(host::cargo().args([name, "--version"])).is_err() {
        return Outcome::Skipped(format!("cargo {name} is not installed; {fix}"));
    }
    outcome(host::run(command))
}

fn tidy(_built: Option<&Built>) -> Outcome {
    match tidy::check() {
        Ok(findings) if findings.is_empty() => Outcome::Passed,
        Ok(findings) => Outcome::Failed(format!("{} findings: see above", findings.len())),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn verify(built: &Built) -> Outcome {
    verify::check(&built.objects.relay, &verify::committed_budget()).into()
}

fn kernels(built: &Built) -> Outcome {
    kernels::check(built, Install::Allowed).into()
}

fn fuzz(_built: Option<&Built>) -> Outcome {
    fuzz::check().into()
}

fn doc(built: Option<&Built>) -> Outcome {
    let mut cargo = cargo(built);
    cargo.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    outcome(host::run(&mut cargo))
}

fn outcome(result: Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
