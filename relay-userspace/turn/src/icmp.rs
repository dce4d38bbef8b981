//! ICMP errors about datagrams to peers (RFC 8656 §11.5): the client is told in a Data indication
//! that has an ICMP attribute and no DATA. Owns who is told of what, and how often.

use rand_chacha::rand_core::RngCore;
use relay_common::addr::{Family, PeerAddr};
use relay_common::wire::attribute::{AttributeType, Icmp};
use relay_common::wire::stun::{Class, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;

use crate::{AllocationId, IcmpOutcome, Now, Output, Turn};

/// An allocation's client is told of this many errors a second...
const PER_SEC: u64 = 10;
/// ...and of this many at once, after a quiet while. Errors can be forged by anybody who knows a
/// relayed transport address, and a client has little use for the hundredth of its kind.
const BURST: u64 = 20;
const TOKEN_NS: u64 = 1_000_000_000 / PER_SEC;
/// Header (20), XOR-PEER-ADDRESS of an IPv6 peer (24), ICMP (12).
const MESSAGE_BYTES_MAX: usize = 56;

impl Turn {
    /// An ICMP error about a datagram from a relayed transport address to `peer`.
    pub(crate) fn relay_icmp(&mut self, now: Now, id: AllocationId, peer: PeerAddr, icmp: Icmp) {
        let outcome = match self.icmp_indication(now, id, peer, icmp) {
            Ok(output) => {
                self.outputs.push_back(output);
                IcmpOutcome::Relayed
            }
            Err(outcome) => outcome,
        };
        self.stats.count_icmp(outcome);
    }

    fn icmp_indication(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: PeerAddr,
        icmp: Icmp,
    ) -> Result<Output, IcmpOutcome> {
        let icmp = told(peer.family(), icmp).ok_or(IcmpOutcome::OtherType)?;
        let peer = self.peers.inside(peer);
        let allocation = self.tables.by_id_mut(id).filter(|a| a.open().is_some());
        let allocation = allocation.ok_or(IcmpOutcome::StaleAllocation)?;
        // §11.5: only the address counts, not the port.
        if !allocation.permissions.contains_key(&peer.ip()) {
            return Err(IcmpOutcome::NoPermission);
        }
        let full_at_ns = allocation.icmp_full_at_ns.max(now.monotonic_ns) + TOKEN_NS;
        if full_at_ns - now.monotonic_ns > BURST * TOKEN_NS {
            return Err(IcmpOutcome::RateLimited);
        }
        allocation.icmp_full_at_ns = full_at_ns;
        let five_tuple = allocation.five_tuple;
        let mut transaction = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut transaction.0);
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, transaction);
        let outside = self.peers.outside(peer);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, outside.socket());
        writer.icmp(icmp);
        let written = writer.finish().expect("MESSAGE_BYTES_MAX has room for both attributes");
        let start = self.arena.len();
        self.arena.extend_from_slice(&buffer[..written]);
        Ok(Output::Reply { five_tuple, bytes: start..self.arena.len() })
    }
}

/// What a client is told of an error, if it is told of this type at all (§11.5): ICMPv4
/// destination unreachable and time exceeded; ICMPv6 destination unreachable, packet too big and
/// time exceeded. Only an error about size has data: the MTU (§18.13).
fn told(family: Family, icmp: Icmp) -> Option<Icmp> {
    let (is_told, is_too_big) = match family {
        Family::V4 => (matches!(icmp.kind, 3 | 11), (icmp.kind, icmp.code) == (3, 4)),
        Family::V6 => (matches!(icmp.kind, 1..=3), icmp.kind == 2),
    };
    let data = if is_too_big { icmp.data } else { 0 };
    is_told.then_some(Icmp { data, ..icmp })
}
