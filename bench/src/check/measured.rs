//! The figures of a `check`, for its JSON document.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::turn::transport::Transport;

/// Smallest, middle and largest of some times, milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Spread {
    /// The smallest.
    pub(crate) min: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of nanoseconds; `None` when there are none.
    pub(crate) fn of(times_ns: &mut [u64]) -> Option<Self> {
        times_ns.sort_unstable();
        let ms = |ns: &u64| *ns as f64 / 1e6;
        Some(Self {
            min: ms(times_ns.first()?),
            median: ms(times_ns.get(times_ns.len() / 2)?),
            max: ms(times_ns.last()?),
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = self;
        write!(f, "{median:.2} ms ({min:.2} to {max:.2})")
    }
}

/// One transport to one address.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Way {
    transport: Transport,
    server: SocketAddr,
    /// Whether the server answers there.
    pub(crate) reachable: bool,
    /// Why not.
    pub(crate) error: Option<String>,
    /// Binding round trips.
    pub(crate) rtt_ms: Option<Spread>,
    /// Binding requests that were sent.
    pub(crate) requests: usize,
    /// Those that stayed unanswered.
    pub(crate) unanswered: usize,
}

impl Way {
    /// Not tried yet.
    pub(crate) fn new(transport: Transport, server: SocketAddr) -> Self {
        Self {
            transport,
            server,
            reachable: false,
            error: None,
            rtt_ms: None,
            requests: 0,
            unanswered: 0,
        }
    }
}

/// How a NAT maps addresses, or filters packets (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Behaviour {
    /// There is no translation, or no filter.
    None,
    /// The same for every other end.
    EndpointIndependent,
    /// Another for every other address.
    AddressDependent,
    /// Another for every other address and port.
    AddressAndPortDependent,
    /// Another for another port at least; addresses could not be told.
    PortDependent,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// The server's addresses.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What was tried.
    pub(crate) transports: Vec<Way>,
    /// This host's address towards the server.
    pub(crate) local: Option<SocketAddr>,
    /// What the server sees of it.
    pub(crate) reflexive: Option<SocketAddr>,
    /// The relayed transport address.
    pub(crate) relayed: Option<SocketAddr>,
    /// LIFETIME of the allocation, seconds.
    pub(crate) lifetime_secs: Option<u32>,
    /// Whether a packet came through the relay from client to peer.
    pub(crate) relays_to_peer: Option<bool>,
    /// Whether a packet came through the relay from peer to client.
    pub(crate) relays_to_client: Option<bool>,
    /// Client, server, peer, server, client.
    pub(crate) relay_rtt_ms: Option<Spread>,
    /// How the NAT before this host maps.
    pub(crate) nat_mapping: Option<Behaviour>,
    /// How the NAT or firewall before this host filters.
    pub(crate) nat_filtering: Option<Behaviour>,
    /// The largest IP packet to the server, bytes; 1500 is the most that is tried.
    pub(crate) mtu_bytes: Option<usize>,
    /// The largest payload from client to peer, bytes.
    pub(crate) relay_payload_to_peer_bytes: Option<usize>,
    /// The largest payload from peer to client, bytes.
    pub(crate) relay_payload_to_client_bytes: Option<usize>,
}
