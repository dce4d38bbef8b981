//! What an allocation's entries in the kernel are made with, and what each of them holds on to: a
//! slot, next hops, limits. What does not fit leaves nothing behind. Owns no decision.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use aya::maps::MapError;
use litemap::LiteMap;
use relay_common::abi::{Count, Direction, NextHop, Policer};
use relay_common::addr::{Family, FiveTuple, PeerAddr, RelayedAddr};
use relay_common::route::{self, Entry, Leg, PermissionEntry, Stamp};
use relay_common::wire::channel_data::ChannelNumber;
use relay_turn::{Binding, Permission};
use tracing::warn;

use super::error::Chain;
use super::maps::Maps;
use super::next_hops::{Ends, NextHops};
use super::slots::Slots;

/// The epoch of every route and permission; a later configuration takes another.
pub(super) const EPOCH: u16 = 1;

/// What entries are made with.
pub(super) struct Means {
    pub(super) maps: Maps,
    pub(super) next_hops: NextHops,
    slots: Slots,
    /// The limits of every allocation, each direction.
    limits: Option<Policer>,
    /// Channels with routes of their own.
    pub(super) channels: u64,
    /// Routes of Send indications.
    pub(super) sends: u64,
    pub(super) permissions: u64,
}

/// An allocation, known by its 5-tuple, and what it holds.
pub(super) struct Held {
    five_tuple: FiveTuple,
    /// Its relayed transport addresses, in order of [`Family`], as far as something was installed.
    relayed: [Option<RelayedAddr>; Family::ALL.len()],
    /// Once something was installed.
    open: Option<Open>,
    /// The route of Send indications: from which relayed transport address, and until when. There
    /// is one for a 5-tuple: those to peers of the other family go through userspace.
    send: Option<(RelayedAddr, u64)>,
    pub(super) channels: LiteMap<ChannelNumber, Channel>,
    /// Next hops towards the peers.
    pub(super) permissions: LiteMap<IpAddr, Hop>,
    /// What was relayed for it by a slot that it had to give back, in order of [`Direction`].
    pub(super) counted: [Count; Direction::ALL.len()],
}

/// What all entries of an allocation share.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) stamp: Stamp,
    pub(super) to_client: Hop,
    /// What had been counted in its slot when it got it, for others; in order of [`Direction`].
    counted_before: [Count; Direction::ALL.len()],
}

/// A next hop that is held on to.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    ends: Ends,
    pub(super) index: u16,
}

#[derive(Clone, Copy)]
pub(super) enum Channel {
    /// Both its routes are in the kernel.
    Routed(PeerAddr, Hop),
    /// Its peer is a relayed transport address of ours.
    Hairpin(PeerAddr),
    /// It did not fit: userspace relays it.
    Refused(PeerAddr),
}

/// Why something does not fit into the kernel.
pub(super) enum Full {
    Slots,
    NextHops,
    Map(MapError),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots => f.write_str("no slot is free"),
            Self::NextHops => f.write_str("no next hop is free"),
            // The kernel says E2BIG of a map that is full.
            Self::Map(error) => Chain(error).fmt(f),
        }
    }
}

impl Means {
    /// Starts with empty maps. Every allocation gets `limits`, each way.
    pub(super) fn new(maps: Maps, next_hops: NextHops, limits: Option<Policer>) -> Self {
        let slots = Slots::default();
        Self { maps, next_hops, slots, limits, channels: 0, sends: 0, permissions: 0 }
    }

    /// What all entries of an allocation share; made with the first of them.
    pub(super) fn open(&mut self, held: &mut Held) -> Result<Open, Full> {
        if let Some(open) = held.open {
            return Ok(open);
        }
        let FiveTuple { server, client, .. } = held.five_tuple;
        let to_client = self.acquire((server.ip(), client.ip()))?;
        let Some((slot, is_used_before)) = self.slots.take() else {
            self.release(to_client);
            return Err(Full::Slots);
        };
        let counted_before = if is_used_before { self.counts(slot) } else { Default::default() };
        // The limits are there before the first route.
        if let Some(limits) = self.limits
            && let Err(error) = self.maps.set_policers(slot, limits)
        {
            self.slots.give_back(slot);
            self.release(to_client);
            return Err(Full::Map(error));
        }
        let stamp = Stamp { slot, epoch: EPOCH, policed: self.limits.is_some() };
        Ok(*held.open.insert(Open { stamp, to_client, counted_before }))
    }

    /// Makes an allocation without entries another 5-tuple's: what it has counted and what it has
    /// used up of its limits stay. If there is no next hop to the new client, only the counts do.
    pub(super) fn change(&mut self, held: &mut Held, to: FiveTuple) {
        self.withdraw_send(held);
        held.five_tuple = to;
        let Some(open) = held.open else { return };
        match self.acquire((to.server.ip(), to.client.ip())) {
            Ok(to_client) => {
                held.open = Some(Open { to_client, ..open });
                self.release(open.to_client);
            }
            Err(_) => {
                let counts = self.close(held);
                held.count(counts);
            }
        }
    }

    /// Gives back what all entries shared, and removes the route that is not of one of them.
    pub(super) fn close(&mut self, held: &mut Held) -> [Count; Direction::ALL.len()] {
        let Some(open) = held.open.take() else { return Default::default() };
        self.withdraw_send(held);
        let counts = since(open.counted_before, self.counts(open.stamp.slot));
        if self.limits.is_some()
            && let Err(error) = self.maps.set_policers(open.stamp.slot, Policer::default())
        {
            let error = Chain(&error);
            warn!(%error, "an allocation's limits could not be cleared");
        }
        self.slots.give_back(open.stamp.slot);
        self.release(open.to_client);
        counts
    }

    /// Puts both routes of a channel into the kernel. After an error, [`Self::refuse`] removes what
    /// may be there.
    pub(super) fn install(&mut self, held: &mut Held, binding: &Binding) -> Result<(), Full> {
        let open = self.open(held)?;
        let to_peer = match held.channels.get(&binding.number) {
            Some(Channel::Routed(peer, hop)) if *peer == binding.peer => *hop,
            _ => self.acquire((binding.relayed.ip(), binding.peer.ip()))?,
        };
        let channel = Channel::Routed(binding.peer, to_peer);
        match held.channels.insert(binding.number, channel) {
            Some(Channel::Routed(peer, before)) if peer != binding.peer => {
                self.withdraw(held, binding.number, peer, before);
                self.channels += 1;
            }
            Some(Channel::Routed(..)) => {}
            Some(Channel::Hairpin(_) | Channel::Refused(_)) | None => self.channels += 1,
        }
        let leg = |deadline_ns, hop: Hop| Leg { deadline_ns, next_hop: hop.index };
        let to_peer = leg(binding.client_to_peer_deadline_ns, to_peer);
        let to_client = leg(binding.peer_to_client_deadline_ns, open.to_client);
        let routed = route::Binding {
            to_peer,
            to_client,
            ..routed(held, open.stamp, binding.number, (binding.relayed, binding.peer))
        };
        self.maps.insert(&entries(&routed)).map_err(Full::Map)
    }

    /// Leaves a channel to userspace, and with it what would pass by its permission.
    pub(super) fn refuse(&mut self, held: &mut Held, binding: &Binding) {
        let refused = Channel::Refused(binding.peer);
        let before = held.channels.insert(binding.number, refused);
        self.forbid(held, binding.peer.ip());
        if let Some(Channel::Routed(peer, to_peer)) = before {
            self.withdraw(held, binding.number, peer, to_peer);
        }
    }

    /// Removes both routes of a channel, and lets go of its next hop.
    pub(super) fn withdraw(
        &mut self,
        held: &Held,
        number: ChannelNumber,
        peer: PeerAddr,
        to_peer: Hop,
    ) {
        if let Some((open, relayed)) = held.open.zip(held.relayed(peer.family())) {
            self.maps.remove(&entries(&routed(held, open.stamp, number, (relayed, peer))));
        }
        self.channels -= 1;
        self.release(to_peer);
    }

    /// Puts a permission into the kernel, and the route that it needs. After an error,
    /// [`Self::forbid`] removes what may be there.
    pub(super) fn permit(&mut self, held: &mut Held, permission: &Permission) -> Result<(), Full> {
        let open = self.open(held)?;
        let wanted = (permission.relayed, permission.allocation_deadline_ns);
        let is_of_other = held.send.is_some_and(|(relayed, _)| relayed != permission.relayed);
        if !is_of_other && held.send != Some(wanted) {
            let entry = send(held, open.stamp, wanted);
            if let Err(error) = self.maps.insert(entry.as_slice()) {
                self.withdraw_send(held);
                return Err(Full::Map(error));
            }
            self.sends += u64::from(held.send.replace(wanted).is_none());
        }
        let to_peer = match held.permissions.get(&permission.peer) {
            Some(hop) => *hop,
            None => {
                let hop = self.acquire((permission.relayed.ip(), permission.peer))?;
                held.permissions.insert(permission.peer, hop);
                self.permissions += 1;
                hop
            }
        };
        let ends = (permission.relayed, permission.peer);
        let entry = permitted(held, open, ends, permission.deadline_ns, to_peer);
        entry.map_or(Ok(()), |entry| self.maps.permit(&entry)).map_err(Full::Map)
    }

    /// Removes a permission, and lets go of its next hop. With the last one of its family goes the
    /// route of Send indications: its relayed transport address may be another's before the
    /// allocation ends.
    pub(super) fn forbid(&mut self, held: &mut Held, ip: IpAddr) {
        let family = Family::of(ip);
        if let Some((open, to_peer)) = held.open.zip(held.permissions.remove(&ip)) {
            if let Some(relayed) = held.relayed(family)
                && let Some(entry) = permitted(held, open, (relayed, ip), 0, to_peer)
            {
                self.maps.forbid(&entry);
            }
            self.permissions -= 1;
            self.release(to_peer);
        }
        let is_left = held.permissions.keys().any(|ip| Family::of(*ip) == family);
        if !is_left && held.send.is_some_and(|(relayed, _)| relayed.family() == family) {
            self.withdraw_send(held);
        }
    }

    fn withdraw_send(&mut self, held: &mut Held) {
        if let Some((open, (relayed, _))) = held.open.zip(held.send.take()) {
            self.maps.remove(send(held, open.stamp, (relayed, 0)).as_slice());
            self.sends -= 1;
        }
    }

    /// What was counted in a slot, for whomever.
    fn counts(&self, slot: u32) -> [Count; Direction::ALL.len()] {
        self.maps.counts(slot).unwrap_or_else(|| {
            warn!("an allocation's counters could not be read");
            Default::default()
        })
    }

    fn acquire(&mut self, ends: Ends) -> Result<Hop, Full> {
        let (index, is_new) = self.next_hops.acquire(ends).ok_or(Full::NextHops)?;
        if is_new {
            // Unresolved until netlink says otherwise: packets pass up meanwhile.
            self.maps.set_next_hop(index, NextHop::default());
            self.next_hops.announce(index);
        }
        Ok(Hop { ends, index })
    }

    fn release(&mut self, hop: Hop) {
        if self.next_hops.release(hop.ends) {
            self.maps.set_next_hop(hop.index, NextHop::default());
        }
    }
}

impl Held {
    /// The allocation's place, made if it has none.
    pub(super) fn of(
        held: &mut HashMap<FiveTuple, Box<Self>>,
        five_tuple: FiveTuple,
        relayed: RelayedAddr,
    ) -> &mut Self {
        let held = held.entry(five_tuple).or_insert_with(|| {
            Box::new(Self {
                five_tuple,
                relayed: [None; Family::ALL.len()],
                open: None,
                send: None,
                channels: LiteMap::new(),
                permissions: LiteMap::new(),
                counted: Default::default(),
            })
        });
        held.relayed[relayed.family() as usize] = Some(relayed);
        held
    }

    /// Adds to what was counted; gives the sum.
    pub(super) fn count(
        &mut self,
        counts: [Count; Direction::ALL.len()],
    ) -> [Count; Direction::ALL.len()] {
        for (sum, count) in self.counted.iter_mut().zip(counts) {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
        self.counted
    }

    /// The relayed transport address of a family.
    pub(super) const fn relayed(&self, family: Family) -> Option<RelayedAddr> {
        self.relayed[family as usize]
    }
}

/// What was counted after `before`, in order of [`Direction`].
fn since(
    before: [Count; Direction::ALL.len()],
    mut counts: [Count; Direction::ALL.len()],
) -> [Count; Direction::ALL.len()] {
    for (count, before) in counts.iter_mut().zip(before) {
        count.packets = count.packets.saturating_sub(before.packets);
        count.bytes = count.bytes.saturating_sub(before.bytes);
    }
    counts
}

/// A channel, with deadlines that are over.
fn routed(
    held: &Held,
    stamp: Stamp,
    number: ChannelNumber,
    (relayed, peer): (RelayedAddr, PeerAddr),
) -> route::Binding {
    let never = Leg { deadline_ns: 0, next_hop: 0 };
    route::Binding {
        five_tuple: held.five_tuple,
        relayed,
        peer,
        channel: number,
        stamp,
        to_peer: never,
        to_client: never,
    }
}

/// Both entries of a channel; none for a client that the kernel does not serve.
fn entries(binding: &route::Binding) -> Vec<Entry> {
    route::channel(binding).into_iter().flatten().collect()
}

fn send(held: &Held, stamp: Stamp, (relayed, deadline_ns): (RelayedAddr, u64)) -> Option<Entry> {
    route::send(&held.five_tuple, relayed, stamp, deadline_ns)
}

fn permitted(
    held: &Held,
    open: Open,
    (relayed, peer): (RelayedAddr, IpAddr),
    deadline_ns: u64,
    to_peer: Hop,
) -> Option<PermissionEntry> {
    let next_hops = [open.to_client.index, to_peer.index];
    let five_tuple = &held.five_tuple;
    route::permission(five_tuple, relayed, peer, open.stamp, deadline_ns, next_hops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    #[test]
    fn what_a_slot_counted_for_others_is_not_an_allocations() {
        let count = |packets, bytes| Count { packets, bytes };
        let before = [count(3, 300), count(0, 0)];
        let after = [count(10, 1000), count(4, 40)];
        assert_eq!(since(before, after), [count(7, 700), count(4, 40)]);
        let none = [Count::default(); 2];
        assert_eq!(since(after, none), none, "could not be read");
    }

    #[test]
    fn what_the_kernel_said_is_told() {
        let full = Full::Map(MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: std::io::Error::from_raw_os_error(libc::E2BIG),
        }));
        let text = full.to_string();
        assert!(text.contains("bpf_map_update_elem") && text.contains("os error 7"), "{text}");
    }
}
