//! The same generated frames through the step on the host and through the loaded program: equal
//! verdict, equal bytes, equal counters; and what is passed is unmodified.
//!
//! Needs root and the object's path in `TURNPIKE_XDP_OBJECT`; without them every test is ignored
//! and says why. `TURNPIKE_DIFFERENTIAL_SEED` and `TURNPIKE_DIFFERENTIAL_FRAMES` replay a failure.
#![allow(clippy::unwrap_used, reason = "a test without libtest's attribute; each number here fits")]

mod common;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/pair.rs"]
mod pair;
#[path = "common/random.rs"]
mod random;

use std::env;
use std::process::ExitCode;

use common::*;
use kernel::Kernel;
use libtest_mimic::{Arguments, Failed, Trial};
use pair::{object, same, setting, when_possible};
use random::Random;
use relay_common::abi::{Direction, FLAG_POLICED, Policer, Reason, Route};

const SEED: u64 = 8656;
/// By hand; and where `CI` is set.
const FRAMES: u64 = 1_000_000;
const FRAMES_IN_CI: u64 = 150_000;
/// Frames between two looks at the counters; each batch has a configuration of its own.
const BATCH: u64 = 1_000;
/// Bindings of each mix of families, and as many hairpins.
const BINDINGS: u16 = 48;
const CLEAN: u16 = BINDINGS / 2;
/// What no frame here leads to: STUN is `differential_stun.rs`'s. The last two cannot happen to the
/// loaded program in a test run: there is room, and nothing shrinks.
const UNMADE: &[Reason] = &[
    Reason::SendIndication,
    Reason::DataIndication,
    Reason::BindingAnswered,
    Reason::BindingOverBudget,
    Reason::NoRoom,
    Reason::Aborted,
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests = vec![
        Trial::ignorable_test("host_and_kernel_agree", || when_possible(agree)),
        Trial::ignorable_test("single_cases_at_their_limits", || when_possible(limits)),
        Trial::ignorable_test("times_are_counted_when_switched_on", || when_possible(times)),
    ];
    libtest_mimic::run(&args, tests).exit_code()
}

/// The families of client and peer, or of both clients of a hairpin.
#[derive(Clone, Copy)]
struct Mix {
    first_v6: bool,
    second_v6: bool,
}

const MIXES: [Mix; 4] = [
    Mix { first_v6: false, second_v6: false },
    Mix { first_v6: true, second_v6: true },
    Mix { first_v6: false, second_v6: true },
    Mix { first_v6: true, second_v6: false },
];

fn family(v6: bool) -> Ends {
    if v6 { Ends::v6() } else { Ends::v4() }
}

/// The addresses of binding `index`: each has its own client port and peer port.
fn ends(index: u16, mix: Mix) -> Ends {
    let mut ends = Ends::mixed(&family(mix.first_v6), &family(mix.second_v6));
    let mixed = if mix.first_v6 == mix.second_v6 { 0 } else { 100 };
    ends.client.set_port(40_000 + mixed + index);
    ends.peer.set_port(7_000 + mixed + index);
    ends.relayed.set_port(50_000 + mixed + index);
    ends
}

/// The two clients of hairpin `index`.
fn pair(index: u16, mix: Mix) -> [Ends; 2] {
    let mut pair = [family(mix.first_v6), family(mix.second_v6)];
    let mixed = if mix.first_v6 == mix.second_v6 { 0 } else { 100 };
    pair[0].client.set_port(42_000 + mixed + index);
    pair[1].client.set_port(43_000 + mixed + index);
    pair
}

/// Tables of many bindings and hairpins: half of them valid, the others with one thing wrong. A
/// limit is reached always or never: the two clocks differ.
fn world(random: &mut Random) -> HostTables {
    let mut tables = tables();
    for index in 0..BINDINGS {
        for mix in MIXES {
            let hop = if index < CLEAN {
                let hops = [hop::SAME, hop::OTHER, hop::ONE_TAG, hop::TWO_TAGS];
                hops[usize::from(index % 4)]
            } else {
                random.pick(&hop::ALL)
            };
            let flaw = if index < CLEAN { usize::MAX } else { random.below(9) };
            let action = random.pick(&[0u8, 9, 0xFF]);
            let other = random.pick(&[1u8, 2, 3]);
            let slot = u32::from(index) * 3;
            let change = |route: &mut Route| {
                (route.terms.slot, route.terms.peer_slot) = (slot, slot + 1);
                // Of the valid ones, every third has limits.
                route.terms.flags |= if index % 3 == 0 || flaw == 6 { FLAG_POLICED } else { 0 };
                match flaw {
                    0 => route.terms.deadline_ns = PAST,
                    1 => route.terms.deadline_ns = 0,
                    2 => route.terms.epoch = EPOCH - 1,
                    3 => route.terms.epoch = EPOCH + 1,
                    4 => route.terms.action = action,
                    5 => route.terms.action = other,
                    _ => {}
                }
            };
            install(&mut tables, &binding(&ends(index, mix), hop), change);
            let [from, to] = pair(index, mix);
            put(&mut tables, hairpin(&from, &to, hop), change);
            limit(random, &mut tables, slot, flaw == 6);
        }
    }
    crowd(random, &mut tables.places);
    tables
}

/// Gives a third of the places to others: to keys that no packet here has, but for a bit the same.
fn crowd(random: &mut Random, places: &mut HostPlaces) {
    let mut v4: Vec<_> = places.v4.iter_mut().collect();
    v4.sort_unstable_by_key(|(place, _)| **place);
    for (index, straight) in v4 {
        if random.one_in(3) {
            straight.key[usize::from(index % 2 == 0)] ^= 1 << random.below(64);
        }
    }
    let mut v6: Vec<_> = places.v6.iter_mut().collect();
    v6.sort_unstable_by_key(|(place, _)| **place);
    for (_, straight) in v6 {
        if random.one_in(3) {
            straight.key[random.below(5)] ^= 1 << random.below(64);
        }
    }
}

/// Limits of a binding's slot and of a hairpin's second one.
fn limit(random: &mut Random, tables: &mut HostTables, slot: u32, reached: bool) {
    let full = if reached { FUTURE } else { 0 };
    let packets = random.one_in(2);
    let limits = Policer {
        packet_cost: 1,
        byte_cost: 1 << 16,
        burst_ns: if reached { 1 } else { u64::MAX / 4 },
        ..Policer::default()
    };
    for (slot, direction) in [
        (slot, Direction::ClientToPeer),
        (slot, Direction::PeerToClient),
        (slot + 1, Direction::PeerToClient),
    ] {
        let policer = HostPolicer { limits, ..HostPolicer::default() };
        policer.packets_full_ns.set(if packets { full } else { 0 });
        policer.bytes_full_ns.set(if packets { 0 } else { full });
        tables.policers.insert((slot, direction), policer);
    }
}

/// A datagram that a binding or hairpin relays, if its route is valid.
fn datagram(random: &mut Random) -> Datagram {
    let end = if random.one_in(3) { BINDINGS } else { CLEAN };
    let index = u16::try_from(random.below(end.into())).unwrap();
    let mix = random.pick(&MIXES);
    let length = match random.below(8) {
        0 => random.below(4),
        1 => 40 + random.below(40),
        2 => 1400 + random.below(100),
        _ => random.below(300),
    };
    let data = random.bytes(length);
    let mut datagram = match random.below(5) {
        0 | 1 => ends(index, mix).ask(CHANNEL, &data),
        2 | 3 => ends(index, mix).answer(&data),
        _ => pair(index, mix)[0].ask(CHANNEL, &data),
    };
    if random.one_in(6) {
        let count = 1 + random.below(3);
        datagram.payload.extend(random.bytes(count));
    }
    datagram.class = random.byte();
    datagram.id = 7;
    datagram.flow = u32::try_from(random.below(1 << 20)).unwrap();
    datagram.hop_limit = random.pick(&[2, 64, 64, 255, 128]);
    datagram.fragment = random.pick(&[0, 0x4000, 0x8000]);
    datagram.checksum = !random.one_in(16);
    match random.below(8) {
        0 => datagram.tags = ONE_TAG.to_vec(),
        1 => datagram.tags = TWO_TAGS.to_vec(),
        _ => {}
    }
    let bare = datagram.bytes().len();
    if bare < 60 && !random.one_in(3) {
        datagram.tail = 60 - bare;
    }
    datagram
}

/// Tags of no VLAN here, or nearly those of one.
const VLANS: [&[(u16, u16)]; 6] = [
    &[(0x8100, 0xEFFE)],
    &[(0x8100, 0xE000)],
    &[(0x88A8, 0x0123)],
    &[(0x88A8, 0x0123), (0x8100, 0xF007)],
    &[(0x88A8, 0x0123), (0x88A8, 7)],
    &[(0x88A8, 0x0123), (0x8100, 7), (0x8100, 7)],
];

/// A frame: valid, nearly valid, or broken.
fn frame(random: &mut Random) -> Vec<u8> {
    let mut datagram = datagram(random);
    if random.one_in(2) {
        return datagram.bytes();
    }
    match random.below(9) {
        0 => datagram.hop_limit = random.pick(&[0, 1]),
        1 => datagram.fragment = random.pick(&[0x2000, 0x6000, 1, 0x1FFF, 0x2001]),
        2 => datagram.tail = random.below(80),
        3 => datagram.payload = random.bytes(random.0.to_le_bytes()[0].into()),
        4 => datagram.payload.extend([0; 6].iter().take(1 + random.below(6))),
        5 => datagram.dst.set_port(random.pick(&[0, 53, 3477, 3478, 5349, 49151, 49152, 65535])),
        6 => {
            if let Some(byte) = datagram.payload.get_mut(random.below(4)) {
                *byte = random.byte();
            }
        }
        7 => datagram.tags = random.pick(&VLANS).to_vec(),
        _ => datagram.src.set_port(random.pick(&[0, 1, 40_001, 7_001])),
    }
    let mut frame = datagram.bytes();
    for _ in 0..random.pick(&[0, 0, 1, 1, 2, 8]) {
        let at = random.below(frame.len().min(70));
        frame[at] = random.pick(&[0, 1, 0x45, 0x46, 0x60, 0x86, 0xDD, 0xFF, 6, 17, 44, 58]);
    }
    if random.one_in(10) {
        frame[0] = random.pick(&[1, 0xFF]);
    }
    match random.below(10) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => frame.truncate(14 + random.below(60)),
        2 => frame.extend(random.bytes(random.0.to_le_bytes()[0].into())),
        3 => drop(frame.splice(12..12, [0x81, 0, 0, 5])),
        _ => {}
    }
    frame
}

/// Another configuration in every batch; two of three are the usual one.
fn reconfigure(random: &mut Random, tables: &mut HostTables) {
    tables.config = common::tables().config;
    match random.below(12) {
        0 => tables.config.channel_last = 0x7FFF,
        1 => tables.config.listen_ports_count = random.pick(&[0, 1, 16]),
        2 => (tables.config.relayed_first, tables.config.relayed_last) = (2, 1),
        3 => (tables.config.relayed_first, tables.config.relayed_last) = (0, u16::MAX),
        4 => tables.config.epoch += 1,
        5 if random.one_in(2) => tables.config.abi_version = random.pick(&[0, 2]),
        _ => {}
    }
}

fn agree(mut kernel: Kernel) -> Result<(), Failed> {
    let seed = setting("TURNPIKE_DIFFERENTIAL_SEED", SEED);
    let usual = if env::var_os("CI").is_some() { FRAMES_IN_CI } else { FRAMES };
    let frames = setting("TURNPIKE_DIFFERENTIAL_FRAMES", usual);
    let mut random = Random(seed);
    let mut tables = world(&mut random);
    kernel.fill(&tables)?;
    for number in 0..frames {
        if number % BATCH == 0 {
            reconfigure(&mut random, &mut tables);
            kernel.configure(&tables.config)?;
        }
        let frame = frame(&mut random);
        same(&mut kernel, &tables, &frame)
            .map_err(|e| format!("seed {seed}, frame {number}: {}", e.message().unwrap_or("?")))?;
        if number % BATCH == BATCH - 1 || number + 1 == frames {
            for (reason, found) in Reason::ALL.iter().zip(kernel.reasons()?) {
                if tables.reasons.borrow().get(reason).copied().unwrap_or_default() != found {
                    let why = format!("seed {seed}: {reason:?} differs by frame {number}");
                    return Err(why.into());
                }
            }
        }
    }
    for ((slot, direction), count) in tables.counts.borrow().iter() {
        if kernel.slot(*slot, *direction)? != *count {
            return Err(format!("slot {slot}, {direction:?}: counters differ").into());
        }
    }
    println!("seed {seed}: {frames} frames; {}", kernel.facts()?);
    for reason in Reason::ALL {
        let count = tables.reasons.borrow().get(&reason).copied().unwrap_or_default();
        println!("  {:>20} {}", reason.name(), count.packets);
        if frames >= FRAMES_IN_CI && UNMADE.contains(&reason) != (count.packets < 50) {
            return Err(format!("the generator makes {} of {reason:?}", count.packets).into());
        }
    }
    Ok(())
}

/// Off, the verifier removes all of it: the program is smaller, and no bucket moves.
fn times(off: Kernel) -> Result<(), Failed> {
    let on = Kernel::load_with(&object()?, 1)?;
    if off.facts()?.translated_bytes >= on.facts()?.translated_bytes {
        return Err("switched off, it is as large as switched on".into());
    }
    for (mut kernel, expected) in [(off, 0), (on, 7)] {
        let tables = tables();
        kernel.fill(&tables)?;
        for _ in 0..7 {
            same(&mut kernel, &tables, &Ends::v4().ask(CHANNEL, b"x").bytes())?;
        }
        let timed = kernel.timed()?;
        if timed != expected {
            return Err(format!("{timed} packets timed, not {expected}").into());
        }
    }
    Ok(())
}

/// What random frames meet too rarely, each one's reason by name.
fn limits(mut kernel: Kernel) -> Result<(), Failed> {
    for (ends, headers) in [(Ends::v4(), 28), (Ends::v6(), 48)] {
        let mut tables = tables();
        install(&mut tables, &binding(&ends, hop::NARROW), |_| {});
        kernel.fill(&tables)?;
        let data = vec![5; 101 - headers];
        for (frame, reason) in [
            (ends.ask(CHANNEL, &data[1..]), Reason::ClientToPeer),
            (ends.ask(CHANNEL, &data), Reason::TooBig),
            (ends.answer(&data[5..]), Reason::PeerToClient),
            (ends.answer(&data[4..]), Reason::TooBig),
            (Datagram { hop_limit: 1, ..ends.answer(b"x") }, Reason::HopLimit),
            (Datagram { hop_limit: 2, ..ends.answer(b"x") }, Reason::PeerToClient),
        ] {
            let found = same(&mut kernel, &tables, &frame.bytes())?;
            if found != reason {
                return Err(format!("{found:?} in place of {reason:?}: {frame:?}").into());
            }
        }
        // Every payload word: each value of the checksum field.
        tables.next_hops[0].mtu = 1500;
        install(&mut tables, &binding(&ends, hop::SAME), |_| {});
        kernel.fill(&tables)?;
        for word in 0..=u16::MAX {
            same(&mut kernel, &tables, &ends.ask(CHANNEL, &word.to_be_bytes()).bytes())?;
            same(&mut kernel, &tables, &ends.answer(&word.to_be_bytes()).bytes())?;
        }
    }
    Ok(())
}
