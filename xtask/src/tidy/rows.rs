//! What `docs/rfc.md` names as the code and the test of a sentence is there: files, test functions,
//! end-to-end tests, and cases of `relay-bench conform`. Whether they show it, people judge.

use super::{Finding, Tree};

const PAGE: &str = "docs/rfc.md";
const CASES: &str = "bench/src/conform/";

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let tests = Tests::of(tree);
    let mut columns = None;
    let mut rows = 0;
    for (index, line) in tree.text(PAGE).unwrap_or_default().lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let at = |name| cells.iter().position(|cell| *cell == name);
        let (Some(code), Some(test)) = (at("Code"), at("Test")) else {
            let Some((code, test)) = columns.filter(|_| cells.len() > 2) else {
                columns = None;
                continue;
            };
            let mut missing =
                missing_words(tree, &tests, cells.get(code).copied().unwrap_or_default());
            let test = cells.get(test).copied().unwrap_or_default();
            missing.extend(missing_words(tree, &tests, test));
            missing.extend(tests.missing_cases(rfc_of(cells[1]), test));
            rows += usize::from(!cells[1].starts_with('-'));
            findings.extend(missing.into_iter().map(|what| finding(index + 1, &what)));
            continue;
        };
        columns = Some((code, test));
    }
    if rows == 0 {
        // Otherwise another form of the page would switch the rule off.
        findings.push(finding(1, "a table with Code and Test"));
    }
}

fn finding(line: usize, what: &str) -> Finding {
    let why = format!("there is no {what}");
    Finding { file: PAGE.to_owned(), line, rule: "rfc", why }
}

/// The RFC of a row: `S…` is of RFC 8489, `T…` of RFC 8656, `M…` of RFC 8016; others begin with
/// the number.
fn rfc_of(row: &str) -> &str {
    match row.get(..1) {
        Some("S") => "8489",
        Some("T") => "8656",
        Some("M") => "8016",
        _ => row.split(' ').next().unwrap_or_default(),
    }
}

/// Names of files and of tests that nothing has.
fn missing_words(tree: &Tree, tests: &Tests, cell: &str) -> Vec<String> {
    let separators = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '*'));
    let is_missing = |word: &&str| {
        let word = word.trim_end_matches('.');
        let is_name = word.matches('_').count() >= 2 || word.ends_with("_*");
        match word {
            _ if word.ends_with(".rs") && !word.contains('*') => !tree.files.iter().any(|file| {
                let rest = file.path.strip_suffix(word);
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
            }),
            _ if is_name && !word.contains('.') => !tests.has(word),
            _ => false,
        }
    };
    cell.split(separators).filter(is_missing).map(str::to_owned).collect()
}

/// The text of everything that may be a test.
struct Tests {
    rust: String,
    /// Without white space.
    cases: String,
}

impl Tests {
    fn of(tree: &Tree) -> Self {
        let of = |prefix| tree.texts(prefix, ".rs").map(|(_, text)| text).collect::<String>();
        let rust = ["relay-common/", "relay-ebpf/", "relay-userspace/", "bench/"].map(of).concat();
        Self { rust, cases: of(CASES).split_whitespace().collect() }
    }

    /// A test's whole name, or the beginning of one before `*`.
    fn has(&self, name: &str) -> bool {
        match name.strip_suffix('*') {
            Some(start) => [format!("fn {start}"), format!("\"{start}")]
                .iter()
                .any(|it| self.rust.contains(it)),
            None => [format!("fn {name}("), format!("\"{name}\"")]
                .iter()
                .any(|it| self.rust.contains(it)),
        }
    }

    /// Cases behind `c: ` that there are not, in the row's RFC or in one of the two: they are named
    /// without its number. `-name` is of the section before it; `all of` means every case.
    fn missing_cases(&self, rfc: &str, cell: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let Some((_, cases)) = cell.split_once("c: ") else { return missing };
        let mut section = "";
        for case in cases.split(';').next().unwrap_or_default().split(", ").map(str::trim) {
            let Some((before, name)) = case.split_once('-').filter(|_| !case.starts_with("all of"))
            else {
                continue;
            };
            section = if before.is_empty() { section } else { before };
            let of = |rfc| self.cases.contains(&format!("({rfc},\"{section}\",\"{name}\","));
            if ![rfc, "8489", "8656"].into_iter().any(of) {
                missing.push(format!("case {rfc}-{section}-{name}"));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::{super::brief, *};

    const HEAD: &str = "| Row | Rule | Level | Code | Test | Status |\n|---|---|---|---|---|---|\n";
    const CASE: &str = "must(8489,\n \"6.3\", \"odd\", \"…\", odd), may(8656, \"7.2\", \"own\", x)";

    fn page(code: &str, test: &str) -> Vec<String> {
        let page = format!("# Page\n\n{HEAD}| S1-1 | x | MUST | {code} | {test} | yes |\n");
        let files = [
            (PAGE, &*page),
            ("bench/src/conform/s.rs", CASE),
            ("relay-userspace/turn/tests/s05.rs", "fn it_is_so() {}"),
            ("relay-userspace/tests/end_to_end/a.rs", "(\"redis_is_slow\", f)"),
        ];
        brief(check, &files)
    }

    #[test]
    fn what_is_named_must_be_there() {
        assert_eq!(
            page("`s05.rs`", "s05: it_is_so; end to end, `redis_*`; c: 6.3-odd, 7.2-own"),
            [""; 0]
        );
        assert_eq!(page("tests/s05.rs", "redis_is_slow; nothing else of it"), [""; 0]);
        for (code, test) in [
            ("`s06.rs`", ""),
            ("`5.rs`", ""),
            ("", "s05: it_is_not"),
            ("", "`memcached_*`"),
            ("", "c: 6.3-even"),
            ("", "c: 7.2-odd"),
            ("", "c: 6.3-odd, -even"),
        ] {
            assert_eq!(page(code, test), ["5 rfc"], "{code} {test}");
        }
    }

    #[test]
    fn a_page_that_moved_does_not_switch_the_rule_off() {
        assert_eq!(brief(check, &[]), ["1 rfc"]);
        assert_eq!(brief(check, &[(PAGE, "# Nothing")]), ["1 rfc"]);
    }
}
