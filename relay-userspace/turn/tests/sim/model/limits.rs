//! What limits let pass at most: replies to a source that has not authenticated, and packets of an
//! allocation. A list of moments for each, counted over windows of time.

use std::net::{IpAddr, SocketAddr};

use super::wire::{DATA, Stun};
use super::{Model, SEC, Sent, Time, Tuple};
use crate::rules::Rules;

/// A source may have at once what two seconds bring.
const REPLIES_BURST_SECS: u64 = 2;
/// Server and kernel count for themselves, and an end is not a start: twice, and one each.
const BOTH: u64 = 2;
const WINDOWS_SECS: [u64; 3] = [0, 1, 10];

/// Who has a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limited {
    /// Replies to an IPv4 address or an IPv6 /64.
    Source(IpAddr),
    /// Look-ups for such a source.
    LookUps(IpAddr),
    /// An allocation: what it sends to peers.
    ToPeers(Tuple),
    /// What its client is sent of peers' data.
    ToClient(Tuple),
}

impl Limited {
    pub(super) fn source(client: SocketAddr) -> Self {
        Self::Source(prefix(client.ip(), if client.is_ipv4() { 32 } else { 64 }))
    }

    pub(super) fn look_ups(client: SocketAddr) -> Self {
        Self::LookUps(prefix(client.ip(), if client.is_ipv4() { 32 } else { 64 }))
    }
}

/// The network of so many bits that an address is in.
pub(super) fn prefix(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Who, when, and how many bytes.
pub(super) type Passed = (Limited, u64, u64);

impl Model {
    /// Something passed a limit.
    pub(super) fn passed(&mut self, now: Time, who: Limited, bytes: u64) -> Result<(), String> {
        self.passed.retain(|(_, ns, _)| *ns + 10 * SEC >= now.ns);
        self.passed.push((who, now.ns, bytes));
        let limits = &self.rules.limits;
        let (rate, burst) = match who {
            Limited::Source(_) => {
                let rate = u64::from(limits.unauthenticated_replies_per_sec);
                (rate, rate * REPLIES_BURST_SECS)
            }
            Limited::LookUps(_) => {
                let rate = u64::from(self.look_up_rate());
                (rate, rate * REPLIES_BURST_SECS)
            }
            // A tenth of a second's worth at once.
            Limited::ToPeers(_) | Limited::ToClient(_) => {
                let rate = u64::from(limits.allocation_packets_per_sec);
                (rate, rate / 10)
            }
        };
        let byte_rate = u64::from(limits.allocation_bytes_per_sec);
        for secs in WINDOWS_SECS {
            let is_in = |passed: &&Passed| passed.0 == who && passed.1 + secs * SEC >= now.ns;
            let count = self.passed.iter().filter(is_in).count() as u64;
            if count > BOTH * (1 + burst + rate * secs) {
                return Err(format!("{count} in {secs} s for {who:?}"));
            }
            // The last of them may be as long as it likes.
            let all = || self.passed.iter().filter(is_in).map(|(.., bytes)| *bytes);
            let (sum, longest) = (all().sum::<u64>(), all().max().unwrap_or(0));
            if sum > BOTH * (longest + byte_rate / 10 + byte_rate * secs) {
                return Err(format!("{sum} bytes in {secs} s for {who:?}"));
            }
        }
        Ok(())
    }

    /// Data that limits may keep from passing, and whether it passed. What has been idle for long
    /// lets one packet through, whatever it is.
    pub(super) fn limited(&mut self, now: Time, sent: &Sent, passed: bool) -> Result<(), String> {
        let who = match Rules::is_listened(sent.src.port()) {
            true => Limited::ToClient((sent.dst, sent.src)),
            false => {
                let of = self.open_by_relayed(sent.src).ok_or("nobody relays it")?;
                Limited::ToPeers(of.tuple)
            }
        };
        let bytes = match Stun::read(&sent.payload).and_then(|s| Some(s.value(DATA)?.len())) {
            Some(bytes) if matches!(who, Limited::ToClient(_)) => bytes,
            None if matches!(who, Limited::ToClient(_)) => sent.payload.len() - 4,
            _ => sent.payload.len(),
        };
        let is_idle = |(other, ns, _): &Passed| *other != who || ns + 10 * SEC < now.ns;
        // To another client, both allocations' limits count at once.
        if !passed && self.passed.iter().all(is_idle) && !self.rules.is_own(sent.dst.ip()) {
            return Err(format!("nothing has passed for {who:?}, and this does not"));
        }
        if passed { self.passed(now, who, bytes as u64) } else { Ok(()) }
    }

    /// A new allocation has not used up anything.
    pub(super) fn starts_anew(&mut self, tuple: Tuple) {
        let old = [Limited::ToPeers(tuple), Limited::ToClient(tuple)];
        self.passed.retain(|(who, ..)| !old.contains(who));
    }
}
