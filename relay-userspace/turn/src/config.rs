//! Configuration of one state machine: values that its driver has already validated.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use relay_common::wire::channel_data::ChannelRange;

use crate::{Credentials, Ledger, LookUps, Offers, Policy, Realm};

/// Everything a [`crate::Turn`] is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The realm of the long-term credentials (RFC 8489 §9.2), 1–127 characters.
    pub realm: String,
    /// Who may allocate.
    pub credentials: Credentials,
    /// Other realms, each with addresses that `realm` is not at: no address in two of them.
    pub realms: Vec<Realm>,
    /// Where relayed transport addresses come from; at least one. The one that the client came by
    /// is preferred; else the first of the wanted family with a free port is taken, in turn.
    pub relay_addresses: Vec<RelayAddress>,
    /// The machine's other addresses. Their ports are services of the machine: no peers, unless
    /// the policy allows them by a rule of its own.
    pub other_addresses: Vec<IpAddr>,
    /// The ports this state machine may open on each of them.
    pub relay_ports: RangeInclusive<u16>,
    /// The ports that any state machine of this server may open: what of our own addresses a
    /// peer may be.
    pub relay_ports_all: RangeInclusive<u16>,
    /// Which channel numbers clients may use.
    pub channel_range: ChannelRange,
    /// Which peers may be reached.
    pub policy: Arc<Policy>,
    /// Where this server itself listens, for whatever: never a peer. Wildcards may be among them.
    pub listeners: Vec<SocketAddr>,
    /// What all state machines of this server count together.
    pub ledger: Ledger,
    /// How much of everything there may be.
    pub limits: Limits,
    /// Which extensions clients are offered.
    pub offers: Offers,
    /// Keys the nonces (RFC 8489 §9.2): equal on every shard.
    pub nonce_key: [u8; 32],
    /// Seeds the choice of relayed ports, reservation tokens and table hashing: from the
    /// operating system, another one for each state machine.
    pub seed: [u8; 32],
    /// Where clients can find out about their NATs; at most one for each family.
    pub discoveries: Vec<Discovery>,
}

/// Two addresses of one family, and two ports: datagrams arrive on all four transport addresses,
/// and Binding requests are answered from any of them (RFC 5780).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discovery {
    /// One of them.
    pub primary: SocketAddr,
    /// The one that differs in address and port.
    pub alternate: SocketAddr,
}

/// An address that relayed transport addresses are opened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayAddress {
    /// The address that is bound.
    pub address: IpAddr,
    /// The address that clients are told, when a 1:1 NAT stands in front; same family.
    pub external: Option<IpAddr>,
}

/// Bounds, each at least 1 unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Allocations of all state machines together; each of them may have them all.
    pub allocations_max: u32,
    /// Allocations of one user; 0: not limited.
    pub user_allocations_max: u32,
    /// Allocations of the clients of one prefix of addresses; 0: not limited.
    pub source_allocations_max: u32,
    /// How long that prefix is for IPv4, 1–32.
    pub source_prefix_v4: u8,
    /// How long that prefix is for IPv6, 1–128.
    pub source_prefix_v6: u8,
    /// Permissions of one allocation.
    pub permissions_per_allocation_max: usize,
    /// Channel bindings of one allocation.
    pub channels_per_allocation_max: usize,
    /// Addresses that one allocation may be permitted anew, per second; ten seconds' worth may come
    /// at once. 0: not limited.
    pub new_peers_per_sec: u32,
    /// LIFETIME when the client asks for none or for less, seconds (RFC 8656 §7.2: 600).
    pub lifetime_secs_default: u32,
    /// LIFETIME at most, seconds (RFC 8656 §7.2: 3600).
    pub lifetime_secs_max: u32,
    /// How long a nonce is good, seconds.
    pub nonce_secs: u32,
    /// Replies to unauthenticated requests from one IPv4 address or IPv6 /64, per second.
    pub unauthenticated_replies_per_sec: u32,
    /// Application data of each direction of an allocation that is relayed here, bytes per second;
    /// 0: not limited. The datapath has limits of its own.
    pub allocation_bytes_per_sec: u32,
    /// The same in packets per second.
    pub allocation_packets_per_sec: u32,
    /// What the allocations of one user may reserve, each `allocation_bytes_per_sec`, bytes per
    /// second; 0: not limited. Without that limit of an allocation, this one means nothing.
    pub user_bytes_per_sec: u64,
    /// The same for all allocations of all state machines.
    pub total_bytes_per_sec: u64,
    /// Whether no allocation outlives the time-limited credentials it was made or refreshed with.
    pub strict_expiry: bool,
    /// How users are looked up elsewhere; `None`: they are not.
    pub look_ups: Option<LookUps>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_max: 16_384,
            user_allocations_max: 1_024,
            source_allocations_max: 4_096,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            permissions_per_allocation_max: 128,
            channels_per_allocation_max: 128,
            new_peers_per_sec: 5,
            lifetime_secs_default: 600,
            lifetime_secs_max: 3600,
            nonce_secs: 3600,
            unauthenticated_replies_per_sec: 256,
            allocation_bytes_per_sec: 0,
            allocation_packets_per_sec: 0,
            user_bytes_per_sec: 0,
            total_bytes_per_sec: 0,
            strict_expiry: false,
            look_ups: None,
        }
    }
}
