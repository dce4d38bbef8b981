//! Who may allocate and for how long (RFC 8489 §9.2): users that are looked up, credentials that
//! end, credentials that are replaced.

use relay_turn::{
    Config, Credentials, Input, Limits, LookUpOutcome, LookUps, LookedUp, RealmId, Secret,
};

use super::script::{check, check_with, run};
use super::world::{World, config};

/// A server that looks users up besides its own.
fn asking() -> Config {
    let look_ups = LookUps {
        cache_secs: 100,
        negative_cache_secs: 10,
        stale_secs: 1000,
        per_source_per_sec: 1000,
    };
    let limits = Limits { look_ups: Some(look_ups), ..config().limits };
    Config { limits, ..config() }
}

fn check_asking(script: &str) {
    check_with(asking(), script);
}

#[test]
fn a_request_waits_for_its_user_and_is_then_judged() {
    check_asking(
        "alice allocates user=eve password=apple => only look eve; \
         find eve apple for alice => only open, ok 600; \
         alice permits bob user=eve password=apple; alice refreshes user=eve password=apple",
    );
    check_asking(
        "alice allocates user=eve password=pear => look eve; find eve apple for alice => only 401; \
         alice allocates user=eve password=apple => open, ok",
    );
    check_asking("alice allocates user=eve => look eve; find eve absent for alice => only 401");
    check_asking("alice allocates user=eve => only look eve; find eve failed for alice => 500");
}

#[test]
fn who_is_known_here_is_not_looked_up() {
    check_asking("alice allocates; alice refreshes");
    check_asking("alice allocates password=wrong => only 401");
    check_asking("alice allocates user=1800000000:x secret=north");
    check_asking("alice allocates user=1800000000:x secret=wrong => only 401");
    check_asking("alice allocates user=1600000000:x secret=north => only 401");
    check("alice allocates user=eve => only 401");
    let credentials = Credentials::new([], Vec::new());
    check_with(
        Config { credentials, ..asking() },
        "alice allocates user=1800000000:x password=p => look 1800000000:x; \
         find 1800000000:x p for alice => open, ok",
    );
}

#[test]
fn only_a_request_with_a_good_nonce_of_its_client_causes_a_look_up() {
    for user in ["eve", "user"] {
        // The same answer for a name that is known, so that it tells nothing.
        let script = format!("alice allocates user={user} password=x nonce=forged => only 438");
        check_asking(&script);
        let late = format!(
            "alice allocates auth=none => 401; 3601s pass; alice allocates \
                            user={user} password=x => only 438"
        );
        check_asking(&late);
    }
    check_asking("alice allocates user=eve auth=none => only 401");
    check_asking("alice allocates user=eve without=username => only 400");
    check_asking("alice allocates user=eve without=realm => only 400");
    check_asking("alice allocates user=eve without=nonce => only 400");
    check_asking("alice allocates user=eve names=elsewhere => only 401");
    check_asking("alice asks user=eve => only ok");
    let name = "e".repeat(509);
    check_asking(&format!("alice allocates user={name} => only 401"));
    let name = "e".repeat(508);
    check_asking(&format!("alice allocates user={name} => only look {name}"));
}

#[test]
fn answers_are_good_for_their_time() {
    check_asking(
        "alice allocates user=eve => look eve; find eve pass for alice => open, ok; \
         99s pass; alice refreshes user=eve => only ok; \
         1s pass; alice refreshes user=eve => only look eve; \
         find eve absent for alice => only 401; 9s pass; alice refreshes user=eve => only 401; \
         1s pass; alice refreshes user=eve => only look eve; find eve pass for alice => only ok",
    );
}

#[test]
fn while_look_ups_fail_who_was_known_stays_known_for_a_time() {
    check_asking(
        "alice allocates user=eve lifetime=3600 => look eve; find eve pass for alice => open, ok; \
         100s pass; alice refreshes user=eve lifetime=3600 => look eve; \
         find eve failed for alice => only ok; \
         4s pass; alice refreshes user=eve lifetime=3600 => only ok; \
         1s pass; alice refreshes user=eve password=wrong => look eve; \
         find eve failed for alice => only 401; \
         994s pass; alice refreshes user=eve => look eve; find eve failed for alice => only ok; \
         1s pass; alice refreshes user=eve => look eve; find eve failed for alice => only 500",
    );
    // Who was taken away meanwhile is not let in by a failure.
    check_asking(
        "alice allocates user=eve => look eve; find eve pass for alice => open, ok; \
         100s pass; alice refreshes user=eve => look eve; find eve absent for alice => only 401; \
         10s pass; alice refreshes user=eve => look eve; find eve failed for alice => only 500",
    );
    let mut closed = asking();
    let look_ups = closed.limits.look_ups.map(|terms| LookUps { stale_secs: 0, ..terms });
    closed.limits = Limits { look_ups, ..closed.limits };
    check_with(
        closed,
        "alice allocates user=eve => look eve; find eve pass for alice => open, ok; \
         100s pass; alice refreshes user=eve => look eve; find eve failed for alice => only 500",
    );
}

#[test]
fn look_ups_of_the_same_user_are_one() {
    check_asking(
        "alice allocates user=eve => only look eve; \
         alice allocates user=eve again => look_up_pending; anna allocates user=eve => nothing; \
         alice allocates user=ede => only look ede",
    );
    let mut world = World::new(asking());
    run(&mut world, "alice allocates user=eve => look eve; anna allocates user=eve => nothing");
    let realm = RealmId::DEFAULT;
    let input = Input::LookedUp { realm, user: b"eve", answer: &LookedUp::Failed };
    world.turn.handle(world.now, input);
    assert_eq!(std::iter::from_fn(|| world.turn.poll()).count(), 2, "both are told");
    assert_eq!(world.turn.snapshot().look_ups(LookUpOutcome::Failed), 1);
    // A late answer, and one that nobody asked for.
    world.turn.handle(world.now, input);
    assert_eq!(world.turn.poll(), None);
}

#[test]
fn what_waits_is_bounded() {
    let mut script = String::new();
    for number in 0..64 {
        script += &format!("alice allocates user=u{number} => look u{number};");
    }
    check_asking(&format!("{script} alice allocates user=u64 => look_up_busy; alice allocates"));
    let script = "alice allocates user=eve => look eve;".to_owned();
    let more = "alice allocates user=eve => nothing;".repeat(15);
    check_asking(&format!("{script} {more} alice allocates user=eve => look_up_busy"));
    check_asking("alice allocates user=eve attribute=8099/1400 => look_up_busy");
}

#[test]
fn one_source_causes_so_many_look_ups() {
    let mut slow = asking();
    let look_ups = slow.limits.look_ups.map(|terms| LookUps { per_source_per_sec: 1, ..terms });
    slow.limits = Limits { look_ups, ..slow.limits };
    check_with(
        slow,
        "alice allocates user=a => look a; anna allocates user=b => look b; \
         alice allocates user=c => rate_limited; amy allocates user=c => look c; \
         1s pass; alice allocates user=d => look d; alice allocates user=e => rate_limited",
    );
}

#[test]
fn a_flood_of_names_leaves_memory_as_it_was() {
    let mut world = World::new(asking());
    run(&mut world, "alice allocates auth=none => 401; alice allocates user=eve => look eve");
    run(&mut world, "find eve pass for alice => open, ok");
    for number in 0..4_200 {
        run(&mut world, &format!("alice permits bob user=n{number} => look n{number}"));
        run(&mut world, &format!("find n{number} absent for alice => 401; 1ns pass"));
        if number % 500 == 0 {
            run(&mut world, "1s pass; alice refreshes user=eve => only ok");
        }
    }
}

#[test]
fn replaced_credentials_leave_allocations_alone() {
    let mut world = World::new(config());
    run(&mut world, "alice allocates user=1800000000:x secret=south");
    run(&mut world, "alice permits bob user=1800000000:x secret=south");
    let users = [("user".to_owned(), Secret::key(USER_KEY).unwrap())];
    let new = Credentials::of(users, vec!["west".to_owned()]);
    world.turn.replace_credentials(RealmId::DEFAULT, new);
    run(
        &mut world,
        "peer bob sends 5 to alice => to alice; \
         alice refreshes user=1800000000:x secret=south => 401; \
         alice refreshes user=1800000000:x secret=west => ok 600; \
         anna allocates user=other password=word => 401; anna allocates; 600s pass => close",
    );
}

/// MD5 of `user:example.org:pass`.
const USER_KEY: &str = "abca35356f4b00fbc33e2d8c2c43b9d6";

#[test]
fn a_strict_lifetime_ends_with_the_credentials() {
    let limits = Limits { strict_expiry: true, ..config().limits };
    let check_strict = |script| check_with(Config { limits, ..config() }, script);
    // The world begins at 1700000000.
    check_strict(
        "alice allocates user=1700000100:x secret=north => open, ok 100; \
         60s pass; alice refreshes user=1700000100:x secret=north lifetime=3600 => ok 40; \
         39s pass => nothing; alice refreshes user=1700000100:x secret=north => ok 1; \
         1s pass => close",
    );
    check_strict(
        "alice allocates user=1700000700:x secret=north => ok 600; \
         alice refreshes user=1700000700:x secret=north lifetime=3600 => ok 700; \
         alice binds 4000 to bob user=1700000700:x secret=north => install 4000 600/300, ok; \
         alice refreshes user=1700000700:x secret=north lifetime=0 => withdraw 4000, close, ok 0",
    );
    check_strict("alice allocates lifetime=3600 => ok 3600");
    check("alice allocates user=1700000100:x secret=north => open, ok 600");
}

#[test]
fn a_look_up_that_is_not_asked_for_is_no_input() {
    let mut world = World::new(config());
    let found = LookedUp::Found("pass".to_owned().into());
    let realm = RealmId::DEFAULT;
    world.turn.handle(world.now, Input::LookedUp { realm, user: b"eve", answer: &found });
    assert_eq!(world.turn.poll(), None);
    run(&mut world, "alice allocates user=eve => only 401");
}
