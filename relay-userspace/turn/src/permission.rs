//! CreatePermission (RFC 8656 §9, §10): lets an IP address send to a client for five minutes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use relay_common::addr::{Family, PeerAddr};
use relay_common::police::{admit, packet_cost};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::Message;

use crate::allocation::Given;
use crate::quota::Quota;
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::Request;
use crate::special::{Denial, DeniedBy};
use crate::timers::{NS_PER_SEC, PERMISSION_NS, Timer};
use crate::{AllocationId, Now, Output, Turn};

/// New peers of so long a time may come at once: a call begins with one for each candidate.
const NEW_PEERS_BURST_NS: u64 = 10 * NS_PER_SEC;

impl Turn {
    pub(crate) fn create_permission(&mut self, request: &Request<'_>) -> Result<Success, Reject> {
        let id = self.owned(request)?;
        // §10.2: at least one XOR-PEER-ADDRESS; each of them good, or nothing is done.
        let mut ips = BTreeSet::new();
        let of_peer = |kind| kind == AttributeType::XOR_PEER_ADDRESS;
        for attribute in request.message.attributes().filter(|a| of_peer(a.kind)) {
            ips.insert(self.named_peer(id, request.message, attribute.value)?.ip());
        }
        if ips.is_empty() {
            return Err(Reject::BadRequest);
        }
        self.room_for_permissions(request.now, id, &ips)?;
        for ip in ips {
            self.permit(request.now, id, ip);
        }
        Ok(Success::Done)
    }

    /// The peer in an XOR-PEER-ADDRESS, as packets carry it, if a permission may be given for it:
    /// 400, 443 or 403 if not.
    pub(crate) fn named_peer(
        &self,
        id: AllocationId,
        message: &Message<'_>,
        value: &[u8],
    ) -> Result<PeerAddr, Reject> {
        let named =
            attribute::xor_address(value, message.transaction_id()).ok_or(Reject::BadRequest)?;
        let allocation = self.tables.by_id(id).ok_or(Reject::AllocationMismatch)?;
        // The family as it is named: an IPv4-mapped address is not one for an IPv4 allocation.
        let family = Family::of(named.ip());
        if allocation.relayed(family).is_none() {
            return Err(Reject::PeerAddressFamilyMismatch);
        }
        let peer = self.peers.inside(PeerAddr::new(named));
        self.peers.permit(peer.ip())?;
        if peer.family() != family {
            // Of an IPv6 address, what is IPv4 in packets: a mapped one.
            return Err(Denial::of(DeniedBy::Transition).into());
        }
        Ok(peer)
    }

    /// 508 (§10.2) if the addresses are more than an allocation may have permissions, or if those
    /// that are new come too fast: peers are not found by trying all there are.
    pub(crate) fn room_for_permissions(
        &mut self,
        now: Now,
        id: AllocationId,
        ips: &BTreeSet<IpAddr>,
    ) -> Result<(), Reject> {
        let allocation = self.tables.by_id_mut(id).ok_or(Reject::AllocationMismatch)?;
        let permissions = &allocation.permissions;
        let new = ips.iter().filter(|ip| !permissions.contains_key(*ip)).count();
        if permissions.len() + new > self.limits.permissions_per_allocation_max {
            return Err(Reject::InsufficientCapacity);
        }
        let each_ns = packet_cost(self.limits.new_peers_per_sec.into());
        let cost_ns = each_ns.saturating_mul(u64::try_from(new).unwrap_or(u64::MAX));
        if cost_ns != 0 {
            // Of however many that are asked for at once, only the last is lent.
            let burst_ns = (NEW_PEERS_BURST_NS + each_ns).checked_sub(cost_ns);
            let full_ns = allocation.new_peers_full_ns;
            let admitted = |burst_ns| admit(full_ns, now.monotonic_ns, cost_ns, burst_ns);
            allocation.new_peers_full_ns = burst_ns.and_then(admitted).ok_or(Quota::NewPeers)?;
        }
        Ok(())
    }

    /// Gives or refreshes a permission (§9): five minutes from now, and the datapath is told.
    pub(crate) fn permit(&mut self, now: Now, id: AllocationId, ip: IpAddr) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let deadline_ns = now.monotonic_ns + PERMISSION_NS;
        let before = allocation.permissions.get(&ip);
        let (before_ns, installed) =
            before.map_or((None, None), |given| (Some(given.deadline_ns), given.installed));
        allocation.permissions.insert(ip, Given { deadline_ns, installed });
        self.timers.set(before_ns, deadline_ns, Timer::Permission(id, ip));
        if before_ns.is_none() {
            self.stats.permissions += 1;
        }
        let of_ip = allocation.channels.iter().filter(|(_, channel)| channel.peer.ip() == ip);
        let numbers: Vec<_> = of_ip.map(|(number, _)| *number).collect();
        self.tell_permission(id, ip);
        for number in numbers {
            self.install(id, number);
        }
    }

    /// Tells the datapath until when a permission is in force, if that is news. What comes from or
    /// goes to an address of ours does not pass where the datapath looks, nor are its ports known.
    pub(crate) fn tell_permission(&mut self, id: AllocationId, ip: IpAddr) {
        if self.peers.is_local(ip) {
            return;
        }
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Some(permission) = allocation.permission(ip) else { return };
        let deadlines = (permission.deadline_ns, permission.allocation_deadline_ns);
        let Some(given) = allocation.permissions.get_mut(&ip) else { return };
        if given.installed.replace(deadlines) != Some(deadlines) {
            self.outputs.push_back(Output::Permit(permission));
        }
    }

    /// Takes a permission back from the datapath, which was told of it.
    pub(crate) fn forbid(&mut self, id: AllocationId, ip: IpAddr) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Some(permission) = allocation.permission(ip) else { return };
        let Some(given) = allocation.permissions.get_mut(&ip) else { return };
        if given.installed.take().is_some() {
            self.outputs.push_back(Output::Forbid(permission));
        }
    }
}
