//! The tool's figures against counters that are not its own: of the interfaces between client,
//! relay and peer, of the relay itself, and of a packet capture.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use lab::Need::{
    Coturn as CoturnHere, Loss as LossHere, Namespaces, Tcpdump, Turnpike as TurnpikeHere, Xdp,
};
use lab::{
    Capture, Coturn, Interface, Lab, Loss, Metrics, PASSWORD, Process, Setting, Test, Turnpike,
    USER, tool,
};
use rustix::process::Signal;
use serde_json::Value;

const TESTS: &[Test] = &[
    ("userspace_relay", &[Namespaces, TurnpikeHere, Tcpdump], userspace),
    ("native_xdp_relay", &[Namespaces, Xdp, TurnpikeHere, Tcpdump], native),
    ("coturn", &[Namespaces, CoturnHere, Tcpdump], coturn),
    ("a_known_loss", &[Namespaces, Xdp, TurnpikeHere, Tcpdump, LossHere], known_loss),
    ("sink_and_userspace_relay", &[Namespaces, TurnpikeHere, Tcpdump], sink_userspace),
    ("sink_and_native_xdp_relay", &[Namespaces, Xdp, TurnpikeHere, Tcpdump], sink_native),
];

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// Packets of a run: 10 allocations × 200 a second × 3 s.
const PACKETS: u64 = 6000;
/// Bytes of application data in each.
const PAYLOAD_BYTES: u64 = 200;
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
    /// ChannelData with the load's payload that passed the client's interface, both ways.
    captured: u64,
}

impl Counted {
    fn figure(&self, name: &str) -> u64 {
        self.report[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.report))
    }
}

/// Puts the load on the relay that listens in the laboratory.
fn measure(lab: &Lab, peer: &str) -> Counted {
    let place = tempfile::tempdir().unwrap();
    let json = place.path().join("result.json");
    let mut load = tool(
        "load turn:10.77.1.1 --allocations 10 --rate 200 --duration 3 --payload 200 --drain 500 \
         --quiet",
    );
    load.args(peer.split(' ')).args(["--user", USER, "--password", PASSWORD]);
    load.arg("--json").arg(&json);
    // 200 bytes of payload and 4 of ChannelData, under a UDP header: no request is that long.
    let capture = Capture::start(&lab.client, "eth0", "udp and udp[4:2] = 212");
    let read = || (Interface::read(&lab.client, "eth0"), Interface::read(&lab.peer, "eth0"));
    let before = read();
    let status = Process::bare("relay-bench load", &lab.client, load).wait(Duration::from_secs(60));
    let after = read();
    assert!(status.success(), "{status}");
    Counted {
        report: serde_json::from_slice(&fs::read(json).unwrap()).unwrap(),
        client: after.0.since(before.0),
        peer: after.1.since(before.1),
        captured: capture.finish(),
    }
}

/// As [`measure`], with an echo peer in the peer's namespace, which received so many packets.
fn measure_echo(lab: &Lab, reach_the_peer: u64) -> Counted {
    let echo = tool("echo --listen 10.77.2.2:9000");
    let mut echo = Process::bare("the echo peer", &lab.peer, echo);
    echo.await_log("echo peer on", Duration::from_secs(10));
    let counted = measure(lab, "--peer 10.77.2.2:9000");
    echo.end_by(Signal::INT, Duration::from_secs(10));
    let said =
        format!("received {reach_the_peer}, echoed {reach_the_peer}, not taken by this host 0");
    assert!(echo.log().contains(&said), "{}", echo.log());
    counted
}

/// Asserts that a count is what the tool says, exactly but for control packets.
fn agrees(what: &str, counted: u64, said: u64) {
    println!("{what}: {counted}, the tool says {said}");
    assert!(
        (said..=said + CONTROL_MAX).contains(&counted),
        "{what}: {counted}, the tool says {said}, and at most {CONTROL_MAX} are control packets"
    );
}

/// Nothing is lost, and everybody counts the same.
fn check_echo(lab: &Lab) {
    let counted = measure_echo(lab, PACKETS);
    assert_eq!((counted.figure("sent"), counted.figure("delivered")), (PACKETS, PACKETS));
    agrees("sent by the client's interface", counted.client.sent, PACKETS);
    agrees("received by the client's interface", counted.client.received, PACKETS);
    agrees("received by the peer's interface", counted.peer.received, PACKETS);
    agrees("sent by the peer's interface", counted.peer.sent, PACKETS);
    assert_eq!(counted.captured, 2 * PACKETS, "captured at the client, both directions");
}

/// Packets that the relay counted from client to peer and back, by both paths.
fn relayed(metrics: &Metrics) -> [u64; 2] {
    ["client_to_peer", "peer_to_client"].map(|direction| {
        let both = |count: fn(&Metrics, &str, &str) -> u64| {
            count(metrics, "xdp", direction) + count(metrics, "userspace", direction)
        };
        let packets = both(Metrics::relayed);
        assert_eq!(both(Metrics::relayed_bytes), packets * PAYLOAD_BYTES, "{direction}");
        packets
    })
}

fn userspace() {
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("userspace"));
    check_echo(&lab);
    assert_eq!(relayed(&relay.metrics()), [PACKETS; 2]);
}

fn native() {
    let lab = Lab::for_xdp();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    check_echo(&lab);
    let metrics = relay.metrics();
    assert_eq!(relayed(&metrics), [PACKETS; 2]);
    assert!(metrics.relayed("xdp", "client_to_peer") > PACKETS * 9 / 10, "{}", metrics.0);
}

fn coturn() {
    let lab = Lab::plain();
    let _relay = Coturn::start(&lab);
    check_echo(&lab);
}

/// Every fiftieth packet does not reach the peer, and the kernel counts which.
fn known_loss() {
    let lab = Lab::for_xdp();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    let loss = Loss::start(&lab.peer, 200, 50).unwrap();
    let dropped = PACKETS / 50;
    let counted = measure_echo(&lab, PACKETS - dropped);
    assert_eq!(loss.dropped(), dropped);
    assert_eq!((counted.figure("sent"), counted.figure("lost")), (PACKETS, dropped));
    assert_eq!(counted.figure("delivered"), PACKETS - dropped);
    assert_eq!(relayed(&relay.metrics()), [PACKETS, PACKETS - dropped]);
    agrees("received by the peer's interface", counted.peer.received, PACKETS);
    agrees("received by the client's interface", counted.client.received, PACKETS - dropped);
    assert_eq!(counted.captured, 2 * PACKETS - dropped);
}

/// The peer is an address of the client's host: what the relay relays goes out where it came in.
fn check_sink(lab: &Lab, relay: &Turnpike<'_>) {
    let counted = measure(lab, "--peer-bind 10.77.1.2 --peer-mode sink");
    assert_eq!((counted.figure("sent"), counted.figure("delivered")), (PACKETS, PACKETS));
    agrees("sent by the client's interface", counted.client.sent, PACKETS);
    agrees("received by the client's interface", counted.client.received, PACKETS);
    assert_eq!(counted.captured, PACKETS, "the way back has no ChannelData");
    assert_eq!(relayed(&relay.metrics()), [PACKETS, 0]);
}

fn sink_userspace() {
    let lab = Lab::plain();
    check_sink(&lab, &Turnpike::start(&lab, Setting::of("userspace")));
}

fn sink_native() {
    let lab = Lab::for_xdp();
    check_sink(&lab, &Turnpike::start(&lab, Setting::of("native")));
}
