//! Which next hop has which index, who still uses it, and who must resolve it. Knows no netlink.

use std::collections::HashMap;
use std::net::IpAddr;

use relay_common::abi::{NEXT_HOP_VALID, NEXT_HOPS_MAX};
use tokio::sync::mpsc::UnboundedSender;

/// From one of our addresses to somebody else's.
pub(crate) type Ends = (IpAddr, IpAddr);

/// Something that the resolver must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Find out how packets between these ends leave, and keep it true.
    Wanted {
        /// Place in the kernel's map.
        index: u16,
        /// Tells this use of the place from earlier ones.
        serial: u64,
        /// From and to.
        ends: Ends,
    },
    /// Nobody needs it any more.
    Dropped {
        /// Place in the kernel's map.
        index: u16,
        /// The use that ended.
        serial: u64,
    },
}

/// The next hops in use.
pub(super) struct NextHops {
    used: HashMap<Ends, Use>,
    places: HashMap<u16, Place>,
    free: Vec<u16>,
    never_used: u32,
    serial: u64,
    resolved: u64,
    changes: UnboundedSender<Change>,
}

struct Use {
    index: u16,
    holders: u32,
}

struct Place {
    ends: Ends,
    serial: u64,
    resolved: bool,
}

impl NextHops {
    pub(super) fn new(changes: UnboundedSender<Change>) -> Self {
        Self {
            used: HashMap::new(),
            places: HashMap::new(),
            free: Vec::new(),
            never_used: 0,
            serial: 0,
            resolved: 0,
            changes,
        }
    }

    /// The index for these ends, and whether it is new; `None` when all are taken. A new one is
    /// to be cleared in the kernel, then announced.
    pub(super) fn acquire(&mut self, ends: Ends) -> Option<(u16, bool)> {
        if let Some(used) = self.used.get_mut(&ends) {
            used.holders += 1;
            return Some((used.index, false));
        }
        let index = self.free.pop().or_else(|| {
            let fresh = u16::try_from(self.never_used).ok()?;
            (self.never_used < NEXT_HOPS_MAX).then(|| self.never_used += 1).map(|()| fresh)
        })?;
        self.serial += 1;
        self.used.insert(ends, Use { index, holders: 1 });
        self.places.insert(index, Place { ends, serial: self.serial, resolved: false });
        Some((index, true))
    }

    /// Asks the resolver for a place.
    pub(super) fn announce(&self, index: u16) {
        if let Some(Place { ends, serial, .. }) = self.places.get(&index) {
            self.tell(Change::Wanted { index, serial: *serial, ends: *ends });
        }
    }

    /// One holder less; whether it was the last, and the place is free.
    pub(super) fn release(&mut self, ends: Ends) -> bool {
        let Some(used) = self.used.get_mut(&ends) else { return false };
        used.holders -= 1;
        if used.holders > 0 {
            return false;
        }
        let index = used.index;
        self.used.remove(&ends);
        self.free.push(index);
        if let Some(place) = self.places.remove(&index) {
            self.resolved -= u64::from(place.resolved);
            self.tell(Change::Dropped { index, serial: place.serial });
        }
        true
    }

    /// Whether a resolution still concerns the use of the place that asked for it; notes it.
    pub(super) fn is_current(&mut self, index: u16, serial: u64, state: u16) -> bool {
        let Some(place) = self.places.get_mut(&index).filter(|p| p.serial == serial) else {
            return false;
        };
        let resolved = state == NEXT_HOP_VALID;
        self.resolved = self.resolved + u64::from(resolved) - u64::from(place.resolved);
        place.resolved = resolved;
        true
    }

    /// How many are resolved, and how many are not.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.resolved, self.places.len() as u64 - self.resolved)
    }

    fn tell(&self, change: Change) {
        // Without a resolver every next hop stays unresolved, and userspace relays.
        let _ = self.changes.send(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn ends(last: u8) -> Ends {
        (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, last]))
    }

    fn next_hops() -> (NextHops, UnboundedReceiver<Change>) {
        let (sender, receiver) = unbounded_channel();
        (NextHops::new(sender), receiver)
    }

    #[test]
    fn the_same_ends_share_an_index_until_the_last_holder_goes() {
        let (mut hops, mut changes) = next_hops();
        assert_eq!(hops.acquire(ends(2)), Some((0, true)));
        hops.announce(0);
        assert_eq!(hops.acquire(ends(2)), Some((0, false)));
        assert_eq!(hops.acquire(ends(3)), Some((1, true)));
        assert!(!hops.release(ends(2)));
        assert!(hops.release(ends(2)));
        assert!(!hops.release(ends(2)), "already gone");
        assert_eq!(hops.acquire(ends(4)), Some((0, true)), "the free place is used again");
        let wanted = Change::Wanted { index: 0, serial: 1, ends: ends(2) };
        assert_eq!(changes.try_recv(), Ok(wanted));
        assert_eq!(changes.try_recv(), Ok(Change::Dropped { index: 0, serial: 1 }));
    }

    #[test]
    fn a_late_resolution_does_not_touch_the_next_user_of_the_place() {
        let (mut hops, _changes) = next_hops();
        hops.acquire(ends(2));
        hops.release(ends(2));
        hops.acquire(ends(3));
        assert!(!hops.is_current(0, 1, NEXT_HOP_VALID));
        assert_eq!(hops.counts(), (0, 1));
        assert!(hops.is_current(0, 2, NEXT_HOP_VALID));
        assert_eq!(hops.counts(), (1, 0));
        assert!(hops.is_current(0, 2, 0));
        assert_eq!(hops.counts(), (0, 1));
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let (mut hops, _changes) = next_hops();
        hops.never_used = NEXT_HOPS_MAX - 1;
        assert_eq!(hops.acquire(ends(2)), Some((u16::MAX, true)));
        assert_eq!(hops.acquire(ends(3)), None);
        assert_eq!(hops.acquire(ends(2)), Some((u16::MAX, false)));
    }
}
