//! Debian's kernels: finds the newest package of a series, gets it and unpacks it below `target/`.
//! Installs none of them: the machine keeps the kernel that it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{host, toolchain::Install};

/// An unpacked kernel package.
pub(super) struct Kernel {
    /// Of the package.
    pub(super) name: String,
    /// What the guest boots.
    pub(super) image: PathBuf,
    /// Its modules: `lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

/// The newest kernel of a series such as `6.1`; `None` where there is none to be had.
///
/// # Errors
/// A download or an archive that went wrong.
pub(super) fn newest(series: &str, install: Install) -> Result<Option<Kernel>> {
    let offered = newest_name(&offered(series));
    let cached = newest_name(&cached(series));
    if install == Install::Allowed
        && let Some(package) = offered
    {
        if !directory(&package).is_dir() {
            fetch(&package)?;
        }
        return unpacked(package).map(Some);
    }
    cached.map(unpacked).transpose()
}

fn directory(package: &str) -> PathBuf {
    super::directory().join(package)
}

/// Names of the packages that apt knows.
fn offered(series: &str) -> Vec<String> {
    let pattern = format!("^{}.*{SUFFIX}$", prefix(series).replace('.', "\\."));
    let mut search = host::command("apt-cache");
    search.args(["search", "--names-only", &pattern]);
    let found = host::output(&mut search).unwrap_or_default();
    found.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Names of the packages that were unpacked before.
fn cached(series: &str) -> Vec<String> {
    let entries = fs::read_dir(super::directory()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix(series)) && name.ends_with(SUFFIX)).collect()
}

/// Small kernels for virtual machines, virtio among their drivers.
const SUFFIX: &str = "-cloud-amd64";

fn prefix(series: &str) -> String {
    format!("linux-image-{series}.")
}

fn newest_name(names: &[String]) -> Option<String> {
    names.iter().max_by_key(|name| numbers(name)).cloned()
}

/// The numbers in a package's name, for comparing versions: 6.1.0-56 is newer than 6.1.0-9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn fetch(package: &str) -> Result<()> {
    println!("getting {package}");
    // Only a whole package takes the name that is looked for.
    let draft = super::directory().join("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir_all(&draft)?;
    let mut download = host::command("apt-get");
    download.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&draft);
    host::output(&mut download)?;
    let archive = only(&draft, |name| name.ends_with(".deb"))?;
    host::output(host::command("dpkg-deb").arg("-x").arg(&archive).arg(&draft))?;
    fs::remove_file(&archive)?;
    fs::rename(&draft, directory(package)).context("cannot keep the unpacked kernel")
}

fn unpacked(name: String) -> Result<Kernel> {
    let root = directory(&name);
    let image = only(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    // Where Debian has merged /usr, in both packages.
    let modules = [root.join("lib/modules"), root.join("usr/lib/modules")];
    let Some(modules) = modules.iter().find(|directory| directory.is_dir()) else {
        bail!("{name} has no modules");
    };
    let modules = only(modules, |_| true)?;
    Ok(Kernel { name, image, modules })
}

/// The one entry of a directory whose name fits.
fn only(directory: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut fitting = entries.iter().filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    match (fitting.next(), fitting.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => bail!("{} does not have exactly one such entry", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_has_the_greatest_numbers() {
        let names = [
            "linux-image-6.12.107+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(newest_name(&names).as_deref(), Some(names[1].as_str()));
        let names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"];
        assert!(numbers(names[0]) < numbers(names[1]));
        assert_eq!(newest_name(&[]), None);
    }
}
