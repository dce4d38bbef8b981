//! Turnpike's straight routes, written as the relay would write them.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Array;
use relay_common::abi::{StraightV4, StraightV6, map};
use relay_common::straight::Places;

const V4: usize = size_of::<StraightV4>();
const V6: usize = size_of::<StraightV6>();

/// The places of a loaded object.
pub(super) struct Straight<'e>(pub(super) &'e mut Ebpf);

impl Straight<'_> {
    fn get<const N: usize>(&self, name: &'static str, place: u32) -> anyhow::Result<[u8; N]> {
        let map = self.0.map(name).with_context(|| format!("the object has no map {name}"))?;
        Ok(Array::<_, [u8; N]>::try_from(map)?.get(&place, 0)?)
    }

    fn set<const N: usize>(
        &mut self,
        name: &'static str,
        place: u32,
        value: [u8; N],
    ) -> anyhow::Result<()> {
        let map = self.0.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
        Ok(Array::<_, [u8; N]>::try_from(map)?.set(place, value, 0)?)
    }
}

impl Places for Straight<'_> {
    type Error = anyhow::Error;

    fn v4(&self, place: u32) -> anyhow::Result<StraightV4> {
        Ok(zerocopy::transmute!(self.get::<V4>(map::STRAIGHT_V4, place)?))
    }

    fn set_v4(&mut self, place: u32, value: &StraightV4) -> anyhow::Result<()> {
        self.set::<V4>(map::STRAIGHT_V4, place, zerocopy::transmute!(*value))
    }

    fn v6(&self, place: u32) -> anyhow::Result<StraightV6> {
        Ok(zerocopy::transmute!(self.get::<V6>(map::STRAIGHT_V6, place)?))
    }

    fn set_v6(&mut self, place: u32, value: &StraightV6) -> anyhow::Result<()> {
        self.set::<V6>(map::STRAIGHT_V6, place, zerocopy::transmute!(*value))
    }
}
