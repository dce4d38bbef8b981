//! Lets aya copy the ABI's types in and out of maps.
#![allow(unsafe_code, reason = "aya::Pod is an unsafe marker; zerocopy proves what it asks")]

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Plain data, as a map's key or value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `IntoBytes` is derived only for types without padding, `FromBytes` only for types that
// every bit pattern is a value of; together they are what `Pod` asks for.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Plain<T> {}
