//! The step: what happens to one frame, as a pure function.
//!
//! Parses, looks up one route, rewrites. The kernel program and the host's tests compile this same
//! source. It decides nothing that userspace has not decided before: without a route that is valid
//! at this moment the frame is passed up unmodified.
//!
//! Does not own maps or packet memory: [`Tables`] and [`Frame`] do.
#![no_std]
#![forbid(unsafe_code)]

mod binding;
mod data;
mod decide;
mod general;
mod leave;
mod police;
mod send;
mod stun;
mod tagged;
mod v4;
mod v6;

use core::ops::DerefMut;

pub use crate::general::{Change, Leaving, Place};
use relay_common::abi::{
    ABI_VERSION, Config, Direction, LinkKey, NextHop, Permission, PermissionKeyV4, PermissionKeyV6,
    Reason, Route, RouteKeyV4, RouteKeyV6, Station, StraightV4, StraightV6,
};
use relay_common::addr::Family;
use relay_common::wire::net::{Ipv4Udp, ether_type};
use tagged::Found;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A frame that lies in memory, from its Ethernet header on, at an even address.
pub trait Frame {
    /// Headers at an even byte offset, which is a constant or one of a few, and not 0; `None` when
    /// the frame ends before they do.
    fn at<T: FromBytes + KnownLayout + Immutable>(&self, offset: u32) -> Option<&T>;
    /// The same, for writing.
    fn at_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self, offset: u32) -> Option<&mut T>;
    /// A few bytes at any offset; `None` when the frame ends before they do.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Cuts `by` bytes off the frame's start, or puts `-by` in front of it, with any content.
    /// `None`, and nothing has moved, when there is no room.
    fn move_head(&mut self, by: i32) -> Option<()>;
    /// Cuts `by` bytes off the frame's end, or puts `-by` zeros behind it. `None`, and nothing has
    /// changed, when there is no room.
    fn move_tail(&mut self, by: i32) -> Option<()>;
    /// Bytes of the frame, with what the link appended to it.
    fn bytes(&self) -> u32;
    /// The interface that it arrived on.
    fn ingress(&self) -> u32;

    /// A stack of headers at the frame's start; `None` when the frame is shorter.
    fn headers<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<&T>;
    /// The same, for writing.
    fn headers_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T>;
}

/// A word in a map that every CPU writes.
pub trait Word {
    /// What it holds.
    fn load(&self) -> u64;
    /// Adds to it, whatever it holds.
    fn add(&self, by: u64);
    /// Replaces `seen` by `new`; `false`, and nothing has changed, when it holds something else.
    fn exchange(&self, seen: u64, new: u64) -> bool;
}

/// A [`relay_common::abi::Policer`] in its map.
#[derive(Clone, Copy)]
pub struct Policing<W> {
    /// When the bucket of packets is full again, nanoseconds.
    pub packets_full_ns: W,
    /// When the bucket of bytes is full again, nanoseconds.
    pub bytes_full_ns: W,
    /// What a packet costs, nanoseconds; 0: no limit.
    pub packet_cost: u64,
    /// What a byte costs, 2⁻¹⁶ nanoseconds; 0: no limit.
    pub byte_cost: u64,
    /// How far ahead of the present a bucket may be, nanoseconds.
    pub burst_ns: u64,
}

/// A packet whose way is asked of the kernel's own routing table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FibQuery {
    /// The family of the addresses.
    pub family: Family,
    /// Source address (wire). IPv4 in the first word.
    pub src: [u32; 4],
    /// Destination address (wire). IPv4 in the first word.
    pub dst: [u32; 4],
    /// Source port (wire).
    pub src_port: u16,
    /// Destination port (wire).
    pub dst_port: u16,
    /// DSCP and ECN.
    pub class: u8,
    /// The IP packet, bytes.
    pub bytes: u16,
}

/// The maps, the clock, chance and the counters.
pub trait Tables {
    /// A [`Word`] of a map.
    type Word<'t>: Word
    where
        Self: 't;
    /// [`Tables::scratch`].
    type Scratch<'t>: DerefMut<Target = Leaving>
    where
        Self: 't;

    /// What userspace said of itself.
    fn config(&self) -> Option<&Config>;
    /// A route of the IPv4 wire.
    fn route_v4(&self, key: &RouteKeyV4) -> Option<&Route>;
    /// A route of the IPv6 wire.
    fn route_v6(&self, key: &RouteKeyV6) -> Option<&Route>;
    /// A place in `STRAIGHT_V4`; another route than the one that is asked for may stand there.
    fn straight_v4(&self, place: u32) -> Option<&StraightV4>;
    /// A place in `STRAIGHT_V6`; another route than the one that is asked for may stand there.
    fn straight_v6(&self, place: u32) -> Option<&StraightV6>;
    /// A permission for a peer on the IPv4 wire.
    fn permission_v4(&self, key: &PermissionKeyV4) -> Option<&Permission>;
    /// A permission for a peer on the IPv6 wire.
    fn permission_v6(&self, key: &PermissionKeyV6) -> Option<&Permission>;
    /// A way out.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// A way out that the kernel's own routing table knows, if it leads to an interface that the
    /// program is attached to and the packet is no longer than its MTU.
    fn fib(&self, query: &FibQuery) -> Option<&NextHop>;
    /// The place in `STATIONS` of an interface; another may have it.
    fn station(&self, ifindex: u32) -> Option<&Station>;
    /// Whom tagged frames of a VLAN are for.
    fn link(&self, key: &LinkKey) -> Option<&Station>;
    /// The limits of a slot's direction.
    fn policer(&self, slot: u32, direction: Direction) -> Option<Policing<Self::Word<'_>>>;
    /// A place in `BUDGETS`: until when Binding replies to its sources are paid for, nanoseconds.
    fn budget(&self, index: u32) -> Option<Self::Word<'_>>;
    /// CLOCK_MONOTONIC, nanoseconds; it may lag by two ticks of the machine.
    fn now_ns(&self) -> u64;
    /// Memory for what a packet leaves as, in whatever state the last one left it: the stack has no
    /// room for it beside everything else. A packet takes it once.
    fn scratch(&self) -> Option<Self::Scratch<'_>>;
    /// Chance; no secret may depend on it.
    fn random(&self) -> u32;
    /// Makes `port` the target of a redirect, if the frame then leaves by
    /// [`Verdict::Redirect`]; `false` when no interface has that index.
    fn aim(&self, port: u32) -> bool;
    /// Counts a packet, and its bytes of application data if it was relayed.
    fn note(&self, reason: Reason, bytes: u32);
    /// Counts a relayed packet and its bytes of application data for an allocation.
    fn count(&self, slot: u32, direction: Direction, bytes: u32);
}

/// How a frame leaves the step, and as what it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Rewritten: out of the interface that it came in by.
    Transmit(Reason),
    /// Rewritten: out of another interface, which [`Tables::aim`] named.
    Redirect(Reason),
    /// Up to the network stack, with not a byte changed.
    Pass(Reason),
    /// Over a limit.
    Drop(Reason),
    /// Half rewritten, and therefore dropped.
    Abort(Reason),
}

impl Verdict {
    /// The counter that the frame belongs to.
    #[must_use]
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Transmit(reason)
            | Self::Redirect(reason)
            | Self::Pass(reason)
            | Self::Drop(reason)
            | Self::Abort(reason) => reason,
        }
    }

    /// The verdict as one number, which a function out of line can return in a register: the
    /// verifier follows no verdict through memory.
    #[inline(always)]
    const fn code(self) -> u32 {
        let action = match self {
            Self::Transmit(_) => 0,
            Self::Redirect(_) => 1,
            Self::Pass(_) => 2,
            Self::Drop(_) => 3,
            Self::Abort(_) => 4,
        };
        (self.reason() as u32) << 8 | action
    }

    #[inline(always)]
    fn from_code(code: u32) -> Self {
        let reason = zerocopy::try_transmute!(code >> 8).unwrap_or(Reason::Aborted);
        match code & 0xFF {
            0 => Self::Transmit(reason),
            1 => Self::Redirect(reason),
            2 => Self::Pass(reason),
            3 => Self::Drop(reason),
            _ => Self::Abort(reason),
        }
    }
}

/// Relays a frame, or says why not.
#[inline(always)]
pub fn step<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let verdict = relay(frame, tables).unwrap_or_else(Verdict::Pass);
    // What was relayed is counted where its bytes are known.
    if let Verdict::Pass(reason) | Verdict::Drop(reason) | Verdict::Abort(reason) = verdict {
        tables.note(reason, 0);
    }
    verdict
}

/// The bit of a MAC address's first byte that says: to a group of stations.
const GROUP: u16 = u16::from_ne_bytes([1, 0]);

/// An error is a frame that is passed up; it has not been touched.
#[inline(always)]
fn relay<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Reason> {
    let config = tables.config().ok_or(Reason::NotConfigured)?;
    if config.abi_version != ABI_VERSION {
        return Err(Reason::NotConfigured);
    }
    // The smallest headers that anything could be relayed with: one bounds check for IPv4.
    let headers = frame.headers::<Ipv4Udp>().ok_or(Reason::Truncated)?;
    if headers.eth.dst[0] & GROUP != 0 {
        return Err(Reason::GroupMac);
    }
    match headers.eth.ether_type {
        ether_type::IPV4 => v4::relay(frame, tables, config),
        ether_type::IPV6 => v6::relay(frame, tables, config),
        other if tagged::is_tag(other) => {
            let mut found = Found::default();
            match tagged::find(frame, tables, config, &mut found) {
                Some(route) => Ok(general::relay(frame, tables, route, found.place)),
                None => match found.reason {
                    Reason::Stun => Ok(stun::from_client(frame, tables, config, found.place)),
                    Reason::NoPermission => Ok(data::relay(frame, tables, config, found.place)),
                    reason => Err(reason),
                },
            }
        }
        _ => Err(Reason::NotIp),
    }
}
