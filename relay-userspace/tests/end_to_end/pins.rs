//! Pins: a relay that is killed leaves its program in the kernel, which relays until its deadlines;
//! the next start, or `turnpike detach`, takes away what is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use relay_common::abi::{
    ABI_VERSION, NextHop, Reason, STATIONS_MAX, Station, StraightV4, StraightV6, map,
};
use rustix::process::Signal;
use tempfile::TempDir;
use zerocopy::FromBytes;

use crate::Test;
use crate::clients::{Run, Running, peer};
use crate::lifecycle::{attached, programs};
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig, command, refused};
use crate::relaying::IPV4;
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("a_killed_relay_relays_until_its_deadlines", &[Namespaces, Xdp, Clients], killed),
    ("a_start_takes_away_what_a_killed_relay_left", &[Namespaces, Xdp], next_start),
    ("detach_takes_away_what_a_killed_relay_left", &[Namespaces, Xdp], detach),
    ("pins_are_one_relays_at_a_time", &[Namespaces, Xdp], one_at_a_time),
    ("pins_outside_a_bpf_file_system", &[Namespaces, Xdp], elsewhere),
];

/// For what the kernel does in its own time, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// From a started client to its first message.
const TRAFFIC: Duration = Duration::from_secs(20);

/// A BPF file system of a test's own. Unmounting it drops all pins.
pub(crate) struct BpfFs(TempDir);

impl BpfFs {
    pub(crate) fn mount() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(place.path()).status();
        assert!(mounted.unwrap().success(), "mount -t bpf");
        Self(place)
    }

    /// Where a relay is to pin.
    pub(crate) fn directory(&self) -> PathBuf {
        self.0.path().join("turnpike")
    }

    fn version(&self) -> PathBuf {
        self.directory().join(format!("v{ABI_VERSION}"))
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.version().join("maps").join(name)).unwrap()
    }

    /// How many entries a map of routes or permissions has.
    pub(crate) fn entries(&self, name: &str) -> usize {
        let map = Map::HashMap(self.map(name));
        if name.ends_with("V4") {
            HashMap::<_, [u8; 16], [u8; 64]>::try_from(map).unwrap().keys().count()
        } else {
            HashMap::<_, [u8; 40], [u8; 64]>::try_from(map).unwrap().keys().count()
        }
    }

    /// How many places straight routes of a family (4 or 6) stand in.
    pub(crate) fn straight(&self, family: u8) -> usize {
        self.places(family).iter().filter(|(_, place)| place.iter().any(|byte| *byte != 0)).count()
    }

    /// Gives every place that a straight route stands in to another key.
    pub(crate) fn crowd(&self, family: u8) {
        self.rekey(family, |key| key[0] ^= 0x80);
    }

    /// Makes every place empty.
    pub(crate) fn empty(&self, family: u8) {
        self.rekey(family, |key| key.fill(0));
    }

    fn rekey(&self, family: u8, change: impl Fn(&mut [u8])) {
        for (index, mut key) in self.places(family) {
            if key.iter().all(|byte| *byte == 0) {
                continue;
            }
            change(&mut key);
            if family == 4 {
                let mut map = self.array::<{ size_of::<StraightV4>() }>(map::STRAIGHT_V4);
                let mut place = map.get(&index, 0).unwrap();
                place[..key.len()].copy_from_slice(&key);
                map.set(index, place, 0).unwrap();
            } else {
                let mut map = self.array::<{ size_of::<StraightV6>() }>(map::STRAIGHT_V6);
                let mut place = map.get(&index, 0).unwrap();
                place[..key.len()].copy_from_slice(&key);
                map.set(index, place, 0).unwrap();
            }
        }
    }

    /// The keys in all places.
    fn places(&self, family: u8) -> Vec<(u32, Vec<u8>)> {
        if family == 4 {
            let map = self.array::<{ size_of::<StraightV4>() }>(map::STRAIGHT_V4);
            (0..map.len())
                .map(|index| (index, map.get(&index, 0).unwrap()[..16].to_vec()))
                .collect()
        } else {
            let map = self.array::<{ size_of::<StraightV6>() }>(map::STRAIGHT_V6);
            (0..map.len())
                .map(|index| (index, map.get(&index, 0).unwrap()[..40].to_vec()))
                .collect()
        }
    }

    fn array<const BYTES: usize>(&self, name: &str) -> Array<MapData, [u8; BYTES]> {
        Map::Array(self.map(name)).try_into().unwrap()
    }

    /// The first next hops.
    pub(crate) fn next_hops(&self, count: u32) -> Vec<NextHop> {
        const BYTES: usize = size_of::<NextHop>();
        let map = self.array::<BYTES>(map::NEXT_HOPS);
        let read = |index| NextHop::read_from_bytes(&map.get(&index, 0).unwrap()).unwrap();
        (0..count).map(read).collect()
    }

    /// The address whose frames are taken on an interface.
    pub(crate) fn station(&self, ifindex: u32) -> Option<[u16; 3]> {
        const BYTES: usize = size_of::<Station>();
        let map = self.array::<BYTES>(map::STATIONS);
        let place = map.get(&(ifindex % STATIONS_MAX), 0).unwrap();
        let station = Station::read_from_bytes(&place).unwrap();
        (station.ifindex == ifindex).then_some(station.mac)
    }

    /// Packets that left the program for a reason, read from the pinned map.
    pub(crate) fn packets(&self, reason: Reason) -> u64 {
        let data = Map::PerCpuArray(self.map(map::REASONS));
        let reasons: PerCpuArray<_, [u64; 2]> = data.try_into().unwrap();
        reasons.get(&(reason as u32), 0).unwrap().iter().map(|count| count[0]).sum()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have it open.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.path().display());
        }
    }
}

fn plan(bpf_fs: &BpfFs, mode: &'static str) -> Plan {
    Plan { pin: Some(bpf_fs.directory()), ..Plan::two_armed(mode) }
}

/// Kills a relay whose program is attached twice.
pub(crate) fn kill(mut relay: Relay<'_>, namespace: &Namespace) {
    assert!(!relay.end_by(Signal::KILL, SOON).success());
    assert_eq!(attached(namespace).len(), 2, "pinned programs stay");
}

fn until_detached(namespace: &Namespace) {
    wait::until("no XDP program is attached", SOON, || {
        attached(namespace).is_empty().then_some(())
    });
}

fn traffic(topology: &Topology, relay: &Relay<'_>) -> (Running, Running) {
    let running = (
        peer(&topology.peer, IPV4.peer),
        Run { messages: 100_000, ..IPV4 }.start(&topology.client),
    );
    wait::until("packets are relayed by XDP", TRAFFIC, || {
        let (xdp, _) = relay.metrics().relayed(relay_common::abi::Direction::PeerToClient);
        (xdp > 0).then_some(())
    });
    running
}

fn killed(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let brief = "limits.lifetime_secs_default = 8\nlimits.lifetime_secs_max = 8";
    let plan = Plan { more: brief, ..plan(&bpf_fs, "native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let _traffic = traffic(&topology, &relay);
    kill(relay, &topology.relay);

    let relayed = || bpf_fs.packets(Reason::ClientToPeer) + bpf_fs.packets(Reason::PeerToClient);
    let (at_death, expired) = (relayed(), bpf_fs.packets(Reason::Expired));
    wait::until("the kernel relays by itself", SOON, || (relayed() > at_death + 100).then_some(()));
    wait::until("the allocations' time is up", 2 * SOON, || {
        (bpf_fs.packets(Reason::Expired) > expired + 100).then_some(())
    });
    // Every allocation is of the same age, give or take the client's start.
    let mut last = relayed();
    wait::until("nothing is relayed any more", SOON, || {
        std::thread::sleep(Duration::from_millis(500));
        let is_still = relayed() == last;
        last = relayed();
        is_still.then_some(())
    });
    let late = bpf_fs.packets(Reason::Expired);
    wait::until("packets still come", SOON, || {
        (bpf_fs.packets(Reason::Expired) > late).then_some(())
    });
}

fn next_start(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let namespace = &topology.relay;
    let before = programs();
    kill(Relay::start(rig, namespace, &plan(&bpf_fs, "native")), namespace);
    let left = attached(namespace);

    let relay = Relay::start(rig, namespace, &plan(&bpf_fs, "native"));
    let now = attached(namespace);
    assert_eq!(now.len(), 2, "{now:?}");
    assert!(now.iter().all(|id| !left.contains(id)), "{now:?} is of the killed relay: {left:?}");
    assert!(relay.log().contains("detached what a relay left"), "{}", relay.log());
    for pin in ["links/clients", "links/peers", "maps/ROUTES_V4", "maps/CONFIG"] {
        assert!(bpf_fs.version().join(pin).exists(), "{pin}");
    }
    kill(relay, namespace);
    // Without XDP, the program of before would relay for allocations that are no more.
    let mut relay = Relay::start(rig, namespace, &plan(&bpf_fs, "userspace"));
    until_detached(namespace);
    assert!(relay.end_by(Signal::TERM, SOON).success());

    let mut relay = Relay::start(rig, namespace, &plan(&bpf_fs, "native"));
    assert!(relay.end_by(Signal::TERM, SOON).success());
    assert_eq!(fs::read_dir(bpf_fs.directory()).unwrap().count(), 0, "a clean end leaves no pin");
    until_detached(namespace);
    wait::until("the programs are unloaded", SOON, || {
        programs().difference(&before).next().is_none().then_some(())
    });
}

fn detach(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let namespace = &topology.relay;
    let relay = Relay::start(rig, namespace, &plan(&bpf_fs, "native"));
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("turnpike.toml").display().to_string();
    fs::copy(relay.config(), &config).unwrap();
    let detach = || command(rig, namespace, &["detach", "--config", &config]);
    let (done, said) = detach();
    assert!(!done && said.contains("another process of Turnpike holds"), "{said}");
    assert_eq!(attached(namespace).len(), 2, "a running relay stays attached");
    kill(relay, namespace);
    let (done, said) = detach();
    assert!(done && said.starts_with("detached: "), "{said}");
    assert!(said.contains("clients") && said.contains("peers"), "{said}");
    until_detached(namespace);
    let (done, said) = detach();
    assert!(done && said.contains("nothing was attached"), "{said}");
}

/// In another network namespace, where everything but the pins is free.
fn one_at_a_time(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(None));
    let mut relay = Relay::start(rig, &topology.relay, &plan(&bpf_fs, "native"));
    let second = Plan {
        listen: vec!["10.77.1.2:3478"],
        addresses: vec!["10.77.1.2"],
        ..plan(&bpf_fs, "auto")
    };
    let said = refused(rig, &topology.client, &second);
    let directory = bpf_fs.directory().display().to_string();
    for word in ["another process of Turnpike holds", &directory, "`pin` in [datapath]"] {
        assert!(said.contains(word), "\"{word}\" is not in: {said}");
    }
    assert!(relay.is_alive());
    assert_eq!(attached(&topology.relay).len(), 2);
}

fn elsewhere(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let plan = Plan { pin: Some(Path::new("/dev/shm/pins").into()), ..Plan::two_armed("auto") };
    let said = refused(rig, &topology.relay, &plan);
    for word in ["/dev/shm/pins", "no BPF file system", "mount -t bpf", "[datapath] pin"] {
        assert!(said.contains(word), "\"{word}\" is not in: {said}");
    }
}
