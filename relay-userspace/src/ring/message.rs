//! What stands beside a datagram in `recvmsg` and `sendmsg`: the socket address and the control
//! messages that carry hop limit, traffic class and ICMP errors. Pure bytes, no pointer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_common::addr::Family;
use relay_common::wire::attribute::Icmp;

/// Bytes of the longer socket address, `sockaddr_in6`.
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// The same, as `msghdr` counts it.
pub(super) const NAME_LENGTH: libc::socklen_t = 28;
const _: () = assert!(NAME_LENGTH as usize == NAME_BYTES);
/// Bytes reserved for control messages: two of one `int` each.
pub(crate) const CONTROL_BYTES: usize = 48;
/// Bytes of a control message header: length, level, type.
const CONTROL_HEADER_BYTES: usize = 16;
/// Bytes from one control message with an `int` to the next.
const CONTROL_STEP: usize = 24;

/// The IP header fields that a relayed datagram inherits (RFC 8656 §14).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct IpFields {
    /// Time to live or hop limit; `None`: the system's default.
    pub(crate) hop_limit: Option<u8>,
    /// DSCP and ECN: the IPv4 type of service or the IPv6 traffic class.
    pub(crate) traffic_class: u8,
}

impl IpFields {
    /// What the relayed datagram leaves with: one hop less. `None`: the datagram ends here.
    pub(crate) fn relayed(self) -> Option<Self> {
        match self.hop_limit {
            Some(0 | 1) => None,
            Some(hops) => Some(Self { hop_limit: Some(hops - 1), ..self }),
            None => Some(self),
        }
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
pub(super) fn read_name(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let ip = match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*rest.first_chunk::<4>()?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes a `sockaddr_in` or `sockaddr_in6`, and gives its length.
pub(crate) fn write_name(name: &mut [u8; NAME_BYTES], addr: SocketAddr) -> u32 {
    name.fill(0);
    name[2..4].copy_from_slice(&addr.port().to_be_bytes());
    let (family, length) = match addr.ip() {
        IpAddr::V4(ip) => {
            name[4..8].copy_from_slice(&ip.octets());
            (libc::AF_INET, 16)
        }
        IpAddr::V6(ip) => {
            name[8..24].copy_from_slice(&ip.octets());
            (libc::AF_INET6, 28)
        }
    };
    let family = u16::try_from(family).expect("address families are small");
    name[..2].copy_from_slice(&family.to_ne_bytes());
    length
}

/// Reads hop limit and traffic class from received control messages.
pub(super) fn read_control(control: &[u8]) -> IpFields {
    let mut fields = IpFields::default();
    for (level, kind, value) in control_messages(control) {
        // IP_TOS carries one byte, the others an `int`; on little endian the first byte is it.
        let value = match value {
            [byte] => Some(*byte),
            [a, b, c, d] => u8::try_from(i32::from_ne_bytes([*a, *b, *c, *d])).ok(),
            _ => None,
        };
        match (level, kind) {
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                fields.hop_limit = value;
            }
            (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                fields.traffic_class = value.unwrap_or(0);
            }
            _ => {}
        }
    }
    fields
}

/// What a socket's error queue holds next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    /// An ICMP error about a datagram that was sent to the address.
    Icmp(SocketAddr, Icmp),
    /// A datagram was not sent: the link carries so many bytes, and it must not be fragmented.
    TooBig(u32),
    /// Something else.
    Other,
    /// Nothing more.
    Nothing,
}

/// Reads what a socket's error queue gave: where the datagram that caused an ICMP error was sent,
/// and the error.
pub(crate) fn read_error(name: &[u8], control: &[u8]) -> Queued {
    parse_error(name, control).unwrap_or(Queued::Other)
}

fn parse_error(name: &[u8], control: &[u8]) -> Option<Queued> {
    let is_error = |level, kind| {
        (level, kind) == (libc::SOL_IP, libc::IP_RECVERR)
            || (level, kind) == (libc::SOL_IPV6, libc::IPV6_RECVERR)
    };
    let (.., error) = control_messages(control).find(|(level, kind, _)| is_error(*level, *kind))?;
    // `sock_extended_err`: errno (4 bytes), origin, type, code, padding, info (4).
    let &[e0, e1, e2, e3, origin, kind, code, _, i0, i1, i2, i3] = error.first_chunk::<12>()?;
    let errno = i32::from_ne_bytes([e0, e1, e2, e3]);
    let data = u32::from_ne_bytes([i0, i1, i2, i3]);
    match origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            let icmp = Icmp { kind, code: u16::from(code), data };
            Some(Queued::Icmp(read_name(name)?, icmp))
        }
        libc::SO_EE_ORIGIN_LOCAL if errno == libc::EMSGSIZE => Some(Queued::TooBig(data)),
        _ => None,
    }
}

/// Whether a result is an error that an ICMP message causes. A socket that is asked for such
/// errors tells the last one to whoever uses it next, whatever that is about.
pub(super) const fn told_by_network(result: i32) -> bool {
    matches!(
        -result,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EACCES
            | libc::EMSGSIZE
    )
}

/// Level, type and data of each control message; ends at the first that makes no sense.
fn control_messages(mut control: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let header = control.first_chunk::<CONTROL_HEADER_BYTES>()?;
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, t0, t1, t2, t3] = *header;
        let length = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let level = i32::from_ne_bytes([v0, v1, v2, v3]);
        let kind = i32::from_ne_bytes([t0, t1, t2, t3]);
        let data = control.get(CONTROL_HEADER_BYTES..length)?;
        // The last one may end without its padding.
        control = control.get(length.next_multiple_of(8)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// Writes the control messages for a datagram that leaves on `family`; gives their bytes.
pub(crate) fn write_control(
    control: &mut [u8; CONTROL_BYTES],
    family: Family,
    fields: IpFields,
) -> usize {
    let (level, hop_limit, traffic_class) = match family {
        Family::V4 => (libc::SOL_IP, libc::IP_TTL, libc::IP_TOS),
        Family::V6 => (libc::SOL_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS),
    };
    let values = [
        fields.hop_limit.map(|hops| (hop_limit, hops)),
        (fields.traffic_class != 0).then_some((traffic_class, fields.traffic_class)),
    ];
    control.fill(0);
    let mut written = 0;
    for (kind, value) in values.into_iter().flatten() {
        let place = &mut control[written..written + CONTROL_STEP];
        place[..8].copy_from_slice(&(CONTROL_HEADER_BYTES + 4).to_ne_bytes());
        place[8..12].copy_from_slice(&level.to_ne_bytes());
        place[12..16].copy_from_slice(&kind.to_ne_bytes());
        place[16..20].copy_from_slice(&i32::from(value).to_ne_bytes());
        written += CONTROL_STEP;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_both_ways() {
        for addr in ["192.0.2.7:3478", "[2001:db8::7]:49152"] {
            let addr: SocketAddr = addr.parse().unwrap();
            let mut name = [0xFF; NAME_BYTES];
            let length = usize::try_from(write_name(&mut name, addr)).unwrap();
            assert_eq!(read_name(&name[..length]), Some(addr));
            assert_eq!(read_name(&name[..length - 13]), None, "too short");
        }
        assert_eq!(read_name(&[]), None);
    }

    #[test]
    fn control_messages_survive_both_ways() {
        let fields = IpFields { hop_limit: Some(61), traffic_class: 0xB8 };
        for family in Family::ALL {
            let mut control = [0xFF; CONTROL_BYTES];
            let length = write_control(&mut control, family, fields);
            assert_eq!(length, CONTROL_BYTES);
            assert_eq!(read_control(&control[..length]), fields);
            let plain = IpFields::default();
            assert_eq!(write_control(&mut control, family, plain), 0);
        }
    }

    #[test]
    fn damaged_control_messages_end_the_walk() {
        let mut control = [0u8; CONTROL_BYTES];
        assert_eq!(read_control(&control), IpFields::default());
        control[..8].copy_from_slice(&usize::MAX.to_ne_bytes()[..]);
        control[7] = 0x0F;
        assert_eq!(read_control(&control), IpFields::default());
        assert_eq!(read_control(&control[..15]), IpFields::default());
    }

    #[test]
    fn an_icmp_error_is_read_behind_other_control_messages() {
        let peer: SocketAddr = "192.0.2.7:9".parse().unwrap();
        let mut name = [0; NAME_BYTES];
        write_name(&mut name, peer);
        let mut fields = [0; CONTROL_BYTES];
        let hops = IpFields { hop_limit: Some(61), traffic_class: 0 };
        let before = write_control(&mut fields, Family::V4, hops);
        let error = |kind: i32, origin: u8| {
            let mut bytes = (CONTROL_HEADER_BYTES + 32).to_ne_bytes().to_vec();
            bytes.extend(libc::SOL_IP.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(libc::EMSGSIZE.to_ne_bytes());
            bytes.extend([origin, 3, 4, 0]);
            bytes.extend(1400u32.to_ne_bytes());
            bytes.extend([0; 20]);
            [&fields[..before], &bytes].concat()
        };
        let icmp = error(libc::IP_RECVERR, libc::SO_EE_ORIGIN_ICMP);
        let too_big = Icmp { kind: 3, code: 4, data: 1400 };
        assert_eq!(read_error(&name, &icmp), Queued::Icmp(peer, too_big));
        let local = error(libc::IP_RECVERR, libc::SO_EE_ORIGIN_LOCAL);
        assert_eq!(read_error(&name, &local), Queued::TooBig(1400));
        let other = error(libc::IP_TTL, libc::SO_EE_ORIGIN_ICMP);
        assert_eq!(read_error(&name, &other), Queued::Other);
        assert_eq!(read_error(&[], &icmp), Queued::Other);
        for end in 0..icmp.len() {
            assert_eq!(read_error(&name, &icmp[..end]), Queued::Other, "{end}");
        }
    }

    #[test]
    fn the_last_hop_ends_here() {
        let hops = |n| IpFields { hop_limit: Some(n), traffic_class: 3 };
        assert_eq!(hops(0).relayed(), None);
        assert_eq!(hops(1).relayed(), None);
        assert_eq!(hops(2).relayed(), Some(hops(1)));
    }
}
