//! Turnpike on the rig: its configuration, its start, and whether it is its XDP program that
//! relays. Measures nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use relay_common::addr::PeerAddr;

use crate::clock::{Clock, SECOND_NS};
use crate::forward::rig::{NETWORK, Rig, SERVER};
use crate::lab::process::{Running, answers_binding};
use crate::turn::client::ClientSetup;
use crate::turn::credentials::Credentials;
use crate::turn::framing::Framing;
use crate::turn::transport::Transport;

/// Where it listens.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(SERVER, 3478);
/// The peer's port.
const PEER_PORT: u16 = 9000;
/// How long it has to become ready, seconds.
const READY_SECS: u64 = 15;
/// First retransmission timeout of requests, nanoseconds.
const RTO_NS: u64 = SECOND_NS / 2;
/// Credentials. They guard nothing: the relay lives in a namespace, for the run.
const USER: &str = "bench";
const PASSWORD: &str = "relay-bench";

/// The relay, running.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Running,
}

impl Relay {
    /// Starts it and waits until it serves by its XDP program in the driver.
    ///
    /// # Errors
    /// It does not start, does not answer, or has no such program on its interfaces.
    pub(crate) fn start(
        program: &Path,
        rig: &Rig,
        shards: usize,
        directory: &Path,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        let file = directory.join("turnpike.toml");
        fs::write(&file, configuration(rig, shards))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let words = [program, "serve".as_ref(), "--config".as_ref(), &file];
        let words = words.map(|word| word.display().to_string());
        let process = Running::start(&rig.relay, &words, &directory.join("turnpike.log"))
            .with_context(|| format!("cannot start {}", program.display()))?;
        let relay = Self { process };
        relay.await_ready(rig, stop)?;
        for end in [&rig.relay_end, rig.relay_end_to_peer()] {
            let name = &end.interface.name;
            let link = rig.relay.ip(&format!("link show dev {name}"))?;
            // In the kernel's own network stack it would read `xdpgeneric`.
            ensure!(
                link.split_whitespace().any(|word| word == "xdp"),
                "{} has no XDP program in the driver of its interface {name}: it relays in \
                 userspace, which is not what is measured here (`relay-bench compare` measures \
                 both); it said: {}",
                program.display(),
                relay.process.last_words()
            );
        }
        Ok(relay)
    }

    fn await_ready(&self, rig: &Rig, stop: &AtomicBool) -> anyhow::Result<()> {
        let clock = Clock::start();
        while clock.now() < READY_SECS * SECOND_NS && !stop.load(Ordering::Relaxed) {
            self.check()?;
            if rig.client.within(|| answers_binding(LISTEN))?.unwrap_or(false) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the relay is not ready after {READY_SECS} s: {}", self.process.last_words())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It has ended: how, and its last words.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.process.ended() {
            None => Ok(()),
            Some(fate) => bail!("the relay ended ({fate}): {}", self.process.last_words()),
        }
    }
}

/// Where the peer is.
pub(crate) fn peer(rig: &Rig) -> SocketAddr {
    SocketAddr::new(rig.arms.peer(), PEER_PORT)
}

/// What its clients do.
pub(crate) fn clients(rig: &Rig) -> ClientSetup {
    ClientSetup {
        credentials: Credentials::known(USER.to_owned(), PASSWORD.to_owned()),
        peer: PeerAddr::new(peer(rig)),
        framing: Framing::Channel,
        transport: Transport::Udp,
        rto_ns: RTO_NS,
    }
}

/// Datagrams that the network stack of the relay's host was given, whatever became of them:
/// packets that XDP relayed are not among them.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn went_up(rig: &Rig) -> anyhow::Result<u64> {
    let table = rig.relay.shell("cat /proc/net/snmp")?;
    datagrams(&table).context("/proc/net/snmp says nothing of UDP")
}

fn datagrams(table: &str) -> Option<u64> {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let counted = names.split(' ').zip(values.split(' '));
    let counted = counted.filter(|(name, _)| ["InDatagrams", "InErrors", "NoPorts"].contains(name));
    counted.map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// The limits are out of the way: all clients of the rig share one address.
fn configuration(rig: &Rig, shards: usize) -> String {
    let relayed = rig.arms.relayed();
    format!(
        "realm = \"relay-bench.test\"\n\n[listen]\nudp = [\"{LISTEN}\"]\n\n\
         [relay]\naddresses = [\"{relayed}\"]\n\n\
         [auth]\nusers = {{ {USER} = \"{PASSWORD}\" }}\n\n\
         [datapath]\nmode = \"native\"\n\n\
         [peers]\nallow = [\"{NETWORK}\"]\n\n\
         [limits]\nallocations_max = 65536\nuser_allocations_max = 0\n\
         source_allocations_max = 0\nnew_peers_per_sec = 0\n\
         unauthenticated_replies_per_sec = 1000000\n\n\
         [workers]\nshards = {shards}\n\n[log]\nlevel = \"warn\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_that_reached_the_stack_counts_once() {
        let table = "Ip: Forwarding\nIp: 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams \
                     RcvbufErrors\nUdp: 10 3 5 900 5\nUdpLite: InDatagrams\nUdpLite: 7\n";
        assert_eq!(datagrams(table), Some(18), "an overflown buffer is among the errors");
        assert_eq!(datagrams("Ip: 1"), None);
    }
}
