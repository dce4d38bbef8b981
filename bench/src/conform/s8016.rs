//! RFC 8016: an allocation that moves to another address of its client, by a ticket.

use super::case::{Case, Check, Verdict, ensure, must, refused, skip, success, unsupported};
use super::user::{User, relayed_of};
use super::wire::{Answer, kind, method};
use super::world::{World, data_indication};

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8016, "3.1", "ticket", "an empty MOBILITY-TICKET is answered by a ticket, or 405", ticket),
    must(8016, "3.2", "moves", "Refresh with the ticket moves the allocation", moves),
    must(8016, "3.2", "wrong-ticket", "a ticket nobody gave moves nothing", wrong_ticket),
    must(8016, "3.2", "other-user", "another user's ticket moves nothing", other_user),
];

/// A user with an allocation that may move, and its ticket.
fn mobile(world: &World) -> Result<(User<'_>, Answer, Vec<u8>), Verdict> {
    let mut user = User::new(world)?;
    let answer = user.allocate(|draft| draft.with(kind::MOBILITY_TICKET, b""))?;
    if answer.as_ref().and_then(Answer::code) == Some(405) {
        return unsupported("405: no mobility here");
    }
    let answer = success(answer)?;
    let Some(ticket) = answer.value(kind::MOBILITY_TICKET) else {
        return unsupported("MOBILITY-TICKET is ignored");
    };
    let ticket = ticket.to_vec();
    Ok((user, answer, ticket))
}

fn ticket(world: &World) -> Check {
    let (_user, _, ticket) = mobile(world)?;
    ensure(!ticket.is_empty(), "a ticket", "an empty one")
}

/// Refresh from another address of the client.
fn move_to(user: &mut User<'_>, ticket: &[u8]) -> Result<Option<Answer>, Verdict> {
    user.ask(method::REFRESH, |draft| draft.with(kind::MOBILITY_TICKET, ticket))
}

fn moves(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, answer, ticket) = mobile(world)?;
    let relayed = relayed_of(&answer)?;
    let at = peer.addr()?;
    old.permitted(at)?;
    let mut new = User::new(world)?;
    let answer = success(move_to(&mut new, &ticket)?)?;
    let fresh = answer.value(kind::MOBILITY_TICKET).unwrap_or_default();
    ensure(!fresh.is_empty(), "a new ticket in the answer", "none")?;
    // What the client sends from there binds the new address.
    let found = new.line.until_it_comes(
        &peer,
        || new.send(at, b"conform: moved"),
        |bytes, from| (bytes == b"conform: moved" && from == relayed).then_some(()),
    )?;
    ensure(found.is_some(), "data from the new address at the peer", "nothing")?;
    let back = peer.until_it_comes(
        &new.line,
        || peer.send_to(b"conform: and back", relayed),
        |bytes, _| data_indication(bytes).filter(|(_, data)| data == b"conform: and back"),
    )?;
    // The allocation has one owner, whichever of the two gives it back.
    let deleted = new.refresh(Some(0))?;
    old.forget();
    ensure(back.is_some(), "the peer's data at the new address", "nothing")?;
    success(deleted).map(drop)
}

fn wrong_ticket(world: &World) -> Check {
    let (_user, _, ticket) = mobile(world)?;
    let other: Vec<u8> = ticket.iter().map(|byte| byte ^ 1).collect();
    refused(move_to(&mut User::new(world)?, &other)?, &[400, 437]).map(drop)
}

fn other_user(world: &World) -> Check {
    let Some(other) = &world.other else {
        return skip("no second user is given (--other-user, --other-password)");
    };
    let (_user, _, ticket) = mobile(world)?;
    refused(move_to(&mut User::named(world, other)?, &ticket)?, &[400, 437, 441]).map(drop)
}
