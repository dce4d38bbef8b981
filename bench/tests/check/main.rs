//! `relay-bench check` as its user runs it: against a miniature server with known manners, and in
//! networks with known troubles. What is wrong is what it says is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]
#![allow(dead_code, reason = "server and laboratory can do more than these tests ask of them")]

#[path = "../lab/mod.rs"]
mod lab;
mod manners;
mod networks;
mod run;
#[path = "../running/mod.rs"]
mod running;
#[path = "../server/mod.rs"]
mod server;

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::run(&[manners::TESTS, networks::TESTS].concat())
}
