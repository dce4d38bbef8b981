//! §9 Permissions, §10 CreatePermission, and which peers the policy lets a client name.

use super::script::{check, check_with, run};
use super::world::{World, config, policy};
use relay_turn::{Config, Loopback, Policy, Rules};

#[test]
fn a_permission_is_for_an_address_and_lasts_five_minutes() {
    check("alice allocates; peer bob sends 5 to alice => no_permission");
    check("alice allocates; alice permits bob; peer bob sends 5 to alice => to alice data bob 5");
    check("alice allocates; alice permits bob; peer bob2 sends 5 to alice => to alice data bob2 5");
    check("alice allocates; alice permits bob; peer carol sends 5 to alice => no_permission");
    check("alice allocates; alice permits bob; 299s pass; peer bob sends 0 to alice");
    check(
        "alice allocates; alice permits bob; 300s pass; peer bob sends 0 to alice => no_permission",
    );
    check(
        "alice allocates; alice permits bob; 299s pass; alice permits bob; 299s pass; \
         peer bob sends 0 to alice; 1s pass; peer bob sends 0 to alice => no_permission",
    );
    check(
        "alice allocates; anna allocates; alice permits bob; peer bob sends 5 to anna \
         => no_permission",
    );
}

#[test]
fn several_peers_are_permitted_together_or_not_at_all() {
    check(
        "alice allocates; alice permits bob carol; peer bob sends 1 to alice; \
         peer carol sends 1 to alice",
    );
    check("alice allocates; alice permits => 400");
    check(
        "alice allocates; alice permits bob 10.0.0.1:1 => 403; peer bob sends 1 to alice \
         => no_permission",
    );
    check(
        "alice allocates; alice permits bob bob6 => 443; peer bob sends 1 to alice \
         => no_permission",
    );
    check(
        "alice allocates; alice permits bob attribute=0012/7 => 400; peer bob sends 1 to alice \
         => no_permission",
    );
    check(
        "alice allocates; alice permits bob carol dave 9.9.9.4:1 => 508; \
         peer bob sends 1 to alice => no_permission",
    );
}

#[test]
fn with_two_families_peers_may_be_of_both() {
    check(
        "alice allocates additional=6; alice permits bob bob6 \
         => only permit 9.9.9.1 300/600, permit 2a00:9::1 300/600, ok; \
         peer bob sends 1 to alice => to alice data bob 1; \
         peer bob6 sends 2 to alice => to alice data bob6 2",
    );
    check(
        "alice allocates additional=6; alice permits bob [::1]:1 => 403; \
         alice permits bob [::ffff:9.9.9.1]:1 => 403; alice permits carol carol6; \
         alice refreshes family=6 lifetime=0; alice permits carol carol6 => 443",
    );
    // The limits are the allocation's.
    check(
        "alice allocates additional=6; alice permits bob bob6 carol; alice permits carol6 => 508",
    );
    // Our own relayed transport addresses of either family are peers.
    check(
        "alice allocates additional=6; anna allocates additional=6; alice binds 4000 to anna's6; \
         alice binds 4001 to anna's; alice sends 5 on 4000 => to anna's 5",
    );
}

#[test]
fn an_allocation_has_so_many_permissions() {
    check(
        "alice allocates; alice permits bob carol dave; alice permits bob2 carol; \
         alice permits 9.9.9.4:1 => 508",
    );
    check("alice allocates; alice permits bob carol dave; 300s pass; alice permits 9.9.9.4:1");
    check(
        "alice allocates; alice permits bob carol dave; alice binds 4000 to 9.9.9.4:1 => 508; \
         alice binds 4000 to bob",
    );
}

#[test]
fn peers_are_of_the_relayed_family() {
    check("alice allocates; alice permits bob6 => 443; alice permits [::ffff:9.9.9.1]:7 => 443");
    check("alice allocates family=6; alice permits bob => 443; alice permits bob6");
    check("alice allocates family=6; alice permits [::ffff:9.9.9.1]:7 => 403");
    check(
        "alice allocates family=6; alice permits bob6; peer bob6 sends 3 to alice \
         => to alice data bob6 3",
    );
}

#[test]
fn denied_peers_are_forbidden() {
    for peer in
        ["10.0.0.1:1", "127.0.0.1:1", "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "9.9.9.66:1"]
    {
        check(&format!(
            "alice allocates; alice permits {peer} => 403; alice binds 4000 to {peer} => 403"
        ));
    }
    for peer in [
        "[::1]:1",
        "[fe80::1]:1",
        "[fd00::1]:1",
        "[64:ff9b::9.9.9.1]:1",
        "[2002:909:901::]:1",
        "[ff02::1]:1",
    ] {
        check(&format!("alice allocates family=6; alice permits {peer} => 403"));
    }
}

#[test]
fn loopback_has_a_switch_of_its_own() {
    let wide = Config { policy: policy("0.0.0.0/0 ::/0 127.0.0.1/32", "").into(), ..config() };
    check_with(wide.clone(), "alice allocates; alice permits 127.0.0.1:1 => 403");
    check_with(wide, "alice allocates family=6; alice permits [::1]:1 => 403");
    let rules = Rules { loopback: Loopback::Allowed, ..Rules::default() };
    let lab = Config { policy: Policy::new(&rules).into(), ..config() };
    check_with(
        lab.clone(),
        "alice allocates; alice permits 127.0.0.1:1; alice permits 10.0.0.1:1 => 403",
    );
    check_with(lab, "alice allocates family=6; alice permits [::1]:1; alice permits [::]:1 => 403");
}

#[test]
fn other_addresses_of_the_machine_are_peers_only_by_a_rule() {
    check(
        "alice allocates; alice permits 13.0.0.1:1 => 403; \
         alice binds 4000 to 13.0.0.1:50001 => 403",
    );
    let around = Config { policy: policy("13.0.0.0/24", "").into(), ..config() };
    check_with(
        around,
        "alice allocates; alice permits 13.0.0.1:1 => 403; alice permits 13.0.0.2:1",
    );
    let ruled = Config { policy: policy("13.0.0.1/32", "").into(), ..config() };
    check_with(
        ruled,
        "alice allocates; alice permits 13.0.0.1:1 => only ok; alice sends 1 to 13.0.0.1:54",
    );
}

#[test]
fn relay_to_relay_is_always_open_and_other_ports_of_ours_are_not() {
    check(
        "alice allocates; anna allocates; alice permits anna's; anna permits alice's; \
         alice sends 4 to anna's => to anna's 4; \
         peer alice's sends 4 to anna => to anna data alice's 4",
    );
    // Another shard's port, and just outside.
    check("alice allocates; alice permits 11.0.0.1:1; alice sends 1 to 11.0.0.1:50019");
    check(
        "alice allocates; alice permits 11.0.0.1:1; alice sends 1 to 11.0.0.1:50020 => peer_denied",
    );
    check(
        "alice allocates; alice permits 11.0.0.1:1; alice sends 1 to 11.0.0.1:49999 => peer_denied",
    );
    check(
        "alice allocates; alice permits 11.0.0.1:1; peer 11.0.0.1:3478 sends 1 to alice \
         => peer_denied",
    );
    check("alice allocates; alice permits 11.0.0.1:1; peer 11.0.0.1:50019 sends 1 to alice");
    check(
        "alice allocates; alice binds 4000 to 11.0.0.1:3478 => 403; \
         alice binds 4000 to 11.0.0.1:50010 => ok",
    );
    let mut own = config();
    own.policy = policy("11.0.0.1/32", "").into();
    check_with(
        own.clone(),
        "alice allocates; alice binds 4000 to 11.0.0.1:3479; alice sends 1 on 4000",
    );
    own.policy = policy("11.0.0.0/24", "").into();
    check_with(own.clone(), "alice allocates; alice binds 4000 to 11.0.0.1:3479 => 403");
    own.policy = policy("", "11.0.0.0/8").into();
    check_with(
        own,
        "alice allocates; alice binds 4000 to 11.0.0.1:3478 => 403; alice permits 11.0.0.1:1",
    );
    check("alice allocates; alice permits bob; alice sends 1 to 9.9.9.1:0 => peer_denied");
    check("alice allocates; alice binds 4000 to 9.9.9.1:0 => 403");
}

#[test]
fn where_the_server_itself_listens_there_is_no_peer_whatever_is_allowed() {
    let mut open = config();
    open.policy = policy("11.0.0.1/32 13.0.0.1/32 13.0.0.2/32", "").into();
    open.listeners.push("0.0.0.0:9641".parse().unwrap());
    for listener in ["11.0.0.1:3478", "13.0.0.1:53", "13.0.0.1:9641", "11.0.0.1:9641"] {
        check_with(
            open.clone(),
            &format!(
                "alice allocates; alice binds 4000 to {listener} => 403; \
                 alice permits {listener} => ok; alice sends 1 to {listener} => peer_denied; \
                 peer {listener} sends 1 to alice => peer_denied"
            ),
        );
    }
    check_with(open, "alice allocates; alice binds 4000 to 13.0.0.2:9641 => ok");
}

#[test]
fn the_datapath_is_told_of_permissions_until_they_end() {
    check(
        "alice allocates; alice permits bob carol \
         => only permit 9.9.9.1 300/600, permit 9.9.9.2 300/600, ok; \
         alice permits bob2 => only ok; 100s pass => nothing; \
         alice permits bob => only permit 9.9.9.1 300/500, ok; \
         alice permits bob => only ok; 200s pass => only forbid 9.9.9.2; \
         100s pass => only forbid 9.9.9.1; alice refreshes lifetime=0 => only close, ok 0",
    );
    // The earlier of permission and allocation; a refresh moves it, and both are news.
    check(
        "alice allocates; 400s pass; alice permits bob => only permit 9.9.9.1 200/200, ok; \
         alice refreshes => only permit 9.9.9.1 300/600, ok 600; \
         100s pass; alice refreshes => only permit 9.9.9.1 200/600, ok 600; \
         alice refreshes => only ok 600; \
         alice refreshes lifetime=0 => only forbid 9.9.9.1, close, ok 0",
    );
    check(
        "alice allocates; 400s pass; alice permits bob; 200s pass => only forbid 9.9.9.1, close; \
         alice allocates; alice permits bob => only permit 9.9.9.1 300/600, ok",
    );
    // A binding brings one, before its routes; what is refused does not.
    check(
        "alice allocates; alice binds 4000 to bob \
         => only permit 9.9.9.1 300/600, install 4000 600/300, ok; \
         alice permits carol 10.0.0.1:1 => only 403",
    );
    check(
        "alice allocates family=6; alice permits bob6 => only permit 2a00:9::1 300/600, ok; \
         alice refreshes lifetime=0 => only forbid 2a00:9::1, close, ok 0",
    );
}

#[test]
fn of_our_own_peers_the_datapath_is_told_bindings_only() {
    check(
        "alice allocates; anna allocates; alice binds 4000 to anna's \
         => only install 4000 600/300, ok; \
         anna binds 4001 to alice's => only install 4001 600/300, ok; \
         anna permits alice's => only ok; alice refreshes => only ok 600; \
         alice sends 4 on 4000 => to anna's 4; peer alice's sends 4 to anna => to anna 4001 4; \
         alice refreshes lifetime=0 => only withdraw 4000, close, ok 0; \
         600s pass => withdraw 4001, close",
    );
    check("alice allocates; alice permits 11.0.0.1:50000 => only ok; 300s pass => nothing");
    let mut nat = config();
    nat.relay_addresses[0].external = Some("12.0.0.1".parse().unwrap());
    check_with(nat, "alice allocates; alice permits 12.0.0.1:1 11.0.0.1:1 => only ok");
}

#[test]
fn behind_a_nat_both_our_addresses_are_one() {
    let mut nat = config();
    nat.relay_addresses[0].external = Some("12.0.0.1".parse().unwrap());
    let mut world = World::new(nat);
    run(&mut world, "alice allocates; anna allocates; alice permits anna's; anna permits alice's");
    let inside = |world: &World, name: &str| {
        let relay = world.relays.values().find(|(owner, _)| owner == name);
        relay.unwrap().1.socket()
    };
    let (alice, anna) = (inside(&world, "alice"), inside(&world, "anna"));
    run(&mut world, &format!("alice sends 4 to anna's => to {anna} 4"));
    run(&mut world, &format!("alice sends 4 to {anna} => to {anna} 4"));
    run(&mut world, &format!("peer {alice} sends 4 to anna => to anna data alice's 4"));
    run(
        &mut world,
        &format!(
            "anna binds 4000 to alice's => ok; peer {alice} sends 4 to anna => to anna 4000 4"
        ),
    );
    run(&mut world, &format!("anna binds 4001 to {alice} => 400"));
    run(&mut world, "anna binds 4001 to 12.0.0.1:3478 => 403");
}
