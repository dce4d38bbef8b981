//! Deterministic simulation: the server and the XDP step in a world of virtual time and bad luck,
//! judged by a model of RFC 8656. The same seed gives the same run.
//!
//! `cargo xtask sim --seed S` replays one and shows what happens. `TURNPIKE_SIM_SEEDS`,
//! `TURNPIKE_SIM_FIRST`, `TURNPIKE_SIM_SEED` and `TURNPIKE_SIM_STEPS` are what it sets.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(unreachable_pub, reason = "parts of it are used by the fuzzer as well")]

mod accounts;
mod model;
mod random;
mod rules;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use random::Random;
use world::World;

const SEEDS: u64 = 1_000;
const STEPS: u64 = 500;

/// Behind so many failures nobody reads on; who asks for a number of seeds gets all of them.
const FAILURES_MAX: usize = 20;

/// What happens in every thousand seeds: verdicts of the step, expectations of the model, codes and
/// proofs that were counted.
const MET: [&str; 51] = [
    "ClientToPeer",
    "PeerToClient",
    "Hairpin",
    "SendIndication",
    "DataIndication",
    "BindingAnswered",
    "BindingOverBudget",
    "Policed",
    "Expired",
    "StaleEpoch",
    "NextHopUnresolved",
    "NoPermission",
    "success",
    "an error",
    "a nonce",
    "data",
    "data, perhaps",
    "two addresses",
    "one address, and 440",
    "one address, and 508",
    "one of two refreshed",
    "one address of two ends",
    "not to be fragmented",
    "discovered",
    "looked up",
    "found",
    "absent",
    "not found out",
    "stopped",
    "restarted",
    "rotated",
    "too many new peers",
    "sha1 by md5",
    "sha1 by sha256",
    "sha1 by token",
    "sha256 by md5",
    "sha256 by sha256",
    "sha256 by token",
    "400",
    "401",
    "403",
    "420",
    "437",
    "438",
    "440",
    "441",
    "442",
    "443",
    "486",
    "500",
    "508",
];

/// What a range of seeds came to.
#[derive(Default)]
struct Sum {
    steps: u64,
    hash: u64,
    failed: Vec<u64>,
    seen: BTreeMap<String, u64>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn steps() -> u64 {
    setting("TURNPIKE_SIM_STEPS").unwrap_or(STEPS)
}

fn run(seed: u64, steps: u64, is_shown: bool) -> World {
    let mut world = World::new(Random::Seed(seed), is_shown);
    world.run(steps);
    world
}

/// Every seed, on as many threads as there are processors; what fails is collected.
fn run_all(seeds: std::ops::Range<u64>, steps: u64) -> Sum {
    let is_asked = setting("TURNPIKE_SIM_SEEDS").is_some();
    let failures_max = if is_asked { usize::MAX } else { FAILURES_MAX };
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || sum.lock().unwrap().failed.len() >= failures_max {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| run(seed, steps, false)));
        let mut sum = sum.lock().unwrap();
        match result {
            Ok(world) => {
                sum.steps += world.steps();
                // In any order the same.
                sum.hash = sum.hash.wrapping_add(world.hash().rotate_left(7) ^ seed);
                for (kind, count) in world.met() {
                    *sum.seen.entry(kind).or_default() += count;
                }
            }
            Err(_) => sum.failed.push(seed),
        }
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(8));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut sum = sum.into_inner().unwrap();
    sum.failed.sort_unstable();
    sum
}

#[test]
fn every_seed_is_as_the_model_says() {
    let steps = steps();
    if let Some(seed) = setting("TURNPIKE_SIM_SEED") {
        let world = run(seed, steps, true);
        println!("seed {seed}: {} steps, trace {:016x}", world.steps(), world.hash());
        return;
    }
    let first = setting("TURNPIKE_SIM_FIRST").unwrap_or(0);
    let seeds = setting("TURNPIKE_SIM_SEEDS").unwrap_or(SEEDS);
    let sum = run_all(first..first + seeds, steps);
    let Sum { steps: done, hash, failed, seen } = &sum;
    println!("{seeds} seeds from {first}: {done} steps, traces {hash:016x}");
    println!("{seen:?}");
    assert!(
        failed.is_empty(),
        "{} seeds failed. To see the first: cargo xtask sim --seed {} --steps {steps}\n{failed:?}",
        failed.len(),
        failed[0]
    );
    // A thousand seeds that never met something are no test of it.
    if setting("TURNPIKE_SIM_SEEDS").is_none() {
        let rare = MET.iter().find(|kind| seen.get(**kind).is_none_or(|count| *count < 50));
        assert_eq!(rare, None, "{seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| run(seed, STEPS, false).hash();
    let all: Vec<u64> = (0..20).map(hash).collect();
    assert_eq!(all, (0..20).map(hash).collect::<Vec<_>>());
    assert!((1..20).all(|seed| all[seed] != all[0]), "seeds differ");
}

#[test]
fn any_bytes_make_a_world() {
    let steps = |seed| {
        let bytes = Random::Seed(seed).bytes(4_000);
        let mut world = World::new(Random::Bytes(bytes, 0), false);
        world.run(u64::MAX);
        world.steps()
    };
    let all: Vec<u64> = (0..20).map(steps).collect();
    assert!(all.iter().sum::<u64>() > 400, "{all:?}");
}
