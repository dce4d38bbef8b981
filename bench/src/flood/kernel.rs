//! The tool's kernel programs at work: loading, attaching, map contents. Owns what is in the
//! kernel; it goes with the value, and with the process.

use std::io;

use anyhow::{Context as _, bail};
use aya::maps::{Array, DevMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use relay_bench_ebpf::pace::{GeneratorConfig, GeneratorState};
use relay_bench_ebpf::packet::{
    Ends, GeneratorFlow, IMAGE_WORDS, LeanFlow, SinkConfig, SinkCounts, SinkFlow,
};
use relay_bench_ebpf::{map, program, state};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use crate::clock::SECOND_NS;
use crate::flood::forge::Make;
use crate::flood::place::{Interface, Place};
use crate::objects::Object;

/// Frames that the kernel makes at a time at most.
const BATCH_FRAMES_MAX: u32 = 64;
/// Batches a second, at least, of a paced generator: frames leave when their batch is full.
const BATCHES_PER_SECOND: u64 = 20_000;
/// Runs of the program in one call at most: what is left of them when all is sent takes 2 s.
const REPEAT_MAX: u64 = 1 << 26;
/// Runs in a second, at most, that only wait: see `LOOKS_MAX` of the program.
const WAITS_PER_SECOND: u64 = 1_000_000;
/// Runs in a second, flat out, that the first call has room for: more than any machine manages, or
/// a second call is needed, and the time between the two is part of the measurement. What is left
/// over takes some 30 ns each.
const FLAT_OUT_MAX: u64 = 12_000_000;
/// Runs in a call, at least.
const REPEAT_MIN: u64 = 1 << 18;
/// Bytes of `struct xdp_md`.
const XDP_MD_BYTES: usize = 24;

fn load(flows: u32) -> anyhow::Result<Ebpf> {
    load_with(flows, 1)
}

fn load_with(flows: u32, lines: u32) -> anyhow::Result<Ebpf> {
    let object = Object::Tool.bytes()?;
    let mut loader = EbpfLoader::new();
    for name in [map::GENERATOR_FLOWS, map::LEAN_FLOWS, map::SINK_FLOWS] {
        loader.map_max_entries(name, flows.max(1));
    }
    loader.map_max_entries(map::FLOW_STATE, lines);
    loader.load(&object).map_err(|error| explain(error.into()))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// Says what to do where the kernel only says no.
fn explain(error: anyhow::Error) -> anyhow::Error {
    let denied = error.chain().any(|cause| {
        let code = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        code == Some(io::ErrorKind::PermissionDenied)
    });
    let hint = "the kernel does not let this process load BPF programs: run as root, or with \
                CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (for --netns)";
    if denied { error.context(hint) } else { error.context("the kernel took no program") }
}

fn array<'a, const N: usize>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<Array<&'a mut MapData, [u8; N]>> {
    Ok(Array::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

fn raw<T: IntoBytes + Immutable + ?Sized, const N: usize>(value: &T) -> [u8; N] {
    value.as_bytes().try_into().expect("N is the size of T")
}

fn read<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).expect("a map's value has the size of its type")
}

/// A program on an interface; it is detached with the value.
#[derive(Debug)]
pub(crate) struct Attached {
    ebpf: Ebpf,
}

impl Attached {
    fn attach(
        mut ebpf: Ebpf,
        name: &str,
        place: &Place,
        interface: &Interface,
    ) -> anyhow::Result<Self> {
        let label = &interface.name;
        if let Some(id) = interface.xdp {
            bail!(
                "{label} has an XDP program already (number {id}): flood needs the interface for \
                 itself. `ip link set {label} xdp off` takes it away"
            );
        }
        place.within(|| {
            let program = xdp(&mut ebpf, name)?;
            program.load().map_err(|error| explain(error.into()))?;
            program.attach_to_if_index(interface.index, XdpMode::Driver).map_err(|error| {
                anyhow::Error::new(error).context(format!(
                    "cannot attach to {label} ({}): its driver must know native XDP",
                    interface.driver
                ))
            })?;
            Ok(())
        })?;
        Ok(Self { ebpf })
    }

    /// The bare reflector.
    ///
    /// # Errors
    /// The interface has a program, or its driver knows no XDP; no right to load programs.
    pub(crate) fn reflector(place: &Place, interface: &Interface) -> anyhow::Result<Self> {
        Self::attach(load(1)?, program::REFLECTOR, place, interface)
    }

    /// The reflector that has a line of memory for each flow.
    ///
    /// # Errors
    /// As [`Attached::reflector`].
    pub(crate) fn stateful_reflector(place: &Place, interface: &Interface) -> anyhow::Result<Self> {
        Self::attach(load_with(1, state::LINES)?, program::STATEFUL_REFLECTOR, place, interface)
    }

    /// The bare redirect from one interface to another one of the same place, whose link ends at
    /// the MAC address `towards`.
    ///
    /// # Errors
    /// As [`Attached::reflector`].
    pub(crate) fn redirector(
        place: &Place,
        (from, to): (&Interface, &Interface),
        towards: [u8; 6],
    ) -> anyhow::Result<Self> {
        let mut ebpf = load(1)?;
        let macs = [towards, to.mac].concat();
        array::<12>(&mut ebpf, map::REDIRECT_MACS)?.set(0, raw::<[u8], 12>(&macs[..]), 0)?;
        let port = ebpf.map_mut(map::REDIRECT_PORT).context("no redirect map in the object")?;
        let mut port = DevMap::try_from(port)?;
        // The kernel looks the interface up in the calling thread's namespace.
        place.within(|| Ok(port.set(0, to.index, None, 0)?))?;
        Self::attach(ebpf, program::REDIRECTOR, place, from)
    }

    /// A program that passes everything: it makes a veth take and send frames by XDP. `None`
    /// where any other program does that already.
    ///
    /// # Errors
    /// As [`Attached::reflector`], but for a program that is there.
    pub(crate) fn empty(place: &Place, interface: &Interface) -> anyhow::Result<Option<Self>> {
        if interface.xdp.is_some() {
            return Ok(None);
        }
        Self::attach(load(1)?, program::EMPTY, place, interface).map(Some)
    }
}

/// The sink on its interface. It passes everything until it is told what to take.
#[derive(Debug)]
pub(crate) struct Sink {
    attached: Attached,
    flows: u32,
}

impl Sink {
    /// Attaches the one for packets made so, with room for `flows`.
    ///
    /// # Errors
    /// As [`Attached::reflector`].
    pub(crate) fn attach(
        make: Make,
        place: &Place,
        interface: &Interface,
        flows: u32,
    ) -> anyhow::Result<Self> {
        let name = match make {
            Make::Full => program::SINK,
            Make::Lean => program::SINK_LEAN,
        };
        let attached = Attached::attach(load(flows)?, name, place, interface)?;
        Ok(Self { attached, flows })
    }

    /// Says what to take: the run, and the ends of each flow's packets. What was counted before is
    /// forgotten.
    ///
    /// # Errors
    /// The kernel takes no map entry.
    pub(crate) fn expect(&mut self, config: &SinkConfig, ends: &[Ends]) -> anyhow::Result<()> {
        const FLOW: usize = size_of::<SinkFlow>();
        let mut flows = array::<FLOW>(&mut self.attached.ebpf, map::SINK_FLOWS)?;
        for (index, ends) in (0..).zip(ends) {
            let flow = SinkFlow { ends: *ends, ..SinkFlow::new_zeroed() };
            flows.set(index, raw::<_, FLOW>(&flow), 0)?;
        }
        let counts = self.attached.ebpf.map_mut(map::SINK_COUNTS).context("no counts")?;
        let mut counts = PerCpuArray::<_, [u8; size_of::<SinkCounts>()]>::try_from(counts)?;
        let none = vec![raw(&SinkCounts::default()); nr_cpus().map_err(|(_, error)| error)?];
        counts.set(0, PerCpuValues::try_from(none)?, 0)?;
        const CONFIG: usize = size_of::<SinkConfig>();
        let mut configs = array::<CONFIG>(&mut self.attached.ebpf, map::SINK_CONFIG)?;
        Ok(configs.set(0, raw::<_, CONFIG>(config), 0)?)
    }

    /// The counts over all flows.
    ///
    /// # Errors
    /// The kernel gives no map entry.
    pub(crate) fn counts(&self) -> anyhow::Result<SinkCounts> {
        let map = self.attached.ebpf.map(map::SINK_COUNTS).context("no counts in the object")?;
        let map = PerCpuArray::<_, [u8; size_of::<SinkCounts>()]>::try_from(map)?;
        let mut total = SinkCounts::default();
        for cpu in map.get(&0, 0)?.iter() {
            total = sum(&total, &read(cpu));
        }
        Ok(total)
    }

    /// Every flow.
    ///
    /// # Errors
    /// The kernel gives no map entry.
    pub(crate) fn flows(&self) -> anyhow::Result<Vec<SinkFlow>> {
        let map = self.attached.ebpf.map(map::SINK_FLOWS).context("no flows in the object")?;
        let map = Array::<_, [u8; size_of::<SinkFlow>()]>::try_from(map)?;
        (0..self.flows).map(|index| Ok(read(&map.get(&index, 0)?))).collect()
    }
}

fn sum(a: &SinkCounts, b: &SinkCounts) -> SinkCounts {
    SinkCounts {
        packets: a.packets + b.packets,
        received: a.received + b.received,
        reordered: a.reordered + b.reordered,
        duplicates: a.duplicates + b.duplicates,
        too_late: a.too_late + b.too_late,
        sampled: a.sampled + b.sampled,
        damaged: a.damaged + b.damaged,
        corrupted: a.corrupted + b.corrupted,
        bad_checksum: a.bad_checksum + b.bad_checksum,
        partial_checksum: a.partial_checksum + b.partial_checksum,
        no_checksum: a.no_checksum + b.no_checksum,
        misdelivered: a.misdelivered + b.misdelivered,
        passed: a.passed + b.passed,
    }
}

/// One thread's generator.
#[derive(Debug)]
pub(crate) struct Generator {
    ebpf: Ebpf,
    program: &'static str,
    context: [u8; XDP_MD_BYTES],
    frame: Vec<u8>,
    batch: u32,
    rate: u64,
    duration_ns: u64,
}

/// What a generator's frames are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template<'a> {
    /// How they are made.
    pub(crate) make: Make,
    /// The image behind the headers.
    pub(crate) image: &'a [u64; IMAGE_WORDS],
    /// The frame before anything is written into it.
    pub(crate) frame: &'a [u8],
}

/// How far a generator is.
pub(crate) struct Dial {
    state: Array<MapData, [u8; size_of::<GeneratorState>()]>,
}

/// Ends a generator.
pub(crate) struct Stop {
    config: Array<MapData, [u8; size_of::<GeneratorConfig>()]>,
}

impl Generator {
    /// Loads it for some flows, to send out of the interface of that index.
    ///
    /// # Errors
    /// No right to load programs.
    pub(crate) fn load(
        config: &GeneratorConfig,
        flows: &[GeneratorFlow],
        template: Template<'_>,
        interface: u32,
    ) -> anyhow::Result<(Self, Dial, Stop)> {
        const FLOW: usize = size_of::<GeneratorFlow>();
        let Template { make, image, frame } = template;
        let program = match make {
            Make::Full => program::GENERATOR,
            Make::Lean => program::GENERATOR_LEAN,
        };
        let mut ebpf = load(config.flows)?;
        xdp(&mut ebpf, program)?.load().map_err(|error| explain(error.into()))?;
        array(&mut ebpf, map::IMAGE)?.set(0, raw::<_, { IMAGE_WORDS * 8 }>(image), 0)?;
        let whole = match make {
            Make::Full => flows.len(),
            Make::Lean => 1,
        };
        let mut map = array::<FLOW>(&mut ebpf, map::GENERATOR_FLOWS)?;
        for (index, flow) in (0..).zip(&flows[..whole]) {
            map.set(index, raw::<_, FLOW>(flow), 0)?;
        }
        if make == Make::Lean {
            const LEAN: usize = size_of::<LeanFlow>();
            let mut map = array::<LEAN>(&mut ebpf, map::LEAN_FLOWS)?;
            for (index, flow) in (0..).zip(flows) {
                let lean = flow.lean(&flows[0], config.sequence_at);
                let lean = lean.context("the lean flows differ in more than their ports")?;
                map.set(index, raw::<_, LEAN>(&lean), 0)?;
            }
        }
        let take = |ebpf: &mut Ebpf, name| ebpf.take_map(name).context("no such map in the object");
        let dial = Dial { state: take(&mut ebpf, map::GENERATOR_STATE)?.try_into()? };
        let mut stop = Stop { config: take(&mut ebpf, map::GENERATOR_CONFIG)?.try_into()? };
        stop.config.set(0, raw::<_, { size_of::<GeneratorConfig>() }>(config), 0)?;
        // What the program sees as its packet: bytes from 0 to the frame's end, and its interface.
        let mut context = [0; XDP_MD_BYTES];
        context[4..8].copy_from_slice(&config.frame_bytes.to_ne_bytes());
        context[12..16].copy_from_slice(&interface.to_ne_bytes());
        let frame = frame.to_vec();
        let batch = match config.rate {
            0 => BATCH_FRAMES_MAX,
            rate => u32::try_from(rate / BATCHES_PER_SECOND)?.clamp(1, BATCH_FRAMES_MAX),
        };
        let GeneratorConfig { rate, duration_ns, .. } = *config;
        Ok((Self { ebpf, program, context, frame, batch, rate, duration_ns }, dial, stop))
    }

    /// How many runs the next call has. One call for the whole run if possible: beginning and
    /// ending one each waits until every CPU has gone through the scheduler, which on a busy
    /// machine takes 100 ms. But runs that are left over when all is sent take time as well.
    fn repeat(&self, state: &GeneratorState) -> anyhow::Result<u32> {
        let elapsed = state.sent_ns.saturating_sub(state.start_ns);
        let left_ns = self.duration_ns.saturating_sub(elapsed);
        let runs = match (self.rate, elapsed) {
            (0, elapsed) => {
                let (runs, in_ns) = match elapsed {
                    0 => (FLAT_OUT_MAX, SECOND_NS),
                    _ => (state.sent, elapsed),
                };
                let runs = u128::from(runs) * u128::from(left_ns) / u128::from(in_ns);
                u64::try_from(runs)?.max(REPEAT_MIN)
            }
            (rate, _) => (WAITS_PER_SECOND + 2 * rate) * (left_ns.div_ceil(SECOND_NS) + 1),
        };
        Ok(u32::try_from(runs.min(REPEAT_MAX))?)
    }

    /// Sends until everything is sent, it is stopped, or the kernel has had enough, in the
    /// calling thread's namespace and on its CPU; `state` is how far it is.
    ///
    /// # Errors
    /// The kernel runs no program on live frames, or not out of this interface.
    pub(crate) fn burst(&mut self, state: &GeneratorState) -> anyhow::Result<()> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&self.context),
            repeat: self.repeat(state)?,
            attrs: TestRunAttrs::new().xdp_live_frames(self.batch),
            ..TestRunOptions::default()
        };
        match xdp(&mut self.ebpf, self.program)?.test_run(options) {
            Ok(_) => Ok(()),
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::Interrupted =>
            {
                Ok(())
            }
            Err(error) => Err(anyhow::Error::new(error).context(
                "the kernel does not run the generator (Linux 5.18 or newer, and an interface \
                 whose driver sends XDP frames)",
            )),
        }
    }
}

impl Dial {
    /// The generator's state.
    ///
    /// # Errors
    /// The kernel gives no map entry.
    pub(crate) fn read(&self) -> anyhow::Result<GeneratorState> {
        Ok(read(&self.state.get(&0, 0)?))
    }
}

impl Stop {
    /// Lets the generator send nothing more.
    ///
    /// # Errors
    /// The kernel takes no map entry.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let mut config: GeneratorConfig = read(&self.config.get(&0, 0)?);
        config.duration_ns = 0;
        Ok(self.config.set(0, raw::<_, { size_of::<GeneratorConfig>() }>(&config), 0)?)
    }
}
