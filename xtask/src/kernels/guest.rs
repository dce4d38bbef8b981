//! One guest: boots a kernel under qemu, without acceleration, and reads its console to the end.
//! Knows the script's facts; does not judge them.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{
    legs::{LEGS, Leg, Went},
    package::Kernel,
};
use crate::host;

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// No guest may take longer, seconds: several times what one takes on a busy machine.
const GUEST_SECS_MAX: u32 = 480;

/// Memory of a guest, MiB: most of it for the first root, unpacked, and the kernel's maps.
const MEMORY_MIB: u32 = 1024;

/// The hub that each network interface is on: client and relay, relay and peer.
const HUBS: [u32; 4] = [0, 0, 1, 1];

/// Runs a guest to its end; what it wrote to its console, with what qemu said.
///
/// # Errors
/// qemu cannot be started, or its archive not be written.
pub(super) fn run(kernel: &Kernel, archive: &[u8]) -> Result<String> {
    let initrd = super::directory().join(format!("{}.cpio", kernel.name));
    fs::write(&initrd, archive).with_context(|| format!("cannot write {}", initrd.display()))?;
    let console = boot(&kernel.image, &initrd);
    fs::remove_file(&initrd)?;
    console
}

fn boot(image: &Path, initrd: &Path) -> Result<String> {
    // `timeout` ends its own child, and nothing else. In the foreground: Ctrl-C reaches qemu.
    let mut command = host::command("timeout");
    command.args(["--foreground", "--kill-after=10", &GUEST_SECS_MAX.to_string(), QEMU]);
    // No KVM: it is the same everywhere, and hardly anywhere may a test use it.
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1"]);
    for (index, hub) in HUBS.iter().enumerate() {
        command.arg("-netdev").arg(format!("hubport,id=port{index},hubid={hub}"));
        // No boot code on the interface: the file would be another package.
        command.arg("-device").arg(format!(
            "virtio-net-pci,netdev=port{index},mac=52:54:00:77:00:{index:02x},romfile="
        ));
    }
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.context("cannot start timeout")?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let ending = format!("\nqemu ended: {}\n", output.status);
    Ok(String::from_utf8_lossy(&text).replace('\r', "") + &ending)
}

/// What a console says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `uname -r`.
    pub(super) kernel: String,
    /// Of the relay's interfaces.
    pub(super) driver: String,
    /// Instructions that its verifier went through, if all programs were within budget.
    pub(super) verified: Option<u64>,
    /// The legs that were gone.
    pub(super) legs: Vec<(&'static str, Went)>,
    /// How long it took to come to the script's end, seconds.
    pub(super) ended_secs: Option<u64>,
}

impl Facts {
    /// Reads the script's lines out of everything else.
    pub(super) fn parse(console: &str) -> Self {
        let mut facts = Self::default();
        // Another process may have left its line open: what counts begins in the middle, then.
        for line in console.lines().filter_map(|line| Some(line.split_once("@@ ")?.1)) {
            let (what, words) = line.trim().split_once(' ').unwrap_or((line, ""));
            match what {
                "kernel" => words.clone_into(&mut facts.kernel),
                "driver" => words.clone_into(&mut facts.driver),
                "verified" => {
                    facts.verified = words.strip_prefix("1 ").and_then(|count| count.parse().ok());
                }
                "leg" => facts.legs.extend(leg(words)),
                "end" => {
                    facts.ended_secs = words.strip_prefix("ok ").and_then(|secs| secs.parse().ok());
                }
                _ => {}
            }
        }
        facts
    }

    /// How a leg went; `None` if it did not come to its end.
    pub(super) fn went(&self, leg: &Leg) -> Option<Went> {
        self.legs.iter().find(|(name, _)| *name == leg.name).map(|(_, went)| *went)
    }

    /// What is wrong; one sentence each.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.verified.is_none() {
            findings.push("the object was refused, or is over budget".to_owned());
        }
        if self.driver != "virtio_net" {
            findings.push(format!("the driver is {:?} and not virtio_net", self.driver));
        }
        for leg in &LEGS {
            match self.went(leg) {
                Some(went) => findings.extend(leg.findings(&went)),
                None => findings.push(format!("{}: no result", leg.name)),
            }
        }
        if self.ended_secs.is_none() {
            findings.push("the guest did not come to its end".to_owned());
        }
        findings
    }
}

fn leg(words: &str) -> Option<(&'static str, Went)> {
    let (name, figures) = words.split_once(' ')?;
    let leg = LEGS.iter().find(|leg| leg.name == name)?;
    Some((leg.name, Went::parse(figures)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> String {
        let mut console = "[    0.1] boot\n@@ kernel 6.1.0-1\nprogram\n@@ verified 1 2502\n\
                           @@ driver virtio_net\n"
            .to_owned();
        for leg in &LEGS {
            console += &format!(
                "half a line@@ leg {} load-exit 0 turnpike-exit 0 native 2 sent 200 lost 0 xdp \
                 400 userspace 0\n",
                leg.name
            );
        }
        console + "@@ end ok 40\n[   40.1] reboot\n"
    }

    #[test]
    fn a_good_console_has_all_facts_and_no_findings() {
        let facts = Facts::parse(&console());
        assert_eq!(facts.kernel, "6.1.0-1");
        assert_eq!(facts.verified, Some(2502));
        assert_eq!(facts.legs.len(), LEGS.len());
        assert_eq!(facts.ended_secs, Some(40));
        assert_eq!(facts.findings(), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_missing_from_the_console_is_a_finding() {
        for (there, instead, why) in [
            ("verified 1", "verified 0", "the object was refused, or is over budget"),
            ("driver virtio_net", "driver veth", "the driver is \"veth\" and not virtio_net"),
            ("leg IPv6 ", "leg IPv7 ", "IPv6: no result"),
            ("lost 0 xdp", "lost  xdp", "IPv4: no result"),
            ("end ok ", "end failed ", "the guest did not come to its end"),
        ] {
            let facts = Facts::parse(&console().replacen(there, instead, 1));
            assert_eq!(facts.findings(), [why]);
        }
        assert_eq!(Facts::parse("").findings().len(), LEGS.len() + 3);
    }
}
