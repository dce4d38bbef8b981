//! Everything that ends by itself, in one ordered set.

use std::collections::BTreeSet;
use std::net::IpAddr;

use relay_common::addr::Family;
use relay_common::wire::channel_data::ChannelNumber;

use crate::AllocationId;

pub(crate) const NS_PER_SEC: u64 = 1_000_000_000;
/// RFC 8656 §9: 300 seconds, whatever the client asks.
pub(crate) const PERMISSION_NS: u64 = 300 * NS_PER_SEC;
/// RFC 8656 §12: 10 minutes, whatever the client asks.
pub(crate) const CHANNEL_NS: u64 = 600 * NS_PER_SEC;
/// RFC 8656 §12: for 5 minutes after its end, neither number nor peer may be bound differently.
pub(crate) const CHANNEL_BAN_NS: u64 = 300 * NS_PER_SEC;
/// RFC 8656 §7.2: at least 30 seconds.
pub(crate) const RESERVATION_NS: u64 = 30 * NS_PER_SEC;

/// What ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// A channel binding, or the ban behind it.
    Channel(AllocationId, ChannelNumber),
    /// A permission.
    Permission(AllocationId, IpAddr),
    /// A relayed transport address of an allocation, with all that is left of it.
    Relayed(AllocationId, Family),
    /// A port held by EVEN-PORT.
    Reservation([u8; 8]),
}

/// When what ends.
#[derive(Default)]
pub(crate) struct Timers(BTreeSet<(u64, Timer)>);

impl Timers {
    /// Moves an end, or sets the first.
    pub(crate) fn set(&mut self, before_ns: Option<u64>, at_ns: u64, timer: Timer) {
        if let Some(before_ns) = before_ns {
            self.0.remove(&(before_ns, timer));
        }
        self.0.insert((at_ns, timer));
    }

    pub(crate) fn cancel(&mut self, at_ns: u64, timer: Timer) {
        self.0.remove(&(at_ns, timer));
    }

    /// The next one.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.0.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes the next one that is due.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<Timer> {
        if self.deadline()? > now_ns {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
