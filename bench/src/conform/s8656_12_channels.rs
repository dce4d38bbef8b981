//! RFC 8656 §12: channel numbers, bindings, and ChannelData both ways.

use std::net::SocketAddr;

use super::case::{Case, Check, Verdict, ensure, fail, may, must, refused, shown, success};
use super::s8489_06_basic::silence;
use super::user::{OTHER_FAMILY, User, any_port};
use super::wire::{kind, method};
use super::world::{Came, Line, World, channel_data, channel_message, data_indication};

const CHANNEL: u16 = 0x4001;
const FORBIDDEN: &[u8] = b"conform: this must not arrive";
const CONTROL: &[u8] = b"conform: this must";

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "12.2", "first-number", "0x4000 is a channel", |world| number(world, 0x4000, true)),
    must(8656, "12.2", "last-number", "0x4FFF is a channel", |world| number(world, 0x4FFF, true)),
    must(8656, "12.2", "below", "0x3FFF is none: 400", |world| number(world, 0x3FFF, false)),
    must(8656, "12.2", "above", "0x5000 is none: 400", |world| number(world, 0x5000, false)),
    must(8656, "12.2", "rfc5766", "0x7FFF is none any more: 400", |world| {
        number(world, 0x7FFF, false)
    }),
    must(8656, "12.2", "far-above", "0xFFFF is none: 400", |world| number(world, 0xFFFF, false)),
    must(8656, "12.2", "no-number", "without CHANNEL-NUMBER: 400", no_number),
    must(8656, "12.2", "no-peer", "without XOR-PEER-ADDRESS: 400", no_peer),
    must(8656, "12.2", "number-taken", "a number bound to another peer: 400", number_taken),
    must(8656, "12.2", "peer-taken", "a peer bound to another number: 400", peer_taken),
    must(8656, "12.2", "again", "the same binding again refreshes it", again),
    must(8656, "12.2", "other-port", "another port is another peer", other_port),
    must(8656, "12.2", "other-family", "a peer of the other family gets 443", |world| {
        let (mut user, _) = User::allocated(world)?;
        refused(user.bind(CHANNEL, any_port(OTHER_FAMILY))?, &[443]).map(drop)
    }),
    may(8656, "12.2", "denied", "the server's loopback is refused here too: 403", |world| {
        let (mut user, _) = User::allocated(world)?;
        refused(user.bind(CHANNEL, any_port([127, 0, 0, 1]))?, &[403]).map(drop)
    }),
    must(8656, "12.2", "permits", "ChannelBind gives a permission too", permits),
    must(
        8656,
        "12.6",
        "to-peer",
        "ChannelData arrives at the peer, from the relayed address",
        |w| to_peer(w, b"conform: by channel", 0),
    ),
    must(8656, "12.5", "padded", "padding over UDP is left out", |world| to_peer(world, b"odd", 1)),
    must(8656, "12.6", "unpadded", "missing padding over UDP is no fault", |world| {
        to_peer(world, b"odd", 0)
    }),
    must(8656, "12.6", "empty", "a length of 0 is an empty datagram", |world| {
        to_peer(world, b"", 0)
    }),
    must(8656, "12.6", "long", "1200 bytes arrive", |world| to_peer(world, &[0x5A; 1200], 0)),
    must(8656, "12.6", "too-short", "less than the length says is discarded", |world| {
        discarded(world, |mut message| {
            message.truncate(message.len() - 1);
            message
        })
    }),
    must(8656, "12.6", "not-bound", "an unbound channel is discarded", |world| {
        discarded(world, |mut message| {
            message[1] ^= 2;
            message
        })
    }),
    must(8656, "12.6", "of-another", "the channel of another allocation is none", of_another),
    must(8656, "12.6", "no-answer", "ChannelData gets no answer", no_answer),
    must(8656, "12.5", "from-peer", "what the bound peer sends is ChannelData", |world| {
        from_peer(world, b"conform: back")
    }),
    must(8656, "12.5", "from-peer-empty", "… also when it is empty", |world| {
        from_peer(world, b"")
    }),
    must(8656, "12.7", "from-other-port", "what another port sends is a Data indication", beside),
    must(8656, "12.5", "send-beside", "Send works beside a channel", send_beside),
    must(8656, "12", "reuse", "an expired number is free for another peer", reuse).slow(),
];

fn number(world: &World, number: u16, valid: bool) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let answer = user.bind(number, any_port(world.peer_ip()?))?;
    if valid { success(answer).map(drop) } else { refused(answer, &[400]).map(drop) }
}

fn no_number(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    let answer =
        user.ask(method::CHANNEL_BIND, |draft| draft.address(kind::XOR_PEER_ADDRESS, peer))?;
    refused(answer, &[400]).map(drop)
}

fn no_peer(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let answer =
        user.ask(method::CHANNEL_BIND, |draft| draft.with(kind::CHANNEL_NUMBER, &[0x40, 1, 0, 0]))?;
    refused(answer, &[400]).map(drop)
}

fn number_taken(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let ip = world.peer_ip()?;
    user.bound(CHANNEL, SocketAddr::new(ip, 9))?;
    refused(user.bind(CHANNEL, SocketAddr::new(ip, 10))?, &[400]).map(drop)
}

fn peer_taken(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    user.bound(CHANNEL, peer)?;
    refused(user.bind(CHANNEL + 1, peer)?, &[400]).map(drop)
}

fn again(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let peer = any_port(world.peer_ip()?);
    user.bound(CHANNEL, peer)?;
    user.bound(CHANNEL, peer)
}

fn other_port(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let ip = world.peer_ip()?;
    user.bound(CHANNEL, SocketAddr::new(ip, 9))?;
    user.bound(CHANNEL + 1, SocketAddr::new(ip, 10))
}

/// A user with a channel to a peer.
fn meeting(world: &World) -> Result<(User<'_>, SocketAddr, Line<'_>), Verdict> {
    let peer = world.peer()?;
    let (mut user, relayed) = User::relayed(world)?;
    user.bound(CHANNEL, peer.addr()?)?;
    Ok((user, relayed, peer))
}

/// Sends a message until the data arrives at the peer; where it came from.
fn arrives(
    user: &User<'_>,
    peer: &Line<'_>,
    message: &[u8],
    data: &[u8],
) -> Result<SocketAddr, Verdict> {
    let mut other = None;
    let found = user.line.until_it_comes(
        peer,
        || user.line.send(message),
        |bytes, from| {
            if bytes == data {
                return Some(from);
            }
            other = Some(format!("{} bytes", bytes.len()));
            None
        },
    )?;
    let got = || other.unwrap_or_else(|| "nothing".to_owned());
    found.map_or_else(|| fail(format!("the {} bytes at the peer", data.len()), got()), Ok)
}

fn to_peer(world: &World, data: &[u8], padding: usize) -> Check {
    let (user, relayed, peer) = meeting(world)?;
    let mut message = channel_message(CHANNEL, data);
    message.resize(message.len() + padding, 0);
    let from = arrives(&user, &peer, &message, data)?;
    ensure(from == relayed, relayed.to_string(), from.to_string())
}

fn permits(world: &World) -> Check {
    let (user, _, _bound) = meeting(world)?;
    let other = world.peer()?;
    let at = other.addr()?;
    let found = user.line.until_it_comes(
        &other,
        || user.send(at, CONTROL),
        |bytes, _| (bytes == CONTROL).then_some(()),
    )?;
    ensure(found.is_some(), "Send to another port of the peer arrives", shown(None))
}

fn discarded(world: &World, bend: fn(Vec<u8>) -> Vec<u8>) -> Check {
    let (user, _, peer) = meeting(world)?;
    let bent = bend(channel_message(CHANNEL, FORBIDDEN));
    let control = channel_message(CHANNEL, CONTROL);
    let came = user.line.withholds(
        &peer,
        || user.line.send(&bent),
        || user.line.send(&control),
        |bytes, _| bytes != CONTROL,
        |bytes, _| bytes == CONTROL,
    )?;
    ensure(came == Came::No, "nothing at the peer", "a datagram")
}

fn of_another(world: &World) -> Check {
    let (user, _, peer) = meeting(world)?;
    let (other, _) = User::allocated(world)?;
    let foreign = channel_message(CHANNEL, FORBIDDEN);
    let control = channel_message(CHANNEL, CONTROL);
    let came = other.line.withholds(
        &peer,
        || other.line.send(&foreign),
        || user.line.send(&control),
        |bytes, _| bytes == FORBIDDEN,
        |bytes, _| bytes == CONTROL,
    )?;
    ensure(came == Came::No, "nothing at the peer", "a datagram")
}

fn no_answer(world: &World) -> Check {
    let (user, _, _peer) = meeting(world)?;
    silence(user.line.provokes(&channel_message(CHANNEL, CONTROL))?)
}

fn from_peer(world: &World, payload: &[u8]) -> Check {
    let (user, relayed, peer) = meeting(world)?;
    let mut other = None;
    let found = peer.until_it_comes(
        &user.line,
        || peer.send_to(payload, relayed),
        |bytes, _| {
            let (number, data) = channel_data(bytes).or_else(|| {
                other = data_indication(bytes).map(|_| "a Data indication");
                None
            })?;
            (number == CHANNEL && data == payload).then_some(())
        },
    )?;
    ensure(found.is_some(), "ChannelData with the payload", other.unwrap_or("nothing"))
}

fn beside(world: &World) -> Check {
    let (user, relayed, _bound) = meeting(world)?;
    let peer = world.peer()?;
    let at = peer.addr()?;
    let found = peer.until_it_comes(
        &user.line,
        || peer.send_to(CONTROL, relayed),
        |bytes, _| data_indication(bytes).filter(|(from, data)| *from == at && data == CONTROL),
    )?;
    ensure(found.is_some(), format!("a Data indication from {at}"), "nothing of the kind")
}

fn send_beside(world: &World) -> Check {
    let (user, relayed, peer) = meeting(world)?;
    let at = peer.addr()?;
    let found = user.line.until_it_comes(
        &peer,
        || user.send(at, CONTROL),
        |bytes, from| (bytes == CONTROL && from == relayed).then_some(()),
    )?;
    ensure(found.is_some(), "the data at the peer", "nothing")
}

fn reuse(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let ip = world.peer_ip()?;
    user.bound(CHANNEL, SocketAddr::new(ip, 9))?;
    // The binding lasts ten minutes, and five more pass before its number may have another peer;
    // the allocation has to last as long.
    for _ in 0..4 {
        world.pause(230)?;
        success(user.refresh(None)?)?;
    }
    user.bound(CHANNEL, SocketAddr::new(ip, 10))
}
