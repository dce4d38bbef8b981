//! Every rule of the file, at its edges.

mod auth;
mod discovery;
mod example;
mod offers;
mod policy;
mod realms;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const MINIMAL: &str = r#"
realm = "example.org"
[listen]
udp = ["192.0.2.1:3478"]
[auth]
secrets = ["s3cr3t-0"]
"#;

fn read(text: &str) -> Result<Config, String> {
    sections::read(Path::new("t.toml"), text).map_err(|errors| errors.to_string())
}

/// What is kept of a password.
fn kept(user: &str, password: &str, realm: &str) -> relay_turn::Secret {
    relay_turn::Secret::from(password.to_owned()).sealed(user.as_bytes(), realm)
}

fn minimal() -> Config {
    read(MINIMAL).unwrap()
}

/// Every error of a text, without the first line that counts them.
fn errors(text: &str) -> Vec<String> {
    let shown = read(text).expect_err("it has errors");
    shown.lines().skip(1).map(str::to_owned).collect()
}

/// MINIMAL and more has exactly one error, and this is it.
#[track_caller]
fn check(more: &str, expected: &str) {
    assert_eq!(errors(&format!("{MINIMAL}{more}")), [expected], "{more}");
}

/// The same for a `[listen]` of its own; what follows it may be any sections.
#[track_caller]
fn check_listen(listen: &str, expected: &str) {
    let text =
        format!("realm = \"example.org\"\nauth.secrets = [\"s3cr3t-0\"]\n[listen]\n{listen}");
    assert_eq!(errors(&text), [expected], "{listen}");
}

/// The same for an `[auth]` of its own.
#[track_caller]
fn check_auth(auth: &str, expected: &[&str]) {
    let text =
        format!("realm = \"example.org\"\nlisten.udp = [\"192.0.2.1:3478\"]\n[auth]\n{auth}");
    assert_eq!(errors(&text), expected, "{auth}");
}

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = minimal();
    assert_eq!(config.listen_udp, ["192.0.2.1:3478".parse().unwrap()]);
    assert!(config.relay.addresses.is_empty());
    assert_eq!(config.relay.ports, 49_152..=65_535);
    assert_eq!(config.datapath.mode, Mode::Auto);
    assert_eq!(config.datapath.pin, Pin::Default);
    assert_eq!(config.metrics_listen, Some("127.0.0.1:9641".parse().unwrap()));
    assert_eq!(config.log, Log { level: tracing::Level::INFO, format: LogFormat::Text });
    assert_eq!((config.shards, config.rfc5766_channel_numbers), (None, false));
    assert_eq!(config.limits.allocations_max, 16_384);
    let limits = config.limits;
    assert_eq!((limits.user_allocations_max, limits.source_allocations_max), (1024, 4096));
    assert_eq!((limits.source_prefix_ipv4, limits.source_prefix_ipv6), (32, 64));
    assert_eq!(limits.new_peers_per_sec, 5);
    assert_eq!(config.peers.loopback, Loopback::Denied);
    assert_eq!(config.warnings, []);
}

#[test]
fn every_key_is_read() {
    let config = read(
        r#"
        realm = "example.org"
        [listen]
        udp = ["0.0.0.0:3478", "[::1]:3479"]
        discovery = ["192.0.2.1:3478", "192.0.2.2:3479"]
        [relay]
        addresses = ["10.0.0.1", "2001:db8::1"]
        ports = "50000-50999"
        external = { "10.0.0.1" = "203.0.113.7" }
        [auth]
        users = { alice = "wonderland" }
        secrets = ["one", "two"]
        strict_expiry = true
        redis.url = "redis://10.0.0.9"
        [datapath]
        mode = "native"
        interfaces = ["eth0", "eth1"]
        object = "x.o"
        pin = "/sys/fs/bpf/mine"
        measure_times = true
        [peers]
        allow = ["10.0.0.0/8", "fd00::1"]
        deny = ["198.51.100.7"]
        allow_loopback = true
        [metrics]
        listen = "off"
        [log]
        level = "debug"
        format = "json"
        [limits]
        allocations_max = 65_536
        lifetime_secs_default = 60
        lifetime_secs_max = 60
        [compat]
        rfc5766_channel_numbers = true
        [workers]
        shards = 3
        "#,
    )
    .unwrap();
    assert_eq!(config.listen_udp.len(), 2 + 4);
    assert_eq!(config.discoveries.len(), 1);
    assert_eq!(config.relay.addresses.len(), 2);
    assert_eq!(config.relay.ports, 50_000..=50_999);
    let external = config.relay.external.iter().map(|(from, to)| format!("{from} {to}"));
    assert_eq!(external.collect::<Vec<_>>(), ["10.0.0.1 203.0.113.7"]);
    assert_eq!(config.auth.listed.users["alice"], kept("alice", "wonderland", "example.org"));
    assert_eq!(config.auth.listed.secrets[1].expose(), "two");
    assert!(config.auth.strict_expiry);
    assert!(config.auth.redis.is_some());
    assert_eq!(config.datapath.mode, Mode::Native);
    assert_eq!(config.datapath.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.datapath.object, Some("x.o".into()));
    assert_eq!(config.datapath.pin, Pin::At("/sys/fs/bpf/mine".into()));
    assert!(config.datapath.measure_times);
    let listed = config.peers.allow.iter().chain(&config.peers.deny);
    let peers: Vec<_> = listed.map(|l| format!("{} {}", l.network, l.line)).collect();
    assert_eq!(peers, ["10.0.0.0/8 22", "fd00::1/128 22", "198.51.100.7/32 23"]);
    assert_eq!(config.peers.loopback, Loopback::Allowed);
    assert_eq!(config.warnings, [Warning::LoopbackAllowed]);
    assert_eq!(config.metrics_listen, None);
    assert_eq!(config.log, Log { level: tracing::Level::DEBUG, format: LogFormat::Json });
    assert_eq!(config.limits.allocations_max, 65_536);
    assert_eq!(config.limits.lifetime_secs_max, 60);
    assert!(config.rfc5766_channel_numbers);
    assert_eq!(config.shards.unwrap().get(), 3);
}

#[test]
fn all_errors_are_listed_with_their_places() {
    let text = r#"realm = ""
colour = "red"
[listen]
udp = ["10.0.0.1", "10.0.0.1:0",
       "[::1]:3478", "[::1]:3478"]
[relay]
ports = "100-1"
[log]
level = "inof"
"#;
    assert_eq!(
        errors(text),
        [
            "t.toml:1:9: `realm` must have 1 to 64 bytes, and no control characters, quotes or \
             backslashes: each first answer to anybody carries it, and must not be much larger \
             than the question; shorten it",
            "t.toml:2:1: unknown key `colour` at the top level; known here: realm, listen, auth, \
             software, redirect, realms, relay, datapath, peers, metrics, log, limits, compat, \
             workers",
            "t.toml:4:8: `listen.udp` must be an address and a port like \"192.0.2.1:3478\", not \
             `10.0.0.1`; the port is missing: \"10.0.0.1:3478\"",
            "t.toml:4:20: `10.0.0.1:0` in `listen.udp` is on port 0; clients need a port that \
             they know, such as 3478",
            "t.toml:5:22: `[::1]:3478` stands twice in `listen.udp`; remove one",
            "t.toml:7:9: the range must go from a lower to a higher port, from 1 to 65535, not \
             `100-1`; write it like \"49152-65535\"",
            "t.toml:9:9: `level` must be one of \"error\", \"warn\", \"info\", \"debug\", \
             \"trace\", not `inof`; did you mean \"info\"?",
            "t.toml: nobody could use this relay: no user and no secret; add under [auth] either \
             secrets = [\"…\"] with a long random string (openssl rand -hex 32), secrets_file, \
             users = { name = \"password\" }, users_file or a [auth.redis] with `url`",
        ]
    );
}

#[test]
fn an_empty_file_lacks_exactly_what_is_required() {
    let shown = read("").unwrap_err();
    assert_eq!(errors("").len(), 3, "{shown}");
    for part in ["`realm` is missing", "no listening address", "no user and no secret"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(shown.starts_with("3 errors in t.toml\n"), "{shown}");
}

#[test]
fn unknown_keys_come_with_a_suggestion() {
    check(
        "[datapth]\n",
        "t.toml:7:2: unknown key `datapth` at the top level; did you mean `datapath`?",
    );
    check(
        "[log]\nlevle = 1\n",
        "t.toml:8:1: unknown key `levle` in `[log]`; did you mean `level`?",
    );
    check(
        "secret = \"x\"\n",
        "t.toml:7:1: unknown key `secret` in `[auth]`; did you mean `secrets`?",
    );
    check(
        "[limits]\nallocations-max = 5\n",
        "t.toml:8:1: unknown key `allocations-max` in `[limits]`; did you mean `allocations_max`?",
    );
    check(
        "[log]\nports = \"1-2\"\n",
        "t.toml:8:1: unknown key `ports` in `[log]`; `ports` belongs in `[relay]`",
    );
    check(
        "realm = \"x\"\n",
        "t.toml:7:1: unknown key `realm` in `[auth]`; `realm` belongs at the top, before the \
         first section",
    );
    check(
        "[log]\nzzzz = 1\n",
        "t.toml:8:1: unknown key `zzzz` in `[log]`; known here: level, format",
    );
}

#[test]
fn syntax_errors_are_all_listed_and_cause_no_others() {
    let found =
        errors("realm = \n[listen]\nudp = [\"192.0.2.1:3478\"]\nx = = 1\n[log]\nlevel = 3\n");
    let places: Vec<_> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert!(places.iter().any(|place| place.starts_with("t.toml:1:")), "{found:?}");
    assert!(places.iter().any(|place| place.starts_with("t.toml:4:")), "{found:?}");
    assert!(found.iter().any(|line| line.ends_with("must be a string, not a whole number")));
    assert!(!found.iter().any(|line| line.contains("missing;") || line.contains("no secret")));
}

#[test]
fn types_are_checked() {
    check("[log]\nlevel = 3\n", "t.toml:8:9: `level` must be a string, not a whole number");
    check(
        "[peers]\nallow = \"::/0\"\n",
        "t.toml:8:9: `allow` must be a list of strings, not a string",
    );
    check(
        "[peers]\ndeny = [\"::/0\", 1.5]\n",
        "t.toml:8:17: `deny` must be a list of strings, not a fraction",
    );
    check(
        "[limits]\nnonce_secs = \"1h\"\n",
        "t.toml:8:14: `nonce_secs` must be a whole number, not a string",
    );
    check(
        "[compat]\nrfc5766_channel_numbers = 1\n",
        "t.toml:8:27: `rfc5766_channel_numbers` must be true or false, not a whole number",
    );
    check_listen(
        "udp = [\"192.0.2.1:3478\"]\n[log]\n[relay]\nexternal = [\"192.0.2.1\"]\n",
        "t.toml:7:12: `external` must be a table of strings like { key = \"value\" }, not a list",
    );
    assert!(
        errors("log = 3")[0]
            .starts_with("t.toml:1:7: `[log]` must be a section, not a whole number")
    );
}

#[test]
fn limits_hold_at_the_limit_and_not_one_past() {
    let with = |line: &str| read(&format!("{MINIMAL}{line}\n"));
    for (section, key, low, high) in [
        ("limits", "allocations_max", 1, 65_536),
        ("limits", "permissions_per_allocation_max", 1, 65_536),
        ("limits", "channels_per_allocation_max", 1, 16_384),
        ("limits", "lifetime_secs_max", 600, 86_400),
        ("limits", "lifetime_secs_default", 1, 3600),
        ("limits", "nonce_secs", 1, 86_400),
        ("limits", "source_prefix_ipv4", 1, 32),
        ("limits", "source_prefix_ipv6", 1, 128),
        ("limits", "unauthenticated_replies_per_sec", 1, 1_000_000),
        ("workers", "shards", 0, 1024),
    ] {
        for fine in [low, high] {
            with(&format!("[{section}]\n{key} = {fine}")).unwrap();
        }
        for wrong in [low - 1, high + 1] {
            let shown = with(&format!("[{section}]\n{key} = {wrong}")).unwrap_err();
            assert!(shown.contains("\nt.toml:8:") && shown.contains(key), "{shown}");
        }
    }
    check(
        "[limits]\nnonce_secs = 99999999999999999999999\n",
        "t.toml:8:14: `nonce_secs` must be between 1 and 86400, not 99999999999999999999999",
    );
    check(
        "[limits]\nlifetime_secs_default = 0x1000\n",
        "t.toml:8:25: `lifetime_secs_default` (4096) is above `lifetime_secs_max` (3600); lower \
         the one or raise the other",
    );
}

#[test]
fn a_realm_has_1_to_64_bytes() {
    let with = |realm: &str| read(&MINIMAL.replace("example.org", realm));
    assert!(with(&"ü".repeat(32)).is_ok());
    assert!(with(&"a".repeat(65)).is_err());
    assert!(with("a\\u0007b").is_err());
    assert!(with("").is_err());
    // RFC 8489 §14.9.
    assert!(with("a\\\"b").is_err() && with("a\\\\b").is_err() && with("a'b").is_ok());
}

#[test]
fn listening_addresses_are_checked() {
    check_listen(
        "udp = []",
        "t.toml:4:7: no listening address; add: [listen] udp = [\"0.0.0.0:3478\", \
         \"[::]:3478\"], or only the addresses that clients use",
    );
    check_listen(
        "udp = [\"::1\"]",
        "t.toml:4:8: `listen.udp` must be an address and a port like \"192.0.2.1:3478\", not \
         `::1`; IPv6 needs brackets: \"[::1]:3478\"",
    );
    check_listen(
        "udp = [\"localhost:3478\"]",
        "t.toml:4:8: `listen.udp` must be an address and a port like \"192.0.2.1:3478\", not \
         `localhost:3478`; names are not looked up",
    );
    check_listen(
        "udp = [\"[::ffff:192.0.2.1]:3478\"]",
        "t.toml:4:8: `[::ffff:192.0.2.1]:3478` in `listen.udp` is an IPv4-mapped address; write \
         it as an IPv4 address",
    );
    check_listen(
        "udp = [\"224.0.0.1:3478\"]",
        "t.toml:4:8: `224.0.0.1:3478` in `listen.udp` is a multicast address; use a unicast one",
    );
}

#[test]
fn sixteen_listening_ports_are_supported_and_seventeen_are_not() {
    let with = |count: usize| {
        let list: Vec<_> = (0..count).map(|i| format!("\"192.0.2.1:{}\"", 1000 + i)).collect();
        format!("udp = [{}, \"192.0.2.2:1000\"]", list.join(", "))
    };
    let text = |listen: &str| MINIMAL.replace("udp = [\"192.0.2.1:3478\"]", listen);
    assert_eq!(read(&text(&with(16))).unwrap().listen_udp.len(), 17);
    let shown = read(&text(&with(17))).unwrap_err();
    assert!(shown.contains("17 different listening ports, but at most 16"), "{shown}");
}

#[test]
fn a_listening_port_is_no_relayed_port() {
    let clash = |addr: &str, place: &str| {
        format!(
            "t.toml:4:{place}: listening on {addr}, but its port is one of the relayed ports \
             3000-4000; listen on another port or move `[relay] ports`"
        )
    };
    let relay = "[relay]\nports = \"3000-4000\"";
    for port in [3000, 4000] {
        let addr = format!("192.0.2.1:{port}");
        check_listen(&format!("udp = [\"{addr}\"]\n{relay}"), &clash(&addr, "8"));
    }
    check_listen(
        &format!("udp = [\"0.0.0.0:3478\"]\n{relay}\naddresses = [\"10.0.0.1\"]"),
        &clash("0.0.0.0:3478", "8"),
    );
    let fine = "udp = [\"192.0.2.1:2999\", \"192.0.2.1:4001\"]\n[relay]\nports = \"3000-4000\"";
    read(&format!("realm = \"r\"\nauth.secrets = [\"s\"]\n[listen]\n{fine}")).unwrap();
}

#[test]
fn relay_addresses_are_checked() {
    check(
        "[relay]\naddresses = [\"0.0.0.0\"]",
        "t.toml:8:14: `0.0.0.0` in `relay.addresses` is a \
         wildcard; leave `addresses` out to relay on the listening addresses",
    );
    check(
        "[relay]\naddresses = [\"10.0.0.1:80\"]",
        "t.toml:8:14: `relay.addresses` must be an \
         address like \"192.0.2.1\", not `10.0.0.1:80`; leave the port out: \"10.0.0.1\"",
    );
    check(
        "[relay]\naddresses = [\"::1\", \"::1\", \"10.0.0.1\"]",
        "t.toml:8:21: `::1` stands twice in `relay.addresses`; remove one",
    );
    for ports in ["", "5", "0-5", "1-65536", "6-5", "a-b"] {
        check(
            &format!("[relay]\nports = \"{ports}\""),
            &format!(
                "t.toml:8:9: the range must go \
             from a lower to a higher port, from 1 to 65535, not `{ports}`; write it like \
             \"49152-65535\""
            ),
        );
    }
    let one = read(&format!("{MINIMAL}[relay]\nports = \"65535 - 65535\"")).unwrap();
    assert_eq!(one.relay.ports.count(), 1);
}

#[test]
fn an_external_address_is_of_the_same_family_and_of_a_relay_address() {
    check(
        "[relay]\nexternal = { \"192.0.2.1\" = \"2001:db8::1\" }",
        "t.toml:8:28: 2001:db8::1 is not of the family of 192.0.2.1; map IPv4 to IPv4 and IPv6 to \
         IPv6",
    );
    check(
        "[relay]\nexternal = { \"192.0.2.9\" = \"203.0.113.7\" }",
        "t.toml:8:14: 192.0.2.9 is no relay address; use one of: 192.0.2.1",
    );
    check(
        "[relay]\naddresses = [\"192.0.2.2\"]\nexternal = { \"192.0.2.1\" = \"203.0.113.7\" }",
        "t.toml:9:14: 192.0.2.1 is no relay address; use one of: 192.0.2.2",
    );
    check(
        "[relay]\nexternal = { \"192.0.2.1\" = \"0.0.0.0\" }",
        "t.toml:8:28: `0.0.0.0` in `relay.external` is a wildcard; name the address that clients \
         and peers see",
    );
    let wildcard = MINIMAL.replace("192.0.2.1:3478", "0.0.0.0:3478");
    let more = "[relay]\nexternal = { \"10.0.0.1\" = \"203.0.113.7\" }";
    assert_eq!(read(&format!("{wildcard}{more}")).unwrap().relay.external.len(), 1);
}

#[test]
fn networks_are_checked() {
    check(
        "[peers]\nallow = [\"10.0.0.1/8\"]",
        "t.toml:8:10: `10.0.0.1/8` is no network: host bits \
         are set; write `10.0.0.0/8`, or `10.0.0.1` for the one address",
    );
    check(
        "[peers]\ndeny = [\"10.0.0.0/33\"]",
        "t.toml:8:9: `deny` must be a network like \
         192.0.2.0/24 or an address, not `10.0.0.0/33`",
    );
}

#[test]
fn interface_names_are_checked() {
    for name in ["", "a/b", "a b", "sixteen-letters-"] {
        check(
            &format!("[datapath]\ninterfaces = [\"{name}\"]"),
            &format!(
                "t.toml:8:15: `{name}` is no \
             name of an interface: 1 to 15 characters, no `/`, no white space"
            ),
        );
    }
    check(
        "[datapath]\ninterfaces = [\"eth0\", \"eth0\"]",
        "t.toml:8:23: `eth0` stands twice in `datapath.interfaces`; remove one",
    );
}

#[test]
fn a_world_readable_file_with_credentials_and_an_ipv6_only_relay_are_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    fs::write(&path, MINIMAL.replace("192.0.2.1", "[2001:db8::1]")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = Config::load(&path).unwrap().warnings;
    assert_eq!(warnings, [Warning::WorldReadable(path.clone()), Warning::NoIpv4Relay]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(Config::load(&path).unwrap().warnings, [Warning::NoIpv4Relay]);
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let shown = Config::load(Path::new("/nonexistent/t.toml")).unwrap_err().to_string();
    assert!(shown.contains("turnpike config --example"), "{shown}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.toml"), b"realm = \"\xff\"").unwrap();
    let shown = Config::load(&dir.path().join("t.toml")).unwrap_err().to_string();
    assert!(shown.contains("must be UTF-8"), "{shown}");
}
