//! Rules about crates: who may depend on whom, what the pure core may name, and where `unsafe` is
//! forbidden for good.

use toml::Table;

use super::{Finding, Tree, code, files::UNSAFE_FILES, line_of, word_positions};

/// The state machine's manifest and everything it may depend on: values in, values out.
const CORE_MANIFEST: &str = "relay-userspace/turn/Cargo.toml";
const CORE_SOURCES: &str = "relay-userspace/turn/src/";
const CORE_DEPENDENCIES: &[&str] = &[
    "aes-gcm",
    "base64",
    "hmac",
    "ipnet",
    "litemap",
    "md-5",
    "rand_chacha",
    "relay-common",
    "sha1",
    "sha2",
    "siphasher",
    "subtle",
    "zeroize",
];

/// What the core may not name: each is an effect that a driver owns. The simulation owns time.
const CORE_EFFECTS: &[&str] = &[
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
];

/// The same as the last four, for `use std::{fs, thread}`.
const CORE_EFFECT_MODULES: &[&str] = &["env", "fs", "process", "thread"];

/// The load generator measures from outside, as it measures other servers.
const BENCH_MANIFEST: &str = "bench/Cargo.toml";
const BENCH_FORBIDDEN: &[&str] = &["relay-userspace", "relay-turn"];

const FORBID: &str = "#![forbid(unsafe_code)]";

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    core_dependencies(tree, findings);
    core_effects(tree, findings);
    bench_dependencies(tree, findings);
    crate_roots(tree, findings);
}

fn core_dependencies(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some(manifest) = manifest(tree, CORE_MANIFEST, findings) else { return };
    let mut found = dependencies(&manifest, &["dependencies"]);
    found.sort_unstable();
    if found != CORE_DEPENDENCIES {
        let why = format!("depends on {found:?}, and may on exactly {CORE_DEPENDENCIES:?}");
        findings.push(finding(CORE_MANIFEST, 1, "core-dependencies", why));
    }
    let at_build = dependencies(&manifest, &["build-dependencies"]);
    if !at_build.is_empty() {
        let why = format!("needs {at_build:?} to build, and may need nothing");
        findings.push(finding(CORE_MANIFEST, 1, "core-dependencies", why));
    }
}

fn core_effects(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.texts(CORE_SOURCES, ".rs") {
        let blanked = code::blank(text);
        let mut hits: Vec<(usize, &str)> = Vec::new();
        for effect in CORE_EFFECTS {
            hits.extend(word_positions(&blanked, effect).into_iter().map(|at| (at, *effect)));
        }
        hits.extend(grouped_imports(&blanked));
        for (at, effect) in hits {
            let why = format!("{effect}: the core has no sockets, clock, threads, files, settings");
            findings.push(finding(path, line_of(&blanked, at), "core-effects", why));
        }
    }
}

/// `use std::{…}` items whose first segment is an effect.
fn grouped_imports(blanked: &str) -> Vec<(usize, &'static str)> {
    let mut hits = Vec::new();
    for (start, opening) in blanked.match_indices("std::{") {
        let body = start + opening.len();
        let mut depth = 0_i32;
        let mut item = true;
        for (at, c) in blanked[body..].char_indices() {
            let rest = &blanked[body + at..];
            if item && !c.is_whitespace() {
                let first = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                let effect = CORE_EFFECT_MODULES.iter().find(|module| first == Some(**module));
                hits.extend(effect.map(|module| (body + at, *module)));
                item = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item = true,
                _ => {}
            }
        }
    }
    hits
}

fn bench_dependencies(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some(manifest) = manifest(tree, BENCH_MANIFEST, findings) else { return };
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    for name in dependencies(&manifest, &tables) {
        if BENCH_FORBIDDEN.contains(&name.as_str()) {
            let why = format!("depends on {name}, but must measure from outside");
            findings.push(finding(BENCH_MANIFEST, 1, "bench-dependencies", why));
        }
    }
}

/// A missing or broken manifest is a finding: a rule about it would hold for nothing.
fn manifest(tree: &Tree, path: &str, findings: &mut Vec<Finding>) -> Option<Table> {
    let table = tree.text(path).and_then(|text| text.parse::<Table>().ok());
    if table.is_none() {
        let why = "not there or not TOML, but a rule of tidy is about it".to_owned();
        findings.push(finding(path, 1, "manifest", why));
    }
    table
}

/// Names in these tables, also in their `[target.'…'.…]` form; renamed ones by their real name.
fn dependencies(manifest: &Table, tables: &[&str]) -> Vec<String> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(|targets| targets.values());
    let scopes = platforms.filter_map(toml::Value::as_table).chain([manifest]);
    scopes
        .flat_map(|scope| tables.iter().filter_map(|name| scope.get(*name)?.as_table()))
        .flatten()
        .map(|(name, value)| {
            let real = value.get("package").and_then(toml::Value::as_str);
            real.unwrap_or(name).to_owned()
        })
        .collect()
}

fn crate_roots(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.texts("", ".rs") {
        let Some((package, root)) = path.rsplit_once("src/") else { continue };
        let in_bin = root.strip_prefix("bin/").is_some_and(|name| !name.contains('/'));
        if (root == "lib.rs" || root == "main.rs" || in_bin)
            && tree.has(&format!("{package}Cargo.toml"))
            && !may_hold_unsafe(path, &format!("{package}src/"))
            && !code::blank(text).contains(FORBID)
        {
            let why = format!("a crate without unsafe code says so: {FORBID}");
            findings.push(finding(path, 1, "forbid-unsafe", why));
        }
    }
}

/// A root cannot forbid what one of its modules is listed for. Another root's file is no excuse.
fn may_hold_unsafe(root: &str, sources: &str) -> bool {
    UNSAFE_FILES.iter().any(|listed| {
        let is_root = |name: &str| name == "lib.rs" || name == "main.rs";
        *listed == root || listed.strip_prefix(sources).is_some_and(|name| !is_root(name))
    })
}

fn finding(path: &str, line: usize, rule: &'static str, why: String) -> Finding {
    Finding { file: path.to_owned(), line, rule, why }
}

#[cfg(test)]
mod tests {
    use super::{super::brief, *};

    #[test]
    fn the_core_depends_on_exactly_the_list() {
        let core = |text: &str| brief(core_dependencies, &[(CORE_MANIFEST, text)]);
        let listed: String =
            CORE_DEPENDENCIES.iter().map(|name| format!("{name} = \"1\"\n")).collect();
        let good = format!("[dependencies]\n{listed}");
        assert_eq!(core(&good), [""; 0]);
        assert_eq!(core(&format!("{good}[dev-dependencies]\nproptest = \"1\"")), [""; 0]);
        for bad in [
            "[dependencies]".to_owned(),
            format!("{good}tokio = \"1\""),
            format!("{good}[target.'cfg(unix)'.dependencies]\nlibc = \"1\""),
            format!("{good}[build-dependencies]\ncc = \"1\""),
        ] {
            assert_eq!(core(&bad), ["1 core-dependencies"], "{bad}");
        }
        assert_eq!(core("not toml ["), ["1 manifest"]);
        assert_eq!(brief(core_dependencies, &[]), ["1 manifest"]);
    }

    #[test]
    fn the_core_names_no_effect() {
        let core =
            |text: &str| brief(core_effects, &[("relay-userspace/turn/src/allocate.rs", text)]);
        assert_eq!(core("use std::net::{IpAddr, SocketAddr}; // std::fs\n"), [""; 0]);
        assert_eq!(core("use std::{collections::{HashMap, hash_map}, time::Duration};"), [""; 0]);
        for bad in CORE_EFFECTS {
            assert_eq!(core(&format!("\nuse {bad};")), ["2 core-effects"], "{bad}");
        }
        assert_eq!(core("use std::{\n    fmt,\n    fs::File,\n};"), ["3 core-effects"]);
        assert_eq!(core("use std::{fmt::{self}, thread};"), ["1 core-effects"]);
        assert_eq!(brief(core_effects, &[("relay-userspace/src/a.rs", "use std::fs;")]), [""; 0]);
    }

    #[test]
    fn bench_stands_outside() {
        let bench = |text: &str| brief(bench_dependencies, &[(BENCH_MANIFEST, text)]);
        assert_eq!(bench("[dependencies]\nrelay-common.workspace = true"), [""; 0]);
        for bad in [
            "[dependencies]\nrelay-turn.workspace = true",
            "[dev-dependencies]\nrelay-userspace = { path = \"../relay-userspace\" }",
            "[dependencies]\nturn = { package = \"relay-turn\", path = \"x\" }",
        ] {
            assert_eq!(bench(bad), ["1 bench-dependencies"], "{bad}");
        }
    }

    #[test]
    fn a_crate_root_forbids_unsafe_unless_listed() {
        let root = |path: &str, manifest: &str, text: &str| {
            brief(crate_roots, &[(path, text), (manifest, "")])
        };
        for path in ["a/src/lib.rs", "a/src/main.rs", "a/src/bin/tool.rs"] {
            assert_eq!(root(path, "a/Cargo.toml", FORBID), [""; 0], "{path}");
            assert_eq!(root(path, "a/Cargo.toml", ""), ["1 forbid-unsafe"], "{path}");
            let comment = format!("// {FORBID}");
            assert_eq!(root(path, "a/Cargo.toml", &comment), ["1 forbid-unsafe"], "{path}");
        }
        assert_eq!(root("a/src/module.rs", "a/Cargo.toml", ""), [""; 0]);
        assert_eq!(root("relay-ebpf/src/main.rs", "relay-ebpf/Cargo.toml", ""), [""; 0]);
        // The listed file is another root: the library beside it has no excuse.
        let library = root("relay-ebpf/src/lib.rs", "relay-ebpf/Cargo.toml", "");
        assert_eq!(library, ["1 forbid-unsafe"]);
    }
}
