//! Transport addresses, named by the role RFC 8656 §3 gives them, and the 5-tuple.
//!
//! A role is a type, so that a client can never be passed where a peer is meant.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// One address, one spelling: an IPv4-mapped IPv6 address becomes IPv4, and the parts of a socket
/// address that never reach the wire (flow label, scope) are zero. Keys can then be compared.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Takes the address in its canonical spelling ([`canonical`]).
            #[must_use]
            pub fn new(addr: SocketAddr) -> Self {
                Self(canonical(addr))
            }

            /// The address itself.
            #[must_use]
            pub const fn socket(self) -> SocketAddr {
                self.0
            }

            /// The IP address.
            #[must_use]
            pub const fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The port, host byte order.
            #[must_use]
            pub const fn port(self) -> u16 {
                self.0.port()
            }

            /// The address family.
            #[must_use]
            pub const fn family(self) -> Family {
                Family::of(self.0.ip())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role! {
    /// Where a client sends from, as the server sees it: its server-reflexive transport address.
    ClientAddr
}
role! {
    /// The TURN server transport address: where clients send STUN and ChannelData to.
    ServerAddr
}
role! {
    /// A relayed transport address: the server's address that peers send to.
    RelayedAddr
}
role! {
    /// A peer's transport address, as the server sees it.
    PeerAddr
}

/// An address family (RFC 8656 §18.6: 0x01 and 0x02 on the wire).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Every family, in the order used for metrics.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// The transport between client and server (RFC 8656 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
        }
    }
}

/// Client address, server address and transport: what identifies an allocation (RFC 8656 §3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FiveTuple {
    /// The transport between them.
    pub transport: Transport,
    /// The client's side.
    pub client: ClientAddr,
    /// The server's side.
    pub server: ServerAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

    #[test]
    fn a_mapped_address_is_ipv4_and_scope_and_flow_are_forgotten() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        let peer = PeerAddr::new(SocketAddr::V6(SocketAddrV6::new(mapped, 7, 1, 2)));
        assert_eq!(peer.socket(), SocketAddr::from(([192, 0, 2, 1], 7)));
        assert_eq!(peer.family(), Family::V4);
        let scoped = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 1, 2));
        assert_eq!(canonical(scoped), SocketAddr::from((Ipv6Addr::LOCALHOST, 7)));
    }
}
