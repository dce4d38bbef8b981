//! Watches a run from the main thread: prints the line of each section as it closes, judges steps,
//! and keeps the progress going. Counts nothing itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::host;
use crate::load::line::{Kind, Line};
use crate::load::plan::{Plan, Shared};
use crate::load::progress::Progress;

/// Between two looks; a step is judged in the pause behind it.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The watch over one run.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    plan: &'a Plan,
    progress: Progress,
    lines: Vec<Line>,
    rss_kib: Option<u64>,
}

impl<'a> Watch<'a> {
    /// With nothing seen yet.
    pub(crate) fn new(plan: &'a Plan, progress: Progress) -> Self {
        Self { plan, progress, lines: Vec::new(), rss_kib: None }
    }

    /// While allocations are set up.
    pub(crate) fn set_up(&mut self, shared: &Shared) {
        self.progress.set_up(shared, self.plan.flows);
    }

    /// The load begins.
    pub(crate) fn begin(&mut self) {
        self.progress.begin(self.plan.duration_secs);
        if let Some(kind) = self.plan.lines {
            self.progress.print(&Line::heading(kind));
        }
    }

    /// While the load runs, so many nanoseconds after its start.
    pub(crate) fn load(&mut self, shared: &Shared, load_ns: u64) {
        self.progress.load(shared, load_ns);
        if self.plan.lines.is_some() {
            self.rss_kib = host::resident_kib();
        }
        while let Some(line) = shared.collector.take_complete(|number, tally| {
            Line::new(self.plan.section(number, self.rss_kib), tally, &self.plan.limits)
        }) {
            self.note(line, shared);
        }
    }

    /// When all threads are done, and have given back the memory that the lines are about.
    pub(crate) fn finish(&mut self, shared: &Shared) {
        self.progress.finish();
        while let Some(line) = shared.collector.take_any(|number, tally| {
            Line::new(self.plan.section(number, self.rss_kib), tally, &self.plan.limits)
        }) {
            // A section that an early end left empty is none.
            if line.offered > 0 {
                self.note(line, shared);
            }
        }
    }

    /// The lines so far, in order.
    pub(crate) fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    fn note(&mut self, line: Line, shared: &Shared) {
        let Some(kind) = self.plan.lines else { return };
        self.progress.print(&line.text(kind));
        let broken = kind == Kind::Step && line.complete && !line.violations.is_empty();
        let more = line.start_secs + self.plan.section_secs < self.plan.duration_secs;
        if self.plan.stop_at_limit && broken && more {
            shared.enough.store(true, Ordering::Relaxed);
        }
        self.lines.push(line);
    }
}
