//! What userspace and the kernel program agree on: maps, keys, values, reasons.
//!
//! Words named *wire* hold network byte order as it lies in a packet; all others are the host's.
//! Every type is plain data without padding (`IntoBytes` proves it). A change of any of them is a
//! new [`ABI_VERSION`], and `docs/datapath.md` follows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The layout below. The kernel object carries it, and a loader refuses another.
pub const ABI_VERSION: u32 = 1;
/// The name of the XDP program in the object.
pub const PROGRAM: &str = "turnpike";

/// Map names, as they stand in the object.
pub mod map {
    /// [`super::RouteKeyV4`] → [`super::Route`].
    pub const ROUTES_V4: &str = "ROUTES_V4";
    /// [`super::RouteKeyV6`] → [`super::Route`].
    pub const ROUTES_V6: &str = "ROUTES_V6";
    /// Index → [`super::NextHop`].
    pub const NEXT_HOPS: &str = "NEXT_HOPS";
    /// Egress index ([`super::NextHop::port`]) → interface, for redirects.
    pub const PORTS: &str = "PORTS";
    /// Allocation slot × 2 + direction → [`super::Count`], per CPU.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::Reason`] → [`super::Count`], per CPU.
    pub const REASONS: &str = "REASONS";
    /// 0 → [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Carries [`super::ABI_VERSION`] as its number of entries, which a loader can read before it
    /// loads the program; the entries mean nothing.
    pub const ABI: &str = "ABI";
}

/// Routes of each wire family, unless the loader asks for another number.
pub const ROUTES_MAX: u32 = 131_072;
/// Next hops.
pub const NEXT_HOPS_MAX: u32 = 65_536;
/// Interfaces that packets can be redirected to.
pub const PORTS_MAX: u32 = 64;
/// Allocation slots.
pub const SLOTS_MAX: u32 = 65_536;
/// Listening ports that the kernel looks for ChannelData on.
pub const LISTEN_PORTS_MAX: usize = 16;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Direction {
    /// From the client, by its channel, to the peer.
    ClientToPeer = 0,
    /// From the peer, by the relayed address, to the client.
    PeerToClient = 1,
}

impl Direction {
    /// Both, in order of their numbers.
    pub const ALL: [Self; 2] = [Self::ClientToPeer, Self::PeerToClient];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientToPeer => "client_to_peer",
            Self::PeerToClient => "peer_to_client",
        }
    }
}

/// Identifies a route by what arrives on an IPv4 wire.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RouteKeyV4 {
    /// Source address (wire): the client's or the peer's.
    pub src: u32,
    /// Destination address (wire): ours.
    pub dst: u32,
    /// Source port (wire).
    pub src_port: u16,
    /// Destination port (wire).
    pub dst_port: u16,
    /// Channel number (wire); 0 on the relayed side.
    pub channel: u16,
    /// Zero.
    pub reserved: u16,
}

/// Identifies a route by what arrives on an IPv6 wire.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RouteKeyV6 {
    /// Source address (wire): the client's or the peer's.
    pub src: [u32; 4],
    /// Destination address (wire): ours.
    pub dst: [u32; 4],
    /// Source port (wire).
    pub src_port: u16,
    /// Destination port (wire).
    pub dst_port: u16,
    /// Channel number (wire); 0 on the relayed side.
    pub channel: u16,
    /// Zero.
    pub reserved: u16,
}

/// [`Route::action`]: remove the ChannelData header (client to peer).
pub const ACTION_STRIP: u16 = 1;
/// [`Route::action`]: put a ChannelData header in front (peer to client).
pub const ACTION_WRAP: u16 = 2;

/// A decision of userspace: what leaves when the key arrives, and until when.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Route {
    /// Relayed strictly before this time; CLOCK_MONOTONIC, nanoseconds.
    pub deadline_ns: u64,
    /// New source address (wire): ours. IPv4 in the first word.
    pub src: [u32; 4],
    /// New destination address (wire). IPv4 in the first word.
    pub dst: [u32; 4],
    /// New source port (wire).
    pub src_port: u16,
    /// New destination port (wire).
    pub dst_port: u16,
    /// Channel number to write (wire), for [`ACTION_WRAP`]; else 0.
    pub channel: u16,
    /// [`ACTION_STRIP`] or [`ACTION_WRAP`]; anything else is passed up.
    pub action: u16,
    /// What the new addresses and ports add to the UDP checksum's sum (wire words).
    pub udp_delta: u16,
    /// What the new addresses add to the IPv4 header checksum's sum (wire words); else 0.
    pub ip_delta: u16,
    /// Allocation slot that the packet is counted in.
    pub slot: u32,
    /// Index into `NEXT_HOPS`.
    pub next_hop: u32,
    /// The configuration epoch that made the decision; a route of another epoch is a miss.
    pub epoch: u32,
}

/// [`NextHop::state`]: resolved, usable.
pub const NEXT_HOP_VALID: u16 = 1;

/// Where a packet leaves the machine; kept current from rtnetlink.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NextHop {
    /// Neighbour's MAC address (wire).
    pub dst_mac: [u16; 3],
    /// Egress interface's MAC address (wire).
    pub src_mac: [u16; 3],
    /// Egress interface.
    pub ifindex: u32,
    /// Egress interface's index in `PORTS`.
    pub port: u32,
    /// Largest IP packet that may leave, bytes.
    pub mtu: u32,
    /// Zero: VLAN tag of the egress, when tags are supported.
    pub vlan: u16,
    /// [`NEXT_HOP_VALID`], or 0 while unresolved.
    pub state: u16,
}

/// Packets and bytes. Bytes are application data: what the client and the peer exchange, without
/// any header; 0 for packets that were not relayed.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of application data.
    pub bytes: u64,
}

/// What the kernel program must know of the configuration.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of the userspace that wrote this; 0: not configured yet, everything passes.
    pub abi_version: u32,
    /// Routes of any other epoch are misses.
    pub epoch: u32,
    /// First port of the relayed range (host order).
    pub relayed_first: u16,
    /// Last port of the relayed range (host order).
    pub relayed_last: u16,
    /// Highest channel number that a client may use (host order).
    pub channel_last: u16,
    /// How many of `listen_ports` are set.
    pub listen_ports_count: u16,
    /// Ports of TURN server transport addresses (wire).
    pub listen_ports: [u16; LISTEN_PORTS_MAX],
}

/// Every way a packet leaves the program. One counter each, in `REASONS`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Reason {
    /// Relayed from client to peer.
    ClientToPeer = 0,
    /// Relayed from peer to client.
    PeerToClient = 1,
    /// Passed: userspace has not configured the program, or is of another ABI.
    NotConfigured = 2,
    /// Passed: shorter than its headers.
    Truncated = 3,
    /// Passed: neither IPv4 nor IPv6 (ARP, VLAN tags).
    NotIp = 4,
    /// Passed: IPv4 options, or a version field that is not 4.
    Ipv4Options = 5,
    /// Passed: an IPv4 fragment.
    Fragment = 6,
    /// Passed: not UDP; on IPv6 also any extension header, and fragments with it.
    NotUdp = 7,
    /// Passed: the lengths of frame, IP and UDP disagree.
    Length = 8,
    /// Passed: neither a listening port nor a relayed port.
    NotOurPort = 9,
    /// Passed: STUN or something else on a listening port.
    NotChannelData = 10,
    /// Passed: a ChannelData length that is not exactly the datagram's; padding, mostly.
    ChannelLength = 11,
    /// Passed: no route for it (no channel bound, another peer, not installed).
    NoRoute = 12,
    /// Passed: the route's deadline is over.
    Expired = 13,
    /// Passed: the route is of another configuration epoch.
    StaleEpoch = 14,
    /// Passed: hop limit of 1 or 0.
    HopLimit = 15,
    /// Passed: no UDP checksum on IPv6.
    ChecksumMissing = 16,
    /// Passed: the next hop is not resolved.
    NextHopUnresolved = 17,
    /// Passed: larger than the egress MTU after rewriting.
    TooBig = 18,
    /// Passed: the route names an action that this program does not have.
    UnknownAction = 19,
    /// Passed: the driver leaves no room in front of the frame.
    NoHeadroom = 20,
    /// Aborted: the frame could not be written after it had been changed.
    Aborted = 21,
}

impl Reason {
    /// Every reason, in order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::ClientToPeer,
        Self::PeerToClient,
        Self::NotConfigured,
        Self::Truncated,
        Self::NotIp,
        Self::Ipv4Options,
        Self::Fragment,
        Self::NotUdp,
        Self::Length,
        Self::NotOurPort,
        Self::NotChannelData,
        Self::ChannelLength,
        Self::NoRoute,
        Self::Expired,
        Self::StaleEpoch,
        Self::HopLimit,
        Self::ChecksumMissing,
        Self::NextHopUnresolved,
        Self::TooBig,
        Self::UnknownAction,
        Self::NoHeadroom,
        Self::Aborted,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientToPeer => "client_to_peer",
            Self::PeerToClient => "peer_to_client",
            Self::NotConfigured => "not_configured",
            Self::Truncated => "truncated",
            Self::NotIp => "not_ip",
            Self::Ipv4Options => "ipv4_options",
            Self::Fragment => "fragment",
            Self::NotUdp => "not_udp",
            Self::Length => "length",
            Self::NotOurPort => "not_our_port",
            Self::NotChannelData => "not_channel_data",
            Self::ChannelLength => "channel_length",
            Self::NoRoute => "no_route",
            Self::Expired => "expired",
            Self::StaleEpoch => "stale_epoch",
            Self::HopLimit => "hop_limit",
            Self::ChecksumMissing => "checksum_missing",
            Self::NextHopUnresolved => "next_hop_unresolved",
            Self::TooBig => "too_big",
            Self::UnknownAction => "unknown_action",
            Self::NoHeadroom => "no_headroom",
            Self::Aborted => "aborted",
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < Reason::ALL.len() {
        assert!(Reason::ALL[index] as usize == index);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_part_of_the_abi() {
        let sizes = [
            size_of::<RouteKeyV4>(),
            size_of::<RouteKeyV6>(),
            size_of::<Route>(),
            size_of::<NextHop>(),
            size_of::<Count>(),
            size_of::<Config>(),
        ];
        assert_eq!(sizes, [16, 40, 64, 28, 16, 48], "a change is a new ABI_VERSION");
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL[..index].iter().all(|other| other.name() != reason.name()));
        }
    }
}
