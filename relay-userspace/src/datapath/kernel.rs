//! The handle on the kernel: loads, attaches, and lets one control message at a time at the maps.
//! One lock around all of it; control messages take it, packets never do.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, DevMap, HashMap as BpfHashMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::programs::links::PinnedLink;
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{
    ABI_VERSION, Config, Count, Direction, LinkKey, NextHop, PROGRAM, Reason, TIMES_BUCKETS,
    TIMES_SWITCH, map,
};
use relay_turn::Binding;
use rustix::system::uname;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::KernelLog;
use super::attach::{Attached, Attachment, Interface, Mode, Patience, attach};
use super::error::DatapathError;
use super::next_hops::Change;
use super::pins::{Pins, told};
use super::pod::Plain;
use super::table::{EPOCH, Table, take};

#[cfg(xdp_object_embedded)]
const EMBEDDED: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-xdp.o")));
#[cfg(not(xdp_object_embedded))]
const EMBEDDED: Option<&[u8]> = None;

/// The oldest kernel that XDP is offered on: the oldest that it is tested on.
pub(super) const KERNEL_MIN: (u32, u32) = (6, 1);

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
    /// Whether the program measures how long it takes.
    pub(crate) measure_times: bool,
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

type Vlans = BpfHashMap<MapData, Plain<LinkKey>, u32>;

/// The loaded, attached program and its maps. Dropping it detaches and forgets everything.
pub(crate) struct Kernel {
    attachments: Vec<Attachment>,
    own: Vec<IpAddr>,
    log: Mutex<Option<KernelLog>>,
    table: Mutex<Table>,
    vlans: Mutex<Vlans>,
    times: Option<PerCpuArray<MapData, u64>>,
    pins: Mutex<Option<Pins>>,
    // The links, if they are pinned.
    _links: Vec<PinnedLink>,
    // Owns program and other links.
    _ebpf: Ebpf,
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
        let mut ports: DevMap<MapData> = take(&mut ebpf, map::PORTS)?;
        let mut egress: BpfHashMap<MapData, u32, u32> = take(&mut ebpf, map::EGRESS)?;
        for (port, interface) in (0..).zip(&settings.interfaces) {
            ports
                .set(port, interface.index, None, 0)
                .map_err(|_| DatapathError::ForeignObject("the map of egress interfaces"))?;
            egress.insert(interface.index, port, 0).map_err(DatapathError::Map)?;
        }
        let table = Table::take(&mut ebpf, changes)?;
        let vlans = Mutex::new(take(&mut ebpf, map::LINKS)?);
        let times = match settings.measure_times {
            true => Some(take(&mut ebpf, map::TIMES)?),
            false => None,
        };
        let program = program(&mut ebpf)?;
        let Attached { attachments, links } =
            attach(program, &settings.interfaces, &settings.modes, patience)?;
        let mut pinned = Vec::new();
        if let Some(pins) = &mut pins {
            for (attachment, link) in attachments.iter().zip(links) {
                let link = program.take_link(link).map_err(DatapathError::Program)?;
                pinned.push(pins.pin_link(&attachment.interface.name, link)?);
            }
        }
        let own = settings.own.clone();
        let (log, table) = (Mutex::new(log), Mutex::new(table));
        let pins = Mutex::new(pins);
        Ok(Self { attachments, own, log, table, vlans, times, pins, _links: pinned, _ebpf: ebpf })
    }

    /// Where it is attached, and how.
    pub(crate) fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The log of a debug object, once.
    pub(crate) fn take_log(&self) -> Option<KernelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is pinned, once: dropping it is what detaches the program, after the process ended.
    pub(crate) fn take_pins(&self) -> Option<Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).take()
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
        let mut table = self.lock();
        Direction::ALL.map(|direction| table.take_count(slot * 2 + direction as u32))
    }

    /// Writes a next hop, if its place is still the one that was asked for.
    pub(crate) fn set_next_hop(&self, index: u16, serial: u64, value: NextHop) {
        self.lock().set_next_hop(index, serial, value);
    }

    /// Takes frames with these tags as those of a VLAN device.
    pub(crate) fn set_vlan(&self, key: LinkKey, index: u32) {
        if let Err(error) = self.vlans().insert(Plain(key), index, 0) {
            warn!(%error, "a VLAN does not fit into the kernel: its packets go through userspace");
        }
    }

    /// Leaves frames with these tags alone.
    pub(crate) fn withdraw_vlan(&self, key: LinkKey) {
        // One that is not there is as good as one that was removed.
        let _ = self.vlans().remove(&Plain(key));
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

    fn vlans(&self) -> MutexGuard<'_, Vlans> {
        self.vlans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the maps as they are: every single write is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let program = ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok());
    program.ok_or(DatapathError::ForeignObject("no program"))
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
