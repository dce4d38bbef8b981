//! What all state machines of a server count together: allocations by user, by prefix of client
//! addresses and in total, and the budgets of the unauthenticated. Owns the sums and their
//! bounds. Touched by Allocate and by an allocation's end; never for a packet that is relayed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::Limits;
use crate::quota::Quota;
use crate::throttle::Throttle;

/// The sums. A clone is the same ledger: each state machine of a server is handed one.
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    throttle: Throttle,
    look_ups: Throttle,
    book: Mutex<Book>,
}

/// As many entries as there are allocations at most: one goes when its number comes to zero.
#[derive(Default)]
struct Book {
    total: u32,
    users: BTreeMap<Arc<[u8]>, u32>,
    sources: BTreeMap<IpNet, u32>,
}

/// An allocation's place in the ledger, given up when it is dropped.
pub(crate) struct Seat {
    ledger: Ledger,
    user: Arc<[u8]>,
    source: IpNet,
}

impl Ledger {
    /// An empty one. `seed` is from the operating system: it hides which sources share a budget.
    #[must_use]
    pub fn new(seed: [u8; 16]) -> Self {
        Self(Arc::new(Shared {
            throttle: Throttle::new(seed),
            look_ups: Throttle::new(seed),
            book: Mutex::default(),
        }))
    }

    pub(crate) fn throttle(&self) -> &Throttle {
        &self.0.throttle
    }

    /// How often a source may make us look a user up.
    pub(crate) fn look_ups(&self) -> &Throttle {
        &self.0.look_ups
    }

    /// Counts one more allocation of a user from an address, if the limits let it in.
    pub(crate) fn enter(
        &self,
        limits: &Limits,
        user: &[u8],
        client: IpAddr,
    ) -> Result<Seat, Quota> {
        let source = limits.source(client);
        let mut book = self.book();
        let (user, of_user) = match book.users.get_key_value(user) {
            Some((user, count)) => (user.clone(), *count),
            None => (user.into(), 0),
        };
        let of_source = book.sources.get(&source).copied().unwrap_or(0);
        let total = book.total;
        let caps = [
            (Quota::UserAllocations, of_user, none_if_0(limits.user_allocations_max.into())),
            (Quota::UserBandwidth, of_user, limits.shares(limits.user_bytes_per_sec)),
            (Quota::SourceAllocations, of_source, none_if_0(limits.source_allocations_max.into())),
            (Quota::TotalAllocations, total, Some(limits.allocations_max.into())),
            (Quota::TotalBandwidth, total, limits.shares(limits.total_bytes_per_sec)),
        ];
        let is_reached = |(_, count, max): &&(Quota, u32, Option<u64>)| {
            max.is_some_and(|max| u64::from(*count) >= max)
        };
        if let Some((quota, ..)) = caps.iter().find(is_reached) {
            return Err(*quota);
        }
        book.total += 1;
        *book.users.entry(user.clone()).or_default() += 1;
        *book.sources.entry(source).or_default() += 1;
        drop(book);
        Ok(Seat { ledger: self.clone(), user, source })
    }

    /// Allocations of all state machines.
    pub(crate) fn allocations(&self) -> u32 {
        self.book().total
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing that can panic comes between two of its sums.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.book();
        let (users, sources) = (book.users.len(), book.sources.len());
        write!(f, "Ledger({} allocations, {users} users, {sources} sources)", book.total)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.total -= 1;
        leave(&mut book.users, &self.user);
        leave(&mut book.sources, &self.source);
    }
}

fn leave<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn none_if_0(max: u64) -> Option<u64> {
    (max != 0).then_some(max)
}

impl Limits {
    /// How many allocations fit into a bandwidth: each reserves what it may use.
    fn shares(&self, bytes_per_sec: u64) -> Option<u64> {
        let each = none_if_0(self.allocation_bytes_per_sec.into())?;
        none_if_0(bytes_per_sec).map(|all| all / each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Limits {
        Limits { user_allocations_max: 0, source_allocations_max: 0, ..Limits::default() }
    }

    fn enter(ledger: &Ledger, limits: &Limits, user: &str, client: &str) -> Result<Seat, Quota> {
        ledger.enter(limits, user.as_bytes(), client.parse().unwrap())
    }

    #[test]
    fn entries_vanish_at_zero() {
        let ledger = Ledger::new([3; 16]);
        let seats: Vec<_> = ["alice", "alice", "bob"]
            .into_iter()
            .map(|user| enter(&ledger, &none(), user, "192.0.2.1").ok().unwrap())
            .collect();
        assert_eq!(format!("{ledger:?}"), "Ledger(3 allocations, 2 users, 1 sources)");
        assert!(Arc::ptr_eq(&seats[0].user, &seats[1].user), "a name is there once");
        drop(seats);
        assert_eq!(format!("{ledger:?}"), "Ledger(0 allocations, 0 users, 0 sources)");
    }

    #[test]
    fn each_quota_holds_at_its_limit_and_gives_back() {
        let check = |limits: Limits, quota: Quota, user: &str, client: &str| {
            let ledger = Ledger::new([3; 16]);
            let first = enter(&ledger, &limits, "alice", "192.0.2.1").ok().unwrap();
            let second = enter(&ledger.clone(), &limits, user, client).ok().unwrap();
            assert_eq!(enter(&ledger, &limits, user, client).err(), Some(quota));
            drop(first);
            assert!(enter(&ledger, &limits, user, client).is_ok(), "{quota:?}");
            drop(second);
            assert!(format!("{ledger:?}").starts_with("Ledger(0 "), "{ledger:?}");
        };
        let user = Limits { user_allocations_max: 2, ..none() };
        check(user, Quota::UserAllocations, "alice", "192.0.2.2");
        let source = Limits { source_allocations_max: 2, ..none() };
        check(source, Quota::SourceAllocations, "bob", "192.0.2.1");
        let total = Limits { allocations_max: 2, ..none() };
        check(total, Quota::TotalAllocations, "bob", "192.0.2.2");
        let rate = Limits { allocation_bytes_per_sec: 100, ..none() };
        let user = Limits { user_bytes_per_sec: 299, ..rate };
        check(user, Quota::UserBandwidth, "alice", "192.0.2.2");
        let total = Limits { total_bytes_per_sec: 200, ..rate };
        check(total, Quota::TotalBandwidth, "bob", "192.0.2.2");
    }

    #[test]
    fn ipv6_clients_share_by_their_prefix_and_others_do_not() {
        let ledger = Ledger::new([3; 16]);
        let one = Limits { source_allocations_max: 1, ..none() };
        let _seat = enter(&ledger, &one, "alice", "2001:db8::1").ok().unwrap();
        assert!(enter(&ledger, &one, "bob", "2001:db8::2").is_err());
        assert!(enter(&ledger, &one, "bob", "2001:db8:0:1::2").is_ok());
        assert!(enter(&ledger, &one, "bob", "192.0.2.1").is_ok());
    }
}
