//! Addresses that are not somebody's host on the internet: what is denied unless it is allowed
//! (IANA's special-purpose registries, transition prefixes), what is denied whatever is allowed,
//! and the IPv4 address that an IPv6 address carries inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// What kind of rule keeps a peer from being reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeniedBy {
    /// 0.0.0.0 or ::, whatever is allowed.
    Unspecified,
    /// Loopback, unless the switch for it is on.
    Loopback,
    /// The limited broadcast address, or one of the machine's own networks, whatever is allowed.
    Broadcast,
    /// Multicast, whatever is allowed.
    Multicast,
    /// Private networks, carrier-grade NAT, unique local addresses.
    Private,
    /// Link-local and site-local addresses.
    LinkLocal,
    /// Prefixes with an IPv4 address inside: compatible, SIIT, NAT64, 6to4.
    Transition,
    /// The rest of IANA's special-purpose registries.
    Special,
    /// The configuration.
    Configured,
    /// An address of the machine itself, or a port of it that is not a relayed one.
    Own,
    /// Port 0, which nobody has.
    PortZero,
}

impl DeniedBy {
    /// Every kind, in the order used for metrics.
    pub const ALL: [Self; 11] = [
        Self::Unspecified,
        Self::Loopback,
        Self::Broadcast,
        Self::Multicast,
        Self::Private,
        Self::LinkLocal,
        Self::Transition,
        Self::Special,
        Self::Configured,
        Self::Own,
        Self::PortZero,
    ];

    /// Its name in metrics, logs and reason phrases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::Private => "private",
            Self::LinkLocal => "link_local",
            Self::Transition => "transition",
            Self::Special => "special",
            Self::Configured => "configured",
            Self::Own => "own",
            Self::PortZero => "port_zero",
        }
    }
}

/// The rule that denies a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Of what kind it is.
    pub by: DeniedBy,
    /// The network that it is for, if it is for one.
    pub network: Option<IpNet>,
    /// The line of the configuration that it is from, from 1.
    pub line: Option<u32>,
}

impl Denial {
    pub(crate) const fn of(by: DeniedBy) -> Self {
        Self { by, network: None, line: None }
    }
}

/// As clients are told: `private 10.0.0.0/8`.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.by.name())?;
        self.network.map_or(Ok(()), |network| write!(f, " {network}"))
    }
}

/// The kind of what is never a peer, whatever the configuration allows; loopback has a switch.
pub(crate) fn never(ip: IpAddr) -> Option<DeniedBy> {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    match ip {
        _ if ip.is_unspecified() => Some(DeniedBy::Unspecified),
        _ if ip.is_loopback() => Some(DeniedBy::Loopback),
        _ if ip.is_multicast() => Some(DeniedBy::Multicast),
        _ if is_broadcast => Some(DeniedBy::Broadcast),
        _ => None,
    }
}

/// Whether the address is one of 6to4 or Teredo: no client's, whatever is allowed (RFC 8656 §21.4).
pub(crate) fn tunnelled(client: IpAddr) -> Option<Denial> {
    let IpAddr::V6(ip) = client else { return None };
    let prefix = match ip.segments() {
        [0x2002, ..] => 16,
        [0x2001, 0, ..] => 32,
        _ => return None,
    };
    let network = Ipv6Net::new(ip, prefix).ok()?.trunc();
    Some(Denial { network: Some(network.into()), ..Denial::of(DeniedBy::Transition) })
}

/// Denied by default, as (address, prefix length, kind).
pub(crate) const SPECIAL_V4: &[([u8; 4], u8, DeniedBy)] = &[
    ([0, 0, 0, 0], 8, DeniedBy::Special),         // "this network"
    ([10, 0, 0, 0], 8, DeniedBy::Private),        // private
    ([100, 64, 0, 0], 10, DeniedBy::Private),     // carrier-grade NAT
    ([169, 254, 0, 0], 16, DeniedBy::LinkLocal),  // link-local, cloud metadata
    ([172, 16, 0, 0], 12, DeniedBy::Private),     // private
    ([192, 0, 0, 0], 24, DeniedBy::Special),      // IETF protocol assignments
    ([192, 0, 2, 0], 24, DeniedBy::Special),      // documentation
    ([192, 31, 196, 0], 24, DeniedBy::Special),   // AS112
    ([192, 52, 193, 0], 24, DeniedBy::Special),   // AMT
    ([192, 88, 99, 0], 24, DeniedBy::Transition), // 6to4 relay anycast
    ([192, 168, 0, 0], 16, DeniedBy::Private),    // private
    ([192, 175, 48, 0], 24, DeniedBy::Special),   // AS112
    ([198, 18, 0, 0], 15, DeniedBy::Special),     // benchmarking
    ([198, 51, 100, 0], 24, DeniedBy::Special),   // documentation
    ([203, 0, 113, 0], 24, DeniedBy::Special),    // documentation
    ([240, 0, 0, 0], 4, DeniedBy::Special),       // reserved
];

/// Denied by default, as (leading segments, prefix length, kind). IPv4-mapped addresses are not
/// here: they are IPv4 addresses by the time anybody looks.
pub(crate) const SPECIAL_V6: &[(&[u16], u8, DeniedBy)] = &[
    (&[], 96, DeniedBy::Transition), // IPv4-compatible; unspecified and loopback are `never`
    (&[0, 0, 0, 0, 0xffff], 96, DeniedBy::Transition), // IPv4-translated (SIIT)
    (&[0x64, 0xff9b], 96, DeniedBy::Transition), // NAT64, well-known prefix
    (&[0x64, 0xff9b, 1], 48, DeniedBy::Transition), // NAT64, local use
    (&[0x100], 64, DeniedBy::Special), // discard
    (&[0x100, 0, 0, 1], 64, DeniedBy::Special), // dummy prefix
    (&[0x2001], 23, DeniedBy::Special), // IETF protocol assignments, ORCHID among them
    (&[0x2001, 0], 32, DeniedBy::Transition), // Teredo
    (&[0x2001, 0xdb8], 32, DeniedBy::Special), // documentation
    (&[0x2002], 16, DeniedBy::Transition), // 6to4
    (&[0x2620, 0x4f, 0x8000], 48, DeniedBy::Special), // AS112
    (&[0x3fff], 20, DeniedBy::Special), // documentation
    (&[0x5f00], 16, DeniedBy::Special), // segment routing identifiers
    (&[0xfc00], 7, DeniedBy::Private), // unique local
    (&[0xfe80], 10, DeniedBy::LinkLocal), // link-local
    (&[0xfec0], 10, DeniedBy::LinkLocal), // site-local
];

/// IPv4 addresses that a packet to this IPv6 address may end at: those written into it by
/// mapping, compatibility, SIIT, NAT64, 6to4, Teredo or ISATAP. At most two.
pub(crate) fn embedded(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let last = v4(g, h);
    let found = match [a, b, c, d, e, f] {
        // ::1 is itself; :: is never reached at all.
        [0, 0, 0, 0, 0, 0] if g == 0 && h <= 1 => [None, None],
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            [last, None]
        }
        // RFC 8215: prefixes of any length inside; RFC 6052 §2.2 puts the bits of a /48 around
        // the byte of zeros, those of a /96 at the end. Zeros are the other one's padding.
        [0x64, 0xff9b, 1, ..] => {
            let around = v4(d, (e & 0xff) << 8 | f >> 8);
            match (around, last) {
                (Some(Ipv4Addr::UNSPECIFIED), last) => [last, None],
                (around, Some(Ipv4Addr::UNSPECIFIED)) => [around, None],
                both => [both.0, both.1],
            }
        }
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Server, and client with its bits inverted.
        [0x2001, 0, high, low, ..] => [v4(high, low), v4(!g, !h)],
        [_, _, _, _, 0 | 0x200, 0x5efe] => [last, None],
        _ => [None, None],
    };
    found.into_iter().flatten()
}
