//! What an operator is told of what clients ask for: at most once a minute, whatever they do and
//! however many shards there are. Owns the pace; what is worth a hint is decided elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

use relay_turn::Now;
use tracing::info;

/// The least time between two hints.
const PACE_NS: u64 = 60_000_000_000;

/// All shards' hints.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// When there may be another: CLOCK_MONOTONIC, nanoseconds.
    next_ns: AtomicU64,
}

impl Hints {
    /// A client asked for a channel number that only RFC 5766 allows.
    pub(crate) fn channel_number(&self, now: Now) {
        if self.is_due(now.monotonic_ns) {
            info!(
                "a client was refused a channel number of 0x5000-0x7FFF, which RFC 5766 allowed: \
                 if your clients need them, set rfc5766_channel_numbers in [compat] (said at most \
                 once a minute; counted by turnpike_channel_numbers_rfc5766_refused_total)"
            );
        }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        let next_ns = self.next_ns.load(Ordering::Relaxed);
        let after_ns = now_ns + PACE_NS;
        let swapped = || {
            self.next_ns.compare_exchange(next_ns, after_ns, Ordering::Relaxed, Ordering::Relaxed)
        };
        now_ns >= next_ns && swapped().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_hint_a_minute() {
        let hints = Hints::default();
        assert!(hints.is_due(5));
        assert!(!hints.is_due(5) && !hints.is_due(4 + PACE_NS));
        assert!(hints.is_due(5 + PACE_NS) && !hints.is_due(5 + PACE_NS));
    }
}
