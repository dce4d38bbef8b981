//! The kernel's datapath, driven from userspace: loads the XDP program, attaches it, and keeps
//! its maps true to the decisions of the state machines.
//!
//! A failure here costs speed, never correctness: a packet without a route goes up to userspace.

mod attach;
mod error;
mod hairpins;
mod kernel;
mod links;
mod maps;
mod means;
mod netlink;
mod next_hops;
mod pins;
mod pod;
mod ports;
mod rtnl;
mod slots;
mod stations;
mod straight;
mod table;
mod tags;
mod view;

pub(crate) use attach::{Interface, Mode};
pub(crate) use error::DatapathError;
pub(crate) use kernel::{Answering, Kernel, Settings, limits};
pub(crate) use links::Links;
pub(crate) use netlink::follow;
pub(crate) use next_hops::Change;
pub(crate) use pins::{Pins, PinsError, clear_dead};

use std::time::Duration;

use aya_log::EbpfLogger;
use tokio::time::interval;

/// The reader of what a debug object logs.
pub(crate) type KernelLog = EbpfLogger<&'static dyn log::Log>;

/// How often a debug object's log is read.
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// Passes on what a debug object logs, until the relay ends. The production object logs nothing.
pub(crate) async fn forward_log(mut log: KernelLog) {
    let mut due = interval(LOG_INTERVAL);
    loop {
        due.tick().await;
        log.flush();
    }
}
