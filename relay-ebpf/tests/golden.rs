//! Golden frames: what comes in, the verdict, what goes out.
//!
//! Every [`Reason`] has a row; every limit has one at it and one past it. What goes out is laid
//! out byte by byte by the test itself, and its checksums are recomputed from scratch.

#[path = "common/case.rs"]
mod case;
mod common;

use case::*;
use common::*;
use relay_common::abi::{Reason, Route, other_place};
use relay_ebpf::{Verdict, step};

/// Tables with one binding, changed by `change`.
fn bound(ends: &Ends, next_hop: u16, change: impl Fn(&mut Route)) -> HostTables {
    let mut tables = tables();
    install(&mut tables, &binding(ends, next_hop), change);
    tables
}

#[test]
fn valid_packets_are_relayed_both_ways_in_both_families() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        for data in [DATA, b"", b"x", &[0xFF; 1400]] {
            let (ask, answer) = (ends.ask(CHANNEL, data), ends.answer(data));
            let counted = |direction| tables.counts.borrow()[&(SLOT, direction)].bytes;
            check(&tables, &relayed("client to peer", &ask, TX_UP, &to_peer(&ends, data)));
            assert_eq!(counted(UP), data.len() as u64, "application data");
            check(&tables, &relayed("peer to client", &answer, TX_DOWN, &to_client(&ends, data)));
            assert_eq!(counted(DOWN), data.len() as u64, "application data");
        }
    }
    assert_eq!(TX_UP.reason(), Reason::ClientToPeer);
    assert_eq!(TX_DOWN.reason(), Reason::PeerToClient);
}

/// A route in either of its places needs no other look-up.
#[test]
fn a_straight_route_is_found_in_its_places() {
    for ends in families() {
        let mut tables = bound(&ends, hop::SAME, |_| {});
        (tables.v4, tables.v6) = Default::default();
        let (ask, answer) = (ends.ask(CHANNEL, DATA), ends.answer(DATA));
        let last = Datagram { hop_limit: 1, ..ask.clone() };
        let cases = [
            relayed("client to peer", &ask, TX_UP, &to_peer(&ends, DATA)),
            relayed("peer to client", &answer, TX_DOWN, &to_client(&ends, DATA)),
            // What is not straight of such packets is for the other look-up.
            passed("its last hop", last.bytes(), Reason::NoRoute),
        ];
        for _ in 0..2 {
            for case in &cases {
                check_frame(&tables, case, &mut HostFrame::new(&case.frame));
            }
            let HostPlaces { v4, v6, .. } = &mut tables.places;
            *v4 = v4.drain().map(|(place, straight)| (other_place(place), straight)).collect();
            *v6 = v6.drain().map(|(place, straight)| (other_place(place), straight)).collect();
        }
    }
}

/// Userspace writes one after the other: what a place no longer says right is asked again.
#[test]
fn what_is_not_straight_is_in_force_where_all_routes_are() {
    for ends in families() {
        let mut tables = bound(&ends, hop::SAME, |_| {});
        let routes = tables.v4.values_mut().chain(tables.v6.values_mut());
        routes.for_each(|route| route.terms.deadline_ns = PAST);
        let ask = ends.ask(CHANNEL, DATA);
        let last = |datagram: Datagram| Datagram { hop_limit: 1, ..datagram };
        for (what, frame) in [
            ("padded", Datagram { payload: [&ask.payload[..], &[0]].concat(), ..ask.clone() }),
            ("a client's last hop", last(ask.clone())),
            ("a peer's last hop", last(ends.answer(DATA))),
        ] {
            let case = passed(what, frame.bytes(), Reason::Expired);
            check_frame(&tables, &case, &mut HostFrame::new(&case.frame));
        }
    }
}

/// Whatever bit of the key differs, what stands in the place is another's.
#[test]
fn a_place_of_another_key_is_another_routes() {
    for ends in families() {
        let cases = [
            relayed("up", &ends.ask(CHANNEL, DATA), TX_UP, &to_peer(&ends, DATA)),
            relayed("down", &ends.answer(DATA), TX_DOWN, &to_client(&ends, DATA)),
        ];
        for bit in 0..5 * 64 {
            let mut tables = bound(&ends, hop::SAME, |_| {});
            let (word, bit) = (bit / 64, 1 << (bit % 64));
            for place in tables.places.v4.values_mut() {
                place.key[word % 2] ^= bit;
                place.terms.next_hop = hop::OTHER;
            }
            for place in tables.places.v6.values_mut() {
                place.key[word] ^= bit;
                place.terms.next_hop = hop::OTHER;
            }
            cases.iter().for_each(|case| check(&tables, case));
        }
    }
}

#[test]
fn a_next_hop_on_another_interface_is_redirected_to() {
    for ends in families() {
        let tables = bound(&ends, hop::OTHER, |_| {});
        let verdict = |reason| Verdict::Redirect(reason);
        let (ask, answer) = (ends.ask(CHANNEL, DATA), ends.answer(DATA));
        check(&tables, &relayed("up", &ask, verdict(Reason::ClientToPeer), &to_peer(&ends, DATA)));
        check(
            &tables,
            &relayed("down", &answer, verdict(Reason::PeerToClient), &to_client(&ends, DATA)),
        );
    }
}

#[test]
fn the_ip_header_is_copied_as_section_14_says() {
    let plain = |d: Datagram| Datagram { class: 0, hop_limit: 2, fragment: 0, id: 0, flow: 0, ..d };
    let full = |d: Datagram| Datagram {
        class: 0xFF,
        hop_limit: 255,
        fragment: 0x4000,
        id: 0xFFFF,
        flow: 0xFFFFF,
        ..d
    };
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        let ways = [
            (ends.ask(CHANNEL, DATA), TX_UP, to_peer(&ends, DATA)),
            (ends.answer(DATA), TX_DOWN, to_client(&ends, DATA)),
        ];
        for (frame, verdict, out) in ways {
            let (a, b) = (plain(frame.clone()), plain(out.clone()));
            check(&tables, &relayed("zeros, hop limit 2", &a, verdict, &b));
            check(&tables, &relayed("all ones", &full(frame), verdict, &full(out)));
        }
    }
}

/// A checksum field of every value that the incremental update could get wrong.
#[test]
fn udp_checksums_are_adjusted_at_their_edges() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        for word in 0..=u16::MAX {
            let data = word.to_be_bytes();
            let mut frame = HostFrame::new(&ends.ask(CHANNEL, &data).bytes());
            assert_eq!(step(&mut frame, &tables), TX_UP);
            assert_eq!(frame.as_bytes(), sent(&to_peer(&ends, &data)), "up, {word:#06x}");
            let mut frame = HostFrame::new(&ends.answer(&data).bytes());
            assert_eq!(step(&mut frame, &tables), TX_DOWN);
            assert_eq!(frame.as_bytes(), sent(&to_client(&ends, &data)), "down, {word:#06x}");
        }
    }
}

/// The same for the header of IPv4, on the straight path and, with padding, on the general one.
#[test]
fn header_checksums_are_adjusted_at_their_edges() {
    let ends = Ends::v4();
    let tables = bound(&ends, hop::SAME, |_| {});
    let ask = ends.ask(CHANNEL, DATA);
    let padded = Datagram { payload: [&ask.payload[..], &[7]].concat(), ..ask.clone() };
    let ways = [
        (ask, TX_UP, to_peer(&ends, DATA)),
        (padded, TX_UP, to_peer(&ends, DATA)),
        (ends.answer(DATA), TX_DOWN, to_client(&ends, DATA)),
    ];
    for (frame, verdict, out) in ways {
        for id in 0..=u16::MAX {
            let mut frame = HostFrame::new(&Datagram { id, ..frame.clone() }.bytes());
            assert_eq!(step(&mut frame, &tables), verdict);
            let out = Datagram { id, ..out.clone() };
            assert_eq!(frame.as_bytes(), sent(&out), "{verdict:?}, {id:#06x}");
        }
    }
}

#[test]
fn no_udp_checksum_stays_none_on_ipv4_and_goes_up_on_ipv6() {
    let without = |d: Datagram| Datagram { checksum: false, ..d };
    let ends = Ends::v4();
    let tables = bound(&ends, hop::SAME, |_| {});
    let (ask, out) = (without(ends.ask(CHANNEL, DATA)), without(to_peer(&ends, DATA)));
    check(&tables, &relayed("up", &ask, TX_UP, &out));
    let (answer, out) = (without(ends.answer(DATA)), without(to_client(&ends, DATA)));
    check(&tables, &relayed("down", &answer, TX_DOWN, &out));

    let ends = Ends::v6();
    let tables = bound(&ends, hop::SAME, |_| {});
    for frame in [ends.ask(CHANNEL, DATA), ends.answer(DATA)] {
        check(&tables, &passed("none", without(frame).bytes(), Reason::ChecksumMissing));
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        for frame in [ends.ask(CHANNEL, DATA), ends.answer(DATA)] {
            let mut bytes = frame.bytes();
            *bytes.last_mut().unwrap() ^= 1;
            let mut frame = HostFrame::new(&bytes);
            assert!(matches!(step(&mut frame, &tables), Verdict::Transmit(_)));
            assert!(!checksums_hold(frame.as_bytes()));
        }
    }
}

/// Small packets are padded to 60 bytes; the tail goes along, and the IP length still rules.
#[test]
fn a_padded_frame_keeps_its_tail_up_to_64_bytes() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        let data = b"x";
        for (frame, verdict, out) in [
            (ends.ask(CHANNEL, data), TX_UP, to_peer(&ends, data)),
            (ends.answer(data), TX_DOWN, to_client(&ends, data)),
        ] {
            let bare = frame.bytes().len();
            for (to, allowed) in [(60, true), (64, true), (65, false), (1000, false)] {
                let Some(tail) = usize::checked_sub(to, bare) else { continue };
                if tail == 0 {
                    continue;
                }
                let padded = Datagram { tail, ..frame.clone() };
                let out = Datagram { tail, ..out.clone() };
                if allowed {
                    check(&tables, &relayed("padded", &padded, verdict, &out));
                } else {
                    check(&tables, &passed("long tail", padded.bytes(), Reason::Length));
                }
            }
        }
    }
}

#[test]
fn an_unconfigured_program_passes_everything() {
    let ends = Ends::v4();
    let mut tables = bound(&ends, hop::SAME, |_| {});
    for version in [0, relay_common::abi::ABI_VERSION + 1] {
        tables.config.abi_version = version;
        let frame = ends.ask(CHANNEL, DATA).bytes();
        check(&tables, &passed("another ABI", frame, Reason::NotConfigured));
        check(&tables, &passed("nothing at all", vec![0; 14], Reason::NotConfigured));
    }
}

#[test]
fn short_frames_and_other_protocols_go_up() {
    for (ends, smallest) in [(Ends::v4(), 42), (Ends::v6(), 62)] {
        let tables = bound(&ends, hop::SAME, |_| {});
        let frame = ends.answer(b"").bytes();
        assert_eq!(frame.len(), smallest);
        check(&tables, &relayed("headers", &ends.answer(b""), TX_DOWN, &to_client(&ends, b"")));
        for length in 14..smallest {
            check(&tables, &passed("short", frame[..length].to_vec(), Reason::Truncated));
        }
        let with = |at: usize, byte: u8| {
            let mut frame = ends.ask(CHANNEL, DATA).bytes();
            frame[at] = byte;
            frame
        };
        check(&tables, &passed("ARP", with(13, 0x06), Reason::NotIp));
        check(&tables, &passed("broadcast", with(0, 0xFF), Reason::GroupMac));
        check(&tables, &passed("multicast", with(0, 0x01), Reason::GroupMac));
        let mut tagged = ends.ask(CHANNEL, DATA).bytes();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        check(&tables, &passed("a VLAN tag", tagged, Reason::UnknownVlan));
        let protocol = if smallest == 42 { 23 } else { 20 };
        // Also every extension header, whatever follows it.
        for other in (0..=u8::MAX).filter(|other| *other != 17) {
            check(&tables, &passed("no UDP", with(protocol, other), Reason::NotUdp));
        }
    }
    let (v4, v6) = (Ends::v4(), Ends::v6());
    let mut frame = v4.ask(CHANNEL, DATA).bytes();
    let tables = bound(&v4, hop::SAME, |_| {});
    for version_ihl in [0x46, 0x44, 0x65, 0x05] {
        frame[14] = version_ihl;
        check(&tables, &passed("options or version", frame.clone(), Reason::Ipv4Options));
    }
    let mut frame = v6.ask(CHANNEL, DATA).bytes();
    frame[14] = 0x4B;
    check(&bound(&v6, hop::SAME, |_| {}), &passed("IPv6, version 4", frame, Reason::NotIp));
}

#[test]
fn fragments_go_up_and_dont_fragment_does_not_matter() {
    let ends = Ends::v4();
    let tables = bound(&ends, hop::SAME, |_| {});
    let with = |fragment| Datagram { fragment, ..ends.ask(CHANNEL, DATA) };
    for fragment in [0x2000, 0x6000, 0x0001, 0x1FFF, 0x3FFF] {
        check(&tables, &passed("fragment", with(fragment).bytes(), Reason::Fragment));
    }
    for fragment in [0, 0x4000, 0x8000] {
        let out = Datagram { fragment, ..to_peer(&ends, DATA) };
        check(&tables, &relayed("whole", &with(fragment), TX_UP, &out));
    }
}

#[test]
fn lengths_that_disagree_go_up() {
    for (ends, ip_len, udp_len) in [(Ends::v4(), 16, 38), (Ends::v6(), 18, 58)] {
        let tables = bound(&ends, hop::SAME, |_| {});
        for frame in [ends.ask(CHANNEL, DATA).bytes(), ends.answer(DATA).bytes()] {
            for (what, at, by) in [
                ("IP one more", ip_len, 1),
                ("IP one less", ip_len, -1),
                ("UDP one more", udp_len, 1),
                ("UDP one less", udp_len, -1),
                ("IP wraps", ip_len, i16::MIN),
                ("UDP wraps", udp_len, i16::MIN),
            ] {
                let mut frame = frame.clone();
                add(&mut frame, at, by);
                check(&tables, &passed(what, frame, Reason::Length));
            }
            let short = frame[..frame.len() - 1].to_vec();
            check(&tables, &passed("frame one less", short, Reason::Length));
        }
        let mut frame = Datagram { tail: 60, ..ends.answer(b"") }.bytes();
        frame.truncate(64);
        add(&mut frame, ip_len, -1);
        add(&mut frame, udp_len, -1);
        check(&tables, &passed("UDP of seven bytes", frame, Reason::Length));
    }
}

fn add(frame: &mut [u8], at: usize, by: i16) {
    let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&field.wrapping_add_signed(by).to_be_bytes());
}

#[test]
fn ports_decide_the_side_at_their_limits() {
    for ends in families() {
        let ask = |port| {
            let mut frame = ends.ask(CHANNEL, DATA);
            frame.dst.set_port(port);
            frame.bytes()
        };
        let tables = bound(&ends, hop::SAME, |_| {});
        for (port, reason) in [
            (49151, Reason::NotOurPort),
            (49152, Reason::NoPermission),
            (65534, Reason::NoPermission),
            (65535, Reason::NotOurPort),
            (3477, Reason::NotOurPort),
            (0, Reason::NotOurPort),
            (5349, Reason::NoRoute),
        ] {
            check(&tables, &passed("port", ask(port), reason));
        }
        // The last place of the list counts, what lies behind its end does not.
        let mut tables = bound(&ends, hop::SAME, |_| {});
        let ports = &mut tables.config.listen_ports;
        ports.fill(1u16.to_be());
        ports[15] = 3478u16.to_be();
        tables.config.listen_ports_count = 15;
        check(&tables, &passed("behind the end", ask(3478), Reason::NotOurPort));
        tables.config.listen_ports_count = 16;
        let frame = ends.ask(CHANNEL, DATA);
        check(&tables, &relayed("the last", &frame, TX_UP, &to_peer(&ends, DATA)));
    }
}

#[test]
fn what_is_not_channel_data_goes_up() {
    for ends in families() {
        let mut tables = bound(&ends, hop::SAME, |_| {});
        let send = |payload: &[u8]| Datagram::new(ends.client, ends.server, payload.into()).bytes();
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        check(&tables, &passed("STUN", send(&stun), Reason::Stun));
        check(&tables, &passed("nothing", send(b""), Reason::NotTurn));
        check(&tables, &passed("three bytes", send(&[0x40, 1, 0]), Reason::NotTurn));
        for (number, last, reason) in [
            (0x3FFF, 0x4FFF, Reason::NotTurn),
            (0x4000, 0x4FFF, Reason::NoRoute),
            (0x4FFF, 0x4FFF, Reason::NoRoute),
            (0x5000, 0x4FFF, Reason::NotTurn),
            (0x7FFF, 0x7FFF, Reason::NoRoute),
            (0x8000, 0x7FFF, Reason::NotTurn),
        ] {
            tables.config.channel_last = last;
            check(&tables, &passed("number", ends.ask(number, DATA).bytes(), reason));
        }
        let mut message = channel_data(CHANNEL, b"data");
        message.extend([0; 4]);
        check(&tables, &passed("too long", send(&message), Reason::ChannelLength));
        message.truncate(7);
        check(&tables, &passed("too short", send(&message), Reason::ChannelLength));
    }
}

#[test]
fn a_route_is_for_exactly_its_addresses() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        let other = ends.ask(CHANNEL + 1, DATA).bytes();
        check(&tables, &passed("another channel", other, Reason::NoRoute));
        let sides =
            [(ends.ask(CHANNEL, DATA), Reason::NoRoute), (ends.answer(DATA), Reason::NoPermission)];
        for (frame, reason) in sides {
            let mut port = frame.clone();
            port.src.set_port(1);
            check(&tables, &passed("another port", port.bytes(), reason));
            for at in [frame.src, frame.dst] {
                let mut moved = frame.clone();
                let ip = match at.ip() {
                    std::net::IpAddr::V4(ip) => {
                        std::net::Ipv4Addr::from_bits(ip.to_bits() ^ 1).into()
                    }
                    std::net::IpAddr::V6(ip) => {
                        std::net::Ipv6Addr::from_bits(ip.to_bits() ^ 1).into()
                    }
                };
                if at == frame.src {
                    moved.src.set_ip(ip);
                } else {
                    moved.dst.set_ip(ip);
                }
                check(&tables, &passed("another address", moved.bytes(), reason));
            }
        }
    }
}

#[test]
fn what_makes_a_route_unusable() {
    for ends in families() {
        for frame in [ends.ask(CHANNEL, DATA).bytes(), ends.answer(DATA).bytes()] {
            let case = |what, reason, hop, change: fn(&mut Route)| {
                check(&bound(&ends, hop, change), &passed(what, frame.clone(), reason));
            };
            case("at its deadline", Reason::Expired, hop::SAME, |r| r.terms.deadline_ns = NOW);
            case("long over", Reason::Expired, hop::SAME, |r| r.terms.deadline_ns = 0);
            case("older epoch", Reason::StaleEpoch, hop::SAME, |r| r.terms.epoch = EPOCH - 1);
            case("newer epoch", Reason::StaleEpoch, hop::SAME, |r| r.terms.epoch = EPOCH + 1);
            case("action 0", Reason::UnknownAction, hop::SAME, |r| r.terms.action = 0);
            case("action 9", Reason::UnknownAction, hop::SAME, |r| r.terms.action = 9);
            case("other side's", Reason::UnknownAction, hop::SAME, |r| {
                r.terms.action = 3 - r.terms.action;
            });
            case("unresolved", Reason::NextHopUnresolved, hop::UNRESOLVED, |_| {});
            case("no such hop", Reason::NextHopUnresolved, hop::ABSENT, |_| {});
            case("no such port", Reason::NextHopUnresolved, hop::NO_PORT, |_| {});
        }
        let tables = bound(&ends, hop::SAME, |r| r.terms.deadline_ns = NOW + 1);
        let ask = ends.ask(CHANNEL, DATA);
        check(&tables, &relayed("just in time", &ask, TX_UP, &to_peer(&ends, DATA)));
        for hop_limit in [0, 1] {
            for frame in [ends.ask(CHANNEL, DATA), ends.answer(DATA)] {
                let frame = Datagram { hop_limit, ..frame }.bytes();
                check(&tables, &passed("hop limit", frame, Reason::HopLimit));
            }
        }
    }
}

#[test]
fn a_packet_that_is_too_big_afterwards_goes_up() {
    for (ends, headers) in [(Ends::v4(), 28), (Ends::v6(), 48)] {
        let tables = bound(&ends, hop::NARROW, |_| {});
        let fits = vec![1; 100 - headers];
        let over = vec![1; 101 - headers];
        let ask = |data: &[u8]| ends.ask(CHANNEL, data);
        check(&tables, &relayed("fits", &ask(&fits), TX_UP, &to_peer(&ends, &fits)));
        check(&tables, &passed("up, one over", ask(&over).bytes(), Reason::TooBig));
        let fits = &fits[4..];
        check(&tables, &relayed("fits", &ends.answer(fits), TX_DOWN, &to_client(&ends, fits)));
        let frame = ends.answer(&over[4..]).bytes();
        check(&tables, &passed("down, one over", frame, Reason::TooBig));
        // The lengths' own sixteen bits, where the MTU is no limit.
        let tables = bound(&ends, hop::WIDE, |_| {});
        let most = vec![1; 65535 - headers - 4];
        let out = to_client(&ends, &most);
        check(&tables, &relayed("longest", &ends.answer(&most), TX_DOWN, &out));
        for more in 1..=4 {
            let frame = ends.answer(&vec![1; most.len() + more]).bytes();
            check(&tables, &passed("would wrap", frame, Reason::TooBig));
        }
    }
}

/// What a loaded program meets only on drivers that have no room, or never.
#[test]
fn a_frame_that_cannot_be_changed_goes_up_and_a_changed_one_never() {
    for ends in families() {
        let tables = bound(&ends, hop::SAME, |_| {});
        for (frame, by) in [(ends.ask(CHANNEL, DATA).bytes(), 4), (ends.answer(DATA).bytes(), -4)] {
            let mut host = HostFrame::new(&frame);
            host.no_room = true;
            tables.reasons.take();
            let case = passed("no room", frame.clone(), Reason::NoRoom);
            check_frame(&tables, &case, &mut host);

            let mut host = HostFrame::new(&frame);
            host.no_write = true;
            assert_eq!(step(&mut host, &tables), Verdict::Abort(Reason::Aborted));
            assert_eq!(host.as_bytes().len() as i64, frame.len() as i64 - by, "it had moved");
            assert_eq!(tables.reasons.take()[&Reason::Aborted].packets, 1);
            assert!(tables.counts.borrow().is_empty(), "what is dropped is not counted as relayed");
        }
    }
}
