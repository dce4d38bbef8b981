//! Golden frames of Send and Data indications.
//!
//! As in `golden.rs`: every limit at it and one past it, and what goes out is laid out byte by byte
//! by the test itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests; each number here fits")]

mod common;
#[path = "common/indications.rs"]
mod indications;
#[path = "common/outcome.rs"]
mod outcome;

use std::net::{IpAddr, SocketAddr};

use common::*;
use indications::{install_permission, install_send};
use outcome::{check, hex, passes};
use relay_common::abi::{Direction, FLAG_POLICED, FLAG_V6, Permission, Policer, Reason, Route};
use relay_ebpf::{Verdict, step};

/// Clients and relayed transport addresses of every mix of families.
fn mixes() -> [Ends; 4] {
    let (v4, v6) = (Ends::v4(), Ends::v6());
    let [from_v4, from_v6] = [(v4, v6), (v6, v4)].map(|(near, far)| Ends {
        relayed: far.relayed,
        peer: far.peer,
        ..near
    });
    [v4, v6, from_v4, from_v6]
}

/// Tables with an allocation and a permission, changed by `change`.
fn permitted(
    ends: &Ends,
    hop: u16,
    change: impl Fn(&mut Route),
    and: impl Fn(&mut Permission),
) -> HostTables {
    let mut tables = tables();
    install_send(&mut tables, ends, change);
    install_permission(&mut tables, ends, [hop; 2], and);
    tables
}

/// What leaves for `frame` with addresses and payload of `out`.
fn relayed(frame: &Datagram, out: &Datagram) -> Vec<u8> {
    let crossing = frame.src.is_ipv4() != out.src.is_ipv4();
    let mut out = Datagram {
        class: frame.class,
        hop_limit: frame.hop_limit - 1,
        checksum: frame.checksum,
        ..out.clone()
    };
    if crossing {
        // Neither header has what the other knows of fragments.
        (out.id, out.fragment) = (0, 0x4000);
    }
    // A flow label is its sender's own (RFC 8656 §13.2).
    out.flow = 0;
    let mut bytes = out.bytes();
    bytes[..12].copy_from_slice(&[ROUTER_MAC, OUR_MAC].concat());
    bytes
}

/// Application data of every length modulo four, and of none.
const LENGTHS: [usize; 9] = [0, 1, 2, 3, 4, 5, 17, 18, 1000];

fn data_of(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.to_le_bytes()[0] ^ 0xA5).collect()
}

mod send {
    use super::*;

    const RELAYED: Verdict = Verdict::Transmit(Reason::SendIndication);

    fn ask(ends: &Ends, data: &[u8]) -> Datagram {
        Datagram::new(ends.client, ends.server, indications::send(ends.peer, data))
    }

    fn out(ends: &Ends, data: &[u8]) -> Datagram {
        Datagram::new(ends.relayed, ends.peer, data.to_vec())
    }

    fn relays(tables: &HostTables, what: &str, frame: &Datagram, data: &[u8], out: &Datagram) {
        let bytes = relayed(frame, out);
        check(tables, what, &frame.bytes(), RELAYED, &bytes);
        assert!(checksums_hold(&bytes), "{what}");
        let count = tables.counts.borrow()[&(SLOT, Direction::ClientToPeer)];
        assert_eq!((count.packets, count.bytes), (1, data.len() as u64), "{what}");
        assert_eq!(tables.counts.borrow().len(), 1, "{what}");
    }

    #[test]
    fn indications_leave_as_plain_datagrams() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            for length in LENGTHS {
                let data = data_of(length);
                relays(&tables, "plain", &ask(&ends, &data), &data, &out(&ends, &data));
                let full = Datagram { class: 0xFF, hop_limit: 2, ..ask(&ends, &data) };
                relays(&tables, "other fields", &full, &data, &out(&ends, &data));
            }
            // Any port of the peer.
            let other = Ends { peer: SocketAddr::new(ends.peer.ip(), 1), ..ends };
            relays(&tables, "port 1", &ask(&other, b"x"), b"x", &out(&other, b"x"));
        }
    }

    #[test]
    fn padding_may_be_anything() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            for length in 1..=8 {
                let data = data_of(length);
                let mut frame = ask(&ends, &data);
                let end = frame.payload.len();
                for byte in &mut frame.payload[end - length.wrapping_neg() % 4..] {
                    *byte = 0xC3;
                }
                relays(&tables, "padding", &frame, &data, &out(&ends, &data));
            }
        }
    }

    /// Every value of the checksum.
    #[test]
    fn checksums_are_adjusted_at_their_edges() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            for word in 0..=u16::MAX {
                let data = word.to_be_bytes();
                let frame = ask(&ends, &data);
                let mut host = HostFrame::new(&frame.bytes());
                step(&mut host, &tables);
                assert_eq!(host.as_bytes(), relayed(&frame, &out(&ends, &data)), "{word:#06x}");
            }
        }
    }

    #[test]
    fn no_checksum_stays_none_and_a_wrong_one_wrong() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            let without = Datagram { checksum: false, ..ask(&ends, b"abc") };
            if ends.client.is_ipv4() && ends.peer.is_ipv4() {
                relays(&tables, "none", &without, b"abc", &out(&ends, b"abc"));
            } else {
                passes(&tables, "none", &without.bytes(), Reason::ChecksumMissing);
            }
            let mut bytes = ask(&ends, b"abcd").bytes();
            *bytes.last_mut().unwrap() ^= 1;
            let mut host = HostFrame::new(&bytes);
            assert!(matches!(step(&mut host, &tables), Verdict::Transmit(_)));
            assert!(!checksums_hold(host.as_bytes()));
        }
    }

    #[test]
    fn another_shape_goes_up() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            for (what, payload) in indications::unusual(ends.peer) {
                let frame = Datagram::new(ends.client, ends.server, payload).bytes();
                passes(&tables, what, &frame, Reason::Stun);
            }
            let good = ask(&ends, b"12345").payload;
            for length in 4..good.len() {
                let payload = good[..length].to_vec();
                let frame = Datagram::new(ends.client, ends.server, payload).bytes();
                passes(&tables, "short", &frame, Reason::Stun);
            }
            for first in [4, 0x3F, 0x80, 0xFF] {
                let mut payload = good.clone();
                payload[0] = first;
                let frame = Datagram::new(ends.client, ends.server, payload).bytes();
                passes(&tables, "not STUN", &frame, Reason::NotTurn);
            }
        }
    }

    #[test]
    fn what_it_takes_to_be_relayed() {
        for ends in mixes() {
            let frame = ask(&ends, b"data");
            let bytes = frame.bytes();
            let case = |what, reason, hop, change: fn(&mut Route), and: fn(&mut Permission)| {
                passes(&permitted(&ends, hop, change, and), what, &bytes, reason);
            };
            let same = hop::SAME;
            case("allocation over", Reason::Expired, same, |r| r.terms.deadline_ns = NOW, |_| {});
            case("permission over", Reason::Expired, same, |_| {}, |p| p.deadline_ns = NOW);
            case("old allocation", Reason::StaleEpoch, same, |r| r.terms.epoch -= 1, |_| {});
            case("old permission", Reason::StaleEpoch, same, |_| {}, |p| p.epoch += 1);
            case("another action", Reason::UnknownAction, same, |r| r.terms.action = 1, |_| {});
            case("other family", Reason::NoPermission, same, |r| r.terms.flags ^= FLAG_V6, |_| {});
            case("unresolved", Reason::NextHopUnresolved, hop::UNRESOLVED, |_| {}, |_| {});
            case("no such hop", Reason::NextHopUnresolved, hop::ABSENT, |_| {}, |_| {});
            case("no such port", Reason::NextHopUnresolved, hop::NO_PORT, |_| {}, |_| {});
            let last = |r: &mut Route| r.terms.deadline_ns = NOW + 1;
            let tables = permitted(&ends, same, last, |p| p.deadline_ns = NOW + 1);
            relays(&tables, "just in time", &frame, b"data", &out(&ends, b"data"));
            passes(&super::tables(), "no allocation", &bytes, Reason::NoRoute);
            let mut alone = super::tables();
            install_send(&mut alone, &ends, |_| {});
            passes(&alone, "no permission", &bytes, Reason::NoPermission);
            for hop_limit in [0, 1] {
                let frame = Datagram { hop_limit, ..frame.clone() }.bytes();
                passes(&tables, "hop limit", &frame, Reason::HopLimit);
            }
            let to = |peer| Ends { peer, ..ends };
            let port_0 = ask(&to(SocketAddr::new(ends.peer.ip(), 0)), b"x").bytes();
            passes(&tables, "port 0", &port_0, Reason::NoPermission);
            let other = ask(&to(SocketAddr::new(ends.client.ip(), 7)), b"x").bytes();
            passes(&tables, "another peer", &other, Reason::NoPermission);
            if let IpAddr::V4(ip) = ends.peer.ip() {
                let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), ends.peer.port());
                let mapped = ask(&to(mapped), b"x").bytes();
                passes(&tables, "a mapped address", &mapped, Reason::NoPermission);
            }
        }
    }

    #[test]
    fn what_leaves_is_measured_not_what_came() {
        for ends in mixes() {
            let headers = if ends.peer.is_ipv4() { 28 } else { 48 };
            let tables = permitted(&ends, hop::NARROW, |_| {}, |_| {});
            let data = data_of(101 - headers);
            let (fits, over) = (&data[1..], &data[..]);
            relays(&tables, "fits", &ask(&ends, fits), fits, &out(&ends, fits));
            passes(&tables, "one over", &ask(&ends, over).bytes(), Reason::TooBig);
        }
    }

    #[test]
    fn the_allocation_is_policed() {
        for ends in mixes() {
            let mut tables = permitted(&ends, hop::SAME, |r| r.terms.flags |= FLAG_POLICED, |_| {});
            police(&mut tables, Direction::ClientToPeer);
            let frame = ask(&ends, b"data");
            elsewhere(&tables, &frame);
            let mut host = HostFrame::new(&frame.bytes());
            host.no_room = true;
            pays_nothing(&tables, host, Direction::ClientToPeer);
            relays(&tables, "in time", &frame, b"data", &out(&ends, b"data"));
            let bytes = frame.bytes();
            check(&tables, "over", &bytes, Verdict::Drop(Reason::Policed), &bytes);
        }
    }

    #[test]
    fn a_frame_that_cannot_be_changed_goes_up_and_a_changed_one_never() {
        for ends in mixes() {
            let tables = permitted(&ends, hop::SAME, |_| {}, |_| {});
            cannot_change(&tables, &ask(&ends, b"12345").bytes());
        }
    }
}

/// One packet, and none after it.
fn police(tables: &mut HostTables, direction: Direction) {
    let limits = Policer { packet_cost: 1000, ..Policer::default() };
    tables.policers.insert((SLOT, direction), HostPolicer { limits, ..HostPolicer::default() });
}

/// Neither with a tag nor without is anything relayed that is for another station.
fn elsewhere(tables: &HostTables, frame: &Datagram) {
    for tags in [&[], ONE_TAG, TWO_TAGS] {
        let mut bytes = Datagram { tags: tags.to_vec(), ..frame.clone() }.bytes();
        bytes[5] ^= 2;
        passes(tables, "for another station", &bytes, Reason::OtherHost);
    }
}

/// What goes up for lack of room has paid nothing.
fn pays_nothing(tables: &HostTables, mut host: HostFrame, direction: Direction) {
    let frame = hex(host.as_bytes());
    assert_eq!(step(&mut host, tables), Verdict::Pass(Reason::NoRoom));
    assert_eq!(hex(host.as_bytes()), frame);
    assert!(tables.policers[&(SLOT, direction)].packets_full_ns.get() <= NOW);
}

fn cannot_change(tables: &HostTables, frame: &[u8]) {
    let mut host = HostFrame::new(frame);
    host.no_room = true;
    assert_eq!(step(&mut host, tables), Verdict::Pass(Reason::NoRoom));
    assert_eq!(hex(host.as_bytes()), hex(frame));
    let mut host = HostFrame::new(frame);
    host.no_write = true;
    assert_eq!(step(&mut host, tables), Verdict::Abort(Reason::Aborted));
}

mod data {
    use super::*;

    const RELAYED: Verdict = Verdict::Transmit(Reason::DataIndication);

    fn answer(ends: &Ends, data: &[u8]) -> Datagram {
        Datagram::new(ends.peer, ends.relayed, data.to_vec())
    }

    fn out(ends: &Ends, data: &[u8]) -> Datagram {
        Datagram::new(ends.server, ends.client, indications::data(ends.peer, data))
    }

    /// The transaction ID that [`indications::TRANSACTION`] names is what chance gives here.
    fn lucky(tables: HostTables) -> HostTables {
        tables.random.set(indications::TRANSACTION);
        tables
    }

    fn relays(tables: &HostTables, what: &str, frame: &Datagram, data: &[u8], out: &Datagram) {
        let bytes = relayed(frame, out);
        check(tables, what, &frame.bytes(), RELAYED, &bytes);
        assert!(!frame.checksum || checksums_hold(&bytes), "{what}");
        let count = tables.counts.borrow()[&(SLOT, Direction::PeerToClient)];
        assert_eq!((count.packets, count.bytes), (1, data.len() as u64), "{what}");
        assert_eq!(tables.counts.borrow().len(), 1, "{what}");
    }

    fn with(ends: &Ends, hop: u16, and: impl Fn(&mut Permission)) -> HostTables {
        lucky(permitted(ends, hop, |_| {}, and))
    }

    #[test]
    fn a_permitted_peer_reaches_the_client() {
        for ends in mixes() {
            let tables = with(&ends, hop::SAME, |_| {});
            for length in LENGTHS {
                let data = data_of(length);
                relays(&tables, "plain", &answer(&ends, &data), &data, &out(&ends, &data));
                let full = Datagram { class: 0xFF, hop_limit: 2, ..answer(&ends, &data) };
                relays(&tables, "other fields", &full, &data, &out(&ends, &data));
            }
            let other = Ends { peer: SocketAddr::new(ends.peer.ip(), 1), ..ends };
            relays(&tables, "port 1", &answer(&other, b"x"), b"x", &out(&other, b"x"));
        }
    }

    /// Small packets come with a tail: none of it becomes padding, and none is left behind that.
    #[test]
    fn a_tail_is_no_padding() {
        for ends in mixes() {
            let tables = with(&ends, hop::SAME, |_| {});
            for length in 0..=17 {
                let data = data_of(length);
                let frame = answer(&ends, &data);
                let bare = frame.bytes().len();
                for to in bare..=64 {
                    let frame = Datagram { tail: to - bare, ..frame.clone() };
                    relays(&tables, "a tail", &frame, &data, &out(&ends, &data));
                }
                if bare < 65 {
                    let frame = Datagram { tail: 65 - bare, ..frame }.bytes();
                    passes(&tables, "a long tail", &frame, Reason::Length);
                }
            }
        }
    }

    /// Every value of the checksum.
    #[test]
    fn checksums_are_adjusted_at_their_edges() {
        for ends in mixes() {
            let tables = with(&ends, hop::SAME, |_| {});
            for word in 0..=u16::MAX {
                let data = word.to_be_bytes();
                let frame = answer(&ends, &data);
                let mut host = HostFrame::new(&frame.bytes());
                step(&mut host, &tables);
                assert_eq!(host.as_bytes(), relayed(&frame, &out(&ends, &data)), "{word:#06x}");
            }
        }
    }

    #[test]
    fn no_checksum_stays_none_and_a_wrong_one_wrong() {
        for ends in mixes() {
            let tables = with(&ends, hop::SAME, |_| {});
            let without = Datagram { checksum: false, ..answer(&ends, b"abc") };
            if ends.client.is_ipv4() && ends.peer.is_ipv4() {
                relays(&tables, "none", &without, b"abc", &out(&ends, b"abc"));
            } else {
                passes(&tables, "none", &without.bytes(), Reason::ChecksumMissing);
            }
            let mut bytes = answer(&ends, b"abc").bytes();
            *bytes.last_mut().unwrap() ^= 1;
            let mut host = HostFrame::new(&bytes);
            assert!(matches!(step(&mut host, &tables), Verdict::Transmit(_)));
            assert!(!checksums_hold(host.as_bytes()));
        }
    }

    #[test]
    fn what_it_takes_to_be_relayed() {
        for ends in mixes() {
            let frame = answer(&ends, b"data");
            let bytes = frame.bytes();
            let case = |what, reason, hop, and: fn(&mut Permission)| {
                passes(&with(&ends, hop, and), what, &bytes, reason);
            };
            case("over", Reason::Expired, hop::SAME, |p| p.deadline_ns = NOW);
            case("old", Reason::StaleEpoch, hop::SAME, |p| p.epoch -= 1);
            case("unresolved", Reason::NextHopUnresolved, hop::UNRESOLVED, |_| {});
            case("no such hop", Reason::NextHopUnresolved, hop::ABSENT, |_| {});
            case("no such port", Reason::NextHopUnresolved, hop::NO_PORT, |_| {});
            let tables = with(&ends, hop::SAME, |p| p.deadline_ns = NOW + 1);
            relays(&tables, "just in time", &frame, b"data", &out(&ends, b"data"));
            passes(&super::tables(), "no permission", &bytes, Reason::NoPermission);
            for hop_limit in [0, 1] {
                let frame = Datagram { hop_limit, ..frame.clone() }.bytes();
                passes(&tables, "hop limit", &frame, Reason::HopLimit);
            }
            let mut other = frame.clone();
            other.src.set_port(0);
            passes(&tables, "port 0", &other.bytes(), Reason::NoPermission);
            let mut other = frame.clone();
            other.src.set_ip(ends.relayed.ip());
            passes(&tables, "from ourselves", &other.bytes(), Reason::NoPermission);
            let mut other = frame.clone();
            other.dst.set_port(ends.relayed.port() + 1);
            passes(&tables, "another allocation", &other.bytes(), Reason::NoPermission);
        }
    }

    #[test]
    fn what_leaves_is_measured_with_its_padding() {
        for ends in mixes() {
            let headers = if ends.client.is_ipv4() { 28 } else { 48 };
            let head = if ends.peer.is_ipv4() { 36 } else { 48 };
            let mut tables = with(&ends, hop::SAME, |_| {});
            tables.next_hops[usize::from(hop::SAME)].mtu = headers + head + 4;
            for length in 1..=4 {
                let data = data_of(length);
                relays(&tables, "fits", &answer(&ends, &data), &data, &out(&ends, &data));
            }
            let data = data_of(5);
            passes(&tables, "one over", &answer(&ends, &data).bytes(), Reason::TooBig);
        }
        // The lengths' own sixteen bits, where the MTU is no limit.
        for ends in mixes() {
            let headers = if ends.client.is_ipv4() { 28 } else { 48 };
            let head = if ends.peer.is_ipv4() { 36 } else { 48 };
            let tables = with(&ends, hop::WIDE, |_| {});
            let most = (65535 - headers - head) / 4 * 4;
            let data = data_of(most);
            relays(&tables, "longest", &answer(&ends, &data), &data, &out(&ends, &data));
            for more in [1, 4] {
                let data = data_of(most + more);
                let peer = if ends.peer.is_ipv4() { 28 } else { 48 };
                if data.len() + peer <= 65535 {
                    passes(&tables, "would wrap", &answer(&ends, &data).bytes(), Reason::TooBig);
                }
            }
        }
    }

    #[test]
    fn the_allocation_is_policed() {
        for ends in mixes() {
            let mut tables = with(&ends, hop::SAME, |p| p.flags |= FLAG_POLICED);
            police(&mut tables, Direction::PeerToClient);
            let frame = answer(&ends, b"data");
            elsewhere(&tables, &frame);
            for (no_room, no_tailroom) in [(true, false), (false, true)] {
                let mut host = HostFrame::new(&answer(&ends, b"12345").bytes());
                (host.no_room, host.no_tailroom) = (no_room, no_tailroom);
                pays_nothing(&tables, host, Direction::PeerToClient);
            }
            relays(&tables, "in time", &frame, b"data", &out(&ends, b"data"));
            let bytes = frame.bytes();
            check(&tables, "over", &bytes, Verdict::Drop(Reason::Policed), &bytes);
        }
    }

    #[test]
    fn a_frame_that_cannot_be_changed_goes_up_and_a_changed_one_never() {
        for ends in mixes() {
            let tables = with(&ends, hop::SAME, |_| {});
            for data in [&b"1234"[..], b"12345"] {
                cannot_change(&tables, &answer(&ends, data).bytes());
            }
            let frame = answer(&ends, b"12345").bytes();
            let mut host = HostFrame::new(&frame);
            host.no_tailroom = true;
            assert_eq!(step(&mut host, &tables), Verdict::Pass(Reason::NoRoom));
            assert_eq!(hex(host.as_bytes()), hex(&frame));
        }
    }

    #[test]
    fn a_channel_goes_before_a_permission() {
        for ends in mixes() {
            let mut tables = with(&ends, hop::SAME, |_| {});
            install(&mut tables, &binding(&ends, hop::SAME), |_| {});
            let mut host = HostFrame::new(&answer(&ends, b"data").bytes());
            let verdict = step(&mut host, &tables);
            assert_eq!(verdict.reason(), Reason::PeerToClient);
        }
    }
}
