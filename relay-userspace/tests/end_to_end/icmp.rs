//! ICMP errors about relayed datagrams reach the client (RFC 8656 §11.5), whoever sent the packet:
//! userspace or XDP. And no number of them stops the relay.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use relay_common::abi::Direction;
use relay_common::wire::attribute::Icmp;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::client::{Client, Ends, Heard, with_echo};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("icmp_unreachable_by_userspace", &[Namespaces], |rig| unreachable(rig, "userspace")),
    ("icmp_unreachable_by_native_xdp", &[Namespaces, Xdp], |rig| unreachable(rig, "native")),
    ("icmp_too_big_by_userspace", &[Namespaces], too_big_by_userspace),
    ("icmp_too_big_by_native_xdp", &[Namespaces, Xdp], too_big_by_native_xdp),
    ("icmp_needs_a_permission", &[Namespaces], needs_a_permission),
    ("icmp_flood_does_not_stop_the_relay", &[Namespaces], flood),
];

/// For [`Topology::two_armed`]: client, server, a peer's address without anybody on it.
const TWO_ARMED: [(&str, &str, &str); 2] = [
    ("10.77.1.2:0", "10.77.1.1:3478", "10.77.2.2:7000"),
    ("[fd77:1::2]:0", "[fd77:1::1]:3478", "[fd77:2::2]:7000"),
];
/// For [`Topology::behind_router`].
const BEHIND_ROUTER: [(&str, &str, &str); 2] = [
    ("10.77.1.2:0", "10.77.3.1:3478", "10.77.2.2:7000"),
    ("[fd77:1::2]:0", "[fd77:3::1]:3478", "[fd77:2::2]:7000"),
];
/// What the router's link to the peer carries, bytes.
const MTU: u32 = 1300;
/// Application data that fits into 1500 bytes with all headers, and not into [`MTU`].
const BIG: [u8; 1400] = [7; 1400];
const LONG: Duration = Duration::from_secs(30);

fn port_unreachable(peer: SocketAddr) -> Heard {
    let (kind, code) = if peer.is_ipv4() { (3, 3) } else { (1, 4) };
    Heard::Icmp(peer, Icmp { kind, code, data: 0 })
}

fn too_big(peer: SocketAddr) -> Heard {
    let (kind, code) = if peer.is_ipv4() { (3, 4) } else { (2, 0) };
    Heard::Icmp(peer, Icmp { kind, code, data: MTU })
}

/// Sends until something is heard. Routers limit how many errors they send.
fn send_until_heard(client: &Client, data: &[u8]) -> Heard {
    wait::until("something comes", LONG, || {
        client.send(data);
        client.hear(Duration::from_millis(300))
    })
}

/// Sends until XDP relays it, and lets pass by what comes of that.
fn warm_up(relay: &Relay<'_>, client: &Client, data: &[u8]) {
    let by_xdp = || relay.metrics().relayed(Direction::ClientToPeer).0;
    let before = by_xdp();
    wait::until("XDP relays", LONG, || {
        client.send(data);
        (by_xdp() > before).then_some(())
    });
    client.ignore_the_rest();
}

/// What is heard of a datagram that XDP relayed, and not userspace. A neighbour that the kernel
/// asks for again in between costs a try.
fn send_by_xdp_until_heard(relay: &Relay<'_>, client: &Client, data: &[u8]) -> Heard {
    let relayed = || relay.metrics().relayed(Direction::ClientToPeer);
    for _ in 0..5 {
        let before = relayed();
        let heard = send_until_heard(client, data);
        let after = relayed();
        if after.0 > before.0 && after.1 == before.1 {
            return heard;
        }
        client.ignore_the_rest();
    }
    panic!("XDP does not relay:\n{}", relay.metrics().0);
}

fn unreachable(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode != "userspace"));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    for (from, server, peer) in TWO_ARMED {
        let peer = peer.parse().unwrap();
        let mut client = Client::allocate(&topology.client, from, server);
        client.bind(peer);
        if mode == "userspace" {
            assert_eq!(send_until_heard(&client, b"anybody?"), port_unreachable(peer));
        } else {
            warm_up(&relay, &client, b"anybody?");
            let heard = send_by_xdp_until_heard(&relay, &client, b"anybody?");
            assert_eq!(heard, port_unreachable(peer));
        }
        // Receiving was not stopped by it, nor sending.
        let heard = with_echo(&topology.peer, peer, || {
            client.ignore_the_rest();
            send_until_heard(&client, b"now?")
        });
        assert_eq!(heard, Heard::Data(b"now?".to_vec()));
    }
}

/// A router with a small MTU between relay and peer.
fn small_mtu(rig: &Rig, mode: &str) -> Topology {
    let topology = Topology::behind_router(rig.object.as_deref().filter(|_| mode != "userspace"));
    let router = &topology.routers[0];
    router.ip(&format!("link set peers mtu {MTU}"));
    topology.peer.ip(&format!("link set eth0 mtu {MTU}"));
    topology
}

/// IPv4 leaves without DF, and the router makes fragments of it. IPv6 routers do not: the client
/// is told, and the kernel makes fragments of what comes later.
fn too_big_by_userspace(rig: &Rig) {
    let topology = small_mtu(rig, "userspace");
    let _relay = Relay::start(rig, &topology.relay, &Plan::behind_router("userspace"));
    for (from, server, peer) in BEHIND_ROUTER {
        let peer = peer.parse().unwrap();
        let mut client = Client::allocate(&topology.client, from, server);
        client.bind(peer);
        let heard = with_echo(&topology.peer, peer, || {
            if peer.is_ipv6() {
                assert_eq!(send_until_heard(&client, &BIG), too_big(peer));
                client.ignore_the_rest();
            }
            send_until_heard(&client, &BIG)
        });
        assert!(heard == Heard::Data(BIG.to_vec()), "{peer}: {heard:?}");
    }
}

/// XDP copies DF, which the client's kernel sets.
fn too_big_by_native_xdp(rig: &Rig) {
    let topology = small_mtu(rig, "native");
    let relay = Relay::start(rig, &topology.relay, &Plan::behind_router("native"));
    for (from, server, peer) in BEHIND_ROUTER {
        let peer = peer.parse().unwrap();
        let mut client = Client::allocate(&topology.client, from, server);
        client.bind(peer);
        warm_up(&relay, &client, b"small");
        let heard = send_by_xdp_until_heard(&relay, &client, &BIG);
        assert_eq!(heard, too_big(peer));
    }
}

/// Errors are forged here: without a permission no datagram leaves that could cause one.
fn needs_a_permission(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("userspace"));
    let (from, server, peer) = TWO_ARMED[0];
    let peer = peer.parse().unwrap();
    let mut client = Client::allocate(&topology.client, from, server);
    // The sender of the error may have a permission; it does not matter.
    client.permit("10.77.2.9:7000".parse().unwrap());
    let socket = raw(&topology.peer);
    let count = |outcome: &str| {
        relay.metrics().value(&format!("turnpike_icmp_total{{outcome=\"{outcome}\"}}"))
    };
    wait::until("the error is counted", LONG, || {
        forge(&socket, &client, peer);
        (count("no_permission") > 0).then_some(())
    });
    assert_eq!(client.hear(Duration::from_millis(300)), None);
    assert_eq!(count("relayed"), 0);
    client.permit(peer);
    let heard = wait::until("the error is told", LONG, || {
        forge(&socket, &client, peer);
        client.hear(Duration::from_millis(300))
    });
    assert_eq!(heard, port_unreachable(peer));
    assert!(count("relayed") > 0);
}

/// The relay hears some errors a second, and no more, however many there are.
fn flood(rig: &Rig) {
    /// Datagrams there and back, one after the other.
    const COUNT: u32 = 300;
    /// As `relay-userspace/src/icmp.rs` has it.
    const HEARD_PER_SEC: u64 = 64;
    let topology = Topology::two_armed(None);
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("userspace"));
    let (from, server, peer) = TWO_ARMED[0];
    let peer: SocketAddr = peer.parse().unwrap();
    let mut client = Client::allocate(&topology.client, from, server);
    client.bind(peer);
    let socket = raw(&topology.peer);
    let is_over = AtomicBool::new(false);
    let (lost, duration) = wait::timed(|| {
        thread::scope(|scope| {
            let _ends = Ends(&is_over);
            scope.spawn(|| {
                for _ in 0..20_000_000 {
                    forge(&socket, &client, peer);
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let muted = || relay.metrics().value("turnpike_icmp_muted_total");
            wait::until("errors are too many", LONG, || (muted() > 0).then_some(()));
            let echoed = || (0..COUNT).filter(|number| !comes_back(&client, *number)).count();
            with_echo(&topology.peer, peer, echoed)
        })
    });
    // Errors and datagrams share a receive buffer, until the errors are too many.
    assert!(lost <= 30, "{lost} of {COUNT} lost");
    let metrics = relay.metrics();
    let count = |outcome| metrics.value(&format!("turnpike_icmp_total{{outcome=\"{outcome}\"}}"));
    let (told, untold) = (count("relayed"), count("rate_limited"));
    assert!(told > 0 && untold > 0, "{told} told, {untold} not");
    let heard_max = HEARD_PER_SEC * (duration.as_secs() + 2);
    assert!(told + untold <= heard_max, "{told} + {untold} in {duration:?}");
    let log = relay.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// Whether a datagram comes back from the peer, among ICMP errors.
fn comes_back(client: &Client, number: u32) -> bool {
    let data = number.to_be_bytes();
    client.send(&data);
    for _ in 0..1_000 {
        match client.hear(Duration::from_millis(500)) {
            Some(Heard::Data(heard)) if heard == data => return true,
            // A late one, or an error.
            Some(Heard::Data(_) | Heard::Indicated(..) | Heard::Icmp(..)) => {}
            None => return false,
        }
    }
    false
}

/// Sends ICMP messages of our own making from 10.77.2.9, which is nobody's peer.
fn raw(namespace: &Namespace) -> Socket {
    let protocol = Some(Protocol::ICMPV4);
    let socket = namespace.within(|| Socket::new(Domain::IPV4, Type::RAW, protocol)).unwrap();
    socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::new(10, 77, 2, 9), 0))).unwrap();
    socket
}

/// Claims that nobody has the port of the peer that a relayed datagram was for.
fn forge(socket: &Socket, client: &Client, peer: SocketAddr) {
    let (SocketAddr::V4(relayed), SocketAddr::V4(peer)) = (client.relayed, peer) else {
        panic!("IPv4 only");
    };
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0]);
    message.extend(relayed.ip().octets());
    message.extend(peer.ip().octets());
    message.extend(relayed.port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    message.extend([0, 8, 0, 0]);
    let words = message.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xFFFF) + (folded >> 16)).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let to = SocketAddr::from(SocketAddrV4::new(*relayed.ip(), 0));
    socket.send_to(&message, &to.into()).unwrap();
}
