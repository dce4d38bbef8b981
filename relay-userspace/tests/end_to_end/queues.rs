//! Links with several queues, packets on all of them, and the program on several CPUs at once:
//! nothing is lost, accounts are exact, and one bucket holds all CPUs to its rate.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use relay_common::abi::{Direction, Reason};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Test;
use crate::client::{Client, Heard, with_echo};
use crate::data_plane::{PEER, V4, warmed_up};
use crate::needs::Need::{Namespaces, Xdp};
use crate::relay::{Plan, Relay, Rig};
use crate::topology::{Namespace, Topology};
use crate::wait::{self, Watch};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("several_queues_lose_nothing_and_count_exactly", &[Namespaces, Xdp], exact),
    ("several_queues_and_cpus_share_one_bucket", &[Namespaces, Xdp], one_bucket),
];

const BUSY_MAX: Duration = Duration::from_secs(20);
/// Which queue a flow takes is chance: of so many, all take the same once in 2^31 times.
const FLOWS: usize = 32;
/// Messages on each flow, there and back.
const EXCHANGES: u32 = 100;
const WORKERS: usize = 2;
/// How often the senders may be too slow, on a busy machine.
const TRIES: usize = 5;
/// Packets per second.
const RATE: u64 = 2_000;

/// Works on so many threads at once, each on a CPU of its own as far as there are enough.
fn on_cpus<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    thread::scope(|scope| {
        let start = |worker: usize| {
            let mut cpu = CpuSet::new();
            cpu.set(cpus[worker % cpus.len()]);
            let work = &work;
            scope.spawn(move || {
                sched_setaffinity(None, &cpu).unwrap();
                work(worker)
            })
        };
        let workers: Vec<_> = (0..WORKERS).map(start).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

/// Frames that the program saw on each queue of an interface.
fn by_queue(namespace: &Namespace, interface: &str) -> Vec<u64> {
    let counters = namespace.output("ethtool", &format!("-S {interface}"));
    let counts = counters.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        (name.starts_with("rx_queue_") && name.ends_with("_xdp_packets"))
            .then(|| value.parse().unwrap())
    });
    counts.collect()
}

/// Many allocations, ping and pong on each.
fn exact(rig: &Rig) {
    let topology = Topology::two_armed_of(rig.object(), 2);
    let plan = Plan { more: "log.level = \"debug\"", ..Plan::two_armed("native") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let peer: SocketAddr = PEER.parse().unwrap();
    let clients: Vec<Client> = with_echo(&topology.peer, peer, || {
        drop(warmed_up(&relay, &topology, |client| client.bind(peer)));
        let before = relay.metrics();
        let mut clients: Vec<Client> =
            (0..FLOWS).map(|_| Client::allocate(&topology.client, V4.0, V4.1)).collect();
        clients.iter_mut().for_each(|client| client.bind(peer));
        on_cpus(|worker| {
            for number in 0..EXCHANGES {
                for client in clients.iter().skip(worker).step_by(WORKERS) {
                    client.send(&number.to_be_bytes());
                    let heard = client.hear(BUSY_MAX);
                    assert_eq!(heard, Some(Heard::Data(number.to_be_bytes().to_vec())));
                }
            }
        });
        let after = relay.metrics();
        let total = FLOWS as u64 * u64::from(EXCHANGES);
        for way in Direction::ALL {
            let (now, then) = (after.relayed(way), before.relayed(way));
            assert_eq!((now.0 - then.0, now.1 - then.1), (total, 0), "{way:?}: all by XDP");
        }
        clients
    });
    for interface in ["clients", "peers"] {
        let seen = by_queue(&topology.relay, interface);
        assert!(seen.len() == 2 && seen.iter().all(|seen| *seen > 0), "{interface}: {seen:?}");
    }
    clients.into_iter().for_each(|mut client| client.end());
    let way = |way| {
        let bytes = 4 * EXCHANGES;
        format!("{way}_packets={EXCHANGES} {way}_bytes={bytes} {way}_packets_xdp={EXCHANGES}")
    };
    let account = format!("{} {}", way("to_peer"), way("to_client"));
    wait::until("every allocation's end says what it relayed", BUSY_MAX, || {
        let log = relay.log();
        (log.lines().filter(|line| line.contains(&account)).count() == FLOWS).then_some(())
    });
}

/// Both CPUs send to one allocation, each three times what it may have: within 2 % it gets that.
fn one_bucket(rig: &Rig) {
    let topology = Topology::two_armed_of(rig.object(), 2);
    let more = "limits.allocation_packets_per_sec = 2000";
    let relay = Relay::start(rig, &topology.relay, &Plan { more, ..Plan::two_armed("native") });
    let peer: SocketAddr = PEER.parse().unwrap();
    let client = with_echo(&topology.peer, peer, || {
        warmed_up(&relay, &topology, |client| {
            client.permit(peer);
            client.bind(peer);
        })
    });
    let bind = |_| topology.peer.within(|| UdpSocket::bind("10.77.2.2:0")).unwrap();
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(bind).collect();
    let is_held = (0..TRIES).any(|_| {
        // A full bucket to start from.
        thread::sleep(Duration::from_millis(200));
        held_to_its_rate(&relay, &sockets, client.relayed)
    });
    assert!(is_held, "too little is offered");
    let seen = by_queue(&topology.relay, "peers");
    assert!(seen.len() == 2 && seen.iter().all(|seen| *seen > 0), "{seen:?}");
}

/// Whether the senders offered enough, on a busy machine.
fn held_to_its_rate(relay: &Relay<'_>, sockets: &[UdpSocket], relayed: SocketAddr) -> bool {
    let way = Direction::PeerToClient;
    let judged = || {
        let metrics = relay.metrics();
        let (by_xdp, by_userspace) = metrics.relayed(way);
        (by_xdp, metrics.verdicts(Reason::Policed), by_userspace)
    };
    let before = judged();
    let (watch, burst) = (Watch::start(), Duration::from_millis(100));
    let idle = on_cpus(|_| {
        // Time in which this sender, not being scheduled, let its share go by.
        let (mut idle, mut last, mut sent) = (Duration::ZERO, Duration::ZERO, 0u64);
        while last < Duration::from_secs(3) {
            let due = u64::try_from(last.as_micros()).unwrap() * RATE * 3 / 1_000_000;
            let now_due = due.min(sent + 200);
            for (_, socket) in (sent..now_due).zip(sockets.iter().cycle()) {
                socket.send_to(&[0; 100], relayed).unwrap();
            }
            sent = sent.max(now_due);
            thread::sleep(Duration::from_millis(1));
            let now = watch.elapsed();
            idle += (now - last).saturating_sub(burst / 2);
            last = now;
        }
        idle
    });
    let took = watch.elapsed();
    // Either of them alone would do.
    let idle = idle.into_iter().min().unwrap();
    // Not all that was sent: a queue that nobody empties in time loses some.
    let mut last = judged();
    let after = wait::until("what is under way is judged", BUSY_MAX, || {
        thread::sleep(Duration::from_millis(300));
        let seen = std::mem::replace(&mut last, judged());
        (seen == last).then_some(seen)
    });
    let (admitted, policed) = (after.0 - before.0, after.1 - before.1);
    assert_eq!(after.2, before.2, "none by userspace");
    if policed < admitted {
        return false;
    }
    let share = |time: Duration| RATE as f64 * time.as_secs_f64();
    // The program's clock lags by up to a tick of the machine.
    let tick = Duration::from_millis(10);
    let (least, most) = (0.98 * share(took + burst - idle), 1.02 * share(took + burst + tick));
    let shown = format!("{admitted}, not {policed}, in {took:?}, {idle:?} of it idle");
    assert!(admitted as f64 >= least, "{shown}: less than {least}");
    assert!(admitted as f64 <= most, "{shown}: more than {most}");
    true
}
