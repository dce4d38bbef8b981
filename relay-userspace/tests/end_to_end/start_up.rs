//! What keeps the relay from starting, or from XDP: each ends with a message that says what to do,
//! or with a fallback that is visible.

use std::net::UdpSocket;

use crate::Test;
use crate::clients::{Run, peer};
use crate::needs::Need::{Clients, Namespaces, Setpriv, Xdp};
use crate::relay::{Plan, Relay, Rig, refused};
use crate::relaying::IPV4;
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("a_port_that_another_process_has", &[Namespaces], occupied_port),
    ("a_second_turnpike", &[Namespaces], second_turnpike),
    ("an_interface_that_is_not_there", &[Namespaces], missing_interface),
    ("a_listening_address_that_is_not_ours", &[Namespaces], foreign_listener),
    ("a_relay_address_that_is_not_ours", &[Namespaces], foreign_relay),
    ("an_object_that_is_not_there", &[Namespaces], missing_object),
    ("an_object_that_is_none", &[Namespaces], broken_object),
    ("a_configuration_with_errors", &[Namespaces], broken_config),
    ("no_native_xdp_when_it_is_demanded", &[Namespaces, Xdp], bridge_native),
    ("no_native_xdp_falls_back_to_generic", &[Namespaces, Xdp], bridge_auto),
    ("no_privileges_when_xdp_is_demanded", &[Namespaces, Xdp, Setpriv], unprivileged_native),
    ("no_privileges_falls_back_to_userspace", &[Namespaces, Xdp, Setpriv, Clients], unprivileged),
];

const UNPRIVILEGED: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all";

/// Starts with `plan`, which must fail with all of `words` in the message.
fn expect(rig: &Rig, topology: &Topology, plan: &Plan, words: &[&str]) {
    let said = refused(rig, &topology.relay, plan);
    for word in words {
        assert!(said.contains(word), "\"{word}\" is not in: {said}");
    }
}

fn occupied_port(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let _occupant = topology.relay.within(|| UdpSocket::bind("10.77.1.1:3478")).unwrap();
    let words = ["10.77.1.1:3478", "another process has it", "ss -ulpn sport = :3478"];
    expect(rig, &topology, &Plan::two_armed("userspace"), &words);
}

fn second_turnpike(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan::two_armed("userspace");
    let mut relay = Relay::start(rig, &topology.relay, &plan);
    expect(rig, &topology, &plan, &["another process has it"]);
    assert!(relay.is_alive());
    assert_eq!(relay.get("/readyz").map(|(status, _)| status), Some(200));
}

fn missing_interface(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { interfaces: vec!["eth7"], ..Plan::two_armed("auto") };
    expect(rig, &topology, &plan, &["no interface eth7", "lo, ", "clients", "peers"]);
}

fn foreign_listener(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { listen: vec!["10.77.1.77:3478"], ..Plan::two_armed("userspace") };
    expect(rig, &topology, &plan, &["10.77.1.77:3478", "this machine does not have the address"]);
}

fn foreign_relay(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { addresses: vec!["10.77.2.77"], ..Plan::two_armed("userspace") };
    expect(rig, &topology, &plan, &["10.77.2.77", "this machine must have the address"]);
}

fn missing_object(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { object: Some("/no/such/object".into()), ..Plan::two_armed("native") };
    expect(rig, &topology, &plan, &["/no/such/object", "No such file", "mode = \"native\""]);
}

fn broken_object(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { object: Some("/proc/self/status".into()), ..Plan::two_armed("generic") };
    expect(rig, &topology, &plan, &["the XDP object", "mode = \"generic\""]);
}

fn broken_config(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { more: "relam = \"x\"", ..Plan::two_armed("userspace") };
    let words = ["turnpike.toml:2:1", "unknown key `relam`", "did you mean `realm`?"];
    expect(rig, &topology, &plan, &words);
}

/// A bridge has no XDP in its driver.
fn with_bridge() -> Topology {
    let topology = Topology::two_armed(None);
    topology.relay.ip("link add bridge type bridge");
    topology.relay.ip("address add 10.77.9.1/24 dev bridge");
    topology.relay.ip("link set bridge up");
    topology
}

fn on_bridge(mode: &'static str) -> Plan {
    Plan { listen: vec!["10.77.9.1:3478"], addresses: Vec::new(), ..Plan::two_armed(mode) }
}

fn bridge_native(rig: &Rig) {
    let topology = with_bridge();
    let words = ["bridge", "native", "the driver has no XDP in this mode", "\"auto\""];
    expect(rig, &topology, &on_bridge("native"), &words);
}

fn bridge_auto(rig: &Rig) {
    let topology = with_bridge();
    let relay = Relay::start(rig, &topology.relay, &on_bridge("auto"));
    let metrics = relay.metrics();
    for (mode, value) in [("native", 0), ("generic", 1), ("userspace", 0)] {
        let series = format!("turnpike_datapath_mode{{interface=\"bridge\",mode=\"{mode}\"}}");
        assert_eq!(metrics.value(&series), value, "{mode}");
    }
    let log = relay.log();
    assert!(log.contains("XDP mode not available") && log.contains("mode=\"generic\""), "{log}");
}

fn unprivileged_native(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { wrapper: UNPRIVILEGED, ..Plan::two_armed("native") };
    expect(rig, &topology, &plan, &["run as root", "CAP_BPF", "CAP_NET_ADMIN", "\"auto\""]);
}

fn unprivileged(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { wrapper: UNPRIVILEGED, ..Plan::two_armed("auto") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let _peer = peer(&topology.peer, IPV4.peer);
    Run { clients: 1, messages: 50, ..IPV4 }.pass(&topology.client);
    let metrics = relay.metrics();
    for interface in ["clients", "peers"] {
        let mode = format!("{{interface=\"{interface}\",mode=\"userspace\"}}");
        assert_eq!(metrics.value(&format!("turnpike_datapath_mode{mode}")), 1);
    }
    let log = relay.log();
    assert!(log.contains("falling back to relaying in userspace"), "{log}");
}
