//! `turnpike datapath`: what a running relay's kernel path does, for people and for scripts. Reads
//! the relay's own metrics over HTTP; knows their names, and counts nothing itself.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::metrics::TIMES_METRIC;

/// How long connecting, and each read of the answer, may take.
const WAIT: Duration = Duration::from_secs(5);
/// A page of metrics at most, bytes.
const PAGE_MAX: u64 = 4 << 20;
/// Columns of the longest bar.
const BAR: u64 = 40;

/// Families that say nothing of the datapath, or that have a section of their own.
const ELSEWHERE: [&str; 20] = [
    "turnpike_allocations",
    "turnpike_build_info",
    "turnpike_channel_numbers_rfc5766_refused_total",
    "turnpike_channels",
    "turnpike_datapath_mode",
    "turnpike_five_tuples_elsewhere",
    "turnpike_handed_over_total",
    "turnpike_icmp_muted_total",
    "turnpike_icmp_total",
    "turnpike_moves_total",
    "turnpike_permissions",
    "turnpike_relayed_bytes_total",
    "turnpike_relayed_packets_total",
    "turnpike_requests_authenticated_total",
    "turnpike_requests_total",
    "turnpike_reservations",
    "turnpike_shard_up",
    "turnpike_userspace_drops_total",
    "turnpike_xdp_verdicts_total",
    "process_start_time_seconds",
];

/// One value on a page of metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: u64,
}

impl Series {
    fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// What the relay says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Overview(Vec<Series>);

impl Overview {
    /// Asks the relay whose metrics are at `addr`.
    ///
    /// # Errors
    /// Nobody answers there, or somebody else does.
    pub(crate) fn ask(addr: SocketAddr) -> anyhow::Result<Self> {
        let body = page(reachable(addr)).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => anyhow!(
                "no relay answers on {addr}: it does not run, or its `[metrics] listen` is another \
                 (name the file with --config, or the address with --metrics)"
            ),
            _ => anyhow!("the relay's metrics on {addr}: {error}"),
        })?;
        let overview = Self(body.lines().filter_map(series).collect());
        if overview.of("turnpike_build_info").next().is_none() {
            bail!("what answers on {addr} is no Turnpike");
        }
        Ok(overview)
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// Interfaces with their modes.
    fn interfaces(&self) -> impl Iterator<Item = (&str, &str)> {
        let current = self.of("turnpike_datapath_mode").filter(|series| series.value == 1);
        current.map(|series| (series.label("interface"), series.label("mode")))
    }

    /// What the kernel holds: routes, next hops and whatever else is there, with labels.
    fn state(&self) -> impl Iterator<Item = (String, u64)> {
        let is_state = |series: &&Series| {
            !ELSEWHERE.contains(&series.name.as_str()) && !series.name.starts_with(TIMES_METRIC)
        };
        self.0.iter().filter(is_state).map(|series| {
            let mut name = series.name.trim_start_matches("turnpike_").to_owned();
            for (_, value) in &series.labels {
                name.push(' ');
                name.push_str(value);
            }
            (name, series.value)
        })
    }

    /// Reasons with counts, most frequent first.
    fn verdicts(&self) -> Vec<(&str, u64)> {
        let all = self.of("turnpike_xdp_verdicts_total");
        let mut verdicts: Vec<_> =
            all.map(|series| (series.label("reason"), series.value)).collect();
        verdicts.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        verdicts
    }

    /// Upper bounds in nanoseconds, the last one without, and how many packets took so long.
    fn times(&self) -> Vec<(Option<u64>, u64)> {
        let mut below = 0;
        let name = format!("{TIMES_METRIC}_bucket");
        let buckets = self.of(&name).map(|series| {
            let packets = series.value.saturating_sub(below);
            below = series.value;
            // The bounds are whole nanoseconds; 24 buckets stay far below 2⁵³.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bound = series.label("le").parse::<f64>().ok().filter(|bound| bound.is_finite());
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bound = bound.map(|seconds| (seconds * 1e9).round() as u64);
            (bound, packets)
        });
        buckets.collect()
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let build = self.of("turnpike_build_info").next();
        let label = |name| build.map_or("", |series| series.label(name));
        let relayed = self.of("turnpike_relayed_packets_total").map(|packets| {
            let bytes =
                self.of("turnpike_relayed_bytes_total").find(|b| b.labels == packets.labels);
            json!({
                "direction": packets.label("direction"),
                "path": packets.label("path"),
                "packets": packets.value,
                "bytes": bytes.map_or(0, |series| series.value),
            })
        });
        let interfaces =
            self.interfaces().map(|(name, mode)| json!({ "name": name, "mode": mode }));
        let times = self.times().into_iter();
        let times = times.map(|(bound, packets)| json!({ "below_ns": bound, "packets": packets }));
        let counts = |counts: Vec<(String, u64)>| {
            counts.into_iter().map(|(name, count)| (name, count.into())).collect::<Map<_, _>>()
        };
        let verdicts = self.verdicts().into_iter().map(|(name, count)| (name.to_owned(), count));
        json!({
            "version": label("version"),
            "commit": label("commit"),
            "interfaces": interfaces.collect::<Vec<_>>(),
            "relayed": relayed.collect::<Vec<_>>(),
            "state": counts(self.state().collect()),
            "verdicts": counts(verdicts.collect()),
            "times": times.collect::<Vec<_>>(),
        })
    }

    fn show_verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdicts = self.verdicts();
        let all: u64 = verdicts.iter().map(|(_, packets)| packets).sum();
        writeln!(f, "\npackets that the kernel program saw: {all}")?;
        let mut never = String::new();
        for (reason, packets) in verdicts {
            if packets > 0 {
                writeln!(f, "  {reason:<22}{packets:>14}{}", Share(packets, all))?;
            } else {
                let _ = write!(never, " {reason}");
            }
        }
        writeln!(f, "  never:{never}")
    }

    fn show_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.times();
        let (all, most) = times
            .iter()
            .fold((0, 1), |(all, most), (_, packets)| (all + packets, most.max(*packets)));
        if times.is_empty() {
            return writeln!(f, "\ntime in the program: not measured (`measure_times`)");
        }
        writeln!(f, "\ntime in the program, below")?;
        for (bound, packets) in times.iter().filter(|(_, packets)| *packets > 0) {
            let bound = bound.map_or("more".to_owned(), |ns| format!("{ns} ns"));
            let bar = "#".repeat(usize::try_from(packets * BAR / most).unwrap_or_default());
            writeln!(f, "  {bound:>12}{packets:>14}{} {bar}", Share(*packets, all))?;
        }
        Ok(())
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for build in self.of("turnpike_build_info") {
            writeln!(f, "turnpike {} ({})", build.label("version"), build.label("commit"))?;
        }
        writeln!(f, "\ninterfaces")?;
        for (name, mode) in self.interfaces() {
            writeln!(f, "  {name:<22}{mode:>14}")?;
        }
        writeln!(f, "\n{:<24}{:>14}{:>20}", "relayed", "packets", "bytes")?;
        for packets in self.of("turnpike_relayed_packets_total") {
            let bytes =
                self.of("turnpike_relayed_bytes_total").find(|b| b.labels == packets.labels);
            let name = format!("{} {}", packets.label("path"), packets.label("direction"));
            let bytes = bytes.map_or(0, |series| series.value);
            writeln!(f, "  {name:<22}{:>14}{bytes:>20}", packets.value)?;
        }
        writeln!(f, "\nin the kernel")?;
        for (name, value) in self.state() {
            writeln!(f, "  {name:<22}{value:>14}")?;
        }
        self.show_verdicts(f)?;
        self.show_times(f)
    }
}

/// A part of a whole, in per cent.
struct Share(u64, u64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = u128::from(self.0) * 1000 / u128::from(self.1.max(1));
        write!(f, "{:>6}.{} %", tenths / 10, tenths % 10)
    }
}

/// Where a listener on `addr` can be reached from this machine.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The page of metrics at an address.
fn page(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(PAGE_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => Err(io::Error::other(format!("HTTP status {}", status.unwrap_or("missing")))),
    }
}

/// A line of the text format that has a value. Names of interfaces are the only labels that are not
/// ours, and hold neither quotes nor braces in practice; a line that is odd is left out.
fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.trim_end_matches('"').split_once("=\"")?;
        Some((key.to_owned(), value.to_owned()))
    });
    let (labels, value) = (labels.collect::<Option<Vec<_>>>()?, value.parse().ok()?);
    Some(Series { name: name.to_owned(), labels, value })
}

/// Prints the overview of the relay at `addr`.
///
/// # Errors
/// There is none, or standard output is closed.
pub(crate) fn print(addr: SocketAddr, as_json: bool) -> anyhow::Result<()> {
    let overview = Overview::ask(addr)?;
    let mut out = io::stdout().lock();
    let printed = match as_json {
        true => writeln!(out, "{:#}", overview.json()),
        false => write!(out, "{overview}"),
    };
    printed.context("cannot print the overview")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
# HELP turnpike_build_info Version and commit of the binary; always 1.
turnpike_build_info{commit="abc",version="1.2.3"} 1
turnpike_datapath_mode{interface="eth0",mode="generic"} 0
turnpike_datapath_mode{interface="eth0",mode="native"} 1
turnpike_next_hops{state="resolved"} 3
turnpike_relayed_bytes_total{direction="client_to_peer",path="xdp"} 1000
turnpike_relayed_packets_total{direction="client_to_peer",path="xdp"} 100
turnpike_requests_total{code="success",method="allocate"} 9
turnpike_routes 5
turnpike_xdp_verdicts_total{reason="aborted"} 0
turnpike_xdp_verdicts_total{reason="client_to_peer"} 100
turnpike_xdp_verdicts_total{reason="no_route"} 300
turnpike_xdp_seconds_bucket{le="0.000000128"} 30
turnpike_xdp_seconds_bucket{le="0.000000256"} 120
turnpike_xdp_seconds_bucket{le="+Inf"} 120
turnpike_xdp_seconds_count 120
"#;

    fn overview() -> Overview {
        Overview(PAGE.lines().filter_map(series).collect())
    }

    #[test]
    fn people_see_what_happens_most_first_and_what_never_happened() {
        let shown = overview().to_string();
        let expected = "\
turnpike 1.2.3 (abc)

interfaces
  eth0                          native

relayed                        packets               bytes
  xdp client_to_peer               100                1000

in the kernel
  next_hops resolved                 3
  routes                             5

packets that the kernel program saw: 400
  no_route                         300    75.0 %
  client_to_peer                   100    25.0 %
  never: aborted

time in the program, below
        128 ns            30    25.0 % #############
        256 ns            90    75.0 % ########################################
";
        assert_eq!(shown, expected, "{shown}");
    }

    #[test]
    fn scripts_get_the_same() {
        let shown = overview().json();
        assert_eq!(shown["interfaces"], json!([{ "name": "eth0", "mode": "native" }]));
        assert_eq!(shown["relayed"][0]["bytes"], 1000);
        assert_eq!(shown["state"], json!({ "routes": 5, "next_hops resolved": 3 }));
        assert_eq!(shown["verdicts"]["no_route"], 300);
        assert_eq!(shown["times"][1], json!({ "below_ns": 256, "packets": 90 }));
        assert_eq!(shown["times"][2], json!({ "below_ns": null, "packets": 0 }));
    }

    #[test]
    fn without_a_histogram_the_overview_says_so() {
        let off =
            Overview(overview().0.into_iter().filter(|s| !s.name.contains("xdp_s")).collect());
        assert!(off.to_string().contains("not measured"));
        assert_eq!(off.json()["times"], json!([]));
    }

    #[test]
    fn a_relay_that_does_not_run_is_named_as_such() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = Overview::ask(addr).unwrap_err().to_string();
        assert!(error.contains("no relay answers") && error.contains(&addr.to_string()), "{error}");
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
