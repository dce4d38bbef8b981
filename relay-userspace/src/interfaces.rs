//! Which interfaces this machine has and which addresses they carry, read once at start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use tokio::time::sleep;

use crate::datapath::{Interface, Links};

/// How often addresses that are still being checked for duplicates are looked at again.
const CHECK_INTERVAL: Duration = Duration::from_millis(300);
/// How often at most: the check takes a second or two.
const CHECKS_MAX: u32 = 10;

/// An interface and what it carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Carrier {
    /// The interface.
    pub(crate) interface: Interface,
    /// What carries its frames: itself, or what a VLAN device lies on.
    pub(crate) bottom: u32,
    /// Whether it is a loopback.
    pub(crate) is_loopback: bool,
    /// Whether a default route leaves by it: it leads outside, as bridges to containers and
    /// virtual machines do not.
    pub(crate) is_outward: bool,
    /// Its addresses, without those that nobody can count on: IPv6 link-local, temporary,
    /// deprecated and duplicate ones.
    pub(crate) addresses: Vec<IpAddr>,
    /// The broadcast addresses of its networks.
    pub(crate) broadcasts: Vec<Ipv4Addr>,
}

/// Every interface of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interfaces(Vec<Carrier>);

/// A name that no interface has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoSuchInterface {
    name: String,
    known: Vec<String>,
}

impl fmt::Display for NoSuchInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, known } = self;
        write!(
            f,
            "[datapath] interfaces: there is no interface {name}; this machine has {}",
            known.join(", ")
        )
    }
}

impl std::error::Error for NoSuchInterface {}

impl Interfaces {
    /// Asks the kernel. Gives every link, too.
    ///
    /// # Errors
    /// Netlink is not to be had, or does not answer.
    pub(crate) async fn read() -> anyhow::Result<(Self, Links)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let links: Vec<_> = handle.link().get().execute().try_collect().await?;
        let mut addresses: Vec<AddressMessage> = Vec::new();
        for _ in 0..CHECKS_MAX {
            addresses = handle.address().get().execute().try_collect().await?;
            if !addresses.iter().any(is_being_checked) {
                break;
            }
            sleep(CHECK_INTERVAL).await;
        }
        let mut outward = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut every = RouteMessage::default();
            every.header.address_family = family;
            let routes: Vec<_> = handle.route().get(every).execute().try_collect().await?;
            outward.extend(routes.iter().filter_map(default_route));
        }
        connection.abort();
        let mut carriers = Vec::new();
        let mut stacked = Links::default();
        links.iter().for_each(|link| stacked.insert(link));
        for link in links {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            let index = link.header.index;
            let mine = addresses.iter().filter(|address| address.header.index == index);
            carriers.push(Carrier {
                interface: Interface { name: name.unwrap_or_default(), index },
                bottom: stacked.bottom(index),
                is_loopback: link.header.flags.contains(LinkFlags::Loopback),
                is_outward: outward.contains(&index),
                addresses: mine.clone().filter_map(usable).collect(),
                broadcasts: mine.flat_map(broadcasts).collect(),
            });
        }
        Ok((Self(carriers), stacked))
    }

    /// Every address of this machine.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().flat_map(|carrier| &carrier.addresses).copied()
    }

    /// The broadcast addresses of every network that this machine is on.
    pub(crate) fn broadcasts(&self) -> BTreeSet<Ipv4Addr> {
        self.0.iter().flat_map(|carrier| &carrier.broadcasts).copied().collect()
    }

    /// The addresses that peers can be expected to reach when clients are listened to on `listen`:
    /// the ones that are named, and for a wildcard those of the interfaces that lead outside.
    /// Loopback only when there is nothing else.
    pub(crate) fn reachable(&self, listen: &[SocketAddr]) -> Vec<IpAddr> {
        let any_outward = self.0.iter().any(|carrier| carrier.is_outward);
        let leads_outside =
            |carrier: &&Carrier| !carrier.is_loopback && (carrier.is_outward || !any_outward);
        let mut all = BTreeSet::new();
        for ip in listen.iter().map(SocketAddr::ip) {
            if ip.is_unspecified() {
                let outside = self.0.iter().filter(leads_outside);
                let outside = outside.flat_map(|carrier| &carrier.addresses);
                all.extend(outside.filter(|other| other.is_ipv4() == ip.is_ipv4()));
            } else {
                all.insert(ip);
            }
        }
        let outside: Vec<IpAddr> = all.iter().copied().filter(|ip| !ip.is_loopback()).collect();
        if outside.is_empty() { all.into_iter().collect() } else { outside }
    }

    /// Replaces wildcards by every address of their family.
    pub(crate) fn expand(&self, listen: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut expanded = BTreeSet::new();
        for addr in listen {
            if !addr.ip().is_unspecified() {
                expanded.insert(*addr);
                continue;
            }
            let all = self.0.iter().flat_map(|carrier| &carrier.addresses);
            let family = all.filter(|ip| ip.is_ipv4() == addr.is_ipv4());
            expanded.extend(family.map(|ip| SocketAddr::new(*ip, addr.port())));
        }
        expanded.into_iter().collect()
    }

    /// The interfaces to attach to: the named ones, or else those that carry the addresses; of VLAN
    /// devices, what they lie on. Loopback never: its packets have no checksums and no link.
    ///
    /// # Errors
    /// A name that does not exist.
    pub(crate) fn select(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Vec<Interface>, NoSuchInterface> {
        let find = |name: &String| {
            let found = self.0.iter().find(|carrier| &carrier.interface.name == name);
            found.map(|carrier| carrier.interface.clone()).ok_or_else(|| NoSuchInterface {
                name: name.clone(),
                known: self.0.iter().map(|carrier| carrier.interface.name.clone()).collect(),
            })
        };
        if !names.is_empty() {
            return names.iter().map(find).collect();
        }
        let carries = |carrier: &&Carrier| {
            !carrier.is_loopback && carrier.addresses.iter().any(|ip| addresses.contains(ip))
        };
        let bottoms: BTreeSet<u32> =
            self.0.iter().filter(carries).map(|carrier| carrier.bottom).collect();
        let is_bottom = |carrier: &&Carrier| bottoms.contains(&carrier.interface.index);
        Ok(self.0.iter().filter(is_bottom).map(|carrier| carrier.interface.clone()).collect())
    }
}

/// Whether IPv6 duplicate address detection still runs for an address that could be used.
fn is_being_checked(address: &AddressMessage) -> bool {
    let is_link_local = address.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Address(IpAddr::V6(ip)) if ip.is_unicast_link_local())
    });
    flags(address).contains(AddressFlags::Tentative)
        && !flags(address).contains(AddressFlags::Dadfailed)
        && !is_link_local
}

fn flags(address: &AddressMessage) -> AddressFlags {
    let wide = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    wide.unwrap_or(AddressFlags::empty())
}

/// The egress interface of a default route.
fn default_route(route: &RouteMessage) -> Option<u32> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The address of an interface, if somebody can count on it.
fn usable(address: &AddressMessage) -> Option<IpAddr> {
    let attributes = &address.attributes;
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| attributes.iter().find_map(wanted);
    // On a point-to-point link `Address` is the other end, and `Local` is ours.
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let other = find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    // `Secondary` means temporary on IPv6, and nothing of the kind on IPv4.
    let passing = AddressFlags::Secondary
        | AddressFlags::Tentative
        | AddressFlags::Dadfailed
        | AddressFlags::Deprecated;
    local.or(other).filter(|ip| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !flags(address).intersects(passing),
    })
}

/// Who everybody on an address's network is: what the prefix says, and what was configured.
fn broadcasts(address: &AddressMessage) -> impl Iterator<Item = Ipv4Addr> {
    let prefix = u32::from(address.header.prefix_len);
    let configured = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Broadcast(ip) => Some(*ip),
        _ => None,
    });
    // RFC 3021: a network of two addresses has no other.
    let derived = usable(address).filter(|_| prefix < 31).and_then(|ip| match ip {
        IpAddr::V4(ip) => Some(Ipv4Addr::from_bits(ip.to_bits() | u32::MAX >> prefix)),
        IpAddr::V6(_) => None,
    });
    configured.into_iter().chain(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Interfaces {
        let carrier = |name: &str, index, is_loopback, addresses: &[&str]| Carrier {
            interface: Interface { name: name.into(), index },
            bottom: index,
            is_loopback,
            is_outward: name == "eth0",
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            broadcasts: Vec::new(),
        };
        Interfaces(vec![
            carrier("lo", 1, true, &["127.0.0.1", "::1"]),
            carrier("eth0", 2, false, &["192.0.2.1", "2001:db8::1"]),
            carrier("eth1", 3, false, &["192.0.2.9"]),
        ])
    }

    #[test]
    fn start_up_waits_only_for_addresses_that_it_could_use() {
        let address = |ip: &str, flags| {
            let mut message = AddressMessage::default();
            message.attributes.push(AddressAttribute::Address(ip.parse().unwrap()));
            message.attributes.push(AddressAttribute::Flags(flags));
            message
        };
        let tentative = address("2001:db8::1", AddressFlags::Tentative);
        assert!(is_being_checked(&tentative));
        assert_eq!(usable(&tentative), None, "binding would fail");
        let duplicate = AddressFlags::Tentative | AddressFlags::Dadfailed;
        assert!(!is_being_checked(&address("2001:db8::1", duplicate)));
        assert_eq!(usable(&address("2001:db8::1", duplicate)), None);
        assert!(!is_being_checked(&address("fe80::1", AddressFlags::Tentative)));
        assert_eq!(usable(&address("fe80::1", AddressFlags::Permanent)), None);
        let secondary = address("192.0.2.1", AddressFlags::Secondary);
        assert_eq!(usable(&secondary), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(usable(&address("2001:db8::1", AddressFlags::Secondary)), None, "temporary");
    }

    #[test]
    fn a_network_has_a_broadcast_address_by_its_prefix_and_by_configuration() {
        let of = |ip: &str, prefix_len, configured: Option<&str>| {
            let mut message = AddressMessage::default();
            message.header.prefix_len = prefix_len;
            message.attributes.push(AddressAttribute::Local(ip.parse().unwrap()));
            let configured = configured.map(|ip| AddressAttribute::Broadcast(ip.parse().unwrap()));
            message.attributes.extend(configured);
            broadcasts(&message).map(|ip| ip.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("10.1.2.3", 24, None), ["10.1.2.255"]);
        assert_eq!(of("10.1.2.3", 8, Some("10.1.255.255")), ["10.1.255.255", "10.255.255.255"]);
        assert_eq!(of("10.1.2.3", 30, None), ["10.1.2.3"]);
        assert!(of("10.1.2.3", 31, None).is_empty() && of("10.1.2.3", 32, None).is_empty());
        assert!(of("2001:db8::1", 8, None).is_empty());
        assert_eq!(of("10.1.2.3", 0, None), ["255.255.255.255"]);
    }

    #[test]
    fn a_wildcard_is_every_address_of_its_family() {
        let expanded = |listen: &str| machine().expand(&[listen.parse().unwrap()]);
        let v4 = ["127.0.0.1:3478", "192.0.2.1:3478", "192.0.2.9:3478"];
        assert_eq!(expanded("0.0.0.0:3478"), v4.map(|a| a.parse::<SocketAddr>().unwrap()));
        let v6 = ["[::1]:3478", "[2001:db8::1]:3478"];
        assert_eq!(expanded("[::]:3478"), v6.map(|a| a.parse::<SocketAddr>().unwrap()));
        assert_eq!(expanded("198.51.100.1:1"), ["198.51.100.1:1".parse().unwrap()]);
    }

    #[test]
    fn peers_reach_named_addresses_and_for_a_wildcard_those_that_lead_outside() {
        let reachable = |machine: &Interfaces, listen: &[&str]| {
            let listen: Vec<SocketAddr> = listen.iter().map(|a| a.parse().unwrap()).collect();
            machine.reachable(&listen).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reachable(&machine(), &["0.0.0.0:1"]), ["192.0.2.1"], "not eth1's");
        assert_eq!(reachable(&machine(), &["[::]:1"]), ["2001:db8::1"]);
        assert_eq!(reachable(&machine(), &["192.0.2.9:1", "127.0.0.1:1"]), ["192.0.2.9"]);
        assert_eq!(reachable(&machine(), &["127.0.0.1:1"]), ["127.0.0.1"], "nothing else");
        let mut island = machine();
        island.0.iter_mut().for_each(|carrier| carrier.is_outward = false);
        assert_eq!(reachable(&island, &["0.0.0.0:1"]), ["192.0.2.1", "192.0.2.9"]);
    }

    #[test]
    fn interfaces_are_those_named_or_those_that_carry_the_addresses() {
        let names = |names: &[&str], addresses: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            machine()
                .select(&names, &addresses)
                .map(|found| found.into_iter().map(|i| i.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], &["192.0.2.9", "127.0.0.1"]).unwrap(), ["eth1"]);
        assert_eq!(names(&["eth0"], &["192.0.2.9"]).unwrap(), ["eth0"]);
        let mut tagged = machine();
        tagged.0.push(Carrier {
            interface: Interface { name: "eth1.5".into(), index: 4 },
            bottom: 3,
            is_loopback: false,
            is_outward: false,
            addresses: vec!["198.51.100.1".parse().unwrap()],
            broadcasts: Vec::new(),
        });
        let below: Vec<IpAddr> = ["198.51.100.1", "192.0.2.9"].map(|a| a.parse().unwrap()).to_vec();
        let below = tagged.select(&[], &below).unwrap();
        assert_eq!(below, [Interface { name: "eth1".into(), index: 3 }], "once, below the VLAN");
        let error = names(&["eth7"], &[]).unwrap_err().to_string();
        assert!(error.contains("eth7") && error.contains("lo, eth0, eth1"), "{error}");
    }
}
