//! `cargo xtask kernels`: the kernel object and the binaries on other kernels than the one that
//! runs, in guests with virtio-net; and the object on the one that runs. Owns the verb and the
//! table; every guest is judged by its console.

mod cpio;
mod guest;
mod initramfs;
mod legs;
mod modules;
mod package;

use std::{env::consts::ARCH, fs, path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, Result};

use self::{
    guest::{Facts, QEMU},
    initramfs::Contents,
    legs::LEGS,
    package::Kernel,
};
use crate::{
    apt,
    build::{self, Built, Profile},
    host,
    objects::Warnings,
    tally::Outcome,
    toolchain::{self, Install},
    verify,
};

/// Debian's kernels, oldest first. The oldest is the oldest that Turnpike supports.
const SERIES: &[&str] = &["6.1", "6.12"];

/// What runs the guests, what is in them, and what unpacks modules.
const DEBIAN_PACKAGES: &[&str] =
    &["busybox-static", "ethtool", "iproute2", "qemu-system-x86", "xz-utils"];

/// `cargo xtask kernels`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Get nothing: without qemu, or without a kernel from an earlier run, this is skipped
    #[arg(long)]
    no_install: bool,
    /// Build the binaries unoptimised
    #[arg(long)]
    debug: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let install = Install::allowed_if(!args.no_install);
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let built = build::all(&toolchain::require(install)?, profile, Warnings::Shown)?;
    Ok(check(&built, install)?.report("kernels"))
}

/// Runs every kernel that is to be had, all guests at once.
///
/// # Errors
/// Something that should be here could not be got or started.
pub(crate) fn check(built: &Built, install: Install) -> Result<Outcome> {
    if let Some(why) = obstacle(install)? {
        return Ok(Outcome::Skipped(why));
    }
    fs::create_dir_all(directory()).context("cannot make a directory below target/")?;
    let mut kernels = Vec::new();
    let mut absent = Vec::new();
    for series in SERIES {
        match package::newest(series, install)? {
            Some(kernel) => kernels.push(kernel),
            None => absent.push(*series),
        }
    }
    let contents = Contents::gather(built)?;
    let consoles = thread::scope(|scope| {
        let guests = kernels.iter().map(|kernel| {
            let contents = &contents;
            scope.spawn(move || guest::run(kernel, &contents.archive(kernel)?))
        });
        // All are started before the first is waited for.
        let guests: Vec<_> = guests.collect();
        let guests = guests.into_iter().map(|guest| guest.join());
        guests.map(|result| result.expect("a guest's thread does not panic")).collect::<Vec<_>>()
    });

    let mut failed = Vec::new();
    for (kernel, console) in kernels.iter().zip(consoles) {
        failed.extend(judge(kernel, &console?));
    }
    println!("\nthe running kernel:");
    let here = verify::check(&built.objects.relay, &verify::committed_budget())?;
    if let Outcome::Failed(why) = &here {
        failed.push(format!("the running kernel: {why}"));
    }
    Ok(if !failed.is_empty() {
        Outcome::Failed(failed.join("; "))
    } else if !absent.is_empty() {
        Outcome::Skipped(format!("no kernel to be had of {}", absent.join(", ")))
    } else if let Outcome::Skipped(why) = here {
        Outcome::Skipped(format!("the running kernel: {why}"))
    } else {
        Outcome::Passed
    })
}

/// Where kernels are kept. Not under `CARGO_TARGET_DIR`: they have nothing to do with a build.
fn directory() -> PathBuf {
    host::root().join("target/kernels")
}

/// Why guests cannot run here, after getting what may be got.
fn obstacle(install: Install) -> Result<Option<String>> {
    if ARCH != "x86_64" {
        return Ok(Some(format!("the guests are amd64, this machine is {ARCH}")));
    }
    if install == Install::Allowed && apt::is_available() {
        apt::install(&apt::missing(DEBIAN_PACKAGES))?;
    }
    let tools = [QEMU, "busybox", "ip", "ethtool", "ldd", "timeout", "xz"];
    let missing: Vec<&str> = tools.into_iter().filter(|tool| host::which(tool).is_none()).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let fix = apt::install_command(DEBIAN_PACKAGES);
    Ok(Some(format!("{} not found; {fix}", missing.join(", "))))
}

/// Prints how a guest went; what is wrong with it.
fn judge(kernel: &Kernel, console: &str) -> Option<String> {
    let facts = Facts::parse(console);
    let findings = facts.findings();
    if !findings.is_empty() {
        println!("\n-- console of {}\n{console}-- end of console", kernel.name);
    }
    print!("\n{}", table(&facts));
    if findings.is_empty() {
        return None;
    }
    Some(format!("{}: {}", kernel.name, findings.join(", ")))
}

/// A guest's results, a line for each leg.
fn table(facts: &Facts) -> String {
    let verified = facts
        .verified
        .map_or_else(|| "NOT VERIFIED".to_owned(), |count| format!("verified ({count} steps)"));
    let mut table = format!("{}: {verified}, on {}", facts.kernel, facts.driver);
    if let Some(secs) = facts.ended_secs {
        table += &format!(", {secs} s");
    }
    table.push('\n');
    table += &format!(
        "  {:<18} {:>6} {:>6} {:>6} {:>8} {:>10}\n",
        "leg", "native", "sent", "lost", "by XDP", "userspace"
    );
    for leg in &LEGS {
        let Some(went) = facts.went(leg) else {
            table += &format!("  {:<18} no result\n", leg.name);
            continue;
        };
        let native = if went.native == 2 { "yes" } else { "NO" };
        table += &format!(
            "  {:<18} {native:>6} {:>6} {:>6} {:>6} % {:>10}\n",
            leg.name,
            went.sent,
            went.lost,
            went.xdp_percent(),
            went.userspace
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_every_leg_also_without_a_result() {
        let facts = Facts::parse(
            "@@ kernel 6.1.0\n@@ verified 1 2502\n@@ driver virtio_net\n@@ leg IPv4 load-exit 0 \
             turnpike-exit 0 native 2 sent 200 lost 1 xdp 300 userspace 100",
        );
        let table = table(&facts);
        assert!(table.starts_with("6.1.0: verified (2502 steps), on virtio_net\n"), "{table}");
        assert!(
            table.contains("IPv4                  yes    200      1     75 %        100"),
            "{table}"
        );
        assert_eq!(table.matches("no result").count(), LEGS.len() - 1);
    }
}
