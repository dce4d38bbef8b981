//! What a comparison is to do: subjects, rounds, loads. Made of the command line; does nothing.

use serde::Serialize;

use crate::compare::record::{Direction, Load, Point};
use crate::compare::subject::Subject;
use crate::lab::cores::Cores;

/// Everything that is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In the order in which they take turns.
    pub(crate) subjects: Vec<Subject>,
    /// How often each subject is measured.
    pub(crate) rounds: u32,
    /// Ways of the one-way load; empty: none.
    pub(crate) directions: Vec<Direction>,
    /// Allocations that carry packets.
    pub(crate) flows: u32,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: u16,
    /// Packets a second of the one-way load, rising.
    pub(crate) rates: Vec<u32>,
    /// Rates between the last that was carried and the first that was not.
    pub(crate) bisections: u32,
    /// Packets a second, one way, of the round-trip load; rising; empty: none.
    pub(crate) latency_rates: Vec<u32>,
    /// Numbers of allocations; rising; empty: none.
    pub(crate) counts: Vec<u32>,
    /// How long each load lasts, seconds.
    pub(crate) secs: u32,
    /// Cores of the relay's host.
    pub(crate) relay_cores: Cores,
    /// Cores of the host of clients and peers.
    pub(crate) load_cores: Cores,
    /// Whether progress is told on standard error.
    pub(crate) progress: Progress,
}

/// Whether to tell what goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// On standard error.
    Shown,
    /// Not at all.
    Silent,
}

/// What was asked for, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// The command, without passwords.
    pub(crate) command: String,
    /// Names of the subjects.
    pub(crate) subjects: Vec<String>,
    /// Rounds.
    pub(crate) rounds: u32,
    /// Allocations that carry packets.
    pub(crate) flows: u32,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: u16,
    /// How long each load lasts, seconds.
    pub(crate) duration_secs: u32,
}

impl Plan {
    /// What the report repeats of it.
    pub(crate) fn asked(&self, command: String) -> Asked {
        Asked {
            command,
            subjects: self.subjects.iter().map(|subject| subject.name.clone()).collect(),
            rounds: self.rounds,
            flows: self.flows,
            payload_bytes: self.payload_bytes,
            duration_secs: self.secs,
        }
    }

    /// A line of progress.
    pub(crate) fn tell(&self, line: &str) {
        if self.progress == Progress::Shown {
            eprintln!("{line}");
        }
    }

    /// The points of the round-trip load, rising.
    pub(crate) fn latency_points(&self) -> Vec<Point> {
        let mut rates: Vec<_> = self
            .latency_rates
            .iter()
            // Each allocation sends a whole number of packets a second.
            .map(|rate| (rate / self.flows).max(1) * self.flows)
            .collect();
        rates.dedup();
        rates.into_iter().map(|rate| self.point(Load::Latency { rate })).collect()
    }

    /// The points of the allocation load, rising.
    pub(crate) fn allocation_points(&self) -> Vec<Point> {
        let points = self.counts.iter().map(|count| Point {
            flows: *count,
            payload_bytes: 0,
            load: Load::Allocations { count: *count },
        });
        points.collect()
    }

    /// A point with the plan's flows and payload.
    pub(crate) fn point(&self, load: Load) -> Point {
        Point { flows: self.flows, payload_bytes: self.payload_bytes, load }
    }
}
