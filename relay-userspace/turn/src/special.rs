//! Addresses that are not somebody's host on the internet: what is denied unless it is allowed
//! (IANA's special-purpose registries, multicast, broadcast, transition prefixes), and the IPv4
//! address that an IPv6 address carries inside.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Denied by default, as (address, prefix length).
pub(crate) const SPECIAL_V4: &[([u8; 4], u8)] = &[
    ([0, 0, 0, 0], 8),          // "this network"
    ([10, 0, 0, 0], 8),         // private
    ([100, 64, 0, 0], 10),      // carrier-grade NAT
    ([127, 0, 0, 0], 8),        // loopback
    ([169, 254, 0, 0], 16),     // link-local, cloud metadata
    ([172, 16, 0, 0], 12),      // private
    ([192, 0, 0, 0], 24),       // IETF protocol assignments
    ([192, 0, 2, 0], 24),       // documentation
    ([192, 31, 196, 0], 24),    // AS112
    ([192, 52, 193, 0], 24),    // AMT
    ([192, 88, 99, 0], 24),     // 6to4 relay anycast
    ([192, 168, 0, 0], 16),     // private
    ([192, 175, 48, 0], 24),    // AS112
    ([198, 18, 0, 0], 15),      // benchmarking
    ([198, 51, 100, 0], 24),    // documentation
    ([203, 0, 113, 0], 24),     // documentation
    ([224, 0, 0, 0], 4),        // multicast
    ([240, 0, 0, 0], 4),        // reserved
    ([255, 255, 255, 255], 32), // broadcast
];

/// Denied by default, as (leading segments, prefix length). IPv4-mapped addresses are not here:
/// they are IPv4 addresses by the time anybody looks.
pub(crate) const SPECIAL_V6: &[(&[u16], u8)] = &[
    (&[], 96),                     // unspecified, loopback, IPv4-compatible
    (&[0, 0, 0, 0, 0xffff], 96),   // IPv4-translated (SIIT)
    (&[0x64, 0xff9b], 96),         // NAT64, well-known prefix
    (&[0x64, 0xff9b, 1], 48),      // NAT64, local use
    (&[0x100], 64),                // discard
    (&[0x100, 0, 0, 1], 64),       // dummy prefix
    (&[0x2001], 23),               // IETF protocol assignments, Teredo, ORCHID among them
    (&[0x2001, 0xdb8], 32),        // documentation
    (&[0x2002], 16),               // 6to4
    (&[0x2620, 0x4f, 0x8000], 48), // AS112
    (&[0x3fff], 20),               // documentation
    (&[0x5f00], 16),               // segment routing identifiers
    (&[0xfc00], 7),                // unique local
    (&[0xfe80], 10),               // link-local
    (&[0xfec0], 10),               // site-local
    (&[0xff00], 8),                // multicast
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
        // the byte of zeros, those of a /96 at the end.
        [0x64, 0xff9b, 1, ..] => [v4(d, (e & 0xff) << 8 | f >> 8), last],
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Server, and client with its bits inverted.
        [0x2001, 0, high, low, ..] => [v4(high, low), v4(!g, !h)],
        [_, _, _, _, 0 | 0x200, 0x5efe] => [last, None],
        _ => [None, None],
    };
    found.into_iter().flatten()
}
