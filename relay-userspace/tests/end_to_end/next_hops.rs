//! Next hops one by one, as the kernel's own map has them: what userspace does not resolve, how
//! soon a change is followed, and an interface that goes.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use relay_common::abi::{Direction, NEXT_HOP_VALID, NextHop, Reason};
use relay_common::addr::Family;
use rustix::process::Signal;
use serde_json::Value;

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::data_plane::{PEER, V4, V6, warmed_up};
use crate::needs::Need::{Namespaces, Xdp};
use crate::pins::BpfFs;
use crate::relay::{Plan, Relay, Rig};
use crate::topology::{Namespace, Topology};
use crate::wait::{self, Watch};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("kernels_routes_lead_where_userspace_knows_no_way_ipv4", &[Namespaces, Xdp], |rig| {
        by_the_kernels_routes(rig, Family::V4);
    }),
    ("kernels_routes_lead_where_userspace_knows_no_way_ipv6", &[Namespaces, Xdp], |rig| {
        by_the_kernels_routes(rig, Family::V6);
    }),
    ("next_hops_follow_within_a_second", &[Namespaces, Xdp], within_a_second),
    ("lost_netlink_events_are_made_good", &[Namespaces, Xdp], lost_events),
    ("an_interface_that_goes_is_told", &[Namespaces, Xdp], interface_goes),
    ("a_driver_that_keeps_tags_from_xdp_is_known", &[Namespaces, Xdp], hidden_tags),
];

/// For what takes long only on a busy machine.
const BUSY_MAX: Duration = Duration::from_secs(20);
/// How soon a next hop is to follow what rtnetlink says.
const FOLLOWED: Duration = Duration::from_secs(1);
/// How often a change is tried: a process that was not scheduled for long tells nothing.
const TRIES: usize = 5;
const EXCHANGES: u64 = 20;

/// The way to the peer is for certain ports only. Userspace's question has none: it finds no way.
fn by_the_kernels_routes(rig: &Rig, family: Family) {
    let (ip, net, peers, ends) = match family {
        Family::V4 => ("-4", "10.77.2.0/24", ["10.77.2.2:4000", "10.77.2.2:4001"], V4),
        Family::V6 => ("-6", "fd77:2::/64", ["[fd77:2::2]:4000", "[fd77:2::2]:4001"], V6),
    };
    let forwarding = match family {
        Family::V4 => "ipv4/conf/clients/forwarding",
        Family::V6 => "ipv6/conf/clients/forwarding",
    };
    let topology = Topology::two_armed(Some(rig.object()));
    topology.relay.ip(&format!("{ip} route del {net} dev peers"));
    topology.relay.ip(&format!("{ip} rule add ipproto udp dport 4000-4001 lookup 100"));
    topology.relay.ip(&format!("{ip} route add {net} dev peers table 100"));
    topology.relay.set(forwarding, "0");
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let mut client = Client::allocate(&topology.client, ends.0, ends.1);
    let [bound, other]: [SocketAddr; 2] = peers.map(|peer| peer.parse().unwrap());
    client.bind(bound);
    let socket = topology.peer.within(|| UdpSocket::bind(other)).unwrap();
    socket.set_read_timeout(Some(BUSY_MAX)).unwrap();
    with_echo(&topology.peer, bound, || {
        // On the channel and back, and by an indication: what was sent by XDP, and by userspace.
        let exchange = || {
            let before = relay.metrics();
            for number in 0..EXCHANGES {
                let data = number.to_be_bytes();
                client.send(&data);
                assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(data.to_vec())));
                client.send_to(other, &data);
                let (length, from) = socket.recv_from(&mut [0; 100]).unwrap();
                assert_eq!((length, from), (data.len(), client.relayed));
            }
            let after = relay.metrics();
            assert_eq!(after.value("turnpike_next_hops{state=\"unresolved\"}"), 1);
            let of = |reason| after.verdicts(reason) - before.verdicts(reason);
            let way = Direction::ClientToPeer;
            let by_userspace = after.relayed(way).1 - before.relayed(way).1;
            let by_xdp = [of(Reason::ClientToPeer), of(Reason::SendIndication)];
            (by_xdp, of(Reason::NextHopUnresolved), by_userspace)
        };
        wait::until("the next hop to the client is resolved", BUSY_MAX, || {
            let metrics = relay.metrics();
            (metrics.value("turnpike_next_hops{state=\"resolved\"}") == 1).then_some(())
        });
        // The kernel forwards nothing here: it tells no way either. This finds the neighbour, too.
        let up = ([0, 0], 2 * EXCHANGES, 2 * EXCHANGES);
        assert_eq!(exchange(), up, "by userspace");
        topology.relay.set(forwarding, "1");
        assert_eq!(exchange(), ([EXCHANGES; 2], 0, 0), "by XDP, as the kernel's routes say");
        topology.relay.set(forwarding, "0");
        assert_eq!(exchange(), up, "by userspace again");
    });
}

/// A change in the network, and what the next hop is then.
struct Step<'a> {
    namespace: &'a Namespace,
    /// Words for `ip`, one command after the other.
    commands: Vec<&'a str>,
    follows: &'a dyn Fn(&NextHop) -> bool,
}

/// The index of an interface.
pub(crate) fn index_of(namespace: &Namespace, interface: &str) -> u32 {
    let link = namespace.ip(&format!("-j link show {interface}"));
    let link: Value = serde_json::from_str(&link).unwrap();
    link[0]["ifindex"].as_u64().unwrap().try_into().unwrap()
}

/// The MAC address of an interface, as text.
pub(crate) fn mac_of(namespace: &Namespace, interface: &str) -> String {
    let link = namespace.ip(&format!("-j link show {interface}"));
    let link: Value = serde_json::from_str(&link).unwrap();
    link[0]["address"].as_str().unwrap().to_owned()
}

fn step<'a>(
    namespace: &'a Namespace,
    commands: &'a str,
    follows: &'a dyn Fn(&NextHop) -> bool,
) -> Step<'a> {
    Step { namespace, commands: commands.split("; ").collect(), follows }
}

/// For [`Topology::two_gateways`].
fn two_gateways(bpf_fs: &BpfFs) -> Plan {
    Plan {
        listen: vec!["10.77.1.1:3478"],
        addresses: vec!["10.77.1.1"],
        interfaces: vec!["clients", "way-a", "way-b"],
        pin: Some(bpf_fs.directory()),
        ..Plan::two_armed("native")
    }
}

/// Where the next hop is that leaves by an interface.
fn place_of(bpf_fs: &BpfFs, ifindex: u32) -> usize {
    let hops = bpf_fs.next_hops(8);
    hops.iter().position(|hop| hop.ifindex == ifindex).expect("a next hop")
}

/// More events than a socket takes, while nobody reads them. Those before wait in the socket and
/// are old news; those after are lost, and say what no look-up of routes would.
fn lost_events(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_gateways(rig.object()));
    let here = &topology.relay;
    let relay = Relay::start(rig, here, &two_gateways(&bpf_fs));
    let peer: SocketAddr = PEER.parse().unwrap();
    let storm = tempfile::NamedTempFile::new().unwrap();
    let lines = (0..3_000).map(|number| {
        let (high, low) = (number / 200, number % 200);
        format!("route add 198.18.{high}.{low}/32 dev way-b\nroute del 198.18.{high}.{low}/32\n")
    });
    fs::write(storm.path(), lines.collect::<String>()).unwrap();
    with_echo(&topology.peer, peer, || {
        let _client = warmed_up(&relay, &topology, |client| client.bind(peer));
        let way_a = index_of(here, "way-a");
        let place = place_of(&bpf_fs, way_a);
        // The neighbour is no permanent one: a relay that wakes may ask for it before it reads.
        let set = |last: &str| {
            here.ip(&format!("link set way-a address 02:00:00:00:01:{last}"));
            let neighbour = format!("10.77.4.2 lladdr 02:00:00:00:00:{last} dev way-a");
            here.ip(&format!("neigh replace {neighbour} nud reachable"));
        };
        relay.halt();
        set("98");
        here.ip(&format!("-batch {}", storm.path().display()));
        set("99");
        here.ip("link del way-b");
        relay.signal(Signal::CONT);
        let is_true = || {
            let hop = bpf_fs.next_hops(8)[place];
            let macs = [Some(hop.dst_mac), Some(hop.src_mac), bpf_fs.station(way_a)];
            let expected = [[0, 0x99], [1, 0x99], [1, 0x99]];
            let expected = expected.map(|[a, b]| Some([[2, 0], [0, 0], [a, b]]));
            let macs = macs.map(|mac| mac.map(|mac| mac.map(u16::to_ne_bytes)));
            hop.state == NEXT_HOP_VALID && macs == expected
        };
        wait::until("all is read anew", BUSY_MAX, || is_true().then_some(()));
        // What waited in the socket does not come true again.
        let watch = Watch::start();
        while watch.elapsed() < FOLLOWED {
            assert!(is_true(), "{:?}", bpf_fs.next_hops(8)[place]);
            thread::sleep(Duration::from_millis(1));
        }
        wait::until("the lost interface is told", BUSY_MAX, || {
            let gone =
                |line: &str| line.contains("the interface is gone") && line.contains("way-b");
            relay.log().lines().any(gone).then_some(())
        });
    });
}

/// The kernel's entry is another within a second of the change, not of its announcement: that is
/// a little stricter.
fn within_a_second(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_gateways(rig.object()));
    let (here, router) = (&topology.relay, &topology.routers[0]);
    let relay = Relay::start(rig, here, &two_gateways(&bpf_fs));
    let peer: SocketAddr = PEER.parse().unwrap();
    let [way_a, way_b] = ["way-a", "way-b"].map(|name| index_of(here, name));
    let mac = mac_of(router, "relay");
    with_echo(&topology.peer, peer, || {
        let client = warmed_up(&relay, &topology, |client| client.bind(peer));
        let place = place_of(&bpf_fs, way_a);
        let is_valid = |hop: &NextHop| hop.state == NEXT_HOP_VALID;
        let by_a = |hop: &NextHop| is_valid(hop) && hop.ifindex == way_a && hop.mtu == 1500;
        let by_b = |hop: &NextHop| is_valid(hop) && hop.ifindex == way_b;
        let small = |hop: &NextHop| is_valid(hop) && hop.mtu == 400;
        let invalid = |hop: &NextHop| !is_valid(hop);
        let last = |hop: &NextHop| hop.dst_mac[2].to_ne_bytes()[1];
        let ours = last(&bpf_fs.next_hops(8)[place]);
        let other = if ours == 0x99 { 0x98 } else { 0x99 };
        let neighbour = |mac: &str, state| {
            format!("neigh replace 10.77.4.2 lladdr {mac} dev way-a nud {state}")
        };
        let elsewhere = neighbour(&format!("02:00:00:00:00:{other:02x}"), "permanent");
        let home = neighbour(&mac, "reachable");
        let to_ours = |hop: &NextHop| by_a(hop) && last(hop) == ours;
        let to_other = |hop: &NextHop| by_a(hop) && last(hop) == other;
        let goes = "route replace 10.77.2.0/24 via 10.77.4.2";
        let up = format!("link set way-a up; {goes}");
        // There and back.
        let rounds = [
            [
                step(here, "route replace 10.77.2.0/24 via 10.77.5.2", &by_b),
                step(here, goes, &by_a),
            ],
            [
                step(here, "link set way-a mtu 400", &small),
                step(here, "link set way-a mtu 1500", &by_a),
            ],
            [
                step(here, "route replace 10.77.2.0/24 via 10.77.4.2 mtu lock 400", &small),
                step(here, goes, &by_a),
            ],
            [step(here, &elsewhere, &to_other), step(here, &home, &to_ours)],
            [
                step(router, "link set relay down", &invalid),
                step(router, "link set relay up", &by_a),
            ],
            [step(here, "link set way-a down", &invalid), step(here, &up, &by_a)],
        ];
        let next_hop = || bpf_fs.next_hops(8)[place];
        for round in &rounds {
            follow(round, next_hop);
        }
        neighbour_stays(here, &rounds[3], &rounds[2], next_hop);
        for (change, old) in [(&rounds[0][0], 0), (&rounds[0][1], 1)] {
            take(change, next_hop);
            none_by_the_old_gateway(&relay, &client, &topology.routers[old], old);
        }
    });
}

/// Who set a neighbour by hand keeps it, however often its routes are looked up.
fn neighbour_stays(
    here: &Namespace,
    [set, unset]: &[Step<'_>; 2],
    [change, back]: &[Step<'_>; 2],
    next_hop: impl Fn() -> NextHop,
) {
    for step in [set, change, back] {
        take(step, &next_hop);
    }
    let shown = here.ip("neigh show 10.77.4.2 dev way-a");
    assert!(shown.contains("PERMANENT"), "{shown}");
    take(unset, next_hop);
}

/// Once the next hop has followed, nothing goes by the old gateway, and nothing is lost.
fn none_by_the_old_gateway(relay: &Relay<'_>, client: &Client, router: &Namespace, old: usize) {
    let forwarded = || router.counter("Ip", "ForwDatagrams");
    let sent = || relay.metrics().relayed(Direction::ClientToPeer);
    // The way back is by the second router, whatever the way there.
    let back = if old == 1 { EXCHANGES } else { 0 };
    let before = (forwarded(), sent());
    for number in 0..EXCHANGES {
        let data = number.to_be_bytes();
        client.send(&data);
        assert_eq!(client.hear(BUSY_MAX), Some(Heard::Data(data.to_vec())));
    }
    let now = sent();
    assert_eq!((now.0 - before.1.0, now.1 - before.1.1), (EXCHANGES, 0), "by XDP");
    assert_eq!(forwarded() - before.0, back, "by the old gateway");
}

/// Changes something, and waits until the next hop follows; how long it took.
fn take(step: &Step<'_>, next_hop: impl Fn() -> NextHop) -> Duration {
    let watch = Watch::start();
    step.commands.iter().for_each(|command| drop(step.namespace.ip(command)));
    wait::until(step.commands[0], BUSY_MAX, || (step.follows)(&next_hop()).then_some(()));
    watch.elapsed()
}

/// There and back, until both were soon enough twice: once may be chance.
fn follow(round: &[Step<'_>; 2], next_hop: impl Fn() -> NextHop) {
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..TRIES {
        for (step, took) in round.iter().zip(&mut took) {
            took.push(take(step, &next_hop));
        }
        let soon = |took: &Vec<Duration>| took.iter().filter(|took| **took < FOLLOWED).count();
        if took.iter().all(|took| soon(took) >= 2) {
            return;
        }
    }
    panic!("{} and back: {took:?}", round[0].commands[0]);
}

/// Nobody must believe that XDP relays on an interface that is gone.
fn interface_goes(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let mode = |interface: &str, mode: &str| {
        let series = format!("turnpike_datapath_mode{{interface=\"{interface}\",mode=\"{mode}\"}}");
        relay.metrics().value(&series)
    };
    assert_eq!((mode("peers", "native"), mode("peers", "userspace")), (1, 0));
    topology.relay.ip("link del peers");
    wait::until("the interface is not said to relay", BUSY_MAX, || {
        (mode("peers", "native") == 0).then_some(())
    });
    assert_eq!((mode("peers", "userspace"), mode("clients", "native")), (1, 1));
    let log = relay.log();
    let told = log.lines().filter(|line| line.contains("the interface is gone"));
    let told: Vec<&str> = told.collect();
    assert!(told.len() == 1 && told[0].contains("peers"), "{log}");
}

/// Without VLAN devices it is no warning yet; answers stay.
fn hidden_tags(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    topology.relay.output("ethtool", "-K clients rxvlan on");
    topology.relay.output("ethtool", "-K peers rxvlan off rx-vlan-stag-hw-parse off");
    let plan = Plan { more: "log.level = \"debug\"", ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let told = |log: &str| {
        let mut told = log.lines().filter(|line| line.contains("keeps VLAN tags from XDP"));
        told.next().map(str::to_owned).map(|first| (first, told.count()))
    };
    let (line, more) = wait::until("the drivers were asked", BUSY_MAX, || told(&relay.log()));
    assert!(line.contains("ethtool -K clients rxvlan off") && more == 0, "{}", relay.log());
    assert!(!relay.log().contains("offloads are not known"), "{}", relay.log());
    assert_eq!(relay.metrics().value("turnpike_routes"), 2, "answers on both addresses");
}
