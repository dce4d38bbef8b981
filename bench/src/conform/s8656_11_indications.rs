//! RFC 8656 §11: Send and Data indications, and the permission that both need.

use std::net::SocketAddr;

use super::case::{Case, Check, Verdict, ensure, fail, must, shown, success, unsupported};
use super::s8489_06_basic::silence;
use super::user::User;
use super::wire::{Answer, Class, Draft, kind, method};
use super::world::{Came, Line, World, data_indication};

const FORBIDDEN: &[u8] = b"conform: this must not arrive";
const CONTROL: &[u8] = b"conform: this must";

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "11.2", "permitted", "Send to a permitted peer arrives as it is", permitted),
    must(8656, "11.2", "source", "… from the relayed transport address", source),
    must(8656, "11.2", "every-byte", "… whatever its bytes and its length", every_byte),
    must(8656, "11.2", "empty", "… also when there are none", empty),
    must(8656, "11.2", "any-port", "a permission is for every port of an address", any_peer_port),
    must(8656, "11.2", "not-permitted", "Send without permission does not arrive", not_permitted),
    must(8656, "11.2", "of-another", "the permission of another allocation is none", of_another),
    must(8656, "11.2", "no-data", "Send without DATA does not arrive", |world| {
        dropped(world, |id, peer| {
            Draft::new(Class::Indication, method::SEND, id).address(kind::XOR_PEER_ADDRESS, peer)
        })
    }),
    must(8656, "11.2", "unknown-required", "Send with unknown required attributes: no", |world| {
        dropped(world, |id, peer| {
            Draft::new(Class::Indication, method::SEND, id)
                .address(kind::XOR_PEER_ADDRESS, peer)
                .with(kind::UNKNOWN_REQUIRED, b"")
                .with(kind::DATA, FORBIDDEN)
        })
    }),
    must(8656, "11.2", "no-answer", "Send gets no answer, good or bad", no_answer),
    must(8656, "11.3", "data", "what a permitted peer sends is a Data indication", data),
    must(8656, "11.3", "data-empty", "… also when it is empty", |world| data_of(world, b"")),
    must(8656, "11.3", "data-long", "… or 1200 bytes long", |world| {
        data_of(world, &[0xA5; 1200])
    }),
    must(8656, "11.3", "data-any-port", "… from any port of the peer", data_any_port),
    must(8656, "11.3", "data-not-permitted", "… and of others nothing comes", data_not_permitted),
    must(8656, "8.2", "deleted-data", "after deletion nothing comes any more", deleted),
    must(8656, "11.5", "icmp", "an ICMP error of a peer is a Data indication with ICMP", icmp),
    must(8656, "9", "five-minutes", "a permission ends after 300 s", five_minutes).slow(),
];

/// A user with an allocation, its address, and a peer that has no permission yet.
fn meeting(world: &World) -> Result<(User<'_>, SocketAddr, Line<'_>), Verdict> {
    let peer = world.peer()?;
    let (user, relayed) = User::relayed(world)?;
    Ok((user, relayed, peer))
}

/// Sends until it arrives at the peer; where it came from.
fn arrives(user: &User<'_>, peer: &Line<'_>, data: &[u8]) -> Result<SocketAddr, Verdict> {
    let to = peer.addr()?;
    let found = user.line.until_it_comes(
        peer,
        || user.send(to, data),
        |bytes, from| (bytes == data).then_some(from),
    )?;
    found.map_or_else(|| fail("the data at the peer", shown(None)), Ok)
}

fn permitted(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    arrives(&user, &peer, b"conform: hello").map(drop)
}

fn source(world: &World) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    let from = arrives(&user, &peer, b"conform: from where?")?;
    ensure(from == relayed, relayed.to_string(), from.to_string())
}

fn every_byte(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    let all: Vec<u8> = (0..=255).cycle().take(1200).collect();
    for length in [1, 2, 3, 4, 255, 1199, 1200] {
        arrives(&user, &peer, &all[..length])?;
    }
    Ok(())
}

fn empty(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    arrives(&user, &peer, b"").map(drop)
}

fn any_peer_port(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    let other = world.peer()?;
    user.permitted(other.addr()?)?;
    arrives(&user, &peer, b"conform: another port").map(drop)
}

/// Whether something arrives at a peer, told by what another, permitted user sends there later.
fn withheld(
    world: &World,
    peer: &Line<'_>,
    forbidden: impl FnMut() -> Check,
    line: &Line<'_>,
    is_forbidden: impl Fn(&[u8], SocketAddr) -> bool,
) -> Check {
    let (mut control, _) = User::allocated(world)?;
    let at = peer.addr()?;
    control.permitted(at)?;
    let came = line.withholds(
        peer,
        forbidden,
        || control.send(at, CONTROL),
        is_forbidden,
        |bytes, _| bytes == CONTROL,
    )?;
    ensure(came == Came::No, "nothing at the peer", "a datagram")
}

fn not_permitted(world: &World) -> Check {
    let (user, _, peer) = meeting(world)?;
    let at = peer.addr()?;
    let is_it = |bytes: &[u8], _| bytes == FORBIDDEN;
    withheld(world, &peer, || user.send(at, FORBIDDEN), &user.line, is_it)
}

fn of_another(world: &World) -> Check {
    let (user, _, peer) = meeting(world)?;
    let at = peer.addr()?;
    let (mut other, _) = User::allocated(world)?;
    other.permitted(at)?;
    let is_it = |bytes: &[u8], _| bytes == FORBIDDEN;
    withheld(world, &peer, || user.send(at, FORBIDDEN), &user.line, is_it)
}

fn dropped(world: &World, make: fn([u8; 12], SocketAddr) -> Draft) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    let at = peer.addr()?;
    user.permitted(at)?;
    let forbidden = || user.line.send(make(world.transaction()?, at).bytes());
    withheld(world, &peer, forbidden, &user.line, |_, from| from == relayed)
}

fn no_answer(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    let at = peer.addr()?;
    let draft = Draft::new(Class::Indication, method::SEND, world.transaction()?)
        .address(kind::XOR_PEER_ADDRESS, at)
        .with(kind::DATA, FORBIDDEN);
    silence(user.line.provokes(draft.bytes())?)?;
    user.permitted(at)?;
    silence(user.line.provokes(draft.bytes())?)
}

/// Sends from a peer until it arrives at the client; what it arrived as.
fn comes_back(user: &User<'_>, peer: &Line<'_>, relayed: SocketAddr, payload: &[u8]) -> Check {
    let at = peer.addr()?;
    let mut other = None;
    let found = peer.until_it_comes(
        &user.line,
        || peer.send_to(payload, relayed),
        |bytes, _| {
            let (from, data) = data_indication(bytes)?;
            if from == at && data == payload {
                return Some(());
            }
            other = Some(format!("{} bytes from {from}", data.len()));
            None
        },
    )?;
    let expected = format!("a Data indication with {} bytes from {at}", payload.len());
    ensure(found.is_some(), expected, other.unwrap_or_else(|| "nothing".to_owned()))
}

fn data(world: &World) -> Check {
    data_of(world, b"conform: and back")
}

fn data_of(world: &World, payload: &[u8]) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    comes_back(&user, &peer, relayed, payload)
}

fn data_any_port(world: &World) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    let other = world.peer()?;
    user.permitted(peer.addr()?)?;
    comes_back(&user, &other, relayed, b"conform: another port")
}

fn data_not_permitted(world: &World) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    for _ in 0..3 {
        peer.send_to(FORBIDDEN, relayed)?;
    }
    // What the control proves: the peer reaches the relayed address, and the client is reached.
    let probe = user
        .line
        .provokes(Draft::new(Class::Indication, method::BINDING, world.transaction()?).bytes())?;
    silence(probe)?;
    user.permitted(peer.addr()?)?;
    comes_back(&user, &peer, relayed, CONTROL)
}

fn deleted(world: &World) -> Check {
    let (mut user, relayed, peer) = meeting(world)?;
    user.permitted(peer.addr()?)?;
    comes_back(&user, &peer, relayed, CONTROL)?;
    success(user.refresh(Some(0))?)?;
    for _ in 0..3 {
        peer.send_to(FORBIDDEN, relayed)?;
    }
    let indication = Draft::new(Class::Indication, method::BINDING, world.transaction()?);
    silence(user.line.provokes(indication.bytes())?)
}

fn icmp(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    let at = peer.addr()?;
    user.permitted(at)?;
    // Nobody listens there any more.
    drop(peer);
    let found = user.line.until_it_comes(
        &user.line,
        || user.send(at, b"conform: anybody?"),
        |bytes, _| {
            let message = Answer::parse(bytes)?;
            let about = message.address(kind::XOR_PEER_ADDRESS)?;
            (message.method() == method::DATA && about == at).then_some(message)
        },
    )?;
    let Some(found) = found else { return unsupported("no Data indication with ICMP came") };
    let value = found.value(kind::ICMP).unwrap_or_default();
    // Type 3, code 3: the port is unreachable; the type has seven bits and the code nine.
    let right = value.get(2..4) == Some(&[0x06, 0x03]);
    ensure(right, "ICMP of type 3, code 3", format!("{value:02x?}"))
}

fn five_minutes(world: &World) -> Check {
    let (mut user, _, peer) = meeting(world)?;
    let at = peer.addr()?;
    user.permitted(at)?;
    arrives(&user, &peer, CONTROL)?;
    for _ in 0..61 {
        world.pause(5)?;
    }
    let is_it = |bytes: &[u8], _| bytes == FORBIDDEN;
    withheld(world, &peer, || user.send(at, FORBIDDEN), &user.line, is_it)
}
