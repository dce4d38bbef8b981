//! What limits let pass at most: replies to a source that has not authenticated, and packets of an
//! allocation. A list of moments for each, counted over windows of time.

use std::net::{IpAddr, SocketAddr};

use super::{Model, SEC, Time};

/// A source may have at once what two seconds bring.
const REPLIES_BURST_SECS: u64 = 2;
/// Server and kernel count for themselves, and an end is not a start: twice, and one each.
const BOTH: u64 = 2;
const WINDOWS_SECS: [u64; 3] = [0, 1, 10];

/// Who has a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limited {
    /// An IPv4 address or an IPv6 /64.
    Source(IpAddr),
    /// A relayed transport address: what it sends to peers.
    ToPeers(SocketAddr),
    /// A client: what it is sent of peers' data.
    ToClient(SocketAddr),
}

impl Limited {
    pub(super) fn source(client: SocketAddr) -> Self {
        Self::Source(match client.ip() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                [a, b, c, d, 0, 0, 0, 0].into()
            }
        })
    }
}

impl Model {
    /// Something passed a limit.
    pub(super) fn passed(&mut self, now: Time, who: Limited) -> Result<(), String> {
        self.passed.retain(|(_, ns)| *ns + 10 * SEC >= now.ns);
        self.passed.push((who, now.ns));
        let limits = &self.rules.limits;
        let (rate, burst) = match who {
            Limited::Source(_) => {
                let rate = u64::from(limits.unauthenticated_replies_per_sec);
                (rate, rate * REPLIES_BURST_SECS)
            }
            // A tenth of a second's worth at once.
            Limited::ToPeers(_) | Limited::ToClient(_) => {
                let rate = u64::from(limits.allocation_packets_per_sec);
                (rate, rate / 10)
            }
        };
        for secs in WINDOWS_SECS {
            let is_in = |(other, ns): &&(Limited, u64)| *other == who && *ns + secs * SEC >= now.ns;
            let count = self.passed.iter().filter(is_in).count() as u64;
            if count > BOTH * (1 + burst + rate * secs) {
                return Err(format!("{count} in {secs} s for {who:?}"));
            }
        }
        Ok(())
    }

    /// A new allocation has not used up anything.
    pub(super) fn starts_anew(&mut self, client: SocketAddr, relayed: SocketAddr) {
        let old = [Limited::ToPeers(relayed), Limited::ToClient(client)];
        self.passed.retain(|(who, _)| !old.contains(who));
    }
}
