//! Debian packages: which are missing, how to get them, getting them.
//! Knows nothing about why a package is wanted, and never leaves a service running.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::host;

/// Runs as root. Some packages start a daemon when they are installed: the policy file forbids
/// that while apt runs, and goes away again unless it was there before.
const INSTALL: &str = r#"
set -eu
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 1' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update
apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
for package in "$@"; do
    case "$package" in
    coturn | redis-server)
        if [ -d /run/systemd/system ]; then systemctl disable "$package.service"; fi
        ;;
    esac
done
"#;

/// Whether this machine installs packages with apt.
pub(crate) fn is_available() -> bool {
    host::which("apt-get").is_some() && host::which("dpkg-query").is_some()
}

/// Those of `packages` that are not installed, in the order given.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // The exit code only says that some package is unknown to dpkg: the output has what counts.
    let report = host::command("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .stdin(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    not_installed(packages, &report)
}

/// The command a person would type to get `packages`.
pub(crate) fn install_command(packages: &[&str]) -> String {
    let sudo = if host::is_root() { "" } else { "sudo " };
    format!(
        "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Installs `packages`, through sudo when this is not root.
///
/// # Errors
/// No apt, neither root nor sudo, or apt's own failure (its output is on the terminal).
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !is_available() {
        bail!("this machine has no apt-get; install the equivalent of: {}", packages.join(" "));
    }
    println!("installing Debian packages: {}", packages.join(" "));
    let mut command = if host::is_root() {
        host::command("sh")
    } else if host::which("sudo").is_some() {
        println!("not root: sudo is used for apt-get and may ask for your password");
        let mut sudo = host::command("sudo");
        sudo.arg("sh");
        sudo
    } else {
        bail!("not root and no sudo; as root, run: {}", install_command(packages));
    };
    command.args(["-c", INSTALL, "install"]).args(packages);
    if host::is_root() {
        command.stdin(Stdio::null());
    }
    host::run(&mut command)
        .with_context(|| format!("apt-get failed; by hand: {}", install_command(packages)))
}

fn not_installed<'a>(packages: &[&'a str], report: &str) -> Vec<&'a str> {
    let installed = |package: &str| {
        report.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_or_unknown_package_is_missing() {
        let report = "gcc installed\ncoturn config-files\n";
        assert_eq!(not_installed(&["gcc", "coturn", "ethtool"], report), ["coturn", "ethtool"]);
    }

    #[test]
    fn nothing_is_missing_when_all_are_installed() {
        assert!(not_installed(&["gcc"], "gcc installed\n").is_empty());
    }
}
