//! §7 Creating an allocation.

use super::script::{check, check_with, run};
use super::world::{World, config};
use relay_common::addr::{Family, Transport};
use relay_turn::{Config, Output, RelayAddress};

#[test]
fn an_allocation_is_open_before_it_is_answered() {
    check("alice allocates => open, ok 600 ipv4");
    check("alice6 allocates => open, ok 600 ipv4");
    check("alice allocates fingerprint");
}

#[test]
fn a_five_tuple_has_one_allocation() {
    check("alice allocates; alice allocates => 437; anna allocates");
    check("alice allocates; alice allocates user=other password=word => 437");
    check("alice allocates; 599s pass; alice allocates => 437; 1s pass; alice allocates");
}

#[test]
fn the_same_request_again_has_the_same_answer() {
    check("alice allocates lifetime=700 => ok 700; 9s pass; alice allocates again => ok 700");
    check(
        "alice allocates even=1 => ok 600 ipv4 even token; alice allocates again \
         => ok 600 ipv4 even token",
    );
    check("alice allocates; alice allocates again user=other password=word => 437");
    let mut world = World::new(config());
    run(&mut world, "alice allocates even=1");
    let (relayed, token) = (world.client("alice").relayed, world.client("alice").token);
    run(&mut world, "alice allocates again");
    assert_eq!((relayed, token), (world.client("alice").relayed, world.client("alice").token));
    assert_eq!(world.turn.snapshot().allocations(Transport::Udp, Family::V4), 1);
}

#[test]
fn nothing_is_opened_twice_while_it_is_being_opened() {
    check(
        "opens wait; alice allocates => opening; alice allocates again => allocation_pending; \
         opened",
    );
    check("opens wait; alice allocates => opening; alice allocates => 437; opened => ok 600");
    check(
        "opens wait; alice allocates => opening; alice refreshes => 437; alice permits bob => 437",
    );
    check("opens wait; alice allocates => opening; alice sends 4 on 4000 => no_allocation");
}

#[test]
fn the_transport_is_udp() {
    check("alice allocates transport=none => 400");
    check("alice allocates transport=6 => 442");
    check("alice allocates transport=17");
    check("alice allocates transport=none attribute=0019/3 => 400");
}

/// §3.7: who cannot see the DF of what comes in refuses it for what goes from IPv4 to IPv6.
#[test]
fn dont_fragment_is_supported_but_not_from_ipv4_to_ipv6() {
    check("alice allocates attribute=001a => ok 600 ipv4");
    check("alice allocates family=4 attribute=001a => ok 600 ipv4");
    check("alice allocates family=6 attribute=001a => 420 001a");
    check("alice allocates additional=6 attribute=001a => 420 001a");
    check("alice6 allocates attribute=001a => ok 600 ipv4");
    check("alice6 allocates family=6 attribute=001a => ok 600 ipv6");
    check("alice6 allocates additional=6 attribute=001a => ok 600 ipv4");
    check("alice allocates; alice refreshes attribute=001a => ok 600");
    // Check 4 is made before the checks of families, but a family that there is not is no crossing.
    check("alice allocates family=6 additional=6 attribute=001a => 420 001a");
    check("alice allocates transport=6 family=6 attribute=001a => 442");
    let mut only_v4 = config();
    only_v4.relay_addresses.pop();
    check_with(only_v4, "alice allocates family=6 attribute=001a => 440");
}

/// §18: what is reserved for the future is ignored, whatever it is.
#[test]
fn reserved_bits_are_ignored() {
    check("alice allocates transport=none value=0019/11ffffff => ok 600 ipv4");
    check("alice allocates value=0017/02ffffff => ok 600 ipv6");
    check("alice allocates value=8000/02ffffff => only open, open, ok 600 ipv4");
    check("alice allocates value=0018/7f => ok 600 ipv4 even");
    check("alice allocates value=0018/ff => ok 600 ipv4 even token");
    check("alice allocates; alice refreshes value=0017/01ffffff => ok 600");
}

#[test]
fn lifetimes_are_bounded() {
    check("alice allocates lifetime=0 => ok 600");
    check("alice allocates lifetime=599 => ok 600");
    check("alice allocates lifetime=601 => ok 601");
    check("alice allocates lifetime=3600 => ok 3600");
    check("alice allocates lifetime=3601 => ok 3600");
    check("alice allocates lifetime=4294967295 => ok 3600");
    check("alice allocates attribute=000d/3 => 400");
    check("alice allocates => ok 600; 599s pass => nothing; 1s pass => close");
}

#[test]
fn families_are_those_of_the_relayed_addresses() {
    check("alice allocates family=4 => ok 600 ipv4");
    check("alice allocates family=6 => ok 600 ipv6");
    check("alice6 allocates family=6 => ok 600 ipv6");
    check("alice allocates family=9 => 440");
    check("alice allocates attribute=0017/2 => 400");
    let mut only_v4 = config();
    only_v4.relay_addresses.pop();
    check_with(only_v4, "alice allocates family=6 => 440; alice allocates");
    let mut only_v6 = config();
    only_v6.relay_addresses.remove(0);
    check_with(only_v6, "alice6 allocates => 440; alice6 allocates family=6");
}

#[test]
fn two_families_at_once() {
    let both = "only open, open, ok 600 ipv4";
    check(&format!("alice allocates additional=6 => {both}"));
    check(&format!("alice6 allocates additional=6 => {both}"));
    check("alice allocates even=0 additional=6 => only open, open, ok 600 ipv4 even ipv6 even");
    check("alice allocates additional=6 lifetime=700 => ok 700; alice allocates => 437");
    let mut world = World::new(config());
    run(&mut world, "alice allocates additional=6 lifetime=700; 9s pass; anna allocates");
    let allocations =
        |world: &World, family| world.turn.snapshot().allocations(Transport::Udp, family);
    assert_eq!(Family::ALL.map(|family| allocations(&world, family)), [2, 1]);
    let relayed = world.client("alice").relayed;
    assert!(relayed.iter().all(Option::is_some), "{relayed:?}");
    run(&mut world, "alice allocates again => only ok 700");
    assert_eq!(world.client("alice").relayed, relayed);
}

#[test]
fn the_rules_for_two_families_come_in_their_order() {
    check("alice allocates additional=4 => 400");
    check("alice allocates additional=9 => 440");
    check("alice allocates attribute=8000/3 => 400");
    check("alice allocates family=4 additional=6 => 400");
    check("alice allocates family=9 additional=6 => 400");
    check("alice allocates even=1 additional=6 => 400");
    check("alice allocates transport=6 family=4 additional=6 => 442");
    // Check 7 is made before check 9, and asks for IPv4 alone.
    let mut only_v6 = config();
    only_v6.relay_addresses.remove(0);
    check_with(only_v6.clone(), "alice6 allocates additional=4 => 440");
    check_with(only_v6, "alice6 allocates additional=6 => 440");
}

#[test]
fn of_two_families_one_is_better_than_none() {
    let mut only_v4 = config();
    only_v4.relay_addresses.pop();
    only_v4.relay_ports = 50_000..=50_000;
    check_with(
        only_v4,
        "alice allocates additional=6 => only open, ok 600 ipv4 even without 2 440; \
         alice allocates again => ok 600 ipv4 even without 2 440; alice permits bob6 => 443",
    );
    // One port of each: whoever comes second gets what is left.
    let mut one = config();
    one.relay_ports = 50_000..=50_000;
    check_with(
        one.clone(),
        "alice allocates family=6; anna allocates additional=6 \
         => ok 600 ipv4 even without 2 508; amy allocates additional=6 => 508",
    );
    check_with(
        one,
        "alice allocates; anna allocates additional=6 \
         => only open, ok 600 ipv6 even without 1 508; \
         anna permits bob => 443; anna permits bob6",
    );
}

#[test]
fn of_two_families_one_may_fail_to_open() {
    let fails = |times: usize| "fail, ".repeat(times);
    // Eight other ports are tried in all; then the other family is alone.
    check(&format!(
        "opens fail 9; alice allocates additional=6 => only {}open, ok 600 ipv6",
        fails(9)
    ));
    check(&format!("opens fail 10; alice allocates additional=6 => only {}508", fails(10)));
    check("opens fail 1; alice allocates additional=6 => only fail, open, open, ok 600 ipv4");
    check(
        "opens wait; alice allocates additional=6 => opening, opening; \
         alice refreshes => 437; opened => nothing, ok 600 ipv4",
    );
    let mut world = World::new(config());
    run(&mut world, "opens fail 10; alice allocates additional=6 => 508");
    assert_eq!((world.turn.deadline(), world.relays.len()), (None, 0));
    run(&mut world, "opens wait; alice allocates additional=6 => opening, opening");
    world.turn.close();
    let outputs: Vec<_> = std::iter::from_fn(|| world.turn.poll()).collect();
    let closed = matches!(outputs[..], [Output::CloseRelay { .. }, Output::CloseRelay { .. }]);
    assert!(closed, "{outputs:?}");
    assert_eq!(world.turn.deadline(), None);
}

#[test]
fn an_even_port_is_even_and_the_next_is_held_for_thirty_seconds() {
    for _ in 0..4 {
        check("alice allocates even=0 => ok 600 ipv4 even");
    }
    check("alice allocates attribute=0018/2 => 400");
    check(
        "alice allocates even=1 => ok 600 ipv4 even token; anna allocates token=alice \
         => ok 600 ipv4 odd",
    );
    check("alice allocates even=1; 29s pass; anna allocates token=alice => ok 600 ipv4 odd");
    check("alice allocates even=1; 30s pass; anna allocates token=alice => 508");
    check("alice allocates even=1; anna allocates token=alice; amy allocates token=alice => 508");
    check(
        "alice allocates even=1 family=6 => ok 600 ipv6 even token; anna allocates token=alice \
         => ok 600 ipv6 odd",
    );
    let mut world = World::new(config());
    run(&mut world, "alice allocates even=1; anna allocates token=alice");
    let port = |world: &mut World, name| world.client(name).relayed[0].unwrap().port();
    assert_eq!(port(&mut world, "alice") + 1, port(&mut world, "anna"));
    assert_eq!(world.turn.snapshot().reservations, 0);
}

#[test]
fn a_reservation_token_stands_alone_and_is_genuine() {
    check(
        "alice allocates even=1; anna allocates token=alice even=0 => 400; \
         anna allocates token=alice",
    );
    check("alice allocates even=1; anna allocates token=alice family=4 => 400");
    check("alice allocates even=1; anna allocates token=alice additional=6 => 400");
    check("alice allocates token=forged => 508");
    check("alice allocates attribute=0022/7 => 400");
}

#[test]
fn a_reserved_port_is_nobody_elses() {
    let mut small = config();
    small.relay_ports = 50_000..=50_001;
    let script = "alice allocates even=1; anna allocates => 508; amy allocates token=forged \
     => 508; \
                  30s pass; anna allocates; amy allocates => 508";
    check_with(small.clone(), script);
    check_with(
        small.clone(),
        "alice allocates even=1; alice refreshes lifetime=0; anna allocates even=1 => 508",
    );
    small.relay_ports = 50_001..=50_001;
    check_with(small.clone(), "alice allocates even=0 => 508");
    small.relay_ports = 50_000..=50_000;
    check_with(small, "alice allocates even=1 => 508; alice allocates even=0");
}

#[test]
fn eight_other_ports_are_tried() {
    let fails = |times: usize| "fail, ".repeat(times);
    check(&format!("opens fail 8; alice allocates => {}open, ok", fails(8)));
    check(&format!("opens fail 9; alice allocates => {}508", fails(9)));
    let mut two = config();
    two.relay_ports = 50_000..=50_001;
    check_with(two, "opens fail 9; alice allocates => only fail, fail, 508");
    // They can be chosen again afterwards: ten ports, ten tries that work.
    let mut all = config();
    all.limits.allocations_max = 10;
    let clients: String = (1..=9).map(|n| format!("192.0.2.{n}:5 allocates; ")).collect();
    check_with(
        all,
        &format!(
            "opens fail 9; alice allocates => 508; alice allocates; {clients} amy allocates => 508"
        ),
    );
    check("opens fail 1; alice allocates even=1 => fail, open, ok 600 ipv4 even token");
    check("opens wait; alice allocates => opening; failed => opening");
}

#[test]
fn a_reserved_port_that_cannot_be_opened_is_not_replaced() {
    check("alice allocates even=1; opens fail 1; anna allocates token=alice => fail, 508");
}

#[test]
fn a_failed_allocation_leaves_nothing() {
    check("opens fail 9; alice allocates => 508; alice refreshes => 437; alice allocates");
    let mut world = World::new(config());
    run(&mut world, "opens fail 9; alice allocates even=1 => 508");
    assert_eq!(world.turn.deadline(), None);
}

#[test]
fn the_tables_are_bounded() {
    check(
        "alice allocates; anna allocates; amy allocates; alice6 allocates; \
         192.0.2.9:1 allocates => 508; amy refreshes lifetime=0; 192.0.2.9:1 allocates",
    );
    let mut one = config();
    one.relay_ports = 50_000..=50_000;
    check_with(
        one,
        "alice allocates; anna allocates => 508; anna allocates family=6; \
         alice refreshes lifetime=0; amy allocates",
    );
}

#[test]
fn behind_a_nat_clients_are_told_the_outside_address() {
    let mut nat = config();
    nat.relay_addresses[0].external = Some("12.0.0.1".parse().unwrap());
    let mut world = World::new(nat);
    run(&mut world, "alice allocates");
    assert_eq!(world.client("alice").relayed[0].unwrap().ip().to_string(), "12.0.0.1");
    assert_eq!(world.relays.values().next().unwrap().1.ip().to_string(), "11.0.0.1");
}

#[test]
fn several_addresses_are_used_in_turn_unless_the_client_came_by_one_of_them() {
    let relayed_on = |addresses: [&str; 2]| {
        let relay = |ip: &str| RelayAddress { address: ip.parse().unwrap(), external: None };
        let relay_addresses = addresses.map(relay).to_vec();
        let mut world = World::new(Config { relay_addresses, ..config() });
        run(&mut world, "alice allocates; anna allocates; amy allocates");
        let mut ips: Vec<_> = world.relays.values().map(|(_, r)| r.ip().to_string()).collect();
        ips.sort();
        ips.dedup();
        ips
    };
    assert_eq!(relayed_on(["11.0.0.2", "11.0.0.3"]), ["11.0.0.2", "11.0.0.3"]);
    assert_eq!(relayed_on(["11.0.0.2", "11.0.0.1"]), ["11.0.0.1"], "the server's own");
}

#[test]
fn closing_ends_everything_and_what_opens_late_is_closed() {
    let mut world = World::new(config());
    run(&mut world, "alice allocates; alice permits bob; alice binds 4000 to carol");
    run(&mut world, "opens wait; anna allocates even=1 => opening");
    let anna = world.relays.iter().find(|(_, (name, _))| name == "anna");
    let (allocation, family) = *anna.unwrap().0;
    world.turn.close();
    let outputs: Vec<_> = std::iter::from_fn(|| world.turn.poll()).collect();
    let ends = matches!(
        outputs[..],
        [
            Output::Forbid(_),
            Output::Forbid(_),
            Output::Withdraw(_),
            Output::CloseRelay { .. },
            Output::Ended { .. },
            Output::CloseRelay { .. }
        ]
    );
    assert!(ends, "{outputs:?}");
    let snapshot = world.turn.snapshot();
    assert_eq!((snapshot.permissions, snapshot.channels), (0, 0));
    assert_eq!(snapshot.allocations(Transport::Udp, Family::V4), 0);
    assert_eq!(world.turn.deadline(), None);
    world.turn.handle(world.now, relay_turn::Input::RelayOpened { allocation, family });
    assert_eq!(world.turn.poll(), Some(Output::CloseRelay { allocation, family }));
}
