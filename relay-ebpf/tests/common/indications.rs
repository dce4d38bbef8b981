//! STUN as plain bytes: indications and Binding messages, laid out by code of its own, and wrong
//! ones made of them.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]
#![allow(clippy::unwrap_used, reason = "only tests use it, and each number here fits")]

use std::net::{IpAddr, SocketAddr};

use relay_common::abi::{Permission, Route};
use relay_common::addr::{RelayedAddr, ServerAddr};
use relay_common::route::{self, PermissionEntry, Stamp};

use crate::common::{EPOCH, Ends, FUTURE, HostTables, SLOT, binding, put};

pub const BINDING_REQUEST: u16 = 0x0001;
pub const BINDING_SUCCESS: u16 = 0x0101;
pub const SEND: u16 = 0x0016;
pub const DATA_INDICATION: u16 = 0x0017;
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
pub const DATA: u16 = 0x0013;
pub const DONT_FRAGMENT: u16 = 0x001A;
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub const SOFTWARE: u16 = 0x8022;
pub const FINGERPRINT: u16 = 0x8028;
/// No attribute that anybody knows; comprehension-required.
pub const UNKNOWN: u16 = 0x7777;

/// The transaction ID of every message here.
pub const TRANSACTION: [u8; 12] = [0x9A, 2, 0xC3, 4, 5, 0xFF, 7, 8, 0, 10, 11, 0x8C];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// A message of attributes, each padded with zeros.
pub fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &TRANSACTION].concat();
    for (kind, value) in attributes {
        append(&mut bytes, *kind, value);
    }
    bytes
}

/// Appends an attribute, and corrects the message's length.
pub fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    set_length(message);
}

/// Makes the length field agree with the bytes.
pub fn set_length(message: &mut [u8]) {
    let length = u16::try_from(message.len() - 20).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// A XORed address.
pub fn xored(addr: SocketAddr) -> Vec<u8> {
    let mask = [&COOKIE[..], &TRANSACTION].concat();
    let (family, ip) = match addr.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let port = addr.port().to_be_bytes();
    let head = [0, family, port[0] ^ COOKIE[0], port[1] ^ COOKIE[1]];
    head.into_iter().chain(ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask)).collect()
}

/// A Send indication in the shape that the kernel relays.
pub fn send(peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    message(SEND, &[(XOR_PEER_ADDRESS, &xored(peer)), (DATA, data)])
}

/// A Data indication (with [`TRANSACTION`]).
pub fn data(peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    message(DATA_INDICATION, &[(XOR_PEER_ADDRESS, &xored(peer)), (DATA, data)])
}

/// Whether a Binding message carries FINGERPRINT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    No,
    Yes,
}

impl Sealed {
    pub const BOTH: [Self; 2] = [Self::No, Self::Yes];
}

/// A Binding request in a shape that the kernel answers.
pub fn request(sealed: Sealed) -> Vec<u8> {
    sealed_message(message(BINDING_REQUEST, &[]), sealed)
}

/// What it is answered.
pub fn response(client: SocketAddr, sealed: Sealed) -> Vec<u8> {
    sealed_message(message(BINDING_SUCCESS, &[(XOR_MAPPED_ADDRESS, &xored(client))]), sealed)
}

fn sealed_message(mut message: Vec<u8>, sealed: Sealed) -> Vec<u8> {
    if sealed == Sealed::Yes {
        seal(&mut message);
    }
    message
}

/// Appends a right FINGERPRINT.
pub fn seal(message: &mut Vec<u8>) {
    append(message, FINGERPRINT, &[0; 4]);
    let covered = message.len() - 8;
    let value = crc32(&message[..covered]) ^ 0x5354_554E;
    message[covered + 4..].copy_from_slice(&value.to_be_bytes());
}

/// CRC-32, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

/// Lets Send indications of an allocation be known by its 5-tuple.
pub fn install_send(tables: &mut HostTables, ends: &Ends, change: impl Fn(&mut Route)) {
    let stamp = Stamp { slot: SLOT, epoch: EPOCH, policed: false };
    let relayed = RelayedAddr::new(ends.relayed);
    let entry = route::send(&binding(ends, 0).five_tuple, relayed, stamp, FUTURE).unwrap();
    put(tables, entry, change);
}

/// Lets Binding requests to a server be answered.
pub fn install_answer(tables: &mut HostTables, server: SocketAddr, change: impl Fn(&mut Route)) {
    put(tables, route::answer(ServerAddr::new(server), EPOCH), change);
}

/// A permission for the peer's address; `hops` are towards the client and towards the peer.
pub fn install_permission(
    tables: &mut HostTables,
    ends: &Ends,
    hops: [u16; 2],
    change: impl Fn(&mut Permission),
) {
    let stamp = Stamp { slot: SLOT, epoch: EPOCH, policed: false };
    let (five_tuple, relayed) = (binding(ends, 0).five_tuple, RelayedAddr::new(ends.relayed));
    let entry = route::permission(&five_tuple, relayed, ends.peer.ip(), stamp, FUTURE, hops);
    match entry.unwrap() {
        PermissionEntry::V4(key, mut value) => {
            change(&mut value);
            tables.permissions_v4.insert(key, value);
        }
        PermissionEntry::V6(key, mut value) => {
            change(&mut value);
            tables.permissions_v6.insert(key, value);
        }
    }
}

/// Send indications that are wrong or only unusual, and what they are: none is relayed.
pub fn unusual(peer: SocketAddr) -> Vec<(&'static str, Vec<u8>)> {
    let (address, payload) = (xored(peer), b"12345".as_slice());
    let (peer, data) = ((XOR_PEER_ADDRESS, &address[..]), (DATA, payload));
    let good = message(SEND, &[peer, data]);
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let mut sealed = good.clone();
    seal(&mut sealed);
    let mut long = good.clone();
    long.extend([0; 4]);
    let mut counted = long.clone();
    set_length(&mut counted);
    let mut unpadded = good.clone();
    unpadded.truncate(good.len() - 3);
    let mut unpadded_counted = unpadded.clone();
    set_length(&mut unpadded_counted);
    let end = 20 + 4 + address.len() + 4;
    let mut last = good.clone();
    last[end - 1] = 9;
    let mut beyond = good.clone();
    beyond[end - 2] = 0xFF;
    let mut less = good.clone();
    less[end - 1] = 4;
    vec![
        ("DATA first", message(SEND, &[data, peer])),
        ("no DATA", message(SEND, &[peer])),
        ("SOFTWARE for DATA", message(SEND, &[peer, (SOFTWARE, payload)])),
        ("no peer", message(SEND, &[data])),
        ("nothing", message(SEND, &[])),
        ("two peers", message(SEND, &[peer, peer, data])),
        ("SOFTWARE behind", message(SEND, &[peer, data, (SOFTWARE, b"x")])),
        ("SOFTWARE in front", message(SEND, &[(SOFTWARE, b"x"), peer, data])),
        ("SOFTWARE between", message(SEND, &[peer, (SOFTWARE, b"x"), data])),
        ("DONT-FRAGMENT", message(SEND, &[peer, (DONT_FRAGMENT, b""), data])),
        ("DONT-FRAGMENT behind", message(SEND, &[peer, data, (DONT_FRAGMENT, b"")])),
        ("unknown attribute", message(SEND, &[peer, data, (UNKNOWN, b"x")])),
        ("FINGERPRINT", sealed),
        ("a Data indication", message(DATA_INDICATION, &[peer, data])),
        ("a Send request", message(0x0006, &[peer, data])),
        ("bytes behind", long),
        ("zeros behind, counted", counted),
        ("no padding", unpadded),
        ("no padding, counted", unpadded_counted),
        ("data beyond its padding", last),
        ("data beyond the message", beyond),
        ("wrong cookie", with(4, 0x20)),
        ("wrong cookie", with(7, 0x43)),
        ("length one less", with(3, good[3] - 1)),
        ("length one word less", with(3, good[3] - 4)),
        ("length one word more", with(3, good[3] + 4)),
        ("a reserved byte", with(24, 1)),
        ("no such family", with(25, 3)),
        ("the other family", with(25, good[25] ^ 3)),
        ("length of no family", with(23, 12)),
        ("length of the other family", with(23, good[23] ^ 0x1C)),
    ]
}
