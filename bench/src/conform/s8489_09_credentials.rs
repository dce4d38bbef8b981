//! RFC 8489 §9.2 with MESSAGE-INTEGRITY and MD5 keys, as every client since RFC 5389 has them:
//! what is refused, in which order, by which code and with which attributes.

use super::case::{
    Case, Check, Verdict, carries, ensure, fail, must, refused, should, shown, success,
};
use super::user::{Challenge, UDP, User, challenge};
use super::wire::{Answer, Class, Draft, kind, method};
use super::world::World;
use crate::turn::credentials::Credentials;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(
        8489,
        "9.2.4",
        "no-integrity",
        "who does not sign gets 401 with REALM and NONCE",
        unsigned,
    ),
    should(
        8489,
        "9.2.4",
        "challenge-is-bare",
        "the challenge repeats no user name and is not signed",
        bare_challenge,
    ),
    must(
        8489,
        "9.2.4",
        "own-nonce",
        "clients with different addresses get different nonces",
        own_nonce,
    ),
    must(8489, "9.2.4", "no-username", "signed without USERNAME: 400", |world| {
        without(world, kind::USERNAME)
    }),
    must(8489, "9.2.4", "no-realm", "signed without REALM: 400", |world| {
        without(world, kind::REALM)
    }),
    must(8489, "9.2.4", "no-nonce", "signed without NONCE: 400", |world| {
        without(world, kind::NONCE)
    }),
    should(
        8489,
        "9.2.4",
        "400-is-bare",
        "400 for missing attributes has no realm, nonce or user name",
        bare_400,
    ),
    must(8489, "9.2.4", "unknown-user", "a user nobody knows gets 401, challenged", unknown_user),
    must(8489, "9.2.4", "wrong-password", "a wrong password gets 401, challenged", wrong_password),
    must(8489, "9.2.4", "wrong-realm", "a key for another realm gets 401", wrong_realm),
    must(
        8489,
        "9.2.4",
        "password-before-nonce",
        "wrong password and nonce: 401, not 438",
        password_before_nonce,
    ),
    must(8489, "9.2.4", "stale-nonce", "a nonce that is not valid gets 438, challenged", stale),
    must(8489, "9.2.4", "fresh-nonce", "the nonce in 438 is valid", fresh_nonce),
    must(8489, "9.2.4", "signed-success", "success is signed by the user's key", signed_success),
    must(
        8489,
        "9.2.4",
        "signed-error",
        "what is refused after the credentials were good is signed too",
        signed_error,
    ),
    should(
        8489,
        "9.2.4",
        "success-is-bare",
        "success repeats no realm, nonce or user name",
        bare_success,
    ),
    must(
        8489,
        "9",
        "after-integrity",
        "what stands behind MESSAGE-INTEGRITY is ignored",
        behind_integrity,
    ),
    must(
        8489,
        "9",
        "required-after-integrity",
        "unknown required attributes behind MESSAGE-INTEGRITY are ignored",
        required_behind_integrity,
    ),
    must(8489, "14.5", "damaged", "a message that was changed is not authentic: 401", damaged),
    must(
        8489,
        "14.3",
        "longest-user-name",
        "a user name of 763 bytes is read, and refused like any unknown one",
        longest_user_name,
    ),
    must(8489, "14.8", "reason", "the reason phrase is UTF-8 of fewer than 128 characters", reason),
    must(8489, "14.9", "realm", "REALM is UTF-8 of fewer than 128 characters", realm),
    must(8489, "14.10", "nonce", "NONCE has fewer than 128 characters", nonce),
    must(8489, "14.14", "software", "SOFTWARE, if there is any, is UTF-8 of under 128", software),
];

/// Whether an answer has none of these attributes.
fn is_bare(answer: &Answer, kinds: &[u16]) -> Check {
    match answer.kinds().find(|it| kinds.contains(it)) {
        None => Ok(()),
        Some(kind) => fail("none of them", format!("{} with {kind:#06x}", answer.describe())),
    }
}

/// An answer that challenges.
fn challenges(answer: Option<Answer>, code: u16) -> Result<Answer, Verdict> {
    let answer = refused(answer, &[code])?;
    Challenge::of(&answer)?;
    Ok(answer)
}

fn unsigned(world: &World) -> Check {
    challenge(world, &world.line()?).map(drop)
}

fn bare_challenge(world: &World) -> Check {
    let answer = world.line()?.ask(&world.draft(method::ALLOCATE)?)?;
    let bare =
        [kind::USERNAME, kind::USERHASH, kind::MESSAGE_INTEGRITY, kind::MESSAGE_INTEGRITY_SHA256];
    is_bare(&refused(answer, &[401])?, &bare)
}

fn own_nonce(world: &World) -> Check {
    let (a, b) = (world.line()?, world.line()?);
    let (a, b) = (challenge(world, &a)?, challenge(world, &b)?);
    ensure(a.nonce != b.nonce, "two nonces", "the same one for two ports")
}

/// A signed Allocate that lacks an attribute.
fn lacking(world: &World, lacks: u16) -> Result<Option<Answer>, Verdict> {
    let mut user = User::new(world)?;
    let all = [
        (kind::USERNAME, user.who.username().as_bytes().to_vec()),
        (kind::REALM, user.challenge.realm.clone()),
        (kind::NONCE, user.challenge.nonce.clone()),
    ];
    let draft = world.draft(method::ALLOCATE)?.with(kind::REQUESTED_TRANSPORT, &UDP);
    let kept = all.iter().filter(|(kind, _)| *kind != lacks);
    let draft = kept.fold(draft, |draft, (kind, value)| draft.with(*kind, value));
    let request = draft.sign_sha1(&user.key());
    user.ask_with(&request)
}

fn without(world: &World, lacks: u16) -> Check {
    refused(lacking(world, lacks)?, &[400]).map(drop)
}

fn bare_400(world: &World) -> Check {
    let answer = refused(lacking(world, kind::REALM)?, &[400])?;
    is_bare(&answer, &[kind::USERNAME, kind::USERHASH, kind::NONCE, kind::REALM])
}

/// An Allocate by somebody with the right nonce.
fn allocate_as(
    world: &World,
    who: &Credentials,
    bend: impl FnOnce(&mut Challenge),
) -> Result<Option<Answer>, Verdict> {
    let mut user = User::named(world, who)?;
    bend(&mut user.challenge);
    let request =
        user.signed(method::ALLOCATE, |draft| draft.with(kind::REQUESTED_TRANSPORT, &UDP))?;
    user.ask_with(&request)
}

fn unknown_user(world: &World) -> Check {
    let nobody = Credentials::known("conform-nobody".into(), world.user.password().into());
    challenges(allocate_as(world, &nobody, |_| ())?, 401).map(drop)
}

/// The user, with a password that is not theirs.
fn impostor(world: &World) -> Credentials {
    Credentials::known(world.user.username().into(), format!("not {}", world.user.password()))
}

fn wrong_password(world: &World) -> Check {
    challenges(allocate_as(world, &impostor(world), |_| ())?, 401).map(drop)
}

fn wrong_realm(world: &World) -> Check {
    let answer = allocate_as(world, &world.user, |it| it.realm = b"conform.invalid".to_vec())?;
    refused(answer, &[401]).map(drop)
}

fn password_before_nonce(world: &World) -> Check {
    let answer = allocate_as(world, &impostor(world), |it| it.nonce = b"conform".to_vec())?;
    refused(answer, &[401]).map(drop)
}

fn stale(world: &World) -> Check {
    let answer = allocate_as(world, &world.user, |it| it.nonce = b"conform".to_vec())?;
    challenges(answer, 438).map(drop)
}

fn fresh_nonce(world: &World) -> Check {
    let mut user = User::new(world)?;
    user.challenge.nonce = b"conform".to_vec();
    let request =
        user.signed(method::ALLOCATE, |draft| draft.with(kind::REQUESTED_TRANSPORT, &UDP))?;
    user.challenge = Challenge::of(&refused(user.ask_with(&request)?, &[438])?)?;
    let request =
        user.signed(method::ALLOCATE, |draft| draft.with(kind::REQUESTED_TRANSPORT, &UDP))?;
    success(user.ask_with(&request)?).map(drop)
}

fn signed_success(world: &World) -> Check {
    let (user, answer) = User::allocated(world)?;
    let right = answer.sha1_verifies(&user.key()) == Some(true);
    ensure(right, "MESSAGE-INTEGRITY by the user's key", "none, or another one")
}

fn signed_error(world: &World) -> Check {
    let mut user = User::new(world)?;
    let request = user.signed(method::REFRESH, |draft| draft)?;
    let answer = refused(user.ask_with(&request)?, &[437])?;
    let right = answer.sha1_verifies(&user.key()) == Some(true);
    ensure(right, "437 with MESSAGE-INTEGRITY by the user's key", "437 without it")
}

fn bare_success(world: &World) -> Check {
    let (_user, answer) = User::allocated(world)?;
    is_bare(&answer, &[kind::USERNAME, kind::USERHASH, kind::NONCE, kind::REALM])
}

fn behind_integrity(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let request = user.signed(method::REFRESH, |draft| draft)?.number(kind::LIFETIME, 0);
    let answer = success(user.ask_with(&request)?)?;
    let lifetime = answer.number(kind::LIFETIME);
    ensure(lifetime != Some(0), "LIFETIME 0 behind the signature changes nothing", "it deletes")
}

fn required_behind_integrity(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let request = user.signed(method::REFRESH, |draft| draft)?.with(kind::UNKNOWN_REQUIRED, b"");
    success(user.ask_with(&request)?).map(drop)
}

fn damaged(world: &World) -> Check {
    let mut user = User::new(world)?;
    let draft = user.credentials(world.draft(method::ALLOCATE)?);
    let whole = draft.clone().with(kind::REQUESTED_TRANSPORT, &UDP).sign_sha1(&user.key());
    let mac = Answer::parse(whole.bytes())
        .and_then(|it| it.value(kind::MESSAGE_INTEGRITY).map(<[u8]>::to_vec))
        .unwrap_or_default();
    // The MAC is of a request that asks for UDP; the request asks for it with another reserve.
    let request =
        draft.with(kind::REQUESTED_TRANSPORT, &[17, 0, 0, 1]).with(kind::MESSAGE_INTEGRITY, &mac);
    refused(user.ask_with(&request)?, &[401]).map(drop)
}

fn longest_user_name(world: &World) -> Check {
    let somebody = Credentials::known("n".repeat(763), "password".into());
    refused(allocate_as(world, &somebody, |_| ())?, &[401]).map(drop)
}

/// UTF-8 of fewer than 128 characters.
fn is_short_text(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.chars().count() < 128)
}

fn challenge_with(world: &World, kind: u16, name: &str) -> Check {
    let answer = refused(world.line()?.ask(&world.draft(method::ALLOCATE)?)?, &[401])?;
    let value = carries(&answer, kind, name)?;
    ensure(is_short_text(value), "UTF-8 of fewer than 128 characters", "something else")
}

fn reason(world: &World) -> Check {
    let answer = refused(world.line()?.ask(&world.draft(method::ALLOCATE)?)?, &[401])?;
    let value = carries(&answer, kind::ERROR_CODE, "ERROR-CODE")?;
    ensure(is_short_text(&value[4..]), "UTF-8 of fewer than 128 characters", "something else")
}

fn realm(world: &World) -> Check {
    challenge_with(world, kind::REALM, "REALM")
}

fn nonce(world: &World) -> Check {
    challenge_with(world, kind::NONCE, "NONCE")
}

fn software(world: &World) -> Check {
    let answer =
        world.line()?.ask(&Draft::new(Class::Request, method::ALLOCATE, world.transaction()?))?;
    let Some(answer) = answer else { return fail("an answer", shown(None)) };
    let fine = answer.value(kind::SOFTWARE).is_none_or(is_short_text);
    ensure(fine, "UTF-8 of fewer than 128 characters", "something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_counted_in_characters() {
        assert!(is_short_text("é".repeat(127).as_bytes()));
        assert!(!is_short_text("é".repeat(128).as_bytes()));
        assert!(!is_short_text(&[0xFF]));
    }
}
