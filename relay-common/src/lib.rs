//! Bytes and names shared by the kernel program, userspace and the load generator.
//!
//! - [`wire`]: STUN and TURN messages, ChannelData, and the headers below them.
//! - [`addr`]: transport addresses by the role RFC 8656 gives them, and the 5-tuple.
//! - [`abi`]: what userspace and the kernel program agree on: map keys, values, names.
//! - [`route`]: channel bindings and permissions as the map entries that relay by them.
//! - [`straight`]: how the routes of the straight paths are written while packets read them.
//! - [`police`]: rates, as virtual times.
//!
//! No allocation, no I/O, no clock, no policy.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod police;
pub mod route;
pub mod straight;
pub mod wire;
