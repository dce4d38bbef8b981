//! An allocation with a relayed transport address of each family (RFC 8656 §7.2): a client of one
//! family and peers of both.

use std::net::SocketAddr;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};
use relay_common::addr::Family;

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("families_both_by_userspace", &[Namespaces], |rig| both(rig, "userspace")),
    ("families_both_by_native_xdp", &[Namespaces, Xdp], |rig| both(rig, "native")),
    ("families_both_by_hairpin", &[Namespaces, Xdp], hairpin),
];

/// Client and server, of each family.
const CLIENTS: [(&str, &str); 2] =
    [("10.77.1.2:0", "10.77.1.1:3478"), ("[fd77:1::2]:0", "[fd77:1::1]:3478")];
const PEERS: [&str; 2] = ["10.77.2.2:7000", "[fd77:2::2]:7000"];
const LONG: Duration = Duration::from_secs(30);

fn both(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode != "userspace"));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed(mode));
    let [v4, v6]: [SocketAddr; 2] = PEERS.map(|peer| peer.parse().unwrap());
    with_echo(&topology.peer, v4, || {
        with_echo(&topology.peer, v6, || {
            // One by a channel, the other by indications; then the other way round.
            let peers = [(v4, v6), (v6, v4)];
            for ((from, server), (bound, permitted)) in CLIENTS.into_iter().zip(peers) {
                let mut client = Client::allocate_both(&topology.client, from, server);
                assert!(client.relayed.is_ipv4());
                assert!(client.relayed_v6.is_some_and(|relayed| relayed.is_ipv6()));
                client.permit(permitted);
                client.bind(bound);
                echoes(&relay, mode, &client, bound, permitted);
                one_ends(&relay, mode, &mut client, bound, permitted);
                client.end();
            }
        });
    });
    let gauge = |name: &str| relay.metrics().value(name);
    wait::until("nothing is left", LONG, || {
        let left = gauge("turnpike_permissions") + gauge("turnpike_channels");
        (left == 0).then_some(())
    });
}

/// Both peers answer, and XDP relays what it can.
fn echoes(
    relay: &Relay<'_>,
    mode: &str,
    client: &Client,
    bound: SocketAddr,
    permitted: SocketAddr,
) {
    let relayed = || Direction::ALL.map(|direction| relay.metrics().relayed(direction).0);
    let before = relayed();
    wait::until("the peer with a channel answers, by XDP if there is one", LONG, || {
        client.send(b"on a channel");
        let heard = client.hear(Duration::from_secs(1));
        let by_xdp = relayed().iter().zip(before).all(|(now, before)| *now > before);
        let is_data = heard == Some(Heard::Data(b"on a channel".to_vec()));
        (is_data && (by_xdp || mode == "userspace")).then_some(())
    });
    client.ignore_the_rest();
    let before = relayed();
    wait::until("the peer without a channel answers, by XDP if there is one", LONG, || {
        client.send_to(permitted, b"by an indication");
        let heard = client.hear(Duration::from_secs(1));
        let by_xdp = relayed().iter().zip(before).all(|(now, before)| *now > before);
        let is_data = heard == Some(Heard::Indicated(permitted, b"by an indication".to_vec()));
        (is_data && (by_xdp || mode == "userspace")).then_some(())
    });
    client.ignore_the_rest();
    // Send indications to the other one as well, whoever relays them.
    wait::until("an indication leads to the peer with a channel too", LONG, || {
        client.send_to(bound, b"both");
        let heard = client.hear(Duration::from_secs(1));
        (heard == Some(Heard::Data(b"both".to_vec()))).then_some(())
    });
    client.ignore_the_rest();
}

/// Without one of its families the allocation relays to the other.
fn one_ends(
    relay: &Relay<'_>,
    mode: &str,
    client: &mut Client,
    bound: SocketAddr,
    permitted: SocketAddr,
) {
    let routes = || relay.metrics().value("turnpike_routes");
    let (before, is_by_xdp) = (routes(), mode != "userspace");
    client.end_of(Family::of(permitted.ip()));
    // Its permission came first, so the route of Send indications was of its relayed transport
    // address: another client may soon have that.
    assert_eq!(before - routes(), u64::from(is_by_xdp));
    let denied = || relay.metrics().value("turnpike_userspace_drops_total{reason=\"peer_denied\"}");
    let before = denied();
    wait::until("userspace finds nowhere to send from", LONG, || {
        client.send_to(permitted, b"gone");
        (denied() > before).then_some(())
    });
    assert_eq!(client.hear(Duration::from_millis(300)), None);
    wait::until("the other peer still answers", LONG, || {
        client.send(b"still here");
        let heard = client.hear(Duration::from_secs(1));
        (heard == Some(Heard::Data(b"still here".to_vec()))).then_some(())
    });
    client.ignore_the_rest();
    wait::until("and by indications", LONG, || {
        client.send_to(bound, b"still here");
        let heard = client.hear(Duration::from_secs(1));
        (heard == Some(Heard::Data(b"still here".to_vec()))).then_some(())
    });
}

/// Two clients reach each other by their IPv6 addresses; those of IPv4 are something else.
fn hairpin(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("native"));
    let [mut a, mut b] =
        CLIENTS.map(|(from, server)| Client::allocate_both(&topology.client, from, server));
    let hairpins = || relay.metrics().value("turnpike_hairpins");
    a.bind(b.relayed_v6.unwrap());
    b.bind(a.relayed_v6.unwrap());
    assert_eq!(hairpins(), 1);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let before = relay.metrics().verdicts(Reason::Hairpin);
        wait::until("packets take the hairpin", LONG, || {
            from.send(b"hello");
            let heard = to.hear(Duration::from_secs(1));
            let by_xdp = relay.metrics().verdicts(Reason::Hairpin) > before;
            (by_xdp && heard == Some(Heard::Data(b"hello".to_vec()))).then_some(())
        });
        to.ignore_the_rest();
    }
    a.end_of(Family::V4);
    assert_eq!(hairpins(), 1);
    b.end_of(Family::V6);
    assert_eq!(hairpins(), 0);
}
