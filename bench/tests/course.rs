//! The course of a run and its finer figures: jitter, one-way figures of the sink, ramps, intervals
//! and progress, against a server with known faults.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]

mod run;
mod server;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use run::{PACKETS_A_SECOND, load, load_and, near};
use rustix::process::{Signal, kill_process};
use server::{Faults, Manners, Server};

#[test]
fn a_transit_that_alternates_is_jitter_and_an_even_delay_is_none() {
    // Every packet's latency differs by 3 ms from the one before it.
    let faults = Faults::Alternate { time: Duration::from_millis(3) };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "--max-jitter 1.5");
    assert_eq!(run.code(), Some(1), "the limit is broken: {}", run.stderr());
    let (flow, difference) = (run.at("/jitter_ms/flows_p50"), run.at("/jitter_ms/difference/p50"));
    // What else runs on the machine adds to both; J is smoothed from zero.
    assert!(difference > 2.7 && flow > 2.5, "|D| {difference} ms, J {flow} ms");
    let alternating = flow;
    let faults = Faults::Delay { time: Duration::from_millis(40) };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let even = load(server.addr(), "");
    let (flow, latency) = (even.at("/jitter_ms/flows_p50"), even.latency_ms("p50"));
    assert!(alternating >= 2.0 * flow, "J {alternating} ms against {flow} ms");
    assert!(latency > 40.0, "{latency} ms");
    assert!(even.stdout().contains("jitter ms   median flow"), "{}", even.stdout());
}

#[test]
fn a_sink_measures_one_way_what_the_server_does() {
    for (faults, figure, expected) in [
        (Faults::None, "lost", 0),
        (Faults::Drop { nth: 100 }, "lost", PACKETS_A_SECOND / 100),
        (Faults::Duplicate { nth: 50 }, "duplicates", PACKETS_A_SECOND / 50),
        (Faults::Reorder { nth: 40 }, "reordered", PACKETS_A_SECOND / 40),
        (Faults::Corrupt { nth: 25 }, "corrupted", PACKETS_A_SECOND / 25),
        (Faults::Misdeliver { nth: 20 }, "misdelivered", PACKETS_A_SECOND / 20),
    ] {
        let server = Server::start(Manners { faults, ..Manners::default() });
        let run = load(server.addr(), "--peer-mode sink --duration 1 --drain 300");
        near(run.figure(figure), expected, 2);
        for other in ["lost", "duplicates", "reordered", "corrupted", "misdelivered"] {
            let implied = other == "lost" && figure == "misdelivered";
            assert!(other == figure || implied || run.figure(other) == 0, "{figure}: {other}");
        }
        let missing = match figure {
            "lost" | "corrupted" | "misdelivered" => run.figure(figure),
            _ => 0,
        };
        assert_eq!(run.figure("delivered"), PACKETS_A_SECOND - missing, "{figure}");
        assert_eq!(run.figure("sent"), PACKETS_A_SECOND);
        assert!(run.stdout().contains("(one way, client to peer, from when"), "{}", run.stdout());
        assert_eq!(server.allocations_left(), 0);
    }
}

#[test]
fn a_delay_is_once_in_the_latency_of_a_sink() {
    let faults = Faults::Delay { time: Duration::from_millis(40) };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "--peer-mode sink --duration 1 --max-p99 20");
    assert_eq!(run.code(), Some(1));
    let p50 = run.latency_ms("p50");
    assert!((40.0..400.0).contains(&p50), "p50 {p50} ms");
}

#[test]
fn packets_of_another_client_are_misdelivered() {
    let faults = Faults::Misdeliver { nth: 20 };
    let server = Server::start(Manners { faults, ..Manners::default() });
    let run = load(server.addr(), "--duration 1 --drain 300");
    near(run.figure("misdelivered"), PACKETS_A_SECOND / 20, 1);
    assert_eq!(run.figure("delivered"), PACKETS_A_SECOND - run.figure("misdelivered"));
}

#[test]
fn the_flow_that_loses_is_named() {
    // Allocations take turns: every second packet is of the second one.
    let server = Server::start(Manners { faults: Faults::Drop { nth: 20 }, ..Manners::default() });
    for mode in ["echo", "sink"] {
        let peer = if mode == "echo" { "" } else { "--peer-mode sink" };
        let run = load(server.addr(), &format!("{peer} --duration 1 --drain 300"));
        assert_eq!((run.at("/flow_loss/flows"), run.figure("lost")), (1.0, 20), "{mode}");
        assert_eq!(run.at("/flow_loss/worst_undelivered"), 20.0, "{mode}");
    }
}

#[test]
fn a_silent_sink_ends_the_run() {
    let server = Server::start(Manners { faults: Faults::Drop { nth: 1 }, ..Manners::default() });
    let run = load(server.addr(), "--peer-mode sink --stall 400 --duration 20 --drain 100");
    assert_eq!((run.code(), run.ending()), (Some(4), "nothing_relayed"), "{}", run.stderr());
    assert!(run.figure("sent") < 4000, "it does not go on for 20 s");
}

#[test]
fn a_ramp_names_the_step_that_the_server_sustains() {
    let faults = Faults::Police { per_second: 500 };
    let ramp = "--ramp 50..550 --steps 4 --step-duration 1 --max-loss 5";
    for (mode, more) in [("--peer-mode echo", ""), ("--peer-mode sink", "--stop-at-limit")] {
        let server = Server::start(Manners { faults, ..Manners::default() });
        let run = load(server.addr(), &format!("{ramp} {mode} {more}"));
        assert_eq!(run.code(), Some(0), "a ramp is there to find a limit: {}", run.stderr());
        let steps = run.list("steps");
        let rates: Vec<_> = steps.iter().map(|step| step["rate_total"].as_u64().unwrap()).collect();
        let (expected, stopped): (&[u64], _) = if more.is_empty() {
            (&[100, 434, 766, 1100], false)
        } else {
            (&[100, 434, 766], true)
        };
        assert_eq!(rates, expected, "{mode} {more}");
        for (step, rate) in steps.iter().zip(rates) {
            assert_eq!(step["offered"].as_u64(), Some(rate), "a second of it: {step}");
            let holds = step["violations"].as_array().unwrap().is_empty();
            assert_eq!(holds, rate < 500, "{step}");
        }
        assert_eq!(run.figure("sustained_rate_total"), 434);
        assert_eq!(run.json.as_ref().unwrap()["stopped_at_limit"].as_bool(), Some(stopped));
        let text = run.stdout();
        assert!(text.contains("sustains    434/s within the limits"), "{text}");
        assert_eq!(text.matches("over the limit").count(), expected.len() - 2, "{text}");
        let total: u64 = expected.iter().sum();
        assert_eq!(run.figure("offered"), total, "nothing of a step that is not wanted");
    }
}

#[test]
fn a_ramp_without_a_step_within_the_limits_fails() {
    let server = Server::start(Manners { faults: Faults::Drop { nth: 4 }, ..Manners::default() });
    let run = load(
        server.addr(),
        "--ramp 100..200 --steps 2 --step-duration 1 --max-loss 5 --stop-at-limit",
    );
    assert_eq!(run.code(), Some(1), "{}", run.stderr());
    assert_eq!(run.list("steps").len(), 1);
    assert!(run.stdout().contains("not even the first step"), "{}", run.stdout());
}

#[test]
fn the_intervals_are_the_run() {
    let server = Server::start(Manners { faults: Faults::Drop { nth: 50 }, ..Manners::default() });
    for peer in ["--peer-mode echo", "--peer-mode sink"] {
        let run = load(server.addr(), &format!("{peer} --duration 3s --interval 1 --threads 2"));
        let intervals = run.list("intervals");
        assert_eq!(intervals.len(), 3, "{peer}");
        for figure in ["offered", "sent", "delivered", "lost"] {
            let sum: u64 = intervals.iter().map(|line| line[figure].as_u64().unwrap()).sum();
            assert_eq!(sum, run.figure(figure), "{peer}: {figure}");
        }
        for line in intervals {
            assert_eq!(line["offered"].as_u64(), Some(PACKETS_A_SECOND), "{line}");
            assert!(line["rss_kib"].as_u64() > Some(1000), "{line}");
            assert_eq!(line["complete"].as_bool(), Some(true));
        }
        assert_eq!(run.stdout().lines().filter(|line| line.contains("RSS MiB")).count(), 1);
    }
}

#[test]
fn an_interrupted_ramp_says_what_was_cut_short() {
    let server = Server::start(Manners::default());
    let ramp = "--ramp 100..400 --steps 4 --step-duration 2 --max-loss 5";
    let run = load_and(server.addr(), ramp, |pid| {
        server.await_packets(2 * 200 + 100);
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!((run.code(), run.ending()), (Some(130), "interrupted"));
    let complete: Vec<_> =
        run.list("steps").iter().map(|step| step["complete"].as_bool().unwrap()).collect();
    assert_eq!(complete, [true, false]);
    assert_eq!(run.figure("sustained_rate_total"), 200, "a step cut short is not judged");
    assert!(run.stdout().contains("cut short"), "{}", run.stdout());
}

#[test]
fn without_a_terminal_the_progress_is_a_line_each_second() {
    let server = Server::start(Manners::default());
    let output = Command::new(env!("CARGO_BIN_EXE_relay-bench"))
        .args(["load", &format!("turn:{}", server.addr()), "--user=alice", "--password=north"])
        .args(["--rate=100", "--duration=3"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("/s sent, ")).collect();
    assert!((2..=3).contains(&lines.len()), "{text}");
    assert!(lines[0].starts_with("1 s: "), "{text}");
    assert!(!text.contains('\x1b'), "no control sequences: {text}");
}

#[test]
fn arguments_that_make_no_sense_together_are_wrong_usage() {
    let unused: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for (arguments, message) in [
        ("--ramp 5..1", "a ramp reads FROM..TO"),
        ("--ramp 1..3 --steps 10", "at most 3 steps"),
        ("--ramp 1..30 --stop-at-limit", "--stop-at-limit needs --max-loss"),
        ("--ramp 1..30 --rate 5", "cannot be used with"),
        ("--ramp 1..30 --interval 5", "cannot be used with"),
        ("--steps 5", "are for a --ramp"),
        ("--stop-at-limit --max-loss 1", "are for a --ramp"),
        ("--duration 5w", "a time is a number of seconds"),
        ("--duration 365d --interval 1", "--interval: too many lines"),
        ("--peer 127.0.0.1:9 --peer-mode sink", "cannot be used with"),
    ] {
        let run = load(unused, arguments);
        assert_eq!(run.code(), Some(2), "{arguments}: {}", run.stderr());
        assert!(run.stderr().contains(message), "{arguments}: {}", run.stderr());
    }
}

#[test]
fn a_stall_of_the_tool_leaves_every_packet_in_its_step() {
    // Stopped from the middle of the first step until the second one is due: what it then sends
    // late still belongs where it was due.
    let server = Server::start(Manners::default());
    let run = load_and(server.addr(), "--ramp 100..200 --steps 2 --step-duration 1", |pid| {
        server.await_packets(100);
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_millis(1800));
        kill_process(pid, Signal::CONT).unwrap();
    });
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    let steps = run.list("steps");
    let offered: Vec<_> = steps.iter().map(|step| step["offered"].as_u64().unwrap()).collect();
    assert_eq!(offered, [200, 400]);
    assert!(steps[0]["latency_ms"]["max"].as_f64() > Some(1000.0), "{}", steps[0]);
    assert!(run.stdout().contains("not judged: --max-loss"), "{}", run.stdout());
}

#[test]
fn a_reader_who_goes_away_does_not_end_the_measurement() {
    let server = Server::start(Manners::default());
    let place = tempfile::tempdir().unwrap();
    let json = place.path().join("result.json");
    let script = format!(
        "{{ {} load turn:{} --user alice --password north --rate 100 --duration 2 --interval 1 \
         --quiet --json {}; echo exit $? >&2; }} | true",
        env!("CARGO_BIN_EXE_relay-bench"),
        server.addr(),
        json.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "exit 0\n");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((report["delivered"].as_u64(), server.allocations_left()), (Some(200), 0));
}
