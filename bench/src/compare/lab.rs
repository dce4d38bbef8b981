//! The rig: three network namespaces, client, relay and peer, and two veth links between them.
//! Everything is removed when its owner is dropped. Knows no server and sends no packet.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::panic;
use std::process::{self, Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail};
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::compare::cores::Cores;

/// Where the server listens.
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 1, 1));
/// Where the server opens relayed transport addresses.
pub(crate) const RELAYED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 2, 1));
/// Where the peers are.
pub(crate) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 2, 2));
/// Where the clients are.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 1, 2));
/// All of them: what a server's policy has to allow.
pub(crate) const NETWORK: &str = "10.91.0.0/16";

/// What connects the hosts, for the report.
const LINKS: &str = "veth (driver veth), transmit checksum offload off, GRO on";

/// A host of the rig: a network namespace, the cores it may use, its interfaces.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    cores: Cores,
    interfaces: Vec<String>,
}

impl Namespace {
    fn make(role: &str, cores: &Cores) -> anyhow::Result<Self> {
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
    fn mac(&self, index: usize) -> anyhow::Result<String> {
        let shown = self.ip(&format!("link show dev {}", self.interface(index)))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).map(str::to_owned).context("`ip link show` shows no MAC address")
    }

    /// A line of shell in the namespace, with the namespace's `/sys`.
    fn shell(&self, line: &str) -> anyhow::Result<String> {
        run("ip", &["netns", "exec", &self.name, "sh", "-c", line])
    }

    /// Gives an interface an address, no hardware that computes checksums, and NAPI without XDP.
    fn set_up(&mut self, interface: &str, address: IpAddr) -> anyhow::Result<()> {
        self.ip(&format!("address add {address}/24 dev {interface}"))?;
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

/// How the rig was built, for the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Layout {
    /// Cores of the relay's host.
    pub(crate) relay_cores: String,
    /// Cores of the clients and peers.
    pub(crate) load_cores: String,
    /// What connects the hosts.
    pub(crate) links: &'static str,
}

/// Client, relay and peer, and what lies between them.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where clients run; its interface 0 faces the relay.
    pub(crate) client: Namespace,
    /// Where the server runs; its interface 0 faces clients, 1 faces peers.
    pub(crate) relay: Namespace,
    /// Where peers run; its interface 0 faces the relay.
    pub(crate) peer: Namespace,
    /// The cores of the relay.
    pub(crate) relay_cores: Cores,
    /// The cores of clients and peers.
    pub(crate) load_cores: Cores,
    /// The MAC address of the relay's interface that faces clients.
    pub(crate) server_mac: String,
}

impl Lab {
    /// Builds it.
    ///
    /// # Errors
    /// `ip` or `ethtool` is missing or not allowed.
    pub(crate) fn build(relay_cores: &Cores, load_cores: &Cores) -> anyhow::Result<Self> {
        let mut lab = Self {
            client: Namespace::make("client", load_cores)?,
            relay: Namespace::make("relay", relay_cores)?,
            peer: Namespace::make("peer", load_cores)?,
            relay_cores: relay_cores.clone(),
            load_cores: load_cores.clone(),
            server_mac: String::new(),
        };
        // The process number tells the kernel threads of this rig from those of another one.
        let name = |role| format!("{role}{}", process::id());
        for (end, here, there, far) in [
            (&mut lab.client, name("rc"), name("cl"), (SERVER, CLIENT)),
            (&mut lab.peer, name("rp"), name("pe"), (RELAYED, PEER)),
        ] {
            lab.relay
                .ip(&format!("link add {here} type veth peer name {there} netns {}", end.name))?;
            lab.relay.set_up(&here, far.0)?;
            end.set_up(&there, far.1)?;
        }
        lab.server_mac = lab.relay.mac(0)?;
        Ok(lab)
    }

    /// How it was built.
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            relay_cores: self.relay_cores.to_string(),
            load_cores: self.load_cores.to_string(),
            links: LINKS,
        }
    }
}

/// Why no rig can be built here; `None` when it can.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("compare makes network namespaces: run it as root");
    }
    let lacks = |tool: &str| run(tool, &["--version"]).is_err() && run(tool, &["-V"]).is_err();
    if lacks("ip") {
        return Some("compare needs `ip`: install iproute2");
    }
    lacks("ethtool").then_some("compare needs `ethtool`: install it")
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
