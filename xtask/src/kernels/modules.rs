//! Which modules of a kernel a guest needs, with what they depend on, in the order of loading.
//! Reads an unpacked kernel package; loads nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::host;

/// A module as the guest loads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// As `lsmod` shows it, with `_`.
    pub(super) name: String,
    /// The ELF file, not compressed.
    pub(super) bytes: Vec<u8>,
}

/// Where a kernel keeps its modules.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    /// Names of what is inside the kernel's image.
    built_in: Vec<String>,
}

impl Modules {
    /// Looks through `lib/modules/VERSION` of an unpacked package.
    ///
    /// # Errors
    /// A directory or file that cannot be read.
    pub(super) fn find(directory: &Path) -> Result<Self> {
        let list = directory.join("modules.builtin");
        let list =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let built_in = list.lines().filter_map(|line| name_of(Path::new(line))).collect();
        let mut files = BTreeMap::new();
        let mut directories = vec![directory.join("kernel")];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("cannot read {}", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if let Some(name) = name_of(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files, built_in })
    }

    /// `wanted` and all that they depend on, each behind what it depends on.
    ///
    /// # Errors
    /// One that this kernel does not have, or that cannot be read.
    pub(super) fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        order(wanted, |name| match self.files.get(name) {
            Some(path) => read(path).map(Some),
            None if self.built_in.iter().any(|built_in| built_in == name) => Ok(None),
            None => bail!("this kernel has no module {name}"),
        })
    }
}

/// Depth first; `read` gives a module's file, or `None` for what needs no loading.
fn order(
    wanted: &[&str],
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Vec<Module>> {
    let mut done: Vec<Module> = Vec::new();
    let mut open: Vec<(Module, Vec<String>)> = Vec::new();
    let mut next = wanted.iter().rev().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    loop {
        if let Some(name) = next.pop() {
            let loaded = |module: &Module| module.name == name;
            let known = done.iter().any(loaded) || open.iter().any(|(module, _)| loaded(module));
            if !known && let Some(bytes) = read(&name)? {
                let depends = std::mem::replace(&mut next, dependencies(&bytes));
                open.push((Module { name, bytes }, depends));
            }
        } else if let Some((module, rest)) = open.pop() {
            done.push(module);
            next = rest;
        } else {
            return Ok(done);
        }
    }
}

/// What a module's `.modinfo` says it depends on: NUL-terminated `key=value` texts.
fn dependencies(module: &[u8]) -> Vec<String> {
    let texts = module.split(|byte| *byte == 0);
    let depends = texts.filter_map(|text| text.strip_prefix(b"depends=")).next().unwrap_or(&[]);
    let depends = String::from_utf8_lossy(depends);
    depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// `virtio_net` for `…/virtio-net.ko.xz`; `None` for a file that is no module.
fn name_of(path: &Path) -> Option<String> {
    let (name, extension) = path.file_name()?.to_str()?.split_once('.')?;
    ["ko", "ko.xz"].contains(&extension).then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let mut xz: Command = host::command("xz");
        let output = xz.arg("-dc").arg(path).output().context("cannot start xz")?;
        if !output.status.success() {
            bail!("xz -dc {}: {}", path.display(), output.status);
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    fn names(wanted: &[&str]) -> Result<Vec<String>> {
        let modules = order(wanted, |name| {
            Ok(Some(file(match name {
                "virtio_net" => "net_failover,virtio",
                "net_failover" => "failover",
                "failover" | "virtio" => "",
                "inside" => return Ok(None),
                "circle" => "circle",
                _ => bail!("no {name}"),
            })))
        })?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn a_module_comes_behind_what_it_depends_on_and_once() {
        assert_eq!(
            names(&["virtio", "inside", "virtio_net", "failover"]).unwrap(),
            ["virtio", "failover", "net_failover", "virtio_net"]
        );
        assert_eq!(names(&["circle"]).unwrap(), ["circle"]);
        assert!(names(&["gone"]).is_err());
    }

    #[test]
    fn dependencies_are_read_from_the_modules_own_text() {
        assert_eq!(dependencies(&file("net-failover,virtio")), ["net_failover", "virtio"]);
        assert!(dependencies(&file("")).is_empty());
        assert!(dependencies(b"no depends=x here").is_empty());
    }

    #[test]
    fn a_modules_name_is_its_files_without_endings() {
        for (path, name) in [
            ("a/virtio-net.ko.xz", Some("virtio_net")),
            ("8021q.ko", Some("8021q")),
            ("modules.order", None),
            ("a/README", None),
        ] {
            assert_eq!(name_of(Path::new(path)).as_deref(), name, "{path}");
        }
    }
}
