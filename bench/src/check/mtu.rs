//! How large may a packet be? Sends whole packets of growing size, never fragments.

use std::net::SocketAddr;

use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{ATTRIBUTE_HEADER_BYTES, HEADER_BYTES, Method};

use crate::check::finding::Findings;
use crate::check::measured::{Measured, Spread};
use crate::check::message::{Answer, PADDING, Request};
use crate::check::probe::{Departure, Probe};
use crate::check::watch::{Trouble, Watch};
use crate::clock::MILLISECOND_NS;

/// The largest IP packet that is tried, bytes: Ethernet's.
pub(crate) const IP_BYTES_MAX: usize = 1500;
/// The smallest MTU of IPv6 (RFC 8200 §5), bytes.
const IP_BYTES_IPV6_MIN: usize = 1280;
/// Sizes grow in steps of four bytes, as STUN messages do.
const STEP: usize = 4;
/// Bytes of a FINGERPRINT attribute.
const FINGERPRINT_BYTES: usize = 8;
/// Shortest time that an answer is waited for.
const PATIENCE_NS_MIN: u64 = 150 * MILLISECOND_NS;
/// Longest time.
const PATIENCE_NS_MAX: u64 = 1000 * MILLISECOND_NS;

/// Bytes of IP and UDP headers before the payload.
pub(crate) fn headers(addr: SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(_) => 20 + 8,
        SocketAddr::V6(_) => 40 + 8,
    }
}

/// How long a packet of any size is waited for when the slowest took so long.
pub(crate) fn patience_ns(rtt_max_ms: f64) -> u64 {
    // A cast of a time that was measured a moment ago: it saturates, and is limited below.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let slow = (rtt_max_ms * 4e6) as u64;
    slow.clamp(PATIENCE_NS_MIN, PATIENCE_NS_MAX)
}

/// The largest size from `least` to `most` that passes: most first, for that is what is usual;
/// then by halves, in steps of four bytes. `None` when not even the least passes.
///
/// # Errors
/// What `passes` says.
pub(crate) fn largest<E>(
    least: usize,
    most: usize,
    mut passes: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    let least = least.next_multiple_of(STEP);
    let most = most / STEP * STEP;
    if passes(most)? {
        return Ok(Some(most));
    }
    if !passes(least)? {
        return Ok(None);
    }
    let (mut good, mut bad) = (least, most);
    while bad - good > STEP {
        let middle = (good + bad) / 2 / STEP * STEP;
        if passes(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Some(good))
}

/// Whether one of two tries works: a packet may get lost for other reasons than its size.
///
/// # Errors
/// What `pass` says.
pub(crate) fn twice<E>(mut pass: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    Ok(pass()? || pass()?)
}

/// The largest packet that reaches the server.
///
/// # Errors
/// The user asked for the end, or this host failed.
pub(crate) fn examine(
    probe: &Probe,
    server: SocketAddr,
    rtt: Option<Spread>,
    watch: &Watch,
    measured: &mut Measured,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    probe.forbid_fragments(server)?;
    let patience = patience_ns(rtt.map_or(f64::MAX, |rtt| rtt.max));
    let overhead = headers(server) + HEADER_BYTES + ATTRIBUTE_HEADER_BYTES + FINGERPRINT_BYTES;
    let found = largest(overhead + STEP, IP_BYTES_MAX, |bytes| {
        twice(|| passes(probe, server, bytes - overhead, watch.clock.now() + patience))
    })?;
    measured.mtu_bytes = found;
    let check = "mtu";
    match found {
        None => findings
            .note(check, "not measured: the server does not answer Binding requests with padding"),
        Some(IP_BYTES_MAX) => {
            findings.fine(check, format!("packets of {IP_BYTES_MAX} bytes reach the server whole"));
        }
        Some(bytes @ IP_BYTES_IPV6_MIN..) => findings.note(
            check,
            format!(
                "packets of up to {bytes} bytes reach the server: a tunnel, VPN or PPPoE is on the \
                 way; WebRTC's usual 1200 bytes fit"
            ),
        ),
        Some(bytes) => findings.suspect(
            check,
            format!("packets of at most {bytes} bytes reach the server whole"),
            "less than IPv6's minimum of 1280: larger packets are fragmented or lost; raise the \
             MTU of the tunnel or VPN on the way",
        ),
    }
    Ok(())
}

fn passes(probe: &Probe, server: SocketAddr, padding: usize, until: u64) -> anyhow::Result<bool> {
    let padding = vec![0; padding];
    let request = Request::new(Method::BINDING, None, |writer| pad(writer, PADDING, &padding))?;
    if probe.send(server, &request.bytes)? == Departure::TooBig {
        return Ok(false);
    }
    loop {
        match probe.receive(until) {
            Ok(Some((datagram, _))) if Answer::to(&request, &datagram).is_some() => {
                return Ok(true);
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(Trouble::Host(error)) => return Err(error.into()),
            Err(trouble) => return Err(trouble.into()),
        }
    }
}

fn pad(
    writer: &mut relay_common::wire::writer::MessageWriter<'_>,
    kind: AttributeType,
    padding: &[u8],
) {
    writer.attribute(kind, padding);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_is_found_to_four_bytes() {
        for limit in [64, 100, 576, 1280, 1299, 1300, 1496, 1499, 1500, 9000] {
            let mut tries = 0;
            let found = largest(64, 1500, |bytes| {
                tries += 1;
                Ok::<_, ()>(bytes <= limit)
            });
            assert_eq!(found, Ok(Some(limit.min(1500) / 4 * 4)), "{limit}");
            assert!(tries <= 12, "{tries}");
        }
        assert_eq!(largest(64, 1500, |_| Ok::<_, ()>(false)), Ok(None));
    }

    #[test]
    fn patience_is_bounded() {
        assert_eq!(patience_ns(0.1), PATIENCE_NS_MIN);
        assert_eq!(patience_ns(100.0), 400 * MILLISECOND_NS);
        assert_eq!(patience_ns(f64::MAX), PATIENCE_NS_MAX);
    }
}
