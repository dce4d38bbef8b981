//! The example file tells the truth: every key, no other, and the real defaults.

use super::{errors, read};
use crate::config::{EXAMPLE, EXAMPLE_SECRET, sections};

/// Lines of the example that are a key, commented out or not: section, key, line number, value.
fn example_keys() -> Vec<(String, String, usize)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for (index, line) in EXAMPLE.lines().enumerate() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
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

/// What a key means nothing without.
fn companion(key: &str) -> Option<usize> {
    let companion = match key {
        "token_server_name" => "tokens",
        "domain" | "allocations" => "servers",
        _ => return None,
    };
    example_keys().into_iter().find(|(_, key, _)| key == companion).map(|(_, _, index)| index)
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
    const SAMPLES: [&str; 14] = [
        "discovery",
        "external",
        "secrets",
        "secrets_file",
        "users",
        "users_file",
        "url",
        "tokens",
        "token_server_name",
        "servers",
        "domain",
        "allocations",
        "object",
        "pin",
    ];
    let defaults = read(&example_with(&[], "secrets = [\"s1\"]")).unwrap();
    for (section, key, index) in example_keys() {
        let line = EXAMPLE.lines().nth(index).unwrap();
        let is_sample = SAMPLES.contains(&key.as_str())
            && (section.as_str(), key.as_str()) != ("auth.redis", "secrets");
        if is_sample {
            let secret =
                if key == "secrets" { "users = { a = \"b\" }" } else { "secrets = [\"s1\"]" };
            let before: Vec<_> = EXAMPLE.lines().take(index).collect();
            assert!(before[index - 1].ends_with("Example:"), "{line}");
            let companion = companion(&key);
            let before = read(&example_with(companion.as_slice(), secret));
            match read(&example_with(&[companion.unwrap_or(index), index], secret)) {
                Ok(changed) => assert_ne!(Ok(changed), before, "{line}"),
                // The file is not there: the name was understood.
                Err(shown) => assert!(key.ends_with("_file") && shown.contains("cannot be read")),
            }
        } else if line.starts_with('#') {
            let shown = read(&example_with(&[index], "secrets = [\"s1\"]"));
            assert_eq!(shown.as_ref(), Ok(&defaults), "{line}");
        }
    }
}
