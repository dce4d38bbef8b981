//! `turnpike config` and `turnpike credentials`, run as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn turnpike(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turnpike")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn write(dir: &Path, content: &str) -> String {
    let path = dir.join("turnpike.toml");
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_printed_example_is_good_once_it_has_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let example = turnpike(&["config", "--example"]);
    assert!(example.status.success());
    let example = text(&example.stdout);

    let path = write(dir.path(), example);
    let refused = turnpike(&["config", "--check", &path]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("no user and no secret"));

    let placeholder = "#secrets = [\"REPLACE-ME\"]";
    assert!(example.contains(placeholder));
    // The first of them is [auth]'s; other realms have their own.
    write(dir.path(), &example.replacen(placeholder, "secrets = [\"REPLACE-ME\"]", 1));
    let refused = turnpike(&["config", "--check", &path]);
    assert!(text(&refused.stderr).contains("placeholder"));

    write(dir.path(), &example.replacen(placeholder, "secrets = [\"north\"]", 1));
    let taken = turnpike(&["config", "--check", &path]);
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    assert_eq!(text(&taken.stdout), format!("{path}: no errors\n"));
}

#[test]
fn every_error_of_a_file_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "relam = \"x\"\n[auth]\nsecrets = [\"north\", \"\"]\n");
    for args in [&["config", "--check", &path][..], &["serve", "--config", &path]] {
        let refused = turnpike(args);
        assert!(!refused.status.success());
        let shown = text(&refused.stderr);
        let parts = [
            format!("{path}:1:1: unknown key `relam`"),
            "did you mean `realm`?".to_owned(),
            format!("{path}:3:21: a secret is empty"),
            format!("{path}: `realm` is missing"),
            format!("{path}: no listening address"),
        ];
        for part in parts {
            assert!(shown.contains(&part), "{part} not in {shown}");
        }
        assert!(!shown.contains("north") && !shown.contains("panicked"), "{shown}");
    }
}

#[test]
fn credentials_come_with_a_snippet_for_browsers() {
    let dir = tempfile::tempdir().unwrap();
    let content = "realm = \"x\"\nlisten.udp = [\"192.0.2.1:3478\"]\nauth.secrets = [\"north\"]\n";
    let path = write(dir.path(), content);
    let made = turnpike(&["credentials", "--config", &path, "--user", "alice", "--lifetime", "60"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let shown = text(&made.stdout);
    let username = shown.lines().find_map(|line| line.strip_prefix("username: ")).unwrap();
    assert!(username.ends_with(":alice"), "{username}");
    let json = &shown[shown.find('{').unwrap()..];
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let server = &json["iceServers"][0];
    assert_eq!(server["urls"][0], "turn:192.0.2.1:3478?transport=udp");
    assert_eq!(server["username"], username);
    assert!(shown.contains(&format!("password: {}\n", server["credential"].as_str().unwrap())));
}
