//! The course: rounds over all subjects on one rig, in turn, each with the same generator, frames
//! and sinks. Owns what is attached when; draws no conclusion.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use relay_bench_ebpf::packet::Common;
use serde::Serialize;

use crate::clock::SECOND_NS;
use crate::flood::clients::{Addresses, Clients, Trouble};
use crate::flood::forge::{self, Make, Mould};
use crate::flood::kernel::{Attached, Sink};
use crate::flood::run::{Ends, Flood, Measured, Stopped};
use crate::forward::Plan;
use crate::forward::relay::{self, LISTEN, Relay};
use crate::forward::rig::{Arms, CLIENT, End, Rig};
use crate::turn::framing::channel;

/// Share of its own flat-out rate at which the relay must lose nothing.
pub(crate) const SUSTAINED: f64 = 0.9;
/// One packet in so many may go through the relay's network stack.
const WENT_UP_SHARE: u64 = 100;
/// So many may in any case: requests do.
const WENT_UP_ALWAYS: u64 = 1000;
/// Without a packet for so long, nothing is forwarded.
const STALL_NS: u64 = 5 * SECOND_NS;
/// How often a measurement is begun of which nothing more arrives.
const ATTEMPTS_MAX: u32 = 3;
/// The first client's port of flows without allocations.
const FIRST_PORT: u16 = 20_000;

/// What carries the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// Nothing: the sink is at the far end of the generator's link.
    Generator,
    /// A program that sends every frame back with its MAC addresses exchanged.
    Reflector,
    /// The same, with a line of memory for each flow.
    StatefulReflector,
    /// A program that redirects every frame to the other interface.
    Redirect,
    /// Turnpike, from client to peer.
    ToPeer,
    /// Turnpike, from peer to client.
    ToClient,
}

/// How fast packets were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Speed {
    /// As fast as the generator can.
    FlatOut,
    /// At [`SUSTAINED`] of what arrived flat out in the same round.
    Sustained,
}

/// One measurement.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Sample {
    /// How the relay is connected.
    pub(crate) arms: Arms,
    /// Channels that take turns.
    pub(crate) channels: u32,
    /// The round, from 1.
    pub(crate) round: u32,
    /// What carried the packets.
    pub(crate) subject: Subject,
    /// How fast they were sent.
    pub(crate) speed: Speed,
    /// The rate that was asked for, packets a second; none: flat out.
    pub(crate) rate: Option<u64>,
    /// Packets sent.
    pub(crate) sent: u64,
    /// Packets that arrived as they were sent.
    pub(crate) received: u64,
    /// Packets that did not arrive.
    pub(crate) lost: u64,
    /// Packets that arrived otherwise than they were sent, as far as was looked.
    pub(crate) wrong: u64,
    /// Packets that were checked whole.
    pub(crate) sampled: u64,
    /// Seconds from the first packet to the last.
    pub(crate) send_secs: f64,
    /// Arrived packets, by that time.
    pub(crate) received_per_second: f64,
    /// Of the relay: datagrams that its host's network stack had.
    pub(crate) went_up: Option<u64>,
    /// How late the latest packet was sent, milliseconds; none: flat out.
    pub(crate) lag_max_ms: Option<f64>,
}

/// From where to where packets go, and what they look like.
struct Way<'a> {
    from: &'a End,
    sink: &'a mut Sink,
    sink_mac: [u8; 6],
    dst_mac: [u8; 6],
    sent_framed: bool,
    seen_framed: bool,
    common: Common,
    flows: Vec<Ends>,
}

/// All rounds on one rig.
pub(crate) struct Course<'a> {
    /// What is to be done.
    pub(crate) plan: &'a Plan,
    /// Where.
    pub(crate) rig: &'a Rig,
    /// Where the relay's files go.
    pub(crate) directory: &'a Path,
    /// The user asked for the end.
    pub(crate) stop: &'a AtomicBool,
    /// What was measured.
    pub(crate) samples: &'a mut Vec<Sample>,
}

impl Course<'_> {
    /// Measures everything, or until the user asks for the end.
    ///
    /// # Errors
    /// The rig or the relay fails. What was measured before stays.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
        // One that cannot be compared is refused before anything is measured.
        drop(self.start()?);
        for round in 1..=self.plan.rounds {
            for &channels in &self.plan.channels {
                let name = self.rig.arms.name();
                let of = self.plan.rounds;
                self.plan.tell(&format!("{name}, {channels} channels, round {round} of {of}"));
                self.round(channels, round)?;
                if self.is_over() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn round(&mut self, channels: u32, round: u32) -> anyhow::Result<()> {
        let Rig { client_end, relay_end, peer_link, .. } = self.rig;
        // Bare programs first. The far ends have sinks all the time: they make a veth take frames
        // by XDP, and pass what is not theirs.
        let attach = |end: &End| Sink::attach(Make::Lean, &end.place, &end.interface, channels);
        let mut client_sink = attach(client_end)?;
        let mut peer_sink = peer_link.as_ref().map(|(_, peer)| attach(peer)).transpose()?;
        let (here, relay_mac) = (client_end.interface.mac, relay_end.interface.mac);

        let mut sink = attach(relay_end)?;
        self.bare((Subject::Generator, channels, round), &mut sink, relay_mac)?;
        drop(sink);
        let reflector = Attached::reflector(&relay_end.place, &relay_end.interface)?;
        self.bare((Subject::Reflector, channels, round), &mut client_sink, here)?;
        drop(reflector);
        let reflector = Attached::stateful_reflector(&relay_end.place, &relay_end.interface)?;
        self.bare((Subject::StatefulReflector, channels, round), &mut client_sink, here)?;
        drop(reflector);
        if let (Some((out, peer)), Some(sink)) = (peer_link, &mut peer_sink) {
            let way = (&relay_end.interface, &out.interface);
            let attached = Attached::redirector(&relay_end.place, way, peer.interface.mac)?;
            self.bare((Subject::Redirect, channels, round), sink, peer.interface.mac)?;
            drop(attached);
        }
        if self.is_over() {
            return Ok(());
        }
        self.relay((channels, round), &mut client_sink, peer_sink.as_mut())
    }

    /// What a bare program carries.
    fn bare(
        &mut self,
        (subject, channels, round): (Subject, u32, u32),
        sink: &mut Sink,
        sink_mac: [u8; 6],
    ) -> anyhow::Result<()> {
        if self.is_over() {
            return Ok(());
        }
        let flow = |number: u32| {
            let above = u16::try_from(number).expect("the command line limits the channels");
            let ends = (SocketAddr::new(CLIENT, FIRST_PORT + above), LISTEN);
            Ends { sent: ends, seen: ends }
        };
        let way = Way {
            from: &self.rig.client_end,
            sink,
            sink_mac,
            dst_mac: self.rig.relay_end.interface.mac,
            sent_framed: true,
            seen_framed: true,
            common: Common::Destination,
            flows: (0..channels).map(flow).collect(),
        };
        let measured = self.flood(way, None, || {
            thread::sleep(Duration::from_millis(50));
            true
        })?;
        self.note((subject, channels, round), None, &measured, None)?;
        Ok(())
    }

    fn start(&self) -> anyhow::Result<Relay> {
        let Self { plan, rig, directory, stop, .. } = self;
        Relay::start(&plan.turnpike, rig, plan.relay_cores.count(), directory, stop)
    }

    /// What Turnpike carries, both ways.
    fn relay(
        &mut self,
        (channels, round): (u32, u32),
        client_sink: &mut Sink,
        mut peer_sink: Option<&mut Sink>,
    ) -> anyhow::Result<()> {
        let rig = self.rig;
        let relay = self.start()?;
        let peer = rig.peer_end().place.within(|| {
            let socket = UdpSocket::bind(relay::peer(rig))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let setup = Arc::new(relay::clients(rig));
        let mut clients = rig
            .client_end
            .place
            .within(|| Ok(Clients::open(setup, LISTEN, channels)?))
            .context("cannot open a socket for each channel (ulimit -n)")?;
        let stopped = || self.stop.load(Ordering::Relaxed);
        clients.set_up(stopped, |_| ()).map_err(explain)?;
        let came_through = clients.try_the_way(&peer, stopped).map_err(explain)?;
        if self.is_over() {
            return Ok(());
        }
        ensure!(came_through, "a packet through the first allocation did not come back");
        let addresses = clients.addresses()?;
        for subject in [Subject::ToPeer, Subject::ToClient] {
            let mut rate = None;
            for _ in [Speed::FlatOut, Speed::Sustained] {
                if self.is_over() {
                    return Ok(());
                }
                let sink = match (subject, &mut peer_sink) {
                    (Subject::ToPeer, Some(sink)) => &mut **sink,
                    _ => &mut *client_sink,
                };
                let way = relayed(rig, subject, &addresses, sink);
                let up = relay::went_up(rig)?;
                let mut trouble = None;
                let measured = self.flood(way, rate, || {
                    trouble = trouble.take().or(clients.step().err());
                    trouble.is_none()
                })?;
                let went_up = relay::went_up(rig)? - up;
                relay.check()?;
                trouble.map_or(Ok(()), |trouble| Err(explain(trouble)))?;
                let per_second =
                    self.note((subject, channels, round), rate, &measured, Some(went_up))?;
                rate = Some(sustained(per_second));
            }
        }
        clients.release();
        Ok(())
    }

    fn flood(
        &self,
        way: Way<'_>,
        rate: Option<u64>,
        mut beside: impl FnMut() -> bool,
    ) -> anyhow::Result<Measured> {
        let mut run = [0; 4];
        getrandom::fill(&mut run).context("no random numbers from the operating system")?;
        let run = u32::from_ne_bytes(run);
        let End { place, interface } = way.from;
        let flood = Flood {
            run,
            flows: way.flows,
            mould: Mould {
                make: Make::Lean,
                dst_mac: way.dst_mac,
                src_mac: interface.mac,
                channel: way.sent_framed.then(channel),
                payload_bytes: self.plan.payload_bytes,
                fill: forge::fill(run, self.plan.payload_bytes),
            },
            framed: way.seen_framed,
            common: way.common,
            sink_mac: way.sink_mac,
            sample: self.plan.sample,
            rate,
            duration_ns: self.plan.duration_ns,
            threads: 1,
            stall_ns: STALL_NS,
            place: place.clone(),
            interface: interface.clone(),
        };
        for _ in 0..ATTEMPTS_MAX {
            let measured = flood.run(way.sink, self.stop, &ProgressBar::hidden(), &mut beside)?;
            // A busy machine may hold the generator up for longer than its run.
            if measured.stopped != Stopped::Stalled {
                return Ok(measured);
            }
        }
        bail!("nothing arrives any more, {ATTEMPTS_MAX} times over ({:?})", self.rig.arms)
    }

    /// Keeps a measurement; packets a second that arrived.
    fn note(
        &mut self,
        (subject, channels, round): (Subject, u32, u32),
        rate: Option<u64>,
        measured: &Measured,
        went_up: Option<u64>,
    ) -> anyhow::Result<f64> {
        if measured.stopped == Stopped::Interrupted {
            return Ok(0.0);
        }
        let counts = &measured.counts;
        let wrong = counts.damaged + counts.corrupted + counts.bad_checksum + counts.misdelivered;
        let lost = measured.sent.saturating_sub(counts.received + wrong);
        let arms = self.rig.arms;
        ensure!(counts.packets > 0, "{}, {subject:?}: nothing arrived", arms.name());
        if let Some(up) = went_up {
            ensure!(
                up <= WENT_UP_ALWAYS + measured.sent / WENT_UP_SHARE,
                "{up} of {} packets went through the network stack of the relay's host: it does \
                 not relay them by XDP, and is not compared",
                measured.sent
            );
        }
        let send_secs = measured.send_ns as f64 / SECOND_NS as f64;
        let received_per_second = counts.received as f64 / send_secs.max(f64::EPSILON);
        self.plan.tell(&format!("  {subject:?}: {received_per_second:.0}/s, {lost} lost"));
        self.samples.push(Sample {
            arms,
            channels,
            round,
            subject,
            speed: if rate.is_some() { Speed::Sustained } else { Speed::FlatOut },
            rate,
            sent: measured.sent,
            received: counts.received,
            lost,
            wrong,
            sampled: counts.sampled,
            send_secs,
            received_per_second,
            went_up,
            lag_max_ms: measured.lag_max_ns.map(|lag| lag as f64 / 1e6),
        });
        Ok(received_per_second)
    }
}

/// A way through the relay.
fn relayed<'a>(
    rig: &'a Rig,
    subject: Subject,
    addresses: &[Addresses],
    sink: &'a mut Sink,
) -> Way<'a> {
    let peer = relay::peer(rig);
    let to_peer = |of: &Addresses| Ends { sent: (of.client, LISTEN), seen: (of.relayed, peer) };
    let to_client = |of: &Addresses| Ends { sent: (peer, of.relayed), seen: (LISTEN, of.client) };
    if subject == Subject::ToPeer {
        Way {
            from: &rig.client_end,
            sink,
            sink_mac: rig.peer_end().interface.mac,
            dst_mac: rig.relay_end.interface.mac,
            sent_framed: true,
            seen_framed: false,
            common: Common::Destination,
            flows: addresses.iter().map(to_peer).collect(),
        }
    } else {
        Way {
            from: rig.peer_end(),
            sink,
            sink_mac: rig.client_end.interface.mac,
            dst_mac: rig.relay_end_to_peer().interface.mac,
            sent_framed: false,
            seen_framed: true,
            common: Common::Source,
            flows: addresses.iter().map(to_client).collect(),
        }
    }
}

fn sustained(per_second: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions")]
    let rate = (per_second * SUSTAINED) as u64;
    rate.max(1)
}

fn explain(trouble: Trouble) -> anyhow::Error {
    match trouble {
        Trouble::Turn { allocation, failure } => {
            anyhow::Error::msg(format!("allocation {allocation}: {failure}"))
        }
        Trouble::Io(error) => anyhow::Error::new(error).context("a client's socket"),
    }
}
