//! §11 Send and Data indications.

use super::script::{check, run};
use super::world::{World, config};
use relay_common::abi::{Count, Direction};

#[test]
fn a_send_indication_needs_an_allocation_and_a_permission() {
    check("alice sends 5 to bob => no_allocation");
    check("alice allocates; alice sends 5 to bob => no_permission");
    check("alice allocates; alice permits bob; alice sends 5 to bob => to bob 5");
    check("alice allocates; alice permits bob; alice sends 5 to bob2 => to bob2 5");
    check("alice allocates; alice permits bob; alice sends 0 to bob => to bob 0");
    check("alice allocates; alice permits bob; anna sends 0 to bob => no_allocation");
    check("alice allocates; alice permits bob; alice sends 5 to bob fingerprint => to bob 5");
}

#[test]
fn a_send_indication_of_another_shape_is_dropped() {
    let send =
        |attributes: &str| format!("alice allocates; alice permits bob; alice says {attributes}");
    // Neither; no data; no peer; a peer of a wrong size.
    check(&send("001600002112a442000000000000000000000000 => malformed_indication"));
    check(&send(
        "0016000c2112a442000000000000000000000000001200080001000000000000 => malformed_indication",
    ));
    check(&send("001600042112a44200000000000000000000000000130000 => malformed_indication"));
    check(&send("0016000c2112a44200000000000000000000000000120004000100000013 => malformed_stun"));
    check(&send(
        "0016000c2112a442000000000000000000000000001200040001000000130000 => malformed_indication",
    ));
    check("alice allocates; alice permits bob; alice sends 5 to bob6 => peer_denied");
    check(
        "alice allocates; alice permits bob; alice sends 5 to bob attribute=7001 \
         => unknown_attribute",
    );
    check("alice allocates; alice permits bob; alice sends 5 to bob attribute=8001 => to bob 5");
}

#[test]
fn dont_fragment_is_not_honoured_so_it_is_not_sent() {
    check(
        "alice allocates; alice permits bob; alice sends 5 to bob attribute=001a => dont_fragment",
    );
}

#[test]
fn data_without_a_channel_comes_as_a_data_indication() {
    for bytes in [0, 1, 2, 3, 4, 5, 1200] {
        check(&format!(
            "alice allocates; alice permits bob; peer bob sends {bytes} to alice \
             => to alice data bob {bytes}"
        ));
    }
    check(
        "alice6 allocates family=6; alice6 permits bob6; peer bob6 sends 5 to alice6 \
         => to alice6 data bob6 5",
    );
}

#[test]
fn what_does_not_fit_behind_its_head_is_dropped() {
    check("alice allocates; alice permits bob; peer bob sends 65471 to alice => too_big");
    check(
        "alice allocates; alice permits bob; peer bob sends 65468 to alice \
         => to alice data bob 65468",
    );
    check(
        "alice allocates; alice binds 4000 to bob; peer bob sends 65503 to alice \
         => to alice 4000 65503",
    );
    check("alice allocates; alice binds 4000 to bob; peer bob sends 65504 to alice => too_big");
}

#[test]
fn application_data_is_counted_each_way() {
    let mut world = World::new(config());
    run(
        &mut world,
        "alice allocates; alice permits bob; alice sends 5 to bob; alice sends 6 to bob",
    );
    run(&mut world, "alice binds 4000 to bob; alice sends 7 on 4000; peer bob sends 100 to alice");
    run(&mut world, "peer carol sends 1 to alice => no_permission");
    let snapshot = world.turn.snapshot();
    assert_eq!(snapshot.relayed(Direction::ClientToPeer), Count { packets: 3, bytes: 18 });
    assert_eq!(snapshot.relayed(Direction::PeerToClient), Count { packets: 1, bytes: 100 });
}
