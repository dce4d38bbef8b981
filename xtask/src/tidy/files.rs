//! Rules for one file at a time: sizes, words that do not land, unreadable files, `unsafe`.

use super::{File, Finding, Tree, code, line_of, word_positions};

const LINE_COLUMNS_MAX: usize = 100;

/// The goal is 400 before the tests; this is where a file has to be split.
const FILE_LINES_MAX: usize = 600;

const FUNCTION_LINES_MAX: usize = 70;

/// Put together here, so that this file passes its own rule.
const WORDS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

const MACROS: &[&str] = &["dbg", "todo", "unimplemented"];

/// Where words are looked for: what we write by hand, except prose.
const WRITTEN_BY_HAND: &[&str] = &[".rs", ".toml", ".sh", ".yml", ".yaml", ".service", ".ci/run"];

/// Every file that may contain `unsafe`, with a SAFETY comment on each block. ARCHITECTURE.md
/// says why each of them must.
pub(super) const UNSAFE_FILES: &[&str] = &[
    "bench/ebpf/src/main.rs",
    "relay-ebpf/src/main.rs",
    "relay-userspace/src/datapath/pod.rs",
    "relay-userspace/src/ring/mod.rs",
    "relay-userspace/src/ring/pool.rs",
    "relay-userspace/src/ring/slots.rs",
    "relay-userspace/src/sockets.rs",
];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in &tree.files {
        let Some(text) = file.text() else {
            findings.push(Finding {
                file: file.path.clone(),
                line: 1,
                rule: "binary",
                why: "only text is reviewed: build it from source, or generate it".into(),
            });
            continue;
        };
        if WRITTEN_BY_HAND.iter().any(|suffix| file.path.ends_with(suffix)) {
            words(file, text, findings);
        }
        if file.path.ends_with(".rs") {
            sizes(file, text, findings);
            rust_code(file, &code::blank(text), findings);
        }
    }
}

fn words(file: &File, text: &str, findings: &mut Vec<Finding>) {
    for word in WORDS {
        for at in word_positions(text, word) {
            let why = format!("{word} does not land: do it, or file an issue");
            findings.push(finding(file, line_of(text, at), "words", why));
        }
    }
}

fn sizes(file: &File, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let why = format!("{columns} columns, at most {LINE_COLUMNS_MAX}");
            findings.push(finding(file, index + 1, "line-length", why));
        }
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let why = format!("{lines} lines, at most {FILE_LINES_MAX}: two subjects, two files");
        findings.push(finding(file, FILE_LINES_MAX + 1, "file-length", why));
    }
}

fn rust_code(file: &File, blanked: &str, findings: &mut Vec<Finding>) {
    for name in MACROS {
        for at in word_positions(blanked, name) {
            if blanked[at + name.len()..].starts_with('!') {
                let why = format!("{name}! is for the middle of work, not for the end of it");
                findings.push(finding(file, line_of(blanked, at), "words", why));
            }
        }
    }
    if !UNSAFE_FILES.contains(&file.path.as_str()) {
        for at in word_positions(blanked, "unsafe") {
            let why = "this file is not among the few that may (tidy's UNSAFE_FILES)".to_owned();
            findings.push(finding(file, line_of(blanked, at), "unsafe", why));
        }
    }
    for function in code::functions(blanked) {
        if function.lines > FUNCTION_LINES_MAX {
            let code::Function { name, line, lines } = function;
            let why = format!("{name} has {lines} lines, at most {FUNCTION_LINES_MAX}");
            findings.push(finding(file, line, "function-length", why));
        }
    }
}

fn finding(file: &File, line: usize, rule: &'static str, why: String) -> Finding {
    Finding { file: file.path.clone(), line, rule, why }
}

#[cfg(test)]
mod tests {
    use super::{super::brief, *};

    fn rs(text: &str) -> Vec<String> {
        brief(check, &[("a/src/lib.rs", text)])
    }

    #[test]
    fn a_line_has_at_most_100_columns() {
        assert_eq!(rs(&"é".repeat(100)), [""; 0]);
        assert_eq!(rs(&format!("x\n{}", "é".repeat(101))), ["2 line-length"]);
    }

    #[test]
    fn a_file_has_at_most_600_lines() {
        assert_eq!(rs(&"x\n".repeat(600)), [""; 0]);
        assert_eq!(rs(&"x\n".repeat(601)), ["601 file-length"]);
    }

    #[test]
    fn a_function_has_at_most_70_lines() {
        let body = |lines: usize| format!("\nfn f() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        assert_eq!(rs(&body(70)), [""; 0]);
        assert_eq!(rs(&body(71)), ["2 function-length"]);
    }

    #[test]
    fn unfinished_work_does_not_land() {
        for word in WORDS {
            assert_eq!(rs(&format!("\n// {word}: later")), ["2 words"], "{word}");
            assert_eq!(brief(check, &[(".ci/run", word)]), ["1 words"], "{word}");
            assert_eq!(rs(&format!("// {word}S")), [""; 0], "{word}");
        }
        for name in MACROS {
            assert_eq!(rs(&format!("{name}!();")), ["1 words"], "{name}");
            assert_eq!(rs(&format!("// {name}!()\nlet {name} = \"{name}!\";")), [""; 0], "{name}");
        }
    }

    #[test]
    fn unsafe_stays_in_the_listed_files() {
        let source = "// unsafe\n#![forbid(unsafe_code)]\nunsafe { x() }";
        assert_eq!(rs(source), ["3 unsafe"]);
        assert_eq!(brief(check, &[(UNSAFE_FILES[0], source)]), [""; 0]);
    }

    #[test]
    fn a_binary_file_is_found_by_a_nul_or_by_broken_text() {
        assert_eq!(brief(check, &[("x.bin", "a\0b")]), ["1 binary"]);
        let broken = File { path: "x.pcap".into(), bytes: vec![0xd4, 0xc3, 0xb2] };
        let mut findings = Vec::new();
        check(&Tree { files: vec![broken] }, &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
