//! Every series, as text.

use relay_turn::LookUpOutcome;

use super::*;

const PROCESS: Process = Process { version: "1.2.3", commit: "abc", started_unix_secs: 77 };

fn report(turn: &Snapshot) -> Report {
    let mut report = Report::default();
    report.turn.clone_from(turn);
    report
}

fn sample() -> Sample {
    let mut xdp = [Count::default(); Reason::ALL.len()];
    for (reason, packets) in Reason::ALL.iter().zip(100..) {
        xdp[*reason as usize] = Count { packets, bytes: packets * 10 };
    }
    let mut shard = Snapshot::default();
    (shard.permissions, shard.channels) = (1, 2);
    Sample {
        shards: vec![Some(report(&shard)), Some(report(&shard))],
        xdp: Some(xdp),
        interfaces: vec![
            Interface { name: "eth0".to_owned(), mode: InterfaceMode::Native },
            Interface { name: "eth1".to_owned(), mode: InterfaceMode::Generic },
        ],
        next_hops_resolved: 3,
        next_hops_unresolved: 4,
        routes: 5,
        hairpins: 7,
        kernel_permissions: 8,
        route_install_failures: 6,
        store: store::Sample { users: 9, secrets: 10, ..store::Sample::default() },
        times: None,
    }
}

fn render(exporter: &Exporter, sample: &Sample) -> String {
    String::from_utf8(exporter.render(sample)).unwrap()
}

/// The value of a series.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[test]
fn times_become_a_histogram_only_when_they_are_measured() {
    let exporter = Exporter::new(PROCESS);
    assert!(!render(&exporter, &sample()).contains(TIMES_METRIC));
    let mut buckets = [0; TIMES_BUCKETS as usize];
    (buckets[6], buckets[7], buckets[23]) = (30, 90, 1);
    let text = render(&exporter, &Sample { times: Some(buckets), ..sample() });
    for (bound, count) in [
        ("0.000000064", 0),
        ("0.000000128", 30),
        ("0.000000256", 120),
        ("0.008388608", 120),
        ("+Inf", 121),
    ] {
        assert_eq!(value(&text, &format!("{TIMES_METRIC}_bucket{{le=\"{bound}\"}}")), count);
    }
    assert_eq!(value(&text, &format!("{TIMES_METRIC}_count")), 121);
}

#[test]
fn redis_is_shown_only_when_it_is_asked() {
    let exporter = Exporter::new(PROCESS);
    assert!(!render(&exporter, &sample()).contains("redis"));
    let redis = store::RedisSample { is_up: true, ..store::RedisSample::default() };
    let store = store::Sample { redis: Some(redis), ..store::Sample::default() };
    let text = render(&exporter, &Sample { store, ..sample() });
    assert_eq!(value(&text, "turnpike_redis_up"), 1);
    assert_eq!(value(&text, "turnpike_redis_seconds_count"), 0);
}

/// All series that are not zero, but for the verdicts.
const GOLDEN: &str = r#"
# HELP process_start_time_seconds Start time since 1970.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 77
# HELP turnpike_allocations Allocations, by client transport and relayed family.
# TYPE turnpike_allocations gauge
# HELP turnpike_build_info Version and commit of the binary; always 1.
# TYPE turnpike_build_info gauge
turnpike_build_info{commit="abc",version="1.2.3"} 1
# HELP turnpike_channel_numbers_rfc5766_refused_total Channel numbers of RFC 5766 refused.
# TYPE turnpike_channel_numbers_rfc5766_refused_total counter
# HELP turnpike_channels Channel bindings of all allocations.
# TYPE turnpike_channels gauge
turnpike_channels 4
# HELP turnpike_credentials Users and secrets that are known without a look-up.
# TYPE turnpike_credentials gauge
turnpike_credentials{kind="secrets"} 10
turnpike_credentials{kind="users"} 9
# HELP turnpike_credentials_reloads_total Files read again, by what became of it.
# TYPE turnpike_credentials_reloads_total counter
# HELP turnpike_datapath_mode 1 for the mode in which the interface relays, 0 for the others.
# TYPE turnpike_datapath_mode gauge
turnpike_datapath_mode{interface="eth0",mode="native"} 1
turnpike_datapath_mode{interface="eth1",mode="generic"} 1
# HELP turnpike_five_tuples_elsewhere 5-tuples that reach another shard than their allocation's.
# TYPE turnpike_five_tuples_elsewhere gauge
# HELP turnpike_hairpins Pairs of clients that the kernel takes straight to each other.
# TYPE turnpike_hairpins gauge
turnpike_hairpins 7
# HELP turnpike_handed_over_total Datagrams handed to the shard that has their allocation.
# TYPE turnpike_handed_over_total counter
# HELP turnpike_icmp_muted_total Times that a relayed address had more ICMP errors than are read.
# TYPE turnpike_icmp_muted_total counter
# HELP turnpike_icmp_total ICMP errors about datagrams to peers, by what became of them.
# TYPE turnpike_icmp_total counter
# HELP turnpike_kernel_permissions Permissions in the kernel.
# TYPE turnpike_kernel_permissions gauge
turnpike_kernel_permissions 8
# HELP turnpike_look_ups_total Look-ups of users, by how they ended.
# TYPE turnpike_look_ups_total counter
# HELP turnpike_moves_total Allocations that moved to another 5-tuple of their clients.
# TYPE turnpike_moves_total counter
# HELP turnpike_next_hops Next hops, by whether packets can be sent to them.
# TYPE turnpike_next_hops gauge
turnpike_next_hops{state="resolved"} 3
turnpike_next_hops{state="unresolved"} 4
# HELP turnpike_over_quota_total Requests refused because of a quota, by which.
# TYPE turnpike_over_quota_total counter
# HELP turnpike_peers_denied_total Requests refused because of their peer, by the kind of rule.
# TYPE turnpike_peers_denied_total counter
# HELP turnpike_permissions Permissions of all allocations.
# TYPE turnpike_permissions gauge
turnpike_permissions 2
# HELP turnpike_relayed_bytes_total Relayed bytes of application data, by path and direction.
# TYPE turnpike_relayed_bytes_total counter
turnpike_relayed_bytes_total{direction="client_to_peer",path="xdp"} 3050
turnpike_relayed_bytes_total{direction="peer_to_client",path="xdp"} 2050
# HELP turnpike_relayed_packets_total Relayed packets, by path and direction.
# TYPE turnpike_relayed_packets_total counter
turnpike_relayed_packets_total{direction="client_to_peer",path="xdp"} 305
turnpike_relayed_packets_total{direction="peer_to_client",path="xdp"} 205
# HELP turnpike_requests_authenticated_total Authenticated requests, by proof and key.
# TYPE turnpike_requests_authenticated_total counter
# HELP turnpike_requests_total Answered requests, by method and error code; success for no error.
# TYPE turnpike_requests_total counter
# HELP turnpike_reservations Ports held by EVEN-PORT reservations.
# TYPE turnpike_reservations gauge
# HELP turnpike_route_install_failures_total Bindings and permissions that the kernel did not take.
# TYPE turnpike_route_install_failures_total counter
turnpike_route_install_failures_total 6
# HELP turnpike_routes Routes in the kernel.
# TYPE turnpike_routes gauge
turnpike_routes 5
# HELP turnpike_shard_up Whether the shard answered.
# TYPE turnpike_shard_up gauge
turnpike_shard_up{shard="0"} 1
turnpike_shard_up{shard="1"} 1
# HELP turnpike_userspace_drops_total Datagrams neither answered nor relayed, by reason.
# TYPE turnpike_userspace_drops_total counter
# HELP turnpike_xdp_verdicts_total Packets that the kernel program saw, by what became of them.
# TYPE turnpike_xdp_verdicts_total counter
"#;

#[test]
fn a_sample_becomes_this_text() {
    let text = render(&Exporter::new(PROCESS), &sample());
    let shown: Vec<_> = text.lines().filter(|line| !line.ends_with(" 0")).collect();
    let verdict = |(number, reason): (usize, &Reason)| {
        format!("turnpike_xdp_verdicts_total{{reason=\"{}\"}} {}", reason.name(), 100 + number)
    };
    let mut verdicts: Vec<_> = Reason::ALL.iter().enumerate().map(verdict).collect();
    verdicts.sort();
    let golden = GOLDEN.trim().lines().chain(verdicts.iter().map(String::as_str));
    assert_eq!(shown, golden.collect::<Vec<_>>());
}

#[test]
fn every_series_is_there_before_anything_happens() {
    let none = Sample { shards: vec![None], xdp: None, ..Sample::default() };
    let text = render(&Exporter::new(PROCESS), &none);
    for path in ["xdp", "userspace"] {
        for direction in Direction::ALL {
            let labels = format!("{{direction=\"{}\",path=\"{path}\"}}", direction.name());
            for unit in ["packets", "bytes"] {
                let series = format!("turnpike_relayed_{unit}_total{labels}");
                assert_eq!(value(&text, &series), 0);
            }
        }
    }
    for reason in Reason::ALL {
        let series = format!("turnpike_xdp_verdicts_total{{reason=\"{}\"}}", reason.name());
        assert_eq!(value(&text, &series), 0);
    }
    for reason in DropReason::ALL {
        let series = format!("turnpike_userspace_drops_total{{reason=\"{}\"}}", reason.name());
        assert_eq!(value(&text, &series), 0);
    }
    for outcome in LookUpOutcome::ALL {
        let series = format!("turnpike_look_ups_total{{outcome=\"{}\"}}", outcome.name());
        assert_eq!(value(&text, &series), 0);
    }
    for outcome in IcmpOutcome::ALL {
        let series = format!("turnpike_icmp_total{{outcome=\"{}\"}}", outcome.name());
        assert_eq!(value(&text, &series), 0);
    }
    for method in RequestMethod::ALL {
        for code in Code::ALL {
            let (code, method) = (code.name(), method.name());
            let labels = format!("{{code=\"{code}\",method=\"{method}\"}}");
            assert_eq!(value(&text, &format!("turnpike_requests_total{labels}")), 0);
        }
    }
    for by in DeniedBy::ALL {
        let series = format!("turnpike_peers_denied_total{{rule=\"{}\"}}", by.name());
        assert_eq!(value(&text, &series), 0);
    }
    for quota in Quota::ALL {
        let series = format!("turnpike_over_quota_total{{quota=\"{}\"}}", quota.name());
        assert_eq!(value(&text, &series), 0);
    }
    for integrity in IntegrityKind::ALL {
        for key in KeyKind::ALL {
            let labels = format!("{{integrity=\"{}\",key=\"{}\"}}", integrity.name(), key.name());
            let series = format!("turnpike_requests_authenticated_total{labels}");
            assert_eq!(value(&text, &series), 0);
        }
    }
    for family in ["ipv4", "ipv6"] {
        let labels = format!("{{family=\"{family}\",transport=\"udp\"}}");
        assert_eq!(value(&text, &format!("turnpike_allocations{labels}")), 0);
    }
    assert_eq!(value(&text, "turnpike_shard_up{shard=\"0\"}"), 0);
}

#[test]
fn what_does_not_answer_keeps_its_counts() {
    let exporter = Exporter::new(PROCESS);
    let before = render(&exporter, &sample());
    let silent = Sample { shards: vec![None, None], xdp: None, ..sample() };
    let during = render(&exporter, &silent);
    assert_eq!(value(&during, "turnpike_shard_up{shard=\"1\"}"), 0);
    let up = |text: &str| text.replace("shard=\"0\"} 0", "shard=\"0\"} 1");
    assert_eq!(up(&during).replace("shard=\"1\"} 0", "shard=\"1\"} 1"), before);
    assert_eq!(render(&exporter, &sample()), before, "no value adds up over scrapes");
}

#[test]
fn an_interface_has_one_mode_at_a_time() {
    let exporter = Exporter::new(PROCESS);
    render(&exporter, &sample());
    let mut later = sample();
    later.interfaces.truncate(1);
    later.interfaces[0].mode = InterfaceMode::Userspace;
    let text = render(&exporter, &later);
    let modes: Vec<_> =
        text.lines().filter(|line| line.starts_with("turnpike_datapath_mode")).collect();
    assert_eq!(
        modes,
        [
            "turnpike_datapath_mode{interface=\"eth0\",mode=\"generic\"} 0",
            "turnpike_datapath_mode{interface=\"eth0\",mode=\"native\"} 0",
            "turnpike_datapath_mode{interface=\"eth0\",mode=\"userspace\"} 1",
        ]
    );
}
