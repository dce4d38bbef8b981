//! What a relayed socket is told by the network, and the datagram that can only be sent by looking
//! at that: one that must not be fragmented.

use std::ops::Range;

use relay_common::addr::PeerAddr;
use relay_common::wire::attribute::Icmp;
use relay_turn::{AllocationId, Input, Now};

use super::Shard;
use crate::icmp;
use crate::ring::{Datagram, Queued, Socket, Token};
use crate::sockets::{self, IcmpErrors};

/// A datagram that must not be fragmented is tried so often: an earlier one's error costs a try.
const WHOLE_TRIES: u32 = 3;
/// "Fragmentation needed and DF set" (RFC 792).
const ICMP_TOO_BIG: (u8, u16) = (3, 4);

/// A datagram that must not be fragmented, and the part of it that goes to a peer.
pub(super) struct Whole {
    pub(super) allocation: AllocationId,
    pub(super) peer: PeerAddr,
    pub(super) datagram: Datagram,
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

    /// Sends what must not be fragmented: at once, because no submission can carry the wish. What
    /// is too big for the link is told to the client like a router's error.
    pub(super) fn send_whole(&mut self, now: Now, whole: Whole) {
        let Whole { allocation, peer, datagram, payload } = whole;
        let Some(fields) = datagram.fields.relayed() else {
            self.hop_limit += 1;
            return self.ring.release(datagram);
        };
        let mut is_sent = false;
        for _ in 0..WHOLE_TRIES {
            let Some(Socket { token, .. }) = self.relays.of(allocation, peer.family()) else {
                break;
            };
            let Some((_, socket)) = self.relays.named(token) else { break };
            let bytes = &self.ring.bytes(&datagram)[payload.clone()];
            is_sent = sockets::send_whole(socket, peer.socket(), fields, bytes).is_ok();
            // While errors are left, the next try would fail as well.
            if is_sent || self.read_errors(now, token, Some(peer)) == TooBig::Yes {
                break;
            }
        }
        self.dont_fragment += u64::from(!is_sent);
        self.ring.release(datagram);
    }
}
