//! `cargo xtask tidy`: the house rules that rustfmt, clippy and the compiler cannot see.
//! Reads the tree as git sees it, uncommitted files included; changes nothing.

mod code;
mod crates;
mod files;
mod links;
mod reasons;
mod rows;

use std::{fmt, fs, process::ExitCode};

use anyhow::{Context, Result};

use crate::host;

/// One broken rule in one place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    file: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, rule, why } = self;
        write!(f, "{file}:{line}: {rule}: {why}")
    }
}

/// The tree under check; in tests, a few lines in memory.
pub(crate) struct Tree {
    files: Vec<File>,
}

/// A file that is in git, or would be after `git add --all`.
struct File {
    /// From the top of the checkout, with `/`.
    path: String,
    bytes: Vec<u8>,
}

impl File {
    /// `None` for what a person cannot read in a diff.
    fn text(&self) -> Option<&str> {
        if self.bytes.contains(&0) { None } else { std::str::from_utf8(&self.bytes).ok() }
    }
}

impl Tree {
    fn of_this_checkout() -> Result<Self> {
        let mut git = host::command("git");
        // NUL-separated: git quotes unusual names otherwise.
        git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        let names = host::output(&mut git).context("tidy reads the tree through git")?;
        let mut files = Vec::new();
        for path in names.split('\0').filter(|name| !name.is_empty()) {
            let absolute = host::root().join(path);
            // In the index, but deleted in the working tree, or a symbolic link to a directory.
            if absolute.is_file() {
                let bytes = fs::read(&absolute).with_context(|| format!("cannot read {path}"))?;
                files.push(File { path: path.to_owned(), bytes });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { files })
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).and_then(File::text)
    }

    /// Path and text of every readable file whose path starts and ends like this.
    fn texts<'a>(
        &'a self,
        prefix: &'a str,
        suffix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |file| file.path.starts_with(prefix) && file.path.ends_with(suffix))
            .filter_map(|file| Some((file.path.as_str(), file.text()?)))
    }

    /// Whether a file has this path, or a directory with files does.
    fn has(&self, path: &str) -> bool {
        let inside = |file: &File| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        path.is_empty() || self.files.iter().any(inside)
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), bytes: text.into() };
        Self { files: files.iter().map(file).collect() }
    }
}

pub(crate) fn main() -> Result<ExitCode> {
    let findings = check()?;
    if findings.is_empty() {
        println!("tidy: nothing to say");
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

/// Checks this checkout and prints each finding as `file:line: rule: why`.
///
/// # Errors
/// git or a file cannot be read.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let findings = findings(&Tree::of_this_checkout()?);
    for finding in &findings {
        println!("{finding}");
    }
    Ok(findings)
}

fn findings(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    files::check(tree, &mut findings);
    crates::check(tree, &mut findings);
    reasons::check(tree, &mut findings);
    links::check(tree, &mut findings);
    rows::check(tree, &mut findings);
    findings
}

/// The line of byte `at`, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// Where `word` stands in `text` on its own: not inside a longer identifier.
fn word_positions(text: &str, word: &str) -> Vec<usize> {
    let part_of_identifier = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(part_of_identifier) && !after.is_some_and(part_of_identifier)
        })
        .collect()
}

/// For the rules' tests: `line rule` of every finding.
#[cfg(test)]
fn brief(check: fn(&Tree, &mut Vec<Finding>), files: &[(&str, &str)]) -> Vec<String> {
    let mut findings = Vec::new();
    check(&Tree::of(files), &mut findings);
    findings.iter().map(|finding| format!("{} {}", finding.line, finding.rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_file_line_rule_why() {
        let finding = Finding { file: "a.rs".into(), line: 3, rule: "words", why: "no".into() };
        assert_eq!(finding.to_string(), "a.rs:3: words: no");
    }

    #[test]
    fn a_word_is_not_found_inside_an_identifier() {
        assert_eq!(word_positions("unsafe_code unsafe{ xunsafe", "unsafe"), [12]);
    }

    #[test]
    fn a_tree_has_files_and_directories_with_files() {
        let tree = Tree::of(&[("docs/a.md", "")]);
        assert!(tree.has("docs") && tree.has("docs/a.md") && tree.has(""));
        assert!(!tree.has("doc") && !tree.has("docs/b.md"));
    }
}
