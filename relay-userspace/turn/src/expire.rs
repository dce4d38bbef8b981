//! The end of things: what a deadline does, and how an allocation goes away.

use relay_common::addr::Family;
use relay_common::wire::channel_data::ChannelNumber;

use crate::allocation::{Allocation, ChannelBinding, Phase, Stage};
use crate::ports::Parity;
use crate::timers::Timer;
use crate::{AllocationId, Now, Output, Turn};

impl Turn {
    /// Ends everything whose deadline has come.
    pub(crate) fn expire(&mut self, now: Now) {
        while let Some(timer) = self.timers.take_due(now.monotonic_ns) {
            match timer {
                Timer::Channel(id, number) => self.expire_channel(id, number),
                Timer::Permission(id, ip) => {
                    // The datapath knows this deadline: it only must not keep what is over.
                    self.forbid(id, ip);
                    let allocation = self.tables.by_id_mut(id);
                    if allocation.and_then(|a| a.permissions.remove(&ip)).is_some() {
                        self.stats.permissions -= 1;
                    }
                }
                Timer::Relayed(id, family) => self.close_relayed(id, family),
                Timer::Reservation(token) => {
                    if let Some(reservation) = self.reservations.remove(&token) {
                        self.ports.release(reservation.place);
                        self.stats.reservations -= 1;
                    }
                }
            }
        }
    }

    /// Ends an allocation.
    pub(crate) fn deallocate(&mut self, id: AllocationId) {
        for family in Family::ALL {
            self.close_relayed(id, family);
        }
    }

    /// Ends a relayed transport address of an allocation: the datapath forgets what belongs to it,
    /// then it closes, then its port may be chosen again. With the last one ends the allocation.
    pub(crate) fn close_relayed(&mut self, id: AllocationId, family: Family) {
        let Some(allocation) = self.tables.by_id(id) else { return };
        if allocation.relayed[family as usize].is_none() {
            return;
        }
        let ips = allocation.permissions.keys().copied().filter(|ip| Family::of(*ip) == family);
        let of_family = |(_, channel): &(_, &ChannelBinding)| channel.peer.family() == family;
        let numbers = allocation.channels.iter().filter(of_family).map(|(number, _)| *number);
        let (ips, numbers): (Vec<_>, Vec<_>) = (ips.collect(), numbers.collect());
        // Permissions first: without its binding, a peer's data would leave as an indication.
        for ip in &ips {
            self.forbid(id, *ip);
        }
        for number in &numbers {
            self.withdraw(id, *number);
        }
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        for number in numbers {
            let Some(channel) = allocation.channels.remove(&number) else { continue };
            allocation.numbers.remove(&channel.peer);
            self.timers.cancel(channel.timer_ns(), Timer::Channel(id, number));
            if channel.phase == Phase::Bound {
                self.stats.channels -= 1;
            }
        }
        for ip in ips {
            let Some(given) = allocation.permissions.remove(&ip) else { continue };
            self.timers.cancel(given.deadline_ns, Timer::Permission(id, ip));
            self.stats.permissions -= 1;
        }
        let Some(relayed) = allocation.relayed[family as usize].take() else { return };
        self.outputs.push_back(Output::CloseRelay { allocation: id, family });
        self.ports.release(relayed.place);
        match &mut allocation.stage {
            Stage::Open(_) => {
                self.timers.cancel(relayed.deadline_ns, Timer::Relayed(id, family));
                *self.stats.allocations_mut(allocation.five_tuple.transport, family) -= 1;
            }
            Stage::Opening(opening) => {
                if opening.parity == Parity::EvenAndNext {
                    self.ports.release(relayed.place.next());
                }
                for place in opening.failed.drain(..) {
                    self.ports.release(place);
                }
            }
        }
        if allocation.relayed.iter().all(Option::is_none) {
            self.end(id);
        }
    }

    /// Forgets an allocation of which no relayed transport address is left.
    fn end(&mut self, id: AllocationId) {
        let Some(allocation) = self.tables.remove(id) else { return };
        self.forget_coming(&allocation);
        if allocation.open().is_some() {
            let Allocation { five_tuple, counts, .. } = allocation;
            self.outputs.push_back(Output::Ended { five_tuple, counts });
        }
    }

    /// A channel binding ends, and later the ban on its number and peer (RFC 8656 §12).
    fn expire_channel(&mut self, id: AllocationId, number: ChannelNumber) {
        self.withdraw(id, number);
        let Some(allocation) = self.tables.by_id_mut(id) else { return };
        let Some(channel) = allocation.channels.get_mut(&number) else { return };
        match channel.phase {
            Phase::Bound => {
                channel.phase = Phase::Banned;
                self.stats.channels -= 1;
                self.timers.set(None, channel.timer_ns(), Timer::Channel(id, number));
            }
            Phase::Banned => {
                let peer = channel.peer;
                allocation.channels.remove(&number);
                allocation.numbers.remove(&peer);
            }
        }
    }
}
