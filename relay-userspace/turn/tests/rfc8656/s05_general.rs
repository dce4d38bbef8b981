//! §5 General behaviour, with RFC 8489 §6.3 (receiving) and §9.2 (long-term credentials).

use super::script::{check, check_with, run, say};
use super::world::{World, config};
use relay_turn::{Code, RequestMethod};

#[test]
fn a_first_request_is_challenged() {
    for verb in ["allocates", "refreshes", "permits", "binds 4000"] {
        check(&format!("alice {verb} auth=none => 401"));
    }
    check("alice allocates auth=none fingerprint => 401");
}

#[test]
fn a_binding_request_needs_no_credentials() {
    check("alice asks; alice6 asks; alice asks fingerprint");
    check("alice asks attribute=0003/4 => 420 0003");
    check("alice asks attribute=8003/4");
}

#[test]
fn credentials_must_be_complete_and_right() {
    check("alice allocates without=username => 400");
    check("alice allocates without=realm => 400");
    check("alice allocates without=nonce => 400");
    check("alice allocates auth=none attribute=0008/19 => 400");
    check("alice allocates password=wrong => 401; alice allocates");
    check("alice allocates user=nobody => 401");
    check("alice allocates user=other => 401");
    check("alice allocates user=other password=word");
    check("alice allocates realm=elsewhere => 401; alice allocates names=elsewhere => 401");
}

#[test]
fn a_time_limited_user_is_good_until_its_time_with_any_secret() {
    for secret in ["north", "south"] {
        check(&format!("alice allocates user=1700000001:x secret={secret}"));
        check(&format!("alice allocates user=1700000001 secret={secret}"));
        check(&format!("alice allocates user=1700000000:x secret={secret} => 401"));
    }
    check("alice allocates user=1700000001:x secret=east => 401");
    check("alice allocates user=later secret=north => 401");
    let user = "user=1700000002:x secret=north";
    check(&format!(
        "alice allocates {user}; 1s pass; alice refreshes {user}; 1s pass; alice refreshes {user} \
         => 401"
    ));
}

#[test]
fn a_nonce_lasts_for_its_lifetime_and_for_its_client() {
    check("alice allocates; 3600s pass; amy asks; alice allocates");
    check("alice asks; alice allocates nonce=forged => 438; alice allocates");
    check("alice allocates; 3000s pass; 600s pass; alice allocates");
    check("alice allocates; 3601s pass; alice allocates => 438; alice allocates");
    let mut world = World::new(config());
    run(&mut world, "alice allocates; anna allocates");
    let stolen = world.client("alice").nonce.clone();
    world.client("anna").nonce = stolen;
    run(&mut world, "anna refreshes => 438; anna refreshes");
}

#[test]
fn a_nonce_is_only_judged_for_who_knows_the_password() {
    check("alice allocates nonce=forged password=wrong => 401");
}

#[test]
fn a_request_for_another_users_allocation_is_refused() {
    for verb in ["refreshes", "refreshes lifetime=0", "permits bob", "binds 4000 to bob"] {
        check(&format!("alice allocates; alice {verb} user=other password=word => 441"));
    }
}

#[test]
fn a_request_without_an_allocation_is_a_mismatch() {
    for verb in ["refreshes", "permits bob", "binds 4000 to bob"] {
        check(&format!("alice {verb} => 437"));
        check(&format!("alice allocates; anna {verb} => 437"));
        check(&format!("alice allocates; 600s pass; alice {verb} => 437"));
    }
}

#[test]
fn unknown_attributes_that_must_be_understood_are_named() {
    check("alice allocates attribute=7001 attribute=0026/3 attribute=7001 => 420 70010026");
    check("alice allocates attribute=7001 auth=none => 401");
    check("alice allocates attribute=8777/9");
    let many: String = (0..65).map(|n| format!("attribute=7{n:03x} ")).collect();
    let named: String = (0..64).map(|n| format!("7{n:03x}")).collect();
    check(&format!("alice allocates {many} => 420 {named}"));
}

#[test]
fn attributes_behind_message_integrity_do_not_count() {
    check("alice allocates late=7001/4");
    check("alice allocates late=000d/4 => ok 600");
}

#[test]
fn what_is_not_a_request_gets_no_answer() {
    check("alice says 0001 => malformed_stun");
    check("alice says ff => not_turn");
    check("alice says 80 => not_turn");
    check("alice says 000100002112a442000000000000000000000000 => ok");
    // A wrong cookie, a wrong length, an attribute too long.
    check("alice says 000100002112a443000000000000000000000000 => malformed_stun");
    check("alice says 000100042112a442000000000000000000000000 => malformed_stun");
    check("alice says 000100042112a44200000000000000000000000000060001 => malformed_stun");
    // A FINGERPRINT that is none.
    check("alice says 000100082112a4420000000000000000000000008028000400000000 => bad_fingerprint");
    // Success and error responses; a Data indication; an indication of nothing known.
    check("alice says 010100002112a442000000000000000000000000 => unexpected_class");
    check("alice says 011100002112a442000000000000000000000000 => unexpected_class");
    check("alice says 001700002112a442000000000000000000000000 => unknown_indication");
    check("alice says 001100002112a442000000000000000000000000 => unknown_indication");
}

#[test]
fn an_empty_datagram_is_dropped() {
    let mut world = World::new(config());
    assert_eq!(world.client_sends("alice", &[], &super::script::UNSIGNED), "not_turn");
}

#[test]
fn the_unauthenticated_get_two_seconds_worth_of_replies() {
    let mut limited = config();
    limited.limits.unauthenticated_replies_per_sec = 3;
    let six = "alice asks; alice allocates auth=none => 401; anna allocates auth=none \
               attribute=0008/19 => 400; \
               alice asks; alice asks attribute=7001 => 420; anna asks; ";
    check_with(limited.clone(), &format!("{six} alice asks => rate_limited; amy asks"));
    check_with(limited.clone(), &format!("{six} anna asks => rate_limited; 1s pass; anna asks"));
    check_with(limited.clone(), &format!("{six} alice allocates auth=none => rate_limited"));
    // Who authenticates is not limited.
    let refreshes = "alice refreshes; ".repeat(20);
    check_with(limited, &format!("alice allocates; {refreshes}"));
}

#[test]
fn replies_to_the_unauthenticated_stay_small() {
    let mut world = World::new(config());
    for request in ["allocates auth=none", "asks"] {
        say(&mut world, &format!("alice {request}"));
        let five_tuple = world.client("alice").five_tuple;
        let header = [0u8, 3, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let input = relay_turn::Input::FromClient { five_tuple, datagram: &header };
        world.turn.handle(world.now, input);
        let Some(relay_turn::Output::Reply { bytes, .. }) = world.turn.poll() else { panic!() };
        assert!(bytes.len() <= 20 + 8 + 4 + 12 + 4 + 36 + 12, "{}", bytes.len());
        assert_eq!(world.turn.poll(), None);
    }
}

#[test]
fn requests_are_counted_by_method_and_code() {
    let mut world = World::new(config());
    run(
        &mut world,
        "alice asks; alice allocates; alice allocates => 437; alice tries it => unknown_method",
    );
    run(&mut world, "alice permits bob; alice binds 4000 to bob; alice refreshes lifetime=0");
    let snapshot = world.turn.snapshot();
    let mut counted = Vec::new();
    for method in RequestMethod::ALL {
        for code in Code::ALL.into_iter().filter(|code| snapshot.requests(method, *code) > 0) {
            let times = snapshot.requests(method, code);
            counted.push(format!("{} {} {times}", method.name(), code.name()));
        }
    }
    assert_eq!(
        counted,
        [
            "binding success 1",
            "allocate success 1",
            "allocate 401 1",
            "allocate 437 1",
            "refresh success 1",
            "create_permission success 1",
            "channel_bind success 1",
        ]
    );
}
