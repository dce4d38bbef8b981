//! The kernel's maps, one typed access each. Decides nothing.

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use relay_common::abi::{
    Count, Direction, GROUP_SLOTS, NextHop, Permission, PermissionKeyV4, PermissionKeyV6, Policer,
    Reason, Route, RouteKeyV4, RouteKeyV6, SlotGroup, map,
};
use relay_common::route::{Entry, PermissionEntry};
use tracing::warn;

use super::error::{Chain, DatapathError};
use super::pod::Plain;
use super::straight::Straight;

/// What userspace writes and reads while it serves.
pub(super) struct Maps {
    routes_v4: HashMap<MapData, Plain<RouteKeyV4>, Plain<Route>>,
    routes_v6: HashMap<MapData, Plain<RouteKeyV6>, Plain<Route>>,
    straight: Straight,
    permissions_v4: HashMap<MapData, Plain<PermissionKeyV4>, Plain<Permission>>,
    permissions_v6: HashMap<MapData, Plain<PermissionKeyV6>, Plain<Permission>>,
    next_hops: Array<MapData, Plain<NextHop>>,
    policers: Array<MapData, Plain<Policer>>,
    slots: PerCpuArray<MapData, Plain<SlotGroup>>,
    reasons: PerCpuArray<MapData, Plain<Count>>,
}

impl Maps {
    /// Takes the maps out of a loaded object. `place_key` is [`relay_common::abi::Config`]'s.
    pub(super) fn take(ebpf: &mut Ebpf, place_key: u64) -> Result<Self, DatapathError> {
        Ok(Self {
            routes_v4: take(ebpf, map::ROUTES_V4)?,
            routes_v6: take(ebpf, map::ROUTES_V6)?,
            straight: Straight::take(ebpf, place_key)?,
            permissions_v4: take(ebpf, map::PERMISSIONS_V4)?,
            permissions_v6: take(ebpf, map::PERMISSIONS_V6)?,
            next_hops: take(ebpf, map::NEXT_HOPS)?,
            policers: take(ebpf, map::POLICERS)?,
            slots: take(ebpf, map::SLOTS)?,
            reasons: take(ebpf, map::REASONS)?,
        })
    }

    /// Adds routes, or replaces those of the same keys. After an error some may be there.
    pub(super) fn insert(&mut self, entries: &[Entry]) -> Result<(), MapError> {
        entries.iter().try_for_each(|entry| {
            match *entry {
                Entry::V4(key, route) => self.routes_v4.insert(Plain(key), Plain(route), 0),
                Entry::V6(key, route) => self.routes_v6.insert(Plain(key), Plain(route), 0),
            }?;
            self.straight.put(entry)
        })
    }

    /// Removes routes. One that is not there is as good as one that was removed; the second is
    /// removed whatever became of the first.
    pub(super) fn remove(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Err(error) = self.straight.remove(entry) {
                let error = Chain(&error);
                warn!(%error, "a route stays in its place until its deadline");
            }
            let _ = match *entry {
                Entry::V4(key, _) => self.routes_v4.remove(&Plain(key)),
                Entry::V6(key, _) => self.routes_v6.remove(&Plain(key)),
            };
        }
    }

    /// Adds a permission, or replaces that of the same key.
    pub(super) fn permit(&mut self, entry: &PermissionEntry) -> Result<(), MapError> {
        match *entry {
            PermissionEntry::V4(key, value) => {
                self.permissions_v4.insert(Plain(key), Plain(value), 0)
            }
            PermissionEntry::V6(key, value) => {
                self.permissions_v6.insert(Plain(key), Plain(value), 0)
            }
        }
    }

    /// Removes a permission; one that is not there is as good.
    pub(super) fn forbid(&mut self, entry: &PermissionEntry) {
        let _ = match *entry {
            PermissionEntry::V4(key, _) => self.permissions_v4.remove(&Plain(key)),
            PermissionEntry::V6(key, _) => self.permissions_v6.remove(&Plain(key)),
        };
    }

    pub(super) fn set_next_hop(&mut self, index: u16, value: NextHop) {
        if let Err(error) = self.next_hops.set(index.into(), Plain(value), 0) {
            let error = Chain(&error);
            warn!(%error, "a next hop could not be written");
        }
    }

    /// Sets the limits of both directions of a slot, with nothing used of them.
    pub(super) fn set_policers(&mut self, slot: u32, value: Policer) -> Result<(), MapError> {
        Direction::ALL.into_iter().try_for_each(|direction| {
            self.policers.set(slot * 2 + direction as u32, Plain(value), 0)
        })
    }

    /// A slot's counts in order of [`Direction`], all CPUs together, since the program was loaded;
    /// `None`: the map cannot be read.
    pub(super) fn counts(&self, slot: u32) -> Option<[Count; Direction::ALL.len()]> {
        let values = self.slots.get(&(slot / GROUP_SLOTS), 0).ok()?;
        let place = (slot % GROUP_SLOTS) as usize;
        let of = |direction| {
            values.iter().map(move |Plain(group)| group.counts[direction as usize][place])
        };
        Some(Direction::ALL.map(|direction| sum(of(direction))))
    }

    /// Every reason's counts, all CPUs together; `None`: the map cannot be read.
    pub(super) fn reasons(&self) -> Option<[Count; Reason::ALL.len()]> {
        let mut counts = [Count::default(); Reason::ALL.len()];
        for (count, reason) in counts.iter_mut().zip(Reason::ALL) {
            let values = self.reasons.get(&(reason as u32), 0).ok()?;
            *count = sum(values.iter().map(|Plain(count)| *count));
        }
        Some(counts)
    }
}

fn sum(counts: impl Iterator<Item = Count>) -> Count {
    counts.fold(Count::default(), |sum, count| Count {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    })
}

/// Takes a map out of a loaded object.
pub(super) fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::ForeignObject(name))?;
    M::try_from(map).map_err(DatapathError::Map)
}
