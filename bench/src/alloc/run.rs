//! One `alloc` run: the phases in order, and what the server's process holds between them.
//! Everything that was allocated is deleted, however the run ends.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::alloc::driver::Driver;
use crate::alloc::plan::{Ending, Phase, Plan, Trouble, name};
use crate::alloc::process::{Memory, Process};
use crate::turn::client::Step;

/// Moments at which the server's memory is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Memories {
    /// Before the first request.
    pub(crate) before: Option<Memory>,
    /// With all allocations.
    pub(crate) allocated: Option<Memory>,
    /// With a permission each.
    pub(crate) permitted: Option<Memory>,
    /// With a channel binding each.
    pub(crate) bound: Option<Memory>,
    /// After `--hold`.
    pub(crate) held: Option<Memory>,
    /// With all of them deleted.
    pub(crate) deleted: Option<Memory>,
}

/// Everything a run found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) ending: Ending,
    /// The phases that began, in order.
    pub(crate) phases: Vec<Phase>,
    /// What the server's process held.
    pub(crate) memories: Memories,
    /// Allocations made.
    pub(crate) allocated: u64,
    /// Allocations that the server confirmed to have deleted.
    pub(crate) deleted: u64,
}

/// Whether to say on stderr how it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// A bar for each phase, on a terminal.
    Shown,
    /// Not at all.
    Silent,
}

/// Runs the plan. `process` is the server's, if it is to be watched.
pub(crate) fn run(
    plan: &Plan,
    process: Option<&Process>,
    stop: &AtomicBool,
    progress: Progress,
) -> Outcome {
    let mut outcome = Outcome {
        ending: Ending::Completed,
        phases: Vec::new(),
        memories: Memories::default(),
        allocated: 0,
        deleted: 0,
    };
    let mut driver = match Driver::open(plan, stop) {
        Ok(driver) => driver,
        Err(trouble) => {
            outcome.ending = Ending::Early(trouble);
            return outcome;
        }
    };
    let mut run = Run { plan, process, stop, progress, outcome: &mut outcome };
    let trouble = run.up(&mut driver).err();
    let allocated = driver.allocated();
    let deletion = if allocated > 0 { run.phase(&mut driver, Step::Delete) } else { Ok(()) };
    let memory = run.memory();
    outcome.memories.deleted = memory;
    outcome.allocated = allocated;
    let deletes = |phase: &&Phase| phase.step == Step::Delete;
    outcome.deleted = outcome.phases.iter().find(deletes).map_or(0, |phase| phase.succeeded);
    outcome.ending = match trouble.or(deletion.err()) {
        Some(trouble) => Ending::Early(trouble),
        None if stop.load(Ordering::Relaxed) => Ending::Interrupted,
        None => Ending::Completed,
    };
    outcome
}

struct Run<'a> {
    plan: &'a Plan,
    process: Option<&'a Process>,
    stop: &'a AtomicBool,
    progress: Progress,
    outcome: &'a mut Outcome,
}

impl Run<'_> {
    /// Every step but the deletion.
    fn up(&mut self, driver: &mut Driver<'_>) -> Result<(), Trouble> {
        self.outcome.memories.before = self.memory();
        for step in &self.plan.steps {
            if *step == Step::Refresh && self.plan.hold_ns > 0 {
                driver.hold(self.plan.hold_ns)?;
                self.outcome.memories.held = self.memory();
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.phase(driver, *step)?;
            let memory = self.memory();
            let memories = &mut self.outcome.memories;
            match step {
                Step::Allocate => memories.allocated = memory,
                Step::Permit => memories.permitted = memory,
                Step::Bind => memories.bound = memory,
                Step::Challenge | Step::Refresh | Step::Delete => {}
            }
        }
        Ok(())
    }

    fn phase(&mut self, driver: &mut Driver<'_>, step: Step) -> Result<(), Trouble> {
        let target = match self.progress {
            Progress::Shown => ProgressDrawTarget::stderr(),
            Progress::Silent => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(name(step)).with_style(
            ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len} {per_sec}")
                .expect("the template is a constant"),
        );
        let (server, tool) = (self.cpu_ns(), Process::itself().cpu_ns());
        let (mut phase, trouble) = driver.phase(step, &bar);
        let since = |before: Option<u64>, now: Option<u64>| now?.checked_sub(before?);
        phase.cpu_ns = since(server, self.cpu_ns());
        phase.tool_cpu_ns = since(tool, Process::itself().cpu_ns());
        bar.finish_and_clear();
        self.outcome.phases.push(phase);
        trouble.map_or(Ok(()), Err)
    }

    fn cpu_ns(&self) -> Option<u64> {
        self.process?.cpu_ns()
    }

    /// A server that died has no memory to report: the ending says so already.
    fn memory(&self) -> Option<Memory> {
        self.process?.memory().ok()
    }
}
