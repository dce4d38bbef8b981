//! What keeps clients within bounds: peers, quotas, bandwidth.

use super::{MINIMAL, check, errors, read};

#[test]
fn every_quota_is_read() {
    let text = "[limits]
        user_allocations_max = 0
        source_allocations_max = 7
        source_prefix_ipv4 = 24
        source_prefix_ipv6 = 48
        new_peers_per_sec = 0
        allocation_bytes_per_sec = 1000
        user_bytes_per_sec = 1000
        total_bytes_per_sec = 12_500_000_000";
    let limits = read(&format!("{MINIMAL}{text}")).unwrap().limits;
    assert_eq!((limits.user_allocations_max, limits.source_allocations_max), (0, 7));
    assert_eq!((limits.source_prefix_ipv4, limits.source_prefix_ipv6), (24, 48));
    assert_eq!(limits.new_peers_per_sec, 0);
    assert_eq!((limits.user_bytes_per_sec, limits.total_bytes_per_sec), (1000, 12_500_000_000));
}

#[test]
fn networks_that_are_never_peers_cannot_be_allowed() {
    let check = |network: &str, expected: &str| {
        let message = format!("t.toml:8:10: `{network}` {expected}");
        check(&format!("[peers]\nallow = [\"{network}\"]"), &message);
    };
    for network in ["127.0.0.1/32", "127.0.0.0/8", "::1/128"] {
        let advice = "for development there is allow_loopback = true";
        check(network, &format!("in `allow` is loopback: never relayed to; {advice}"));
    }
    check("0.0.0.0/32", "in `allow` is the unspecified address: never relayed to; remove it");
    check("ff00::/8", "in `allow` is multicast: never relayed to; remove it");
    check("255.255.255.255/32", "in `allow` is the broadcast address: never relayed to; remove it");
    let mapped = "which is also meant where an IPv4 address is written into an IPv6 one";
    check("::ffff:10.0.0.0/104", &format!("is IPv4-mapped; write `10.0.0.0/8`, {mapped}"));
    let deny = "[peers]\ndeny = [\"::ffff:0.0.0.0/96\"]";
    assert!(errors(&format!("{MINIMAL}{deny}"))[0].contains("write `0.0.0.0/0`"));
    let loopback = "[peers]\nallow_loopback = true\nallow = [\"127.0.0.1\", \"0.0.0.0/0\"]";
    read(&format!("{MINIMAL}{loopback}")).unwrap();
    read(&format!("{MINIMAL}[peers]\ndeny = [\"127.0.0.1\", \"::/64\"]")).unwrap();
}

#[test]
fn bandwidth_is_shared_out_in_what_an_allocation_may_use() {
    for key in ["user_bytes_per_sec", "total_bytes_per_sec"] {
        let place = key.len() + 4;
        check(
            &format!("[limits]\n{key} = 1000"),
            &format!(
                "t.toml:8:{place}: `{key}` is shared out in what each allocation may use; add \
                 such a limit, for example: allocation_bytes_per_sec = 500000"
            ),
        );
        check(
            &format!("[limits]\n{key} = 999\nallocation_bytes_per_sec = 1000"),
            &format!(
                "t.toml:8:{place}: `{key}` (999) is below `allocation_bytes_per_sec` (1000), so \
                 that nobody could allocate; raise the one or lower the other"
            ),
        );
        let fine = format!("[limits]\n{key} = 1000\nallocation_bytes_per_sec = 1000");
        read(&format!("{MINIMAL}{fine}")).unwrap();
    }
    check(
        "[limits]\ntotal_bytes_per_sec = 1000000000001",
        "t.toml:8:23: `total_bytes_per_sec` must be between 0 and 1000000000000, not 1000000000001",
    );
}
