//! As `differential.rs`: generated indications and Binding requests through the step on the host
//! and through the loaded program. Transaction IDs of Data indications are chance: the host draws
//! what the kernel drew.
#![allow(clippy::unwrap_used, reason = "a test without libtest's attribute; each number here fits")]

mod common;
#[path = "common/indications.rs"]
mod indications;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/pair.rs"]
mod pair;
#[path = "common/random.rs"]
mod random;

use std::collections::HashMap;
use std::process::ExitCode;

use common::*;
use indications::{
    DATA_INDICATION, Sealed, install_answer, install_permission, install_send, request, send,
    unusual,
};
use kernel::Kernel;
use libtest_mimic::{Arguments, Failed, Trial};
use pair::{object, same, setting, when_possible};
use random::Random;
use relay_common::abi::{Permission, Reason, Route};

const SEED: u64 = 8489;
const FRAMES: u64 = 200_000;
/// Fewer where every change waits for them.
const FRAMES_IN_CI: u64 = 60_000;
/// Allocations of each mix of families; the second half has one thing wrong.
const ALLOCATIONS: u16 = 32;
const CLEAN: u16 = ALLOCATIONS / 2;
/// What has to be met.
const MADE: &[Reason] = &[
    Reason::SendIndication,
    Reason::DataIndication,
    Reason::BindingAnswered,
    Reason::Stun,
    Reason::NoPermission,
    Reason::NoRoute,
    Reason::Expired,
    Reason::StaleEpoch,
    Reason::HopLimit,
    Reason::ChecksumMissing,
    Reason::NextHopUnresolved,
    Reason::TooBig,
    Reason::Length,
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests =
        vec![Trial::ignorable_test("host_and_kernel_agree_on_stun", || when_possible(|_| agree()))];
    libtest_mimic::run(&args, tests).exit_code()
}

/// The addresses of allocation `index`: client and relayed transport address of either family.
fn ends(index: u16, near_v6: bool, far_v6: bool) -> Ends {
    let of = |v6| if v6 { Ends::v6() } else { Ends::v4() };
    let (near, far) = (of(near_v6), of(far_v6));
    let mut ends = Ends { relayed: far.relayed, peer: far.peer, ..near };
    ends.client.set_port(40_000 + index);
    ends.relayed.set_port(50_000 + index);
    ends
}

fn world(random: &mut Random, near_v6: bool, far_v6: bool) -> HostTables {
    let mut tables = tables();
    tables.config.answer_cost_ns = 1;
    tables.config.answer_burst_ns = u64::MAX / 2;
    install_answer(&mut tables, ends(0, near_v6, far_v6).server, |_| {});
    for index in 0..ALLOCATIONS {
        let clean = index < CLEAN;
        let flaw = if clean { usize::MAX } else { random.below(10) };
        let hop = if clean {
            [hop::SAME, hop::OTHER][usize::from(index % 2)]
        } else {
            random.pick(&hop::ALL)
        };
        let ends = ends(index, near_v6, far_v6);
        install_send(&mut tables, &ends, |route: &mut Route| match flaw {
            0 => route.terms.deadline_ns = PAST,
            1 => route.terms.epoch += 1,
            2 => route.terms.action = 1,
            3 => route.terms.flags ^= 1,
            _ => {}
        });
        install_permission(
            &mut tables,
            &ends,
            [hop; 2],
            |permission: &mut Permission| match flaw {
                4 => permission.deadline_ns = PAST,
                5 => permission.epoch += 1,
                _ => {}
            },
        );
    }
    tables
}

fn frame(random: &mut Random, near_v6: bool, far_v6: bool) -> Vec<u8> {
    let end = if random.one_in(3) { ALLOCATIONS } else { CLEAN };
    let index = u16::try_from(random.below(end.into())).unwrap();
    let ends = ends(index, near_v6, far_v6);
    let length = if random.one_in(8) { 1400 + random.below(60) } else { random.below(200) };
    let data = random.bytes(length);
    let from_client = |payload| Datagram::new(ends.client, ends.server, payload);
    let mut datagram = match random.below(8) {
        0 | 1 => ends.answer(&data),
        2 => from_client(request(random.pick(&Sealed::BOTH))),
        3 => {
            let odd = unusual(ends.peer);
            from_client(odd[random.below(odd.len())].1.clone())
        }
        _ => from_client(send(ends.peer, &data)),
    };
    datagram.class = random.byte();
    datagram.id = 7;
    datagram.hop_limit = random.pick(&[1, 2, 64, 64, 64, 255]);
    datagram.fragment = random.pick(&[0, 0x4000, 0x4000]);
    datagram.checksum = !random.one_in(16);
    match random.below(10) {
        0 => datagram.src.set_port(random.pick(&[0, 1, 7_001])),
        1 => {
            let ip = datagram.src.ip();
            datagram.src.set_ip(if ip == ends.peer.ip() { ends.client.ip() } else { ip });
        }
        2 => datagram.payload.truncate(random.below(datagram.payload.len() + 1)),
        3 => datagram.payload.extend(vec![0; random.below(6)]),
        _ => {}
    }
    if !datagram.payload.is_empty() && random.one_in(3) {
        for _ in 0..=random.below(2) {
            let at = random.below(datagram.payload.len().min(56));
            datagram.payload[at] ^= 1 << random.below(8);
        }
    }
    // What cannot be one frame of either family is none.
    if datagram.src.is_ipv4() != datagram.dst.is_ipv4() {
        datagram.src = ends.client;
        datagram.dst = ends.server;
    }
    let bare = datagram.bytes().len();
    if bare < 60 && !random.one_in(3) {
        datagram.tail = 60 - bare;
    }
    let mut frame = datagram.bytes();
    if random.one_in(16) {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
    frame
}

/// The transaction ID of a Data indication that left.
fn drawn(frame: &[u8]) -> Option<[u8; 12]> {
    let mut ip = 14;
    while matches!(frame.get(ip - 2..ip)?, [0x81, 0x00] | [0x88, 0xA8]) {
        ip += 4;
    }
    let udp = if frame.get(ip - 2..ip)? == [0x08, 0x00] { ip + 20 } else { ip + 40 };
    let message = frame.get(udp + 8..)?;
    (message.get(..2)? == DATA_INDICATION.to_be_bytes())
        .then(|| message.get(8..20))??
        .try_into()
        .ok()
}

fn agree() -> Result<(), Failed> {
    let in_ci = std::env::var_os("CI").is_some();
    let seed = setting("TURNPIKE_DIFFERENTIAL_SEED", SEED);
    let default = if in_ci { FRAMES_IN_CI } else { FRAMES };
    let frames = setting("TURNPIKE_DIFFERENTIAL_FRAMES", default);
    let mut random = Random(seed);
    let mut seen = HashMap::<Reason, u64>::new();
    for (near_v6, far_v6) in [(false, false), (true, true), (false, true), (true, false)] {
        let mut kernel = Kernel::load(&object()?)?;
        let tables = world(&mut random, near_v6, far_v6);
        kernel.fill(&tables)?;
        for number in 0..frames / 4 {
            let frame = frame(&mut random, near_v6, far_v6);
            let reason = one(&mut kernel, &tables, &frame).map_err(|e| {
                format!("seed {seed}, frame {number}: {}", e.message().unwrap_or("?"))
            })?;
            *seen.entry(reason).or_default() += 1;
        }
    }
    println!("seed {seed}: {frames} frames, {seen:?}");
    for reason in MADE {
        let count = seen.get(reason).copied().unwrap_or(0);
        if frames >= FRAMES_IN_CI && count < 50 {
            return Err(format!("the generator makes {count} of {reason:?}").into());
        }
    }
    Ok(())
}

/// A frame through the kernel once more than through the host: what it draws first, the host draws.
fn one(kernel: &mut Kernel, tables: &HostTables, frame: &[u8]) -> Result<Reason, Failed> {
    let mut host = HostFrame::new(frame);
    if relay_ebpf::step(&mut host, tables).reason() != Reason::DataIndication {
        return same(kernel, tables, frame);
    }
    let (action, out) = kernel.run(frame)?;
    let out = out.to_vec();
    let Some(chance) = drawn(&out) else {
        return Err(format!("{action}, no Data indication: {frame:02x?}\n{out:02x?}").into());
    };
    tables.random.set(chance);
    let mut host = HostFrame::new(frame);
    let verdict = relay_ebpf::step(&mut host, tables);
    if action != common::action(verdict) || out != host.as_bytes() {
        let host = host.as_bytes();
        let what =
            format!("{verdict:?}, {action}: {frame:02x?}\nhost {host:02x?}\nkernel {out:02x?}");
        return Err(what.into());
    }
    Ok(verdict.reason())
}
