//! A comparison's course: rounds over the subjects, A B A B, each with all its loads. Owns when a
//! server is started and ended. Draws no conclusion across runs.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::clock::{Clock, SECOND_NS};
use crate::compare::climb::{Step, climb};
use crate::compare::drive::Driver;
use crate::compare::lab::SERVER;
use crate::compare::plan::Plan;
use crate::compare::record::{Direction, Load, Outcome, Point, Run};
use crate::compare::sample::watch;
use crate::compare::subject::{PORT, Programs, Recipe, Subject};
use crate::compare::verdict::{Saturated, Unsound, carried};
use crate::lab::cores::Stat;
use crate::lab::process::{Running, answers_binding};

/// How long a server has to become ready, seconds.
const READY_SECS: u64 = 15;
/// A rate of which more is lost is too much, percent; less may be other work on this machine.
const OVERLOAD_PERCENT: f64 = 10.0;
/// How often a load is begun whose allocations are refused.
const ATTEMPTS_MAX: u32 = 3;
/// How long the rig is watched idle before each subject's loads.
const IDLE: Duration = Duration::from_millis(500);

/// What became of a subject.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum State {
    /// It was started and served.
    Measured,
    /// It was not, and why.
    Skipped {
        /// Why.
        why: String,
    },
    /// It ended by itself.
    Died {
        /// Under which load, how, and its last words.
        why: String,
    },
}

/// A subject as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SubjectRecord {
    /// Its name.
    pub(crate) name: String,
    /// What its `--version` says.
    pub(crate) version: String,
    /// How it was started.
    pub(crate) command: String,
    /// The text of its configuration file.
    pub(crate) configuration: String,
    /// What a reader has to know of it.
    pub(crate) remark: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub(crate) state: State,
}

/// What the cores did while a subject stood idle: other work on this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    /// The subject.
    pub(crate) subject: String,
    /// The round.
    pub(crate) round: u32,
    /// Busy cores of the relay's host.
    pub(crate) relay_busy_cores: f64,
    /// Busy cores of the host of clients and peers.
    pub(crate) load_busy_cores: f64,
}

/// A comparison under way.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// What is to be done.
    pub(crate) plan: &'a Plan,
    /// Where the servers' programs are.
    pub(crate) programs: &'a Programs,
    /// Who makes the loads.
    pub(crate) driver: Driver<'a>,
    /// The subjects, in order.
    pub(crate) subjects: Vec<SubjectRecord>,
    /// Every run.
    pub(crate) runs: Vec<Run>,
    /// The quiet before each subject's loads.
    pub(crate) idle: Vec<Idle>,
}

impl<'a> Session<'a> {
    /// Nothing measured yet.
    pub(crate) fn new(plan: &'a Plan, programs: &'a Programs, driver: Driver<'a>) -> Self {
        let record = |subject: &Subject| SubjectRecord {
            name: subject.name.clone(),
            version: String::new(),
            command: String::new(),
            configuration: String::new(),
            remark: subject.remark(),
            state: State::Measured,
        };
        let subjects = plan.subjects.iter().map(record).collect();
        Self { plan, programs, driver, subjects, runs: Vec::new(), idle: Vec::new() }
    }

    /// Measures everything, or until the user asks for the end.
    ///
    /// # Errors
    /// The rig fails. What was measured before stays.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
        let plan = self.plan;
        let _echo = self.driver.start_echo()?;
        for round in 1..=plan.rounds {
            for (index, subject) in plan.subjects.iter().enumerate() {
                if self.is_over() {
                    return Ok(());
                }
                if matches!(self.subjects[index].state, State::Skipped { .. }) {
                    continue;
                }
                plan.tell(&format!("round {round} of {}: {}", plan.rounds, subject.name));
                if let Err(error) = self.round_of(index, subject, round) {
                    if self.is_over() {
                        // What was interrupted is not the subject's fault.
                        return Ok(());
                    }
                    let why = format!("{error:#}");
                    plan.tell(&format!("  {}: {why}", subject.name));
                    self.subjects[index].state = match self.has_run(subject) {
                        true => State::Died { why },
                        false => State::Skipped { why },
                    };
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.driver.stop.load(Ordering::Relaxed)
    }

    fn has_run(&self, subject: &Subject) -> bool {
        self.runs.iter().any(|run| run.subject == subject.name)
    }

    /// Runs all loads on a subject, and ends it.
    fn round_of(&mut self, index: usize, subject: &Subject, round: u32) -> anyhow::Result<()> {
        let plan = self.plan;
        if !plan.directions.is_empty() || (subject.is_server() && !plan.latency_rates.is_empty()) {
            let mut server = self.start(index, subject)?;
            self.watch_idle(subject, round)?;
            let mut course = Course { session: self, subject, round, server: &mut server };
            for direction in &plan.directions {
                // The bare rig has no peer: its frames go to the relay and back to the client.
                if subject.is_server() || *direction == Direction::ToPeer {
                    course.throughput(*direction)?;
                }
            }
            if subject.is_server() {
                course.latency()?;
            }
        }
        if !subject.is_server() {
            return Ok(());
        }
        for point in plan.allocation_points() {
            // A new process: what an earlier load left free would be taken for nothing.
            let mut server = self.start(index, subject)?;
            let mut course = Course { session: self, subject, round, server: &mut server };
            if course.step(point)? == Step::End {
                break;
            }
        }
        Ok(())
    }

    /// Starts a subject and waits until it serves.
    fn start(&mut self, index: usize, subject: &Subject) -> anyhow::Result<Running> {
        let lab = self.driver.lab;
        let recipe = Recipe::of(subject, self.programs, lab, &self.driver.directory)?;
        let record = &mut self.subjects[index];
        record.command = recipe.words.join(" ");
        record.version = recipe.version;
        record.configuration = recipe.configuration;
        let log = self.driver.directory.join(format!("{}.log", subject.name));
        let mut server = Running::start(&lab.relay, &recipe.words, &log)
            .with_context(|| format!("cannot start {}", recipe.words.join(" ")))?;
        self.await_ready(subject, &mut server)?;
        Ok(server)
    }

    /// Waits until a server answers a Binding request (RFC 8489 §2), or the bare rig reflects.
    fn await_ready(&self, subject: &Subject, server: &mut Running) -> anyhow::Result<()> {
        let lab = self.driver.lab;
        let clock = Clock::start();
        while clock.now() < READY_SECS * SECOND_NS {
            if let Some(status) = server.ended() {
                bail!("it ended at once ({status}): {}", server.last_words());
            }
            let ready = if subject.is_server() {
                lab.client.within(|| answers_binding((SERVER, PORT).into()))?
            } else {
                let link = lab.relay.ip(&format!("link show {}", lab.relay.interface(0)))?;
                Ok(link.contains("xdp"))
            };
            if ready.unwrap_or(false) {
                return Ok(());
            }
            if self.is_over() {
                bail!("interrupted before it was ready");
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("not ready after {READY_SECS} s: {}", server.last_words())
    }

    fn watch_idle(&mut self, subject: &Subject, round: u32) -> anyhow::Result<()> {
        let lab = self.driver.lab;
        let (clock, before) = (Clock::start(), Stat::read()?);
        thread::sleep(IDLE);
        let (secs, after) = (clock.now() as f64 / SECOND_NS as f64, Stat::read()?);
        let busy = |cores| after.since(&before, secs, cores).busy_secs / secs;
        self.idle.push(Idle {
            subject: subject.name.clone(),
            round,
            relay_busy_cores: busy(&lab.relay_cores),
            load_busy_cores: busy(&lab.load_cores),
        });
        Ok(())
    }
}

/// The loads of one subject in one round. An error is that the subject has died.
struct Course<'a, 'b> {
    session: &'a mut Session<'b>,
    subject: &'a Subject,
    round: u32,
    server: &'a mut Running,
}

impl Course<'_, '_> {
    /// Up the ladder, in between, and flat out.
    fn throughput(&mut self, direction: Direction) -> anyhow::Result<()> {
        let plan = self.session.plan;
        let point = |rate| plan.point(Load::Throughput { direction, rate });
        let mut offer = |rate| self.step(point(rate));
        if climb(&plan.rates, plan.bisections, |rate| offer(Some(rate)))? {
            offer(None)?;
        }
        Ok(())
    }

    /// One rate after the other; the first that fails ends it, because the next ones are heavier.
    fn latency(&mut self) -> anyhow::Result<()> {
        for point in self.session.plan.latency_points() {
            if self.step(point)? == Step::End {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, point: Point) -> anyhow::Result<Step> {
        if self.session.is_over() {
            return Ok(Step::End);
        }
        let (driver, pid) = (&self.session.driver, self.server.pid());
        let is_server = self.subject.is_server();
        let mut attempt = 1;
        let (driven, watched) = loop {
            let (driven, watched) = watch(driver.lab, pid, || driver.run(point, pid, is_server))
                .context("cannot watch the rig's interfaces")?;
            // Some servers hold a deleted allocation's 5-tuple for a while (437), and the next
            // load may have chosen a port of an earlier one: other ports will do.
            let is_setup = driven.document["ending"] == "not_set_up";
            if !is_setup || attempt == ATTEMPTS_MAX || self.session.is_over() {
                break (driven, watched);
            }
            attempt += 1;
        };
        let (relay, load) = (driver.lab.relay_cores.count(), driver.lab.load_cores.count());
        let saturated = match &driven.outcome {
            Outcome::Measured { figures } => Saturated::of(figures, Some(&watched), relay, load),
            Outcome::Failed { .. } => Saturated::Unknown,
        };
        let run = Run {
            subject: self.subject.name.clone(),
            round: self.round,
            point,
            outcome: driven.outcome,
            saturated,
            watched: Some(watched),
            document: driven.document,
        };
        let step = self.tell(&run);
        // What the user broke off is no result.
        if !(self.session.is_over() && matches!(run.outcome, Outcome::Failed { .. })) {
            self.session.runs.push(run);
        }
        if let Some(status) = self.server.ended() {
            let words = self.server.last_words();
            bail!("ended by itself ({status}) under {point}: {words}");
        }
        Ok(step)
    }

    fn tell(&self, run: &Run) -> Step {
        let plan = self.session.plan;
        match carried(run) {
            Ok(_) => plan.tell(&format!("  {}: carried, saturated: {}", run.point, run.saturated)),
            Err(why) => plan.tell(&format!("  {}: {why}", run.point)),
        }
        match (&run.outcome, carried(run)) {
            (Outcome::Failed { why }, _) => {
                plan.tell(&format!("    {why}"));
                Step::End
            }
            (_, Ok(_)) => Step::Carried,
            (_, Err(Unsound::NotOffered)) => Step::NotOffered,
            (_, Err(Unsound::Lossy(percent))) if percent > OVERLOAD_PERCENT => Step::Overload,
            (_, Err(_)) => Step::Lossy,
        }
    }
}
