//! The server to measure: a `turn:` or `turns:` URI (RFC 7065), resolved to one transport address.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use relay_common::addr::Family;

use crate::turn::transport::Transport;

/// The port of `turn:` without one (RFC 7065 §3.1).
const PORT_DEFAULT: u16 = 3478;
/// The port of `turns:` without one.
const SECURE_PORT_DEFAULT: u16 = 5349;

/// A `turn:` or `turns:` URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    transport: Transport,
}

/// Why a text is not a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TargetError {
    /// The scheme is neither `turn:` nor `turns:`.
    Scheme,
    /// No host.
    Host,
    /// The port is no number in 1..=65535.
    Port,
    /// The transport is neither UDP nor TCP.
    Transport,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => {
                "a target reads turn:HOST[:PORT][?transport=udp|tcp], or turns: for TLS and DTLS"
            }
            Self::Host => "no host behind turn: (an IPv6 address goes in brackets)",
            Self::Port => "the port is a number from 1 to 65535",
            Self::Transport => {
                "what follows the host is ?transport=udp or ?transport=tcp: turn: is UDP unless \
                 tcp is asked for, turns: is TLS unless udp (DTLS) is asked for"
            }
        })
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = text.split_once(':').ok_or(TargetError::Scheme)?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, q)| (rest, Some(q)));
        let transport = match (scheme, query) {
            ("turn", None | Some("transport=udp")) => Transport::Udp,
            ("turn", Some("transport=tcp")) => Transport::Tcp,
            ("turns", None | Some("transport=tcp")) => Transport::Tls,
            ("turns", Some("transport=udp")) => Transport::Dtls,
            ("turn" | "turns", Some(_)) => return Err(TargetError::Transport),
            _ => return Err(TargetError::Scheme),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(literal) => {
                let (host, behind) = literal.split_once(']').ok_or(TargetError::Host)?;
                let port = match behind {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(TargetError::Port)?),
                };
                (host, port)
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err(TargetError::Host);
        }
        let port = match port.map(str::parse) {
            None if scheme == "turns" => SECURE_PORT_DEFAULT,
            None => PORT_DEFAULT,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => return Err(TargetError::Port),
        };
        Ok(Self { host: host.to_owned(), port, transport })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, transport } = self;
        let (scheme, query) = match transport {
            Transport::Udp => ("turn", ""),
            Transport::Tcp => ("turn", "?transport=tcp"),
            Transport::Tls => ("turns", ""),
            Transport::Dtls => ("turns", "?transport=udp"),
        };
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}{query}")
        } else {
            write!(f, "{scheme}:{host}:{port}{query}")
        }
    }
}

impl Target {
    /// The host as given: a name, or an address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// How clients talk to the server.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The first address of the host, of one family when one is asked for.
    ///
    /// # Errors
    /// What the resolver says, or [`io::ErrorKind::NotFound`] when no address is of the family.
    pub(crate) fn resolve(&self, family: Option<Family>) -> io::Result<SocketAddr> {
        self.resolve_all(family)?.first().copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Every address of the host, of one family when one is asked for; never none.
    ///
    /// # Errors
    /// As [`Target::resolve`].
    pub(crate) fn resolve_all(&self, family: Option<Family>) -> io::Result<Vec<SocketAddr>> {
        let wanted =
            |addr: &SocketAddr| family.is_none_or(|family| Family::of(addr.ip()) == family);
        let mut found = Vec::new();
        for addr in (self.host.as_str(), self.port).to_socket_addrs()?.filter(wanted) {
            if !found.contains(&addr) {
                found.push(addr);
            }
        }
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }

    /// Where the host is expected to speak a transport: on the target's port if that is secure as
    /// the target's is, or else on the default port.
    pub(crate) fn server_for(&self, addr: SocketAddr, transport: Transport) -> SocketAddr {
        let is_secure = |transport| matches!(transport, Transport::Tls | Transport::Dtls);
        let port = match (is_secure(transport), is_secure(self.transport)) {
            (this, asked) if this == asked => self.port,
            (true, _) => SECURE_PORT_DEFAULT,
            (false, _) => PORT_DEFAULT,
        };
        SocketAddr::new(addr.ip(), port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_turn_uri() {
        let shown = |text: &str| text.parse::<Target>().map(|t| t.to_string());
        assert_eq!(shown("turn:relay.example"), Ok("turn:relay.example:3478".into()));
        assert_eq!(shown("turn:192.0.2.1:99"), Ok("turn:192.0.2.1:99".into()));
        assert_eq!(shown("turn:[2001:db8::1]"), Ok("turn:[2001:db8::1]:3478".into()));
        assert_eq!(shown("turn:[::1]:9?transport=udp"), Ok("turn:[::1]:9".into()));
        assert_eq!(shown("turn:h?transport=tcp"), Ok("turn:h:3478?transport=tcp".into()));
        assert_eq!(shown("turns:h"), Ok("turns:h:5349".into()));
        assert_eq!(shown("turns:h:9?transport=tcp"), Ok("turns:h:9".into()));
        assert_eq!(shown("turns:h?transport=udp"), Ok("turns:h:5349?transport=udp".into()));
        assert_eq!(shown("turn:h?transport=sctp"), Err(TargetError::Transport));
        assert_eq!(shown("turns:h?"), Err(TargetError::Transport));
        assert_eq!(shown("stun:h"), Err(TargetError::Scheme));
        assert_eq!(shown("h:3478"), Err(TargetError::Scheme));
        assert_eq!(shown("turn:"), Err(TargetError::Host));
        assert_eq!(shown("turn:[::1"), Err(TargetError::Host));
        assert_eq!(shown("turn:h:0"), Err(TargetError::Port));
        assert_eq!(shown("turn:h:65536"), Err(TargetError::Port));
        assert_eq!(shown("turn:::1"), Err(TargetError::Host));
    }

    #[test]
    fn scheme_and_query_name_the_transport() {
        for (text, transport) in [
            ("turn:h", Transport::Udp),
            ("turn:h?transport=tcp", Transport::Tcp),
            ("turns:h", Transport::Tls),
            ("turns:h?transport=udp", Transport::Dtls),
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.transport()), Ok(transport));
        }
    }

    #[test]
    fn a_family_that_the_host_lacks_is_not_found() {
        let target: Target = "turn:127.0.0.1:1".parse().unwrap();
        assert_eq!(target.resolve(None).unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(target.resolve(Some(Family::V6)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
