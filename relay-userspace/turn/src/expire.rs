//! The end of things: what a deadline does, and how an allocation goes away.

use relay_common::wire::channel_data::ChannelNumber;

use crate::allocation::{Phase, Stage};
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
                Timer::Allocation(id) => self.deallocate(id),
                Timer::Reservation(token) => {
                    if let Some(reservation) = self.reservations.remove(&token) {
                        self.ports.release(reservation.place);
                        self.stats.reservations -= 1;
                    }
                }
            }
        }
    }

    /// Ends an allocation: the datapath forgets it, then its relayed transport address closes,
    /// then the port may be chosen again.
    pub(crate) fn deallocate(&mut self, id: AllocationId) {
        let Some(allocation) = self.tables.by_id(id) else { return };
        let numbers: Vec<_> = allocation.channels.keys().copied().collect();
        let ips: Vec<_> = allocation.permissions.keys().copied().collect();
        // Permissions first: without its binding, a peer's data would leave as an indication.
        for ip in ips {
            self.forbid(id, ip);
        }
        for number in numbers {
            self.withdraw(id, number);
        }
        let Some(allocation) = self.tables.remove(id) else { return };
        for (number, channel) in &allocation.channels {
            self.timers.cancel(channel.timer_ns(), Timer::Channel(id, *number));
            if channel.phase == Phase::Bound {
                self.stats.channels -= 1;
            }
        }
        for (ip, given) in &allocation.permissions {
            self.timers.cancel(given.deadline_ns, Timer::Permission(id, *ip));
            self.stats.permissions -= 1;
        }
        self.outputs.push_back(Output::CloseRelay { allocation: id, counts: allocation.counts });
        self.ports.release(allocation.place);
        let family = allocation.family();
        match allocation.stage {
            Stage::Open(open) => {
                self.timers.cancel(open.deadline_ns, Timer::Allocation(id));
                *self.stats.allocations_mut(allocation.five_tuple.transport, family) -= 1;
            }
            Stage::Opening(opening) => {
                if opening.parity == Parity::EvenAndNext {
                    self.ports.release(allocation.place.next());
                }
                for place in opening.failed {
                    self.ports.release(place);
                }
            }
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
