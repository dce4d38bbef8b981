//! The server to measure: `turn:HOST[:PORT]` (RFC 7065), resolved to one transport address.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use relay_common::addr::Family;

/// The port of `turn:` without one (RFC 7065 §3.1).
const PORT_DEFAULT: u16 = 3478;

/// A `turn:` URI over UDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

/// Why a text is not a target this tool can load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TargetError {
    /// The scheme is not `turn:`.
    Scheme,
    /// No host.
    Host,
    /// The port is no number in 1..=65535.
    Port,
    /// A transport other than UDP is asked for.
    Transport,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a target reads turn:HOST or turn:HOST:PORT",
            Self::Host => "no host behind turn: (an IPv6 address goes in brackets)",
            Self::Port => "the port is a number from 1 to 65535",
            Self::Transport => "only ?transport=udp can be measured",
        })
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let rest = text.strip_prefix("turn:").ok_or(TargetError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, "transport=udp"));
        if query != "transport=udp" {
            return Err(TargetError::Transport);
        }
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
            None => PORT_DEFAULT,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => return Err(TargetError::Port),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "turn:[{}]:{}", self.host, self.port)
        } else {
            write!(f, "turn:{}:{}", self.host, self.port)
        }
    }
}

impl Target {
    /// The first address of the host, of one family when one is asked for.
    ///
    /// # Errors
    /// What the resolver says, or [`io::ErrorKind::NotFound`] when no address is of the family.
    pub(crate) fn resolve(&self, family: Option<Family>) -> io::Result<SocketAddr> {
        (self.host.as_str(), self.port)
            .to_socket_addrs()?
            .find(|addr| family.is_none_or(|family| Family::of(addr.ip()) == family))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_turn_uri_over_udp() {
        let shown = |text: &str| text.parse::<Target>().map(|t| t.to_string());
        assert_eq!(shown("turn:relay.example"), Ok("turn:relay.example:3478".into()));
        assert_eq!(shown("turn:192.0.2.1:99"), Ok("turn:192.0.2.1:99".into()));
        assert_eq!(shown("turn:[2001:db8::1]"), Ok("turn:[2001:db8::1]:3478".into()));
        assert_eq!(shown("turn:[::1]:9?transport=udp"), Ok("turn:[::1]:9".into()));
        assert_eq!(shown("turn:h?transport=tcp"), Err(TargetError::Transport));
        assert_eq!(shown("turns:h"), Err(TargetError::Scheme));
        assert_eq!(shown("h:3478"), Err(TargetError::Scheme));
        assert_eq!(shown("turn:"), Err(TargetError::Host));
        assert_eq!(shown("turn:[::1"), Err(TargetError::Host));
        assert_eq!(shown("turn:h:0"), Err(TargetError::Port));
        assert_eq!(shown("turn:h:65536"), Err(TargetError::Port));
        assert_eq!(shown("turn:::1"), Err(TargetError::Host));
    }

    #[test]
    fn a_family_that_the_host_lacks_is_not_found() {
        let target: Target = "turn:127.0.0.1:1".parse().unwrap();
        assert_eq!(target.resolve(None).unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(target.resolve(Some(Family::V6)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
