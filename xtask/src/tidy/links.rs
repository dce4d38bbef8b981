//! Every relative link in a Markdown file leads to something in the tree. Links to other sites
//! and anchors inside a page are not looked at: tidy needs no network.

use super::{Finding, Tree};

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in tree.texts("", ".md") {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let mut in_fence = false;
        for (index, line) in text.lines().enumerate() {
            let start = line.trim_start();
            if start.starts_with("```") || start.starts_with("~~~") {
                in_fence = !in_fence;
                continue;
            }
            if in_fence {
                continue;
            }
            for target in targets(line) {
                let leads_somewhere = resolve(directory, &target).is_some_and(|p| tree.has(&p));
                if is_relative(&target) && !leads_somewhere {
                    findings.push(Finding {
                        file: path.to_owned(),
                        line: index + 1,
                        rule: "link",
                        why: format!("{target} is not in the tree"),
                    });
                }
            }
        }
    }
}

/// Link targets on a line: `[text](target "title")` and `[label]: target`.
fn targets(line: &str) -> Vec<String> {
    // Odd pieces between backticks are code.
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut targets = Vec::new();
    for (at, opening) in prose.match_indices("](") {
        let rest = &prose[at + opening.len()..];
        let end = rest.find([')', ' ']).unwrap_or(rest.len());
        targets.push(rest[..end].to_owned());
    }
    let definition = prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: "));
    if let Some((_, target)) = definition {
        targets.extend(target.split_whitespace().next().map(ToOwned::to_owned));
    }
    for target in &mut targets {
        *target = target.trim_start_matches('<').trim_end_matches('>').to_owned();
    }
    targets
}

fn is_relative(target: &str) -> bool {
    let scheme = target.split_once(':').is_some_and(|(scheme, _)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    !scheme && !target.is_empty() && !target.starts_with('#') && !target.starts_with("//")
}

/// The path from the top of the tree; `None` when it leaves the tree.
fn resolve(directory: &str, target: &str) -> Option<String> {
    let target = target.split('#').next()?;
    let (base, target) = target.strip_prefix('/').map_or((directory, target), |rest| ("", rest));
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{super::brief, *};

    fn page(text: &str) -> Vec<String> {
        brief(check, &[("docs/page.md", text), ("docs/other.md", ""), ("src/lib.rs", "")])
    }

    #[test]
    fn a_link_that_leads_somewhere_is_fine() {
        for good in [
            "[a](other.md), [b](./other.md#part) and [c](../src/lib.rs \"title\")",
            "![picture](../src) [top](/docs/other.md)",
            "[site](https://example.org/x) [mail](mailto:a@example.org) [here](#part)",
            "`[code](missing.md)`",
            "```\n[code](missing.md)\n```",
            "[label]: other.md",
        ] {
            assert_eq!(page(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        for bad in [
            "\n[a](missing.md)",
            "\n[a](other.md) [b](lib.rs)",
            "\n![picture](../src/missing.png)",
            "\n[up](../../docs/other.md)",
            "\n[label]: missing.md",
            "```\n```[a](missing.md)\n[a](missing.md)",
        ] {
            let found = page(bad);
            assert!(found == ["2 link"] || found == ["3 link"], "{bad}: {found:?}");
        }
    }
}
