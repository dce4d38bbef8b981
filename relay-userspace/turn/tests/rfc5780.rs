//! RFC 5780, NAT behaviour discovery: which of the four addresses answers, to which port, and what
//! the answer says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};

use relay_common::addr::{ClientAddr, FiveTuple, ServerAddr, Transport};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::channel_data::ChannelRange;
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use relay_turn::{
    Config, Credentials, Discovery, Input, Ledger, Limits, Now, Output, Policy, RelayAddress,
    Rules, Turn,
};

const CLIENT: &str = "198.51.100.7:4000";
const TRANSACTION: TransactionId = TransactionId(*b"discovering.");
const CHANGE: AttributeType = AttributeType::CHANGE_REQUEST;
const PADDING: AttributeType = AttributeType::PADDING;
const PORT: AttributeType = AttributeType::RESPONSE_PORT;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A server on 11.0.0.1 and .2, ports 3478 and 3479, and at a third address without discovery.
fn server(external: Option<IpAddr>) -> Turn {
    let relay = RelayAddress { address: "11.0.0.1".parse().unwrap(), external };
    Turn::new(Config {
        realm: "example.org".to_owned(),
        credentials: Credentials::new([], vec!["north".to_owned()]),
        realms: Vec::new(),
        relay_addresses: vec![relay],
        other_addresses: Vec::new(),
        relay_ports: 50_000..=50_009,
        relay_ports_all: 50_000..=50_009,
        channel_range: ChannelRange::Rfc8656,
        policy: Policy::new(&Rules::default()).into(),
        listeners: Vec::new(),
        ledger: Ledger::new([3; 16]),
        limits: Limits::default(),
        offers: relay_turn::Offers::default(),
        nonce_key: [1; 32],
        seed: [2; 32],
        discoveries: vec![
            Discovery { primary: addr("[2a00::1]:3478"), alternate: addr("[2a00::2]:3479") },
            Discovery { primary: addr("11.0.0.1:3478"), alternate: addr("11.0.0.2:3479") },
        ],
    })
}

struct Reply {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Reply {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    fn value(&self, kind: AttributeType) -> &[u8] {
        self.message().attribute(kind).unwrap_or_else(|| panic!("no {kind:?}"))
    }

    /// The address in an attribute, which is not XORed.
    fn address(&self, kind: AttributeType) -> SocketAddr {
        let (head, ip) = self.value(kind).split_at(4);
        let ip: IpAddr = match <[u8; 4]>::try_from(ip) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(ip).unwrap().into(),
        };
        assert_eq!(head[..2], [0, if ip.is_ipv4() { 1 } else { 2 }]);
        SocketAddr::new(ip, u16::from_be_bytes([head[2], head[3]]))
    }

    /// The code of an error response; `None` for a success.
    fn error(&self) -> Option<u16> {
        if self.message().class() == Class::Success {
            return None;
        }
        let value = self.value(AttributeType::ERROR_CODE);
        Some(u16::from(value[2]) * 100 + u16::from(value[3]))
    }
}

fn ask(turn: &mut Turn, client: &str, to: &str, attributes: &[(AttributeType, &[u8])]) -> Reply {
    let mut buffer = [0; 4096];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TRANSACTION);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    let written = writer.finish().unwrap();
    let five_tuple = FiveTuple {
        client: ClientAddr::new(addr(client)),
        server: ServerAddr::new(addr(to)),
        transport: Transport::Udp,
    };
    let now = Now { monotonic_ns: 1, unix_secs: 1 };
    turn.handle(now, Input::FromClient { five_tuple, datagram: &buffer[..written] });
    let Some(Output::Reply { five_tuple, bytes }) = turn.poll() else { panic!("no reply") };
    assert_eq!(turn.poll(), None);
    Reply {
        from: five_tuple.server.socket(),
        to: five_tuple.client.socket(),
        bytes: turn.bytes(bytes).to_vec(),
    }
}

#[test]
fn an_answer_names_its_origin_and_the_other_address_and_port() {
    let mut turn = server(None);
    let corners = [
        ("11.0.0.1:3478", "11.0.0.2:3479"),
        ("11.0.0.2:3479", "11.0.0.1:3478"),
        ("11.0.0.1:3479", "11.0.0.2:3478"),
        ("11.0.0.2:3478", "11.0.0.1:3479"),
        ("[2a00::2]:3478", "[2a00::1]:3479"),
    ];
    for (server, other) in corners {
        let client = if server.starts_with('[') { "[2001:db8::7]:4000" } else { CLIENT };
        let reply = ask(&mut turn, client, server, &[]);
        assert_eq!((reply.from, reply.to), (addr(server), addr(client)));
        assert_eq!(reply.address(AttributeType::RESPONSE_ORIGIN), addr(server));
        assert_eq!(reply.address(AttributeType::OTHER_ADDRESS), addr(other));
        assert_eq!(reply.address(AttributeType::MAPPED_ADDRESS), addr(client));
        let mapped = reply.value(AttributeType::XOR_MAPPED_ADDRESS);
        assert_eq!(attribute::xor_address(mapped, TRANSACTION), Some(addr(client)));
    }
}

#[test]
fn change_request_chooses_where_the_answer_comes_from() {
    let mut turn = server(None);
    let origins = [
        (0, "11.0.0.1:3478"),
        (2, "11.0.0.1:3479"),
        (4, "11.0.0.2:3478"),
        (6, "11.0.0.2:3479"),
        (0xFFFF_FFF9_u32, "11.0.0.1:3478"),
    ];
    for (flags, origin) in origins {
        let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(CHANGE, &flags.to_be_bytes())]);
        assert_eq!(reply.error(), None);
        assert_eq!((reply.from, reply.to), (addr(origin), addr(CLIENT)), "{flags:x}");
        assert_eq!(reply.address(AttributeType::RESPONSE_ORIGIN), addr(origin));
        assert_eq!(reply.address(AttributeType::OTHER_ADDRESS), addr("11.0.0.2:3479"));
    }
    let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(CHANGE, &[0, 6])]);
    assert_eq!((reply.error(), reply.from), (Some(400), addr("11.0.0.1:3478")));
}

#[test]
fn response_port_chooses_where_the_answer_goes() {
    let mut turn = server(None);
    for value in [[0x12, 0x34].as_slice(), &[0x12, 0x34, 0, 0]] {
        let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(PORT, value)]);
        assert_eq!((reply.error(), reply.to), (None, addr("198.51.100.7:4660")));
        assert_eq!(reply.address(AttributeType::MAPPED_ADDRESS), addr(CLIENT), "who asked");
    }
    for value in [[0, 0].as_slice(), &[1], &[], &[1, 2, 3]] {
        let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(PORT, value)]);
        assert_eq!((reply.error(), reply.to), (Some(400), addr(CLIENT)), "{value:?}");
    }
}

#[test]
fn padding_is_given_back_up_to_a_packet_and_never_to_another_port() {
    let mut turn = server(None);
    for (asked, given) in [(0, 0), (1, 1), (1400, 1400), (1500, 1500), (3000, 1500)] {
        let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(PADDING, &vec![7; asked])]);
        assert_eq!(reply.error(), None);
        assert_eq!(reply.value(PADDING).len(), given);
    }
    let both: [(_, &[u8]); 2] = [(PADDING, &[0; 8]), (PORT, &[1, 2])];
    let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &both);
    assert_eq!((reply.error(), reply.to), (Some(400), addr(CLIENT)));
}

#[test]
fn where_there_is_one_address_only_its_attributes_are_unknown() {
    let mut turn = server(None);
    for server in ["11.0.0.3:3478", "11.0.0.1:3480", "11.0.0.1:53"] {
        for kind in [CHANGE, PADDING, PORT] {
            let reply = ask(&mut turn, CLIENT, server, &[(kind, &[0; 4])]);
            assert_eq!((reply.error(), reply.from), (Some(420), addr(server)));
            assert_eq!(reply.value(AttributeType::UNKNOWN_ATTRIBUTES), kind.0.to_be_bytes());
        }
        let reply = ask(&mut turn, CLIENT, server, &[]);
        assert_eq!(reply.error(), None);
        assert!(reply.message().attribute(AttributeType::OTHER_ADDRESS).is_none());
    }
    let unknown = AttributeType(0x7001);
    let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[(CHANGE, &[0; 4]), (unknown, &[])]);
    assert_eq!(reply.value(AttributeType::UNKNOWN_ATTRIBUTES), unknown.0.to_be_bytes());
}

#[test]
fn behind_a_nat_the_addresses_are_the_outside_ones() {
    let mut turn = server(Some("12.0.0.1".parse().unwrap()));
    let reply = ask(&mut turn, CLIENT, "11.0.0.1:3478", &[]);
    assert_eq!(reply.address(AttributeType::RESPONSE_ORIGIN), addr("12.0.0.1:3478"));
    let reply = ask(&mut turn, CLIENT, "11.0.0.2:3479", &[]);
    assert_eq!(reply.address(AttributeType::OTHER_ADDRESS), addr("12.0.0.1:3478"));
}
