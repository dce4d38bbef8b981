//! CreatePermission (RFC 8656 §9, §10), and who may be a peer (§21).

use std::net::{IpAddr, SocketAddr};

use super::wire::{self, Stun};
use super::{Answer, Effect, Model};
use crate::rules::Rules;

/// Networks of the peers that a run knows of and no server may reach.
const DENIED: [&str; 6] = ["10.", "127.", "192.168.", "224.", "64:ff9b::", "fe80:"];

impl Model {
    pub(super) fn create_permission(&mut self, stun: &Stun, user: &[u8], answer: &mut Answer) {
        let Some(at) = self.owned(user, answer) else { return };
        let mut wrong = Vec::new();
        let mut ips = Vec::new();
        for attribute in stun.counting().filter(|a| a.kind == wire::XOR_PEER_ADDRESS) {
            match self.named_peer(at, stun, &attribute.value) {
                Ok(peer) if ips.contains(&peer.ip()) => {}
                Ok(peer) => ips.push(peer.ip()),
                Err(code) => wrong.push(code),
            }
        }
        if ips.is_empty() && wrong.is_empty() {
            wrong.push(400);
        }
        if !self.has_room(at, &ips) {
            wrong.push(508);
        }
        if wrong.is_empty() {
            self.may_be_too_fast(at, &ips, &mut wrong);
            answer.effect = Effect::Permit(ips);
            wrong.push(0);
        }
        answer.codes.extend(wrong);
    }

    /// A peer that a permission may be given for, as packets carry it, or the error's code.
    pub(super) fn named_peer(
        &self,
        at: usize,
        stun: &Stun,
        value: &[u8],
    ) -> Result<SocketAddr, u16> {
        let named = wire::xored_address(value, &stun.transaction).ok_or(400_u16)?;
        let is_v4 = self.allocations[at].relayed.is_ipv4();
        if named.is_ipv4() != is_v4 {
            return Err(443);
        }
        let peer = self.rules.inside(named);
        if peer.is_ipv4() != is_v4 || is_denied(peer.ip()) { Err(403) } else { Ok(peer) }
    }

    /// Whether data may go to or come from a port of a permitted address: of our own addresses,
    /// only relayed ports are peers.
    pub(super) fn is_reachable(&self, peer: SocketAddr) -> bool {
        let is_own = Rules::is_own(peer.ip());
        peer.port() != 0 && (!is_own || self.rules.ports_all().contains(&peer.port()))
    }

    /// New peers may come faster than an allocation may have them.
    pub(super) fn may_be_too_fast(&self, at: usize, ips: &[IpAddr], codes: &mut Vec<u16>) {
        let is_new = ips.iter().any(|ip| self.allocations[at].permission(*ip).is_none());
        if is_new && self.rules.limits.new_peers_per_sec != 0 {
            codes.push(508);
        }
    }

    pub(super) fn has_room(&self, at: usize, ips: &[IpAddr]) -> bool {
        let permissions = &self.allocations[at].permissions;
        let new = ips.iter().filter(|ip| !permissions.iter().any(|(other, _)| other == *ip));
        permissions.len() + new.count() <= self.rules.limits.permissions_per_allocation_max
    }
}

fn is_denied(ip: IpAddr) -> bool {
    let text = ip.to_string();
    ip.is_unspecified() || ip.is_loopback() || DENIED.iter().any(|net| text.starts_with(net))
}
