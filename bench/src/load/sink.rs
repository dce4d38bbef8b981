//! The sink: a peer that keeps the packets and judges them, so that the figures are of one way.
//! Client and peer are the same process, and the same clock says when a packet was due and when
//! it came.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::load::account::{Arrivals, Tally};
use crate::load::payload::{self, Leg, Returned};
use crate::load::peer::{self, PeerCounts};
use crate::load::plan::{FlowCount, Plan, Shared};
use crate::load::section::Sections;

/// How long the sink waits before it looks at the time: a step is judged in the pause behind it.
const TIME_CHECK: Duration = Duration::from_millis(50);

/// What the sink knows of a flow.
#[derive(Debug)]
struct Flow {
    arrivals: Arrivals,
    /// The relayed transport address that its first packet came from.
    relayed: Option<SocketAddr>,
}

/// A sink at work.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    socket: &'a UdpSocket,
    plan: &'a Plan,
    shared: &'a Shared,
    clock: Clock,
    flows: Vec<Flow>,
    sections: Sections<'a>,
    foreign: u64,
    /// Datagrams received.
    counts: &'a PeerCounts,
}

impl<'a> Sink<'a> {
    /// On a socket of [`peer::open`].
    pub(crate) fn new(
        socket: &'a UdpSocket,
        plan: &'a Plan,
        shared: &'a Shared,
        clock: Clock,
        counts: &'a PeerCounts,
    ) -> Self {
        let flow = |_| Flow { arrivals: Arrivals::new(plan.window_packets()), relayed: None };
        Self {
            socket,
            plan,
            shared,
            clock,
            flows: (0..plan.flows).map(flow).collect(),
            sections: Sections::new(&shared.collector),
            foreign: 0,
            counts,
        }
    }

    /// Judges what comes until `stop`; gives the sums, and what each flow delivered.
    ///
    /// # Errors
    /// What the kernel says about receiving.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> io::Result<(Tally, Vec<FlowCount>)> {
        self.socket.set_read_timeout(Some(TIME_CHECK))?;
        let mut buffer = vec![0; 65_536];
        let mut time = 0;
        while !stop.load(Ordering::Relaxed) {
            let received = self.socket.recv_from(&mut buffer);
            let start = self.shared.start_ns.load(Ordering::Relaxed);
            if start > 0 {
                time = self.clock.now().saturating_sub(start);
                let arrivals = self.flows.iter_mut().map(|flow| &mut flow.arrivals);
                self.sections.close(time, arrivals);
            }
            match received {
                Ok((length, from)) => self.take(&buffer[..length], from, time),
                Err(error) if peer::passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let arrivals = self.flows.iter_mut().map(|flow| &mut flow.arrivals);
        let mut tally = self.sections.finish(time, arrivals);
        tally.foreign += self.foreign;
        let count = |(flow, known): (u32, &Flow)| FlowCount {
            flow,
            offered: 0,
            delivered: known.arrivals.delivered,
        };
        Ok((tally, (0..).zip(&self.flows).map(count).collect()))
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr, time: u64) {
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        let Plan { run, payload_bytes, .. } = *self.plan;
        match payload::read(datagram, Leg::Out, run, payload_bytes) {
            Returned::Intact(stamp) if self.plan.has(&stamp) => {
                let place = usize::try_from(stamp.flow).unwrap_or(usize::MAX);
                // An allocation has one relayed transport address for all its life.
                let right = |flow: &mut &mut Flow| *flow.relayed.get_or_insert(from) == from;
                let Some(flow) = self.flows.get_mut(place).take_if(right) else {
                    self.sections.at(stamp.due_ns).misdelivered += 1;
                    return;
                };
                let latency = time.saturating_sub(stamp.due_ns);
                let (arrivals, due_ns) = (&mut flow.arrivals, stamp.due_ns);
                if self.sections.arrived(arrivals, stamp.sequence, due_ns, latency) {
                    self.shared.arrived(latency);
                }
            }
            Returned::Intact(_) | Returned::Corrupted => self.sections.at(time).corrupted += 1,
            Returned::Foreign => self.foreign += 1,
        }
    }
}
