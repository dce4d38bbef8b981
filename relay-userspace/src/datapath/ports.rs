//! The attached program: which interfaces it is on, what keeps it there, and where it may redirect
//! to. Interfaces come and go; each keeps its port, and all are in one mode. Does not find out that
//! one came or went.

use aya::Ebpf;
use aya::maps::{DevMap, HashMap as BpfHashMap, MapData};
use aya::programs::Xdp;
use aya::programs::links::PinnedLink;
use aya::programs::xdp::XdpLink;
use relay_common::abi::{PROGRAM, map};
use tracing::{info, warn};

use super::attach::{Attached, Attachment, Interface, Mode, attach_again};
use super::error::DatapathError;
use super::maps::take;
use super::pins::Pins;

/// What keeps the program on an interface.
enum Hold {
    Own(XdpLink),
    Pinned(PinnedLink),
}

/// An interface by its name, which comes back with another index.
struct Port {
    interface: Interface,
    /// None while the interface is gone.
    hold: Option<Hold>,
}

/// Where redirected packets may leave, and by which port an interface is named.
pub(super) struct Exits {
    devices: DevMap<MapData>,
    egress: BpfHashMap<MapData, u32, u32>,
}

impl Exits {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { devices: take(ebpf, map::PORTS)?, egress: take(ebpf, map::EGRESS)? })
    }

    /// Lets packets leave by an interface.
    pub(super) fn open(&mut self, port: u32, interface: &Interface) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Egress(interface.name.clone(), cause);
        self.devices.set(port, interface.index, None, 0).map_err(failed)?;
        self.egress.insert(interface.index, port, 0).map_err(|cause| failed(cause.into()))
    }

    /// Asks nobody to send by an interface that is gone; the kernel took it out of `PORTS`.
    fn close(&mut self, index: u32) {
        // One that is not there is as good as one that was removed.
        let _ = self.egress.remove(&index);
    }
}

/// Where the program is. Dropping it detaches what is not pinned, and unloads.
pub(super) struct Ports {
    ports: Vec<Port>,
    mode: Mode,
    exits: Exits,
    pins: Option<Pins>,
    ebpf: Ebpf,
}

impl Ports {
    /// Holds on to what was attached, and pins it if pins there are.
    ///
    /// # Errors
    /// A link cannot be pinned; the program is detached then.
    pub(super) fn new(
        mut ebpf: Ebpf,
        attached: Attached,
        exits: Exits,
        mut pins: Option<Pins>,
    ) -> Result<Self, DatapathError> {
        let Attached { mode, interfaces, links } = attached;
        let program = program(&mut ebpf)?;
        let mut ports = Vec::new();
        for (interface, link) in interfaces.into_iter().zip(links) {
            let link = program.take_link(link).map_err(DatapathError::Program)?;
            let hold = Some(hold(&mut pins, &interface, link)?);
            ports.push(Port { interface, hold });
        }
        Ok(Self { ports, mode, exits, pins, ebpf })
    }

    /// The mode that the program is attached in, everywhere.
    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Each interface, and how its packets are taken now: by sockets, while it is gone.
    pub(super) fn attachments(&self) -> impl Iterator<Item = Attachment> {
        self.ports.iter().map(|port| Attachment {
            interface: port.interface.clone(),
            mode: if port.hold.is_some() { self.mode } else { Mode::Userspace },
        })
    }

    /// Takes note that the interface with this index is gone, and the program with it.
    pub(super) fn lose(&mut self, index: u32) {
        let mut ports = self.ports.iter_mut();
        let Some(port) = ports.find(|port| port.interface.index == index) else { return };
        let Some(hold) = port.hold.take() else { return };
        let interface = &port.interface.name;
        warn!(
            interface,
            "the interface is gone, and the XDP program with it: should it come back, the program \
             is attached again; until then its packets go through userspace"
        );
        release(hold);
        self.exits.close(index);
    }

    /// Attaches to the interface of a port, which is back with this index.
    ///
    /// # Errors
    /// The kernel refuses: the interface stays with the sockets.
    pub(super) fn attach(&mut self, port: u32, index: u32) -> Result<(), DatapathError> {
        let mut ports = (0..).zip(&mut self.ports);
        let Some((_, place)) = ports.find(|(number, _)| *number == port) else { return Ok(()) };
        let interface = Interface { index, ..place.interface.clone() };
        let program = program(&mut self.ebpf)?;
        let link = attach_again(program, &interface, self.mode)?;
        let hold = hold(&mut self.pins, &interface, link)?;
        // Only now: nothing may leave by an interface that has not the program.
        if let Err(error) = self.exits.open(port, &interface) {
            release(hold);
            return Err(error);
        }
        let (name, mode) = (&interface.name, self.mode.name());
        info!(interface = name, mode, "the interface is back, and the XDP program on it");
        *place = Port { interface, hold: Some(hold) };
        Ok(())
    }

    /// Removes what is pinned.
    pub(super) fn unpin(&mut self) {
        drop(self.pins.take());
    }
}

fn hold(
    pins: &mut Option<Pins>,
    interface: &Interface,
    link: XdpLink,
) -> Result<Hold, DatapathError> {
    match pins {
        Some(pins) => Ok(Hold::Pinned(pins.pin_link(&interface.name, link)?)),
        None => Ok(Hold::Own(link)),
    }
}

/// Lets go of an interface. One that is in another network namespace now has the program still.
fn release(hold: Hold) {
    match hold {
        Hold::Own(link) => drop(link),
        Hold::Pinned(link) => {
            if let Err(error) = link.unpin() {
                warn!(%error, "the pin of an interface that is gone stays behind");
            }
        }
    }
}

/// The program of a loaded object.
///
/// # Errors
/// It has none of ours.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let program = ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok());
    program.ok_or(DatapathError::ForeignObject("no program"))
}
