//! How a run goes, on stderr: bars on a terminal, a line each second elsewhere, or nothing.
//! Also prints result lines, so that bars do not run through them.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::SECOND_NS;
use crate::load::account::percent;
use crate::load::plan::Shared;
use crate::load::pulse::Seen;
use crate::load::watch::TICK;

const SET_UP: &str = "set-up {bar:20} {pos}/{len} allocations {msg}";
const LOAD: &str = "load   {bar:20} {pos}/{len} s  {msg}";

/// Where the progress goes.
#[derive(Debug)]
pub(crate) struct Progress {
    way: Way,
    ticks: u64,
    secs: u64,
    sent: u64,
    seen: Seen,
}

#[derive(Debug)]
enum Way {
    Silent,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    /// Nothing at all.
    pub(crate) fn silent() -> Self {
        Self { way: Way::Silent, ticks: 0, secs: 0, sent: 0, seen: Seen::new() }
    }

    /// A bar for so many allocations if stderr is a terminal, else lines.
    pub(crate) fn shown(allocations: u32) -> Self {
        let way = if io::stderr().is_terminal() {
            Way::Bar(bar(u64::from(allocations), SET_UP))
        } else {
            Way::Lines
        };
        Self { way, ..Self::silent() }
    }

    /// While allocations are set up; called every [`TICK`].
    pub(crate) fn set_up(&mut self, shared: &Shared, allocations: u32) {
        self.ticks += 1;
        let second = u128::from(self.ticks).is_multiple_of(1000 / TICK.as_millis());
        let ready = shared.ready.load(Ordering::Relaxed);
        match &self.way {
            Way::Lines if second => {
                say(&format!("set-up: {ready} of {allocations} allocations ready"));
            }
            Way::Bar(bar) => bar.set_position(ready),
            Way::Silent | Way::Lines => {}
        }
    }

    /// The load begins, and packets are due for so many seconds.
    pub(crate) fn begin(&mut self, duration_secs: u64) {
        if let Way::Bar(before) = &self.way {
            before.finish_and_clear();
            self.way = Way::Bar(bar(duration_secs, LOAD));
        }
    }

    /// While the load runs, so many nanoseconds after its start; called every [`TICK`].
    pub(crate) fn load(&mut self, shared: &Shared, load_ns: u64) {
        let secs = load_ns / SECOND_NS;
        let since = secs - std::mem::replace(&mut self.secs, secs);
        if let Way::Bar(bar) = &self.way {
            bar.set_position(secs);
        }
        if since == 0 || matches!(self.way, Way::Silent) {
            return;
        }
        let sent = shared.sent.load(Ordering::Relaxed);
        let rate = (sent - std::mem::replace(&mut self.sent, sent)) / since;
        let missing = sent.saturating_sub(shared.delivered.load(Ordering::Relaxed));
        let p99 = shared.pulse.p99_ns_since(&mut self.seen);
        let p99 = p99.map_or("-".to_owned(), |ns| format!("{:.2}", ns as f64 / 1e6));
        let state =
            format!("{rate}/s sent, {:.3} % not arrived, p99 ≈ {p99} ms", percent(missing, sent));
        match &self.way {
            Way::Lines => say(&format!("{secs} s: {state}")),
            Way::Bar(bar) => bar.set_message(state),
            Way::Silent => {}
        }
    }

    /// A line of the result, on stdout.
    pub(crate) fn print(&self, line: &str) {
        match &self.way {
            Way::Bar(bar) => bar.suspend(|| put(line)),
            Way::Silent | Way::Lines => put(line),
        }
    }

    /// Nothing more is to come.
    pub(crate) fn finish(&self) {
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates are constants");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(style.progress_chars("━╸ "));
    bar
}

fn put(line: &str) {
    // A reader who has gone does not end a measurement: the JSON document is still to come.
    let _ = writeln!(io::stdout(), "{line}");
}

fn say(line: &str) {
    // Progress is a courtesy: a closed stderr does not end a measurement.
    let _ = writeln!(io::stderr(), "{line}");
}
