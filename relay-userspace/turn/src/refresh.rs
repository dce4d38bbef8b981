//! Refresh (RFC 8656 §8): keeps an allocation for longer, or ends it; or one of its two relayed
//! transport addresses. With a ticket it also moves it (RFC 8016): `mobility.rs`.

use relay_common::addr::Family;
use relay_common::wire::attribute::{self, AttributeType};

use crate::Turn;
use crate::mobility::Claimed;
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::{NamedFamily, Request, named_family, optional};
use crate::timers::{NS_PER_SEC, Timer};

impl Turn {
    pub(crate) fn refresh(&mut self, request: &Request<'_>) -> Result<Success, Reject> {
        let (id, by) = match request.message.attribute(AttributeType::MOBILITY_TICKET) {
            None => (self.owned(request)?, None),
            Some(ticket) => match self.claim(request, ticket)? {
                Claimed::Answered(answer) => return Ok(answer),
                Claimed::Movable(id, by) => (id, Some(by)),
            },
        };
        let asked = optional(request.message, AttributeType::LIFETIME, attribute::number)?;
        let family = named_family(request.message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let lifetime_secs = self.lifetime_secs(request, asked);
        let Some(allocation) = self.tables.by_id_mut(id) else {
            return Err(Reject::AllocationMismatch);
        };
        // §8.1: it is about the relayed transport address of the named family, or about all.
        // §8.2: one that the allocation does not have is refused.
        let families: Vec<Family> = match family {
            None => Family::ALL.to_vec(),
            Some(NamedFamily::Known(family)) if allocation.relayed(family).is_some() => {
                vec![family]
            }
            Some(NamedFamily::Known(_) | NamedFamily::Unknown) => {
                return Err(Reject::PeerAddressFamilyMismatch);
            }
        };
        // §8.2: a lifetime of zero deletes; with the last address goes the allocation.
        if asked == Some(0) {
            for family in families {
                self.close_relayed(id, family);
            }
            return Ok(self.refreshed(request, id, 0, by));
        }
        // RFC 7635 §9: a new token takes the place of the old one.
        if let Some(token) = request.token {
            allocation.token = Some(Box::new(token));
        }
        let deadline_ns = request.now.monotonic_ns + u64::from(lifetime_secs) * NS_PER_SEC;
        for family in families {
            if let Some(relayed) = &mut allocation.relayed[family as usize] {
                let timer = Timer::Relayed(id, family);
                self.timers.set(Some(relayed.deadline_ns), deadline_ns, timer);
                relayed.deadline_ns = deadline_ns;
            }
        }
        let ips: Vec<_> = allocation.permissions.keys().copied().collect();
        let numbers: Vec<_> = allocation.channels.keys().copied().collect();
        for ip in ips {
            self.tell_permission(id, ip);
        }
        for number in numbers {
            self.install(id, number);
        }
        Ok(self.refreshed(request, id, lifetime_secs, by))
    }
}
