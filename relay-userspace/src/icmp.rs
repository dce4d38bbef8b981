//! Reads the ICMP errors that relayed sockets are told, within a budget: they can be forged by
//! anybody who knows a relayed transport address, and must not take the time of relaying. Owns the
//! budget; who is told of an error is for the state machine.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use tracing::debug;

use crate::ring::{Queued, Token};
use crate::sockets::{self, IcmpErrors};

/// Errors of one socket in a window. A client is told of fewer.
const PER_SOCKET: u32 = 64;
/// Errors of all sockets in a window.
const PER_SHARD: u32 = 1024;
/// How long a window is.
const WINDOW_NS: u64 = 1_000_000_000;

/// What to do about a socket that has an error to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Read one error.
    Read,
    /// Let the kernel ignore errors about it, until [`Budget::over`] names it.
    Mute,
    /// Nothing: it is muted.
    Muted,
}

/// What may still be read in the present window.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    ends_ns: u64,
    left: u32,
    /// Errors read of each socket; `None` once it is muted.
    sockets: HashMap<Token, Option<u32>>,
    is_muting: bool,
    muted: u64,
}

impl Budget {
    /// The next error of a socket. One that has too many is not heard until [`Budget::over`] names
    /// it: the kernel ignores errors about it, which also keeps its sends from failing.
    pub(crate) fn next_error(&mut self, now_ns: u64, token: Token, socket: &OwnedFd) -> Queued {
        match self.admit(now_ns, token) {
            Verdict::Read => sockets::next_error(socket),
            Verdict::Mute => {
                hear(socket, IcmpErrors::Ignored);
                Queued::Nothing
            }
            Verdict::Muted => Queued::Nothing,
        }
    }

    /// Asks for one error of a socket.
    fn admit(&mut self, now_ns: u64, token: Token) -> Verdict {
        if now_ns >= self.ends_ns && !self.is_muting {
            self.sockets.clear();
            (self.ends_ns, self.left) = (now_ns + WINDOW_NS, PER_SHARD);
        }
        let socket = self.sockets.entry(token).or_insert(Some(0));
        match socket {
            None => Verdict::Muted,
            Some(count) if *count < PER_SOCKET && self.left > 0 => {
                *count += 1;
                self.left -= 1;
                Verdict::Read
            }
            Some(_) => {
                *socket = None;
                self.is_muting = true;
                self.muted += 1;
                Verdict::Mute
            }
        }
    }

    /// The sockets that are muted, once the window is over: they are not any more.
    pub(crate) fn over(&mut self, now_ns: u64) -> Vec<Token> {
        if self.deadline_ns().is_none_or(|deadline| now_ns < deadline) {
            return Vec::new();
        }
        self.is_muting = false;
        let muted = self.sockets.drain().filter(|(_, count)| count.is_none());
        muted.map(|(token, _)| token).collect()
    }

    /// When [`Budget::over`] has something to say: CLOCK_MONOTONIC, nanoseconds.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.is_muting.then_some(self.ends_ns)
    }

    /// How often a socket was muted.
    pub(crate) const fn muted(&self) -> u64 {
        self.muted
    }
}

/// Sets whether a relayed socket's errors are kept.
pub(crate) fn hear(socket: &OwnedFd, errors: IcmpErrors) {
    if let Err(error) = sockets::set_icmp_errors(socket, errors) {
        debug!(%error, "ICMP errors could not be switched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(budget: &mut Budget, now_ns: u64, token: Token) -> u32 {
        let reads = (0..2 * PER_SHARD)
            .map_while(|_| (budget.admit(now_ns, token) == Verdict::Read).then_some(()));
        u32::try_from(reads.count()).unwrap()
    }

    #[test]
    fn a_socket_is_muted_for_the_rest_of_the_window() {
        let mut budget = Budget::default();
        assert_eq!(read(&mut budget, 5, 1), PER_SOCKET);
        assert_eq!((budget.muted(), budget.deadline_ns()), (1, Some(5 + WINDOW_NS)));
        assert_eq!(budget.admit(6, 1), Verdict::Muted);
        assert_eq!(budget.admit(6, 2), Verdict::Read, "others are heard");
        assert!(budget.over(4 + WINDOW_NS).is_empty());
        assert_eq!(budget.admit(6 + WINDOW_NS, 1), Verdict::Muted, "until it is told");
        assert_eq!(budget.over(6 + WINDOW_NS), [1]);
        assert_eq!((budget.muted(), budget.deadline_ns()), (1, None));
        assert_eq!(read(&mut budget, 6 + WINDOW_NS, 1), PER_SOCKET);
    }

    #[test]
    fn all_sockets_together_have_a_budget_too() {
        let mut budget = Budget::default();
        let sockets = u64::from(PER_SHARD / PER_SOCKET) + 3;
        let all: u32 = (0..sockets).map(|token| read(&mut budget, 5, token)).sum();
        assert_eq!(all, PER_SHARD);
        assert_eq!(budget.over(5 + WINDOW_NS).len(), usize::try_from(sockets).unwrap());
    }

    #[test]
    fn a_quiet_socket_is_never_muted() {
        let mut budget = Budget::default();
        for second in 0..100 {
            for _ in 0..PER_SOCKET {
                assert_eq!(budget.admit(second * WINDOW_NS, 1), Verdict::Read);
            }
        }
        assert_eq!((budget.muted(), budget.deadline_ns()), (0, None));
    }
}
