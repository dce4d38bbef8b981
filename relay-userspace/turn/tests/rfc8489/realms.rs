//! Realms (RFC 8489 §9.2): each has addresses and users of its own. In these tests alice asks the
//! default one, anna and amy the other one.

use relay_common::addr::ServerAddr;
use relay_common::wire::attribute::AttributeType as A;
use relay_turn::{
    AccessTokens, Config, Credentials, Input, Limits, LookUpOutcome, LookUps, LookedUp, Mobility,
    Offers, Realm, RealmId, TokenKey,
};

use crate::script::run;
use crate::world::{REALM, World, config};

const OTHER: &str = "elsewhere.example";
const OTHER_SERVER: &str = "11.0.0.1:3479";

/// A user of a realm: `eve`, and in another than the default one `eve@1`.
pub(crate) fn name(realm: RealmId, user: &[u8]) -> String {
    let user = std::str::from_utf8(user).unwrap();
    match realm.index() {
        0 => user.to_owned(),
        index => format!("{user}@{index}"),
    }
}

/// The same, read.
pub(crate) fn read(name: &str) -> (RealmId, &[u8]) {
    let (user, index) = name.split_once('@').unwrap_or((name, "0"));
    (RealmId::first(9).nth(index.parse().unwrap()).unwrap(), user.as_bytes())
}

/// The realm of a server address.
pub(crate) fn of(server: ServerAddr) -> &'static str {
    if server.socket() == OTHER_SERVER.parse().unwrap() { OTHER } else { REALM }
}

/// The server of the other tests and a second realm, with a user of the same name.
fn two() -> Config {
    let users = [("user", "ssap"), ("zoe", "pw")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    let other = Realm {
        name: OTHER.to_owned(),
        servers: vec![OTHER_SERVER.parse().unwrap()],
        credentials: Credentials::new(users, vec!["west".to_owned()]),
        is_looked_up: true,
    };
    Config { realms: vec![other], ..config() }
}

fn world(config: Config) -> World {
    let mut world = World::new(config);
    for name in ["anna", "amy"] {
        world.client(name).five_tuple.server = ServerAddr::new(OTHER_SERVER.parse().unwrap());
    }
    world
}

fn check_with(config: Config, script: &str) {
    let mut script = script.replace(" there ", &format!(" realm={OTHER} "));
    script = script.replace(" there", &format!(" realm={OTHER}"));
    run(&mut world(config), &script);
}

fn check(script: &str) {
    check_with(two(), script);
}

/// Time-limited credentials of the other realm's secret.
const WEST: &str = "user=1800000000:x secret=west";
/// And of the default one's.
const NORTH: &str = "user=1800000000:x secret=north";

#[test]
fn every_address_names_its_own_realm() {
    let mut world = world(two());
    run(&mut world, "alice allocates auth=none => 401; anna allocates auth=none => 401");
    for (client, realm) in [("alice", "example.org"), ("anna", OTHER)] {
        let challenge = &world.client(client).challenge;
        let named = challenge.iter().find(|(kind, _)| *kind == A::REALM).unwrap();
        assert_eq!(named.1, realm.as_bytes(), "{client}");
    }
}

#[test]
fn users_are_good_in_their_realm_only() {
    check("alice allocates; anna allocates user=zoe password=pw there; alice refreshes");
    check(
        "alice allocates user=zoe password=pw => 401; \
         anna allocates user=other password=word there => 401",
    );
    // The same name is another user, with another password.
    check("anna allocates there => 401; anna allocates password=ssap there");
    check("alice allocates password=ssap => 401; alice allocates");
    check(&format!("alice allocates {NORTH}; anna allocates {WEST} there"));
    check(&format!("alice allocates {WEST} => 401; anna allocates {NORTH} there => 401"));
}

/// §9.2.4: another realm than the one of the address that is asked is not known there, be the
/// password right in it.
#[test]
fn a_realm_of_another_address_is_refused() {
    check("anna allocates => 401; anna allocates password=ssap => 401");
    check("alice allocates password=ssap there => 401; alice allocates there => 401");
    check(&format!("alice allocates {WEST} there => 401; anna allocates {NORTH} => 401"));
    // The key of one realm with the name of the other.
    check(&format!("anna allocates names={OTHER} => 401"));
    check("alice allocates password=ssap names=example.org there => 401");
    check("anna allocates password=ssap there names=example.org => 401");
    check("alice allocates; alice refreshes there => 401; alice permits bob there => 401");
}

#[test]
fn a_nonce_alone_lets_nobody_in() {
    let mut world = world(two());
    run(&mut world, "alice allocates auth=none => 401");
    // The same client asks both: the nonce is good, and helps nothing.
    let nonce = world.client("alice").nonce.clone();
    let other = ServerAddr::new(OTHER_SERVER.parse().unwrap());
    world.client("alice").five_tuple.server = other;
    run(&mut world, "alice allocates => 401");
    world.client("alice").nonce = nonce;
    run(&mut world, &format!("alice allocates password=ssap realm={OTHER} => open, ok"));
}

#[test]
fn credentials_of_one_realm_are_replaced_and_the_others_stay() {
    let mut world = world(two());
    let there = format!("realm={OTHER}");
    run(&mut world, &format!("alice allocates; anna allocates password=ssap {there}"));
    let realm = RealmId::first(2).nth(1).unwrap();
    let users = [("user".to_owned(), "new".to_owned())];
    world.turn.replace_credentials(realm, Credentials::new(users, vec!["east".to_owned()]));
    run(
        &mut world,
        &format!(
            "alice refreshes; anna refreshes password=ssap {there} => 401; \
             anna refreshes password=new {there}; amy allocates {WEST} {there} => 401; \
             amy allocates user=1800000000:x secret=east {there}"
        ),
    );
    // There is no third one.
    let none = RealmId::first(3).nth(2).unwrap();
    world.turn.replace_credentials(none, Credentials::default());
    run(&mut world, &format!("alice refreshes; anna refreshes password=new {there}"));
}

#[test]
fn the_quota_of_a_user_is_of_a_realm() {
    let one = || {
        let limits = Limits { user_allocations_max: 1, ..config().limits };
        Config { limits, ..two() }
    };
    check_with(
        one(),
        "alice allocates; anna allocates password=ssap there; \
         amy allocates password=ssap there => 486",
    );
    check_with(
        one(),
        &format!(
            "alice allocates {NORTH}; anna allocates {WEST} there; \
             amy allocates user=1800000001:x secret=west there => 486"
        ),
    );
}

fn asking(look_ups: LookUps) -> Config {
    let limits = Limits { look_ups: Some(look_ups), ..config().limits };
    Config { limits, ..two() }
}

const TERMS: LookUps = LookUps {
    cache_secs: 100,
    negative_cache_secs: 10,
    stale_secs: 1000,
    per_source_per_sec: 1000,
};

#[test]
fn a_look_up_is_in_a_realm() {
    check_with(
        asking(TERMS),
        "alice allocates user=eve password=apple => only look eve; \
         anna allocates user=eve password=pear there => only look eve@1; \
         find eve@1 pear for anna => only open, ok 600; \
         find eve apple for alice => only open, ok 600; \
         alice refreshes user=eve password=pear => only 401; \
         alice refreshes user=eve password=apple => only ok; \
         anna refreshes user=eve password=apple there => only 401; \
         anna refreshes user=eve password=pear there => only ok",
    );
    // Whoever is found, or is not, in one realm, is looked up in the other.
    check_with(
        asking(TERMS),
        "alice allocates user=eve => look eve; find eve pass for alice => open, ok; \
         anna allocates user=eve there => only look eve@1; \
         find eve@1 absent for anna => only 401; alice refreshes user=eve => only ok; \
         anna allocates user=eve there => only 401",
    );
    check_with(
        asking(TERMS),
        "anna allocates user=eve there => look eve@1; find eve@1 absent for anna => only 401; \
         alice allocates user=eve => only look eve",
    );
    check_with(asking(TERMS), "alice allocates user=eve there => only 401");
}

#[test]
fn an_answer_for_another_realm_answers_nothing() {
    let mut world = world(asking(TERMS));
    run(&mut world, "alice allocates user=eve password=apple => only look eve");
    let found = LookedUp::Found("apple".to_owned().into());
    let realm = RealmId::first(2).nth(1).unwrap();
    world.turn.handle(world.now, Input::LookedUp { realm, user: b"eve", answer: &found });
    assert_eq!(world.turn.poll(), None);
    assert_eq!(world.turn.snapshot().look_ups(LookUpOutcome::Found), 0);
    run(&mut world, "find eve apple for alice => only open, ok 600");
}

#[test]
fn a_realm_that_is_not_looked_up_has_only_its_own_users() {
    let mut closed = asking(TERMS);
    closed.realms[0].is_looked_up = false;
    check_with(
        closed,
        "anna allocates user=eve there => only 401; anna allocates password=ssap there; \
         alice allocates user=eve => only look eve",
    );
}

/// A token names no realm: it would be good in each.
#[test]
fn tokens_are_good_in_the_default_realm_only() {
    let mut offering = two();
    let key = TokenKey::new("kid", &[7; 32]).unwrap();
    let tokens = AccessTokens::new("turn.example.org".to_owned(), vec![key]);
    offering.offers.access_tokens = Some(tokens);
    let mut world = world(offering);
    let there = format!("realm={OTHER}");
    run(&mut world, "alice allocates user=kid access=good");
    run(&mut world, &format!("anna allocates user=kid access=good {there} => 401"));
    for (client, is_offered) in [("alice", true), ("anna", false)] {
        let challenge = &world.client(client).challenge;
        let offer = challenge.iter().any(|(kind, _)| *kind == A::THIRD_PARTY_AUTHORIZATION);
        assert_eq!(offer, is_offered, "{client}");
    }
    run(&mut world, &format!("amy allocates password=ssap access=good {there} => 401"));
    run(&mut world, &format!("amy allocates password=ssap {there}"));
}

#[test]
fn a_user_is_found_by_a_hash_in_its_realm() {
    let mut hashing = two();
    hashing.offers.userhash = true;
    hashing.credentials = hashing.credentials.with_userhashes("example.org");
    let other = &mut hashing.realms[0];
    other.credentials = other.credentials.clone().with_userhashes(OTHER);
    check_with(
        hashing.clone(),
        "alice allocates hashed; anna allocates user=zoe password=pw hashed there; \
         alice refreshes hashed; anna refreshes user=zoe password=pw hashed modern there",
    );
    check_with(
        hashing,
        "alice allocates hashed user=zoe password=pw => 401; \
         anna allocates hashed user=other password=word there => 401",
    );
}

#[test]
fn a_ticket_moves_nothing_from_one_realm_to_another() {
    let offers = Offers { mobility: Some(Mobility { shard: 0 }), ..Offers::default() };
    let config = || Config { offers: offers.clone(), ..two() };
    // The same name is another user there.
    check_with(
        config(),
        "alice allocates ticket=none; anna refreshes ticket=alice there password=ssap => 441; \
         anna permits bob there password=ssap => 437; alice refreshes",
    );
    check_with(
        config(),
        "anna allocates ticket=none there password=ssap; alice refreshes ticket=anna => 441; \
         amy refreshes ticket=anna there password=ssap => only adopt amy, ok 600 ticket",
    );
}
