//! Loads the programs of an object into the running kernel and reads what its verifier says.
//! Attaches nothing; everything is unloaded again at once.

use std::{io, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, Xdp},
};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{Cost, Costs};
use crate::host;

/// BPF instructions in `bpf_prog_info` are counted in bytes; each has eight.
const INSTRUCTION_BYTES: u32 = 8;

/// Refusals of the first map that say that this process or kernel may not use BPF at all.
const NO_BPF: [Errno; 2] = [Errno::PERM, Errno::NOSYS];

pub(super) enum Measured {
    Costs(Costs),
    /// Why this machine cannot say.
    Unable(String),
}

/// What each program of `object` costs.
///
/// # Errors
/// An object that cannot be read, or that the kernel refuses.
pub(super) fn object(object: &Path) -> Result<Measured> {
    if !host::is_root() {
        return Ok(Measured::Unable("loading a program needs root".into()));
    }
    let bytes =
        std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let loaded = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load(&bytes);
    let mut ebpf = match loaded {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let error = anyhow::Error::new(error);
            let refusal = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
            let errno = refusal.and_then(Errno::from_io_error);
            if errno.is_some_and(|errno| NO_BPF.contains(&errno)) {
                return Ok(Measured::Unable(format!("no BPF here: {error:#}")));
            }
            return Err(error.context("the object's maps cannot be made"));
        }
    };
    programs(&mut ebpf).map(Measured::Costs)
}

fn programs(ebpf: &mut Ebpf) -> Result<Costs> {
    let program = |(name, program): (&str, &mut Program)| {
        let Program::Xdp(program) = program else { bail!("{name} is no XDP program") };
        let cost = cost(program).with_context(|| format!("the kernel refuses {name}"))?;
        Ok((name.to_owned(), cost))
    };
    ebpf.programs_mut().map(program).collect()
}

fn cost(program: &mut Xdp) -> Result<Cost> {
    let log = verifier_log(program)?;
    let Statistics { verified_instructions, stack_bytes } =
        Statistics::parse(&log).with_context(|| format!("an unknown verifier log:\n{log}"))?;
    program.load()?;
    let xlated_bytes = program.info()?.size_translated().context("the kernel hides its size")?;
    Ok(Cost { verified_instructions, instructions: xlated_bytes / INSTRUCTION_BYTES, stack_bytes })
}

/// The log of a whole verification. aya hands a log out only with a load that failed. The last
/// step of a load, behind the verifier, is taking a file descriptor: where there is none to take,
/// it fails there.
fn verifier_log(program: &mut Xdp) -> Result<String> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit })?;
    let loaded = program.load();
    setrlimit(Resource::Nofile, limit)?;
    match loaded {
        Err(ProgramError::LoadError { io_error, verifier_log })
            if Errno::from_io_error(&io_error) == Some(Errno::MFILE) =>
        {
            Ok(verifier_log.to_string())
        }
        Err(error) => Err(error.into()),
        Ok(()) => bail!("a program was loaded without a file descriptor to hold it"),
    }
}

/// What the verifier prints at the end, on success as on failure.
#[derive(Debug, PartialEq, Eq)]
struct Statistics {
    verified_instructions: u32,
    stack_bytes: u32,
}

impl Statistics {
    fn parse(log: &str) -> Option<Self> {
        let behind = |label: &str| log.lines().find_map(|line| line.strip_prefix(label));
        let processed = behind("processed ")?.split_once(" insns")?.0.parse().ok()?;
        // One figure for each function, joined by `+`. Which of them call each other it does not
        // say: the verifier itself holds every chain of calls to 512 bytes.
        let depths = behind("stack depth ")?.split('+').map(|depth| depth.trim().parse::<u32>());
        let depths = depths.collect::<Result<Vec<_>, _>>().ok()?;
        let stack_bytes = depths.into_iter().max()?;
        Some(Self { verified_instructions: processed, stack_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESSED: &str = "processed 3118 insns (limit 1000000) max_states_per_insn 3 \
                             total_states 122 peak_states 122 mark_read 41";

    #[test]
    fn the_verifiers_figures_are_read_and_the_largest_functions_stack() {
        for (log, expected) in [
            (format!("verification time 900 usec\nstack depth 176\n{PROCESSED}\n"), Some(176)),
            (format!("stack depth 76+0+132\n{PROCESSED}"), Some(132)),
            (format!("func#0 @0\n{PROCESSED}\n"), None),
            (format!("stack depth many\n{PROCESSED}\n"), None),
            ("stack depth 176\n".to_owned(), None),
            (String::new(), None),
        ] {
            let expected =
                expected.map(|stack_bytes| Statistics { verified_instructions: 3118, stack_bytes });
            assert_eq!(Statistics::parse(&log), expected, "{log}");
        }
    }
}
