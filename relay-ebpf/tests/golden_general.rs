//! Golden frames of the general path: crossings, hairpins, tags, padding, limits, and next hops of
//! the kernel's own routing table. Laid out and checked as in `golden.rs`.

#[path = "common/case.rs"]
mod case;
mod common;

use case::*;
use common::*;
use relay_common::abi::{Direction, LinkKey, NextHop, Policer, Reason};
use relay_common::addr::Family;
use relay_common::police;
use relay_ebpf::{FibQuery, Verdict, step};

const HAIRPIN: Verdict = Verdict::Transmit(Reason::Hairpin);

fn bound(ends: &Ends, next_hop: u16) -> HostTables {
    let mut tables = tables();
    install(&mut tables, &binding(ends, next_hop), |_| {});
    tables
}

/// Every mix of the client's family and the peer's.
fn mixes() -> Vec<Ends> {
    let both = families();
    both.iter().flat_map(|client| both.iter().map(|peer| Ends::mixed(client, peer))).collect()
}

fn crosses(ends: &Ends) -> bool {
    ends.client.is_ipv4() != ends.peer.is_ipv4()
}

/// What leaves: copied within a family, else as the other wire has it.
fn out(ends: &Ends, datagram: Datagram) -> Datagram {
    if crosses(ends) { datagram.crossed() } else { datagram }
}

#[test]
fn every_mix_of_families_is_relayed_both_ways() {
    for ends in mixes() {
        let tables = bound(&ends, hop::SAME);
        for data in [DATA, b"", b"x", &[0xFF; 1400]] {
            for (class, hop_limit, fragment) in [(0xB9, 64, 0x4000), (0, 2, 0), (0xFF, 255, 0)] {
                let with = |d: Datagram| Datagram { class, hop_limit, fragment, ..d };
                let (ask, answer) = (with(ends.ask(CHANNEL, data)), with(ends.answer(data)));
                let up = out(&ends, with(to_peer(&ends, data)));
                check(&tables, &relayed("client to peer", &ask, TX_UP, &up));
                let down = out(&ends, with(to_client(&ends, data)));
                check(&tables, &relayed("peer to client", &answer, TX_DOWN, &down));
            }
        }
    }
}

/// A checksum field of every value that an update could get wrong.
#[test]
fn checksums_of_crossings_are_right_at_their_edges() {
    for ends in mixes().into_iter().filter(crosses) {
        let tables = bound(&ends, hop::SAME);
        for word in (0..=u16::MAX).step_by(3) {
            let data = word.to_be_bytes();
            let mut frame = HostFrame::new(&ends.ask(CHANNEL, &data).bytes());
            assert_eq!(step(&mut frame, &tables), TX_UP);
            assert_eq!(frame.as_bytes(), sent(&out(&ends, to_peer(&ends, &data))));
            let mut frame = HostFrame::new(&ends.answer(&data).bytes());
            assert_eq!(step(&mut frame, &tables), TX_DOWN);
            assert_eq!(frame.as_bytes(), sent(&out(&ends, to_client(&ends, &data))));
        }
    }
}

#[test]
fn a_crossing_needs_a_checksum() {
    for ends in mixes().into_iter().filter(crosses) {
        let tables = bound(&ends, hop::SAME);
        for frame in [ends.ask(CHANNEL, DATA), ends.answer(DATA)] {
            let frame = Datagram { checksum: false, ..frame }.bytes();
            check(&tables, &passed("no checksum", frame, Reason::ChecksumMissing));
        }
    }
}

#[test]
fn a_crossing_obeys_the_mtu_of_the_wire_that_it_leaves_by() {
    for ends in mixes().into_iter().filter(crosses) {
        let tables = bound(&ends, hop::NARROW);
        let headers = |at: std::net::SocketAddr| if at.is_ipv4() { 28 } else { 48 };
        let data = vec![1; 101 - headers(ends.peer)];
        let fits = &data[1..];
        let up = out(&ends, to_peer(&ends, fits));
        check(&tables, &relayed("fits", &ends.ask(CHANNEL, fits), TX_UP, &up));
        check(&tables, &passed("one over", ends.ask(CHANNEL, &data).bytes(), Reason::TooBig));
        let data = vec![1; 101 - headers(ends.client) - 4];
        let fits = &data[1..];
        let down = out(&ends, to_client(&ends, fits));
        check(&tables, &relayed("fits", &ends.answer(fits), TX_DOWN, &down));
        check(&tables, &passed("one over", ends.answer(&data).bytes(), Reason::TooBig));
        // The lengths' own sixteen bits, where the MTU is no limit.
        let tables = bound(&ends, hop::WIDE);
        if ends.client.is_ipv6() {
            let most = vec![1; 65535 - 48 - 4];
            let down = out(&ends, to_client(&ends, &most));
            check(&tables, &relayed("longest", &ends.answer(&most), TX_DOWN, &down));
            let frame = ends.answer(&vec![1; most.len() + 1]).bytes();
            check(&tables, &passed("would wrap", frame, Reason::TooBig));
        }
    }
}

/// A tail goes where the frame is written anew: it is no part of the packet.
#[test]
fn the_general_path_cuts_tails() {
    for ends in mixes().into_iter().filter(crosses) {
        let tables = bound(&ends, hop::SAME);
        for data in [&b"x"[..], b""] {
            for (frame, verdict, to) in [
                (ends.ask(CHANNEL, data), TX_UP, to_peer(&ends, data)),
                (ends.answer(data), TX_DOWN, to_client(&ends, data)),
            ] {
                let Some(tail) = usize::checked_sub(64, frame.bytes().len()) else { continue };
                let frame = Datagram { tail, ..frame };
                check(&tables, &relayed("padded", &frame, verdict, &out(&ends, to)));
            }
        }
    }
}

/// Two allocations: the sender's client and server, and the receiver's.
fn pairs() -> Vec<(Ends, Ends)> {
    let other = |mut ends: Ends| {
        ends.client.set_port(41_000);
        ends
    };
    let both = families();
    both.iter().flat_map(|from| both.iter().map(move |to| (*from, other(*to)))).collect()
}

#[test]
fn a_hairpin_swaps_the_channel_and_passes_two_relays() {
    for (from, to) in pairs() {
        let mut tables = tables();
        put(&mut tables, hairpin(&from, &to, hop::SAME), |_| {});
        let crosses = from.client.is_ipv4() != to.client.is_ipv4();
        for data in [DATA, b"", b"x", &[0xFF; 1400]] {
            let ask = from.ask(CHANNEL, data);
            let mut get = to_other(&to, data);
            if crosses {
                get = get.crossed();
            }
            let out = Some(after_hops(&get, 2));
            let case = Case { what: "hairpin", frame: ask.bytes(), verdict: HAIRPIN, out };
            check(&tables, &case);
            for padding in 1..=3 {
                let mut padded = ask.clone();
                padded.payload.extend(&[0xA5, 0x5A, 0xFF][..padding]);
                let case = Case { what: "padded", frame: padded.bytes(), ..case.clone() };
                check(&tables, &case);
            }
        }
        for (hop_limit, passes) in [(0, false), (1, false), (2, false), (3, true)] {
            let frame = Datagram { hop_limit, ..from.ask(CHANNEL, DATA) }.bytes();
            if passes {
                let mut host = HostFrame::new(&frame);
                assert_eq!(step(&mut host, &tables), HAIRPIN);
                assert!(checksums_hold(host.as_bytes()));
            } else {
                check(&tables, &passed("hop limit", frame, Reason::HopLimit));
            }
        }
    }
}

/// What the receiver of a hairpin gets.
fn to_other(to: &Ends, data: &[u8]) -> Datagram {
    Datagram::new(to.server, to.client, channel_data(OTHER_CHANNEL, data))
}

#[test]
fn a_hairpin_is_for_a_listening_port_only() {
    for ends in families() {
        let mut tables = bound(&ends, hop::SAME);
        tables.change(|route| route.terms.action = relay_common::abi::ACTION_SWAP);
        let frame = ends.answer(DATA).bytes();
        check(&tables, &passed("from a peer", frame, Reason::UnknownAction));
    }
}

#[test]
fn tags_come_and_go_in_every_combination() {
    let none: &[(u16, u16)] = &[];
    for ends in mixes() {
        for (hop, leaves) in [(hop::SAME, none), (hop::ONE_TAG, ONE_TAG), (hop::TWO_TAGS, TWO_TAGS)]
        {
            let tables = bound(&ends, hop);
            for arrives in [none, ONE_TAG, TWO_TAGS] {
                // Priority and drop eligibility are not looked at, and not passed on.
                let tags: Vec<_> = arrives.iter().map(|(a, b)| (*a, *b | 0xF000)).collect();
                let ways = [
                    (ends.ask(CHANNEL, DATA), Reason::ClientToPeer, to_peer(&ends, DATA)),
                    (ends.answer(DATA), Reason::PeerToClient, to_client(&ends, DATA)),
                ];
                for (frame, reason, to) in ways {
                    let frame = Datagram { tags: tags.clone(), ..frame };
                    let to = Datagram { tags: leaves.to_vec(), ..out(&ends, to) };
                    let verdict = match hop {
                        hop::TWO_TAGS => Verdict::Redirect(reason),
                        _ => Verdict::Transmit(reason),
                    };
                    check(&tables, &relayed("tags", &frame, verdict, &to));
                }
            }
        }
    }
}

#[test]
fn only_frames_of_known_vlans_are_taken() {
    for ends in families() {
        let mut tables = bound(&ends, hop::SAME);
        let with = |tags: &[(u16, u16)]| {
            Datagram { tags: tags.to_vec(), ..ends.ask(CHANNEL, DATA) }.bytes()
        };
        let (one, two) = (ONE_TAG[0], TWO_TAGS);
        for (what, tags) in [
            ("another identifier", &[(one.0, one.1 ^ 1)][..]),
            ("another protocol", &[(0x88A8, one.1)]),
            ("priority only", &[(0x8100, 0xE000)]),
            ("the outer one alone", &two[..1]),
            ("another inner one", &[two[0], (0x8100, 8)]),
            ("an inner priority only", &[one, (0x8100, 0)]),
            ("one too many", &[one, two[1]]),
        ] {
            check(&tables, &passed(what, with(tags), Reason::UnknownVlan));
        }
        // Even where somebody has configured it.
        let key = LinkKey::new(INGRESS, tags(&[(0x8100, 0)]));
        tables.links.insert(key, station(INGRESS));
        let frame = with(&[(0x8100, 0xE000)]);
        check(&tables, &passed("priority only", frame, Reason::UnknownVlan));
        let three = [two[0], two[1], (0x8100, 9)];
        check(&tables, &passed("three tags", with(&three), Reason::NotIp));
        let tagged = with(two);
        for length in 42..22 + 28 {
            let frame = tagged[..length].to_vec();
            check(&tables, &passed("short", frame, Reason::Truncated));
        }
        let mut frame = with(&[one]);
        frame[17] = 0x06;
        check(&tables, &passed("ARP behind a tag", frame, Reason::NotIp));
        let on = |ifindex| LinkKey::new(ifindex, tags(&[one]));
        let vlan = tables.links.remove(&on(INGRESS)).expect("configured");
        tables.links.insert(on(EGRESS), vlan);
        check(&tables, &passed("on another interface", with(&[one]), Reason::UnknownVlan));
    }
}

/// Ethernet's minimum is longer by each tag.
#[test]
fn a_tagged_frame_may_have_a_longer_tail() {
    for ends in families() {
        let tables = bound(&ends, hop::ONE_TAG);
        for tags in [ONE_TAG, TWO_TAGS] {
            let frame = Datagram { tags: tags.to_vec(), ..ends.answer(b"") };
            let most = 64 + 4 * tags.len();
            let tail = most - frame.bytes().len();
            let padded = Datagram { tail, ..frame.clone() };
            if tail > 0 {
                let to = Datagram { tags: ONE_TAG.to_vec(), ..to_client(&ends, b"") };
                check(&tables, &relayed("padded", &padded, TX_DOWN, &to));
            }
            let frame = Datagram { tail: tail + 1, ..frame }.bytes();
            check(&tables, &passed("long tail", frame, Reason::Length));
        }
    }
}

#[test]
fn padding_of_channel_data_is_cut_off_whatever_it_holds() {
    for ends in mixes() {
        let tables = bound(&ends, hop::SAME);
        for data in [&DATA[..16], &DATA[..15], b"", b"x"] {
            for padding in [&[0u8; 3][..], &[0xFF; 3], &[1, 2, 3]] {
                for count in 1..=3 {
                    let mut frame = ends.ask(CHANNEL, data);
                    frame.payload.extend(&padding[..count]);
                    let to = out(&ends, to_peer(&ends, data));
                    check(&tables, &relayed("padded", &frame, TX_UP, &to));
                    if ends.client.is_ipv4() && ends.peer.is_ipv4() {
                        let frame = Datagram { checksum: false, ..frame };
                        let to = Datagram { checksum: false, ..to };
                        check(&tables, &relayed("no checksum", &frame, TX_UP, &to));
                    }
                }
            }
            let mut frame = ends.ask(CHANNEL, data);
            frame.payload.extend([0; 4]);
            check(&tables, &passed("four bytes", frame.bytes(), Reason::ChannelLength));
        }
        // A tail behind the padding goes with it.
        let mut frame = ends.ask(CHANNEL, b"x");
        frame.payload.extend([7; 3]);
        if let Some(tail) = usize::checked_sub(60, frame.bytes().len()) {
            let to = out(&ends, to_peer(&ends, b"x"));
            check(&tables, &relayed("both", &Datagram { tail, ..frame }, TX_UP, &to));
        }
    }
}

/// Buckets are nanoseconds; the clock stands at `NOW`.
fn policed(tables: &mut HostTables, slot: u32, direction: Direction, limits: Policer) {
    tables.change(|route| route.terms.flags |= relay_common::abi::FLAG_POLICED);
    tables.policers.insert((slot, direction), HostPolicer { limits, ..HostPolicer::default() });
}

const LIMITS: Policer = Policer {
    packets_full_ns: 0,
    bytes_full_ns: 0,
    packet_cost: 1_000,
    byte_cost: 10 << 16,
    burst_ns: 5_000,
};

#[test]
fn a_slot_over_a_limit_is_dropped_and_pays_nothing() {
    for ends in mixes() {
        for (direction, frame, verdict) in
            [(UP, ends.ask(CHANNEL, DATA), TX_UP), (DOWN, ends.answer(DATA), TX_DOWN)]
        {
            let mut tables = bound(&ends, hop::SAME);
            policed(&mut tables, SLOT, direction, LIMITS);
            let frame = frame.bytes();
            let run = |packets: u64, bytes: u64| {
                let policer = &tables.policers[&(SLOT, direction)];
                policer.packets_full_ns.set(packets);
                policer.bytes_full_ns.set(bytes);
                let verdict = step(&mut HostFrame::new(&frame), &tables);
                (verdict, policer.packets_full_ns.get(), policer.bytes_full_ns.get())
            };
            let cost = police::bytes_cost(17, LIMITS.byte_cost);
            assert_eq!(cost, 170, "application data only");
            assert_eq!(run(0, 0), (verdict, NOW + 1_000, NOW + cost), "idle");
            let edge = NOW + 5_000;
            assert_eq!(run(edge, edge), (verdict, edge + 1_000, edge + cost), "at the limit");
            let over = Verdict::Drop(Reason::Policed);
            assert_eq!(run(edge + 1, 0), (over, edge + 1, 0), "packets");
            assert_eq!(run(0, edge + 1), (over, 0, edge + 1), "bytes");
            let case = Case { what: "over", frame, verdict: over, out: None };
            check(&tables, &case);
            tables.policers.get_mut(&(SLOT, direction)).expect("above").limits.byte_cost = 0;
            let mut host = HostFrame::new(&case.frame);
            assert_eq!(step(&mut host, &tables), verdict, "bytes are not limited");
        }
    }
}

#[test]
fn a_hairpin_is_policed_by_both_slots() {
    for (from, to) in pairs() {
        let mut tables = tables();
        put(&mut tables, hairpin(&from, &to, hop::SAME), |_| {});
        policed(&mut tables, SLOT, UP, LIMITS);
        policed(&mut tables, PEER_SLOT, DOWN, LIMITS);
        let frame = from.ask(CHANNEL, DATA).bytes();
        let run = |sender: u64, receiver: u64| {
            let all = [&tables.policers[&(SLOT, UP)], &tables.policers[&(PEER_SLOT, DOWN)]];
            all[0].packets_full_ns.set(sender);
            all[1].packets_full_ns.set(receiver);
            let verdict = step(&mut HostFrame::new(&frame), &tables);
            (verdict, all.map(|policer| policer.packets_full_ns.get()))
        };
        let over = NOW + 5_001;
        assert_eq!(run(0, 0), (HAIRPIN, [NOW + 1_000; 2]));
        assert_eq!(run(over, 0), (Verdict::Drop(Reason::Policed), [over, 0]));
        assert_eq!(run(0, over), (Verdict::Drop(Reason::Policed), [0, over]));
    }
}

#[test]
fn without_the_flag_no_limit_holds() {
    let ends = Ends::v4();
    let mut tables = bound(&ends, hop::SAME);
    policed(&mut tables, SLOT, UP, LIMITS);
    tables.policers[&(SLOT, UP)].packets_full_ns.set(u64::MAX);
    tables.change(|route| route.terms.flags = 0);
    check(&tables, &relayed("free", &ends.ask(CHANNEL, DATA), TX_UP, &to_peer(&ends, DATA)));
}

#[test]
fn an_unresolved_next_hop_is_asked_of_the_kernel() {
    for ends in mixes() {
        let mut tables = bound(&ends, hop::UNRESOLVED);
        let (frame, to) = (ends.ask(CHANNEL, DATA), out(&ends, to_peer(&ends, DATA)));
        check(&tables, &passed("no answer", frame.bytes(), Reason::NextHopUnresolved));
        let words = |at: std::net::SocketAddr| match at.ip() {
            std::net::IpAddr::V4(ip) => [u32::from_ne_bytes(ip.octets()), 0, 0, 0],
            std::net::IpAddr::V6(ip) => {
                let bytes = ip.octets();
                [0, 4, 8, 12].map(|at| u32::from_ne_bytes(*bytes[at..].first_chunk().expect("16")))
            }
        };
        let headers = if ends.peer.is_ipv4() { 28 } else { 48 };
        let query = FibQuery {
            family: if ends.peer.is_ipv4() { Family::V4 } else { Family::V6 },
            src: words(ends.relayed),
            dst: words(ends.peer),
            src_port: ends.relayed.port().to_be(),
            dst_port: ends.peer.port().to_be(),
            class: frame.class,
            bytes: headers + 17,
        };
        let answer = tables.next_hops[usize::from(hop::SAME)];
        tables.fib.insert(query, answer);
        check(&tables, &relayed("answered", &frame, TX_UP, &to));
        // The answer is for the interface, and not for a VLAN device above it.
        let tagged = Datagram { tags: ONE_TAG.to_vec(), ..frame.clone() }.bytes();
        check(&tables, &passed("tagged", tagged, Reason::NextHopUnresolved));
        tables.fib.insert(query, NextHop { ifindex: EGRESS, port: PORT, ..answer });
        let redirect = Verdict::Redirect(Reason::ClientToPeer);
        check(&tables, &relayed("another interface", &frame, redirect, &to));
        assert_eq!(tables.aimed.get(), Some(PORT));
        tables.fib.insert(query, NextHop { ifindex: EGRESS, port: PORT + 1, ..answer });
        check(&tables, &passed("no such port", frame.bytes(), Reason::NextHopUnresolved));
    }
}

/// A relay on a wire that carries other stations' frames as well.
#[test]
fn a_frame_for_another_station_goes_up() {
    let elsewhere = |frame: &Datagram, tags: &[(u16, u16)], byte: usize| {
        let mut bytes = Datagram { tags: tags.to_vec(), ..frame.clone() }.bytes();
        bytes[byte] ^= 2;
        bytes
    };
    for ends in mixes() {
        for hop in [hop::SAME, hop::OTHER, hop::ONE_TAG] {
            let mut tables = bound(&ends, hop);
            for frame in [ends.ask(CHANNEL, DATA), ends.answer(DATA)] {
                for tags in [&[], ONE_TAG, TWO_TAGS] {
                    for byte in 0..6 {
                        let bytes = elsewhere(&frame, tags, byte);
                        check(&tables, &passed("another", bytes, Reason::OtherHost));
                    }
                    let mut bytes = elsewhere(&frame, tags, 1);
                    bytes[0] |= 1;
                    check(&tables, &passed("a group", bytes, Reason::GroupMac));
                }
            }
            // Not the interface's own address: another interface has its place, or none.
            if hop == hop::OTHER {
                let frame = ends.ask(CHANNEL, DATA).bytes();
                let other = station(INGRESS + relay_common::abi::STATIONS_MAX);
                tables.stations.insert(INGRESS, other);
                check(&tables, &passed("taken", frame.clone(), Reason::OtherHost));
                tables.stations.clear();
                check(&tables, &passed("unknown", frame, Reason::OtherHost));
            }
        }
    }
    for (from, to) in pairs() {
        let mut tables = tables();
        put(&mut tables, hairpin(&from, &to, hop::SAME), |_| {});
        let frame = elsewhere(&from.ask(CHANNEL, DATA), &[], 5);
        check(&tables, &passed("a hairpin", frame, Reason::OtherHost));
    }
}

/// A VLAN device may have an address of its own.
#[test]
fn a_tagged_frame_is_for_the_vlan_device() {
    for ends in families() {
        let mut tables = bound(&ends, hop::ONE_TAG);
        for station in tables.links.values_mut() {
            station.mac = mac(CLIENT_MAC);
        }
        let frame = Datagram { tags: ONE_TAG.to_vec(), ..ends.ask(CHANNEL, DATA) };
        let mut bytes = frame.bytes();
        check(&tables, &passed("to the bottom", bytes.clone(), Reason::OtherHost));
        bytes[..6].copy_from_slice(&CLIENT_MAC);
        let to = Datagram { tags: ONE_TAG.to_vec(), ..to_peer(&ends, DATA) };
        let case = Case { what: "to it", frame: bytes, verdict: TX_UP, out: Some(sent(&to)) };
        check(&tables, &case);
    }
}

/// IPv6 has no such checksum: what was damaged would look whole.
#[test]
fn a_damaged_ipv4_header_does_not_cross() {
    for ends in mixes() {
        let tables = bound(&ends, hop::SAME);
        let ways = [(ends.ask(CHANNEL, DATA), ends.peer), (ends.answer(DATA), ends.client)];
        for (frame, to) in ways {
            let crosses_to_v6 = frame.src.is_ipv4() && to.is_ipv6();
            // Class, identification, and the checksum itself.
            for at in [15, 18, 24, 25] {
                let mut bytes = frame.bytes();
                bytes[at] ^= 0x10;
                if crosses_to_v6 {
                    check(&tables, &passed("damaged", bytes, Reason::HeaderChecksum));
                } else if frame.src.is_ipv4() {
                    let mut host = HostFrame::new(&bytes);
                    assert!(matches!(step(&mut host, &tables), Verdict::Transmit(_)));
                    assert!(!checksums_hold(host.as_bytes()), "it stays wrong");
                }
            }
        }
    }
}

/// What goes up for lack of room has paid nothing.
#[test]
fn a_frame_without_room_is_not_charged() {
    for ends in mixes() {
        for (direction, frame) in [(UP, ends.ask(CHANNEL, DATA)), (DOWN, ends.answer(DATA))] {
            for hop in [hop::SAME, hop::ONE_TAG] {
                let mut tables = bound(&ends, hop);
                policed(&mut tables, SLOT, direction, LIMITS);
                let bytes = frame.bytes();
                let mut host = HostFrame::new(&bytes);
                host.no_room = true;
                check_frame(&tables, &passed("no room", bytes, Reason::NoRoom), &mut host);
                let policer = &tables.policers[&(SLOT, direction)];
                let full = [policer.packets_full_ns.get(), policer.bytes_full_ns.get()];
                assert!(full.iter().all(|at| *at <= NOW), "{full:?}");
            }
        }
    }
    for (from, to) in pairs() {
        let mut tables = tables();
        put(&mut tables, hairpin(&from, &to, hop::SAME), |_| {});
        policed(&mut tables, SLOT, UP, LIMITS);
        policed(&mut tables, PEER_SLOT, DOWN, LIMITS);
        let bytes = from.ask(CHANNEL, DATA).bytes();
        let mut host = HostFrame::new(&bytes);
        host.no_room = true;
        check_frame(&tables, &passed("no room", bytes, Reason::NoRoom), &mut host);
        assert!(tables.policers.values().all(|policer| policer.packets_full_ns.get() <= NOW));
    }
}

/// Charges of two CPUs at once add up.
#[test]
fn a_lost_race_for_a_bucket_is_paid_too() {
    for ends in mixes() {
        for (direction, frame, verdict) in
            [(UP, ends.ask(CHANNEL, DATA), TX_UP), (DOWN, ends.answer(DATA), TX_DOWN)]
        {
            let mut tables = bound(&ends, hop::SAME);
            policed(&mut tables, SLOT, direction, Policer { byte_cost: 0, ..LIMITS });
            tables.races.set(1);
            assert_eq!(step(&mut HostFrame::new(&frame.bytes()), &tables), verdict);
            let full = tables.policers[&(SLOT, direction)].packets_full_ns.get();
            assert_eq!(full, NOW + RIVAL + LIMITS.packet_cost);
        }
    }
}

/// What a loaded program meets only on drivers that have no room, or never.
#[test]
fn a_frame_that_cannot_be_changed_goes_up_and_a_changed_one_never() {
    for ends in mixes().into_iter().filter(crosses) {
        let tables = bound(&ends, hop::SAME);
        let mut padded = ends.ask(CHANNEL, DATA);
        padded.payload.extend([1; 3]);
        for frame in [padded.bytes(), ends.answer(DATA).bytes()] {
            let mut host = HostFrame::new(&frame);
            host.no_room = true;
            check_frame(&tables, &passed("no room", frame.clone(), Reason::NoRoom), &mut host);
            let mut host = HostFrame::new(&frame);
            host.no_write = true;
            assert_eq!(step(&mut host, &tables), Verdict::Abort(Reason::Aborted));
        }
        let mut host = HostFrame::new(&padded.bytes());
        host.no_tailroom = true;
        assert_eq!(step(&mut host, &tables), Verdict::Abort(Reason::Aborted));
    }
}
