//! Floods in network namespaces: through Turnpike, where nothing may be lost and everybody counts
//! the same, and through a server with known faults, where every fault is found as what it is.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and the server lives in real time"
)]

mod lab;
mod server;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use lab::Need::{Namespaces, Turnpike as TurnpikeHere, Xdp};
use lab::{
    Interface, Lab, Namespace, PASSWORD, Process, Setting, Test, Turnpike, USER, tool, until,
};
use rustix::process::Signal;
use serde_json::Value;
use server::{Faults, Manners, Server};

const TESTS: &[Test] = &[
    ("everybody_counts_the_same", &[Namespaces, Xdp, TurnpikeHere], counts),
    ("ipv6_and_both_directions", &[Namespaces, Xdp, TurnpikeHere], families_and_directions),
    ("ten_thousand_flows", &[Namespaces, Xdp, TurnpikeHere], ten_thousand),
    ("flat_out_and_two_threads", &[Namespaces, Xdp, TurnpikeHere], flat_out),
    ("a_killed_relay_is_gone", &[Namespaces, Xdp, TurnpikeHere], killed),
    ("ctrl_c_shows_what_there_is", &[Namespaces, Xdp, TurnpikeHere], interrupted),
    ("a_drop_is_a_loss", &[Namespaces, Xdp], drops),
    ("duplicates_and_disorder_are_told_apart", &[Namespaces, Xdp], disorder),
    ("damage_is_found_and_breaks_the_run", &[Namespaces, Xdp], damage),
    ("damage_to_one_flow_of_many_is_in_the_sample", &[Namespaces, Xdp], one_flow),
    ("a_frame_for_another_mac_address_is_misdelivered", &[Namespaces, Xdp], other_mac),
    ("a_packet_of_another_flow_is_misdelivered", &[Namespaces, Xdp], misdelivery),
    ("a_partial_checksum_is_no_damage", &[Namespaces, Xdp], partial),
    ("a_dead_and_a_refusing_server_are_named", &[Namespaces, Xdp], endings),
    ("the_ceiling_needs_its_reflector", &[Namespaces, Xdp], ceiling),
    ("what_cannot_run_says_why", &[Namespaces, Xdp], messages),
];

fn main() -> ExitCode {
    lab::run(TESTS)
}

/// A finished run.
struct Run {
    code: Option<i32>,
    said: String,
    json: Value,
}

impl Run {
    fn figure(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or_else(|| panic!("{name}: {}", self.said))
    }

    /// Asserts the exit code and figures.
    fn assert(&self, code: i32, figures: &[(&str, u64)]) {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for (name, expected) in figures {
            assert_eq!(self.figure(name), *expected, "{name}: {}", self.said);
        }
    }

    /// Asserts that a figure is every `nth` packet. It may be off: the server also counts what
    /// tried the way. On a busy machine the tool sends less than was asked, and says so.
    fn every(&self, nth: u64, name: &str) {
        let (figure, expected) = (self.figure(name), self.figure("sent") / nth);
        assert!(expected > 0 && figure.abs_diff(expected) <= 3, "{name}: {}", self.said);
    }

    /// Asserts that everything arrived, and was sent at all: `asked` packets, or the tool says why
    /// they are fewer.
    fn all_of(&self, asked: u64) {
        self.assert(0, &[("lost", 0), ("corrupted", 0), ("bad_checksum", 0), ("misdelivered", 0)]);
        let sent = self.figure("sent");
        assert_eq!(self.figure("received"), sent, "{}", self.said);
        assert!(sent == asked || self.lagged() && sent > asked / 2, "{}", self.said);
    }

    /// Whether the machine held the generator up for so long that it left packets out, or sent
    /// such a burst that what is lost may be the burst's.
    fn lagged(&self) -> bool {
        self.json["lag_max_ms"].as_f64().unwrap() > 100.0
    }

    /// Asserts that the sample is one packet in `nth`, as chance has it.
    fn one_in(&self, nth: u64) {
        let expected = self.figure("sent") / nth;
        let is_near = self.figure("sampled").abs_diff(expected) <= expected / 5;
        assert!(is_near, "sampled, of {expected}: {}", self.said);
    }
}

/// Starts the tool in the laboratory; `meanwhile` does something to it.
fn run(lab: &Lab, words: &str, meanwhile: impl FnOnce(&mut Process)) -> Run {
    let place = tempfile::tempdir().unwrap();
    let mut command = tool(words);
    command.arg("--json").arg(place.path().join("result.json")).arg("--quiet");
    let mut process = Process::start("relay-bench", &lab.client, command, place);
    meanwhile(&mut process);
    let status = process.wait(Duration::from_secs(120));
    let json = fs::read(process.place().join("result.json")).unwrap_or_default();
    Run {
        code: status.code(),
        said: process.log(),
        json: serde_json::from_slice(&json).unwrap_or(Value::Null),
    }
}

/// A flood through the relay that listens at `server`.
fn flood_and(
    lab: &Lab,
    server: &str,
    credentials: (&str, &str),
    words: &str,
    meanwhile: impl FnOnce(&mut Process),
) -> Run {
    let (user, password) = credentials;
    let (client, peer) = (lab.client.name(), lab.peer.name());
    let words = format!(
        "flood turn:{server} --user {user} --password {password} --netns {client} --peer-netns \
         {peer} --peer-interface eth0 {words}"
    );
    run(lab, &words, meanwhile)
}

fn flood(lab: &Lab, server: &str, words: &str) -> Run {
    flood_and(lab, server, (USER, PASSWORD), words, |_| ())
}

/// A server with faults in the relay's place.
fn faulty(lab: &Lab, manners: Manners) -> Server {
    let manners = Manners { listen: "10.77.1.1", relay: Some("10.77.2.1"), ..manners };
    lab.relay.within(|| Server::start(manners))
}

/// 2000 packets a second for two seconds through it, over four flows, every packet checked.
fn through(lab: &Lab, server: &Server, words: &str) -> Run {
    let words = format!("--allocations 4 --rate 2000 --duration 2 --sample 1 --rto 100 {words}");
    flood_and(lab, &server.addr().to_string(), ("alice", "north"), &words, |_| ())
}

/// Packets of [`through`] on a machine that is not too busy.
const PACKETS: u64 = 4000;

const V4: &str = "10.77.1.1";
const V6: &str = "[fd77:1::1]";

/// A busy machine holds the generator up, which then says so: another try is needed.
const TRIES: u32 = 5;

fn counts() {
    const RATE: u64 = 50_000;
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    let words = format!("--allocations 32 --rate {RATE} --duration 2 --max-loss 0 --per-flow");
    let exact = (0..TRIES).find_map(|_| {
        let run = counted(&lab, &relay, &words)?;
        let per_second = run.json["sent_per_second"].as_f64().unwrap();
        println!("asked for {RATE}/s, sent {per_second:.1}/s");
        let is_limited = per_second < RATE as f64 * 0.99;
        assert_eq!(run.json["generator_limited"], is_limited, "{}", run.said);
        (run.figure("sent") == 2 * RATE).then_some(run)
    });
    let run = exact.expect("every packet is sent in one of five tries");
    run.all_of(2 * RATE);
    let flows = run.json["per_flow"].as_array().unwrap();
    assert_eq!(flows.len(), 32);
    assert!(flows.iter().all(|flow| flow["received"].as_u64() == Some(2 * RATE / 32)));
}

/// A flood without loss, and everybody else's counts of it; `None`: the generator was held up.
fn counted(lab: &Lab, relay: &Turnpike<'_>, words: &str) -> Option<Run> {
    let relayed = || relay.metrics().relayed("xdp", "client_to_peer");
    let before =
        (Interface::read(&lab.client, "eth0"), Interface::read(&lab.peer, "eth0"), relayed());
    let run = flood(lab, V4, words);
    let sent = Interface::read(&lab.client, "eth0").since(before.0).sent;
    let received = Interface::read(&lab.peer, "eth0").since(before.1).received;
    if run.lagged() {
        return None;
    }
    let clean = [
        ("lost", 0),
        ("reordered", 0),
        ("duplicates", 0),
        ("corrupted", 0),
        ("bad_checksum", 0),
        ("partial_checksum", 0),
        ("misdelivered", 0),
        ("allocations_deleted", 32),
    ];
    run.assert(0, &clean);
    let said = run.figure("sent");
    assert_eq!((run.figure("received"), run.figure("delivered")), (said, said));
    run.one_in(64);
    // Allocations, their end, the way that is tried, and finding neighbours.
    let control = 32 * 5 + 60;
    for (what, counted) in [("client", sent), ("peer", received), ("relay", relayed() - before.2)] {
        println!("{what}: {counted}, the tool says {said}");
        assert!((said..said + control).contains(&counted), "{what}: {counted}: {}", run.said);
    }
    Some(run)
}

fn families_and_directions() {
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    let rate = "--allocations 7 --rate 10000 --duration 1 --max-loss 0 --sample 1";
    for (server, direction) in [(V6, "to-peer"), (V6, "to-client"), (V4, "to-client")] {
        for payload in [24, 173, 1399] {
            let words = format!("{rate} --direction {direction} --payload {payload}");
            let run = flood(&lab, server, &words);
            run.all_of(10_000);
            assert_eq!(run.figure("sampled"), run.figure("sent"), "{}", run.said);
        }
    }
    assert!(relay.metrics().relayed("xdp", "peer_to_client") >= 60_000);
}

fn ten_thousand() {
    let lab = Lab::plain();
    let _relay = Turnpike::start(&lab, Setting::of("native"));
    let words = "--allocations 10000 --rate 40000 --duration 2 --max-loss 0 --sample 1";
    let run = flood(&lab, V4, words);
    let made = [("allocations_made", 10_000), ("allocations_deleted", 10_000)];
    run.assert(0, &made);
    run.all_of(80_000);
}

fn flat_out() {
    let lab = Lab::plain();
    let _relay = Turnpike::start(&lab, Setting::of("native"));
    let run = flood(&lab, V4, "--duration 2 --threads 2 --sample 16");
    run.assert(0, &[("corrupted", 0), ("misdelivered", 0), ("duplicates", 0)]);
    assert!(run.figure("sent") > 200_000, "{}", run.said);
    assert_eq!(run.figure("received") + run.figure("lost"), run.figure("sent"));
    assert_eq!(run.json["asked"]["rate_total"], Value::Null);
}

fn killed() {
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    let words = "--rate 5000 --duration 60 --stall 500 --rto 50";
    let run = flood_and(&lab, V4, (USER, PASSWORD), words, |_| {
        let relayed = || relay.metrics().relayed("xdp", "client_to_peer");
        until("packets are relayed", Duration::from_secs(20), || (relayed() > 5000).then_some(()));
        relay.signal(Signal::KILL);
    });
    assert_eq!(run.code, Some(4), "{}", run.said);
    assert_eq!(run.json["ending"], "server_gone", "{}", run.said);
    assert!(run.figure("received") > 5000 && run.figure("lost") > 1000, "{}", run.said);
    assert!(run.said.contains("the server is gone"), "{}", run.said);
}

fn interrupted() {
    let lab = Lab::plain();
    let relay = Turnpike::start(&lab, Setting::of("native"));
    let run = flood_and(&lab, V4, (USER, PASSWORD), "--rate 5000 --duration 60", |tool| {
        let relayed = || relay.metrics().relayed("xdp", "client_to_peer");
        until("packets are relayed", Duration::from_secs(20), || (relayed() > 5000).then_some(()));
        assert!(has_program(&lab.client) && has_program(&lab.peer), "they are there meanwhile");
        tool.signal(Signal::INT);
    });
    run.assert(130, &[("lost", 0), ("allocations_deleted", 32)]);
    assert!(run.figure("received") >= 5000, "{}", run.said);
    assert!(!has_program(&lab.client) && !has_program(&lab.peer), "they go with the tool");
}

/// Whether an XDP program is on the namespace's `eth0`.
fn has_program(place: &Namespace) -> bool {
    place.ip("-d link show dev eth0").contains("prog/xdp")
}

fn drops() {
    let lab = Lab::plain();
    let manners = Manners { faults: Faults::Drop { nth: 100 }, ..Manners::default() };
    let server = faulty(&lab, manners);
    let run = through(&lab, &server, "--max-loss 0.5");
    assert_eq!(run.code, Some(1), "the limit is broken: {}", run.said);
    run.every(100, "lost");
    run.assert(1, &[("duplicates", 0), ("reordered", 0), ("corrupted", 0)]);
    let kinder = through(&lab, &server, "--max-loss 1.5");
    assert_eq!(kinder.code, Some(0), "{}", kinder.said);
}

fn disorder() {
    let lab = Lab::plain();
    let twice = Manners { faults: Faults::Duplicate { nth: 50 }, ..Manners::default() };
    let run = through(&lab, &faulty(&lab, twice), "--max-loss 0");
    run.every(50, "duplicates");
    run.all_of(PACKETS);
    assert_eq!(run.figure("reordered"), 0, "{}", run.said);
    let behind = Manners { faults: Faults::Reorder { nth: 20 }, ..Manners::default() };
    let run = through(&lab, &faulty(&lab, behind), "");
    run.every(20, "reordered");
    run.assert(0, &[("duplicates", 0), ("corrupted", 0)]);
}

fn damage() {
    let lab = Lab::plain();
    let flips = Manners { faults: Faults::Corrupt { nth: 100 }, ..Manners::default() };
    let run = through(&lab, &faulty(&lab, flips), "--payload 100");
    assert_eq!(run.code, Some(1), "{}", run.said);
    run.every(100, "corrupted");
    let sent = run.figure("sent");
    assert_eq!(run.figure("delivered") + run.figure("corrupted"), sent, "{}", run.said);
    let sums = Manners { faults: Faults::Checksum { nth: 100 }, ..Manners::default() };
    let server = faulty(&lab, sums);
    let run = through(&lab, &server, "");
    assert_eq!(run.code, Some(1), "{}", run.said);
    run.every(100, "bad_checksum");
    run.assert(1, &[("corrupted", 0), ("lost", 0), ("flows_with_loss", 0)]);
    // One packet in four is looked at whole: what is found is scaled.
    let words = "--allocations 4 --rate 2000 --duration 2 --sample 4";
    let run = flood_and(&lab, &server.addr().to_string(), ("alice", "north"), words, |_| ());
    assert_eq!(run.code, Some(1), "{}", run.said);
    let (found, estimate) = (run.figure("bad_checksum"), run.figure("corrupted_estimate"));
    run.one_in(4);
    assert!((1..=28).contains(&found), "some 40 / 4: {}", run.said);
    assert!(estimate.abs_diff(4 * found) <= found, "{}", run.said);
    assert_eq!(run.figure("delivered") + estimate, run.figure("sent"), "{}", run.said);
}

fn misdelivery() {
    let lab = Lab::plain();
    let faults = Faults::Misdeliver { nth: 100 };
    let run = through(&lab, &faulty(&lab, Manners { faults, ..Manners::default() }), "");
    assert_eq!(run.code, Some(1), "{}", run.said);
    run.every(100, "misdelivered");
    run.assert(1, &[("corrupted", 0), ("lost", 0), ("flows_with_loss", 0)]);
}

/// A relay that is wrong for one client only: a sample that takes flows by turns misses it.
fn one_flow() {
    let lab = Lab::plain();
    let faults = Faults::CorruptFlow { flow: 9 };
    let server = faulty(&lab, Manners { faults, ..Manners::default() });
    let words = "--allocations 32 --rate 8000 --duration 4 --sample 64";
    let run = flood_and(&lab, &server.addr().to_string(), ("alice", "north"), words, |_| ());
    assert_eq!(run.code, Some(1), "{}", run.said);
    run.one_in(64);
    // Of the flow's thousand packets some sixteen are in the sample.
    let (found, estimate) = (run.figure("corrupted"), run.figure("corrupted_estimate"));
    assert!((1..=48).contains(&found), "{}", run.said);
    assert!(estimate.abs_diff(64 * found) <= 16 * found, "{}", run.said);
}

fn other_mac() {
    let lab = Lab::plain();
    let server = faulty(&lab, Manners::default());
    let words = "--allocations 4 --rate 2000 --duration 2 --sample 1";
    let login = ("alice", "north");
    let run = flood_and(&lab, &server.addr().to_string(), login, words, |_| {
        server.await_packets(1000);
        lab.relay.ip("neighbour replace 10.77.2.2 lladdr 02:00:00:00:00:99 dev peers");
    });
    assert_eq!(run.code, Some(1), "{}", run.said);
    assert!(run.figure("misdelivered") > 1000, "{}", run.said);
    assert!(run.figure("received") > 900, "{}", run.said);
    run.assert(1, &[("corrupted", 0), ("lost", 0), ("flows_with_loss", 0)]);
}

fn partial() {
    let lab = Lab::plain();
    lab.relay.output("ethtool", "-K peers tx on");
    let run = through(&lab, &faulty(&lab, Manners::default()), "--max-loss 0");
    run.all_of(PACKETS);
    // A pseudo-header's sum is the whole checksum of one packet in 65,536 by chance.
    let whole_by_chance = run.figure("sent") - run.figure("partial_checksum");
    assert!(whole_by_chance <= 8, "{}", run.said);
    assert!(run.said.contains("ethtool -K IF tx off"), "{}", run.said);
}

fn endings() {
    let lab = Lab::plain();
    let full = faulty(&lab, Manners { allocations_max: 2, ..Manners::default() });
    let run = through(&lab, &full, "");
    assert_eq!((run.code, &run.json["ending"]), (Some(3), &"not_set_up".into()), "{}", run.said);
    run.assert(3, &[("allocations_made", 2), ("allocations_deleted", 2), ("sent", 0)]);
    assert!(run.said.contains("allocation 3") && run.said.contains("486"), "{}", run.said);
    let dying = faulty(&lab, Manners { dies_after: Some(1000), ..Manners::default() });
    let run = through(&lab, &dying, "--stall 300");
    assert_eq!((run.code, &run.json["ending"]), (Some(4), &"server_gone".into()), "{}", run.said);
    assert!(run.figure("received").abs_diff(1000) <= 2, "{}", run.said);
    let run = flood(&lab, "10.77.1.1:9", "--rto 20");
    assert_eq!(run.code, Some(3), "{}", run.said);
    assert!(run.said.contains("nothing listens there"), "{}", run.said);
    let run = flood(&lab, V4, "--password wrong --rto 20");
    assert_eq!(run.code, Some(2), "a password twice is wrong usage: {}", run.said);
}

fn ceiling() {
    let lab = Lab::plain();
    let reflect = tool(&format!("reflect --interface clients --netns {}", lab.relay.name()));
    let mut reflect = Process::bare("relay-bench reflect", &lab.client, reflect);
    reflect.await_log("--mac ", Duration::from_secs(20));
    let log = reflect.log();
    let mac = log.split("--mac ").nth(1).unwrap().get(..17).unwrap().to_owned();
    let words = format!("ceiling --interface eth0 --netns {} --mac {mac}", lab.client.name());
    let paced = run(&lab, &format!("{words} --rate 20000 --duration 1 --sample 1"), |_| ());
    paced.all_of(20_000);
    assert_eq!(paced.figure("sampled"), paced.figure("sent"), "{}", paced.said);
    let many =
        run(&lab, &format!("{words} --allocations 65535 --rate 100000 --duration 2"), |_| ());
    many.assert(0, &[("corrupted", 0), ("misdelivered", 0)]);
    assert!(many.figure("received") > 65_535, "{}", many.said);
    let flat = run(&lab, &format!("{words} --duration 1"), |_| ());
    println!("ceiling here: {:.0} packets/s", flat.json["received_per_second"].as_f64().unwrap());
    flat.assert(0, &[("corrupted", 0), ("duplicates", 0)]);
    assert_eq!(reflect.end_by(Signal::INT, Duration::from_secs(10)).code(), Some(0));
    let alone = run(&lab, &format!("{words} --duration 60 --rate 1000 --stall 300"), |_| ());
    assert_eq!(alone.code, Some(4), "{}", alone.said);
    assert!(alone.said.contains("is `relay-bench reflect` running"), "{}", alone.said);
}

fn messages() {
    let lab = Lab::for_xdp();
    let taken = flood(&lab, V4, "");
    assert_eq!(taken.code, Some(3), "{}", taken.said);
    assert!(taken.said.contains("has an XDP program already"), "{}", taken.said);
    drop(lab);
    let lab = Lab::plain();
    for (words, says) in [
        ("--interface none", "none"),
        ("--interface lo", "lo is no Ethernet interface"),
        ("--peer-address 10.77.9.9", "cannot be the peer"),
        ("--payload 1400 --peer-address fd77:2::2", "is not of the server's family"),
    ] {
        let words = words.replace("--peer-address", "--peer-port 9001 --peer-address");
        let run = flood(&lab, V4, &words);
        assert_eq!(run.code, Some(3), "{words}: {}", run.said);
        assert!(run.said.contains(says), "{words}: {}", run.said);
    }
    lab.client.ip("link set eth0 mtu 1280");
    for (server, words, says) in [
        ("10.77.1.1?transport=tcp", "", "flood forges UDP packets"),
        (V4, "--rate 3 --threads 4", "--rate 3 leaves one of 4 threads"),
        (V4, "--payload 1300", "--payload 1300 does not fit an MTU of 1280"),
    ] {
        let run = flood(&lab, server, words);
        assert_eq!(run.code, Some(2), "{words}: {}", run.said);
        assert!(run.said.contains(says), "{words}: {}", run.said);
    }
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set=-bpf,-sys_admin,-net_admin", "--"]);
    without.arg(env!("CARGO_BIN_EXE_relay-bench"));
    without.args(["ceiling", "--interface", "eth0", "--mac", "02:00:00:00:00:01"]);
    let mut process = Process::bare("without capabilities", &lab.client, without);
    let status = process.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(3), "{}", process.log());
    assert!(process.log().contains("run as root"), "{}", process.log());
}
