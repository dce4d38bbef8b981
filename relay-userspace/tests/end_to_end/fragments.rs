//! Datagrams that are larger than a packet: XDP passes their fragments, the kernel reassembles
//! them, userspace relays them, and they leave as fragments again. So does a packet that is too
//! large for the link that it leaves by.

use std::time::Duration;

use relay_common::abi::Direction;

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("fragments_both_ways_by_userspace", &[Namespaces], |rig| both_ways(rig, "userspace")),
    ("fragments_both_ways_beside_native_xdp", &[Namespaces, Xdp], |rig| both_ways(rig, "native")),
    ("too_big_for_the_link_to_the_peer", &[Namespaces, Xdp], |rig| small_link(rig, Arm::Peers)),
    ("too_big_for_the_link_to_the_client", &[Namespaces, Xdp], |rig| small_link(rig, Arm::Clients)),
];

const FAMILIES: [(&str, &str, &str); 2] = [
    ("10.77.1.2:0", "10.77.1.1:3478", "10.77.2.2:7000"),
    ("[fd77:1::2]:0", "[fd77:1::1]:3478", "[fd77:2::2]:7000"),
];
/// Three packets of 1500 bytes.
const BYTES: usize = 3000;
const COUNT: u64 = 5;

/// A side of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arm {
    Clients,
    Peers,
}

/// XDP passes what is too big for its next hop, and userspace makes fragments of it.
fn small_link(rig: &Rig, arm: Arm) {
    let topology = Topology::two_armed(Some(rig.object()));
    let (far, here) = match arm {
        Arm::Clients => (&topology.client, "clients"),
        Arm::Peers => (&topology.peer, "peers"),
    };
    far.ip("link set eth0 mtu 1300");
    topology.relay.ip(&format!("link set {here} mtu 1300"));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    for (from, server, peer) in FAMILIES {
        let peer = peer.parse().unwrap();
        let mut client = Client::allocate(&topology.client, from, server);
        client.bind(peer);
        let too_big = || relay.metrics().value("turnpike_xdp_verdicts_total{reason=\"too_big\"}");
        let before = too_big();
        with_echo(&topology.peer, peer, || {
            wait::until("XDP finds a packet too big", Duration::from_secs(30), || {
                client.send(&[9; 1400]);
                let heard = client.hear(Duration::from_secs(5));
                assert!(heard == Some(Heard::Data(vec![9; 1400])), "{peer}: {heard:?}");
                (too_big() > before).then_some(())
            });
        });
    }
}

fn both_ways(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode != "userspace"));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    for (from, server, peer) in FAMILIES {
        let peer = peer.parse().unwrap();
        let before = relay.metrics();
        with_echo(&topology.peer, peer, || {
            let mut client = Client::allocate(&topology.client, from, server);
            client.bind(peer);
            for number in 0..COUNT {
                let data: Vec<u8> = (number..).map(|n| n.to_be_bytes()[7]).take(BYTES).collect();
                let whole = Some(Heard::Data(data.clone()));
                wait::until("the datagram is back, whole", Duration::from_secs(20), || {
                    client.send(&data);
                    // An earlier one may come late, twice.
                    (client.hear(Duration::from_secs(1)) == whole).then_some(())
                });
            }
        });
        let after = relay.metrics();
        for direction in Direction::ALL {
            let (xdp, userspace) = after.relayed(direction);
            assert!(userspace >= before.relayed(direction).1 + COUNT, "{}", after.0);
            assert_eq!(xdp, before.relayed(direction).0, "{}", after.0);
        }
        let fragments = "turnpike_xdp_verdicts_total{reason=\"fragment\"}";
        // IPv6 fragments have an extension header: they are no UDP to the program.
        let seen = after.value(fragments) - before.value(fragments);
        assert!(mode == "userspace" || peer.is_ipv6() || seen >= 6 * COUNT, "{}", after.0);
    }
}
