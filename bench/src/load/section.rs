//! A run in sections: the steps of a ramp, or the intervals of a long run. A packet belongs to the
//! section in which it was due. Owns who counts in which section, and when a section is closed;
//! knows nothing of sockets, and holds a bounded number of sections however long the run is.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::load::account::{Arrivals, Tally};

/// How a run is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    /// Sections of the whole run; not zero.
    pub(crate) count: u64,
    /// From the start of a section to the start of the next, nanoseconds; not zero.
    pub(crate) length_ns: u64,
    /// From the start of a section to when its figures are taken, nanoseconds. What comes later
    /// counts in a later section.
    pub(crate) close_after_ns: u64,
}

impl Cut {
    /// The latest time at which the section of a packet is still open.
    pub(crate) fn keeps_open_ns(&self, due_ns: u64) -> u64 {
        let start = due_ns - due_ns % self.length_ns;
        start.saturating_add(self.close_after_ns).saturating_sub(1)
    }

    /// Whether these times are in different sections.
    pub(crate) fn parts(&self, time_ns: u64, other_ns: u64) -> bool {
        self.section(time_ns) != self.section(other_ns)
    }

    /// The section that has this time in it.
    fn section(&self, time_ns: u64) -> u64 {
        (time_ns / self.length_ns).min(self.count - 1)
    }

    /// Sections that are open at the same time.
    fn open_max(&self) -> usize {
        let open = self.close_after_ns.div_ceil(self.length_ns) + 1;
        usize::try_from(open).expect("the command line bounds both")
    }
}

/// One thread's sums, by section.
#[derive(Debug)]
pub(crate) struct Sections<'a> {
    collector: &'a Collector,
    first: u64,
    open: VecDeque<Tally>,
    total: Tally,
}

impl<'a> Sections<'a> {
    /// All zero, for a thread that is one of the collector's contributors.
    pub(crate) fn new(collector: &'a Collector) -> Self {
        let open = (0..collector.cut.open_max()).map(|_| Tally::new()).collect();
        Self { collector, first: 0, open, total: Tally::new() }
    }

    /// The sums of the section that has this time in it, nanoseconds after the start of the load;
    /// the nearest open one for a time in a section that is closed or not yet open.
    pub(crate) fn at(&mut self, time_ns: u64) -> &mut Tally {
        let section = self.collector.cut.section(time_ns);
        self.of(section)
    }

    /// Counts an intact packet of a flow, and says whether that delivers it: a copy does not.
    pub(crate) fn arrived(
        &mut self,
        flow: &mut Arrivals,
        sequence: u64,
        due_ns: u64,
        latency_ns: u64,
    ) -> bool {
        let section = self.collector.cut.section(due_ns);
        if section > flow.section {
            self.of(flow.section).flow_jitter(flow.jitter.take_section_ns());
            flow.section = section;
        }
        self.of(section).arrived(flow, sequence, latency_ns)
    }

    /// Gives the sections that are over by this time to the collector. `flows` are the arrivals
    /// that this thread counts.
    pub(crate) fn close<'f>(
        &mut self,
        time_ns: u64,
        flows: impl Iterator<Item = &'f mut Arrivals>,
    ) {
        let Cut { length_ns, close_after_ns, count } = self.collector.cut;
        let last = time_ns.checked_sub(close_after_ns).map(|since| since / length_ns);
        let over = last.map_or(0, |last| (last + 1).min(count));
        if over > self.first {
            // Flows that have gone on to a later section have left their jitter here already.
            for flow in flows.filter(|flow| flow.section < over) {
                self.of(flow.section).flow_jitter(flow.jitter.take_section_ns());
            }
            while self.first < over {
                self.close_first();
            }
        }
    }

    /// Closes what has begun by this time and gives the sums over everything.
    pub(crate) fn finish<'f>(
        mut self,
        time_ns: u64,
        flows: impl Iterator<Item = &'f mut Arrivals>,
    ) -> Tally {
        let Cut { length_ns, count, .. } = self.collector.cut;
        let begun = time_ns.div_ceil(length_ns).clamp(1, count);
        let mut jitter = Tally::new();
        for flow in flows {
            self.of(flow.section).flow_jitter(flow.jitter.take_section_ns());
            jitter.flow_jitter(flow.jitter.run_ns());
        }
        while self.first < begun {
            self.close_first();
        }
        // What came when all sections were closed is still of the run.
        self.open.iter().for_each(|rest| self.total.add(rest));
        // Over the run a flow has one jitter, not one for each section.
        self.total.flow_jitter_ns = jitter.flow_jitter_ns;
        self.total
    }

    /// Packets that left and of which nothing came back to this thread; see [`Tally::lost`].
    pub(crate) fn lost(&self) -> u64 {
        let open = |count: fn(&Tally) -> u64| {
            count(&self.total) + self.open.iter().map(count).sum::<u64>()
        };
        open(|tally| tally.sent).saturating_sub(open(|tally| tally.delivered + tally.corrupted))
    }

    fn of(&mut self, section: u64) -> &mut Tally {
        let last = self.open.len() - 1;
        let place = usize::try_from(section.saturating_sub(self.first));
        &mut self.open[place.map_or(last, |place| place.min(last))]
    }

    fn close_first(&mut self) {
        let mut tally = self.open.pop_front().expect("a section is always open");
        self.collector.submit(self.first, &tally);
        self.total.add(&tally);
        tally.clear();
        self.open.push_back(tally);
        self.first += 1;
    }
}

/// Puts the threads' sums of a section together.
#[derive(Debug)]
pub(crate) struct Collector {
    cut: Cut,
    contributors: u32,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    first: u64,
    sections: VecDeque<(u32, Tally)>,
    spare: Vec<Tally>,
}

impl Collector {
    /// For so many threads.
    pub(crate) fn new(cut: Cut, contributors: u32) -> Self {
        Self { cut, contributors, pending: Mutex::default() }
    }

    fn submit(&self, section: u64, tally: &Tally) {
        self.with(|pending| {
            let Some(place) = section.checked_sub(pending.first) else { return };
            let place = usize::try_from(place).expect("threads close sections at the same time");
            while pending.sections.len() <= place {
                let empty = pending.spare.pop().unwrap_or_else(Tally::new);
                pending.sections.push_back((0, empty));
            }
            let (contributed, sum) = &mut pending.sections[place];
            *contributed += 1;
            sum.add(tally);
        });
    }

    /// The first section that all threads have closed, to look at.
    pub(crate) fn take_complete<T>(&self, look: impl FnOnce(u64, &Tally) -> T) -> Option<T> {
        self.take(self.contributors, look)
    }

    /// The first section that any thread has closed.
    pub(crate) fn take_any<T>(&self, look: impl FnOnce(u64, &Tally) -> T) -> Option<T> {
        self.take(1, look)
    }

    fn take<T>(&self, contributed_min: u32, look: impl FnOnce(u64, &Tally) -> T) -> Option<T> {
        let (section, mut tally) = self.with(|pending| {
            pending.sections.front().filter(|(contributed, _)| *contributed >= contributed_min)?;
            let (_, tally) = pending.sections.pop_front()?;
            pending.first += 1;
            Some((pending.first - 1, tally))
        })?;
        let seen = look(section, &tally);
        tally.clear();
        self.with(|pending| pending.spare.push(tally));
        Some(seen)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Pending) -> T) -> T {
        work(&mut self.pending.lock().expect("nobody panics while holding it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    const CUT: Cut = Cut { count: 10_000, length_ns: 100, close_after_ns: 250 };

    fn sent(collector: &Collector) -> Vec<(u64, u64)> {
        iter::from_fn(|| collector.take_complete(|section, tally| (section, tally.sent))).collect()
    }

    #[test]
    fn a_packet_counts_where_it_was_due_while_that_is_open() {
        let collector = Collector::new(CUT, 1);
        let mut sections = Sections::new(&collector);
        for due in [0, 99, 100, 250, 399] {
            sections.at(due).sent += 1;
        }
        assert_eq!((CUT.keeps_open_ns(0), CUT.keeps_open_ns(199)), (249, 349));
        sections.close(249, iter::empty());
        assert_eq!(sent(&collector), []);
        sections.close(250, iter::empty());
        assert_eq!(sent(&collector), [(0, 2)]);
        sections.at(50).sent += 1;
        sections.close(450, iter::empty());
        assert_eq!(sent(&collector), [(1, 2), (2, 1)]);
        assert_eq!(sections.lost(), 6);
        let total = sections.finish(400, iter::empty());
        assert_eq!((total.sent, sent(&collector)), (6, vec![(3, 1)]));
    }

    #[test]
    fn a_section_is_complete_when_all_threads_have_closed_it() {
        let collector = Collector::new(CUT, 2);
        let (mut quick, mut slow) = (Sections::new(&collector), Sections::new(&collector));
        quick.at(0).sent = 3;
        slow.at(0).sent = 4;
        quick.close(380, iter::empty());
        assert_eq!(sent(&collector), []);
        slow.close(300, iter::empty());
        assert_eq!(sent(&collector), [(0, 7)]);
        let rest = collector.take_any(|section, tally| (section, tally.sent));
        assert_eq!(rest, Some((1, 0)), "of a run that ends early");
        slow.close(400, iter::empty());
        assert_eq!(sent(&collector), [], "behind what was taken");
    }

    #[test]
    fn a_long_run_holds_few_sections() {
        let collector = Collector::new(CUT, 1);
        let mut sections = Sections::new(&collector);
        for time in (0..20_000).step_by(50) {
            sections.at(time).sent += 1;
            sections.close(time, iter::empty());
            let _ = sent(&collector);
        }
        assert_eq!(sections.open.len(), CUT.open_max());
        assert!(collector.with(|pending| pending.spare.len() + pending.sections.len()) <= 2);
        assert_eq!(sections.finish(20_000, iter::empty()).sent, 400);
    }

    #[test]
    fn what_comes_when_all_sections_are_closed_is_still_of_the_run() {
        let collector = Collector::new(Cut { count: 2, ..CUT }, 1);
        let mut sections = Sections::new(&collector);
        sections.at(199).sent += 1;
        sections.close(900, iter::empty());
        sections.at(950).corrupted += 1;
        let total = sections.finish(900, iter::empty());
        assert_eq!((total.sent, total.corrupted), (1, 1));
        assert_eq!(sent(&collector), [(0, 0), (1, 1)], "and no section is made up");
    }

    #[test]
    fn the_jitter_of_a_section_is_that_of_the_packets_due_in_it() {
        let collector = Collector::new(CUT, 1);
        let mut sections = Sections::new(&collector);
        let mut flow = Arrivals::new(0);
        // Even in the first section, alternating in the second; then nothing.
        for sequence in 0..20 {
            let latency = if sequence < 10 { 5_000 } else { sequence % 2 * 16_000 };
            sections.arrived(&mut flow, sequence, sequence * 10, latency);
        }
        sections.close(450, iter::once(&mut flow));
        let jitter = || {
            collector
                .take_complete(|_, tally| (tally.flow_jitter_ns.len(), tally.flow_jitter_ns.max()))
        };
        assert_eq!(jitter(), Some((1, 0)));
        let (flows, largest) = jitter().unwrap();
        assert!(flows == 1 && largest > 3_000, "{flows} flows, {largest}");
        assert_eq!(jitter(), Some((0, 0)), "no packet, no jitter");
        let total = sections.finish(300, iter::once(&mut flow));
        assert_eq!((total.flow_jitter_ns.len(), total.difference_ns.len()), (1, 19));
    }
}
