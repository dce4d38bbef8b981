//! The places of straight routes in the host's memory.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;

use relay_common::abi::{STRAIGHT_V4_MAX, STRAIGHT_V6_MAX, StraightV4, StraightV6};
use relay_common::straight::Places;

/// As arrays of the kernel: every place is there, and empty at first.
#[derive(Default)]
pub struct HostPlaces {
    pub v4: HashMap<u32, StraightV4>,
    pub v6: HashMap<u32, StraightV6>,
    /// Every place is another's: all routes are found where all are.
    pub are_others: Cell<bool>,
    empty_v4: StraightV4,
    empty_v6: StraightV6,
}

impl HostPlaces {
    pub fn stands_v4(&self, place: u32) -> &StraightV4 {
        assert!(place < STRAIGHT_V4_MAX, "no such place");
        let stands = self.v4.get(&place).filter(|_| !self.are_others.get());
        stands.unwrap_or(&self.empty_v4)
    }

    pub fn stands_v6(&self, place: u32) -> &StraightV6 {
        assert!(place < STRAIGHT_V6_MAX, "no such place");
        let stands = self.v6.get(&place).filter(|_| !self.are_others.get());
        stands.unwrap_or(&self.empty_v6)
    }
}

impl Places for HostPlaces {
    type Error = Infallible;

    fn v4(&self, place: u32) -> Result<StraightV4, Infallible> {
        Ok(*self.stands_v4(place))
    }

    fn set_v4(&mut self, place: u32, value: &StraightV4) -> Result<(), Infallible> {
        self.v4.insert(place, *value);
        Ok(())
    }

    fn v6(&self, place: u32) -> Result<StraightV6, Infallible> {
        Ok(*self.stands_v6(place))
    }

    fn set_v6(&mut self, place: u32, value: &StraightV6) -> Result<(), Infallible> {
        self.v6.insert(place, *value);
        Ok(())
    }
}
