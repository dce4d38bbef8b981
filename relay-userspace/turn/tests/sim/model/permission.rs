//! CreatePermission (RFC 8656 §9, §10), and who may be a peer (§21).

use std::net::{IpAddr, SocketAddr};

use super::users::Session;
use super::wire::{self, Stun};
use super::{Answer, Effect, Model, SEC, Time};
use crate::rules::Rules;

/// New peers of so long a time may come at once.
const NEW_PEERS_BURST_NS: u64 = 10 * SEC;

/// Networks of the peers that a run knows of and no server may reach.
const DENIED: [&str; 6] = ["10.", "127.", "192.168.", "224.", "64:ff9b::", "fe80:"];

impl Model {
    pub(super) fn create_permission(
        &mut self,
        now: Time,
        stun: &Stun,
        session: &Session,
        answer: &mut Answer,
    ) {
        let Some(at) = self.owned(&session.who, answer) else { return };
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
            wrong = self.speed(now, at, &ips);
            answer.effect = Effect::Permit(ips);
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
        if self.allocations[at].relayed(named.is_ipv4()).is_none() {
            return Err(443);
        }
        let peer = self.rules.inside(named);
        let is_denied = is_denied(peer.ip()) || self.is_machines(peer.ip());
        if peer.is_ipv4() != named.is_ipv4() || is_denied { Err(403) } else { Ok(peer) }
    }

    /// Whether it is an address of the machine that no relayed transport address is on.
    fn is_machines(&self, ip: IpAddr) -> bool {
        Rules::is_here(ip) && !self.rules.is_own(ip)
    }

    /// Whether data may go to or come from a port of a permitted address: of our own addresses,
    /// only relayed ports are peers.
    pub(super) fn is_reachable(&self, peer: SocketAddr) -> bool {
        let is_own = self.rules.is_own(peer.ip());
        peer.port() != 0 && (!is_own || self.rules.ports_all().contains(&peer.port()))
    }

    /// How many of these addresses are new to the allocation, in nanoseconds of the leak.
    fn cost(&self, at: usize, ips: &[IpAddr]) -> (u64, u64) {
        let rate = u64::from(self.rules.limits.new_peers_per_sec);
        let is_new = |ip: &&IpAddr| self.allocations[at].permission(**ip).is_none();
        let each = SEC.checked_div(rate).unwrap_or(0);
        (each, each * ips.iter().filter(is_new).count() as u64)
    }

    /// What is left of new peers in the bucket.
    fn level(&self, now: Time, at: usize) -> u64 {
        let (level, then) = self.allocations[at].new_peers;
        level.saturating_sub(now.ns - then)
    }

    /// A bucket that leaks: whether so many new peers may come now. One more than there is room
    /// for may or may not.
    pub(super) fn speed(&mut self, now: Time, at: usize, ips: &[IpAddr]) -> Vec<u16> {
        let (each, cost) = self.cost(at, ips);
        match self.level(now, at) + cost {
            _ if cost == 0 => vec![0],
            level if level <= NEW_PEERS_BURST_NS => vec![0],
            level if level <= NEW_PEERS_BURST_NS + each => vec![0, 508],
            _ => {
                self.note("too many new peers");
                vec![508]
            }
        }
    }

    /// Permissions are given, or refreshed.
    pub(super) fn permitted(&mut self, now: Time, at: usize, ips: &[IpAddr]) {
        let (_, cost) = self.cost(at, ips);
        self.allocations[at].new_peers = (self.level(now, at) + cost, now.ns);
        for ip in ips {
            self.allocations[at].permit(*ip, now.ns + super::PERMISSION_NS);
        }
    }

    pub(super) fn has_room(&self, at: usize, ips: &[IpAddr]) -> bool {
        let permissions = &self.allocations[at].permissions;
        let new = ips.iter().filter(|ip| !permissions.iter().any(|(other, _)| other == *ip));
        permissions.len() + new.count() <= self.rules.limits.permissions_per_allocation_max
    }
}

pub fn is_denied(ip: IpAddr) -> bool {
    let text = ip.to_string();
    ip.is_unspecified() || ip.is_loopback() || DENIED.iter().any(|net| text.starts_with(net))
}
