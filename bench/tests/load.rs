//! The tool as its user runs it, against a server with known faults: what the server does to the
//! packets is what the report says, and what stops the server is what the message says.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]

mod run;
mod server;

use std::process::{Command, Stdio};
use std::time::Duration;

use run::{PACKETS, PACKETS_A_SECOND, load, load_and, near};
use rustix::process::{Pid, Signal, kill_process};
use server::{Faults, Manners, Server};

#[test]
fn a_clean_server_is_measured_as_clean() {
    for mode in ["--mode channel", "--mode send"] {
        let server = Server::start(Manners::default());
        let run = load(server.addr(), &format!("{mode} --duration 1 --max-loss 0"));
        assert_eq!(run.code(), Some(0), "{mode}: {}", run.stderr());
        for (name, expected) in [
            ("sent", PACKETS_A_SECOND),
            ("delivered", PACKETS_A_SECOND),
            ("peer_received", PACKETS_A_SECOND),
            ("lost", 0),
            ("corrupted", 0),
            ("duplicates", 0),
            ("reordered", 0),
            ("foreign", 0),
            ("misdelivered", 0),
            ("allocations_ready", 2),
            ("allocations_deleted", 2),
        ] {
            assert_eq!(run.figure(name), expected, "{mode}: {name}");
        }
        assert_eq!(run.ending(), "completed");
        assert_eq!(server.allocations_left(), 0, "{mode}: every allocation is given back");
    }
}

#[test]
fn one_packet_in_a_hundred_dropped_is_one_percent_lost() {
    let server = Server::start(Manners { faults: Faults::Drop { nth: 100 }, ..Manners::default() });
    let run = load(server.addr(), "--max-loss 0.5");
    assert_eq!(run.code(), Some(1), "the limit is broken: {}", run.stderr());
    near(run.figure("lost"), PACKETS / 100, 1);
    assert_eq!(run.figure("duplicates") + run.figure("corrupted") + run.figure("reordered"), 0);
    let kinder = load(server.addr(), "--max-loss 1.5 --duration 1");
    assert_eq!(kinder.code(), Some(0), "{}", kinder.stderr());
}

#[test]
fn duplicates_are_not_deliveries() {
    let faults = Faults::Duplicate { nth: 50 };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "");
    near(run.figure("duplicates"), PACKETS / 50, 1);
    assert_eq!((run.figure("delivered"), run.figure("lost")), (PACKETS, 0));
}

#[test]
fn a_copy_does_not_stand_for_a_packet_that_is_still_under_way() {
    // The copies alone are as many as the packets that wait when the last one is sent.
    let faults = Faults::DuplicateOrDelay { time: Duration::from_millis(400) };
    for peer in ["--peer-mode echo", "--peer-mode sink"] {
        let server = Server::start(Manners { faults, ..Manners::default() });
        let run = load(server.addr(), &format!("{peer} --duration 1 --drain 5000"));
        assert_eq!(run.figure("duplicates"), PACKETS_A_SECOND / 2, "{peer}");
        assert_eq!((run.figure("delivered"), run.figure("lost")), (PACKETS_A_SECOND, 0), "{peer}");
    }
}

#[test]
fn what_the_server_makes_of_the_numbers_is_damage_and_no_arrival() {
    let faults = Faults::Forge { nth: 20 };
    for peer in ["--peer-mode echo", "--peer-mode sink"] {
        let server = Server::start(Manners { faults, ..Manners::default() });
        let run = load(server.addr(), &format!("{peer} --duration 1 --drain 300"));
        assert_eq!(run.code(), Some(0), "{peer}: {}", run.stderr());
        let forged = PACKETS_A_SECOND / 20;
        assert_eq!(run.figure("corrupted"), forged, "{peer}");
        assert_eq!(run.figure("delivered"), PACKETS_A_SECOND - forged, "{peer}");
        for figure in ["too_late", "duplicates", "misdelivered"] {
            assert_eq!(run.figure(figure), 0, "{peer}: {figure}");
        }
    }
}

#[test]
fn a_flow_that_is_dead_is_not_a_dead_run() {
    let server = Server::start(Manners { faults: Faults::DropOfOne, ..Manners::default() });
    let run = load(server.addr(), "--threads 2 --stall 300 --duration 1 --drain 300");
    assert_eq!((run.code(), run.ending()), (Some(0), "completed"), "{}", run.stderr());
    assert_eq!((run.figure("sent"), run.figure("lost")), (PACKETS_A_SECOND, PACKETS_A_SECOND / 2));
}

#[test]
fn a_server_that_ignores_deletions_has_not_stopped_answering() {
    let server = Server::start(Manners { ignores_deletions: true, ..Manners::default() });
    let run = load(server.addr(), "--duration 1");
    assert_eq!((run.code(), run.ending()), (Some(0), "completed"), "{}", run.stderr());
    assert_eq!((run.figure("lost"), run.figure("allocations_deleted")), (0, 0));
    assert!(run.stdout().contains("0 deleted, 2 left"), "{}", run.stdout());
}

#[test]
fn allocations_that_come_after_a_refusal_are_given_back() {
    let allocates_after = Duration::from_millis(300);
    let manners = Manners { allocations_max: 3, allocates_after, ..Manners::default() };
    let server = Server::start(manners);
    let run = load(server.addr(), "--allocations 5 --rto 1000");
    assert_eq!((run.code(), run.ending()), (Some(3), "not_set_up"));
    assert!(run.stderr().contains("Allocate refused: 486 Quota"), "{}", run.stderr());
    assert_eq!((run.figure("allocations_made"), run.figure("allocations_deleted")), (3, 3));
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_result_that_cannot_be_written_is_said_before_the_run() {
    let server = Server::start(Manners::default());
    let tool = env!("CARGO_BIN_EXE_relay-bench");
    let target = format!("turn:{}", server.addr());
    let arguments = ["load", &target, "--user=a", "--password=b", "--json=/nowhere/at/all.json"];
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot write /nowhere/at/all.json"), "{said}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_packet_behind_its_successor_is_reordered() {
    let faults = Faults::Reorder { nth: 40 };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "");
    near(run.figure("reordered"), PACKETS / 40, 2);
    assert_eq!(run.figure("delivered"), PACKETS);
    assert_eq!(run.figure("duplicates"), 0);
}

#[test]
fn a_flipped_bit_is_corruption_and_counts_against_max_loss() {
    let faults = Faults::Corrupt { nth: 25 };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "--max-loss 1");
    assert_eq!(run.code(), Some(1));
    near(run.figure("corrupted"), PACKETS / 25, 1);
    assert_eq!(run.figure("lost"), 0);
    near(run.figure("delivered"), PACKETS - PACKETS / 25, 1);
}

#[test]
fn a_delay_is_the_latency_and_breaks_max_p99() {
    let faults = Faults::Delay { time: Duration::from_millis(40) };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "--max-p99 20");
    assert_eq!(run.code(), Some(1));
    let p50 = run.latency_ms("p50");
    assert!((40.0..400.0).contains(&p50), "p50 {p50} ms");
    assert_eq!(run.figure("delivered"), PACKETS);
}

#[test]
fn a_stall_is_in_the_latency_of_every_packet_that_was_due_in_it() {
    // 300 ms of 2 s: 15 % of the packets wait, between 0 and 300 ms each. A tool that waits for
    // answers would show a few slow packets. Few enough for the server's socket buffer.
    let faults = Faults::StallOnce { after: 160, time: Duration::from_millis(300) };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "");
    let (p50, p90) = (run.latency_ms("p50"), run.latency_ms("p90"));
    assert!(p50 < 100.0, "p50 {p50} ms");
    assert!((50.0..280.0).contains(&p90), "p90 {p90} ms");
    assert_eq!(run.figure("delivered"), PACKETS, "the server's socket buffer holds the queue");
}

#[test]
fn a_stall_of_the_tool_itself_is_not_left_out() {
    // Stopped for 400 ms of 2 s, the tool sends a fifth of the packets late. Counted from when
    // they left, they would look as fast as the others.
    let server = Server::start(Manners::default());
    let run = load_and(server.addr(), "", |pid| {
        server.await_packets(160);
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_millis(400));
        kill_process(pid, Signal::CONT).unwrap();
    });
    assert_eq!((run.figure("sent"), run.figure("delivered")), (PACKETS, PACKETS));
    let p90 = run.latency_ms("p90");
    assert!((100.0..400.0).contains(&p90), "p90 {p90} ms");
    assert!(String::from_utf8_lossy(&run.output.stdout).contains("this tool sent late"));
}

#[test]
fn refreshes_keep_a_short_lived_allocation_alive_and_a_stale_nonce_is_renewed() {
    let manners = Manners { lifetime_secs: 1, nonce_uses: 3, ..Manners::default() };
    let server = Server::start(manners);
    let run = load(server.addr(), "");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.figure("delivered"), PACKETS);
    assert!(server.refreshes() >= 4, "{} refreshes", server.refreshes());
    assert!(server.stale_nonces() >= 2, "{} stale nonces", server.stale_nonces());
}

#[test]
fn time_limited_credentials_are_minted_from_the_secret() {
    let server = Server::start(Manners { secret: Some("shared"), ..Manners::default() });
    let run = load(server.addr(), "--secret shared --duration 1");
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.figure("delivered"), PACKETS_A_SECOND);
    let wrong = load(server.addr(), "--secret other --duration 1");
    assert_eq!(wrong.code(), Some(3));
}

#[test]
fn a_wrong_password_is_said_to_be_one() {
    let server = Server::start(Manners::default());
    let run = load(server.addr(), "--password south");
    assert_eq!((run.code(), run.ending()), (Some(3), "not_set_up"));
    assert!(run.stderr().contains("401 to Allocate with credentials: wrong"), "{}", run.stderr());
    assert_eq!(run.figure("sent"), 0);
}

#[test]
fn a_refused_allocation_is_named_with_the_servers_words_and_the_others_are_given_back() {
    let server = Server::start(Manners { allocations_max: 3, ..Manners::default() });
    let run = load(server.addr(), "--allocations 5");
    assert_eq!((run.code(), run.ending()), (Some(3), "not_set_up"));
    assert!(run.stderr().contains("Allocate refused: 486 Quota"), "{}", run.stderr());
    assert_eq!(run.figure("sent"), 0);
    assert_eq!((run.figure("allocations_made"), run.figure("allocations_deleted")), (3, 3));
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn a_denied_peer_names_the_setting() {
    let server = Server::start(Manners { denies_peers: true, ..Manners::default() });
    for (mode, method) in [("channel", "ChannelBind"), ("send", "CreatePermission")] {
        let run = load(server.addr(), &format!("--mode {mode}"));
        assert_eq!(run.code(), Some(3));
        let message = format!("{method} refused: 403");
        assert!(run.stderr().contains(&message), "{}", run.stderr());
        assert!(run.stderr().contains("[peers] allow_loopback = true"), "{}", run.stderr());
    }
}

#[test]
fn a_silent_server_is_given_up_after_the_transmissions_of_the_rfc() {
    let server = Server::start(Manners { silent: true, ..Manners::default() });
    let run = load(server.addr(), "--rto 20 --allocations 1");
    assert_eq!((run.code(), run.ending()), (Some(3), "not_set_up"));
    assert!(run.stderr().contains("no answer to Allocate after 7 transmissions"));
    assert_eq!(server.requests(), 7);
}

#[test]
fn a_port_where_nothing_listens_is_said_to_be_one_at_once() {
    // Bound, so that nobody else gets the port; connected to itself, it takes nothing from others.
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = unused.local_addr().unwrap();
    unused.connect(addr).unwrap();
    let run = load(addr, "--rto 500");
    assert_eq!((run.code(), run.ending()), (Some(3), "not_set_up"));
    assert!(run.stderr().contains("nothing listens there"), "{}", run.stderr());
}

#[test]
fn a_server_that_dies_midway_leaves_a_partial_result() {
    let server = Server::start(Manners { dies_after: Some(500), ..Manners::default() });
    let run = load(server.addr(), "--stall 400 --duration 20");
    assert_eq!((run.code(), run.ending()), (Some(4), "server_gone"), "{}", run.stderr());
    assert!(run.stderr().contains("stopped answering midway"), "{}", run.stderr());
    // What was between the server and the peer at that moment is lost too.
    assert!((300..=500).contains(&run.figure("delivered")), "{}", run.figure("delivered"));
    assert!((501..4000).contains(&run.figure("sent")), "it does not go on for 20 s");
    assert_eq!(run.figure("allocations_deleted"), 0);
}

#[test]
fn a_relay_that_answers_but_relays_nothing_is_told_from_a_dead_one() {
    let server = Server::start(Manners { faults: Faults::Drop { nth: 1 }, ..Manners::default() });
    let run = load(server.addr(), "--stall 400 --duration 20");
    assert_eq!((run.code(), run.ending()), (Some(4), "nothing_relayed"), "{}", run.stderr());
    assert!(run.stderr().contains("can it reach the peer"), "{}", run.stderr());
    assert_eq!(run.figure("delivered"), 0);
    assert!(run.figure("sent") < 4000, "it does not go on for 20 s");
    assert_eq!(run.figure("allocations_deleted"), 2);
}

#[test]
fn an_interrupted_run_prints_what_it_has_and_gives_everything_back() {
    let server = Server::start(Manners::default());
    let run = load_and(server.addr(), "--duration 20", |pid| {
        server.await_packets(30);
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!((run.code(), run.ending()), (Some(130), "interrupted"));
    let text = String::from_utf8(run.output.stdout.clone()).unwrap();
    assert!(text.contains("2 made, 2 ready") && text.contains("2 deleted, 0 left"), "{text}");
    assert!(text.contains("latency ms"), "{text}");
    assert!((30..4000).contains(&run.figure("delivered")), "{text}");
    assert_eq!(server.allocations_left(), 0);
}

#[test]
fn too_few_sockets_name_the_limits() {
    let server = Server::start(Manners::default());
    // Lower the hard limit in a shell: the tool raises the soft one by itself.
    let tool = env!("CARGO_BIN_EXE_relay-bench");
    let script = format!(
        "ulimit -n 64; exec {tool} load turn:{} --user a --password b --allocations 99",
        server.addr()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("see ulimit -n"));
    assert_eq!(server.requests(), 0);
}

#[test]
fn the_echo_peer_can_live_elsewhere() {
    let mut echo = Command::new(env!("CARGO_BIN_EXE_relay-bench"))
        .args(["echo", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = std::io::BufReader::new(echo.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
    let addr = said.strip_prefix("echo peer on ").and_then(|rest| rest.split(';').next()).unwrap();
    let server = Server::start(Manners::default());
    let run = load(server.addr(), &format!("--peer {addr} --duration 1"));
    kill_process(Pid::from_child(&echo), Signal::INT).unwrap();
    let output = echo.wait_with_output().unwrap();
    assert_eq!(
        (run.code(), run.figure("delivered")),
        (Some(0), PACKETS_A_SECOND),
        "{}",
        run.stderr()
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "received 400, echoed 400, not taken by this host 0\n");
}
