//! What the server counts: plain integers, summed over shards by their reader.
//! Owns the names; never a user or an address among them.

use relay_common::abi::{Count, Direction};
use relay_common::addr::{Family, Transport};
use relay_common::wire::stun::Method;

use crate::key::IntegrityKind;
use crate::proof::{KeyKind, Proof, Proofs};
use crate::{DeniedBy, Quota, Refusal};

/// How a request was answered: success, or the number of ERROR-CODE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// A success response.
    Success,
    /// 300.
    TryAlternate,
    /// 400.
    BadRequest,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 405.
    MobilityForbidden,
    /// 420.
    UnknownAttribute,
    /// 437.
    AllocationMismatch,
    /// 438.
    StaleNonce,
    /// 440.
    AddressFamilyNotSupported,
    /// 441.
    WrongCredentials,
    /// 442.
    UnsupportedTransport,
    /// 443.
    PeerAddressFamilyMismatch,
    /// 486.
    AllocationQuotaReached,
    /// 500.
    ServerError,
    /// 508.
    InsufficientCapacity,
}

impl Code {
    /// Every code, in the order used for metrics.
    pub const ALL: [Self; 16] = [
        Self::Success,
        Self::TryAlternate,
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::MobilityForbidden,
        Self::UnknownAttribute,
        Self::AllocationMismatch,
        Self::StaleNonce,
        Self::AddressFamilyNotSupported,
        Self::WrongCredentials,
        Self::UnsupportedTransport,
        Self::PeerAddressFamilyMismatch,
        Self::AllocationQuotaReached,
        Self::ServerError,
        Self::InsufficientCapacity,
    ];

    /// Its name in metrics: `success`, or the number.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::TryAlternate => "300",
            Self::BadRequest => "400",
            Self::Unauthenticated => "401",
            Self::Forbidden => "403",
            Self::MobilityForbidden => "405",
            Self::UnknownAttribute => "420",
            Self::AllocationMismatch => "437",
            Self::StaleNonce => "438",
            Self::AddressFamilyNotSupported => "440",
            Self::WrongCredentials => "441",
            Self::UnsupportedTransport => "442",
            Self::PeerAddressFamilyMismatch => "443",
            Self::AllocationQuotaReached => "486",
            Self::ServerError => "500",
            Self::InsufficientCapacity => "508",
        }
    }

    /// The number of ERROR-CODE; 0 for a success response.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Success => 0,
            Self::TryAlternate => 300,
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::MobilityForbidden => 405,
            Self::UnknownAttribute => 420,
            Self::AllocationMismatch => 437,
            Self::StaleNonce => 438,
            Self::AddressFamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::UnsupportedTransport => 442,
            Self::PeerAddressFamilyMismatch => 443,
            Self::AllocationQuotaReached => 486,
            Self::ServerError => 500,
            Self::InsufficientCapacity => 508,
        }
    }
}

/// What a request asked for, as metrics tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RequestMethod {
    /// Binding (RFC 8489).
    Binding,
    /// Allocate.
    Allocate,
    /// Refresh.
    Refresh,
    /// CreatePermission.
    CreatePermission,
    /// ChannelBind.
    ChannelBind,
}

impl RequestMethod {
    /// Every method, in the order used for metrics.
    pub const ALL: [Self; 5] =
        [Self::Binding, Self::Allocate, Self::Refresh, Self::CreatePermission, Self::ChannelBind];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
        }
    }

    /// `None`: a method whose requests this server does not know.
    pub(crate) const fn of(method: Method) -> Option<Self> {
        Some(match method {
            Method::BINDING => Self::Binding,
            Method::ALLOCATE => Self::Allocate,
            Method::REFRESH => Self::Refresh,
            Method::CREATE_PERMISSION => Self::CreatePermission,
            Method::CHANNEL_BIND => Self::ChannelBind,
            _ => return None,
        })
    }

    pub(crate) const fn method(self) -> Method {
        match self {
            Self::Binding => Method::BINDING,
            Self::Allocate => Method::ALLOCATE,
            Self::Refresh => Method::REFRESH,
            Self::CreatePermission => Method::CREATE_PERMISSION,
            Self::ChannelBind => Method::CHANNEL_BIND,
        }
    }
}

/// Why a datagram was neither answered nor relayed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// From a client: neither STUN nor ChannelData by its first byte, or empty.
    NotTurn,
    /// Looks like STUN, but its header, length or attributes are broken.
    MalformedStun,
    /// FINGERPRINT is there and wrong.
    BadFingerprint,
    /// A response, which a server never asks for.
    UnexpectedClass,
    /// A request of a method that a server does not take (RFC 8489 §6.3).
    UnknownMethod,
    /// An indication of a method that a server does not take.
    UnknownIndication,
    /// A Send indication without a peer or without data, or with a peer that is no address.
    MalformedIndication,
    /// An indication with a comprehension-required attribute that is not known.
    UnknownAttribute,
    /// A request or its answer beyond what one unauthenticated source may cause.
    RateLimited,
    /// The reply to an unauthenticated request would be too much larger than it.
    Amplification,
    /// A repeated Allocate whose relayed transport address is still being opened.
    AllocationPending,
    /// A repeated request whose user is still being looked up.
    LookUpPending,
    /// A request that cannot wait for its user to be looked up: too many wait, or it is too long.
    LookUpBusy,
    /// From a client: no allocation on the 5-tuple.
    NoAllocation,
    /// From a peer: the allocation is gone.
    StaleAllocation,
    /// ChannelData on a number outside the range.
    ChannelNumber,
    /// ChannelData whose length field disagrees with the datagram.
    ChannelLength,
    /// ChannelData on a number that no peer is bound to.
    UnboundChannel,
    /// No permission for the peer's address.
    NoPermission,
    /// A peer that may not be reached or heard: a denied port of our own, port 0, another family.
    PeerDenied,
    /// Does not fit into a datagram once it has its head.
    TooBig,
    /// The allocation is over its limit of packets or bytes.
    Policed,
}

impl DropReason {
    /// Every reason, in the order used for metrics.
    pub const ALL: [Self; 22] = [
        Self::NotTurn,
        Self::MalformedStun,
        Self::BadFingerprint,
        Self::UnexpectedClass,
        Self::UnknownMethod,
        Self::UnknownIndication,
        Self::MalformedIndication,
        Self::UnknownAttribute,
        Self::RateLimited,
        Self::Amplification,
        Self::AllocationPending,
        Self::LookUpPending,
        Self::LookUpBusy,
        Self::NoAllocation,
        Self::StaleAllocation,
        Self::ChannelNumber,
        Self::ChannelLength,
        Self::UnboundChannel,
        Self::NoPermission,
        Self::PeerDenied,
        Self::TooBig,
        Self::Policed,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotTurn => "not_turn",
            Self::MalformedStun => "malformed_stun",
            Self::BadFingerprint => "bad_fingerprint",
            Self::UnexpectedClass => "unexpected_class",
            Self::UnknownMethod => "unknown_method",
            Self::UnknownIndication => "unknown_indication",
            Self::MalformedIndication => "malformed_indication",
            Self::UnknownAttribute => "unknown_attribute",
            Self::RateLimited => "rate_limited",
            Self::Amplification => "amplification",
            Self::AllocationPending => "allocation_pending",
            Self::LookUpPending => "look_up_pending",
            Self::LookUpBusy => "look_up_busy",
            Self::NoAllocation => "no_allocation",
            Self::StaleAllocation => "stale_allocation",
            Self::ChannelNumber => "channel_number",
            Self::ChannelLength => "channel_length",
            Self::UnboundChannel => "unbound_channel",
            Self::NoPermission => "no_permission",
            Self::PeerDenied => "peer_denied",
            Self::TooBig => "too_big",
            Self::Policed => "policed",
        }
    }
}

/// What became of an ICMP error about a datagram to a peer (RFC 8656 §11.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IcmpOutcome {
    /// The client was told, in a Data indication.
    Relayed,
    /// A type that clients are not told of.
    OtherType,
    /// The allocation is gone.
    StaleAllocation,
    /// No permission for the peer's address.
    NoPermission,
    /// More than an allocation's client is told of.
    RateLimited,
}

impl IcmpOutcome {
    /// Every outcome, in the order used for metrics.
    pub const ALL: [Self; 5] = [
        Self::Relayed,
        Self::OtherType,
        Self::StaleAllocation,
        Self::NoPermission,
        Self::RateLimited,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::OtherType => "other_type",
            Self::StaleAllocation => "stale_allocation",
            Self::NoPermission => "no_permission",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// How a look-up of a user ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LookUpOutcome {
    /// There is such a user.
    Found,
    /// There is none.
    Absent,
    /// It failed, and what was known before is used for a little longer.
    Stale,
    /// It failed: the client was told 500.
    Failed,
}

impl LookUpOutcome {
    /// Every outcome, in the order used for metrics.
    pub const ALL: [Self; 4] = [Self::Found, Self::Absent, Self::Stale, Self::Failed];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Absent => "absent",
            Self::Stale => "stale",
            Self::Failed => "failed",
        }
    }
}

/// All counts of one [`crate::Turn`], or of several added up. Gauges say how many there are now,
/// everything else only grows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// Gauge: permissions.
    pub permissions: u64,
    /// Gauge: channel bindings that relay.
    pub channels: u64,
    /// Gauge: ports held by EVEN-PORT reservations.
    pub reservations: u64,
    /// ChannelBind requests refused for a number that only RFC 5766 allows, 0x5000–0x7FFF: a sign
    /// of clients that need `ChannelRange::Rfc5766`.
    pub channel_numbers_rfc5766_refused: u64,
    /// Allocations that went to another 5-tuple (RFC 8016).
    pub moves: u64,
    allocations: [u64; Family::ALL.len()],
    requests: [[u64; Code::ALL.len()]; RequestMethod::ALL.len()],
    relayed: [Count; Direction::ALL.len()],
    dropped: [u64; DropReason::ALL.len()],
    icmp: [u64; IcmpOutcome::ALL.len()],
    denied: [u64; DeniedBy::ALL.len()],
    over_quota: [u64; Quota::ALL.len()],
    proofs: Proofs,
    look_ups: [u64; LookUpOutcome::ALL.len()],
}

impl Snapshot {
    /// Gauge: allocations, by the transport to the client and the family of the relayed transport
    /// address. One with an address of each family counts for both.
    #[must_use]
    pub const fn allocations(&self, transport: Transport, family: Family) -> u64 {
        match transport {
            Transport::Udp => self.allocations[family as usize],
        }
    }

    /// Requests that were answered.
    #[must_use]
    pub const fn requests(&self, method: RequestMethod, code: Code) -> u64 {
        self.requests[method as usize][code as usize]
    }

    /// Packets relayed here, not by the kernel; bytes of application data.
    #[must_use]
    pub const fn relayed(&self, direction: Direction) -> Count {
        self.relayed[direction as usize]
    }

    /// Datagrams that were neither answered nor relayed.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// ICMP errors about datagrams to peers.
    #[must_use]
    pub const fn icmp(&self, outcome: IcmpOutcome) -> u64 {
        self.icmp[outcome as usize]
    }

    /// Requests that were refused because of their peer, by the kind of rule.
    #[must_use]
    pub const fn denied(&self, by: DeniedBy) -> u64 {
        self.denied[by as usize]
    }

    /// Requests that were refused because of a quota.
    #[must_use]
    pub const fn over_quota(&self, quota: Quota) -> u64 {
        self.over_quota[quota as usize]
    }

    /// Requests that were authenticated, by the attribute that proved it and by the key.
    #[must_use]
    pub const fn authenticated(&self, integrity: IntegrityKind, key: KeyKind) -> u64 {
        self.proofs.of(integrity, key)
    }

    /// Look-ups of users.
    #[must_use]
    pub const fn look_ups(&self, outcome: LookUpOutcome) -> u64 {
        self.look_ups[outcome as usize]
    }

    /// Adds what another shard counted.
    pub fn add(&mut self, other: &Self) {
        self.permissions += other.permissions;
        self.channels += other.channels;
        self.reservations += other.reservations;
        self.channel_numbers_rfc5766_refused += other.channel_numbers_rfc5766_refused;
        self.moves += other.moves;
        add_each(&mut self.allocations, &other.allocations);
        for (mine, theirs) in self.requests.iter_mut().zip(&other.requests) {
            add_each(mine, theirs);
        }
        for (mine, theirs) in self.relayed.iter_mut().zip(&other.relayed) {
            mine.packets += theirs.packets;
            mine.bytes += theirs.bytes;
        }
        add_each(&mut self.dropped, &other.dropped);
        add_each(&mut self.icmp, &other.icmp);
        add_each(&mut self.denied, &other.denied);
        add_each(&mut self.over_quota, &other.over_quota);
        self.proofs.add(&other.proofs);
        add_each(&mut self.look_ups, &other.look_ups);
    }

    pub(crate) const fn allocations_mut(&mut self, _: Transport, family: Family) -> &mut u64 {
        &mut self.allocations[family as usize]
    }

    pub(crate) const fn count_request(&mut self, method: RequestMethod, code: Code) {
        self.requests[method as usize][code as usize] += 1;
    }

    pub(crate) const fn count_relayed(&mut self, direction: Direction, bytes: usize) {
        let count = &mut self.relayed[direction as usize];
        count.packets += 1;
        count.bytes += bytes as u64;
    }

    pub(crate) const fn count_dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) const fn count_authenticated(&mut self, proof: Proof) {
        self.proofs.count(proof);
    }

    pub(crate) const fn count_icmp(&mut self, outcome: IcmpOutcome) {
        self.icmp[outcome as usize] += 1;
    }

    pub(crate) const fn count_refusal(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Denied(denial) => self.denied[denial.by as usize] += 1,
            Refusal::Quota(quota) => self.over_quota[quota as usize] += 1,
        }
    }

    pub(crate) const fn count_look_up(&mut self, outcome: LookUpOutcome) {
        self.look_ups[outcome as usize] += 1;
    }
}

fn add_each(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_complete_in_order_and_its_names_differ() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
            assert!(Code::ALL[..index].iter().all(|other| other.name() != code.name()));
        }
        for (index, method) in RequestMethod::ALL.iter().enumerate() {
            assert_eq!(*method as usize, index);
        }
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(DropReason::ALL[..index].iter().all(|other| other.name() != reason.name()));
        }
        for (index, outcome) in IcmpOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert!(IcmpOutcome::ALL[..index].iter().all(|other| other.name() != outcome.name()));
        }
        for (index, by) in DeniedBy::ALL.iter().enumerate() {
            assert_eq!(*by as usize, index);
            assert!(DeniedBy::ALL[..index].iter().all(|other| other.name() != by.name()));
        }
        for (index, outcome) in LookUpOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert!(LookUpOutcome::ALL[..index].iter().all(|other| other.name() != outcome.name()));
        }
        assert_eq!([Family::V4 as usize, Family::V6 as usize], [0, 1]);
    }

    #[test]
    fn adding_sums_every_count() {
        let mut shard = Snapshot { permissions: 1, channels: 2, ..Snapshot::default() };
        shard.reservations = 3;
        shard.channel_numbers_rfc5766_refused = 4;
        shard.moves = 6;
        *shard.allocations_mut(Transport::Udp, Family::V6) += 5;
        shard.count_request(RequestMethod::Allocate, Code::Success);
        shard.count_relayed(Direction::PeerToClient, 7);
        shard.count_dropped(DropReason::TooBig);
        shard.count_icmp(IcmpOutcome::RateLimited);
        shard.count_refusal(Refusal::Quota(Quota::NewPeers));
        shard.count_refusal(Refusal::Denied(crate::Denial::of(DeniedBy::PortZero)));
        let proof = Proof { integrity: IntegrityKind::Sha256, key: KeyKind::Token };
        shard.count_authenticated(proof);
        shard.count_look_up(LookUpOutcome::Absent);
        let mut sum = shard.clone();
        sum.add(&shard);
        assert_eq!((sum.permissions, sum.channels, sum.reservations), (2, 4, 6));
        assert_eq!((sum.channel_numbers_rfc5766_refused, sum.moves), (8, 12));
        assert_eq!(sum.allocations(Transport::Udp, Family::V6), 10);
        assert_eq!(sum.requests(RequestMethod::Allocate, Code::Success), 2);
        assert_eq!(sum.relayed(Direction::PeerToClient), Count { packets: 2, bytes: 14 });
        assert_eq!(sum.dropped(DropReason::TooBig), 2);
        assert_eq!(sum.icmp(IcmpOutcome::RateLimited), 2);
        assert_eq!((sum.over_quota(Quota::NewPeers), sum.denied(DeniedBy::PortZero)), (2, 2));
        assert_eq!(sum.authenticated(proof.integrity, proof.key), 2);
        assert_eq!(sum.look_ups(LookUpOutcome::Absent), 2);
    }
}
