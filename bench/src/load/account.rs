//! What happened to the packets: arrivals per flow, counters and latencies.
//! Judges sequence numbers; knows nothing of sockets or bytes. Nothing here allocates once made.

use hdrhistogram::Histogram;

use crate::load::jitter::Jitter;

/// The longest latency that is told from longer ones, nanoseconds.
const LATENCY_NS_MAX: u64 = 120 * crate::clock::SECOND_NS;
/// The smallest window, packets.
const WINDOW_PACKETS_MIN: u64 = 1024;

/// What a sequence number says about an arrival (RFC 4737 §3.3 for reordering).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// Higher than all before it.
    InOrder,
    /// The first of its number, behind a higher one.
    Reordered,
    /// Seen before.
    Duplicate,
    /// So far behind that it cannot be told from a duplicate.
    TooLate,
}

/// The arrivals of one flow: a bitmap over the latest sequence numbers.
#[derive(Debug)]
pub(crate) struct Window {
    /// One above the highest number seen.
    next: u64,
    seen: Box<[u64]>,
}

impl Window {
    /// Holds at least `packets` numbers.
    pub(crate) fn new(packets: u64) -> Self {
        let words = packets.max(WINDOW_PACKETS_MIN).div_ceil(64);
        let words = usize::try_from(words).unwrap_or(usize::MAX);
        Self { next: 0, seen: vec![0; words].into_boxed_slice() }
    }

    /// Notes an arrival.
    pub(crate) fn arrive(&mut self, sequence: u64) -> Arrival {
        let capacity = self.capacity();
        if sequence >= self.next {
            // What lies between was not seen; its places still hold numbers a window ago.
            let skipped_from = self.next.max((sequence + 1).saturating_sub(capacity));
            for skipped in skipped_from..sequence {
                let (word, bit) = self.place(skipped);
                self.seen[word] &= !bit;
            }
            let (word, bit) = self.place(sequence);
            self.seen[word] |= bit;
            self.next = sequence + 1;
            return Arrival::InOrder;
        }
        if self.next - sequence > capacity {
            return Arrival::TooLate;
        }
        let (word, bit) = self.place(sequence);
        if self.seen[word] & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen[word] |= bit;
        Arrival::Reordered
    }

    fn capacity(&self) -> u64 {
        self.seen.len() as u64 * 64
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        let place = sequence % self.capacity();
        let word = usize::try_from(place / 64).expect("below the number of words");
        (word, 1 << (place % 64))
    }
}

/// The sums of a run, or of one thread's share.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Packets handed to the kernel.
    pub(crate) sent: u64,
    /// Packets that were due but that the kernel of this host did not take.
    pub(crate) unsent: u64,
    /// Packets that came back whole, each counted once.
    pub(crate) delivered: u64,
    /// Of those: behind a packet with a higher number.
    pub(crate) reordered: u64,
    /// Whole packets that came back again.
    pub(crate) duplicates: u64,
    /// Packets that came back damaged.
    pub(crate) corrupted: u64,
    /// Whole packets that came back too far behind to be counted as delivered.
    pub(crate) too_late: u64,
    /// Whole packets of another flow: the server gave one client what belongs to another.
    pub(crate) misdelivered: u64,
    /// Datagrams that are not this run's: other runs' packets and what is no TURN message.
    pub(crate) foreign: u64,
    /// ICMP errors: see [`LinkError::Unreachable`](crate::turn::transport::LinkError::Unreachable).
    pub(crate) unreachable: u64,
    /// From due time to arrival, nanoseconds, of packets that were delivered.
    pub(crate) latency_ns: Histogram<u64>,
    /// From due time to the send call, nanoseconds: how late this tool was.
    pub(crate) lateness_ns: Histogram<u64>,
    /// |D| of RFC 3550 §6.4.1, nanoseconds: how much the latency differs between two packets of
    /// a flow that come one after the other.
    pub(crate) difference_ns: Histogram<u64>,
    /// One entry for each flow: its mean jitter, nanoseconds.
    pub(crate) flow_jitter_ns: Histogram<u64>,
}

/// The arrivals of one flow.
#[derive(Debug)]
pub(crate) struct Arrivals {
    window: Window,
    /// The jitter of what was delivered.
    pub(crate) jitter: Jitter,
    /// The latest section that a packet was due in.
    pub(crate) section: u64,
    /// Packets that came whole, each counted once.
    pub(crate) delivered: u64,
}

impl Arrivals {
    /// None yet, of a flow with a window of at least so many packets.
    pub(crate) fn new(window_packets: u64) -> Self {
        let window = Window::new(window_packets);
        Self { window, jitter: Jitter::default(), section: 0, delivered: 0 }
    }
}

impl Tally {
    /// All zero.
    pub(crate) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants");
        Self {
            sent: 0,
            unsent: 0,
            delivered: 0,
            reordered: 0,
            duplicates: 0,
            corrupted: 0,
            too_late: 0,
            misdelivered: 0,
            foreign: 0,
            unreachable: 0,
            latency_ns: histogram(),
            lateness_ns: histogram(),
            difference_ns: histogram(),
            flow_jitter_ns: histogram(),
        }
    }

    /// All zero again, in the memory that it has.
    pub(crate) fn clear(&mut self) {
        let Self { latency_ns, lateness_ns, difference_ns, flow_jitter_ns, .. } = self;
        let counters = [
            &mut self.sent,
            &mut self.unsent,
            &mut self.delivered,
            &mut self.reordered,
            &mut self.duplicates,
            &mut self.corrupted,
            &mut self.too_late,
            &mut self.misdelivered,
            &mut self.foreign,
            &mut self.unreachable,
        ];
        counters.into_iter().for_each(|counter| *counter = 0);
        let histograms = [latency_ns, lateness_ns, difference_ns, flow_jitter_ns];
        histograms.into_iter().for_each(Histogram::reset);
    }

    /// Counts an intact packet of a flow, and says whether that delivers it: a copy does not. The
    /// latency runs from when the packet was due, and not from when it left, so that a stall which
    /// delays the sender too is not left out.
    pub(crate) fn arrived(&mut self, flow: &mut Arrivals, sequence: u64, latency_ns: u64) -> bool {
        match flow.window.arrive(sequence) {
            Arrival::InOrder => {}
            Arrival::Reordered => self.reordered += 1,
            Arrival::Duplicate => {
                self.duplicates += 1;
                return false;
            }
            Arrival::TooLate => {
                self.too_late += 1;
                return false;
            }
        }
        self.delivered += 1;
        flow.delivered += 1;
        self.latency_ns.saturating_record(latency_ns);
        if let Some(difference) = flow.jitter.arrive(latency_ns) {
            self.difference_ns.saturating_record(difference);
        }
        true
    }

    /// Counts a flow's mean jitter, if it has one.
    pub(crate) fn flow_jitter(&mut self, mean_ns: Option<f64>) {
        if let Some(mean_ns) = mean_ns {
            let ns = std::time::Duration::from_secs_f64(mean_ns / 1e9).as_nanos();
            self.flow_jitter_ns.saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
        }
    }

    /// Adds another thread's share.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.delivered += other.delivered;
        self.reordered += other.reordered;
        self.duplicates += other.duplicates;
        self.corrupted += other.corrupted;
        self.too_late += other.too_late;
        self.misdelivered += other.misdelivered;
        self.foreign += other.foreign;
        self.unreachable += other.unreachable;
        let same = "both have the bounds of `Tally::new`";
        self.latency_ns.add(&other.latency_ns).expect(same);
        self.lateness_ns.add(&other.lateness_ns).expect(same);
        self.difference_ns.add(&other.difference_ns).expect(same);
        self.flow_jitter_ns.add(&other.flow_jitter_ns).expect(same);
    }

    /// Packets that were due while the run lasted.
    pub(crate) fn offered(&self) -> u64 {
        self.sent + self.unsent
    }

    /// Packets that left and of which nothing came back. A damaged datagram does not say which
    /// packet it was: each one stands for a packet, so a damaged copy of a packet that was
    /// delivered hides a loss here. [`Tally::undelivered_percent`] it does not change.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.delivered + self.corrupted)
    }

    /// Share of the offered packets that did not come back intact, percent: what `--max-loss`
    /// limits. Damaged packets and packets this host did not send count.
    pub(crate) fn undelivered_percent(&self) -> f64 {
        percent(self.offered().saturating_sub(self.delivered), self.offered())
    }
}

/// A share in percent; zero of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(window: &mut Window, sequences: &[u64]) -> Vec<Arrival> {
        sequences.iter().map(|&sequence| window.arrive(sequence)).collect()
    }

    #[test]
    fn order_gaps_and_repeats_are_told_apart() {
        use Arrival::{Duplicate, InOrder, Reordered};
        let mut window = Window::new(0);
        assert_eq!(
            arrivals(&mut window, &[0, 1, 1, 4, 2, 2, 4, 5, 3]),
            [
                InOrder, InOrder, Duplicate, InOrder, Reordered, Duplicate, Duplicate, InOrder,
                Reordered
            ]
        );
    }

    #[test]
    fn the_window_ends_where_it_ends() {
        let mut window = Window::new(0);
        assert_eq!(window.arrive(WINDOW_PACKETS_MIN), Arrival::InOrder);
        assert_eq!(window.arrive(1), Arrival::Reordered, "the oldest that is held");
        assert_eq!(window.arrive(0), Arrival::TooLate, "one past it");
    }

    #[test]
    fn a_gap_as_long_as_the_window_forgets_what_was_there() {
        for gap in [WINDOW_PACKETS_MIN - 1, WINDOW_PACKETS_MIN, WINDOW_PACKETS_MIN * 5 + 3] {
            let mut window = Window::new(0);
            for sequence in 0..10 {
                window.arrive(sequence);
            }
            window.arrive(9 + gap);
            for sequence in (9 + gap - 9)..(9 + gap) {
                assert_eq!(window.arrive(sequence), Arrival::Reordered, "{sequence} after {gap}");
            }
        }
    }

    #[test]
    fn only_the_first_copy_has_a_latency() {
        let mut tally = Tally::new();
        tally.sent = 3;
        tally.unsent = 1;
        let mut flow = Arrivals::new(0);
        assert!(tally.arrived(&mut flow, 0, 5_000));
        assert!(!tally.arrived(&mut flow, 0, 899_000));
        tally.corrupted = 1;
        assert_eq!(tally.latency_ns.max(), tally.latency_ns.highest_equivalent(5_000));
        assert_eq!((tally.delivered, tally.duplicates, tally.lost()), (1, 1, 1));
        assert!((tally.undelivered_percent() - 75.0).abs() < 1e-9);
        let mut sum = Tally::new();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!((sum.offered(), sum.delivered, sum.latency_ns.len()), (8, 2, 2));
        sum.clear();
        assert_eq!((sum.offered(), sum.delivered, sum.latency_ns.len()), (0, 0, 0));
    }
}
