//! Nothing a client, a peer or a driver does may break what `World` checks at every output:
//! random statements, and requests with random damage, from fixed seeds.

use relay_common::addr::{Family, Transport};
use relay_common::wire::stun::Message;
use relay_turn::DropReason;

use super::script::{UNSIGNED, run, say};
use super::world::{NS_PER_SEC, Opens, World, config};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.next() % end).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64)]
    }
}

const CLIENTS: &[&str] =
    &["alice", "anna", "amy", "alice6", "192.0.2.7:1", "192.0.2.8:1", "192.0.2.9:1"];
const PEERS: &[&str] =
    &["bob", "bob2", "carol", "dave", "bob6", "carol6", "10.0.0.1:9", "11.0.0.1:50003", "[::1]:1"];
const NUMBERS: &[&str] = &["4000", "4001", "4002", "4fff", "5000", "3fff"];

fn statement(random: &mut Random, world: &World) -> String {
    let client = random.pick(CLIENTS);
    let peer = random.pick(PEERS);
    let number = random.pick(NUMBERS);
    let lifetime = random.pick(&["", "lifetime=0", "lifetime=700", "lifetime=9999"]);
    let bytes = random.below(1300);
    match random.below(28) {
        0..=3 => {
            let even = random.pick(&["", "", "even=0", "even=1", "token=forged", "again"]);
            let family =
                random.pick(&["", "", "family=4", "family=6", "additional=6", "additional=6"]);
            format!("{client} allocates {lifetime} {even} {family}")
        }
        4 => format!("{client} refreshes {lifetime}"),
        5 => {
            let family = random.pick(&["", "family=4", "family=6", "family=6 lifetime=0"]);
            format!("{client} refreshes {family}")
        }
        6 => format!("{client} refreshes user=other password=word lifetime=0"),
        7..=9 => format!("{client} permits {peer} {}", random.pick(PEERS)),
        10..=13 => format!("{client} binds {number} to {peer}"),
        14 => format!("{client} sends {bytes} to {peer}"),
        15 | 16 => format!("{client} sends {bytes} on {number}"),
        17 | 18 if world.clients.get(client).is_some_and(|c| c.allocation.is_some()) => {
            format!("peer {peer} sends {bytes} to {client}")
        }
        17..=19 => format!("{}s pass", random.below(30) * random.below(16)),
        20 => format!("{}ns pass", random.next() % (NS_PER_SEC * 2)),
        21 => {
            random.pick(&["opens fail 3", "opens fail 20", "opens wait", "opened", "failed"]).into()
        }
        22 => format!("{client} asks"),
        23 => format!("{client} allocates auth=none"),
        24 | 25 => format!("{client} sends {bytes} on 400{}", random.below(3)),
        _ => format!("{client} sends {bytes} to {}", random.pick(&["bob", "carol", "dave"])),
    }
}

#[test]
fn whatever_is_said_the_invariants_hold_and_closing_leaves_nothing() {
    let (mut relayed, mut refused) = (0, 0);
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut world = World::new(config());
        for _ in 0..1500 {
            let statement = statement(&mut random, &world);
            let outcome = say(&mut world, &statement);
            relayed += usize::from(outcome.starts_with("to "));
            refused += usize::from(outcome.ends_with("508"));
            if random.below(40) == 0 {
                world.opens = Opens::Succeed;
            }
        }
        world.turn.close();
        while let Some(output) = world.turn.poll() {
            world.execute("", output, &[], &UNSIGNED);
        }
        assert!(world.relays.is_empty(), "seed {seed}");
        let snapshot = world.turn.snapshot();
        let allocations = Family::ALL.map(|family| snapshot.allocations(Transport::Udp, family));
        assert_eq!(allocations, [0, 0], "seed {seed}");
        assert_eq!((snapshot.permissions, snapshot.channels), (0, 0), "seed {seed}");
        world.pass(30 * NS_PER_SEC);
        assert_eq!(world.turn.deadline(), None, "seed {seed}");
        assert_eq!(world.turn.snapshot().reservations, 0, "seed {seed}");
    }
    assert!(relayed > 400 && refused > 100, "{relayed} {refused}: there was something to do");
}

/// Real requests with a few bytes changed, cut or repeated: never a panic, never more than one
/// reply, and never a change for who cannot sign.
#[test]
fn damaged_datagrams_do_no_harm() {
    let mut random = Random(99);
    let mut world = World::new(config());
    let before = "alice allocates; alice binds 4000 to bob; alice permits carol";
    run(&mut world, before);
    world.record = Some(Vec::new());
    run(
        &mut world,
        "alice refreshes; alice permits bob carol; alice binds 4000 to bob fingerprint; \
         alice sends 9 to bob; alice sends 9 on 4000; alice asks fingerprint; \
         anna allocates even=1; anna refreshes lifetime=0 => close, ok 0",
    );
    let originals = world.record.take().unwrap();
    assert!(originals.len() >= 8);
    for _ in 0..60_000 {
        let mut datagram = originals[random.below(originals.len() as u64)].clone();
        for _ in 0..=random.below(3) {
            damage(&mut random, &mut datagram);
        }
        // The header's length is put right half of the time, to get further inside.
        if random.below(2) == 0 && datagram.len() >= 20 && datagram[0] < 4 {
            let length = u16::try_from(datagram.len() - 20).unwrap();
            datagram[2..4].copy_from_slice(&length.to_be_bytes());
        }
        if originals.contains(&datagram) {
            continue;
        }
        let five_tuple = world.client("alice").five_tuple;
        let input = relay_turn::Input::FromClient { five_tuple, datagram: &datagram };
        world.now.monotonic_ns += 1_000_000;
        world.turn.handle(world.now, input);
        let mut replies = 0;
        while let Some(output) = world.turn.poll() {
            match output {
                relay_turn::Output::Reply { bytes, .. } => {
                    replies += 1;
                    assert!(Message::parse(world.turn.bytes(bytes)).is_ok());
                }
                relay_turn::Output::ToPeer { payload, .. } => {
                    assert!(payload.end <= datagram.len() && payload.start <= payload.end);
                }
                // What is behind MESSAGE-INTEGRITY can be damaged without harm: the request
                // still stands, and may refresh what it refreshed before.
                relay_turn::Output::Install(_) | relay_turn::Output::Permit(_) => {}
                other => panic!("{other:?} for {datagram:02x?}"),
            }
        }
        assert!(replies <= 1);
    }
    let snapshot = world.turn.snapshot();
    let dropped = |reason| snapshot.dropped(reason);
    assert!(dropped(DropReason::MalformedStun) > 100 && dropped(DropReason::BadFingerprint) > 100);
}

fn damage(random: &mut Random, datagram: &mut Vec<u8>) {
    let at = random.below(datagram.len().max(1) as u64);
    match random.below(5) {
        0 | 1 => {
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => datagram.truncate(at),
        3 => datagram.extend_from_within(at..),
        _ => {
            let words = random.next().to_be_bytes();
            let end = datagram.len().min(at + 4);
            datagram[at..end].copy_from_slice(&words[..end - at]);
        }
    }
}

#[test]
fn noise_is_dropped() {
    let mut random = Random(5);
    let mut world = World::new(config());
    for _ in 0..20_000 {
        let datagram: Vec<u8> =
            (0..random.below(80)).map(|_| random.next().to_be_bytes()[0]).collect();
        let outcome = world.client_sends("alice", &datagram, &UNSIGNED);
        assert!(!outcome.contains("ok"), "{outcome}");
    }
}

#[test]
fn the_same_seed_replays_the_same_run() {
    let replay = || {
        let mut random = Random(1);
        let mut world = World::new(config());
        (0..500)
            .map(|_| {
                let statement = statement(&mut random, &world);
                say(&mut world, &statement)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(replay(), replay());
}
