//! Allocate (RFC 8656 §7.2): what is asked for, and whether it can be had. What happens while
//! addresses are being opened is `opening.rs`.

use std::net::{IpAddr, SocketAddr};

use super::limits::prefix;
use super::users::Session;
use super::wire::{self, Known, Stun};
use super::{Allocation, Answer, Effect, Expected, Held, Model, Stage, Time, Who};

/// What an Allocate request asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub who: Who,
    pub(super) charged: Vec<u8>,
    /// The token that it came with, and its end.
    pub(super) token: Option<(Vec<u8>, u64)>,
    /// IPv4, IPv6.
    pub(super) families: [bool; 2],
    pub(super) is_even: bool,
    /// With the port behind it held for a token.
    pub is_pair: bool,
    /// Behind a token; `None` inside: one that this shard did not give.
    pub(super) reserved: Option<Option<Held>>,
    /// The one of two families that is not to be had, and why: 440 or 508.
    pub(super) refused: Option<(bool, u16)>,
    pub lifetime_secs: u32,
}

impl Model {
    pub(super) fn allocate(
        &mut self,
        now: Time,
        stun: &Stun,
        session: &Session,
        mut answer: Answer,
    ) -> Expected {
        let shard = self.shard_of(answer.tuple);
        // Check 2: the 5-tuple has no allocation; the same request again has its answer.
        if let Some(at) = self.by_tuple(answer.tuple) {
            let allocation = &self.allocations[at];
            let is_again =
                allocation.transaction == answer.transaction && allocation.who == session.who;
            match &allocation.stage {
                Stage::Open { attributes } if is_again => {
                    answer.codes.push(0);
                    answer.effect = Effect::Again(self.still(allocation, attributes, stun));
                }
                Stage::Opening { .. } if is_again => {
                    (answer.codes, answer.may_be_silent) = (Vec::new(), true);
                }
                Stage::Open { .. } | Stage::Opening { .. } => answer.codes.push(437),
            }
            return Expected::Answer(Box::new(answer));
        }
        let (mut wish, mut wrong) = self.wish(now, shard, stun, session);
        // §21.4: no client's address is one that a tunnel makes.
        if is_tunnelled(answer.tuple.0.ip()) {
            wrong.push(403);
        }
        // Check 4, §3.7: what DF was, is not seen by who would have to set it in IPv6.
        if answer.tuple.0.is_ipv4() && self.rules.families[1] && wants_v6_whole(stun) {
            wrong.push(420);
            // Where 420 is told of what is perhaps unknown, this need not be looked at.
            if self.known(stun, &[]) == Known::Yes {
                answer.unknown.push(wire::DONT_FRAGMENT);
            }
        }
        let is_full = self.is_full(&mut wrong, &wish.charged, answer.tuple.0);
        let may_lack = match &wish.reserved {
            Some(Some(_)) => false,
            Some(None) => true,
            None => !self.is_to_be_had(shard, &mut wish),
        };
        if may_lack {
            wrong.push(508);
        }
        // A token of another shard may still be good.
        let is_foreign = matches!(wish.reserved, Some(None)) && self.rules.shards > 1 && !is_full;
        if wrong.is_empty() || (wrong == [508] && is_foreign) {
            answer.codes.push(0);
        }
        answer.codes.extend(wrong);
        answer.effect = Effect::Open(wish);
        Expected::Answer(Box::new(answer))
    }

    /// What was answered the first time, but for an address that has ended since.
    fn still(
        &self,
        allocation: &Allocation,
        attributes: &[(u16, Vec<u8>)],
        stun: &Stun,
    ) -> Vec<(u16, Vec<u8>)> {
        let told = |address| wire::xored_value(self.rules.outside(address), &stun.transaction);
        let addresses: Vec<_> = allocation.relayed.iter().map(|r| told(r.address)).collect();
        let is_there = |(kind, value): &&(u16, Vec<u8>)| {
            *kind != wire::XOR_RELAYED_ADDRESS || addresses.contains(value)
        };
        attributes.iter().filter(is_there).cloned().collect()
    }

    /// Check 10 of §7.2: quotas of the server, of a user and of a source, by number and by what
    /// each allocation may use.
    fn is_full(&self, wrong: &mut Vec<u16>, user: &[u8], client: SocketAddr) -> bool {
        let limits = &self.rules.limits;
        let count = |is_it: &dyn Fn(&Allocation) -> bool| {
            self.allocations.iter().filter(|allocation| is_it(allocation)).count() as u64
        };
        let each = u64::from(limits.allocation_bytes_per_sec);
        let is_over = |count: u64, max: u32, bytes: u64| {
            let is_wide = each != 0 && bytes != 0 && (count + 1) * each > bytes;
            (max != 0 && count >= u64::from(max)) || is_wide
        };
        let is_full = is_over(count(&|_| true), limits.allocations_max, limits.total_bytes_per_sec);
        if is_full {
            wrong.push(508);
        }
        let source = |client: SocketAddr| match client.is_ipv4() {
            true => prefix(client.ip(), limits.source_prefix_v4),
            false => prefix(client.ip(), limits.source_prefix_v6),
        };
        let of_user = count(&|a| a.charged == user);
        let of_source = count(&|a| source(a.tuple.0) == source(client));
        if is_over(of_user, limits.user_allocations_max, limits.user_bytes_per_sec)
            || is_over(of_source, limits.source_allocations_max, 0)
        {
            wrong.push(486);
            return true;
        }
        is_full
    }

    /// Checks 3 to 9 of §7.2: the wish, and the codes of all that is wrong with it.
    fn wish(&self, now: Time, shard: usize, stun: &Stun, session: &Session) -> (Wish, Vec<u16>) {
        let mut wrong = Vec::new();
        match stun.value(wire::REQUESTED_TRANSPORT) {
            Some([17, _, _, _]) => {}
            Some([_, _, _, _]) => wrong.push(442),
            _ => wrong.push(400),
        }
        let requested = stun.value(wire::REQUESTED_ADDRESS_FAMILY);
        let additional = stun.value(wire::ADDITIONAL_ADDRESS_FAMILY);
        let even = stun.value(wire::EVEN_PORT);
        let token = stun.value(wire::RESERVATION_TOKEN);
        let is_pair = even.is_some_and(|even| even.first().is_some_and(|bits| bits & 0x80 != 0));
        match requested {
            None | Some([1 | 2, _, _, _]) => {}
            Some([_, _, _, _]) => wrong.push(440),
            Some(_) => wrong.push(400),
        }
        match additional {
            None | Some([2, _, _, _]) => {}
            Some([1, _, _, _]) => wrong.push(400),
            Some([_, _, _, _]) => wrong.push(440),
            Some(_) => wrong.push(400),
        }
        let is_named = even.or(requested).or(additional).is_some();
        let is_contradictory = token.is_some() && is_named
            || requested.is_some() && additional.is_some()
            || is_pair && additional.is_some();
        let lifetime = stun.value(wire::LIFETIME);
        if is_contradictory
            || token.is_some_and(|token| token.len() != 8)
            || even.is_some_and(|even| even.len() != 1)
            || lifetime.is_some_and(|lifetime| lifetime.len() != 4)
        {
            wrong.push(400);
        }
        let is_v6 = requested.is_some_and(|family| family.first() == Some(&2));
        // Check 7: IPv4, where nothing is said; and there must be such addresses.
        if token.is_none() && !self.rules.families[usize::from(is_v6)] {
            wrong.push(440);
        }
        let held = |token: &[u8]| {
            self.held.iter().find(|held| held.shard == shard && held.token == token).cloned()
        };
        let wish = Wish {
            who: session.who.clone(),
            charged: self.charged(&session.who),
            token: session.token_end.map(|end| (session.key.clone(), end)),
            families: [!is_v6, is_v6 || additional.is_some()],
            is_even: even.is_some(),
            is_pair,
            reserved: token.map(held),
            refused: None,
            lifetime_secs: self.lifetime(now, stun.number(wire::LIFETIME), session),
        };
        (wish, wrong)
    }

    /// §7.2, §8.2: what is asked for, within bounds; not longer than a token lasts (RFC 7635 §9),
    /// nor if that is wanted than time-limited credentials do.
    pub(super) fn lifetime(&self, now: Time, asked: Option<u32>, session: &Session) -> u32 {
        let limits = &self.rules.limits;
        let secs = asked.unwrap_or(0).clamp(limits.lifetime_secs_default, limits.lifetime_secs_max);
        let strict_end = match &session.who {
            Who::Named(name) if limits.strict_expiry => self.expiry(name),
            Who::Named(_) | Who::Bearer(_) => None,
        };
        match session.token_end.or(strict_end) {
            Some(end) => u32::try_from(end - now.unix).unwrap_or(u32::MAX).min(secs),
            None => secs,
        }
    }

    /// Whether one of the wished-for addresses can be had at least; which not, is noted.
    fn is_to_be_had(&self, shard: usize, wish: &mut Wish) -> bool {
        let has = [true, false].map(|is_v4| self.has_place(shard, wish, is_v4));
        if wish.families == [true; 2] && has[0] != has[1] {
            let is_v4 = has[1];
            let is_known = self.rules.families[usize::from(!is_v4)];
            wish.refused = Some((is_v4, if is_known { 508 } else { 440 }));
        }
        has.contains(&true)
    }

    /// Whether a shard may give the address to somebody.
    fn is_free(&self, shard: usize, relayed: SocketAddr) -> bool {
        let behind = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + 1);
        let takes = |allocation: &Allocation| {
            let mut here = allocation.relayed.iter().map(|r| r.address);
            match &allocation.stage {
                Stage::Opening { wish, failed, .. } => {
                    failed.contains(&relayed)
                        || here.any(|a| a == relayed || (wish.is_pair && behind(a) == relayed))
                }
                Stage::Open { .. } => here.any(|address| address == relayed),
            }
        };
        self.rules.is_own(relayed.ip())
            && self.rules.ports(shard).contains(&relayed.port())
            && !self.allocations.iter().any(|a| a.shard == shard && takes(a))
            && !self.held.iter().any(|held| held.shard == shard && held.relayed == relayed)
    }

    /// Whether an address is one that may be opened for a wish.
    pub(super) fn fits(&self, shard: usize, wish: &Wish, relayed: SocketAddr) -> bool {
        let behind = SocketAddr::new(relayed.ip(), relayed.port() + 1);
        match &wish.reserved {
            Some(Some(held)) => held.relayed == relayed,
            Some(None) => {
                let all = self.rules.ports_all();
                all.contains(&relayed.port()) && !self.rules.ports(shard).contains(&relayed.port())
            }
            None => {
                wish.families[usize::from(relayed.is_ipv6())]
                    && (!wish.is_even || relayed.port().is_multiple_of(2))
                    && self.is_free(shard, relayed)
                    && (!wish.is_pair || self.is_free(shard, behind))
            }
        }
    }

    pub(super) fn has_place(&self, shard: usize, wish: &Wish, is_v4: bool) -> bool {
        let mut ips = self.rules.relay_ips().into_iter().filter(|ip| ip.is_ipv4() == is_v4);
        ips.any(|ip| self.rules.ports(shard).any(|port| self.fits(shard, wish, (ip, port).into())))
    }

    /// The shard that a 5-tuple's packets reach.
    pub fn shard_of(&self, tuple: super::Tuple) -> usize {
        usize::from(tuple.0.port()) % self.rules.shards
    }
}

/// 6to4 and Teredo.
fn is_tunnelled(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = ip else { return false };
    matches!(ip.octets(), [0x20, 0x02, ..] | [0x20, 0x01, 0, 0, ..])
}

/// DONT-FRAGMENT, and an IPv6 address is named.
fn wants_v6_whole(stun: &Stun) -> bool {
    let names_v6 = |kind| stun.value(kind).is_some_and(|value| matches!(value, [2, _, _, _]));
    let kinds = [wire::REQUESTED_ADDRESS_FAMILY, wire::ADDITIONAL_ADDRESS_FAMILY];
    stun.value(wire::DONT_FRAGMENT).is_some() && kinds.into_iter().any(names_v6)
}
