//! What is installed for which allocation: bindings, hairpins, permissions in; what did not fit
//! stays in userspace. Knows nothing of loading, attaching or locks.

use std::collections::HashMap;

use aya::Ebpf;
use relay_common::abi::{Count, Direction, NextHop, Policer};
use relay_common::addr::{FiveTuple, PeerAddr, RelayedAddr, ServerAddr};
use relay_common::route::{self, Entry};
use relay_turn::{Binding, Permission};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::error::DatapathError;
use super::hairpins::{Hairpins, Side};
use super::kernel::KernelReport;
use super::maps::Maps;
use super::means::{Channel, EPOCH, Full, Held, Means};
use super::next_hops::{Change, NextHops};

/// What is installed.
pub(super) struct Table {
    means: Means,
    hairpins: Hairpins,
    /// Boxed: a table keeps many places free.
    held: HashMap<FiveTuple, Box<Held>>,
    /// Routes of Binding requests.
    answers: Vec<Entry>,
    install_failures: u64,
}

impl Table {
    /// Takes the maps out of a loaded object. Every allocation gets `limits`, each way. Changes of
    /// next hops are announced on `changes`.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        place_key: u64,
        limits: Option<Policer>,
        changes: UnboundedSender<Change>,
    ) -> Result<Self, DatapathError> {
        let means = Means::new(Maps::take(ebpf, place_key)?, NextHops::new(changes), limits);
        Ok(Self {
            means,
            hairpins: Hairpins::default(),
            held: HashMap::new(),
            answers: Vec::new(),
            install_failures: 0,
        })
    }

    /// Lets Binding requests to an address be answered.
    pub(super) fn answer(&mut self, server: ServerAddr) -> Result<(), DatapathError> {
        let entry = route::answer(server, EPOCH);
        self.means.maps.insert(&[entry]).map_err(DatapathError::Map)?;
        self.answers.push(entry);
        Ok(())
    }

    /// Leaves Binding requests to userspace from now on.
    pub(super) fn stop_answering(&mut self) {
        self.means.maps.remove(&std::mem::take(&mut self.answers));
    }

    /// Puts both routes of a binding into the kernel, or moves their deadlines.
    pub(super) fn install(&mut self, binding: &Binding) {
        let held = Held::of(&mut self.held, binding.five_tuple, binding.relayed);
        if let Err(why) = self.means.install(held, binding) {
            self.means.refuse(held, binding);
            self.failed(&why);
        }
    }

    /// Notes a channel to one of our own addresses. With a channel back from the client whose
    /// relayed transport address that is, both routes of the hairpin go into the kernel.
    pub(super) fn install_hairpin(&mut self, binding: &Binding) {
        let held = Held::of(&mut self.held, binding.five_tuple, binding.relayed);
        let installed = self.means.open(held).and_then(|open| {
            let side = Side::new(binding, open.stamp, open.to_client.index);
            self.means.maps.insert(&self.hairpins.install(side)).map_err(Full::Map)
        });
        held.channels.insert(binding.number, Channel::Hairpin(binding.peer));
        if let Err(why) = installed {
            self.withdraw_hairpin(binding.relayed, binding.peer);
            self.failed(&why);
        }
    }

    /// Takes everything of a binding out of the kernel.
    pub(super) fn withdraw(&mut self, binding: &Binding) {
        let Some(held) = self.held.get_mut(&binding.five_tuple) else { return };
        match held.channels.remove(&binding.number) {
            Some(Channel::Routed(peer, to_peer)) => {
                self.means.withdraw(held, binding.number, peer, to_peer);
            }
            Some(Channel::Hairpin(peer)) => self.withdraw_hairpin(binding.relayed, peer),
            Some(Channel::Refused(_)) | None => {}
        }
    }

    fn withdraw_hairpin(&mut self, relayed: RelayedAddr, peer: PeerAddr) {
        let peer = RelayedAddr::new(peer.socket());
        self.means.maps.remove(&self.hairpins.withdraw(relayed, peer));
    }

    /// Puts a permission into the kernel, or moves its deadline; and the route of its
    /// allocation's Send indications.
    pub(super) fn permit(&mut self, permission: &Permission) {
        let held = Held::of(&mut self.held, permission.five_tuple, permission.relayed);
        // What belongs into a channel would leave as an indication.
        let refused = |channel: &Channel| match channel {
            Channel::Refused(peer) => peer.ip() == permission.peer,
            Channel::Routed(..) | Channel::Hairpin(_) => false,
        };
        if held.channels.values().any(refused) {
            return;
        }
        if let Err(why) = self.means.permit(held, permission) {
            self.means.forbid(held, permission.peer);
            self.failed(&why);
        }
    }

    /// Takes a permission out of the kernel.
    pub(super) fn forbid(&mut self, permission: &Permission) {
        if let Some(held) = self.held.get_mut(&permission.five_tuple) {
            self.means.forbid(held, permission.peer);
        }
    }

    /// Forgets an allocation: what the kernel relayed for it, in order of [`Direction`].
    pub(super) fn end(&mut self, five_tuple: &FiveTuple) -> [Count; Direction::ALL.len()] {
        let Some(mut held) = self.held.remove(five_tuple) else { return Default::default() };
        self.withdraw_all(&mut held);
        let counts = self.means.close(&mut held);
        held.count(counts)
    }

    /// Lets what is held for an allocation be another 5-tuple's: its bindings and permissions are
    /// withdrawn by now, and come again.
    pub(super) fn change(&mut self, from: &FiveTuple, to: FiveTuple) {
        let Some(mut held) = self.held.remove(from) else { return };
        self.withdraw_all(&mut held);
        self.means.change(&mut held, to);
        self.held.insert(to, held);
    }

    fn withdraw_all(&mut self, held: &mut Held) {
        // Permissions and channels are gone by now, if all went as it should.
        for ip in held.permissions.keys().copied().collect::<Vec<_>>() {
            self.means.forbid(held, ip);
        }
        for (number, channel) in std::mem::take(&mut held.channels) {
            match channel {
                Channel::Routed(peer, to_peer) => {
                    self.means.withdraw(held, number, peer, to_peer);
                }
                Channel::Hairpin(peer) => {
                    if let Some(relayed) = held.relayed(peer.family()) {
                        self.withdraw_hairpin(relayed, peer);
                    }
                }
                Channel::Refused(_) => {}
            }
        }
    }

    /// Writes a next hop, if its place is still the one that was asked for.
    pub(super) fn set_next_hop(&mut self, index: u16, serial: u64, value: NextHop) {
        if self.means.next_hops.is_current(index, serial, value.state) {
            self.means.maps.set_next_hop(index, value);
        }
    }

    /// Reads the counters.
    pub(super) fn report(&self) -> KernelReport {
        let (next_hops_resolved, next_hops_unresolved) = self.means.next_hops.counts();
        let routes = 2 * self.means.channels + self.hairpins.routes();
        KernelReport {
            reasons: self.means.maps.reasons(),
            routes: routes + self.means.sends + self.answers.len() as u64,
            hairpins: self.hairpins.composed(),
            permissions: self.means.permissions,
            install_failures: self.install_failures,
            next_hops_resolved,
            next_hops_unresolved,
        }
    }

    fn failed(&mut self, why: &Full) {
        // The first says what is wrong; the metric says how often.
        if self.install_failures == 0 {
            warn!(%why, "an allocation does not fit into the kernel: relayed in userspace");
        }
        self.install_failures += 1;
    }
}
