//! The example file tells the truth: every key, no other, and the real defaults.

use super::{errors, read};
use crate::config::{EXAMPLE, EXAMPLE_SECRET, sections};

/// Lines of the example that are a key, commented out or not: section, key, line number, value.
fn example_keys() -> Vec<(String, String, usize)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for (index, line) in EXAMPLE.lines().enumerate() {
        if line == REALMS {
            keys.push((String::new(), "realms".to_owned(), index));
            "[realms]".clone_into(&mut section);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (parent, key) = name.rsplit_once('.').unwrap_or(("", name));
            keys.push((parent.to_owned(), key.to_owned(), index));
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && !key.contains(' ')
        {
            keys.push((section.clone(), key.to_owned(), index));
        }
    }
    keys
}

/// The section that the example leaves out as a whole.
const REALMS: &str = "#[[realms]]";

/// Lines of what a key means nothing without.
fn companions(section: &str, key: &str) -> Vec<usize> {
    let (of, companions): (_, &[_]) = match (section, key) {
        ("[realms]", _) => (section, &["name", "listen", "users"]),
        (_, "token_server_name") => (section, &["tokens"]),
        (_, "domain" | "allocations") => (section, &["servers"]),
        _ => return Vec::new(),
    };
    let lines = example_keys().into_iter().filter(|(section, other, _)| {
        let is_header = of == "[realms]" && section.is_empty() && other == "realms";
        is_header || (section == of && other != key && companions.contains(&other.as_str()))
    });
    lines.map(|(_, _, index)| index).collect()
}

/// The example with more lines taken in.
fn example_with(uncommented: &[usize], secret: &str) -> String {
    let lines = EXAMPLE.lines().enumerate().map(|(index, line)| match line {
        "[auth]" => format!("[auth]\n{secret}"),
        _ if uncommented.contains(&index) => {
            line.trim_start_matches('#').replace(EXAMPLE_SECRET, "s2")
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_lacks_only_credentials() {
    let found = errors(EXAMPLE);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("no user and no secret"), "{found:?}");
    read(&example_with(&[], "secrets = [\"s1\"]")).unwrap();
}

#[test]
fn the_example_names_every_key_and_no_other() {
    let mut known: Vec<_> =
        sections::known_keys().iter().map(|(s, k)| ((*s).to_owned(), (*k).to_owned())).collect();
    let mut shown: Vec<_> = example_keys().into_iter().map(|(s, k, _)| (s, k)).collect();
    known.sort();
    shown.sort();
    assert_eq!(shown, known);
}

#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    // What has no default that could be written down: the example shows what a value looks like.
    const SAMPLES: [&str; 17] = [
        "name",
        "listen",
        "discovery",
        "external",
        "secrets",
        "secrets_file",
        "users",
        "users_file",
        "url",
        "ca_file",
        "tokens",
        "token_server_name",
        "servers",
        "domain",
        "allocations",
        "object",
        "pin",
    ];
    const DEFAULTS: [(&str, &str); 3] =
        [("auth.redis", "secrets"), ("metrics", "listen"), ("", "listen")];
    let defaults = read(&example_with(&[], "secrets = [\"s1\"]")).unwrap();
    for (section, key, index) in example_keys() {
        let line = EXAMPLE.lines().nth(index).unwrap();
        let is_sample = SAMPLES.contains(&key.as_str())
            && !DEFAULTS.contains(&(section.as_str(), key.as_str()));
        let companions = companions(&section, &key);
        let with_it = [companions.as_slice(), &[index]].concat();
        if key == "realms" {
            assert_eq!(line, REALMS);
        } else if is_sample {
            let secret =
                if key == "secrets" { "users = { a = \"b\" }" } else { "secrets = [\"s1\"]" };
            let before: Vec<_> = EXAMPLE.lines().take(index).collect();
            assert!(before[index - 1].ends_with("Example:"), "{line}");
            let before = read(&example_with(&companions, secret));
            match read(&example_with(&with_it, secret)) {
                Ok(changed) => assert_ne!(Ok(changed), before, "{line}"),
                // The file is not there: the name was understood.
                Err(shown) => assert!(key.ends_with("_file") && shown.contains("cannot be read")),
            }
        } else if line.starts_with('#') {
            let secret = "secrets = [\"s1\"]";
            let shown = read(&example_with(&with_it, secret));
            let defaults = match companions.as_slice() {
                [] => defaults.clone(),
                _ => read(&example_with(&companions, secret)).unwrap(),
            };
            assert_eq!(shown, Ok(defaults), "{line}");
        }
    }
}
