//! RFC 7635: tokens of a third party. Whether a server takes a right one is not found out here:
//! that needs the key that it shares with the authorization server.

use super::case::{Case, Check, Verdict, ensure, must, refused, skip, unsupported};
use super::user::{Challenge, UDP, User};
use super::wire::{Answer, kind, method};
use super::world::World;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(7635, "6.1", "server-name", "THIRD-PARTY-AUTHORIZATION names the server", server_name),
    must(7635, "7", "wrong-token", "a token nobody made gets 401", wrong_token),
    must(7635, "7", "unexpected", "a token that was not asked for gets 420", unexpected),
];

/// The 401 of a server that takes tokens.
fn offered(world: &World) -> Result<Answer, Verdict> {
    let answer = refused(world.line()?.ask(&world.draft(method::ALLOCATE)?)?, &[401])?;
    if answer.has(kind::THIRD_PARTY_AUTHORIZATION) {
        return Ok(answer);
    }
    unsupported("401 offers no THIRD-PARTY-AUTHORIZATION")
}

fn server_name(world: &World) -> Check {
    let answer = offered(world)?;
    let name = answer.value(kind::THIRD_PARTY_AUTHORIZATION).unwrap_or_default();
    let text = !name.is_empty() && std::str::from_utf8(name).is_ok();
    ensure(text, "a name in UTF-8", format!("{} bytes", name.len()))
}

fn unexpected(world: &World) -> Check {
    let challenge = refused(world.line()?.ask(&world.draft(method::ALLOCATE)?)?, &[401])?;
    if challenge.has(kind::THIRD_PARTY_AUTHORIZATION) {
        return skip("the server asks for tokens");
    }
    let answer = User::new(world)?.allocate(|draft| draft.with(kind::ACCESS_TOKEN, &[0xA5; 96]))?;
    refused(answer, &[420]).map(drop)
}

fn wrong_token(world: &World) -> Check {
    offered(world)?;
    let line = world.line()?;
    let challenge = Challenge::of(&refused(line.ask(&world.draft(method::ALLOCATE)?)?, &[401])?)?;
    let request = world
        .draft(method::ALLOCATE)?
        .with(kind::REQUESTED_TRANSPORT, &UDP)
        .with(kind::USERNAME, b"conform-key")
        .with(kind::REALM, &challenge.realm)
        .with(kind::NONCE, &challenge.nonce)
        .with(kind::ACCESS_TOKEN, &[0xA5; 96])
        .sign_sha1(&[0xA5; 20]);
    refused(line.ask(&request)?, &[401]).map(drop)
}
