//! Binding requests, and what RFC 5780 adds to them: a server of two addresses and two ports that
//! answers from another one, or to another port, and so lets a client find out how its NAT behaves.
//! Owns the choice of addresses; the bytes of an answer are `reply.rs`'s.

use std::net::SocketAddr;

use relay_common::addr::{ClientAddr, PeerAddr, ServerAddr};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::Message;

use crate::reject::Reject;
use crate::reply::{ReplyTo, Success};
use crate::request::{Answer, optional};
use crate::{Discovery, Turn};

/// CHANGE-REQUEST: answer from the other address (RFC 5780 §7.2).
const CHANGE_IP: u32 = 0x04;
/// CHANGE-REQUEST: answer from the other port.
const CHANGE_PORT: u32 = 0x02;
/// PADDING makes an answer longer than what links carry (RFC 5780 §7.6), and no longer than that.
const PADDING_BYTES_MAX: usize = 1500;
/// What is only known where there are two addresses and two ports.
const OF_DISCOVERY: [AttributeType; 3] =
    [AttributeType::CHANGE_REQUEST, AttributeType::PADDING, AttributeType::RESPONSE_PORT];

/// What the answer to a Binding request says of a server with two addresses (RFC 5780 §6.1), all
/// addresses as clients know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Discovered {
    /// MAPPED-ADDRESS and XOR-MAPPED-ADDRESS.
    pub(crate) mapped: ClientAddr,
    /// RESPONSE-ORIGIN: where the answer comes from.
    pub(crate) origin: SocketAddr,
    /// OTHER-ADDRESS: where it comes from when address and port are to change.
    pub(crate) other: SocketAddr,
    /// Bytes of PADDING.
    pub(crate) padding: Option<usize>,
}

impl Discovery {
    /// The one of the four transport addresses that differs from this one in address and port.
    /// `None`: this is none of them.
    #[must_use]
    pub fn other(&self, server: SocketAddr) -> Option<SocketAddr> {
        let (first, second) = (self.primary, self.alternate);
        let ip = match server.ip() {
            ip if ip == first.ip() => second.ip(),
            ip if ip == second.ip() => first.ip(),
            _ => return None,
        };
        let port = match server.port() {
            port if port == first.port() => second.port(),
            port if port == second.port() => first.port(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

impl Turn {
    /// Answers a Binding request (RFC 8489 §6.3.1, RFC 5780 §6.1). The answer may leave from
    /// another of our addresses, or for another port of the client.
    pub(crate) fn binding(&self, message: &Message<'_>, reply_to: &mut ReplyTo) -> Answer {
        let asked = reply_to.five_tuple;
        let other = self.discoveries.iter().find_map(|known| known.other(asked.server.socket()));
        let mut unknown = self.not_understood(message);
        if other.is_some() {
            unknown.retain(|kind| !OF_DISCOVERY.contains(kind));
        }
        if !unknown.is_empty() {
            return Err(Reject::UnknownAttributes(unknown));
        }
        let Some(other) = other else { return Ok(Some(Success::Binding)) };

        let change = optional(message, AttributeType::CHANGE_REQUEST, attribute::number)?;
        let change = change.unwrap_or(0);
        let port = optional(message, AttributeType::RESPONSE_PORT, response_port)?;
        // No longer than the request's, so that nobody is sent much more than was asked with.
        let padding = message.attribute(AttributeType::PADDING);
        let padding = padding.map(|value| value.len().min(PADDING_BYTES_MAX));
        // §7.5, §7.6: fragments are not to be sent to a port that did not ask for them.
        if port.is_some() && padding.is_some() {
            return Err(Reject::BadRequest);
        }
        let mut origin = asked.server.socket();
        if change & CHANGE_IP != 0 {
            origin.set_ip(other.ip());
        }
        if change & CHANGE_PORT != 0 {
            origin.set_port(other.port());
        }
        let client = asked.client.socket();
        reply_to.five_tuple.server = ServerAddr::new(origin);
        reply_to.five_tuple.client =
            ClientAddr::new(SocketAddr::new(client.ip(), port.unwrap_or(client.port())));
        let outside = |addr| self.peers.outside(PeerAddr::new(addr)).socket();
        Ok(Some(Success::Discovered(Discovered {
            mapped: asked.client,
            origin: outside(origin),
            other: outside(other),
            padding,
        })))
    }
}

/// RESPONSE-PORT: a port, and two bytes of padding that some count in (RFC 5780 §7.5).
fn response_port(value: &[u8]) -> Option<u16> {
    let (&port, rest) = value.split_first_chunk()?;
    let port = u16::from_be_bytes(port);
    (port != 0 && matches!(rest.len(), 0 | 2)).then_some(port)
}
