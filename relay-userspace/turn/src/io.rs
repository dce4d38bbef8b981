//! What goes into the state machine and what comes out of it.

use std::net::IpAddr;
use std::ops::Range;

use relay_common::abi::{Count, Direction};
use relay_common::addr::{Family, FiveTuple, PeerAddr, RelayedAddr};
use relay_common::wire::attribute::Icmp;
use relay_common::wire::channel_data::ChannelNumber;

use crate::{Denial, LookedUp, Quota, RealmId};

/// The time, read once by the driver for each input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Now {
    /// CLOCK_MONOTONIC, nanoseconds: what every deadline is in, here and in the kernel.
    pub monotonic_ns: u64,
    /// Seconds since 1970, UTC: what time-limited credentials are in.
    pub unix_secs: u64,
}

/// Names an allocation of one [`crate::Turn`]. An index is used again, a generation is not: an
/// input for an allocation that is gone finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AllocationId {
    /// Place in the table, below `limits.allocations_max`.
    pub index: u32,
    /// How often the place was taken before.
    pub generation: u32,
}

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A datagram arrived on a TURN server transport address.
    FromClient {
        /// Who sent it to which of our addresses.
        five_tuple: FiveTuple,
        /// All of it.
        datagram: &'a [u8],
    },
    /// A datagram arrived on a relayed transport address.
    FromPeer {
        /// The allocation whose socket received it.
        allocation: AllocationId,
        /// Who sent it.
        peer: PeerAddr,
        /// All of it.
        datagram: &'a [u8],
    },
    /// An ICMP error says that a datagram from a relayed transport address did not arrive. Both
    /// addresses are those of that datagram; who sent the error does not matter (§11.5).
    PeerIcmp {
        /// The allocation whose relayed transport address it left from.
        allocation: AllocationId,
        /// Who it was for.
        peer: PeerAddr,
        /// What the error says.
        icmp: Icmp,
    },
    /// [`Output::OpenRelay`] was done: the relayed transport address receives. If the allocation is
    /// gone by now, the answer is [`Output::CloseRelay`].
    RelayOpened {
        /// The allocation it was opened for.
        allocation: AllocationId,
        /// Which of its addresses.
        family: Family,
    },
    /// [`Output::OpenRelay`] failed: the port is taken, or resources are.
    RelayFailed {
        /// The allocation it was opened for.
        allocation: AllocationId,
        /// Which of its addresses.
        family: Family,
    },
    /// The answer to [`Output::LookUp`].
    LookedUp {
        /// Of which realm.
        realm: RealmId,
        /// Whom it is about.
        user: &'a [u8],
        /// What it is.
        answer: &'a LookedUp,
    },
    /// The 5-tuple is another state machine's from now on: an allocation moved there. One of this
    /// state machine's on it is over.
    Elsewhere {
        /// Which.
        five_tuple: FiveTuple,
    },
    /// The time of [`crate::Turn::deadline`] has come.
    Deadline,
}

/// Do this, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a message to a client. The bytes are [`crate::Turn::bytes`] of the range, until the
    /// next input.
    Reply {
        /// From which server address to which client.
        five_tuple: FiveTuple,
        /// Where they lie.
        bytes: Range<usize>,
    },
    /// Send a part of the input's datagram to a peer, from the allocation's relayed transport
    /// address of the peer's family.
    ToPeer {
        /// Whose relayed transport address.
        allocation: AllocationId,
        /// Where to.
        peer: PeerAddr,
        /// Whether it may be fragmented on its way.
        fragments: Fragments,
        /// Application data, as a range of the input's datagram.
        payload: Range<usize>,
    },
    /// Send the input's datagram to the client behind a head and before some zero bytes.
    ToClient {
        /// From which server address to which client.
        five_tuple: FiveTuple,
        /// A ChannelData header, or a Data indication up to its application data.
        head: Head,
        /// Zero bytes behind the application data, 0–3.
        padding: usize,
    },
    /// Open a socket on the address, and answer with [`Input::RelayOpened`] or
    /// [`Input::RelayFailed`]. An allocation has one address of each family at most.
    OpenRelay {
        /// For this allocation.
        allocation: AllocationId,
        /// The address to bind (before any `external` mapping).
        relayed: RelayedAddr,
    },
    /// Close a socket of the allocation, or give up opening it.
    CloseRelay {
        /// Of this allocation.
        allocation: AllocationId,
        /// Which of its addresses.
        family: Family,
    },
    /// An allocation that relayed is over: nothing of it is left, in the datapath either.
    Ended {
        /// What it was known by.
        five_tuple: FiveTuple,
        /// What was relayed for it here, not by the datapath, in order of [`Direction`].
        counts: [Count; Direction::ALL.len()],
    },
    /// Find out whether there is such a user, and answer with [`Input::LookedUp`], whatever
    /// happens: requests wait for it.
    LookUp {
        /// In which realm.
        realm: RealmId,
        /// The name, as the client wrote it: any 1–508 bytes.
        user: Box<[u8]>,
    },
    /// The datagram is a request that another state machine of this server can answer: hand it
    /// over, as it came. Nothing else comes of it here.
    HandOver {
        /// Its [`crate::Mobility::shard`].
        shard: u16,
        /// Who sent it to which of our addresses.
        five_tuple: FiveTuple,
    },
    /// Bring every datagram of the 5-tuple here from now on: an allocation of ours is about to move
    /// there. Before the answer that says so.
    Adopt {
        /// Where it moves.
        five_tuple: FiveTuple,
    },
    /// The 5-tuple is nothing to us any more.
    Disown {
        /// Where no allocation moves after all.
        five_tuple: FiveTuple,
    },
    /// An allocation moved (RFC 8016 §3.2.2). The datapath has no binding and no permission of it
    /// now; those that follow are of the new 5-tuple, and what they relay is counted on. The old
    /// 5-tuple is nothing to us any more.
    Moved {
        /// From where.
        from: FiveTuple,
        /// To where.
        to: FiveTuple,
    },
    /// Tell the datapath to relay both ways by itself, or until when it now may. Client and peer
    /// may be of different families. The peer may have one of our own relayed addresses: such a
    /// packet never leaves the machine, and only a datapath that knows both clients' bindings can
    /// bring it from one to the other.
    Install(Binding),
    /// Tell the datapath to forget a binding, before anything else of it is.
    Withdraw(Binding),
    /// Tell the datapath to relay indications by itself, or until when it now may. Never for a
    /// peer on one of our own relayed addresses.
    Permit(Permission),
    /// Tell the datapath to forget a permission.
    Forbid(Permission),
    /// Nothing to do: a request of an authenticated client was refused, for the log.
    Refused(Refusal),
    /// Tell the operator, now and then: a client was refused a channel number that only RFC 5766
    /// allows.
    HintChannelNumber,
}

/// Whether a datagram to a peer may be fragmented (RFC 8656 §14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragments {
    /// As the system does it.
    Allowed,
    /// It leaves with DF set (DONT-FRAGMENT), or not at all: one that is too big for the link is
    /// told by [`Input::PeerIcmp`].
    Forbidden,
}

/// Why the configuration or a default refused a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 403: a rule denies the peer.
    Denied(Denial),
    /// 486 or 508.
    Quota(Quota),
}

/// As clients are told, in the reason phrase.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(denial) => denial.fmt(f),
            Self::Quota(quota) => quota.fmt(f),
        }
    }
}

/// A channel binding as a datapath needs it (RFC 8656 §12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The allocation it belongs to.
    pub allocation: AllocationId,
    /// Client and server.
    pub five_tuple: FiveTuple,
    /// The relayed transport address of the peer's family, as bound (before any `external`
    /// mapping).
    pub relayed: RelayedAddr,
    /// The peer, as packets carry it (after any `external` mapping).
    pub peer: PeerAddr,
    /// The channel.
    pub number: ChannelNumber,
    /// Client to peer is relayed strictly before this time: the earlier of binding and relayed
    /// transport address. CLOCK_MONOTONIC, nanoseconds.
    pub client_to_peer_deadline_ns: u64,
    /// Peer to client is relayed strictly before this time: the earliest of binding, permission
    /// and relayed transport address. CLOCK_MONOTONIC, nanoseconds.
    pub peer_to_client_deadline_ns: u64,
}

/// A permission as a datapath needs it (RFC 8656 §9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permission {
    /// The allocation it belongs to.
    pub allocation: AllocationId,
    /// Client and server.
    pub five_tuple: FiveTuple,
    /// The relayed transport address of the peer's family, as bound (before any `external`
    /// mapping).
    pub relayed: RelayedAddr,
    /// The peer's address, as packets carry it (after any `external` mapping).
    pub peer: IpAddr,
    /// In force strictly before this time: the earlier of permission and relayed transport
    /// address.
    /// CLOCK_MONOTONIC, nanoseconds.
    pub deadline_ns: u64,
    /// When the relayed transport address ends. CLOCK_MONOTONIC, nanoseconds.
    pub allocation_deadline_ns: u64,
}

/// A few bytes that go in front of application data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; Head::BYTES_MAX],
    len: u8,
}

impl Head {
    /// A Data indication to an IPv6 peer: header (20), XOR-PEER-ADDRESS (24), DATA's header (4).
    pub const BYTES_MAX: usize = 48;

    /// Takes up to [`Head::BYTES_MAX`] bytes; `None` if there are more.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut head = Self { bytes: [0; Self::BYTES_MAX], len: u8::try_from(bytes.len()).ok()? };
        head.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(head)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({:02x?})", self.as_slice())
    }
}
