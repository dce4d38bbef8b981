//! What a sequence number says about an arrival. Knows nothing of packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sequence numbers that a flow's window tells apart: older ones are too late to be judged.
pub const WINDOW_PACKETS: u64 = 1024;
/// Sequence numbers in a word of the window.
const WORD_PACKETS: u64 = 32;
const WORDS: usize = (WINDOW_PACKETS / WORD_PACKETS) as usize;

/// What happened to a flow's packet (RFC 4737 §3.3 for reordering).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Higher than all before it.
    InOrder,
    /// The first of its number, behind a higher one.
    Reordered,
    /// Seen before.
    Duplicate,
    /// So far behind that it cannot be told from a duplicate.
    TooLate,
}

/// The latest sequence numbers of one flow.
///
/// A word of the window holds 32 numbers in its low half, and in its high half which 32 of all
/// they are: nothing is ever cleared, and a word of an older turn is simply replaced.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Window {
    /// One above the highest number seen.
    pub next: u64,
    words: [u64; WORDS],
}

impl Window {
    /// Nothing seen yet.
    pub const EMPTY: Self = Self { next: 0, words: [0; WORDS] };

    /// Notes an arrival.
    #[inline(always)]
    pub fn arrive(&mut self, sequence: u64) -> Arrival {
        let bit = 1 << (sequence % WORD_PACKETS);
        // Never zero, which is an untouched word's.
        let turn = (sequence / WINDOW_PACKETS + 1) & 0xFFFF_FFFF;
        #[allow(clippy::cast_possible_truncation, reason = "masked to the window's words")]
        let place = (sequence / WORD_PACKETS) as usize & (WORDS - 1);
        let word = &mut self.words[place];
        let found = *word >> 32;
        if found > turn {
            return Arrival::TooLate;
        }
        if found < turn {
            *word = turn << 32 | bit;
        } else if *word & bit != 0 {
            return Arrival::Duplicate;
        } else {
            *word |= bit;
        }
        if sequence < self.next {
            return Arrival::Reordered;
        }
        self.next = sequence + 1;
        Arrival::InOrder
    }
}

#[cfg(test)]
mod tests {
    use super::Arrival::{Duplicate, InOrder, Reordered, TooLate};
    use super::*;

    #[test]
    fn every_number_counts_once_and_order_is_by_the_highest() {
        let mut window = Window::EMPTY;
        for (sequence, expected) in [
            (0, InOrder),
            (0, Duplicate),
            (2, InOrder),
            (1, Reordered),
            (1, Duplicate),
            (31, InOrder),
            (32, InOrder),
            (30, Reordered),
        ] {
            assert_eq!(window.arrive(sequence), expected, "{sequence}");
        }
    }

    #[test]
    fn the_window_holds_at_least_its_size_and_then_says_too_late() {
        let mut window = Window::EMPTY;
        assert_eq!(window.arrive(5000), InOrder);
        assert_eq!(window.arrive(5000 - WINDOW_PACKETS + 32), Reordered, "still in the window");
        assert_eq!(window.arrive(5000 - WINDOW_PACKETS), TooLate);
        assert_eq!(window.arrive(5000 + 10 * WINDOW_PACKETS), InOrder, "a gap of many turns");
        assert_eq!(window.arrive(5000), TooLate);
    }

    #[test]
    fn a_long_run_in_order_is_in_order() {
        let mut window = Window::EMPTY;
        for sequence in 0..10 * WINDOW_PACKETS {
            assert_eq!(window.arrive(sequence), InOrder);
            assert_eq!(window.arrive(sequence), Duplicate);
        }
    }
}
