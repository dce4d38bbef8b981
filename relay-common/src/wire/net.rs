//! Ethernet, IPv4, IPv6 and UDP headers as they lie in memory.
//!
//! Every field is a word in network byte order, unless its comment says otherwise: the packet
//! path compares and copies raw words and swaps only what it computes with. All types have
//! alignment 2 and no padding, so that one bounds check covers a whole stack of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A raw word in network byte order, from a host number.
#[must_use]
#[inline(always)]
pub const fn be16(host: u16) -> u16 {
    host.to_be()
}

/// EtherTypes, network byte order.
pub mod ether_type {
    use super::be16;
    /// IPv4.
    pub const IPV4: u16 = be16(0x0800);
    /// IPv6.
    pub const IPV6: u16 = be16(0x86DD);
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = be16(0x8100);
    /// An outer VLAN tag (IEEE 802.1ad).
    pub const VLAN_OUTER: u16 = be16(0x88A8);
}

/// The protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: usize = size_of::<Ethernet>();
/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: usize = size_of::<Ipv4>();
/// Bytes of an IPv6 header.
pub const IPV6_BYTES: usize = size_of::<Ipv6>();
/// Bytes of a UDP header.
pub const UDP_BYTES: usize = size_of::<Udp>();

/// Ethernet II.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC address.
    pub dst: [u16; 3],
    /// Source MAC address.
    pub src: [u16; 3],
    /// EtherType.
    pub ether_type: u16,
}

/// IPv4 without options (RFC 791 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length; 0x45 without options.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags (DF, MF) and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub src: [u16; 2],
    /// Destination address.
    pub dst: [u16; 2],
}

/// IPv6 (RFC 8200 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class and flow label.
    pub version_class_flow: [u16; 2],
    /// Payload, bytes.
    pub payload_len: u16,
    /// Next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u16; 8],
    /// Destination address.
    pub dst: [u16; 8],
}

/// UDP (RFC 768).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Header and payload, bytes.
    pub len: u16,
    /// Checksum; 0 means none, on IPv4 only.
    pub checksum: u16,
}

/// The ChannelData header (RFC 8656 §12.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Channel {
    /// Channel number.
    pub number: u16,
    /// Application data, bytes.
    pub len: u16,
}

/// Ethernet, IPv4, UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Udp {
    /// Link.
    pub eth: Ethernet,
    /// Network.
    pub ip: Ipv4,
    /// Transport.
    pub udp: Udp,
}

/// Ethernet, IPv4, UDP, ChannelData header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Channel {
    /// Link, network and transport.
    pub outer: Ipv4Udp,
    /// Channel.
    pub channel: Channel,
}

/// Ethernet, IPv6, UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Udp {
    /// Link.
    pub eth: Ethernet,
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub udp: Udp,
}

/// Ethernet, IPv6, UDP, ChannelData header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Channel {
    /// Link, network and transport.
    pub outer: Ipv6Udp,
    /// Channel.
    pub channel: Channel,
}

// No padding: IntoBytes proves it; these pin the sizes the wire demands.
const _: () = assert!(ETHERNET_BYTES == 14 && IPV4_BYTES == 20);
const _: () = assert!(IPV6_BYTES == 40 && UDP_BYTES == 8);
const _: () = assert!(align_of::<Ipv6Channel>() == 2 && align_of::<Ipv4Channel>() == 2);
