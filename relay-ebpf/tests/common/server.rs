//! A userspace TURN server, and what it does with a datagram: what leaves, byte for byte.

#![allow(unreachable_pub, reason = "part of a test's crate")]
#![allow(clippy::unwrap_used, reason = "only tests use it, and each number here fits")]

use std::collections::HashMap;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::addr::{ClientAddr, Family, FiveTuple, PeerAddr, ServerAddr, Transport};
use relay_common::wire::attribute::{AttributeType, xor_address};
use relay_common::wire::channel_data::ChannelRange;
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use relay_turn::{
    AllocationId, Binding, Config, Credentials, Input, Ledger, Limits, Now, Output, Permission,
    Policy, RelayAddress, Rules, Turn,
};

use super::NOW;

pub const RELAY_V4: &str = "11.0.0.1";
pub const RELAY_V6: &str = "2a00:1::1";
const REALM: &str = "example.org";

/// What leaves the machine: from where, where to, and the UDP payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
}

/// What userspace does with a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing leaves.
    Dropped,
    /// Relayed, or a success response.
    Sent(Sent),
    /// An error response.
    Refused,
}

pub struct Allocation {
    pub id: AllocationId,
    pub five_tuple: FiveTuple,
    pub relayed: SocketAddr,
}

pub struct Server {
    turn: Turn,
    pub allocations: Vec<Allocation>,
    /// What the datapath was told.
    pub bindings: Vec<Binding>,
    /// Permissions that the datapath was told of.
    pub permissions: Vec<Permission>,
    nonces: HashMap<FiveTuple, Vec<u8>>,
}

fn config() -> Config {
    let relay = |ip: &str| RelayAddress { address: ip.parse().unwrap(), external: None };
    Config {
        realm: REALM.to_owned(),
        realms: Vec::new(),
        credentials: Credentials::new([("user".to_owned(), "pass".to_owned())], Vec::new()),
        relay_addresses: vec![relay(RELAY_V4), relay(RELAY_V6)],
        other_addresses: Vec::new(),
        relay_ports: 50_000..=50_099,
        relay_ports_all: 50_000..=50_099,
        channel_range: ChannelRange::Rfc8656,
        policy: Policy::new(&Rules::default()).into(),
        listeners: Vec::new(),
        ledger: Ledger::new([3; 16]),
        // Time stands still: whatever is asked must fit into one burst.
        limits: Limits { unauthenticated_replies_per_sec: 10_000_000, ..Limits::default() },
        offers: relay_turn::Offers::default(),
        nonce_key: [1; 32],
        seed: [2; 32],
        discoveries: Vec::new(),
    }
}

pub fn five_tuple(client: SocketAddr, server: SocketAddr) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: ClientAddr::new(client),
        server: ServerAddr::new(server),
    }
}

impl Server {
    pub fn new() -> Self {
        Self {
            turn: Turn::new(config()),
            allocations: Vec::new(),
            bindings: Vec::new(),
            permissions: Vec::new(),
            nonces: HashMap::new(),
        }
    }

    /// Makes an allocation: its place in `allocations`.
    pub fn allocate(&mut self, five_tuple: FiveTuple, family: Family) -> usize {
        let number = if family == Family::V4 { 1 } else { 2 };
        let transport = (AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]);
        let family = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![number, 0, 0, 0]);
        let reply = self.ask(five_tuple, Method::ALLOCATE, &[transport, family]);
        let reply = Message::parse(&reply).unwrap();
        let value = reply.attribute(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
        let relayed = xor_address(value, reply.transaction_id()).unwrap();
        let allocation = self.allocations.last_mut().unwrap();
        assert_eq!(allocation.relayed, relayed);
        self.allocations.len() - 1
    }

    pub fn permit(&mut self, index: usize, peer: SocketAddr) {
        let five_tuple = self.allocations[index].five_tuple;
        let peer = (AttributeType::XOR_PEER_ADDRESS, xored(peer));
        self.ask(five_tuple, Method::CREATE_PERMISSION, &[peer]);
    }

    pub fn bind(&mut self, index: usize, channel: u16, peer: SocketAddr) {
        let five_tuple = self.allocations[index].five_tuple;
        let number = channel.to_be_bytes();
        let channel = (AttributeType::CHANNEL_NUMBER, vec![number[0], number[1], 0, 0]);
        let peer = (AttributeType::XOR_PEER_ADDRESS, xored(peer));
        self.ask(five_tuple, Method::CHANNEL_BIND, &[channel, peer]);
    }

    /// What comes of a datagram. Between two allocations of this server it goes by the loopback, as
    /// the machine's stack would carry it.
    pub fn handle(&mut self, src: SocketAddr, dst: SocketAddr, datagram: &[u8]) -> Outcome {
        let relayed = self.allocations.iter().find(|allocation| allocation.relayed == dst);
        let input = match relayed {
            Some(allocation) => {
                Input::FromPeer { allocation: allocation.id, peer: PeerAddr::new(src), datagram }
            }
            None => Input::FromClient { five_tuple: five_tuple(src, dst), datagram },
        };
        let mut outputs = self.run(input);
        let Some(output) = outputs.pop() else { return Outcome::Dropped };
        assert!(outputs.is_empty(), "one datagram in, one out: {outputs:?}");
        match output {
            Output::Reply { five_tuple, bytes } => {
                let payload = self.turn.bytes(bytes).to_vec();
                if Message::parse(&payload).unwrap().class() == Class::Error {
                    return Outcome::Refused;
                }
                let (src, dst) = (five_tuple.server.socket(), five_tuple.client.socket());
                Outcome::Sent(Sent { src, dst, payload })
            }
            Output::ToPeer { allocation, peer, payload, .. } => {
                let payload = datagram[payload].to_vec();
                let of = self.allocations.iter().find(|other| other.id == allocation).unwrap();
                let (src, dst) = (of.relayed, peer.socket());
                if self.allocations.iter().any(|other| other.relayed == dst) {
                    return self.handle(src, dst, &payload);
                }
                Outcome::Sent(Sent { src, dst, payload })
            }
            Output::ToClient { five_tuple, head, padding } => {
                let payload = [head.as_slice(), datagram, &vec![0; padding]].concat();
                let (src, dst) = (five_tuple.server.socket(), five_tuple.client.socket());
                Outcome::Sent(Sent { src, dst, payload })
            }
            other => panic!("no datagram leads to {other:?}"),
        }
    }

    /// An authenticated request's success response.
    fn ask(
        &mut self,
        five_tuple: FiveTuple,
        method: Method,
        attributes: &[(AttributeType, Vec<u8>)],
    ) -> Vec<u8> {
        if !self.nonces.contains_key(&five_tuple) {
            let refused = self.exchange(five_tuple, &build(Method::ALLOCATE, &[], None));
            let refused = Message::parse(&refused).unwrap();
            let nonce = refused.attribute(AttributeType::NONCE).unwrap().to_vec();
            self.nonces.insert(five_tuple, nonce);
        }
        let request = build(method, attributes, Some(&self.nonces[&five_tuple]));
        let reply = self.exchange(five_tuple, &request);
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.class(), Class::Success, "{method:?} {reply:02x?}");
        reply
    }

    fn exchange(&mut self, five_tuple: FiveTuple, datagram: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        let mut outputs = self.run(Input::FromClient { five_tuple, datagram });
        while !outputs.is_empty() {
            for output in std::mem::take(&mut outputs) {
                match output {
                    Output::Reply { bytes, .. } => reply = self.turn.bytes(bytes).to_vec(),
                    Output::OpenRelay { allocation: id, relayed } => {
                        let (family, relayed) = (relayed.family(), relayed.socket());
                        self.allocations.push(Allocation { id, five_tuple, relayed });
                        outputs = self.run(Input::RelayOpened { allocation: id, family });
                    }
                    Output::Install(binding) => self.bindings.push(binding),
                    Output::Permit(permission) => self.permissions.push(permission),
                    other => panic!("{other:?}"),
                }
            }
        }
        reply
    }

    fn run(&mut self, input: Input<'_>) -> Vec<Output> {
        let now = Now { monotonic_ns: NOW, unix_secs: 1_700_000_000 };
        self.turn.handle(now, input);
        let outputs = std::iter::from_fn(|| self.turn.poll());
        outputs.filter(|output| !matches!(output, Output::Refused(_))).collect()
    }
}

const TRANSACTION: TransactionId = TransactionId([7; 12]);

fn xored(addr: SocketAddr) -> Vec<u8> {
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TRANSACTION);
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, addr);
    let written = writer.finish().unwrap();
    buffer[24..written].to_vec()
}

fn build(method: Method, attributes: &[(AttributeType, Vec<u8>)], nonce: Option<&[u8]>) -> Vec<u8> {
    let mut buffer = vec![0; 1024];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, TRANSACTION);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    if let Some(nonce) = nonce {
        writer.attribute(AttributeType::USERNAME, b"user");
        writer.attribute(AttributeType::REALM, REALM.as_bytes());
        writer.attribute(AttributeType::NONCE, nonce);
        let key = Md5::digest(format!("user:{REALM}:pass"));
        writer.integrity(|header, body| {
            let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key).unwrap();
            mac.update(header);
            mac.update(body);
            mac.finalize().into_bytes().into()
        });
    }
    let written = writer.finish().unwrap();
    buffer.truncate(written);
    buffer
}
