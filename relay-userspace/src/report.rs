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
}

impl Report {
    /// Adds what another shard counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.turn.add(&other.turn);
        self.ring.add(other.ring);
        self.hop_limit += other.hop_limit;
        self.dont_fragment += other.dont_fragment;
        self.icmp_muted += other.icmp_muted;
    }

    /// Datagrams lost outside the state machine, by the name of the reason in metrics.
    pub(crate) const fn losses(&self) -> [(&'static str, u64); 5] {
        [
            ("unusable", self.ring.unusable),
            ("send_queue_full", self.ring.send_queue_full),
            ("send_error", self.ring.send_errors),
            ("hop_limit", self.hop_limit),
            ("dont_fragment", self.dont_fragment),
        ]
    }
}
