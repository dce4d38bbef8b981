//! A client with valid credentials tries to reach what it must not, by every message and in every
//! way to write an address: it is refused, and the kernel's maps never name anybody else than who
//! was allowed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use relay_common::abi::{
    ABI_VERSION, Permission, PermissionKeyV4, PermissionKeyV6, Route, RouteKeyV4, RouteKeyV6, map,
};
use relay_common::addr::Family;
use relay_common::wire::stun::Method;
use zerocopy::FromBytes;

use crate::Test;
use crate::client::Client;
use crate::needs::Need::{Namespaces, Xdp};
use crate::pins::BpfFs;
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] =
    &[("ssrf_is_refused_and_never_installed", &[Namespaces, Xdp], refused_and_not_installed)];

/// First and last addresses of what nobody may be relayed to, whatever is allowed here.
const DENIED: &[&str] = &[
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.76.255.255",
    "10.78.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "203.0.113.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    // Of the allowed network, but everybody on it.
    "10.77.1.255",
    "10.77.2.255",
];
const DENIED_V6: &[&str] =
    &["::", "::1", "100::1", "2001:db8::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1", "ff02::1"];

fn embeddings(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = ip.octets();
    let behind = |prefix: &str| {
        let prefix: Ipv6Addr = prefix.parse().unwrap();
        Ipv6Addr::from_bits(prefix.to_bits() | u128::from(ip.to_bits()))
    };
    let prefixes = ["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::"];
    let mut all: Vec<Ipv6Addr> = prefixes.into_iter().map(behind).collect();
    all.extend(["2a00::5efe:0:0", "2a00::200:5efe:0:0"].map(behind));
    all.push([0x20, 2, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into());
    all.push([0x20, 1, 0, 0, a, b, c, d, 0, 0, 0, 0, 0xF7, 0xF7, 0xF7, 0xF7].into());
    all.push([0x20, 1, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, !a, !b, !c, !d].into());
    all.push([0, 0x64, 0xFF, 0x9B, 0, 1, a, b, 0, c, d, 0, 0, 0, 0, 0].into());
    all
}

fn refused_and_not_installed(rig: &Rig) {
    let (bpf_fs, topology) = (BpfFs::mount(), Topology::two_armed(Some(rig.object())));
    let plan = Plan { pin: Some(bpf_fs.directory()), ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let maps = bpf_fs.directory().join(format!("v{ABI_VERSION}")).join("maps");
    let mut allowed: BTreeSet<IpAddr> =
        ["10.77.1.1", "10.77.1.2", "10.77.2.1", "fd77:1::1", "fd77:1::2", "fd77:2::1"]
            .map(|ip| ip.parse().unwrap())
            .into();

    let from = |family| match family {
        Family::V4 => Client::allocate(&topology.client, "10.77.1.2:0", "10.77.1.1:3478"),
        Family::V6 => Client::allocate(&topology.client, "[fd77:1::2]:0", "[fd77:1::1]:3478"),
    };
    let (mut v4, mut v6) = (from(Family::V4), from(Family::V6));
    let denied = DENIED.iter().map(|ip| ip.parse::<Ipv4Addr>().unwrap());
    let own: [SocketAddr; 2] = ["10.77.1.1:3478", "10.77.2.1:3478"].map(|own| own.parse().unwrap());
    for ip in denied.clone() {
        is_refused(&mut v4, SocketAddr::new(ip.into(), 80));
        for ip in embeddings(ip) {
            is_refused(&mut v6, SocketAddr::new(ip.into(), 80));
        }
    }
    for ip in DENIED_V6 {
        is_refused(&mut v6, SocketAddr::new(ip.parse().unwrap(), 80));
    }
    // Of the allowed network, but this machine's own.
    for own in own {
        assert_eq!(v4.refusal(Method::CHANNEL_BIND, own), Some(403), "{own}");
        v4.send_to(own, b"hello");
    }
    assert_eq!(others(&maps, &allowed), BTreeSet::new());

    // And what may be reached is there: the maps are read rightly.
    let peers: [SocketAddr; 2] = ["10.77.2.2:7000", "[fd77:2::2]:7000"].map(|p| p.parse().unwrap());
    v4.bind(peers[0]);
    v6.bind(peers[1]);
    assert_eq!(others(&maps, &allowed), peers.map(|peer| peer.ip()).into());
    allowed.extend(peers.map(|peer| peer.ip()));
    assert_eq!(others(&maps, &allowed), BTreeSet::new());

    let metrics = relay.metrics();
    for direction in relay_common::abi::Direction::ALL {
        assert_eq!(metrics.relayed(direction), (0, 0), "nothing was relayed");
    }
    let loopback = metrics.value("turnpike_peers_denied_total{rule=\"loopback\"}");
    assert!(loopback > 20, "{loopback}");
    let log = relay.log();
    for words in
        ["rule=\"private\" network=10.0.0.0/8", "rule=\"link_local\"", "rule=\"broadcast\""]
    {
        assert!(log.contains(words), "{words} is not in: {log}");
    }
}

fn is_refused(client: &mut Client, peer: SocketAddr) {
    for method in [Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let code = client.refusal(method, peer);
        assert!(matches!(code, Some(403 | 443)), "{method:?} {peer}: {code:?}");
    }
    client.send_to(peer, b"hello");
}

/// Who the kernel's maps name that is not among the allowed.
fn others(maps: &Path, allowed: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let v4 = |word: u32| IpAddr::from(word.to_ne_bytes());
    let v6 = |words: [u32; 4]| IpAddr::from(Ipv6Addr::from_bits(u128::from_be_bytes(bytes(words))));
    let either = |words: [u32; 4]| match words {
        [word, 0, 0, 0] => v4(word),
        words => v6(words),
    };
    let mut named = BTreeSet::new();
    for (key, route) in entries::<RouteKeyV4, Route, 16, 64>(maps, map::ROUTES_V4) {
        named.extend([v4(key.src), v4(key.dst), either(route.src), either(route.dst)]);
    }
    for (key, route) in entries::<RouteKeyV6, Route, 40, 64>(maps, map::ROUTES_V6) {
        named.extend([v6(key.src), v6(key.dst), either(route.src), either(route.dst)]);
    }
    for (key, given) in entries::<PermissionKeyV4, Permission, 16, 64>(maps, map::PERMISSIONS_V4) {
        named.extend([v4(key.relayed), v4(key.peer)]);
        named.extend([either(given.client), either(given.server)]);
    }
    for (key, given) in entries::<PermissionKeyV6, Permission, 40, 64>(maps, map::PERMISSIONS_V6) {
        named.extend([v6(key.relayed), v6(key.peer)]);
        named.extend([either(given.client), either(given.server)]);
    }
    // Where a route says nothing.
    named.retain(|ip| !ip.is_unspecified() && !allowed.contains(ip));
    named
}

fn bytes(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [a, b, c, d].concat().try_into().unwrap()
}

/// All entries of a pinned map. `KEY` and `VALUE` are the sizes of key and value.
fn entries<K: FromBytes, V: FromBytes, const KEY: usize, const VALUE: usize>(
    maps: &Path,
    name: &str,
) -> Vec<(K, V)>
where
    [u8; KEY]: Pod,
    [u8; VALUE]: Pod,
{
    let data = MapData::from_pin(maps.join(name)).unwrap();
    let map: HashMap<_, [u8; KEY], [u8; VALUE]> = Map::HashMap(data).try_into().unwrap();
    map.iter()
        .map(|entry| {
            let (key, value) = entry.unwrap();
            (K::read_from_bytes(&key).unwrap(), V::read_from_bytes(&value).unwrap())
        })
        .collect()
}
