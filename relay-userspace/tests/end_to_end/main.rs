//! The appliance from outside: a real `turnpike` process, real sockets and third-party clients in
//! network namespaces that the tests make and remove. Lists the tests, and says what cannot run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod clients;
mod credentials;
mod data_plane;
mod discovery;
mod families;
mod fragments;
mod full;
mod icmp;
mod interfaces;
mod junk;
mod lifecycle;
mod moves;
mod needs;
mod network;
mod next_hops;
mod pins;
mod queues;
mod quotas;
mod redis;
mod relay;
mod relaying;
mod robustness;
mod ssrf;
mod start_up;
mod straight;
mod third_party;
mod tools;
mod topology;
mod wait;
mod whole;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use needs::{Machine, Need};
use relay::Rig;

/// A test: what it is called, what it needs, and what it does.
type Test = (&'static str, &'static [Need], fn(&Rig));

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Two at a time would measure each other on a small machine.
    args.test_threads = args.test_threads.or(Some(1));
    let rig = Arc::new(Rig::from_environment());
    let machine = Machine::examine(&rig);
    let groups = [
        relaying::TESTS,
        data_plane::TESTS,
        straight::TESTS,
        moves::TESTS,
        discovery::TESTS,
        icmp::TESTS,
        fragments::TESTS,
        families::TESTS,
        whole::TESTS,
        network::TESTS,
        next_hops::TESTS,
        interfaces::TESTS,
        queues::TESTS,
        full::TESTS,
        lifecycle::TESTS,
        pins::TESTS,
        robustness::TESTS,
        ssrf::TESTS,
        quotas::TESTS,
        start_up::TESTS,
        third_party::TESTS,
        tools::TESTS,
        credentials::TESTS,
        redis::TESTS,
    ];
    let trials = groups.into_iter().flatten().map(|(name, needs, body)| {
        let (rig, missing) = (rig.clone(), machine.missing(needs));
        let run = move || {
            body(&rig);
            Ok(())
        };
        let trial = Trial::test(*name, run).with_ignored_flag(missing.is_some());
        if let Some(why) = missing.filter(|_| !args.list && !args.is_filtered_out(&trial)) {
            println!("SKIPPED: {name}: {why}");
        }
        trial
    });
    let trials = trials.collect();
    libtest_mimic::run(&args, trials).exit_code()
}
