//! The ports that relayed transport addresses are opened on: which are free, and which is next.
//! Owns the choice; opening them is somebody else's.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore;
use relay_common::addr::{Family, RelayedAddr};

use crate::RelayAddress;

/// Random tries before the range is searched from a random port on.
const TRIES: usize = 16;

/// What EVEN-PORT asks for (RFC 8656 §18.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parity {
    /// Nothing.
    Any,
    /// An even port.
    Even,
    /// An even port, with the next one held for another allocation.
    EvenAndNext,
}

/// A port of one of our addresses, taken from the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pool: usize,
    port: u16,
}

impl Place {
    /// A place as a reservation token names it; [`Ports::is_elsewhere`] says if it can be opened.
    pub(crate) const fn new(pool: usize, port: u16) -> Self {
        Self { pool, port }
    }

    /// Which address, in the order of the configuration.
    pub(crate) const fn pool(self) -> usize {
        self.pool
    }

    /// Which port.
    pub(crate) const fn port(self) -> u16 {
        self.port
    }

    /// The port behind it, which [`Parity::EvenAndNext`] took as well.
    pub(crate) const fn next(self) -> Self {
        Self { pool: self.pool, port: self.port + 1 }
    }
}

/// Every address with its free ports.
pub(crate) struct Ports {
    pools: Vec<Pool>,
    range: RangeInclusive<u16>,
    /// The ranges of all state machines of the server.
    range_all: RangeInclusive<u16>,
    /// Where the search for an address starts, so that all of them are used.
    turn: usize,
}

struct Pool {
    address: RelayAddress,
    taken: Vec<bool>,
    free: usize,
}

impl Ports {
    pub(crate) fn new(
        addresses: &[RelayAddress],
        range: RangeInclusive<u16>,
        range_all: RangeInclusive<u16>,
    ) -> Self {
        let size = range.len();
        let pool = |address: &RelayAddress| Pool {
            address: *address,
            taken: vec![false; size],
            free: size,
        };
        Self { pools: addresses.iter().map(pool).collect(), range, range_all, turn: 0 }
    }

    /// Whether any address is of the family.
    pub(crate) fn has(&self, family: Family) -> bool {
        self.pools.iter().any(|pool| pool.family() == family)
    }

    /// The relayed transport address of a place, as it is bound.
    pub(crate) fn relayed(&self, place: Place) -> RelayedAddr {
        RelayedAddr::new(SocketAddr::new(self.pools[place.pool].address.address, place.port))
    }

    /// Takes a random free port of the address that the client came by, or else of the next one
    /// of the family that has one.
    pub(crate) fn take(
        &mut self,
        rng: &mut ChaCha12Rng,
        family: Family,
        parity: Parity,
        server: IpAddr,
    ) -> Option<Place> {
        let count = self.pools.len();
        let same = self.pools.iter().position(|pool| pool.address.address == server);
        let start = same.filter(|index| self.pools[*index].family() == family);
        let start = start.unwrap_or(self.turn);
        self.turn = self.turn.wrapping_add(1);
        for step in 0..count {
            let index = start.wrapping_add(step) % count;
            let first = *self.range.start();
            let pool = &mut self.pools[index];
            if pool.family() != family || pool.free == 0 {
                continue;
            }
            let Some(offset) = pool.choose(rng, first, parity) else { continue };
            pool.set(offset, true);
            if parity == Parity::EvenAndNext {
                pool.set(offset + 1, true);
            }
            let port = first + u16::try_from(offset).expect("offsets lie inside a range of ports");
            return Some(Place { pool: index, port });
        }
        None
    }

    /// Whether a place is of one of our addresses, and in the range of another state machine:
    /// this one does not know if it is free, opening it will tell.
    pub(crate) fn is_elsewhere(&self, place: Place) -> bool {
        place.pool < self.pools.len()
            && self.range_all.contains(&place.port)
            && !self.range.contains(&place.port)
    }

    /// Gives a port back; one of another state machine's range it gave out itself.
    pub(crate) fn release(&mut self, place: Place) {
        if !self.range.contains(&place.port) {
            return;
        }
        let offset = usize::from(place.port - self.range.start());
        self.pools[place.pool].set(offset, false);
    }
}

impl Pool {
    fn family(&self) -> Family {
        Family::of(self.address.address)
    }

    fn set(&mut self, offset: usize, taken: bool) {
        assert_ne!(self.taken[offset], taken, "a port is taken once and given back once");
        self.taken[offset] = taken;
        if taken { self.free -= 1 } else { self.free += 1 }
    }

    fn choose(&self, rng: &mut ChaCha12Rng, first: u16, parity: Parity) -> Option<usize> {
        let size = self.taken.len();
        let fits = |offset: &usize| {
            let even = (usize::from(first) + offset).is_multiple_of(2);
            let free = |offset| self.taken.get(offset) == Some(&false);
            free(*offset)
                && match parity {
                    Parity::Any => true,
                    Parity::Even => even,
                    Parity::EvenAndNext => even && free(offset + 1),
                }
        };
        let tries = (0..TRIES).map(|_| below(rng, size));
        if let Some(offset) = tries.into_iter().find(fits) {
            return Some(offset);
        }
        let start = below(rng, size);
        (start..size).chain(0..start).find(fits)
    }
}

/// A random number below `size`, which is at most 65 536: the bias of the remainder is 2⁻⁴⁸.
fn below(rng: &mut ChaCha12Rng, size: usize) -> usize {
    let size = u64::try_from(size).unwrap_or(1).max(1);
    usize::try_from(rng.next_u64() % size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    /// A server address that no relayed transport address is on.
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    fn ports(addresses: &[&str], range: RangeInclusive<u16>) -> (Ports, ChaCha12Rng) {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|ip| RelayAddress { address: ip.parse().unwrap(), external: None })
            .collect();
        (Ports::new(&addresses, range, 100..=200), ChaCha12Rng::from_seed([7; 32]))
    }

    #[test]
    fn every_port_of_the_range_is_given_out_once() {
        let (mut ports, mut rng) = ports(&["192.0.2.1"], 100..=163);
        let mut places = Vec::new();
        while let Some(place) = ports.take(&mut rng, Family::V4, Parity::Any, ELSEWHERE) {
            places.push(place);
        }
        let distinct: BTreeSet<u16> = places.iter().map(|place| place.port).collect();
        assert_eq!(distinct, (100..=163).collect());
        assert!(!places.is_sorted_by_key(|place| place.port), "in no order");
        ports.release(places[5]);
        assert_eq!(ports.take(&mut rng, Family::V4, Parity::Any, ELSEWHERE), Some(places[5]));
    }

    /// RFC 6056: another seed, another order, and none of them by number.
    #[test]
    fn ports_come_in_no_order() {
        let mut orders = Vec::new();
        for seed in [1, 2] {
            let (mut ports, _) = ports(&["192.0.2.1"], 1000..=1999);
            let mut rng = ChaCha12Rng::from_seed([seed; 32]);
            let mut take = || ports.take(&mut rng, Family::V4, Parity::Any, ELSEWHERE);
            let order: Vec<u16> = (0..20).map(|_| take().unwrap().port()).collect();
            let rises = order.windows(2).filter(|pair| pair[0] < pair[1]).count();
            assert!((3..=16).contains(&rises), "{order:?}");
            orders.push(order);
        }
        assert_ne!(orders[0], orders[1]);
    }

    #[test]
    fn even_ports_are_even_and_pairs_stay_inside_the_range() {
        let (mut even, mut rng) = ports(&["192.0.2.1"], 101..=104);
        let mut taken: Vec<_> =
            std::iter::from_fn(|| even.take(&mut rng, Family::V4, Parity::Even, ELSEWHERE))
                .collect();
        taken.sort_by_key(|place| place.port);
        assert_eq!(taken.iter().map(|place| place.port).collect::<Vec<_>>(), [102, 104]);
        let (mut pairs, mut rng) = ports(&["192.0.2.1"], 101..=104);
        let pair = pairs.take(&mut rng, Family::V4, Parity::EvenAndNext, ELSEWHERE).unwrap();
        assert_eq!((pair.port, pair.next().port), (102, 103));
        assert_eq!(pairs.take(&mut rng, Family::V4, Parity::EvenAndNext, ELSEWHERE), None);
    }

    #[test]
    fn addresses_of_a_family_are_used_in_turn() {
        let (mut ports, mut rng) = ports(&["192.0.2.1", "2001:db8::1", "192.0.2.2"], 7..=9);
        let mut pools = [0; 3];
        while let Some(place) = ports.take(&mut rng, Family::V4, Parity::Any, ELSEWHERE) {
            pools[place.pool] += 1;
        }
        assert_eq!(pools, [3, 0, 3]);
        let place = ports.take(&mut rng, Family::V6, Parity::Any, ELSEWHERE).unwrap();
        assert_eq!(ports.relayed(place).ip().to_string(), "2001:db8::1");
        assert!(ports.has(Family::V6));
    }

    #[test]
    fn a_port_of_another_state_machine_is_neither_known_nor_kept() {
        let (mut ports, mut rng) = ports(&["192.0.2.1"], 110..=119);
        let elsewhere = |ports: &Ports, pool, port| ports.is_elsewhere(Place::new(pool, port));
        assert!(elsewhere(&ports, 0, 100) && elsewhere(&ports, 0, 109));
        assert!(!elsewhere(&ports, 0, 110) && !elsewhere(&ports, 0, 119), "our own");
        assert!(elsewhere(&ports, 0, 120) && elsewhere(&ports, 0, 200));
        assert!(!elsewhere(&ports, 0, 99) && !elsewhere(&ports, 0, 201), "nobody's");
        assert!(!elsewhere(&ports, 1, 100), "no such address");
        ports.release(Place::new(0, 100));
        while ports.take(&mut rng, Family::V4, Parity::Any, ELSEWHERE).is_some() {}
        assert_eq!(ports.pools[0].free, 0);
    }

    #[test]
    fn the_address_that_the_client_came_by_is_preferred_while_it_has_ports() {
        let (mut ports, mut rng) = ports(&["192.0.2.1", "192.0.2.2"], 100..=102);
        let server = "192.0.2.2".parse().unwrap();
        let mut pools = Vec::new();
        while let Some(place) = ports.take(&mut rng, Family::V4, Parity::Any, server) {
            pools.push(place.pool);
        }
        assert_eq!(pools, [1, 1, 1, 0, 0, 0]);
    }
}
