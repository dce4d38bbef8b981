//! An allocation (RFC 8656 §3.2): what there is between one 5-tuple and one relayed transport
//! address, or one of each family. Owns the data and the look-ups; the rules are in the file of
//! each method.

use std::net::IpAddr;

use litemap::LiteMap;
use relay_common::abi::{Count, Direction};
use relay_common::addr::{Family, FiveTuple, PeerAddr, RelayedAddr};
use relay_common::wire::channel_data::ChannelNumber;
use relay_common::wire::stun::TransactionId;

use crate::access_token::Held;
use crate::ledger::Seat;
use crate::mobility::Mobile;
use crate::police::Used;
use crate::ports::{Parity, Place};
use crate::reply::ReplyTo;
use crate::reservation::Token;
use crate::snapshot::Code;
use crate::timers::CHANNEL_BAN_NS;
use crate::{AllocationId, Binding, Permission};

/// One allocation.
pub(crate) struct Allocation {
    pub(crate) id: AllocationId,
    pub(crate) five_tuple: FiveTuple,
    /// What it is charged for.
    pub(crate) _seat: Seat,
    /// When as many new peers as ever may come at once again.
    pub(crate) new_peers_full_ns: u64,
    /// Its relayed transport addresses, in order of [`Family`]: at least one.
    pub(crate) relayed: [Option<Relayed>; Family::ALL.len()],
    /// The user who made it; nobody else may use it.
    pub(crate) username: Box<[u8]>,
    /// The token that it stands on (RFC 7635).
    pub(crate) token: Option<Box<Held>>,
    /// The Allocate request that made it, to know it when it comes again.
    pub(crate) transaction: TransactionId,
    /// What it moves by, if it may (RFC 8016).
    pub(crate) mobile: Option<Box<Mobile>>,
    pub(crate) stage: Stage,
    // Sorted vectors: few have more than a few entries, and a tree's first node has room for
    // eleven.
    pub(crate) permissions: LiteMap<IpAddr, Given>,
    pub(crate) channels: LiteMap<ChannelNumber, ChannelBinding>,
    /// The inverse of `channels`.
    pub(crate) numbers: LiteMap<PeerAddr, ChannelNumber>,
    /// When its client may again be told of as many ICMP errors at once as ever.
    pub(crate) icmp_full_at_ns: u64,
    /// What was relayed here, not by the datapath, in order of [`Direction`].
    pub(crate) counts: [Count; Direction::ALL.len()],
    /// What is used up of the limits, in order of [`Direction`].
    pub(crate) used: [Used; Direction::ALL.len()],
}

/// A relayed transport address. Each has a lifetime of its own (§8.1).
pub(crate) struct Relayed {
    /// As it is bound.
    pub(crate) address: RelayedAddr,
    /// Its place in the pool.
    pub(crate) place: Place,
    /// When it ends; 0 while it is being opened.
    pub(crate) deadline_ns: u64,
}

/// How far an allocation is.
pub(crate) enum Stage {
    /// Its relayed transport addresses are being opened: nobody may use it yet.
    Opening(Box<Opening>),
    /// It relays, on these terms.
    Open(Terms),
}

/// What is to be done once the relayed transport addresses are open, or cannot be.
pub(crate) struct Opening {
    pub(crate) reply_to: ReplyTo,
    pub(crate) lifetime_secs: u32,
    pub(crate) parity: Parity,
    /// Which addresses are being opened, in order of [`Family`].
    pub(crate) waiting: [bool; Family::ALL.len()],
    /// The one of two addresses that cannot be had.
    pub(crate) refused: Option<Refused>,
    /// How many other ports may be tried.
    pub(crate) tries_left: u8,
    /// Ports that could not be opened, kept from being chosen again.
    pub(crate) failed: Vec<Place>,
}

/// What the answer to the Allocate request says beside the addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    pub(crate) lifetime_secs: u32,
    pub(crate) token: Option<Token>,
    pub(crate) refused: Option<Refused>,
}

/// The one of two relayed transport addresses that a client does not get (§7.2, check 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) family: Family,
    /// 440 or 508.
    pub(crate) code: Code,
}

/// A permission (RFC 8656 §9).
pub(crate) struct Given {
    /// When it ends.
    pub(crate) deadline_ns: u64,
    /// The deadlines the datapath was told: the permission's and the allocation's.
    pub(crate) installed: Option<(u64, u64)>,
}

/// A channel binding (RFC 8656 §12), and for five minutes the memory of one.
pub(crate) struct ChannelBinding {
    pub(crate) peer: PeerAddr,
    /// When it ends, or ended.
    pub(crate) deadline_ns: u64,
    pub(crate) phase: Phase,
    /// The deadlines the datapath was told.
    pub(crate) installed: Option<(u64, u64)>,
}

/// Whether a channel binding relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It relays until its deadline.
    Bound,
    /// It is over; number and peer may only be bound to each other.
    Banned,
}

impl ChannelBinding {
    /// When something happens to it next.
    pub(crate) const fn timer_ns(&self) -> u64 {
        match self.phase {
            Phase::Bound => self.deadline_ns,
            Phase::Banned => self.deadline_ns + CHANNEL_BAN_NS,
        }
    }
}

impl Allocation {
    /// The terms of an allocation that relays.
    pub(crate) fn open(&self) -> Option<&Terms> {
        match &self.stage {
            Stage::Open(terms) => Some(terms),
            Stage::Opening(_) => None,
        }
    }

    /// The relayed transport address of a family, if there is one that relays.
    pub(crate) fn relayed(&self, family: Family) -> Option<&Relayed> {
        self.open()?;
        self.relayed[family as usize].as_ref()
    }

    /// The peer that a channel number relays to now.
    pub(crate) fn bound_peer(&self, number: ChannelNumber) -> Option<PeerAddr> {
        let channel = self.channels.get(&number)?;
        (channel.phase == Phase::Bound).then_some(channel.peer)
    }

    /// The channel number that relays from a peer now.
    pub(crate) fn bound_number(&self, peer: PeerAddr) -> Option<ChannelNumber> {
        let number = *self.numbers.get(&peer)?;
        self.bound_peer(number).map(|_| number)
    }

    /// A channel that relays, as the datapath needs it.
    pub(crate) fn binding(&self, number: ChannelNumber) -> Option<Binding> {
        let channel = self.channels.get(&number).filter(|c| c.phase == Phase::Bound)?;
        let relayed = self.relayed(channel.peer.family())?;
        let client_to_peer = channel.deadline_ns.min(relayed.deadline_ns);
        // Without a permission nothing comes back: a deadline that is always over.
        let permission = self.permissions.get(&channel.peer.ip()).map_or(0, |g| g.deadline_ns);
        Some(Binding {
            allocation: self.id,
            five_tuple: self.five_tuple,
            relayed: relayed.address,
            peer: channel.peer,
            number,
            client_to_peer_deadline_ns: client_to_peer,
            peer_to_client_deadline_ns: client_to_peer.min(permission),
        })
    }

    /// A permission, as the datapath needs it.
    pub(crate) fn permission(&self, ip: IpAddr) -> Option<Permission> {
        let relayed = self.relayed(Family::of(ip))?;
        let allocation_deadline_ns = relayed.deadline_ns;
        Some(Permission {
            allocation: self.id,
            five_tuple: self.five_tuple,
            relayed: relayed.address,
            peer: ip,
            deadline_ns: self.permissions.get(&ip)?.deadline_ns.min(allocation_deadline_ns),
            allocation_deadline_ns,
        })
    }
}
