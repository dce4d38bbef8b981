//! §21 Security considerations, and §7.2 check 9: quotas, and what the unauthenticated may cause.

use relay_common::addr::{ClientAddr, FiveTuple, ServerAddr, Transport};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Class, Message, Method};
use relay_common::wire::writer::MessageWriter;
use relay_turn::{
    Code, Config, Credentials, DeniedBy, Input, Limits, Output, Quota, RequestMethod, Turn,
};

use super::script::{check, check_with, run, transaction};
use super::world::{World, config, limited, policy};

const NONE: Limits = Limits {
    allocations_max: 8,
    permissions_per_allocation_max: 200,
    channels_per_allocation_max: 100,
    user_allocations_max: 0,
    source_allocations_max: 0,
    source_prefix_v4: 32,
    source_prefix_v6: 64,
    new_peers_per_sec: 0,
    lifetime_secs_default: 600,
    lifetime_secs_max: 3600,
    nonce_secs: 3600,
    unauthenticated_replies_per_sec: 1000,
    allocation_bytes_per_sec: 0,
    allocation_packets_per_sec: 0,
    user_bytes_per_sec: 0,
    total_bytes_per_sec: 0,
    strict_expiry: false,
    look_ups: None,
};

#[test]
fn a_user_has_so_many_allocations_whatever_the_expiry_and_the_address() {
    let two = || limited(Limits { user_allocations_max: 2, ..NONE });
    check_with(
        two(),
        "alice allocates; amy allocates; anna allocates => 486; \
         anna allocates user=other password=word; amy refreshes lifetime=0 => close, ok 0; \
         bob allocates => ok",
    );
    // Behind the expiry is who it is; another expiry is not another user.
    let later = "user=1700000009:x secret=north";
    check_with(
        two(),
        &format!(
            "alice allocates user=1700000005:x secret=north; amy allocates {later}; \
             anna allocates {later} => 486; anna allocates user=1700000005:y secret=south"
        ),
    );
    check_with(
        two(),
        "alice allocates user=1700000005 secret=north; amy allocates user=1700000006 secret=north; \
         anna allocates user=1700000007 secret=north => ok",
    );
}

#[test]
fn a_static_user_is_the_whole_name_whatever_it_looks_like() {
    let users = [("5:x", "pw"), ("6:x", "pw")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    let credentials = Credentials::new(users, vec!["north".to_owned()]);
    let one = Config { credentials, ..limited(Limits { user_allocations_max: 1, ..NONE }) };
    check_with(
        one,
        "alice allocates user=5:x password=pw; amy allocates user=6:x password=pw; \
         anna allocates user=6:x password=pw => 486; \
         anna allocates user=1700000009:x secret=north",
    );
}

#[test]
fn an_allocation_is_given_back_however_it_ends() {
    let one = || limited(Limits { user_allocations_max: 1, ..NONE });
    check_with(one(), "alice allocates; 600s pass; amy allocates");
    check_with(one(), "opens fail 9; alice allocates => 508; amy allocates");
    check_with(
        one(),
        "opens wait; alice allocates => opening; amy allocates => 486; opened => ok; \
         alice refreshes lifetime=0 => close, ok 0; amy allocates => opening",
    );
    let shared = one();
    let mut first = World::new(shared.clone());
    run(&mut first, "alice allocates");
    first.turn.close();
    while first.turn.poll().is_some() {}
    run(&mut World::new(shared), "amy allocates");
}

#[test]
fn a_source_has_so_many_allocations_and_so_has_the_server() {
    check_with(
        limited(Limits { source_allocations_max: 1, ..NONE }),
        "alice allocates; anna allocates => 486; anna allocates user=other password=word => 486; \
         amy allocates",
    );
    check_with(
        limited(Limits { source_allocations_max: 1, source_prefix_v4: 30, ..NONE }),
        "alice allocates; amy allocates => 486",
    );
    check_with(
        limited(Limits { allocations_max: 2, ..NONE }),
        "alice allocates; amy allocates; anna allocates => 508",
    );
}

#[test]
fn allocations_reserve_their_bandwidth() {
    let each = Limits { allocation_bytes_per_sec: 1000, ..NONE };
    check_with(
        limited(Limits { user_bytes_per_sec: 2999, ..each }),
        "alice allocates; amy allocates; anna allocates => 486; \
         anna allocates user=other password=word",
    );
    check_with(
        limited(Limits { total_bytes_per_sec: 2000, ..each }),
        "alice allocates; amy allocates; anna allocates user=other password=word => 508; \
         alice refreshes lifetime=0 => close, ok 0; anna allocates user=other password=word",
    );
}

/// Two shards: what one gives the other knows.
#[test]
fn quotas_and_the_budget_of_the_unauthenticated_are_the_servers_not_a_shards() {
    let both =
        limited(Limits { user_allocations_max: 2, unauthenticated_replies_per_sec: 3, ..NONE });
    let other = Config { relay_ports: 50_010..=50_019, seed: [9; 32], ..both.clone() };
    let (mut one, mut two) = (World::new(both), World::new(other));
    run(&mut one, "alice allocates");
    run(&mut two, "amy allocates; 192.0.2.1:9 allocates => 486");
    run(&mut one, "192.0.2.7:9 allocates => 486; alice refreshes lifetime=0 => close, ok 0");
    run(&mut two, "192.0.2.8:9 allocates");

    let asks = "192.0.2.9:1 asks; 192.0.2.9:1 asks; 192.0.2.9:1 asks";
    run(&mut one, asks);
    run(&mut two, asks);
    run(&mut one, "192.0.2.9:1 asks => rate_limited");
    run(&mut two, "192.0.2.9:2 asks => rate_limited");
}

#[test]
fn new_peers_come_so_fast_and_a_call_begins_with_many() {
    let ten = |first: u8| (first..first + 10).map(|n| format!("9.9.8.{n}:1 ")).collect::<String>();
    let mut script = "alice allocates; ".to_owned();
    for first in [1, 11, 21, 31, 41] {
        script += &format!("alice permits {}; ", ten(first));
    }
    // The bucket is empty, and lends one.
    script += &format!("alice permits {} => 508; alice permits 9.9.8.51:1; ", ten(51));
    script += "alice permits 9.9.7.1:1 => 508; ";
    script += "alice binds 4000 to 9.9.7.1:1 => 508; alice permits 9.9.8.1:1 => ok; \
               alice binds 4000 to 9.9.8.1:1 => ok; \
               199999999ns pass; alice permits 9.9.7.1:1 => 508; \
               1ns pass; alice permits 9.9.7.1:1 => ok; alice permits 9.9.7.2:1 => 508; \
               200000000ns pass; alice binds 4001 to 9.9.7.2:1 => ok; \
               alice permits 9.9.7.3:1 => 508";
    let mut world = World::new(limited(Limits { new_peers_per_sec: 5, ..NONE }));
    run(&mut world, &script);
    assert_eq!(world.turn.snapshot().over_quota(Quota::NewPeers), 6);
    assert_eq!(world.phrase, "quota new_peers");
}

#[test]
fn one_request_brings_no_more_new_peers_than_several() {
    let peers = |count: u8| (0..count).map(|n| format!("9.9.8.{n}:1 ")).collect::<String>();
    let script = format!(
        "alice allocates; alice permits {} => 508; alice permits {} => 508; \
         alice permits {}; alice permits 9.9.7.1:1 => 508",
        peers(120),
        peers(52),
        peers(51)
    );
    let mut world = World::new(limited(Limits { new_peers_per_sec: 5, ..NONE }));
    run(&mut world, &script);
}

/// The client is told by which rule, the log as well, and the counts know its kind.
#[test]
fn a_refusal_says_why() {
    let mut world = World::new(limited(Limits { user_allocations_max: 1, ..NONE }));
    for (asked, phrase) in [
        ("alice allocates", ""),
        ("alice permits 10.0.0.1:1 => 403", "private 10.0.0.0/8"),
        ("alice permits bob 169.254.169.254:80 => 403", "link_local 169.254.0.0/16"),
        ("alice binds 4000 to 127.0.0.1:1 => 403", "loopback"),
        ("alice binds 4000 to 9.9.9.1:0 => 403", "port_zero"),
        ("alice binds 4000 to 11.0.0.1:80 => 403", "own"),
        ("alice binds 4000 to 13.0.0.1:80 => 403", "own"),
        ("alice permits 9.9.9.66:1 => 403", "configured 9.9.9.66/32"),
        ("anna allocates => 486", "quota user_allocations"),
        ("anna refreshes => 437", "Allocation Mismatch"),
    ] {
        world.refused.clear();
        run(&mut world, asked);
        assert_eq!(world.phrase, phrase, "{asked}");
        let told: Vec<&str> = world.refused.iter().map(String::as_str).collect();
        let is_a_rule = asked.contains("403") || asked.contains("486");
        assert_eq!(told, Some(phrase).filter(|_| is_a_rule).as_slice(), "{asked}");
    }
    let snapshot = world.turn.snapshot();
    let denied = DeniedBy::ALL.map(|by| snapshot.denied(by));
    assert_eq!(denied, [0, 1, 0, 0, 1, 1, 0, 0, 1, 2, 1]);
    assert_eq!(snapshot.over_quota(Quota::UserAllocations), 1);
}

/// The shortest requests of every kind of reply that needs no credentials, and the longest realm
/// that the configuration takes: UDP payload against UDP payload.
#[test]
fn no_reply_to_the_unauthenticated_is_larger_than_the_stated_ratio() {
    const RATIO: usize = 6;
    let mut seen = Vec::new();
    let mut worst = (0, String::new());
    for realm in ["a".repeat(64), "example.org".to_owned(), "a".to_owned()] {
        let mut turn = Turn::new(Config { realm, ..config() });
        for client in ["198.51.100.1:5000", "[2001:db8::1]:5000"] {
            for request in requests() {
                let reply = reply(&mut turn, client, &request);
                let Some(reply) = reply else { continue };
                let message = Message::parse(&reply).unwrap();
                let code = message.attribute(AttributeType::ERROR_CODE);
                let code = code.map_or(0, |v| u16::from(v[2]) * 100 + u16::from(v[3]));
                seen.push(code);
                assert!(reply.len() <= RATIO * request.len(), "{} {}", reply.len(), request.len());
                let percent = reply.len() * 100 / request.len();
                let what = format!("{code}: {} to {}", reply.len(), request.len());
                worst = worst.max((percent, what));
            }
        }
    }
    for code in [0, 400, 401, 420] {
        assert!(seen.contains(&code), "{code} {seen:?}");
    }
    println!("worst: {worst:?}");
    // An Allocate that asks for UDP is always answered.
    let mut turn = Turn::new(Config { realm: "a".repeat(64), ..config() });
    let asked = bytes(Method::ALLOCATE, &[(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]);
    assert!(reply(&mut turn, "198.51.100.1:5000", &asked).is_some());
}

/// 438 is for those who know the password, and still unsigned.
#[test]
fn a_stale_nonce_is_no_amplifier_either() {
    let mut world = World::new(config());
    run(&mut world, "alice allocates; 3601s pass");
    world.record = Some(Vec::new());
    run(&mut world, "alice refreshes => 438");
    let request = world.record.take().unwrap().pop().unwrap();
    let reply = reply(&mut world.turn, "198.51.100.1:5000", &request).unwrap();
    assert!(reply.len() < request.len(), "{} {}", reply.len(), request.len());
}

#[test]
fn what_would_amplify_is_not_sent() {
    let long = || Config { realm: "r".repeat(120), ..config() };
    let mut turn = Turn::new(long());
    let short = bytes(Method::REFRESH, &[]);
    assert_eq!(reply(&mut turn, "198.51.100.1:5000", &short), None);
    let padded = bytes(Method::REFRESH, &[(AttributeType::SOFTWARE, vec![b'x'; 60])]);
    assert!(reply(&mut turn, "198.51.100.1:5000", &padded).is_some());
    let snapshot = turn.snapshot();
    assert_eq!(snapshot.requests(RequestMethod::Refresh, Code::Unauthenticated), 1);
    check_with(long(), "alice refreshes auth=none => amplification");
    check("alice refreshes auth=none => 401");
}

/// Nobody's rule, however wide, and nobody's private network by accident.
#[test]
fn a_rule_for_everything_opens_all_but_what_is_never_a_peer() {
    let wide = Config { policy: policy("0.0.0.0/1 128.0.0.0/1", "").into(), ..config() };
    check_with(wide, "alice allocates; alice permits 10.0.0.1:1 => 403; alice permits bob");
    let wide = Config { policy: policy("10.0.0.0/8 224.0.0.0/4", "").into(), ..config() };
    check_with(wide, "alice allocates; alice permits 10.0.0.1:1; alice permits 224.0.0.1:1 => 403");
}

fn requests() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    let unknown = |count: u16| (0..count).map(|n| (AttributeType(0x7000 + n), Vec::new()));
    for method in [0x001, 0x003, 0x004, 0x008, 0x009, 0x00B] {
        for count in [0, 1, 2, 3, 63, 64, 65, 500] {
            let attributes: Vec<_> = unknown(count).collect();
            requests.push(bytes(Method(method), &attributes));
        }
        requests.push(bytes(Method(method), &[(AttributeType::SOFTWARE, Vec::new())]));
        // MESSAGE-INTEGRITY alone, and of no length at all.
        requests.push(bytes(Method(method), &[(AttributeType::MESSAGE_INTEGRITY, vec![0; 20])]));
        requests.push(bytes(Method(method), &[(AttributeType::MESSAGE_INTEGRITY, Vec::new())]));
    }
    requests
}

/// With FINGERPRINT where there are attributes: the reply has one too.
fn bytes(method: Method, attributes: &[(AttributeType, Vec<u8>)]) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction(1));
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    if attributes.len() == 1 {
        writer.fingerprint();
    }
    let written = writer.finish().unwrap();
    buffer[..written].to_vec()
}

fn reply(turn: &mut Turn, client: &str, datagram: &[u8]) -> Option<Vec<u8>> {
    let five_tuple = FiveTuple {
        transport: Transport::Udp,
        client: ClientAddr::new(client.parse().unwrap()),
        server: ServerAddr::new("11.0.0.1:3478".parse().unwrap()),
    };
    let now = relay_turn::Now { monotonic_ns: 7, unix_secs: 1_700_000_000 };
    turn.handle(now, Input::FromClient { five_tuple, datagram });
    let mut reply = None;
    while let Some(output) = turn.poll() {
        let Output::Reply { bytes, .. } = output else { panic!("{output:?}") };
        assert!(reply.is_none(), "one reply");
        reply = Some(turn.bytes(bytes).to_vec());
    }
    reply
}

/// §21.4: no allocation for addresses of 6to4 and Teredo, and so no channel either.
#[test]
fn clients_with_addresses_of_tunnels_get_no_allocation() {
    for (client, phrase) in [
        ("[2002::1]:5", "transition 2002::/16"),
        ("[2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:5", "transition 2002::/16"),
        ("[2001:0:9.9.9.1::1]:5", "transition 2001::/32"),
        ("[2001:0:ffff:ffff:ffff:ffff:ffff:ffff]:5", "transition 2001::/32"),
    ] {
        let client = client.replace("9.9.9.1", "909:901");
        let mut world = World::new(config());
        run(&mut world, &format!("{client} asks; {client} allocates auth=none => 401"));
        run(&mut world, &format!("{client} allocates => 403"));
        assert_eq!(world.phrase, phrase);
        // Whatever peers are allowed.
        world = World::new(Config { policy: policy("2000::/3", "").into(), ..config() });
        run(&mut world, &format!("{client} allocates family=6 => 403"));
        run(&mut world, &format!("{client} binds 4000 to bob => 437"));
    }
    for client in ["[2003::1]:5", "[2001:1::1]:5", "[2001:ffff::1]:5"] {
        check(&format!("{client} allocates"));
    }
}
