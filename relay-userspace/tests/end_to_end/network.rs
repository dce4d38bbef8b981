//! The network changes under traffic: the kernel's next hops follow, and what cannot leave by XDP
//! any more goes up, not out. The routers' and the peer's own counters are the witnesses.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};

use crate::Test;
use crate::clients::{Run, Running, peer};
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::relaying::IPV4;
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("gateway_change_under_traffic", &[Namespaces, Xdp, Clients], gateway_change),
    ("next_hop_object_change_under_traffic", &[Namespaces, Xdp, Clients], next_hop_object),
    ("neighbour_change_under_traffic", &[Namespaces, Xdp, Clients], neighbour_change),
    ("link_down_and_up_under_traffic", &[Namespaces, Xdp, Clients], link_down_and_up),
    ("mtu_change_under_traffic", &[Namespaces, Xdp, Clients], mtu_change),
    ("path_mtu_change_under_traffic", &[Namespaces, Xdp, Clients], path_mtu_change),
];

/// The relay follows within a second; the rest is for a busy machine.
const FOLLOWED: Duration = Duration::from_secs(3);
/// For what other parts of the system take: address resolution, the client's start.
const SOON: Duration = Duration::from_secs(20);
/// Between two looks at a counter. The clients send some 160 packets meanwhile.
const LOOK: Duration = Duration::from_millis(200);
/// What the clients send in about a second.
const SECOND_OF_PACKETS: u64 = 1000;

/// A relay with two ways to its peer, and traffic through it.
struct Scene<'t> {
    topology: &'t Topology,
    relay: Relay<'t>,
    _running: (Running, Running),
}

impl<'t> Scene<'t> {
    fn start(rig: &Rig, topology: &'t Topology, run: &Run) -> Self {
        let plan = Plan {
            listen: vec!["10.77.1.1:3478"],
            addresses: vec!["10.77.1.1"],
            interfaces: vec!["clients", "way-a", "way-b"],
            ..Plan::two_armed("native")
        };
        let relay = Relay::start(rig, &topology.relay, &plan);
        let peer = peer(&topology.peer, IPV4.peer);
        let clients = Run { messages: 100_000, ..run.clone() }.start(&topology.client);
        let scene = Self { topology, relay, _running: (peer, clients) };
        scene.until_relayed();
        scene
    }

    /// Packets that XDP sent towards the peer.
    fn sent(&self) -> u64 {
        self.relay.metrics().relayed(Direction::ClientToPeer).0
    }

    fn verdicts(&self, reason: Reason) -> u64 {
        let reason = reason.name();
        self.relay.metrics().value(&format!("turnpike_xdp_verdicts_total{{reason=\"{reason}\"}}"))
    }

    /// Datagrams that the peer received.
    fn received(&self) -> u64 {
        self.topology.peer.counter("Udp", "InDatagrams")
    }

    /// Packets that a router forwarded. The first one lies only on the way to the peer.
    fn forwarded(&self, router: usize) -> u64 {
        self.topology.routers[router].counter("Ip", "ForwDatagrams")
    }

    /// Waits until XDP sends, and what it sends arrives.
    fn until_relayed(&self) {
        wait::until("packets are relayed by XDP, and arrive", SOON, || {
            let (sent, received) = (self.sent(), self.received());
            thread::sleep(LOOK);
            let (sent, received) = (self.sent() - sent, self.received() - received);
            (sent > 20 && received * 10 >= sent * 9).then_some(())
        });
    }

    /// Waits until a counter stands still, and makes sure that it does.
    fn until_still(&self, what: &str, counter: impl Fn() -> u64) {
        wait::until(what, FOLLOWED, || {
            let before = counter();
            thread::sleep(LOOK);
            (counter() == before).then_some(())
        });
        let before = counter();
        thread::sleep(5 * LOOK);
        assert_eq!(counter(), before, "{what}: and then again not");
    }

    /// Waits until packets go up for a reason, and none goes out by XDP.
    fn until_up(&self, reason: Reason) {
        let before = self.verdicts(reason);
        wait::until("packets go up", FOLLOWED, || {
            (self.verdicts(reason) > before + 20).then_some(())
        });
        self.until_still("nothing goes out by XDP", || self.sent());
    }
}

fn gateway_change(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    let scene = Scene::start(rig, &topology, &IPV4);
    changes_gateway(&scene, &topology.relay, "route replace 10.77.2.0/24 via 10.77.5.2");
}

/// The route stays, and names another next hop without being touched.
fn next_hop_object(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    topology.relay.ip("nexthop add id 7 via 10.77.4.2 dev way-a");
    topology.relay.ip("route replace 10.77.2.0/24 nhid 7");
    let scene = Scene::start(rig, &topology, &IPV4);
    // Without this the kernel also announces a route, as it did before there were such objects.
    topology.relay.set("ipv4/nexthop_compat_mode", "0");
    changes_gateway(&scene, &topology.relay, "nexthop replace id 7 via 10.77.5.2 dev way-b");
}

/// From the first router to the second: nothing goes to the first any more, and little is lost.
fn changes_gateway(scene: &Scene<'_>, relay: &Namespace, change: &str) {
    let total = || {
        let (xdp, userspace) = scene.relay.metrics().relayed(Direction::ClientToPeer);
        xdp + userspace
    };
    assert!(scene.forwarded(0) > 0, "by the first router");
    let (relayed, received) = (total(), scene.received());
    relay.ip(change);
    scene.until_still("nothing goes to the old gateway", || scene.forwarded(0));
    scene.until_relayed();
    let (relayed, received) = (total() - relayed, scene.received() - received);
    assert!(
        received + SECOND_OF_PACKETS >= relayed,
        "{relayed} packets were relayed, {received} arrived"
    );
}

fn neighbour_change(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    let scene = Scene::start(rig, &topology, &IPV4);
    topology.routers[0].ip("link set relay address 02:00:00:00:00:99");
    scene.until_relayed();
    assert!(topology.relay.ip("neighbour show 10.77.4.2").contains("02:00:00:00:00:99"));
}

fn link_down_and_up(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    let scene = Scene::start(rig, &topology, &IPV4);
    topology.routers[0].ip("link set relay down");
    scene.until_up(Reason::NextHopUnresolved);
    topology.routers[0].ip("link set relay up");
    scene.until_relayed();
}

fn mtu_change(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    let scene = Scene::start(rig, &topology, &IPV4);
    for (smaller, as_before) in [
        ("link set way-a mtu 200", "link set way-a mtu 1500"),
        (
            "route replace 10.77.2.0/24 via 10.77.4.2 mtu lock 200",
            "route replace 10.77.2.0/24 via 10.77.4.2",
        ),
    ] {
        topology.relay.ip(smaller);
        scene.until_up(Reason::TooBig);
        topology.relay.ip(as_before);
        scene.until_relayed();
    }
}

/// Behind the router; no event tells the relay, only an ICMP message to its kernel. The relay's own
/// sockets leave such messages to the clients: it is another program's packet that asks for it.
fn path_mtu_change(rig: &Rig) {
    let topology = Topology::two_gateways(rig.object());
    let scene = Scene::start(rig, &topology, &Run { options: "-c -l 1000", ..IPV4 });
    topology.routers[0].ip("link set peer mtu 800");
    topology.relay.within(|| {
        let socket = UdpSocket::bind("10.77.1.1:0").unwrap();
        socket.send_to(&[0; 1000], "10.77.2.2:9").unwrap();
    });
    scene.until_up(Reason::TooBig);
}
