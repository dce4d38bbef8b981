//! The latencies of the last moment, coarsely, for a progress line while threads measure.
//! No figure of a report comes from here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Places of a logarithmic scale: four for each power of two.
const PLACES: usize = 64 * 4;

/// A histogram that all threads write.
#[derive(Debug)]
pub(crate) struct Pulse {
    counts: Box<[AtomicU64]>,
}

/// What the reader of a [`Pulse`] saw last.
#[derive(Debug)]
pub(crate) struct Seen {
    counts: Box<[u64]>,
}

impl Pulse {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { counts: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts a latency.
    pub(crate) fn record(&self, latency_ns: u64) {
        self.counts[place(latency_ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// The 99th percentile of what came since the last call, nanoseconds, within a fifth;
    /// `None` when nothing came.
    pub(crate) fn p99_ns_since(&self, seen: &mut Seen) -> Option<u64> {
        let mut fresh = [0; PLACES];
        for ((fresh, now), before) in fresh.iter_mut().zip(&self.counts).zip(&mut seen.counts) {
            let now = now.load(Ordering::Relaxed);
            *fresh = now - std::mem::replace(before, now);
        }
        let total: u64 = fresh.iter().sum();
        let mut above = total.div_ceil(100);
        let place = fresh.iter().rposition(|&count| {
            above = above.saturating_sub(count);
            above == 0
        })?;
        (total > 0).then(|| middle_ns(place))
    }
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; PLACES].into_boxed_slice() }
    }
}

fn place(ns: u64) -> usize {
    // Below four the two digits behind the leading one are not there.
    let ns = ns.max(4);
    let power = ns.ilog2();
    let quarter = (ns >> (power - 2)) & 3;
    usize::try_from(u64::from(power) * 4 + quarter).expect("64 powers of four places")
}

fn middle_ns(place: usize) -> u64 {
    let quarter = (place % 4) as u64;
    (9 + 2 * quarter) << (place / 4) >> 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_read_within_a_fifth_of_itself() {
        for ns in [4u64, 5, 100, 999, 123_456, 40_000_000, 119_000_000_000] {
            let pulse = Pulse::new();
            pulse.record(ns);
            let read = pulse.p99_ns_since(&mut Seen::new()).unwrap();
            assert!(read.abs_diff(ns) * 5 <= ns, "{ns} is read as {read}");
        }
        assert!(place(u64::MAX) < PLACES);
        assert_eq!(place(0), place(4));
    }

    #[test]
    fn the_percentile_is_of_what_came_since() {
        let (pulse, mut seen) = (Pulse::new(), Seen::new());
        assert_eq!(pulse.p99_ns_since(&mut seen), None);
        (0..99).for_each(|_| pulse.record(1000));
        pulse.record(1_000_000);
        let slow = pulse.p99_ns_since(&mut seen).unwrap();
        assert!(slow > 500_000, "one in a hundred is the 99th percentile: {slow}");
        (0..200).for_each(|_| pulse.record(1000));
        pulse.record(1_000_000);
        let fast = pulse.p99_ns_since(&mut seen).unwrap();
        assert!(fast < 2000, "one in two hundred is not: {fast}");
        assert_eq!(pulse.p99_ns_since(&mut seen), None);
    }
}
