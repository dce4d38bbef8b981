//! What `forward` says at its end: medians over the rounds, ratios within each round, and what
//! limits them. A text for people, a JSON document for machines.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::clock::SECOND_NS;
use crate::forward::Plan;
use crate::forward::course::{Sample, Speed, Subject};
use crate::forward::rig::Arms;
use crate::host::{self, Host};
use crate::spread::{Spread, digits};

/// A paced run that was later than this sent bursts, milliseconds.
const LAG_MS_NOTABLE: f64 = 5.0;

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    command: String,
    payload_bytes: u16,
    duration_secs: f64,
    rounds: u32,
    sample: u32,
    relay_cores: String,
    load_cores: String,
    host: Host,
}

impl Asked {
    /// As the report repeats it; before this process confines itself to some cores.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            command: host::command_line(),
            payload_bytes: plan.payload_bytes,
            duration_secs: plan.duration_ns as f64 / SECOND_NS as f64,
            rounds: plan.rounds,
            sample: plan.sample,
            relay_cores: plan.relay_cores.to_string(),
            load_cores: plan.load_cores.to_string(),
            host: Host::here(),
        }
    }
}

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl From<Spread> for Figure {
    fn from(Spread { median, min, max, .. }: Spread) -> Self {
        Self { median, min, max }
    }
}

/// What a subject came to with one arrangement and number of channels.
#[derive(Clone, Debug, Serialize)]
struct Line {
    arms: Arms,
    channels: u32,
    subject: Subject,
    speed: Speed,
    /// Arrived packets a second.
    per_second: Figure,
    /// Against the reflector of the same round.
    of_reflector: Option<Figure>,
    /// Against the reflector with a line of memory for each flow, of the same round.
    of_stateful_reflector: Option<Figure>,
    /// Against the bare redirect of the same round.
    of_redirect: Option<Figure>,
    /// All rounds together.
    sent: u64,
    lost: u64,
    wrong: u64,
    rounds_with_loss: usize,
    lag_max_ms: Option<f64>,
}

/// A finished report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    commit: &'static str,
    asked: Asked,
    lines: Vec<Line>,
    notes: Vec<String>,
    samples: Vec<Sample>,
}

impl Report {
    /// Of all that was measured.
    pub(crate) fn new(asked: Asked, samples: Vec<Sample>) -> Self {
        let lines = lines(&samples);
        let notes = notes(&asked, &lines, &samples);
        Self {
            tool: concat!("relay-bench ", env!("CARGO_PKG_VERSION")),
            commit: env!("TURNPIKE_COMMIT"),
            asked,
            lines,
            notes,
            samples,
        }
    }

    /// Whether a packet arrived otherwise than it was sent.
    pub(crate) fn is_damaged(&self) -> bool {
        self.lines.iter().any(|line| line.wrong > 0)
    }

    /// The JSON document.
    ///
    /// # Errors
    /// None that this document can cause.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("a String takes every text");
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let Asked { command, host, payload_bytes, duration_secs, rounds, .. } = &self.asked;
        writeln!(out, "{} ({}): {command}", self.tool, self.commit)?;
        writeln!(out, "host  Linux {}, {} × {}", host.kernel, host.cores, host.cpu)?;
        writeln!(
            out,
            "Medians of {rounds} round(s) (least – most), {payload_bytes} bytes, {duration_secs} s \
             each; ratios are of the same round."
        )?;
        let mut last = None;
        for line in &self.lines {
            if last != Some((line.arms, line.channels)) {
                last = Some((line.arms, line.channels));
                writeln!(out, "\n{}, {} channels", line.arms.name(), line.channels)?;
                writeln!(
                    out,
                    "  {:<28} {:>8} {:>17} {:>6} {:>18} {:>18} {:>18}  lost",
                    "", "Mpps", "", "ns", "of reflector", "of a line a flow", "of redirect"
                )?;
            }
            writeln!(out, "{}", line.shown())?;
        }
        writeln!(out)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note  {note}"))
    }
}

impl Line {
    fn label(&self) -> &'static str {
        match (self.subject, self.speed) {
            (Subject::Generator, _) => "generator and sink alone",
            (Subject::Reflector, _) => "bare reflector (XDP_TX)",
            (Subject::StatefulReflector, _) => "reflector, a line a flow",
            (Subject::Redirect, _) => "bare redirect",
            (Subject::ToPeer, Speed::FlatOut) => "turnpike, client to peer",
            (Subject::ToPeer, Speed::Sustained) => "  at 90 % of that",
            (Subject::ToClient, Speed::FlatOut) => "turnpike, peer to client",
            (Subject::ToClient, Speed::Sustained) => "  at 90 % of that",
        }
    }

    fn shown(&self) -> String {
        let Figure { median, min, max } = self.per_second;
        let range = format!("({:.3} – {:.3})", min / 1e6, max / 1e6);
        let ratio = |ratio: Option<Figure>| {
            let shown = |Figure { median, min, max }| format!("{median:.2} ({min:.2} – {max:.2})");
            ratio.map_or(String::new(), shown)
        };
        format!(
            "  {:<28} {:>8.3} {range:>17} {:>6.0} {:>18} {:>18} {:>18}  {} of {}",
            self.label(),
            median / 1e6,
            1e9 / median,
            ratio(self.of_reflector),
            ratio(self.of_stateful_reflector),
            ratio(self.of_redirect),
            self.lost,
            self.sent
        )
    }
}

/// In the order in which they were measured first.
fn lines(samples: &[Sample]) -> Vec<Line> {
    let key = |sample: &Sample| (sample.arms, sample.channels, sample.subject, sample.speed);
    let mut keys: Vec<_> = Vec::new();
    for sample in samples {
        if !keys.contains(&key(sample)) {
            keys.push(key(sample));
        }
    }
    keys.sort_by_key(|(arms, channels, ..)| (*arms == Arms::Two, *channels));
    let line = |wanted| {
        let own: Vec<&Sample> = samples.iter().filter(|sample| key(sample) == wanted).collect();
        let (arms, channels, subject, speed) = wanted;
        let against = |bare: Subject| {
            let ratio = |sample: &&Sample| {
                let same = |other: &&Sample| {
                    (other.arms, other.channels, other.round) == (arms, channels, sample.round)
                        && other.subject == bare
                };
                let bare = samples.iter().find(same)?;
                Some(sample.received_per_second / bare.received_per_second)
            };
            let is_compared = match subject {
                Subject::Generator | Subject::Reflector => false,
                Subject::StatefulReflector | Subject::Redirect => bare == Subject::Reflector,
                Subject::ToPeer | Subject::ToClient => true,
            };
            let is_compared = is_compared && speed == Speed::FlatOut;
            let ratios = own.iter().filter(|_| is_compared).filter_map(ratio);
            Spread::of(ratios).map(Figure::from)
        };
        let sum = |of: fn(&Sample) -> u64| own.iter().map(|sample| of(sample)).sum();
        let lags = own.iter().filter_map(|sample| sample.lag_max_ms);
        Some(Line {
            arms,
            channels,
            subject,
            speed,
            per_second: Spread::of(own.iter().map(|sample| sample.received_per_second))?.into(),
            of_reflector: against(Subject::Reflector),
            of_stateful_reflector: against(Subject::StatefulReflector),
            of_redirect: against(Subject::Redirect),
            sent: sum(|sample| sample.sent),
            lost: sum(|sample| sample.lost),
            wrong: sum(|sample| sample.wrong),
            rounds_with_loss: own.iter().filter(|sample| sample.lost > 0).count(),
            lag_max_ms: lags.fold(None, |worst: Option<f64>, lag| {
                Some(worst.map_or(lag, |worst| worst.max(lag)))
            }),
        })
    };
    keys.into_iter().filter_map(line).collect()
}

fn notes(asked: &Asked, lines: &[Line], samples: &[Sample]) -> Vec<String> {
    let mut notes = vec![format!(
        "generator, links, the program under test and the sink work on core(s) {} in turn, the \
         same for all: a packet's ns are those of all of them together. Turnpike's process has \
         core(s) {} and sees no packet",
        asked.load_cores, asked.relay_cores
    )];
    notes.extend(costs(lines));
    let paced = lines.iter().filter(|line| line.speed == Speed::Sustained);
    for line in paced.filter(|line| line.lost > 0) {
        notes.push(format!(
            "{}, {} channels, {:?} at 90 %: {} of {} packets lost, in {} round(s); the generator \
             was up to {:.1} ms late",
            line.arms.name(),
            line.channels,
            line.subject,
            line.lost,
            line.sent,
            line.rounds_with_loss,
            line.lag_max_ms.unwrap_or(0.0)
        ));
    }
    let is_short = |sample: &&Sample| {
        let reached = sample.sent as f64 / sample.send_secs.max(f64::EPSILON);
        sample.rate.is_some_and(|rate| reached < rate as f64 * 0.99)
            || sample.lag_max_ms.is_some_and(|lag| lag > LAG_MS_NOTABLE)
    };
    let short = samples.iter().filter(is_short).count();
    if short > 0 {
        notes.push(format!(
            "in {short} of the paced runs the generator was held up: it did not reach its rate, or \
             caught up in a burst"
        ));
    }
    for line in lines.iter().filter(|line| line.wrong > 0) {
        notes.push(format!(
            "damage: {} packets did not arrive as they were sent ({}, {} channels, {:?})",
            line.wrong,
            line.arms.name(),
            line.channels,
            line.subject
        ));
    }
    let checked: u64 = samples.iter().map(|sample| sample.sampled).sum();
    notes.push(format!(
        "every packet's common end, lengths and stamp were checked; {checked} packets were \
         checked whole (--sample): addresses, all bytes, both checksums. Order and duplicates are \
         `flood`'s to judge"
    ));
    notes
}

/// What each program adds to the tool's own work.
fn costs(lines: &[Line]) -> Vec<String> {
    let note = |line: &Line| {
        let of = |subject| {
            let same = |other: &&Line| {
                (other.arms, other.channels, other.subject, other.speed)
                    == (line.arms, line.channels, subject, Speed::FlatOut)
            };
            lines.iter().find(same).map(|line| 1e9 / line.per_second.median)
        };
        let bare = 1e9 / line.per_second.median;
        let added = |name, subject| {
            of(subject).map_or(String::new(), |ns| format!(", {name} {}", digits(ns - bare)))
        };
        format!(
            "{}, {} channels: generator and sink alone take {} ns; to that the program and the \
             way back or on add, in ns{}{}{}{}{}",
            line.arms.name(),
            line.channels,
            digits(bare),
            added("reflector", Subject::Reflector),
            added("reflector with a line a flow", Subject::StatefulReflector),
            added("redirect", Subject::Redirect),
            added("turnpike to the peer", Subject::ToPeer),
            added("turnpike to the client", Subject::ToClient)
        )
    };
    lines.iter().filter(|line| line.subject == Subject::Generator).map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, subject: Subject, speed: Speed, per_second: f64) -> Sample {
        Sample {
            arms: Arms::One,
            channels: 32,
            round,
            subject,
            speed,
            rate: (speed == Speed::Sustained).then_some(900),
            sent: 1000,
            received: 990,
            lost: 10,
            wrong: 0,
            sampled: 5,
            send_secs: 1.0,
            received_per_second: per_second,
            went_up: None,
            lag_max_ms: (speed == Speed::Sustained).then_some(7.0),
        }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_only_flat_out() {
        let samples = [
            sample(1, Subject::Reflector, Speed::FlatOut, 100.0),
            sample(1, Subject::StatefulReflector, Speed::FlatOut, 90.0),
            sample(1, Subject::ToPeer, Speed::FlatOut, 80.0),
            sample(1, Subject::ToPeer, Speed::Sustained, 72.0),
            sample(2, Subject::Reflector, Speed::FlatOut, 50.0),
            sample(2, Subject::ToPeer, Speed::FlatOut, 45.0),
        ];
        let lines = lines(&samples);
        let [reflector, stateful, relay, paced] = &lines[..] else { panic!("{lines:?}") };
        let ratio = relay.of_reflector.unwrap();
        assert!((ratio.min - 0.8).abs() < 1e-9 && (ratio.max - 0.9).abs() < 1e-9, "{ratio:?}");
        assert!(reflector.of_reflector.is_none() && paced.of_reflector.is_none());
        assert!(relay.of_redirect.is_none(), "there was none");
        assert_eq!((relay.sent, relay.lost), (2000, 20));
        // Of the one round that had both.
        let ratio = relay.of_stateful_reflector.unwrap();
        assert!((ratio.min - 8.0 / 9.0).abs() < 1e-9 && ratio.min == ratio.max, "{ratio:?}");
        assert!((stateful.of_reflector.unwrap().median - 0.9).abs() < 1e-9);
        assert!(stateful.of_stateful_reflector.is_none());
    }

    #[test]
    fn what_is_lost_at_the_sustained_rate_is_noted() {
        let plan = Asked {
            command: String::new(),
            payload_bytes: 200,
            duration_secs: 1.0,
            rounds: 1,
            sample: 1,
            relay_cores: "0".to_owned(),
            load_cores: "1".to_owned(),
            host: Host::here(),
        };
        let lost = sample(1, Subject::ToPeer, Speed::Sustained, 900.0);
        let kept = Sample { lost: 0, lag_max_ms: Some(0.1), ..lost.clone() };
        let says = |sample| Report::new(plan.clone(), vec![sample]).text();
        assert!(says(lost.clone()).contains("ToPeer at 90 %: 10 of 1000 packets lost"));
        assert!(says(lost).contains("the generator was held up"));
        let quiet = says(kept);
        assert!(!quiet.contains("at 90 %:") && !quiet.contains("held up"), "{quiet}");
    }
}
