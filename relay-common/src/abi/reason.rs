//! Why packets leave the kernel program as they do: the names of its counters.

use zerocopy::TryFromBytes;

use super::Direction;

/// Every way a packet leaves the program. One counter each, in `REASONS`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, TryFromBytes)]
#[repr(u32)]
pub enum Reason {
    /// Relayed: ChannelData from client to peer.
    ClientToPeer = 0,
    /// Relayed: from peer to client as ChannelData.
    PeerToClient = 1,
    /// Relayed: ChannelData from a client to another client of this relay.
    Hairpin = 2,
    /// Relayed: a Send indication from client to peer.
    SendIndication = 3,
    /// Relayed: from peer to client as a Data indication.
    DataIndication = 4,
    /// Answered: a Binding request.
    BindingAnswered = 5,
    /// Dropped: the allocation is over its limit of packets or bytes.
    Policed = 6,
    /// Dropped: a Binding request from a source that has had its share of replies.
    BindingOverBudget = 7,
    /// Passed: userspace has not configured the program, or is of another ABI.
    NotConfigured = 8,
    /// Passed: shorter than its headers.
    Truncated = 9,
    /// Passed: neither IPv4 nor IPv6 (ARP, more than two VLAN tags).
    NotIp = 10,
    /// Passed: tagged, and not for a VLAN of this machine.
    UnknownVlan = 11,
    /// Passed: to a group of stations (broadcast, multicast), which is never for a relay alone.
    GroupMac = 12,
    /// Passed: to another station than the interface that it arrived on (a switch that floods, an
    /// interface that listens to everything).
    OtherHost = 13,
    /// Passed: IPv4 options, or a version field that is not 4.
    Ipv4Options = 14,
    /// Passed: an IPv4 fragment.
    Fragment = 15,
    /// Passed: not UDP; on IPv6 also any extension header, and fragments with it.
    NotUdp = 16,
    /// Passed: the lengths of frame, IP and UDP disagree.
    Length = 17,
    /// Passed: neither a listening port nor a relayed port.
    NotOurPort = 18,
    /// Passed: neither ChannelData nor STUN, on a listening port.
    NotTurn = 19,
    /// Passed: STUN that is for userspace (requests with credentials, unusual indications).
    Stun = 20,
    /// Passed: a ChannelData length that the datagram does not have.
    ChannelLength = 21,
    /// Passed: no route for it (no channel bound, another peer, not installed).
    NoRoute = 22,
    /// Passed: an indication, or data for one, without a permission for the peer.
    NoPermission = 23,
    /// Passed: the deadline of route or permission is over.
    Expired = 24,
    /// Passed: route or permission are of another configuration epoch.
    StaleEpoch = 25,
    /// Passed: no hop is left.
    HopLimit = 26,
    /// Passed: no UDP checksum, towards or from IPv6.
    ChecksumMissing = 27,
    /// Passed: a wrong IPv4 header checksum, towards IPv6, where nothing would show it.
    HeaderChecksum = 28,
    /// Passed: the next hop is not resolved, nor does the kernel know another way.
    NextHopUnresolved = 29,
    /// Passed: larger than the egress MTU after rewriting.
    TooBig = 30,
    /// Passed: the route names an action that this program does not have.
    UnknownAction = 31,
    /// Passed: the driver leaves no room before or behind the frame.
    NoRoom = 32,
    /// Aborted: the frame could not be written after it had been changed.
    Aborted = 33,
}

impl Reason {
    /// Every reason, in order of their numbers.
    pub const ALL: [Self; 34] = [
        Self::ClientToPeer,
        Self::PeerToClient,
        Self::Hairpin,
        Self::SendIndication,
        Self::DataIndication,
        Self::BindingAnswered,
        Self::Policed,
        Self::BindingOverBudget,
        Self::NotConfigured,
        Self::Truncated,
        Self::NotIp,
        Self::UnknownVlan,
        Self::GroupMac,
        Self::OtherHost,
        Self::Ipv4Options,
        Self::Fragment,
        Self::NotUdp,
        Self::Length,
        Self::NotOurPort,
        Self::NotTurn,
        Self::Stun,
        Self::ChannelLength,
        Self::NoRoute,
        Self::NoPermission,
        Self::Expired,
        Self::StaleEpoch,
        Self::HopLimit,
        Self::ChecksumMissing,
        Self::HeaderChecksum,
        Self::NextHopUnresolved,
        Self::TooBig,
        Self::UnknownAction,
        Self::NoRoom,
        Self::Aborted,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientToPeer => "client_to_peer",
            Self::PeerToClient => "peer_to_client",
            Self::Hairpin => "hairpin",
            Self::SendIndication => "send_indication",
            Self::DataIndication => "data_indication",
            Self::BindingAnswered => "binding_answered",
            Self::Policed => "policed",
            Self::BindingOverBudget => "binding_over_budget",
            Self::NotConfigured => "not_configured",
            Self::Truncated => "truncated",
            Self::NotIp => "not_ip",
            Self::UnknownVlan => "unknown_vlan",
            Self::GroupMac => "group_mac",
            Self::OtherHost => "other_host",
            Self::Ipv4Options => "ipv4_options",
            Self::Fragment => "fragment",
            Self::NotUdp => "not_udp",
            Self::Length => "length",
            Self::NotOurPort => "not_our_port",
            Self::NotTurn => "not_turn",
            Self::Stun => "stun",
            Self::ChannelLength => "channel_length",
            Self::NoRoute => "no_route",
            Self::NoPermission => "no_permission",
            Self::Expired => "expired",
            Self::StaleEpoch => "stale_epoch",
            Self::HopLimit => "hop_limit",
            Self::ChecksumMissing => "checksum_missing",
            Self::HeaderChecksum => "header_checksum",
            Self::NextHopUnresolved => "next_hop_unresolved",
            Self::TooBig => "too_big",
            Self::UnknownAction => "unknown_action",
            Self::NoRoom => "no_room",
            Self::Aborted => "aborted",
        }
    }

    /// The direction that it relays in, if it does. A hairpin counts as from a client here; for its
    /// receiver's slot it is from a peer.
    #[must_use]
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::ClientToPeer | Self::Hairpin | Self::SendIndication => {
                Some(Direction::ClientToPeer)
            }
            Self::PeerToClient | Self::DataIndication => Some(Direction::PeerToClient),
            _ => None,
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
