//! The kernel's data plane as userspace fills it: hairpins, lifetimes without userspace, limits,
//! and accounts. Clients and peers are our own, so that every packet is known.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;
use relay_common::wire::attribute::{AttributeType, xor_address};
use relay_common::wire::stun::{Class, Message};
use rustix::process::Signal;

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::robustness::{ask, binding};
use crate::topology::Topology;
use crate::wait::{self, Watch};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("hairpin_ipv4_clients", &[Namespaces, Xdp], |rig| hairpin(rig, [V4, V4], Family::V4)),
    ("hairpin_ipv6_clients", &[Namespaces, Xdp], |rig| hairpin(rig, [V6, V6], Family::V6)),
    ("hairpin_of_both_families", &[Namespaces, Xdp], |rig| hairpin(rig, [V4, V6], Family::V4)),
    ("indications_ipv4", &[Namespaces, Xdp], |rig| indications(rig, V4, Family::V4)),
    ("indications_ipv6", &[Namespaces, Xdp], |rig| indications(rig, V6, Family::V6)),
    ("indications_ipv4_client_ipv6_peer", &[Namespaces, Xdp], |r| indications(r, V4, Family::V6)),
    ("binding_requests_are_answered_by_xdp", &[Namespaces, Xdp], answered),
    ("binding_requests_are_left_to_userspace", &[Namespaces, Xdp], not_answered),
    ("kernel_relays_until_the_deadline_alone", &[Namespaces, Xdp], deadline_alone),
    ("policing_of_packets", &[Namespaces, Xdp], |rig| policing(rig, "packets", 1_000, 1_000)),
    ("policing_of_bytes", &[Namespaces, Xdp], |rig| policing(rig, "bytes", 400_000, 1_000)),
    ("accounts_are_exact", &[Namespaces, Xdp], accounts),
];

/// A client's address and its server's.
pub(crate) const V4: (&str, &str) = ("10.77.1.2:0", "10.77.1.1:3478");
pub(crate) const V6: (&str, &str) = ("[fd77:1::2]:0", "[fd77:1::1]:3478");
pub(crate) const PEER: &str = "10.77.2.2:4000";
/// The second of two shards has the relayed ports from here on.
const SECOND_SHARD: u16 = 50_128;
const BUSY_MAX: Duration = Duration::from_secs(20);
/// For what is sent and comes by itself.
const SOON: Duration = Duration::from_millis(500);

/// Two clients on different shards, each with a channel to the other's relayed address.
fn hairpin(rig: &Rig, of: [(&str, &str); 2], relayed: Family) {
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan { shards: 2, ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let on_shard = |is_second: bool, (from, server): (&str, &str)| {
        let wanted = |client: &Client| (client.relayed.port() >= SECOND_SHARD) == is_second;
        let mut all = (0..64).map(|_| Client::allocate_of(relayed, &topology.client, from, server));
        all.find(wanted).expect("one in 64 lands there")
    };
    let (mut a, mut b) = (on_shard(false, of[0]), on_shard(true, of[1]));
    a.bind(b.relayed);
    // Only one of both: userspace.
    b.permit(a.relayed);
    a.send(b"early");
    assert_eq!(b.hear(BUSY_MAX), Some(Heard::Indicated(a.relayed, b"early".to_vec())));
    assert_eq!(relay.metrics().value("turnpike_hairpins"), 0);
    b.bind(a.relayed);
    assert_eq!(relay.metrics().value("turnpike_hairpins"), 1);
    // Until the neighbours are known, userspace relays.
    for (from, to) in [(&a, &b), (&b, &a)] {
        let before = relay.metrics().verdicts(Reason::Hairpin);
        wait::until("packets take the hairpin", BUSY_MAX, || {
            from.send(b"?");
            let _ = to.hear(SOON);
            (relay.metrics().verdicts(Reason::Hairpin) > before).then_some(())
        });
        to.ignore_the_rest();
    }
    let before = relay.metrics();
    for number in 0..50u8 {
        for (from, to) in [(&a, &b), (&b, &a)] {
            from.send(&[number; 33]);
            assert_eq!(to.hear(BUSY_MAX), Some(Heard::Data(vec![number; 33])));
        }
    }
    let after = relay.metrics();
    assert_eq!(after.verdicts(Reason::Hairpin) - before.verdicts(Reason::Hairpin), 100);
    for direction in Direction::ALL {
        assert_eq!(after.relayed(direction).1, before.relayed(direction).1, "{direction:?}");
    }
    // One side goes: nothing of the hairpin stays.
    b.end();
    assert_eq!(relay.metrics().value("turnpike_hairpins"), 0);
    a.send(b"late");
    assert_eq!(b.hear(SOON), None);
}

/// Send and Data indications by XDP, to and from any port of a peer with a permission.
fn indications(rig: &Rig, (from, server): (&str, &str), relayed: Family) {
    let topology = Topology::two_armed(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let mut client = Client::allocate_of(relayed, &topology.client, from, server);
    let ip = if relayed == Family::V4 { "10.77.2.2" } else { "[fd77:2::2]" };
    let ports = [4000, 4001].map(|port| format!("{ip}:{port}"));
    let peers = ports.map(|peer| {
        let socket = topology.peer.within(|| UdpSocket::bind(&peer)).unwrap();
        socket.set_read_timeout(Some(BUSY_MAX)).unwrap();
        (peer.parse::<SocketAddr>().unwrap(), socket)
    });
    client.permit(peers[0].0);
    let exchange = |bytes: usize, (address, socket): &(SocketAddr, UdpSocket)| {
        let (data, mut datagram) = (vec![5; bytes], [0; 2_000]);
        client.send_to(*address, &data);
        let (length, from) = socket.recv_from(&mut datagram).unwrap();
        assert_eq!((&datagram[..length], from), (&data[..], client.relayed));
        socket.send_to(&data, from).unwrap();
        assert_eq!(client.hear(BUSY_MAX), Some(Heard::Indicated(*address, data)));
    };
    let counts = || {
        let metrics = relay.metrics();
        let of = |reason| metrics.verdicts(reason);
        [of(Reason::SendIndication), of(Reason::DataIndication), of(Reason::NoRoom)]
    };
    // Until the neighbours are known, userspace relays.
    wait::until("both go by XDP", BUSY_MAX, || {
        exchange(1, &peers[0]);
        (counts()[0] > 0 && counts()[1] > 0).then_some(())
    });
    let before = counts();
    for bytes in 0..100 {
        peers.iter().for_each(|peer| exchange(bytes, peer));
    }
    let after = counts();
    let [sent, came, too_tight] = [0, 1, 2].map(|index| after[index] - before[index]);
    // Some buffers of a veth have no room for padding at their end.
    assert_eq!((sent, came + too_tight), (200, 200), "{came} by XDP");
    assert!(came >= 150, "{came} by XDP");
}

/// Ten answers a second, and twenty at once: what is above is not answered by anybody.
fn answered(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let more = "limits.unauthenticated_replies_per_sec = 10";
    let relay = Relay::start(rig, &topology.relay, &Plan { more, ..Plan::two_armed("native") });
    let socket = topology.client.within(|| UdpSocket::bind("10.77.1.9:0")).unwrap();
    socket.connect(V4.1).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut sent = 0;
    let mut send = |times: u64| {
        (0..times).for_each(|_| assert!(socket.send(&binding(&[])).is_ok()));
        sent += times;
        sent
    };
    // The first ones wait for the relay's MAC address.
    wait::until("XDP answers", BUSY_MAX, || {
        send(20);
        (relay.metrics().verdicts(Reason::BindingAnswered) > 0).then_some(())
    });
    let mut answer = [0; 200];
    while socket.recv(&mut answer).is_ok() {}
    let sent = send(200);
    let mut answers = 0;
    while let Ok(length) = socket.recv(&mut answer) {
        let message = Message::parse(&answer[..length]).unwrap();
        let seen = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        let seen = xor_address(seen, message.transaction_id());
        assert_eq!(seen, Some(socket.local_addr().unwrap()));
        answers += 1;
    }
    let metrics = relay.metrics();
    let judged = [Reason::BindingAnswered, Reason::BindingOverBudget];
    let judged = judged.map(|reason| metrics.verdicts(reason));
    assert_eq!(judged.iter().sum::<u64>(), sent, "{}", metrics.0);
    assert!(judged[1] > 0, "{}", metrics.0);
    // Twenty at once by either, and a few of the seconds that this takes.
    assert!(answers < 150, "{answers}");
}

fn not_answered(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan { answer_binding: false, ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let answer = ask(&topology.client, &binding(&[]));
    assert_eq!(Message::parse(&answer).unwrap().class(), Class::Success);
    assert_eq!(relay.metrics().verdicts(Reason::BindingAnswered), 0);
}

/// An allocation whose packets to the peer go by XDP, and come back.
pub(crate) fn warmed_up(
    relay: &Relay<'_>,
    topology: &Topology,
    bound: impl FnOnce(&mut Client),
) -> Client {
    let mut client = Client::allocate(&topology.client, V4.0, V4.1);
    bound(&mut client);
    wait::until("packets go by XDP", BUSY_MAX, || {
        client.send(b"?");
        let _ = client.hear(SOON);
        let metrics = relay.metrics();
        Direction::ALL.iter().all(|way| metrics.relayed(*way).0 > 0).then_some(())
    });
    client.ignore_the_rest();
    client
}

/// Userspace is stopped dead: relaying goes on until the allocation's deadline, and not longer.
fn deadline_alone(rig: &Rig) {
    const LIFETIME: Duration = Duration::from_secs(8);
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan {
        more: "limits.lifetime_secs_default = 8\nlimits.lifetime_secs_max = 8",
        ..Plan::two_armed("native")
    };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let peer: SocketAddr = PEER.parse().unwrap();
    with_echo(&topology.peer, peer, || {
        // The same path again, so that neighbours are known when it counts.
        drop(warmed_up(&relay, &topology, |client| client.bind(peer)));
        let asked = Watch::start();
        let mut client = Client::allocate(&topology.client, V4.0, V4.1);
        let answered = Watch::start();
        client.bind(peer);
        relay.signal(Signal::STOP);
        let (mut last_heard, mut last_sent) = (Duration::ZERO, Duration::ZERO);
        // The time at which a message was sent is in it.
        while answered.elapsed() < LIFETIME + Duration::from_secs(2) {
            last_sent = answered.elapsed();
            client.send(&u64::try_from(last_sent.as_nanos()).unwrap().to_be_bytes());
            while let Some(Heard::Data(sent)) = client.hear(Duration::from_millis(20)) {
                let sent = u64::from_be_bytes(sent.try_into().unwrap());
                last_heard = last_heard.max(Duration::from_nanos(sent));
            }
        }
        // The kernel's coarse clock is a tick late at most, ten milliseconds.
        let over = LIFETIME + Duration::from_millis(20);
        assert!(last_sent > over, "{last_sent:?}");
        assert!(last_heard < over, "sent {last_heard:?} after the answer, and relayed");
        let early = asked.elapsed() - answered.elapsed() + Duration::from_secs(2);
        assert!(last_heard > LIFETIME - early, "the last was sent {last_heard:?} after the answer");
        // What waited in sockets is of an allocation that is over.
        relay.signal(Signal::CONT);
        wait::until("the relay is awake", BUSY_MAX, || relay.get("/healthz"));
        assert_eq!(client.hear(SOON), None);
    });
}

/// A sender of three times the rate gets the rate, within 2 %. `rate` is of packets or of bytes.
fn policing(rig: &Rig, what: &str, rate: u64, bytes_each: usize) {
    let topology = Topology::two_armed(Some(rig.object()));
    let more = match what {
        "packets" => "limits.allocation_packets_per_sec = 1000",
        _ => "limits.allocation_bytes_per_sec = 400000",
    };
    let relay = Relay::start(rig, &topology.relay, &Plan { more, ..Plan::two_armed("native") });
    let packets_per_sec = if what == "packets" { rate } else { rate / bytes_each as u64 };
    let peer: SocketAddr = PEER.parse().unwrap();
    let client = with_echo(&topology.peer, peer, || {
        warmed_up(&relay, &topology, |client| client.bind(peer))
    });
    // A full bucket to start from.
    thread::sleep(Duration::from_millis(200));
    let _sink = topology.peer.within(|| UdpSocket::bind(PEER)).unwrap();
    let before = relay.metrics();
    let data = vec![0; bytes_each];
    let (watch, burst) = (Watch::start(), Duration::from_millis(100));
    // Time in which a sender that was not scheduled let its share go by.
    let (mut idle, mut last, mut sent) = (Duration::ZERO, Duration::ZERO, 0u64);
    while last < Duration::from_secs(4) {
        let due = u64::try_from(last.as_micros()).unwrap() * packets_per_sec * 3 / 1_000_000;
        let now_due = due.min(sent + 100);
        (sent..now_due).for_each(|_| client.send(&data));
        sent = sent.max(now_due);
        thread::sleep(Duration::from_millis(1));
        let now = watch.elapsed();
        idle += (now - last).saturating_sub(burst / 2);
        last = now;
    }
    // What is under way arrives; what was admitted, within this time.
    let took = watch.elapsed();
    let admitted = wait::until("all packets are judged", BUSY_MAX, || {
        let metrics = relay.metrics();
        let way = Direction::ClientToPeer;
        let admitted = metrics.relayed(way).0 - before.relayed(way).0;
        let policed = metrics.verdicts(Reason::Policed) - before.verdicts(Reason::Policed);
        (admitted + policed >= sent).then_some(admitted)
    });
    assert!(
        sent >= 2 * admitted,
        "{sent} offered, {admitted} admitted: the test offers too little"
    );
    let share = |time: Duration| packets_per_sec as f64 * time.as_secs_f64();
    // The clock of the program lags by up to a tick of the machine: at first perhaps by more.
    let tick = Duration::from_millis(10);
    let (least, most) = (0.98 * share(took + burst - idle), share(took + burst + tick) + 1.0);
    let shown = format!("{admitted} of {sent} in {took:?}, {idle:?} of it idle");
    assert!(admitted as f64 >= least, "{shown}: less than {least}");
    assert!(admitted as f64 <= most, "{shown}: more than {most}");
}

/// What an allocation's end says is what its peer and its client got, by whichever path.
fn accounts(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let plan = Plan { more: "log.level = \"debug\"", shards: 1, ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let peer: SocketAddr = PEER.parse().unwrap();
    let socket = topology.peer.within(|| UdpSocket::bind(peer)).unwrap();
    socket.set_read_timeout(Some(BUSY_MAX)).unwrap();
    let mut client = Client::allocate(&topology.client, V4.0, V4.1);
    client.permit(peer);
    let (mut to_peer, mut to_client) = ((0, 0), (0, 0));
    let mut datagram = [0; 2_000];
    // Before and after the binding; the first packets find no neighbour and go by userspace.
    for round in 0..300usize {
        if round == 100 {
            client.bind(peer);
        }
        let data = vec![1; round];
        if round < 100 {
            client.send_to(peer, &data);
        } else {
            client.send(&data);
        }
        let (bytes, from) = socket.recv_from(&mut datagram).unwrap();
        assert_eq!((bytes, from), (round, client.relayed));
        to_peer = (to_peer.0 + 1, to_peer.1 + bytes);
        socket.send_to(&datagram[..bytes / 2], from).unwrap();
        let heard = match client.hear(BUSY_MAX).unwrap() {
            Heard::Data(data) => data.len(),
            Heard::Indicated(_, data) => data.len(),
            Heard::Icmp(..) => panic!("nothing was refused"),
        };
        to_client = (to_client.0 + 1, to_client.1 + heard);
    }
    let metrics = relay.metrics();
    assert!(Direction::ALL.iter().all(|way| metrics.relayed(*way).0 > 150), "{}", metrics.0);
    client.end();
    let expected = format!("to_peer_packets={} to_peer_bytes={} ", to_peer.0, to_peer.1,);
    let expected_too =
        format!("to_client_packets={} to_client_bytes={} ", to_client.0, to_client.1);
    let line = wait::until("the end is logged", BUSY_MAX, || {
        let log = relay.log();
        log.lines().find(|line| line.contains("an allocation ended")).map(str::to_owned)
    });
    assert!(line.contains(&expected) && line.contains(&expected_too), "{line}: not {expected}");
}
