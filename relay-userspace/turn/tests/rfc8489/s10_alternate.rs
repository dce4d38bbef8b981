//! §10 ALTERNATE-SERVER, with RFC 8656 §7.2, check 10.

use relay_common::wire::attribute::{self, AttributeType as A};
use relay_common::wire::stun::Message;
use relay_turn::{Config, Redirect};

use crate::script::{check_with, run};
use crate::world::{World, config};

const SERVERS: [&str; 2] = ["192.0.2.9:3478", "[2001:db8::9]:3479"];

fn redirecting(servers: &[&str], allocations: Option<u32>) -> Config {
    let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
    let domain = Some("turn.example.org".to_owned());
    let mut config = config();
    config.offers.redirect = Some(Redirect { servers, domain, allocations });
    config
}

#[test]
fn when_it_is_full_a_server_names_another() {
    let four = "alice allocates; anna allocates; amy allocates; alice6 allocates";
    let full = redirecting(&SERVERS, None);
    check_with(full.clone(), &format!("{four}; 192.0.2.7:1 allocates => 300"));
    // Who has an allocation keeps it, and gets the answer it got.
    check_with(full.clone(), &format!("{four}; alice allocates => 437; alice refreshes"));
    check_with(full, &format!("{four}; amy refreshes lifetime=0 => ok 0; 192.0.2.7:1 allocates"));
    check_with(config(), &format!("{four}; 192.0.2.7:1 allocates => 508"));
    let mut no_ports = redirecting(&SERVERS, None);
    no_ports.relay_ports = 50_000..=50_000;
    check_with(no_ports, "alice allocates; anna allocates => 300");
}

#[test]
fn a_server_may_always_redirect_or_from_some_allocations_on() {
    check_with(redirecting(&SERVERS, Some(0)), "alice allocates => 300; alice6 allocates => 300");
    let two = redirecting(&SERVERS, Some(2));
    check_with(
        two,
        "alice allocates; anna allocates; amy allocates => 300; anna refreshes lifetime=0 \
         => ok 0; amy allocates; anna allocates => 300",
    );
    // A port that is held here is had here.
    let two = redirecting(&SERVERS, Some(2));
    check_with(
        two,
        "alice allocates even=1; anna allocates token=alice; amy allocates => 300; \
         amy allocates token=forged => 508",
    );
    let one = redirecting(&SERVERS, Some(1));
    check_with(one, "alice allocates even=1; anna allocates => 300; anna allocates token=alice");
}

/// `World` checks that each 300 is signed.
#[test]
fn nobody_is_redirected_who_has_not_authenticated() {
    let always = redirecting(&SERVERS, Some(0));
    check_with(always.clone(), "alice allocates auth=none => 401");
    check_with(always.clone(), "alice allocates password=wrong => 401");
    check_with(always.clone(), "alice asks; alice asks fingerprint");
    check_with(
        always.clone(),
        "alice allocates transport=6 => 442; alice allocates attribute=7001 => 420",
    );
    check_with(always, "alice allocates modern => 300; alice refreshes => 437");
}

#[test]
fn the_first_alternate_server_is_of_the_clients_family() {
    for (client, servers, expected) in [
        ("alice", &SERVERS[..], &SERVERS[..]),
        ("alice6", &SERVERS, &["[2001:db8::9]:3479", "192.0.2.9:3478"]),
        ("alice", &SERVERS[..1], &SERVERS[..1]),
    ] {
        let mut world = World::new(redirecting(servers, Some(0)));
        run(&mut world, &format!("{client} allocates => 300"));
        let reply = world.client(client).reply.clone();
        let reply = Message::parse(&reply).unwrap();
        let of_kind = |kind| reply.attributes().filter(move |a| a.kind == kind);
        let found = of_kind(A::ALTERNATE_SERVER).map(|a| attribute::address(a.value).unwrap());
        assert_eq!(found.map(|server| server.to_string()).collect::<Vec<_>>(), expected);
        let domains: Vec<_> = of_kind(A::ALTERNATE_DOMAIN).map(|a| a.value).collect();
        assert_eq!(domains, [b"turn.example.org"]);
    }
}

#[test]
fn without_a_server_of_its_family_a_client_stays() {
    let only_ipv6 = || redirecting(&SERVERS[1..], Some(0));
    check_with(only_ipv6(), "alice allocates; alice6 allocates => 300");
    let mut full = redirecting(&SERVERS[1..], None);
    full.limits.allocations_max = 1;
    check_with(full, "alice allocates; anna allocates => 508; alice6 allocates => 300");
}
