//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and runs them for a while, each from
//! its committed corpus. Owns the build and the run; the targets are `relay-userspace/turn/fuzz`,
//! laid out so that cargo-fuzz finds them too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{host, tally::Outcome};

/// Where the targets are.
const CRATE: &str = "relay-userspace/turn/fuzz";
const TARGETS: &[&str] = &["codec", "state_machine", "step"];

/// What tells libFuzzer which code an input reached. Everything under test is safe Rust, so there
/// is no sanitizer and any compiler does.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long one input may take, seconds: an input that hangs is a finding, a busy machine is none.
const INPUT_SECS_MAX: u32 = 60;
/// Bytes of an input at most.
const INPUT_BYTES_MAX: u32 = 4096;
/// How long a test run gives each target, seconds.
const TEST_SECS: u32 = 10;

/// `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One of codec, state_machine, step; else all of them, one after the other
    target: Option<String>,
    /// How long each of them runs, seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    secs: u32,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all: Vec<&str> = match &args.target {
        Some(target) => vec![target],
        None => TARGETS.to_vec(),
    };
    Ok(run(&all, args.secs)?.report("fuzz"))
}

/// A short run of every target.
///
/// # Errors
/// A target that does not build, or an input that it does not survive.
pub(crate) fn check() -> Result<Outcome> {
    run(TARGETS, TEST_SECS)
}

fn run(targets: &[&str], secs: u32) -> Result<Outcome> {
    for target in targets {
        ensure!(TARGETS.contains(target), "no target {target}; there are {TARGETS:?}");
    }
    if host::which("c++").is_none() {
        return Ok(Outcome::Skipped("libFuzzer needs a C++ compiler: apt-get install g++".into()));
    }
    let build = build()?;
    for target in targets {
        one(&build, target, secs)?;
    }
    Ok(Outcome::Passed)
}

/// The folder of the built targets.
fn build() -> Result<PathBuf> {
    let triple = host::triple()?;
    let folder = host::target_dir().join("fuzz");
    let mut cargo = host::cargo();
    // With a target triple, what runs while building is not instrumented.
    cargo
        .args(["build", "--locked", "--release", "--bins", "--target", &triple])
        .arg("--manifest-path")
        .arg(host::root().join(CRATE).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS);
    host::run(&mut cargo)?;
    Ok(folder.join(triple).join("release"))
}

fn one(build: &Path, target: &str, secs: u32) -> Result<()> {
    println!("fuzz: {target}, {secs} s");
    let work = host::target_dir().join("fuzz/work").join(target);
    let (found, seeds) = (work.join("found"), work.join("seeds"));
    // What earlier runs found interesting stays; what is committed comes anew.
    fs::create_dir_all(&found)?;
    if seeds.exists() {
        fs::remove_dir_all(&seeds)?;
    }
    fs::create_dir_all(&seeds)?;
    let corpus = host::root().join(CRATE).join("corpus").join(format!("{target}.txt"));
    let text =
        fs::read_to_string(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    for (name, bytes) in inputs(&text).with_context(|| format!("in {}", corpus.display()))? {
        fs::write(seeds.join(name), bytes)?;
    }
    let mut fuzzer = host::command(build.join(target));
    fuzzer
        .args([&found, &seeds])
        .arg(format!("-max_total_time={secs}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECS_MAX}"))
        .arg(format!("-artifact_prefix={}/", work.display()))
        .args(["-print_final_stats=1", "-verbosity=0", "-detect_leaks=0"]);
    host::run(&mut fuzzer).with_context(|| {
        format!("{target}: the input is in {}; add it to the corpus, as hex", work.display())
    })
}

/// The lines of a corpus: a name, and the bytes in hexadecimal or `seed N BYTES`, which stands for
/// so many bytes of chance. Empty lines and those with `#` are for people.
fn inputs(text: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let bytes = match words[..] {
            [_, hex] => from_hex(hex),
            [_, "seed", seed, count] => {
                let seed = seed.parse().ok();
                seed.zip(count.parse().ok()).map(|(seed, count)| chance(seed, count))
            }
            _ => None,
        };
        let Some(bytes) = bytes else { bail!("line {}: {line}", index + 1) };
        inputs.push((words[0].to_owned(), bytes));
    }
    Ok(inputs)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok()).collect()
}

/// SplitMix64's bytes.
fn chance(mut state: u64, count: usize) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_lines_of_names_and_bytes() {
        let text = "# for people\n\nempty seed 1 0\nbytes 00ff7A\nchance seed 7 3\n";
        let all = inputs(text).unwrap();
        assert_eq!(all[0], ("empty".to_owned(), vec![]));
        assert_eq!(all[1], ("bytes".to_owned(), vec![0, 0xFF, 0x7A]));
        assert_eq!((all[2].1.len(), all.len()), (3, 3));
        for bad in ["name", "name 0", "name 0g", "name seed 1", "name seed x 1"] {
            assert!(inputs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_target_has_a_corpus() {
        for target in TARGETS {
            let path = host::root().join(CRATE).join("corpus").join(format!("{target}.txt"));
            let text = fs::read_to_string(path).unwrap();
            assert!(inputs(&text).unwrap().len() > 3, "{target}");
        }
    }
}
