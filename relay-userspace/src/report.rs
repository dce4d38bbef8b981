//! A shard's counters, as it tells them to whoever asks.

use relay_turn::Snapshot;

use crate::ring::Losses;

/// A shard's counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Of the state machine.
    pub(crate) turn: Snapshot,
    /// Of the ring.
    pub(crate) ring: Losses,
    /// Datagrams whose last hop this was.
    pub(crate) hop_limit: u64,
    /// Datagrams with DONT-FRAGMENT that did not leave.
    pub(crate) dont_fragment: u64,
    /// How often a relayed address's ICMP errors became too many to be read.
    pub(crate) icmp_muted: u64,
    /// Datagrams that were handed to the shard that has their allocation.
    pub(crate) handed_over: u64,
    /// Datagrams that were not, because it has too many to do.
    pub(crate) hand_over_full: u64,
    /// 5-tuples that reach this shard, and whose allocations other shards have.
    pub(crate) elsewhere: u64,
}

impl Report {
    /// Adds what another shard counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.turn.add(&other.turn);
        self.ring.add(other.ring);
        self.hop_limit += other.hop_limit;
        self.dont_fragment += other.dont_fragment;
        self.icmp_muted += other.icmp_muted;
        self.handed_over += other.handed_over;
        self.hand_over_full += other.hand_over_full;
        self.elsewhere += other.elsewhere;
    }

    /// Datagrams lost outside the state machine, by the name of the reason in metrics.
    pub(crate) const fn losses(&self) -> [(&'static str, u64); 6] {
        [
            ("unusable", self.ring.unusable),
            ("send_queue_full", self.ring.send_queue_full),
            ("send_error", self.ring.send_errors),
            ("hop_limit", self.hop_limit),
            ("dont_fragment", self.dont_fragment),
            ("hand_over_full", self.hand_over_full),
        ]
    }
}
