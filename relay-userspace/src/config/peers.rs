//! `[peers]`: which networks may be reached, and may not. What the rules mean together is
//! relay-turn's.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use relay_turn::{DeniedBy, Listed, Loopback, Policy};

use super::Peers;
use super::document::{Reader, Section};
use super::fault::{Fault, Warning};

/// Reads `[peers]`.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    warnings: &mut Vec<Warning>,
) -> Peers {
    let loopback = match reader.boolean(section, "allow_loopback") {
        Some(true) => Loopback::Allowed,
        Some(false) | None => Loopback::Denied,
    };
    if loopback == Loopback::Allowed {
        warnings.push(Warning::LoopbackAllowed);
    }
    let allow = networks(reader, section, "allow", |network| never(network, loopback));
    let deny = networks(reader, section, "deny", |_| None);
    Peers { allow, deny, loopback }
}

fn networks<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    key: &'static str,
    refuse: impl Fn(IpNet) -> Option<Fault>,
) -> Vec<Listed> {
    let mut networks = Vec::new();
    for text in reader.texts(section, key) {
        let name = *text.get_ref();
        let network = name.parse().or_else(|_| name.parse::<IpAddr>().map(IpNet::from));
        match network {
            Err(_) => {
                let expected = "a network like 192.0.2.0/24 or an address".to_owned();
                let found = name.to_owned();
                reader.report(&text, Fault::BadValue { key, expected, found, hint: String::new() });
            }
            Ok(network) if network.trunc() != network => {
                let (right, only) = (network.trunc().to_string(), network.addr().to_string());
                reader.report(&text, Fault::HostBits(name.to_owned(), right, only));
            }
            Ok(network) => match mapped(network).or_else(|| refuse(network)) {
                Some(fault) => reader.report(&text, fault),
                None => networks.push(Listed { network, line: reader.line(&text) }),
            },
        }
    }
    networks
}

/// Lists for other servers deny ::ffff:0:0/96. Here that would be all of IPv4.
fn mapped(network: IpNet) -> Option<Fault> {
    let IpNet::V6(v6) = network else { return None };
    let ip = v6.addr().to_ipv4_mapped()?;
    let v4 = Ipv4Net::new(ip, v6.prefix_len().checked_sub(96)?).ok()?;
    Some(Fault::MappedNetwork(network.to_string(), v4.to_string()))
}

fn never(network: IpNet, loopback: Loopback) -> Option<Fault> {
    const REMOVE: &str = "remove it";
    let (what, advice) = match Policy::never_allowed(network)? {
        DeniedBy::Loopback if loopback == Loopback::Allowed => return None,
        DeniedBy::Loopback => ("loopback", "for development there is allow_loopback = true"),
        DeniedBy::Unspecified => ("the unspecified address", REMOVE),
        DeniedBy::Multicast => ("multicast", REMOVE),
        DeniedBy::Broadcast => ("the broadcast address", REMOVE),
        DeniedBy::Private
        | DeniedBy::LinkLocal
        | DeniedBy::Transition
        | DeniedBy::Special
        | DeniedBy::Configured
        | DeniedBy::Own
        | DeniedBy::PortZero => return None,
    };
    Some(Fault::NeverAPeer(network.to_string(), what, advice))
}
