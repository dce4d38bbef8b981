//! Where every choice of a run comes from: a seed, or the bytes of a fuzzer. Owns no clock.

/// Choices, one after the other.
pub enum Random {
    /// SplitMix64: what a seed gives never changes.
    Seed(u64),
    /// A fuzzer's input, from its start on; zeros behind its end.
    Bytes(Vec<u8>, usize),
}

#[allow(dead_code, reason = "each user of this file uses a part of it")]
impl Random {
    /// Whether a fuzzer's input is used up. A seed never is.
    pub fn is_spent(&self) -> bool {
        match self {
            Self::Seed(_) => false,
            Self::Bytes(bytes, at) => *at >= bytes.len(),
        }
    }

    /// Below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        let bytes = match end {
            0..=1 => 0,
            2..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        self.take(bytes) % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.take(1).to_le_bytes()[0]).collect()
    }

    /// What is left of a fuzzer's input; of a seed, nothing.
    pub fn rest(&mut self) -> Vec<u8> {
        match self {
            Self::Seed(_) => Vec::new(),
            Self::Bytes(bytes, at) => bytes.split_off((*at).min(bytes.len())),
        }
    }

    /// A number of so many bytes of a fuzzer's input; of a seed, always eight.
    fn take(&mut self, count: usize) -> u64 {
        match self {
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                let z = z ^ (z >> 31);
                if count == 1 { z >> 56 } else { z }
            }
            Self::Bytes(bytes, at) => (0..count).fold(0, |number, _| {
                let byte = bytes.get(*at).copied().unwrap_or(0);
                *at += 1;
                number << 8 | u64::from(byte)
            }),
        }
    }
}
