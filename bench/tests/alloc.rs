//! `relay-bench alloc` as its user runs it, against a miniature server with known manners: what
//! the server grants and refuses is what the report counts, and everything is given back.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]
#![allow(dead_code, reason = "the miniature server can do more than these tests ask of it")]

mod running;
mod server;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use running::Running;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use server::{Manners, Server};

struct Run {
    output: Output,
    json: Value,
}

impl Run {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn ending(&self) -> &str {
        self.json["ending"].as_str().unwrap()
    }

    fn figure(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.json))
    }

    fn phase(&self, name: &str) -> &Value {
        let phases = self.json["phases"].as_array().unwrap();
        let named = |phase: &&Value| phase["name"] == name;
        phases.iter().find(named).unwrap_or_else(|| panic!("{name} in {}", self.json))
    }

    fn counts(&self, phase: &str) -> (u64, u64) {
        let figure = |name| self.phase(phase)[name].as_u64().unwrap();
        (figure("succeeded"), figure("failed"))
    }
}

/// Runs `relay-bench alloc` with the right password unless `arguments` say otherwise.
fn alloc(server: SocketAddr, arguments: &str) -> Run {
    alloc_and(server, arguments, |_| ())
}

/// As [`alloc`], and does something to the process meanwhile.
fn alloc_and(server: SocketAddr, arguments: &str, meanwhile: impl FnOnce(Pid)) -> Run {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("alloc-{name}.json"));
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(["alloc", &format!("turn:{server}"), "--quiet", "--user", "alice"]);
    command.arg("--json").arg(&file).args(arguments.split_whitespace());
    for default in ["--allocations=50", "--rto=50", "--password=north"] {
        if !arguments.contains(default.split_once('=').unwrap().0) {
            command.arg(default);
        }
    }
    let running = Running::start(&mut command);
    meanwhile(running.pid());
    let output = running.end();
    let json = std::fs::read(&file).map_or(Value::Null, |it| serde_json::from_slice(&it).unwrap());
    Run { output, json }
}

#[test]
fn every_phase_counts_every_allocation_once() {
    let server = Server::start(Manners::default());
    // Nothing is sent again within two seconds: the requests can be counted.
    let run = alloc(server.addr(), "--concurrency 8 --rto 2000");
    assert_eq!((run.code(), run.ending()), (Some(0), "completed"), "{}", run.stderr());
    for phase in ["allocate", "permission", "channel", "refresh", "delete"] {
        assert_eq!(run.counts(phase), (50, 0), "{phase}");
        assert!(run.phase(phase)["per_second"].as_f64().unwrap() > 1.0);
        assert!(run.phase(phase)["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(run.phase("allocate")["challenges"], 50, "each was challenged");
    assert_eq!(run.phase("refresh")["challenges"], 0);
    // Two for each Allocate, one for each of the rest.
    assert_eq!(server.requests(), 6 * 50);
    assert_eq!((run.figure("allocations_made"), run.figure("allocations_deleted")), (50, 50));
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_reused_nonce_leaves_one_round_trip_to_an_allocate() {
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), "--reuse-nonce --rto 2000");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.counts("challenge"), (50, 0));
    assert_eq!(run.counts("allocate"), (50, 0));
    assert_eq!(run.phase("allocate")["challenges"], 0);
    assert_eq!(server.requests(), 6 * 50, "the same requests, counted apart");
}

#[test]
fn a_stale_nonce_is_a_round_trip_more_and_no_failure() {
    let server = Server::start(Manners { nonce_uses: 20, ..Manners::default() });
    let run = alloc(server.addr(), "--concurrency 1");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.counts("refresh"), (50, 0));
    assert!(run.phase("refresh")["challenges"].as_u64().unwrap() > 0);
    assert!(server.stale_nonces() > 0);
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), "--rate 100");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    for phase in ["allocate", "refresh"] {
        let secs = run.phase(phase)["secs"].as_f64().unwrap();
        // A slow machine may take longer, a faster one must not.
        assert!((0.48..5.0).contains(&secs), "50 at 100 a second: {phase} took {secs} s");
    }
}

#[test]
fn one_client_at_a_time_adds_up_to_the_time_of_the_phase() {
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), "--concurrency 1 --allocations 90");
    for phase in ["allocate", "permission", "refresh"] {
        let mean_ms = run.phase(phase)["latency_ms"]["mean"].as_f64().unwrap();
        let secs = run.phase(phase)["secs"].as_f64().unwrap();
        let sum = mean_ms * 90.0 / 1e3;
        assert!((0.6..1.01).contains(&(sum / secs)), "{phase}: {sum} of {secs} s");
    }
}

#[test]
fn source_addresses_take_turns() {
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), "--bind 127.0.0.1 --bind 127.0.0.3 --allocations 10");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.counts("allocate"), (10, 0));
    let wrong = alloc(server.addr(), "--bind ::1");
    assert_eq!(wrong.code(), Some(3));
    assert!(wrong.stderr().contains("another family"), "{}", wrong.stderr());
    let absent = alloc(server.addr(), "--bind 192.0.2.77");
    assert_eq!((absent.code(), absent.ending()), (Some(3), "no_sockets"));
}

#[test]
fn a_refusal_midway_is_named_and_what_was_made_is_given_back() {
    let server = Server::start(Manners { allocations_max: 30, ..Manners::default() });
    let run = alloc(server.addr(), "--concurrency 1");
    assert_eq!((run.code(), run.ending()), (Some(4), "refused"), "{}", run.stderr());
    assert!(run.stderr().contains("allocation 31, after 30"), "{}", run.stderr());
    assert!(run.stderr().contains("486 Quota. The user's quota is used up"), "{}", run.stderr());
    assert_eq!(run.counts("allocate"), (30, 1));
    assert_eq!(run.phase("allocate")["failures"]["486"], 1);
    assert_eq!(run.counts("delete"), (30, 0));
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_wrong_password_is_said_to_be_one() {
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), "--password south");
    assert_eq!((run.code(), run.ending()), (Some(3), "refused"));
    assert!(run.stderr().contains("401 to Allocate with credentials: wrong"), "{}", run.stderr());
    assert_eq!(run.figure("allocations_made"), 0);
}

#[test]
fn a_denied_peer_names_the_setting_and_the_allocations_are_given_back() {
    let server = Server::start(Manners { denies_peers: true, ..Manners::default() });
    let run = alloc(server.addr(), "");
    assert_eq!((run.code(), run.ending()), (Some(4), "refused"));
    assert!(run.stderr().contains("CreatePermission refused: 403"), "{}", run.stderr());
    assert!(run.stderr().contains("one that it allows (--peer)"), "{}", run.stderr());
    assert!(!run.stderr().contains("--peer-bind"), "{}", run.stderr());
    assert_eq!(run.counts("allocate"), (50, 0));
    // They failed at the permission, and their deletion is no failure for that.
    assert_eq!(run.counts("delete"), (50, 0));
    assert_eq!(run.figure("allocations_left"), 0);
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_silent_server_is_given_up_after_the_stall_time() {
    let server = Server::start(Manners { silent: true, ..Manners::default() });
    let run = alloc(server.addr(), "--stall 400");
    assert_eq!((run.code(), run.ending()), (Some(3), "server_gone"));
    assert!(run.stderr().contains("answered nothing for"), "{}", run.stderr());
    assert_eq!(run.counts("allocate").0, 0);
}

#[test]
fn a_port_where_nothing_listens_is_said_to_be_one_at_once() {
    // A port that nobody else gets, on a socket that hears only somebody else.
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    deaf.connect("127.0.0.2:9").unwrap();
    let run = alloc(deaf.local_addr().unwrap(), "--rto 500");
    assert_eq!((run.code(), run.ending()), (Some(3), "refused"));
    assert!(run.stderr().contains("nothing listens there"), "{}", run.stderr());
}

#[test]
fn a_server_that_dies_midway_leaves_a_partial_result() {
    let server = Server::start(Manners::default());
    let addr = server.addr();
    let run = alloc_and(addr, "--rate 50 --stall 500 --allocations 200", move |_| {
        server.await_requests(100);
        drop(server);
    });
    assert_eq!(run.code(), Some(4), "{}", run.stderr());
    assert!(run.stderr().contains("allocate phase"), "{}", run.stderr());
    let (made, _) = run.counts("allocate");
    assert!((40..200).contains(&made), "{made}");
    assert_eq!(run.figure("allocations_made"), made);
    assert_eq!(run.figure("allocations_deleted"), 0);
}

#[test]
fn an_interrupted_run_prints_what_it_has_and_gives_everything_back() {
    let server = Server::start(Manners::default());
    let run = alloc_and(server.addr(), "--rate 20 --allocations 90", |pid| {
        server.await_requests(20);
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!((run.code(), run.ending()), (Some(130), "interrupted"));
    let made = run.figure("allocations_made");
    assert!((5..80).contains(&made), "{made}");
    assert_eq!(run.figure("allocations_deleted"), made);
    assert!(run.stdout().contains("0 left behind"), "{}", run.stdout());
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_process_is_watched_while_it_serves() {
    // The miniature server lives in this process.
    let server = Server::start(Manners::default());
    let run = alloc(server.addr(), &format!("--pid {} --hold 1", std::process::id()));
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    let memory = &run.json["memory"];
    for moment in ["before", "allocated", "permitted", "bound", "held", "deleted"] {
        assert!(memory["rss_bytes"][moment].as_u64().unwrap() > 1 << 20, "{moment}");
        assert!(memory["map_bytes"][moment].is_u64(), "{moment}");
    }
    // Other tests open and close sockets meanwhile.
    assert!(memory["udp_sockets"]["allocated"].as_u64().unwrap() > 50, "{memory}");
    assert!(memory["bytes_per_allocation"]["rss"].is_number(), "{memory}");
    // Their threads end meanwhile too, and take their processor time with them.
    let phases = run.json["phases"].as_array().unwrap();
    let shows = |phase: &Value| phase["cpu_secs"].as_f64().is_some_and(|secs| secs > 0.0);
    assert!(phases.iter().any(shows), "{}", run.json);
    let absent = alloc(server.addr(), "--pid 4294967295");
    assert_eq!(absent.code(), Some(3));
    assert!(absent.stderr().contains("--pid"), "{}", absent.stderr());
}

#[test]
fn an_allocation_that_is_lost_while_it_idles_is_noticed() {
    let server = Server::start(Manners { lifetime_secs: 1, ..Manners::default() });
    let run = alloc_and(server.addr(), "--hold 20 --allocations 5", |pid| {
        server.await_requests(6 * 5);
        // Stopped, it misses its refreshes, and the server forgets the allocations.
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_millis(1600));
        kill_process(pid, Signal::CONT).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!((run.code(), run.ending()), (Some(4), "lost_in_hold"), "{}", run.stderr());
    assert!(run.stderr().contains("5 allocations were lost"), "{}", run.stderr());
}

#[test]
fn a_transport_that_is_not_measured_is_wrong_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(["alloc", "turns:127.0.0.1", "--user", "alice", "--password", "north"]);
    let output = Running::start(&mut command).end();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give turn:HOST"));
}

#[test]
fn a_result_that_cannot_be_written_shows_before_anything_is_sent() {
    let server = Server::start(Manners::default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(["alloc", &format!("turn:{}", server.addr()), "--user", "alice"]);
    command.args(["--password", "north", "--allocations", "5", "--json", "/no/such/result.json"]);
    let output = Running::start(&mut command).end();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/result.json"));
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_reader_who_goes_away_changes_nothing() {
    let server = Server::start(Manners::default());
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-bench"));
    command.args(["alloc", &format!("turn:{}", server.addr()), "--user", "alice"]);
    command.args(["--password", "north", "--allocations", "5", "--quiet"]).stdout(writer);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.allocations_left(), 0);
}
