//! Refresh (RFC 8656 §8): keeps an allocation for longer, or ends it.

use relay_common::wire::attribute::{self, AttributeType};

use crate::Turn;
use crate::allocation::Stage;
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::{NamedFamily, Request, named_family, optional};
use crate::timers::{NS_PER_SEC, Timer};

impl Turn {
    pub(crate) fn refresh(&mut self, request: &Request<'_>) -> Result<Success, Reject> {
        let id = self.owned(request)?;
        let asked = optional(request.message, AttributeType::LIFETIME, attribute::number)?;
        let family = named_family(request.message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let Some(allocation) = self.tables.by_id_mut(id) else {
            return Err(Reject::AllocationMismatch);
        };
        // §8.2: the family, if named, is that of the relayed transport address.
        if family.is_some_and(|family| family != NamedFamily::Known(allocation.family())) {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        // §8.2: a lifetime of zero deletes the allocation.
        if asked == Some(0) {
            self.deallocate(id);
            return Ok(Success::Refresh { lifetime_secs: 0 });
        }
        let lifetime_secs = self.limits.lifetime_secs(asked);
        let deadline_ns = request.now.monotonic_ns + u64::from(lifetime_secs) * NS_PER_SEC;
        if let Stage::Open(open) = &mut allocation.stage {
            self.timers.set(Some(open.deadline_ns), deadline_ns, Timer::Allocation(id));
            open.deadline_ns = deadline_ns;
        }
        let ips: Vec<_> = allocation.permissions.keys().copied().collect();
        let numbers: Vec<_> = allocation.channels.keys().copied().collect();
        for ip in ips {
            self.tell_permission(id, ip);
        }
        for number in numbers {
            self.install(id, number);
        }
        Ok(Success::Refresh { lifetime_secs })
    }
}
