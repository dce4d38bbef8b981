//! How does the NAT or firewall before this host behave (RFC 4787, tested as RFC 5780 §4 says)?

use std::net::SocketAddr;

use relay_common::wire::stun::Method;

use crate::check::finding::Findings;
use crate::check::measured::{Behaviour, Measured};
use crate::check::message::{Answer, CHANGE_REQUEST, Request};
use crate::check::probe::Probe;
use crate::check::watch::Trouble;

/// CHANGE-REQUEST: answer from the other address and the other port.
const OTHER_ADDRESS_AND_PORT: u32 = 0x06;
/// CHANGE-REQUEST: answer from the other port.
const OTHER_PORT: u32 = 0x02;

/// What other checks saw of this host's NAT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    /// A socket as the server's listening port sees it.
    pub(crate) by_server: SocketAddr,
    /// The same socket as a relayed port sees it.
    pub(crate) by_relayed: SocketAddr,
    /// That relayed address.
    pub(crate) relayed: SocketAddr,
}

/// Mapping and filtering, as far as this server can tell.
///
/// # Errors
/// The user asked for the end, or this host failed.
pub(crate) fn examine(
    open: impl Fn() -> Result<Probe, Trouble>,
    server: SocketAddr,
    hint: Option<Hint>,
    measured: &mut Measured,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let probe = open()?;
    let Some((first, _)) = ask(&probe, server, 0)? else { return Ok(()) };
    let Some(mapped) = first.reflexive() else { return Ok(()) };
    let other = first.other_address().filter(|other| {
        other.ip() != server.ip()
            && !other.ip().is_unspecified()
            && other.is_ipv4() == server.is_ipv4()
    });
    let Some(other) = other else {
        without_help(server, hint, measured, findings);
        return Ok(());
    };
    if let Some(origin) = first.origin().filter(|origin| *origin != server) {
        findings.suspect(
            "nat",
            format!("the server says that it answers from {origin}, and was asked at {server}"),
            "it is behind a NAT itself: its behaviour tests may mislead clients",
        );
    }
    let mapping = if mapped == probe.local()? {
        Some(Behaviour::None)
    } else {
        mapping(&probe, server, other, mapped)?
    };
    // A fresh socket: the one above has told the NAT about the other address.
    let filtering = filtering(&open()?, server)?;
    (measured.nat_mapping, measured.nat_filtering) = (mapping, filtering);
    match mapping {
        None => findings.note(
            "nat",
            format!("mapping unknown: the server's other address {other} does not answer"),
        ),
        Some(mapping) => judge_mapping(mapping, findings),
    }
    match filtering {
        None => findings.note(
            "nat",
            "filtering unknown: the server does not answer from the address that it is asked to",
        ),
        Some(filtering) => findings.note("nat", format!("filtering: {}", filters(filtering))),
    }
    Ok(())
}

fn mapping(
    probe: &Probe,
    server: SocketAddr,
    other: SocketAddr,
    first: SocketAddr,
) -> anyhow::Result<Option<Behaviour>> {
    let seen = |at| -> anyhow::Result<Option<SocketAddr>> {
        Ok(ask(probe, at, 0)?.and_then(|(answer, _)| answer.reflexive()))
    };
    let Some(second) = seen(SocketAddr::new(other.ip(), server.port()))? else { return Ok(None) };
    if second == first {
        return Ok(Some(Behaviour::EndpointIndependent));
    }
    let Some(third) = seen(other)? else { return Ok(None) };
    let same = third == second;
    Ok(Some(if same { Behaviour::AddressDependent } else { Behaviour::AddressAndPortDependent }))
}

fn filtering(probe: &Probe, server: SocketAddr) -> anyhow::Result<Option<Behaviour>> {
    if ask(probe, server, 0)?.is_none() {
        return Ok(None);
    }
    // An answer from the address that was asked passes every filter: it tells nothing.
    if let Some((_, from)) = ask(probe, server, OTHER_ADDRESS_AND_PORT)? {
        let changed = from.ip() != server.ip();
        return Ok(changed.then_some(Behaviour::EndpointIndependent));
    }
    Ok(match ask(probe, server, OTHER_PORT)? {
        None => Some(Behaviour::AddressAndPortDependent),
        Some((_, from)) => {
            let changed = from.ip() == server.ip() && from.port() != server.port();
            changed.then_some(Behaviour::AddressDependent)
        }
    })
}

/// The answer to a Binding request, with CHANGE-REQUEST unless that is zero, and where it comes
/// from.
fn ask(probe: &Probe, at: SocketAddr, change: u32) -> anyhow::Result<Option<(Answer, SocketAddr)>> {
    let request = Request::new(Method::BINDING, None, |writer| {
        if change != 0 {
            writer.number(CHANGE_REQUEST, change);
        }
    })?;
    match probe.ask(at, &request) {
        Ok((reply, from)) if reply.answer.error().is_none() => Ok(Some((reply.answer, from))),
        Ok(_) => Ok(None),
        Err(Trouble::Silence { .. } | Trouble::Unreachable) => Ok(None),
        Err(trouble) => Err(trouble.into()),
    }
}

fn judge_mapping(mapping: Behaviour, findings: &mut Findings) {
    match mapping {
        Behaviour::None => findings.fine("nat", "mapping: none, addresses are not translated"),
        Behaviour::EndpointIndependent => findings.fine(
            "nat",
            "mapping: endpoint-independent; direct connections mostly work, without the relay",
        ),
        Behaviour::AddressDependent
        | Behaviour::AddressAndPortDependent
        | Behaviour::PortDependent => findings.note(
            "nat",
            format!(
                "mapping: {}, a \"symmetric\" NAT; direct connections to other NATs fail, and \
                 clients here need the relay",
                dependence(mapping)
            ),
        ),
    }
}

fn dependence(mapping: Behaviour) -> &'static str {
    match mapping {
        Behaviour::None => "none",
        Behaviour::EndpointIndependent => "endpoint-independent",
        Behaviour::AddressDependent => "address-dependent",
        Behaviour::AddressAndPortDependent => "address-and-port-dependent",
        Behaviour::PortDependent => "port-dependent at least",
    }
}

fn filters(filtering: Behaviour) -> &'static str {
    match filtering {
        Behaviour::None | Behaviour::EndpointIndependent => {
            "none that depends on the sender; who knows the mapping can send"
        }
        Behaviour::AddressDependent => "by address; only hosts that were sent to can answer",
        Behaviour::AddressAndPortDependent | Behaviour::PortDependent => {
            "by address and port; only what was sent to can answer"
        }
    }
}

/// What an ordinary server can tell: its listening port and a relayed port are two ports.
fn without_help(
    server: SocketAddr,
    hint: Option<Hint>,
    measured: &mut Measured,
    findings: &mut Findings,
) {
    findings.note("nat", "the server does not support the behaviour tests of RFC 5780");
    let Some(Hint { by_server, by_relayed, relayed }) = hint else { return };
    let two = if relayed.ip() == server.ip() { "ports" } else { "addresses" };
    if by_server == by_relayed {
        findings.note(
            "nat",
            format!(
                "the server's two {two} {server} and {relayed} see the same address {by_server}: \
                 no sign of a symmetric NAT"
            ),
        );
        return;
    }
    measured.nat_mapping = Some(if relayed.ip() == server.ip() {
        Behaviour::PortDependent
    } else {
        Behaviour::AddressDependent
    });
    findings.note(
        "nat",
        format!(
            "{server} sees {by_server}, {relayed} sees {by_relayed}: a \"symmetric\" NAT; direct \
             connections to other NATs fail, and clients here need the relay"
        ),
    );
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    use relay_common::wire::stun::{Class, Message};
    use relay_common::wire::writer::MessageWriter;

    use super::*;
    use crate::check::watch::Watch;
    use crate::clock::{Clock, MILLISECOND_NS, SECOND_NS};

    /// Answers so many Binding requests; the last one from another socket.
    fn answer(requests: usize, server: &UdpSocket, last: &UdpSocket) {
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for number in 1..=requests {
            let mut buffer = [0; 512];
            let (length, client) = server.recv_from(&mut buffer).unwrap();
            let id = Message::parse(&buffer[..length]).unwrap().transaction_id();
            let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id);
            writer.fingerprint();
            let length = writer.finish().unwrap();
            let from = if number == requests { last } else { server };
            from.send_to(&buffer[..length], client).unwrap();
        }
    }

    fn filtering_seen(last: &str) -> Option<Behaviour> {
        let watch = Watch {
            clock: Clock::start(),
            wait_ns: 5 * SECOND_NS,
            rto_ns: 1000 * MILLISECOND_NS,
            stop: Arc::default(),
        };
        let probe = Probe::open("127.0.0.1".parse().unwrap(), &watch).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr().unwrap();
        let other = UdpSocket::bind((last, 0)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| answer(2, &server, &other));
            filtering(&probe, addr).unwrap()
        })
    }

    #[test]
    fn an_answer_from_the_same_address_tells_nothing_of_filters() {
        assert_eq!(filtering_seen("127.0.0.2"), Some(Behaviour::EndpointIndependent));
        assert_eq!(filtering_seen("127.0.0.1"), None);
    }
}
