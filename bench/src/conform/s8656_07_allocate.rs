//! RFC 8656 §7: what Allocate gives, and what it refuses, by which code.

use super::case::{
    Case, Check, ensure, fail, may, must, refused, should, skip, success, unsupported,
};
use super::user::{UDP, User, relayed_of};
use super::wire::{Answer, kind, method};
use super::world::World;

/// The default lifetime (RFC 8656 §3.2), seconds.
const LIFETIME_DEFAULT_SECS: u32 = 600;
/// What the RFC recommends as the longest (§7.2), seconds.
const LIFETIME_MAX_SECS: u32 = 3600;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "7.2", "same-5-tuple", "a second allocation on a 5-tuple gets 437", second),
    must(
        8656,
        "7.2",
        "retransmission",
        "the same Allocate again gets the same relayed address",
        retransmission,
    ),
    must(8656, "7.2", "no-transport", "without REQUESTED-TRANSPORT: 400", |world| {
        transport(world, None, &[400])
    }),
    must(8656, "7.2", "malformed-transport", "a malformed REQUESTED-TRANSPORT: 400", |world| {
        transport(world, Some(&[17]), &[400])
    }),
    must(8656, "7.2", "unknown-transport", "a protocol that is not supported: 442", |world| {
        transport(world, Some(&[254, 0, 0, 0]), &[442])
    }),
    must(
        8656,
        "7.2",
        "dont-fragment",
        "DONT-FRAGMENT is honoured, or an unknown attribute (420)",
        dont_fragment,
    ),
    must(8656, "7.2", "relayed", "success has XOR-RELAYED-ADDRESS, of IPv4", relayed),
    must(8656, "7.2", "lifetime", "success has LIFETIME", lifetime),
    must(8656, "7.2", "mapped", "success has XOR-MAPPED-ADDRESS, the client's", mapped),
    must(8656, "7.2", "own-address", "two allocations have two relayed addresses", own_address),
    should(8656, "7.2", "dynamic-ports", "relayed ports are 49152 to 65535", dynamic_ports),
    should(8656, "7.2", "no-known-ports", "relayed ports are never 0 to 1023", known_ports),
    must(8656, "7.2", "short-lifetime", "a lifetime below the default is the default", |world| {
        asked_for(world, 60, |got, default| got == default, "the default")
    }),
    must(8656, "7.2", "zero-lifetime", "Allocate with LIFETIME 0 lives the default", |world| {
        asked_for(world, 0, |got, default| got == default, "the default")
    }),
    must(8656, "7.2", "long-lifetime", "a longer lifetime is granted up to a maximum", |world| {
        asked_for(world, 1800, |got, default| (default..=1800).contains(&got), "600 to 1800")
    }),
    should(8656, "7.2", "longest-lifetime", "no lifetime is longer than an hour", |world| {
        asked_for(world, u32::MAX, |got, _| got <= LIFETIME_MAX_SECS, "3600 at most")
    }),
    should(8656, "3.2", "default-lifetime", "the default lifetime is 600 s", default_lifetime),
    must(8656, "7.2", "even-port", "EVEN-PORT gives an even port", even_port),
    must(8656, "7.2", "reserve", "EVEN-PORT with R reserves the next port for a token", reserve),
    must(8656, "7.2", "token-with-even-port", "a token and EVEN-PORT: 400", |world| {
        with_token(world, kind::EVEN_PORT, &[0])
    }),
    must(8656, "7.2", "token-with-family", "a token and REQUESTED-ADDRESS-FAMILY: 400", |world| {
        with_token(world, kind::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
    }),
    must(8656, "7.2", "token-with-additional", "a token and ADDITIONAL-ADDRESS-FAMILY: 400", |w| {
        with_token(w, kind::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
    }),
    must(8656, "7.2", "unknown-token", "a token nobody gave gets 508", |world| {
        let answer =
            User::new(world)?.allocate(|draft| draft.with(kind::RESERVATION_TOKEN, b"conform!"))?;
        refused(answer, &[508]).map(drop)
    }),
    may(8656, "7.2", "quota", "one allocation too many for a user gets 486", quota),
];

fn second(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    refused(user.allocate(|draft| draft)?, &[437]).map(drop)
}

fn retransmission(world: &World) -> Check {
    let mut user = User::new(world)?;
    let request =
        user.signed(method::ALLOCATE, |draft| draft.with(kind::REQUESTED_TRANSPORT, &UDP))?;
    let first = success(user.ask_with(&request)?)?;
    let again = success(user.ask_with(&request)?)?;
    let (first, again) = (relayed_of(&first)?, relayed_of(&again)?);
    ensure(first == again, first.to_string(), again.to_string())
}

fn transport(world: &World, value: Option<&[u8]>, codes: &[u16]) -> Check {
    let answer = User::new(world)?.ask(method::ALLOCATE, |draft| match value {
        Some(value) => draft.with(kind::REQUESTED_TRANSPORT, value),
        None => draft,
    })?;
    refused(answer, codes).map(drop)
}

fn dont_fragment(world: &World) -> Check {
    let answer = User::new(world)?.allocate(|draft| draft.with(kind::DONT_FRAGMENT, b""))?;
    let Some(refusal) = answer.as_ref().filter(|it| it.code() == Some(420)) else {
        return success(answer).map(drop);
    };
    let listed = refusal.value(kind::UNKNOWN_ATTRIBUTES).unwrap_or_default();
    let named = listed.chunks_exact(2).any(|it| it == kind::DONT_FRAGMENT.to_be_bytes());
    ensure(named, "420 that lists DONT-FRAGMENT", "420 that does not")?;
    unsupported("420 for DONT-FRAGMENT")
}

fn relayed(world: &World) -> Check {
    let (_user, relayed) = User::relayed(world)?;
    ensure(relayed.is_ipv4() && relayed.port() != 0, "an IPv4 address", relayed.to_string())
}

fn lifetime_of(answer: &Answer) -> Result<u32, super::case::Verdict> {
    answer.number(kind::LIFETIME).map_or_else(|| fail("LIFETIME", "success without it"), Ok)
}

fn lifetime(world: &World) -> Check {
    let (_user, answer) = User::allocated(world)?;
    let secs = lifetime_of(&answer)?;
    ensure(secs > 0, "some time", "0 s")
}

fn mapped(world: &World) -> Check {
    let (user, answer) = User::allocated(world)?;
    let Some(mapped) = answer.address(kind::XOR_MAPPED_ADDRESS) else {
        return fail("XOR-MAPPED-ADDRESS", "success without it");
    };
    let ours = user.line.addr()?;
    // Behind a NAT nobody here knows the address better.
    let translated = mapped.ip() != ours.ip();
    ensure(translated || mapped == ours, ours.to_string(), mapped.to_string())
}

fn own_address(world: &World) -> Check {
    let (_a, first) = User::relayed(world)?;
    let (_b, second) = User::relayed(world)?;
    ensure(first != second, "two addresses", format!("{first} twice"))
}

fn dynamic_ports(world: &World) -> Check {
    for _ in 0..4 {
        let (_user, relayed) = User::relayed(world)?;
        ensure(relayed.port() >= 49_152, "49152 to 65535", relayed.port().to_string())?;
    }
    Ok(())
}

fn known_ports(world: &World) -> Check {
    let (_user, relayed) = User::relayed(world)?;
    ensure(relayed.port() > 1023, "1024 or more", relayed.port().to_string())
}

fn asked_for(world: &World, secs: u32, right: fn(u32, u32) -> bool, expected: &str) -> Check {
    let (_user, answer) = User::allocated(world)?;
    let default = lifetime_of(&answer)?;
    let mut other = User::new(world)?;
    let answer = success(other.allocate(|draft| draft.number(kind::LIFETIME, secs))?)?;
    let got = lifetime_of(&answer)?;
    ensure(right(got, default), expected, format!("{got} s, where the default is {default} s"))
}

fn default_lifetime(world: &World) -> Check {
    let (_user, answer) = User::allocated(world)?;
    let secs = lifetime_of(&answer)?;
    ensure(secs == LIFETIME_DEFAULT_SECS, "600 s", format!("{secs} s"))
}

/// Refused as a server does that has not this, or has no two free ports in a row.
fn has_no_ports(answer: &Option<Answer>) -> Check {
    match answer.as_ref().and_then(Answer::code) {
        Some(code @ (420 | 508)) => unsupported(format!("{code} for EVEN-PORT")),
        _ => Ok(()),
    }
}

fn even_port(world: &World) -> Check {
    for _ in 0..4 {
        let mut user = User::new(world)?;
        let answer = user.allocate(|draft| draft.with(kind::EVEN_PORT, &[0]))?;
        has_no_ports(&answer)?;
        let answer = success(answer)?;
        let relayed = relayed_of(&answer)?;
        ensure(relayed.port().is_multiple_of(2), "an even port", relayed.port().to_string())?;
        let token = answer.has(kind::RESERVATION_TOKEN);
        ensure(!token, "no RESERVATION-TOKEN without R", "one")?;
    }
    Ok(())
}

fn reserve(world: &World) -> Check {
    let mut user = User::new(world)?;
    let answer = user.allocate(|draft| draft.with(kind::EVEN_PORT, &[0x80]))?;
    has_no_ports(&answer)?;
    let answer = success(answer)?;
    let first = relayed_of(&answer)?;
    ensure(first.port().is_multiple_of(2), "an even port", first.port().to_string())?;
    let token = answer.value(kind::RESERVATION_TOKEN).unwrap_or_default().to_vec();
    ensure(token.len() == 8, "RESERVATION-TOKEN of 8 bytes", format!("{} bytes", token.len()))?;
    let mut other = User::new(world)?;
    let answer = other.allocate(|draft| draft.with(kind::RESERVATION_TOKEN, &token))?;
    let second = relayed_of(&success(answer)?)?;
    let expected = std::net::SocketAddr::new(first.ip(), first.port() + 1);
    ensure(second == expected, expected.to_string(), second.to_string())?;
    let mut third = User::new(world)?;
    let answer = third.allocate(|draft| draft.with(kind::RESERVATION_TOKEN, &token))?;
    refused(answer, &[508]).map(drop)
}

fn with_token(world: &World, kind: u16, value: &[u8]) -> Check {
    let answer = User::new(world)?
        .allocate(|draft| draft.with(kind::RESERVATION_TOKEN, b"conform!").with(kind, value))?;
    refused(answer, &[400]).map(drop)
}

fn quota(world: &World) -> Check {
    let Some(quota) = world.quota else { return skip("no limit is given (--quota)") };
    let mut held = Vec::new();
    for _ in 0..=quota {
        let mut user = User::new(world)?;
        let answer = user.try_allocate(|draft| draft)?;
        if answer.as_ref().and_then(Answer::code) == Some(486) {
            return Ok(());
        }
        success(answer)?;
        held.push(user);
    }
    fail(format!("486 for allocation {}", quota + 1), "success")
}
