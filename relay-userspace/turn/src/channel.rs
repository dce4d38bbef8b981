//! ChannelBind (RFC 8656 §12): ties a channel number to a peer for ten minutes, and tells the
//! datapath whenever that changes.

use std::collections::BTreeSet;

use relay_common::addr::PeerAddr;
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::channel_data::{ChannelNumber, ChannelRange};

use crate::allocation::{ChannelBinding, Phase};
use crate::reject::Reject;
use crate::reply::Success;
use crate::request::{Request, optional};
use crate::timers::{CHANNEL_NS, Timer};
use crate::{AllocationId, Output, Turn};

impl Turn {
    pub(crate) fn channel_bind(&mut self, request: &Request<'_>) -> Result<Success, Reject> {
        let id = self.owned(request)?;
        let message = request.message;
        // §12.2, check 1: CHANNEL-NUMBER and XOR-PEER-ADDRESS are there.
        let number = optional(message, AttributeType::CHANNEL_NUMBER, attribute::channel_number)?
            .ok_or(Reject::BadRequest)?;
        let named = message.attribute(AttributeType::XOR_PEER_ADDRESS).ok_or(Reject::BadRequest)?;
        // §12.2, check 2: the number is one that a client may use.
        let Some(number) = ChannelNumber::new(number, self.channel_range) else {
            if ChannelNumber::new(number, ChannelRange::Rfc5766).is_some() {
                self.stats.channel_numbers_rfc5766_refused += 1;
                self.outputs.push_back(Output::HintChannelNumber);
            }
            return Err(Reject::BadRequest);
        };
        // §12.2: of the family of the relayed transport address, and allowed.
        let peer = self.named_peer(id, message, named)?;
        let allocation = self.tables.by_id(id).ok_or(Reject::AllocationMismatch)?;
        // §12.2, checks 3 and 4: neither is bound to another; nor was until five minutes ago.
        let other_peer = allocation.channels.get(&number).is_some_and(|c| c.peer != peer);
        let other_number = allocation.numbers.get(&peer).is_some_and(|n| *n != number);
        if other_peer || other_number {
            return Err(Reject::BadRequest);
        }
        self.peers.reach(peer)?;
        let full = allocation.channels.len() >= self.limits.channels_per_allocation_max;
        if full && !allocation.channels.contains_key(&number) {
            return Err(Reject::InsufficientCapacity);
        }
        self.room_for_permissions(request.now, id, &BTreeSet::from([peer.ip()]))?;

        self.bind(request, id, number, peer);
        // §12.2: the binding brings a permission, or refreshes it; this installs both at once.
        self.permit(request.now, id, peer.ip());
        Ok(Success::Done)
    }

    fn bind(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        number: ChannelNumber,
        peer: PeerAddr,
    ) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let deadline_ns = request.now.monotonic_ns + CHANNEL_NS;
        let before = allocation.channels.get(&number);
        if before.is_none_or(|channel| channel.phase == Phase::Banned) {
            self.stats.channels += 1;
        }
        let before_ns = before.map(ChannelBinding::timer_ns);
        let installed = before.and_then(|channel| channel.installed);
        self.timers.set(before_ns, deadline_ns, Timer::Channel(id, number));
        let channel = ChannelBinding { peer, deadline_ns, phase: Phase::Bound, installed };
        allocation.channels.insert(number, channel);
        allocation.numbers.insert(peer, number);
    }

    /// Tells the datapath until when a channel relays, if it does and that is news.
    pub(crate) fn install(&mut self, id: AllocationId, number: ChannelNumber) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Some(binding) = allocation.binding(number) else { return };
        let deadlines = (binding.client_to_peer_deadline_ns, binding.peer_to_client_deadline_ns);
        let Some(channel) = allocation.channels.get_mut(&number) else { return };
        if channel.installed.replace(deadlines) != Some(deadlines) {
            self.outputs.push_back(Output::Install(binding));
        }
    }

    /// Takes back what the datapath was told of a channel that still relays.
    pub(crate) fn withdraw(&mut self, id: AllocationId, number: ChannelNumber) {
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Some(binding) = allocation.binding(number) else { return };
        let Some(channel) = allocation.channels.get_mut(&number) else { return };
        if channel.installed.take().is_some() {
            self.outputs.push_back(Output::Withdraw(binding));
        }
    }
}
