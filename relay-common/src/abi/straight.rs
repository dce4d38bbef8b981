//! Straight routes: channels whose packets leave on the wire family that they came by. Each stands
//! in one of two places that follow from its key, beside all that its packets are rewritten by: an
//! IPv4 packet finds both in one line of the cache. Where both places are others', a route is in
//! `ROUTES_*` alone, where every route is: that costs it speed and nothing else.
//!
//! Owns the layouts and the places; [`crate::straight`] says how a place is written.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Terms;

const PLACE_V4_BITS: u32 = 17;
const PLACE_V6_BITS: u32 = 16;
/// Places of straight routes of the IPv4 wire.
pub const STRAIGHT_V4_MAX: u32 = 1 << PLACE_V4_BITS;
/// Places of straight routes of the IPv6 wire.
pub const STRAIGHT_V6_MAX: u32 = 1 << PLACE_V6_BITS;

/// A straight route of the IPv4 wire, and its key.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StraightV4 {
    /// A [`super::RouteKeyV4`], in the words that it is compared in; zero in an empty place,
    /// whatever else stands there: nothing that is ours arrives at port 0.
    pub key: [u64; 2],
    /// As in the route.
    pub terms: Terms,
    /// New source address (wire).
    pub src: u32,
    /// New destination address (wire).
    pub dst: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// A straight route of the IPv6 wire, and its key.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StraightV6 {
    /// A [`super::RouteKeyV6`], in the words that it is compared in; zero in an empty place,
    /// whatever else stands there: nothing that is ours arrives at port 0.
    pub key: [u64; 5],
    /// As in the route.
    pub terms: Terms,
    /// New source address (wire).
    pub src: [u32; 4],
    /// New destination address (wire).
    pub dst: [u32; 4],
    /// Zero.
    pub reserved: [u32; 6],
}

/// Where a route of the IPv4 wire stands in `STRAIGHT_V4`, or beside it. `secret` is
/// `Config::place_key`.
#[must_use]
#[inline(always)]
pub const fn place_v4(key: &[u64; 2], secret: u64) -> u32 {
    let [addresses, tail] = *key;
    top(mix(mix(secret, addresses), tail), PLACE_V4_BITS)
}

/// Where a route of the IPv6 wire stands in `STRAIGHT_V6`, or beside it. `secret` is
/// `Config::place_key`.
#[must_use]
#[inline(always)]
pub const fn place_v6(key: &[u64; 5], secret: u64) -> u32 {
    let [a, b, c, d, tail] = *key;
    // Our own addresses are few: they need no round each.
    top(mix(mix(mix(secret, a ^ c), b ^ d), tail), PLACE_V6_BITS)
}

/// The other place that a route may stand in: the second of two lines of the cache that processors
/// like to fetch together.
#[must_use]
#[inline(always)]
pub const fn other_place(place: u32) -> u32 {
    place ^ 1
}

/// Takes a word in. The upper half of a product is what all of its bits have a say in; it comes
/// down for the next round.
#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(ODD);
    mixed ^ (mixed >> 32)
}

/// The upper `bits` after another round: ports differ in a few neighbouring bits, which one product
/// alone does not spread.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "`bits` of it are left")]
const fn top(state: u64, bits: u32) -> u32 {
    (state.wrapping_mul(ODD) >> (u64::BITS - bits)) as u32
}

/// Odd, and near 2⁶⁴ divided by the golden ratio.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
