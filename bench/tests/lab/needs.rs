//! What a test needs of the machine, and whether the machine has it. A test whose needs are not
//! met is skipped with the reason, and counted as skipped.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

use super::counters::Loss;
use super::namespace::{Namespace, load_bystander};

/// Something that not every machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Root, `ip`, `ethtool`, and network namespaces.
    Namespaces,
    /// The tool's kernel programs, and a kernel that loads them.
    Xdp,
    /// `TURNPIKE_BIN`: a `turnpike` binary that carries its kernel object.
    Turnpike,
    /// coturn's `turnserver`.
    Coturn,
    /// `tcpdump`.
    Tcpdump,
    /// `nft`, and a kernel that drops every nth packet by it.
    Loss,
    /// `nft`, and a kernel that translates addresses with it.
    Nft,
}

/// A test: what it is called, what it needs, and what it does.
pub(crate) type Test = (&'static str, &'static [Need], fn());

/// The main function of a test file: runs its tests one after the other, and says of those that
/// cannot run why.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    let mut args = Arguments::from_args();
    // Two at a time would measure each other on a small machine.
    args.test_threads = args.test_threads.or(Some(1));
    let machine = Machine::examine();
    let trials = tests.iter().map(|&(name, needs, body)| {
        let missing = machine.missing(needs);
        let run = move || {
            body();
            Ok(())
        };
        let trial = Trial::test(name, run).with_ignored_flag(missing.is_some());
        if let Some(why) = missing.filter(|_| !args.list && !args.is_filtered_out(&trial)) {
            println!("SKIPPED: {name}: {why}");
        }
        trial
    });
    let trials = trials.collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// What this machine lacks, as a sentence for each need.
pub(crate) struct Machine {
    namespaces: Option<String>,
    xdp: Option<String>,
    turnpike: Option<String>,
    coturn: Option<String>,
    tcpdump: Option<String>,
    loss: Option<String>,
    nft: Option<String>,
}

impl Machine {
    /// Tries everything once.
    pub(crate) fn examine() -> Self {
        let namespaces = namespaces();
        let xdp = namespaces.clone().or_else(|| load_bystander().err());
        Self {
            namespaces,
            xdp,
            turnpike: turnpike().err(),
            coturn: missing_tool("turnserver", "coturn"),
            tcpdump: missing_tool("tcpdump", "tcpdump"),
            loss: missing_tool("nft", "nftables").or_else(no_loss),
            nft: missing_tool("nft", "nftables"),
        }
    }

    /// Why a test with these needs cannot run here.
    pub(crate) fn missing(&self, needs: &[Need]) -> Option<&str> {
        let lacks = |need: &Need| match need {
            Need::Namespaces => self.namespaces.as_deref(),
            Need::Xdp => self.xdp.as_deref(),
            Need::Turnpike => self.turnpike.as_deref(),
            Need::Coturn => self.coturn.as_deref(),
            Need::Tcpdump => self.tcpdump.as_deref(),
            Need::Loss => self.loss.as_deref(),
            Need::Nft => self.nft.as_deref(),
        };
        needs.iter().find_map(lacks)
    }
}

/// The binary that `TURNPIKE_BIN` names.
///
/// # Errors
/// Why there is none.
pub(super) fn turnpike() -> Result<PathBuf, String> {
    let path = env::var_os("TURNPIKE_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = path.ok_or("TURNPIKE_BIN names no turnpike binary")?;
    // Somebody who sets the variable means it: a wrong path is no reason to skip.
    assert!(path.is_file(), "TURNPIKE_BIN: no file {}", path.display());
    Ok(path)
}

fn namespaces() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Some("network namespaces need root".to_owned());
    }
    missing_tool("ip", "iproute2")
        .or_else(|| missing_tool("ethtool", "ethtool"))
        .or_else(|| Namespace::make("try").err().map(|why| format!("no network namespaces: {why}")))
}

fn no_loss() -> Option<String> {
    Namespace::make("try").and_then(|place| Loss::start(&place, 200, 50).map(drop)).err()
}

/// Why a program cannot be run, with the Debian package that has it.
fn missing_tool(name: &str, package: &str) -> Option<String> {
    let mut tool = Command::new(name);
    tool.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match tool.spawn() {
        Ok(child) => child,
        Err(_) => return Some(format!("no {name} here: apt-get install {package}")),
    };
    // Whether it knows --help does not matter: it is there.
    let _ = child.kill();
    let _ = child.wait();
    None
}
