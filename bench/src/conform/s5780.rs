//! RFC 5780: NAT behaviour discovery, where a server offers it by OTHER-ADDRESS.

use std::net::SocketAddr;

use super::case::{
    Case, Check, Verdict, ensure, fail, must, refused, should, success, unsupported,
};
use super::wire::{Answer, kind, method};
use super::world::World;

/// CHANGE-REQUEST: another address (RFC 5780 §7.2).
const CHANGE_IP: u32 = 4;
/// CHANGE-REQUEST: another port (RFC 5780 §7.2).
const CHANGE_PORT: u32 = 2;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(5780, "6", "no-change", "without another address, CHANGE-REQUEST gets 420", no_change),
    must(5780, "6.1", "other-address", "OTHER-ADDRESS differs in address and port", differs),
    must(5780, "6.1", "origin", "RESPONSE-ORIGIN is the address that was asked", origin),
    must(5780, "6.1", "mapped", "MAPPED-ADDRESS goes along with XOR-MAPPED-ADDRESS", mapped),
    must(5780, "6.1", "change-nothing", "CHANGE-REQUEST may ask for no change", |world| {
        changed(world, 0)
    }),
    must(5780, "6.1", "change-port", "CHANGE-REQUEST: from the other port", |world| {
        changed(world, CHANGE_PORT)
    }),
    must(5780, "6.1", "change-ip", "CHANGE-REQUEST: from the other address", |world| {
        changed(world, CHANGE_IP)
    }),
    must(5780, "6.1", "change-both", "CHANGE-REQUEST: from both", |world| {
        changed(world, CHANGE_IP | CHANGE_PORT)
    }),
    must(5780, "6.1", "response-port", "RESPONSE-PORT, if known, is where it goes", response_port),
    must(5780, "6.1", "padding", "PADDING, if known, is answered by PADDING", padding),
    should(5780, "7.6", "padding-length", "PADDING's length is a multiple of 4", padding_length),
    must(5780, "6.1", "padding-and-port", "PADDING with RESPONSE-PORT gets 400", both),
];

/// The answer to a plain Binding request, and the server's other address, if it offers one.
fn offer(world: &World) -> Result<(Answer, Option<SocketAddr>), Verdict> {
    let answer = success(world.line()?.ask(&world.draft(method::BINDING)?)?)?;
    let other = answer.plain_address(kind::OTHER_ADDRESS);
    Ok((answer, other))
}

/// As [`offer`], of a server that offers one.
fn offered(world: &World) -> Result<(Answer, SocketAddr), Verdict> {
    match offer(world)? {
        (answer, Some(other)) => Ok((answer, other)),
        (_, None) => unsupported("Binding offers no OTHER-ADDRESS"),
    }
}

fn no_change(world: &World) -> Check {
    if let (_, Some(_)) = offer(world)? {
        return Ok(());
    }
    let request = world.draft(method::BINDING)?.number(kind::CHANGE_REQUEST, CHANGE_PORT);
    refused(world.line()?.ask(&request)?, &[420]).map(drop)
}

fn differs(world: &World) -> Check {
    let (_, other) = offered(world)?;
    let differs = other.ip() != world.server.ip() && other.port() != world.server.port();
    ensure(differs, "another address and another port", other.to_string())
}

fn origin(world: &World) -> Check {
    let (answer, _) = offered(world)?;
    let origin = answer.plain_address(kind::RESPONSE_ORIGIN);
    ensure(origin == Some(world.server), world.server.to_string(), format!("{origin:?}"))
}

fn mapped(world: &World) -> Check {
    let (answer, _) = offered(world)?;
    ensure(answer.has(kind::MAPPED_ADDRESS), "MAPPED-ADDRESS", "none")
}

fn changed(world: &World, change: u32) -> Check {
    let (_, other) = offered(world)?;
    let ip = if change & CHANGE_IP != 0 { other.ip() } else { world.server.ip() };
    let port = if change & CHANGE_PORT != 0 { other.port() } else { world.server.port() };
    let expected = SocketAddr::new(ip, port);
    let request = world.draft(method::BINDING)?.number(kind::CHANGE_REQUEST, change);
    match world.line()?.ask_at(&request, world.server, |_| true)? {
        Some((answer, from)) => {
            success(Some(answer))?;
            ensure(from == expected, expected.to_string(), from.to_string())
        }
        None => fail(format!("an answer from {expected}"), "none: a firewall may be in the way"),
    }
}

fn response_port(world: &World) -> Check {
    offered(world)?;
    let (asks, hears) = (world.line()?, world.line()?);
    let [high, low] = hears.addr()?.port().to_be_bytes();
    let request = world.draft(method::BINDING)?.with(kind::RESPONSE_PORT, &[high, low, 0, 0]);
    let refusal = |bytes: &[u8], _| Answer::parse(bytes).filter(|it| it.id() == request.id());
    let answered = asks.until_it_comes(&hears, || asks.send(request.bytes()), refusal)?;
    if let Some(answer) = answered {
        return success(Some(answer)).map(drop);
    }
    // Nothing at the other port: the server does not know it, and says so here.
    let answer = asks.ask(&request)?;
    match answer.as_ref().and_then(Answer::code) {
        Some(420) => unsupported("420 for RESPONSE-PORT"),
        _ => refused(answer, &[420]).map(drop),
    }
}

/// The answer to a request with PADDING.
fn padded(world: &World) -> Result<Answer, Verdict> {
    offered(world)?;
    let request = world.draft(method::BINDING)?.with(kind::PADDING, &[0; 64]);
    let answer = world.line()?.ask(&request)?;
    if answer.as_ref().and_then(Answer::code) == Some(420) {
        return unsupported("420 for PADDING");
    }
    success(answer)
}

fn padding(world: &World) -> Check {
    ensure(padded(world)?.has(kind::PADDING), "PADDING", "none")
}

fn padding_length(world: &World) -> Check {
    let answer = padded(world)?;
    let length = answer.value(kind::PADDING).map(<[u8]>::len);
    let fine = length.is_some_and(|length| length.is_multiple_of(4));
    ensure(fine, "a multiple of 4", format!("{length:?}"))
}

fn both(world: &World) -> Check {
    offered(world)?;
    let [high, low] = world.line()?.addr()?.port().to_be_bytes();
    let request = world
        .draft(method::BINDING)?
        .with(kind::PADDING, &[0; 64])
        .with(kind::RESPONSE_PORT, &[high, low, 0, 0]);
    let answer = world.line()?.ask(&request)?;
    if answer.as_ref().and_then(Answer::code) == Some(420) {
        return unsupported("420 for PADDING and RESPONSE-PORT");
    }
    refused(answer, &[400]).map(drop)
}
