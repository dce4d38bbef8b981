//! Watches the rig while a load runs: how busy the cores of each host were while packets crossed
//! the relay, and where the links dropped. The load is the time in which packets crossed: what a
//! tool does before and after it (allocations, waiting for late packets) does not count.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, SECOND_NS};
use crate::compare::lab::Lab;
use crate::lab::cores::{Stat, process_secs};
use crate::lab::namespace::Namespace;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Looks kept at most: ten minutes of them.
const LOOKS_MAX: usize = 12_000;
/// A moment belongs to the load when at least this share of the busiest moments' rate crossed.
const LOAD_SHARE: f64 = 0.25;

/// What the cores did while the load ran. Shares are of one core: two busy cores are 2.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Cpu {
    /// How long packets crossed, seconds.
    pub(crate) window_secs: f64,
    /// Busy cores among the relay's: its process, and what the kernel does there for it.
    pub(crate) relay_busy_cores: f64,
    /// Busy cores among those of clients and peers, where a veth also runs a relay's XDP program.
    pub(crate) load_busy_cores: f64,
    /// Cores that the server's process used, by its own accounting (user and system time).
    pub(crate) process_cores: Option<f64>,
    /// Cores' worth of time that the hypervisor gave to another guest, both hosts.
    pub(crate) stolen_cores: f64,
}

/// What was dropped on the links, by the counters of the interfaces; whole run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Drops {
    /// Before the relay: its interfaces' queues were full.
    pub(crate) before_relay: u64,
    /// Behind the relay: the queues of the clients' and peers' interfaces were full.
    pub(crate) behind_relay: u64,
}

/// What a run looked like from outside.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Watched {
    /// `None` when too few packets crossed to tell when.
    pub(crate) cpu: Option<Cpu>,
    /// Drops on the links.
    pub(crate) drops: Drops,
}

/// Counters of the relay's interfaces, summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Links {
    received: u64,
    received_dropped: u64,
    sent: u64,
    sent_dropped: u64,
}

/// One look.
#[derive(Clone, Debug)]
struct Look {
    at_ns: u64,
    stat: Stat,
    process_secs: Option<f64>,
    relay: Links,
    others: Links,
}

/// Runs `work` and watches the rig meanwhile. `pid` is the server's process.
///
/// # Errors
/// The interfaces' counters cannot be read.
pub(crate) fn watch<T>(lab: &Lab, pid: u32, work: impl FnOnce() -> T) -> io::Result<(T, Watched)> {
    let done = AtomicBool::new(false);
    let mut eyes = Eyes::open(lab, pid)?;
    thread::scope(|scope| {
        let watcher = scope.spawn(|| eyes.looks(&done));
        // Ends the watcher also when the work panics.
        let ended = EndsOnDrop(&done);
        let result = work();
        drop(ended);
        let looks = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((result, conclude(lab, &looks)))
    })
}

struct EndsOnDrop<'a>(&'a AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Open files that stay with the namespace they were opened in: looking needs no thread there,
/// and takes nothing from the relay's cores.
struct Eyes {
    relay: File,
    client: File,
    peer: File,
    pid: u32,
}

impl Eyes {
    fn open(lab: &Lab, pid: u32) -> io::Result<Self> {
        let open = |host: &Namespace| host.within(|| File::open("/proc/thread-self/net/dev"))?;
        let (relay, client, peer) = (open(&lab.relay)?, open(&lab.client)?, open(&lab.peer)?);
        Ok(Self { relay, client, peer, pid })
    }

    fn looks(&mut self, done: &AtomicBool) -> Vec<Look> {
        let clock = Clock::start();
        let mut looks = Vec::new();
        loop {
            let last = done.load(Ordering::Relaxed);
            // A look that fails leaves a longer interval.
            looks.extend(self.look(clock));
            if last || looks.len() >= LOOKS_MAX {
                return looks;
            }
            thread::sleep(INTERVAL);
        }
    }

    fn look(&mut self, clock: Clock) -> io::Result<Look> {
        let (client, peer) = (links(&mut self.client)?, links(&mut self.peer)?);
        Ok(Look {
            relay: links(&mut self.relay)?,
            others: Links {
                received: client.received + peer.received,
                received_dropped: client.received_dropped + peer.received_dropped,
                sent: client.sent + peer.sent,
                sent_dropped: client.sent_dropped + peer.sent_dropped,
            },
            stat: Stat::read()?,
            process_secs: process_secs(self.pid),
            at_ns: clock.now(),
        })
    }
}

fn links(dev: &mut File) -> io::Result<Links> {
    let mut text = String::new();
    dev.rewind()?;
    dev.read_to_string(&mut text)?;
    Ok(Links::parse(&text))
}

impl Links {
    /// The sum over all interfaces but loopback.
    fn parse(dev: &str) -> Self {
        let mut sum = Self::default();
        for line in dev.lines() {
            let Some((name, rest)) = line.split_once(':') else { continue };
            let fields: Vec<u64> =
                rest.split_whitespace().map_while(|field| field.parse().ok()).collect();
            if let (false, Some(fields)) = (name.trim() == "lo", fields.first_chunk::<16>()) {
                sum.received += fields[1];
                sum.received_dropped += fields[3];
                sum.sent += fields[9];
                sum.sent_dropped += fields[11];
            }
        }
        sum
    }
}

fn conclude(lab: &Lab, looks: &[Look]) -> Watched {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Watched { cpu: None, drops: Drops::default() };
    };
    // A veth counts what its far end could not take as dropped by the sender, and frames from
    // XDP also as dropped by the receiver: the larger of both is one count of each.
    let dropped = |from: fn(&Look) -> u64, to: fn(&Look) -> u64| {
        from(last).saturating_sub(from(first)).max(to(last).saturating_sub(to(first)))
    };
    let drops = Drops {
        before_relay: dropped(|look| look.others.sent_dropped, |look| look.relay.received_dropped),
        behind_relay: dropped(|look| look.relay.sent_dropped, |look| look.others.received_dropped),
    };
    let rates: Vec<f64> = looks.windows(2).map(|pair| rate(&pair[0], &pair[1])).collect();
    let cpu = load_window(&rates).map(|(from, to)| {
        let (from, to) = (&looks[from], &looks[to]);
        let secs = secs_between(from, to);
        let relay = to.stat.since(&from.stat, secs, &lab.relay_cores);
        let load = to.stat.since(&from.stat, secs, &lab.load_cores);
        let process = from.process_secs.zip(to.process_secs).map(|(from, to)| (to - from) / secs);
        Cpu {
            window_secs: secs,
            relay_busy_cores: relay.busy_secs / secs,
            load_busy_cores: load.busy_secs / secs,
            process_cores: process,
            stolen_cores: (relay.stolen_secs + load.stolen_secs) / secs,
        }
    });
    Watched { cpu, drops }
}

fn secs_between(from: &Look, to: &Look) -> f64 {
    to.at_ns.saturating_sub(from.at_ns).max(1) as f64 / SECOND_NS as f64
}

/// Packets a second that reached or left the relay.
fn rate(from: &Look, to: &Look) -> f64 {
    let crossed = |look: &Look| look.relay.received + look.relay.sent;
    crossed(to).saturating_sub(crossed(from)) as f64 / secs_between(from, to)
}

/// The first and the last look of the load, of the rates between the looks. `None` when fewer
/// than five looks show one.
fn load_window(rates: &[f64]) -> Option<(usize, usize)> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Not the very busiest: a queue that empties at once is not the load's rate.
    let busiest = sorted.iter().rev().nth(sorted.len() / 10).copied()?;
    let is_load = |rate: &f64| *rate > 0.0 && *rate >= busiest * LOAD_SHARE;
    let from = rates.iter().position(is_load)?;
    let to = rates.iter().rposition(is_load)? + 1;
    (busiest > 0.0 && to - from >= 4).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_where_packets_crossed() {
        let rates = [0.0, 3.0, 90.0, 100.0, 110.0, 100.0, 20.0, 95.0, 4.0, 0.0, 0.0];
        assert_eq!(load_window(&rates), Some((2, 8)), "a pause inside belongs to it");
        assert_eq!(load_window(&[0.0; 9]), None);
        assert_eq!(load_window(&[0.0, 100.0, 100.0, 0.0]), None, "too short to tell");
        assert_eq!(load_window(&[]), None);
    }

    #[test]
    fn loopback_does_not_count() {
        let dev = "Inter-|   Receive | Transmit\n face |bytes packets\n\
            lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n\
            rc77: 1 100 0 3 0 0 0 0 5 200 0 4 0 0 0 0\n rp77:1 10 0 1 0 0 0 0 5 20 0 2 0 0 0 0\n";
        let expected = Links { received: 110, received_dropped: 4, sent: 220, sent_dropped: 6 };
        assert_eq!(Links::parse(dev), expected);
    }
}
