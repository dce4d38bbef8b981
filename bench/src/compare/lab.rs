//! The rig: three network namespaces, client, relay and peer, and two veth links between them.
//! Everything is removed when its owner is dropped. Knows no server and sends no packet.

use std::net::{IpAddr, Ipv4Addr};
use std::process;

use serde::Serialize;

use crate::lab::cores::Cores;
use crate::lab::namespace::Namespace;

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
                .ip(&format!("link add {here} type veth peer name {there} netns {}", end.name()))?;
            lab.relay.set_up(&here, &[far.0])?;
            end.set_up(&there, &[far.1])?;
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
