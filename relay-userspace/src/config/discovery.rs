//! `discovery` in `[listen]`: two addresses of a family for NAT behaviour discovery (RFC 5780).

use std::net::{IpAddr, SocketAddr};

use relay_turn::Discovery;
use toml::Spanned;

use super::document::{Reader, Section, Text};
use super::fault::Fault;
use super::sections::{is_usable, socket_addr};

const KEY: &str = "listen.discovery";

/// Reads the key, and adds the four addresses of each pair to those that are listened to.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    listen: &mut Vec<Spanned<SocketAddr>>,
) -> Vec<Discovery> {
    let mut named: Vec<(Text<'t>, SocketAddr)> = Vec::new();
    for text in reader.texts(section, "discovery") {
        // What is wrong by itself is reported as that, not as a pair that is none.
        let Some(addr) = socket_addr(reader, &text, KEY) else { return Vec::new() };
        if !is_usable(reader, &text, KEY, addr.ip()) {
            return Vec::new();
        }
        named.push((text, addr));
    }
    let mut discoveries = Vec::new();
    for is_family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
        let of_family: Vec<_> = named.iter().filter(|(_, addr)| is_family(addr)).collect();
        let Some((text, _)) = of_family.first() else { continue };
        let [(_, primary), (_, alternate)] = of_family.as_slice() else {
            reader.report(text, Fault::DiscoveryPair);
            continue;
        };
        let discovery = Discovery { primary: *primary, alternate: *alternate };
        if !is_pair(&discovery) {
            reader.report(text, Fault::DiscoveryPair);
            continue;
        }
        for addr in corners(&discovery) {
            if !listen.iter().any(|other| *other.get_ref() == addr) {
                listen.push(Spanned::new(text.span(), addr));
            }
        }
        discoveries.push(discovery);
    }
    discoveries
}

fn is_pair(discovery: &Discovery) -> bool {
    let Discovery { primary, alternate } = discovery;
    let is_real = |addr: &SocketAddr| !addr.ip().is_unspecified() && addr.port() != 0;
    is_real(primary)
        && is_real(alternate)
        && primary.ip() != alternate.ip()
        && primary.port() != alternate.port()
}

fn corners(discovery: &Discovery) -> [SocketAddr; 4] {
    let (first, second): (IpAddr, IpAddr) = (discovery.primary.ip(), discovery.alternate.ip());
    let (port, other) = (discovery.primary.port(), discovery.alternate.port());
    [(first, port), (first, other), (second, port), (second, other)].map(SocketAddr::from)
}
