//! Which cores belong to which host of the rig, and how busy they were. Reads `/proc/stat`; does
//! not decide what a busy core means.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Ticks of a second in `/proc`: `USER_HZ`, the same on every architecture that Linux runs on here.
const TICKS_PER_SEC: f64 = 100.0;

/// Some cores, in order, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cores(Vec<usize>);

/// Why a text names no cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotCores;

impl fmt::Display for NotCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cores are written like 0 or 2-5 or 0,2-3")
    }
}

impl std::error::Error for NotCores {}

impl FromStr for Cores {
    type Err = NotCores;

    fn from_str(text: &str) -> Result<Self, NotCores> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse().ok().filter(|core| *core < CpuSet::MAX_CPU).ok_or(NotCores)
            };
            let (from, to): (usize, usize) = (number(from)?, number(to)?);
            if from > to {
                return Err(NotCores);
            }
            cores.extend(from..=to);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&words.join(","))
    }
}

impl Cores {
    /// Those that this process may use.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn usable() -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        Ok(Self((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()))
    }

    /// The first of them for the relay and the others for the load; `None` with fewer than two.
    pub(crate) fn split(&self) -> Option<(Self, Self)> {
        let (first, others) = self.0.split_first()?;
        (!others.is_empty()).then(|| (Self(vec![*first]), Self(others.to_vec())))
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a core is in both.
    pub(crate) fn overlap(&self, other: &Self) -> bool {
        self.0.iter().any(|core| other.0.contains(core))
    }

    /// Whether each of them is in `other`.
    pub(crate) fn are_among(&self, other: &Self) -> bool {
        self.0.iter().all(|core| other.0.contains(core))
    }

    /// Confines a thread to them, by default the calling one; what it starts inherits that.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn confine(&self, thread: Option<Pid>) -> io::Result<()> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core);
        }
        Ok(sched_setaffinity(thread, &set)?)
    }
}

/// How long each core has idled since the machine started. The kernel accounts idle time exactly
/// and the kinds of busy time by sampling, so what is not idle is what counts as busy.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Stat(Vec<(usize, Ticks)>);

/// Ticks of one core.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Ticks {
    idle: f64,
    stolen: f64,
}

/// What some cores did in a while, summed over them; seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Use {
    /// They worked.
    pub(crate) busy_secs: f64,
    /// Another guest of the hypervisor had them.
    pub(crate) stolen_secs: f64,
}

impl Stat {
    /// Now.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/stat")?))
    }

    fn parse(text: &str) -> Self {
        let cores = text.lines().filter_map(|line| {
            let (core, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
            let fields: Vec<f64> =
                rest.split_whitespace().map_while(|field| field.parse().ok()).collect();
            let &[_user, _nice, _system, idle, iowait, _irq, _softirq, stolen, ..] = &fields[..]
            else {
                return None;
            };
            // The first line, of all cores together, has no number.
            Some((core.parse().ok()?, Ticks { idle: idle + iowait, stolen }))
        });
        Self(cores.collect())
    }

    /// What the cores did since `earlier`, which was so many seconds ago.
    pub(crate) fn since(&self, earlier: &Self, secs: f64, cores: &Cores) -> Use {
        let sum = |stat: &Self| {
            let of_these = stat.0.iter().filter(|(core, _)| cores.0.contains(core));
            of_these.fold((0.0, 0.0), |(idle, stolen), (_, ticks)| {
                (idle + ticks.idle, stolen + ticks.stolen)
            })
        };
        let (now, then) = (sum(self), sum(earlier));
        let idle_secs = (now.0 - then.0) / TICKS_PER_SEC;
        let stolen_secs = (now.1 - then.1) / TICKS_PER_SEC;
        // The counters move by whole ticks: on an idle core the rest may be less than nothing.
        let busy_secs = (secs * cores.count() as f64 - idle_secs - stolen_secs).max(0.0);
        Use { busy_secs, stolen_secs }
    }
}

/// Seconds of processor time (user and system) that a process has used; `None` when it is gone.
pub(crate) fn process_secs(pid: u32) -> Option<f64> {
    process_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|t| t / TICKS_PER_SEC)
}

fn process_ticks(stat: &str) -> Option<f64> {
    // The name may hold blanks and brackets; the last bracket ends it. utime and stime are the
    // 14th and 15th field of all.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_lists_and_ranges() {
        let shown = |text: &str| text.parse::<Cores>().map(|cores| cores.to_string());
        assert_eq!(shown("3,0-1"), Ok("0,1,3".to_owned()));
        assert_eq!(shown("0,0"), Ok("0".to_owned()));
        for wrong in ["", "x", "2-1", "1,", "99999"] {
            assert_eq!(shown(wrong), Err(NotCores), "{wrong}");
        }
    }

    #[test]
    fn the_relay_gets_the_first_core() {
        let cores: Cores = "0-2".parse().unwrap();
        let (relay, load) = cores.split().unwrap();
        assert_eq!((relay.to_string(), load.to_string()), ("0".into(), "1,2".into()));
        assert!(!relay.overlap(&load));
        assert!(load.overlap(&cores));
        assert!(load.are_among(&cores) && !cores.are_among(&load));
        assert_eq!(relay.split(), None);
    }

    #[test]
    fn what_is_neither_idle_nor_stolen_is_busy_and_other_cores_do_not_count() {
        let before = Stat::parse("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 50 60 4 5 7 0 0\n");
        let after = Stat::parse(
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 9 9 9 90 70 9 9 17 0 0\n\
             cpu1 9 9 9 1000 0 0 0 0 0 0\nintr 5\n",
        );
        let used = after.since(&before, 2.0, &"0".parse().unwrap());
        assert!((used.busy_secs - 1.4).abs() < 1e-9, "{used:?}");
        assert!((used.stolen_secs - 0.1).abs() < 1e-9, "{used:?}");
        let idle = after.since(&before, 0.5, &"0".parse().unwrap());
        assert!(idle.busy_secs.abs() < 1e-9, "a tick more than the time that passed: {idle:?}");
    }

    #[test]
    fn a_process_name_may_hold_anything() {
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(process_ticks(stat), Some(300.0));
        assert_eq!(process_ticks("77 (a"), None);
    }
}
