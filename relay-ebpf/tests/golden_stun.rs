//! Golden frames of STUN: Send indications, Data indications, Binding requests.
//!
//! As in `golden.rs`: every limit at it and one past it, and what goes out is laid out byte by byte
//! by the test itself.

mod common;
#[path = "common/indications.rs"]
mod indications;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use indications::{Sealed, install_answer, install_permission, install_send, request, response};
use relay_common::abi::{Direction, FLAG_POLICED, FLAG_V6, Permission, Policer, Reason, Route};
use relay_ebpf::{Verdict, step};

/// What a frame leads to, and what it is afterwards.
fn check(tables: &HostTables, what: &str, frame: &[u8], verdict: Verdict, out: &[u8]) {
    tables.counts.borrow_mut().clear();
    let mut host = HostFrame::new(frame);
    assert_eq!(step(&mut host, tables), verdict, "{what}");
    assert_eq!(hex(host.as_bytes()), hex(out), "{what}");
}

fn passes(tables: &HostTables, what: &str, frame: &[u8], reason: Reason) {
    check(tables, what, frame, Verdict::Pass(reason), frame);
    assert!(tables.counts.borrow().is_empty(), "{what}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn families() -> [Ends; 2] {
    [Ends::v4(), Ends::v6()]
}

mod binding {
    use super::*;

    const ANSWERED: Verdict = Verdict::Transmit(Reason::BindingAnswered);
    const COST: u64 = 1000;
    const BURST: u64 = 3000;

    /// Tables with our server transport address, changed by `change`.
    fn listening(ends: &Ends, change: impl Fn(&mut Route)) -> HostTables {
        let mut tables = tables();
        tables.config.answer_cost_ns = COST;
        tables.config.answer_burst_ns = BURST;
        tables.config.budget_key = 0x1234_5678_9ABC_DEF1;
        install_answer(&mut tables, ends.server, change);
        tables
    }

    fn ask(ends: &Ends, sealed: Sealed) -> Datagram {
        Datagram::new(ends.client, ends.server, request(sealed))
    }

    /// The answer: a packet like any that Linux makes, to where the request came from.
    fn answer(ends: &Ends, sealed: Sealed) -> Vec<u8> {
        let mut datagram = Datagram::new(ends.server, ends.client, response(ends.client, sealed));
        (datagram.class, datagram.id, datagram.flow) = (0, 0, 0);
        let mut frame = datagram.bytes();
        frame[..12].copy_from_slice(&[CLIENT_MAC, OUR_MAC].concat());
        assert!(checksums_hold(&frame));
        frame
    }

    #[test]
    fn requests_are_answered_as_they_ask() {
        for ends in families() {
            for sealed in Sealed::BOTH {
                let tables = listening(&ends, |_| {});
                let plain = ask(&ends, sealed);
                let out = answer(&ends, sealed);
                check(&tables, "plain", &plain.bytes(), ANSWERED, &out);
                assert!(tables.counts.borrow().is_empty(), "no allocation is concerned");
                let other = Datagram { class: 0, hop_limit: 1, fragment: 0, id: 9, ..plain };
                check(&tables, "other fields", &other.bytes(), ANSWERED, &out);
                if ends.client.is_ipv4() {
                    let none = Datagram { checksum: false, ..other };
                    check(&tables, "no checksum", &none.bytes(), ANSWERED, &out);
                }
            }
        }
        let ends = Ends::v6();
        let none = Datagram { checksum: false, ..ask(&ends, Sealed::No) }.bytes();
        passes(&listening(&ends, |_| {}), "none", &none, Reason::ChecksumMissing);
    }

    /// Every value of UDP's checksum, there and in the answer.
    #[test]
    fn checksums_hold_for_every_port() {
        for mut ends in families() {
            let mut tables = listening(&ends, |_| {});
            tables.config.answer_burst_ns = FUTURE;
            for port in 1..=u16::MAX {
                ends.client.set_port(port);
                let frame = ask(&ends, Sealed::No).bytes();
                check(&tables, "port", &frame, ANSWERED, &answer(&ends, Sealed::No));
            }
            ends.client.set_port(0);
            let frame = ask(&ends, Sealed::No).bytes();
            passes(&listening(&ends, |_| {}), "port 0", &frame, Reason::Stun);
        }
    }

    #[test]
    fn another_shape_goes_up() {
        for ends in families() {
            let tables = listening(&ends, |_| {});
            for sealed in Sealed::BOTH {
                let good = request(sealed);
                let pass = |what: &str, payload: Vec<u8>, reason| {
                    let frame = Datagram::new(ends.client, ends.server, payload).bytes();
                    passes(&tables, what, &frame, reason);
                };
                for length in 4..good.len() {
                    pass("short", good[..length].to_vec(), Reason::Stun);
                }
                // Each bit of the header but the transaction ID, which FINGERPRINT covers, and of
                // FINGERPRINT.
                for bit in (0..8 * good.len())
                    .filter(|bit| !(64..160).contains(bit) || sealed == Sealed::Yes)
                {
                    let mut message = good.clone();
                    message[bit / 8] ^= 0x80 >> (bit % 8);
                    let reason = match bit {
                        0 => Reason::NotTurn,
                        // 0x4001 is a channel number, of a length that is not the payload's.
                        1 => Reason::ChannelLength,
                        2..6 => Reason::NotTurn,
                        _ => Reason::Stun,
                    };
                    pass("a bit", message, reason);
                }
                for tail in [1, 4, 8] {
                    let mut message = good.clone();
                    message.extend(vec![0; tail]);
                    pass("bytes behind", message.clone(), Reason::Stun);
                    indications::set_length(&mut message);
                    pass("bytes behind, counted", message, Reason::Stun);
                }
                let mut message = indications::message(1, &[(indications::SOFTWARE, b"abcd")]);
                pass("SOFTWARE", message.clone(), Reason::Stun);
                indications::seal(&mut message);
                pass("SOFTWARE and FINGERPRINT", message, Reason::Stun);
                pass("a response", response(ends.client, sealed), Reason::Stun);
                let indication = indications::message(0x0011, &[]);
                pass("a Binding indication", indication, Reason::Stun);
            }
        }
    }

    #[test]
    fn damaged_requests_go_up() {
        for ends in families() {
            let tables = listening(&ends, |_| {});
            let good = ask(&ends, Sealed::No).bytes();
            let payload = good.len() - 20;
            let mut frame = good.clone();
            frame[payload + 19] ^= 1;
            passes(&tables, "transaction ID", &frame, Reason::Stun);
            let mut frame = good.clone();
            frame[payload - 1] ^= 1;
            passes(&tables, "UDP checksum", &frame, Reason::Stun);
            if ends.client.is_ipv4() {
                let mut frame = good.clone();
                frame[25] ^= 1;
                passes(&tables, "header checksum", &frame, Reason::Stun);
            }
            for at in [0, 6] {
                let mut frame = good.clone();
                frame[at] |= 1;
                let reason = if at == 0 { Reason::GroupMac } else { Reason::Stun };
                passes(&tables, "to or from a group of stations", &frame, reason);
            }
        }
    }

    #[test]
    fn the_destination_must_be_a_server_that_answers() {
        for ends in families() {
            let frame = ask(&ends, Sealed::Yes).bytes();
            passes(&tables(), "nothing configured", &frame, Reason::Stun);
            let mut off = listening(&ends, |_| {});
            off.config.answer_cost_ns = 0;
            passes(&off, "switched off", &frame, Reason::Stun);
            let with = |change: fn(&mut Route)| listening(&ends, change);
            passes(&with(|r| r.epoch -= 1), "old", &frame, Reason::StaleEpoch);
            passes(&with(|r| r.deadline_ns = NOW), "over", &frame, Reason::Expired);
            passes(&with(|r| r.action = 1), "another action", &frame, Reason::Stun);
            let last = with(|r| r.deadline_ns = NOW + 1);
            check(&last, "just in time", &frame, ANSWERED, &answer(&ends, Sealed::Yes));
            let tables = listening(&ends, |_| {});
            for (what, to) in [
                ("another port", SocketAddr::new(ends.server.ip(), 5349)),
                ("another address", SocketAddr::new(ends.peer.ip(), ends.server.port())),
            ] {
                let frame = Datagram { dst: to, ..ask(&ends, Sealed::Yes) }.bytes();
                passes(&tables, what, &frame, Reason::Stun);
            }
        }
    }

    #[test]
    fn sources_that_no_host_has_are_not_answered() {
        let answered = |ends: &Ends, ip: IpAddr| {
            let ends = Ends { client: SocketAddr::new(ip, 1), ..*ends };
            let frame = ask(&ends, Sealed::No).bytes();
            let tables = listening(&ends, |_| {});
            let verdict = step(&mut HostFrame::new(&frame), &tables);
            if verdict != ANSWERED {
                passes(&tables, "source", &frame, Reason::Stun);
            }
            verdict == ANSWERED
        };
        let v4 = |ip: [u8; 4]| answered(&Ends::v4(), Ipv4Addr::from(ip).into());
        for ip in [[1, 0, 0, 0], [126, 255, 255, 255], [128, 0, 0, 1], [223, 255, 255, 255]] {
            assert!(v4(ip), "{ip:?}");
        }
        for ip in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            assert!(!v4(ip), "{ip:?}");
        }
        let v6 = |text: &str| answered(&Ends::v6(), text.parse::<Ipv6Addr>().unwrap().into());
        for ip in ["fe80::1", "2001:db8::2", "0:0:0:0:1::", "feff::"] {
            assert!(v6(ip), "{ip}");
        }
        for ip in ["::", "::1", "::ffff:192.0.2.1", "0:0:0:0:0:1::", "ff02::1", "ff00::"] {
            assert!(!v6(ip), "{ip}");
        }
        for ends in families() {
            assert!(!answered(&ends, ends.server.ip()), "from ourselves");
            let mut tables = listening(&ends, |_| {});
            install_answer(&mut tables, SocketAddr::new(ends.peer.ip(), 3478), |_| {});
            let own = Ends { client: ends.peer, ..ends };
            let frame = ask(&own, Sealed::No).bytes();
            passes(&tables, "from another address of ours", &frame, Reason::Stun);
        }
    }

    #[test]
    fn a_source_has_a_budget() {
        const DROPPED: Verdict = Verdict::Drop(Reason::BindingOverBudget);
        for ends in families() {
            let tables = listening(&ends, |_| {});
            let run =
                |ends: &Ends| step(&mut HostFrame::new(&ask(ends, Sealed::No).bytes()), &tables);
            let mut neighbour = ends;
            neighbour.client.set_port(1);
            if let IpAddr::V6(ip) = ends.client.ip() {
                neighbour.client.set_ip(Ipv6Addr::from_bits(ip.to_bits() ^ 1 << 63).into());
            }
            // One that an idle bucket takes, and the burst; another port or host does not matter.
            for from in [&ends, &neighbour, &ends, &neighbour] {
                assert_eq!(run(from), ANSWERED);
            }
            for from in [&ends, &neighbour] {
                let frame = ask(from, Sealed::Yes).bytes();
                check(&tables, "over", &frame, DROPPED, &frame);
            }
            let mut other = ends;
            other.client.set_ip(match ends.client.ip() {
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ 1).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ 1 << 64).into(),
            });
            assert_eq!(run(&other), ANSWERED, "another prefix");
            let spent: Vec<u64> =
                tables.budgets.iter().map(|word| word.get()).filter(|word| *word != 0).collect();
            assert_eq!(spent.len(), 2);
            assert!(spent.contains(&(NOW + 4 * COST)) && spent.contains(&(NOW + COST)));
            // Only what would be answered is paid for.
            let bad = Datagram::new(ends.client, ends.server, indications::message(1, &[(3, b"")]));
            passes(&tables, "another shape, over", &bad.bytes(), Reason::Stun);
        }
    }

    #[test]
    fn no_room_is_no_answer_and_a_changed_frame_never_goes_up() {
        for ends in families() {
            for sealed in Sealed::BOTH {
                let tables = listening(&ends, |_| {});
                let frame = ask(&ends, sealed).bytes();
                let mut host = HostFrame::new(&frame);
                host.no_tailroom = true;
                assert_eq!(step(&mut host, &tables), Verdict::Pass(Reason::NoRoom));
                assert_eq!(host.as_bytes(), frame);
                let mut host = HostFrame::new(&frame);
                host.no_write = true;
                assert_eq!(step(&mut host, &tables), Verdict::Abort(Reason::Aborted));
            }
        }
    }

    /// The response has 24 bytes more at most: 92 for 68 as IPv6 packets, 60 for 48 as IPv4's.
    #[test]
    fn an_answer_is_hardly_larger_than_its_request() {
        for ends in families() {
            for sealed in Sealed::BOTH {
                let (asked, answered) = (ask(&ends, sealed).bytes(), answer(&ends, sealed));
                let (asked, answered) = (asked.len() - 14, answered.len() - 14);
                assert!(answered - asked <= 24 && answered * 100 <= asked * 136);
            }
        }
    }
}

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
        // Neither header has what the other knows of fragments and flows.
        (out.id, out.fragment, out.flow) = (0, 0x4000, 0);
    }
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
            case("allocation over", Reason::Expired, same, |r| r.deadline_ns = NOW, |_| {});
            case("permission over", Reason::Expired, same, |_| {}, |p| p.deadline_ns = NOW);
            case("old allocation", Reason::StaleEpoch, same, |r| r.epoch -= 1, |_| {});
            case("old permission", Reason::StaleEpoch, same, |_| {}, |p| p.epoch += 1);
            case("another action", Reason::UnknownAction, same, |r| r.action = 1, |_| {});
            case("other family", Reason::NoPermission, same, |r| r.flags ^= FLAG_V6, |_| {});
            case("unresolved", Reason::NextHopUnresolved, hop::UNRESOLVED, |_| {}, |_| {});
            case("no such hop", Reason::NextHopUnresolved, hop::ABSENT, |_| {}, |_| {});
            case("no such port", Reason::NextHopUnresolved, hop::NO_PORT, |_| {}, |_| {});
            let last = |r: &mut Route| r.deadline_ns = NOW + 1;
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
            let mut tables = permitted(&ends, hop::SAME, |r| r.flags |= FLAG_POLICED, |_| {});
            police(&mut tables, Direction::ClientToPeer);
            let frame = ask(&ends, b"data");
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
