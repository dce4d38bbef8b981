//! The names that `relay-bench` and its kernel programs agree on.
#![no_std]
#![forbid(unsafe_code)]

/// Program names, as they stand in the object.
pub mod program {
    /// Does nothing with a frame but pass it: what it costs to run a program at all. On an
    /// interface it also makes a veth take frames by XDP.
    pub const EMPTY: &str = "empty";
    /// Sends every frame back where it came from, MAC addresses exchanged, looking at nothing
    /// else: what a rig can carry.
    pub const REFLECTOR: &str = "reflector";
}
