//! Quotas: how much one user, the clients of one prefix of addresses and all together may have.
//! Owns their names and whom an allocation is charged to; the counting is `ledger.rs`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use relay_common::addr::ServerAddr;

use crate::snapshot::Code;
use crate::{Limits, Turn};

/// A quota that a request would exceed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Quota {
    /// Allocations of a user.
    UserAllocations,
    /// Allocations of a prefix of client addresses.
    SourceAllocations,
    /// Allocations of the server.
    TotalAllocations,
    /// What a user's allocations may reserve.
    UserBandwidth,
    /// What all allocations may reserve.
    TotalBandwidth,
    /// How fast an allocation may be permitted new peers.
    NewPeers,
}

impl Quota {
    /// Every quota, in the order used for metrics.
    pub const ALL: [Self; 6] = [
        Self::UserAllocations,
        Self::SourceAllocations,
        Self::TotalAllocations,
        Self::UserBandwidth,
        Self::TotalBandwidth,
        Self::NewPeers,
    ];

    /// Its name in metrics, logs and reason phrases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserAllocations => "user_allocations",
            Self::SourceAllocations => "source_allocations",
            Self::TotalAllocations => "total_allocations",
            Self::UserBandwidth => "user_bandwidth",
            Self::TotalBandwidth => "total_bandwidth",
            Self::NewPeers => "new_peers",
        }
    }

    /// What the client is told (RFC 8656 §7.2, §10.2): 486 where it is the client's own share that
    /// is used up, 508 where the server has no more to give.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::UserAllocations | Self::SourceAllocations | Self::UserBandwidth => {
                Code::AllocationQuotaReached
            }
            Self::TotalAllocations | Self::TotalBandwidth | Self::NewPeers => {
                Code::InsufficientCapacity
            }
        }
    }
}

/// As clients are told.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quota {}", self.name())
    }
}

impl Turn {
    /// Whom the allocations of a user name are charged to: its realm and, of a time-limited one,
    /// who is behind the expiry. Names of nothing but an expiry are charged each by itself, and so
    /// are static users.
    pub(crate) fn charged(&self, server: ServerAddr, username: &[u8]) -> Vec<u8> {
        let realm = self.realms.at(server);
        let user = match behind_expiry(username) {
            Some(user) if !self.realms.users(realm).is_static(username) => user,
            Some(_) | None => username,
        };
        [&realm.bytes(), user].concat()
    }
}

fn behind_expiry(username: &[u8]) -> Option<&[u8]> {
    let colon = username.iter().position(|byte| *byte == b':')?;
    let (expiry, user) = (&username[..colon], &username[colon + 1..]);
    let is_expiry = !expiry.is_empty() && expiry.iter().all(u8::is_ascii_digit);
    (is_expiry && !user.is_empty()).then_some(user)
}

impl Limits {
    /// The prefix that a client's address is counted by.
    pub(crate) fn source(&self, client: IpAddr) -> IpNet {
        let prefix = match client {
            IpAddr::V4(_) => self.source_prefix_v4.min(32),
            IpAddr::V6(_) => self.source_prefix_v6.min(128),
        };
        IpNet::new(client, prefix).expect("no longer than the address").trunc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limited_user_is_who_comes_behind_the_expiry() {
        for (name, user) in [
            ("1700000000:alice", Some("alice")),
            ("1:alice:phone", Some("alice:phone")),
            ("1:2:x", Some("2:x")),
            ("1700000000:", None),
            ("1700000000", None),
            (":alice", None),
            ("alice", None),
            ("alice:1", None),
            ("", None),
        ] {
            assert_eq!(behind_expiry(name.as_bytes()), user.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn every_list_is_complete_in_order_and_its_names_differ() {
        for (index, quota) in Quota::ALL.iter().enumerate() {
            assert_eq!(*quota as usize, index);
            assert!(Quota::ALL[..index].iter().all(|other| other.name() != quota.name()));
        }
    }

    #[test]
    fn clients_are_counted_by_their_prefix() {
        let limits = Limits { source_prefix_v4: 24, ..Limits::default() };
        let source = |ip: &str| limits.source(ip.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(source("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
    }
}
