//! §6.3 Receiving a message: what is discarded, and requests that come again.

use crate::script::{check, run, say};
use crate::world::{World, config};

#[test]
fn a_request_of_an_unknown_method_is_silently_discarded() {
    check("alice tries something => only unknown_method");
    check("alice tries something fingerprint => only unknown_method");
    // Send and Data have no requests: a class that the method does not allow.
    check("alice says 000600002112a442000000000000000000000000 => only unknown_method");
    check("alice says 000700002112a442000000000000000000000000 => only unknown_method");
    // The method of RFC 3489's shared secrets, and one of other protocols.
    check("alice says 000200002112a442000000000000000000000000 => only unknown_method");
    check("alice says 020000002112a442000000000000000000000000 => only unknown_method");
}

/// §6.3.1 lets a server remember its responses for 40 seconds, or have requests that may come
/// twice. Ours may: nothing is kept but what an allocation keeps anyway.
#[test]
fn a_request_that_comes_again_is_answered_alike() {
    for how in ["", "modern", "fingerprint", "modern hashed fingerprint"] {
        let mut config = config();
        config.credentials = config.credentials.with_userhashes(crate::world::REALM);
        let mut world = World::new(config);
        run(&mut world, "alice allocates auth=none => 401");
        for statement in [
            "alice asks",
            "alice allocates",
            "alice permits bob carol",
            "alice binds 4000 to bob",
            "alice binds 4000 to carol",
            "alice permits 10.0.0.1:9",
            "alice refreshes lifetime=700",
            "alice allocates lifetime=900",
        ] {
            let statement = format!("{statement} {how}");
            say(&mut world, &statement);
            let first = world.client("alice").reply.clone();
            for secs in [1, 38] {
                run(&mut world, &format!("{secs}s pass"));
                say(&mut world, &format!("{statement} again"));
                assert_eq!(world.client("alice").reply, first, "{statement}, {secs} s later");
            }
        }
        // The first Allocate again, behind all the others: RFC 8656 §7.2 has its answer kept.
        let mut world = World::new(crate::world::config());
        run(&mut world, &format!("alice allocates {}", how.replace("hashed", "")));
        let first = world.client("alice").reply.clone();
        let again = format!("alice allocates {} again", how.replace("hashed", ""));
        run(&mut world, &format!("10s pass; {again}"));
        assert_eq!(world.client("alice").reply, first);
    }
}

/// Deletion is the exception: RFC 8656 §8.2 wants 437 where there is no allocation, which clients
/// take for success.
#[test]
fn a_deletion_that_comes_again_finds_nothing() {
    check(
        "alice allocates; alice refreshes lifetime=0 => close, ok 0; \
           alice refreshes lifetime=0 again => 437",
    );
}

#[test]
fn who_repeats_a_foreign_transaction_gets_no_foreign_answer() {
    check("alice allocates; alice allocates again user=other password=word => 437");
    check("alice allocates; alice allocates again password=wrong => 401");
}
