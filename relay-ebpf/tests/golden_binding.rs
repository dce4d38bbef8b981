//! Golden frames of Binding requests.
//!
//! As in `golden.rs`: every limit at it and one past it, and what goes out is laid out byte by byte
//! by the test itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests; each number here fits")]

mod common;
#[path = "common/indications.rs"]
mod indications;
#[path = "common/outcome.rs"]
mod outcome;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use indications::{Sealed, install_answer, request, response};
use outcome::{check, families, passes};
use relay_common::abi::{Reason, Route};
use relay_ebpf::{Verdict, step};

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
            for bit in
                (0..8 * good.len()).filter(|bit| !(64..160).contains(bit) || sealed == Sealed::Yes)
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
        passes(&with(|r| r.terms.epoch -= 1), "old", &frame, Reason::StaleEpoch);
        passes(&with(|r| r.terms.deadline_ns = NOW), "over", &frame, Reason::Expired);
        passes(&with(|r| r.terms.action = 1), "another action", &frame, Reason::Stun);
        let last = with(|r| r.terms.deadline_ns = NOW + 1);
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
        let run = |ends: &Ends| step(&mut HostFrame::new(&ask(ends, Sealed::No).bytes()), &tables);
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
            host.no_room = true;
            assert_eq!(step(&mut host, &tables), Verdict::Pass(Reason::NoRoom));
            assert_eq!(host.as_bytes(), frame);
            assert!(tables.budgets.iter().all(|budget| budget.get() == 0), "paid for nothing");
            let mut host = HostFrame::new(&frame);
            host.no_tailroom = true;
            assert_eq!(step(&mut host, &tables), ANSWERED, "there is none behind most frames");
            assert_eq!(host.as_bytes(), answer(&ends, sealed));
            let mut host = HostFrame::new(&frame);
            host.no_write = true;
            assert_eq!(step(&mut host, &tables), Verdict::Abort(Reason::Aborted));
        }
    }
}

/// Four races for a budget are run, and a frame that goes up then is what it was.
#[test]
fn a_budget_that_other_cpus_write_is_userspaces() {
    for ends in families() {
        let frame = ask(&ends, Sealed::Yes).bytes();
        for (races, verdict) in [(3, ANSWERED), (4, Verdict::Pass(Reason::Stun))] {
            let mut tables = listening(&ends, |_| {});
            tables.config.answer_burst_ns = 5 * RIVAL;
            tables.races.set(races);
            let out = if races == 3 { answer(&ends, Sealed::Yes) } else { frame.clone() };
            check(&tables, "races", &frame, verdict, &out);
            let most = tables.budgets.iter().map(|budget| budget.get()).max().unwrap();
            let cost = if races == 3 { COST } else { 0 };
            assert_eq!(most, NOW + u64::from(races) * RIVAL + cost);
        }
        // What others leave is asked for each time.
        let mut tables = listening(&ends, |_| {});
        tables.config.answer_burst_ns = RIVAL - 1;
        tables.races.set(1);
        let verdict = step(&mut HostFrame::new(&frame), &tables);
        assert_eq!(verdict, Verdict::Drop(Reason::BindingOverBudget));
    }
}

#[test]
fn tagged_requests_are_answered_behind_the_same_tags() {
    for ends in families() {
        for sealed in Sealed::BOTH {
            for tags in [ONE_TAG, TWO_TAGS] {
                let tags: Vec<_> = tags.iter().map(|(a, b)| (*a, *b | 0xE000)).collect();
                let frame = Datagram { tags: tags.clone(), ..ask(&ends, sealed) }.bytes();
                let mut out = answer(&ends, sealed);
                let bytes = 4 * tags.len();
                out.splice(12..12, frame[12..12 + bytes].to_vec());
                check(&listening(&ends, |_| {}), "tags", &frame, ANSWERED, &out);
            }
        }
    }
}

#[test]
fn a_request_for_another_station_goes_up() {
    for ends in families() {
        for tags in [&[], ONE_TAG, TWO_TAGS] {
            for byte in 0..6 {
                let frame = Datagram { tags: tags.to_vec(), ..ask(&ends, Sealed::No) };
                let mut frame = frame.bytes();
                frame[byte] ^= 2;
                passes(&listening(&ends, |_| {}), "another", &frame, Reason::OtherHost);
            }
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
