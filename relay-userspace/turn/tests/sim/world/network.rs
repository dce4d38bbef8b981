//! The way of datagrams between everybody: late, twice, out of order, cut, damaged, or not at all.

use std::collections::BTreeMap;

use crate::model::Sent;
use crate::random::Random;

/// A datagram is delayed by less than this.
const DELAY_NS_MAX: u64 = 80_000_000;

/// How often what goes wrong: one in so many; 0: never.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    lost: u64,
    doubled: u64,
    cut: u64,
    damaged: u64,
}

impl Faults {
    pub fn choose(random: &mut Random) -> Self {
        let mut rate = || random.pick(&[0, 0, 40, 10]);
        Self { lost: rate(), doubled: rate(), cut: rate(), damaged: rate() }
    }
}

/// Datagrams under way, by their time of arrival.
pub struct Network {
    faults: Faults,
    under_way: BTreeMap<(u64, u64), Sent>,
    count: u64,
}

impl Network {
    pub const fn new(faults: Faults) -> Self {
        Self { faults, under_way: BTreeMap::new(), count: 0 }
    }

    pub fn send(&mut self, now_ns: u64, random: &mut Random, mut datagram: Sent) {
        let is = |random: &mut Random, rate| rate > 0 && random.one_in(rate);
        if is(random, self.faults.lost) {
            return;
        }
        let bytes = datagram.payload.len();
        if bytes > 0 && is(random, self.faults.cut) {
            datagram.payload.truncate(random.index(bytes));
        }
        let bytes = datagram.payload.len();
        if bytes > 0 && is(random, self.faults.damaged) {
            datagram.payload[random.index(bytes.min(100))] ^= 1 << random.below(8);
        }
        if is(random, self.faults.doubled) {
            self.put(now_ns, random, datagram.clone());
        }
        self.put(now_ns, random, datagram);
    }

    /// Without faults: inside one machine.
    pub fn loop_back(&mut self, now_ns: u64, datagram: Sent) {
        self.count += 1;
        self.under_way.insert((now_ns, self.count), datagram);
    }

    fn put(&mut self, now_ns: u64, random: &mut Random, datagram: Sent) {
        self.count += 1;
        self.under_way.insert((now_ns + random.below(DELAY_NS_MAX), self.count), datagram);
    }

    /// When the next one arrives.
    pub fn next_ns(&self) -> Option<u64> {
        self.under_way.first_key_value().map(|((ns, _), _)| *ns)
    }

    /// Takes one that has arrived.
    pub fn arrived(&mut self, now_ns: u64) -> Option<Sent> {
        self.next_ns().filter(|ns| *ns <= now_ns)?;
        self.under_way.pop_first().map(|(_, datagram)| datagram)
    }
}
