//! Interfaces that come and go under the relay, and the first packets after a start: whose frames
//! are whose is known before the first one comes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};

use crate::Test;
use crate::client::{Client, Ends, Heard, with_echo};
use crate::data_plane::{PEER, V4, warmed_up};
use crate::needs::Need::{Namespaces, Xdp};
use crate::next_hops::mac_of;
use crate::pins::{BpfFs, kill};
use crate::relay::{Plan, Relay, Rig};
use crate::robustness::binding;
use crate::topology::{Topology, attach_to, bystander, program};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("an_interface_that_comes_back_relays_by_xdp_again", &[Namespaces, Xdp], |rig| {
        comes_back(rig, "native");
    }),
    ("an_interface_that_comes_back_is_in_the_mode_of_the_others", &[Namespaces, Xdp], |rig| {
        comes_back(rig, "generic");
    }),
    ("an_interface_that_refuses_the_program_is_tried_again", &[Namespaces, Xdp], refuses),
    ("frames_are_known_as_ours_from_the_first_one_on", &[Namespaces, Xdp], from_the_first),
];

/// For what takes long only on a busy machine.
const BUSY_MAX: Duration = Duration::from_secs(20);
/// Longer than the longest pause between two tries to attach.
const TRIED_MAX: Duration = Duration::from_secs(100);
/// Packets each way, for a share of them.
const MANY: u64 = 1_000;
/// Between two packets.
const PACE: Duration = Duration::from_millis(1);
const EXCHANGES: u64 = 20;

/// How the packets of an interface are taken.
fn mode_of(relay: &Relay<'_>, interface: &str) -> &'static str {
    let metrics = relay.metrics();
    let is_current = |mode: &&str| {
        let series = format!("{{interface=\"{interface}\",mode=\"{mode}\"}}");
        metrics.value(&format!("turnpike_datapath_mode{series}")) == 1
    };
    ["native", "generic", "userspace"].into_iter().find(is_current).unwrap()
}

/// Packets by XDP and by userspace, in the direction that has less by XDP.
fn relayed(relay: &Relay<'_>) -> (u64, u64) {
    let metrics = relay.metrics();
    Direction::ALL.map(|way| metrics.relayed(way)).into_iter().min().unwrap()
}

/// Waits until packets go by XDP, then looks at many of them.
fn all_by_xdp(relay: &Relay<'_>) {
    let start = relayed(relay).0;
    wait::until("packets go by XDP", BUSY_MAX, || {
        (relayed(relay).0 > start + EXCHANGES).then_some(())
    });
    let before = relay.metrics();
    let after = wait::until("many packets were relayed", BUSY_MAX, || {
        let after = relay.metrics();
        let of = |way| after.relayed(way).0 - before.relayed(way).0;
        Direction::ALL.into_iter().all(|way| of(way) >= MANY).then_some(after)
    });
    for way in Direction::ALL {
        let [(xdp, userspace), (xdp_before, userspace_before)] =
            [&after, &before].map(|metrics| metrics.relayed(way));
        let (xdp, userspace) = (xdp - xdp_before, userspace - userspace_before);
        assert!(xdp >= 99 * userspace, "{way:?}: {xdp} by XDP, {userspace} by userspace");
    }
}

/// Deleted and made anew under traffic; then sent through another network namespace.
fn comes_back(rig: &Rig, mode: &'static str) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let plan = Plan { pin: Some(bpf_fs.directory()), ..Plan::two_armed(mode) };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let peer: SocketAddr = PEER.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        let client = warmed_up(&relay, &topology, |client| client.bind(peer));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ends(&is_over);
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    client.try_send(*b"load");
                    thread::sleep(PACE);
                }
            });
            let changes: [&dyn Fn(); 2] = [
                &|| {
                    topology.relay.ip("link del clients");
                    wait::until("the interface is not said to relay", BUSY_MAX, || {
                        (mode_of(&relay, "clients") == "userspace").then_some(())
                    });
                    topology.plug_in(|_| {});
                },
                &|| topology.send_around(),
            ];
            for (times, change) in (1..).zip(changes) {
                let count = |words: &str| {
                    let log = relay.log();
                    log.lines().filter(|l| l.contains(words) && l.contains("clients")).count()
                };
                change();
                wait::until("the interface is told to be back", BUSY_MAX, || {
                    (count("the interface is back") == times).then_some(())
                });
                assert_eq!(count("the interface is gone"), times);
                assert_eq!([mode_of(&relay, "clients"), mode_of(&relay, "peers")], [mode; 2]);
                all_by_xdp(&relay);
            }
        });
    });
    // A kill leaves the program of now on both interfaces, and the next start finds it.
    kill(relay, &topology.relay);
    let relay = Relay::start(rig, &topology.relay, &plan);
    assert!(relay.log().contains("detached what a relay left"), "{}", relay.log());
}

/// Somebody else's program is on it first. Userspace relays until that is gone.
fn refuses(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let peer: SocketAddr = PEER.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        let client = warmed_up(&relay, &topology, |client| client.bind(peer));
        let mut occupant = bystander(rig.object()).unwrap();
        topology.relay.ip("link del clients");
        topology.plug_in(|name| attach_to(program(&mut occupant), &[(&topology.relay, name)]));
        wait::until("the refusal is told", BUSY_MAX, || {
            let told = |line: &str| line.contains("does not take the XDP program");
            relay.log().lines().any(told).then_some(())
        });
        assert_eq!(mode_of(&relay, "clients"), "userspace");
        // Neighbours are asked for anew: the first ones may wait too long.
        wait::until("packets come again", BUSY_MAX, || {
            client.try_send(*b"wait").then(|| client.hear(PACE)).flatten()
        });
        client.ignore_the_rest();
        let before = relay.metrics();
        for number in 0..EXCHANGES {
            client.send(&number.to_be_bytes());
            assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(number.to_be_bytes().to_vec())));
        }
        let after = relay.metrics();
        for way in Direction::ALL {
            let (now, then) = (after.relayed(way), before.relayed(way));
            assert_eq!((now.0 - then.0, now.1 - then.1), (0, EXCHANGES), "{way:?}");
        }
        drop(occupant);
        wait::until("the program is on it", TRIED_MAX, || {
            (mode_of(&relay, "clients") == "native").then_some(())
        });
        let told = relay.log();
        let told = told.lines().filter(|line| line.contains("does not take the XDP program"));
        assert_eq!(told.count(), 1, "once is enough");
        let start = relayed(&relay).0;
        wait::until("packets go by XDP", BUSY_MAX, || {
            client.try_send(*b"back");
            let _ = client.hear(PACE);
            (relayed(&relay).0 > start + EXCHANGES).then_some(())
        });
    });
}

/// Frames come while the relay starts; a client's first message does right after.
fn from_the_first(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    for (namespace, other, interface) in
        [(&topology.client, "10.77.1.2", "clients"), (&topology.peer, "10.77.2.2", "peers")]
    {
        let mac = mac_of(namespace, "eth0");
        let neighbour = format!("neigh replace {other} lladdr {mac} dev {interface} nud permanent");
        topology.relay.ip(&neighbour);
    }
    let socket = topology.client.within(|| UdpSocket::bind("10.77.1.9:0")).unwrap();
    topology.client.within(|| socket.connect(V4.1)).unwrap();
    let is_over = AtomicBool::new(false);
    let relay = thread::scope(|scope| {
        let _ends = Ends(&is_over);
        scope.spawn(|| {
            let request = binding(&[]);
            while !is_over.load(Ordering::Relaxed) {
                // Refused for as long as nobody listens.
                let _ = socket.send(&request);
                thread::sleep(PACE);
            }
        });
        Relay::start(rig, &topology.relay, &Plan::two_armed("native"))
    });
    wait::until("XDP answers", BUSY_MAX, || {
        let _ = socket.send(&binding(&[]));
        (relay.metrics().verdicts(Reason::BindingAnswered) > 0).then_some(())
    });
    assert_eq!(relay.metrics().verdicts(Reason::OtherHost), 0);
    let peer: SocketAddr = PEER.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        let mut client = Client::allocate(&topology.client, V4.0, V4.1);
        client.bind(peer);
        wait::until("both next hops are known", BUSY_MAX, || {
            let resolved = "turnpike_next_hops{state=\"resolved\"}";
            (relay.metrics().value(resolved) == 2).then_some(())
        });
        client.send(b"first");
        assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(b"first".to_vec())));
    });
    let metrics = relay.metrics();
    for way in Direction::ALL {
        assert_eq!(metrics.relayed(way), (1, 0), "{way:?}");
    }
    assert_eq!(metrics.verdicts(Reason::OtherHost), 0);
}
