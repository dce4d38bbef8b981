//! Which allocation has which slot in the kernel. Owns the numbers, not what is counted there.

use std::collections::VecDeque;

use relay_common::abi::SLOTS_MAX;

/// The slots. One that was given back rests for as long as others can be had: a packet that was
/// under way in the kernel when its allocation ended is counted late, and must not be charged to
/// the next. What was counted in a slot stays there: whoever takes one counts from that on.
#[derive(Default)]
pub(super) struct Slots {
    never_used: u32,
    /// The oldest first.
    free: VecDeque<u32>,
}

impl Slots {
    /// Takes a slot, if there is one, and says whether it was used before.
    pub(super) fn take(&mut self) -> Option<(u32, bool)> {
        if self.never_used < SLOTS_MAX {
            self.never_used += 1;
            return Some((self.never_used - 1, false));
        }
        self.free.pop_front().map(|slot| (slot, true))
    }

    /// Gives a taken slot back.
    pub(super) fn give_back(&mut self, slot: u32) {
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_when_no_other_is_left_and_the_oldest_first() {
        let mut slots = Slots::default();
        assert_eq!(slots.take(), Some((0, false)));
        slots.give_back(0);
        for slot in 1..SLOTS_MAX {
            assert_eq!(slots.take(), Some((slot, false)));
        }
        assert_eq!(slots.take(), Some((0, true)));
        assert_eq!(slots.take(), None);
        slots.give_back(9);
        slots.give_back(7);
        assert_eq!([slots.take(), slots.take()], [Some((9, true)), Some((7, true))]);
    }
}
