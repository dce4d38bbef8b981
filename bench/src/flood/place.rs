//! Where packets leave and arrive: network namespaces, interfaces, next hops. Asks `ip`
//! (iproute2) and changes nothing.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::panic;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;
use serde_json::Value;

/// A network namespace by name, or the one this process is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    netns: Option<String>,
}

impl Place {
    /// The namespace of that name as `ip netns` knows it.
    pub(crate) fn new(netns: Option<String>) -> Self {
        Self { netns }
    }

    /// Moves the calling thread there for good.
    ///
    /// # Errors
    /// No such namespace, or no right to enter it.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        let Some(name) = &self.netns else { return Ok(()) };
        let path = format!("/run/netns/{name}");
        let file = File::open(&path)
            .with_context(|| format!("no network namespace {name} (`ip netns` lists them)"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {name}: is this root?"))
    }

    /// Works there, on a thread of its own: a namespace is a thread's. Sockets stay where they
    /// were made.
    ///
    /// # Errors
    /// As [`Place::enter`], and what the work returns.
    pub(crate) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        if self.netns.is_none() {
            return work();
        }
        thread::scope(|scope| {
            let worker = scope.spawn(|| self.enter().and_then(|()| work()));
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// An interface there.
    ///
    /// # Errors
    /// There is none of that name, or it is no Ethernet.
    pub(crate) fn interface(&self, name: &str) -> anyhow::Result<Interface> {
        self.within(|| Interface::find(name))
    }

    /// Where packets from there to an address go first.
    ///
    /// # Errors
    /// No route, or nobody answers at the next hop.
    pub(crate) fn next_hop(&self, to: IpAddr) -> anyhow::Result<NextHop> {
        self.within(|| NextHop::find(to))
    }

    /// The interface that has an address.
    ///
    /// # Errors
    /// None has it.
    pub(crate) fn interface_of(&self, address: IpAddr) -> anyhow::Result<String> {
        let shown = self.within(|| ip(&["-j", "address", "show", "to", &address.to_string()]))?;
        let name = shown.as_array().into_iter().flatten().find_map(|link| link["ifname"].as_str());
        let name = name.with_context(|| format!("no interface has the address {address}"))?;
        Ok(name.to_owned())
    }

    /// Receive queues of an interface; `None`: not known.
    pub(crate) fn receive_queues(&self, interface: &str) -> Option<usize> {
        let path = format!("/sys/class/net/{interface}/queues");
        let names = match &self.netns {
            None => {
                let entries = std::fs::read_dir(path).ok()?;
                let name = |entry: io::Result<std::fs::DirEntry>| {
                    entry.ok()?.file_name().into_string().ok()
                };
                entries.filter_map(name).collect()
            }
            // A file system shows the interfaces of the namespace that it was mounted in.
            Some(netns) => {
                let shown = Command::new("ip").args(["netns", "exec", netns, "ls", &path]).output();
                let shown = String::from_utf8(shown.ok()?.stdout).ok()?;
                shown.lines().map(str::to_owned).collect::<Vec<_>>()
            }
        };
        let queues = names.iter().filter(|name| name.starts_with("rx-")).count();
        (queues > 0).then_some(queues)
    }

    /// The first global address of an interface in the family of `like`.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn address_of(&self, interface: &str, like: SocketAddr) -> anyhow::Result<IpAddr> {
        let family = if like.is_ipv4() { "-4" } else { "-6" };
        let words = ["-j", family, "address", "show", "dev", interface, "scope", "global"];
        let shown = self.within(|| ip(&words))?;
        let addresses = shown.as_array().into_iter().flatten();
        let local = addresses
            .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
            .find_map(|address| address["local"].as_str()?.parse().ok());
        local.with_context(|| format!("{interface} has no address of the server's family"))
    }
}

/// An Ethernet interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its index in its namespace.
    #[serde(skip)]
    pub(crate) index: u32,
    /// Its address.
    #[serde(skip)]
    pub(crate) mac: [u8; 6],
    /// The largest IP packet, bytes.
    pub(crate) mtu: u64,
    /// The kind of a virtual device, or the driver.
    pub(crate) driver: String,
    /// The XDP program that it has already, by number.
    #[serde(skip)]
    pub(crate) xdp: Option<u64>,
}

impl Interface {
    fn find(name: &str) -> anyhow::Result<Self> {
        let shown = ip(&["-j", "-d", "link", "show", "dev", name])?;
        let link = &shown[0];
        let number = |field: &str| link[field].as_u64();
        let (Some(index), Some(mtu)) = (number("ifindex"), number("mtu")) else {
            bail!("`ip link` says nothing of {name}");
        };
        let mac = link["address"].as_str().and_then(mac);
        let ethernet = link["link_type"].as_str() == Some("ether");
        let mac = mac.filter(|_| ethernet).with_context(|| {
            format!("{name} is no Ethernet interface: frames for it cannot be forged")
        })?;
        Ok(Self {
            name: name.to_owned(),
            index: u32::try_from(index).context("an interface index")?,
            mac,
            mtu,
            driver: driver(name, link),
            xdp: link["xdp"]["prog"]["id"].as_u64(),
        })
    }

    /// Packets that it has sent since it came up: the kernel's own count.
    pub(crate) fn packets_sent(place: &Place, name: &str) -> Option<u64> {
        let table = place.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?));
        let table = table.ok()?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        // Receive has eight columns; packets are the second of transmit.
        line?.split_whitespace().nth(9)?.parse().ok()
    }
}

fn driver(name: &str, link: &Value) -> String {
    if let Some(kind) = link["linkinfo"]["info_kind"].as_str() {
        return kind.to_owned();
    }
    // Only of this process's namespace: another one's is simply not known.
    let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver"));
    let driver = driver.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    driver.unwrap_or_else(|| "unknown driver".to_owned())
}

/// The first hop of a way.
#[derive(Clone, Debug)]
pub(crate) struct NextHop {
    /// The interface that it leaves by.
    pub(crate) interface: String,
    /// The hop's address; `None`: the neighbour table does not know it.
    pub(crate) mac: Option<[u8; 6]>,
}

impl NextHop {
    fn find(to: IpAddr) -> anyhow::Result<Self> {
        let routes = ip(&["-j", "route", "get", &to.to_string()])?;
        let route = &routes[0];
        let interface = route["dev"].as_str();
        let interface = interface.with_context(|| format!("no route to {to}"))?.to_owned();
        let to = to.to_string();
        let hop = route["gateway"].as_str().or(route["via"]["host"].as_str()).unwrap_or(&to);
        let neighbours = ip(&["-j", "neighbour", "show", hop, "dev", &interface])?;
        let mut known = neighbours.as_array().into_iter().flatten();
        let mac = known.find_map(|neighbour| mac(neighbour["lladdr"].as_str()?));
        Ok(Self { interface, mac })
    }
}

/// A MAC address as it is written.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// What `ip` prints for these words, in the calling thread's namespace.
fn ip(words: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new("ip").args(words).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::Error::msg("`ip` is not here, and interfaces are asked of it: install iproute2")
        }
        _ => error.into(),
    })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", words.join(" "), why.trim());
    }
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("ip {}: its answer is no JSON", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_has_six_bytes() {
        assert_eq!(mac("02:00:00:00:0a:ff"), Some([2, 0, 0, 0, 10, 255]));
        for text in ["", "02:00:00:00:0a", "02:00:00:00:0a:ff:01", "zz:00:00:00:0a:ff"] {
            assert_eq!(mac(text), None, "{text}");
        }
    }
}
