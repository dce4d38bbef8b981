//! The handle on the kernel: loads, attaches, and lets one control message at a time at the maps.
//! One lock around all of it; control messages take it, packets never do.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{
    ABI_VERSION, Config, Count, Direction, NextHop, Policer, Reason, TIMES_BUCKETS, TIMES_SWITCH,
    map,
};
use relay_common::addr::{FiveTuple, ServerAddr};
use relay_common::police;
use relay_turn::{Binding, POLICING_BURST_NS, Permission};
use rustix::system::uname;
use tokio::sync::mpsc::UnboundedSender;

use super::KernelLog;
use super::attach::{Attachment, Interface, Mode, Patience, attach};
use super::error::DatapathError;
use super::links::Links;
use super::maps::take;
use super::means::EPOCH;
use super::next_hops::Change;
use super::pins::{Pins, told};
use super::pod::Plain;
use super::ports::{Exits, Ports, program};
use super::stations::Stations;
use super::table::Table;

#[cfg(xdp_object_embedded)]
const EMBEDDED: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp.o")));
#[cfg(not(xdp_object_embedded))]
const EMBEDDED: Option<&[u8]> = None;

/// The oldest kernel that XDP is offered on: the oldest that it is tested on.
pub(super) const KERNEL_MIN: (u32, u32) = (6, 1);

/// What a source of Binding requests may have at once: what two seconds bring, as in userspace.
const ANSWER_BURST_NS: u64 = 2_000_000_000;

/// How the kernel answers Binding requests.
#[derive(Clone, Debug)]
pub(crate) struct Answering {
    /// Requests to which addresses.
    pub(crate) servers: Vec<ServerAddr>,
    /// Answers to one IPv4 address or IPv6 /64, per second; at least 1.
    pub(crate) replies_per_sec: u32,
    /// From the operating system.
    pub(crate) budget_key: u64,
}

/// What the kernel datapath is set up with.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    /// Another object than the embedded one.
    pub(crate) object: Option<&'a Path>,
    /// Where to attach.
    pub(crate) interfaces: Vec<Interface>,
    /// Every link of the machine: whose frames are whose, before the first one comes.
    pub(crate) links: &'a Links,
    /// The modes to try, in order.
    pub(crate) modes: Vec<Mode>,
    /// First and last relayed port.
    pub(crate) relayed: (u16, u16),
    /// Highest channel number.
    pub(crate) channel_last: u16,
    /// Listening ports, at most [`relay_common::abi::LISTEN_PORTS_MAX`].
    pub(crate) listen_ports: Vec<u16>,
    /// Addresses of this machine: clients on them stay in userspace, and peers too, but for
    /// relayed transport addresses whose clients talk to each other.
    pub(crate) own: Vec<IpAddr>,
    /// Whether the program measures how long it takes.
    pub(crate) measure_times: bool,
    /// Whether Binding requests are answered.
    pub(crate) answering: Option<Answering>,
    /// The limits of each direction of an allocation.
    pub(crate) limits: Option<Policer>,
    /// From the operating system: which routes share a place is nobody's to choose.
    pub(crate) place_key: u64,
}

/// Counters of the kernel datapath.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelReport {
    /// Packets and bytes in the order of [`Reason::ALL`]; `None`: the map cannot be read.
    pub(crate) reasons: Option<[Count; Reason::ALL.len()]>,
    /// Routes in the kernel: two for each channel binding or hairpin, one for each allocation with
    /// permissions, one for each address that Binding requests are answered on.
    pub(crate) routes: u64,
    /// Pairs of clients of this relay that it takes straight to each other.
    pub(crate) hairpins: u64,
    /// Permissions in the kernel.
    pub(crate) permissions: u64,
    /// Bindings and permissions that the kernel could not take: they are relayed in userspace.
    pub(crate) install_failures: u64,
    /// Next hops in use that packets can be sent to.
    pub(crate) next_hops_resolved: u64,
    /// Next hops in use that wait for a route or a neighbour.
    pub(crate) next_hops_unresolved: u64,
}

/// The loaded, attached program and its maps. Dropping it detaches and forgets everything.
pub(crate) struct Kernel {
    own: Vec<IpAddr>,
    log: Mutex<Option<KernelLog>>,
    table: Mutex<Table>,
    stations: Mutex<Stations>,
    times: Option<PerCpuArray<MapData, u64>>,
    ports: Mutex<Ports>,
}

/// Removes what is pinned when it is dropped: that is what detaches the program, once the process
/// ended.
pub(crate) struct Unpinning(Arc<Kernel>);

impl Drop for Unpinning {
    fn drop(&mut self) {
        self.0.ports().unpin();
    }
}

impl Kernel {
    /// Loads, configures and attaches. Changes of next hops are announced on `changes`.
    ///
    /// # Errors
    /// See [`DatapathError`]; nothing stays attached.
    pub(crate) fn load(
        settings: &Settings<'_>,
        mut pins: Option<Pins>,
        changes: UnboundedSender<Change>,
    ) -> Result<Self, DatapathError> {
        let release = uname();
        let release = release.release().to_string_lossy();
        if !is_recent(&release) {
            return Err(DatapathError::OldKernel(release.into_owned()));
        }
        let mut ebpf = load_object(settings)?;
        // Only a debug object has the map; it must stay open until the program is loaded.
        let log = KernelLog::init(&mut ebpf).ok();
        program(&mut ebpf)?.load().map_err(DatapathError::Program)?;
        // Only now, when ours is known to run, goes what a killed process left.
        let mut patience = Patience::None;
        if let Some(pins) = &mut pins {
            let left = pins.clear()?;
            told(&left);
            patience = if left.is_empty() { Patience::None } else { Patience::Unpinned };
            pins.pin_maps(&ebpf)?;
        }
        let mut config: Array<MapData, Plain<Config>> = take(&mut ebpf, map::CONFIG)?;
        config.set(0, Plain(config_of(settings)), 0).map_err(DatapathError::Map)?;
        let mut exits = Exits::take(&mut ebpf)?;
        for (port, interface) in (0..).zip(&settings.interfaces) {
            exits.open(port, interface)?;
        }
        let mut table = Table::take(&mut ebpf, settings.place_key, settings.limits, changes)?;
        for server in settings.answering.iter().flat_map(|answering| &answering.servers) {
            table.answer(*server)?;
        }
        let mut stations = Stations::take(&mut ebpf)?;
        let interfaces = &settings.interfaces;
        stations.write(settings.links, |index| interfaces.iter().any(|i| i.index == index));
        let times = match settings.measure_times {
            true => Some(take(&mut ebpf, map::TIMES)?),
            false => None,
        };
        let attached = attach(program(&mut ebpf)?, interfaces, &settings.modes, patience)?;
        let ports = Mutex::new(Ports::new(ebpf, attached, exits, pins)?);
        let own = settings.own.clone();
        let (log, table, stations) = (Mutex::new(log), Mutex::new(table), Mutex::new(stations));
        Ok(Self { own, log, table, stations, times, ports })
    }

    /// Each interface in order of its port, and how its packets are taken now.
    pub(crate) fn attachments(&self) -> Vec<Attachment> {
        self.ports().attachments().collect()
    }

    /// The mode that the program is attached in.
    pub(crate) fn mode(&self) -> Mode {
        self.ports().mode()
    }

    /// The log of a debug object, once.
    pub(crate) fn take_log(&self) -> Option<KernelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What removes the pins when the relay ends.
    pub(crate) fn unpin_at_end(self: &Arc<Self>) -> Unpinning {
        Unpinning(self.clone())
    }

    /// Lets the kernel relay a binding, or moves its deadlines. A channel to one of our own
    /// addresses is composed with one back into a hairpin. What does not fit stays in userspace
    /// and is counted; so do clients on our own addresses, which no packet leaves the machine for.
    pub(crate) fn install(&self, binding: &Binding) {
        if self.is_own_client(&binding.five_tuple) {
        } else if self.own.contains(&binding.peer.ip()) {
            self.lock().install_hairpin(binding);
        } else {
            self.lock().install(binding);
        }
    }

    /// Takes everything of a binding out of the kernel.
    pub(crate) fn withdraw(&self, binding: &Binding) {
        self.lock().withdraw(binding);
    }

    /// Lets the kernel relay indications, or moves their deadlines.
    pub(crate) fn permit(&self, permission: &Permission) {
        let is_own_peer = self.own.contains(&permission.peer);
        if !is_own_peer && !self.is_own_client(&permission.five_tuple) {
            self.lock().permit(permission);
        }
    }

    /// Takes a permission out of the kernel.
    pub(crate) fn forbid(&self, permission: &Permission) {
        self.lock().forbid(permission);
    }

    /// Lets an allocation whose bindings and permissions are withdrawn be another 5-tuple's: what
    /// it relayed is counted on.
    pub(crate) fn change(&self, from: &FiveTuple, to: FiveTuple) {
        self.lock().change(from, to);
    }

    /// Forgets an allocation: what the kernel relayed for it, in order of [`Direction`].
    pub(crate) fn end(&self, five_tuple: &FiveTuple) -> [Count; Direction::ALL.len()] {
        self.lock().end(five_tuple)
    }

    /// Writes a next hop, if its place is still the one that was asked for.
    pub(crate) fn set_next_hop(&self, index: u16, serial: u64, value: NextHop) {
        self.lock().set_next_hop(index, serial, value);
    }

    /// Has frames taken as links say that interfaces with the program do.
    pub(crate) fn write_stations(&self, links: &Links, is_attached: impl Fn(u32) -> bool) {
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        stations.write(links, is_attached);
    }

    /// Leaves Binding requests to userspace from now on.
    pub(crate) fn stop_answering(&self) {
        self.lock().stop_answering();
    }

    /// Takes note that the interface with this index is gone, and the program with it.
    pub(crate) fn lose(&self, index: u32) {
        self.ports().lose(index);
    }

    /// Attaches to the interface of a port, which is back with this index.
    ///
    /// # Errors
    /// The kernel refuses: the interface's packets go through userspace.
    pub(crate) fn attach(&self, port: u32, index: u32) -> Result<(), DatapathError> {
        self.ports().attach(port, index)
    }

    /// Reads the counters.
    pub(crate) fn report(&self) -> KernelReport {
        self.lock().report()
    }

    /// Packets by the logarithm of the nanoseconds that the program took for them; `None` if it
    /// does not measure, or the map cannot be read.
    pub(crate) fn times(&self) -> Option<[u64; TIMES_BUCKETS as usize]> {
        let map = self.times.as_ref()?;
        let mut times = [0; TIMES_BUCKETS as usize];
        for (bucket, packets) in (0..).zip(&mut times) {
            *packets = map.get(&bucket, 0).ok()?.iter().sum();
        }
        Some(times)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        // A panic elsewhere leaves an interface gone or attached, and never half of it.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_own_client(&self, five_tuple: &FiveTuple) -> bool {
        self.own.contains(&five_tuple.client.ip())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the maps as they are: every single write is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits of bytes of application data and of packets, per second; 0: none. `None` without any.
pub(crate) fn limits(bytes_per_sec: u32, packets_per_sec: u32) -> Option<Policer> {
    (bytes_per_sec > 0 || packets_per_sec > 0).then(|| Policer {
        packet_cost: police::packet_cost(packets_per_sec.into()),
        byte_cost: police::byte_cost(bytes_per_sec.into()),
        burst_ns: POLICING_BURST_NS,
        ..Policer::default()
    })
}

fn config_of(settings: &Settings<'_>) -> Config {
    let mut config = Config {
        abi_version: ABI_VERSION,
        epoch: EPOCH,
        relayed_first: settings.relayed.0,
        relayed_last: settings.relayed.1,
        channel_last: settings.channel_last,
        place_key: settings.place_key,
        ..Config::default()
    };
    for (place, port) in config.listen_ports.iter_mut().zip(&settings.listen_ports) {
        *place = port.to_be();
        config.listen_ports_count += 1;
    }
    if let Some(answering) = &settings.answering {
        config.answer_cost_ns = police::packet_cost(answering.replies_per_sec.into());
        config.answer_burst_ns = ANSWER_BURST_NS.saturating_sub(config.answer_cost_ns);
        config.budget_key = answering.budget_key;
    }
    config
}

/// Whether a kernel's release is at least [`KERNEL_MIN`]. One that cannot be told is tried.
fn is_recent(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= KERNEL_MIN,
        _ => true,
    }
}

fn load_object(settings: &Settings<'_>) -> Result<Ebpf, DatapathError> {
    let file;
    let bytes = match settings.object {
        Some(path) => {
            file = fs::read(path)
                .map_err(|error| DatapathError::ObjectFile(path.display().to_string(), error))?;
            &file[..]
        }
        None => EMBEDDED.ok_or(DatapathError::NoObject)?,
    };
    let mut loader = EbpfLoader::new();
    let measure_times = u32::from(settings.measure_times);
    // An object of another version may lack the switch: that is found out below, and said.
    loader.override_global(TIMES_SWITCH, &measure_times, false);
    let ebpf = loader.load(bytes).map_err(DatapathError::Load)?;
    let abi = ebpf.map(map::ABI).ok_or(DatapathError::ForeignObject("no ABI version"))?;
    let abi: Array<&MapData, u32> = Array::try_from(abi).map_err(DatapathError::Map)?;
    if abi.len() != ABI_VERSION {
        return Err(DatapathError::ForeignObject("another ABI version"));
    }
    Ok(ebpf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_the_oldest_tested_one_are_refused() {
        for release in ["6.1.0", "6.1", "6.1.0-13-cloud-amd64", "6.12.3", "10.0-rc1", "7"] {
            assert!(is_recent(release), "{release}");
        }
        for release in ["6.0.19", "5.15.0-91-generic", "4.19"] {
            assert!(!is_recent(release), "{release}");
        }
        let text = DatapathError::OldKernel("5.15.0".to_owned()).to_string();
        assert!(text.contains("5.15.0") && text.contains("6.1"), "{text}");
    }
}
