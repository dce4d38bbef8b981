//! What a relayed socket is told by the network, and the datagram that can only be sent by looking
//! at that: one that must not be fragmented.

use std::ops::Range;

use relay_common::addr::PeerAddr;
use relay_common::wire::attribute::Icmp;
use relay_turn::{AllocationId, Fragments, Input, Now};

use super::Shard;
use super::handover::Carried;
use crate::icmp;
use crate::ring::{Frame, Queued, Socket, Token};
use crate::sockets::{self, IcmpErrors};

/// A datagram that must not be fragmented is tried so often: an earlier one's error costs a try.
const WHOLE_TRIES: u32 = 3;
/// "Fragmentation needed and DF set" (RFC 792).
const ICMP_TOO_BIG: (u8, u16) = (3, 4);

/// A part of a datagram, and the peer that it goes to.
pub(super) struct Part {
    pub(super) allocation: AllocationId,
    pub(super) peer: PeerAddr,
    pub(super) datagram: Carried,
    pub(super) payload: Range<usize>,
}

/// Whether a datagram was too big for the link that it was to leave by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TooBig {
    Yes,
    No,
}

impl Shard {
    /// Reads the errors that a relayed socket was told, as far as the budget goes. `sent` is whom a
    /// datagram was just to be sent to that must not be fragmented: says if it was too big.
    pub(super) fn read_errors(&mut self, now: Now, token: Token, sent: Option<PeerAddr>) -> TooBig {
        let mut too_big = TooBig::No;
        while let Some((allocation, socket)) = self.relays.named(token) {
            match self.icmp.next_error(now.monotonic_ns, token, socket) {
                Queued::Icmp(peer, icmp) => {
                    let peer = PeerAddr::new(peer);
                    self.handle(now, Input::PeerIcmp { allocation, peer, icmp });
                }
                Queued::TooBig(data) => {
                    let Some(peer) = sent else { continue };
                    too_big = TooBig::Yes;
                    let (kind, code) = ICMP_TOO_BIG;
                    let icmp = Icmp { kind, code, data };
                    self.handle(now, Input::PeerIcmp { allocation, peer, icmp });
                }
                Queued::Other => {}
                Queued::Nothing => break,
            }
        }
        too_big
    }

    /// Lets muted sockets be heard again, when it is time.
    pub(super) fn listen_again(&mut self, now: Now) {
        for token in self.icmp.over(now.monotonic_ns) {
            if let Some((_, socket)) = self.relays.named(token) {
                icmp::hear(socket, IcmpErrors::Kept);
            }
        }
    }

    /// Sends to a peer, unless it must not be fragmented: that is given back, for when there is
    /// nothing else to do.
    pub(super) fn relay(&mut self, part: Part, fragments: Fragments) -> Option<Part> {
        if fragments == Fragments::Forbidden {
            return Some(part);
        }
        let Part { allocation, peer, datagram, payload } = part;
        match self.relays.of(allocation, peer.family()) {
            Some(socket) => {
                let frame = Frame { head: &[], payload, padding: 0 };
                self.forward(socket, peer.socket(), datagram, &frame);
            }
            None => datagram.release(&mut self.ring),
        }
        None
    }

    /// Sends what must not be fragmented: at once, because no submission can carry the wish. What
    /// is too big for the link is told to the client like a router's error.
    pub(super) fn send_whole(&mut self, now: Now, whole: Part) {
        let Part { allocation, peer, datagram, payload } = whole;
        let Some(fields) = datagram.fields().relayed() else {
            self.hop_limit += 1;
            return datagram.release(&mut self.ring);
        };
        let mut is_sent = false;
        for _ in 0..WHOLE_TRIES {
            let Some(Socket { token, .. }) = self.relays.of(allocation, peer.family()) else {
                break;
            };
            let Some((_, socket)) = self.relays.named(token) else { break };
            let bytes = &datagram.bytes(&self.ring)[payload.clone()];
            is_sent = sockets::send_whole(socket, peer.socket(), fields, bytes).is_ok();
            // While errors are left, the next try would fail as well.
            if is_sent || self.read_errors(now, token, Some(peer)) == TooBig::Yes {
                break;
            }
        }
        self.dont_fragment += u64::from(!is_sent);
        datagram.release(&mut self.ring);
    }
}
