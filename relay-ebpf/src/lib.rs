//! The step: what happens to one frame, as a pure function.
//!
//! Parses, looks up one route, rewrites. The kernel program and the host's tests compile this same
//! source. It decides nothing that userspace has not decided before: without a route that is valid
//! at this moment the frame is passed up unmodified.
//!
//! Does not own maps or packet memory ([`Tables`] and [`Frame`] do), and relays within one address
//! family only, untagged frames only.
#![no_std]
#![forbid(unsafe_code)]

mod decide;
mod v4;
mod v6;

use relay_common::abi::{
    ABI_VERSION, Config, Direction, NextHop, Reason, Route, RouteKeyV4, RouteKeyV6,
};
use relay_common::wire::net::{Ipv4Udp, ether_type};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A frame that lies in memory, from its Ethernet header on, at an even address.
pub trait Frame {
    /// A stack of headers at the frame's start; `None` when the frame is shorter.
    fn headers<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<&T>;
    /// The same, for writing.
    fn headers_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T>;
    /// Cuts `by` bytes off the frame's start, or puts `-by` in front of it, with any content.
    /// `None`, and nothing has moved, when there is no room.
    fn move_head(&mut self, by: i32) -> Option<()>;
    /// Bytes of the frame, with what the link appended to it.
    fn bytes(&self) -> u32;
    /// The interface that it arrived on.
    fn ingress(&self) -> u32;
}

/// The maps, the clock and the counters.
pub trait Tables {
    /// What userspace said of itself.
    fn config(&self) -> Option<&Config>;
    /// A route of the IPv4 wire.
    fn route_v4(&self, key: &RouteKeyV4) -> Option<&Route>;
    /// A route of the IPv6 wire.
    fn route_v6(&self, key: &RouteKeyV6) -> Option<&Route>;
    /// A way out.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// CLOCK_MONOTONIC, nanoseconds; it may lag by a tick of the machine.
    fn now_ns(&self) -> u64;
    /// Makes `port` the target of a redirect, if the frame then leaves by
    /// [`Verdict::Redirect`]; `false` when no interface has that index.
    fn aim(&self, port: u32) -> bool;
    /// Counts a relayed packet and its bytes of application data.
    fn count(&self, slot: u32, direction: Direction, bytes: u32);
}

/// How a frame leaves the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Rewritten: out of the interface that it came in by.
    Transmit {
        /// Which way it is relayed.
        direction: Direction,
    },
    /// Rewritten: out of another interface, which [`Tables::aim`] named.
    Redirect {
        /// Which way it is relayed.
        direction: Direction,
        /// The interface's index in `PORTS`.
        port: u32,
    },
    /// Up to the network stack, with not a byte changed.
    Pass(Reason),
    /// Half rewritten, and therefore dropped.
    Abort(Reason),
}

impl Verdict {
    /// The counter that the frame belongs to.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Transmit { direction } | Self::Redirect { direction, .. } => match direction {
                Direction::ClientToPeer => Reason::ClientToPeer,
                Direction::PeerToClient => Reason::PeerToClient,
            },
            Self::Pass(reason) | Self::Abort(reason) => reason,
        }
    }
}

/// Relays a frame, or says why not.
#[inline(always)]
pub fn step<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    relay(frame, tables).unwrap_or_else(Verdict::Pass)
}

/// An error is a frame that is passed up; it has not been touched.
#[inline(always)]
fn relay<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Reason> {
    let config = tables.config().ok_or(Reason::NotConfigured)?;
    if config.abi_version != ABI_VERSION {
        return Err(Reason::NotConfigured);
    }
    // The smallest headers that anything could be relayed with: one bounds check for IPv4.
    let headers = frame.headers::<Ipv4Udp>().ok_or(Reason::Truncated)?;
    match headers.eth.ether_type {
        ether_type::IPV4 => v4::relay(frame, tables, config),
        ether_type::IPV6 => v6::relay(frame, tables, config),
        _ => Err(Reason::NotIp),
    }
}
