//! What is installed, and the maps that hold it: routes in, routes out, counters read.
//! Knows nothing of loading, attaching or locks.

use std::collections::HashMap;

use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use relay_common::abi::{Count, NextHop, Reason, Route, RouteKeyV4, RouteKeyV6, map};
use relay_common::addr::FiveTuple;
use relay_common::route::{self, Entry, Leg, Stamp};
use relay_common::wire::channel_data::ChannelNumber;
use relay_turn::Binding;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::error::DatapathError;
use super::kernel::KernelReport;
use super::next_hops::{Change, Ends, NextHops};
use super::pod::Plain;

/// The epoch of every route; a later configuration takes another.
pub(super) const EPOCH: u16 = 1;

/// What is installed.
pub(super) struct Table {
    routes_v4: BpfHashMap<MapData, Plain<RouteKeyV4>, Plain<Route>>,
    routes_v6: BpfHashMap<MapData, Plain<RouteKeyV6>, Plain<Route>>,
    next_hop_map: Array<MapData, Plain<NextHop>>,
    slots: PerCpuArray<MapData, Plain<Count>>,
    reasons: PerCpuArray<MapData, Plain<Count>>,
    next_hops: NextHops,
    installed: HashMap<(FiveTuple, ChannelNumber), Installed>,
    install_failures: u64,
}

/// The next hops that an installed binding holds on to.
#[derive(Clone, Copy)]
struct Installed {
    to_peer: (Ends, u16),
    to_client: (Ends, u16),
}

impl Installed {
    const fn ends(&self) -> (Ends, Ends) {
        (self.to_peer.0, self.to_client.0)
    }
}

impl Table {
    /// Takes the maps out of a loaded object. Changes of next hops are announced on `changes`.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        changes: UnboundedSender<Change>,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            routes_v4: take(ebpf, map::ROUTES_V4)?,
            routes_v6: take(ebpf, map::ROUTES_V6)?,
            next_hop_map: take(ebpf, map::NEXT_HOPS)?,
            slots: take(ebpf, map::SLOTS)?,
            reasons: take(ebpf, map::REASONS)?,
            next_hops: NextHops::new(changes),
            installed: HashMap::new(),
            install_failures: 0,
        })
    }

    /// Writes a next hop, if its place is still the one that was asked for.
    pub(super) fn set_next_hop(&mut self, index: u16, serial: u64, value: NextHop) {
        if self.next_hops.is_current(index, serial, value.state) {
            self.write_next_hop(index, value);
        }
    }

    /// Reads the counters.
    pub(super) fn report(&self) -> KernelReport {
        let mut reasons = Some([Count::default(); Reason::ALL.len()]);
        for reason in Reason::ALL {
            let count = self.count(reason);
            reasons = reasons.zip(count).map(|(mut all, count)| {
                all[reason as usize] = count;
                all
            });
        }
        let (next_hops_resolved, next_hops_unresolved) = self.next_hops.counts();
        KernelReport {
            reasons,
            routes: 2 * self.installed.len() as u64,
            install_failures: self.install_failures,
            next_hops_resolved,
            next_hops_unresolved,
        }
    }

    /// A reason's counts, all CPUs together.
    fn count(&self, reason: Reason) -> Option<Count> {
        self.reasons.get(&(reason as u32), 0).ok().map(|values| sum(&values))
    }

    /// A slot's counts in one direction, all CPUs together, which then are zero.
    pub(super) fn take_count(&mut self, index: u32) -> Count {
        let Ok(values) = self.slots.get(&index, 0) else { return Count::default() };
        let total = sum(&values);
        if total != Count::default()
            && let Ok(zeros) = PerCpuValues::try_from(vec![Plain(Count::default()); values.len()])
            && let Err(error) = self.slots.set(index, zeros, 0)
        {
            warn!(%error, "an allocation's counters could not be cleared");
        }
        total
    }

    /// Puts both routes of a binding into the kernel, or moves their deadlines.
    pub(super) fn install(&mut self, binding: &Binding, slot: u32) {
        let place = (binding.five_tuple, binding.number);
        let held = match self.installed.get(&place) {
            // Of another peer or relayed address: left by a shard that ended.
            Some(held) if held.ends() != ends(binding) => {
                self.release_both(*held);
                self.installed.remove(&place);
                None
            }
            held => held.copied(),
        };
        let held = match held.or_else(|| self.hold(binding)) {
            Some(held) => held,
            None => return self.failed("no next hop is free"),
        };
        self.installed.insert(place, held);
        let entries = route::channel(&routed(binding, slot, held)).into_iter().flatten();
        if let Err(error) = entries.into_iter().try_for_each(|entry| self.insert(entry)) {
            self.withdraw(binding);
            self.failed(&error.to_string());
        }
    }

    fn insert(&mut self, entry: Entry) -> Result<(), MapError> {
        match entry {
            Entry::V4(key, route) => self.routes_v4.insert(Plain(key), Plain(route), 0),
            Entry::V6(key, route) => self.routes_v6.insert(Plain(key), Plain(route), 0),
        }
    }

    /// Takes both routes of a binding out of the kernel.
    pub(super) fn withdraw(&mut self, binding: &Binding) {
        let Some(held) = self.installed.remove(&(binding.five_tuple, binding.number)) else {
            return;
        };
        for entry in route::channel(&routed(binding, 0, held)).into_iter().flatten() {
            // A route that is not there is as good as one that was removed; the second is removed
            // whatever became of the first.
            let _ = match entry {
                Entry::V4(key, _) => self.routes_v4.remove(&Plain(key)),
                Entry::V6(key, _) => self.routes_v6.remove(&Plain(key)),
            };
        }
        self.release_both(held);
    }

    fn release_both(&mut self, held: Installed) {
        self.release(held.to_peer);
        self.release(held.to_client);
    }

    /// Takes hold of both next hops of a binding.
    fn hold(&mut self, binding: &Binding) -> Option<Installed> {
        let (towards_peer, towards_client) = ends(binding);
        let to_peer = (towards_peer, self.acquire(towards_peer)?);
        match self.acquire(towards_client) {
            Some(index) => Some(Installed { to_peer, to_client: (towards_client, index) }),
            None => {
                self.release(to_peer);
                None
            }
        }
    }

    fn acquire(&mut self, ends: Ends) -> Option<u16> {
        let (index, is_new) = self.next_hops.acquire(ends)?;
        if is_new {
            // Unresolved until netlink says otherwise: packets pass up meanwhile.
            self.write_next_hop(index, NextHop::default());
            self.next_hops.announce(index);
        }
        Some(index)
    }

    fn release(&mut self, (ends, index): (Ends, u16)) {
        if self.next_hops.release(ends) {
            self.write_next_hop(index, NextHop::default());
        }
    }

    fn write_next_hop(&mut self, index: u16, value: NextHop) {
        if let Err(error) = self.next_hop_map.set(index.into(), Plain(value), 0) {
            warn!(%error, "a next hop could not be written");
        }
    }

    fn failed(&mut self, why: &str) {
        // The first says what is wrong; the metric says how often.
        if self.install_failures == 0 {
            warn!(why, "a binding does not fit into the kernel: relayed in userspace");
        }
        self.install_failures += 1;
    }
}

fn sum(values: &PerCpuValues<Plain<Count>>) -> Count {
    values.iter().fold(Count::default(), |sum, Plain(count)| Count {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    })
}

/// Towards the peer, and towards the client.
fn ends(binding: &Binding) -> (Ends, Ends) {
    let FiveTuple { server, client, .. } = binding.five_tuple;
    ((binding.relayed.ip(), binding.peer.ip()), (server.ip(), client.ip()))
}

/// The binding with everything that its routes hold.
fn routed(binding: &Binding, slot: u32, held: Installed) -> route::Binding {
    let leg = |deadline_ns, (_, next_hop): (Ends, u16)| Leg { deadline_ns, next_hop };
    route::Binding {
        five_tuple: binding.five_tuple,
        relayed: binding.relayed,
        peer: binding.peer,
        channel: binding.number,
        stamp: Stamp { slot, epoch: EPOCH, policed: false },
        to_peer: leg(binding.client_to_peer_deadline_ns, held.to_peer),
        to_client: leg(binding.peer_to_client_deadline_ns, held.to_client),
    }
}

/// Takes a map out of a loaded object.
pub(super) fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::ForeignObject(name))?;
    M::try_from(map).map_err(DatapathError::Map)
}
