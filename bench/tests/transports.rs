//! TCP, TLS and DTLS as the user of `load` meets them: what the server does to packets is measured
//! over each, and a connection that does not come to be or does not last is explained.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]

mod server;
mod tool;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketType};
use server::front::{DtlsVersion, Front};
use server::identity::{Authority, Identity, Validity};
use server::{Faults, Manners, Server};
use tempfile::TempDir;
use tool::{Run, load};

/// Packets of a run: 2 allocations × 200 a second × 1 s.
const PACKETS: u64 = 400;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Udp,
    Tcp,
    Tls,
    Dtls12,
    Dtls13,
}

const SECURE: [Kind; 3] = [Kind::Tls, Kind::Dtls12, Kind::Dtls13];
const NOT_UDP: [Kind; 4] = [Kind::Tcp, Kind::Tls, Kind::Dtls12, Kind::Dtls13];

impl Kind {
    fn target(self, addr: impl std::fmt::Display) -> String {
        match self {
            Self::Udp => format!("turn:{addr}"),
            Self::Tcp => format!("turn:{addr}?transport=tcp"),
            Self::Tls => format!("turns:{addr}"),
            Self::Dtls12 | Self::Dtls13 => format!("turns:{addr}?transport=udp"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls12 | Self::Dtls13 => "dtls",
        }
    }

    fn front(self, ip: &str, identity: &Identity) -> Front {
        match self {
            Self::Udp => Front::udp(ip),
            Self::Tcp => Front::tcp(ip),
            Self::Tls => Front::tls(ip, identity),
            Self::Dtls12 => Front::dtls(ip, identity, DtlsVersion::V1_2),
            Self::Dtls13 => Front::dtls(ip, identity, DtlsVersion::V1_3),
        }
    }
}

/// A server, and the authority that its certificate is from.
struct Rig {
    kind: Kind,
    server: Server,
    ca: PathBuf,
    _place: TempDir,
}

impl Rig {
    fn new(kind: Kind, manners: Manners) -> Self {
        Self::with(kind, manners, "127.0.0.1", "127.0.0.1", Validity::Now)
    }

    /// On an address, with a certificate for a name.
    fn with(kind: Kind, manners: Manners, ip: &str, name: &str, validity: Validity) -> Self {
        let place = TempDir::new().unwrap();
        let authority = Authority::new("the right one");
        let front = kind.front(ip, &authority.issue(name, validity));
        let ca = authority.write_pem(place.path());
        Self { kind, server: Server::behind(front, manners), ca, _place: place }
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    fn load(&self, arguments: &str) -> Run {
        let trust = format!("--ca {} {arguments}", self.ca.display());
        load(&self.kind.target(self.addr()), &trust)
    }
}

fn near(figure: u64, expected: u64, tolerance: u64) {
    assert!(figure.abs_diff(expected) <= tolerance, "{figure}, expected {expected}±{tolerance}");
}

fn assert_clean(rig: &Rig, run: &Run, what: &str) {
    assert_eq!(run.code(), Some(0), "{what}: {}", run.stderr());
    for (name, expected) in [
        ("sent", PACKETS),
        ("delivered", PACKETS),
        ("peer_received", PACKETS),
        ("lost", 0),
        ("unsent", 0),
        ("corrupted", 0),
        ("duplicates", 0),
        ("reordered", 0),
        ("foreign", 0),
        ("misdelivered", 0),
        ("allocations_ready", 2),
        ("allocations_deleted", 2),
    ] {
        assert_eq!(run.figure(name), expected, "{what}: {name}");
    }
    assert_eq!(run.json()["asked"]["transport"], rig.kind.name());
    assert_eq!(rig.server.allocations_left(), 0, "{what}: every allocation is given back");
}

/// One run for each way to frame application data.
fn measured_as_clean(kind: Kind, ip: &str) {
    for mode in ["channel", "send"] {
        let rig = Rig::with(kind, Manners::default(), ip, ip, Validity::Now);
        let run = rig.load(&format!("--mode {mode} --max-loss 0"));
        assert_clean(&rig, &run, &format!("{kind:?} {ip} {mode}"));
    }
}

#[test]
fn a_clean_server_is_measured_as_clean_over_tcp() {
    measured_as_clean(Kind::Tcp, "127.0.0.1");
}

#[test]
fn a_clean_server_is_measured_as_clean_over_tls() {
    measured_as_clean(Kind::Tls, "127.0.0.1");
}

#[test]
fn a_clean_server_is_measured_as_clean_over_dtls_1_2() {
    measured_as_clean(Kind::Dtls12, "127.0.0.1");
}

#[test]
fn a_clean_server_is_measured_as_clean_over_dtls_1_3() {
    measured_as_clean(Kind::Dtls13, "127.0.0.1");
}

#[test]
fn ipv6_carries_every_transport() {
    for kind in [Kind::Udp, Kind::Tcp, Kind::Tls, Kind::Dtls12, Kind::Dtls13] {
        measured_as_clean(kind, "::1");
    }
}

#[test]
fn one_packet_in_twenty_dropped_is_five_percent_lost_over_every_transport() {
    for kind in NOT_UDP {
        let faults = Faults::Drop { nth: 20 };
        let rig = Rig::new(kind, Manners { faults, ..Manners::default() });
        let run = rig.load("--max-loss 4.5");
        assert_eq!(run.code(), Some(1), "{kind:?}: {}", run.stderr());
        assert_eq!(run.figure("lost"), PACKETS / 20, "{kind:?}");
        assert_eq!(run.figure("corrupted") + run.figure("unsent"), 0, "{kind:?}");
    }
}

#[test]
fn a_flipped_bit_is_corruption_over_every_transport() {
    for kind in NOT_UDP {
        let faults = Faults::Corrupt { nth: 25 };
        let rig = Rig::new(kind, Manners { faults, ..Manners::default() });
        let run = rig.load("");
        near(run.figure("corrupted"), PACKETS / 25, 1);
        assert_eq!(run.figure("lost"), 0, "{kind:?}");
    }
}

#[test]
fn a_wrong_password_is_said_to_be_one_over_every_transport() {
    for kind in NOT_UDP {
        let run = Rig::new(kind, Manners::default()).load("--password south");
        assert_eq!(run.code(), Some(3), "{kind:?}");
        let message = "401 to Allocate with credentials: wrong";
        assert!(run.stderr().contains(message), "{kind:?}: {}", run.stderr());
    }
}

#[test]
fn a_stream_asks_once_and_gives_up_in_time() {
    for kind in [Kind::Tcp, Kind::Tls] {
        let rig = Rig::new(kind, Manners { silent: true, ..Manners::default() });
        let run = rig.load("--rto 10 --allocations 1");
        assert_eq!(run.code(), Some(3), "{kind:?}: {}", run.stderr());
        assert!(run.stderr().contains("no answer to Allocate in 79"), "{}", run.stderr());
        assert_eq!(rig.server.requests(), 1, "{kind:?}: RFC 8489 §6.2.2");
    }
}

#[test]
fn a_server_that_hangs_up_midway_leaves_a_partial_result() {
    for kind in NOT_UDP {
        let rig = Rig::new(kind, Manners { hangs_up_after: Some(150), ..Manners::default() });
        let run = rig.load("--duration 10");
        assert_eq!(run.code(), Some(4), "{kind:?}: {}", run.stderr());
        assert_eq!(run.json()["ending"], "allocation_lost", "{kind:?}");
        let message = run.stderr();
        assert!(message.contains("the server closed the connection"), "{kind:?}: {message}");
        assert!((100..=150).contains(&run.figure("delivered")), "{kind:?}");
        assert!(run.figure("sent") < 1000, "{kind:?}: it does not go on for 10 s");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused_and_the_name_is_said() {
    for kind in SECURE {
        let (ip, name) = ("127.0.0.1", "relay.example");
        let rig = Rig::with(kind, Manners::default(), ip, name, Validity::Now);
        let run = rig.load("");
        assert_eq!(run.code(), Some(3), "{kind:?}");
        let message = "the server's certificate is not for the name 127.0.0.1";
        assert!(run.stderr().contains(message), "{kind:?}: {}", run.stderr());
        assert_eq!(rig.server.requests(), 0, "{kind:?}: no request leaves");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    for kind in SECURE {
        let ip = "127.0.0.1";
        let rig = Rig::with(kind, Manners::default(), ip, ip, Validity::LongAgo);
        let run = rig.load("");
        assert_eq!(run.code(), Some(3), "{kind:?}");
        assert!(run.stderr().contains("certificate has expired"), "{kind:?}: {}", run.stderr());
        assert_eq!(rig.server.requests(), 0, "{kind:?}: no request leaves");
    }
}

#[test]
fn an_unknown_issuer_is_refused_and_the_way_out_is_named() {
    for kind in SECURE {
        let rig = Rig::new(kind, Manners::default());
        let place = TempDir::new().unwrap();
        let target = kind.target(rig.addr());
        for (authority, message) in [
            ("another", "an issuer that is not trusted here"),
            ("the right one", "was the authority made anew?"),
        ] {
            let ca = Authority::new(authority).write_pem(place.path());
            let run = load(&target, &format!("--ca {}", ca.display()));
            assert_eq!(run.code(), Some(3), "{kind:?}");
            assert!(run.stderr().contains(message), "{kind:?}: {}", run.stderr());
            assert!(run.stderr().contains("--ca FILE"), "{kind:?}: {}", run.stderr());
            assert_eq!(rig.server.requests(), 0, "{kind:?}: no request leaves");
        }
        let insecure = load(&target, "--insecure --max-loss 0");
        assert_clean(&rig, &insecure, &format!("{kind:?} --insecure"));
    }
}

#[test]
fn a_plain_tcp_port_that_is_asked_for_tls_is_said_to_be_one() {
    let rig = Rig::new(Kind::Tcp, Manners::default());
    let run = load(&Kind::Tls.target(rig.addr()), "--insecure");
    assert_eq!(run.code(), Some(3));
    assert!(run.stderr().contains("does this port speak TLS?"), "{}", run.stderr());
}

#[test]
fn a_tls_port_that_is_asked_for_plain_tcp_is_said_to_be_one() {
    let rig = Rig::new(Kind::Tls, Manners::default());
    let run = load(&Kind::Tcp.target(rig.addr()), "");
    assert_eq!(run.code(), Some(3));
    assert!(run.stderr().contains("(turns: speaks TLS)"), "{}", run.stderr());
}

#[test]
fn a_plain_udp_port_that_is_asked_for_dtls_is_given_up_in_time() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = Kind::Dtls12.target(silent.local_addr().unwrap());
    let run = load(&target, "--insecure --rto 10 --allocations 1");
    assert_eq!(run.code(), Some(3), "{}", run.stderr());
    assert!(run.stderr().contains("no DTLS handshake after"), "{}", run.stderr());
}

#[test]
fn a_port_that_accepts_and_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let arguments = "--insecure --rto 10 --allocations 1";
    let run = load(&Kind::Tls.target(addr), arguments);
    assert_eq!(run.code(), Some(3), "{}", run.stderr());
    assert!(run.stderr().contains("connected, but no TLS handshake after 79"), "{}", run.stderr());
}

#[test]
fn a_port_where_nothing_listens_is_said_to_be_one_at_once() {
    // Bound, so that nobody else gets the ports: TCP that does not listen, and UDP that is
    // connected to itself and takes nothing from others.
    let tcp = bound_only();
    let addr = rustix::net::getsockname(&tcp).unwrap();
    let tcp_addr = SocketAddr::try_from(addr).unwrap();
    for kind in [Kind::Tcp, Kind::Tls] {
        let run = load(&kind.target(tcp_addr), "--insecure --rto 500");
        assert_eq!(run.code(), Some(3), "{kind:?}");
        assert!(run.stderr().contains("nothing listens there"), "{kind:?}: {}", run.stderr());
    }
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = udp.local_addr().unwrap();
    udp.connect(addr).unwrap();
    let run = load(&Kind::Dtls12.target(addr), "--insecure --rto 500");
    assert_eq!(run.code(), Some(3));
    assert!(run.stderr().contains("nothing listens there"), "{}", run.stderr());
}

/// A TCP socket on a port of its own that does not listen.
fn bound_only() -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let place = TempDir::new().unwrap();
    let (empty, missing) = (place.path().join("empty.pem"), place.path().join("missing.pem"));
    std::fs::write(&empty, "nothing\n").unwrap();
    for (file, message) in [(&empty, "holds no usable PEM"), (&missing, "cannot read")] {
        let run = load("turns:127.0.0.1:9", &format!("--ca {}", file.display()));
        assert_eq!(run.code(), Some(3));
        assert!(run.stderr().contains(message), "{}", run.stderr());
    }
}

#[test]
fn many_messages_that_come_at_once_are_all_taken() {
    // Nearly the whole run waits in the server and comes back after the last packet was sent:
    // no later one makes the tool look again.
    for kind in NOT_UDP {
        let time = std::time::Duration::from_millis(1500);
        let faults = Faults::StallOnce { after: 10, time };
        let rig = Rig::new(kind, Manners { faults, ..Manners::default() });
        let run = rig.load("--payload 40 --drain 5000");
        assert_eq!(run.figure("delivered"), PACKETS, "{kind:?}: {}", run.json());
        let max = run.json()["latency_ms"]["max"].as_f64().unwrap();
        assert!(max < 3000.0, "{kind:?}: {max} ms: nothing waits for the end");
    }
}

#[test]
fn a_connection_that_is_stuck_counts_what_it_does_not_take() {
    // 2 × 3000 packets of 1400 bytes a second for a server that does not read for a second: more
    // than the buffers of both kernels and the queue of the tool hold.
    let time = std::time::Duration::from_secs(3);
    let faults = Faults::StallOnce { after: 100, time };
    let rig = Rig::new(Kind::Tcp, Manners { faults, ..Manners::default() });
    let run = rig.load("--rate 3000 --payload 1400 --duration 3 --stall 20000 --drain 5000");
    assert!(run.figure("unsent") > 0, "{}", run.json());
    assert_eq!(run.figure("offered"), 18_000);
    assert_eq!(run.figure("lost") + run.figure("corrupted"), 0, "what was taken arrives");
}
