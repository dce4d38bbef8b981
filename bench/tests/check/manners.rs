//! Against the miniature server, on loopback.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, socket};
use rustix::process::{Signal, kill_process};

use crate::lab::{Test, tool};
use crate::run::{Run, begin, check};
use crate::server::front::Front;
use crate::server::{Faults, Manners, Server};

/// What they are called, what they need, what they do.
pub(crate) const TESTS: &[Test] = &[
    ("a_good_server_is_found_good", &[], a_good_server),
    ("a_wrong_password_is_said_to_be_one", &[], a_wrong_password),
    ("an_expired_user_name_is_said_to_be_expired", &[], an_expired_user_name),
    ("a_wrong_secret_names_the_clock_too", &[], a_wrong_secret),
    ("a_quota_that_is_used_up_is_named", &[], a_quota),
    ("a_denied_peer_is_no_fault", &[], a_denied_peer),
    ("a_silent_server_is_unreachable_over_udp", &[], a_silent_server),
    ("a_port_where_nothing_listens_is_said_to_be_one", &[], nothing_listens),
    ("a_name_without_address_is_said_to_have_none", &[], no_such_name),
    ("a_relay_that_does_not_deliver_is_found_out", &[], nothing_delivered),
    ("a_relay_that_loses_packets_is_found_out", &[], packets_lost),
    ("an_interrupted_check_gives_its_allocation_back", &[], interrupted),
    ("a_target_that_is_none_is_wrong_usage", &[], wrong_usage),
    ("a_relayed_address_of_another_family_is_the_servers_fault", &[], another_family),
    ("a_server_that_hangs_up_is_at_fault", &[], hangs_up),
    ("a_reader_who_goes_away_leaves_no_allocation", &[], no_reader),
    ("a_file_that_is_not_there_shows_before_anything_is_sent", &[], missing_files),
];

fn with(manners: Manners, words: &str) -> (Run, Server) {
    let server = Server::start(manners);
    let credentials = if words.contains("--password") || words.contains("--secret") {
        ""
    } else {
        "--user alice --password north"
    };
    (check(&format!("turn:{} {credentials} {words}", server.addr())), server)
}

fn a_good_server() {
    let (run, server) = with(Manners::default(), "");
    run.ends_with(0)
        .says("udp", "fine", "answers, round trip")
        .says("reflexive", "fine", "no address translation")
        .says("credentials", "fine", "realm")
        .says("relayed", "note", "a loopback address")
        .says("data", "fine", "both directions")
        .says("relay rtt", "fine", "client, server, peer and back")
        .says("mtu", "fine", "1500")
        .says("transports", "suspect", "neither over TCP nor over TLS")
        .measured("mtu_bytes", 1500)
        .measured("relays_to_peer", true)
        .measured("relays_to_client", true)
        .never_says("wrong");
    assert_eq!(
        (run.json["ok"].as_bool(), run.json["ending"].as_str()),
        (Some(true), Some("completed"))
    );
    assert!(run.text().ends_with("0 wrong, 1 to look at\n"), "{}", run.text());
    assert_eq!(server.allocations_left(), 0, "what was tried is given back");
    let (only, _server) = with(Manners::default(), "--only");
    only.ends_with(0).never_says("suspect");
}

fn a_wrong_password() {
    let (run, _server) = with(Manners::default(), "--user alice --password south");
    run.ends_with(1)
        .says("credentials", "wrong", "wrong user name or password for realm")
        .says("mtu", "fine", "");
    assert_eq!(run.json["ok"], false);
    assert!(!run.text().contains("south"), "passwords are not shown: {}", run.text());
}

fn an_expired_user_name() {
    let (run, _server) = with(Manners::default(), "--user 1500000000:bob --password x");
    run.ends_with(1)
        .says("credentials", "wrong", "expired")
        .says("credentials", "wrong", " s ago")
        .says("credentials", "wrong", "get fresh credentials");
}

fn a_wrong_secret() {
    let manners = Manners { secret: Some("shared"), ..Manners::default() };
    let (run, _server) = with(manners, "--secret other");
    run.ends_with(1).says("credentials", "wrong", "wrong --secret");
    let (right, _server) = with(manners, "--secret shared");
    right.ends_with(0).says("credentials", "fine", "accepted");
}

fn a_quota() {
    let (run, _server) = with(Manners { allocations_max: 0, ..Manners::default() }, "");
    run.ends_with(1).says("credentials", "wrong", "486 Quota").says(
        "credentials",
        "wrong",
        "quota",
    );
}

fn a_denied_peer() {
    let (run, server) = with(Manners { denies_peers: true, ..Manners::default() }, "");
    run.ends_with(0).says("data", "note", "not tested").never_says("wrong");
    assert_eq!(server.allocations_left(), 0);
}

fn a_silent_server() {
    let (run, _server) = with(Manners { silent: true, ..Manners::default() }, "");
    run.ends_with(1).says("udp", "wrong", "no answer in ").says("udp", "wrong", "firewall");
    assert_eq!(run.json["measured"]["transports"][0]["reachable"], false);
}

fn nothing_listens() {
    let (addr, _udp, _tcp) = taken_port();
    let run = check(&format!("turn:{addr} --user a --password b"));
    run.ends_with(1)
        .says("udp", "wrong", "nothing listens")
        .says("udp", "wrong", "start the server")
        .says("tcp", "note", "refused");
}

/// A port that nobody else gets and nothing listens on: the UDP socket hears only somebody else,
/// the TCP socket is bound and no more.
fn taken_port() -> (SocketAddr, UdpSocket, OwnedFd) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect("127.0.0.2:9").unwrap();
        let addr = udp.local_addr().unwrap();
        let tcp = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        if bind(&tcp, &addr).is_ok() {
            return (addr, udp, tcp);
        }
    }
    panic!("no port is free over both UDP and TCP");
}

fn no_such_name() {
    let run = check("turn:no-such-host.invalid --user a --password b");
    run.ends_with(1).says("resolve", "wrong", "no-such-host.invalid has no address");
    let run = check("turn:127.0.0.1 --user a --password b --family 6");
    run.ends_with(1).says("resolve", "wrong", "--family");
}

fn nothing_delivered() {
    let faults = Faults::Drop { nth: 1 };
    let (run, server) = with(Manners { faults, ..Manners::default() }, "");
    run.ends_with(1)
        .says("data", "wrong", "does not come out of the relay")
        .measured("relays_to_client", true)
        .measured("relays_to_peer", false);
    assert_eq!(server.allocations_left(), 0);
}

fn packets_lost() {
    let faults = Faults::Drop { nth: 4 };
    let (run, _server) = with(Manners { faults, ..Manners::default() }, "");
    run.ends_with(0).says("relay rtt", "suspect", "packets lost");
}

fn interrupted() {
    let faults = Faults::Drop { nth: 1 };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let words = format!("turn:{} --user alice --password north --wait 30000", server.addr());
    let run = begin(&words);
    // It waits for a packet that does not come: the allocation is there.
    server.await_packets(1);
    assert_eq!(server.allocations_left(), 1);
    kill_process(run.pid(), Signal::INT).unwrap();
    let run = run.end();
    run.ends_with(130).says("relayed", "note", "127.0.0.1");
    assert_eq!(run.json["ending"], "interrupted");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(server.allocations_left(), 0);
}

fn wrong_usage() {
    check("stun:127.0.0.1 --user a --password b").ends_with(2);
}

fn another_family() {
    let (run, server) = with(Manners { relay: Some("::1"), ..Manners::default() }, "");
    run.ends_with(1).says("relayed", "wrong", "is not ipv4");
    assert_eq!(run.json["ending"], "completed", "{}", run.text());
    assert_eq!(server.allocations_left(), 0);
}

fn hangs_up() {
    // In the first packet to the peer, and in the middle of the round trips.
    for packets in [1, 5] {
        let manners = Manners { hangs_up_after: Some(packets), ..Manners::default() };
        let server = Server::behind(Front::tcp("127.0.0.1"), manners);
        let words = format!("turn:{}?transport=tcp --user alice --password north", server.addr());
        let run = check(&words);
        run.ends_with(1).says("data", "wrong", "at first, and then no more");
        assert_eq!(run.json["ending"], "completed", "{}", run.text());
    }
}

fn no_reader() {
    let server = Server::start(Manners::default());
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let words = format!("check turn:{} --user alice --password north --rto 100", server.addr());
    let output = tool(&words).stdout(writer).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(server.allocations_left(), 0);
}

fn missing_files() {
    let server = Server::start(Manners::default());
    let addr = server.addr();
    let run = check(&format!("turns:{addr} --user alice --password north --ca /no/such.pem"));
    run.ends_with(3);
    assert!(run.text().contains("/no/such.pem (--ca)"), "{}", run.text());
    let output = tool(&format!("check turn:{addr} --user alice --password north"))
        .args(["--json", "/no/such/result.json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("/no/such/result.json"), "{said}");
    assert_eq!(server.requests(), 0, "nothing was sent");
}
