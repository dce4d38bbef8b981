//! `[[realms]]`.

use std::fs;

use super::{MINIMAL, errors, kept, minimal, read};
use crate::config::{Config, Secret, Warning};

const OTHER: &str = "[[realms]]\nname = \"other.example\"\nlisten = [\"192.0.2.7:3478\"]\n";

/// MINIMAL and other realms have exactly these errors.
#[track_caller]
fn check(more: &str, expected: &[&str]) {
    assert_eq!(errors(&format!("{MINIMAL}{more}")), expected, "{more}");
}

#[test]
fn every_key_of_a_realm_is_read() {
    assert_eq!(minimal().realms, []);
    let config = read(&format!(
        "{MINIMAL}{OTHER}users = {{ bob = \"pw\" }}\nsecrets = [\"s1\", \"s2\"]\n\
         [[realms]]\nname = \"third\"\nlisten = [\"0.0.0.0:99\", \"[2001:db8::1]:3478\"]\n\
         secrets = [\"s3\"]\nredis = false\n"
    ));
    let config = config.unwrap();
    let [other, third] = config.realms.as_slice() else { panic!("{:?}", config.realms) };
    assert_eq!((other.name.as_str(), third.name.as_str()), ("other.example", "third"));
    assert_eq!(other.listen, ["192.0.2.7:3478".parse().unwrap()]);
    assert_eq!(third.listen, ["0.0.0.0:99", "[2001:db8::1]:3478"].map(|a| a.parse().unwrap()));
    assert_eq!(other.listed.users["bob"], kept("bob", "pw", "other.example"));
    assert_eq!(other.listed.secrets, ["s1", "s2"].map(|secret| Secret::new(secret).unwrap()));
    assert!(!other.redis && !third.redis, "there is none");
    let names = config.every_realm().into_iter().map(|realm| realm.name);
    assert_eq!(names.collect::<Vec<_>>(), ["example.org", "other.example", "third"]);
    assert_eq!(config.every_listen().len(), 4);
    assert_eq!(config.listen_udp.len(), 1);
}

#[test]
fn redis_has_users_of_every_realm_that_does_not_say_otherwise() {
    let redis = "[auth.redis]\nurl = \"redis://10.0.0.9\"\n";
    let more = "[[realms]]\nname = \"own\"\nlisten = [\"192.0.2.8:3478\"]\nredis = false\n\
                secrets = [\"s\"]\n";
    let config = read(&format!("{MINIMAL}{redis}{OTHER}{more}")).unwrap();
    assert_eq!(
        config.every_realm().iter().map(|r| r.redis).collect::<Vec<_>>(),
        [true, true, false]
    );
    let nobody = "t.toml:7:1: nobody could use the realm `other.example`: no user and no secret; \
                  add to it secrets = [\"…\"] with a long random string (openssl rand -hex 32), \
                  secrets_file, users = { name = \"password\" } or users_file";
    check(OTHER, &[nobody]);
    check(&format!("{OTHER}redis = true"), &[nobody]);
    let slash = "realms that are in Redis must not have a `/` in their names where there are \
                 several, nor may the one at the top; rename it, or set redis = false";
    let odd = OTHER.replace("other.example", "a/b");
    check(&format!("{redis}{odd}"), &[&format!("t.toml:9:1: {slash}")]);
    let first = MINIMAL.replace("example.org", "a/b");
    assert_eq!(errors(&format!("{first}{redis}{OTHER}")), [format!("t.toml:9:1: {slash}")]);
    assert!(read(&format!("{first}{redis}{OTHER}redis = false\nsecrets = [\"s\"]")).is_ok());
    assert!(read(&format!("{first}{redis}")).is_ok(), "alone, it has nobody to be confused with");
    assert!(read(&format!("{MINIMAL}{odd}secrets = [\"s\"]")).is_ok());
}

#[test]
fn a_realm_has_a_name_an_address_and_somebody() {
    let no_name = "a realm without `name`; add a line such as: name = \"other.example.org\"";
    let no_listen = "a realm without a listening address; add: listen = [\"192.0.2.7:3478\"]; the \
                     address that a client asks is all that tells which realm it wants";
    check(
        "[[realms]]\nlisten = [\"192.0.2.7:1\"]\nsecrets = [\"s\"]",
        &[&format!("t.toml:7:1: {no_name}")],
    );
    check("[[realms]]\nname = \"a\"\nsecrets = [\"s\"]", &[&format!("t.toml:7:1: {no_listen}")]);
    check(
        &format!("{OTHER}secrets = [\"s\"]\n[[realms]]\nnam = \"a\"\nlisten = [\"192.0.2.8\"]\n"),
        &[
            &format!("t.toml:11:1: {no_name}"),
            "t.toml:12:1: unknown key `nam` in `[[realms]]`; did you mean `name`?",
            "t.toml:13:11: `realms.listen` must be an address and a port like \"192.0.2.1:3478\", \
             not `192.0.2.8`; the port is missing: \"192.0.2.8:3478\"",
        ],
    );
    check(
        &format!("{OTHER}users = {{ a = \"\" }}\nsecrets = [\"\"]"),
        &[
            "t.toml:10:11: the password is empty; set one",
            "t.toml:11:12: a secret is empty; set one (openssl rand -hex 32) or remove it",
        ],
    );
    let long = OTHER.replace("other.example", &"a".repeat(65));
    let bad = "`name` must have 1 to 64 bytes, and no control characters, quotes or backslashes: \
               each first answer to anybody carries it, and must not be much larger than the \
               question; shorten it";
    check(&format!("{long}secrets = [\"s\"]"), &[&format!("t.toml:8:8: {bad}")]);
    check(
        "realms = \"other\"",
        &["t.toml:7:1: unknown key `realms` in `[auth]`; \
             `realms` belongs at the top, before the first section"],
    );
    let text = format!("realms = [1]\n{MINIMAL}");
    assert_eq!(
        errors(&text),
        ["t.toml:1:11: `[[realms]]` must be written as a section for each, not a whole number"]
    );
    let text = format!("realms = 1\n{MINIMAL}");
    assert_eq!(
        errors(&text),
        ["t.toml:1:10: `[[realms]]` must be written as a section for each, not a whole number"]
    );
}

#[test]
fn no_name_and_no_address_stands_twice() {
    let twice = |name: &str| {
        format!(
            "the realm `{name}` stands twice; give it another name, or all its addresses in one"
        )
    };
    let other = format!("{OTHER}secrets = [\"s\"]\n");
    let elsewhere = other.replace("192.0.2.7", "192.0.2.8");
    check(&format!("{other}{elsewhere}"), &[&format!("t.toml:12:8: {}", twice("other.example"))]);
    check(
        &other.replace("other.example", "example.org"),
        &[&format!("t.toml:8:8: {}", twice("example.org"))],
    );
    let taken = |addr: &str| {
        format!(
            "{addr} is another realm's already; an address belongs to one realm: listen on another \
             address or port"
        )
    };
    let third = other.replace("other.example", "third");
    check(&format!("{other}{third}"), &[&format!("t.toml:13:11: {}", taken("192.0.2.7:3478"))]);
    check(
        &other.replace("192.0.2.7", "192.0.2.1"),
        &[&format!("t.toml:9:11: {}", taken("192.0.2.1:3478"))],
    );
    check(
        &other
            .replace("\"]", "\", \"192.0.2.7:3478\"]")
            .replace("[\"s\", \"192.0.2.7:3478\"]", "[\"s\"]"),
        &["t.toml:9:29: `192.0.2.7:3478` stands twice in `realms.listen`; remove one"],
    );
    // A wildcard stands for what nobody names; the same port of another address is another place.
    let wild = other.replace("192.0.2.7", "0.0.0.0");
    assert!(read(&format!("{MINIMAL}{wild}")).is_ok());
    let wild = MINIMAL.replace("192.0.2.1", "0.0.0.0");
    assert!(read(&format!("{wild}{other}")).is_ok());
    // What discovery listens to is the default realm's.
    let text =
        MINIMAL.replace("[auth]", "discovery = [\"192.0.2.7:3478\", \"192.0.2.8:3479\"]\n[auth]");
    assert_eq!(
        errors(&format!("{text}{other}")),
        [format!("t.toml:10:11: {}", taken("192.0.2.7:3478"))]
    );
}

#[test]
fn addresses_of_realms_are_listening_addresses_everywhere() {
    let other = format!("{OTHER}secrets = [\"s\"]\n");
    let relayed = other.replace(":3478", ":50000");
    check(
        &relayed,
        &["t.toml:9:11: listening on 192.0.2.7:50000, but its port is one of the relayed ports \
           49152-65535; listen on another port or move `[relay] ports`"],
    );
    let external = "[relay]\nexternal = { \"192.0.2.7\" = \"203.0.113.7\" }\n";
    assert!(read(&format!("{MINIMAL}{external}{other}")).is_ok());
    let ports: String = (1..=16).map(|port| format!("\"192.0.2.7:{port}\",")).collect();
    let many = other.replace("\"192.0.2.7:3478\"", &ports);
    let found = errors(&format!("{MINIMAL}{many}"));
    assert!(found[0].contains("17 different listening ports, but at most 16"), "{found:?}");
}

#[test]
fn there_are_so_many_realms() {
    let realms = |count: usize| -> String {
        let realm = |n: usize| {
            format!(
                "[[realms]]\nname = \"r{n}\"\nlisten = [\"10.0.{}.{}:1\"]\nsecrets = [\"s\"]\n",
                n / 250,
                n % 250 + 1
            )
        };
        MINIMAL.to_owned() + &(0..count).map(realm).collect::<String>()
    };
    assert_eq!(read(&realms(255)).unwrap().every_realm().len(), 256);
    let found = errors(&realms(256));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("at most 256 realms are supported; use fewer"), "{found:?}");
}

#[test]
fn files_of_realms_are_read_and_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    fs::write(dir.path().join("users"), "carol:one\n").unwrap();
    let text = format!("{MINIMAL}{OTHER}users_file = \"users\"\nsecrets_file = \"none\"\n");
    fs::write(&path, &text).unwrap();
    let shown = Config::load(&path).unwrap_err().to_string();
    assert!(shown.contains("t.toml:11:16: ") && shown.contains("none cannot be read"), "{shown}");
    fs::write(&path, text.replace("secrets_file = \"none\"\n", "")).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.realms[0].listed.users["carol"], kept("carol", "one", "other.example"));
    assert_eq!(config.realms[0].sources.files().count(), 1);
    assert_eq!(config.auth.sources.files().count(), 0);
    let world_readable = config.warnings.iter().filter(|w| matches!(w, Warning::WorldReadable(_)));
    assert_eq!(world_readable.count(), 2, "each file once: {:?}", config.warnings);
}

#[test]
fn userhash_with_secrets_of_any_realm_is_warned_of() {
    let text = "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\n[auth]\nuserhash = true\n\
                users = { a = \"b\" }\n";
    assert_eq!(read(text).unwrap().warnings, []);
    let other = format!("{text}{OTHER}users = {{ a = \"b\" }}\n");
    assert_eq!(read(&other).unwrap().warnings, []);
    let other = format!("{text}{OTHER}secrets = [\"s\"]\n");
    assert_eq!(read(&other).unwrap().warnings, [Warning::UserhashWithSecrets]);
}
