//! The state machine, in the simulation's world: every choice is made by the input, and the model
//! judges. Requests are signed inside, so that an input need not guess a key.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a panic is a finding")]
#![allow(dead_code, unreachable_pub, reason = "the simulation's own files, most of each used")]

#[path = "../../tests/sim/accounts.rs"]
mod accounts;
#[path = "../../tests/sim/model/mod.rs"]
mod model;
#[path = "../../tests/sim/random.rs"]
mod random;
#[path = "../../tests/sim/rules.rs"]
mod rules;
#[path = "../../tests/sim/trace.rs"]
mod trace;
#[path = "../../tests/sim/world/mod.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use random::Random;
use world::World;

fuzz_target!(|input: &[u8]| {
    World::new(Random::Bytes(input.to_vec(), 0), false).run(u64::MAX);
});
