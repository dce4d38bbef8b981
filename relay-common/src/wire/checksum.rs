//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are taken over words as they lie in memory: byte order does not matter to ones'
//! complement addition (RFC 1071 §2 (B)), so nothing is swapped on the packet path.

/// Folds carries into sixteen bits. Exact for sums of up to 65,536 words.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    #[allow(clippy::cast_possible_truncation, reason = "two folds of 32 bits leave sixteen")]
    let folded = ((once & 0xFFFF) + (once >> 16)) as u16;
    folded
}

/// The unfolded sum of some words.
#[must_use]
#[inline(always)]
pub fn sum_words(words: &[u16]) -> u32 {
    words.iter().map(|w| u32::from(*w)).sum()
}

/// What replacing `old` words by `new` words adds to a ones' complement sum.
#[must_use]
pub fn delta(old: &[u16], new: &[u16]) -> u16 {
    fold(sum_words(new) + u32::from(!fold(sum_words(old))))
}

/// The checksum field after `added` (unfolded) entered the sum that `field` covers.
#[must_use]
#[inline(always)]
pub const fn update(field: u16, added: u32) -> u16 {
    !fold(!field as u32 + added)
}

/// The sum of bytes as they lie in memory, an odd last byte padded with zero; unfolded into a
/// wider word so that a whole datagram fits. For set-up and tests, not for the packet path.
#[must_use]
pub fn sum_bytes(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to sixteen bits above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum_bytes(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn an_update_equals_a_new_sum() {
        let old = [0x1234u16, 0xFFFF, 0x0000, 0x8001];
        let new = [0x1234u16, 0x0001, 0xABCD, 0x8001];
        let field = !fold(sum_words(&old));
        let updated = update(field, u32::from(delta(&old[1..3], &new[1..3])));
        assert_eq!(fold(sum_words(&new) + u32::from(updated)), 0xFFFF);
    }
}
