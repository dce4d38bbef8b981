//! Which peers may be reached. Owns the rules on addresses; ports, and what the server's own
//! addresses are, is `peers.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::special::{Denial, DeniedBy, SPECIAL_V4, SPECIAL_V6, embedded, never};
use crate::trie::Trie;

/// What the configuration says of peers.
#[derive(Clone, Default, Debug)]
pub struct Rules {
    /// Networks that may be reached although they are special-purpose; single addresses although
    /// they are the machine's own.
    pub allow: Vec<Listed>,
    /// Networks that may not be reached.
    pub deny: Vec<Listed>,
    /// Whether loopback may be reached.
    pub loopback: Loopback,
    /// The broadcast addresses of the machine's own networks.
    pub broadcasts: Vec<Ipv4Addr>,
}

/// A network of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The network. One inside ::ffff:0:0/96 is the IPv4 network.
    pub network: IpNet,
    /// The line that it is on, from 1; 0: none.
    pub line: u32,
}

/// Whether loopback may be reached: a switch of its own, because a rule that is wider than it
/// should be must not open it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Loopback {
    /// It may not.
    #[default]
    Denied,
    /// It may: for development.
    Allowed,
}

/// Allowed and denied networks. The longest prefix decides. Of equal ones, a denied network of
/// the configuration comes before an allowed one, and that before the special-purpose networks
/// that are denied by default; what is in none is allowed. Unspecified, broadcast and multicast
/// addresses are denied whatever the rules are, and so is loopback but for its switch.
#[derive(Clone, Debug)]
pub struct Policy {
    v4: Trie<Verdict>,
    v6: Trie<Verdict>,
    loopback: Loopback,
    broadcasts: Vec<Ipv4Addr>,
}

/// What the rules say of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Allowed: no rule names it.
    Unnamed,
    /// Allowed, by a rule of the configuration.
    Allowed,
    /// Allowed, by a rule of the configuration for this address alone, or by the switch for
    /// loopback: also if it is one of the machine's.
    AllowedByName,
    /// Denied.
    Denied(Denial),
}

impl Policy {
    /// Adds the rules of the configuration to those that are there by default.
    #[must_use]
    pub fn new(rules: &Rules) -> Self {
        let mut policy = Self {
            v4: Trie::new(),
            v6: Trie::new(),
            loopback: rules.loopback,
            broadcasts: rules.broadcasts.clone(),
        };
        for (ip, prefix, by) in SPECIAL_V4 {
            policy.deny(Ipv4Addr::from(*ip).into(), *prefix, *by, None);
        }
        for (leading, prefix, by) in SPECIAL_V6 {
            let mut segments = [0; 8];
            segments[..leading.len()].copy_from_slice(leading);
            policy.deny(Ipv6Addr::from(segments).into(), *prefix, *by, None);
        }
        if rules.loopback == Loopback::Allowed {
            policy.insert(Ipv4Addr::LOCALHOST.into(), 8, Verdict::AllowedByName);
            policy.insert(Ipv6Addr::LOCALHOST.into(), 128, Verdict::AllowedByName);
        }
        for Listed { network, .. } in &rules.allow {
            let is_one = network.prefix_len() == network.max_prefix_len();
            let verdict = if is_one { Verdict::AllowedByName } else { Verdict::Allowed };
            policy.insert(network.network(), network.prefix_len(), verdict);
        }
        for Listed { network, line } in &rules.deny {
            let line = (*line != 0).then_some(*line);
            policy.deny(network.network(), network.prefix_len(), DeniedBy::Configured, line);
        }
        policy
    }

    /// What keeps all of a network from ever being reached, so that to allow it means nothing.
    #[must_use]
    pub fn never_allowed(network: IpNet) -> Option<DeniedBy> {
        let (first, last) = (never(network.network()), never(network.broadcast()));
        // Each of these ranges is an address or a whole prefix: its ends speak for the rest.
        first.filter(|first| last == Some(*first))
    }

    /// The stricter of what the rules say of the address and of any IPv4 address inside.
    pub(crate) fn verdict(&self, ip: IpAddr) -> Verdict {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.verdict_v4(ip),
            IpAddr::V6(ip) => {
                let denied = |inside: Ipv4Addr| match self.verdict_v4(inside) {
                    Verdict::Denied(denial) => Some(denial),
                    Verdict::Unnamed | Verdict::Allowed | Verdict::AllowedByName => None,
                };
                let inside = || embedded(ip).find_map(denied);
                match self.always_denied(ip.into()).or_else(inside) {
                    Some(denial) => Verdict::Denied(denial),
                    None => self.v6.longest(ip.to_bits()).unwrap_or(Verdict::Unnamed),
                }
            }
        }
    }

    fn verdict_v4(&self, ip: Ipv4Addr) -> Verdict {
        if let Some(denial) = self.always_denied(ip.into()) {
            return Verdict::Denied(denial);
        }
        if self.broadcasts.contains(&ip) {
            return Verdict::Denied(Denial::of(DeniedBy::Broadcast));
        }
        self.v4.longest(bits_v4(ip)).unwrap_or(Verdict::Unnamed)
    }

    fn always_denied(&self, ip: IpAddr) -> Option<Denial> {
        let may_be = |by| by == DeniedBy::Loopback && self.loopback == Loopback::Allowed;
        never(ip).filter(|by| !may_be(*by)).map(Denial::of)
    }

    fn deny(&mut self, ip: IpAddr, prefix: u8, by: DeniedBy, line: Option<u32>) {
        let network = IpNet::new(ip, prefix).ok();
        self.insert(ip, prefix, Verdict::Denied(Denial { by, network, line }));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &str, deny: &str) -> Policy {
        Policy::new(&rules(allow, deny))
    }

    fn rules(allow: &str, deny: &str) -> Rules {
        let listed = |(index, net): (usize, &str)| Listed {
            network: net.parse().unwrap(),
            line: u32::try_from(index).unwrap() + 1,
        };
        let nets = |list: &str| list.split_whitespace().enumerate().map(listed).collect();
        Rules { allow: nets(allow), deny: nets(deny), ..Rules::default() }
    }

    /// Which of the addresses are denied.
    fn denied<'a>(policy: &Policy, addresses: &'a str) -> Vec<&'a str> {
        let verdict = |ip: &str| policy.verdict(ip.parse().unwrap());
        let denied = |ip: &&str| matches!(verdict(ip), Verdict::Denied(_));
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
            "10.0.0.0/8 10.1.1.0/24 9.9.9.9/32 0.0.0.0/0",
            "10.1.0.0/16 9.9.9.9/32 10.1.1.7/32 8.0.0.0/8",
        );
        assert_eq!(
            denied(
                &policy,
                "10.0.0.1 10.1.0.1 10.1.1.1 10.1.1.7 9.9.9.9 9.9.9.8 8.8.8.8 192.168.0.1 0.0.0.0 \
                 7.7.7.7"
            ),
            ["10.1.0.1", "10.1.1.7", "9.9.9.9", "8.8.8.8", "192.168.0.1", "0.0.0.0"]
        );
        assert_eq!(policy.verdict("10.0.0.1".parse().unwrap()), Verdict::Allowed);
    }

    #[test]
    fn what_is_never_a_peer_cannot_be_allowed() {
        let all = "0.0.0.0/32 ::/128 ::/0 0.0.0.0/0 64:ff9b::/96 127.0.0.1/32 ::1/128 224.0.0.0/4 \
            255.255.255.255/32 ff02::1/128";
        let never = "0.0.0.0 :: 64:ff9b:: 127.0.0.0 127.255.255.255 ::1 64:ff9b::127.0.0.1 \
            ::ffff:127.0.0.1 224.0.0.0 239.255.255.255 255.255.255.255 ff02::1 ff00::";
        assert_eq!(denied(&policy(all, ""), never), never.split_whitespace().collect::<Vec<_>>());
        let loopback = Rules { loopback: Loopback::Allowed, ..rules("", "127.0.0.53/32") };
        assert_eq!(
            denied(&Policy::new(&loopback), "127.0.0.1 ::1 127.0.0.53 0.0.0.0 :: 10.0.0.1"),
            ["127.0.0.53", "0.0.0.0", "::", "10.0.0.1"]
        );
        let never = |net: &str| Policy::never_allowed(net.parse().unwrap());
        assert_eq!(never("127.0.0.0/8"), Some(DeniedBy::Loopback));
        assert_eq!(never("127.1.0.0/16"), Some(DeniedBy::Loopback));
        assert_eq!(never("::1/128"), Some(DeniedBy::Loopback));
        assert_eq!(never("0.0.0.0/32"), Some(DeniedBy::Unspecified));
        assert_eq!(never("239.0.0.0/8"), Some(DeniedBy::Multicast));
        assert_eq!(never("255.255.255.255/32"), Some(DeniedBy::Broadcast));
        for some in ["0.0.0.0/0", "::/0", "::/127", "126.0.0.0/7", "10.0.0.0/8", "224.0.0.0/3"] {
            assert_eq!(never(some), None, "{some}");
        }
    }

    #[test]
    fn broadcast_addresses_of_the_machines_networks_are_never_peers() {
        let broadcasts = vec!["10.0.0.255".parse().unwrap()];
        let lan = Policy::new(&Rules { broadcasts, ..rules("10.0.0.0/8 64:ff9b::/96", "") });
        assert_eq!(
            denied(&lan, "10.0.0.254 10.0.0.255 10.0.1.255 64:ff9b::10.0.0.255"),
            ["10.0.0.255", "64:ff9b::10.0.0.255"]
        );
    }

    #[test]
    fn a_denial_says_by_which_rule() {
        let policy = policy("10.0.0.0/8", "9.0.0.0/8 10.1.0.0/16 2a00::/16 ::ffff:8.8.8.0/120");
        let said = |ip: &str| match policy.verdict(ip.parse().unwrap()) {
            Verdict::Denied(denial) => (denial.to_string(), denial.line),
            other => panic!("{ip}: {other:?}"),
        };
        assert_eq!(said("10.1.2.3"), ("configured 10.1.0.0/16".to_owned(), Some(2)));
        assert_eq!(said("2a00::1"), ("configured 2a00::/16".to_owned(), Some(3)));
        assert_eq!(said("64:ff9b::9.1.1.1"), ("configured 9.0.0.0/8".to_owned(), Some(1)));
        assert_eq!(said("64:ff9b::7.1.1.1"), ("transition 64:ff9b::/96".to_owned(), None));
        assert_eq!(said("2001::1"), ("unspecified".to_owned(), None), "Teredo's server");
        assert_eq!(said("169.254.169.254"), ("link_local 169.254.0.0/16".to_owned(), None));
        assert_eq!(said("127.0.0.1"), ("loopback".to_owned(), None));
    }

    #[test]
    fn an_ipv4_address_inside_must_be_allowed_too() {
        let policy = policy("::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32", "1.1.1.1/32");
        let good = "::8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1:808:8:800:808:808 2002:808:808::1 \
            2001:0:808:808::f7f7:f7f7 64:ff9b:1::8.8.8.8 64:ff9b:1:808:8:800::";
        assert_eq!(denied(&policy, good), Vec::<&str>::new());
        let bad = "::10.0.0.1 ::127.0.0.1 ::1.1.1.1 64:ff9b::10.0.0.1 64:ff9b::1.1.1.1 \
            64:ff9b:1:a00:0:100:808:808 64:ff9b:1:808:8:800:a00:1 64:ff9b:1:: 64:ff9b:1::10.0.0.1 \
            64:ff9b:1:a00:0:100:: 2002:a00:1::1 \
            2001:0:a00:1::f7f7:f7f7 2001:0:808:808::f5ff:fffe 2a00::5efe:10.0.0.1 \
            2a00::200:5efe:10.0.0.1";
        assert_eq!(denied(&policy, bad), bad.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network() {
        assert_eq!(denied(&policy("", "::ffff:8.8.8.0/120"), "8.8.8.8 8.8.9.8"), ["8.8.8.8"]);
    }
}
