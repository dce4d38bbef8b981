//! What Prometheus is told: names, help and labels, and how a [`Sample`] becomes text.
//!
//! The only module that knows the `prometheus` crate. Owns no counter: every scrape renders the
//! integers that it is handed, so that all values are live. Never a user or an address as a label.

mod credentials;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use relay_common::abi::{Count, Direction, Reason, TIMES_BUCKETS};
use relay_common::addr::{Family, Transport};
use relay_turn::{
    Code, DeniedBy, DropReason, IcmpOutcome, IntegrityKind, KeyKind, Quota, RequestMethod, Snapshot,
};

use crate::shard::Report;
use crate::store;

/// The media type of what [`Exporter::render`] returns.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The histogram of what a packet costs in the kernel program.
pub(crate) const TIMES_METRIC: &str = "turnpike_xdp_seconds";

/// Everything that is exported, read just now.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sample {
    /// What each shard counts; `None` for one that does not answer. Always all shards, in the same
    /// order.
    pub(crate) shards: Vec<Option<Report>>,
    /// What the kernel program counts, summed over CPUs, in order of [`Reason`]; all zero without
    /// one, `None` if its counters cannot be read.
    pub(crate) xdp: Option<[Count; Reason::ALL.len()]>,
    /// The interfaces that carry listening or relay addresses.
    pub(crate) interfaces: Vec<Interface>,
    /// Next hops that packets can be sent to.
    pub(crate) next_hops_resolved: u64,
    /// Next hops whose neighbour or route is not known.
    pub(crate) next_hops_unresolved: u64,
    /// Routes in the kernel.
    pub(crate) routes: u64,
    /// Pairs of clients of this relay that the kernel takes straight to each other.
    pub(crate) hairpins: u64,
    /// Permissions in the kernel.
    pub(crate) kernel_permissions: u64,
    /// Bindings and permissions that could not be put into the kernel, since start.
    pub(crate) route_install_failures: u64,
    /// What is counted of users and secrets.
    pub(crate) store: store::Sample,
    /// Packets by the logarithm of the nanoseconds that the kernel program took for them; `None`
    /// when it does not measure.
    pub(crate) times: Option<[u64; TIMES_BUCKETS as usize]>,
}

/// An interface and how its packets are relayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// How.
    pub(crate) mode: InterfaceMode,
}

/// How the packets of an interface are relayed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InterfaceMode {
    /// XDP in the driver.
    Native,
    /// XDP in the network stack.
    Generic,
    /// No XDP.
    Userspace,
}

impl InterfaceMode {
    const ALL: [Self; 3] = [Self::Native, Self::Generic, Self::Userspace];

    /// Its name in metrics and logs.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Userspace => "userspace",
        }
    }
}

/// What does not change while the process lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    /// The version of the binary.
    pub(crate) version: &'static str,
    /// The commit it was built from.
    pub(crate) commit: &'static str,
    /// When it started, seconds since 1970.
    pub(crate) started_unix_secs: u64,
}

/// Renders samples. Remembers the last answer of each shard: one that is late leaves its counts
/// where they were, because a counter that falls looks like a restart.
#[derive(Debug)]
pub(crate) struct Exporter {
    process: Process,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    shards: Vec<Report>,
    xdp: [Count; Reason::ALL.len()],
}

impl Exporter {
    /// Starts with nothing counted.
    pub(crate) fn new(process: Process) -> Self {
        let last = Last { shards: Vec::new(), xdp: [Count::default(); Reason::ALL.len()] };
        Self { process, last: Mutex::new(last) }
    }

    /// The sample in Prometheus' text format.
    pub(crate) fn render(&self, sample: &Sample) -> Vec<u8> {
        let families = self.collect(sample).gather();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("the families are well-formed");
        text.extend(sample.times.iter().flat_map(times).flat_map(String::into_bytes));
        let redis = sample.store.redis.iter();
        text.extend(redis.flat_map(credentials::asking).flat_map(String::into_bytes));
        text
    }

    fn collect(&self, sample: &Sample) -> Registry {
        let (sum, xdp) = self.remember(sample);
        let page = Page::default();
        self.process(&page);
        turn(&page, &sum.turn);
        drops(&page, &sum);
        relayed(&page, &sum.turn, &xdp);
        datapath(&page, sample, &xdp);
        credentials::show(&page, &sample.store, &sum.turn);
        let up = page.gauges("turnpike_shard_up", "Whether the shard answered.", &["shard"]);
        for (index, shard) in sample.shards.iter().enumerate() {
            set(&up, &[&index.to_string()], u64::from(shard.is_some()));
        }
        page.0
    }

    /// The sum of all shards and the kernel's counts, each as fresh as it could be had.
    fn remember(&self, sample: &Sample) -> (Report, [Count; Reason::ALL.len()]) {
        // A panic in another scrape leaves counts that are merely older.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.shards.resize_with(sample.shards.len(), Report::default);
        let mut sum = Report::default();
        for (last, answer) in last.shards.iter_mut().zip(&sample.shards) {
            if let Some(report) = answer {
                last.clone_from(report);
            }
            sum.add(last);
        }
        last.xdp = sample.xdp.unwrap_or(last.xdp);
        (sum, last.xdp)
    }

    fn process(&self, page: &Page) {
        let Process { version, commit, started_unix_secs } = self.process;
        let help = "Version and commit of the binary; always 1.";
        set(
            &page.gauges("turnpike_build_info", help, &["version", "commit"]),
            &[version, commit],
            1,
        );
        page.gauge("process_start_time_seconds", "Start time since 1970.", started_unix_secs);
    }
}

fn turn(page: &Page, sum: &Snapshot) {
    let help = "Allocations, by client transport and relayed family.";
    let allocations = page.gauges("turnpike_allocations", help, &["transport", "family"]);
    for transport in [Transport::Udp] {
        for family in Family::ALL {
            let labels = [transport.name(), family.name()];
            set(&allocations, &labels, sum.allocations(transport, family));
        }
    }
    page.gauge("turnpike_permissions", "Permissions of all allocations.", sum.permissions);
    page.gauge("turnpike_channels", "Channel bindings of all allocations.", sum.channels);
    let help = "Ports held by EVEN-PORT reservations.";
    page.gauge("turnpike_reservations", help, sum.reservations);

    let help = "Answered requests, by method and error code; success for no error.";
    let requests = page.counters("turnpike_requests_total", help, &["method", "code"]);
    for method in RequestMethod::ALL {
        for code in Code::ALL {
            count(&requests, &[method.name(), code.name()], sum.requests(method, code));
        }
    }
    let help = "Requests refused because of their peer, by the kind of rule.";
    let denied = page.counters("turnpike_peers_denied_total", help, &["rule"]);
    for by in DeniedBy::ALL {
        count(&denied, &[by.name()], sum.denied(by));
    }
    let help = "Requests refused because of a quota, by which.";
    let over_quota = page.counters("turnpike_over_quota_total", help, &["quota"]);
    for quota in Quota::ALL {
        count(&over_quota, &[quota.name()], sum.over_quota(quota));
    }
    let help = "Authenticated requests, by proof and key.";
    let labels = ["integrity", "key"];
    let proofs = page.counters("turnpike_requests_authenticated_total", help, &labels);
    for integrity in IntegrityKind::ALL {
        for key in KeyKind::ALL {
            let labels = [integrity.name(), key.name()];
            count(&proofs, &labels, sum.authenticated(integrity, key));
        }
    }
    let help = "Allocations that moved to another 5-tuple of their clients.";
    page.counter("turnpike_moves_total", help, sum.moves);
    let help = "Channel numbers of RFC 5766 refused.";
    let name = "turnpike_channel_numbers_rfc5766_refused_total";
    page.counter(name, help, sum.channel_numbers_rfc5766_refused);
}

fn drops(page: &Page, sum: &Report) {
    let help = "Datagrams neither answered nor relayed, by reason.";
    let drops = page.counters("turnpike_userspace_drops_total", help, &["reason"]);
    for reason in DropReason::ALL {
        count(&drops, &[reason.name()], sum.turn.dropped(reason));
    }
    for (reason, lost) in sum.losses() {
        count(&drops, &[reason], lost);
    }
    let help = "Datagrams handed to the shard that has their allocation.";
    page.counter("turnpike_handed_over_total", help, sum.handed_over);
    let help = "5-tuples that reach another shard than their allocation's.";
    page.gauge("turnpike_five_tuples_elsewhere", help, sum.elsewhere);
    let help = "ICMP errors about datagrams to peers, by what became of them.";
    let icmp = page.counters("turnpike_icmp_total", help, &["outcome"]);
    for outcome in IcmpOutcome::ALL {
        count(&icmp, &[outcome.name()], sum.turn.icmp(outcome));
    }
    let help = "Times that a relayed address had more ICMP errors than are read.";
    page.counter("turnpike_icmp_muted_total", help, sum.icmp_muted);
}

fn relayed(page: &Page, sum: &Snapshot, xdp: &[Count; Reason::ALL.len()]) {
    let labels = ["path", "direction"];
    let help = "Relayed packets, by path and direction.";
    let packets = page.counters("turnpike_relayed_packets_total", help, &labels);
    let help = "Relayed bytes of application data, by path and direction.";
    let bytes = page.counters("turnpike_relayed_bytes_total", help, &labels);
    for direction in Direction::ALL {
        let reasons = Reason::ALL.iter().filter(|reason| reason.direction() == Some(direction));
        let by_xdp = reasons.fold(Count::default(), |sum, reason| {
            let Count { packets, bytes } = xdp[*reason as usize];
            Count { packets: sum.packets + packets, bytes: sum.bytes + bytes }
        });
        for (path, relayed) in [("xdp", by_xdp), ("userspace", sum.relayed(direction))] {
            count(&packets, &[path, direction.name()], relayed.packets);
            count(&bytes, &[path, direction.name()], relayed.bytes);
        }
    }
}

fn datapath(page: &Page, sample: &Sample, xdp: &[Count; Reason::ALL.len()]) {
    let help = "Packets that the kernel program saw, by what became of them.";
    let verdicts = page.counters("turnpike_xdp_verdicts_total", help, &["reason"]);
    for reason in Reason::ALL {
        count(&verdicts, &[reason.name()], xdp[reason as usize].packets);
    }
    let help = "1 for the mode in which the interface relays, 0 for the others.";
    let modes = page.gauges("turnpike_datapath_mode", help, &["interface", "mode"]);
    for interface in &sample.interfaces {
        for mode in InterfaceMode::ALL {
            let is_current = u64::from(mode == interface.mode);
            set(&modes, &[&interface.name, mode.name()], is_current);
        }
    }
    let help = "Next hops, by whether packets can be sent to them.";
    let next_hops = page.gauges("turnpike_next_hops", help, &["state"]);
    set(&next_hops, &["resolved"], sample.next_hops_resolved);
    set(&next_hops, &["unresolved"], sample.next_hops_unresolved);
    page.gauge("turnpike_routes", "Routes in the kernel.", sample.routes);
    let help = "Pairs of clients that the kernel takes straight to each other.";
    page.gauge("turnpike_hairpins", help, sample.hairpins);
    let help = "Permissions in the kernel.";
    page.gauge("turnpike_kernel_permissions", help, sample.kernel_permissions);
    let help = "Bindings and permissions that the kernel did not take.";
    page.counter("turnpike_route_install_failures_total", help, sample.route_install_failures);
}

/// The histogram, line by line, and without a sum: nobody adds the times up, and an estimate would
/// look like a measurement.
fn times(buckets: &[u64; TIMES_BUCKETS as usize]) -> Vec<String> {
    let help = "Time that the kernel program took for a packet.";
    let mut lines =
        vec![format!("# HELP {TIMES_METRIC} {help}\n# TYPE {TIMES_METRIC} histogram\n")];
    let mut count = 0;
    for (bucket, packets) in (0..TIMES_BUCKETS).zip(buckets) {
        count += packets;
        // The last bucket has no upper bound.
        let bound = match bucket + 1 {
            TIMES_BUCKETS => "+Inf".to_owned(),
            log2 => (f64::from(1u32 << log2) / 1e9).to_string(),
        };
        lines.push(format!("{TIMES_METRIC}_bucket{{le=\"{bound}\"}} {count}\n"));
    }
    lines.push(format!("{TIMES_METRIC}_count {count}\n"));
    lines
}

/// The metrics of one scrape. Names and labels are literals of this module: they are valid and
/// there once, which the tests prove by rendering them.
#[derive(Default)]
struct Page(Registry);

impl Page {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let family = IntCounterVec::new(Opts::new(name, help), labels).expect("valid names");
        self.0.register(Box::new(family.clone())).expect("each name is registered once");
        family
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let family = IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names");
        self.0.register(Box::new(family.clone())).expect("each name is registered once");
        family
    }

    fn counter(&self, name: &str, help: &str, value: u64) {
        let counter = IntCounter::new(name, help).expect("valid names");
        self.0.register(Box::new(counter.clone())).expect("each name is registered once");
        counter.inc_by(value);
    }

    fn gauge(&self, name: &str, help: &str, value: u64) {
        let gauge = IntGauge::new(name, help).expect("valid names");
        self.0.register(Box::new(gauge.clone())).expect("each name is registered once");
        gauge.set(signed(value));
    }
}

fn count(counters: &IntCounterVec, labels: &[&str], value: u64) {
    counters.with_label_values(labels).inc_by(value);
}

fn set(gauges: &IntGaugeVec, labels: &[&str], value: u64) {
    gauges.with_label_values(labels).set(signed(value));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
