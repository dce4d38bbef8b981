//! Every `Reason` a packet can leave the kernel program for has a golden frame that shows it.

use super::{Finding, Tree, code, line_of, word_positions};

const ENUM_FILE: &str = "relay-common/src/abi/reason.rs";
const GOLDEN_TESTS: &str = "relay-ebpf/tests/";

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let blanked = code::blank(tree.text(ENUM_FILE).unwrap_or_default());
    let variants = variants(&blanked);
    if variants.is_empty() {
        // Otherwise moving the enum would switch the rule off.
        findings.push(finding(1, "enum Reason is not here, and tidy checks it here".into()));
    }
    let tests: String =
        tree.texts(GOLDEN_TESTS, ".rs").map(|(_, text)| code::blank(text)).collect();
    for (at, name) in variants {
        let path = format!("Reason::{name}");
        if word_positions(&tests, &path).is_empty() {
            let why = format!("no golden frame under {GOLDEN_TESTS} produces {path}");
            findings.push(finding(line_of(&blanked, at), why));
        }
    }
}

fn finding(line: usize, why: String) -> Finding {
    Finding { file: ENUM_FILE.to_owned(), line, rule: "reasons", why }
}

/// Position and name of each variant: the identifiers after `{` or `,`, attributes left aside.
fn variants(blanked: &str) -> Vec<(usize, &str)> {
    let mut variants = Vec::new();
    let Some(start) = word_positions(blanked, "enum Reason").first().copied() else {
        return variants;
    };
    let Some(body) = blanked[start..].find('{').map(|brace| start + brace + 1) else {
        return variants;
    };
    let mut depth = 0_i32;
    let mut expected = true;
    for (at, c) in blanked[body..].char_indices() {
        match c {
            '}' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && depth == 0 && c.is_alphabetic() => {
                let rest = &blanked[body + at..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                variants.push((body + at, &rest[..end.unwrap_or(rest.len())]));
                expected = false;
            }
            _ => {}
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::{super::brief, *};

    const ABI: &str = "#[repr(u32)]\npub enum Reason {\n    /// A, b.\n    Relayed = 0,\n    \
                       #[doc(alias = \"x\")]\n    NoRoute = 1,\n}\nenum Other { Third }";

    #[test]
    fn a_reason_without_a_golden_frame_is_found() {
        let golden =
            |text: &str| brief(check, &[(ENUM_FILE, ABI), ("relay-ebpf/tests/golden.rs", text)]);
        assert_eq!(golden("f(Reason::Relayed); f(Reason::NoRoute);"), [""; 0]);
        assert_eq!(golden("f(Reason::Relayed); // Reason::NoRoute"), ["6 reasons"]);
        assert_eq!(golden("f(Reason::RelayedTwice, Reason::NoRoute)"), ["4 reasons"]);
        assert_eq!(golden(""), ["4 reasons", "6 reasons"]);
    }

    #[test]
    fn an_enum_that_moved_does_not_switch_the_rule_off() {
        assert_eq!(brief(check, &[]), ["1 reasons"]);
        assert_eq!(brief(check, &[(ENUM_FILE, "enum Verdict { Pass }")]), ["1 reasons"]);
    }
}
