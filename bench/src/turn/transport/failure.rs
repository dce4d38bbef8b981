//! Why a connection to the server did not come to be or did not last, in words that say what to
//! do. What happens above the connection is [`TurnFailure`](crate::turn::failure::TurnFailure).

use std::fmt;
use std::io;

use rustls::CertificateError;

use crate::turn::transport::Transport;

/// The end of one connection.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum LinkFailure {
    /// The server's host answered the connection with a reset: nothing listens there.
    Refused,
    /// The network has no way to the server.
    NoWay {
        /// What the kernel says.
        error: io::ErrorKind,
    },
    /// The connection was not answered.
    ConnectTimeout {
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The handshake of TLS or DTLS did not end in time.
    HandshakeTimeout {
        /// Which of the two.
        transport: Transport,
        /// How long it was waited for, milliseconds.
        waited_ms: u64,
    },
    /// The server closed the connection in the middle of the TLS handshake.
    HandshakeClosed,
    /// What the server answered to a ClientHello is no TLS or DTLS.
    NotSecure {
        /// Which of the two was asked for.
        transport: Transport,
    },
    /// The server's certificate does not convince.
    Certificate {
        /// TLS or DTLS.
        transport: Transport,
        /// Who the server should be: the host of the target.
        name: String,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// The handshake failed for another reason.
    Handshake {
        /// TLS or DTLS.
        transport: Transport,
        /// The reason in the words of the TLS or DTLS library.
        reason: String,
    },
    /// TLS or DTLS was established and broke.
    Broken {
        /// Which of the two.
        transport: Transport,
        /// The reason in the words of the TLS or DTLS library.
        reason: String,
    },
    /// The server closed the connection.
    Closed,
    /// The connection was reset midway.
    Reset,
    /// What came is neither STUN nor ChannelData.
    NotTurn,
}

impl fmt::Display for LinkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str(
                "connection refused: nothing listens there. Is the server running, and on this \
                 address and port?",
            ),
            Self::NoWay { error } => write!(f, "no way to the server: {error}"),
            Self::ConnectTimeout { waited_ms } => write!(
                f,
                "no connection after {waited_ms} ms: is this the right address and port, and does \
                 a firewall let TCP through?"
            ),
            Self::HandshakeTimeout { transport: Transport::Dtls, waited_ms } => write!(
                f,
                "no DTLS handshake after {waited_ms} ms: does the server speak DTLS on this port, \
                 and does a firewall let UDP through?"
            ),
            Self::HandshakeTimeout { transport, waited_ms } => write!(
                f,
                "connected, but no {} handshake after {waited_ms} ms: {}",
                transport.title(),
                other_port(*transport)
            ),
            Self::HandshakeClosed => write!(
                f,
                "the server closed the connection during the TLS handshake: {}",
                other_port(Transport::Tls)
            ),
            Self::NotSecure { transport } => {
                write!(f, "the answer is no {}: {}", transport.title(), other_port(*transport))
            }
            Self::Certificate { transport, name, error } => {
                write!(f, "the server's certificate ")?;
                certificate(f, *transport, name, error)
            }
            Self::Handshake { transport: Transport::Dtls, reason } => write!(
                f,
                "the DTLS handshake failed: {reason}. This tool's DTLS needs a server certificate \
                 with an ECDSA key (P-256 or P-384) and an AEAD cipher suite"
            ),
            Self::Handshake { transport, reason } => {
                write!(f, "the {} handshake failed: {reason}", transport.title())
            }
            Self::Broken { transport, reason } => {
                write!(f, "the {} connection broke: {reason}", transport.title())
            }
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Reset => f.write_str("the connection was reset"),
            Self::NotTurn => f.write_str(
                "what the server sends is neither STUN nor ChannelData: is this a TURN port, and \
                 one without TLS? (turns: speaks TLS)",
            ),
        }
    }
}

impl std::error::Error for LinkFailure {}

fn other_port(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp | Transport::Tcp => "is this the right port?",
        Transport::Tls => {
            "does this port speak TLS? (turn:HOST:PORT?transport=tcp speaks plain TCP)"
        }
        Transport::Dtls => "does this port speak DTLS? (turn:HOST:PORT speaks plain UDP)",
    }
}

/// What is wrong with a certificate, as the end of a sentence.
fn certificate(
    f: &mut fmt::Formatter<'_>,
    transport: Transport,
    name: &str,
    error: &CertificateError,
) -> fmt::Result {
    use CertificateError as E;
    match error {
        E::NotValidForName | E::NotValidForNameContext { .. } => write!(
            f,
            "is not for the name {name}: use the name it is made for as HOST (or --insecure to \
             measure anyway)"
        ),
        E::Expired | E::ExpiredContext { .. } => {
            f.write_str("has expired (--insecure measures anyway)")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            f.write_str("is not valid yet: is the clock of this host right?")
        }
        E::UnknownIssuer if transport == Transport::Dtls => f.write_str(
            "has an issuer that is not trusted here. Over DTLS this tool sees no intermediate \
             certificates: give the one that issued it with --ca FILE (or --insecure to measure \
             anyway)",
        ),
        E::UnknownIssuer => f.write_str(
            "has an issuer that is not trusted here: give it with --ca FILE, or send the \
             intermediate certificates from the server (or --insecure to measure anyway)",
        ),
        E::BadSignature => f.write_str(
            "is not signed by the issuer that is trusted here under that name: was the authority \
             made anew? (--ca FILE, or --insecure to measure anyway)",
        ),
        other => write!(f, "is not acceptable: {other} (--insecure measures anyway)"),
    }
}
