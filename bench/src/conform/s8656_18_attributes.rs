//! RFC 8656 §18, RFC 8489 §14.1 and §14.8: what is reserved in attributes is zero when a server
//! sends it, and nothing to a server that receives it.

use super::case::{Case, Check, Verdict, carries, ensure, must, refused, should, success};
use super::user::{IPV4, UDP, User, any_port, relayed_of};
use super::wire::{Answer, Draft, kind, method};
use super::world::World;

/// The rules, in the RFCs' order.
pub(crate) const CASES: &[Case] = &[
    must(8489, "14.1", "first-byte-zero", "an address begins with a zero byte", first_byte_zero),
    must(8489, "14.1", "first-byte-ignored", "… which may be any other in a request", first_byte),
    should(8489, "14.8", "reserved-zero", "ERROR-CODE begins with zeros", error_reserved),
    must(8656, "18.1", "reserved", "what follows a channel number is ignored", channel),
    must(8656, "18.6", "reserved", "what follows a family is ignored", family),
    must(8656, "18.7", "reserved", "EVEN-PORT: bits that are not R are ignored", even_port),
    must(8656, "18.8", "reserved", "what follows a transport is ignored", transport),
];

/// A value with every bit behind the first byte set.
fn dirty([first, ..]: [u8; 4]) -> [u8; 4] {
    [first, 0xFF, 0xFF, 0xFF]
}

fn first_byte_zero(world: &World) -> Check {
    let answer = success(world.line()?.ask(&world.draft(method::BINDING)?)?)?;
    let mapped = carries(&answer, kind::XOR_MAPPED_ADDRESS, "XOR-MAPPED-ADDRESS")?;
    let (_user, allocated) = User::allocated(world)?;
    let relayed = carries(&allocated, kind::XOR_RELAYED_ADDRESS, "XOR-RELAYED-ADDRESS")?;
    let zero = [mapped, relayed].map(|value| value.first() == Some(&0));
    ensure(zero == [true; 2], "0", format!("{mapped:02x?}, {relayed:02x?}"))
}

fn first_byte(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    let answer = user.ask(method::CREATE_PERMISSION, |draft| {
        let id = draft.id();
        let mut value = super::wire::xored(peer, &id);
        value[0] = 0xFF;
        draft.with(kind::XOR_PEER_ADDRESS, &value)
    })?;
    success(answer).map(drop)
}

fn error_reserved(world: &World) -> Check {
    let answer = refused(world.line()?.ask(&world.draft(method::ALLOCATE)?)?, &[401])?;
    let value = carries(&answer, kind::ERROR_CODE, "ERROR-CODE")?;
    // The class has the lowest three bits of the third byte.
    let zeros = matches!(value, [0, 0, 0..=7, ..]);
    ensure(zeros, "zeros", format!("{value:02x?}"))
}

fn channel(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    let answer = user.ask(method::CHANNEL_BIND, |draft| {
        draft
            .with(kind::CHANNEL_NUMBER, &[0x40, 1, 0xFF, 0xFF])
            .address(kind::XOR_PEER_ADDRESS, peer)
    })?;
    success(answer).map(drop)
}

/// Allocates; the user, who keeps the allocation, and the answer.
fn allocated(
    world: &World,
    attributes: impl Fn(Draft) -> Draft,
) -> Result<(User<'_>, Answer), Verdict> {
    let mut user = User::new(world)?;
    let answer = success(user.ask(method::ALLOCATE, attributes)?)?;
    Ok((user, answer))
}

fn family(world: &World) -> Check {
    let (_user, answer) = allocated(world, |draft| {
        draft
            .with(kind::REQUESTED_TRANSPORT, &UDP)
            .with(kind::REQUESTED_ADDRESS_FAMILY, &dirty(IPV4))
    })?;
    let relayed = relayed_of(&answer)?;
    ensure(relayed.is_ipv4(), "an IPv4 address", relayed.to_string())
}

fn even_port(world: &World) -> Check {
    let (_user, answer) = allocated(world, |draft| {
        draft.with(kind::REQUESTED_TRANSPORT, &UDP).with(kind::EVEN_PORT, &[0x7F])
    })?;
    let relayed = relayed_of(&answer)?;
    ensure(relayed.port().is_multiple_of(2), "an even port", relayed.port().to_string())?;
    let token = answer.has(kind::RESERVATION_TOKEN);
    ensure(!token, "no RESERVATION-TOKEN without R", "one")
}

fn transport(world: &World) -> Check {
    allocated(world, |draft| draft.with(kind::REQUESTED_TRANSPORT, &dirty(UDP))).map(drop)
}
