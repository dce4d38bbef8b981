//! Clients that move (RFC 8016) to other ports, addresses and families, mostly to another shard,
//! while data goes both ways by XDP or by userspace.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;

use crate::Test;
use crate::client::{Client, Heard};
use crate::data_plane::{PEER, V4, V6};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("mobility_by_xdp", &[Namespaces, Xdp], |rig| moves(rig, "native", ELSEWHERE)),
    ("mobility_to_ipv6_by_xdp", &[Namespaces, Xdp], |rig| moves(rig, "native", V6)),
    ("mobility_by_userspace", &[Namespaces], |rig| moves(rig, "userspace", ELSEWHERE)),
    ("mobility_of_a_hairpin", &[Namespaces, Xdp], hairpin),
    ("mobility_leaves_nothing_behind", &[Namespaces], nothing_left),
];

/// Another address of the client, and its server's.
const ELSEWHERE: (&str, &str) = ("10.77.1.9:0", "10.77.1.1:3478");
const BUSY_MAX: Duration = Duration::from_secs(20);
/// For what is sent and comes by itself.
const SOON: Duration = Duration::from_millis(500);

/// A client and a peer, what they sent each other, and a relay of two shards between them.
struct Scene<'t> {
    topology: &'t Topology,
    relay: Relay<'t>,
    peer: UdpSocket,
    /// Packets and bytes, in order of [`Direction`].
    counts: [(u64, u64); 2],
}

impl<'t> Scene<'t> {
    fn start(rig: &Rig, topology: &'t Topology, mode: &'static str) -> Self {
        let more = "log.level = \"debug\"";
        let plan = Plan { more, mobility: true, shards: 2, ..Plan::two_armed(mode) };
        let relay = Relay::start(rig, &topology.relay, &plan);
        let peer = topology.peer.within(|| UdpSocket::bind(PEER)).unwrap();
        peer.set_read_timeout(Some(BUSY_MAX)).unwrap();
        Self { topology, relay, peer, counts: [(0, 0); 2] }
    }

    fn value(&self, series: &str) -> u64 {
        self.relay.metrics().value(series)
    }

    /// A datagram each way, each of which arrives.
    fn exchange(&mut self, client: &Client, bytes: usize) {
        client.send(&vec![1; bytes]);
        let mut datagram = [0; 2_000];
        assert_eq!(self.peer.recv_from(&mut datagram).unwrap(), (bytes, client.relayed));
        self.answer(client, bytes / 2);
        let bytes = u64::try_from(bytes).unwrap();
        self.counts[0] = (self.counts[0].0 + 1, self.counts[0].1 + bytes);
    }

    /// A datagram of the peer, which arrives.
    fn answer(&mut self, client: &Client, bytes: usize) {
        self.peer.send_to(&vec![2; bytes], client.relayed).unwrap();
        assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(vec![2; bytes])));
        let bytes = u64::try_from(bytes).unwrap();
        self.counts[1] = (self.counts[1].0 + 1, self.counts[1].1 + bytes);
    }

    /// Packets that XDP relayed.
    fn by_xdp(&self) -> u64 {
        let metrics = self.relay.metrics();
        Direction::ALL.map(|direction| metrics.relayed(direction).0).iter().sum()
    }

    /// Data goes both ways by XDP, once the neighbours are known.
    fn until_by_xdp(&mut self, client: &Client) {
        wait::until("XDP relays", BUSY_MAX, || {
            let before = self.by_xdp();
            self.exchange(client, 99);
            (self.by_xdp() == before + 2).then_some(())
        });
    }

    /// The client asks from other sockets until one reaches the other shard; each of them replaces
    /// the one before.
    fn to_another_shard(&self, client: &Client, (from, server): (&str, &str)) -> Client {
        let found = (0..64).find_map(|_| {
            let before = self.value("turnpike_handed_over_total");
            let moved = client.moved(&self.topology.client, from, server).unwrap();
            (self.value("turnpike_handed_over_total") > before).then_some(moved)
        });
        found.expect("one in 64 lands there")
    }

    /// What an allocation relayed, as the log says at its end.
    fn check_account(&self) {
        let [to_peer, to_client] = self.counts;
        let line = wait::until("the end is logged", BUSY_MAX, || {
            let log = self.relay.log();
            log.lines().find(|line| line.contains("an allocation ended")).map(str::to_owned)
        });
        for (way, (packets, bytes)) in [("to_peer", to_peer), ("to_client", to_client)] {
            let expected = format!("{way}_packets={packets} {way}_bytes={bytes} ");
            assert!(line.contains(&expected), "{line}: not {expected}");
        }
    }
}

fn moves(rig: &Rig, mode: &'static str, to: (&str, &str)) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode == "native"));
    let mut scene = Scene::start(rig, &topology, mode);
    let is_xdp = mode == "native";
    let mut old = Client::allocate_mobile(&topology.client, V4.0, V4.1);
    old.bind(PEER.parse().unwrap());
    if is_xdp {
        scene.until_by_xdp(&old);
    }
    scene.exchange(&old, 50);
    let routes = scene.value("turnpike_routes");
    let mut new = scene.to_another_shard(&old, to);
    // Until it sends from there, the old 5-tuple is where data goes.
    scene.exchange(&old, 60);
    assert_eq!(scene.value("turnpike_moves_total"), 0);
    // Nothing is lost from the first datagram on, whether or not the new neighbour is known.
    for round in 0..100 {
        scene.exchange(&new, 200 + round);
    }
    assert_eq!(scene.value("turnpike_moves_total"), 1);
    assert_eq!(scene.value("turnpike_five_tuples_elsewhere"), 1);
    if is_xdp {
        scene.until_by_xdp(&new);
        let (before, handed_over) = (scene.by_xdp(), scene.value("turnpike_handed_over_total"));
        for round in 0..100 {
            scene.exchange(&new, 300 + round);
        }
        assert_eq!(scene.by_xdp(), before + 200);
        assert_eq!(scene.value("turnpike_handed_over_total"), handed_over);
        assert_eq!(scene.value("turnpike_routes"), routes, "as many as before");
    } else {
        assert!(scene.value("turnpike_handed_over_total") >= 100);
    }
    // The old 5-tuple is nobody's.
    old.send(b"late");
    scene.exchange(&new, 70);
    scene.peer.set_read_timeout(Some(SOON)).unwrap();
    assert!(scene.peer.recv_from(&mut [0; 100]).is_err(), "nothing of the old 5-tuple");
    assert_eq!(old.hear(Duration::from_millis(1)), None);
    assert_eq!(old.refresh(), Err(437));
    // Every request of the new one is answered, wherever it lands.
    assert_eq!(new.refresh(), Ok(600));
    new.bind(PEER.parse().unwrap());
    new.end();
    scene.check_account();
    assert_eq!(scene.value("turnpike_five_tuples_elsewhere"), 0);
    let left = "turnpike_allocations{family=\"ipv4\",transport=\"udp\"}";
    assert_eq!((scene.value(left), scene.value("turnpike_kernel_permissions")), (0, 0));
}

/// Two clients that XDP takes straight to each other; one of them moves, and so do both ways.
fn hairpin(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let scene = Scene::start(rig, &topology, "native");
    let mut a = Client::allocate_mobile(&topology.client, V4.0, V4.1);
    let mut b = Client::allocate_of(Family::V4, &topology.client, V4.0, V4.1);
    a.bind(b.relayed);
    b.bind(a.relayed);
    let hairpins = || scene.relay.metrics().verdicts(Reason::Hairpin);
    let until_straight = |a: &Client, b: &Client| {
        for (from, to) in [(a, b), (b, a)] {
            let before = hairpins();
            wait::until("packets take the hairpin", BUSY_MAX, || {
                from.send(b"?");
                assert_eq!(to.hear(BUSY_MAX), Some(Heard::Data(b"?".to_vec())));
                (hairpins() > before).then_some(())
            });
        }
    };
    until_straight(&a, &b);
    let mut moved = scene.to_another_shard(&a, ELSEWHERE);
    assert_eq!(scene.value("turnpike_hairpins"), 1);
    until_straight(&moved, &b);
    assert_eq!((scene.value("turnpike_hairpins"), scene.value("turnpike_moves_total")), (1, 1));
    let before = hairpins();
    for number in 0..50u8 {
        for (from, to) in [(&moved, &b), (&b, &moved)] {
            from.send(&[number; 33]);
            assert_eq!(to.hear(BUSY_MAX), Some(Heard::Data(vec![number; 33])));
        }
    }
    assert_eq!(hairpins(), before + 100);
    a.send(b"late");
    assert_eq!(b.hear(SOON), None);
    moved.end();
    assert_eq!(scene.value("turnpike_hairpins"), 0);
}

/// However an allocation ends that moved, or was about to: no shard remembers it.
fn nothing_left(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let scene = Scene::start(rig, &topology, "userspace");
    let peer: SocketAddr = PEER.parse().unwrap();
    let elsewhere = || scene.value("turnpike_five_tuples_elsewhere");
    let allocate = || {
        let mut client = Client::allocate_mobile(&topology.client, V4.0, V4.1);
        client.bind(peer);
        client
    };
    // About to move, and ended by the old 5-tuple, or by the new one.
    let mut old = allocate();
    drop(scene.to_another_shard(&old, ELSEWHERE));
    assert_eq!(elsewhere(), 1);
    old.end();
    assert_eq!(elsewhere(), 0);
    let old = allocate();
    scene.to_another_shard(&old, ELSEWHERE).end();
    assert_eq!(elsewhere(), 0);
    // The 5-tuple is free for an allocation of its own.
    let old = allocate();
    let mut new = scene.to_another_shard(&old, ELSEWHERE);
    new.end();
    new.allocate_again();
    new.end();
    // Moved, and moved on: only the last is remembered, if it is on another shard again.
    let mut client = scene.to_another_shard(&allocate(), ELSEWHERE);
    for round in 0..20u8 {
        client.send(&[round; 9]);
        let (bytes, _) = scene.peer.recv_from(&mut [0; 100]).unwrap();
        assert_eq!((bytes, elsewhere() <= 1), (9, true));
        client = client.moved(&topology.client, ELSEWHERE.0, ELSEWHERE.1).unwrap();
    }
    assert!(elsewhere() <= 2, "where it is, and where it is about to be");
    client.end();
    assert_eq!((elsewhere(), scene.value("turnpike_moves_total")), (0, 20));
}
