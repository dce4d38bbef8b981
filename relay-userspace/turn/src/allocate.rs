//! Allocate (RFC 8656 §7): gives a client a relayed transport address.
//! Owns the rules; the address is opened by the driver, and the answer waits for it.

use std::collections::BTreeMap;

use relay_common::addr::Family;
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::Message;

use crate::allocation::{Allocation, Open, Opening, Stage};
use crate::ports::{Parity, Place};
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::{Answer, NamedFamily, Request, named_family, optional};
use crate::reservation::Token;
use crate::snapshot::DropReason;
use crate::timers::{NS_PER_SEC, RESERVATION_NS, Timer};
use crate::turn::Reservation;
use crate::{AllocationId, Limits, Now, Output, Turn};

/// REQUESTED-TRANSPORT: UDP (RFC 8656 §18.8).
const UDP: u8 = 17;
/// How many other ports are tried when one cannot be opened.
const OTHER_PORTS_MAX: u8 = 8;
/// The R bit of EVEN-PORT (RFC 8656 §18.7).
const EVEN_PORT_R: u8 = 0x80;

/// What an Allocate request asks for.
enum Wish {
    /// Any relayed transport address of a family.
    New { family: Family, parity: Parity },
    /// The one held behind a token.
    Reserved(Token),
}

impl Limits {
    /// The lifetime a client gets (RFC 8656 §7.2, §8.2): what it asks for, within bounds.
    pub(crate) fn lifetime_secs(&self, asked: Option<u32>) -> u32 {
        let most = self.lifetime_secs_max.max(self.lifetime_secs_default);
        asked.unwrap_or(0).clamp(self.lifetime_secs_default, most)
    }
}

impl Turn {
    pub(crate) fn allocate(&mut self, request: &Request<'_>) -> Answer {
        // §7.2, check 1 (authentication) was made by the caller.
        // §7.2, check 2: the 5-tuple has no allocation; the same request again has its answer.
        let five_tuple = request.reply_to.five_tuple;
        if let Some(allocation) = self.tables.by_five_tuple(&five_tuple) {
            if allocation.transaction != request.reply_to.transaction
                || *allocation.username != *request.username
            {
                return Err(Reject::AllocationMismatch);
            }
            return match &allocation.stage {
                Stage::Open(open) => Ok(Some(open.answer)),
                Stage::Opening(_) => {
                    self.stats.count_dropped(DropReason::AllocationPending);
                    Ok(None)
                }
            };
        }
        let wish = self.wish(request.message)?;
        let asked = optional(request.message, AttributeType::LIFETIME, attribute::number)?;
        let lifetime_secs = self.limits.lifetime_secs(asked);
        // §7.2, check 8: there must be room and a port. (Redirection, check 10, finds nothing.)
        if self.tables.is_full() {
            return Err(Reject::InsufficientCapacity);
        }
        // §7.2, check 9: quotas; given back when the seat is dropped.
        let user = self.charged(request.username);
        let seat = self.ledger.enter(&self.limits, user, five_tuple.client.ip())?;
        let (place, parity, tries_left) = match wish {
            Wish::New { family, parity } => {
                let server = five_tuple.server.ip();
                let place = self.ports.take(&mut self.rng, family, parity, server);
                (place, parity, OTHER_PORTS_MAX)
            }
            Wish::Reserved(token) => (self.redeem(request.now, token), Parity::Any, 0),
        };
        let place = place.ok_or(Reject::InsufficientCapacity)?;
        let relayed = self.ports.relayed(place);
        let opening = Opening {
            reply_to: request.reply_to,
            lifetime_secs,
            parity,
            tries_left,
            failed: Vec::new(),
        };
        let id = self.tables.insert(five_tuple, |id| Allocation {
            id,
            five_tuple,
            relayed,
            place,
            _seat: seat,
            new_peers_full_ns: 0,
            username: request.username.into(),
            transaction: request.reply_to.transaction,
            stage: Stage::Opening(opening),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            icmp_full_at_ns: 0,
            counts: Default::default(),
            used: Default::default(),
        });
        self.outputs.push_back(Output::OpenRelay { allocation: id, relayed });
        Ok(None)
    }

    /// Checks 3 to 8 of §7.2, as far as the request alone decides them.
    fn wish(&self, message: &Message<'_>) -> Result<Wish, Reject> {
        // Check 3: REQUESTED-TRANSPORT is there, and UDP.
        let transport =
            optional(message, AttributeType::REQUESTED_TRANSPORT, attribute::leading_byte)?;
        if transport.ok_or(Reject::BadRequest)? != UDP {
            return Err(Reject::UnsupportedTransport);
        }
        // Check 4: DONT-FRAGMENT was refused among the unknown attributes.
        let even_port = optional(message, AttributeType::EVEN_PORT, |value| match value {
            [bits] if bits & EVEN_PORT_R != 0 => Some(Parity::EvenAndNext),
            [_] => Some(Parity::Even),
            _ => None,
        })?;
        let requested = named_family(message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let additional = named_family(message, AttributeType::ADDITIONAL_ADDRESS_FAMILY)?;
        // Check 5: a reservation decides everything by itself.
        let token = optional(message, AttributeType::RESERVATION_TOKEN, |v| v.try_into().ok())?;
        if let Some(token) = token {
            if even_port.is_some() || requested.is_some() || additional.is_some() {
                return Err(Reject::BadRequest);
            }
            return Ok(Wish::Reserved(token));
        }
        // Check 6: one address or two, not both wishes.
        if requested.is_some() && additional.is_some() {
            return Err(Reject::BadRequest);
        }
        // Check 7: a family that there are relayed addresses of. ADDITIONAL-ADDRESS-FAMILY names
        // IPv6 or makes no sense; a server with one address to an allocation ignores it.
        match additional {
            None | Some(NamedFamily::Known(Family::V6)) => {}
            Some(NamedFamily::Known(Family::V4)) => return Err(Reject::BadRequest),
            Some(NamedFamily::Unknown) => return Err(Reject::AddressFamilyNotSupported),
        }
        let family = match requested.unwrap_or(NamedFamily::Known(Family::V4)) {
            NamedFamily::Known(family) if self.ports.has(family) => family,
            NamedFamily::Known(_) | NamedFamily::Unknown => {
                return Err(Reject::AddressFamilyNotSupported);
            }
        };
        // Check 8: a reserved port belongs to one address.
        if even_port == Some(Parity::EvenAndNext) && additional.is_some() {
            return Err(Reject::BadRequest);
        }
        Ok(Wish::New { family, parity: even_port.unwrap_or(Parity::Any) })
    }

    /// Takes the port behind a token; a token is good once. One of another state machine is good
    /// as long as its port can be opened.
    fn redeem(&mut self, now: Now, token: Token) -> Option<Place> {
        let Some(reservation) = self.reservations.remove(&token) else {
            let place = self.tokens.read(now, token)?;
            return self.ports.is_elsewhere(place).then_some(place);
        };
        self.timers.cancel(reservation.deadline_ns, Timer::Reservation(token));
        self.stats.reservations -= 1;
        Some(reservation.place)
    }

    /// The relayed transport address is open: the allocation begins (§7.2, last part).
    pub(crate) fn relay_opened(&mut self, now: Now, id: AllocationId) {
        let Some(allocation) = self.tables.by_id_mut(id) else {
            // It was given up meanwhile; what was opened must not stay.
            let counts = Default::default();
            return self.outputs.push_back(Output::CloseRelay { allocation: id, counts });
        };
        let Stage::Opening(opening) = &mut allocation.stage else { return };
        let reply_to = opening.reply_to;
        let lifetime_secs = opening.lifetime_secs;
        for place in opening.failed.drain(..) {
            self.ports.release(place);
        }
        let token = (opening.parity == Parity::EvenAndNext).then(|| {
            let place = allocation.place.next();
            let token = self.tokens.issue(now, place);
            let deadline_ns = now.monotonic_ns + RESERVATION_NS;
            self.timers.set(None, deadline_ns, Timer::Reservation(token));
            self.reservations.insert(token, Reservation { place, deadline_ns });
            self.stats.reservations += 1;
            token
        });
        let advertised = self.peers.advertised(allocation.relayed);
        let answer = Success::Allocate { advertised, lifetime_secs, token };
        let deadline_ns = now.monotonic_ns + u64::from(lifetime_secs) * NS_PER_SEC;
        allocation.stage = Stage::Open(Open { deadline_ns, answer });
        self.timers.set(None, deadline_ns, Timer::Allocation(id));
        let family = allocation.family();
        *self.stats.allocations_mut(reply_to.five_tuple.transport, family) += 1;
        self.respond(now, &reply_to, &Ok(answer));
    }

    /// The relayed transport address cannot be opened: another port, or 508.
    pub(crate) fn relay_failed(&mut self, now: Now, id: AllocationId) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Stage::Opening(opening) = &mut allocation.stage else { return };
        if opening.parity == Parity::EvenAndNext {
            self.ports.release(allocation.place.next());
        }
        let family = allocation.relayed.family();
        let other = match opening.tries_left {
            0 => None,
            _ => self.ports.take(
                &mut self.rng,
                family,
                opening.parity,
                allocation.five_tuple.server.ip(),
            ),
        };
        if let Some(place) = other {
            opening.failed.push(allocation.place);
            opening.tries_left -= 1;
            allocation.place = place;
            allocation.relayed = self.ports.relayed(place);
            let relayed = allocation.relayed;
            self.outputs.push_back(Output::OpenRelay { allocation: id, relayed });
            return;
        }
        let reply_to = opening.reply_to;
        for place in opening.failed.drain(..) {
            self.ports.release(place);
        }
        self.ports.release(allocation.place);
        self.tables.remove(id);
        self.respond(now, &reply_to, &Err(Reject::InsufficientCapacity));
    }
}
