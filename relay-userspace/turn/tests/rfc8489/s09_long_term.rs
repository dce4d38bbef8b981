//! §9.2 Long-term credentials: the checks of §9.2.4 in their order, password algorithms, USERHASH
//! and what is done against bidding down.

use relay_common::wire::attribute::AttributeType as A;
use relay_turn::{Config, IntegrityKind, KeyKind, PasswordAlgorithm};

use crate::script::{check, check_with, run};
use crate::world::{REALM, World, config};

fn offering(algorithms: &[PasswordAlgorithm]) -> Config {
    let mut config = config();
    config.offers.password_algorithms = algorithms.to_vec();
    config
}

fn hashing() -> Config {
    let mut config = config();
    config.offers.userhash = true;
    config.credentials = config.credentials.with_userhashes(REALM);
    config
}

/// Which attributes a 401 has, and what its nonce starts with.
fn challenge(config: Config) -> (Vec<A>, String) {
    let mut world = World::new(config);
    run(&mut world, "alice allocates auth=none => 401");
    let challenge = &world.client("alice").challenge;
    let kinds = challenge.iter().map(|(kind, _)| *kind).collect();
    let nonce = String::from_utf8(world.client("alice").nonce.clone()).unwrap();
    (kinds, nonce.split_at(13).0.to_owned())
}

#[test]
fn a_challenge_tells_what_the_server_can_do() {
    let plain = vec![A::ERROR_CODE, A::REALM, A::NONCE];
    let all = [plain.as_slice(), &[A::PASSWORD_ALGORITHMS]].concat();
    let cookie = |bits: &str| format!("obMatJos2{bits}");
    assert_eq!(challenge(config()), (all.clone(), cookie("gAAA")));
    assert_eq!(challenge(hashing()), (all, cookie("wAAA")));
    assert_eq!(challenge(offering(&[])), (plain.clone(), cookie("AAAA")));
    let mut only_hashing = hashing();
    only_hashing.offers.password_algorithms = Vec::new();
    assert_eq!(challenge(only_hashing), (plain, cookie("QAAA")));
    // 438 says the same, and so does a 401 for a wrong user or password.
    for refused in ["nonce=forged => 438", "user=nobody => 401", "password=wrong => 401"] {
        let mut world = World::new(config());
        run(&mut world, &format!("alice asks; alice allocates {refused}"));
        let challenge = &world.client("alice").challenge;
        let list = (A::PASSWORD_ALGORITHMS, vec![0, 2, 0, 0, 0, 1, 0, 0]);
        assert!(challenge.contains(&list), "{challenge:?}");
    }
}

#[test]
fn the_algorithm_that_is_named_makes_the_key() {
    for algorithm in ["md5", "sha-256"] {
        let named = format!("algorithms=echo algorithm={algorithm} proof=sha256");
        check(&format!("alice allocates {named}; alice refreshes {named}"));
        check(&format!("alice allocates {named} password=wrong => 401"));
        check(&format!("alice allocates {named} user=1700000001:x secret=south"));
    }
    check("alice allocates; alice refreshes modern; alice permits bob");
}

/// A response has MESSAGE-INTEGRITY-SHA256 unless the request says nothing of algorithms; `World`
/// checks which it has.
#[test]
fn a_response_is_signed_as_the_request_asks() {
    check("alice allocates proof=sha1; alice refreshes proof=sha256; alice refreshes proof=both");
    for proof in ["sha1", "sha256", "both"] {
        let how = format!("modern proof={proof}");
        check(&format!("alice allocates {how}; alice refreshes {how}"));
    }
    check("alice refreshes modern => 437; alice allocates modern attribute=7001 => 420 7001");
}

#[test]
fn a_nonce_with_algorithms_wants_both_attributes_and_the_list_as_it_was() {
    let refused = |options: &str| {
        check(&format!("alice allocates {options} => 400"));
        // The check comes before those of user and password, which is why it is not signed.
        check(&format!("alice allocates {options} user=nobody => 400"));
    };
    refused("algorithm=sha-256 proof=sha256");
    refused("algorithm=md5");
    refused("algorithms=echo");
    refused("algorithms=00010000 algorithm=md5");
    refused("algorithms=00020000 algorithm=sha-256");
    refused("algorithms=0001000000020000 algorithm=sha-256");
    refused("algorithms=000200000001000000030000 algorithm=sha-256");
    refused("algorithms=echo algorithm=00030000");
    refused("algorithms=echo algorithm=000100040a0a0a0a");
    refused("algorithms=echo algorithm=");
    refused("algorithms= algorithm=md5");
    let only_md5 = offering(&[PasswordAlgorithm::Md5]);
    check_with(only_md5.clone(), "alice allocates algorithms=echo algorithm=md5");
    check_with(only_md5, "alice allocates algorithms=echo algorithm=sha-256 => 400");
}

/// Somebody in between takes PASSWORD-ALGORITHMS out of the challenge, and the feature bit out of
/// the nonce: the client then uses MD5, and the server sees that the nonce is not its own.
#[test]
fn bidding_down_is_noticed() {
    for (from, to) in [("gAAA", "AAAA"), ("gAAA", "QAAA"), ("obMatJos2gAAA", "")] {
        let mut world = World::new(config());
        run(&mut world, "alice allocates auth=none => 401");
        let nonce = String::from_utf8(world.client("alice").nonce.clone()).unwrap();
        world.client("alice").nonce = nonce.replacen(from, to, 1).into_bytes();
        run(&mut world, "alice allocates => 438; alice allocates");
    }
    // The list alone: the client sends back what it got, which is not what was sent.
    check("alice allocates algorithms=00010000 algorithm=md5 proof=sha256 => 400");
}

#[test]
fn without_an_offer_an_algorithm_may_still_be_named() {
    let silent = || offering(&[]);
    check_with(silent(), "alice allocates; alice refreshes algorithm=sha-256 proof=sha256");
    check_with(silent(), "alice allocates algorithm=md5; alice refreshes algorithms=00010000");
    check_with(silent(), "alice allocates algorithm=00030000 => 400");
    check_with(silent(), "alice allocates algorithm=sha-256 password=wrong => 401");
}

/// §9.2.4: integrity, then what must be there, then algorithms, then user, then password, then the
/// nonce. Each request is wrong in all that comes later, too.
#[test]
fn the_checks_are_made_in_their_order() {
    check("alice asks; alice allocates auth=none attribute=7001 => 401");
    let later = "nonce=forged user=nobody algorithms=0001 attribute=7001";
    for missing in ["username", "realm", "nonce"] {
        check(&format!("alice allocates {later} without={missing} => 400"));
    }
    check(&format!("alice allocates {later} => 400"));
    check("alice allocates nonce=forged user=nobody attribute=7001 => 401");
    check("alice allocates nonce=forged password=wrong attribute=7001 => 401");
    check("alice allocates nonce=forged attribute=7001 => 438");
    check("alice allocates attribute=7001 => 420 7001");
}

#[test]
fn a_static_user_can_be_named_by_a_hash() {
    check_with(hashing(), "alice allocates hashed modern; alice refreshes hashed modern");
    check_with(hashing(), "alice allocates hashed; alice refreshes hashed");
    check_with(hashing(), "alice allocates hashed user=other password=word");
    // It is the same user, whichever way.
    check_with(hashing(), "alice allocates hashed modern; alice refreshes; alice permits bob");
    check_with(
        hashing(),
        "alice allocates; alice refreshes hashed user=other password=word => 441",
    );
    check_with(hashing(), "alice allocates hashed password=wrong => 401");
    check_with(hashing(), "alice allocates hashed user=nobody => 401");
    check_with(hashing(), "alice allocates hashed without=username => 400");
    check_with(hashing(), "alice allocates without=username attribute=001e/31 => 401");
    check_with(hashing(), "alice allocates attribute=001e/32");
    // A time-limited name cannot be found by its hash; a static one only where it is configured.
    check_with(hashing(), "alice allocates hashed user=1700000001:x secret=north => 401");
    check("alice allocates hashed => 401");
}

#[test]
fn what_requests_were_proved_with_is_counted() {
    let mut world = World::new(config());
    run(&mut world, "alice allocates; alice refreshes; alice refreshes modern");
    run(&mut world, "alice refreshes algorithms=echo algorithm=md5 proof=both");
    run(&mut world, "alice refreshes password=wrong => 401; alice refreshes nonce=forged => 438");
    run(&mut world, "anna refreshes modern => 437");
    let snapshot = world.turn.snapshot();
    let count = |integrity, key| snapshot.authenticated(integrity, key);
    assert_eq!(count(IntegrityKind::Sha1, KeyKind::Md5), 2);
    assert_eq!(count(IntegrityKind::Sha256, KeyKind::Md5), 1);
    assert_eq!(count(IntegrityKind::Sha256, KeyKind::Sha256), 2);
    assert_eq!(count(IntegrityKind::Sha1, KeyKind::Sha256), 0);
}

/// RFC 8656 §5: each attempt has a nonce of its own, and each of them is good.
#[test]
fn every_challenge_has_another_nonce() {
    let mut world = World::new(config());
    let mut nonces = Vec::new();
    for _ in 0..8 {
        run(&mut world, "alice allocates auth=none => 401");
        nonces.push(world.client("alice").nonce.clone());
    }
    for nonce in &nonces {
        assert_eq!(nonces.iter().filter(|other| *other == nonce).count(), 1);
        world.client("alice").nonce = nonce.clone();
        run(&mut world, "alice allocates; alice refreshes lifetime=0 => close, ok 0");
    }
}

/// Bytes of a challenge to the smallest request there is, 20 bytes, by what is offered.
#[test]
fn a_challenge_is_as_small_as_it_can_be() {
    for (config, bytes) in [
        (config(), 96),
        (hashing(), 96),
        (offering(&[PasswordAlgorithm::Sha256]), 92),
        (offering(&[]), 84),
    ] {
        let mut world = World::new(config);
        run(&mut world, "alice allocates auth=none => 401");
        let realm = REALM.len().next_multiple_of(4);
        assert_eq!(world.client("alice").reply.len(), bytes - 12 + realm);
    }
}
