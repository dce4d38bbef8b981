//! §12 Channels.

use super::script::{check, check_with, run};
use super::world::{World, config};
use relay_common::wire::channel_data::ChannelRange;

#[test]
fn a_channel_relays_both_ways_for_ten_minutes() {
    check("alice allocates; alice binds 4000 to bob => install 4000 600/300, ok");
    check("alice allocates; alice binds 4000 to bob; alice sends 5 on 4000 => to bob 5");
    check("alice allocates; alice binds 4000 to bob; peer bob sends 5 to alice => to alice 4000 5");
    check(
        "alice allocates; alice binds 4000 to bob; peer bob2 sends 5 to alice \
         => to alice data bob2 5",
    );
    check(
        "alice allocates lifetime=900; alice binds 4000 to bob; 599s pass; alice sends 5 on 4000",
    );
    check(
        "alice allocates lifetime=900; alice binds 4000 to bob; 600s pass => withdraw 4000; \
         alice sends 5 on 4000 => unbound_channel",
    );
    check(
        "alice allocates family=6; alice binds 4000 to bob6 => install 4000 600/300, ok; \
         alice sends 1 on 4000 => to bob6 1",
    );
}

#[test]
fn a_binding_brings_a_permission_of_five_minutes() {
    check(
        "alice allocates; alice binds 4000 to bob; 300s pass; peer bob sends 5 to alice \
         => no_permission; \
         alice sends 5 on 4000; alice permits bob => install 4000 300/300, ok; \
         peer bob sends 5 to alice => to alice 4000 5",
    );
    check(
        "alice allocates lifetime=900; alice binds 4000 to bob; 300s pass; \
         alice binds 4000 to bob => install 4000 600/300, ok; peer bob sends 5 to alice",
    );
    check(
        "alice allocates; alice binds 4000 to bob; alice permits carol \
         => only permit 9.9.9.2 300/600, ok; \
         1s pass; alice permits bob2 \
         => only permit 9.9.9.1 300/599, install 4000 599/300, ok",
    );
}

#[test]
fn a_channel_number_and_a_peer_belong_together() {
    check("alice allocates; alice binds 4000 to bob; alice binds 4000 to bob => only ok");
    check("alice allocates; alice binds 4000 to bob; alice binds 4000 to carol => 400");
    check("alice allocates; alice binds 4000 to bob; alice binds 4000 to bob2 => 400");
    check("alice allocates; alice binds 4000 to bob; alice binds 4001 to bob => 400");
    check("alice allocates; alice binds 4000 to bob; alice binds 4001 to bob2");
    check("alice allocates; anna allocates; alice binds 4000 to bob; anna binds 4000 to carol");
}

#[test]
fn channel_number_is_not_reused_for_five_minutes() {
    let bound = "alice allocates lifetime=3600; alice binds 4000 to bob";
    check(&format!("{bound}; 600s pass; alice binds 4000 to carol => 400"));
    check(&format!("{bound}; 899s pass; alice binds 4000 to carol => 400"));
    check(&format!("{bound}; 900s pass; alice binds 4000 to carol => install 4000 600/300, ok"));
    check(&format!("{bound}; 899s pass; alice binds 4001 to bob => 400"));
    check(&format!("{bound}; 900s pass; alice binds 4001 to bob => install 4001 600/300, ok"));
    check(&format!(
        "{bound}; 700s pass; alice binds 4000 to bob => install 4000 600/300, ok; 599s pass; \
         alice sends 1 on 4000"
    ));
    check(&format!(
        "{bound}; 700s pass; alice binds 4000 to bob; 899s pass; alice binds 4000 to carol \
         => 400; 1s pass; alice binds 4000 to carol"
    ));
    check(&format!(
        "{bound}; 599s pass; alice binds 4000 to bob; 599s pass; alice sends 1 on 4000"
    ));
    check(
        "alice allocates; alice binds 4000 to bob; alice refreshes lifetime=0; alice allocates; \
         alice binds 4000 to carol",
    );
}

#[test]
fn channel_numbers_have_a_range() {
    check("alice allocates; alice binds 3fff to bob => 400; alice binds 4000 to bob");
    check("alice allocates; alice binds 4fff to bob; alice binds 5000 to carol => hint, 400");
    check(
        "alice allocates; alice binds 7fff to bob => hint, 400; alice binds 8000 to bob => 400; \
         alice binds ffff to bob => 400",
    );
    let mut older = config();
    older.channel_range = ChannelRange::Rfc5766;
    check_with(
        older.clone(),
        "alice allocates; alice binds 7fff to bob; alice sends 1 on 7fff; \
         alice binds 8000 to carol => 400",
    );
    let mut world = World::new(config());
    run(
        &mut world,
        "alice allocates; alice binds 3fff to bob => 400; alice binds 8000 to bob => 400",
    );
    assert_eq!(world.turn.snapshot().channel_numbers_rfc5766_refused, 0);
    run(
        &mut world,
        "alice binds 5000 to bob => only hint, 400; alice binds 7fff to bob => hint, 400",
    );
    assert_eq!(world.turn.snapshot().channel_numbers_rfc5766_refused, 2);
}

#[test]
fn with_two_families_a_channel_takes_that_of_the_peer() {
    check(
        "alice allocates additional=6; alice binds 4000 to bob6 => install 4000 600/300, ok; \
         alice binds 4001 to bob => install 4001 600/300, ok; alice sends 5 on 4000 => to bob6 5; \
         alice sends 6 on 4001 => to bob 6; peer bob6 sends 7 to alice => to alice 4000 7; \
         peer bob sends 8 to alice => to alice 4001 8; alice binds 4000 to bob => 400",
    );
    // The limits are the allocation's.
    check(
        "alice allocates additional=6; alice binds 4000 to bob6; alice binds 4001 to bob; \
         alice binds 4002 to carol => 508",
    );
}

#[test]
fn a_channel_bind_is_complete() {
    check("alice allocates; alice binds 4000 => 400");
    check("alice allocates; alice permits bob attribute=000c/4; alice binds 4000 to bob");
    check("alice allocates; alice binds 4000 attribute=0012/9 => 400");
    check(
        "alice allocates; alice binds 4000 to bob6 => 443; alice binds 4000 to 10.0.0.1:1 => 403",
    );
    check(
        "alice allocates; alice binds 4000 to 10.0.0.1:1 => 403; alice sends 1 on 4000 \
         => unbound_channel",
    );
}

#[test]
fn an_allocation_has_so_many_channels() {
    check(
        "alice allocates; alice binds 4000 to bob; alice binds 4001 to carol; \
         alice binds 4002 to dave => 508; alice binds 4000 to bob",
    );
    check(
        "alice allocates lifetime=3600; alice binds 4000 to bob; alice binds 4001 to carol; \
         600s pass; alice binds 4002 to dave => 508; 300s pass; alice binds 4002 to dave",
    );
}

#[test]
fn channel_data_of_another_shape_is_dropped() {
    let bound = "alice allocates; alice binds 4000 to bob";
    check(&format!("{bound}; alice sends 5 on 4001 => unbound_channel"));
    check(&format!("{bound}; alice sends 5 on 5000 => channel_number"));
    check(&format!("{bound}; alice sends 5 on 7fff => channel_number"));
    check(&format!(
        "{bound}; alice says 40 => channel_number; alice says 400000 => channel_length"
    ));
    check(&format!("{bound}; alice sends 5 on 4000 cut=1 => channel_length"));
    check(&format!("{bound}; alice sends 5 on 4000 extra=3 => to bob 5"));
    check(&format!("{bound}; alice sends 5 on 4000 extra=4 => channel_length"));
    check(&format!("{bound}; alice sends 0 on 4000 => to bob 0"));
    check("alice sends 5 on 4000 => no_allocation");
}

#[test]
fn gauges_follow_bindings_and_permissions() {
    let mut world = World::new(config());
    let gauges = |world: &World| {
        let snapshot = world.turn.snapshot();
        (snapshot.permissions, snapshot.channels)
    };
    run(
        &mut world,
        "alice allocates lifetime=3600; alice binds 4000 to bob; alice binds 4000 to bob; \
         alice permits carol",
    );
    assert_eq!(gauges(&world), (2, 1));
    run(&mut world, "300s pass");
    assert_eq!(gauges(&world), (0, 1));
    run(&mut world, "300s pass");
    assert_eq!(gauges(&world), (0, 0));
    run(&mut world, "alice binds 4000 to bob");
    assert_eq!(gauges(&world), (1, 1));
    run(&mut world, "alice refreshes lifetime=0");
    assert_eq!(gauges(&world), (0, 0));
    assert_eq!(world.turn.deadline(), None);
}

/// §18.1.
#[test]
fn what_follows_a_channel_number_is_ignored() {
    check(
        "alice allocates; alice binds 4001 to bob value=000c/4000ffff => install 4000 600/300, ok; \
         alice sends 5 on 4000 => to bob 5",
    );
}
