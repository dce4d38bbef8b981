//! From where an address can be reached, as its prefix says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reach of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// From everywhere.
    Public,
    /// From inside a private network (RFC 1918, RFC 4193).
    Private,
    /// From inside a carrier's network (RFC 6598): carrier-grade NAT.
    Shared,
    /// From the same link.
    LinkLocal,
    /// From the same host.
    Loopback,
    /// From nowhere: no address, or one reserved for texts and tests.
    Nowhere,
}

impl Scope {
    /// Of an address.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [127, ..] => Self::Loopback,
            [100, 64..=127, ..] => Self::Shared,
            [0, ..] | [224..=255, ..] => Self::Nowhere,
            _ if ip.is_documentation() => Self::Nowhere,
            _ if ip.is_private() => Self::Private,
            _ if ip.is_link_local() => Self::LinkLocal,
            _ => Self::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        match ip.segments() {
            [0x2001, 0x0DB8, ..] | [0xFF00..=0xFFFF, ..] => Self::Nowhere,
            _ if ip.is_unspecified() => Self::Nowhere,
            _ if ip.is_loopback() => Self::Loopback,
            _ if ip.is_unique_local() => Self::Private,
            _ if ip.is_unicast_link_local() => Self::LinkLocal,
            _ => Self::Public,
        }
    }

    /// The kind of address, with its article.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Shared => "a carrier's shared address (100.64.0.0/10)",
            Self::LinkLocal => "a link-local address",
            Self::Loopback => "a loopback address",
            Self::Nowhere => "an address that nobody can reach",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_tell_the_scope() {
        for (ip, scope) in [
            ("8.8.8.8", Scope::Public),
            ("10.1.2.3", Scope::Private),
            ("172.32.0.1", Scope::Public),
            ("172.31.0.1", Scope::Private),
            ("100.64.0.1", Scope::Shared),
            ("100.128.0.1", Scope::Public),
            ("169.254.1.1", Scope::LinkLocal),
            ("127.0.0.9", Scope::Loopback),
            ("0.0.0.0", Scope::Nowhere),
            ("192.0.2.1", Scope::Nowhere),
            ("239.1.1.1", Scope::Nowhere),
            ("::", Scope::Nowhere),
            ("::1", Scope::Loopback),
            ("::ffff:10.0.0.1", Scope::Private),
            ("fd00::1", Scope::Private),
            ("fe80::1", Scope::LinkLocal),
            ("2001:db8::1", Scope::Nowhere),
            ("2606:4700::1", Scope::Public),
        ] {
            assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
        }
    }
}
