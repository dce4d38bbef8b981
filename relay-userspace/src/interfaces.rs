//! Which interfaces this machine has and which addresses they carry, read once at start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};

use crate::datapath::Interface;

/// An interface and what it carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Carrier {
    /// The interface.
    pub(crate) interface: Interface,
    /// Whether it is a loopback.
    pub(crate) is_loopback: bool,
    /// Its addresses, without IPv6 link-local ones.
    pub(crate) addresses: Vec<IpAddr>,
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
    /// Asks the kernel.
    ///
    /// # Errors
    /// Netlink is not to be had, or does not answer.
    pub(crate) async fn read() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let links: Vec<_> = handle.link().get().execute().try_collect().await?;
        let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
        connection.abort();
        let mut carriers = Vec::new();
        for link in links {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            let index = link.header.index;
            let mine = addresses.iter().filter(|address| address.header.index == index);
            carriers.push(Carrier {
                interface: Interface { name: name.unwrap_or_default(), index },
                is_loopback: link.header.flags.contains(LinkFlags::Loopback),
                addresses: mine.filter_map(|address| usable(&address.attributes)).collect(),
            });
        }
        Ok(Self(carriers))
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

    /// The interfaces to attach to: the named ones, or else those that carry the addresses.
    /// Loopback never: its packets have no checksums and no link.
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
        Ok(self.0.iter().filter(carries).map(|carrier| carrier.interface.clone()).collect())
    }
}

/// The address of an interface; link-local ones are nobody's relay.
fn usable(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| attributes.iter().find_map(wanted);
    // On a point-to-point link `Address` is the other end, and `Local` is ours.
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    local.or(address).filter(|ip| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Interfaces {
        let carrier = |name: &str, index, is_loopback, addresses: &[&str]| Carrier {
            interface: Interface { name: name.into(), index },
            is_loopback,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Interfaces(vec![
            carrier("lo", 1, true, &["127.0.0.1", "::1"]),
            carrier("eth0", 2, false, &["192.0.2.1", "2001:db8::1"]),
            carrier("eth1", 3, false, &["192.0.2.9"]),
        ])
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
        let error = names(&["eth7"], &[]).unwrap_err().to_string();
        assert!(error.contains("eth7") && error.contains("lo, eth0, eth1"), "{error}");
    }
}
