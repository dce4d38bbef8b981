//! Can the server be reached, over which transports, how fast, and what does it see of us?

use std::net::SocketAddr;

use relay_common::wire::attribute::AttributeType;

use crate::check::finding::Findings;
use crate::check::line::Line;
use crate::check::measured::{Spread, Way};
use crate::check::message::{Answer, Request};
use crate::check::scope::Scope;
use crate::check::watch::{Trouble, Watch};
use crate::turn::transport::failure::LinkFailure;
use crate::turn::transport::{LinkSetup, Transport};

/// Binding requests that measure the round trip.
const PINGS: usize = 10;
/// From this share of unanswered first transmissions on, the way loses.
const LOSS_NOTABLE: f64 = 0.05;

/// A way to the server that works.
#[derive(Debug)]
pub(crate) struct Reached {
    /// The TURN server transport address.
    pub(crate) server: SocketAddr,
    /// What is between.
    pub(crate) transport: Transport,
    /// This side's address.
    pub(crate) local: SocketAddr,
    /// What the server sees of it.
    pub(crate) reflexive: Option<SocketAddr>,
    /// The round trips.
    pub(crate) rtt: Option<Spread>,
}

/// Whether a transport is the one that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It must work.
    Asked,
    /// It would be good for clients in other networks.
    Other,
}

/// The name of a transport's check.
fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Dtls => "dtls",
    }
}

/// Tries one transport at one address.
///
/// # Errors
/// The user asked for the end.
pub(crate) fn try_way(
    setup: &LinkSetup,
    (server, transport): (SocketAddr, Transport),
    role: Role,
    watch: &Watch,
    findings: &mut Findings,
) -> anyhow::Result<(Way, Option<Reached>)> {
    let check = name(transport);
    let mut way = Way::new(transport, server);
    let trouble = match ping(setup, transport, watch)? {
        Ok(pinged) => {
            let Pinged { local, first, rtt, sent, lost } = pinged;
            let reflexive = first.reflexive();
            (way.reachable, way.rtt_ms, way.requests, way.unanswered) = (true, rtt, sent, lost);
            let software = first.software().map_or(String::new(), |it| format!(", {it:?}"));
            let times = rtt.map_or(String::new(), |rtt| format!(", round trip {rtt}"));
            findings.fine(check, format!("{server} answers{times}{software}"));
            judge_answer(check, &first, findings);
            judge_loss(check, sent, lost, findings);
            return Ok((way, Some(Reached { server, transport, local, reflexive, rtt })));
        }
        Err(trouble) => trouble,
    };
    way.error = Some(trouble.to_string());
    let message = format!("{server}: {trouble}");
    match (role, &trouble) {
        (Role::Asked, _) => findings.wrong(check, message, advice(transport, &trouble)),
        (Role::Other, Trouble::Link(LinkFailure::Certificate { .. })) => {
            findings.suspect(check, message, advice(transport, &trouble));
        }
        (Role::Other, _) => findings.note(check, message),
    }
    Ok((way, None))
}

struct Pinged {
    local: SocketAddr,
    first: Answer,
    rtt: Option<Spread>,
    sent: usize,
    lost: usize,
}

fn ping(
    setup: &LinkSetup,
    transport: Transport,
    watch: &Watch,
) -> anyhow::Result<Result<Pinged, Trouble>> {
    let mut line = match Line::open(setup, transport, watch) {
        Err(Trouble::Interrupted) => return Err(Trouble::Interrupted.into()),
        Err(trouble) => return Ok(Err(trouble)),
        Ok(line) => line,
    };
    let mut rtts_ns = Vec::new();
    let (mut first, mut sent, mut lost) = (None, 0, 0);
    for _ in 0..PINGS {
        match line.ask(&Request::binding()?) {
            Err(Trouble::Interrupted) => return Err(Trouble::Interrupted.into()),
            Err(trouble) if first.is_none() => return Ok(Err(trouble)),
            Err(trouble) => {
                let transmissions = match trouble {
                    Trouble::Silence { transmissions, .. } => count(transmissions),
                    Trouble::Unreachable
                    | Trouble::Link(_)
                    | Trouble::Host(_)
                    | Trouble::Interrupted => 1,
                };
                sent += transmissions;
                lost += transmissions;
                break;
            }
            Ok(reply) => {
                let transmissions = count(reply.transmissions);
                sent += transmissions;
                lost += transmissions - 1;
                rtts_ns.extend(reply.rtt_ns);
                first.get_or_insert(reply.answer);
            }
        }
    }
    let local = line.local()?;
    let first = first.expect("there was an answer, or the loop had returned");
    Ok(Ok(Pinged { local, first, rtt: Spread::of(&mut rtts_ns), sent, lost }))
}

fn count(transmissions: u32) -> usize {
    usize::try_from(transmissions).unwrap_or(usize::MAX)
}

fn judge_answer(check: &'static str, answer: &Answer, findings: &mut Findings) {
    match answer.error() {
        None if answer.reflexive().is_none() => findings.suspect(
            check,
            "the Binding response has no address in it",
            "every client needs XOR-MAPPED-ADDRESS (RFC 8489 §7.3.3): is this a STUN server?",
        ),
        None if answer.message().attribute(AttributeType::XOR_MAPPED_ADDRESS).is_none() => {
            findings.suspect(
                check,
                "the address in the Binding response is not XORed",
                "the server speaks only RFC 3489; NATs that rewrite addresses will break clients",
            );
        }
        None => {}
        Some((401, _)) => {
            findings.note(check, "the server asks for credentials even for Binding requests");
        }
        Some((code, words)) => findings.suspect(
            check,
            format!("Binding is answered with {code} {words}"),
            "clients that gather server-reflexive candidates here get none",
        ),
    }
}

fn judge_loss(check: &'static str, sent: usize, lost: usize, findings: &mut Findings) {
    if lost as f64 > sent as f64 * LOSS_NOTABLE {
        findings.suspect(
            check,
            format!("{lost} of {sent} requests stayed unanswered"),
            "the network loses packets, or the server limits the rate of answers per address: \
             media will suffer from the former",
        );
    }
}

/// What to do about a transport that does not work.
fn advice(transport: Transport, trouble: &Trouble) -> String {
    match (trouble, transport) {
        (Trouble::Link(LinkFailure::Certificate { .. }), _) => {
            "browsers refuse such a certificate: install one for this name with its whole chain, \
             from an authority that clients know (--ca FILE checks against another one)"
        }
        (Trouble::Unreachable | Trouble::Link(LinkFailure::Refused), _) => {
            "start the server, or correct address, port or transport: it must listen exactly there"
        }
        (Trouble::Silence { .. }, Transport::Udp | Transport::Dtls) => {
            "a firewall drops UDP on the way (here, at the server, or a cloud security group), or \
             the address or port is wrong"
        }
        (Trouble::Silence { .. }, Transport::Tcp | Transport::Tls) => {
            "a firewall drops TCP on the way, or the address or port is wrong"
        }
        (Trouble::Host(_) | Trouble::Interrupted, _) => {
            "this host has no way there: look at its network"
        }
        (Trouble::Link(_), _) => "something else listens there, or the server is set up wrongly",
    }
    .to_owned()
}

/// What the server sees of this host, and what that means.
pub(crate) fn judge_reflexive(reached: &Reached, findings: &mut Findings) {
    let Reached { local, server, .. } = reached;
    let Some(reflexive) = reached.reflexive else { return };
    let (here, seen) = (Scope::of(local.ip()), Scope::of(reflexive.ip()));
    if *local == reflexive {
        let text = format!("no address translation: the server sees {reflexive} as it is");
        findings.fine("reflexive", text);
    } else if local.ip() == reflexive.ip() {
        findings.note(
            "reflexive",
            format!("the server sees {reflexive} for {local}: a NAT changes the port"),
        );
    } else {
        findings.note(
            "reflexive",
            format!("this host is behind a NAT: the server sees {reflexive} for {local}"),
        );
    }
    if here == Scope::Shared || seen == Scope::Shared {
        findings.note(
            "reflexive",
            "100.64.0.0/10 is a carrier's own: this host is behind carrier-grade NAT",
        );
    }
    if seen == Scope::Private && *local != reflexive {
        findings.note(
            "reflexive",
            format!("{reflexive} is private: server and NAT are in one private network"),
        );
    }
    if seen != Scope::Public && *local != reflexive && Scope::of(server.ip()) == Scope::Public {
        findings.suspect(
            "reflexive",
            format!("the server is public, but sees {}: {reflexive}", seen.title()),
            "a proxy or load balancer before the server hides the clients' addresses; clients get \
             useless server-reflexive candidates",
        );
    }
}
