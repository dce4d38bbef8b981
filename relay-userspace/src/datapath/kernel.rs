//! The maps: routes in, routes out, counters read. One lock around all of it; control messages
//! take it, packets never do.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{
    Array, DevMap, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, PerCpuValues,
};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{
    ABI_VERSION, Config, Count, Direction, NextHop, PROGRAM, Reason, Route, RouteKeyV4, RouteKeyV6,
    map,
};
use relay_common::addr::FiveTuple;
use relay_common::route::{self, Entry, Leg, Stamp};
use relay_common::wire::channel_data::ChannelNumber;
use relay_turn::Binding;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::KernelLog;
use super::attach::{Attachment, Interface, Mode, attach};
use super::error::DatapathError;
use super::next_hops::{Change, Ends, NextHops};
use super::pod::Plain;

#[cfg(xdp_object_embedded)]
const EMBEDDED: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp.o")));
#[cfg(not(xdp_object_embedded))]
const EMBEDDED: Option<&[u8]> = None;

/// The epoch of every route; a later configuration takes another.
const EPOCH: u16 = 1;

/// What the kernel datapath is set up with.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    /// Another object than the embedded one.
    pub(crate) object: Option<&'a Path>,
    /// Where to attach.
    pub(crate) interfaces: Vec<Interface>,
    /// The modes to try, in order.
    pub(crate) modes: Vec<Mode>,
    /// First and last relayed port.
    pub(crate) relayed: (u16, u16),
    /// Highest channel number.
    pub(crate) channel_last: u16,
    /// Listening ports, at most [`relay_common::abi::LISTEN_PORTS_MAX`].
    pub(crate) listen_ports: Vec<u16>,
    /// Addresses of this relay: what is between two of them stays in userspace.
    pub(crate) own: Vec<IpAddr>,
}

/// Counters of the kernel datapath.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelReport {
    /// Packets and bytes in the order of [`Reason::ALL`]; `None`: the map cannot be read.
    pub(crate) reasons: Option<[Count; Reason::ALL.len()]>,
    /// Routes in the kernel: two for each channel binding.
    pub(crate) routes: u64,
    /// Bindings that the kernel could not take: they are relayed in userspace.
    pub(crate) install_failures: u64,
    /// Next hops in use that packets can be sent to.
    pub(crate) next_hops_resolved: u64,
    /// Next hops in use that wait for a route or a neighbour.
    pub(crate) next_hops_unresolved: u64,
}

/// The loaded, attached program and its maps. Dropping it detaches and forgets everything.
pub(crate) struct Kernel {
    attachments: Vec<Attachment>,
    own: Vec<IpAddr>,
    log: Mutex<Option<KernelLog>>,
    inner: Mutex<Inner>,
}

struct Inner {
    // Owns program and links.
    _ebpf: Ebpf,
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

impl Kernel {
    /// Loads, configures and attaches. Changes of next hops are announced on `changes`.
    ///
    /// # Errors
    /// See [`DatapathError`]; nothing stays attached.
    pub(crate) fn load(
        settings: &Settings<'_>,
        changes: UnboundedSender<Change>,
    ) -> Result<Self, DatapathError> {
        let mut ebpf = load_object(settings.object)?;
        // Only a debug object has the map; it must stay open until the program is loaded.
        let log = KernelLog::init(&mut ebpf).ok();
        let mut config: Array<MapData, Plain<Config>> = take(&mut ebpf, map::CONFIG)?;
        config.set(0, Plain(config_of(settings)), 0).map_err(DatapathError::Map)?;
        let mut ports: DevMap<MapData> = take(&mut ebpf, map::PORTS)?;
        for (port, interface) in (0..).zip(&settings.interfaces) {
            ports
                .set(port, interface.index, None, 0)
                .map_err(|_| DatapathError::ForeignObject("the map of egress interfaces"))?;
        }
        let inner_maps = (
            take(&mut ebpf, map::ROUTES_V4)?,
            take(&mut ebpf, map::ROUTES_V6)?,
            take(&mut ebpf, map::NEXT_HOPS)?,
            take(&mut ebpf, map::SLOTS)?,
            take(&mut ebpf, map::REASONS)?,
        );
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(DatapathError::ForeignObject("no program"))?;
        program.load().map_err(DatapathError::Program)?;
        let attachments = attach(program, &settings.interfaces, &settings.modes)?;
        let (routes_v4, routes_v6, next_hop_map, slots, reasons) = inner_maps;
        let inner = Inner {
            _ebpf: ebpf,
            routes_v4,
            routes_v6,
            next_hop_map,
            slots,
            reasons,
            next_hops: NextHops::new(changes),
            installed: HashMap::new(),
            install_failures: 0,
        };
        let own = settings.own.clone();
        Ok(Self { attachments, own, log: Mutex::new(log), inner: Mutex::new(inner) })
    }

    /// Where it is attached, and how.
    pub(crate) fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The log of a debug object, once.
    pub(crate) fn take_log(&self) -> Option<KernelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts both routes of a binding into the kernel, or moves their deadlines. What the kernel
    /// does not do (from one family to the other, from this relay to itself) stays in userspace;
    /// what does not fit does too, and is counted.
    pub(crate) fn install(&self, binding: &Binding, slot: u32) {
        let local = |ip: IpAddr| self.own.contains(&ip);
        let is_crossing = binding.five_tuple.client.family() != binding.peer.family();
        if is_crossing || local(binding.peer.ip()) || local(binding.five_tuple.client.ip()) {
            return;
        }
        self.lock().install(binding, slot);
    }

    /// Takes both routes of a binding out of the kernel.
    pub(crate) fn withdraw(&self, binding: &Binding) {
        self.lock().withdraw(binding);
    }

    /// What the kernel relayed in a slot, client to peer and back; the slot then starts anew. Its
    /// routes must be gone.
    pub(crate) fn take_slot(&self, slot: u32) -> [Count; Direction::ALL.len()] {
        let mut inner = self.lock();
        Direction::ALL.map(|direction| inner.take_count(slot * 2 + direction as u32))
    }

    /// Writes a next hop, if its place is still the one that was asked for.
    pub(crate) fn set_next_hop(&self, index: u16, serial: u64, value: NextHop) {
        let mut inner = self.lock();
        if inner.next_hops.is_current(index, serial, value.state) {
            inner.write_next_hop(index, value);
        }
    }

    /// Reads the counters.
    pub(crate) fn report(&self) -> KernelReport {
        let inner = self.lock();
        let mut reasons = Some([Count::default(); Reason::ALL.len()]);
        for reason in Reason::ALL {
            let count = inner.count(reason);
            reasons = reasons.zip(count).map(|(mut all, count)| {
                all[reason as usize] = count;
                all
            });
        }
        let (next_hops_resolved, next_hops_unresolved) = inner.next_hops.counts();
        KernelReport {
            reasons,
            routes: 2 * inner.installed.len() as u64,
            install_failures: inner.install_failures,
            next_hops_resolved,
            next_hops_unresolved,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the maps as they are: every single write is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A reason's counts, all CPUs together.
    fn count(&self, reason: Reason) -> Option<Count> {
        self.reasons.get(&(reason as u32), 0).ok().map(|values| sum(&values))
    }

    /// A slot's counts in one direction, all CPUs together, which then are zero.
    fn take_count(&mut self, index: u32) -> Count {
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

    fn install(&mut self, binding: &Binding, slot: u32) {
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

    fn withdraw(&mut self, binding: &Binding) {
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

fn config_of(settings: &Settings<'_>) -> Config {
    let mut config = Config {
        abi_version: ABI_VERSION,
        epoch: EPOCH,
        relayed_first: settings.relayed.0,
        relayed_last: settings.relayed.1,
        channel_last: settings.channel_last,
        ..Config::default()
    };
    for (place, port) in config.listen_ports.iter_mut().zip(&settings.listen_ports) {
        *place = port.to_be();
        config.listen_ports_count += 1;
    }
    config
}

fn load_object(path: Option<&Path>) -> Result<Ebpf, DatapathError> {
    let file;
    let bytes = match path {
        Some(path) => {
            file = fs::read(path)
                .map_err(|error| DatapathError::ObjectFile(path.display().to_string(), error))?;
            &file[..]
        }
        None => EMBEDDED.ok_or(DatapathError::NoObject)?,
    };
    let ebpf = EbpfLoader::new().load(bytes).map_err(DatapathError::Load)?;
    let abi = ebpf.map(map::ABI).ok_or(DatapathError::ForeignObject("no ABI version"))?;
    let abi: Array<&MapData, u32> = Array::try_from(abi).map_err(DatapathError::Map)?;
    if abi.len() != ABI_VERSION {
        return Err(DatapathError::ForeignObject("another ABI version"));
    }
    Ok(ebpf)
}

fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::ForeignObject(name))?;
    M::try_from(map).map_err(DatapathError::Map)
}
