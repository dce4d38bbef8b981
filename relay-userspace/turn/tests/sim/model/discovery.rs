//! Binding (RFC 8489 §6.3.1), and what RFC 5780 adds where there are two addresses.

use std::net::SocketAddr;

use super::wire::{self, Known, Stun};
use super::{Answer, Effect, Model, Tuple};
use crate::rules::{ALTERNATE_PORT, ALTERNATE_V4, LISTEN_PORT, RELAY_V4};

/// The longest PADDING.
const PADDING_MAX: usize = 1500;

/// What the answer of a server with two addresses says.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// From where to where it goes.
    pub way: Tuple,
    other: SocketAddr,
    padding: Option<usize>,
}

impl Model {
    pub(super) fn binding(&self, stun: &Stun, answer: &mut Answer) {
        let (client, server) = answer.tuple;
        let is_here = self.rules.is_discovering && server.is_ipv4();
        let more = [wire::CHANGE_REQUEST, wire::PADDING, wire::RESPONSE_PORT];
        let known = self.known(stun, if is_here { &more } else { &[] });
        answer.effect = Effect::Reflexive;
        answer.codes = match known {
            Known::Yes => vec![0],
            Known::No => vec![420],
            Known::Perhaps => vec![0, 420],
        };
        if !is_here || known == Known::No {
            return;
        }
        let mut way = (client, server);
        let other = SocketAddr::new(other_ip(server), other_port(server.port()));
        let mut is_wrong = false;
        match stun.value(wire::CHANGE_REQUEST) {
            None => {}
            Some([_, _, _, flags]) => {
                way.1.set_ip(if flags & 4 != 0 { other.ip() } else { server.ip() });
                way.1.set_port(if flags & 2 != 0 { other.port() } else { server.port() });
            }
            Some(_) => is_wrong = true,
        }
        match stun.value(wire::RESPONSE_PORT) {
            None => {}
            Some([0, 0] | [0, 0, _, _]) => is_wrong = true,
            Some([high, low] | [high, low, _, _]) => {
                way.0.set_port(u16::from_be_bytes([*high, *low]));
            }
            Some(_) => is_wrong = true,
        }
        // §7.6: nobody is to be sent fragments who did not ask for them.
        let padding = stun.value(wire::PADDING).map(<[u8]>::len);
        if is_wrong || (padding.is_some() && stun.value(wire::RESPONSE_PORT).is_some()) {
            answer.codes.retain(|code| *code != 0);
            answer.codes.push(400);
            return;
        }
        let padding = padding.map(|bytes| bytes.min(PADDING_MAX));
        answer.effect = Effect::Discovered(Discovered { way, other, padding });
    }

    pub(super) fn discovered(
        &self,
        tuple: Tuple,
        discovered: &Discovered,
        stun: &Stun,
    ) -> Result<(), String> {
        let Discovered { way, other, padding } = discovered;
        let outside = |address| Some(self.rules.outside(address));
        if stun.address(wire::XOR_MAPPED_ADDRESS) != Some(tuple.0)
            || stun.plain_address(wire::MAPPED_ADDRESS) != Some(tuple.0)
        {
            return Err("MAPPED-ADDRESS".to_owned());
        }
        if stun.plain_address(wire::RESPONSE_ORIGIN) != outside(way.1) {
            return Err("RESPONSE-ORIGIN".to_owned());
        }
        if stun.plain_address(wire::OTHER_ADDRESS) != outside(*other) {
            return Err("OTHER-ADDRESS".to_owned());
        }
        match stun.value(wire::PADDING).map(<[u8]>::len) == *padding {
            true => Ok(()),
            false => Err("PADDING".to_owned()),
        }
    }
}

fn other_ip(server: SocketAddr) -> std::net::IpAddr {
    let is_first = server.ip() == RELAY_V4.parse::<std::net::IpAddr>().unwrap();
    if is_first { ALTERNATE_V4 } else { RELAY_V4 }.parse().unwrap()
}

const fn other_port(port: u16) -> u16 {
    if port == LISTEN_PORT { ALTERNATE_PORT } else { LISTEN_PORT }
}
