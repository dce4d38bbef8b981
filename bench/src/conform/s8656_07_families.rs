//! RFC 8656 §7.2 and what came from RFC 6156: relayed addresses of IPv6, of both families, and
//! of one that is not there.

use std::net::SocketAddr;

use super::case::{Case, Check, Verdict, ensure, fail, must, refused, shown, success, unsupported};
use super::user::{IPV4, IPV6, User, any_port, relayed_of};
use super::wire::{Answer, kind, method};
use super::world::{World, data_indication};

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "7.2", "family-4", "IPv4 asked for is IPv4", family_4),
    must(8656, "7.2", "family-6", "IPv6 asked for is IPv6, or 440", family_6),
    must(8656, "7.2", "family-unknown", "a family that is none gets 440", |world| {
        let answer = requested(world, &[3, 0, 0, 0])?;
        refused(answer, &[440]).map(drop)
    }),
    must(8656, "7.2", "family-malformed", "a malformed family gets 400 or 440", |world| {
        refused(requested(world, &[1])?, &[400, 440]).map(drop)
    }),
    must(8656, "7.2", "both-families", "REQUESTED- and ADDITIONAL-ADDRESS-FAMILY: 400", |world| {
        let answer = User::new(world)?.allocate(|draft| {
            draft
                .with(kind::REQUESTED_ADDRESS_FAMILY, &IPV4)
                .with(kind::ADDITIONAL_ADDRESS_FAMILY, &IPV6)
        })?;
        refused(answer, &[400]).map(drop)
    }),
    must(8656, "7.2", "additional-4", "ADDITIONAL-ADDRESS-FAMILY of IPv4 gets 400", |world| {
        let answer = User::new(world)?
            .allocate(|draft| draft.with(kind::ADDITIONAL_ADDRESS_FAMILY, &IPV4))?;
        refused(answer, &[400]).map(drop)
    }),
    must(8656, "7.2", "additional-reserve", "EVEN-PORT with R and both families: 400", |world| {
        let answer = User::new(world)?.allocate(|draft| {
            draft.with(kind::EVEN_PORT, &[0x80]).with(kind::ADDITIONAL_ADDRESS_FAMILY, &IPV6)
        })?;
        refused(answer, &[400]).map(drop)
    }),
    must(
        8656,
        "7.2",
        "additional-6",
        "IPv6 in addition: two relayed addresses, or ADDRESS-ERROR-CODE",
        additional,
    ),
    must(8656, "8.2", "dual-refresh", "half of a dual allocation is given up by family", half),
    must(8656, "10.2", "dual-permission", "a dual allocation takes peers of both", both_peers),
    must(8656, "10.2", "peer-4-for-6", "an IPv4 peer of an IPv6 allocation gets 443", |world| {
        let (mut user, _) = allocated_6(world)?;
        refused(user.permit(&[any_port([192, 0, 2, 1])])?, &[443]).map(drop)
    }),
    must(8656, "12.2", "bind-4-for-6", "ChannelBind of the other family gets 443", |world| {
        let (mut user, _) = allocated_6(world)?;
        refused(user.bind(0x4000, any_port([192, 0, 2, 1]))?, &[443]).map(drop)
    }),
    must(8656, "11.2", "send-6", "an IPv6 allocation relays to its peer and back", data_6),
];

fn requested(world: &World, family: &[u8]) -> Result<Option<Answer>, Verdict> {
    User::new(world)?.allocate(|draft| draft.with(kind::REQUESTED_ADDRESS_FAMILY, family))
}

fn family_4(world: &World) -> Check {
    let mut user = User::new(world)?;
    let answer = user.allocate(|draft| draft.with(kind::REQUESTED_ADDRESS_FAMILY, &IPV4))?;
    let relayed = relayed_of(&success(answer)?)?;
    ensure(relayed.is_ipv4(), "an IPv4 address", relayed.to_string())
}

/// A user with an IPv6 allocation.
pub(crate) fn allocated_6(world: &World) -> Result<(User<'_>, SocketAddr), Verdict> {
    let mut user = User::new(world)?;
    let answer = user.allocate(|draft| draft.with(kind::REQUESTED_ADDRESS_FAMILY, &IPV6))?;
    if answer.as_ref().and_then(Answer::code) == Some(440) {
        return unsupported("440 for IPv6");
    }
    let relayed = relayed_of(&success(answer)?)?;
    Ok((user, relayed))
}

fn family_6(world: &World) -> Check {
    let (_user, relayed) = allocated_6(world)?;
    ensure(relayed.is_ipv6(), "an IPv6 address", relayed.to_string())
}

/// A user with an allocation of both families.
fn dual(world: &World) -> Result<(User<'_>, Answer), Verdict> {
    let mut user = User::new(world)?;
    let answer = user.allocate(|draft| draft.with(kind::ADDITIONAL_ADDRESS_FAMILY, &IPV6))?;
    Ok((user, success(answer)?))
}

fn additional(world: &World) -> Check {
    let (_user, answer) = dual(world)?;
    let relayed: Vec<_> = answer.addresses(kind::XOR_RELAYED_ADDRESS).flatten().collect();
    let error = answer.value(kind::ADDRESS_ERROR_CODE);
    match (&relayed[..], error) {
        ([a, b], None) => {
            ensure(a.is_ipv4() != b.is_ipv4(), "one address of each family", format!("{a} and {b}"))
        }
        ([_], Some([family @ (1 | 2), _, class, number, ..])) => {
            let code = u16::from(*class) * 100 + u16::from(*number);
            let right = matches!(code, 440 | 508);
            ensure(right, "ADDRESS-ERROR-CODE of 440 or 508", format!("{code} of {family}"))
        }
        ([one], None) if one.is_ipv4() => unsupported("ADDITIONAL-ADDRESS-FAMILY is ignored"),
        (all, _) => {
            fail("two relayed addresses, or one and ADDRESS-ERROR-CODE", format!("just {all:?}"))
        }
    }
}

/// A dual allocation that has both halves.
fn whole_dual(world: &World) -> Result<User<'_>, Verdict> {
    let (user, answer) = dual(world)?;
    if answer.addresses(kind::XOR_RELAYED_ADDRESS).count() < 2 {
        return unsupported("no allocation of two families");
    }
    Ok(user)
}

fn half(world: &World) -> Check {
    let mut user = whole_dual(world)?;
    let mut refresh = |family: [u8; 4], secs: u32| {
        user.ask(method::REFRESH, |draft| {
            draft.with(kind::REQUESTED_ADDRESS_FAMILY, &family).number(kind::LIFETIME, secs)
        })
    };
    success(refresh(IPV6, 0)?)?;
    success(refresh(IPV4, 600)?)?;
    let gone = refresh(IPV6, 600)?;
    // The rest of the allocation has to be given back.
    success(refresh(IPV4, 0)?)?;
    refused(gone, &[443]).map(drop)
}

fn both_peers(world: &World) -> Check {
    let mut user = whole_dual(world)?;
    let six = world.peer_v6()?.addr()?;
    let four = any_port(world.peer_ip()?);
    success(user.permit(&[four, any_port(six.ip())])?).map(drop)
}

fn data_6(world: &World) -> Check {
    let (mut user, relayed) = allocated_6(world)?;
    let peer = world.peer_v6()?;
    let at = peer.addr()?;
    let permit = user.permit(&[at])?;
    if permit.as_ref().and_then(Answer::code) == Some(403) {
        return super::case::skip(format!("the server denies the peer {}", at.ip()));
    }
    success(permit)?;
    let there = user.line.until_it_comes(
        &peer,
        || user.send(at, b"conform six"),
        |bytes, from| (bytes == b"conform six").then_some(from),
    )?;
    let Some(from) = there else { return fail("data at the peer", shown(None)) };
    ensure(from == relayed, format!("data from {relayed}"), format!("from {from}"))?;
    let back = peer.until_it_comes(
        &user.line,
        || peer.send_to(b"six back", relayed),
        |bytes, _| data_indication(bytes).filter(|(from, data)| *from == at && data == b"six back"),
    )?;
    ensure(back.is_some(), "a Data indication from the peer", "nothing")
}
