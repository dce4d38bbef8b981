//! The tool's figures against counters that are not its own: of the interfaces between client,
//! relay and peer, of the relay itself, and of a packet capture.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use lab::Need::{Coturn as CoturnHere, Namespaces, Tcpdump, Turnpike as TurnpikeHere, Xdp};
use lab::{
    Capture, Coturn, Interface, Lab, Metrics, PASSWORD, Process, Setting, Test, Turnpike, USER,
    tool,
};
use rustix::process::Signal;
use serde_json::Value;

const TESTS: &[Test] = &[
    ("userspace_relay", &[Namespaces, TurnpikeHere, Tcpdump], userspace),
    ("native_xdp_relay", &[Namespaces, Xdp, TurnpikeHere, Tcpdump], native),
    ("coturn", &[Namespaces, CoturnHere, Tcpdump], coturn),
];

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// Packets of a run: 10 allocations × 200 a second × 3 s.
const PACKETS: u64 = 6000;
/// Packets beside the load on a link in a direction: at most four requests for each allocation,
/// and some for finding neighbours.
const CONTROL_MAX: u64 = 10 * 4 + 12;

/// A run, and what others counted meanwhile.
struct Counted {
    report: Value,
    /// At the client's interface.
    client: Interface,
    /// At the peer's interface.
    peer: Interface,
    /// UDP packets with the size of the load's that the client's interface sent and received.
    captured: u64,
}

/// Puts the load on the relay that listens in the laboratory.
fn measure(lab: &Lab) -> Counted {
    let echo = tool("echo --listen 10.77.2.2:9000");
    let mut echo = Process::bare("the echo peer", &lab.peer, echo);
    echo.await_log("echo peer on", Duration::from_secs(10));
    let place = tempfile::tempdir().unwrap();
    let json = place.path().join("result.json");
    let mut load = tool(
        "load turn:10.77.1.1 --peer 10.77.2.2:9000 --allocations 10 --rate 200 --duration 3 \
         --payload 200 --max-loss 0 --quiet",
    );
    load.args(["--user", USER, "--password", PASSWORD, "--json"]).arg(&json);
    // 200 bytes of payload and 4 of ChannelData, under a UDP header: no request is that long.
    let capture = Capture::start(&lab.client, "eth0", "udp and udp[4:2] = 212");
    let read = || (Interface::read(&lab.client, "eth0"), Interface::read(&lab.peer, "eth0"));
    let before = read();
    let status = Process::bare("relay-bench load", &lab.client, load).wait(Duration::from_secs(60));
    let after = read();
    assert!(status.success(), "{status}");
    let captured = capture.finish();
    echo.end_by(Signal::INT, Duration::from_secs(10));
    let peer = format!("received {PACKETS}, echoed {PACKETS}, not taken by this host 0");
    assert!(echo.log().contains(&peer), "{}", echo.log());
    Counted {
        report: serde_json::from_slice(&fs::read(json).unwrap()).unwrap(),
        client: after.0.since(before.0),
        peer: after.1.since(before.1),
        captured,
    }
}

/// Asserts that a count is the load, exactly but for control packets.
fn agrees(what: &str, counted: u64, control_max: u64) {
    println!("{what}: {counted} for {PACKETS}");
    assert!(
        (PACKETS..=PACKETS + control_max).contains(&counted),
        "{what}: {counted}, the tool says {PACKETS}, and at most {control_max} are control packets"
    );
}

fn check(counted: &Counted) {
    for figure in ["sent", "delivered"] {
        assert_eq!(counted.report[figure].as_u64(), Some(PACKETS), "{}", counted.report);
    }
    agrees("sent by the client's interface", counted.client.sent, CONTROL_MAX);
    agrees("received by the client's interface", counted.client.received, CONTROL_MAX);
    agrees("received by the peer's interface", counted.peer.received, CONTROL_MAX);
    agrees("sent by the peer's interface", counted.peer.sent, CONTROL_MAX);
    assert_eq!(counted.captured, 2 * PACKETS, "captured at the client, both directions");
}

/// What the relay counted in both directions, by a path.
fn relayed(metrics: &Metrics, path: &str) -> [u64; 2] {
    ["client_to_peer", "peer_to_client"].map(|direction| metrics.relayed(path, direction))
}

fn userspace() {
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("userspace"));
    check(&measure(&lab));
    assert_eq!(relayed(&relay.metrics(), "userspace"), [PACKETS; 2]);
}

fn native() {
    let lab = Lab::for_xdp();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    check(&measure(&lab));
    let metrics = relay.metrics();
    let [out, back] = relayed(&metrics, "xdp");
    let [out_above, back_above] = relayed(&metrics, "userspace");
    assert_eq!([out + out_above, back + back_above], [PACKETS; 2]);
    assert!(out > PACKETS / 2 && back > PACKETS / 2, "XDP relayed {out} and {back}");
}

fn coturn() {
    let lab = Lab::plain();
    let _relay = Coturn::start(&lab);
    check(&measure(&lab));
}
