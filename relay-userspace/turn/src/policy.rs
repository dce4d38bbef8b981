//! Which peers may be reached. Owns the rules on addresses; ports, and what the server's own
//! addresses are, is `peers.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::special::{SPECIAL_V4, SPECIAL_V6, embedded};

/// Allowed and denied networks. The longest prefix decides. Of equal ones, a denied network of
/// the configuration comes before an allowed one, and that before the special-purpose networks
/// that are denied by default; what is in none is allowed.
#[derive(Clone, Debug)]
pub struct Policy {
    v4: Table,
    v6: Table,
}

/// What the rules say of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Allowed: no rule names it.
    Unnamed,
    /// Allowed, by a rule of the configuration.
    Allowed,
    /// Denied.
    Denied,
}

impl Policy {
    /// Adds the networks of the configuration to those denied by default. An IPv4-mapped IPv6
    /// network is the IPv4 network.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        let special_v4 =
            SPECIAL_V4.iter().map(|(ip, prefix)| (Ipv4Addr::from(*ip).into(), *prefix));
        let special_v6 = SPECIAL_V6.iter().map(|(leading, prefix)| {
            let mut segments = [0; 8];
            segments[..leading.len()].copy_from_slice(leading);
            (Ipv6Addr::from(segments).into(), *prefix)
        });
        let mut policy = Self { v4: Table::default(), v6: Table::default() };
        for (ip, prefix) in special_v4.chain(special_v6) {
            policy.insert(ip, prefix, Verdict::Denied);
        }
        for net in allow {
            policy.insert(net.network(), net.prefix_len(), Verdict::Allowed);
        }
        for net in deny {
            policy.insert(net.network(), net.prefix_len(), Verdict::Denied);
        }
        policy
    }

    /// The stricter of what the rules say of the address and of any IPv4 address inside.
    pub(crate) fn verdict(&self, ip: IpAddr) -> Verdict {
        if ip.is_unspecified() {
            return Verdict::Denied;
        }
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.verdict(bits_v4(ip)),
            IpAddr::V6(ip) => {
                let inside = |ip: Ipv4Addr| {
                    ip.is_unspecified() || self.v4.verdict(bits_v4(ip)) == Verdict::Denied
                };
                if embedded(ip).any(inside) {
                    return Verdict::Denied;
                }
                self.v6.verdict(ip.to_bits())
            }
        }
    }

    fn insert(&mut self, ip: IpAddr, prefix: u8, verdict: Verdict) {
        match ip {
            IpAddr::V4(ip) => self.v4.insert(bits_v4(ip), prefix, verdict),
            IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), prefix.checked_sub(96)) {
                (Some(v4), Some(prefix_v4)) => self.v4.insert(bits_v4(v4), prefix_v4, verdict),
                _ => self.v6.insert(ip.to_bits(), prefix, verdict),
            },
        }
    }
}

/// IPv4 bits come first, so that prefix lengths mean the same in both families.
fn bits_v4(ip: Ipv4Addr) -> u128 {
    u128::from(ip.to_bits()) << 96
}

/// The rules of one family.
#[derive(Clone, Default, Debug)]
struct Table {
    rules: BTreeMap<(u8, u128), Verdict>,
    /// The prefix lengths in `rules`, longest first.
    prefixes: Vec<u8>,
}

impl Table {
    fn insert(&mut self, bits: u128, prefix: u8, verdict: Verdict) {
        self.rules.insert((prefix, masked(bits, prefix)), verdict);
        if let Err(at) = self.prefixes.binary_search_by(|other| prefix.cmp(other)) {
            self.prefixes.insert(at, prefix);
        }
    }

    fn verdict(&self, bits: u128) -> Verdict {
        let rule = |prefix: &u8| self.rules.get(&(*prefix, masked(bits, *prefix)));
        self.prefixes.iter().find_map(rule).copied().unwrap_or(Verdict::Unnamed)
    }
}

fn masked(bits: u128, prefix: u8) -> u128 {
    bits & !u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &str, deny: &str) -> Policy {
        let nets = |list: &str| list.split_whitespace().map(|net| net.parse().unwrap()).collect();
        Policy::new(nets(allow), nets(deny))
    }

    /// Which of the addresses are denied.
    fn denied<'a>(policy: &Policy, addresses: &'a str) -> Vec<&'a str> {
        let denied = |ip: &&str| policy.verdict(ip.parse().unwrap()) == Verdict::Denied;
        addresses.split_whitespace().filter(denied).collect()
    }

    #[test]
    fn special_purpose_networks_are_denied_up_to_their_edges() {
        let inside = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 \
            127.0.0.1 127.255.255.255 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.255 \
            192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 \
            198.51.100.9 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.255 \
            :: ::1 ::8.8.8.8 ::ffff:10.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1 \
            2001:1ff:ffff::1 2001:db8::1 2002:808:808::1 3fff:fff::1 5f00::1 fc00::1 fdff::1 \
            fe80::1 febf::1 fec0::1 ff02::1 ::ffff:0:8.8.8.8";
        assert_eq!(denied(&policy("", ""), inside), inside.split_whitespace().collect::<Vec<_>>());
        let outside = "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 \
            128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 \
            192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 8.8.8.8 \
            2001:200::1 2001:db7::1 2001:db9::1 2003::1 2a00::1 ::ffff:8.8.8.8 64:ff9b:2::1 \
            fbff::1";
        assert_eq!(denied(&policy("", ""), outside), Vec::<&str>::new());
    }

    #[test]
    fn the_longest_prefix_decides_and_deny_wins_a_tie() {
        let policy = policy(
            "10.0.0.0/8 10.1.1.0/24 9.9.9.9/32 127.0.0.1/32 0.0.0.0/0",
            "10.1.0.0/16 9.9.9.9/32 10.1.1.7/32 8.0.0.0/8",
        );
        assert_eq!(
            denied(
                &policy,
                "10.0.0.1 10.1.0.1 10.1.1.1 10.1.1.7 9.9.9.9 9.9.9.8 8.8.8.8 127.0.0.1 127.0.0.2 \
                 192.168.0.1 0.0.0.0 7.7.7.7"
            ),
            ["10.1.0.1", "10.1.1.7", "9.9.9.9", "8.8.8.8", "127.0.0.2", "192.168.0.1", "0.0.0.0"]
        );
        assert_eq!(policy.verdict("10.0.0.1".parse().unwrap()), Verdict::Allowed);
    }

    #[test]
    fn the_unspecified_address_cannot_be_allowed() {
        let policy = policy("0.0.0.0/32 ::/128 ::/0 0.0.0.0/0 64:ff9b::/96", "");
        assert_eq!(denied(&policy, "0.0.0.0 :: 64:ff9b::"), ["0.0.0.0", "::", "64:ff9b::"]);
    }

    #[test]
    fn an_ipv4_address_inside_must_be_allowed_too() {
        let policy = policy("::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32", "1.1.1.1/32");
        let good = "::8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1:808:8:800:808:808 2002:808:808::1 \
            2001:0:808:808::f7f7:f7f7 ::1";
        assert_eq!(denied(&policy, good), Vec::<&str>::new());
        let bad = "::10.0.0.1 ::127.0.0.1 ::1.1.1.1 64:ff9b::10.0.0.1 64:ff9b::1.1.1.1 \
            64:ff9b:1:a00:0:100:808:808 64:ff9b:1:808:8:800:a00:1 2002:a00:1::1 \
            2001:0:a00:1::f7f7:f7f7 2001:0:808:808::f5ff:fffe 2a00::5efe:10.0.0.1 \
            2a00::200:5efe:10.0.0.1";
        assert_eq!(denied(&policy, bad), bad.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network() {
        assert_eq!(denied(&policy("", "::ffff:8.8.8.0/120"), "8.8.8.8 8.8.9.8"), ["8.8.8.8"]);
    }
}
