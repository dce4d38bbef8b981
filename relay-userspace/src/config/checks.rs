//! Rules between values that are each fine by themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use relay_common::abi::LISTEN_PORTS_MAX;
use toml::Spanned;

use super::document::{Reader, Section, Text};
use super::fault::{Fault, Warning};
use super::{Limits, Relay};

/// Listening addresses against relay addresses and ports.
pub(super) fn addresses(
    reader: &mut Reader<'_>,
    listen: &[Spanned<SocketAddr>],
    relay: &Relay,
    warnings: &mut Vec<Warning>,
) {
    // The kernel program compares with a list of fixed size.
    let ports: BTreeSet<_> = listen.iter().map(|addr| addr.get_ref().port()).collect();
    if let Some(last) = listen.last().filter(|_| ports.len() > LISTEN_PORTS_MAX) {
        reader.report(last, Fault::TooManyPorts { count: ports.len(), max: LISTEN_PORTS_MAX });
    }
    for addr in listen {
        // The kernel program tells the two sides apart by the port alone.
        if relay.ports.contains(&addr.get_ref().port()) {
            let (first, last) = (*relay.ports.start(), *relay.ports.end());
            let listen = addr.get_ref().to_string();
            reader.report(addr, Fault::ListenInRelayed { listen, first, last });
        }
    }
    let has_ipv4 = match relay.addresses.as_slice() {
        [] => listen.iter().any(|addr| addr.get_ref().is_ipv4()),
        addresses => addresses.iter().any(IpAddr::is_ipv4),
    };
    if !has_ipv4 {
        warnings.push(Warning::NoIpv4Relay);
    }
}

/// An `external` mapping against the addresses that can be mapped. Behind a listening wildcard
/// stands any address of its family.
pub(super) fn external(
    reader: &mut Reader<'_>,
    place: &Text<'_>,
    from: IpAddr,
    addresses: &[IpAddr],
    listen: &[Spanned<SocketAddr>],
) {
    let relays: Vec<IpAddr> = match addresses {
        [] => listen.iter().map(|addr| addr.get_ref().ip()).collect(),
        addresses => addresses.to_vec(),
    };
    let is_relay = |relay: &IpAddr| *relay == from || is_wildcard_for(*relay, from);
    // Without any address that is fine, the fault is there and not here.
    if !relays.is_empty() && !relays.iter().any(is_relay) {
        let names: Vec<_> = relays.iter().map(IpAddr::to_string).collect();
        reader.report(place, Fault::ExternalOfNobody(from.to_string(), names.join(", ")));
    }
}

/// The default lifetime against the maximum.
pub(super) fn lifetimes(reader: &mut Reader<'_>, section: &Section<'_>, limits: &Limits) {
    let (default, max) = (limits.lifetime_secs_default, limits.lifetime_secs_max);
    if default > max {
        let keys = ["lifetime_secs_default", "lifetime_secs_max"];
        let written = keys.into_iter().find(|key| section.has(key)).unwrap_or(keys[0]);
        reader.report_key(section, written, Fault::LifetimeOrder { default, max });
    }
}

/// What all may reserve against what each reserves.
pub(super) fn bandwidths(reader: &mut Reader<'_>, section: &Section<'_>, limits: &Limits) {
    let each = limits.allocation_bytes_per_sec;
    let sums = [
        ("user_bytes_per_sec", limits.user_bytes_per_sec),
        ("total_bytes_per_sec", limits.total_bytes_per_sec),
    ];
    for (key, all) in sums.into_iter().filter(|(_, all)| *all != 0) {
        if each == 0 {
            reader.report_key(section, key, Fault::NoAllocationRate(key));
        } else if all < each.into() {
            reader.report_key(section, key, Fault::RateOrder { key, all, each });
        }
    }
}

fn is_wildcard_for(wildcard: IpAddr, ip: IpAddr) -> bool {
    wildcard.is_unspecified() && wildcard.is_ipv4() == ip.is_ipv4()
}
