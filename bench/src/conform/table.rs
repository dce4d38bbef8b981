//! `relay-bench conform-table`: reports of `conform` side by side, as Markdown. Judges nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

/// Prints reports of `conform` side by side.
#[derive(Debug, Args)]
pub(crate) struct ConformTable {
    /// Reports, each with what its column is called.
    #[arg(value_name = "NAME=FILE", required = true)]
    reports: Vec<Named>,
    /// Cases that all of them pass too.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Debug)]
struct Named {
    name: String,
    file: PathBuf,
}

/// A text is no name with a file.
#[derive(Debug)]
pub(crate) struct NotNamed;

impl std::fmt::Display for NotNamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a report is given as NAME=FILE")
    }
}

impl std::error::Error for NotNamed {}

impl FromStr for Named {
    type Err = NotNamed;

    fn from_str(text: &str) -> Result<Self, NotNamed> {
        let (name, file) = text.split_once('=').ok_or(NotNamed)?;
        Ok(Self { name: name.to_owned(), file: file.into() })
    }
}

/// The cases of a report, by name.
type Cases = BTreeMap<String, Value>;

impl ConformTable {
    /// Prints it.
    ///
    /// # Errors
    /// A file is no report.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let reports: Vec<(Cases, Vec<String>)> =
            self.reports.iter().map(|it| read(&it.file)).collect::<anyhow::Result<_>>()?;
        let names: Vec<_> = self.reports.iter().map(|it| it.name.as_str()).collect();
        let mut text = format!("| case | level | rule | {} |\n", names.join(" | "));
        text += &format!("|---|---|---|{}\n", "---|".repeat(names.len()));
        let Some((first, order)) = reports.first() else { return Ok(ExitCode::SUCCESS) };
        for id in order {
            let cells: Vec<String> = reports
                .iter()
                .map(|(cases, _)| cases.get(id).map_or_else(String::new, cell))
                .collect();
            if !self.all && cells.iter().all(|cell| cell == "pass") {
                continue;
            }
            let of = |key: &str| first[id][key].as_str().unwrap_or_default().replace('|', "\\|");
            let row = [id.clone(), of("level"), of("rule"), cells.join(" | ")];
            text += &format!("| {} |\n", row.join(" | "));
        }
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> anyhow::Result<(Cases, Vec<String>)> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("{shown}"))?;
    let cases = document["cases"].as_array().with_context(|| format!("{shown}: no report"))?;
    let id = |case: &Value| case["id"].as_str().unwrap_or_default().to_owned();
    let order = cases.iter().map(id).collect();
    Ok((cases.iter().map(|case| (id(case), case.clone())).collect(), order))
}

/// An outcome in a few words.
fn cell(case: &Value) -> String {
    let of = |key: &str| case[key].as_str().unwrap_or_default().replace('|', "\\|");
    match case["outcome"].as_str().unwrap_or_default() {
        "fail" => format!("**fails**: expected {}, got {}", of("expected"), of("got")),
        "not_supported" => format!("not supported: {}", of("why")),
        "skipped" => format!("skipped: {}", of("why")),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_what_was_expected() {
        let fail = serde_json::json!({"outcome": "fail", "expected": "400", "got": "a|b"});
        assert_eq!(cell(&fail), "**fails**: expected 400, got a\\|b");
        let pass = serde_json::json!({"outcome": "pass"});
        assert_eq!(cell(&pass), "pass");
    }
}
