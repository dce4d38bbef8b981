//! Everything that a flood's report is made of, as it is gathered. Computes nothing.

use serde::Serialize;

use crate::flood::place::Interface;
use crate::flood::run::Measured;

/// What was asked for, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// The command, without passwords.
    pub(crate) command: String,
    /// The TURN server transport address; of a ceiling, the reflector's MAC address.
    pub(crate) server: String,
    /// The peer's transport address.
    pub(crate) peer: Option<String>,
    /// `to-peer`, `to-client`, or `reflect`.
    pub(crate) direction: &'static str,
    /// Allocations, each one flow.
    pub(crate) allocations: u32,
    /// Packets a second of all; none: flat out.
    pub(crate) rate_total: Option<u64>,
    /// Bytes of application data in a packet.
    pub(crate) payload_bytes: u16,
    /// How long packets are due, seconds.
    pub(crate) duration_secs: u32,
    /// Threads that generate.
    pub(crate) threads: u32,
    /// One packet in so many is checked whole.
    pub(crate) sample: u32,
}

/// What the control traffic came to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Control {
    /// Allocations that existed.
    pub(crate) allocations_made: u64,
    /// Allocations that were ready for data.
    pub(crate) allocations_ready: u64,
    /// Allocations that the server confirmed to have deleted.
    pub(crate) allocations_deleted: u64,
    /// From the first Allocate to the last allocation ready, milliseconds.
    pub(crate) setup_ms: u64,
}

/// Who a flow is, for its line.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    /// The client's address.
    pub(crate) client: String,
    /// The relayed transport address.
    pub(crate) relayed: Option<String>,
}

/// Everything that a report is made of.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    /// What was asked.
    pub(crate) asked: Asked,
    /// One word, and a sentence, on how it ended.
    pub(crate) ending: (&'static str, String),
    /// The control traffic.
    pub(crate) control: Control,
    /// The generator's interface, and the sink's.
    pub(crate) interfaces: Option<(Interface, Interface)>,
    /// Receive queues of the sink's interface, if they are known.
    pub(crate) sink_queues: Option<usize>,
    /// What was measured, if anything was sent.
    pub(crate) measured: Option<&'a Measured>,
    /// The flows.
    pub(crate) names: &'a [Name],
    /// Largest share of packets that may be lost, percent.
    pub(crate) max_loss: Option<f64>,
    /// Whether to list every flow.
    pub(crate) per_flow: PerFlow,
}

/// Whether a report lists every flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PerFlow {
    /// It does.
    Listed,
    /// Only the worst ones.
    Summed,
}
