//! The kernel's maps, one typed access each. Decides nothing.

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use relay_common::abi::{
    Count, Direction, NextHop, Permission, PermissionKeyV4, PermissionKeyV6, Policer, Reason,
    Route, RouteKeyV4, RouteKeyV6, map,
};
use relay_common::route::{Entry, PermissionEntry};
use tracing::warn;

use super::error::{Chain, DatapathError};
use super::pod::Plain;

/// What userspace writes and reads while it serves.
pub(super) struct Maps {
    routes_v4: HashMap<MapData, Plain<RouteKeyV4>, Plain<Route>>,
    routes_v6: HashMap<MapData, Plain<RouteKeyV6>, Plain<Route>>,
    permissions_v4: HashMap<MapData, Plain<PermissionKeyV4>, Plain<Permission>>,
    permissions_v6: HashMap<MapData, Plain<PermissionKeyV6>, Plain<Permission>>,
    next_hops: Array<MapData, Plain<NextHop>>,
    policers: Array<MapData, Plain<Policer>>,
    slots: PerCpuArray<MapData, Plain<Count>>,
    reasons: PerCpuArray<MapData, Plain<Count>>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            routes_v4: take(ebpf, map::ROUTES_V4)?,
            routes_v6: take(ebpf, map::ROUTES_V6)?,
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
        entries.iter().try_for_each(|entry| match *entry {
            Entry::V4(key, route) => self.routes_v4.insert(Plain(key), Plain(route), 0),
            Entry::V6(key, route) => self.routes_v6.insert(Plain(key), Plain(route), 0),
        })
    }

    /// Removes routes. One that is not there is as good as one that was removed; the second is
    /// removed whatever became of the first.
    pub(super) fn remove(&mut self, entries: &[Entry]) {
        for entry in entries {
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

    /// A slot's counts in order of [`Direction`], all CPUs together, which then are zero.
    pub(super) fn take_counts(&mut self, slot: u32) -> [Count; Direction::ALL.len()] {
        Direction::ALL.map(|direction| self.take_count(slot * 2 + direction as u32))
    }

    fn take_count(&mut self, index: u32) -> Count {
        let Ok(values) = self.slots.get(&index, 0) else { return Count::default() };
        let total = sum(&values);
        if total != Count::default()
            && let Ok(zeros) = PerCpuValues::try_from(vec![Plain(Count::default()); values.len()])
            && let Err(error) = self.slots.set(index, zeros, 0)
        {
            let error = Chain(&error);
            warn!(%error, "an allocation's counters could not be cleared");
        }
        total
    }

    /// Every reason's counts, all CPUs together; `None`: the map cannot be read.
    pub(super) fn reasons(&self) -> Option<[Count; Reason::ALL.len()]> {
        let mut counts = [Count::default(); Reason::ALL.len()];
        for (count, reason) in counts.iter_mut().zip(Reason::ALL) {
            *count = sum(&self.reasons.get(&(reason as u32), 0).ok()?);
        }
        Some(counts)
    }
}

fn sum(values: &PerCpuValues<Plain<Count>>) -> Count {
    values.iter().fold(Count::default(), |sum, Plain(count)| Count {
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
