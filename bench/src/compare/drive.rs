//! Runs the tool's other subcommands on the rig and reads what they found. The one place that
//! knows their command lines.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use rustix::process::Signal;
use serde_json::Value;

use crate::clock::{Clock, SECOND_NS};
use crate::compare::lab::{Lab, PEER, SERVER};
use crate::compare::record::{Figures, Load, Outcome, Point};
use crate::compare::subject::{PASSWORD, PORT, USER};
use crate::lab::namespace::Namespace;
use crate::lab::process::{POLL, Running};

/// The port of the echo peer.
const ECHO_PORT: u16 = 3480;
/// How long a tool may take beyond the load itself, seconds: set-up, waiting for late packets,
/// all phases of allocations.
const MARGIN_SECS: u64 = 120;

/// What a tool brought back.
#[derive(Clone, Debug)]
pub(crate) struct Driven {
    /// The result.
    pub(crate) outcome: Outcome,
    /// The tool's document; `Value::Null` without one.
    pub(crate) document: Value,
}

/// Drives loads against whatever serves on the rig.
#[derive(Debug)]
pub(crate) struct Driver<'a> {
    /// The rig.
    pub(crate) lab: &'a Lab,
    /// This tool's own program.
    pub(crate) tool: PathBuf,
    /// Where documents and logs go.
    pub(crate) directory: PathBuf,
    /// How long each load lasts, seconds.
    pub(crate) secs: u32,
    /// The user asked for the end.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Driver<'_> {
    /// Starts the echo peer that latency loads use.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start_echo(&self) -> anyhow::Result<Running> {
        let listen = format!("{PEER}:{ECHO_PORT}");
        let words = [self.tool.display().to_string(), "echo".into(), "--listen".into(), listen];
        Running::start(&self.lab.peer, &words, &self.directory.join("echo.log"))
            .context("cannot start the echo peer")
    }

    /// Runs one load; `pid` is the server's process, `is_server` says whether it speaks TURN.
    pub(crate) fn run(&self, point: Point, pid: u32, is_server: bool) -> Driven {
        let document = self.directory.join("document.json");
        // What an earlier load wrote is not this one's.
        let _ = fs::remove_file(&document);
        let mut words = vec![self.tool.display().to_string()];
        words.extend(self.words(point, pid, is_server));
        words.extend(["--json".to_owned(), document.display().to_string()]);
        // The tool's own threads are the clients', whichever namespace they look into.
        match self.to_its_end(&self.lab.client, &words) {
            Ok(last_words) => conclude(point.load, fs::read(&document).ok(), last_words),
            Err(error) => Driven {
                outcome: Outcome::Failed { why: format!("{error:#}") },
                document: Value::Null,
            },
        }
    }

    fn words(&self, point: Point, pid: u32, is_server: bool) -> Vec<String> {
        let Self { lab, secs, .. } = self;
        let server = format!("turn:{SERVER}:{PORT} --user {USER} --password {PASSWORD}");
        let Point { flows, payload_bytes, load } = point;
        let line = match load {
            Load::Throughput { direction, rate } => {
                let (client, peer) = (&lab.client, &lab.peer);
                let target = if is_server {
                    format!(
                        "flood {server} --peer-netns {} --peer-interface {} --peer-address {PEER} \
                         --direction {}",
                        peer.name(),
                        peer.interface(0),
                        direction.name()
                    )
                } else {
                    format!("ceiling --mac {}", lab.server_mac)
                };
                let rate = rate.map_or(String::new(), |rate| format!("--rate {rate}"));
                format!(
                    "{target} --netns {} --interface {} {rate} --allocations {flows} \
                     --payload {payload_bytes} --duration {secs} --quiet",
                    client.name(),
                    client.interface(0)
                )
            }
            Load::Latency { rate } => format!(
                "load {server} --peer {PEER}:{ECHO_PORT} --allocations {flows} --rate {} \
                 --payload {payload_bytes} --duration {secs} --drain 1000 --quiet",
                (rate / flows).max(1)
            ),
            Load::Allocations { count } => {
                format!(
                    "alloc {server} --peer {PEER}:{ECHO_PORT} --allocations {count} --pid {pid} \
                 --quiet"
                )
            }
        };
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Runs a tool until it ends, the user asks for the end, or it has taken too long; its last
    /// words.
    fn to_its_end(&self, host: &Namespace, words: &[String]) -> anyhow::Result<String> {
        let mut tool = Running::start(host, words, &self.directory.join("tool.log"))
            .with_context(|| format!("cannot run {}", words.join(" ")))?;
        let clock = Clock::start();
        let time_ns = (u64::from(self.secs) + MARGIN_SECS) * SECOND_NS;
        while tool.ended().is_none() {
            if self.stop.load(Ordering::Relaxed) || clock.now() > time_ns {
                // It frees its allocations and writes what it has.
                tool.end(Signal::INT);
                break;
            }
            thread::sleep(POLL);
        }
        Ok(tool.last_words())
    }
}

/// What a document, or the lack of one, says.
fn conclude(load: Load, document: Option<Vec<u8>>, last_words: String) -> Driven {
    let document: Option<Value> = document.and_then(|text| serde_json::from_slice(&text).ok());
    let Some(document) = document else {
        return Driven { outcome: Outcome::Failed { why: last_words }, document: Value::Null };
    };
    let outcome = match (document["ending"].as_str(), Figures::read(load, &document)) {
        (Some("completed"), Some(figures)) => Outcome::Measured { figures },
        (Some("completed"), None) => {
            Outcome::Failed { why: "its document lacks a figure".to_owned() }
        }
        // A server that takes no peer of ours has allocated all the same.
        (_, Some(figures @ Figures::Allocations { made: 1.., allocates_failed: 0, .. })) => {
            Outcome::Measured { figures }
        }
        _ => {
            let explanation = document["explanation"].as_str();
            Outcome::Failed { why: explanation.map_or(last_words, str::to_owned) }
        }
    };
    Driven { outcome, document }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_without_a_document_failed_in_its_own_words() {
        let driven = conclude(Load::Latency { rate: 1 }, None, "no such file".to_owned());
        assert_eq!(driven.outcome, Outcome::Failed { why: "no such file".to_owned() });
    }

    #[test]
    fn a_run_that_ended_early_is_no_result() {
        let text = br#"{"ending": "server_gone", "explanation": "it died", "delivered": 5}"#;
        let driven = conclude(Load::Latency { rate: 1 }, Some(text.to_vec()), String::new());
        assert_eq!(driven.outcome, Outcome::Failed { why: "it died".to_owned() });
        assert_eq!(driven.document["delivered"], 5, "what there is stays in the record");
        let text = br#"{"ending": "completed", "delivered": 5}"#.to_vec();
        let driven = conclude(Load::Latency { rate: 1 }, Some(text), String::new());
        assert!(matches!(driven.outcome, Outcome::Failed { .. }), "no figure is invented");
    }
}
