//! The only place that reads a clock.
#![allow(clippy::disallowed_methods, reason = "this is the place")]

use std::time::{SystemTime, UNIX_EPOCH};

use relay_turn::Now;

/// The time: CLOCK_MONOTONIC, which deadlines in the kernel are compared with, and UTC seconds,
/// which time-limited credentials are in.
pub(crate) fn now() -> Now {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let secs = u64::try_from(monotonic.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(monotonic.tv_nsec).unwrap_or(0);
    Now { monotonic_ns: secs * 1_000_000_000 + nanos, unix_secs: unix_secs() }
}

/// Seconds since 1970, UTC; 0 while the clock stands before that.
pub(crate) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
