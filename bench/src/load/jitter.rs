//! Interarrival jitter of one flow (RFC 3550 §6.4.1). Knows no clock: it is told when packets
//! were due and when they came.

/// How much of a new difference goes into the smoothed jitter: 1/16.
const GAIN: f64 = 1.0 / 16.0;

/// The jitter of one flow. The time stamp of a packet is when it was due: what the RFC calls its
/// sampling instant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Jitter {
    transit_ns: Option<u64>,
    smoothed_ns: f64,
    section: Mean,
    run: Mean,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum_ns: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, ns: f64) {
        self.sum_ns += ns;
        self.count += 1;
    }

    fn value_ns(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns / self.count as f64)
    }
}

impl Jitter {
    /// Notes the transit time of a packet, in the order of arrival. Gives |D|, the difference to
    /// the packet before it, nanoseconds; `None` for the first.
    pub(crate) fn arrive(&mut self, transit_ns: u64) -> Option<u64> {
        let before = self.transit_ns.replace(transit_ns)?;
        let difference = transit_ns.abs_diff(before);
        self.smoothed_ns += (difference as f64 - self.smoothed_ns) * GAIN;
        self.section.add(self.smoothed_ns);
        self.run.add(self.smoothed_ns);
        Some(difference)
    }

    /// The mean of the smoothed jitter since the last call, nanoseconds; `None` when too few
    /// packets came.
    pub(crate) fn take_section_ns(&mut self) -> Option<f64> {
        std::mem::take(&mut self.section).value_ns()
    }

    /// The mean of the smoothed jitter over all packets, nanoseconds; `None` of fewer than two.
    pub(crate) fn run_ns(&self) -> Option<f64> {
        self.run.value_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_transit_has_no_jitter_however_long_it_is() {
        let mut jitter = Jitter::default();
        assert_eq!(jitter.arrive(5_000_000), None, "one packet has no difference");
        assert_eq!(jitter.run_ns(), None);
        for _ in 0..50 {
            assert_eq!(jitter.arrive(5_000_000), Some(0));
        }
        assert_eq!(jitter.run_ns(), Some(0.0));
    }

    #[test]
    fn the_jitter_of_an_alternating_transit_comes_close_to_the_difference() {
        let mut jitter = Jitter::default();
        for packet in 0..16u64 {
            jitter.arrive(packet % 2 * 10_000);
        }
        // By the RFC's own formula: J = J + (|D| - J)/16, fifteen times from zero.
        let expected = 10_000.0 * (1.0 - (15.0f64 / 16.0).powi(15));
        assert!((jitter.smoothed_ns - expected).abs() < 1e-6, "{}", jitter.smoothed_ns);
        for packet in 0..10_000u64 {
            jitter.arrive(packet % 2 * 10_000);
        }
        assert!((jitter.smoothed_ns - 10_000.0).abs() < 1.0);
        assert!((9_900.0..10_000.0).contains(&jitter.run_ns().unwrap()));
    }

    #[test]
    fn a_section_starts_anew_and_the_run_does_not() {
        let mut jitter = Jitter::default();
        jitter.arrive(0);
        jitter.arrive(16_000);
        assert_eq!(jitter.take_section_ns(), Some(1000.0));
        assert_eq!(jitter.take_section_ns(), None);
        jitter.arrive(16_000);
        assert_eq!(jitter.take_section_ns(), Some(937.5));
        assert_eq!(jitter.run_ns(), Some((1000.0 + 937.5) / 2.0));
    }
}
