//! The kernel's straight routes, as maps: reads and writes their places one at a time. In which
//! order is `relay_common::straight`'s.

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};
use relay_common::abi::{StraightV4, StraightV6, map};
use relay_common::route::Entry;
use relay_common::straight::{self, Places};

use super::error::DatapathError;
use super::maps::take;
use super::pod::Plain;

/// The places, and what decides whose is which.
pub(super) struct Straight {
    maps: Maps,
    place_key: u64,
}

struct Maps {
    v4: Array<MapData, Plain<StraightV4>>,
    v6: Array<MapData, Plain<StraightV6>>,
}

impl Straight {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, place_key: u64) -> Result<Self, DatapathError> {
        let (v4, v6) = (take(ebpf, map::STRAIGHT_V4)?, take(ebpf, map::STRAIGHT_V6)?);
        Ok(Self { maps: Maps { v4, v6 }, place_key })
    }

    /// Puts a route that `ROUTES_*` has into its place, if it is straight and the place is free.
    pub(super) fn put(&mut self, entry: &Entry) -> Result<(), MapError> {
        tolerant(straight::put(&mut self.maps, self.place_key, entry))
    }

    /// Takes a route out of its place, before `ROUTES_*` loses it.
    pub(super) fn remove(&mut self, entry: &Entry) -> Result<(), MapError> {
        tolerant(straight::remove(&mut self.maps, self.place_key, entry))
    }
}

/// A loader may have made a map smaller: what would stand beyond its end stands nowhere.
fn tolerant(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::OutOfBounds { .. }) => Ok(()),
        other => other,
    }
}

impl Places for Maps {
    type Error = MapError;

    fn v4(&self, place: u32) -> Result<StraightV4, MapError> {
        self.v4.get(&place, 0).map(|Plain(value)| value)
    }

    fn set_v4(&mut self, place: u32, value: &StraightV4) -> Result<(), MapError> {
        self.v4.set(place, Plain(*value), 0)
    }

    fn v6(&self, place: u32) -> Result<StraightV6, MapError> {
        self.v6.get(&place, 0).map(|Plain(value)| value)
    }

    fn set_v6(&mut self, place: u32, value: &StraightV6) -> Result<(), MapError> {
        self.v6.set(place, Plain(*value), 0)
    }
}
