//! RFC 8489 §9.2 beyond MD5: PASSWORD-ALGORITHMS, MESSAGE-INTEGRITY-SHA256, USERHASH, and the
//! nonce cookie that keeps anybody from bidding them down. All of it is the server's offer; one
//! that offers nothing supports nothing.

use super::case::{Case, Check, Verdict, ensure, fail, must, refused, success, unsupported};
use super::user::{UDP, User, algorithms, md5_key, sha256_key, userhash};
use super::wire::{Answer, Draft, kind, method};
use super::world::World;
use crate::turn::credentials::Credentials;

/// PASSWORD-ALGORITHM: MD5 (RFC 8489 §18.5.1.1).
const MD5: u16 = 1;
/// PASSWORD-ALGORITHM: SHA-256 (RFC 8489 §18.5.1.2).
const SHA256: u16 = 2;
/// Bytes of a whole MESSAGE-INTEGRITY-SHA256.
const WHOLE: usize = 32;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8489, "9.2", "nonce-cookie", "the nonce begins with the cookie, features or not", cookie),
    must(8489, "9", "after-sha256", "what stands behind that signature is ignored", behind_sha256),
    must(8489, "9.2.1", "algorithms-bit", "who offers algorithms says so in the nonce", bit_set),
    must(8489, "9.2.1", "bit-algorithms", "who says so in the nonce offers algorithms", bit_meant),
    must(8489, "14.11", "well-formed", "PASSWORD-ALGORITHMS is well-formed", well_formed),
    must(8489, "9.2.4", "sha256", "an offered SHA-256 works, with the answer signed so", sha256),
    must(8489, "9.2.4", "md5-chosen", "an offered MD5 works, answered by SHA-256 MACs", md5_chosen),
    must(8489, "9.2.4", "neither", "neither attribute: as if MD5, answered by SHA-1 MACs", neither),
    must(
        8489,
        "9.2.4",
        "sha256-integrity",
        "MESSAGE-INTEGRITY-SHA256 with the MD5 key is as good as MESSAGE-INTEGRITY",
        sha256_integrity,
    ),
    must(
        8489,
        "9.2.4",
        "sha256-decides",
        "of two signatures MESSAGE-INTEGRITY-SHA256 decides",
        sha256_decides,
    ),
    must(8489, "9.2.4", "wrong-sha256", "a wrong MESSAGE-INTEGRITY-SHA256 gets 401", wrong_sha256),
    must(8489, "14.6", "truncated", "a truncated MESSAGE-INTEGRITY-SHA256 is refused", truncated),
    must(8489, "9.2.4", "bid-down", "a list that is not the server's gets 400", bid_down),
    must(8489, "9.2.4", "no-list", "PASSWORD-ALGORITHM without the list gets 400", no_list),
    must(8489, "9.2.4", "no-choice", "the list without a choice gets 400", no_choice),
    must(8489, "9.2.4", "other-choice", "a choice not on the list gets 400", other_choice),
    must(8489, "9.2.4", "401-offers", "401 for a wrong password offers algorithms", offers_in_401),
    must(8489, "9.2.4", "438-offers", "438 offers algorithms", offers_in_438),
    must(8489, "9.2.4", "userhash", "an offered USERHASH names the user", names_by_hash),
    must(8489, "9.2.4", "unknown-userhash", "a USERHASH nobody has gets 401", unknown_hash),
];

/// A challenged user of a server that offers algorithms.
fn offered(world: &World) -> Result<User<'_>, Verdict> {
    let user = User::new(world)?;
    if user.challenge.algorithms.is_none() {
        return unsupported("401 offers no PASSWORD-ALGORITHMS");
    }
    Ok(user)
}

/// As [`offered`], of a server that offers one in particular.
fn offered_this(world: &World, algorithm: u16) -> Result<User<'_>, Verdict> {
    let user = offered(world)?;
    if !user.challenge.offers(algorithm) {
        return unsupported(format!("PASSWORD-ALGORITHMS without algorithm {algorithm}"));
    }
    Ok(user)
}

fn cookie(world: &World) -> Check {
    // Without it a server claims to be of RFC 5389.
    match User::new(world)?.challenge.features() {
        Some(_) => Ok(()),
        None => unsupported("no nonce cookie: a server of RFC 5389"),
    }
}

fn behind_sha256(world: &World) -> Check {
    let mut user = offered(world)?;
    let request = choosing(&user, None, None)?
        .sign_sha256(&user.key(), WHOLE)
        .with(kind::UNKNOWN_REQUIRED, b"");
    success(user.ask_with(&request)?).map(drop)
}

fn bit_set(world: &World) -> Check {
    let user = offered(world)?;
    ensure(user.challenge.has_feature(0), "nonce cookie with bit 0", "a nonce without it")
}

fn bit_meant(world: &World) -> Check {
    let user = User::new(world)?;
    match (user.challenge.has_feature(0), &user.challenge.algorithms) {
        (true, None) => fail("PASSWORD-ALGORITHMS", "bit 0 of the nonce cookie without it"),
        (true, Some(_)) => Ok(()),
        (false, _) => unsupported("the nonce announces no password algorithms"),
    }
}

fn well_formed(world: &World) -> Check {
    let user = offered(world)?;
    let list = user.challenge.algorithms.as_deref().and_then(algorithms).unwrap_or_default();
    ensure(!list.is_empty(), "a list of algorithms", "something else")
}

/// Allocate over UDP with a choice, of this list.
fn choosing(user: &User<'_>, list: Option<&[u8]>, choice: Option<u16>) -> Result<Draft, Verdict> {
    let draft = user.world.draft(method::ALLOCATE)?.with(kind::REQUESTED_TRANSPORT, &UDP);
    let mut draft = user.credentials(draft);
    if let Some(list) = list {
        draft = draft.with(kind::PASSWORD_ALGORITHMS, list);
    }
    if let Some(choice) = choice {
        let [high, low] = choice.to_be_bytes();
        draft = draft.with(kind::PASSWORD_ALGORITHM, &[high, low, 0, 0]);
    }
    Ok(draft)
}

/// The server's own list.
fn own_list(user: &User<'_>) -> Vec<u8> {
    user.challenge.algorithms.clone().unwrap_or_default()
}

fn signed_by_sha256(answer: &Answer, key: &[u8]) -> Check {
    ensure(
        answer.sha256_verifies(key) == Some(true),
        "success with MESSAGE-INTEGRITY-SHA256 by the user's key",
        match answer.sha256_verifies(key) {
            None => "success without it",
            Some(_) => "success with another one",
        },
    )
}

fn sha256(world: &World) -> Check {
    let mut user = offered_this(world, SHA256)?;
    let key = sha256_key(user.who, &user.challenge.realm);
    let request = choosing(&user, Some(&own_list(&user)), Some(SHA256))?.sign_sha256(&key, WHOLE);
    let answer = success(user.ask_with(&request)?)?;
    signed_by_sha256(&answer, &key)
}

fn md5_chosen(world: &World) -> Check {
    let mut user = offered_this(world, MD5)?;
    let key = md5_key(user.who, &user.challenge.realm);
    let request = choosing(&user, Some(&own_list(&user)), Some(MD5))?.sign_sha256(&key, WHOLE);
    let answer = success(user.ask_with(&request)?)?;
    signed_by_sha256(&answer, &key)
}

fn neither(world: &World) -> Check {
    let mut user = offered(world)?;
    let key = user.key();
    let request = choosing(&user, None, None)?.sign_sha1(&key);
    let answer = success(user.ask_with(&request)?)?;
    let right = answer.sha1_verifies(&key) == Some(true);
    ensure(
        right && !answer.has(kind::MESSAGE_INTEGRITY_SHA256),
        "MESSAGE-INTEGRITY, and no MESSAGE-INTEGRITY-SHA256",
        "another signature",
    )
}

fn sha256_integrity(world: &World) -> Check {
    let mut user = offered(world)?;
    let request = choosing(&user, None, None)?.sign_sha256(&user.key(), WHOLE);
    success(user.ask_with(&request)?).map(drop)
}

fn sha256_decides(world: &World) -> Check {
    let mut user = offered(world)?;
    let request = choosing(&user, None, None)?.sign_sha1(&user.key()).sign_sha256(b"not it", WHOLE);
    refused(user.ask_with(&request)?, &[401]).map(drop)
}

fn wrong_sha256(world: &World) -> Check {
    let mut user = offered_this(world, SHA256)?;
    let request =
        choosing(&user, Some(&own_list(&user)), Some(SHA256))?.sign_sha256(b"not it", WHOLE);
    refused(user.ask_with(&request)?, &[401]).map(drop)
}

fn truncated(world: &World) -> Check {
    let mut user = offered(world)?;
    for bytes in [16, 28] {
        let request = choosing(&user, None, None)?.sign_sha256(&user.key(), bytes);
        refused(user.ask_with(&request)?, &[400, 401])?;
    }
    Ok(())
}

/// 400 for this list and this choice, though the signature is right.
fn bad_choice(user: &mut User<'_>, list: Option<&[u8]>, choice: Option<u16>) -> Check {
    let key = if choice == Some(SHA256) {
        sha256_key(user.who, &user.challenge.realm)
    } else {
        md5_key(user.who, &user.challenge.realm)
    };
    let request = choosing(user, list, choice)?.sign_sha256(&key, WHOLE);
    refused(user.ask_with(&request)?, &[400]).map(drop)
}

fn bid_down(world: &World) -> Check {
    let mut user = offered(world)?;
    let own = own_list(&user);
    let only_md5 = [0, 1, 0, 0];
    if own == only_md5 {
        return unsupported("there is only MD5 to bid down to");
    }
    bad_choice(&mut user, Some(&only_md5), Some(MD5))
}

fn no_list(world: &World) -> Check {
    bad_choice(&mut offered(world)?, None, Some(MD5))
}

fn no_choice(world: &World) -> Check {
    let mut user = offered(world)?;
    let own = own_list(&user);
    bad_choice(&mut user, Some(&own), None)
}

fn other_choice(world: &World) -> Check {
    let mut user = offered(world)?;
    let own = own_list(&user);
    bad_choice(&mut user, Some(&own), Some(0x7FF0))
}

fn offers(user: &User<'_>, answer: Option<Answer>, code: u16) -> Check {
    let answer = refused(answer, &[code])?;
    ensure(
        answer.value(kind::PASSWORD_ALGORITHMS) == user.challenge.algorithms.as_deref(),
        format!("{code} with the PASSWORD-ALGORITHMS of the first 401"),
        "another list, or none",
    )
}

fn offers_in_401(world: &World) -> Check {
    let mut user = offered(world)?;
    let request = choosing(&user, None, None)?.sign_sha1(b"not it");
    let answer = user.ask_with(&request)?;
    offers(&user, answer, 401)
}

fn offers_in_438(world: &World) -> Check {
    let mut user = offered(world)?;
    let nonce = std::mem::replace(&mut user.challenge.nonce, b"conform".to_vec());
    let request = choosing(&user, None, None)?.sign_sha1(&user.key());
    user.challenge.nonce = nonce;
    let answer = user.ask_with(&request)?;
    offers(&user, answer, 438)
}

/// Allocate by a user who is named by a hash.
fn hashed(user: &User<'_>, who: &Credentials) -> Result<Draft, Verdict> {
    let draft = user.world.draft(method::ALLOCATE)?.with(kind::REQUESTED_TRANSPORT, &UDP);
    Ok(draft
        .with(kind::USERHASH, &userhash(who, &user.challenge.realm))
        .with(kind::REALM, &user.challenge.realm)
        .with(kind::NONCE, &user.challenge.nonce))
}

/// A challenged user of a server that offers anonymity.
fn anonymous(world: &World) -> Result<User<'_>, Verdict> {
    let user = User::new(world)?;
    if !user.challenge.has_feature(1) {
        return unsupported("the nonce announces no username anonymity");
    }
    Ok(user)
}

fn names_by_hash(world: &World) -> Check {
    let mut user = anonymous(world)?;
    let request = hashed(&user, user.who)?.sign_sha1(&user.key());
    success(user.ask_with(&request)?).map(drop)
}

fn unknown_hash(world: &World) -> Check {
    let mut user = anonymous(world)?;
    let nobody = Credentials::known("conform-nobody".into(), String::new());
    let request = hashed(&user, &nobody)?.sign_sha1(&user.key());
    refused(user.ask_with(&request)?, &[401]).map(drop)
}
