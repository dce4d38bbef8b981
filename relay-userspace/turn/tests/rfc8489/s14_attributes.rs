//! §14 Attributes: integrity, what follows it, duplicates and SOFTWARE.

use relay_common::wire::stun::HEADER_BYTES;

use crate::script::{check, check_with, run};
use crate::world::{World, config};

/// §14.6 allows truncation where the usage says so; TURN does not.
#[test]
fn a_truncated_sha256_integrity_is_malformed() {
    for cut in [4, 8, 12, 16, 20, 28, 32, 1] {
        check(&format!("alice allocates modern cut={cut} => 400"));
    }
    check("alice allocates auth=none attribute=001c/36 => 400");
    check("alice allocates auth=none attribute=001c/32 => 400");
    check("alice allocates auth=none attribute=0008/20 => 400");
    // The stronger one is judged where there are both, also if only the weaker one is right.
    check("alice allocates late=001c/32 => 401; alice allocates late=001c/20 => 400");
}

#[test]
fn behind_integrity_only_the_stronger_one_and_fingerprint_count() {
    for how in ["proof=sha1", "modern", "modern proof=both"] {
        check(&format!("alice allocates {how} late=7001/4 late=000d/4 fingerprint => ok 600"));
    }
    // MESSAGE-INTEGRITY behind the stronger one is no second opinion.
    check("alice allocates modern late=0008/20");
    // In front of it everything counts.
    check("alice allocates modern attribute=7001/4 => 420 7001");
}

#[test]
fn of_duplicates_the_first_counts() {
    check("alice allocates lifetime=700 lifetime=900 => ok 700");
    check("alice allocates transport=17 transport=6");
    check("alice allocates transport=6 transport=17 => 442");
}

/// §14.8: the phrase that the RFC has for a number, for who is known; the others get the number.
#[test]
fn a_reason_phrase_is_for_those_who_have_authenticated() {
    for (request, phrase) in [
        ("allocates auth=none => 401", ""),
        ("allocates without=realm => 400", ""),
        ("allocates nonce=forged => 438", ""),
        ("allocates transport=none => 400", "Bad Request"),
        ("allocates attribute=7001 => 420", "Unknown Attribute"),
        ("refreshes => 437", "Allocation Mismatch"),
        ("allocates family=9 => 440", "Address Family not Supported"),
        ("allocates transport=6 => 442", "Unsupported Transport Protocol"),
        ("allocates token=forged => 508", "Insufficient Capacity"),
        ("allocates => ok", ""),
        ("refreshes user=other password=word => 441", "Wrong Credentials"),
        ("permits bob6 => 443", "Peer Address Family Mismatch"),
    ] {
        let mut world = World::new(config());
        let needs_one = request.contains("441") || request.contains("443");
        run(&mut world, if needs_one { "alice allocates" } else { "alice asks" });
        run(&mut world, &format!("alice {request}"));
        assert_eq!(world.phrase, phrase, "{request}");
    }
}

#[test]
fn software_is_told_to_those_who_have_authenticated_if_it_is_configured() {
    let mut named = config();
    named.offers.software = Some("Turnpike".to_owned());
    // `World` compares each reply.
    check_with(named.clone(), "alice allocates auth=none => 401; alice asks; alice allocates");
    check_with(named, "alice refreshes modern => 437; alice allocates attribute=7001 => 420");
}

/// No changed bit and no missing byte of a signed request gets through, whatever it is signed with.
#[test]
fn a_changed_request_is_never_taken_for_the_one_that_was_signed() {
    for how in ["proof=sha1", "modern", "modern hashed"] {
        let mut config = config();
        config.limits.unauthenticated_replies_per_sec = 1_000_000;
        config.credentials = config.credentials.with_userhashes(crate::world::REALM);
        let mut world = World::new(config);
        run(&mut world, "alice allocates; alice permits bob");
        world.record = Some(Vec::new());
        run(&mut world, &format!("alice refreshes lifetime=0 {how} => close, ok 0"));
        let original = world.record.take().unwrap().remove(0);
        run(&mut world, "alice allocates; alice permits bob");
        let mut changed = Vec::new();
        for bit in 0..original.len() * 8 {
            let mut datagram = original.clone();
            datagram[bit / 8] ^= 1 << (bit % 8);
            changed.push(datagram);
        }
        for end in (0..original.len()).rev() {
            let mut datagram = original[..end].to_vec();
            changed.push(datagram.clone());
            if end >= HEADER_BYTES {
                let length = u16::try_from(end - HEADER_BYTES).unwrap().to_be_bytes();
                datagram[2..4].copy_from_slice(&length);
                changed.push(datagram);
            }
        }
        for datagram in changed {
            let five_tuple = world.client("alice").five_tuple;
            let input = relay_turn::Input::FromClient { five_tuple, datagram: &datagram };
            world.turn.handle(world.now, input);
            while let Some(output) = world.turn.poll() {
                let relay_turn::Output::Reply { bytes, .. } = output else {
                    panic!("{output:?} for {datagram:02x?}")
                };
                let class = world.turn.bytes(bytes)[0];
                assert!(class & 1 == 1, "an answer");
            }
        }
        run(&mut world, "alice refreshes");
    }
}
