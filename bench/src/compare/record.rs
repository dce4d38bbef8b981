//! What a comparison writes down: which load, on which subject, in which round, with which result.
//! Plain data; reads the documents of the tool's other subcommands, judges nothing.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::compare::sample::Watched;
use crate::compare::verdict::Saturated;

/// Which way packets cross the relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// ChannelData in, UDP out.
    ToPeer,
    /// UDP in, ChannelData out.
    ToClient,
}

impl Direction {
    /// As the command line writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ToPeer => "to-peer",
            Self::ToClient => "to-client",
        }
    }
}

/// What was asked of a subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Load {
    /// One-way packets from the in-kernel generator.
    Throughput {
        /// Which way.
        direction: Direction,
        /// Packets a second of all flows; `None` is flat out.
        rate: Option<u32>,
    },
    /// Round trips of real clients over an echo peer.
    Latency {
        /// Packets a second of all flows, one way.
        rate: u32,
    },
    /// Allocations, each with a permission and a channel.
    Allocations {
        /// How many.
        count: u32,
    },
}

/// Flows and payload bytes.
pub(crate) type Shape = (u32, u16);

/// A load with its shape. Figures of different points are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Point {
    /// Allocations that carry packets.
    pub(crate) flows: u32,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: u16,
    /// The load.
    #[serde(flatten)]
    pub(crate) load: Load,
}

impl Point {
    /// Its flows and payload bytes.
    pub(crate) const fn shape(&self) -> Shape {
        (self.flows, self.payload_bytes)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.load {
            Load::Throughput { direction, rate: Some(rate) } => {
                write!(f, "{} {rate}/s", direction.name())
            }
            Load::Throughput { direction, rate: None } => {
                write!(f, "{} flat out", direction.name())
            }
            Load::Latency { rate } => write!(f, "echo {rate}/s"),
            Load::Allocations { count } => write!(f, "{count} allocations"),
        }
    }
}

/// Milliseconds at some percentiles.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Percentiles {
    /// The median.
    pub(crate) p50: f64,
    /// 99 % are not above it.
    pub(crate) p99: f64,
    /// 99.9 % are not above it.
    pub(crate) p99_9: f64,
}

/// What one run measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub(crate) enum Figures {
    /// Of [`Load::Throughput`].
    Throughput {
        /// Packets a second that were sent.
        offered_per_second: f64,
        /// Packets a second that arrived.
        delivered_per_second: f64,
        /// Share of the sent packets that did not arrive, percent.
        loss_percent: f64,
        /// Damaged packets in the checked sample.
        corrupted: u64,
        /// The generator did not reach the rate, or flat out was all it had.
        generator_limited: bool,
    },
    /// Of [`Load::Latency`].
    Latency {
        /// Round trips a second that were completed.
        delivered_per_second: f64,
        /// Share of the due packets that did not come back intact, percent.
        loss_percent: f64,
        /// Damaged packets.
        corrupted: u64,
        /// Packets that this host's kernel did not take.
        unsent: u64,
        /// There and back; `None` when nothing came back.
        latency_ms: Option<Percentiles>,
        /// How late the tool itself sent, 99th percentile, milliseconds.
        lateness_p99_ms: f64,
    },
    /// Of [`Load::Allocations`].
    Allocations {
        /// Allocations that were made.
        made: u64,
        /// Allocates that failed.
        allocates_failed: u64,
        /// Why not all that were asked for stand with permission and channel; `None`: they do.
        trouble: Option<String>,
        /// Successful Allocates a second.
        allocates_per_second: f64,
        /// 99th percentile of an Allocate, milliseconds.
        allocate_p99_ms: Option<f64>,
        /// Processor seconds of the server for each Allocate.
        allocate_cpu_secs: Option<f64>,
        /// Growth of the server's resident memory for each allocation, bytes.
        rss_bytes_each: Option<f64>,
        /// Growth of the server's kernel map memory for each allocation, bytes.
        map_bytes_each: Option<f64>,
        /// The server's resident memory while they stood, bytes.
        rss_bytes: Option<f64>,
        /// The server's kernel map memory while they stood, bytes.
        map_bytes: Option<f64>,
    },
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "ending")]
pub(crate) enum Outcome {
    /// It ran to its end.
    Measured {
        /// The result.
        figures: Figures,
    },
    /// It did not begin, or ended early.
    Failed {
        /// In the words of the tool that drove it.
        why: String,
    },
}

/// One load on one subject in one round.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Run {
    /// The subject's name.
    pub(crate) subject: String,
    /// Counted from 1.
    pub(crate) round: u32,
    /// The load.
    pub(crate) point: Point,
    /// The result.
    pub(crate) outcome: Outcome,
    /// Which host was at its limit.
    pub(crate) saturated: Saturated,
    /// What the cores and links did; `None` when it could not be seen.
    pub(crate) watched: Option<Watched>,
    /// The driving tool's whole document.
    pub(crate) document: Value,
}

impl Figures {
    /// Reads the document of the subcommand that made a load; `None` when a figure is missing.
    pub(crate) fn read(load: Load, document: &Value) -> Option<Self> {
        let at = |path: &str| document.pointer(path);
        let number = |path: &str| at(path)?.as_f64();
        let count = |path: &str| at(path)?.as_u64();
        Some(match load {
            Load::Throughput { rate, .. } => Self::Throughput {
                offered_per_second: number("/sent_per_second")?,
                delivered_per_second: number("/received_per_second")?,
                loss_percent: number("/loss_percent")?,
                // Whatever reached the peer otherwise than as it was sent, or another peer.
                corrupted: count("/corrupted_estimate")? + count("/misdelivered")?,
                generator_limited: at("/generator_limited")?.as_bool()? || rate.is_none(),
            },
            Load::Latency { .. } => Self::Latency {
                delivered_per_second: number("/delivered")? / number("/load_secs")?.max(1e-3),
                loss_percent: number("/undelivered_percent")?,
                corrupted: count("/corrupted")? + count("/misdelivered")?,
                unsent: count("/unsent")?,
                latency_ms: at("/latency_ms")?.as_object().and_then(|_| {
                    Some(Percentiles {
                        p50: number("/latency_ms/p50")?,
                        p99: number("/latency_ms/p99")?,
                        p99_9: number("/latency_ms/p99_9")?,
                    })
                }),
                lateness_p99_ms: number("/lateness_ms/p99")?,
            },
            Load::Allocations { .. } => Self::allocations(document)?,
        })
    }

    fn allocations(document: &Value) -> Option<Self> {
        let phases = document.get("phases")?.as_array()?;
        let phase = |name: &str| phases.iter().find(|phase| phase["name"] == name);
        let failed = |phase: &Value| phase["failed"].as_u64();
        let allocate = phase("allocate")?;
        let allocates_failed = failed(allocate)?;
        let made = allocate["requests"].as_u64()?.saturating_sub(allocates_failed);
        let later = ["permission", "channel"].map(phase);
        let later_failed: u64 = later.iter().flatten().filter_map(|phase| failed(phase)).sum();
        let trouble = match document["ending"].as_str() {
            Some("completed") if allocates_failed > 0 => {
                Some(format!("{allocates_failed} Allocates failed"))
            }
            Some("completed") if later_failed > 0 => {
                Some(format!("{later_failed} permissions or channels failed"))
            }
            Some("completed") => None,
            _ => Some(document["explanation"].as_str().unwrap_or("ended early").to_owned()),
        };
        let memory = |path: &str| document.pointer(path).and_then(Value::as_f64);
        Some(Self::Allocations {
            made,
            allocates_failed,
            trouble,
            allocates_per_second: allocate["per_second"].as_f64()?,
            allocate_p99_ms: allocate.pointer("/latency_ms/p99").and_then(Value::as_f64),
            allocate_cpu_secs: allocate["cpu_secs"]
                .as_f64()
                .filter(|_| made > 0)
                .map(|secs| secs / made as f64),
            rss_bytes_each: memory("/memory/bytes_per_allocation/rss"),
            map_bytes_each: memory("/memory/bytes_per_allocation/maps"),
            rss_bytes: memory("/memory/rss_bytes/bound"),
            map_bytes: memory("/memory/map_bytes/bound"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FLAT_OUT: Load = Load::Throughput { direction: Direction::ToPeer, rate: None };

    #[test]
    fn a_flood_that_is_flat_out_is_limited_by_the_generator() {
        let document = json!({
            "sent_per_second": 900.0, "received_per_second": 450.0, "loss_percent": 50.0,
            "corrupted_estimate": 0, "misdelivered": 0, "generator_limited": false,
        });
        let expected = Figures::Throughput {
            offered_per_second: 900.0,
            delivered_per_second: 450.0,
            loss_percent: 50.0,
            corrupted: 0,
            generator_limited: true,
        };
        assert_eq!(Figures::read(FLAT_OUT, &document), Some(expected));
        assert_eq!(Figures::read(FLAT_OUT, &json!({"sent_per_second": 1.0})), None);
    }

    #[test]
    fn a_wrong_checksum_and_a_wrong_peer_are_damage() {
        for (name, other) in
            [("corrupted_estimate", "misdelivered"), ("misdelivered", "corrupted_estimate")]
        {
            let document = json!({
                "sent_per_second": 900.0, "received_per_second": 900.0, "loss_percent": 0.0,
                "corrupted": 0, name: 7, other: 0, "generator_limited": false,
            });
            let figures = Figures::read(FLAT_OUT, &document);
            let is_seen = matches!(figures, Some(Figures::Throughput { corrupted: 7, .. }));
            assert!(is_seen, "{name}: {figures:?}");
        }
    }

    #[test]
    fn a_load_without_any_answer_has_no_latency() {
        let document = json!({
            "delivered": 0, "load_secs": 2.0, "undelivered_percent": 100.0, "corrupted": 0,
            "misdelivered": 0,
            "unsent": 0, "latency_ms": null, "lateness_ms": {"p99": 0.1},
        });
        let figures = Figures::read(Load::Latency { rate: 100 }, &document);
        let Some(Figures::Latency { latency_ms, loss_percent, .. }) = figures else {
            panic!("{figures:?}")
        };
        assert_eq!((latency_ms, loss_percent), (None, 100.0));
    }

    fn allocations(ending: &str, allocates_failed: u64, channels_failed: u64) -> Figures {
        let document = json!({
            "ending": ending, "explanation": "ChannelBind refused: 443",
            "phases": [
                {"name": "allocate", "requests": 100, "failed": allocates_failed,
                 "per_second": 50.0, "cpu_secs": 0.99, "latency_ms": {"p99": 4.0}},
                {"name": "permission", "requests": 99, "failed": 0, "per_second": 50.0},
                {"name": "channel", "requests": 99, "failed": channels_failed, "per_second": 50.0},
                {"name": "delete", "requests": 99, "failed": 5, "per_second": 50.0},
            ],
            "memory": {"rss_bytes": {"bound": 9000}, "map_bytes": {"bound": 0},
                       "bytes_per_allocation": {"rss": 80.0, "maps": 0.0}},
        });
        Figures::read(Load::Allocations { count: 100 }, &document).unwrap()
    }

    #[test]
    fn allocations_are_read_phase_by_phase() {
        let expected = Figures::Allocations {
            made: 99,
            allocates_failed: 1,
            trouble: Some("1 Allocates failed".to_owned()),
            allocates_per_second: 50.0,
            allocate_p99_ms: Some(4.0),
            allocate_cpu_secs: Some(0.01),
            rss_bytes_each: Some(80.0),
            map_bytes_each: Some(0.0),
            rss_bytes: Some(9000.0),
            map_bytes: Some(0.0),
        };
        assert_eq!(allocations("completed", 1, 0), expected);
    }

    #[test]
    fn allocations_without_channels_are_in_trouble() {
        let trouble = |figures| match figures {
            Figures::Allocations { trouble, .. } => trouble,
            other => panic!("{other:?}"),
        };
        let failed = trouble(allocations("completed", 0, 9));
        assert_eq!(failed.as_deref(), Some("9 permissions or channels failed"));
        let refused = trouble(allocations("refused", 0, 0));
        assert_eq!(refused.as_deref(), Some("ChannelBind refused: 443"));
    }
}
