//! The rig: a relay's host with one interface or two, and the hosts of client and peer behind
//! them. Everything is removed when its owner is dropped. Sends no packet.

use std::net::{IpAddr, Ipv4Addr};
use std::process;

use clap::ValueEnum;
use serde::Serialize;

use crate::flood::place::{Interface, Place};
use crate::lab::cores::Cores;
use crate::lab::namespace::Namespace;

/// Where the relay listens.
pub(crate) const SERVER: IpAddr = address(1, 1);
/// Where the clients are.
pub(crate) const CLIENT: IpAddr = address(1, 2);
/// All of them: what the relay's policy has to allow.
pub(crate) const NETWORK: &str = "10.92.0.0/16";

const fn address(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 92, net, host))
}

/// How the relay is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arms {
    /// Client and peer behind its one interface: it sends frames back where they came from
    /// (`XDP_TX`).
    One,
    /// An interface for each: it redirects from one to the other.
    Two,
}

impl Arms {
    /// As the report calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "one-armed",
            Self::Two => "two-armed",
        }
    }

    /// Where the relay opens relayed transport addresses.
    pub(crate) const fn relayed(self) -> IpAddr {
        match self {
            Self::One => SERVER,
            Self::Two => address(2, 1),
        }
    }

    /// Where the peer is.
    pub(crate) const fn peer(self) -> IpAddr {
        match self {
            Self::One => address(1, 3),
            Self::Two => address(2, 2),
        }
    }
}

/// One end of a link.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The host that it is on.
    pub(crate) place: Place,
    /// Which one it is there.
    pub(crate) interface: Interface,
}

impl End {
    fn of(host: &Namespace, index: usize) -> anyhow::Result<Self> {
        let place = Place::new(Some(host.name().to_owned()));
        let interface = place.interface(host.interface(index))?;
        Ok(Self { place, interface })
    }
}

/// The hosts, and the ends of the links between them.
#[derive(Debug)]
pub(crate) struct Rig {
    /// Its arrangement.
    pub(crate) arms: Arms,
    /// The relay's host.
    pub(crate) relay: Namespace,
    /// Where clients run, and with one arm the peer too.
    pub(crate) client: Namespace,
    /// The clients' interface.
    pub(crate) client_end: End,
    /// The relay's interface that faces the clients.
    pub(crate) relay_end: End,
    /// With two arms: the relay's other interface and the peer's.
    pub(crate) peer_link: Option<(End, End)>,
    /// Lives as long as the rig.
    _peer: Option<Namespace>,
}

impl Rig {
    /// Builds it.
    ///
    /// # Errors
    /// `ip` or `ethtool` is missing or not allowed.
    pub(crate) fn build(arms: Arms, relay: &Cores, load: &Cores) -> anyhow::Result<Self> {
        let mut relay = Namespace::make("relay", relay)?;
        let mut client = Namespace::make("client", load)?;
        let mut peer = match arms {
            Arms::One => None,
            Arms::Two => Some(Namespace::make("peer", load)?),
        };
        let clients = match arms {
            Arms::One => vec![CLIENT, arms.peer()],
            Arms::Two => vec![CLIENT],
        };
        link(&mut relay, "fc", &[SERVER], &mut client, &clients)?;
        if let Some(peer) = &mut peer {
            link(&mut relay, "fp", &[arms.relayed()], peer, &[arms.peer()])?;
        }
        let peer_link = match &peer {
            Some(peer) => Some((End::of(&relay, 1)?, End::of(peer, 0)?)),
            None => None,
        };
        Ok(Self {
            arms,
            client_end: End::of(&client, 0)?,
            relay_end: End::of(&relay, 0)?,
            peer_link,
            relay,
            client,
            _peer: peer,
        })
    }

    /// The peer's interface.
    pub(crate) fn peer_end(&self) -> &End {
        self.peer_link.as_ref().map_or(&self.client_end, |(_, peer)| peer)
    }

    /// The relay's interface that faces the peer.
    pub(crate) fn relay_end_to_peer(&self) -> &End {
        self.peer_link.as_ref().map_or(&self.relay_end, |(relay, _)| relay)
    }
}

/// A veth pair between the relay and another host.
fn link(
    relay: &mut Namespace,
    role: &str,
    here: &[IpAddr],
    host: &mut Namespace,
    there: &[IpAddr],
) -> anyhow::Result<()> {
    // The process number: interfaces are born in the namespace of whoever makes them.
    let (near, far) = (format!("{role}{}", process::id()), format!("{role}far"));
    relay.ip(&format!("link add {near} type veth peer name {far} netns {}", host.name()))?;
    relay.set_up(&near, here)?;
    host.set_up(&far, there)
}
