//! Traffic goes through, and by the path that it should: third-party clients and peers on both
//! sides, nothing lost, and the relay's own counters as the witness.

use std::thread;

use relay_common::abi::{Direction, Reason};

use crate::Test;
use crate::clients::{Run, peer};
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Metrics, Plan, Relay, Rig};
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("native_ipv4_channel_data", &[Namespaces, Xdp, Clients], |rig| native(rig, &IPV4)),
    ("native_ipv6_channel_data", &[Namespaces, Xdp, Clients], |rig| native(rig, &IPV6)),
    ("native_ipv4_send_indications", &[Namespaces, Xdp, Clients], |rig| native(rig, &IPV4_SEND)),
    ("native_ipv6_send_indications", &[Namespaces, Xdp, Clients], |rig| native(rig, &IPV6_SEND)),
    ("userspace_ipv4_channel_data", &[Namespaces, Clients], |rig| userspace(rig, &IPV4)),
    ("userspace_ipv6_channel_data", &[Namespaces, Clients], |rig| userspace(rig, &IPV6)),
    ("userspace_ipv4_send_indications", &[Namespaces, Clients], |rig| userspace(rig, &IPV4_SEND)),
    ("userspace_ipv6_send_indications", &[Namespaces, Clients], |rig| userspace(rig, &IPV6_SEND)),
    ("generic_ipv4_channel_data", &[Namespaces, Xdp, Clients], generic),
    ("behind_a_router_native_channel_data", &[Namespaces, Xdp, Clients], behind_a_router),
    ("several_addresses_native_channel_data", &[Namespaces, Xdp, Clients], several_addresses),
    ("port_pairs_on_one_shard", &[Namespaces, Xdp, Clients], |rig| port_pairs(rig, 1)),
    ("port_pairs_on_two_shards", &[Namespaces, Xdp, Clients], |rig| port_pairs(rig, 2)),
    ("second_secret_of_time_limited_credentials", &[Namespaces, Clients], second_secret),
    ("native_ipv4_client_ipv6_peer", &[Namespaces, Xdp, Clients], |rig| native(rig, &V4_TO_V6)),
    ("native_ipv6_client_ipv4_peer", &[Namespaces, Xdp, Clients], |rig| native(rig, &V6_TO_V4)),
    ("relay_to_relay", &[Namespaces, Xdp, Clients], relay_to_relay),
];

/// ChannelData both ways.
pub(crate) const IPV4: Run =
    Run { server: "10.77.1.1", peer: "10.77.2.2", options: "-c", clients: 4, messages: 200 };
const IPV6: Run = Run { server: "fd77:1::1", peer: "fd77:2::2", options: "-c -x", ..IPV4 };
/// Send indications to the peer, Data indications back.
const IPV4_SEND: Run = Run { options: "-c -s", messages: 100, ..IPV4 };
const IPV6_SEND: Run = Run { options: "-c -x -s", messages: 100, ..IPV6 };

/// Crossings: the relayed address is not of the client's family.
const V4_TO_V6: Run = Run { peer: "fd77:2::2", options: "-c -x", ..IPV4 };
const V6_TO_V4: Run = Run { peer: "10.77.2.2", options: "-c -X", ..IPV6 };

/// By which path packets are expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Xdp,
    Userspace,
}

/// Asserts that at least `count` packets went each way, and 99 % of all of them by `path`.
fn check(metrics: &Metrics, path: Path, count: u64) {
    for direction in Direction::ALL {
        let (xdp, userspace) = metrics.relayed(direction);
        let by_path = match path {
            Path::Xdp => xdp,
            Path::Userspace => userspace,
        };
        let sum = xdp + userspace;
        let shown = format!("{direction:?}: {xdp} by XDP, {userspace} by userspace, {path:?}");
        assert!(sum >= count, "{shown}: fewer than {count}");
        assert!(by_path * 100 >= sum * 99, "{shown}: less than 99 %\n{}", metrics.0);
    }
}

fn mode_of(metrics: &Metrics, interface: &str, mode: &str) -> u64 {
    metrics.value(&format!("turnpike_datapath_mode{{interface=\"{interface}\",mode=\"{mode}\"}}"))
}

fn two_armed(rig: &Rig, mode: &'static str, run: &Run, path: Path) {
    let metrics = run_two_armed(rig, mode, run);
    check(&metrics, path, run.total());
}

/// The counters after the run, in the mode that was asked for.
fn run_two_armed(rig: &Rig, mode: &'static str, run: &Run) -> Metrics {
    let object = rig.object.as_deref().filter(|_| mode != "userspace");
    let topology = Topology::two_armed(object);
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    let _peer = peer(&topology.peer, run.peer);
    run.pass(&topology.client);
    let metrics = relay.metrics();
    for interface in ["clients", "peers"] {
        assert_eq!(mode_of(&metrics, interface, mode), 1, "{interface}\n{}", metrics.0);
    }
    metrics
}

fn native(rig: &Rig, run: &Run) {
    if !run.options.contains("-s") {
        return two_armed(rig, "native", run, Path::Xdp);
    }
    // coturn's client puts the peer behind the data: such a Send indication is userspace's.
    let metrics = run_two_armed(rig, "native", run);
    let (xdp, userspace) = metrics.relayed(Direction::PeerToClient);
    assert!(xdp + userspace >= run.total(), "{xdp} by XDP, {userspace} by userspace");
    assert!(xdp * 100 >= run.total() * 99, "{xdp} by XDP\n{}", metrics.0);
}

fn userspace(rig: &Rig, run: &Run) {
    two_armed(rig, "userspace", run, Path::Userspace);
}

fn generic(rig: &Rig) {
    two_armed(rig, "generic", &Run { messages: 100, ..IPV4 }, Path::Xdp);
}

/// Both families at once: every packet leaves by the interface that it came by, to the MAC
/// address of the router.
fn behind_a_router(rig: &Rig) {
    let topology = Topology::behind_router(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::behind_router("native"));
    let _peers = ["10.77.2.2", "fd77:2::2"].map(|ip| peer(&topology.peer, ip));
    let runs = [Run { server: "10.77.3.1", ..IPV4 }, Run { server: "fd77:3::1", ..IPV6 }];
    all(&topology, &runs);
    check(&relay.metrics(), Path::Xdp, 2 * IPV4.total());
}

fn several_addresses(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan {
        listen: vec!["10.77.1.1:3478", "10.77.1.3:3478"],
        addresses: vec!["10.77.2.1", "10.77.2.3"],
        ..Plan::two_armed("auto")
    };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let _peer = peer(&topology.peer, IPV4.peer);
    let runs = ["10.77.1.1", "10.77.1.3"].map(|server| Run { server, messages: 100, ..IPV4 });
    all(&topology, &runs);
    let metrics = relay.metrics();
    check(&metrics, Path::Xdp, 2 * runs[0].total());
    assert_eq!(mode_of(&metrics, "peers", "native"), 1, "what \"auto\" finds on this link");
    // The client abandons allocations; their sockets show where relayed addresses were opened.
    let sockets = topology.relay.output("ss", "-Huan");
    for address in ["10.77.2.1:50", "10.77.2.3:50"] {
        assert!(sockets.contains(address), "nothing on {address}\n{sockets}");
    }
}

/// Without `-c` the client makes pairs: EVEN-PORT with the R bit, then RESERVATION-TOKEN from
/// another port. With many clients, the two of some pair arrive at different shards.
fn port_pairs(rig: &Rig, shards: u32) {
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan { shards, ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let _peer = peer(&topology.peer, IPV4.peer);
    let run = Run { options: "", clients: 16, messages: 25, ..IPV4 };
    run.pass(&topology.client);
    let metrics = relay.metrics();
    check(&metrics, Path::Xdp, run.total());
    let refused: Vec<&str> = metrics
        .0
        .lines()
        .filter(|line| line.starts_with("turnpike_requests_total{code=\""))
        .filter(|line| !line.contains("success") && !line.contains("401") && !line.ends_with(" 0"))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

fn second_secret(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("userspace"));
    let _peer = peer(&topology.peer, IPV4.peer);
    let run = Run { options: "-c -W south", clients: 1, messages: 50, ..IPV4 };
    run.pass(&topology.client);
    check(&relay.metrics(), Path::Userspace, run.total());
}

/// The peers are relayed transport addresses of the relay itself.
fn relay_to_relay(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let run = Run { options: "-c -y", peer: "", messages: 100, ..IPV4 };
    run.pass(&topology.client);
    let metrics = relay.metrics();
    let hairpins = metrics.verdicts(Reason::Hairpin);
    assert!(hairpins * 100 >= run.total() * 99, "{hairpins} hairpins\n{}", metrics.0);
}

/// Runs at the same time.
fn all(topology: &Topology, runs: &[Run]) {
    thread::scope(|scope| {
        for run in runs {
            scope.spawn(|| run.pass(&topology.client));
        }
    });
}
