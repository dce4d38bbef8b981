//! A finished comparison as JSON, Markdown, and one HTML file with its plots inside. Says what was
//! found, in which words; measures and judges nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Serialize;

use crate::clock;
use crate::compare::lab::Layout;
use crate::compare::plan::Asked;
use crate::compare::plot::{Plot, plots};
use crate::compare::record::Run;
use crate::compare::session::{Idle, State, SubjectRecord};
use crate::compare::summary::Summary;
use crate::compare::table::{Table, tables};
use crate::host::Host;

/// More other work than this on either host, in cores, is part of the story.
const IDLE_BUSY_MAX: f64 = 0.05;

/// How a comparison ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// Everything that was asked for was tried.
    Completed,
    /// By Ctrl-C.
    Interrupted,
    /// The rig failed.
    RigFailed,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// The tool and its version.
    pub(crate) tool: &'static str,
    /// The tool's commit.
    pub(crate) commit: &'static str,
    /// When it ended, seconds since 1970.
    pub(crate) unix_secs: u64,
    /// The machine.
    pub(crate) host: Host,
    /// What was asked for.
    pub(crate) asked: Asked,
    /// How the rig was built.
    pub(crate) rig: Layout,
    /// How it ended.
    pub(crate) ending: Ending,
    /// The subjects.
    pub(crate) subjects: Vec<SubjectRecord>,
    /// The quiet before each subject's loads.
    pub(crate) idle: Vec<Idle>,
    /// Every run.
    pub(crate) runs: Vec<Run>,
}

/// The document for machines: what was measured, and what the tables say of it.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    date: String,
    tables: &'a [Table],
    notes: &'a [String],
}

/// A comparison with everything that is said of it.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    comparison: &'a Comparison,
    date: String,
    tables: Vec<Table>,
    plots: [Plot; 4],
    notes: Vec<String>,
}

impl<'a> Report<'a> {
    /// Of a comparison.
    ///
    /// # Errors
    /// A plot cannot be drawn.
    pub(crate) fn of(comparison: &'a Comparison) -> anyhow::Result<Self> {
        let summary = Summary::of(&comparison.runs);
        // Who was not measured has a reason below, and no column of dashes.
        let measured: Vec<_> = comparison
            .subjects
            .iter()
            .filter(|subject| !matches!(subject.state, State::Skipped { .. }))
            .map(|subject| subject.name.clone())
            .collect();
        Ok(Self {
            comparison,
            date: clock::iso_date(comparison.unix_secs),
            tables: tables(&summary, &measured),
            plots: plots(&summary, &measured)
                .map_err(|error| anyhow!(error).context("cannot draw the plots"))?,
            notes: notes(comparison, &summary),
        })
    }

    /// Writes the JSON document, the Markdown text, the HTML file and the plots.
    ///
    /// # Errors
    /// The directory does not take a file.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let document = Document {
            comparison: self.comparison,
            date: self.date.clone(),
            tables: &self.tables,
            notes: &self.notes,
        };
        let json = serde_json::to_string_pretty(&document)? + "\n";
        let mut files = vec![
            ("compare.json".to_owned(), json),
            ("compare.md".to_owned(), self.markdown()),
            ("compare.html".to_owned(), self.html()),
        ];
        files.extend(self.plots.iter().map(|p| (format!("{}.svg", p.name), p.svg.clone())));
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The circumstances: a name and a text each.
    fn circumstances(&self) -> Vec<(&'static str, String)> {
        let Comparison { tool, commit, host, asked, rig, ending, .. } = self.comparison;
        let Host { kernel, cpu, cores } = host;
        let ending = match ending {
            Ending::Completed => "everything that was asked for was tried",
            Ending::Interrupted => "interrupted: the figures are of the part that ran",
            Ending::RigFailed => "the rig failed: the figures are of the part that ran",
        };
        vec![
            ("Tool", format!("{tool}, commit {commit}")),
            ("Date", self.date.clone()),
            ("Command", asked.command.clone()),
            ("Machine", format!("Linux {kernel}, {cores} × {cpu}")),
            (
                "Rig",
                format!(
                    "three network namespaces on this machine: client, relay, peer; {}",
                    rig.links
                ),
            ),
            (
                "Cores",
                format!(
                    "the server's process {}, clients and peers {}; the kernel's work for a \
                     packet, XDP programs included, on the core that sent it",
                    rig.relay_cores, rig.load_cores
                ),
            ),
            (
                "Rounds",
                format!(
                    "{}, the subjects in turn (A B A B), {} s for each load",
                    asked.rounds, asked.duration_secs
                ),
            ),
            ("Ending", ending.to_owned()),
        ]
    }

    /// The Markdown text.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("# Comparison of TURN servers\n\n");
        for (name, text) in self.circumstances() {
            let _ = writeln!(out, "- **{name}:** {}", plain(&text));
        }
        for note in &self.notes {
            let _ = writeln!(out, "- **Note:** {}", plain(note));
        }
        for table in &self.tables {
            let _ = writeln!(out, "\n## {}\n\n{}\n", table.title, table.caption);
            let rule = vec!["---".to_owned(); table.header.len()];
            for row in [&table.header, &rule].into_iter().chain(&table.rows) {
                let cells: Vec<_> = row.iter().map(|cell| plain(cell)).collect();
                let _ = writeln!(out, "| {} |", cells.join(" | "));
            }
        }
        out.push_str("\n## Plots\n");
        for plot in &self.plots {
            let _ = writeln!(out, "\n![{}]({}.svg)\n\n{}", plot.title, plot.name, plot.caption);
        }
        out.push_str("\n## Subjects\n");
        for subject in &self.comparison.subjects {
            let _ = writeln!(out, "\n### {}\n\n{}", subject.name, plain(&about(subject)));
            if !subject.configuration.is_empty() {
                let _ = writeln!(out, "\n```\n{}\n```", subject.configuration.trim_end());
            }
        }
        out
    }

    /// One HTML file that needs no other.
    pub(crate) fn html(&self) -> String {
        let mut out = String::from(HEAD);
        out.push_str("<h1>Comparison of TURN servers</h1>\n<dl>\n");
        for (name, text) in self.circumstances() {
            let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&text));
        }
        out.push_str("</dl>\n");
        for note in &self.notes {
            let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(note));
        }
        for plot in &self.plots {
            let _ = writeln!(
                out,
                "<figure>\n<h2>{}</h2>\n{}\n<figcaption>{}</figcaption>\n</figure>",
                plot.title,
                responsive(&plot.svg),
                escaped(plot.caption)
            );
        }
        for table in &self.tables {
            write_table(&mut out, table);
        }
        out.push_str("<h2>Subjects</h2>\n");
        for subject in &self.comparison.subjects {
            let (name, about) = (escaped(&subject.name), escaped(&about(subject)));
            let _ = writeln!(out, "<h3>{name}</h3>\n<p>{about}</p>");
            if !subject.configuration.is_empty() {
                let _ = writeln!(out, "<pre>{}</pre>", escaped(&subject.configuration));
            }
        }
        out.push_str("</body>\n</html>\n");
        out
    }

    /// What stands on the terminal: circumstances, notes and tables.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for (name, text) in self.circumstances() {
            let _ = writeln!(out, "{:<12}{text}", name.to_lowercase());
        }
        for note in &self.notes {
            let _ = writeln!(out, "note        {note}");
        }
        for Table { title, header, rows, .. } in &self.tables {
            let _ = writeln!(out, "\n{title}");
            let lines = || [header].into_iter().chain(rows);
            let width = |column: usize| {
                let cells = lines().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            for row in lines() {
                let cells = row.iter().enumerate().map(|(column, cell)| {
                    let fill = width(column) - cell.chars().count();
                    format!("{cell}{}", " ".repeat(fill))
                });
                let line = cells.collect::<Vec<_>>().join("  ");
                let _ = writeln!(out, "  {}", line.trim_end());
            }
        }
        out
    }
}

/// What the figures do not say by themselves.
fn notes(comparison: &Comparison, summary: &Summary<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for subject in &comparison.subjects {
        match &subject.state {
            State::Measured => {}
            State::Skipped { why } => notes.push(format!("{} skipped: {why}", subject.name)),
            State::Died { why } => notes.push(format!("{} died: {why}", subject.name)),
        }
        for (point, why) in summary.failures(&subject.name) {
            notes.push(format!("{}, {point}: {why}", subject.name));
        }
    }
    let idle = |busy: fn(&Idle) -> f64| comparison.idle.iter().map(busy).fold(0.0, f64::max);
    let (relay, load) = (idle(|idle| idle.relay_busy_cores), idle(|idle| idle.load_busy_cores));
    if relay.max(load) > IDLE_BUSY_MAX {
        notes.push(format!(
            "this machine did other work: with an idle server up to {:.0} % of a core of the \
             relay's and {:.0} % of the load's were busy; processor times and latencies hold that \
             too",
            100.0 * relay,
            100.0 * load
        ));
    }
    notes
}

/// Version, command and fate of a subject.
fn about(subject: &SubjectRecord) -> String {
    let SubjectRecord { version, command, remark, .. } = subject;
    let fate = match &subject.state {
        State::Skipped { why } => format!("Skipped: {why}."),
        State::Measured => format!("{version}; {command}."),
        State::Died { why } => format!("{version}; {command}. Died: {why}."),
    };
    format!("{fate} {remark}").trim_end().to_owned()
}

fn write_table(out: &mut String, table: &Table) {
    let _ = writeln!(out, "<h2>{}</h2>\n<div><table>", escaped(&table.title));
    for (row, cell) in
        [(&table.header, "th")].into_iter().chain(table.rows.iter().map(|r| (r, "td")))
    {
        let cells: String =
            row.iter().map(|text| format!("<{cell}>{}</{cell}>", escaped(text))).collect();
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    let _ = writeln!(out, "</table></div>\n<p>{}</p>", escaped(&table.caption));
}

/// A picture that shrinks with its page.
fn responsive(svg: &str) -> String {
    svg.replacen("<svg ", "<svg style=\"max-width:100%;height:auto\" ", 1)
}

/// A text that ends no Markdown cell, line or list.
fn plain(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Comparison of TURN servers</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 2rem 0; } figcaption, p { color: #444; }
.note { border-left: 4px solid #d55e00; padding: .3rem .8rem; background: #fff6ef; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
</style>
</head>
<body>
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{allocations, echo, flood, run};

    fn subject(name: &str, state: State) -> SubjectRecord {
        SubjectRecord {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            command: format!("{name} --config a|b"),
            configuration: "allow = \"<every> & all\"".to_owned(),
            remark: "",
            state,
        }
    }

    fn comparison() -> Comparison {
        let mut runs = Vec::new();
        for (name, factor) in [("turnpike-xdp", 1.0), ("coturn", 4.0)] {
            for round in 1..=3 {
                for rate in [25_000.0, 50_000.0, 100_000.0] {
                    let lost = if factor > 1.0 && rate > 50_000.0 { 20.0 } else { 0.0 };
                    let busy = rate * factor / 400_000.0;
                    runs.push(run(name, round, flood(rate, lost, false), busy, 0.9));
                }
                runs.push(run(name, round, flood(500_000.0, 50.0, true), 1.0, 1.0));
                for rate in [1600.0, 6400.0] {
                    runs.push(run(name, round, echo(rate, 0.0, 0.1 * factor), 0.3, 0.3));
                }
                for count in [1000, 4000] {
                    let figures = allocations(count, 2000.0 * factor);
                    runs.push(run(name, round, figures, 0.5, 0.5));
                }
            }
        }
        let why = "cannot run turn-server".to_owned();
        Comparison {
            tool: "relay-bench 1",
            commit: "abc",
            unix_secs: 1_735_689_600,
            host: Host { kernel: "6.1".to_owned(), cpu: "A <fast> one".to_owned(), cores: 2 },
            asked: Asked {
                command: "relay-bench compare".to_owned(),
                subjects: vec!["turnpike-xdp".to_owned()],
                rounds: 3,
                flows: 32,
                payload_bytes: 200,
                duration_secs: 3,
            },
            rig: Layout { relay_cores: "0".to_owned(), load_cores: "1".to_owned(), links: "veth" },
            ending: Ending::Completed,
            subjects: vec![
                subject("turnpike-xdp", State::Measured),
                subject("coturn", State::Measured),
                subject("turn-rs", State::Skipped { why }),
            ],
            idle: Vec::new(),
            runs,
        }
    }

    /// Every tag that is opened is closed, in order.
    fn is_well_formed(html: &str) -> bool {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag ends");
            let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
            match name.strip_prefix('/') {
                Some(name) if open.pop().as_deref() != Some(name) => return false,
                Some(_) => {}
                None if tag.ends_with('/') || matches!(&*name, "!DOCTYPE" | "meta") => {}
                None => open.push(name),
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_html_is_whole_and_holds_four_plots() {
        let comparison = comparison();
        let html = Report::of(&comparison).unwrap().html();
        assert!(is_well_formed(&html), "{html}");
        assert_eq!(html.matches("<svg ").count(), 4);
        assert!(html.matches("<text").count() > 40, "axes, units and legends are texts");
        for text in [
            "&lt;every&gt; &amp; all",
            "A &lt;fast&gt; one",
            "turn-rs skipped: cannot run turn-server",
            "offered, packets/s",
            "coturn, p99",
            "2025-01-01T00:00:00Z",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("http-equiv") && !html.contains(" src="), "needs no other file");
    }

    #[test]
    fn every_markdown_row_has_as_many_cells_as_its_header() {
        let comparison = comparison();
        let markdown = Report::of(&comparison).unwrap().markdown();
        let mut width = None;
        for line in markdown.lines() {
            let bars = line.replace("\\|", "").matches('|').count();
            if line.starts_with('|') {
                assert_eq!(*width.get_or_insert(bars), bars, "{line}");
            } else {
                width = None;
            }
        }
        assert!(
            markdown.contains("| coturn | 50\u{202f}000 (50\u{202f}000–50\u{202f}000) | 1.00 |")
        );
        assert_eq!(plain("a|b"), "a\\|b", "a bar in a text ends no cell");
        // The fixture's XDP never loses below the flat-out load, where the relay's core was busy.
        assert!(markdown.contains("| turnpike-xdp | 100\u{202f}000"), "{markdown}");
        assert!(markdown.contains("saturated (20.0 % lost)"), "no processor time beside others");
    }

    #[test]
    fn a_quiet_machine_needs_no_note_and_a_busy_one_gets_it() {
        let mut comparison = comparison();
        let has_note = |comparison: &Comparison| {
            Report::of(comparison).unwrap().text().contains("did other work")
        };
        let idle = |busy| Idle {
            subject: "coturn".to_owned(),
            round: 1,
            relay_busy_cores: busy,
            load_busy_cores: 0.0,
        };
        comparison.idle = vec![idle(0.05)];
        assert!(!has_note(&comparison));
        comparison.idle = vec![idle(0.06)];
        assert!(has_note(&comparison));
    }

    #[test]
    fn nothing_measured_is_a_report_too() {
        let mut comparison = comparison();
        comparison.runs.clear();
        let report = Report::of(&comparison).unwrap();
        assert!(is_well_formed(&report.html()));
        assert_eq!(report.html().matches("no comparable figures").count(), 4);
    }
}
