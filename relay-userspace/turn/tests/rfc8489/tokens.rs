//! RFC 7635: third-party authorization, by tokens of an authorization server that is in the test.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use relay_common::wire::attribute::AttributeType as A;
use relay_turn::{AccessTokens, Config, TokenKey};

use crate::script::{check_with, run};
use crate::world::config;

const SERVER_NAME: &str = "turn.example.org";
const KEY: [u8; 32] = [7; 32];
const SESSION_KEY: [u8; 20] = [3; 20];

pub(crate) fn offering() -> Config {
    let key = TokenKey::new("kid", &KEY).unwrap();
    let other = TokenKey::new("user", &[9; 16]).unwrap();
    let mut config = config();
    config.offers.access_tokens = Some(AccessTokens::new(SERVER_NAME.to_owned(), vec![key, other]));
    config
}

/// Adds a token: `good`, `forged`, `elsewhere` (of another server), or its age and lifetime in
/// seconds: `10/600`. Gives the session key in it; of `short`, what coturn's clients take of it.
pub(crate) fn session_key(attributes: &mut Vec<(A, Vec<u8>)>, token: &str) -> Vec<u8> {
    let (age, lifetime) = token.split_once('/').unwrap_or(("0", "3000"));
    let issued = 1_700_000_000 - age.parse::<i64>().unwrap();
    let timestamp = (u64::try_from(issued).unwrap() << 16).to_be_bytes();
    let lifetime = lifetime.parse::<u32>().unwrap().to_be_bytes();
    let block = [&[0, 20][..], &SESSION_KEY, &timestamp, &lifetime].concat();
    let name = if token == "elsewhere" { "other.example.org" } else { SERVER_NAME };
    let cipher = aes_gcm::Aes256Gcm::new_from_slice(&KEY).unwrap();
    let payload = Payload { msg: &block, aad: name.as_bytes() };
    let mut sealed = cipher.encrypt((&[5; 12]).into(), payload).unwrap();
    if token == "forged" {
        sealed[3] ^= 1;
    }
    attributes.push((A::ACCESS_TOKEN, [&[0, 12][..], &[5; 12], &sealed].concat()));
    if token == "short" { SESSION_KEY[..16].to_vec() } else { SESSION_KEY.to_vec() }
}

fn check(script: &str) {
    check_with(offering(), script);
}

#[test]
fn a_token_is_as_good_as_a_password() {
    check("alice allocates user=kid access=good; alice refreshes user=kid access=good");
    check("alice allocates user=kid access=good modern");
    check("alice allocates user=kid access=good proof=both");
    check("alice allocates user=kid access=short; alice refreshes user=kid access=short modern");
    check("alice allocates user=kid access=good; alice permits bob user=kid access=10/3000");
}

#[test]
fn a_token_that_is_none_is_refused() {
    check("alice allocates user=kid access=forged => 401; alice allocates user=kid access=good");
    check("alice allocates user=kid access=elsewhere => 401");
    check("alice allocates user=nobody access=good => 401");
    check("alice allocates user=kid access=good realm=elsewhere => 401");
    check("alice allocates user=kid access=good hashed => 401");
    check("alice allocates user=kid access=good without=username => 400");
    check("alice allocates user=kid access=good nonce=forged => 438");
    check("alice allocates user=kid attribute=001b/0 password=pass => 401");
    check("alice allocates user=kid attribute=001b/60000 password=pass => 401");
    // The name of a key is no user's, and a user's token is no password.
    check("alice allocates user=user access=good => 401");
    check("alice allocates user=user attribute=001b/90 => 401");
}

#[test]
fn a_token_ends_with_its_lifetime_and_five_seconds() {
    check(
        "alice allocates user=kid access=604/600 => ok 1; anna allocates user=kid access=605/600 \
           => 401",
    );
    check(
        "alice allocates user=kid access=-604/600; anna allocates user=kid access=-605/600 => 401",
    );
}

#[test]
fn an_allocation_does_not_outlive_its_token() {
    check("alice allocates lifetime=3600 user=kid access=0/900 => ok 900");
    check("alice allocates user=kid access=0/30 => ok 30; 30s pass; alice refreshes => 437");
    check(
        "alice allocates user=kid access=0/3000 => ok 600; \
           alice refreshes lifetime=3600 user=kid access=0/900 => ok 900; 100s pass; \
           alice refreshes lifetime=3600 user=kid access=0/900 => ok 805; \
           alice refreshes lifetime=0 user=kid access=0/900 => ok 0",
    );
}

/// §9: ACCESS-TOKEN is in Allocate and Refresh only; the session key proves the rest.
#[test]
fn other_requests_come_without_the_token() {
    let held = "user=kid held=20";
    let script = format!(
        "alice allocates user=kid access=0/900; alice permits bob {held}; \
         alice binds 4000 to bob {held} modern; alice permits bob user=kid => 401; \
         anna permits bob {held} => 401; alice refreshes lifetime=3600 {held} => ok 900; \
         900s pass; alice permits bob {held} => 401"
    );
    check(&script);
    // What its client took of the key at first, it goes on with; a new token brings a new key.
    check(
        "alice allocates user=kid access=short; alice permits bob user=kid held=16; \
           alice permits bob user=kid held=20 => 401; alice refreshes user=kid access=good; \
           alice permits bob user=kid held=20; alice permits bob user=kid held=16 => 401",
    );
    check("alice allocates; alice permits bob user=kid held=20 => 401");
    // The wall clock is set forward: the token is over, whatever the allocation's timer says.
    let mut world = crate::world::World::new(offering());
    run(&mut world, "alice allocates user=kid access=0/900; alice permits bob user=kid held=20");
    world.now.unix_secs += 900;
    run(&mut world, "alice permits bob user=kid held=20 => 401");
}

#[test]
fn who_has_a_token_is_another_than_a_user_of_its_keys_name() {
    check("alice allocates user=kid access=good; alice refreshes => 441");
    let mut same = offering();
    same.credentials =
        relay_turn::Credentials::new([("kid".to_owned(), "pass".to_owned())], Vec::new());
    check_with(same, "alice allocates user=kid access=good; alice refreshes user=kid => 441");
    check("alice allocates; alice refreshes user=kid access=good => 441");
}

/// §7: an ACCESS-TOKEN that nobody asked for is an attribute that is not understood.
#[test]
fn where_no_tokens_are_taken_one_is_refused() {
    let no_tokens = "alice allocates user=kid access=good => 401; alice allocates";
    check_with(config(), no_tokens);
    check_with(config(), "alice allocates attribute=001b/20 => 420 001b");
    check_with(config(), "alice allocates; alice refreshes attribute=001b/20 => 420 001b");
    check_with(config(), "alice allocates attribute=7001 attribute=001b/20 => 420 7001001b");
    check_with(config(), "alice asks attribute=001b/20 => 420 001b");
    check_with(offering(), "alice asks attribute=001b/20");
}

#[test]
fn a_challenge_names_the_server_that_tokens_are_for() {
    let mut world = crate::world::World::new(offering());
    let name = (A::THIRD_PARTY_AUTHORIZATION, SERVER_NAME.as_bytes().to_vec());
    for (request, names) in [("auth=none => 401", true), ("nonce=forged => 438", false)] {
        run(&mut world, &format!("alice allocates {request}"));
        let challenge = world.client("alice").challenge.clone();
        assert_eq!(challenge.contains(&name), names, "{challenge:?}");
    }
}
