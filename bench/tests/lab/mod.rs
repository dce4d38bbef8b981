//! A laboratory for the tests: client, relay and peer in network namespaces of their own, the
//! servers that can stand in the middle, and the counters that are not the tool's.
//! Everything that it makes is removed when its owner is dropped. Measures and judges nothing.

#![allow(dead_code, reason = "every test file uses its own part of the laboratory")]

mod counters;
mod namespace;
mod needs;
mod process;
mod servers;
mod wait;

#[allow(unused_imports, reason = "every test file uses its own part of the laboratory")]
pub(crate) use self::{
    counters::{Capture, Interface, Loss, Metrics},
    namespace::{Lab, Namespace},
    needs::{Need, Test, run},
    process::{Process, tool},
    servers::{Coturn, PASSWORD, Setting, Turnpike, USER},
    wait::until,
};

/// The tool's own kernel programs, as `build.rs` embedded them.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}
