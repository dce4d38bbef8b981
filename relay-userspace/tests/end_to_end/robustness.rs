//! Bad input, on every port that the relay has open: it goes nowhere, traffic goes on meanwhile,
//! and the relay answers and relays afterwards as before.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Class, MAGIC_COOKIE, Message, Method, message_type};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::clients::{Run, peer};
use crate::junk::Junk;
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::relaying::IPV4;
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("bad_input_by_native_xdp", &[Namespaces, Xdp, Clients], |rig| bad_input(rig, "native")),
    ("bad_input_by_userspace", &[Namespaces, Clients], |rig| bad_input(rig, "userspace")),
    ("a_blocked_link_does_not_stall_the_relay", &[Namespaces, Clients], blocked_link),
    ("unknown_attributes_are_answered_with_420", &[Namespaces], unknown_attributes),
];

const SERVER: &str = "10.77.1.1:3478";
/// Datagrams of each kind and direction.
const COUNT: usize = 1_500;
/// After this many the sender rests, so that the junk is heard and not lost in a full queue.
const BURST: usize = 10;
const REST: Duration = Duration::from_millis(1);
/// What a client must understand or refuse (RFC 8489 §14), and nobody has defined.
const UNKNOWN_ATTRIBUTE: u16 = 0x7FFE;

fn bad_input(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode != "userspace"));
    let mut relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    let _peer = peer(&topology.peer, IPV4.peer);
    // Relayed ports are open while the client runs; nobody permitted who sends the junk.
    thread::scope(|scope| {
        scope.spawn(|| IPV4.pass(&topology.client));
        send_junk(&topology);
    });
    assert!(relay.is_alive());
    let answer = ask(&topology.client, &binding(&[]));
    let answer = Message::parse(&answer).unwrap();
    assert_eq!((answer.class(), answer.method()), (Class::Success, Method::BINDING));
    assert!(answer.attribute(AttributeType::XOR_MAPPED_ADDRESS).is_some());
    Run { clients: 1, messages: 50, ..IPV4 }.pass(&topology.client);

    let metrics = relay.metrics();
    let up = metrics.0.lines().filter(|line| line.starts_with("turnpike_shard_up{"));
    assert!(up.clone().all(|line| line.ends_with(" 1")) && up.count() > 0, "{}", metrics.0);
    let dropped = metrics.0.lines().filter(|l| l.starts_with("turnpike_userspace_drops_total{"));
    let dropped: Vec<&str> = dropped.filter(|line| !line.ends_with(" 0")).collect();
    let sum: u64 =
        dropped.iter().map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert!(usize::try_from(sum).unwrap() > COUNT, "hardly any junk arrived: {dropped:?}");
    let log = relay.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// A link that takes five packets a second fills the relayed sockets' send buffers. What does not
/// fit is lost and counted; the shard's buffers stay free for everybody else.
fn blocked_link(rig: &Rig) {
    let topology = Topology::two_armed(None);
    topology
        .relay
        .output("tc", "qdisc add dev peers root tbf rate 8kbit burst 3000 limit 64000000");
    let relay =
        Relay::start(rig, &topology.relay, &Plan { shards: 1, ..Plan::two_armed("userspace") });
    let flood = Run { clients: 20, messages: 10_000, ..IPV4 };
    let _flood = flood.start(&topology.client);
    let lost = "turnpike_userspace_drops_total{reason=\"send_error\"}";
    wait::until("packets do not fit", Duration::from_secs(40), || {
        (relay.metrics().value(lost) > 500).then_some(())
    });
    let answer = ask(&topology.client, &binding(&[]));
    assert_eq!(Message::parse(&answer).unwrap().class(), Class::Success);
}

fn unknown_attributes(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let _relay = Relay::start(rig, &topology.relay, &Plan::two_armed("userspace"));
    let attribute = [UNKNOWN_ATTRIBUTE.to_be_bytes(), [0, 0]].concat();
    let answer = ask(&topology.client, &binding(&attribute));
    let answer = Message::parse(&answer).unwrap();
    assert_eq!((answer.class(), answer.method()), (Class::Error, Method::BINDING));
    let code = answer.attribute(AttributeType::ERROR_CODE).unwrap();
    assert_eq!(code[..4], [0, 0, 4, 20]);
    let unknown = answer.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap();
    assert_eq!(unknown[..2], UNKNOWN_ATTRIBUTE.to_be_bytes());
}

/// Everything at once: both families and raw packets to the listening port, datagrams and raw
/// packets to every relayed port.
fn send_junk(topology: &Topology) {
    let mut junk = Junk::from_environment();
    let client = socket(&topology.client, "10.77.1.9:0");
    let client_v6 = socket(&topology.client, "[fd77:1::2]:0");
    let peer = socket(&topology.peer, "10.77.2.9:0");
    let (raw_client, raw_peer) = (raw(&topology.client), raw(&topology.peer));
    let sent = |result: std::io::Result<usize>| {
        // Nobody listens on most relayed ports: the last datagram's ICMP error shows here.
        if let Err(error) = result {
            let kind = error.kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "{error}");
        }
    };
    let raw_to = |ip: [u8; 4]| SockAddr::from(SocketAddr::from((ip, 0)));
    for (index, port) in (0..COUNT).zip((50_000..50_256u16).cycle()) {
        sent(client.send_to(&junk.datagram(), SERVER));
        sent(client_v6.send_to(&junk.datagram(), "[fd77:1::1]:3478"));
        sent(peer.send_to(&junk.datagram(), ("10.77.2.1", port)));
        let packet = junk.packet([10, 77, 1, 9], [10, 77, 1, 1], 3478);
        sent(raw_client.send_to(&packet, &raw_to([10, 77, 1, 1])));
        let packet = junk.packet([10, 77, 2, 9], [10, 77, 2, 1], port);
        sent(raw_peer.send_to(&packet, &raw_to([10, 77, 2, 1])));
        if index % BURST == 0 {
            thread::sleep(REST);
        }
    }
}

fn socket(namespace: &Namespace, from: &str) -> UdpSocket {
    namespace.within(|| UdpSocket::bind(from)).unwrap()
}

/// Sends packets with headers of our own making.
fn raw(namespace: &Namespace) -> Socket {
    const IPPROTO_RAW: i32 = 255;
    let protocol = Some(Protocol::from(IPPROTO_RAW));
    namespace.within(|| Socket::new(Domain::IPV4, Type::RAW, protocol)).unwrap()
}

/// A Binding request.
pub(crate) fn binding(attributes: &[u8]) -> Vec<u8> {
    let mut request = message_type(Class::Request, Method::BINDING).to_be_bytes().to_vec();
    request.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    request.extend(MAGIC_COOKIE.to_be_bytes());
    request.extend(*b"transaction!");
    request.extend(attributes);
    request
}

/// Asks until there is an answer.
pub(crate) fn ask(namespace: &Namespace, request: &[u8]) -> Vec<u8> {
    let socket = socket(namespace, "10.77.1.2:0");
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    wait::until("the relay answers", Duration::from_secs(10), || {
        socket.send_to(request, SERVER).unwrap();
        let mut answer = vec![0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        Some(answer)
    })
}
