//! Why the kernel datapath cannot be had, and what to do about it.

use std::{fmt, io};

use aya::EbpfError;
use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use aya::programs::ProgramError;
use relay_common::abi::PORTS_MAX;

use super::attach::Mode;
use super::kernel::KERNEL_MIN;
use super::pins::PinsError;

/// Why the kernel datapath cannot be had.
#[derive(Debug)]
pub(crate) enum DatapathError {
    /// The kernel is older than the programs that it would have to verify; its release.
    OldKernel(String),
    /// This binary carries no object, and no path to one was given.
    NoObject,
    /// The object's file cannot be read.
    ObjectFile(String, io::Error),
    /// The object is of another ABI, or no object of Turnpike's at all.
    ForeignObject(&'static str),
    /// The kernel refuses to load the object.
    Load(EbpfError),
    /// The kernel refuses the program.
    Program(ProgramError),
    /// A map cannot be used.
    Map(MapError),
    /// No interface is left to attach to.
    NoInterface,
    /// Packets cannot leave by this interface.
    Egress(String, XdpMapError),
    /// The program cannot be attached.
    Attach {
        /// Interface.
        interface: String,
        /// In this mode.
        mode: Mode,
        /// Because.
        cause: ProgramError,
    },
    /// Program or maps cannot be pinned.
    Pins(PinsError),
}

impl fmt::Display for DatapathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldKernel(release) => write!(
                f,
                "this kernel is {release}, and XDP needs Linux {}.{} or later here: upgrade it, or \
                 relay with `mode = \"userspace\"`",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
            Self::NoObject => f.write_str(
                "this binary carries no XDP object: build it with `cargo xtask build`, or set \
                 `object` in [datapath]",
            ),
            Self::ObjectFile(path, cause) => write!(f, "XDP object {path}: {cause}"),
            Self::ForeignObject(what) => write!(
                f,
                "the XDP object is not of this version of Turnpike ({what}): build both together \
                 with `cargo xtask build`"
            ),
            Self::Load(cause) => {
                write!(f, "loading the XDP object: {}{}", Chain(cause), hint(cause))
            }
            Self::Program(ProgramError::LoadError { io_error, verifier_log })
                if verifier_log.to_string().lines().count() > 1 =>
            {
                write!(
                    f,
                    "the verifier of this kernel refuses the XDP program ({io_error}): {}; without \
                     CAP_PERFMON it always does: grant it beside CAP_BPF and CAP_NET_ADMIN. \
                     Otherwise please report this with the kernel's version",
                    complaint(&verifier_log.to_string())
                )
            }
            Self::Program(cause) => {
                write!(f, "the kernel refuses the XDP program: {}{}", Chain(cause), hint(cause))
            }
            Self::Map(cause) => {
                write!(f, "a map of the XDP object: {}{}", Chain(cause), hint(cause))
            }
            Self::NoInterface => f.write_str(
                "no interface to attach to: only loopback carries the configured addresses; name \
                 some in `interfaces` of [datapath], or accept the userspace path",
            ),
            Self::Egress(interface, XdpMapError::MapError(MapError::OutOfBounds { .. })) => write!(
                f,
                "{interface} is one interface too many, {PORTS_MAX} are possible: name those that \
                 clients and peers are reached by in `interfaces` of [datapath]"
            ),
            Self::Egress(interface, cause) => {
                write!(f, "sending by {interface}: {}{}", Chain(cause), hint(cause))
            }
            Self::Attach { interface, mode, cause } => write!(
                f,
                "attaching to {interface} in {} mode: {}{}",
                mode.name(),
                Chain(cause),
                hint(cause)
            ),
            Self::Pins(cause) => write!(f, "{cause}"),
        }
    }
}

impl From<PinsError> for DatapathError {
    fn from(cause: PinsError) -> Self {
        Self::Pins(cause)
    }
}

impl std::error::Error for DatapathError {}

/// An error and everything that it says caused it, on one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = Some(self.0);
        let mut last = String::new();
        while let Some(error) = next {
            let text = error.to_string();
            // Wrappers often repeat what they wrap.
            if !last.contains(&text) {
                let separator = if last.is_empty() { "" } else { ": " };
                // The verifier's log belongs in a bug report, not on a line.
                let line = text.lines().next().unwrap_or_default();
                write!(f, "{separator}{line}")?;
            }
            last = text;
            next = error.source();
        }
        Ok(())
    }
}

/// The line of a verifier's log that says what it minds: the last one but for statistics.
fn complaint(log: &str) -> &str {
    let statistics = |line: &&str| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with("processed ") || line.starts_with("verification time")
    };
    log.lines().rev().find(|line| !statistics(line)).unwrap_or_default()
}

/// What an operator can do about an error of the kernel.
fn hint(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut next = Some(error);
    let mut code = None;
    while let Some(error) = next {
        code = code.or_else(|| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
        next = error.source();
    }
    match code {
        Some(libc::EPERM | libc::EACCES) => {
            " (run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; see \
             deploy/turnpike.service)"
        }
        Some(libc::EOPNOTSUPP) => " (the driver has no XDP in this mode)",
        Some(libc::EBUSY | libc::EEXIST) => {
            " (another XDP program is attached: `ip link show` names it, `ip link set dev IF xdp \
             off` removes it)"
        }
        Some(libc::ENOSYS) => " (this kernel has no BPF)",
        Some(libc::ENODEV) => " (the interface is gone)",
        Some(libc::EINVAL) => {
            " (the driver refuses, often for the MTU, too few queues, or LRO; the kernel log says \
             which)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    #[test]
    fn the_complaint_of_the_verifier_is_what_stands_before_the_statistics() {
        let log = "0: R1=ctx()\nR2 pointer arithmetic prohibited\nverification time 30 usec\n\
                   processed 15 insns (limit 1000000) max_states_per_insn 0\n";
        assert_eq!(complaint(log), "R2 pointer arithmetic prohibited");
        assert_eq!(complaint(""), "");
    }

    #[test]
    fn a_lack_of_privileges_and_of_driver_support_say_what_to_do() {
        let attach = |code| DatapathError::Attach {
            interface: "eth0".to_owned(),
            mode: Mode::Native,
            cause: ProgramError::SyscallError(SyscallError {
                call: "bpf_link_create",
                io_error: io::Error::from_raw_os_error(code),
            }),
        };
        assert!(attach(libc::EPERM).to_string().contains("CAP_BPF"));
        assert!(attach(libc::EOPNOTSUPP).to_string().contains("no XDP in this mode"));
        assert!(attach(libc::EBUSY).to_string().contains("xdp off"));
        let text = attach(libc::EPERM).to_string();
        assert!(text.contains("eth0") && text.contains("native"), "{text}");
    }

    #[test]
    fn an_interface_that_cannot_be_sent_by_is_no_foreign_object() {
        let gone = MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(libc::ENODEV),
        });
        let text = DatapathError::Egress("eth0".to_owned(), gone.into()).to_string();
        assert!(text.contains("eth0") && text.contains("No such device"), "{text}");
        let full = MapError::OutOfBounds { index: PORTS_MAX, max_entries: PORTS_MAX };
        let text = DatapathError::Egress("eth64".to_owned(), full.into()).to_string();
        for word in ["eth64", "too many", "64", "`interfaces` of [datapath]"] {
            assert!(text.contains(word), "\"{word}\" is not in: {text}");
        }
    }
}
