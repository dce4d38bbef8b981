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
    topology.client.ip("address add fd77:1::9/64 dev eth0 nodad");
    let plan = Plan { discovery, ..Plan::two_armed(mode) };
    let _relay = Relay::start(rig, &topology.relay, &plan);
    for (server, own, other) in
        [("10.77.1.1", "10.77.1.2", "10.77.1.9"), ("fd77:1::1", "fd77:1::2", "fd77:1::9")]
    {
        let collision = format!("-c -A {other}");
        let seen_as = format!("UDP reflexive addr: {other}:");
        let tests = [
            ("-m", "NAT with Endpoint Independent Mapping!"),
            ("-f", "NAT with Endpoint Independent Filtering!"),
            ("-m -P", "NAT with Endpoint Independent Mapping!"),
            ("-f -P", "NAT with Endpoint Independent Filtering!"),
            ("-l 41001 -m -f", "NAT with Endpoint Independent Filtering!"),
            // The same port behind another address is not taken for the same.
            (&*collision, &*seen_as),
            // Its own request came to its reflexive address.
            ("-H", "maybe a successful hairpinning"),
            ("-H -P", "maybe a successful hairpinning"),
            // RESPONSE-PORT, a second later.
            ("-t -T 1", "RFC 5780 response 2"),
        ];
        for (test, found) in tests {
            let words = format!("{test} -L {own} {server}");
            let said = topology.client.output("turnutils_natdiscovery", &words);
            assert!(said.contains(found), "{words}: {said}");
            assert!(said.contains("No ALG: Mapped == XOR-Mapped"), "{words}: {said}");
        }
        for options in ["", "-f "] {
            let words = format!("{options}-L {own} {server}");
            let said = topology.client.output("turnutils_stunclient", &words);
            for response in 1..=3 {
                assert!(said.contains(&format!("RFC 5780 response {response}")), "{words}: {said}");
            }
            assert!(said.matches(&format!("reflexive addr: {own}:")).count() == 3, "{said}");
        }
    }
    // From an alternate address and port, everything is the other way round.
    let said = topology.client.output("turnutils_stunclient", "-p 3479 10.77.1.3");
    assert!(said.contains("Other addr: : 10.77.1.1:3478"), "{said}");
}
