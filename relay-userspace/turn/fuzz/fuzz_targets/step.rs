//! The XDP step: any frame against tables of every kind. It never panics, what it passes is as it
//! was, and what it sends of an undamaged frame has checksums that hold.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a panic is a finding")]
#![allow(dead_code, unreachable_pub, reason = "other tests' files, of which a part is used")]

#[path = "../../../../relay-ebpf/tests/common/mod.rs"]
mod host;
#[path = "../../tests/sim/random.rs"]
mod random;
#[path = "../../tests/sim/model/wire.rs"]
mod wire;

use host::{
    CHANNEL, Datagram, EPOCH, Ends, FUTURE, HostFrame, HostTables, NOW, ONE_TAG, PAST, SLOT,
    TWO_TAGS, binding, channel_data, checksums_hold, hairpin, hop, install, put, tables,
};
use libfuzzer_sys::fuzz_target;
use random::Random;
use relay_common::abi::{Config, Route};
use relay_common::addr::{RelayedAddr, ServerAddr};
use relay_common::route::{self, PermissionEntry, Stamp};
use relay_ebpf::{Verdict, step};

/// Actions that a route may be given instead of its own, known ones and others.
const ACTIONS: u8 = 8;

fuzz_target!(|input: &[u8]| {
    let mut random = Random::Bytes(input.to_vec(), 0);
    let ends = ends(&mut random);
    let no = [(); 3].map(|()| random.one_in(64));
    let action = random.below(64).to_le_bytes()[0];
    let tables = filled(&mut random, &ends, action);
    let is_raw = random.one_in(2);
    let (frame, is_whole) = if is_raw { (random.rest(), false) } else { built(&mut random, &ends) };
    let mut host = HostFrame::new(&frame);
    [host.no_room, host.no_tailroom, host.no_write] = no;
    match step(&mut host, &tables) {
        Verdict::Pass(_) => assert_eq!(host.as_bytes(), frame),
        Verdict::Transmit(_) | Verdict::Redirect(_) => {
            // A route of another action has a checksum delta of its own.
            let is_whole = is_whole && action >= ACTIONS;
            assert!(!is_whole || checksums_hold(host.as_bytes()), "{:02x?}", host.as_bytes());
        }
        Verdict::Drop(_) => {}
        Verdict::Abort(_) => assert!(no.contains(&true), "aborted without a reason"),
    }
});

fn ends(random: &mut Random) -> Ends {
    let all = [Ends::v4(), Ends::v6()];
    Ends::mixed(&random.pick(&all), &random.pick(&all))
}

/// Tables with routes both ways, a hairpin, a permission, answers; now and then with a field that
/// nobody would write.
fn filled(random: &mut Random, ends: &Ends, action: u8) -> HostTables {
    let mut tables = tables();
    let next_hop = random.pick(&hop::ALL);
    let deadline_ns = random.pick(&[PAST, NOW, NOW + 1, FUTURE, FUTURE]);
    let change = |route: &mut Route| {
        route.terms.deadline_ns = deadline_ns;
        if action < ACTIONS {
            route.terms.action = action;
        }
    };
    install(&mut tables, &binding(ends, next_hop), change);
    if random.one_in(3) {
        let other = [Ends::v4(), Ends::v6()];
        put(&mut tables, hairpin(ends, &random.pick(&other), next_hop), change);
    }
    let stamp = Stamp { slot: SLOT, epoch: EPOCH, policed: false };
    let five_tuple = binding(ends, next_hop).five_tuple;
    let relayed = RelayedAddr::new(ends.relayed);
    if random.one_in(2) {
        put(&mut tables, route::send(&five_tuple, relayed, stamp, deadline_ns).unwrap(), |_| {});
        let hops = [next_hop, random.pick(&hop::ALL)];
        let peer = ends.peer.ip();
        match route::permission(&five_tuple, relayed, peer, stamp, deadline_ns, hops).unwrap() {
            PermissionEntry::V4(key, value) => drop(tables.permissions_v4.insert(key, value)),
            PermissionEntry::V6(key, value) => drop(tables.permissions_v6.insert(key, value)),
        }
    }
    if random.one_in(2) {
        put(&mut tables, route::answer(ServerAddr::new(ends.server), EPOCH), |_| {});
        let cost = random.pick(&[0, 1, FUTURE]);
        let burst = random.pick(&[0, 1, FUTURE]);
        tables.config = Config { answer_cost_ns: cost, answer_burst_ns: burst, ..tables.config };
    }
    tables
}

/// A frame that one of them is for, and whether nothing was damaged in it.
fn built(random: &mut Random, ends: &Ends) -> (Vec<u8>, bool) {
    let count = random.pick(&[0, 1, 2, 3, 4, 20, 100, 1400, 1500]);
    let data = random.bytes(count);
    let mut datagram = match random.index(4) {
        0 => ends.answer(&data),
        1 => ends.ask(CHANNEL, &data),
        2 => {
            let mut writer = wire::Writer::new(wire::INDICATION, wire::SEND, [7; 12]);
            writer.address(wire::XOR_PEER_ADDRESS, ends.peer);
            writer.attribute(wire::DATA, &data);
            Datagram::new(ends.client, ends.server, writer.0)
        }
        _ => {
            let mut writer = wire::Writer::new(wire::REQUEST, wire::BINDING, [7; 12]);
            if random.one_in(2) {
                writer.seal();
            }
            Datagram::new(ends.client, ends.server, writer.0)
        }
    };
    if random.one_in(8) {
        datagram.payload = channel_data(0x4FFF, &datagram.payload);
    }
    datagram.hop_limit = random.pick(&[64, 64, 64, 255, 2, 1, 0]);
    datagram.class = random.bytes(1)[0];
    datagram.checksum = !random.one_in(8);
    datagram.tags = random.pick(&[&[][..], &[], &[], ONE_TAG, TWO_TAGS]).to_vec();
    if random.one_in(8) {
        datagram.fragment = random.pick(&[0, 0x2000, 0x8000, 1]);
    }
    if random.one_in(8) {
        datagram.tail = random.index(40);
    }
    let mut frame = datagram.bytes();
    let damages = random.index(4);
    for _ in 0..damages {
        let at = random.index(frame.len().min(120));
        frame[at] ^= 1 << random.below(8);
    }
    if random.one_in(8) {
        frame.truncate(random.index(frame.len()));
    }
    let is_whole = damages == 0 && frame.len() == datagram.bytes().len();
    (frame, is_whole && datagram.checksum)
}
