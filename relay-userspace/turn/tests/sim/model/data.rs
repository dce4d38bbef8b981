//! Application data and ICMP errors (RFC 8656 §11, §12.4–§12.7): from whom to whom, byte for byte.

use std::net::SocketAddr;

use relay_common::wire::attribute::Icmp;

use super::wire::{self, Known, Stun};
use super::{Expected, Model, Sent, Time, Tuple};

impl Model {
    pub(super) fn channel_data(&self, now: Time, tuple: Tuple, bytes: &[u8]) -> Expected {
        self.stripped(now, tuple, bytes).map_or(Expected::Silence, |sent| self.data(sent))
    }

    /// §12.6.
    fn stripped(&self, now: Time, tuple: Tuple, bytes: &[u8]) -> Option<Sent> {
        let [n0, n1, l0, l1, data @ ..] = bytes else { return None };
        let number = u16::from_be_bytes([*n0, *n1]);
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if data.len() < length || data.len() > length + 3 {
            return None;
        }
        let allocation = self.open_by_tuple(tuple)?;
        let is_it = |c: &&super::Channel| c.number == number && c.deadline > now.ns;
        let channel = allocation.channels.iter().find(is_it)?;
        let (src, _) = allocation.relayed(channel.peer.is_ipv4())?;
        Some(Sent::new(src, channel.peer, data[..length].to_vec()))
    }

    pub(super) fn indication(&self, now: Time, tuple: Tuple, stun: &Stun) -> Expected {
        match self.unwrapped(now, tuple, stun) {
            None => Expected::Silence,
            Some(sent) if stun.known(&[], &[]) == Known::Perhaps => Expected::PerhapsRelay(sent),
            Some(sent) => self.data(sent),
        }
    }

    /// §11.2.
    fn unwrapped(&self, _now: Time, tuple: Tuple, stun: &Stun) -> Option<Sent> {
        if stun.method != wire::SEND || stun.known(&[], &[]) == Known::No {
            return None;
        }
        let named = stun.address(wire::XOR_PEER_ADDRESS)?;
        let data = stun.value(wire::DATA)?;
        let allocation = self.open_by_tuple(tuple)?;
        let (src, _) = allocation.relayed(named.is_ipv4())?;
        // An IPv4 address in an IPv6 one is no peer, as in CreatePermission.
        let peer = self.rules.inside(named);
        if peer.is_ipv4() != named.is_ipv4() {
            return None;
        }
        allocation.permission(peer.ip())?;
        // §14: the DF bit is the client's to set where there is one on both sides.
        let has_bit = tuple.0.is_ipv4() && peer.is_ipv4();
        let dont_fragment = has_bit && stun.value(wire::DONT_FRAGMENT).is_some();
        let sent = Sent { dont_fragment, ..Sent::new(src, peer, data.to_vec()) };
        self.is_reachable(peer).then_some(sent)
    }

    /// A datagram on a relayed transport address (§11.3, §12.7).
    pub fn peer_sends(
        &mut self,
        now: Time,
        relayed: SocketAddr,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Expected {
        self.purge(now);
        self.wrapped(now, relayed, peer, bytes).map_or(Expected::Silence, |sent| self.data(sent))
    }

    fn wrapped(
        &self,
        now: Time,
        relayed: SocketAddr,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Option<Sent> {
        let allocation = self.open_by_relayed(relayed)?;
        let peer = self.rules.inside(peer);
        allocation.permission(peer.ip()).filter(|_| self.is_reachable(peer))?;
        let (client, server) = allocation.tuple;
        let channel = allocation.channels.iter().find(|c| c.peer == peer && c.deadline > now.ns);
        let payload = match channel {
            Some(channel) => wire::channel_data(channel.number, bytes),
            None => wire::data_indication([0; 12], self.rules.outside(peer), bytes),
        };
        Some(Sent::new(server, client, payload))
    }

    /// An ICMP error about a datagram to a peer (§11.5): told, unless there were too many.
    pub fn icmp(
        &mut self,
        now: Time,
        relayed: SocketAddr,
        peer: SocketAddr,
        icmp: Icmp,
    ) -> Expected {
        self.purge(now);
        let Some(allocation) = self.open_by_relayed(relayed) else { return Expected::Silence };
        let peer = self.rules.inside(peer);
        let is_told = match peer.is_ipv4() {
            true => [3, 11].contains(&icmp.kind),
            false => [1, 2, 3].contains(&icmp.kind),
        };
        if !is_told || allocation.permission(peer.ip()).is_none() {
            return Expected::Silence;
        }
        let is_size =
            if peer.is_ipv4() { icmp.kind == 3 && icmp.code == 4 } else { icmp.kind == 2 };
        let data = if is_size { icmp.data } else { 0 };
        let mut writer = wire::Writer::new(wire::INDICATION, wire::DATA_METHOD, [0; 12]);
        writer.address(wire::XOR_PEER_ADDRESS, self.rules.outside(peer));
        let what = u32::from(icmp.kind) << 9 | u32::from(icmp.code);
        let value = [&[0, 0], &what.to_be_bytes()[2..], &data.to_be_bytes()].concat();
        writer.attribute(wire::ICMP, &value);
        let (client, server) = allocation.tuple;
        Expected::PerhapsRelay(Sent::new(server, client, writer.0))
    }

    /// Data that must arrive, or may if there are limits.
    fn data(&self, sent: Sent) -> Expected {
        if self.rules.is_policed { Expected::LimitedRelay(sent) } else { Expected::Relay(sent) }
    }
}
