//! Nothing is kept for the unauthenticated: many requests, each from a source of its own, leave the
//! process as large as it was. A test binary of its own, because it looks at the whole process.
//!
//! `TURNPIKE_FLOOD_REQUESTS=10000000` sets how many; docs/testing.md has the figures of that.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{env, fs};

use relay_common::addr::{ClientAddr, Family, FiveTuple, ServerAddr, Transport};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::channel_data::ChannelRange;
use relay_common::wire::stun::{Class, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use relay_turn::{
    Config, Credentials, Input, Ledger, Limits, Now, Offers, Output, Policy, RelayAddress, Rules,
    Turn,
};

/// Enough to see sixteen bytes a request.
const REQUESTS: u64 = 300_000;
/// Until every buffer has been used.
const WARM_UP: u64 = 20_000;
/// Less than four bytes a request.
const GROWTH_BYTES_MAX: u64 = 1 << 20;
/// A million requests a second: the budgets of the sources are not what keeps replies away.
const NS_PER_REQUEST: u64 = 1_000;

#[test]
fn requests_without_credentials_leave_memory_flat() {
    let asked = env::var("TURNPIKE_FLOOD_REQUESTS").ok().map(|number| number.parse().unwrap());
    let requests: u64 = asked.unwrap_or(REQUESTS);
    let ledger = Ledger::new([5; 16]);
    let mut turn = Turn::new(config(&ledger));
    let datagrams = datagrams();
    let mut replies = 0;
    flood(&mut turn, &datagrams, 0..WARM_UP, &mut replies);
    let before = anonymous_bytes();
    flood(&mut turn, &datagrams, WARM_UP..WARM_UP + requests, &mut replies);
    let after = anonymous_bytes();
    println!("{requests} requests, {replies} replies, {before} bytes before, {after} after");
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes became {after}");
    assert!(replies > requests / 2, "{replies}: they were not only dropped");
    // Nothing that will end some day, either.
    assert_eq!(turn.deadline(), None);
    assert_eq!(format!("{ledger:?}"), "Ledger(0 allocations, 0 users, 0 sources)");
    let snapshot = turn.snapshot();
    let allocations = Family::ALL.map(|family| snapshot.allocations(Transport::Udp, family));
    assert_eq!((allocations, snapshot.permissions, snapshot.channels), ([0, 0], 0, 0));
}

fn flood(turn: &mut Turn, datagrams: &[Vec<u8>], numbers: std::ops::Range<u64>, replies: &mut u64) {
    for number in numbers {
        let five_tuple = five_tuple(number);
        let index = usize::try_from(number).unwrap() % datagrams.len();
        let now = Now { monotonic_ns: number * NS_PER_REQUEST, unix_secs: 1_700_000_000 };
        turn.handle(now, Input::FromClient { five_tuple, datagram: &datagrams[index] });
        while let Some(output) = turn.poll() {
            assert!(matches!(output, Output::Reply { .. }), "{output:?}");
            *replies += 1;
        }
    }
}

/// Every source is new: another address, and another /64.
fn five_tuple(number: u64) -> FiveTuple {
    let (client, server): (SocketAddr, &str) = if number.is_multiple_of(2) {
        let ip = Ipv4Addr::from_bits(0x0B00_0000 + u32::try_from(number).unwrap());
        (SocketAddr::new(ip.into(), 5000), "11.0.0.1:3478")
    } else {
        let ip = Ipv6Addr::from_bits((0x2A00_0000_0000_0000 + u128::from(number)) << 64 | 1);
        (SocketAddr::new(ip.into(), 5000), "[2a00:1::1]:3478")
    };
    FiveTuple {
        transport: Transport::Udp,
        client: ClientAddr::new(client),
        server: ServerAddr::new(server.parse().unwrap()),
    }
}

fn config(ledger: &Ledger) -> Config {
    let relay = |ip: &str| RelayAddress { address: ip.parse().unwrap(), external: None };
    let users = [("alice".to_owned(), "wonderland".to_owned())];
    Config {
        realm: "example.org".to_owned(),
        credentials: Credentials::new(users, vec!["north".to_owned()]),
        realms: Vec::new(),
        relay_addresses: vec![relay("11.0.0.1"), relay("2a00:1::1")],
        other_addresses: Vec::new(),
        relay_ports: 50_000..=50_999,
        relay_ports_all: 50_000..=50_999,
        channel_range: ChannelRange::Rfc8656,
        policy: Policy::new(&Rules::default()).into(),
        listeners: Vec::new(),
        discoveries: Vec::new(),
        ledger: ledger.clone(),
        limits: Limits { unauthenticated_replies_per_sec: 1_000_000, ..Limits::default() },
        offers: Offers::default(),
        nonce_key: [1; 32],
        seed: [2; 32],
    }
}

/// All that somebody without a password can say; an odd number, so that each comes from sources
/// of both families.
fn datagrams() -> Vec<Vec<u8>> {
    let transport = (AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]);
    let credentials = |user: &str| {
        vec![
            transport.clone(),
            (AttributeType::USERNAME, user.as_bytes().to_vec()),
            (AttributeType::REALM, b"example.org".to_vec()),
            (AttributeType::NONCE, vec![b'n'; 20]),
            (AttributeType::MESSAGE_INTEGRITY, vec![7; 20]),
        ]
    };
    let request = |method, attributes: &[_]| message(Class::Request, method, attributes);
    let datagrams = vec![
        request(Method::ALLOCATE, std::slice::from_ref(&transport)),
        request(Method::ALLOCATE, &credentials("alice")),
        request(Method::ALLOCATE, &credentials("1800000000:bob")),
        request(Method::ALLOCATE, &credentials("nobody")),
        request(Method::REFRESH, &[(AttributeType::LIFETIME, vec![0, 0, 2, 0])]),
        request(Method::CREATE_PERMISSION, std::slice::from_ref(&transport)),
        request(Method::CHANNEL_BIND, std::slice::from_ref(&transport)),
        request(Method::BINDING, &[]),
        request(Method::BINDING, &[(AttributeType(0x7001), vec![0; 4])]),
        request(Method(0x00B), &[]),
        message(Class::Indication, Method::SEND, &[(AttributeType::DATA, vec![0; 8])]),
        vec![0x40, 0, 0, 4, 1, 2, 3, 4],
        vec![0xFF; 40],
    ];
    assert_eq!(datagrams.len() % 2, 1);
    datagrams
}

fn message(class: Class, method: Method, attributes: &[(AttributeType, Vec<u8>)]) -> Vec<u8> {
    let mut buffer = [0; 512];
    let mut writer = MessageWriter::new(&mut buffer, class, method, TransactionId([3; 12]));
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    let written = writer.finish().unwrap();
    buffer[..written].to_vec()
}

/// What the process holds of memory that is not a file's.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
