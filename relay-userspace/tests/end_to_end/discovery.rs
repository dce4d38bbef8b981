//! NAT behaviour discovery (RFC 5780), by coturn's client.

use crate::Test;
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("nat_discovery_by_native_xdp", &[Namespaces, Xdp, Clients], native),
    ("nat_discovery_by_userspace", &[Namespaces, Clients], userspace),
];

fn native(rig: &Rig) {
    discovers(rig, "native");
}

fn userspace(rig: &Rig) {
    discovers(rig, "userspace");
}

fn discovers(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref());
    let discovery =
        vec!["10.77.1.1:3478", "10.77.1.3:3479", "[fd77:1::1]:3478", "[fd77:1::3]:3479"];
    topology.relay.ip("address add fd77:1::3/64 dev clients nodad");
    let plan = Plan { discovery, ..Plan::two_armed(mode) };
    let _relay = Relay::start(rig, &topology.relay, &plan);
    let tests = [
        ("-m", "Endpoint Independent Mapping"),
        ("-f", "Endpoint Independent Filtering"),
        ("-m -P", "Endpoint Independent Mapping"),
        ("-f -P", "Endpoint Independent Filtering"),
    ];
    for server in ["10.77.1.1", "fd77:1::1"] {
        for (test, found) in tests {
            let said =
                topology.client.output("turnutils_natdiscovery", &format!("{test} {server}"));
            assert!(said.contains(found), "{test} {server}: {said}");
        }
    }
}
