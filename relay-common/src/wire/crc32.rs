//! CRC-32 of ITU V.42, as FINGERPRINT uses it (RFC 8489 §14.7): over bytes in userspace, over words
//! as they lie in a packet in the kernel program. Owns the sum; what it covers is the caller's.

/// What a sum starts from.
pub const START: u32 = !0;

/// The sum after more bytes.
#[must_use]
pub const fn bytes(mut state: u32, bytes: &[u8]) -> u32 {
    let mut index = 0;
    while index < bytes.len() {
        state = step(state ^ bytes[index] as u32);
        index += 1;
    }
    state
}

/// The sum after the two bytes of a word, in the order in which they lie in memory.
#[must_use]
#[inline(always)]
pub const fn word(state: u32, word: u16) -> u32 {
    let word = u16::from_le_bytes(word.to_ne_bytes());
    step(step(state ^ word as u32))
}

/// The sum after some words.
#[must_use]
#[inline(always)]
pub fn words(state: u32, words: &[u16]) -> u32 {
    words.iter().fold(state, |state, next| word(state, *next))
}

/// Takes the lowest byte in, which has been added to the state. Masked last: the verifier of Linux
/// 6.1 does not know how large a sum of two bytes can become.
#[inline(always)]
const fn step(state: u32) -> u32 {
    TABLE[(state & 0xFF) as usize] ^ (state >> 8)
}

/// Bit-reversed, one entry per byte.
static TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut index = 0u32;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32() {
        assert_eq!(!bytes(START, b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn words_are_their_bytes() {
        let pairs = [*b"12", *b"34", *b"56", *b"78"].map(u16::from_ne_bytes);
        assert_eq!(words(START, &pairs), bytes(START, b"12345678"));
        assert_eq!(!bytes(words(START, &pairs), b"9"), 0xCBF4_3926);
    }
}
