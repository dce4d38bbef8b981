//! Does the relay relay? Packets from this host's allocation to another socket of this host and
//! back: reachability of the relayed address, round trip, largest payload.

use std::net::SocketAddr;

use relay_common::addr::Family;
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::channel_data::{ChannelData, ChannelRange};
use relay_common::wire::stun::{Message, Method};

use crate::check::finding::Findings;
use crate::check::measured::{Measured, Spread};
use crate::check::message::Request;
use crate::check::mtu;
use crate::check::probe::{Departure, Probe};
use crate::check::scope::Scope;
use crate::check::session::{Refusal, Session};
use crate::check::watch::{Trouble, Watch};
use crate::turn::framing::channel;

/// Times that a packet is sent before its way counts as blocked.
const TRIES: u64 = 3;
/// Packets that measure the round trip.
const PINGS: usize = 10;
/// What every payload starts with, so that nobody else's packets count.
const MARK: &[u8] = b"relay-bench check ";
/// What WebRTC sends at most in one packet; less makes it fail.
const WEBRTC_PAYLOAD_BYTES: usize = 1200;

/// What is known of this host's own UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnUdp {
    /// The server answers it.
    Works,
    /// It does not: what does not pass the relay may have been lost right here.
    Unknown,
}

/// An allocation on one side, a peer on the other, both on this host.
#[derive(Debug)]
pub(crate) struct Path<'a> {
    session: &'a mut Session,
    probe: Probe,
    relayed: SocketAddr,
    own_udp: OwnUdp,
    watch: &'a Watch,
    mark: Vec<u8>,
}

/// What came to the client from the peer.
struct Heard {
    /// The peer's address as the relay sees it; `None` over the channel.
    from: Option<SocketAddr>,
}

impl<'a> Path<'a> {
    /// Between the session's allocation and a new socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(
        session: &'a mut Session,
        probe: Probe,
        relayed: SocketAddr,
        own_udp: OwnUdp,
        watch: &'a Watch,
    ) -> anyhow::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let mark = [MARK, &random].concat();
        Ok(Self { session, probe, relayed, own_udp, watch, mark })
    }

    /// All of it; `reflexive` is the probe's address as the server sees it.
    ///
    /// # Errors
    /// The user asked for the end, or this host failed.
    pub(crate) fn examine(
        &mut self,
        reflexive: SocketAddr,
        measured: &mut Measured,
        findings: &mut Findings,
    ) -> anyhow::Result<Option<SocketAddr>> {
        if !accepted(self.session.permit(reflexive), "CreatePermission", reflexive, findings)? {
            return Ok(None);
        }
        // The peer speaks first: a NAT before this host lets in only whom it has sent to.
        let heard = self.peer_speaks()?;
        measured.relays_to_client = Some(heard.is_some());
        let seen = heard.as_ref().and_then(|heard| heard.from);
        let peer = seen.unwrap_or(reflexive);
        if !accepted(self.session.bind(peer), "ChannelBind", peer, findings)? {
            return Ok(seen);
        }
        let source = self.client_speaks()?;
        measured.relays_to_peer = Some(source.is_some());
        self.judge(source, heard.is_some(), findings);
        if source.is_some() && heard.is_some() {
            self.measure(measured, findings)?;
        }
        Ok(seen)
    }

    /// Whether a packet from the peer reaches the client.
    fn peer_speaks(&mut self) -> anyhow::Result<Option<Heard>> {
        for _ in 0..TRIES {
            self.probe.send(self.relayed, &self.mark)?;
            let until = self.watch.clock.now() + self.watch.wait_ns / TRIES;
            if let Some((heard, _)) = self.hear(until)? {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }

    /// The next packet of ours from the relay, and its payload.
    fn hear(&mut self, until: u64) -> Result<Option<(Heard, Vec<u8>)>, Trouble> {
        while let Some(message) = self.session.line.receive(until)? {
            if let Some((heard, payload)) = unwrap(&message)
                && payload.starts_with(&self.mark)
            {
                return Ok(Some((heard, payload.to_vec())));
            }
        }
        Ok(None)
    }

    /// Where a packet from the client comes from when it reaches the peer.
    fn client_speaks(&mut self) -> anyhow::Result<Option<SocketAddr>> {
        for _ in 0..TRIES {
            self.session.send(&self.mark)?;
            let until = self.watch.clock.now() + self.watch.wait_ns / TRIES;
            if let Some((from, _)) = self.overhear(until)? {
                return Ok(Some(from));
            }
        }
        Ok(None)
    }

    /// The next packet of ours at the peer.
    fn overhear(&self, until: u64) -> Result<Option<(SocketAddr, usize)>, Trouble> {
        while let Some((datagram, from)) = self.probe.receive(until)? {
            if datagram.starts_with(&self.mark) {
                return Ok(Some((from, datagram.len())));
            }
        }
        Ok(None)
    }

    fn judge(&self, source: Option<SocketAddr>, heard: bool, findings: &mut Findings) {
        let (check, relayed) = ("data", self.relayed);
        match (source, heard) {
            (Some(_), true) => findings.fine(check, "packets pass the relay in both directions"),
            (Some(_), false) => findings.wrong(
                check,
                format!("no packet of a peer comes in at {relayed}"),
                "a firewall or cloud security group before the server blocks its relayed ports: \
                 open the whole range for UDP; or the relayed address is not the server's own",
            ),
            (None, true) => findings.wrong(
                check,
                "what the client sends does not come out of the relay",
                "a firewall blocks UDP from the server's relayed ports, or the server has no route \
                 to the peer",
            ),
            (None, false) if self.own_udp == OwnUdp::Unknown => findings.note(
                check,
                "not tested: the peer would be on this host, and UDP from here reaches nothing",
            ),
            (None, false) => findings.wrong(
                check,
                format!("nothing passes the relay at {relayed} in either direction"),
                "the server grants allocations but its relayed address does not work: check the \
                 external address, the firewall for the relayed ports (UDP), and the routes",
            ),
        }
        if let Some(source) = source.filter(|source| *source != relayed) {
            findings.wrong(
                check,
                format!("packets come from {source}, but the relayed address is {relayed}"),
                "peers drop packets from another address: the external address or the NAT before \
                 the server must be 1:1 and keep ports",
            );
        }
    }

    fn measure(&mut self, measured: &mut Measured, findings: &mut Findings) -> anyhow::Result<()> {
        let mut rtts_ns = Vec::new();
        for _ in 0..PINGS {
            rtts_ns.extend(self.ping()?);
        }
        let lost = PINGS - rtts_ns.len();
        let Some(rtt) = Spread::of(&mut rtts_ns) else { return Ok(()) };
        measured.relay_rtt_ms = Some(rtt);
        let text = format!("client, server, peer and back: {rtt}");
        match lost {
            0 => findings.fine("relay rtt", text),
            _ => findings.suspect(
                "relay rtt",
                format!("{text}; {lost} of {PINGS} packets lost"),
                "loss on the way to the server or in the relay: look at both with relay-bench load",
            ),
        }
        self.measure_payloads(rtt, measured, findings)
    }

    /// One packet there and back, nanoseconds.
    fn ping(&mut self) -> Result<Option<u64>, Trouble> {
        let start = self.watch.clock.now();
        let until = start + self.watch.wait_ns / TRIES;
        self.session.send(&self.mark)?;
        if self.overhear(until)?.is_none() {
            return Ok(None);
        }
        self.probe.send(self.relayed, &self.mark)?;
        Ok(self.hear(until)?.map(|_| self.watch.clock.now() - start))
    }

    fn measure_payloads(
        &mut self,
        rtt: Spread,
        measured: &mut Measured,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        self.probe.forbid_fragments(self.relayed)?;
        self.session.line.forbid_fragments(self.relayed)?;
        let patience = mtu::patience_ns(rtt.max);
        let most = mtu::IP_BYTES_MAX - mtu::headers(self.relayed);
        let to_client = mtu::largest(self.mark.len(), most, |bytes| {
            let payload = self.padded(bytes);
            mtu::twice(|| -> Result<bool, Trouble> {
                if self.probe.send(self.relayed, &payload)? == Departure::TooBig {
                    return Ok(false);
                }
                let until = self.watch.clock.now() + patience;
                while let Some((_, heard)) = self.hear(until)? {
                    if heard.len() == bytes {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
        })?;
        let to_peer = mtu::largest(self.mark.len(), most, |bytes| {
            let payload = self.padded(bytes);
            mtu::twice(|| -> Result<bool, Trouble> {
                if self.session.send(&payload)? == Departure::TooBig {
                    return Ok(false);
                }
                let until = self.watch.clock.now() + patience;
                while let Some((_, length)) = self.overhear(until)? {
                    if length == bytes {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
        })?;
        (measured.relay_payload_to_client_bytes, measured.relay_payload_to_peer_bytes) =
            (to_client, to_peer);
        let (out, back) = (to_peer.unwrap_or(0), to_client.unwrap_or(0));
        let text = format!("payloads pass up to {out} bytes to the peer, {back} to the client");
        if out.min(back) >= WEBRTC_PAYLOAD_BYTES {
            findings.fine("relay mtu", text);
        } else {
            findings.wrong(
                "relay mtu",
                text,
                "WebRTC sends packets of up to 1200 bytes: a tunnel or VPN on the way, or at the \
                 server, has too small an MTU, or somebody drops the ICMP messages that tell of it",
            );
        }
        Ok(())
    }

    fn padded(&self, bytes: usize) -> Vec<u8> {
        let mut payload = self.mark.clone();
        payload.resize(bytes, 0x5A);
        payload
    }
}

/// What a message from the relay carries.
fn unwrap(message: &[u8]) -> Option<(Heard, &[u8])> {
    if let Some(data) = ChannelData::parse(message, ChannelRange::Rfc8656) {
        return (data.number == channel()).then(|| (Heard { from: None }, &message[data.payload]));
    }
    let indication = Message::parse(message).ok().filter(|it| it.method() == Method::DATA)?;
    let from = indication.attribute(AttributeType::XOR_PEER_ADDRESS)?;
    let from = attribute::xor_address(from, indication.transaction_id());
    Some((Heard { from }, indication.attribute(AttributeType::DATA)?))
}

/// Whether the server lets this host be a peer; says what it means when not.
fn accepted<T>(
    result: Result<T, Refusal>,
    what: &str,
    peer: SocketAddr,
    findings: &mut Findings,
) -> anyhow::Result<bool> {
    let (message, advice) = match result {
        Ok(_) => return Ok(true),
        Err(Refusal::Trouble(Trouble::Interrupted)) => return Err(Trouble::Interrupted.into()),
        Err(Refusal::Host(error)) => return Err(error),
        Err(Refusal::Error { code: 403, .. }) if Scope::of(peer.ip()) != Scope::Public => {
            let text = format!(
                "not tested: the server relays nothing to {peer}, {}; most servers deny such peers",
                Scope::of(peer.ip()).title()
            );
            findings.note("data", text);
            return Ok(false);
        }
        Err(Refusal::Error { code: 403, .. }) => (
            format!("the server does not relay to {peer}, which is this host: 403"),
            "its list of denied peers is too wide, or it allows only certain ones: no client there \
             can be reached",
        ),
        Err(Refusal::Error { code: 443, .. }) => (
            format!("{what} for {peer} is refused: 443, another address family"),
            "the server relays one family, and this host is seen by the other",
        ),
        Err(Refusal::Error { code, words, .. }) => {
            (format!("{what} for {peer} is refused: {code} {words}"), "read the server's log")
        }
        Err(Refusal::NoChallenge | Refusal::NotAuthentic) => {
            (format!("the answer to {what} is not to be trusted"), "read the server's log")
        }
        Err(Refusal::Trouble(trouble)) => (
            format!("{what}: {trouble}"),
            "the server stopped answering after Allocate: read its log",
        ),
    };
    findings.wrong("data", message, advice);
    Ok(false)
}

/// What the server sees of a probe, asked over UDP.
///
/// # Errors
/// The user asked for the end, or this host failed.
pub(crate) fn reflexive(probe: &Probe, server: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
    match probe.ask(server, &Request::binding()?) {
        Ok((reply, _)) => Ok(reply.answer.reflexive().filter(|it| {
            // Another family would need another permission and another relayed address.
            Family::of(it.ip()) == Family::of(server.ip())
        })),
        Err(Trouble::Silence { .. }) => Ok(None),
        Err(trouble) => Err(trouble.into()),
    }
}
