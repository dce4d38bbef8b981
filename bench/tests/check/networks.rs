//! In networks with known troubles: client, router and server in namespaces of their own.
//!
//! ```text
//! client eth0 ───────── in router out ───────── eth0 server
//! 192.168.7.2  192.168.7.1     11.0.0.9   11.0.0.1, 11.0.0.2
//! ```
//!
//! The server's addresses look public, and exist only there.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::lab::{Lab, Namespace, Need, Process, Setting, Test, Turnpike, until};
use crate::run::{Run, check};

const COTURN: &[Need] = &[Need::Namespaces, Need::Coturn];
const NAT: &[Need] = &[Need::Namespaces, Need::Coturn, Need::Nft];

/// What they are called, what they need, what they do.
pub(crate) const TESTS: &[Test] = &[
    ("without_a_nat_all_is_well", COTURN, without_a_nat),
    ("a_masquerade_maps_independently_of_the_endpoint", NAT, masquerade),
    ("a_random_masquerade_is_symmetric", NAT, random_masquerade),
    ("two_ports_of_one_server_can_tell_a_symmetric_nat", NAT, symmetric_without_help),
    ("a_tunnels_mtu_is_found_to_four_bytes", COTURN, tunnel),
    ("a_path_that_swallows_large_packets_is_found_out", NAT, swallowed),
    ("a_firewall_that_drops_udp_leaves_tcp", NAT, no_udp),
    ("blocked_relayed_ports_are_named", NAT, blocked_relayed_ports),
    ("a_private_relayed_address_names_the_external_address", COTURN, private_relayed_address),
    ("an_open_relay_is_wrong", COTURN, open_relay),
    ("a_certificate_must_convince", COTURN, certificate),
    ("turnpike_is_found_good", &[Need::Namespaces, Need::Turnpike], turnpike),
    (
        "turnpike_with_xdp_is_found_good",
        &[Need::Namespaces, Need::Turnpike, Need::Xdp],
        turnpike_with_xdp,
    ),
];

const CREDENTIALS: &str = "--user alice --password wonderland";
/// Of `nft`: where translated packets leave.
const POSTROUTING: &str =
    "add table ip t; add chain ip t post { type nat hook postrouting priority 100; }";
/// Of `nft`: where packets pass.
const FORWARD: &str =
    "add table ip f; add chain ip f pass { type filter hook forward priority 0; }";

struct Net {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Net {
    fn new() -> Self {
        let [client, router, server] =
            ["client", "router", "server"].map(|role| Namespace::make(role).unwrap());
        client.link("eth0", &router, "in");
        router.link("out", &server, "eth0");
        client.set_up("eth0", &["192.168.7.2/24"]);
        router.set_up("in", &["192.168.7.1/24"]);
        router.set_up("out", &["11.0.0.9/24"]);
        server.set_up("eth0", &["11.0.0.1/24", "11.0.0.2/24"]);
        client.ip("route add default via 192.168.7.1");
        server.ip("route add default via 11.0.0.9");
        router.set("ipv4/ip_forward", "1");
        Self { client, router, server }
    }

    fn nft(&self, chain: &str, rule: &str) {
        self.router.output("nft", &format!("{chain}; add rule ip {rule}"));
    }

    /// Starts coturn on both addresses with more options, and waits until it answers.
    fn coturn(&self, options: &str) -> Process {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("turnserver");
        let words = "-n --listening-ip=11.0.0.1 --listening-ip=11.0.0.2 --listening-port=3478 \
             --alt-listening-port=3479 --min-port=49152 --max-port=65535 --no-cli \
             --log-file=stdout --simple-log";
        command.args(words.split_whitespace()).args(options.split_whitespace());
        if !options.contains("--no-auth") {
            command.args(["--lt-cred-mech", "--realm=lab.test", "--user=alice:wonderland"]);
        }
        if !options.contains("--cert") {
            command.args(["--no-tls", "--no-dtls"]);
        }
        for (option, file) in [("--pidfile", "pid"), ("--userdb", "db")] {
            command.arg(format!("{option}={}", place.path().join(file).display()));
        }
        let mut process = Process::start("turnserver", &self.server, command, place);
        self.server.within(|| {
            let socket = UdpSocket::bind("11.0.0.2:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            until("turnserver answers", Duration::from_secs(30), || {
                assert!(process.is_alive(), "turnserver ended");
                let request = b"\0\x01\0\0\x21\x12\xa4\x42any old text";
                socket.send_to(request, "11.0.0.1:3478").unwrap();
                socket.recv(&mut [0; 512]).ok()
            });
        });
        process
    }

    fn check(&self, words: &str) -> Run {
        self.client.within(|| check(words))
    }
}

fn without_a_nat() {
    let net = Net::new();
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(0)
        .says("udp", "fine", "11.0.0.1:3478")
        .says("tcp", "fine", "11.0.0.1:3478")
        .says("tls", "note", "11.0.0.1:5349")
        .says("relayed", "fine", "a public address")
        .measured("nat_mapping", "none")
        .measured("nat_filtering", "endpoint_independent")
        .measured("mtu_bytes", 1500)
        .measured("relay_payload_to_peer_bytes", 1468)
        .measured("relay_payload_to_client_bytes", 1472)
        .never_says("suspect");
}

fn masquerade() {
    let net = Net::new();
    net.nft(POSTROUTING, "t post oifname out masquerade");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(0)
        .says("reflexive", "note", "behind a NAT: the server sees 11.0.0.9:")
        .says("data", "fine", "both directions")
        .measured("nat_mapping", "endpoint_independent")
        .measured("nat_filtering", "address_and_port_dependent");
}

fn random_masquerade() {
    let net = Net::new();
    net.nft(POSTROUTING, "t post oifname out masquerade fully-random");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(0)
        .says("nat", "note", "symmetric")
        .says("data", "fine", "both directions")
        .measured("nat_mapping", "address_and_port_dependent")
        .measured("nat_filtering", "address_and_port_dependent");
}

fn symmetric_without_help() {
    let net = Net::new();
    net.nft(POSTROUTING, "t post oifname out masquerade fully-random");
    let _coturn = net.coturn("--no-rfc5780");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(0)
        .says("nat", "note", "does not support the behaviour tests")
        .measured("nat_mapping", "port_dependent");
}

fn tunnel() {
    let net = Net::new();
    net.router.ip("link set out mtu 1300");
    net.server.ip("link set eth0 mtu 1300");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(0)
        .says("mtu", "note", "1300")
        .measured("mtu_bytes", 1300)
        .measured("relay_payload_to_peer_bytes", 1268);
}

fn swallowed() {
    let net = Net::new();
    net.nft(FORWARD, "f pass ip length > 1100 drop");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(1)
        .says("mtu", "suspect", "at most 1100 bytes")
        .says("relay mtu", "wrong", "up to 1200 bytes")
        .measured("mtu_bytes", 1100);
}

fn no_udp() {
    let net = Net::new();
    net.nft(FORWARD, "f pass meta l4proto udp drop");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(1)
        .says("udp", "wrong", "a firewall drops UDP")
        .says("tcp", "fine", "11.0.0.1:3478")
        .says("credentials", "fine", "accepted")
        .says("data", "note", "not tested")
        .says("nat", "note", "not tested");
    let over_tcp = net.check(&format!("turn:11.0.0.1?transport=tcp {CREDENTIALS}"));
    over_tcp.ends_with(0).says("udp", "note", "no answer").says("tcp", "fine", "answers");
}

fn blocked_relayed_ports() {
    let net = Net::new();
    net.nft(FORWARD, "f pass oifname out udp dport 49152-65535 drop");
    let _coturn = net.coturn("");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(1)
        .says("data", "wrong", "no packet of a peer comes in at 11.0.0.1:")
        .says("data", "wrong", "open the whole range")
        .measured("relays_to_client", false)
        .measured("relays_to_peer", true);
}

fn private_relayed_address() {
    let net = Net::new();
    let _coturn = net.coturn("--external-ip=10.9.9.9");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(1).says("relayed", "wrong", "a private address").says(
        "relayed",
        "wrong",
        "--external-ip",
    );
}

fn open_relay() {
    let net = Net::new();
    let _coturn = net.coturn("--no-auth");
    let run = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    run.ends_with(1).says("credentials", "wrong", "anybody can relay through it");
}

fn certificate() {
    let net = Net::new();
    let place = tempfile::tempdir().unwrap();
    let names = ["11.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (cert, key) = (place.path().join("cert.pem"), place.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.display(), key.display());
    let _coturn = net.coturn(&format!("--tls-listening-port=5349 --cert={cert} --pkey={key}"));
    let unknown = net.check(&format!("turns:11.0.0.1 {CREDENTIALS}"));
    unknown.ends_with(1).says("tls", "wrong", "certificate").says("udp", "fine", "answers");
    let other = net.check(&format!("turn:11.0.0.1 {CREDENTIALS}"));
    other.ends_with(0).says("tls", "suspect", "certificate");
    let known = net.check(&format!("turns:11.0.0.1 {CREDENTIALS} --ca {cert}"));
    known
        .ends_with(0)
        .says("tls", "fine", "11.0.0.1:5349 answers")
        .says("dtls", "fine", "11.0.0.1:5349 answers")
        .says("data", "fine", "both directions");
}

fn turnpike() {
    serves_well(&Lab::plain(), "userspace");
}

fn turnpike_with_xdp() {
    serves_well(&Lab::for_xdp(), "native");
}

fn serves_well(lab: &Lab, mode: &'static str) {
    let _turnpike = Turnpike::start(lab, Setting::of(mode));
    lab.client.ip("route add 10.77.2.0/24 via 10.77.1.1");
    lab.client.ip("route add fd77:2::/64 via fd77:1::1");
    for server in ["10.77.1.1", "[fd77:1::1]"] {
        let run = lab.client.within(|| check(&format!("turn:{server} {CREDENTIALS}")));
        run.ends_with(0)
            .says("credentials", "fine", "lab.test")
            .says("data", "fine", "both directions")
            .says("relay rtt", "fine", "and back")
            .measured("mtu_bytes", 1500)
            .never_says("wrong");
    }
}
