//! `relay-bench xdp` as its user runs it: what it prints can be read and recomputed, and programs
//! that do not do what is being timed give no figures. How fast anything is, is no test.
//!
//! Needs root and a relay-bench with its kernel programs inside; the planted faults need clang.
//! Without them every test is ignored and says why.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and a signal comes in real time"
)]

use std::env::consts::ARCH;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const YARDSTICK: &str = include_str!("../yardstick/relay.bpf.c");
const IMPOSTOR: &str = include_str!("xdp/impostor.bpf.c");

/// Little work: what is measured does not matter here.
const QUICK: &str = "--rounds 5 --repeat 2000 --payload 64 --quiet";
const ROOT_NEEDED: &str = "loading kernel programs needs root";
const NOT_BUILT_IN: &str = "was built without";

/// Why a test could not run.
struct Missing(String);

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests = vec![
        trial("the_last_line_is_a_document_that_adds_up", the_last_line_is_a_document),
        trial("programs_that_do_something_else_give_no_figures", impostors_are_refused),
        trial("each_fault_planted_in_the_yardstick_is_found", faults_are_found),
        trial("a_signal_ends_it_with_the_figures_so_far", a_signal_ends_it),
        trial("without_root_it_says_so", without_root_it_says_so),
    ];
    libtest_mimic::run(&args, tests).exit_code()
}

fn trial(name: &'static str, test: fn() -> Result<Result<(), Failed>, Missing>) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(result) => result.map(|()| Completion::Completed),
        Err(Missing(why)) => {
            println!("SKIPPED: {why}");
            Ok(Completion::ignored_with(why))
        }
    })
}

/// A run of the tool on these arguments.
fn tool(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.arg("xdp").args(arguments.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs the tool, if this machine and this build can.
fn run(arguments: &str) -> Result<Output, Missing> {
    possible(tool(arguments).output().unwrap())
}

fn possible(output: Output) -> Result<Output, Missing> {
    if !geteuid().is_root() {
        return Err(Missing(ROOT_NEEDED.to_owned()));
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.lines().find(|line| line.contains(NOT_BUILT_IN)) {
        Some(line) => Err(Missing(line.to_owned())),
        None => Ok(output),
    }
}

fn check(holds: bool, what: &str, output: &Output) -> Result<(), Failed> {
    if holds {
        return Ok(());
    }
    let (out, err) = (&output.stdout, &output.stderr);
    let [out, err] = [out, err].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("{what}: {}\n{out}{err}", output.status).into())
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

fn the_last_line_is_a_document() -> Result<Result<(), Failed>, Missing> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("result.json");
    let output = run(&format!("{QUICK} --live 3 --json {}", file.display()))?;
    Ok(adds_up(&output, &file))
}

/// Whether `shown` is `exact` to three decimals, and as exactly as binary numbers can say it: 71 ÷
/// 80 lies in the middle between two, and the upper one is a little more than half a thousandth
/// away.
fn is_rounded(shown: f64, exact: f64) -> bool {
    (shown - exact).abs() <= 0.0005 + 1e-12
}

fn adds_up(output: &Output, file: &Path) -> Result<(), Failed> {
    check(output.status.success(), "it does not end well", output)?;
    let line = last_line(output);
    check(fs::read_to_string(file)? == format!("{line}\n"), "file and last line differ", output)?;
    let json: Value = serde_json::from_str(&line)?;
    let figure = |value: &Value| value.as_f64().ok_or_else(|| format!("{value} is no number"));
    let (ns, yardstick) = (figure(&json["ns"])?, figure(&json["yardstick_ns"])?);
    let ratio = figure(&json["ratio_to_yardstick"])?;
    check(is_rounded(ratio, ns / yardstick), "ratio is not ns ÷ yardstick_ns", output)?;
    let [fastest, other, ratio] =
        ["min_ns", "yardstick_min_ns", "min_ratio_to_yardstick"].map(|key| figure(&json[key]));
    check(is_rounded(ratio?, fastest? / other?), "ratio of the fastest", output)?;
    for key in ["kernel", "cpu", "commit", "command", "tool"] {
        check(json[key].as_str().is_some_and(|text| !text.is_empty()), key, output)?;
    }
    check(json["asked"]["live"] == 3 && json["rounds"] == 5, "not what was asked", output)?;
    let paths = json["paths"].as_array().ok_or("no paths")?;
    let names: Vec<_> = paths.iter().filter_map(|path| path["path"].as_str()).collect();
    let expected = [
        "ipv4_client_to_peer",
        "ipv4_peer_to_client",
        "ipv6_client_to_peer",
        "ipv6_peer_to_client",
        "ipv4_to_ipv6_client_to_peer",
        "ipv4_to_ipv6_peer_to_client",
        "ipv6_to_ipv4_client_to_peer",
        "ipv6_to_ipv4_peer_to_client",
        "ipv4_hairpin",
        "ipv4_vlan_client_to_peer",
        "ipv4_vlan_peer_to_client",
        "ipv4_padded_client_to_peer",
        "ipv4_send_indication",
        "ipv6_send_indication",
        "ipv4_data_indication",
        "ipv6_data_indication",
        "ipv4_binding_answered",
        "ipv6_binding_answered",
        "pass_stun",
        "pass_no_route",
        "pass_expired",
        "pass_other_port",
        "pass_tcp",
    ];
    check(names == expected, "paths are missing", output)?;
    let empty = figure(&json["empty_ns"])?;
    for path in paths {
        let (ns, net) = (figure(&path["ns"])?, figure(&path["net_ns"])?);
        check((ns - net - empty).abs() < 0.11, "net is not ns less the empty program", output)?;
        let [p25, p75] = ["p25", "p75"].map(|key| figure(&path[key]));
        let ordered = [p25?, ns, p75?].is_sorted() && path["min"].is_f64();
        check(ordered, "quantiles are out of order", output)?;
    }
    for (key, figures) in [("ns", ns), ("yardstick_ns", yardstick)] {
        let both = (figure(&paths[0][key])? + figure(&paths[1][key])?) / 2.0;
        check((both - figures).abs() < 0.051, "not the mean of both directions", output)?;
    }
    Ok(())
}

/// Compiles a kernel program as `cargo xtask build` does.
fn compile(source: &str, directory: &Path) -> Result<PathBuf, Missing> {
    let (file, object) = (directory.join("source.bpf.c"), directory.join("object.o"));
    fs::write(&file, source).unwrap();
    for clang in ["clang-22", "clang"] {
        let mut command = Command::new(clang);
        command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"]);
        command.arg(format!("-I/usr/include/{ARCH}-linux-gnu"));
        command.arg("-c").arg(&file).arg("-o").arg(&object);
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                return Ok(object);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{clang}: {error}"),
        }
    }
    Err(Missing("no clang here to compile a faulty program with".to_owned()))
}

/// The tool gives no figures, fails with `code` and says `what`.
fn refused(output: &Output, code: i32, what: &str) -> Result<(), Failed> {
    let errors = String::from_utf8_lossy(&output.stderr);
    check(output.status.code() == Some(code), &format!("code {code} expected"), output)?;
    check(errors.contains(what), &format!("'{what}' expected"), output)?;
    check(output.stdout.is_empty(), "figures in spite of it", output)
}

fn impostors_are_refused() -> Result<Result<(), Failed>, Missing> {
    let directory = TempDir::new().unwrap();
    let impostor = compile(IMPOSTOR, directory.path())?;
    let all_miss = run(&format!("{QUICK} --object {}", impostor.display()))?;
    let not_ours = run(&format!("{QUICK} --yardstick {}", impostor.display()))?;
    let no_object = run(&format!("{QUICK} --object /proc/self/status"))?;
    Ok(refused(&all_miss, 1, "Turnpike's program gave XDP_PASS in place of XDP_TX")
        .and_then(|()| refused(&not_ours, 3, "(--yardstick?)"))
        .and_then(|()| refused(&no_object, 3, "(--object?)")))
}

/// A line of the yardstick's source, what a fault makes of it, and how it is found.
const FAULTS: &[(&str, &str, &str)] = &[
    // A route that leads nowhere.
    (".src = AT(start, src),", ".src = AT(start, src) + 1,", "gave XDP_PASS in place of XDP_TX"),
    ("count->packets += 1;", "count->packets += 2;", "counted 4000 of 2000 packets as client_to"),
    ("route->macs[2];", "route->macs[1];", "wrote another frame than it should have, from byte 9"),
    ("ttl_protocol_sum - 1)", "ttl_protocol_sum - 2)", "should have, from byte 22"),
    ("(__u16)~old + added", "(__u16)~old + added + 1", "should have, from byte 40"),
    ("| (__u32)channel_len << 16;", ";", "peer_to_client, the C yardstick wrote another frame"),
];

fn faults_are_found() -> Result<Result<(), Failed>, Missing> {
    let directory = TempDir::new().unwrap();
    for (line, fault, found) in FAULTS {
        assert_eq!(YARDSTICK.matches(line).count(), 1, "{line}");
        let object = compile(&YARDSTICK.replace(line, fault), directory.path())?;
        let output = run(&format!("{QUICK} --yardstick {}", object.display()))?;
        if let Err(failed) = refused(&output, 1, found) {
            return Ok(Err(failed));
        }
    }
    Ok(Ok(()))
}

fn a_signal_ends_it() -> Result<Result<(), Failed>, Missing> {
    let mut secs = 4;
    let output = loop {
        let output = interrupted_after(Duration::from_secs(secs))?;
        let too_early = String::from_utf8_lossy(&output.stderr).contains("no figures");
        // How long a round takes depends on what else this machine does.
        if !too_early || secs > 30 {
            break output;
        }
        secs *= 2;
    };
    let partial = || {
        check(output.status.code() == Some(130), "code 130 expected", &output)?;
        let json: Value = serde_json::from_str(&last_line(&output))?;
        let rounds = json["rounds"].as_u64().unwrap_or(0);
        let partial = json["ending"] == "interrupted" && (1..10_000).contains(&rounds);
        check(partial, "no partial figures", &output)
    };
    Ok(partial())
}

/// Starts a run that would take hours, and interrupts it.
fn interrupted_after(time: Duration) -> Result<Output, Missing> {
    let arguments = "--rounds 10000 --repeat 1000 --payload 64 --quiet --json";
    let child = tool(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(time);
    // It may have ended for lack of rights: the output tells.
    let _ = kill_process(Pid::from_child(&child), Signal::INT);
    possible(child.wait_with_output().unwrap())
}

fn without_root_it_says_so() -> Result<Result<(), Failed>, Missing> {
    let mut command = tool(QUICK);
    if geteuid().is_root() {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Missing("only root can reach this build's directory".to_owned()));
        }
        output => output.unwrap(),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if let Some(line) = errors.lines().find(|line| line.contains(NOT_BUILT_IN)) {
        return Err(Missing(line.to_owned()));
    }
    Ok(refused(&output, 3, ROOT_NEEDED))
}
