//! Pins: what keeps program and maps in the kernel when the process ends without saying so, and
//! where a later process finds them. Owns the directory and its lock; does not load or attach.
//!
//! `DIRECTORY/v<ABI version>/maps/NAME` and `DIRECTORY/v<ABI version>/links/INTERFACE`. Whoever
//! holds the lock on `DIRECTORY` owns all of it; the lock goes with its process, however it ends.

use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use aya::Ebpf;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use relay_common::abi::ABI_VERSION;
use rustix::fs::{FlockOperation, flock, statfs};
use tracing::{info, warn};

use super::error::Chain;

/// The file system that pins live in.
const BPF_FS_MAGIC: i64 = 0xCAFE_4A11;

/// Why nothing can be pinned.
#[derive(Debug)]
pub(crate) enum PinsError {
    /// The directory is not in a bpffs.
    NotBpffs(PathBuf),
    /// Another process holds it.
    InUse(PathBuf),
    /// It, or something in it, cannot be used.
    Io(PathBuf, io::Error),
    /// A map cannot be pinned.
    Map(String, PinError),
    /// A link cannot be pinned.
    Link(String, PinError),
    /// A link is none that can be pinned.
    OldLink(String, LinkError),
}

impl fmt::Display for PinsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBpffs(path) => write!(
                f,
                "{} is in no BPF file system: `mount -t bpf bpf /sys/fs/bpf` makes one, or set \
                 `pin` in [datapath] to a directory in another, or to \"off\"",
                path.display()
            ),
            Self::InUse(path) => write!(
                f,
                "another process of Turnpike holds {}: stop it, or give each relay a directory of \
                 its own with `pin` in [datapath]",
                path.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Map(name, error) => {
                write!(f, "the map {name} cannot be pinned: {}", Chain(error))
            }
            Self::Link(name, error) => {
                write!(f, "the link to {name} cannot be pinned: {}", Chain(error))
            }
            Self::OldLink(name, error) => write!(
                f,
                "the program's link to {name} cannot be pinned ({}): set `pin = \"off\"` in \
                 [datapath]",
                Chain(error)
            ),
        }
    }
}

impl std::error::Error for PinsError {}

/// A directory that this process owns. What it pins there goes when this is dropped, and stays
/// when the process is killed.
pub(crate) struct Pins {
    directory: PathBuf,
    holds_ours: bool,
    // Held for as long as the directory is ours.
    _lock: OwnedFd,
}

impl Pins {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// It is in no bpffs, another process has it, or it cannot be made.
    pub(crate) fn lock(directory: &Path) -> Result<Self, PinsError> {
        let failed = |error| PinsError::Io(directory.to_owned(), error);
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let file_system = statfs(existing).map_err(|error| failed(error.into()))?;
        #[allow(clippy::unnecessary_cast, reason = "the field's type is not the same everywhere")]
        if file_system.f_type as i64 != BPF_FS_MAGIC {
            return Err(PinsError::NotBpffs(directory.to_owned()));
        }
        make(directory).map_err(failed)?;
        let lock = OwnedFd::from(File::open(directory).map_err(failed)?);
        // The directory itself is never removed, so its lock is everybody's.
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => PinsError::InUse(directory.to_owned()),
            error => failed(error.into()),
        })?;
        Ok(Self { directory: directory.to_owned(), holds_ours: false, _lock: lock })
    }

    /// Removes what another process left, of whatever version, and tells the interfaces whose
    /// links were among it: the kernel detaches their programs in a moment.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) fn clear(&self) -> Result<Vec<String>, PinsError> {
        let mut interfaces = Vec::new();
        for version in entries(&self.directory)?.into_iter().filter(|path| is_version(path)) {
            let (links, maps) = (version.join("links"), version.join("maps"));
            for place in [&links, &maps].into_iter().filter(|place| place.exists()) {
                for pin in entries(place)? {
                    fs::remove_file(&pin).map_err(|error| PinsError::Io(pin.clone(), error))?;
                    if place == &links {
                        let name = pin.file_name().unwrap_or_default().to_string_lossy();
                        interfaces.push(interface_of(&name));
                    }
                }
                remove_directory(place)?;
            }
            remove_directory(&version)?;
        }
        Ok(interfaces)
    }

    /// Pins every map of a loaded object. None may be taken out of it yet.
    ///
    /// # Errors
    /// The directory cannot be made, or the kernel refuses.
    pub(super) fn pin_maps(&mut self, ebpf: &Ebpf) -> Result<(), PinsError> {
        self.holds_ours = true;
        let place = self.place("maps")?;
        // The names of sections with constants have dots, which a bpffs does not take; a later
        // process has constants of its own.
        for (name, map) in ebpf.maps().filter(|(name, _)| !name.contains('.')) {
            map.pin(place.join(name)).map_err(|error| PinsError::Map(name.to_owned(), error))?;
        }
        Ok(())
    }

    /// Pins the link to an interface.
    ///
    /// # Errors
    /// It is of a kind that cannot be pinned, or the kernel refuses; the program is detached then.
    pub(super) fn pin_link(
        &mut self,
        interface: &str,
        link: XdpLink,
    ) -> Result<PinnedLink, PinsError> {
        self.holds_ours = true;
        let link = FdLink::try_from(link)
            .map_err(|error| PinsError::OldLink(interface.to_owned(), error))?;
        let path = self.place("links")?.join(pin_of(interface));
        link.pin(path).map_err(|error| PinsError::Link(interface.to_owned(), error))
    }

    fn place(&self, kind: &str) -> Result<PathBuf, PinsError> {
        let place = self.directory.join(format!("v{ABI_VERSION}")).join(kind);
        make(&place).map_err(|error| PinsError::Io(place.clone(), error))?;
        Ok(place)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.holds_ours
            && let Err(error) = self.clear()
        {
            warn!(%error, "pins stay behind: `turnpike detach` removes them");
        }
    }
}

/// Removes what a process that was killed left in a directory, if nobody else has it: without
/// this, its program would go on relaying for allocations that are no more.
pub(crate) fn clear_dead(directory: &Path) {
    if !directory.exists() {
        return;
    }
    match Pins::lock(directory).and_then(|pins| pins.clear()) {
        Ok(interfaces) => told(&interfaces),
        Err(PinsError::InUse(_) | PinsError::NotBpffs(_)) => {}
        Err(error) => warn!(%error, "what a killed relay may have left cannot be removed"),
    }
}

/// Says whose programs went.
pub(super) fn told(interfaces: &[String]) {
    if !interfaces.is_empty() {
        let interfaces = interfaces.join(", ");
        info!(interfaces, "detached what a relay left that did not end by itself");
    }
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, PinsError> {
    let failed = |error| PinsError::Io(directory.to_owned(), error);
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// Whether it is of ours: others may share the directory.
fn is_version(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn remove_directory(directory: &Path) -> Result<(), PinsError> {
    fs::remove_dir(directory).map_err(|error| PinsError::Io(directory.to_owned(), error))
}

/// The name of an interface's pin: a bpffs takes no dots.
fn pin_of(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2E")
}

/// The interface of a pin's name.
fn interface_of(pin: &str) -> String {
    pin.replace("%2E", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_has_a_pin_of_its_own_without_dots() {
        for (interface, pin) in
            [("eth0", "eth0"), ("eth0.5", "eth0%2E5"), ("a%2E", "a%252E"), ("%", "%25")]
        {
            assert_eq!(pin_of(interface), pin);
            assert_eq!(interface_of(pin), interface);
        }
    }

    #[test]
    fn what_the_kernel_said_is_told() {
        let refused = PinError::SyscallError(aya::sys::SyscallError {
            call: "BPF_OBJ_PIN",
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        });
        let text = PinsError::Map("CONFIG".to_owned(), refused).to_string();
        assert!(text.contains("CONFIG") && text.contains("not permitted"), "{text}");
    }

    #[test]
    fn a_directory_elsewhere_is_refused_and_not_made() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("pins");
        let Err(error) = Pins::lock(&directory) else { panic!("no bpffs") };
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!directory.exists());
    }
}
