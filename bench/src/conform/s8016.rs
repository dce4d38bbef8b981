//! RFC 8016: an allocation that moves to another 5-tuple of its client, by a ticket.

use super::case::{
    Case, Check, Verdict, carries, ensure, must, refused, skip, success, unsupported,
};
use super::user::{Challenge, User, relayed_of};
use super::wire::{Answer, Draft, kind, method};
use super::world::{Line, World, channel_data, channel_message, data_indication};

/// The channel of those who bind one.
const CHANNEL: u16 = 0x4001;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(
        8016,
        "3.1.2",
        "ticket",
        "an empty MOBILITY-TICKET is answered by a ticket, or 405",
        ticket,
    ),
    must(
        8016,
        "3.1.2",
        "brings-ticket",
        "an Allocate that brings a ticket gets 400",
        brings_ticket,
    ),
    must(8016, "3.2.2", "moves", "Refresh with the ticket moves the allocation", moves),
    must(8016, "3.2.2", "channel", "its channels move along", channel),
    must(8016, "3.2.2", "new-ticket", "the answer brings another ticket", new_ticket),
    must(
        8016,
        "3.2.2",
        "old-first",
        "until something comes from there, data goes as before",
        old_first,
    ),
    must(
        8016,
        "3.2.2",
        "old-gone",
        "from then on the old 5-tuple has no allocation: 437",
        old_gone,
    ),
    must(8016, "3.2.2", "retransmission", "the same Refresh again gets the same ticket", again),
    must(8016, "3.2.2", "old-ticket", "once the move is over, its ticket is no good", old_ticket),
    must(8016, "3.2.2", "same-5-tuple", "a ticket from where the allocation is: 400", same_place),
    must(8016, "3.2.2", "wrong-ticket", "a ticket nobody gave gets 400", wrong_ticket),
    must(8016, "3.2.2", "no-allocation", "a ticket of what was deleted gets 437", no_allocation),
    must(8016, "3.2.2", "other-user", "another user's ticket gets 441", other_user),
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

fn brings_ticket(world: &World) -> Check {
    let (_user, _, ticket) = mobile(world)?;
    let answer = User::new(world)?.allocate(|draft| draft.with(kind::MOBILITY_TICKET, &ticket))?;
    refused(answer, &[400]).map(drop)
}

/// Refresh from another address of the client.
fn move_to(user: &mut User<'_>, ticket: &[u8]) -> Result<Option<Answer>, Verdict> {
    user.ask(method::REFRESH, |draft| draft.with(kind::MOBILITY_TICKET, ticket))
}

/// The same client elsewhere, told that its allocation moves there, and the next ticket.
fn moving<'w>(old: &mut User<'w>, ticket: &[u8]) -> Result<(User<'w>, Vec<u8>), Verdict> {
    let mut new = User::new(old.world)?;
    let answer = success(move_to(&mut new, ticket)?)?;
    let next = carries(&answer, kind::MOBILITY_TICKET, "MOBILITY-TICKET")?.to_vec();
    new.take_over(old);
    Ok((new, next))
}

/// Sends from the new address until it arrives: that ends the move.
fn arrives(new: &User<'_>, peer: &Line<'_>) -> Check {
    let at = peer.addr()?;
    let found = new.line.until_it_comes(
        peer,
        || new.send(at, b"conform: moved"),
        |bytes, _| (bytes == b"conform: moved").then_some(()),
    )?;
    ensure(found.is_some(), "data from the new address at the peer", "nothing")
}

fn moves(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, answer, ticket) = mobile(world)?;
    let relayed = relayed_of(&answer)?;
    let at = peer.addr()?;
    old.permitted(at)?;
    let (new, _) = moving(&mut old, &ticket)?;
    let found = new.line.until_it_comes(
        &peer,
        || new.send(at, b"conform: moved"),
        |bytes, from| (bytes == b"conform: moved" && from == relayed).then_some(()),
    )?;
    ensure(found.is_some(), "data from the same relayed address at the peer", "nothing")?;
    let back = peer.until_it_comes(
        &new.line,
        || peer.send_to(b"conform: and back", relayed),
        |bytes, _| data_indication(bytes).filter(|(_, data)| data == b"conform: and back"),
    )?;
    ensure(back.is_some(), "the peer's data at the new address", "nothing")
}

fn channel(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, answer, ticket) = mobile(world)?;
    let relayed = relayed_of(&answer)?;
    old.bound(CHANNEL, peer.addr()?)?;
    let (new, _) = moving(&mut old, &ticket)?;
    let message = channel_message(CHANNEL, b"conform: there");
    let found = new.line.until_it_comes(
        &peer,
        || new.line.send(&message),
        |bytes, _| (bytes == b"conform: there").then_some(()),
    )?;
    ensure(found.is_some(), "ChannelData from the new address at the peer", "nothing")?;
    let back = peer.until_it_comes(
        &new.line,
        || peer.send_to(b"conform: and back", relayed),
        |bytes, _| channel_data(bytes).filter(|(_, data)| data == b"conform: and back"),
    )?;
    ensure(back.is_some_and(|(number, _)| number == CHANNEL), "the channel's data", "none of it")
}

fn new_ticket(world: &World) -> Check {
    let (mut old, _, ticket) = mobile(world)?;
    let (_new, next) = moving(&mut old, &ticket)?;
    ensure(!next.is_empty() && next != ticket, "another ticket", "an empty one, or the same")
}

fn old_first(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, answer, ticket) = mobile(world)?;
    let relayed = relayed_of(&answer)?;
    let at = peer.addr()?;
    old.permitted(at)?;
    let (_new, _) = moving(&mut old, &ticket)?;
    let there = old.line.until_it_comes(
        &peer,
        || old.send(at, b"conform: not yet"),
        |bytes, _| (bytes == b"conform: not yet").then_some(()),
    )?;
    ensure(there.is_some(), "data from the old address at the peer", "nothing")?;
    let back = peer.until_it_comes(
        &old.line,
        || peer.send_to(b"conform: and back", relayed),
        |bytes, _| data_indication(bytes).filter(|(_, data)| data == b"conform: and back"),
    )?;
    ensure(back.is_some(), "the peer's data at the old address", "nothing")
}

fn old_gone(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, _, ticket) = mobile(world)?;
    old.permitted(peer.addr()?)?;
    let (new, _) = moving(&mut old, &ticket)?;
    arrives(&new, &peer)?;
    refused(old.refresh(None)?, &[437]).map(drop)
}

fn again(world: &World) -> Check {
    let (mut old, _, ticket) = mobile(world)?;
    let mut new = User::new(world)?;
    let with_ticket = |draft: Draft| draft.with(kind::MOBILITY_TICKET, &ticket);
    let mut request = new.signed(method::REFRESH, with_ticket)?;
    let mut answer = new.ask_with(&request)?;
    if let Some(stale) = answer.as_ref().filter(|answer| answer.code() == Some(438)) {
        new.challenge = Challenge::of(stale)?;
        request = new.signed(method::REFRESH, with_ticket)?;
        answer = new.ask_with(&request)?;
    }
    let first = success(answer)?;
    new.take_over(&mut old);
    let second = success(new.ask_with(&request)?)?;
    let tickets = [&first, &second].map(|answer| answer.value(kind::MOBILITY_TICKET));
    ensure(tickets[0].is_some() && tickets[0] == tickets[1], "the same ticket", "another, or none")
}

fn old_ticket(world: &World) -> Check {
    let peer = world.peer()?;
    let (mut old, _, ticket) = mobile(world)?;
    old.permitted(peer.addr()?)?;
    let (new, _) = moving(&mut old, &ticket)?;
    arrives(&new, &peer)?;
    refused(move_to(&mut User::new(world)?, &ticket)?, &[400, 437]).map(drop)
}

fn same_place(world: &World) -> Check {
    let (mut user, _, ticket) = mobile(world)?;
    refused(move_to(&mut user, &ticket)?, &[400]).map(drop)
}

fn wrong_ticket(world: &World) -> Check {
    let (_user, _, ticket) = mobile(world)?;
    let other: Vec<u8> = ticket.iter().map(|byte| byte ^ 1).collect();
    refused(move_to(&mut User::new(world)?, &other)?, &[400]).map(drop)
}

fn no_allocation(world: &World) -> Check {
    let (mut user, _, ticket) = mobile(world)?;
    success(user.refresh(Some(0))?)?;
    refused(move_to(&mut User::new(world)?, &ticket)?, &[437]).map(drop)
}

fn other_user(world: &World) -> Check {
    let Some(other) = &world.other else {
        return skip("no second user is given (--other-user, --other-password)");
    };
    let (_user, _, ticket) = mobile(world)?;
    refused(move_to(&mut User::named(world, other)?, &ticket)?, &[441]).map(drop)
}
