//! The XDP step, in front of the server: a datagram as a frame in, a datagram out or nothing.

use std::net::{IpAddr, SocketAddr};

use relay_common::abi::Reason;
use relay_ebpf::{Verdict, step};

use super::host::{Datagram, HostFrame, HostTables, checksums_hold};
use crate::model::Sent;

/// What is larger arrives in fragments, which the step passes up.
const PAYLOAD_BYTES_MAX: usize = 1400;

/// What the step did.
pub enum Stepped {
    /// Nothing: the frame is as it was.
    Passed(Reason),
    /// Dropped it, for being over a limit.
    Dropped(Reason),
    /// Sent something.
    Sent(Sent, Reason),
}

/// A datagram through the step. `chance` is what a Data indication's transaction ID is made of.
pub fn run(tables: &HostTables, datagram: &Sent, chance: [u8; 12]) -> Stepped {
    if datagram.payload.len() > PAYLOAD_BYTES_MAX {
        return Stepped::Passed(Reason::Fragment);
    }
    let frame = Datagram::new(datagram.src, datagram.dst, datagram.payload.clone()).bytes();
    tables.random.set(chance);
    let mut host = HostFrame::new(&frame);
    match step(&mut host, tables) {
        Verdict::Pass(reason) => {
            assert_eq!(host.as_bytes(), frame, "passed, and not as it was: {reason:?}");
            Stepped::Passed(reason)
        }
        Verdict::Drop(reason) => Stepped::Dropped(reason),
        Verdict::Transmit(reason) => {
            assert!(checksums_hold(host.as_bytes()), "{reason:?}: a checksum is wrong");
            Stepped::Sent(sent(host.as_bytes()), reason)
        }
        other => panic!("nothing leads to {other:?}"),
    }
}

/// Reads a frame that leaves.
fn sent(frame: &[u8]) -> Sent {
    let (ips, udp) = if frame[12..14] == [0x08, 0x00] {
        ([&frame[26..30], &frame[30..34]], 34)
    } else {
        ([&frame[22..38], &frame[38..54]], 54)
    };
    let pair = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let [src, dst] = ips.map(|ip| match <[u8; 4]>::try_from(ip) {
        Ok(ip) => IpAddr::from(ip),
        Err(_) => <[u8; 16]>::try_from(ip).unwrap().into(),
    });
    let end = udp + usize::from(pair(udp + 4));
    let (src, dst) = (SocketAddr::new(src, pair(udp)), SocketAddr::new(dst, pair(udp + 2)));
    Sent::new(src, dst, frame[udp + 8..end].to_vec())
}
