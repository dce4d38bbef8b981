//! DONT-FRAGMENT (RFC 8656 §14): such a datagram leaves with DF set, or the client is told that it
//! is too big for the link.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use relay_common::wire::attribute::Icmp;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Test;
use crate::client::{Client, Heard};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("dont_fragment_by_userspace", &[Namespaces], |rig| whole(rig, "userspace")),
    ("dont_fragment_beside_native_xdp", &[Namespaces, Xdp], |rig| whole(rig, "native")),
];

const PEER: &str = "10.77.2.2:7000";
/// What the link to the peer carries, bytes.
const MTU: u32 = 1300;
const LONG: Duration = Duration::from_secs(30);

/// Everything of UDP that arrives in a namespace, with its IPv4 header.
struct Arrivals(Socket);

impl Arrivals {
    fn new(namespace: &Namespace) -> Self {
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
        let socket = namespace.within(open);
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Self(socket)
    }

    /// Whether the next datagram with this data has DF set; `None`: it does not come.
    fn df_of(&self, data: &[u8]) -> Option<bool> {
        let mut packet = [0; 2_000];
        for _ in 0..1_000 {
            match (&self.0).read(&mut packet) {
                // Without options: 20 bytes, and 8 of UDP.
                Ok(length) if packet[..length].get(28..) == Some(data) => {
                    return Some(packet[6] & 0x40 != 0);
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    return None;
                }
            }
        }
        panic!("other things come");
    }
}

fn whole(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode != "userspace"));
    topology.peer.ip(&format!("link set eth0 mtu {MTU}"));
    topology.relay.ip(&format!("link set peers mtu {MTU}"));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    let arrivals = Arrivals::new(&topology.peer);
    let peer: SocketAddr = PEER.parse().unwrap();
    let mut client = Client::allocate(&topology.client, "10.77.1.2:0", "10.77.1.1:3478");
    client.permit(peer);
    let df = |send: &dyn Fn(&[u8]), data: &[u8]| {
        wait::until("a datagram arrives", LONG, || {
            send(data);
            arrivals.df_of(data)
        })
    };
    let plain = |data: &[u8]| client.send_to(peer, data);
    let whole = |data: &[u8]| client.send_whole_to(peer, data);
    // Of what XDP relays, DF is the client's.
    for round in 0..3 {
        assert!(df(&whole, &[round; 1_000]), "it was asked for");
        assert!(mode != "userspace" || !df(&plain, &[round; 999]), "it was not");
    }
    // Nobody is there: that is told before, and must not take the place of what comes.
    client.ignore_the_rest();
    let lost = || relay.metrics().value("turnpike_userspace_drops_total{reason=\"dont_fragment\"}");
    let before = lost();
    let told = Heard::Icmp(peer, Icmp { kind: 3, code: 4, data: MTU });
    wait::until("the client is told that it is too big", LONG, || {
        client.send_whole_to(peer, &[9; 1_400]);
        (client.hear(Duration::from_secs(1)).as_ref() == Some(&told)).then_some(())
    });
    assert!(lost() > before);
    client.ignore_the_rest();
    // The socket is as it was: what may be fragmented is, and relaying goes on.
    client.send_to(peer, &[9; 1_400]);
    assert!(df(&whole, &[8; 1_000]));
}
