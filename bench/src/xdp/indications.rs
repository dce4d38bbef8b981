//! Packets of STUN that Turnpike handles in the kernel: indications of an allocation with a
//! permission, and Binding requests. One allocation for each family.

use relay_common::abi::Reason;
use relay_common::addr::Family;

use super::frame::Datagram;
use super::path::{Kind, Out, Path, arriving, data, leaving};
use super::stun::{
    self, BINDING_REQUEST, BINDING_SUCCESS, DATA, SEND_INDICATION, Transaction, XOR_MAPPED_ADDRESS,
    XOR_PEER_ADDRESS,
};
use super::tables::{OUR_MAC, ROUTER_MAC, allocation};

/// What the relay gives the packets that it starts.
const HOP_LIMIT: u8 = 64;
const TRANSACTION: Transaction = *b"transaction!";

/// All of them.
pub(super) fn paths(payload: u16) -> Vec<Path> {
    let both = |path: fn(Family, u16) -> Path| [Family::V4, Family::V6].map(|f| path(f, payload));
    [both(send), both(receive), both(answered)].into_iter().flatten().collect()
}

fn way(reason: Reason) -> (Kind, Reason) {
    (Kind::Other, reason)
}

/// Zeros behind the application data of an indication.
fn padding(payload: u16) -> i16 {
    [0, 3, 2, 1][usize::from(payload % 4)]
}

fn send(family: Family, payload: u16) -> Path {
    let name = match family {
        Family::V4 => "ipv4_send_indication",
        Family::V6 => "ipv6_send_indication",
    };
    let (ends, data) = (allocation(family), data(payload));
    let peer = stun::xored(ends.peer, &TRANSACTION);
    let attributes = [(XOR_PEER_ADDRESS, &peer[..]), (DATA, &data)];
    let message = stun::message(SEND_INDICATION, &TRANSACTION, &attributes);
    let arrives = arriving(ends.client, ends.server, message);
    let out = Out::Datagram(leaving(ends.relayed, ends.peer, data));
    Path::new(name, way(Reason::SendIndication), payload, &arrives, out).tail(-padding(payload))
}

fn receive(family: Family, payload: u16) -> Path {
    let name = match family {
        Family::V4 => "ipv4_data_indication",
        Family::V6 => "ipv6_data_indication",
    };
    let (ends, data) = (allocation(family), data(payload));
    let arrives = arriving(ends.peer, ends.relayed, data.clone());
    let leaves = leaving(ends.server, ends.client, Vec::new());
    let out = Out::DataIndication { leaves, peer: ends.peer, data };
    Path::new(name, way(Reason::DataIndication), payload, &arrives, out).tail(padding(payload))
}

/// A request of a header alone: all of it is the program's to write.
fn answered(family: Family, _: u16) -> Path {
    let name = match family {
        Family::V4 => "ipv4_binding_answered",
        Family::V6 => "ipv6_binding_answered",
    };
    let ends = allocation(family);
    let request = stun::message(BINDING_REQUEST, &TRANSACTION, &[]);
    let arrives = arriving(ends.client, ends.server, request);
    let mapped = stun::xored(ends.client, &TRANSACTION);
    let response = stun::message(BINDING_SUCCESS, &TRANSACTION, &[(XOR_MAPPED_ADDRESS, &mapped)]);
    // Back the way that it came, as a packet of our own.
    let leaves = Datagram {
        macs: [ROUTER_MAC, OUR_MAC],
        id: 0,
        flow: 0,
        hop_limit: HOP_LIMIT,
        ..leaving(ends.server, ends.client, response)
    };
    Path::new(name, way(Reason::BindingAnswered), 0, &arrives, Out::Datagram(leaves))
}
