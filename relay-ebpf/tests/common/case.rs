//! A row of the golden tables, and how it is checked.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]
#![allow(clippy::unwrap_used, reason = "only tests use it, and each number here fits")]

use relay_common::abi::{Direction, Reason};
use relay_ebpf::{Verdict, step};

use super::common::*;

pub const UP: Direction = Direction::ClientToPeer;
pub const DOWN: Direction = Direction::PeerToClient;
pub const TX_UP: Verdict = Verdict::Transmit(Reason::ClientToPeer);
pub const TX_DOWN: Verdict = Verdict::Transmit(Reason::PeerToClient);
pub const DATA: &[u8] = b"application data!";

/// A row.
#[derive(Clone)]
pub struct Case {
    pub what: &'static str,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
    /// `None`: as it came in.
    pub out: Option<Vec<u8>>,
}

pub fn passed(what: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case { what, frame, verdict: Verdict::Pass(reason), out: None }
}

pub fn relayed(what: &'static str, frame: &Datagram, verdict: Verdict, out: &Datagram) -> Case {
    Case { what, frame: frame.bytes(), verdict, out: Some(sent(out)) }
}

/// A frame that the relay sends: its MAC addresses, a hop less, or two for a hairpin.
pub fn sent(datagram: &Datagram) -> Vec<u8> {
    after_hops(datagram, 1)
}

pub fn after_hops(datagram: &Datagram, hops: u8) -> Vec<u8> {
    let hop_limit = datagram.hop_limit - hops;
    // A flow label is its sender's own (RFC 8656 §13.2).
    let mut frame = Datagram { hop_limit, flow: 0, ..datagram.clone() }.bytes();
    frame[..12].copy_from_slice(&[ROUTER_MAC, OUR_MAC].concat());
    frame
}

/// What the peer gets of the client's datagram, and the client of the peer's.
pub fn to_peer(ends: &Ends, data: &[u8]) -> Datagram {
    Datagram::new(ends.relayed, ends.peer, data.to_vec())
}
pub fn to_client(ends: &Ends, data: &[u8]) -> Datagram {
    Datagram::new(ends.server, ends.client, channel_data(CHANNEL, data))
}

/// Whether routes are in their places or others have those: it makes no difference.
pub fn check(tables: &HostTables, case: &Case) {
    let before = tables.policers.clone();
    for are_others in [true, false] {
        tables.places.are_others.set(are_others);
        for (key, HostPolicer { packets_full_ns, bytes_full_ns, .. }) in &tables.policers {
            packets_full_ns.set(before[key].packets_full_ns.get());
            bytes_full_ns.set(before[key].bytes_full_ns.get());
        }
        check_frame(tables, case, &mut HostFrame::new(&case.frame));
    }
}

pub fn check_frame(tables: &HostTables, case: &Case, frame: &mut HostFrame) {
    let what = case.what;
    tables.counts.borrow_mut().clear();
    tables.reasons.borrow_mut().clear();
    let verdict = step(frame, tables);
    assert_eq!(verdict, case.verdict, "{what}");
    let out = case.out.as_ref().unwrap_or(&case.frame);
    assert_eq!(hex(frame.as_bytes()), hex(out), "{what}");
    let noted = tables.reasons.borrow();
    let Some(noted) = noted.get(&verdict.reason()).filter(|_| noted.len() == 1) else {
        panic!("{what}: {noted:?}")
    };
    assert_eq!(noted.packets, 1, "{what}");
    let slots = match case.verdict {
        Verdict::Transmit(reason) | Verdict::Redirect(reason) => {
            assert!(checksums_hold(frame.as_bytes()), "{what}: checksums");
            match reason.direction() {
                Some(_) if reason == Reason::Hairpin => vec![(SLOT, UP), (PEER_SLOT, DOWN)],
                Some(direction) => vec![(SLOT, direction)],
                None => vec![],
            }
        }
        Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Abort(_) => vec![],
    };
    let counts = tables.counts.borrow();
    assert_eq!(counts.len(), slots.len(), "{what}: {counts:?}");
    for slot in slots {
        assert_eq!(counts[&slot], *noted, "{what}");
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

pub fn families() -> [Ends; 2] {
    [Ends::v4(), Ends::v6()]
}
