//! Allocate (RFC 8656 §7): gives a client a relayed transport address, or one of each family.
//! Owns the rules; the addresses are opened by the driver, and the answer waits for them.

use litemap::LiteMap;
use relay_common::addr::{Family, FiveTuple};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::Message;

use crate::allocation::{Allocation, Opening, Refused, Relayed, Stage, Terms};
use crate::ledger::Seat;
use crate::mobility::Mobile;
use crate::peers::Peers;
use crate::ports::{Parity, Place};
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::{Answer, NamedFamily, Request, named_family, optional};
use crate::reservation::Token;
use crate::snapshot::{Code, DropReason};
use crate::special::tunnelled;
use crate::timers::{NS_PER_SEC, RESERVATION_NS, Timer};
use crate::turn::Reservation;
use crate::{AllocationId, Limits, Now, Output, Turn};

/// REQUESTED-TRANSPORT: UDP (RFC 8656 §18.8).
const UDP: u8 = 17;
/// How many other ports are tried when one cannot be opened.
const OTHER_PORTS_MAX: u8 = 8;
/// The R bit of EVEN-PORT (RFC 8656 §18.7).
const EVEN_PORT_R: u8 = 0x80;

/// What an Allocate request gets, if it can be opened.
struct Chosen {
    relayed: [Option<Relayed>; Family::ALL.len()],
    parity: Parity,
    tries_left: u8,
    refused: Option<Refused>,
}

/// What an Allocate request asks for.
enum Wish {
    /// Any relayed transport address of a family.
    One { family: Family, parity: Parity },
    /// One of each family, or else of one of them.
    Both { parity: Parity },
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
                Stage::Open(terms) => Ok(Some(answer(&self.peers, allocation, *terms))),
                Stage::Opening(_) => {
                    self.stats.count_dropped(DropReason::AllocationPending);
                    Ok(None)
                }
            };
        }
        let wish = self.wish(&five_tuple, request.message)?;
        let is_mobile = self.wants_mobility(request.message)?;
        let asked = optional(request.message, AttributeType::LIFETIME, attribute::number)?;
        // §7.2, checks 8 and 9: there must be room, and a port.
        if self.tables.is_full() {
            return Err(self.no_room(&five_tuple));
        }
        // §7.2, check 10: quotas; given back when the seat is dropped.
        let seat = self.seat(request)?;
        // §7.2, check 11: another server may do better, unless the port is held here.
        let is_new = !matches!(wish, Wish::Reserved(_));
        if is_new {
            self.share_load(&five_tuple)?;
        }
        let chosen = self.choose(request, wish);
        let Chosen { relayed, parity, tries_left, refused } = chosen.map_err(|why| match why {
            Reject::InsufficientCapacity if is_new => self.no_room(&five_tuple),
            other => other,
        })?;
        let opening = Opening {
            reply_to: request.reply_to,
            lifetime_secs: self.lifetime_secs(request, asked),
            parity,
            waiting: relayed.each_ref().map(Option::is_some),
            refused,
            tries_left,
            failed: Vec::new(),
        };
        let addresses = relayed.each_ref().map(|relayed| relayed.as_ref().map(|r| r.address));
        let id = self.tables.insert(five_tuple, |id| Allocation {
            id,
            five_tuple,
            relayed,
            _seat: seat,
            new_peers_full_ns: 0,
            username: request.username.into(),
            token: request.token.map(Box::new),
            transaction: request.reply_to.transaction,
            mobile: is_mobile.then(|| Mobile::new(&self.tickets, &mut self.rng, id)),
            stage: Stage::Opening(Box::new(opening)),
            permissions: LiteMap::new(),
            channels: LiteMap::new(),
            numbers: LiteMap::new(),
            icmp_full_at_ns: 0,
            counts: Default::default(),
            used: Default::default(),
        });
        for relayed in addresses.into_iter().flatten() {
            self.outputs.push_back(Output::OpenRelay { allocation: id, relayed });
        }
        Ok(None)
    }

    /// What an allocation is charged for, within the quotas.
    fn seat(&self, request: &Request<'_>) -> Result<Seat, Reject> {
        let five_tuple = &request.reply_to.five_tuple;
        let user = self.charged(five_tuple.server, request.username);
        let seat = self.ledger.enter(&self.limits, &user, five_tuple.client.ip());
        seat.map_err(|quota| self.over(quota, five_tuple))
    }

    /// Takes a port of each family that is wished for: 508 if there is none at all.
    fn choose(&mut self, request: &Request<'_>, wish: Wish) -> Result<Chosen, Reject> {
        let mut places = [None; Family::ALL.len()];
        let mut refused = None;
        let server = request.reply_to.five_tuple.server.ip();
        let (parity, tries_left) = match wish {
            Wish::One { family, parity } => {
                places[family as usize] = self.ports.take(&mut self.rng, family, parity, server);
                (parity, OTHER_PORTS_MAX)
            }
            Wish::Both { parity } => {
                for family in Family::ALL {
                    let place = self.ports.take(&mut self.rng, family, parity, server);
                    places[family as usize] = place;
                    if place.is_none() {
                        refused = Some(self.refused(family));
                    }
                }
                (parity, OTHER_PORTS_MAX)
            }
            Wish::Reserved(token) => {
                if let Some(place) = self.redeem(request.now, token) {
                    places[self.ports.relayed(place).family() as usize] = Some(place);
                }
                (Parity::Any, 0)
            }
        };
        if places.iter().all(Option::is_none) {
            return Err(Reject::InsufficientCapacity);
        }
        let relayed = |place| Relayed { address: self.ports.relayed(place), place, deadline_ns: 0 };
        let relayed = places.map(|place| place.map(relayed));
        Ok(Chosen { relayed, parity, tries_left, refused })
    }

    /// Why a client that wants an address of each family does not get one of this (§7.2, check 9).
    fn refused(&self, family: Family) -> Refused {
        let code = match self.ports.has(family) {
            true => Code::InsufficientCapacity,
            false => Code::AddressFamilyNotSupported,
        };
        Refused { family, code }
    }

    /// Checks 3 to 9 of §7.2, as far as the request and whence it comes decide them.
    fn wish(&self, five_tuple: &FiveTuple, message: &Message<'_>) -> Result<Wish, Reject> {
        // §21.4: who comes out of a tunnel could send itself its own packets through it.
        if let Some(denial) = tunnelled(five_tuple.client.ip()) {
            return Err(denial.into());
        }
        // Check 3: REQUESTED-TRANSPORT is there, and UDP.
        let transport =
            optional(message, AttributeType::REQUESTED_TRANSPORT, attribute::leading_byte)?;
        if transport.ok_or(Reject::BadRequest)? != UDP {
            return Err(Reject::UnsupportedTransport);
        }
        let even_port = optional(message, AttributeType::EVEN_PORT, |value| match value {
            [bits] if bits & EVEN_PORT_R != 0 => Some(Parity::EvenAndNext),
            [_] => Some(Parity::Even),
            _ => None,
        })?;
        let requested = named_family(message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let additional = named_family(message, AttributeType::ADDITIONAL_ADDRESS_FAMILY)?;
        // Check 4: DONT-FRAGMENT is supported, but not from IPv4 to IPv6: a socket does not see the
        // DF of what came in, so §3.7 wants it refused.
        let v6 = Some(NamedFamily::Known(Family::V6));
        if message.attribute(AttributeType::DONT_FRAGMENT).is_some()
            && five_tuple.client.ip().is_ipv4()
            && (requested == v6 || additional == v6)
            && self.ports.has(Family::V6)
        {
            return Err(Reject::UnknownAttributes(vec![AttributeType::DONT_FRAGMENT]));
        }
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
        // Check 7: a family that there are relayed addresses of: IPv4, if none is named.
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
        // Check 9: IPv6 is what can be added to IPv4.
        let parity = even_port.unwrap_or(Parity::Any);
        match additional {
            None => Ok(Wish::One { family, parity }),
            Some(NamedFamily::Known(Family::V6)) => Ok(Wish::Both { parity }),
            Some(NamedFamily::Known(Family::V4)) => Err(Reject::BadRequest),
            Some(NamedFamily::Unknown) => Err(Reject::AddressFamilyNotSupported),
        }
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

    /// A relayed transport address is open.
    pub(crate) fn relay_opened(&mut self, now: Now, id: AllocationId, family: Family) {
        let Some(allocation) = self.tables.by_id_mut(id) else {
            // It was given up meanwhile; what was opened must not stay.
            return self.outputs.push_back(Output::CloseRelay { allocation: id, family });
        };
        if let Stage::Opening(opening) = &mut allocation.stage {
            opening.waiting[family as usize] = false;
            self.begin(now, id);
        }
    }

    /// A relayed transport address cannot be opened: another port, or the other family alone.
    pub(crate) fn relay_failed(&mut self, now: Now, id: AllocationId, family: Family) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Allocation { stage, relayed, five_tuple, .. } = allocation;
        let Stage::Opening(opening) = stage else { return };
        let Some(relayed) = &mut relayed[family as usize] else { return };
        if opening.parity == Parity::EvenAndNext {
            self.ports.release(relayed.place.next());
        }
        let server = five_tuple.server.ip();
        let other = match opening.tries_left {
            0 => None,
            _ => self.ports.take(&mut self.rng, family, opening.parity, server),
        };
        if let Some(place) = other {
            opening.failed.push(relayed.place);
            opening.tries_left -= 1;
            relayed.place = place;
            relayed.address = self.ports.relayed(place);
            let relayed = relayed.address;
            self.outputs.push_back(Output::OpenRelay { allocation: id, relayed });
            return;
        }
        opening.waiting[family as usize] = false;
        opening.refused = Some(Refused { family, code: Code::InsufficientCapacity });
        self.ports.release(relayed.place);
        allocation.relayed[family as usize] = None;
        self.begin(now, id);
    }

    /// The allocation begins once nothing of it is being opened (§7.2, last part): with what is
    /// open by then, or not at all.
    fn begin(&mut self, now: Now, id: AllocationId) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Stage::Opening(opening) = &mut allocation.stage else { return };
        if opening.waiting.contains(&true) {
            return;
        }
        let Opening { reply_to, lifetime_secs, parity, refused, .. } = **opening;
        for place in opening.failed.drain(..) {
            self.ports.release(place);
        }
        let Some(place) = allocation.relayed.iter().flatten().map(|relayed| relayed.place).next()
        else {
            self.tables.remove(id);
            return self.respond(now, &reply_to, &Err(Reject::InsufficientCapacity));
        };
        let deadline_ns = now.monotonic_ns + u64::from(lifetime_secs) * NS_PER_SEC;
        for (family, relayed) in Family::ALL.into_iter().zip(&mut allocation.relayed) {
            let Some(relayed) = relayed else { continue };
            relayed.deadline_ns = deadline_ns;
            self.timers.set(None, deadline_ns, Timer::Relayed(id, family));
            *self.stats.allocations_mut(reply_to.five_tuple.transport, family) += 1;
        }
        let token = (parity == Parity::EvenAndNext).then(|| self.hold(now, place.next()));
        let terms = Terms { lifetime_secs, token, refused };
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        allocation.stage = Stage::Open(terms);
        let answer = answer(&self.peers, allocation, terms);
        self.respond(now, &reply_to, &Ok(answer));
    }

    /// Holds a port for whoever has the token.
    fn hold(&mut self, now: Now, place: Place) -> Token {
        let token = self.tokens.issue(now, place);
        let deadline_ns = now.monotonic_ns + RESERVATION_NS;
        self.timers.set(None, deadline_ns, Timer::Reservation(token));
        self.reservations.insert(token, Reservation { place, deadline_ns });
        self.stats.reservations += 1;
        token
    }
}

/// The answer to the Allocate request: the addresses as clients are told them.
fn answer(peers: &Peers, allocation: &Allocation, terms: Terms) -> Success {
    let advertised = |relayed: &Relayed| peers.advertised(relayed.address);
    let advertised = allocation.relayed.each_ref().map(|r| r.as_ref().map(advertised));
    let ticket = allocation.mobile.as_ref().map(|mobile| mobile.first_ticket());
    Success::Allocate { advertised, terms, ticket }
}
