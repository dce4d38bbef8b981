//! Application data (RFC 8656 §11, §12): from a client to its peer and back, as ChannelData or
//! as Send and Data indications. Owns the decision; refreshes nothing, allocates nothing.

use rand_chacha::rand_core::RngCore;
use relay_common::abi::Direction;
use relay_common::addr::{Family, FiveTuple, PeerAddr};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::channel_data::{self, ChannelData, ChannelNumber};
use relay_common::wire::stun::{
    ATTRIBUTE_HEADER_BYTES, Class, HEADER_BYTES, Message, Method, TransactionId,
};
use relay_common::wire::writer::MessageWriter;

use crate::allocation::Allocation;
use crate::request::unknown_attributes;
use crate::{AllocationId, DropReason, Fragments, Head, Now, Output, Turn};

/// What fits into a UDP datagram over IPv4; IPv6 has room for 20 more, which nobody uses.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Data that permission and binding let pass.
struct Passing {
    allocation: AllocationId,
    output: Output,
    /// Application data.
    bytes: usize,
}

impl Turn {
    /// ChannelData from a client (§12.6).
    pub(crate) fn relay_channel_data(&mut self, now: Now, from: &FiveTuple, datagram: &[u8]) {
        let passing = self.channel_data(from, datagram);
        self.arrive(from, passing.as_ref().map(|passing| passing.allocation));
        self.relay(now, Direction::ClientToPeer, passing);
    }

    /// A datagram from a peer (§11.3, §12.7).
    pub(crate) fn relay_from_peer(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: PeerAddr,
        datagram: &[u8],
    ) {
        let passing = self.peer_data(id, peer, datagram);
        self.relay(now, Direction::PeerToClient, passing);
    }

    /// An indication from a client: Send is the only one there is (§11.2).
    pub(crate) fn indication(&mut self, now: Now, from: &FiveTuple, message: &Message<'_>) {
        if message.method() != Method::SEND {
            return self.stats.count_dropped(DropReason::UnknownIndication);
        }
        let passing = self.send(from, message);
        self.arrive(from, passing.as_ref().map(|passing| passing.allocation));
        self.relay(now, Direction::ClientToPeer, passing);
    }

    /// Relays what may pass, as far as the allocation's limits go.
    fn relay(&mut self, now: Now, direction: Direction, passing: Result<Passing, DropReason>) {
        let admitted = passing.and_then(|passing| {
            let allocation = self.tables.by_id_mut(passing.allocation);
            let allocation = allocation.ok_or(DropReason::StaleAllocation)?;
            if !self.rate.admit(&mut allocation.used[direction as usize], now, passing.bytes) {
                return Err(DropReason::Policed);
            }
            let count = &mut allocation.counts[direction as usize];
            count.packets += 1;
            count.bytes += passing.bytes as u64;
            Ok(passing)
        });
        match admitted {
            Ok(Passing { output, bytes, .. }) => {
                self.stats.count_relayed(direction, bytes);
                self.outputs.push_back(output);
            }
            Err(reason) => self.stats.count_dropped(reason),
        }
    }

    fn channel_data(&self, five_tuple: &FiveTuple, datagram: &[u8]) -> Result<Passing, DropReason> {
        let number = datagram.first_chunk().map(|number| u16::from_be_bytes(*number));
        let in_range = |number| ChannelNumber::new(number, self.channel_range).is_some();
        if !number.is_some_and(in_range) {
            return Err(DropReason::ChannelNumber);
        }
        let message =
            ChannelData::parse(datagram, self.channel_range).ok_or(DropReason::ChannelLength)?;
        let allocation = self.allocation_of(five_tuple)?;
        let peer = allocation.bound_peer(message.number).ok_or(DropReason::UnboundChannel)?;
        let bytes = message.payload.len();
        let (fragments, payload) = (Fragments::Allowed, message.payload);
        let output = Output::ToPeer { allocation: allocation.id, peer, fragments, payload };
        Ok(Passing { allocation: allocation.id, output, bytes })
    }

    fn send(&self, five_tuple: &FiveTuple, message: &Message<'_>) -> Result<Passing, DropReason> {
        // RFC 8489 §6.3.2.
        if !unknown_attributes(message).is_empty() {
            return Err(DropReason::UnknownAttribute);
        }
        let of = |kind| {
            message.attributes().find(|a| a.kind == kind).ok_or(DropReason::MalformedIndication)
        };
        let peer = of(AttributeType::XOR_PEER_ADDRESS)?;
        let data = of(AttributeType::DATA)?;
        let named = attribute::xor_address(peer.value, message.transaction_id())
            .ok_or(DropReason::MalformedIndication)?;
        let allocation = self.allocation_of(five_tuple)?;
        if allocation.relayed(Family::of(named.ip())).is_none() {
            return Err(DropReason::PeerDenied);
        }
        let peer = self.peers.inside(PeerAddr::new(named));
        // As CreatePermission sees it: an IPv4 address in an IPv6 one is no peer.
        if peer.family() != Family::of(named.ip()) {
            return Err(DropReason::PeerDenied);
        }
        // §11.2: the permission is not refreshed.
        if !allocation.permissions.contains_key(&peer.ip()) {
            return Err(DropReason::NoPermission);
        }
        self.peers.reach(peer).map_err(|_| DropReason::PeerDenied)?;
        let start = data.offset + ATTRIBUTE_HEADER_BYTES;
        let payload = start..start + data.value.len();
        // §13.1, §13.2, §13.3, §14: from IPv4 to IPv4 only.
        let is_ipv4 = |family| family == Family::V4;
        let is_asked = message.attribute(AttributeType::DONT_FRAGMENT).is_some();
        let fragments = match is_asked && is_ipv4(five_tuple.client.family()) {
            true if is_ipv4(peer.family()) => Fragments::Forbidden,
            true | false => Fragments::Allowed,
        };
        let output = Output::ToPeer { allocation: allocation.id, peer, fragments, payload };
        Ok(Passing { allocation: allocation.id, output, bytes: data.value.len() })
    }

    fn peer_data(
        &mut self,
        id: AllocationId,
        peer: PeerAddr,
        datagram: &[u8],
    ) -> Result<Passing, DropReason> {
        let allocation = self.tables.by_id(id).filter(|allocation| allocation.open().is_some());
        let allocation = allocation.ok_or(DropReason::StaleAllocation)?;
        let peer = self.peers.inside(peer);
        if !allocation.permissions.contains_key(&peer.ip()) {
            return Err(DropReason::NoPermission);
        }
        self.peers.reach(peer).map_err(|_| DropReason::PeerDenied)?;
        let bytes = datagram.len();
        let (head, padding) = match allocation.bound_number(peer) {
            Some(number) => (channel_head(number, bytes), 0),
            None => {
                let mut transaction = TransactionId([0; 12]);
                self.rng.fill_bytes(&mut transaction.0);
                let padding = bytes.next_multiple_of(4) - bytes;
                (data_head(transaction, self.peers.outside(peer), bytes), padding)
            }
        };
        let head =
            head.filter(|head| head.as_slice().len() + bytes + padding <= DATAGRAM_BYTES_MAX);
        let head = head.ok_or(DropReason::TooBig)?;
        let output = Output::ToClient { five_tuple: allocation.five_tuple, head, padding };
        Ok(Passing { allocation: id, output, bytes })
    }

    fn allocation_of(&self, five_tuple: &FiveTuple) -> Result<&Allocation, DropReason> {
        let allocation = self.tables.by_five_tuple(five_tuple);
        allocation.filter(|a| a.open().is_some()).ok_or(DropReason::NoAllocation)
    }
}

/// A ChannelData header; over UDP the data is not padded (§12.5).
fn channel_head(number: ChannelNumber, bytes: usize) -> Option<Head> {
    let header: [u8; channel_data::HEADER_BYTES] =
        ChannelData::header(number, u16::try_from(bytes).ok()?);
    Head::new(&header)
}

/// A Data indication up to its application data (§11.3): `bytes` more, and their padding, follow.
fn data_head(transaction: TransactionId, peer: PeerAddr, bytes: usize) -> Option<Head> {
    let mut buffer = [0; Head::BYTES_MAX];
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, transaction);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.socket());
    let written = writer.finish().ok()?;
    let end = written + ATTRIBUTE_HEADER_BYTES;
    let data = buffer.get_mut(written..end)?;
    data[..2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
    data[2..].copy_from_slice(&u16::try_from(bytes).ok()?.to_be_bytes());
    let length = u16::try_from(end - HEADER_BYTES + bytes.next_multiple_of(4)).ok()?;
    buffer[2..4].copy_from_slice(&length.to_be_bytes());
    Head::new(&buffer[..end])
}
