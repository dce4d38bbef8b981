//! What userspace and the kernel program agree on: maps, keys, values, reasons.
//!
//! Words named *wire* hold network byte order as it lies in a packet; all others are the host's.
//! Every type is plain data without padding (`IntoBytes` proves it). A change of any of them is a
//! new [`ABI_VERSION`], and `docs/datapath.md` follows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod reason;
mod straight;

pub use reason::Reason;
pub use straight::{
    STRAIGHT_V4_MAX, STRAIGHT_V6_MAX, StraightV4, StraightV6, other_place, place_v4, place_v6,
};

/// The layout below. The kernel object carries it, and a loader refuses another.
pub const ABI_VERSION: u32 = 4;
/// The name of the XDP program in the object.
pub const PROGRAM: &str = "turnpike";

/// Map names, as they stand in the object.
pub mod map {
    /// [`super::RouteKeyV4`] → [`super::Route`].
    pub const ROUTES_V4: &str = "ROUTES_V4";
    /// [`super::RouteKeyV6`] → [`super::Route`].
    pub const ROUTES_V6: &str = "ROUTES_V6";
    /// [`super::place_v4`] → [`super::StraightV4`].
    pub const STRAIGHT_V4: &str = "STRAIGHT_V4";
    /// [`super::place_v6`] → [`super::StraightV6`].
    pub const STRAIGHT_V6: &str = "STRAIGHT_V6";
    /// [`super::PermissionKeyV4`] → [`super::Permission`].
    pub const PERMISSIONS_V4: &str = "PERMISSIONS_V4";
    /// [`super::PermissionKeyV6`] → [`super::Permission`].
    pub const PERMISSIONS_V6: &str = "PERMISSIONS_V6";
    /// Index → [`super::NextHop`].
    pub const NEXT_HOPS: &str = "NEXT_HOPS";
    /// Egress index ([`super::NextHop::port`]) → interface, for redirects.
    pub const PORTS: &str = "PORTS";
    /// Interface index → [`super::NextHop::port`], of interfaces that the program is attached to:
    /// where the kernel's own routing table may send packets.
    pub const EGRESS: &str = "EGRESS";
    /// Interface index modulo [`super::STATIONS_MAX`] → [`super::Station`] of an interface that the
    /// program is attached to.
    pub const STATIONS: &str = "STATIONS";
    /// [`super::LinkKey`] → [`super::Station`] of the VLAN device.
    pub const LINKS: &str = "LINKS";
    /// Allocation slot × 2 + direction → [`super::Policer`].
    pub const POLICERS: &str = "POLICERS";
    /// Hash of a source's prefix → the time (CLOCK_MONOTONIC, nanoseconds) until which Binding
    /// replies to it are paid for.
    pub const BUDGETS: &str = "BUDGETS";
    /// Allocation slot ÷ [`super::GROUP_SLOTS`] → [`super::SlotGroup`], per CPU. Nothing is ever
    /// cleared.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::Reason`] → [`super::Count`], per CPU.
    pub const REASONS: &str = "REASONS";
    /// Logarithm of nanoseconds → packets that took so long in the program, per CPU.
    pub const TIMES: &str = "TIMES";
    /// 0 → [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Carries [`super::ABI_VERSION`] as its number of entries, which a loader can read before it
    /// loads the program; the entries mean nothing.
    pub const ABI: &str = "ABI";
}

/// Routes of each wire family, unless the loader asks for another number.
pub const ROUTES_MAX: u32 = 131_072;
/// Permissions of each peer family, unless the loader asks for another number.
pub const PERMISSIONS_MAX: u32 = 131_072;
/// Places for interfaces that frames are taken from; a power of two. Of two whose indexes meet in
/// one, the other's frames go up.
pub const STATIONS_MAX: u32 = 1_024;
/// VLANs that frames are taken from.
pub const LINKS_MAX: u32 = 4_096;
/// Places for sources of Binding requests; sources whose hashes meet share one. A power of two.
pub const BUDGETS_MAX: u32 = 16_384;
/// Buckets of `TIMES`: bucket `n` counts times from 2ⁿ up to 2ⁿ⁺¹ nanoseconds; the last, all above.
pub const TIMES_BUCKETS: u32 = 24;
/// The global of the object that switches `TIMES` on when the loader sets it to 1. The verifier
/// sees its value and removes what is off.
pub const TIMES_SWITCH: &str = "MEASURE_TIMES";
/// Next hops.
pub const NEXT_HOPS_MAX: u32 = 65_536;
/// Interfaces that packets can be redirected to.
pub const PORTS_MAX: u32 = 64;
/// Allocation slots.
pub const SLOTS_MAX: u32 = 65_536;
/// Slots that share an entry of `SLOTS`, a power of two: the kernel keeps a pointer for each entry,
/// and fewer pointers stay in the caches.
pub const GROUP_SLOTS: u32 = 16;
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

/// [`Terms::action`]: remove the ChannelData header (client to peer).
pub const ACTION_STRIP: u8 = 1;
/// [`Terms::action`]: put a ChannelData header in front (peer to client).
pub const ACTION_WRAP: u8 = 2;
/// [`Terms::action`]: write another channel number (client to client: the peer is an allocation of
/// this relay, whose client gets the data by a channel of its own).
pub const ACTION_SWAP: u8 = 3;
/// [`Terms::action`], of a key with channel 0 on a listening port: this 5-tuple has an allocation,
/// and its Send indications leave by `src` and `src_port`, the relayed transport address. Where to
/// and until when is for `PERMISSIONS_*` to say; `dst`, `channel`, deltas and next hop are zero.
pub const ACTION_SEND: u8 = 4;
/// [`Terms::action`], of a key with source address, source port and channel 0: the destination is a
/// TURN server transport address, and Binding requests to it are answered. Only deadline and epoch
/// mean anything.
pub const ACTION_ANSWER: u8 = 5;

/// [`Terms::flags`], [`Permission::flags`]: what leaves is IPv6 (towards the client, in a
/// permission); else IPv4. For [`ACTION_SEND`], the family of the relayed transport address.
pub const FLAG_V6: u8 = 1;
/// [`Terms::flags`], [`Permission::flags`]: `POLICERS` has limits for the slot (and for the peer's
/// slot, if the route has one).
pub const FLAG_POLICED: u8 = 2;

/// On what terms a packet is relayed: all of a [`Route`] but the addresses that it leaves with.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Terms {
    /// Relayed strictly before this time; CLOCK_MONOTONIC, nanoseconds.
    pub deadline_ns: u64,
    /// New source port (wire).
    pub src_port: u16,
    /// New destination port (wire).
    pub dst_port: u16,
    /// Channel number to write (wire), for [`ACTION_WRAP`] and [`ACTION_SWAP`]; else 0.
    pub channel: u16,
    /// `ACTION_*`; anything else is passed up.
    pub action: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// What the new addresses and ports, and for [`ACTION_SWAP`] the new channel number, add to the
    /// UDP checksum's sum (wire words).
    pub udp_delta: u16,
    /// IPv4 to IPv4: what the new addresses add to the header checksum's sum (wire words). IPv6 to
    /// IPv4: the sum of the new addresses. Else 0.
    pub ip_delta: u16,
    /// Allocation slot that the packet is counted in: of the client, whichever way it goes; for
    /// [`ACTION_SWAP`] that of the sender.
    pub slot: u32,
    /// For [`ACTION_SWAP`]: the slot of the receiver, where the packet counts as one from a peer.
    /// Else 0.
    pub peer_slot: u32,
    /// Index into `NEXT_HOPS`.
    pub next_hop: u16,
    /// The configuration epoch that made the decision; a route of another epoch is a miss.
    pub epoch: u16,
}

/// A decision of userspace: what leaves when the key arrives, and until when.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Route {
    /// All but the addresses.
    pub terms: Terms,
    /// New source address (wire): ours. IPv4 in the first word.
    pub src: [u32; 4],
    /// New destination address (wire). IPv4 in the first word.
    pub dst: [u32; 4],
}

/// Identifies a permission (RFC 8656 §9) by relayed transport address and peer, on an IPv4 wire.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PermissionKeyV4 {
    /// Relayed transport address's address (wire).
    pub relayed: u32,
    /// Peer's address (wire).
    pub peer: u32,
    /// Relayed transport address's port (wire).
    pub relayed_port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Identifies a permission (RFC 8656 §9) by relayed transport address and peer, on an IPv6 wire.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PermissionKeyV6 {
    /// Relayed transport address's address (wire).
    pub relayed: [u32; 4],
    /// Peer's address (wire).
    pub peer: [u32; 4],
    /// Relayed transport address's port (wire).
    pub relayed_port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// A permission: indications between its client and any port of its peer are relayed.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Permission {
    /// In force strictly before this time, the earlier of permission and allocation;
    /// CLOCK_MONOTONIC, nanoseconds.
    pub deadline_ns: u64,
    /// The client's address (wire), where Data indications go to. IPv4 in the first word.
    pub client: [u32; 4],
    /// The server's address (wire), where they come from. IPv4 in the first word.
    pub server: [u32; 4],
    /// The client's port (wire).
    pub client_port: u16,
    /// The server's port (wire).
    pub server_port: u16,
    /// `FLAG_*`.
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// The configuration epoch that gave it; one of another epoch is none.
    pub epoch: u16,
    /// Allocation slot that packets are counted in.
    pub slot: u32,
    /// Index into `NEXT_HOPS`, towards the client.
    pub to_client: u16,
    /// Index into `NEXT_HOPS`, towards the peer.
    pub to_peer: u16,
    /// Zero.
    pub reserved_too: [u32; 2],
}

/// Tags of a frame at most.
pub const TAGS_MAX: usize = 2;

/// A VLAN tag as it stands behind the MAC addresses.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Tag {
    /// Tag protocol (wire): [`crate::wire::net::ether_type::VLAN`] or `VLAN_OUTER`; 0: no tag.
    pub protocol: u16,
    /// VLAN identifier (wire); priority and drop eligibility are zero, in keys and in what leaves.
    pub id: u16,
}

/// A VLAN on an interface: what tagged frames may be taken from.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LinkKey {
    /// Outermost first; a second one of zeros with one tag.
    pub tags: [Tag; TAGS_MAX],
    /// The interface that the program is attached to.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

impl LinkKey {
    /// Of tags on an interface.
    #[must_use]
    pub const fn new(ifindex: u32, tags: [Tag; TAGS_MAX]) -> Self {
        Self { tags, ifindex, reserved: 0 }
    }
}

/// Whom frames are for: an interface, or a VLAN device above one.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Station {
    /// Its index; 0: none.
    pub ifindex: u32,
    /// Its MAC address (wire). Frames to another are not ours to relay.
    pub mac: [u16; 3],
    /// Zero.
    pub reserved: u16,
}

/// The limits of one direction of an allocation, and how much of them is used up: two token buckets
/// as virtual times ([`crate::police`]).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Policer {
    /// When the bucket of packets is full again; CLOCK_MONOTONIC, nanoseconds. The kernel's.
    pub packets_full_ns: u64,
    /// When the bucket of bytes is full again; CLOCK_MONOTONIC, nanoseconds. The kernel's.
    pub bytes_full_ns: u64,
    /// What a packet costs, nanoseconds; 0: packets are not limited.
    pub packet_cost: u64,
    /// What a byte of application data costs, 2⁻¹⁶ nanoseconds; 0: bytes are not limited.
    pub byte_cost: u64,
    /// How far ahead of the present a bucket may be when a packet is let through, nanoseconds.
    pub burst_ns: u64,
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
    /// Egress interface's MAC address (wire). Untagged frames that arrive by it and leave by it are
    /// ours when this is where they are sent to.
    pub src_mac: [u16; 3],
    /// Egress interface.
    pub ifindex: u32,
    /// Egress interface's index in `PORTS`.
    pub port: u32,
    /// Largest IP packet that may leave, bytes.
    pub mtu: u32,
    /// Tags to write, outermost first.
    pub tags: [Tag; TAGS_MAX],
    /// How many of them.
    pub tag_count: u16,
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

/// What was relayed for [`GROUP_SLOTS`] slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotGroup {
    /// In order of [`Direction`], and then of slots.
    pub counts: [[Count; GROUP_SLOTS as usize]; Direction::ALL.len()],
}

/// What the kernel program must know of the configuration.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// What a Binding reply costs a source, nanoseconds; 0: userspace answers.
    pub answer_cost_ns: u64,
    /// How far ahead of the present a source's budget may be when it is answered, nanoseconds.
    pub answer_burst_ns: u64,
    /// Keeps sources from choosing whose place in `BUDGETS` they share.
    pub budget_key: u64,
    /// Keeps clients and peers from choosing whose place in `STRAIGHT_*` they share.
    pub place_key: u64,
    /// [`ABI_VERSION`] of the userspace that wrote this; 0: not configured yet, everything passes.
    pub abi_version: u32,
    /// Routes and permissions of any other epoch are misses.
    pub epoch: u16,
    /// First port of the relayed range (host order).
    pub relayed_first: u16,
    /// Last port of the relayed range (host order).
    pub relayed_last: u16,
    /// Highest channel number that a client may use (host order).
    pub channel_last: u16,
    /// How many of `listen_ports` are set.
    pub listen_ports_count: u16,
    /// Zero.
    pub reserved: u16,
    /// Ports of TURN server transport addresses (wire).
    pub listen_ports: [u16; LISTEN_PORTS_MAX],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_part_of_the_abi() {
        let sizes = [
            size_of::<RouteKeyV4>(),
            size_of::<RouteKeyV6>(),
            size_of::<Terms>(),
            size_of::<Route>(),
            size_of::<StraightV4>(),
            size_of::<StraightV6>(),
            size_of::<PermissionKeyV4>(),
            size_of::<PermissionKeyV6>(),
            size_of::<Permission>(),
            size_of::<LinkKey>(),
            size_of::<Station>(),
            size_of::<Policer>(),
            size_of::<NextHop>(),
            size_of::<Count>(),
            size_of::<Config>(),
        ];
        assert_eq!(
            sizes,
            [16, 40, 32, 64, 64, 128, 16, 40, 64, 16, 12, 40, 36, 16, 80],
            "a change is a new ABI_VERSION"
        );
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL[..index].iter().all(|other| other.name() != reason.name()));
        }
    }
}
