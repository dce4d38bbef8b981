//! RFC 8656 §9 and §10: permissions, and the peers that nobody gets one for.

use std::net::SocketAddr;

use super::case::{Case, Check, may, must, refused, should, success};
use super::s8656_07_families::allocated_6;
use super::user::{OTHER_FAMILY, User, any_port};
use super::wire::{kind, method};
use super::world::World;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "10.2", "no-peer", "without XOR-PEER-ADDRESS: 400", |world| {
        let (mut user, _) = User::allocated(world)?;
        refused(user.permit(&[])?, &[400]).map(drop)
    }),
    must(8656, "10.2", "malformed-peer", "a malformed XOR-PEER-ADDRESS: 400", |world| {
        malformed(world, &[0, 1, 0, 9, 1, 2])
    }),
    must(8656, "10.2", "unknown-family", "an address of no known family: 400 or 443", odd_family),
    must(8656, "10.2", "one", "a permission for a peer", |world| {
        let peer = any_port(world.peer_ip()?);
        User::allocated(world)?.0.permitted(peer)
    }),
    must(8656, "10.2", "several", "several peers in one request", several),
    must(8656, "10.2", "again", "a permission is refreshed by the same request", again),
    must(8656, "10.2", "other-family", "a peer of the other family gets 443", |world| {
        let (mut user, _) = User::allocated(world)?;
        refused(user.permit(&[any_port(OTHER_FAMILY)])?, &[443]).map(drop)
    }),
    must(8656, "10.2", "one-of-other-family", "… also as one of several", one_of_other),
    may(8656, "10.2", "loopback", "the server's loopback is refused: 403", |world| {
        denied(world, [127, 0, 0, 1])
    }),
    may(8656, "10.2", "loopback-net", "all of 127.0.0.0/8 is refused: 403", |world| {
        denied(world, [127, 66, 6, 6])
    }),
    may(8656, "10.2", "unspecified", "0.0.0.0 is refused: 403", |world| {
        denied(world, [0, 0, 0, 0])
    }),
    may(8656, "10.2", "this-network", "0.0.0.0/8 is refused: 403", |world| {
        denied(world, [0, 1, 2, 3])
    }),
    may(8656, "10.2", "multicast", "multicast is refused: 403", |world| {
        denied(world, [224, 0, 0, 251])
    }),
    may(8656, "10.2", "broadcast", "255.255.255.255 is refused: 403", |world| {
        denied(world, [255, 255, 255, 255])
    }),
    may(8656, "10.2", "link-local", "169.254.0.0/16 is refused: 403", |world| {
        denied(world, [169, 254, 169, 254])
    }),
    may(8656, "10.2", "loopback-6", "::1 is refused: 403", |world| {
        denied_6(world, [0, 0, 0, 0, 0, 0, 0, 1])
    }),
    may(8656, "10.2", "unspecified-6", ":: is refused: 403", |world| {
        denied_6(world, [0, 0, 0, 0, 0, 0, 0, 0])
    }),
    may(8656, "10.2", "multicast-6", "IPv6 multicast is refused: 403", |world| {
        denied_6(world, [0xff02, 0, 0, 0, 0, 0, 0, 1])
    }),
    may(8656, "10.2", "mapped", "IPv4-mapped loopback is refused: 403", |world| {
        denied_6(world, [0, 0, 0, 0, 0, 0xffff, 0x7f00, 1])
    }),
    may(8656, "10.2", "compatible", "IPv4-compatible loopback is refused: 403", |world| {
        denied_6(world, [0, 0, 0, 0, 0, 0, 0x7f00, 1])
    }),
    may(8656, "10.2", "nat64", "loopback behind NAT64 is refused: 403", |world| {
        denied_6(world, [0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 1])
    }),
    should(8656, "21.4", "6to4", "loopback behind 6to4 is refused: 403", |world| {
        denied_6(world, [0x2002, 0x7f00, 1, 0, 0, 0, 0, 1])
    }),
    should(8656, "21.4", "teredo", "loopback behind Teredo is refused: 403", |world| {
        denied_6(world, [0x2001, 0, 0x7f00, 1, 0, 0, 0x80ff, 0xfffe])
    }),
    may(8656, "10.2", "isatap", "loopback behind ISATAP is refused: 403", |world| {
        denied_6(world, [0x2001, 0xdb8, 0, 0, 0, 0x5efe, 0x7f00, 1])
    }),
];

fn malformed(world: &World, value: &[u8]) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let answer =
        user.ask(method::CREATE_PERMISSION, |draft| draft.with(kind::XOR_PEER_ADDRESS, value))?;
    refused(answer, &[400]).map(drop)
}

fn odd_family(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let value = [0, 7, 0, 9, 1, 2, 3, 4];
    let answer =
        user.ask(method::CREATE_PERMISSION, |draft| draft.with(kind::XOR_PEER_ADDRESS, &value))?;
    refused(answer, &[400, 443]).map(drop)
}

fn several(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let ip = world.peer_ip()?;
    let peers = [SocketAddr::new(ip, 9), SocketAddr::new(ip, 10), SocketAddr::new(ip, 0)];
    success(user.permit(&peers)?).map(drop)
}

fn again(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    user.permitted(peer)?;
    user.permitted(peer)
}

fn one_of_other(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peers = [any_port(world.peer_ip()?), any_port(OTHER_FAMILY)];
    refused(user.permit(&peers)?, &[443]).map(drop)
}

fn denied(world: &World, ip: [u8; 4]) -> Check {
    let (mut user, _) = User::allocated(world)?;
    refused(user.permit(&[any_port(ip)])?, &[403]).map(drop)
}

fn denied_6(world: &World, ip: [u16; 8]) -> Check {
    let (mut user, _) = allocated_6(world)?;
    // Who takes an embedded address for IPv4 may say that the family is the other.
    refused(user.permit(&[any_port(ip)])?, &[403, 443]).map(drop)
}
