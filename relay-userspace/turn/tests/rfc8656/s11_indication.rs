//! §11 Send and Data indications.

use super::script::{check, check_with, run};
use super::world::{World, config};
use relay_common::abi::{Count, Direction};
use relay_turn::{Limits, Output};

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
    // An IPv4 address in an IPv6 one, for which there is no permission either.
    check(
        "alice allocates additional=6; alice permits bob 9.9.9.1:1; \
         alice sends 5 to 9.9.9.1:1 => to 9.9.9.1:1 5; \
         alice sends 5 to [::ffff:9.9.9.1]:1 => peer_denied",
    );
    check(
        "alice allocates; alice permits bob; alice sends 5 to bob attribute=7001 \
         => unknown_attribute",
    );
    check("alice allocates; alice permits bob; alice sends 5 to bob attribute=8001 => to bob 5");
}

#[test]
fn dont_fragment_counts_from_ipv4_to_ipv4() {
    check(
        "alice allocates; alice permits bob; alice sends 5 to bob => to bob 5; \
         alice sends 5 to bob attribute=001a => only to bob 5 whole",
    );
    // §13.1, §13.2 and §13.3 want it ignored.
    let both = "allocates additional=6; alice permits bob bob6";
    check(&format!(
        "alice {both}; alice sends 5 to bob6 attribute=001a => to bob6 5; \
         alice sends 5 to bob attribute=001a => to bob 5 whole"
    ));
    check(
        "alice6 allocates additional=6; alice6 permits bob bob6; \
         alice6 sends 5 to bob attribute=001a => to bob 5; \
         alice6 sends 5 to bob6 attribute=001a => to bob6 5",
    );
    check("alice allocates; alice sends 5 to bob attribute=001a => no_permission");
}

#[test]
fn with_two_families_data_takes_that_of_the_peer() {
    check(
        "alice allocates additional=6; alice permits bob carol6; alice sends 5 to bob => to bob 5; \
         alice sends 6 to carol6 => to carol6 6; alice sends 7 to bob6 => no_permission; \
         peer bob sends 8 to alice => to alice data bob 8; \
         peer carol6 sends 9 to alice => to alice data carol6 9; \
         peer bob6 sends 9 to alice => no_permission",
    );
    check(
        "alice allocates additional=6; alice permits carol6; alice refreshes family=6 lifetime=0; \
         alice sends 6 to carol6 => peer_denied; peer carol6 sends 9 to alice => no_permission; \
         icmp 1/0/0 of carol6 for alice => icmp_no_permission",
    );
    check(
        "alice allocates additional=6; alice permits bob bob6; \
         icmp 3/4/1400 of bob for alice => to alice icmp bob 3/4 1400; \
         icmp 2/0/1280 of bob6 for alice => to alice icmp bob6 2/0 1280",
    );
}

#[test]
fn limits_count_both_families_together() {
    let mut limited = config();
    limited.limits.allocation_packets_per_sec = 20;
    check_with(
        limited,
        "alice allocates additional=6; alice permits bob bob6; alice sends 5 to bob; \
         alice sends 5 to bob6; alice sends 5 to bob; alice sends 5 to bob6 => policed; \
         alice sends 5 to bob => policed; \
         50000000ns pass; alice sends 5 to bob6; alice sends 5 to bob => policed",
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

#[test]
fn an_icmp_error_about_a_datagram_comes_as_a_data_indication_without_data() {
    let icmp = |error: &str| format!("alice allocates; alice permits bob; icmp {error}");
    for told in ["3/0/0", "3/1/0", "3/3/0", "3/13/0", "11/0/0", "11/1/0", "3/4/1400"] {
        let [kind, code, data] = told.split('/').collect::<Vec<_>>()[..] else { panic!() };
        check(&icmp(&format!("{told} of bob for alice => to alice icmp bob {kind}/{code} {data}")));
    }
    // A channel changes nothing: there is no other way to say it (§12.7).
    check(
        "alice allocates; alice binds 4000 to bob; icmp 3/3/0 of bob for alice \
         => only to alice icmp bob 3/3 0",
    );
    let icmp6 =
        |error: &str| format!("alice6 allocates family=6; alice6 permits bob6; icmp {error}");
    for told in ["1/4/0", "2/0/1280", "3/0/0", "3/1/0"] {
        let [kind, code, data] = told.split('/').collect::<Vec<_>>()[..] else { panic!() };
        check(&icmp6(&format!(
            "{told} of bob6 for alice6 => to alice6 icmp bob6 {kind}/{code} {data}"
        )));
    }
    // Only an error about size has data (§18.13).
    check(&icmp("3/3/9 of bob for alice => to alice icmp bob 3/3 0"));
    check(&icmp("11/4/9 of bob for alice => to alice icmp bob 11/4 0"));
    check(&icmp6("1/4/9 of bob6 for alice6 => to alice6 icmp bob6 1/4 0"));
}

#[test]
fn an_icmp_error_of_another_type_is_dropped() {
    for other in ["0/0/0", "4/0/0", "5/1/0", "8/0/0", "12/0/0", "1/4/0", "2/0/1280"] {
        check(&format!(
            "alice allocates; alice permits bob; icmp {other} of bob for alice \
             => only icmp_other_type"
        ));
    }
    for other in ["0/0/0", "4/0/0", "11/0/0", "127/0/0"] {
        check(&format!(
            "alice6 allocates family=6; alice6 permits bob6; icmp {other} of bob6 for alice6 \
             => only icmp_other_type"
        ));
    }
}

#[test]
fn an_icmp_error_needs_a_permission_for_the_address_and_no_port() {
    check("alice allocates; icmp 3/3/0 of bob for alice => only icmp_no_permission");
    check(
        "alice allocates; alice permits bob; icmp 3/3/0 of carol for alice \
         => only icmp_no_permission",
    );
    check(
        "alice allocates; alice permits bob; icmp 3/3/0 of bob2 for alice \
         => to alice icmp bob2 3/3 0",
    );
    check(
        "alice allocates; alice permits bob; 299s pass; icmp 3/3/0 of bob for alice \
         => to alice icmp bob 3/3 0",
    );
    check(
        "alice allocates; alice permits bob; 300s pass; icmp 3/3/0 of bob for alice \
         => only icmp_no_permission",
    );
    // The channel is still bound; the permission it came with is over.
    check(
        "alice allocates; alice binds 4000 to bob; 300s pass; icmp 3/3/0 of bob for alice \
         => only icmp_no_permission",
    );
    check(
        "alice allocates; alice permits bob; alice refreshes lifetime=0; \
         icmp 3/3/0 of bob for alice => only icmp_stale_allocation",
    );
}

#[test]
fn a_client_is_told_of_twenty_icmp_errors_at_once_and_ten_a_second() {
    let error = "icmp 3/3/0 of bob for alice";
    let told = &format!("{error} => to alice icmp bob 3/3 0;");
    let untold = &format!("{error} => only icmp_rate_limited;");
    check(
        &[
            "alice allocates; alice permits bob; anna allocates; anna permits bob;",
            &told.repeat(20),
            &untold.repeat(5),
            // Everybody has an own account.
            "icmp 3/3/0 of bob for anna => to anna icmp bob 3/3 0;",
            "99999999ns pass;",
            untold,
            "1ns pass;",
            told,
            untold,
            "1s pass;",
            &told.repeat(10),
            untold,
            "60s pass;",
            &told.repeat(20),
            untold,
        ]
        .concat(),
    );
}

#[test]
fn an_icmp_error_about_a_relayed_address_behind_a_nat_names_the_outside_one() {
    let mut config = config();
    config.relay_addresses[0].external = Some("12.0.0.1".parse().unwrap());
    check_with(
        config,
        "alice allocates; alice permits 12.0.0.1:50000; icmp 3/3/0 of 11.0.0.1:50000 for alice \
         => to alice icmp 12.0.0.1:50000 3/3 0",
    );
}

/// What an allocation relayed here is told at its end, whoever relays the rest.
#[test]
fn each_allocation_is_counted_by_itself() {
    let mut world = World::new(config());
    run(&mut world, "alice allocates; anna allocates; alice permits bob; anna binds 4000 to bob");
    run(&mut world, "alice sends 5 to bob; alice sends 6 to bob; peer bob sends 9 to alice");
    run(&mut world, "anna sends 7 on 4000; anna sends 7 on 4001 => unbound_channel");
    run(&mut world, "peer carol sends 1 to alice => no_permission");
    world.turn.close();
    let outputs = std::iter::from_fn(|| world.turn.poll());
    let counts: Vec<_> = outputs
        .filter_map(|output| match output {
            Output::Ended { counts, .. } => Some(counts),
            _ => None,
        })
        .collect();
    let count = |packets, bytes| Count { packets, bytes };
    assert_eq!(counts, [[count(2, 11), count(1, 9)], [count(1, 7), count(0, 0)]]);
}

#[test]
fn an_allocation_over_its_rate_is_held_to_it_in_each_direction() {
    let mut limited = config();
    limited.limits = Limits { allocation_packets_per_sec: 20, ..limited.limits };
    // 20 a second: one each 50 ms, and 100 ms ahead.
    check_with(
        limited,
        "alice allocates; anna allocates; alice binds 4000 to bob; anna permits bob; \
         alice sends 1 on 4000; alice sends 1 to bob; alice sends 1 on 4000; \
         alice sends 1 on 4000 => policed; alice sends 1 to bob => only policed; \
         peer bob sends 1 to alice; peer bob sends 1 to alice; peer bob sends 1 to alice; \
         peer bob sends 1 to alice => only policed; anna sends 1 to bob; \
         49999999ns pass; alice sends 1 on 4000 => only policed; \
         1ns pass; alice sends 1 on 4000; alice sends 1 on 4000 => only policed",
    );
    let mut limited = config();
    limited.limits = Limits { allocation_bytes_per_sec: 10_000, ..limited.limits };
    // What was refused for another reason costs nothing.
    check_with(
        limited,
        "alice allocates; alice binds 4000 to bob; alice sends 900 on 4001 => unbound_channel; \
         alice sends 900 on 4001 => unbound_channel; alice sends 1000 on 4000; \
         alice sends 1 to bob; alice sends 0 to bob => only policed; \
         100000ns pass; alice sends 1200 to bob; alice sends 0 on 4000 => only policed",
    );
}
