//! Longest-prefix match: a binary trie, one node a bit. Owns the look-up; what a rule says is its
//! caller's.

/// Rules by the prefix they are for. A look-up takes as many steps as the longest prefix on its
/// way has bits, however many rules there are.
#[derive(Clone, Debug)]
pub(crate) struct Trie<R> {
    nodes: Vec<Node>,
    rules: Vec<R>,
}

/// Where each bit leads; nothing leads back to the root, so 0 is nowhere.
#[derive(Clone, Copy, Default, Debug)]
struct Node {
    next: [u32; 2],
    rule: Option<u32>,
}

impl<R: Copy> Trie<R> {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], rules: Vec::new() }
    }

    /// Sets the rule for the addresses whose first `prefix` bits, from the highest on, are those of
    /// `bits`. A later rule for the same prefix replaces an earlier one.
    pub(crate) fn insert(&mut self, bits: u128, prefix: u8, rule: R) {
        let mut at = 0;
        for depth in 0..prefix {
            let bit = bit(bits, depth);
            let next = self.nodes[at].next[bit];
            at = if next == 0 { self.grow(at, bit) } else { next as usize };
        }
        self.nodes[at].rule = Some(index(self.rules.len()));
        self.rules.push(rule);
    }

    /// The rule with the longest prefix of `bits`.
    pub(crate) fn longest(&self, bits: u128) -> Option<R> {
        let (mut at, mut found) = (0, self.nodes[0].rule);
        for depth in 0..128 {
            at = self.nodes[at].next[bit(bits, depth)] as usize;
            if at == 0 {
                break;
            }
            found = self.nodes[at].rule.or(found);
        }
        found.map(|rule| self.rules[rule as usize])
    }

    fn grow(&mut self, from: usize, bit: usize) -> usize {
        let new = self.nodes.len();
        self.nodes.push(Node::default());
        self.nodes[from].next[bit] = index(new);
        new
    }
}

fn bit(bits: u128, depth: u8) -> usize {
    usize::from(bits & (1 << (127 - depth)) != 0)
}

/// A configuration has megabytes of rules before this many nodes.
fn index(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than four thousand million nodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn an_empty_trie_and_one_with_a_rule_for_everything() {
        let mut trie = Trie::new();
        assert_eq!(trie.longest(0), None);
        trie.insert(0, 0, 'a');
        trie.insert(u128::MAX, 128, 'b');
        assert_eq!([0, u128::MAX - 1, u128::MAX].map(|bits| trie.longest(bits)), {
            [Some('a'), Some('a'), Some('b')]
        });
        trie.insert(0, 0, 'c');
        assert_eq!(trie.longest(0), Some('c'), "the later of two");
    }

    #[test]
    fn ten_thousand_rules_are_found_as_by_trying_each() {
        let mut state = 7;
        let mut trie = Trie::new();
        let mut rules: Vec<(u128, u8, usize)> = Vec::new();
        // Few bits, so that prefixes lie in one another.
        let mut place = || u128::from(random(&mut state) % (1 << 18)) << 110;
        for number in 0..10_000 {
            let (bits, prefix) = (place(), u8::try_from(number % 19).unwrap());
            trie.insert(bits, prefix, number);
            rules.push((bits, prefix, number));
        }
        for _ in 0..200 {
            let bits = place();
            let covers = |rule: &&(u128, u8, usize)| {
                rule.1 == 0 || (rule.0 ^ bits) >> (128 - u32::from(rule.1)) == 0
            };
            let best = rules.iter().filter(covers).max_by_key(|rule| (rule.1, rule.2));
            assert_eq!(trie.longest(bits), best.map(|rule| rule.2));
        }
    }
}
