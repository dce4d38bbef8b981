//! When each packet is due: an open-loop schedule, fixed before the first packet leaves.
//! Answers, losses and the sender's own delays do not change it. Sends nothing.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::clock::SECOND_NS;

/// Seconds between two steps without a packet due, for what is still under way.
pub(crate) const PAUSE_SECS: u32 = 1;

/// A schedule over all flows, of one step or of several with a pause between them. Packets of a
/// step are evenly spaced over the whole, so that flows take turns and never send in one burst.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Schedule {
    flows: u64,
    steps: Arc<[Step]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    start_secs: u64,
    /// Packets of one flow before this step.
    first_sequence: u64,
    /// Packets of one flow in this step.
    packets: u64,
    /// Packets a second over all flows.
    rate_total: u64,
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
    /// One step. `rate` is packets a second of one flow.
    pub(crate) fn steady(flows: NonZeroU32, rate: NonZeroU32, duration_secs: u32) -> Self {
        Self::steps(flows, &[rate.get()], duration_secs)
    }

    /// A step of `step_secs` for each rate, in packets a second of one flow.
    pub(crate) fn steps(flows: NonZeroU32, rates: &[u32], step_secs: u32) -> Self {
        let flows = u64::from(flows.get());
        let mut first_sequence = 0;
        let steps = (0..).zip(rates).map(|(place, &rate)| {
            let packets = u64::from(rate) * u64::from(step_secs);
            let step = Step {
                start_secs: place * u64::from(step_secs + PAUSE_SECS),
                first_sequence,
                packets,
                rate_total: u64::from(rate) * flows,
            };
            first_sequence += packets;
            step
        });
        Self { flows, steps: steps.collect() }
    }

    /// The slot of a flow's packet; `None` behind the last one.
    pub(crate) fn slot(&self, flow: u32, sequence: u64) -> Option<Slot> {
        let behind = self.steps.partition_point(|step| step.first_sequence <= sequence);
        let step = self.steps.get(behind.checked_sub(1)?)?;
        let sequence_in_step = sequence - step.first_sequence;
        if sequence_in_step >= step.packets {
            return None;
        }
        let index = sequence_in_step * self.flows + u64::from(flow);
        // Whole seconds apart from the rest: the product would overflow in a run of some days.
        let secs = step.start_secs + index / step.rate_total;
        let rest = index % step.rate_total;
        let due_ns = secs * SECOND_NS + rest * SECOND_NS / step.rate_total;
        Some(Slot { flow, sequence, due_ns })
    }

    /// Packets a second over all flows, of a step.
    pub(crate) fn rate_total(&self, step: usize) -> Option<u64> {
        self.steps.get(step).map(|step| step.rate_total)
    }

    /// Packets a second of one flow, in the fastest step.
    pub(crate) fn rate_max(&self) -> u64 {
        self.steps.iter().map(|step| step.rate_total).max().unwrap_or(0) / self.flows
    }

    /// Walks the slots of every `step`th flow from `first` in the order they are due.
    pub(crate) fn walk(&self, first: u32, step: u32) -> Walk {
        Walk { schedule: self.clone(), first, step, next: self.slot(first, 0) }
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
        Schedule::steady(NonZeroU32::new(flows).unwrap(), NonZeroU32::new(rate).unwrap(), secs)
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
        assert_eq!(shared.len(), 5 * 7 * 3);
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

    #[test]
    fn a_step_begins_after_the_one_before_and_its_pause() {
        let flows = NonZeroU32::new(2).unwrap();
        let schedule = Schedule::steps(flows, &[10, 30], 2);
        assert_eq!(schedule.rate_max(), 30);
        assert_eq!([0, 1, 2].map(|step| schedule.rate_total(step)), [Some(20), Some(60), None]);
        let due = |flow, sequence| schedule.slot(flow, sequence).map(|slot| slot.due_ns);
        assert!(due(1, 19).unwrap() < 2 * SECOND_NS, "the last of the first step");
        assert_eq!(due(0, 20), Some(3 * SECOND_NS), "the first of the second step");
        assert_eq!(due(1, 20), Some(3 * SECOND_NS + SECOND_NS / 60));
        assert!(due(1, 79).unwrap() < 5 * SECOND_NS);
        assert_eq!(due(0, 80), None);
        let walked = walked(schedule.walk(0, 1));
        assert_eq!(walked.len(), 160);
        assert!(walked.is_sorted_by_key(|slot| slot.due_ns));
    }
}
