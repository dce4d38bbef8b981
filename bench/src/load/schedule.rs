//! When each packet is due: an open-loop schedule, fixed before the first packet leaves.
//! Answers, losses and the sender's own delays do not change it. Sends nothing.

use std::num::NonZeroU32;

use crate::clock::SECOND_NS;

/// A fixed-rate schedule over all flows. Packets are evenly spaced over the whole, so that flows
/// take turns and never send in one burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Schedule {
    flows: u64,
    packets_per_second: u64,
    packets_per_flow: u64,
}

/// One packet of the schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// Which flow sends it, 0-based over the whole run.
    pub(crate) flow: u32,
    /// Its number within the flow, 0-based.
    pub(crate) sequence: u64,
    /// When it is due, nanoseconds after the start of the load.
    pub(crate) due_ns: u64,
}

impl Schedule {
    /// `rate` is packets a second of one flow.
    pub(crate) fn new(flows: NonZeroU32, rate: NonZeroU32, duration_secs: u32) -> Self {
        let rate = u64::from(rate.get());
        let flows = u64::from(flows.get());
        let packets_per_flow = rate * u64::from(duration_secs);
        Self { flows, packets_per_second: rate * flows, packets_per_flow }
    }

    /// The slot of a flow's packet; `None` behind the last one.
    pub(crate) fn slot(&self, flow: u32, sequence: u64) -> Option<Slot> {
        if sequence >= self.packets_per_flow {
            return None;
        }
        let index = sequence * self.flows + u64::from(flow);
        // Whole seconds apart from the rest: the product would overflow in a run of some days.
        let secs = index / self.packets_per_second;
        let rest = index % self.packets_per_second;
        let due_ns = secs * SECOND_NS + rest * SECOND_NS / self.packets_per_second;
        Some(Slot { flow, sequence, due_ns })
    }

    /// Packets a second over all flows.
    pub(crate) fn packets_per_second(&self) -> u64 {
        self.packets_per_second
    }

    /// Packets of the whole run.
    pub(crate) fn packets(&self) -> u64 {
        self.packets_per_flow * self.flows
    }

    /// Walks the slots of every `step`th flow from `first` in the order they are due.
    pub(crate) fn walk(self, first: u32, step: u32) -> Walk {
        Walk { schedule: self, first, step, next: self.slot(first, 0) }
    }
}

/// The part of a schedule that one thread serves.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    schedule: Schedule,
    first: u32,
    step: u32,
    next: Option<Slot>,
}

impl Walk {
    /// The next slot; `None` when the schedule is done.
    pub(crate) fn peek(&self) -> Option<Slot> {
        self.next
    }

    /// Goes on to the slot behind the next one.
    pub(crate) fn advance(&mut self) {
        let Some(slot) = self.next else { return };
        let flow = slot.flow + self.step;
        self.next = if u64::from(flow) < self.schedule.flows {
            self.schedule.slot(flow, slot.sequence)
        } else {
            self.schedule.slot(self.first, slot.sequence + 1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(flows: u32, rate: u32, secs: u32) -> Schedule {
        Schedule::new(NonZeroU32::new(flows).unwrap(), NonZeroU32::new(rate).unwrap(), secs)
    }

    fn walked(mut walk: Walk) -> Vec<Slot> {
        std::iter::from_fn(|| {
            let slot = walk.peek();
            walk.advance();
            slot
        })
        .collect()
    }

    #[test]
    fn flows_take_turns_at_even_distances() {
        let due: Vec<_> = walked(schedule(2, 2, 2).walk(0, 1))
            .iter()
            .map(|s| (s.flow, s.sequence, s.due_ns / 1_000_000))
            .collect();
        let expected =
            [(0, 0, 0), (1, 0, 250), (0, 1, 500), (1, 1, 750), (0, 2, 1000), (1, 2, 1250)];
        assert_eq!(due[..6], expected);
        assert_eq!(due.len(), 8);
    }

    #[test]
    fn the_shares_of_all_threads_are_the_schedule_once() {
        let whole = schedule(5, 7, 3);
        let mut shared: Vec<_> = (0..3).flat_map(|t| walked(whole.walk(t, 3))).collect();
        shared.sort_by_key(|slot| slot.due_ns);
        assert_eq!(shared, walked(whole.walk(0, 1)));
        assert_eq!(u64::try_from(shared.len()).unwrap(), whole.packets());
    }

    #[test]
    fn a_second_holds_exactly_the_rate_even_after_a_year() {
        let schedule = schedule(3, 1_000_000, 31_536_001);
        let year = 31_536_000u64;
        let slot = schedule.slot(0, year * 1_000_000).unwrap();
        assert_eq!(slot.due_ns, year * SECOND_NS);
        let before = schedule.slot(2, year * 1_000_000 - 1).unwrap();
        assert!(before.due_ns < slot.due_ns);
    }

    #[test]
    fn the_last_packet_is_due_before_the_end() {
        let schedule = schedule(3, 10, 2);
        assert!(schedule.slot(2, 19).unwrap().due_ns < 2 * SECOND_NS);
        assert_eq!(schedule.slot(0, 20), None);
        assert!(walked(schedule.walk(3, 4)).len() <= 20, "a thread without flows is bounded");
    }
}
