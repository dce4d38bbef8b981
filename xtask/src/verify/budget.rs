//! The budget file: the most that each program may cost. Owns its text and the comparison with
//! what programs cost; measures nothing.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use super::{Cost, Costs};

/// What `--write` adds to the measured figures: room for a small change, and for kernels whose
/// verifiers prune a little less.
const MARGIN_PERCENT: u32 = 20;

/// Instruction counts are rounded up to these steps: the file changes only when it matters.
const INSTRUCTIONS_STEP: u32 = 100;

/// The kernel's own granularity of stack slots, bytes.
const STACK_STEP: u32 = 8;

/// The kernel's limits: MAX_BPF_STACK, and BPF_COMPLEXITY_LIMIT_INSNS.
const STACK_BYTES_MAX: u32 = 512;
const VERIFIED_MAX: u32 = 1_000_000;

const HEAD: &str = "\
# The most that each program of the kernel object may cost on the kernel that checks it;
# `cargo xtask verify` fails above it, and `cargo xtask test` with it.
#
# verified_instructions  instructions that the verifier goes through (the kernel refuses 1,000,000)
# instructions           instructions of the program before the kernel compiles it (xlated)
# stack_bytes            largest function's stack (the kernel refuses calls of more than 512)
";

/// A part of a program's cost: its key in the file, and the figure.
type Part = (&'static str, fn(&Cost) -> u32);

const PARTS: [Part; 3] = [
    ("verified_instructions", |cost| cost.verified_instructions),
    ("instructions", |cost| cost.instructions),
    ("stack_bytes", |cost| cost.stack_bytes),
];

/// The most that each program may cost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Budget(Costs);

impl Budget {
    /// Reads the file's text.
    ///
    /// # Errors
    /// No TOML, a key that is missing, unknown or no number.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().context("no TOML")?;
        let program = |(name, value): (&String, &Value)| -> Result<(String, Cost)> {
            let table = value.as_table().with_context(|| format!("{name} is no table"))?;
            if let Some(key) = table.keys().find(|key| PARTS.iter().all(|(part, _)| part != key)) {
                bail!("{name}.{key}: no such key");
            }
            let part = |key: &str| {
                let value = table.get(key).and_then(Value::as_integer);
                value
                    .and_then(|value| u32::try_from(value).ok())
                    .with_context(|| format!("{name}.{key} is missing, or no count"))
            };
            let cost = Cost {
                verified_instructions: part("verified_instructions")?,
                instructions: part("instructions")?,
                stack_bytes: part("stack_bytes")?,
            };
            Ok((name.clone(), cost))
        };
        Ok(Self(table.iter().map(program).collect::<Result<_>>()?))
    }

    /// What the programs cost now, and [`MARGIN_PERCENT`].
    pub(super) fn with_margin(costs: &Costs) -> Self {
        let limit = |value: u32, step: u32| {
            (value + value.saturating_mul(MARGIN_PERCENT).div_ceil(100)).next_multiple_of(step)
        };
        let program = |(name, cost): (&String, &Cost)| {
            let cost = Cost {
                verified_instructions: limit(cost.verified_instructions, INSTRUCTIONS_STEP)
                    .min(VERIFIED_MAX),
                instructions: limit(cost.instructions, INSTRUCTIONS_STEP),
                stack_bytes: limit(cost.stack_bytes, STACK_STEP).min(STACK_BYTES_MAX),
            };
            (name.clone(), cost)
        };
        Self(costs.iter().map(program).collect())
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        let _ = writeln!(
            text,
            "#\n# `cargo xtask verify --write` writes what they cost and {MARGIN_PERCENT} % more."
        );
        for (name, cost) in &self.0 {
            let _ = writeln!(text, "\n[{name}]");
            for (key, part) in PARTS {
                let _ = writeln!(text, "{key} = {}", part(cost));
            }
        }
        text
    }

    /// What is over budget, not in it, or only in it; one sentence each.
    pub(super) fn findings(&self, costs: &Costs) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, cost) in costs {
            let Some(limits) = self.0.get(name) else {
                findings.push(format!("{name} is not in the budget"));
                continue;
            };
            for (key, part) in PARTS {
                let (cost, limit) = (part(cost), part(limits));
                if cost > limit {
                    findings.push(format!("{name} is over budget: {key} {cost} > {limit}"));
                }
            }
        }
        let absent = self.0.keys().filter(|name| !costs.contains_key(*name));
        findings.extend(absent.map(|name| format!("the object has no program {name}")));
        findings
    }

    /// Cost, limit and what is left, a line for each part of each program.
    pub(super) fn table(&self, costs: &Costs) -> String {
        let mut table =
            format!("{:<16} {:<22} {:>9} {:>9} {:>8}\n", "program", "", "is", "may be", "left");
        for (name, cost) in costs {
            for (key, part) in PARTS {
                let is = part(cost);
                let limit = self.0.get(name).map(part);
                let left = limit.filter(|limit| *limit > 0).map_or_else(
                    || "-".to_owned(),
                    |limit| {
                        let share = (f64::from(limit) - f64::from(is)) / f64::from(limit);
                        format!("{:.1} %", 100.0 * share)
                    },
                );
                let limit = limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
                let _ = writeln!(table, "{name:<16} {key:<22} {is:>9} {limit:>9} {left:>8}");
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(verified_instructions: u32, instructions: u32, stack_bytes: u32) -> Cost {
        Cost { verified_instructions, instructions, stack_bytes }
    }

    fn costs(programs: &[(&str, Cost)]) -> Costs {
        programs.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect()
    }

    #[test]
    fn the_limit_itself_is_within_budget_and_one_more_is_not() {
        let budget = Budget(costs(&[("a", cost(10, 20, 30))]));
        assert!(budget.findings(&costs(&[("a", cost(10, 20, 30))])).is_empty());
        for (over, expected) in [
            (cost(11, 20, 30), "a is over budget: verified_instructions 11 > 10"),
            (cost(10, 21, 30), "a is over budget: instructions 21 > 20"),
            (cost(10, 20, 31), "a is over budget: stack_bytes 31 > 30"),
        ] {
            assert_eq!(budget.findings(&costs(&[("a", over)])), [expected]);
        }
    }

    #[test]
    fn the_budget_has_the_programs_of_the_object_and_no_others() {
        let budget = Budget(costs(&[("a", cost(1, 1, 1)), ("gone", cost(1, 1, 1))]));
        let found = budget.findings(&costs(&[("a", cost(1, 1, 1)), ("new", cost(1, 1, 1))]));
        assert_eq!(found, ["new is not in the budget", "the object has no program gone"]);
    }

    #[test]
    fn what_is_written_has_a_margin_and_reads_back() {
        let budget = Budget::with_margin(&costs(&[
            ("small", cost(3118, 1587, 176)),
            ("huge", cost(990_000, 1, 500)),
        ]));
        assert_eq!(budget.0["small"], cost(3800, 2000, 216));
        assert_eq!(budget.0["huge"], cost(1_000_000, 100, 512));
        assert_eq!(Budget::parse(&budget.text()).unwrap(), budget);
    }

    #[test]
    fn a_budget_with_a_gap_or_a_slip_is_no_budget() {
        let good = "[a]\nverified_instructions = 1\ninstructions = 1\nstack_bytes = 1\n";
        assert!(Budget::parse(good).is_ok());
        for (bad, why) in [
            (good.replace("stack_bytes", "stack_byte"), "a.stack_byte: no such key"),
            (good.replace("stack_bytes = 1", ""), "a.stack_bytes is missing"),
            (good.replace("stack_bytes = 1", "stack_bytes = -1"), "no count"),
            ("a = 1".to_owned(), "a is no table"),
            ("[a".to_owned(), "no TOML"),
        ] {
            let error = format!("{:#}", Budget::parse(&bad).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_table_shows_what_is_left() {
        let table = Budget(costs(&[("a", cost(200, 100, 100))]))
            .table(&costs(&[("a", cost(100, 110, 100)), ("b", cost(1, 1, 1))]));
        assert!(table.contains("       100       200   50.0 %"), "{table}");
        assert!(table.contains("       110       100  -10.0 %"), "{table}");
        assert!(
            table.contains("b                stack_bytes                    1         -        -"),
            "{table}"
        );
    }
}
