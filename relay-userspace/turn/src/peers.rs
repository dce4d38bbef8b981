//! Who a client may name as a peer, and by which address the server knows it: the policy, joined
//! with the server's own relayed addresses and what a 1:1 NAT calls them.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use relay_common::addr::{PeerAddr, RelayedAddr};

use crate::policy::{Policy, Verdict};
use crate::special::{Denial, DeniedBy};
use crate::{Config, RelayAddress};

/// The rules on peers.
pub(crate) struct Peers {
    policy: Arc<Policy>,
    own: Vec<RelayAddress>,
    other: Vec<IpAddr>,
    own_ports: RangeInclusive<u16>,
    listeners: Vec<SocketAddr>,
}

impl Peers {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            policy: config.policy.clone(),
            own: config.relay_addresses.clone(),
            other: config.other_addresses.clone(),
            own_ports: config.relay_ports_all.clone(),
            listeners: config.listeners.clone(),
        }
    }

    /// The peer as packets carry it: an address that a NAT gives us is the one it stands for.
    pub(crate) fn inside(&self, peer: PeerAddr) -> PeerAddr {
        PeerAddr::new(SocketAddr::new(self.inside_ip(peer.ip()), peer.port()))
    }

    /// The peer as clients are told of it.
    pub(crate) fn outside(&self, peer: PeerAddr) -> PeerAddr {
        PeerAddr::new(SocketAddr::new(self.outside_ip(peer.ip()), peer.port()))
    }

    /// The relayed transport address as clients and peers are told of it.
    pub(crate) fn advertised(&self, relayed: RelayedAddr) -> RelayedAddr {
        RelayedAddr::new(SocketAddr::new(self.outside_ip(relayed.ip()), relayed.port()))
    }

    /// Whether the address is one that relayed transport addresses are opened on.
    pub(crate) fn is_own(&self, inside: IpAddr) -> bool {
        self.own.iter().any(|own| own.address == inside)
    }

    /// Whether the address is one of this machine's.
    pub(crate) fn is_local(&self, inside: IpAddr) -> bool {
        self.is_own(inside) || self.other.contains(&inside)
    }

    /// Whether a permission may be given for an address. Our own is one: which of its ports are
    /// peers is decided where there is a port. The machine's other addresses need a rule each.
    pub(crate) fn permit(&self, inside: IpAddr) -> Result<(), Denial> {
        if self.is_own(inside) {
            return Ok(());
        }
        match self.policy.verdict(inside) {
            Verdict::Denied(denial) => Err(denial),
            Verdict::AllowedByName => Ok(()),
            Verdict::Unnamed | Verdict::Allowed if self.other.contains(&inside) => {
                Err(Denial::of(DeniedBy::Own))
            }
            Verdict::Unnamed | Verdict::Allowed => Ok(()),
        }
    }

    /// Whether a port of an address for which a permission may be given is a peer. Of our own
    /// addresses, those are the ports that relayed transport addresses have: every other one is
    /// a service of the machine, and only a rule for this one address opens it: one for the
    /// network around it was not meant for it. Where this server itself listens, nothing does.
    pub(crate) fn reach(&self, inside: PeerAddr) -> Result<(), Denial> {
        if inside.port() == 0 {
            return Err(Denial::of(DeniedBy::PortZero));
        }
        let is_relayed = || self.own_ports.contains(&inside.port());
        let is_allowed = || self.policy.verdict(inside.ip()) == Verdict::AllowedByName;
        let is_closed = self.is_own(inside.ip()) && !is_relayed() && !is_allowed();
        if is_closed || self.is_listener(inside) {
            return Err(Denial::of(DeniedBy::Own));
        }
        Ok(())
    }

    /// A wildcard listens on every address of the machine.
    fn is_listener(&self, inside: PeerAddr) -> bool {
        let is_here = |listener: &SocketAddr| {
            listener.ip() == inside.ip()
                || listener.ip().is_unspecified()
                    && (self.is_local(inside.ip()) || inside.ip().is_loopback())
        };
        self.listeners.iter().any(|other| other.port() == inside.port() && is_here(other))
    }

    fn inside_ip(&self, ip: IpAddr) -> IpAddr {
        self.own.iter().find(|own| own.external == Some(ip)).map_or(ip, |own| own.address)
    }

    fn outside_ip(&self, ip: IpAddr) -> IpAddr {
        self.own.iter().find(|own| own.address == ip).and_then(|own| own.external).unwrap_or(ip)
    }
}
