//! A host of a rig: a network namespace with its interfaces. Knows no server and sends no packet.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::panic;
use std::process::{self, Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail};
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::cores::Cores;

/// A host of the rig: a network namespace, the cores it may use, its interfaces.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    cores: Cores,
    interfaces: Vec<String>,
}

impl Namespace {
    /// Makes one whose name tells the process and the role.
    ///
    /// # Errors
    /// `ip` is missing or not allowed.
    pub(crate) fn make(role: &str, cores: &Cores) -> anyhow::Result<Self> {
        let name = format!("relay-bench-{}-{role}", process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name, cores: cores.clone(), interfaces: Vec::new() };
        namespace.ip("link set lo up")?;
        // Without it, every interface is silent for a second or two after it comes up.
        namespace.shell("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its `index`th interface; the rig decides what is there.
    pub(crate) fn interface(&self, index: usize) -> &str {
        self.interfaces.get(index).map_or("", String::as_str)
    }

    /// Works in the namespace and on its cores: on a thread of its own, because both are a
    /// thread's. A process that is started there stays there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the cores cannot be had.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace and to its cores.
    ///
    /// # Errors
    /// As [`Namespace::within`].
    pub(crate) fn enter(&self) -> io::Result<()> {
        let place = File::open(format!("/run/netns/{}", self.name))?;
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))?;
        self.cores.confine(None)
    }

    /// `ip` with these words, in the namespace; what it prints.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn ip(&self, words: &str) -> anyhow::Result<String> {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split(' '));
        run("ip", &args)
    }

    /// The MAC address of its `index`th interface.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn mac(&self, index: usize) -> anyhow::Result<String> {
        let shown = self.ip(&format!("link show dev {}", self.interface(index)))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).map(str::to_owned).context("`ip link show` shows no MAC address")
    }

    /// A line of shell in the namespace, with the namespace's `/sys`; what it prints.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn shell(&self, line: &str) -> anyhow::Result<String> {
        run("ip", &["netns", "exec", &self.name, "sh", "-c", line])
    }

    /// Gives an interface addresses, no hardware that computes checksums, and NAPI without XDP.
    ///
    /// # Errors
    /// It is not there, or a tool refuses.
    pub(crate) fn set_up(&mut self, interface: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
        for address in addresses {
            self.ip(&format!("address add {address}/24 dev {interface}"))?;
        }
        self.ip(&format!("link set {interface} up"))?;
        let args = ["netns", "exec", &self.name, "ethtool", "-K", interface, "tx", "off"];
        run("ip", &[&args[..], &["gro", "on"]].concat())?;
        self.interfaces.push(interface.to_owned());
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("relay-bench: {error:#}");
        }
    }
}

/// Why no rig can be built here; `None` when it can.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("this makes network namespaces: run it as root");
    }
    let lacks = |tool: &str| run(tool, &["--version"]).is_err() && run(tool, &["-V"]).is_err();
    if lacks("ip") {
        return Some("this needs `ip`: install iproute2");
    }
    lacks("ethtool").then_some("this needs `ethtool`: install it")
}

/// Runs a program to its end; what it prints.
fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let shown = format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
