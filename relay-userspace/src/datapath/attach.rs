//! Where and how the XDP program is attached: native on every interface, else generic on every
//! interface. Mixed modes are not used: a native program cannot redirect into an interface whose
//! driver has no XDP.

use aya::programs::{Xdp, XdpMode};
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

/// Attaches to every interface in the first of `modes` that all of them take.
///
/// # Errors
/// No interface, or the last mode failed on one.
pub(crate) fn attach(
    program: &mut Xdp,
    interfaces: &[Interface],
    modes: &[Mode],
) -> Result<Vec<Attachment>, DatapathError> {
    if interfaces.is_empty() {
        return Err(DatapathError::NoInterface);
    }
    let mut failure = DatapathError::NoInterface;
    for mode in modes {
        match attach_all(program, interfaces, *mode) {
            Ok(attachments) => return Ok(attachments),
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
) -> Result<Vec<Attachment>, DatapathError> {
    let mut links = Vec::new();
    let Some(xdp) = mode.xdp() else { return Ok(Vec::new()) };
    for interface in interfaces {
        match program.attach_to_if_index(interface.index, xdp) {
            Ok(link) => links.push(link),
            Err(cause) => {
                for link in links {
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
    Ok(interfaces
        .iter()
        .map(|interface| Attachment { interface: interface.clone(), mode })
        .collect())
}
