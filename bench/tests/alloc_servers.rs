//! `relay-bench alloc` against Turnpike and coturn: what it counts is what the server counts, and
//! the memory it reports is the server's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::process::{Command, ExitCode};

use lab::{Coturn, Lab, Need, Setting, Test, Turnpike, tool};
use serde_json::Value;

const TESTS: &[Test] = &[
    (
        "turnpike_counts_the_same_requests",
        &[Need::Namespaces, Need::Turnpike],
        turnpike_counts_the_same,
    ),
    (
        "the_memory_of_kernel_maps_shows",
        &[Need::Namespaces, Need::Turnpike, Need::Xdp],
        kernel_maps_show,
    ),
    ("coturn_serves_every_phase", &[Need::Namespaces, Need::Coturn], coturn_serves),
    (
        "a_firewall_that_rejects_is_no_failure_of_this_host",
        &[Need::Namespaces, Need::Nft],
        rejected,
    ),
];

/// Allocations of a run.
const ALLOCATIONS: u64 = 400;

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// Runs it in the client's namespace against the process; what it wrote.
fn alloc(lab: &Lab, pid: u32, more: &str) -> Value {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("result.json");
    let mut command: Command = tool(&format!(
        "alloc turn:10.77.1.1 --user {} --password {} --allocations {ALLOCATIONS} --pid {pid} \
         --peer 10.77.2.2:9 --quiet {more}",
        lab::USER,
        lab::PASSWORD
    ));
    command.arg("--json").arg(&file);
    let output = lab.client.within(|| command.output()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
}

/// Every phase went well for every allocation, and nothing had to be sent again.
fn assert_clean(result: &Value) {
    assert_eq!(result["allocations_left"], 0, "{result}");
    for phase in result["phases"].as_array().unwrap() {
        assert_eq!(phase["succeeded"], ALLOCATIONS, "{phase}");
        assert_eq!(phase["retransmissions"], 0, "{phase}");
        assert!(phase["cpu_secs"].as_f64().unwrap() > 0.0, "{phase}");
    }
}

/// UDP sockets in the server's namespace: only the server opens them there.
fn assert_one_relayed_socket_each(result: &Value) {
    let sockets = |moment: &str| result["memory"]["udp_sockets"][moment].as_u64().unwrap();
    assert_eq!(sockets("allocated"), sockets("before") + ALLOCATIONS, "{result}");
}

fn turnpike_counts_the_same() {
    let lab = Lab::plain();
    let turnpike = Turnpike::start(&lab, Setting::of("userspace"));
    let result = alloc(&lab, turnpike.pid(), "--reuse-nonce");
    assert_clean(&result);
    assert_one_relayed_socket_each(&result);
    let metrics = turnpike.metrics();
    let counted = |code: &str, method: &str| {
        metrics.value(&format!("turnpike_requests_total{{code=\"{code}\",method=\"{method}\"}}"))
    };
    for (code, method, times) in [
        ("401", "allocate", 1),
        ("success", "allocate", 1),
        ("success", "create_permission", 1),
        ("success", "channel_bind", 1),
        // The Refresh and the deletion.
        ("success", "refresh", 2),
    ] {
        assert_eq!(counted(code, method), times * ALLOCATIONS, "{code} to {method}");
    }
}

fn kernel_maps_show() {
    let lab = Lab::for_xdp();
    let turnpike = Turnpike::start(&lab, Setting::of("native"));
    let result = alloc(&lab, turnpike.pid(), "");
    assert_clean(&result);
    let maps = result["memory"]["map_bytes"]["before"].as_u64().unwrap();
    assert!(maps > 1 << 20, "{maps} bytes of route tables");
}

fn coturn_serves() {
    let lab = Lab::plain();
    let coturn = Coturn::start(&lab);
    let result = alloc(&lab, coturn.pid(), "");
    assert_clean(&result);
    assert_one_relayed_socket_each(&result);
    assert_eq!(result["memory"]["map_bytes"]["before"], 0);
}

fn rejected() {
    // What a firewall before the server says, and what one on this host does to its own packets.
    for (place, hook, verdict) in [
        ("relay", "input", "reject with icmp type admin-prohibited"),
        ("relay", "input", "reject with icmp type net-prohibited"),
        ("relay", "input", "reject with icmp type prot-unreachable"),
        ("client", "output", "drop"),
    ] {
        let lab = Lab::plain();
        let namespace = if place == "relay" { &lab.relay } else { &lab.client };
        namespace.output(
            "nft",
            &format!(
                "add table ip f; add chain ip f c {{ type filter hook {hook} priority 0; }}; \
                 add rule ip f c udp dport 3478 {verdict}"
            ),
        );
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("result.json");
        let mut command: Command = tool(
            "alloc turn:10.77.1.1 --user a --password b --allocations 9 --peer 10.77.2.2:9 --quiet",
        );
        command.arg("--json").arg(&file);
        let output = lab.client.within(|| command.output()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{verdict}: {said}");
        assert!(said.contains("ICMP"), "{verdict}: {said}");
        let result: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(result["ending"], "refused", "{verdict}: {said}");
    }
}
