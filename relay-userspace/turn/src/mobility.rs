//! Mobility (RFC 8016): an allocation goes to another 5-tuple of its client, by a ticket.
//!
//! A move has two steps (§3.2.2). A Refresh request with the ticket, from another 5-tuple, is
//! answered with the next ticket, and from then on both 5-tuples are the allocation's: data goes
//! by the old one. The first data that comes by the new one ends that: permissions, channels and
//! relayed transport addresses are the new one's, and the old one's no more.
//!
//! Owns when a ticket is good and what a move does. What a ticket looks like is `ticket.rs`'s.

use relay_common::addr::{Family, FiveTuple};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Message, Method, TransactionId};

use rand_chacha::rand_core::RngCore;

use crate::allocation::Allocation;
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::Request;
use crate::ticket::{Ticket, Tickets, Told};
use crate::{AllocationId, DropReason, Now, Output, Turn};

/// Allocations may move, also from one state machine's 5-tuples to another's: all that share a
/// [`crate::Config::nonce_key`] read each other's tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mobility {
    /// What tickets call this state machine.
    pub shard: u16,
}

/// What an allocation that may move knows of that.
pub(crate) struct Mobile {
    first: Ticket,
    /// Number of the ticket that is good until a move has ended.
    serial: u32,
    /// Number of the next ticket.
    next_serial: u32,
    last: Option<Move>,
}

/// The last move.
struct Move {
    /// Number of the ticket that it was asked for with.
    by: u32,
    /// Number of the ticket that it brought, and the ticket.
    serial: u32,
    ticket: Ticket,
    /// Where to.
    five_tuple: FiveTuple,
    /// The request, to know it when it comes again, and what it was told.
    transaction: TransactionId,
    lifetime_secs: u32,
    phase: Phase,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing came by the new 5-tuple yet.
    Coming,
    /// It is the only one.
    Arrived,
}

/// What a good ticket leads to.
pub(crate) enum Claimed {
    /// The allocation, which is to move, and the number of the ticket.
    Movable(AllocationId, u32),
    /// The request came again: its answer.
    Answered(Success),
}

impl Mobile {
    pub(crate) fn new(tickets: &Tickets, rng: &mut impl RngCore, id: AllocationId) -> Box<Self> {
        let first = tickets.issue(rng, id, 0);
        Box::new(Self { first, serial: 0, next_serial: 1, last: None })
    }

    /// What the answer to the Allocate request says, however often it is asked for.
    pub(crate) const fn first_ticket(&self) -> Ticket {
        self.first
    }

    fn coming(&self) -> Option<&Move> {
        self.last.as_ref().filter(|last| last.phase == Phase::Coming)
    }
}

impl Turn {
    /// Whether an Allocate request asks for a ticket (§3.1.2): 400 if it brings one, 405 if
    /// allocations do not move here.
    pub(crate) fn wants_mobility(&self, message: &Message<'_>) -> Result<bool, Reject> {
        match message.attribute(AttributeType::MOBILITY_TICKET) {
            None => Ok(false),
            Some([]) if self.offers.mobility.is_some() => Ok(true),
            Some([]) => Err(Reject::MobilityForbidden),
            Some(_) => Err(Reject::BadRequest),
        }
    }

    /// The allocation that a ticket of a Refresh request is about (§3.2.2).
    pub(crate) fn claim(
        &mut self,
        request: &Request<'_>,
        ticket: &[u8],
    ) -> Result<Claimed, Reject> {
        if self.offers.mobility.is_none() {
            return Err(Reject::MobilityForbidden);
        }
        // The ticket is one of ours; what it names is there.
        let told = self.tickets.read(ticket).ok_or(Reject::BadRequest)?;
        let (allocation, mobile) = self.told(&told).ok_or(Reject::AllocationMismatch)?;
        // It is the same user's. Of those with access tokens, who has the same session key:
        // everybody who has one could have seen the ticket.
        let held = allocation.token.as_deref();
        let is_same = match request.token {
            Some(token) => held.is_some_and(|held| held.key == token.key),
            None => *allocation.username == *request.username,
        };
        // A name is another user in every realm.
        let realm_of = |five_tuple: &FiveTuple| self.realms.at(five_tuple.server);
        let is_realm = realm_of(&allocation.five_tuple) == realm_of(&request.reply_to.five_tuple);
        if !is_same || !is_realm {
            return Err(Reject::WrongCredentials);
        }
        let five_tuple = request.reply_to.five_tuple;
        if let Some(last) = &mobile.last
            && (last.five_tuple, last.by) == (five_tuple, told.serial)
            && last.transaction == request.reply_to.transaction
        {
            let Move { lifetime_secs, ticket, .. } = *last;
            return Ok(Claimed::Answered(Success::Refresh { lifetime_secs, ticket: Some(ticket) }));
        }
        // Until something came by the new 5-tuple, its client may not know of the new ticket.
        let coming = mobile.coming().filter(|coming| coming.serial == told.serial);
        if told.serial != mobile.serial && coming.is_none() {
            return Err(Reject::AllocationMismatch);
        }
        // From where it is, nothing moves.
        let is_there = coming.is_some_and(|coming| coming.five_tuple == five_tuple);
        if is_there || allocation.five_tuple == five_tuple {
            return Err(Reject::BadRequest);
        }
        let id = allocation.id;
        let taken = self.tables.by_five_tuple(&five_tuple).is_some_and(|other| other.id != id);
        if taken { Err(Reject::AllocationMismatch) } else { Ok(Claimed::Movable(id, told.serial)) }
    }

    /// The answer to a Refresh request that was carried out. One by a ticket of this number moves
    /// the allocation, if it is still there.
    pub(crate) fn refreshed(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        lifetime_secs: u32,
        by: Option<u32>,
    ) -> Success {
        let ticket = by.and_then(|by| self.set_out(request, id, lifetime_secs, by));
        Success::Refresh { lifetime_secs, ticket }
    }

    fn set_out(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        lifetime_secs: u32,
        by: u32,
    ) -> Option<Ticket> {
        let five_tuple = request.reply_to.five_tuple;
        let mobile = self.tables.by_id_mut(id)?.mobile.as_mut()?;
        let serial = mobile.next_serial;
        mobile.next_serial = serial.wrapping_add(1);
        let ticket = self.tickets.issue(&mut self.rng, id, serial);
        let other = mobile.coming().map(|coming| coming.five_tuple);
        mobile.last = Some(Move {
            by,
            serial,
            ticket,
            five_tuple,
            transaction: request.reply_to.transaction,
            lifetime_secs,
            phase: Phase::Coming,
        });
        if let Some(other) = other.filter(|other| *other != five_tuple) {
            self.tables.remove_five_tuple(other);
            self.outputs.push_back(Output::Disown { five_tuple: other });
        }
        self.tables.add_five_tuple(five_tuple, id);
        self.outputs.push_back(Output::Adopt { five_tuple });
        Some(ticket)
    }

    /// Data that may pass came from a client: if it came by the 5-tuple that its allocation is to
    /// move to, it does. The datapath forgets the old one before it learns of the new one; what
    /// comes in between is relayed here.
    pub(crate) fn arrive(&mut self, from: &FiveTuple, of: Result<AllocationId, &DropReason>) {
        let Some(allocation) = of.ok().and_then(|id| self.tables.by_id(id)) else { return };
        if allocation.mobile.is_none() || allocation.five_tuple == *from {
            return;
        }
        let id = allocation.id;
        let ips: Vec<_> = allocation.permissions.keys().copied().collect();
        let numbers: Vec<_> = allocation.channels.keys().copied().collect();
        // Permissions first: without its binding, a peer's data would leave as an indication.
        for ip in &ips {
            self.forbid(id, *ip);
        }
        for number in &numbers {
            self.withdraw(id, *number);
        }
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let old = std::mem::replace(&mut allocation.five_tuple, *from);
        if let Some(mobile) = &mut allocation.mobile
            && let Some(last) = &mut mobile.last
        {
            mobile.serial = last.serial;
            last.phase = Phase::Arrived;
        }
        let relayed = allocation.relayed.each_ref().map(Option::is_some);
        for family in Family::ALL.into_iter().filter(|family| relayed[*family as usize]) {
            *self.stats.allocations_mut(old.transport, family) -= 1;
            *self.stats.allocations_mut(from.transport, family) += 1;
        }
        self.stats.moves += 1;
        self.tables.remove_five_tuple(old);
        self.outputs.push_back(Output::Moved { from: old, to: *from });
        for ip in ips {
            self.tell_permission(id, ip);
        }
        for number in numbers {
            self.install(id, number);
        }
    }

    /// Forgets where an allocation that is over was to move.
    pub(crate) fn forget_coming(&mut self, allocation: &Allocation) {
        if let Some(coming) = allocation.mobile.as_ref().and_then(|mobile| mobile.coming()) {
            let five_tuple = coming.five_tuple;
            self.tables.remove_five_tuple(five_tuple);
            self.outputs.push_back(Output::Disown { five_tuple });
        }
    }

    /// Whether a request is one that another state machine can answer: it has the allocation that
    /// the ticket names. One by a 5-tuple that has an allocation is answered here, with 437. Who
    /// sent it is not known, so that there are no more of them than of replies to such clients.
    pub(crate) fn is_for_another(
        &mut self,
        now: Now,
        from: &FiveTuple,
        message: &Message<'_>,
    ) -> bool {
        let shard = match self.ticket_of(message) {
            Some(told) if told.shard != self.tickets.shard() => told.shard,
            Some(_) | None => return false,
        };
        if self.tables.by_five_tuple(from).is_some() {
            return false;
        }
        let rate = self.limits.unauthenticated_replies_per_sec;
        match self.ledger.throttle().admit(now, from.client.ip(), rate) {
            true => self.outputs.push_back(Output::HandOver { shard, five_tuple: *from }),
            false => self.stats.count_dropped(DropReason::RateLimited),
        }
        true
    }

    /// Another state machine's allocation moves to a 5-tuple.
    pub(crate) fn elsewhere(&mut self, five_tuple: &FiveTuple) {
        if let Some(id) = self.tables.by_five_tuple(five_tuple).map(|allocation| allocation.id) {
            self.deallocate(id);
        }
    }

    /// The allocation that a request's ticket names, whoever sent it.
    pub(crate) fn named(&self, message: &Message<'_>) -> Option<&Allocation> {
        self.ticket_of(message).and_then(|told| Some(self.told(&told)?.0))
    }

    fn ticket_of(&self, message: &Message<'_>) -> Option<Told> {
        let is_refresh = message.method() == Method::REFRESH;
        self.offers.mobility.filter(|_| is_refresh)?;
        self.tickets.read(message.attribute(AttributeType::MOBILITY_TICKET)?)
    }

    fn told(&self, told: &Told) -> Option<(&Allocation, &Mobile)> {
        let allocation = self.tables.by_id(told.allocation);
        let allocation =
            allocation.filter(|a| told.shard == self.tickets.shard() && a.open().is_some());
        allocation.and_then(|allocation| Some((allocation, allocation.mobile.as_deref()?)))
    }
}
