//! Times as the kernel gives them, whole nanoseconds, and what they say together.

use serde::Serialize;

use super::lab::Subject;

/// Times of one program on one path, one for each round; nanoseconds, rounded down.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<u32>);

impl Samples {
    /// Adds a round's.
    pub(super) fn push(&mut self, ns: u32) {
        self.0.push(ns);
        self.0.sort_unstable();
    }

    /// A quantile, `q` from 0 to 1, each sample taken as anywhere in its nanosecond (the quantile
    /// of grouped data): medians get finer than the kernel's rounding. `None` without samples.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.0.len() as f64;
        let value = *self.0.iter().enumerate().find(|(below, _)| (*below + 1) as f64 >= rank)?.1;
        let below = self.0.partition_point(|ns| *ns < value);
        let equal = self.0.partition_point(|ns| *ns <= value) - below;
        Some(f64::from(value) + (rank - below as f64) / equal as f64)
    }

    /// The median.
    pub(super) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

/// Times of all programs on one path, through the stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell([Samples; Subject::ALL.len()]);

impl Cell {
    /// A program's.
    pub(super) fn of(&self, subject: Subject) -> &Samples {
        &self.0[subject as usize]
    }

    /// A program's, to add to.
    pub(super) fn of_mut(&mut self, subject: Subject) -> &mut Samples {
        &mut self.0[subject as usize]
    }

    /// A program's figures as if it ran without the stage, given what the empty one takes alone.
    /// Medians give the stage's cost to the median and its quartiles, fastest rounds to the
    /// fastest: on a machine that does other work these differ.
    pub(super) fn figures(&self, subject: Subject, empty_alone: &Samples) -> Option<Figures> {
        let empty = empty_alone.median()?;
        let stage = |q| Some(self.of(Subject::Empty).quantile(q)? - empty_alone.quantile(q)?);
        let (typical, least) = (stage(0.5)?, stage(0.0)?);
        let at = |q, stage: f64| self.of(subject).quantile(q).map(|ns| tenths(ns - stage));
        let ns = at(0.5, typical)?;
        Some(Figures {
            ns,
            net_ns: tenths(ns - empty),
            min: at(0.0, least)?,
            p25: at(0.25, typical)?,
            p75: at(0.75, typical)?,
        })
    }
}

/// Nanoseconds a packet.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Figures {
    /// The median over the rounds.
    pub(super) ns: f64,
    /// The same, less what the empty program takes.
    pub(super) net_ns: f64,
    /// The fastest round's, with what the stage takes in its own fastest.
    pub(super) min: f64,
    /// A quarter of the rounds took less.
    pub(super) p25: f64,
    /// A quarter of the rounds took more.
    pub(super) p75: f64,
}

/// To one decimal.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// To three decimals.
pub(super) fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ns: &[u32]) -> Samples {
        let mut samples = Samples::default();
        ns.iter().for_each(|ns| samples.push(*ns));
        samples
    }

    #[test]
    fn quantiles_lie_inside_the_nanosecond_of_their_sample() {
        assert_eq!(Samples::default().median(), None);
        assert_eq!(samples(&[7]).median(), Some(7.5));
        assert_eq!(samples(&[7, 7, 7, 7]).quantile(0.25), Some(7.25));
        // Three of four are below 8: the median is two thirds through the seventh nanosecond.
        assert_eq!(samples(&[8, 7, 7, 7]).median(), Some(7.0 + 2.0 / 3.0));
        assert_eq!(samples(&[9, 5, 7]).quantile(0.0), Some(5.0));
        assert_eq!(samples(&[9, 5, 7]).quantile(1.0), Some(10.0));
    }

    #[test]
    fn the_stage_is_taken_off_and_the_empty_program_is_not() {
        let mut cell = Cell::default();
        // The stage takes 30, an empty program 10, ours 60 more than nothing.
        cell.of_mut(Subject::Empty).push(40);
        cell.of_mut(Subject::Relay).push(100);
        let alone = samples(&[10]);
        let figures = cell.figures(Subject::Relay, &alone).unwrap();
        assert_eq!((figures.ns, figures.net_ns, figures.min), (70.5, 60.0, 70.0));
        assert_eq!(cell.figures(Subject::Yardstick, &alone), None);
        assert_eq!(cell.figures(Subject::Relay, &Samples::default()), None);
    }
}
