//! What the log says of requests that a rule or a quota refused: one line for each kind in ten
//! seconds. Clients cause them, and as many as they like. Never an address or a user.

use std::collections::BTreeMap;

use relay_turn::{Now, Quota, Refusal};
use tracing::{info, warn};

/// How long a kind is silent after a line.
const SILENCE_NS: u64 = 10_000_000_000;

/// When what may be said again, by the name of its kind. There are a few kinds.
#[derive(Default)]
pub(crate) struct Refusals(BTreeMap<&'static str, Kind>);

#[derive(Default)]
struct Kind {
    again_at_ns: u64,
    /// Refused since the last line.
    unsaid: u64,
}

impl Refusals {
    /// Says it, or counts it for the next line of its kind.
    pub(crate) fn tell(&mut self, now: Now, refusal: &Refusal) {
        let name = match refusal {
            Refusal::Denied(denial) => denial.by.name(),
            Refusal::Quota(quota) => quota.name(),
        };
        let Some(more) = self.may_say(now, name) else { return };
        match refusal {
            Refusal::Denied(denial) => {
                let network = denial.network.map(tracing::field::display);
                info!(rule = name, network, line = denial.line, more, "a peer is denied");
            }
            Refusal::Quota(quota) => {
                warn!(quota = name, key = key(*quota), more, "a quota is used up");
            }
        }
    }

    /// How many were not said since the last line of the kind, if there may be one now.
    fn may_say(&mut self, now: Now, name: &'static str) -> Option<u64> {
        let kind = self.0.entry(name).or_default();
        if now.monotonic_ns < kind.again_at_ns {
            kind.unsaid += 1;
            return None;
        }
        kind.again_at_ns = now.monotonic_ns + SILENCE_NS;
        Some(std::mem::take(&mut kind.unsaid))
    }
}

/// The key of `[limits]` that sets it.
const fn key(quota: Quota) -> &'static str {
    match quota {
        Quota::UserAllocations => "user_allocations_max",
        Quota::SourceAllocations => "source_allocations_max",
        Quota::TotalAllocations => "allocations_max",
        Quota::UserBandwidth => "user_bytes_per_sec",
        Quota::TotalBandwidth => "total_bytes_per_sec",
        Quota::NewPeers => "new_peers_per_sec",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_in_ten_seconds_with_how_many_more_there_were() {
        let mut refusals = Refusals::default();
        let at = |secs: u64| Now { monotonic_ns: secs * 1_000_000_000, unix_secs: 0 };
        assert_eq!(refusals.may_say(at(100), "private"), Some(0));
        assert_eq!(refusals.may_say(at(101), "private"), None);
        assert_eq!(refusals.may_say(at(109), "private"), None);
        assert_eq!(refusals.may_say(at(109), "loopback"), Some(0), "another kind");
        assert_eq!(refusals.may_say(at(110), "private"), Some(2));
        assert_eq!(refusals.may_say(at(120), "private"), Some(0));
    }
}
