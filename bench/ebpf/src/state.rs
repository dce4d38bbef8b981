//! Where the stateful reflector keeps what it remembers of a flow. No relay can do with less: one
//! line of the processor's cache for each flow, found by what the packet says of itself, and
//! something in it that has to be known before the packet is written.

/// A line of the cache.
pub type Line = [u16; 32];

/// Lines of the table, 8 MiB: room for some 65,000 flows, as a relay has it.
pub const LINES: u32 = 1 << LINES_BITS;
const LINES_BITS: u32 = 17;

/// The line of a flow with these ports (wire): flows of one rig differ in nothing else. Two rounds,
/// or ports in sequence would give lines at equal distances, which processors see coming. It is no
/// relay's own function: a reference does not change with what is held against it.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the bits of a line's number are left")]
pub const fn line(ports: [u16; 2]) -> u32 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let [src, dst] = ports;
    let mixed = ((src as u64) << 16 | dst as u64).wrapping_mul(ODD);
    ((mixed ^ mixed >> 32).wrapping_mul(ODD) >> (u64::BITS - LINES_BITS)) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flows_have_lines_of_their_own_far_apart() {
        let lines: std::vec::Vec<u32> =
            (0..10_000_u16).map(|n| line([(20_000 + n).to_be(), 3478_u16.to_be()])).collect();
        assert!(lines.iter().all(|line| *line < LINES));
        let own: HashSet<_> = lines.iter().collect();
        // Chance has 10,000 balls in 131,072 boxes lie in some 9,630 of them.
        assert!(own.len() > 9_500, "{}", own.len());
        let steps: HashSet<_> =
            lines.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert!(steps.len() > 9_000, "{}", steps.len());
        assert_eq!(size_of::<Line>(), 64);
    }
}
