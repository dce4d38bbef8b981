//! Every embedding of the edges of every denied range, by every message that names a peer: refused,
//! and nothing of it ever told to the datapath.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use relay_turn::Config;

use super::script::say;
use super::world::{World, config, policy};

/// Denied IPv4 ranges, by first and last address. Written down anew: the server's own list is what
/// is tested. Neighbours outside of one may be inside of another.
const RANGES_V4: &[(&str, &str)] = &[
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("240.0.0.0", "255.255.255.255"),
    // The configuration's own.
    ("9.9.9.66", "9.9.9.66"),
];

const RANGES_V6: &[(&str, &str)] = &[
    ("::", "::ffff:ffff"),
    ("::ffff:0:0", "::ffff:ffff:ffff"),
    ("::ffff:0:0:0", "::ffff:0:ffff:ffff"),
    ("64:ff9b::", "64:ff9b::ffff:ffff"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
    ("100::", "100::ffff:ffff:ffff:ffff"),
    ("100:0:0:1::", "100:0:0:1:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// Every way to write an IPv4 address into an IPv6 one. Of the bits that are not the address, those
/// that may be anything are a public one.
fn embeddings(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = ip.octets();
    let bits = u128::from(ip.to_bits());
    let prefixed =
        |prefix: &str| Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().unwrap().to_bits() | bits);
    let octets = |o: [u8; 16]| Ipv6Addr::from(o);
    vec![
        prefixed("::ffff:0:0"),
        prefixed("::"),
        prefixed("::ffff:0:0:0"),
        prefixed("64:ff9b::"),
        prefixed("64:ff9b:1::"),
        prefixed("64:ff9b:1:808:8:800::"),
        octets([0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d, 0, 0, 0, 0, 0]),
        octets([0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d, 0, 8, 8, 8, 8]),
        octets([0x20, 0x02, a, b, c, d, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
        octets([0x20, 0x01, 0, 0, a, b, c, d, 0, 0, 0, 0, !8, !8, !8, !8]),
        octets([0x20, 0x01, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, !a, !b, !c, !d]),
        prefixed("2a00:9:9:9:0:5efe::"),
        prefixed("2a00:9:9:9:200:5efe::"),
    ]
}

fn edges(ranges: &[(&str, &str)]) -> Vec<IpAddr> {
    let both = ranges.iter().flat_map(|(first, last)| [*first, *last]);
    both.map(|ip| ip.parse().unwrap()).collect()
}

/// One before and one after each range, if no other range has it.
fn outside(ranges: &[(&str, &str)]) -> Vec<IpAddr> {
    let bits = |ip: &str| match ip.parse().unwrap() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let is_v4 = ranges[0].0.contains('.');
    let ranges: Vec<_> = ranges.iter().map(|(first, last)| (bits(first), bits(last))).collect();
    let max = if is_v4 { u128::from(u32::MAX) } else { u128::MAX };
    let beside = ranges.iter().flat_map(|(first, last)| {
        [first.checked_sub(1), last.checked_add(1).filter(|ip| *ip <= max)]
    });
    let free = |ip: &u128| !ranges.iter().any(|(first, last)| (*first..=*last).contains(ip));
    let address = |ip: u128| match is_v4 {
        true => Ipv4Addr::from_bits(ip.try_into().unwrap()).into(),
        false => Ipv6Addr::from_bits(ip).into(),
    };
    beside.flatten().filter(free).map(address).collect()
}

/// A client with an allocation of a family, and everything it says about a peer.
struct Attacker(World);

impl Attacker {
    fn new(config: Config, family: &str) -> Self {
        let mut world = World::new(config);
        say(&mut world, &format!("alice allocates family={family}"));
        Self(world)
    }

    /// Tries all there is, and is refused.
    fn is_refused(&mut self, ip: IpAddr) {
        let peer = match ip {
            IpAddr::V4(ip) => format!("{ip}:80"),
            IpAddr::V6(ip) => format!("[{ip}]:80"),
        };
        for asked in ["permits", "binds 4000 to"] {
            let said = say(&mut self.0, &format!("alice {asked} {peer}"));
            assert!(matches!(said.as_str(), "403" | "443"), "{asked} {peer}: {said}");
        }
        let said = say(&mut self.0, &format!("alice sends 5 to {peer}"));
        assert!(matches!(said.as_str(), "no_permission" | "peer_denied"), "{peer}: {said}");
        assert!(self.0.permitted.is_empty() && self.0.installed.is_empty(), "{peer}");
        let snapshot = self.0.turn.snapshot();
        assert_eq!((snapshot.permissions, snapshot.channels), (0, 0), "{peer}");
    }
}

fn is_allowed(config: Config, ip: IpAddr) {
    let family = if ip.is_ipv4() { "4" } else { "6" };
    let mut attacker = Attacker::new(config, family);
    let peer = if ip.is_ipv4() { format!("{ip}:80") } else { format!("[{ip}]:80") };
    let said = say(&mut attacker.0, &format!("alice binds 4000 to {peer}"));
    assert!(said.starts_with("permit ") && said.ends_with("ok"), "{peer}: {said}");
}

#[test]
fn every_edge_of_every_range_is_refused_by_every_message_and_what_is_beside_it_is_not() {
    let mut v4 = Attacker::new(config(), "4");
    let mut v6 = Attacker::new(config(), "6");
    let all: Vec<IpAddr> = edges(RANGES_V4).into_iter().chain(edges(RANGES_V6)).collect();
    assert_eq!(all.len(), 2 * (19 + 17));
    for ip in all {
        v4.is_refused(ip);
        v6.is_refused(ip);
    }
    let free: Vec<IpAddr> = outside(RANGES_V4).into_iter().chain(outside(RANGES_V6)).collect();
    assert!(free.len() > 45, "{}", free.len());
    for ip in free {
        // ::1:0:0:0 and the like are nobody's, and nobody's rule.
        is_allowed(config(), ip);
    }
}

#[test]
fn every_embedding_of_every_edge_is_refused_by_every_message() {
    let mut v4 = Attacker::new(config(), "4");
    let mut v6 = Attacker::new(config(), "6");
    for ip in edges(RANGES_V4) {
        let IpAddr::V4(ip) = ip else { panic!("{ip}") };
        for embedding in embeddings(ip) {
            v4.is_refused(embedding.into());
            v6.is_refused(embedding.into());
        }
    }
}

/// The prefixes themselves are allowed here: what is inside must be denied by itself, and what is
/// public inside is not.
#[test]
fn an_allowed_prefix_does_not_open_what_is_inside() {
    let prefixes =
        "::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32 2a00::/16";
    let open = || Config { policy: policy(prefixes, "9.9.9.66/32").into(), ..config() };
    let mut v6 = Attacker::new(open(), "6");
    for ip in edges(RANGES_V4) {
        let IpAddr::V4(ip) = ip else { panic!("{ip}") };
        // Zeros are padding of the other layout of 64:ff9b:1::/48, beside a public address.
        let is_padding = |e: &Ipv6Addr| {
            ip.is_unspecified()
                && e.segments()[..3] == [0x64, 0xff9b, 1]
                && e.segments()[3..] != [0; 5]
        };
        for embedding in embeddings(ip).into_iter().filter(|e| !is_padding(e)) {
            v6.is_refused(embedding.into());
        }
    }
    for embedding in embeddings(Ipv4Addr::new(9, 9, 9, 67)) {
        // A mapped address is IPv4: 443 or 403, for what packets carry.
        if embedding.to_ipv4_mapped().is_none() {
            is_allowed(open(), embedding.into());
        }
    }
}
