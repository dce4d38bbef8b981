//! The kernel's maps are full: what does not fit is relayed by userspace and counted, nothing is
//! lost, and nothing stays when the allocations end, in whatever order.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_common::abi::{Direction, NextHop, ROUTES_MAX, map};

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::data_plane::{PEER, V4};
use crate::needs::Need::{Namespaces, Xdp};
use crate::pins::BpfFs;
use crate::relay::{Metrics, Plan, Relay, Rig};
use crate::topology::Topology;
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[("full_maps_lose_and_leak_nothing", &[Namespaces, Xdp], full)];

const BUSY_MAX: Duration = Duration::from_secs(20);
/// Of each map of routes and permissions in the object under test: as many as the listener's one
/// and three for each of 31 clients, for a client's fit together or not at all. Of the places of
/// straight routes hardly any is left: routes go by without them.
const ENTRIES: u32 = 94;
/// Clients with a channel: three routes each, and more than fit.
const CLIENTS: usize = 40;
/// Permissions of one client beside that: more than fit.
const PERMISSIONS: u8 = 100;

/// The object with small maps: in its BTF, a map's size is the length of an array type.
fn with_small_maps(object: &Path, place: &Path) -> PathBuf {
    const ARRAY: u32 = 3 << 24;
    let words = |words: [u32; 3]| words.map(u32::to_ne_bytes).concat();
    let (mut bytes, header) = (fs::read(object).unwrap(), words([0, ARRAY, 0]));
    let (old, new) = (ROUTES_MAX.to_ne_bytes(), ENTRIES.to_ne_bytes());
    let is_size = |bytes: &[u8]| bytes.starts_with(&header) && bytes[20..] == old;
    let places: Vec<usize> =
        (0..bytes.len() - 24).filter(|at| is_size(&bytes[*at..at + 24])).collect();
    assert!(!places.is_empty(), "no map of {ROUTES_MAX} entries");
    for at in places {
        bytes[at + 20..at + 24].copy_from_slice(&new);
    }
    let small = place.join("small");
    fs::write(&small, bytes).unwrap();
    small
}

/// A relay with small maps.
struct Scene<'t> {
    bpf_fs: &'t BpfFs,
    relay: Relay<'t>,
}

impl Scene<'_> {
    /// Routes and permissions in the kernel: the relay's counts are those of the maps.
    fn held(&self) -> [u64; 2] {
        let entries = |names: [&str; 2]| {
            names.iter().map(|name| self.bpf_fs.entries(name) as u64).sum::<u64>()
        };
        let held = [
            entries([map::ROUTES_V4, map::ROUTES_V6]),
            entries([map::PERMISSIONS_V4, map::PERMISSIONS_V6]),
        ];
        let metrics = self.relay.metrics();
        let told = ["turnpike_routes", "turnpike_kernel_permissions"].map(|it| metrics.value(it));
        assert_eq!(told, held, "what metrics say, and what the maps hold");
        held
    }

    fn failures(&self) -> u64 {
        self.relay.metrics().value("turnpike_route_install_failures_total")
    }

    fn next_hops(&self) -> u64 {
        let state = |metrics: &Metrics, state: &str| {
            metrics.value(&format!("turnpike_next_hops{{state=\"{state}\"}}"))
        };
        let metrics = self.relay.metrics();
        state(&metrics, "resolved") + state(&metrics, "unresolved")
    }

    /// Every client's data comes back; how much went by XDP, and by userspace.
    fn exchange<'c>(&self, clients: impl Iterator<Item = &'c Client>) -> (u64, u64) {
        let way = Direction::ClientToPeer;
        let before = self.relay.metrics().relayed(way);
        for (number, client) in (0..u8::MAX).zip(clients) {
            for length in 0..3 {
                let data = vec![number; 20 + length];
                client.send(&data);
                assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(data)), "client {number}");
            }
        }
        let after = self.relay.metrics().relayed(way);
        (after.0 - before.0, after.1 - before.1)
    }
}

fn full(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let place = tempfile::tempdir().unwrap();
    let plan = Plan {
        object: Some(with_small_maps(rig.object(), place.path())),
        pin: Some(bpf_fs.directory()),
        shards: 2,
        // One client is to fill a map by itself.
        more: "limits.new_peers_per_sec = 0",
        ..Plan::two_armed("native")
    };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let scene = Scene { bpf_fs: &bpf_fs, relay };
    let idle = scene.held();
    assert_eq!((idle[1], scene.failures(), scene.next_hops()), (0, 0, 0));
    let peer: SocketAddr = PEER.parse().unwrap();
    let allocate = || Client::allocate(&topology.client, V4.0, V4.1);
    with_echo(&topology.peer, peer, || {
        let mut clients: Vec<Option<Client>> = (0..CLIENTS)
            .map(|_| {
                let mut client = allocate();
                client.bind(peer);
                Some(client)
            })
            .collect();
        assert_eq!(bpf_fs.entries(map::ROUTES_V4), ENTRIES as usize, "full");
        scene.held();
        let refused = scene.failures();
        assert!(refused >= 5, "{refused}");
        wait::until("both next hops are resolved", BUSY_MAX, || {
            scene.exchange(clients.iter().flatten().take(1));
            let metrics = scene.relay.metrics();
            (metrics.value("turnpike_next_hops{state=\"resolved\"}") == 2).then_some(())
        });
        let (xdp, userspace) = scene.exchange(clients.iter().flatten());
        assert_eq!(xdp + userspace, 3 * CLIENTS as u64);
        assert!(xdp >= 60 && userspace >= 15, "{xdp} by XDP, {userspace} by userspace");

        permissions(&scene, &topology, clients[0].as_mut().unwrap());
        let mut pair = [allocate(), allocate()];
        hairpin(&scene, &mut pair, 0);

        // Some go, in no order; the others ask again, and find room.
        let order = |number: usize| number * 17 % CLIENTS;
        for number in 0..CLIENTS / 2 {
            clients[order(number)].take().unwrap().end();
        }
        scene.held();
        let refused = scene.failures();
        clients.iter_mut().flatten().for_each(|client| client.bind(peer));
        hairpin(&scene, &mut pair, 1);
        scene.held();
        assert_eq!(scene.failures(), refused, "there is room");
        let (xdp, userspace) = scene.exchange(clients.iter().flatten());
        assert_eq!((xdp, userspace), (3 * CLIENTS as u64 / 2, 0));

        pair.iter_mut().for_each(Client::end);
        for number in CLIENTS / 2..CLIENTS {
            clients[order(number)].take().unwrap().end();
            scene.held();
        }
        assert_eq!((scene.held(), scene.next_hops()), (idle, 0));
        assert!(bpf_fs.next_hops(256).iter().all(|hop| *hop == NextHop::default()));
    });
}

/// One client permits more than fits. The last of them is there, and gets what it is sent.
fn permissions(scene: &Scene<'_>, topology: &Topology, client: &mut Client) {
    let peer: SocketAddr = "10.77.2.9:4000".parse().unwrap();
    let socket = topology.peer.within(|| UdpSocket::bind(peer)).unwrap();
    socket.set_read_timeout(Some(BUSY_MAX)).unwrap();
    let before = scene.failures();
    for last in 0..PERMISSIONS {
        client.permit(SocketAddr::from(([10, 77, 2, 100 + last], 9)));
    }
    client.permit(peer);
    assert_eq!(scene.held()[1], u64::from(ENTRIES), "full");
    assert!(scene.failures() > before);
    client.send_to(peer, b"there");
    let mut data = [0; 100];
    let (length, from) = socket.recv_from(&mut data).unwrap();
    assert_eq!((&data[..length], from), (&b"there"[..], client.relayed));
    socket.send_to(b"back", from).unwrap();
    assert_eq!(client.hear(BUSY_MAX), Some(Heard::Indicated(peer, b"back".to_vec())));
}

/// Two clients with channels to each other: this many hairpins come of it, and data passes.
fn hairpin(scene: &Scene<'_>, [a, b]: &mut [Client; 2], hairpins: u64) {
    a.bind(b.relayed);
    b.bind(a.relayed);
    assert_eq!(scene.relay.metrics().value("turnpike_hairpins"), hairpins);
    for (from, to) in [(&*a, &*b), (b, a)] {
        from.send(b"across");
        assert_eq!(to.hear(BUSY_MAX), Some(Heard::Data(b"across".to_vec())));
    }
}
