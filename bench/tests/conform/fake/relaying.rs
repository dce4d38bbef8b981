//! Application data through the fake server, both ways.

use std::net::SocketAddr;

use super::{Allocation, State, Wrong};
use crate::message::{Received, Sent};

impl State {
    pub(super) fn send_indication(&self, client: SocketAddr, message: &Received<'_>) {
        let Some(allocation) = self.allocations.get(&client) else { return };
        let peer = self.attribute(message, 0x12).and_then(|it| message.address(it));
        let (Some(peer), Some(data)) = (peer, self.attribute(message, 0x13)) else { return };
        let permitted = allocation.permissions.contains(&peer.ip());
        if !self.unknown(message).is_empty()
            || !permitted && !self.is(Wrong::SendsWithoutPermission)
        {
            return;
        }
        self.to_peer(allocation, peer, data);
    }

    fn to_peer(&self, allocation: &Allocation, peer: SocketAddr, data: &[u8]) {
        let data = if self.is(Wrong::CutsData) { &data[..data.len().min(1000)] } else { data };
        if data.is_empty() && self.is(Wrong::DropsEmptyData) {
            return;
        }
        let from = if self.is(Wrong::SwapsSources) { &self.socket } else { &allocation.socket };
        let _ = from.send_to(data, peer);
    }

    pub(super) fn channel_data(&self, client: SocketAddr, bytes: &[u8]) {
        let Some(allocation) = self.allocations.get(&client) else { return };
        let [a, b, c, d, rest @ ..] = bytes else { return };
        let peer = allocation.channels.get(&u16::from_be_bytes([*a, *b]));
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let data = match rest.get(..length) {
            Some(_) if self.is(Wrong::RelaysPadding) => rest,
            Some(data) => data,
            None if self.is(Wrong::RelaysWhatIsTooShort) => rest,
            None => return,
        };
        if let Some(peer) = peer {
            self.to_peer(allocation, *peer, data);
        }
    }

    pub(super) fn take_from_peer(
        &self,
        client: SocketAddr,
        allocation: &Allocation,
        mut peer: SocketAddr,
        data: &[u8],
    ) {
        let permitted = allocation.permissions.contains(&peer.ip());
        if !permitted && !self.is(Wrong::RelaysFromAnybody) {
            return;
        }
        let channel = allocation.channels.iter().find(|(_, it)| **it == peer);
        if let Some((number, _)) = channel.filter(|_| !self.is(Wrong::IndicatesDespiteChannel)) {
            let length = u16::try_from(data.len()).unwrap();
            let header = [number.to_be_bytes(), length.to_be_bytes()].concat();
            return self.send(client, &[&header, data].concat());
        }
        if self.is(Wrong::NamesAnotherPeer) {
            peer.set_port(peer.port() ^ 1);
        }
        let message = Sent::new(0x0017, [9; 12]).address(0x12, peer).with(0x13, data);
        self.send(client, &message.0);
    }
}
