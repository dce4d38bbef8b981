//! One flood, from the generator's first packet to the last that may still come: frames out of one
//! interface, the sink on another. Knows nothing of TURN: the addresses are given.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use relay_bench_ebpf::pace::{GeneratorConfig, GeneratorState};
use relay_bench_ebpf::packet::{self, Common, GeneratorFlow, SinkConfig, SinkCounts, SinkFlow};

use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};
use crate::flood::forge::{self, Mould};
use crate::flood::kernel::{Dial, Generator, Sink, Stop, Template};
use crate::flood::place::{Interface, Place};

/// How long nothing more has come when the run is over, nanoseconds.
const QUIET_NS: u64 = 200 * MILLISECOND_NS;

/// The two ends of a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    /// As the generator sends them.
    pub(crate) sent: (SocketAddr, SocketAddr),
    /// As the sink must see them.
    pub(crate) seen: (SocketAddr, SocketAddr),
}

/// What is sent, how, and what is to arrive.
#[derive(Debug)]
pub(crate) struct Flood {
    /// The run's number.
    pub(crate) run: u32,
    /// Each flow's ends.
    pub(crate) flows: Vec<Ends>,
    /// The frames.
    pub(crate) mould: Mould,
    /// Whether ChannelData arrives, or plain UDP.
    pub(crate) framed: bool,
    /// Which end of what arrives is the same for all flows.
    pub(crate) common: Common,
    /// The MAC address of the sink's interface.
    pub(crate) sink_mac: [u8; 6],
    /// One packet in so many is checked whole.
    pub(crate) sample: u32,
    /// Packets a second over all flows; `None`: flat out.
    pub(crate) rate: Option<u64>,
    /// How long packets are due, nanoseconds.
    pub(crate) duration_ns: u64,
    /// Threads that generate.
    pub(crate) threads: u32,
    /// Without a packet for so long, nothing is relayed any more; nanoseconds.
    pub(crate) stall_ns: u64,
    /// Where the frames leave.
    pub(crate) place: Place,
    /// By which interface.
    pub(crate) interface: Interface,
}

/// What a flow sent and what of it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowResult {
    /// Packets sent.
    pub(crate) sent: u64,
    /// What the sink counted.
    pub(crate) sink: SinkFlow,
}

/// What a flood came to.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Packets sent.
    pub(crate) sent: u64,
    /// From the first packet of any thread to the last one of any, nanoseconds; of a paced run at
    /// least its duration.
    pub(crate) send_ns: u64,
    /// How late the latest packet was sent, nanoseconds; flat out none is due at a time.
    pub(crate) lag_max_ns: Option<u64>,
    /// Packets that the sending interface counted meanwhile, others' included.
    pub(crate) interface_sent: Option<u64>,
    /// What arrived.
    pub(crate) counts: SinkCounts,
    /// Every flow.
    pub(crate) flows: Vec<FlowResult>,
    /// Why it ended.
    pub(crate) stopped: Stopped,
}

/// One of each for every thread.
struct Generators {
    generators: Vec<Generator>,
    dials: Vec<Dial>,
    stops: Vec<Stop>,
}

/// Why a flood ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// Everything was sent.
    Done,
    /// The user asked for the end.
    Interrupted,
    /// For the stall time nothing arrived.
    Stalled,
    /// What goes on beside it failed.
    Beside,
}

impl Flood {
    /// Runs it. `beside` is called all the time, takes some 50 ms, and says whether to go on.
    ///
    /// # Errors
    /// The kernel does not take the programs or does not run them.
    pub(crate) fn run(
        &self,
        sink: &mut Sink,
        stop: &AtomicBool,
        bar: &ProgressBar,
        mut beside: impl FnMut() -> bool,
    ) -> anyhow::Result<Measured> {
        let seen: Vec<_> =
            self.flows.iter().map(|ends| forge::ends(ends.seen.0, ends.seen.1)).collect();
        sink.expect(&self.sink_config(), &seen)?;
        let Generators { mut generators, dials, mut stops } = self.generators()?;
        let interface_sent = || Interface::packets_sent(&self.place, &self.interface.name);
        let before = interface_sent();
        let halt = AtomicBool::new(false);
        let stopped = thread::scope(|scope| {
            let running: Vec<_> = generators
                .iter_mut()
                .zip(&dials)
                .map(|(generator, dial)| {
                    let halt = &halt;
                    scope.spawn(move || generate(generator, dial, &self.place, halt))
                })
                .collect();
            let finished = || running.iter().all(thread::ScopedJoinHandle::is_finished);
            let stopped = self.watch(sink, stop, bar, &mut beside, &dials, finished);
            halt.store(true, Ordering::Relaxed);
            stops.iter_mut().try_for_each(Stop::stop)?;
            for thread in running {
                thread.join().expect("a generator's thread does not panic")?;
            }
            stopped
        })?;
        let states = dials.iter().map(Dial::read).collect::<anyhow::Result<Vec<_>>>()?;
        let counts = drain(sink, &mut beside)?;
        let interface_sent = before.zip(interface_sent()).map(|(before, after)| after - before);
        let sent = states.iter().map(|state| state.sent).sum();
        let whole = self.rate.filter(|_| stopped == Stopped::Done).map_or(0, |_| self.duration_ns);
        let lag_max_ns = states.iter().map(|state| state.lag_max_ns).max();
        let lag_max_ns = lag_max_ns.filter(|_| self.rate.is_some());
        let flows = sink
            .flows()?
            .into_iter()
            .enumerate()
            .map(|(flow, sink)| FlowResult { sent: self.sent_by(flow, &states), sink })
            .collect();
        Ok(Measured {
            sent,
            send_ns: span(&states).max(whole),
            lag_max_ns,
            interface_sent,
            counts,
            flows,
            stopped,
        })
    }

    /// The threads' generators: flows and rate dealt out.
    fn generators(&self) -> anyhow::Result<Generators> {
        let first = self.flows.first().context("a flood without flows")?;
        let layout = self.mould.layout(first.sent.1);
        let image = self.mould.image(first.sent.1);
        let frame = self.mould.template(first.sent.1);
        let template = Template { make: self.mould.make, image: &image, frame: &frame };
        let threads = threads_of(self.threads, self.flows.len());
        let shares = self.rate.map(|rate| shares(rate, self.flows.len(), threads));
        let deal = |index: usize| -> anyhow::Result<(Generator, Dial, Stop)> {
            let flows: Vec<GeneratorFlow> = (0u32..)
                .zip(&self.flows)
                .skip(index)
                .step_by(threads)
                .map(|(number, Ends { sent: (src, dst), .. })| {
                    self.mould.flow(*src, *dst, packet::tag(self.run, number))
                })
                .collect();
            let rate = shares.as_ref().map_or(0, |shares| shares[index]);
            assert!(self.rate.is_none() || rate > 0, "the command line was looked at before");
            let config = GeneratorConfig {
                rate: 0,
                duration_ns: self.duration_ns,
                interval_ns: 0,
                remainder: 0,
                flows: u32::try_from(flows.len())?,
                frame_bytes: u32::try_from(layout.frame_bytes)?,
                lead: u32::try_from(layout.lead)?,
                payload_word: u32::try_from(layout.payload_word)?,
                checksum_word: u32::try_from(layout.checksum / 8)?,
                checksum_shift: u32::try_from(layout.checksum % 8 * 8)?,
                sequence_at: u32::try_from(layout.sequence)?,
                reserved: 0,
            };
            Generator::load(&config.with_rate(rate), &flows, template, self.interface.index)
        };
        let mut all = Generators { generators: Vec::new(), dials: Vec::new(), stops: Vec::new() };
        for index in 0..threads {
            let (generator, dial, stop) = deal(index)?;
            all.generators.push(generator);
            all.dials.push(dial);
            all.stops.push(stop);
        }
        Ok(all)
    }

    /// Packets that a flow sent: the flows of a thread take turns.
    fn sent_by(&self, flow: usize, states: &[GeneratorState]) -> u64 {
        let threads = states.len();
        let (thread, place) = (flow % threads, flow / threads);
        let flows = flows_of(thread, threads, self.flows.len()) as u64;
        let sent = states[thread].sent;
        sent / flows + u64::from((place as u64) < sent % flows)
    }

    fn sink_config(&self) -> SinkConfig {
        let family = self.flows.first().map_or(4, |ends| if ends.seen.0.is_ipv4() { 4 } else { 6 });
        let ends = self.flows.first().map(|ends| forge::ends(ends.seen.0, ends.seen.1));
        let channel = crate::turn::framing::channel().value().to_be();
        SinkConfig {
            run: self.run,
            flows: u32::try_from(self.flows.len()).unwrap_or(u32::MAX),
            payload_bytes: self.mould.payload_bytes.into(),
            sample: self.sample,
            common: self.common as u32,
            channel: if self.framed { channel } else { 0 },
            family,
            ends: ends.unwrap_or_default(),
            mac: forge::mac_words(self.sink_mac),
            pad: [0; 3],
            fill: self.mould.fill,
            compared: packet::compared(self.mould.payload_bytes.into()),
        }
    }

    fn watch(
        &self,
        sink: &Sink,
        stop: &AtomicBool,
        bar: &ProgressBar,
        beside: &mut impl FnMut() -> bool,
        dials: &[Dial],
        finished: impl Fn() -> bool,
    ) -> anyhow::Result<Stopped> {
        bar.set_length(self.duration_ns / MILLISECOND_NS);
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {msg}") {
            bar.set_style(style);
        }
        let clock = Clock::start();
        let (mut seen, mut seen_at) = (0, 0);
        while !finished() {
            let packets = sink.counts()?.packets;
            let states = dials.iter().map(Dial::read).collect::<anyhow::Result<Vec<_>>>()?;
            if states.iter().all(|state| state.is_over != 0) {
                return Ok(Stopped::Done);
            }
            let sent: u64 = states.iter().map(|state| state.sent).sum();
            let now = clock.now();
            if packets > seen || sent == 0 {
                (seen, seen_at) = (packets, now);
            }
            bar.set_position(now / MILLISECOND_NS);
            bar.set_message(format!("{sent} packets sent, {packets} arrived"));
            if stop.load(Ordering::Relaxed) {
                return Ok(Stopped::Interrupted);
            }
            if now - seen_at > self.stall_ns {
                return Ok(Stopped::Stalled);
            }
            if !beside() {
                return Ok(Stopped::Beside);
            }
        }
        Ok(Stopped::Done)
    }
}

/// Threads that generate: each has a flow at least.
fn threads_of(asked: u32, flows: usize) -> usize {
    usize::try_from(asked).unwrap_or(usize::MAX).min(flows)
}

/// Flows of a thread.
fn flows_of(thread: usize, threads: usize, flows: usize) -> usize {
    (flows + threads - 1 - thread) / threads
}

/// Each thread's share of a rate. Flows are not always dealt out evenly, and each flow has the
/// same rate.
fn shares(rate: u64, flows: usize, threads: usize) -> Vec<u64> {
    let upto = |before: usize| rate * before as u64 / flows as u64;
    let mut before = 0;
    let share = |thread| {
        let from = before;
        before += flows_of(thread, threads, flows);
        upto(before) - upto(from)
    };
    (0..threads).map(share).collect()
}

/// Whether every thread of a run has a share of its rate: one without would send flat out.
pub(crate) fn is_dealt(rate: u64, flows: u32, threads: u32) -> bool {
    let flows = usize::try_from(flows).unwrap_or(usize::MAX);
    shares(rate, flows, threads_of(threads, flows)).iter().all(|share| *share > 0)
}

/// From the first packet of all generators to the last one, nanoseconds.
fn span(states: &[GeneratorState]) -> u64 {
    let began = states.iter().filter(|state| state.start_ns != 0);
    let first = began.clone().map(|state| state.start_ns).min().unwrap_or(0);
    began.map(|state| state.sent_ns.saturating_sub(first)).max().unwrap_or(0)
}

fn generate(
    generator: &mut Generator,
    dial: &Dial,
    place: &Place,
    halt: &AtomicBool,
) -> anyhow::Result<()> {
    place.enter()?;
    loop {
        let state = dial.read()?;
        if state.is_over != 0 || halt.load(Ordering::Relaxed) {
            return Ok(());
        }
        generator.burst(&state)?;
    }
}

/// Waits until nothing more comes: the counts then.
fn drain(sink: &Sink, beside: &mut impl FnMut() -> bool) -> anyhow::Result<SinkCounts> {
    let clock = Clock::start();
    let mut counts = sink.counts()?;
    let mut changed_at = clock.now();
    // What arrives for ever is not what was sent.
    while clock.now() - changed_at < QUIET_NS && clock.now() < 5 * SECOND_NS {
        if !beside() {
            thread::sleep(std::time::Duration::from_millis(20));
        }
        let latest = sink.counts()?;
        if latest.packets != counts.packets {
            changed_at = clock.now();
        }
        counts = latest;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_rate_are_the_whole_rate_and_follow_the_flows() {
        for (rate, flows, threads) in [(1000, 32, 2), (7, 5, 3), (100_001, 65_535, 64)] {
            let shares = shares(rate, flows, threads);
            assert_eq!((shares.len(), shares.iter().sum::<u64>()), (threads, rate));
        }
        assert_eq!(shares(900, 3, 2), [600, 300]);
    }

    #[test]
    fn a_rate_that_leaves_a_thread_without_is_not_dealt() {
        assert!(is_dealt(1, 32, 1) && is_dealt(2, 32, 2) && is_dealt(1, 1, 64));
        assert!(!is_dealt(1, 32, 2));
        assert!(!is_dealt(8, 11, 8), "as many packets as threads, but two go to one of them");
    }

    #[test]
    fn a_run_is_from_the_first_packet_of_any_thread_to_the_last_of_any() {
        let of = |start_ns, sent_ns| {
            let mut state = GeneratorState::default();
            (state.start_ns, state.sent_ns) = (start_ns, sent_ns);
            state
        };
        assert_eq!(span(&[of(100, 400), of(150, 500), of(0, 0)]), 400);
        assert_eq!(span(&[of(100, 400)]), 300);
        assert_eq!(span(&[of(100, 0), of(0, 0)]), 0, "nothing was sent");
        assert_eq!(span(&[]), 0);
    }
}
