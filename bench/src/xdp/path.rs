//! What is measured: frames that meet a binding, or meet nothing, and what has to come out. Has
//! the straight ones, and those that go up; others are in `shapes` and `indications`.

use std::net::SocketAddr;

use relay_bench_ebpf::stage::{self, Template};
use relay_common::abi::Reason;
use relay_common::addr::Family;

use super::frame::{Datagram, TCP, UDP, channel_data};
use super::stun::{self, DATA, DATA_INDICATION, TRANSACTION_AT, Transaction, XOR_PEER_ADDRESS};
use super::tables::{CHANNEL, Ends, NEXT_MAC, OTHER_CHANNEL, OUR_MAC, ROUTER_MAC};

const HOP_LIMIT: u8 = 64;
/// What stands in the headers of what arrives.
const ID: u16 = 0x1D1D;
const FLOW: u32 = 0xA_BCDE;

/// What a path may be compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// ChannelData of a live channel, untagged and unpadded, between a client and a peer of one
    /// family: what the headline is made of, and all that the yardstick knows, on IPv4.
    Straight(Family),
    /// Relayed by Turnpike, in another shape.
    Other,
    /// Passed up.
    Passed,
}

/// What comes out of a relay.
#[derive(Debug)]
pub(super) enum Out {
    Datagram(Datagram),
    /// A Data indication, the payload of `leaves`. Its transaction ID is chance, and the peer's
    /// address is written by it.
    DataIndication {
        leaves: Datagram,
        peer: SocketAddr,
        data: Vec<u8>,
    },
}

impl Out {
    /// Its bytes, with the transaction ID of what was `found` where that is chance.
    fn bytes(&self, found: &[u8]) -> Vec<u8> {
        match self {
            Self::Datagram(datagram) => datagram.bytes(),
            Self::DataIndication { leaves, peer, data } => {
                let frame = |id: &Transaction| {
                    let peer = stun::xored(*peer, id);
                    let attributes = [(XOR_PEER_ADDRESS, &peer[..]), (DATA, data)];
                    let payload = stun::message(DATA_INDICATION, id, &attributes);
                    let at = payload.len() - TRANSACTION_AT;
                    let frame = Datagram { payload, ..leaves.clone() }.bytes();
                    (frame.len() - at, frame)
                };
                let (at, any) = frame(&[0; _]);
                let id = found.get(at..).and_then(<[u8]>::first_chunk);
                id.map_or(any, |id| frame(id).1)
            }
        }
    }
}

/// One way through the program.
#[derive(Debug)]
pub(super) struct Path {
    /// Its name in reports.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Bytes of application data.
    pub(super) payload: u16,
    /// What Turnpike counts the packet under.
    pub(super) reason: Reason,
    /// What goes in.
    pub(super) frame: Vec<u8>,
    /// What comes out of a relay: the same when it is passed.
    out: Out,
    /// The wire's family.
    family: Family,
    /// Bytes of the frame that a relay writes to or cuts off, from its start.
    head_bytes: usize,
    /// Bytes that a relay puts behind the frame's end; negative: takes away there.
    tail_bytes: i16,
    /// Bindings that a run picks from.
    picks: u32,
}

impl Path {
    /// Of what arrives and what comes out; application data is all that `arrives` ends in.
    pub(super) fn new(
        name: &'static str,
        (kind, reason): (Kind, Reason),
        payload: u16,
        arrives: &Datagram,
        out: Out,
    ) -> Self {
        let frame = arrives.bytes();
        let family = Family::of(arrives.src.ip());
        let head_bytes = frame.len() - usize::from(payload);
        Self {
            name,
            kind,
            payload,
            reason,
            frame,
            out,
            family,
            head_bytes,
            tail_bytes: 0,
            picks: 1,
        }
    }

    /// The same, but that a relay puts `tail_bytes` behind the frame's end; negative: takes zeros
    /// away that stand behind the application data.
    pub(super) fn tail(self, tail_bytes: i16) -> Self {
        let padding = usize::from(tail_bytes.min(0).unsigned_abs());
        Self { head_bytes: self.head_bytes - padding, tail_bytes, ..self }
    }

    /// What comes out of a relay, as bytes; what is chance is as in what was `found`.
    pub(super) fn out(&self, found: &[u8]) -> Vec<u8> {
        self.out.bytes(found)
    }

    /// A relay transmits the packet.
    pub(super) fn is_relayed(&self) -> bool {
        self.kind != Kind::Passed
    }

    /// The straight paths; the first two are the headline's when `payloads` begins with its
    /// payload.
    pub(super) fn straight(payloads: &[u16], live: u32) -> Vec<Self> {
        let mut paths = Vec::new();
        for family in [Family::V4, Family::V6] {
            for &payload in payloads {
                let both = [Self::to_peer(family, payload), Self::to_client(family, payload)];
                paths.extend(both.map(|path| Self { picks: live, ..path }));
            }
        }
        paths
    }

    fn to_peer(family: Family, payload: u16) -> Self {
        let name = match family {
            Family::V4 => "ipv4_client_to_peer",
            Family::V6 => "ipv6_client_to_peer",
        };
        let (arrives, leaves) = client_to_peer(&Ends::straight(family, 0), payload);
        let way = (Kind::Straight(family), Reason::ClientToPeer);
        Self::new(name, way, payload, &arrives, Out::Datagram(leaves))
    }

    fn to_client(family: Family, payload: u16) -> Self {
        let name = match family {
            Family::V4 => "ipv4_peer_to_client",
            Family::V6 => "ipv6_peer_to_client",
        };
        let (arrives, leaves) = peer_to_client(&Ends::straight(family, 0), payload);
        let way = (Kind::Straight(family), Reason::PeerToClient);
        Self::new(name, way, payload, &arrives, Out::Datagram(leaves))
    }

    /// Paths of packets that go up to userspace, which all of a host's other traffic does.
    pub(super) fn passed(payload: u16, live: u32) -> Vec<Self> {
        let ends = Ends::straight(Family::V4, 0);
        let path = |name, reason, datagram: &Datagram| {
            let out = Out::Datagram(datagram.clone());
            Self::new(name, (Kind::Passed, reason), payload, datagram, out)
        };
        let (ask, _) = client_to_peer(&ends, payload);
        let stun = Datagram { payload: binding_request(payload), ..ask.clone() };
        let unbound = channel_data(OTHER_CHANNEL, &data(payload));
        let unbound = Datagram { payload: unbound, ..ask.clone() };
        let expired = Datagram { src: Ends::straight(Family::V4, live).client, ..ask.clone() };
        let elsewhere = Datagram { dst: (ends.server.ip(), 53).into(), ..ask.clone() };
        let tcp = Datagram { protocol: TCP, ..ask };
        vec![
            path("pass_stun", Reason::Stun, &stun),
            path("pass_no_route", Reason::NoRoute, &unbound),
            path("pass_expired", Reason::Expired, &expired),
            path("pass_other_port", Reason::NotOurPort, &elsewhere),
            path("pass_tcp", Reason::NotUdp, &tcp),
        ]
    }

    /// What the stage restores: the frame as it is.
    pub(super) fn template(&self) -> Template {
        let (first, rest) = self.frame[..self.head_bytes].split_at(2);
        let (chunks, odd) = rest.as_chunks::<4>();
        assert!(odd.is_empty(), "headers are words behind the first two bytes");
        let mut words = [0; stage::WORDS_MAX];
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u32::from_ne_bytes(*chunk);
        }
        let source_word = match self.family {
            Family::V4 => stage::SOURCE_WORD_V4,
            Family::V6 => stage::SOURCE_WORD_V6,
        };
        let length = |bytes| u16::try_from(bytes).expect("a frame of one page at most");
        Template {
            random: 1,
            source: u32::from_be(words[usize::from(source_word)]),
            picks: 1,
            frame_bytes: length(self.frame.len()),
            out_bytes: length(self.out(&[]).len()),
            out_tail: self.tail_bytes,
            words_count: length(chunks.len()),
            source_word,
            first: u16::from_ne_bytes([first[0], first[1]]),
            words,
        }
    }

    /// What the stage restores: the frame from any live binding's source address. The same seed,
    /// which is not 0, picks the same bindings.
    pub(super) fn picking_template(&self, seed: u32) -> Template {
        Template { random: seed, picks: self.picks, ..self.template() }
    }
}

/// ChannelData from a binding's client, and what the peer gets.
pub(super) fn client_to_peer(ends: &Ends, payload: u16) -> (Datagram, Datagram) {
    let data = data(payload);
    let arrives = arriving(ends.client, ends.server, channel_data(CHANNEL, &data));
    (arrives, leaving(ends.relayed, ends.peer, data))
}

/// From a binding's peer, and what the client gets.
pub(super) fn peer_to_client(ends: &Ends, payload: u16) -> (Datagram, Datagram) {
    let data = data(payload);
    let leaves = leaving(ends.server, ends.client, channel_data(CHANNEL, &data));
    (arriving(ends.peer, ends.relayed, data), leaves)
}

pub(super) fn arriving(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Datagram {
    Datagram {
        macs: [OUR_MAC, ROUTER_MAC],
        vlan: None,
        src,
        dst,
        id: ID,
        flow: FLOW,
        hop_limit: HOP_LIMIT,
        protocol: UDP,
        payload,
    }
}

/// A hop later, on the way out; a flow label is its sender's own (RFC 8656 §13.2).
pub(super) fn leaving(src: SocketAddr, dst: SocketAddr, payload: Vec<u8>) -> Datagram {
    let macs = [NEXT_MAC, OUR_MAC];
    Datagram { macs, hop_limit: HOP_LIMIT - 1, flow: 0, ..arriving(src, dst, payload) }
}

/// Application data.
pub(super) fn data(bytes: u16) -> Vec<u8> {
    (0..bytes).map(|at| at.wrapping_mul(37).to_be_bytes()[1]).collect()
}

/// A STUN Binding request of some bytes (RFC 8489 §5), 20 or more.
fn binding_request(bytes: u16) -> Vec<u8> {
    let mut message = data(bytes);
    let [high, low] = (bytes - 20).to_be_bytes();
    message[..8].copy_from_slice(&[0, 1, high, low, 0x21, 0x12, 0xA4, 0x42]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use zerocopy::IntoBytes as _;

    fn all() -> Vec<Path> {
        let mut paths = Path::straight(&[64, 200], 9);
        for payload in [64, 33] {
            paths.extend(super::super::shapes::paths(payload));
            paths.extend(super::super::indications::paths(payload));
        }
        paths.extend(Path::passed(64, 9));
        paths
    }

    #[test]
    fn a_template_is_the_frames_head_and_knows_the_source() {
        for path in all() {
            let template = path.template();
            let head = [&template.first.to_ne_bytes(), template.words.as_bytes()].concat();
            let bytes = 2 + 4 * usize::from(template.words_count);
            assert_eq!(path.frame[..bytes], head[..bytes], "{}", path.name);
            assert!(usize::from(template.words_count) >= stage::WORDS_MIN, "{}", path.name);
            let live = matches!(path.kind, Kind::Straight(_));
            assert_eq!(path.picking_template(1).picks, if live { 9 } else { 1 });
            if let Kind::Straight(family) = path.kind {
                let Ends { client, peer, .. } = Ends::straight(family, 0);
                let from = if path.reason == Reason::PeerToClient { peer } else { client };
                let source = match from.ip() {
                    IpAddr::V4(ip) => ip.octets(),
                    IpAddr::V6(ip) => *ip.octets().last_chunk().unwrap(),
                };
                assert_eq!(template.source.to_be_bytes(), source, "{}", path.name);
            }
        }
    }

    /// Else the stage would take one for the other.
    #[test]
    fn a_changed_tail_is_known_by_the_frames_length() {
        for path in all().iter().filter(|path| path.tail_bytes != 0) {
            let given = [path.frame.len(), path.frame.len() + stage::LEAD_BYTES];
            assert!(!given.contains(&path.out(&[]).len()), "{}", path.name);
        }
    }

    #[test]
    fn relaying_takes_or_adds_a_channel_header() {
        for path in Path::straight(&[64, 200], 1) {
            let change = if path.reason == Reason::ClientToPeer { -4 } else { 4 };
            assert_eq!(path.frame.len().checked_add_signed(change), Some(path.out(&[]).len()));
        }
    }
}
