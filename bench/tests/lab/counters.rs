//! Counters that are not the tool's: of interfaces, of the relay, of a packet capture, and of a
//! loss that is made on purpose.

use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::namespace::Namespace;
use super::process::Process;

/// Packets that an interface counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    /// Received.
    pub(crate) received: u64,
    /// Sent.
    pub(crate) sent: u64,
}

impl Interface {
    /// What it counted since it exists.
    pub(crate) fn read(namespace: &Namespace, interface: &str) -> Self {
        let text = namespace.ip(&format!("-j -s link show dev {interface}"));
        let links: Value = serde_json::from_str(&text).unwrap();
        let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap();
        Self { received: packets("rx"), sent: packets("tx") }
    }

    /// What it counted since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { received: self.received - earlier.received, sent: self.sent - earlier.sent }
    }
}

/// A page of Turnpike's metrics.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of a series, written as on the page.
    pub(crate) fn value(&self, series: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {}", self.0)).parse().unwrap()
    }

    /// Packets relayed by a path (`xdp` or `userspace`) in a direction (`client_to_peer` or
    /// `peer_to_client`).
    pub(crate) fn relayed(&self, path: &str, direction: &str) -> u64 {
        let labels = format!("direction=\"{direction}\",path=\"{path}\"");
        self.value(&format!("turnpike_relayed_packets_total{{{labels}}}"))
    }

    /// Bytes of application data relayed by a path in a direction.
    pub(crate) fn relayed_bytes(&self, path: &str, direction: &str) -> u64 {
        let labels = format!("direction=\"{direction}\",path=\"{path}\"");
        self.value(&format!("turnpike_relayed_bytes_total{{{labels}}}"))
    }
}

/// A loss that is known: the kernel of a namespace drops some of what would reach its sockets, and
/// counts it.
pub(crate) struct Loss<'n>(&'n Namespace);

impl<'n> Loss<'n> {
    /// Drops the first of `nth` and every `nth` behind it, of the UDP datagrams with this payload.
    ///
    /// # Errors
    /// This machine has no `nft`, or its kernel does not know the rule.
    pub(crate) fn start(
        namespace: &'n Namespace,
        payload_bytes: u32,
        nth: u32,
    ) -> Result<Self, String> {
        let length = payload_bytes + 8;
        let nft = |words: &str| namespace.try_output("nft", words);
        nft("add table inet lab")?;
        nft("add chain inet lab loss { type filter hook input priority 0 ; }")?;
        nft(&format!(
            "add rule inet lab loss udp length {length} numgen inc mod {nth} == 0 counter drop"
        ))?;
        Ok(Self(namespace))
    }

    /// Datagrams dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        let text = self.0.output("nft", "list chain inet lab loss");
        let (_, behind) = text.split_once("counter packets ").unwrap();
        behind.split(' ').next().unwrap().parse().unwrap()
    }
}

/// A running packet capture of one interface.
pub(crate) struct Capture(Process);

impl Capture {
    /// Starts `tcpdump` and waits until it captures.
    pub(crate) fn start(namespace: &Namespace, interface: &str, filter: &str) -> Self {
        let mut command = Command::new("tcpdump");
        // As root, with a large buffer and without names: it must not lose a packet.
        command.args("-Z root -B 65536 -nn -s 96 --immediate-mode -w /dev/null -i".split(' '));
        command.arg(interface).arg(filter);
        let mut process = Process::bare("tcpdump", namespace, command);
        process.await_log("listening on", Duration::from_secs(10));
        Self(process)
    }

    /// Ends it; the packets that passed the filter.
    ///
    /// # Panics
    /// It lost some.
    pub(crate) fn finish(mut self) -> u64 {
        // What the kernel has given it and it has not yet taken would be left out.
        thread::sleep(Duration::from_millis(300));
        self.0.end_by(Signal::INT, Duration::from_secs(10));
        let log = self.0.log();
        let number = |label: &str| -> u64 {
            let line = log.lines().find_map(|line| line.strip_suffix(label)).unwrap();
            line.trim().parse().unwrap()
        };
        assert_eq!(number(" packets dropped by kernel"), 0, "{log}");
        let captured = number(" packets captured");
        assert_eq!(captured, number(" packets received by filter"), "{log}");
        captured
    }
}
