//! Which host of the rig was at its limit in a run, and whether the run's figures may stand beside
//! another subject's. Owns the thresholds.

use std::fmt;

use serde::Serialize;

use crate::compare::record::{Figures, Outcome, Run};
use crate::compare::sample::Watched;

/// A host whose cores are busy for this share of the time is at its limit.
const BUSY_SHARE: f64 = 0.95;
/// Loss up to this is none, percent.
pub(crate) const LOSS_PERCENT_MAX: f64 = 0.1;
/// A tool that sends later than this was at its limit, 99th percentile, milliseconds.
const LATENESS_MS_MAX: f64 = 1.0;

/// Which host was at its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Saturated {
    /// The relay's.
    Relay,
    /// The one of clients and peers: the figure is the rig's, not the relay's.
    Load,
    /// Both.
    Both,
    /// Neither.
    Neither,
    /// The cores could not be watched.
    Unknown,
}

impl Saturated {
    /// Of a run. A generator in the kernel waits by spinning, so that a core it uses is always
    /// busy: there the tool's own word and the drops behind the relay tell.
    pub(crate) fn of(
        figures: &Figures,
        watched: Option<&Watched>,
        relay_cores: usize,
        load_cores: usize,
    ) -> Self {
        let cpu = watched.and_then(|watched| watched.cpu);
        let is_busy = |busy: f64, cores: usize| busy >= BUSY_SHARE * cores as f64;
        let load_is_busy = cpu.is_some_and(|cpu| is_busy(cpu.load_busy_cores, load_cores));
        let load = match figures {
            Figures::Throughput { generator_limited, offered_per_second, .. } => {
                let behind = share_behind(*offered_per_second, watched);
                *generator_limited || behind > LOSS_PERCENT_MAX
            }
            Figures::Latency { lateness_p99_ms, unsent, .. } => {
                load_is_busy || *lateness_p99_ms > LATENESS_MS_MAX || *unsent > 0
            }
            Figures::Allocations { .. } => load_is_busy,
        };
        let relay = cpu.map(|cpu| is_busy(cpu.relay_busy_cores, relay_cores));
        match (relay, load) {
            (Some(true), true) => Self::Both,
            (Some(true), false) => Self::Relay,
            (_, true) => Self::Load,
            (Some(false), false) => Self::Neither,
            (None, false) => Self::Unknown,
        }
    }

    /// Whether the clients' and peers' host was.
    pub(crate) fn is_load(self) -> bool {
        matches!(self, Self::Load | Self::Both)
    }
}

impl fmt::Display for Saturated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Load => "load host",
            Self::Both => "both hosts",
            Self::Neither => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// Why a run's figure does not stand beside others. The order is by weight: of several runs the
/// weightiest reason is told.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub(crate) enum Unsound {
    /// Nobody asked for it, or it was not reached.
    NotMeasured,
    /// Clients and peers were at their limit: the figure would be theirs.
    LoadHost,
    /// The rate was not offered.
    NotOffered,
    /// More was lost than counts as none, percent: the latency and the processor time of what was
    /// left are not those of the load.
    Lossy(f64),
    /// The tool that drove it failed.
    Failed,
    /// Packets came out damaged.
    Corrupted,
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMeasured => f.write_str("–"),
            Self::LoadHost => f.write_str("load host saturated"),
            Self::NotOffered => f.write_str("rate not offered"),
            Self::Lossy(percent) => write!(f, "saturated ({percent:.1} % lost)"),
            Self::Failed => f.write_str("failed"),
            Self::Corrupted => f.write_str("corrupts packets"),
        }
    }
}

/// The figures of a run that carried its load: nothing corrupted, no more than
/// [`LOSS_PERCENT_MAX`] lost, and everything offered.
pub(crate) fn carried(run: &Run) -> Result<&Figures, Unsound> {
    let Outcome::Measured { figures } = &run.outcome else { return Err(Unsound::Failed) };
    let (corrupted, lost, is_offered) = match figures {
        Figures::Throughput { corrupted, loss_percent, generator_limited, .. } => {
            (*corrupted, *loss_percent, !generator_limited)
        }
        Figures::Latency { corrupted, loss_percent, unsent, .. } => {
            (*corrupted, *loss_percent, *unsent == 0)
        }
        Figures::Allocations { trouble, allocates_failed, .. } => {
            let is_whole = trouble.is_none() && *allocates_failed == 0;
            return if is_whole { Ok(figures) } else { Err(Unsound::Failed) };
        }
    };
    if corrupted > 0 {
        return Err(Unsound::Corrupted);
    }
    if lost > LOSS_PERCENT_MAX {
        return Err(Unsound::Lossy(lost));
    }
    if is_offered { Ok(figures) } else { Err(Unsound::NotOffered) }
}

/// The figures of a run whose Allocates all succeeded, whatever came after them.
pub(crate) fn allocated(run: &Run) -> Result<&Figures, Unsound> {
    match &run.outcome {
        Outcome::Measured { figures } => match figures {
            Figures::Allocations { allocates_failed: 0, .. } => Ok(figures),
            Figures::Allocations { .. } => Err(Unsound::Failed),
            Figures::Throughput { .. } | Figures::Latency { .. } => Err(Unsound::NotMeasured),
        },
        Outcome::Failed { .. } => Err(Unsound::Failed),
    }
}

/// As [`carried`], and the time is the relay's: the other host was not at its limit.
pub(crate) fn timed(run: &Run) -> Result<&Figures, Unsound> {
    let figures = carried(run)?;
    if run.saturated.is_load() { Err(Unsound::LoadHost) } else { Ok(figures) }
}

/// Share of the sent packets that the relay had relayed and the links behind it dropped, percent.
pub(crate) fn behind_percent(run: &Run) -> f64 {
    match &run.outcome {
        Outcome::Measured { figures: Figures::Throughput { offered_per_second, .. } } => {
            share_behind(*offered_per_second, run.watched.as_ref())
        }
        Outcome::Measured { .. } | Outcome::Failed { .. } => 0.0,
    }
}

fn share_behind(offered_per_second: f64, watched: Option<&Watched>) -> f64 {
    let dropped = watched.map_or(0, |watched| watched.drops.behind_relay) as f64;
    let cpu = watched.and_then(|watched| watched.cpu);
    let secs = cpu.map_or(1.0, |cpu| cpu.window_secs);
    100.0 * dropped / (offered_per_second * secs).max(1.0)
}

/// Packets a second that the relay took in and gave out: a round trip crosses it twice. `None`
/// where packets are not what was measured.
pub(crate) fn relayed_per_second(figures: &Figures) -> Option<f64> {
    match figures {
        Figures::Throughput { delivered_per_second, .. } => Some(*delivered_per_second),
        Figures::Latency { delivered_per_second, .. } => Some(2.0 * delivered_per_second),
        Figures::Allocations { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{cpu, echo, flood, run};
    use crate::compare::sample::Drops;

    fn verdict(figures: &Figures, relay_busy: f64, load_busy: f64, behind_relay: u64) -> Saturated {
        let drops = Drops { before_relay: 9999, behind_relay };
        let watched = Watched { cpu: Some(cpu(relay_busy, load_busy)), drops };
        Saturated::of(figures, Some(&watched), 1, 1)
    }

    #[test]
    fn a_busy_relay_is_saturated_at_95_percent() {
        let calm = echo(1000.0, 0.0, 0.2);
        assert_eq!(verdict(&calm, 0.94, 0.5, 0), Saturated::Neither);
        assert_eq!(verdict(&calm, 0.95, 0.5, 0), Saturated::Relay);
        assert_eq!(verdict(&calm, 0.95, 0.95, 0), Saturated::Both);
        assert_eq!(verdict(&calm, 0.1, 0.95, 0), Saturated::Load);
        assert_eq!(Saturated::of(&calm, None, 1, 1), Saturated::Unknown);
    }

    #[test]
    fn a_tool_that_sends_late_is_at_its_limit() {
        let Figures::Latency { delivered_per_second, loss_percent, latency_ms, .. } =
            echo(1000.0, 0.0, 0.2)
        else {
            panic!("echo makes a latency")
        };
        let late = |lateness_p99_ms, unsent| Figures::Latency {
            delivered_per_second,
            loss_percent,
            latency_ms,
            corrupted: 0,
            lateness_p99_ms,
            unsent,
        };
        assert_eq!(verdict(&late(1.0, 0), 0.1, 0.1, 0), Saturated::Neither);
        assert_eq!(verdict(&late(1.1, 0), 0.1, 0.1, 0), Saturated::Load);
        assert_eq!(verdict(&late(0.1, 1), 0.1, 0.1, 0), Saturated::Load);
    }

    #[test]
    fn a_spinning_generator_is_not_a_saturated_host_but_drops_behind_the_relay_are() {
        let clean = flood(1000.0, 0.0, false);
        assert_eq!(verdict(&clean, 0.5, 1.0, 0), Saturated::Neither);
        // 1000 a second for the two seconds that the fixture watches: 0.1 % is two of them.
        assert_eq!(verdict(&clean, 0.5, 1.0, 2), Saturated::Neither);
        assert_eq!(verdict(&clean, 0.5, 1.0, 3), Saturated::Load);
        assert_eq!(verdict(&flood(1000.0, 0.0, true), 0.5, 1.0, 0), Saturated::Load);
    }

    #[test]
    fn a_figure_counts_when_the_load_was_carried() {
        let why = |figures: Figures| carried(&run("a", 1, figures, 0.5, 0.5)).err();
        assert_eq!(why(flood(1000.0, 0.1, false)), None);
        assert_eq!(why(flood(1000.0, 0.11, false)), Some(Unsound::Lossy(0.11)));
        assert_eq!(why(flood(1000.0, 0.0, true)), Some(Unsound::NotOffered));
        assert_eq!(why(echo(1000.0, 5.0, 0.2)), Some(Unsound::Lossy(5.0)));
        let mut damaged = flood(1000.0, 0.0, false);
        let Figures::Throughput { corrupted, .. } = &mut damaged else { panic!("a flood") };
        *corrupted = 1;
        assert_eq!(why(damaged), Some(Unsound::Corrupted));
        let mut failed = run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5);
        failed.outcome = Outcome::Failed { why: "403".to_owned() };
        assert_eq!(carried(&failed), Err(Unsound::Failed));
    }

    #[test]
    fn a_saturated_load_host_has_no_latency_to_show() {
        let idle = run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 0.5);
        assert!(timed(&idle).is_ok());
        let busy = run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 1.0);
        assert_eq!(timed(&busy), Err(Unsound::LoadHost));
        assert!(carried(&busy).is_ok(), "what it carried, it carried");
    }

    #[test]
    fn a_round_trip_is_two_relayed_packets() {
        assert_eq!(relayed_per_second(&flood(1000.0, 0.0, false)), Some(1000.0));
        assert_eq!(relayed_per_second(&echo(1000.0, 0.0, 0.2)), Some(2000.0));
    }
}
