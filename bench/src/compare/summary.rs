//! What the runs say together: for each subject and load one figure over the rounds, or the reason
//! why there is none. Owns which figures may stand side by side. Renders nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::record::{Direction, Figures, Load, Outcome, Point, Run, Shape};
use crate::compare::verdict::{
    LOSS_PERCENT_MAX, Saturated, Unsound, allocated, behind_percent, carried, relayed_per_second,
    timed,
};
use crate::spread::Spread;

/// One figure of one subject at one point.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Cell {
    /// Comparable with others at this point.
    Figure(Spread),
    /// The rig was at its limit first: the subject can do this, and may be able to do more.
    AtLeast(Spread),
    /// Not comparable, and why.
    Withheld(Unsound),
}

impl Cell {
    /// The figure that stands for itself, if it does.
    pub(crate) fn figure(self) -> Option<Spread> {
        match self {
            Self::Figure(spread) => Some(spread),
            Self::AtLeast(_) | Self::Withheld(_) => None,
        }
    }
}

/// A look at all runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary<'a> {
    runs: &'a [Run],
}

impl<'a> Summary<'a> {
    /// Of these runs.
    pub(crate) const fn of(runs: &'a [Run]) -> Self {
        Self { runs }
    }

    /// The points of every run that `wanted` wants, in order, each once.
    pub(crate) fn points(&self, wanted: impl Fn(Load) -> bool) -> Vec<Point> {
        let points = self.runs.iter().map(|run| run.point).filter(|point| wanted(point.load));
        points.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The points that at least two subjects were measured at: the others compare nothing. All
    /// of them when there is but one subject.
    pub(crate) fn shared_points(&self, wanted: impl Fn(Load) -> bool) -> Vec<Point> {
        let subjects: BTreeSet<_> = self.runs.iter().map(|run| &run.subject).collect();
        let mut points = self.points(wanted);
        points.retain(|point| {
            let at = self.runs.iter().filter(|run| run.point == *point);
            at.map(|run| &run.subject).collect::<BTreeSet<_>>().len() >= subjects.len().min(2)
        });
        points
    }

    fn at(&self, subject: &str, point: Point) -> impl Iterator<Item = &'a Run> {
        let runs = self.runs.iter();
        runs.filter(move |run| run.subject == subject && run.point == point)
    }

    /// A figure over the rounds. It needs more than half of the rounds: otherwise the weightiest
    /// reason of the others is told.
    pub(crate) fn cell(
        &self,
        subject: &str,
        point: Point,
        figure: impl Fn(&Run) -> Result<Option<f64>, Unsound>,
    ) -> Cell {
        let (mut sound, mut unsound) = (Vec::new(), Vec::new());
        for run in self.at(subject, point) {
            match figure(run) {
                Ok(Some(x)) => sound.push(x),
                Ok(None) => unsound.push(Unsound::NotMeasured),
                Err(why) => unsound.push(why),
            }
        }
        let majority = sound.len() > unsound.len();
        match Spread::of(sound).filter(|_| majority) {
            Some(spread) => Cell::Figure(spread),
            None => Cell::Withheld(weightiest(&unsound)),
        }
    }

    /// Loss at a one-way rate, percent. Where less than the rate was offered, it is not the rate's.
    pub(crate) fn loss(&self, subject: &str, point: Point) -> Cell {
        self.cell(subject, point, |run| match (carried(run), &run.outcome) {
            (Err(why @ (Unsound::Corrupted | Unsound::Failed)), _) => Err(why),
            (
                other,
                Outcome::Measured {
                    figures: Figures::Throughput { loss_percent, generator_limited, .. },
                },
            ) => match (generator_limited, other) {
                (true, Err(why)) => Err(why),
                (true, Ok(_)) => Err(Unsound::NotOffered),
                (false, _) => Ok(Some(*loss_percent)),
            },
            (_, Outcome::Measured { .. } | Outcome::Failed { .. }) => Ok(None),
        })
    }

    /// What was really offered at a one-way load, packets a second, and what of it was lost,
    /// percent: medians over the rounds. `None` when packets came out damaged, and for a rate in
    /// between that only half of the rounds or fewer came to.
    pub(crate) fn offered_and_lost(&self, subject: &str, point: Point) -> Option<(f64, f64)> {
        let mut rounds = Vec::new();
        for run in self.at(subject, point) {
            let Outcome::Measured {
                figures: Figures::Throughput { offered_per_second, loss_percent, corrupted: 0, .. },
            } = &run.outcome
            else {
                return None;
            };
            rounds.push((*offered_per_second, *loss_percent));
        }
        if rounds.len() * 2 <= self.rounds().len() {
            return None;
        }
        let offered = Spread::of(rounds.iter().map(|(offered, _)| *offered))?;
        let lost = Spread::of(rounds.iter().map(|(_, lost)| *lost))?;
        Some((offered.median, lost.median))
    }

    /// A percentile of the round trip, milliseconds.
    pub(crate) fn latency(&self, subject: &str, point: Point, percentile: Percentile) -> Cell {
        self.cell(subject, point, |run| match timed(run)? {
            Figures::Latency { latency_ms, .. } => Ok(latency_ms.map(|ms| match percentile {
                Percentile::P50 => ms.p50,
                Percentile::P99 => ms.p99,
                Percentile::P99_9 => ms.p99_9,
            })),
            Figures::Throughput { .. } | Figures::Allocations { .. } => Ok(None),
        })
    }

    /// Busy time of all cores for each relayed packet of a round trip, nanoseconds: clients and
    /// peers are the same for every subject. Not for one-way packets: their generator waits by
    /// spinning.
    pub(crate) fn machine_ns(&self, subject: &str, point: Point) -> Cell {
        self.cell(subject, point, |run| {
            let figures = carried(run)?;
            let Figures::Latency { .. } = figures else { return Ok(None) };
            let relayed = relayed_per_second(figures);
            let cpu = run.watched.and_then(|watched| watched.cpu);
            let busy = cpu.map(|cpu| cpu.relay_busy_cores + cpu.load_busy_cores);
            Ok(busy.zip(relayed).map(|(busy, relayed)| busy * 1e9 / relayed))
        })
    }

    /// What the server's process used for each relayed packet by its own account, nanoseconds.
    pub(crate) fn process_ns(&self, subject: &str, point: Point) -> Cell {
        self.cell(subject, point, |run| {
            let relayed = relayed_per_second(carried(run)?);
            let cores = run.watched.and_then(|watched| watched.cpu?.process_cores);
            Ok(cores.zip(relayed).map(|(cores, relayed)| cores * 1e9 / relayed))
        })
    }

    /// Something of allocations that stand with permissions and channels.
    pub(crate) fn standing(
        &self,
        subject: &str,
        point: Point,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> Cell {
        self.cell(subject, point, |run| Ok(figure(carried(run)?)))
    }

    /// Something of the Allocates themselves.
    pub(crate) fn allocate(
        &self,
        subject: &str,
        point: Point,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> Cell {
        self.cell(subject, point, |run| Ok(figure(allocated(run)?)))
    }

    /// Packets a second at the highest rate that was carried.
    pub(crate) fn throughput(&self, subject: &str, way: Direction, shape: Shape) -> Cell {
        // A damaged packet at one rate says what the clean ones at another are worth.
        let mut floods = self.floods(subject, way, shape);
        if floods.any(|run| carried(run).is_err_and(|why| why == Unsound::Corrupted)) {
            return Cell::Withheld(Unsound::Corrupted);
        }
        let mut failures = Vec::new();
        let limits: Vec<_> = self
            .rounds()
            .into_iter()
            .filter_map(|round| {
                let floods = self.floods(subject, way, shape);
                let runs: Vec<_> = floods.filter(|run| run.round == round).collect();
                limit(&runs).map_err(|why| failures.push(why)).ok()
            })
            .collect();
        let Some(spread) = Spread::of(limits.iter().map(|limit| limit.per_second)) else {
            return Cell::Withheld(weightiest(&failures));
        };
        // One round in which the rig gave way first makes the whole a lower bound.
        match limits.iter().any(|limit| limit.is_the_rigs) {
            true => Cell::AtLeast(spread),
            false => Cell::Figure(spread),
        }
    }

    /// What arrives when everything is sent that can be, and what of it is lost (percent). Which
    /// host gave way, too.
    pub(crate) fn flat_out(
        &self,
        subject: &str,
        way: Direction,
        (flows, payload_bytes): Shape,
    ) -> (Cell, Cell, Vec<Saturated>) {
        let load = Load::Throughput { direction: way, rate: None };
        let point = Point { flows, payload_bytes, load };
        let of = |pick: fn(f64, f64) -> f64| {
            self.cell(subject, point, move |run| match &run.outcome {
                Outcome::Measured { figures } => match figures {
                    Figures::Throughput { corrupted, .. } if *corrupted > 0 => {
                        Err(Unsound::Corrupted)
                    }
                    Figures::Throughput { delivered_per_second, loss_percent, .. } => {
                        Ok(Some(pick(*delivered_per_second, *loss_percent)))
                    }
                    Figures::Latency { .. } | Figures::Allocations { .. } => Ok(None),
                },
                Outcome::Failed { .. } => Err(Unsound::Failed),
            })
        };
        let saturated = self.at(subject, point).map(|run| run.saturated).collect();
        (of(|delivered, _| delivered), of(|_, lost| lost), saturated)
    }

    /// Why runs of a subject failed: a reason for each point.
    pub(crate) fn failures(&self, subject: &str) -> BTreeMap<Point, &'a str> {
        let of_it = self.runs.iter().filter(|run| run.subject == subject);
        let failures = of_it.filter_map(|run| match &run.outcome {
            Outcome::Failed { why }
            | Outcome::Measured { figures: Figures::Allocations { trouble: Some(why), .. } } => {
                Some((run.point, why.as_str()))
            }
            Outcome::Measured { .. } => None,
        });
        failures.collect()
    }

    fn rounds(&self) -> BTreeSet<u32> {
        self.runs.iter().map(|run| run.round).collect()
    }

    fn floods(&self, subject: &str, way: Direction, shape: Shape) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| {
            let is_it =
                matches!(run.point.load, Load::Throughput { direction, .. } if direction == way);
            is_it && run.subject == subject && run.point.shape() == shape
        })
    }
}

/// Which percentile of a latency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Percentile {
    /// The median.
    P50,
    /// 99 %.
    P99,
    /// 99.9 %.
    P99_9,
}

impl Percentile {
    /// As tables and legends write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P99_9 => "p99.9",
        }
    }
}

/// The highest rate that was carried in one round.
struct Limit {
    per_second: f64,
    /// Nothing shows that the relay could not do more.
    is_the_rigs: bool,
}

/// Of the one-way runs of one subject, one round, one way.
fn limit(runs: &[&Run]) -> Result<Limit, Unsound> {
    let arrived = |run: &Run| match &run.outcome {
        Outcome::Measured {
            figures: Figures::Throughput { corrupted: 0, loss_percent, delivered_per_second, .. },
        } => Some((*loss_percent, *delivered_per_second)),
        Outcome::Measured { .. } | Outcome::Failed { .. } => None,
    };
    let offered = |run: &Run| match &run.outcome {
        Outcome::Measured { figures: Figures::Throughput { offered_per_second, .. } } => {
            Some(*offered_per_second)
        }
        Outcome::Measured { .. } | Outcome::Failed { .. } => None,
    };
    let clean = |(loss, _): &(f64, f64)| *loss <= LOSS_PERCENT_MAX;
    let carried_rates = runs.iter().filter_map(|run| arrived(run)).filter(clean);
    let Some(per_second) = carried_rates.map(|(_, rate)| rate).reduce(f64::max) else {
        let reasons: Vec<_> = runs.iter().filter_map(|run| carried(run).err()).collect();
        return Err(weightiest(&reasons));
    };
    // The relay's own limit shows in a run that lost packets before or in the relay, at a higher
    // rate: a loss below a rate that was carried was not the rate's.
    let is_the_relays = |run: &Run| {
        let lost = arrived(run).map(|(loss, _)| loss - behind_percent(run));
        let is_higher = offered(run).is_some_and(|offered| offered > per_second);
        is_higher && lost.is_some_and(|lost| lost > LOSS_PERCENT_MAX)
    };
    Ok(Limit { per_second, is_the_rigs: !runs.iter().any(|run| is_the_relays(run)) })
}

/// The weightiest of some reasons.
fn weightiest(reasons: &[Unsound]) -> Unsound {
    let heavier = |a: Unsound, b: Unsound| if b > a { b } else { a };
    reasons.iter().copied().fold(Unsound::NotMeasured, heavier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{allocations, echo, flood, run};
    use crate::compare::sample::Drops;

    const WAY: Direction = Direction::ToPeer;
    const SHAPE: Shape = (32, 200);

    fn p99(runs: &[Run]) -> Cell {
        Summary::of(runs).latency("a", runs[0].point, Percentile::P99)
    }

    #[test]
    fn a_latency_is_the_median_of_the_rounds() {
        let runs = [1.0, 3.0, 2.0].map(|ms| run("a", 1, echo(1000.0, 0.0, ms), 0.5, 0.5));
        assert_eq!(p99(&runs), Cell::Figure(Spread { median: 4.0, min: 2.0, max: 6.0, rounds: 3 }));
    }

    #[test]
    fn a_subject_that_did_not_carry_the_load_has_no_latency_beside_others() {
        let runs = [run("a", 1, echo(1000.0, 5.0, 0.2), 1.0, 0.5)];
        assert_eq!(p99(&runs), Cell::Withheld(Unsound::Lossy(5.0)));
        let runs = [run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 1.0)];
        assert_eq!(p99(&runs), Cell::Withheld(Unsound::LoadHost));
    }

    #[test]
    fn half_of_the_rounds_is_not_enough() {
        let sound = run("a", 1, echo(1000.0, 0.0, 1.0), 0.5, 0.5);
        let lossy = run("a", 2, echo(1000.0, 2.0, 1.0), 0.5, 0.5);
        let runs = [sound.clone(), lossy.clone()];
        assert_eq!(p99(&runs), Cell::Withheld(Unsound::Lossy(2.0)));
        let Cell::Figure(spread) = p99(&[sound.clone(), lossy, sound]) else {
            panic!("two of three are")
        };
        assert_eq!(spread.rounds, 2);
    }

    #[test]
    fn other_shapes_and_loads_are_other_points() {
        let small = run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5);
        let mut large = run("a", 1, flood(9000.0, 0.0, false), 0.5, 0.5);
        large.point.payload_bytes = 1200;
        let mut wide = small.clone();
        wide.point.flows = 10_000;
        let echo = run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 0.5);
        let runs = [small.clone(), large, wide, echo.clone()];
        let summary = Summary::of(&runs);
        assert_eq!(summary.points(|load| matches!(load, Load::Throughput { .. })).len(), 3);
        let Cell::AtLeast(most) = summary.throughput("a", WAY, SHAPE) else { panic!("carried") };
        assert!((most.median - 1000.0).abs() < 1e-6, "not that of larger payloads");
        let Cell::Figure(spread) = summary.machine_ns("a", echo.point) else { panic!("one run") };
        assert_eq!(spread.rounds, 1);
        assert!((spread.median - 500_000.0).abs() < 1e-6, "a core in all, 2000 relayed a second");
        let spinning = Cell::Withheld(Unsound::NotMeasured);
        assert_eq!(summary.machine_ns("a", small.point), spinning, "its generator spins");
    }

    #[test]
    fn the_bare_rig_and_a_rate_of_one_subject_alone_compare_nothing() {
        let runs = [
            run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5),
            run("b", 1, flood(1000.0, 0.0, false), 0.5, 0.5),
            run("a", 1, flood(1400.0, 0.0, false), 0.5, 0.5),
        ];
        assert_eq!(Summary::of(&runs).points(|_| true).len(), 2);
        assert_eq!(Summary::of(&runs).shared_points(|_| true), [runs[0].point]);
        assert_eq!(Summary::of(&runs[..1]).shared_points(|_| true).len(), 1, "alone is alone");
    }

    #[test]
    fn processor_time_of_a_lossy_run_is_not_that_of_the_load() {
        let runs = [run("a", 1, echo(1000.0, 30.0, 0.2), 1.0, 0.5)];
        let cell = Summary::of(&runs).machine_ns("a", runs[0].point);
        assert_eq!(cell, Cell::Withheld(Unsound::Lossy(30.0)));
    }

    #[test]
    fn the_highest_rate_is_a_lower_bound_until_the_relay_itself_loses() {
        let carried = run("a", 1, flood(2000.0, 0.05, false), 0.8, 1.0);
        let mut runs = vec![run("a", 1, flood(1000.0, 0.0, false), 0.4, 1.0), carried];
        let per_second = 2000.0 * 0.9995;
        let spread = Spread { median: per_second, min: per_second, max: per_second, rounds: 1 };
        assert_eq!(Summary::of(&runs).throughput("a", WAY, SHAPE), Cell::AtLeast(spread));

        let mut dropped_behind = run("a", 1, flood(4000.0, 10.0, false), 0.9, 1.0);
        dropped_behind.watched.as_mut().unwrap().drops = Drops {
            before_relay: 0,
            behind_relay: 800, // All of 10 % of 4000 a second in two seconds.
        };
        runs.push(dropped_behind);
        assert_eq!(Summary::of(&runs).throughput("a", WAY, SHAPE), Cell::AtLeast(spread));

        runs.push(run("a", 1, flood(500.0, 10.0, false), 1.0, 1.0));
        let accident = Summary::of(&runs).throughput("a", WAY, SHAPE);
        assert_eq!(accident, Cell::AtLeast(spread), "a higher rate was carried");

        runs.push(run("a", 1, flood(4000.0, 10.0, false), 1.0, 1.0));
        assert_eq!(Summary::of(&runs).throughput("a", WAY, SHAPE), Cell::Figure(spread));
    }

    #[test]
    fn a_loss_below_the_rate_is_not_the_rates() {
        let point = |run: &Run| {
            let mut run = run.clone();
            run.point.load = Load::Throughput { direction: WAY, rate: Some(2000) };
            run
        };
        let slow = [point(&run("a", 1, flood(1000.0, 0.0, true), 0.5, 1.0))];
        let cell = Summary::of(&slow).loss("a", slow[0].point);
        assert_eq!(cell, Cell::Withheld(Unsound::NotOffered));
        let lossy = [point(&run("a", 1, flood(1000.0, 8.0, true), 0.5, 1.0))];
        let cell = Summary::of(&lossy).loss("a", lossy[0].point);
        assert_eq!(cell, Cell::Withheld(Unsound::Lossy(8.0)));
        // What was really offered has a place on an axis of what was offered.
        let offered = Summary::of(&lossy).offered_and_lost("a", lossy[0].point);
        assert_eq!(offered, Some((1000.0, 8.0)));
    }

    #[test]
    fn a_rate_in_between_that_half_of_the_rounds_came_to_is_not_drawn() {
        let runs = [
            run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5),
            run("a", 2, flood(1000.0, 0.0, false), 0.5, 0.5),
            run("a", 1, flood(1400.0, 5.0, false), 0.5, 0.5),
        ];
        let summary = Summary::of(&runs);
        assert_eq!(summary.offered_and_lost("a", runs[0].point), Some((1000.0, 0.0)));
        assert_eq!(summary.offered_and_lost("a", runs[2].point), None);
    }

    #[test]
    fn one_damaged_packet_and_the_rate_does_not_count() {
        let clean = run("a", 1, flood(4000.0, 0.0, false), 0.5, 0.5);
        let mut runs = [run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5), clean];
        let Outcome::Measured { figures: Figures::Throughput { corrupted, .. } } =
            &mut runs[0].outcome
        else {
            panic!("a flood")
        };
        *corrupted = 1;
        let summary = Summary::of(&runs);
        assert_eq!(summary.throughput("a", WAY, SHAPE), Cell::Withheld(Unsound::Corrupted));
        assert_eq!(summary.loss("a", runs[0].point), Cell::Withheld(Unsound::Corrupted));
        assert_eq!(summary.offered_and_lost("a", runs[0].point), None);
    }

    #[test]
    fn allocations_without_channels_have_a_rate_and_no_memory() {
        let mut runs = [run("a", 1, allocations(100, 2000.0), 0.5, 0.5)];
        let cells = |runs: &[Run]| {
            let (summary, point) = (Summary::of(runs), runs[0].point);
            let figure = |_: &Figures| Some(1.0);
            [summary.allocate("a", point, figure), summary.standing("a", point, figure)]
        };
        let one = Cell::Figure(Spread { median: 1.0, min: 1.0, max: 1.0, rounds: 1 });
        assert_eq!(cells(&runs), [one, one]);
        let Outcome::Measured {
            figures: Figures::Allocations { trouble, allocates_failed: 0, .. },
        } = &mut runs[0].outcome
        else {
            panic!("allocations")
        };
        *trouble = Some("443".to_owned());
        assert_eq!(cells(&runs), [one, Cell::Withheld(Unsound::Failed)]);
    }
}
