//! ChannelBind (RFC 8656 §12).

use std::net::SocketAddr;

use super::users::Session;
use super::wire::{self, Stun};
use super::{Answer, CHANNEL_NS, Channel, Effect, Model, Time};

impl Model {
    pub(super) fn channel_bind(
        &mut self,
        now: Time,
        stun: &Stun,
        session: &Session,
        answer: &mut Answer,
    ) {
        let Some(at) = self.owned(&session.who, answer) else { return };
        let mut wrong = Vec::new();
        let number = match stun.value(wire::CHANNEL_NUMBER) {
            Some([high, low, _, _]) => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        if !(0x4000..=self.rules.channels.last()).contains(&number) {
            wrong.push(400);
        }
        let peer = match stun.value(wire::XOR_PEER_ADDRESS) {
            Some(value) => self.named_peer(at, stun, value),
            None => Err(400),
        };
        match peer {
            Err(code) => wrong.push(code),
            Ok(peer) => {
                let channels = &self.allocations[at].channels;
                // Bound to something else, or was until five minutes ago.
                if channels.iter().any(|c| (c.number == number) != (c.peer == peer)) {
                    wrong.push(400);
                }
                if !self.is_reachable(peer) {
                    wrong.push(403);
                }
                let is_new = !channels.iter().any(|c| c.number == number);
                let most = self.rules.limits.channels_per_allocation_max;
                if (is_new && channels.len() >= most) || !self.has_room(at, &[peer.ip()]) {
                    wrong.push(508);
                }
                if wrong.is_empty() {
                    wrong = self.speed(now, at, &[peer.ip()]);
                }
                answer.effect = Effect::Bind(number, peer);
            }
        }
        answer.codes.extend(wrong);
    }

    pub(super) fn bound(&mut self, now: Time, at: usize, number: u16, peer: SocketAddr) {
        let allocation = &mut self.allocations[at];
        allocation.channels.retain(|channel| channel.number != number);
        allocation.channels.push(Channel { number, peer, deadline: now.ns + CHANNEL_NS });
        // §12: a binding brings a permission, or refreshes it.
        self.permitted(now, at, &[peer.ip()]);
    }
}
