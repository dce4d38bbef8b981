//! Runs as they could have been measured, for the tests of what is made of them.

use serde_json::Value;

use crate::compare::record::{Direction, Figures, Load, Outcome, Percentiles, Point, Run};
use crate::compare::sample::{Cpu, Drops, Watched};
use crate::compare::verdict::Saturated;

/// Two seconds with so many busy cores on either host.
pub(crate) fn cpu(relay_busy_cores: f64, load_busy_cores: f64) -> Cpu {
    let (window_secs, stolen_cores) = (2.0, 0.0);
    let process_cores = Some(relay_busy_cores / 2.0);
    Cpu { window_secs, relay_busy_cores, load_busy_cores, process_cores, stolen_cores }
}

/// One-way packets.
pub(crate) fn flood(offered_per_second: f64, loss_percent: f64, limited: bool) -> Figures {
    Figures::Throughput {
        offered_per_second,
        delivered_per_second: offered_per_second * (1.0 - loss_percent / 100.0),
        loss_percent,
        corrupted: 0,
        generator_limited: limited,
    }
}

/// Round trips, all at one latency.
pub(crate) fn echo(offered_per_second: f64, loss_percent: f64, ms: f64) -> Figures {
    Figures::Latency {
        delivered_per_second: offered_per_second * (1.0 - loss_percent / 100.0),
        loss_percent,
        corrupted: 0,
        unsent: 0,
        latency_ms: Some(Percentiles { p50: ms, p99: 2.0 * ms, p99_9: 3.0 * ms }),
        lateness_p99_ms: 0.1,
    }
}

/// Allocations that all succeeded.
pub(crate) fn allocations(count: u32, rss_bytes_each: f64) -> Figures {
    Figures::Allocations {
        made: count.into(),
        allocates_failed: 0,
        trouble: None,
        allocates_per_second: 5000.0,
        allocate_p99_ms: Some(1.5),
        allocate_cpu_secs: Some(0.0001),
        rss_bytes_each: Some(rss_bytes_each),
        map_bytes_each: Some(512.0),
        rss_bytes: Some(1e7 + rss_bytes_each * f64::from(count)),
        map_bytes: Some(2e6),
    }
}

/// A run at the point that its figures are of, with so many busy cores on either host.
pub(crate) fn run(
    subject: &str,
    round: u32,
    figures: Figures,
    relay_busy: f64,
    load_busy: f64,
) -> Run {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and whole")]
    let whole = |rate: f64| rate.round() as u32;
    let load = match &figures {
        Figures::Throughput { offered_per_second, generator_limited, .. } => Load::Throughput {
            direction: Direction::ToPeer,
            rate: (!generator_limited).then(|| whole(*offered_per_second)),
        },
        Figures::Latency { delivered_per_second, loss_percent, .. } => {
            Load::Latency { rate: whole(delivered_per_second / (1.0 - loss_percent / 100.0)) }
        }
        Figures::Allocations { made, .. } => {
            Load::Allocations { count: u32::try_from(*made).unwrap() }
        }
    };
    let watched = Watched { cpu: Some(cpu(relay_busy, load_busy)), drops: Drops::default() };
    Run {
        subject: subject.to_owned(),
        round,
        point: Point { flows: 32, payload_bytes: 200, load },
        saturated: Saturated::of(&figures, Some(&watched), 1, 1),
        outcome: Outcome::Measured { figures },
        watched: Some(watched),
        document: Value::Null,
    }
}
