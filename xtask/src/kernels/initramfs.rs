//! What is in a guest: the binaries under test with the shared libraries they need, a few tools,
//! the kernel's modules, and the script that is its first process.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};

use super::{cpio::Archive, legs::LEGS, modules::Modules, package::Kernel};
use crate::{build::Built, host, verify};

/// The bus, the interfaces, and tagged networks.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "8021q"];

const INIT: &str = include_str!("init.sh");

/// The part that is the same for every kernel: path in the guest, and contents.
pub(super) struct Contents(Vec<(String, Vec<u8>)>);

impl Contents {
    /// Gathers it from this machine.
    ///
    /// # Errors
    /// A program that is not there or cannot be read.
    pub(super) fn gather(built: &Built) -> Result<Self> {
        let mut contents = Self(Vec::new());
        let mut libraries = BTreeSet::new();
        // Not its path: a build may have replaced the file meanwhile.
        let xtask = PathBuf::from(format!("/proc/{}/exe", process::id()));
        let ours = [("turnpike", &built.turnpike), ("relay-bench", &built.relay_bench)];
        for (name, path) in ours.into_iter().chain([("xtask", &xtask)]) {
            contents.add(format!("turnpike/{name}"), stripped(path)?);
            libraries.extend(libraries_of(path)?);
        }
        for (path, name) in
            [("bin/busybox", "busybox"), ("sbin/ip", "ip"), ("sbin/ethtool", "ethtool")]
        {
            let file = host::which(name).with_context(|| format!("{name} is not here"))?;
            contents.add(path.to_owned(), read(&file)?);
            libraries.extend(libraries_of(&file)?);
        }
        for library in libraries {
            // At the place where the dynamic linker looks; links are followed.
            let place = library.to_string_lossy().trim_start_matches('/').to_owned();
            contents.add(place, read(&library)?);
        }
        contents.add("turnpike/object".to_owned(), read(&built.objects.relay)?);
        contents.add("turnpike/budget.toml".to_owned(), read(&verify::committed_budget())?);
        let legs = LEGS.iter().map(|leg| leg.words() + "\n").collect::<String>();
        contents.add("legs".to_owned(), legs.into_bytes());
        contents.add("init".to_owned(), INIT.as_bytes().to_vec());
        Ok(contents)
    }

    /// The archive for one kernel.
    ///
    /// # Errors
    /// A module that it does not have.
    pub(super) fn archive(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for (path, contents) in &self.0 {
            archive.file(path, contents);
        }
        let mut order = String::new();
        for module in Modules::find(&kernel.modules)?.in_order(MODULES)? {
            archive.file(&format!("modules/{}", module.name), &module.bytes);
            order += &format!("{}\n", module.name);
        }
        archive.file("modules/order", order.as_bytes());
        Ok(archive.finish())
    }

    fn add(&mut self, path: String, contents: Vec<u8>) {
        self.0.push((path, contents));
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A binary without its debug information, which would be most of the guest's memory.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    if host::which("strip").is_none() {
        return read(path);
    }
    let slim = super::directory().join("stripped");
    host::output(host::command("strip").arg("--strip-debug").arg("-o").arg(&slim).arg(path))?;
    read(&slim)
}

/// The shared libraries that a program loads, its dynamic linker among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = host::command("ldd").arg(program).output().context("cannot start ldd")?;
    // It fails for a static program, which needs none.
    Ok(libraries(&String::from_utf8_lossy(&output.stdout)))
}

fn libraries(ldd: &str) -> Vec<PathBuf> {
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    ldd.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f38fabc4000)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f38f9a1e000)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f38fabc6000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(ldd), expected.map(PathBuf::from));
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
