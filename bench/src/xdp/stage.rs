//! The stage (`bench/ebpf`): runs any program on the same frame as often as asked.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use relay_bench_ebpf::program;
use relay_bench_ebpf::stage::{LEAD_BYTES, PROGRAM, SUBJECT, TEMPLATE, Template};

/// More than any frame here.
const OUT_BYTES: usize = 4096;

/// The tool's programs, loaded, and the maps of the stage.
pub(super) struct Stage {
    ebpf: Ebpf,
    template: Array<MapData, [u8; size_of::<Template>()]>,
    subject: ProgramArray<MapData>,
}

/// How a test run ended.
#[derive(Debug)]
pub(super) struct Run {
    /// The XDP action of the last packet.
    pub(super) action: u32,
    /// Mean time a packet, nanoseconds, rounded down by the kernel.
    pub(super) ns: u32,
}

impl Stage {
    /// Loads the tool's programs.
    pub(super) fn load(object: &[u8]) -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(object)?;
        for name in [PROGRAM, program::EMPTY, program::REFLECTOR] {
            let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut Xdp = program.try_into()?;
            program.load()?;
        }
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let template = Array::try_from(map(TEMPLATE)?)?;
        let subject = ProgramArray::try_from(map(SUBJECT)?)?;
        Ok(Self { ebpf, template, subject })
    }

    /// One of the tool's programs.
    pub(super) fn program(&self, name: &'static str) -> anyhow::Result<&Xdp> {
        Ok(self.ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    /// From now on the stage calls this program …
    pub(super) fn aim(&mut self, program: &ProgramFd) -> anyhow::Result<()> {
        Ok(self.subject.set(0, program, 0)?)
    }

    /// … with this frame.
    pub(super) fn set(&mut self, template: Template) -> anyhow::Result<()> {
        let template: [u8; size_of::<Template>()] = zerocopy::transmute!(template);
        Ok(self.template.set(0, template, 0)?)
    }

    /// Runs the stage once and gives what comes out.
    pub(super) fn once(&self, frame: &[u8]) -> anyhow::Result<(Run, Vec<u8>)> {
        let mut out = vec![0; OUT_BYTES];
        let data = self.data(frame);
        let options = TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self.program(PROGRAM)?.test_run(options)?;
        out.truncate(usize::try_from(result.data_size_out)?);
        Ok((Run { action: result.return_value, ns: 0 }, out))
    }

    /// Runs the stage `repeat` times.
    pub(super) fn time(&self, frame: &[u8], repeat: u32) -> anyhow::Result<Run> {
        time(self.program(PROGRAM)?, &self.data(frame), repeat)
    }

    fn data(&self, frame: &[u8]) -> Vec<u8> {
        [&[0; LEAD_BYTES], frame].concat()
    }
}

/// Runs a program `repeat` times on its own output.
pub(super) fn time(program: &Xdp, data: &[u8], repeat: u32) -> anyhow::Result<Run> {
    let options = TestRunOptions { data_in: Some(data), repeat, ..TestRunOptions::default() };
    let result = program.test_run(options)?;
    let ns = u32::try_from(result.duration.as_nanos())?;
    Ok(Run { action: result.return_value, ns })
}
