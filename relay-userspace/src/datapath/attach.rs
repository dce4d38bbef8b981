//! Where and how the XDP program is attached: native on every interface, else generic on every
//! interface. Mixed modes are not used: a native program cannot redirect into an interface whose
//! driver has no XDP.

use std::thread;
use std::time::Duration;

use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::sys::SyscallError;
use tracing::{info, warn};

use super::error::DatapathError;

/// An interface that packets come and go by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its index.
    pub(crate) index: u32,
}

/// How packets are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// By XDP in the driver.
    Native,
    /// By XDP in the network stack: slower, on every driver.
    Generic,
    /// By sockets.
    Userspace,
}

impl Mode {
    /// Its name in configuration, metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Userspace => "userspace",
        }
    }

    const fn xdp(self) -> Option<XdpMode> {
        match self {
            Self::Native => Some(XdpMode::Driver),
            Self::Generic => Some(XdpMode::Skb),
            Self::Userspace => None,
        }
    }
}

/// An interface, and how its packets are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attachment {
    /// Interface.
    pub(crate) interface: Interface,
    /// Mode.
    pub(crate) mode: Mode,
}

/// Where the program is attached, and what keeps it there.
pub(super) struct Attached {
    /// On every interface.
    pub(super) mode: Mode,
    /// Each interface.
    pub(super) interfaces: Vec<Interface>,
    /// The links to them, in the same order.
    pub(super) links: Vec<XdpLinkId>,
}

/// How long the kernel may take to detach what was unpinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// Nothing was: an interface that has a program is somebody else's.
    None,
    /// Two seconds; it is milliseconds.
    Unpinned,
}

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

impl Patience {
    const fn tries(self) -> u32 {
        match self {
            Self::None => 1,
            Self::Unpinned => 200,
        }
    }
}

/// Attaches to every interface in the first of `modes` that all of them take.
///
/// # Errors
/// No interface, or the last mode failed on one.
pub(super) fn attach(
    program: &mut Xdp,
    interfaces: &[Interface],
    modes: &[Mode],
    patience: Patience,
) -> Result<Attached, DatapathError> {
    if interfaces.is_empty() {
        return Err(DatapathError::NoInterface);
    }
    let mut failure = DatapathError::NoInterface;
    for mode in modes {
        match attach_all(program, interfaces, *mode, patience) {
            Ok(attached) => return Ok(attached),
            Err(error) => {
                warn!(%error, mode = mode.name(), "XDP mode not available");
                failure = error;
            }
        }
    }
    Err(failure)
}

fn attach_all(
    program: &mut Xdp,
    interfaces: &[Interface],
    mode: Mode,
    patience: Patience,
) -> Result<Attached, DatapathError> {
    let mut attached = Attached { mode, interfaces: interfaces.to_vec(), links: Vec::new() };
    let Some(xdp) = mode.xdp() else { return Ok(attached) };
    for interface in interfaces {
        match attach_one(program, interface.index, xdp, patience.tries()) {
            Ok(link) => attached.links.push(link),
            Err(cause) => {
                for link in attached.links {
                    // Best effort: what cannot be detached here goes with the process.
                    let _ = program.detach(link);
                }
                let interface = interface.name.clone();
                return Err(DatapathError::Attach { interface, mode, cause });
            }
        }
    }
    for interface in interfaces {
        info!(interface = interface.name, mode = mode.name(), "XDP attached");
    }
    Ok(attached)
}

/// Attaches to an interface that is back, in the mode of all others.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_again(
    program: &mut Xdp,
    interface: &Interface,
    mode: Mode,
) -> Result<XdpLink, DatapathError> {
    let xdp = mode.xdp().ok_or(DatapathError::NoInterface)?;
    attach_one(program, interface.index, xdp, Patience::None.tries())
        .and_then(|link| program.take_link(link))
        .map_err(|cause| DatapathError::Attach { interface: interface.name.clone(), mode, cause })
}

fn attach_one(
    program: &mut Xdp,
    index: u32,
    mode: XdpMode,
    tries: u32,
) -> Result<XdpLinkId, ProgramError> {
    let mut result = program.attach_to_if_index(index, mode);
    for _ in 1..tries {
        let is_busy = |error: &SyscallError| error.io_error.raw_os_error() == Some(libc::EBUSY);
        match &result {
            Err(ProgramError::SyscallError(error)) if is_busy(error) => thread::sleep(PAUSE),
            _ => break,
        }
        result = program.attach_to_if_index(index, mode);
    }
    result
}
