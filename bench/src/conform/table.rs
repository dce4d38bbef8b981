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

/// Prints reports of `conform` side by side: where one fails or they differ, and what none has.
#[derive(Debug, Args)]
pub(crate) struct ConformTable {
    /// Reports, each with what its column is called.
    #[arg(value_name = "NAME=FILE", required = true)]
    reports: Vec<Named>,
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

/// A report.
struct Report {
    document: Value,
    cases: BTreeMap<String, Value>,
    /// The names of the cases, as they were tried.
    order: Vec<String>,
}

impl ConformTable {
    /// Prints it.
    ///
    /// # Errors
    /// A file is no report.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let reports: Vec<Report> =
            self.reports.iter().map(|it| read(&it.file)).collect::<anyhow::Result<_>>()?;
        let names: Vec<&str> = self.reports.iter().map(|it| it.name.as_str()).collect();
        let _ = io::stdout().write_all(page(&names, &reports).as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

fn page(names: &[&str], reports: &[Report]) -> String {
    let mut text = format!("| case | level | rule | {} |\n", names.join(" | "));
    text += &format!("|---|---|---|{}\n", "---|".repeat(names.len()));
    let mut nowhere = BTreeMap::<&str, Vec<&str>>::new();
    let order = reports.first().map_or(&[][..], |first| &first.order[..]);
    for id in order {
        let outcomes: Vec<&str> = reports.iter().map(|it| it.outcome(id)).collect();
        let alike = outcomes.windows(2).all(|pair| pair[0] == pair[1]);
        match outcomes[0] {
            "pass" if alike => continue,
            outcome @ ("not_supported" | "skipped") if alike => {
                nowhere.entry(outcome).or_default().push(id);
                continue;
            }
            _ => {}
        }
        let of = |key: &str| reports[0].cases[id][key].as_str().unwrap_or_default();
        let cells = reports.iter().map(|it| it.cases.get(id).map_or_else(String::new, cell));
        let cells: Vec<String> = cells.collect();
        text += &format!(
            "| {id} | {} | {} | {} |\n",
            of("level"),
            of("rule").replace('|', "\\|"),
            cells.join(" | ")
        );
    }
    for (name, report) in names.iter().zip(reports) {
        text += &format!("\n{name}: {}.\n", report.summary());
    }
    for (outcome, ids) in nowhere {
        let ids: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
        text += &format!("\nEverywhere {}: {}.\n", outcome.replace('_', " "), ids.join(", "));
    }
    text
}

impl Report {
    fn outcome(&self, id: &str) -> &str {
        self.cases.get(id).and_then(|case| case["outcome"].as_str()).unwrap_or_default()
    }

    /// How many of what.
    fn summary(&self) -> String {
        let levels = self.document["summary"].as_array().map_or(&[][..], |all| &all[..]);
        let words = levels.iter().map(|it| {
            let of = |key: &str| it[key].as_u64().unwrap_or_default();
            format!(
                "{} {} pass, {} fail, {} not supported, {} skipped",
                it["level"].as_str().unwrap_or_default(),
                of("pass"),
                of("fail"),
                of("not_supported"),
                of("skipped")
            )
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("{shown}"))?;
    let cases = document["cases"].as_array().with_context(|| format!("{shown}: no report"))?;
    let id = |case: &Value| case["id"].as_str().unwrap_or_default().to_owned();
    let order = cases.iter().map(id).collect();
    let cases = cases.iter().map(|case| (id(case), case.clone())).collect();
    Ok(Report { document, cases, order })
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

    fn report(outcomes: &[(&str, &str)]) -> Report {
        let case = |(id, outcome): &(&str, &str)| {
            let case = serde_json::json!({
                "id": id, "level": "MUST", "rule": "a|b", "outcome": outcome,
                "expected": "400", "got": "success", "why": "420",
            });
            ((*id).to_owned(), case)
        };
        let summary = serde_json::json!({"summary": [{"level": "MUST", "pass": 1}]});
        let order = outcomes.iter().map(|(id, _)| (*id).to_owned()).collect();
        Report { document: summary, cases: outcomes.iter().map(case).collect(), order }
    }

    #[test]
    fn what_fails_or_differs_is_a_row_and_what_none_has_a_list() {
        let ours = report(&[("z", "pass"), ("b", "fail"), ("c", "not_supported"), ("d", "pass")]);
        let other =
            report(&[("z", "pass"), ("b", "pass"), ("c", "not_supported"), ("d", "not_supported")]);
        let expected = "| case | level | rule | Ours | Other |\n|---|---|---|---|---|\n\
             | b | MUST | a\\|b | **fails**: expected 400, got success | pass |\n\
             | d | MUST | a\\|b | pass | not supported: 420 |\n\
             \nOurs: MUST 1 pass, 0 fail, 0 not supported, 0 skipped.\n\
             \nOther: MUST 1 pass, 0 fail, 0 not supported, 0 skipped.\n\
             \nEverywhere not supported: `c`.\n";
        assert_eq!(page(&["Ours", "Other"], &[ours, other]), expected);
    }
}
