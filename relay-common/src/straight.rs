//! How a straight route comes into its place and out of it, while packets look there.
//!
//! Owns the order of the writes. Where places are kept is [`Places`]; what stands in them is
//! [`crate::abi::StraightV4`] and its IPv6 twin.
//!
//! A place is written whole, but not at once: a packet may see the first half of a write. So the
//! key goes first when something is taken out, and comes last when something is put in; what a
//! packet reads beside a key that it has found was written before the key was. A packet that found
//! the key and was held up since then may see what comes next, as with every map that is written
//! in place.

use crate::abi::{
    ACTION_STRIP, ACTION_WRAP, FLAG_V6, Route, StraightV4, StraightV6, Terms, other_place,
    place_v4, place_v6,
};
use crate::route::Entry;

/// Where straight routes are kept.
pub trait Places {
    /// Why a place cannot be read or written.
    type Error;

    /// What stands in a place of `STRAIGHT_V4`.
    ///
    /// # Errors
    /// It cannot be read.
    fn v4(&self, place: u32) -> Result<StraightV4, Self::Error>;
    /// Writes a place of `STRAIGHT_V4`.
    ///
    /// # Errors
    /// It cannot be written.
    fn set_v4(&mut self, place: u32, value: &StraightV4) -> Result<(), Self::Error>;
    /// What stands in a place of `STRAIGHT_V6`.
    ///
    /// # Errors
    /// It cannot be read.
    fn v6(&self, place: u32) -> Result<StraightV6, Self::Error>;
    /// Writes a place of `STRAIGHT_V6`.
    ///
    /// # Errors
    /// It cannot be written.
    fn set_v6(&mut self, place: u32, value: &StraightV6) -> Result<(), Self::Error>;
}

/// Puts a route into one of its two places, if it is straight and one is free; what stood there
/// with its key is gone in any case. `secret` is `Config::place_key`.
///
/// # Errors
/// A place cannot be read or written; the route may be there or not.
pub fn put<P: Places>(places: &mut P, secret: u64, entry: &Entry) -> Result<(), P::Error> {
    write(places, secret, entry, Wanted::There)
}

/// Takes a route out of its place, if it is there.
///
/// # Errors
/// A place cannot be read or written; the route may still be there.
pub fn remove<P: Places>(places: &mut P, secret: u64, entry: &Entry) -> Result<(), P::Error> {
    write(places, secret, entry, Wanted::Gone)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    There,
    Gone,
}

fn write<P: Places>(
    places: &mut P,
    secret: u64,
    entry: &Entry,
    wanted: Wanted,
) -> Result<(), P::Error> {
    let is_wanted = |terms, family| wanted == Wanted::There && is_straight(terms, family);
    match *entry {
        Entry::V4(key, route) => {
            let Route { terms, src: [src, ..], dst: [dst, ..] } = route;
            let key = zerocopy::transmute!(key);
            let new = StraightV4 { key, terms, src, dst, reserved: [0; 2] };
            let new = is_wanted(&terms, 0).then_some(new);
            let at = place_v4(&key, secret);
            let stand = [places.v4(at)?, places.v4(other_place(at))?];
            let Some(way) = way(stand.map(|value| value.key), key) else { return Ok(()) };
            let at = [at, other_place(at)][way];
            steps(stand[way], key, new, |value| &mut value.key)
                .into_iter()
                .flatten()
                .try_for_each(|value| places.set_v4(at, &value))
        }
        Entry::V6(key, Route { terms, src, dst }) => {
            let key = zerocopy::transmute!(key);
            let new = StraightV6 { key, terms, src, dst, reserved: [0; 6] };
            let new = is_wanted(&terms, FLAG_V6).then_some(new);
            let at = place_v6(&key, secret);
            let stand = [places.v6(at)?, places.v6(other_place(at))?];
            let Some(way) = way(stand.map(|value| value.key), key) else { return Ok(()) };
            let at = [at, other_place(at)][way];
            steps(stand[way], key, new, |value| &mut value.key)
                .into_iter()
                .flatten()
                .try_for_each(|value| places.set_v6(at, &value))
        }
    }
}

fn is_straight(terms: &Terms, family: u8) -> bool {
    matches!(terms.action, ACTION_STRIP | ACTION_WRAP) && terms.flags & FLAG_V6 == family
}

/// Which of two places is a key's, or could be: the one where it stands, else a free one.
fn way<K: Default + PartialEq>(stand: [K; 2], key: K) -> Option<usize> {
    let of = |wanted: &K| stand.iter().position(|stands| stands == wanted);
    of(&key).or_else(|| of(&K::default()))
}

/// What is written to a place that is the key's or free, in order: the old value without its key,
/// the new one without it, the new one.
fn steps<S: Copy + PartialEq, K: Copy + Default + PartialEq>(
    mut old: S,
    key: K,
    new: Option<S>,
    key_of: impl Fn(&mut S) -> &mut K,
) -> [Option<S>; 3] {
    let without = |mut value: S| {
        *key_of(&mut value) = K::default();
        value
    };
    if *key_of(&mut old) != key {
        return [None, new.map(without), new];
    }
    if new == Some(old) { [None; 3] } else { [Some(without(old)), new.map(without), new] }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;
    use crate::abi::{
        ACTION_ANSWER, ACTION_SEND, ACTION_SWAP, RouteKeyV4, RouteKeyV6, STRAIGHT_V4_MAX,
        STRAIGHT_V6_MAX,
    };
    use crate::addr::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
    use crate::route::{self, Binding, Leg, Stamp};
    use crate::wire::channel_data::{ChannelNumber, ChannelRange};
    use crate::wire::net::be16;

    const SECRET: u64 = 0x0123_4567_89AB_CDEF;
    const WRITES_MAX: usize = 8;

    /// Two places for all, and what was written there: which of them, whether with a key, and the
    /// deadline.
    #[derive(Default)]
    struct Two {
        v4: [StraightV4; 2],
        v6: [StraightV6; 2],
        written: [Option<(u32, bool, u64)>; WRITES_MAX],
        writes: usize,
    }

    impl Two {
        fn note(&mut self, place: u32, has_key: bool, terms: &Terms) {
            self.written[self.writes] = Some((place & 1, has_key, terms.deadline_ns));
            self.writes += 1;
        }

        fn written(&self) -> impl Iterator<Item = (u32, bool, u64)> {
            self.written.into_iter().flatten()
        }
    }

    impl Places for Two {
        type Error = ();

        fn v4(&self, place: u32) -> Result<StraightV4, ()> {
            assert!(place < STRAIGHT_V4_MAX);
            Ok(self.v4[place as usize & 1])
        }
        fn set_v4(&mut self, place: u32, value: &StraightV4) -> Result<(), ()> {
            self.v4[place as usize & 1] = *value;
            self.note(place, value.key != [0; 2], &value.terms);
            Ok(())
        }
        fn v6(&self, place: u32) -> Result<StraightV6, ()> {
            assert!(place < STRAIGHT_V6_MAX);
            Ok(self.v6[place as usize & 1])
        }
        fn set_v6(&mut self, place: u32, value: &StraightV6) -> Result<(), ()> {
            self.v6[place as usize & 1] = *value;
            self.note(place, value.key != [0; 5], &value.terms);
            Ok(())
        }
    }

    fn entries(client: &str, peer: &str, deadline_ns: u64) -> [Entry; 2] {
        let (client, peer): (SocketAddr, SocketAddr) =
            (client.parse().unwrap(), peer.parse().unwrap());
        let ours = |to: SocketAddr, port: u16| -> SocketAddr {
            let ip = if to.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" };
            SocketAddr::new(ip.parse().unwrap(), port)
        };
        let server = ServerAddr::new(ours(client, 3478));
        let leg = Leg { deadline_ns, next_hop: 1 };
        let binding = Binding {
            five_tuple: FiveTuple {
                transport: Transport::Udp,
                client: ClientAddr::new(client),
                server,
            },
            relayed: RelayedAddr::new(ours(peer, 50_000)),
            peer: PeerAddr::new(peer),
            channel: ChannelNumber::new(0x4001, ChannelRange::Rfc8656).unwrap(),
            stamp: Stamp { slot: 7, epoch: 3, policed: false },
            to_peer: leg,
            to_client: leg,
        };
        route::channel(&binding).unwrap()
    }

    const V4: [&str; 2] = ["192.0.2.1:1000", "198.51.100.9:53"];
    const V6: [&str; 2] = ["[2001:db8::9]:1000", "[2001:db8::8]:53"];

    fn of([client, peer]: [&str; 2], deadline_ns: u64) -> Entry {
        entries(client, peer, deadline_ns)[0]
    }

    #[test]
    fn what_stands_in_a_place_is_the_route() {
        for entry in [V4, V6].into_iter().flat_map(|[client, peer]| entries(client, peer, 9)) {
            let mut two = Two::default();
            put(&mut two, SECRET, &entry).unwrap();
            match entry {
                Entry::V4(key, Route { terms, src: [src, ..], dst: [dst, ..] }) => {
                    let key = zerocopy::transmute!(key);
                    let at = place_v4(&key, SECRET);
                    let straight = StraightV4 { key, terms, src, dst, reserved: [0; 2] };
                    assert_eq!(two.v4(at), Ok(straight));
                }
                Entry::V6(key, Route { terms, src, dst }) => {
                    let key = zerocopy::transmute!(key);
                    let at = place_v6(&key, SECRET);
                    let straight = StraightV6 { key, terms, src, dst, reserved: [0; 6] };
                    assert_eq!(two.v6(at), Ok(straight));
                }
            }
        }
    }

    #[test]
    fn the_key_comes_last_and_goes_first() {
        for ends in [V4, V6] {
            let mut two = Two::default();
            put(&mut two, SECRET, &of(ends, 600)).unwrap();
            put(&mut two, SECRET, &of(ends, 900)).unwrap();
            put(&mut two, SECRET, &of(ends, 900)).unwrap();
            remove(&mut two, SECRET, &of(ends, 0)).unwrap();
            remove(&mut two, SECRET, &of(ends, 0)).unwrap();
            let expected =
                [(false, 600), (true, 600), (false, 600), (false, 900), (true, 900), (false, 900)];
            let written = two.written().map(|(_, has_key, deadline)| (has_key, deadline));
            assert!(written.eq(expected), "{ends:?}: {:?}", two.written);
        }
    }

    #[test]
    fn two_keep_their_places_and_a_third_gets_one_that_is_free() {
        for [client, peer] in [V4, V6] {
            let [first, second, third] = ["1001", "1002", "1003"].map(|port| {
                let client = client.replacen("1000", port, 1);
                of([&client, peer], 9)
            });
            let mut two = Two::default();
            for entry in [first, second, third] {
                put(&mut two, SECRET, &entry).unwrap();
            }
            remove(&mut two, SECRET, &third).unwrap();
            assert_eq!(two.writes, 4, "nothing of the third");
            let at = |writes: usize| two.written[writes].map(|(place, ..)| place);
            let (first_at, second_at) = (at(1), at(3));
            assert_ne!(first_at, second_at);
            remove(&mut two, SECRET, &first).unwrap();
            put(&mut two, SECRET, &third).unwrap();
            assert_eq!(two.written[6].map(|(place, ..)| place), first_at);
            put(&mut two, SECRET, &second).unwrap();
            assert_eq!(two.writes, 7, "the second is where it was");
        }
    }

    #[test]
    fn what_is_not_straight_has_no_place_and_clears_that_of_its_key() {
        for ends in [[V4[0], V6[1]], [V6[0], V4[1]]] {
            let mut two = Two::default();
            put(&mut two, SECRET, &of(ends, 9)).unwrap();
            assert_eq!(two.writes, 0, "a crossing");
        }
        let straight = of(V4, 9);
        let Entry::V4(key, mut route) = straight else { panic!() };
        for action in [ACTION_SWAP, ACTION_SEND, ACTION_ANSWER] {
            route.terms.action = action;
            let mut two = Two::default();
            put(&mut two, SECRET, &straight).unwrap();
            put(&mut two, SECRET, &Entry::V4(key, route)).unwrap();
            assert_eq!(two.writes, 3, "action {action}");
            assert!(two.v4.iter().all(|value| value.key == [0; 2]), "action {action}");
        }
    }

    /// How many of these find both of their places taken by those before them.
    fn crowded(places: impl Iterator<Item = u32>) -> usize {
        let mut taken = [0u8; STRAIGHT_V4_MAX as usize / 2];
        places
            .filter(|place| {
                let pair = &mut taken[*place as usize / 2];
                *pair += 1;
                *pair > 2
            })
            .count()
    }

    #[test]
    fn neighbouring_keys_are_crowded_no_more_than_by_chance() {
        const KEYS: u16 = 20_000;
        let key = RouteKeyV4 {
            src: ip([10, 64, 0, 1]),
            dst: ip([10, 0, 0, 1]),
            src_port: be16(40_000),
            dst_port: be16(3478),
            channel: be16(0x4001),
            reserved: 0,
        };
        let [high, low] = [|n: u16| n.to_be_bytes()[0], |n: u16| n.to_be_bytes()[1]];
        let kinds: [(&str, &dyn Fn(u16) -> RouteKeyV4); 4] = [
            ("clients by port", &|n| RouteKeyV4 { src_port: be16(1024 + n), ..key }),
            ("clients by address", &|n| RouteKeyV4 { src: ip([10, 64, high(n), low(n)]), ..key }),
            ("relayed ports", &|n| RouteKeyV4 { dst_port: be16(30_000 + n), channel: 0, ..key }),
            ("channels", &|n| RouteKeyV4 {
                src: ip([10, 64, 0, high(n / 16)]),
                channel: be16(0x4000 + n % 4096),
                ..key
            }),
        ];
        for secret in [0, SECRET, u64::MAX] {
            for (name, key) in kinds {
                let keys = (0..KEYS).map(|n| zerocopy::transmute!(key(n)));
                let crowded = crowded(keys.map(|key| place_v4(&key, secret)));
                // Of 20,000 keys that fall into 65,536 pairs, 235 by chance.
                assert!(crowded <= 300, "{name}, secret {secret:#x}: {crowded}");
            }
            let keys = (0..KEYS).map(|n| {
                let src = [0xB80D_0120, 0, 0, u32::from(n).to_be()];
                let dst = [0xB80D_0120, 1, 0, 1];
                let v6 = RouteKeyV6 { src, dst, src_port: 7, dst_port: 9, channel: 0, reserved: 0 };
                zerocopy::transmute!(v6)
            });
            let crowded = crowded(keys.map(|key| place_v6(&key, secret)));
            // Into 32,768 pairs, 915.
            assert!(crowded <= 1_050, "IPv6, secret {secret:#x}: {crowded}");
        }
    }

    fn ip(octets: [u8; 4]) -> u32 {
        u32::from_ne_bytes(octets)
    }
}
