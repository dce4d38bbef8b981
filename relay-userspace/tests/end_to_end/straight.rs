//! The places of straight routes: channels are in them, find their way without, and leave them.

use std::net::SocketAddr;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::data_plane::{PEER, V4, V6, warmed_up};
use crate::needs::Need::{Namespaces, Xdp};
use crate::pins::BpfFs;
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("channels_have_places_ipv4", &[Namespaces, Xdp], |rig| places(rig, V4, PEER, 4)),
    ("channels_have_places_ipv6", &[Namespaces, Xdp], |rig| places(rig, V6, PEER_V6, 6)),
    ("a_crossing_has_no_place", &[Namespaces, Xdp], crossing),
];

const PEER_V6: &str = "[fd77:2::2]:4000";
const CLIENTS: usize = 9;
const ROUNDS: usize = 5;
const BUSY_MAX: Duration = Duration::from_secs(20);
/// For what is sent and must not come.
const SOON: Duration = Duration::from_millis(300);

fn plan(bpf_fs: &BpfFs) -> Plan {
    Plan { pin: Some(bpf_fs.directory()), shards: 2, ..Plan::two_armed("native") }
}

/// Every client's data comes back, and all of it went by XDP.
fn exchange(relay: &Relay<'_>, clients: &[Client]) {
    let relayed = || Direction::ALL.map(|way| relay.metrics().relayed(way));
    let before = relayed();
    for round in 0..ROUNDS {
        for client in clients {
            let data = vec![7; 30 + round];
            client.send(&data);
            assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(data)));
        }
    }
    let sent = (clients.len() * ROUNDS) as u64;
    for (before, after) in before.into_iter().zip(relayed()) {
        assert_eq!((after.0 - before.0, after.1 - before.1), (sent, 0), "by XDP, by userspace");
    }
}

fn places(rig: &Rig, (from, server): (&str, &str), peer: &str, family: u8) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let relay = Relay::start(rig, &topology.relay, &plan(&bpf_fs));
    let peer: SocketAddr = peer.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut client = Client::allocate(&topology.client, from, server);
                client.bind(peer);
                client
            })
            .collect();
        // One in many thousands would find both its places taken.
        assert_eq!(bpf_fs.straight(family), 2 * CLIENTS);
        wait::until("next hops are resolved", BUSY_MAX, || {
            clients[0].send(b"?");
            let _ = clients[0].hear(SOON);
            let metrics = relay.metrics();
            (metrics.value("turnpike_next_hops{state=\"resolved\"}") == 2).then_some(())
        });
        clients[0].ignore_the_rest();
        exchange(&relay, &clients);

        // A channel that is bound again stays; one whose place others took is found elsewhere.
        clients.iter_mut().for_each(|client| client.bind(peer));
        assert_eq!(bpf_fs.straight(family), 2 * CLIENTS);
        exchange(&relay, &clients);
        bpf_fs.crowd(family);
        exchange(&relay, &clients);
        bpf_fs.empty(family);
        exchange(&relay, &clients);
        clients.iter_mut().for_each(|client| client.bind(peer));
        assert_eq!(bpf_fs.straight(family), 2 * CLIENTS);

        for left in (0..CLIENTS).rev() {
            clients[left].end();
            assert_eq!(bpf_fs.straight(family), 2 * left);
        }
        let relayed = || {
            let reasons = [Reason::ClientToPeer, Reason::PeerToClient];
            reasons.map(|reason| bpf_fs.packets(reason))
        };
        let before = relayed();
        for client in &clients {
            client.send(b"to nobody");
        }
        assert_eq!(clients[0].hear(SOON), None);
        assert_eq!(relayed(), before, "relayed for allocations that are no more");
    });
}

/// Routes that change the family are where all routes are, and only there.
fn crossing(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let relay = Relay::start(rig, &topology.relay, &plan(&bpf_fs));
    let peer: SocketAddr = PEER.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        let mut client = Client::allocate_of(Family::V4, &topology.client, V6.0, V6.1);
        client.bind(peer);
        drop(warmed_up(&relay, &topology, |other| other.bind(peer)));
        assert_eq!((bpf_fs.straight(4), bpf_fs.straight(6)), (2, 0), "the other's");
        exchange(&relay, &[client]);
    });
}
