//! `[auth]`, and the files it names.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{MINIMAL, check, check_auth, kept, minimal, read};
use crate::config::{Config, Secret, SharedSecrets, Warning};

#[test]
fn every_key_of_redis_is_read() {
    let text = r#"
        [auth.redis]
        url = "redis://:hush@10.0.0.9/2"
        prefix = "t"
        secrets = "set"
        timeout_ms = 10
        cache_secs = 2
        negative_cache_secs = 3
        stale_secs = 0
        secrets_refresh_secs = 4
        look_ups_per_sec = 5
        "#;
    let config = read(&format!("{MINIMAL}{text}")).unwrap();
    let redis = config.auth.redis.unwrap();
    assert_eq!(redis.url.expose(), "redis://:hush@10.0.0.9/2");
    assert_eq!((redis.prefix.as_str(), redis.shared_secrets), ("t", SharedSecrets::Set));
    assert_eq!((redis.timeout_ms, redis.cache_secs, redis.negative_cache_secs), (10, 2, 3));
    assert_eq!((redis.stale_secs, redis.secrets_refresh_secs), (0, 4));
    assert_eq!(redis.look_ups_per_sec, 5);
}

#[test]
fn credentials_are_checked() {
    check_auth(
        "secrets = [\"\"]",
        &["t.toml:4:12: a secret is empty; set one (openssl rand -hex 32) or remove it"],
    );
    check_auth("users = { alice = \"\" }", &["t.toml:4:11: the password is empty; set one"]);
    check_auth(
        "users = { \"\" = \"x\" }",
        &["t.toml:4:11: a user name must have 1 to 508 bytes and no \
         control characters (RFC 8489 §14.3); change it"],
    );
    let placeholder =
        "this is still the example's placeholder; make your own: openssl rand -hex 32";
    check_auth(
        "secrets = [\"REPLACE-ME\"]\nusers = { a = \"REPLACE-ME\" }",
        &[&format!("t.toml:4:12: {placeholder}"), &format!("t.toml:5:11: {placeholder}")],
    );
    let key = "8493fbc53ba582fb4c044c456bdc40eb";
    let config = read(&format!("{MINIMAL}users = {{ user = \"0x{key}\" }}")).unwrap();
    assert_eq!(config.auth.listed.users["user"], relay_turn::Secret::key(key).unwrap());
    let not_a_key = "t.toml:4:11: a password that starts with `0x` is a key (turnadmin -k prints \
                     one), and 32 hexadecimal digits must follow; correct it, or choose another \
                     password";
    check_auth(&format!("users = {{ user = \"0x{}\" }}", &key[1..]), &[not_a_key]);
    check_auth("users = { user = \"0x\" }", &[not_a_key]);
    let long = |bytes| format!("{MINIMAL}users = {{ {} = \"x\" }}", "a".repeat(bytes));
    assert!(read(&long(508)).is_ok());
    assert!(read(&long(509)).is_err());
}

#[test]
fn redis_is_asked_if_it_has_a_url() {
    assert_eq!(minimal().auth.redis, None);
    let alone = "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\n[auth.redis]\n";
    assert!(read(alone).unwrap_err().contains("no user and no secret"));
    for url in [
        "redis://10.0.0.9",
        "redis://a:b@[::1]:1/3",
        "redis+unix:///run/redis.sock",
        "rediss://:hush@redis.example.org:6380/1",
    ] {
        let redis = read(&format!("{alone}url = \"{url}\"\n")).unwrap().auth.redis.unwrap();
        assert_eq!(redis.url.expose(), url);
        assert_eq!((redis.prefix.as_str(), redis.timeout_ms), ("turn", 500));
        assert_eq!(
            (redis.cache_secs, redis.negative_cache_secs, redis.stale_secs),
            (300, 10, 3600)
        );
        assert_eq!((redis.secrets_refresh_secs, redis.look_ups_per_sec), (10, 64));
        assert_eq!(redis.shared_secrets, SharedSecrets::Keys);
    }
    let bad_url = "`url` must be rediss://[USER:PASSWORD@]HOST[:PORT][/DATABASE] (TLS), redis://… \
                   the same without TLS, for a network that nobody listens to, or \
                   redis+unix:///SOCKET";
    for url in ["", "10.0.0.9:6379", "rediss://h#insecure", "http://x", "redis://h/hush"] {
        check(&format!("[auth.redis]\nurl = \"{url}\""), &format!("t.toml:8:7: {bad_url}"));
    }
    check(
        "[auth.redis]\nurl = \"redis://h\"\nprefix = \"\"",
        "t.toml:9:10: `prefix` must not be empty or have control characters; \"turn\" is the \
         usual one",
    );
    check(
        "[auth.redis]\ntimeout_ms = 9",
        "t.toml:8:14: `timeout_ms` must be between 10 and 10000, not 9",
    );
    check(
        "[auth.redis]\nsecrets = \"list\"",
        "t.toml:8:11: `secrets` must be one of \"keys\", \"set\", \"off\", not `list`",
    );
    check(
        "[auth.redis]\nuri = \"x\"",
        "t.toml:8:1: unknown key `uri` in `[auth.redis]`; did you mean `url`?",
    );
}

#[test]
fn a_file_has_an_end() {
    let path = |file: &str| format!("{MINIMAL}users_file = \"{file}\"\n");
    let shown = read(&path("/dev/zero")).unwrap_err();
    assert!(shown.contains("/dev/zero cannot be read") && shown.contains("16 MiB"), "{shown}");
    assert!(read(&path("/dev/null")).unwrap_err().contains("there is nothing in it"));
}

#[test]
fn whom_redis_is_vouched_for_by_is_read_and_only_for_tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["redis.example.org".to_owned()]).unwrap();
    let pem = made.cert.pem();
    fs::write(dir.path().join("ca.pem"), &pem).unwrap();
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(dir.path().join("junk.pem"), pem.replace("MII", "JJJ")).unwrap();
    let load = |url: &str, file: &str| {
        let path = dir.path().join("t.toml");
        let text = format!("{MINIMAL}[auth.redis]\nurl = \"{url}\"\nca_file = \"{file}\"\n");
        fs::write(&path, text).unwrap();
        Config::load(&path).map(|config| config.auth.redis.unwrap().ca)
    };
    assert_eq!(load("rediss://h", "ca.pem").unwrap(), Some(pem.into_bytes()));
    for (url, file, said) in [
        ("rediss://h", "none.pem", "t.toml:9:11: "),
        ("rediss://h", "none.pem", "none.pem cannot be read"),
        ("rediss://h", "key.pem", "key.pem has no certificates in PEM, or one that is none"),
        ("rediss://h", "junk.pem", "junk.pem has no certificates in PEM, or one that is none"),
        ("redis://h", "ca.pem", "9:11: `ca_file` is for TLS; write `url` as rediss://…, or remove"),
        ("redis+unix:///s", "ca.pem", "`ca_file` is for TLS"),
    ] {
        let shown = load(url, file).unwrap_err().to_string();
        assert!(shown.starts_with("1 error in") && shown.contains(said), "{shown}");
    }
    assert_eq!(minimal().auth.redis, None);
}

#[test]
fn files_are_read_again_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("users", "alice:one\n");
    write("secrets", "north\n");
    write(
        "t.toml",
        "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\n[auth]\nusers = { bob = \"b\" }\n\
         users_file = \"users\"\nsecrets_file = \"secrets\"\n",
    );
    let auth = Config::load(&dir.path().join("t.toml")).unwrap().auth;
    assert_eq!(auth.sources.files().count(), 2);
    let again = auth.sources.read_again().unwrap();
    assert_eq!(again.listed, auth.listed);
    write("users", "alice:two\ncarol:0x8493fbc53ba582fb4c044c456bdc40eb\n");
    let listed = auth.sources.read_again().unwrap().listed;
    let names: Vec<_> = listed.users.keys().collect();
    assert_eq!(names, ["alice", "bob", "carol"]);
    assert_eq!(listed.users["alice"], kept("alice", "two", "r"));
    write("users", "alice:hush\nbob:hush\ncarol:0xhush\n");
    fs::remove_file(dir.path().join("secrets")).unwrap();
    let lines: Vec<_> = auth.sources.read_again().err().unwrap().lines().collect();
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{}:2:1: this user is defined", at("users"))));
    assert!(lines[1].starts_with(&format!("{}:3:1: a password that", at("users"))));
    assert!(lines[2].starts_with(&format!("{0}: {0} cannot be read", at("secrets"))), "{lines:?}");
    assert!(!lines.concat().contains("hush"));
}

#[test]
fn secrets_are_never_shown() {
    let config = read(&format!("{MINIMAL}users = {{ alice = \"wonderland\" }}")).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("alice") && !shown.contains("wonderland") && !shown.contains("s3cr3t"));
    for broken in [
        "users = { alice = \"wonderland\" ",
        "users = { alice = \"wonderland\", alice = \"wonderland\" }",
        "secrets = [\"wonderland\"]",
        "users = \"wonderland\"",
        "users = [\"wonderland\"]",
        "users = { \"\" = \"wonderland\" }",
        "users = { alice = \"wonderland }",
        "users.alice.wonder = \"wonderland\"",
        "users = { alice = \"0xwonderland\" }",
        "redis.url = \"redis://:wonderland@h:99999\"",
        "redis.url = \"redis://h/:wonderland@h\"",
        "redis.prefix = \"x\"\nredis.url = { a = \"wonderland\" }",
    ] {
        let shown = read(&format!("{MINIMAL}{broken}")).unwrap_err();
        assert!(!shown.contains("wonderland"), "{shown}");
    }
}

#[test]
fn users_and_secrets_are_read_from_files_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        fs::write(dir.path().join(name), text).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("secrets", "# rotated in May\n\n  first  \nsecond\n", 0o600);
    write("users", "alice:wonder:land\nbob:builder\n", 0o644);
    let path = dir.path().join("t.toml");
    let text = "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\n[auth]\n\
                secrets_file = \"secrets\"\n\
                users_file = \"users\"\n";
    write("t.toml", text, 0o644);
    let config = Config::load(&path).unwrap();
    let secrets: Vec<_> = config.auth.listed.secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["first", "second"]);
    assert_eq!(config.auth.listed.users["alice"], kept("alice", "wonder:land", "r"));
    assert_eq!(config.warnings, [Warning::WorldReadable(dir.path().join("users"))]);

    write("t.toml", &format!("{text}users = {{ bob = \"x\" }}\n"), 0o644);
    write("secrets", "# nothing yet\n", 0o600);
    write("users", "alice\nbob:builder\ncarol:\n", 0o600);
    let shown = Config::load(&path).unwrap_err().to_string();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let expected = [
        format!("4 errors in {}", at("t.toml")),
        format!("{}:1:1: no `:` in this line; a line must be NAME:PASSWORD", at("users")),
        format!("{}:2:1: this user is defined before; remove one of the definitions", at("users")),
        format!("{}:3:1: the password is empty; set one", at("users")),
        format!("{}: there is nothing in it; add secrets, one on each line", at("secrets")),
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);

    fs::remove_file(dir.path().join("users")).unwrap();
    let shown = Config::load(&path).unwrap_err().to_string();
    let missing = format!("{}:5:14: {} cannot be read", at("t.toml"), at("users"));
    assert!(shown.contains(&missing), "{shown}");
}
