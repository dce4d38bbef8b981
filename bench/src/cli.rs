//! What the subcommands' command lines share: exit codes, the server with its credentials, and
//! the kinds of values. Runs nothing.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use anyhow::Context as _;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use relay_common::addr::Family;

use crate::clock::{self, MILLISECOND_NS};
use crate::turn::credentials::Credentials;
use crate::turn::target::Target;
use crate::turn::transport::trust::{TrustArgs, TrustError};
use crate::turn::transport::{LinkSetup, Transport};

/// Exit code: a limit of `--max-loss` or `--max-p99` was broken, or a check found something wrong.
pub(crate) const EXIT_LIMIT: u8 = 1;
/// Exit code: arguments that make no sense together.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code: the run did not begin.
pub(crate) const EXIT_SETUP: u8 = 3;
/// Exit code: the run began and ended early; the figures are partial.
pub(crate) const EXIT_PARTIAL: u8 = 4;
/// Exit code: ended by Ctrl-C; the figures are partial.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The exit codes, for the end of a help text.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 measured and within the limits; 1 a limit was broken, or packets were damaged; 2 \
wrong usage; 3 set-up failed; 4 ended early (partial figures); 130 Ctrl-C (partial figures).";

/// How long minted credentials live beyond the run, seconds.
const MINTED_SECS: u64 = 3600;

/// The server to measure, and how to get in.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server: turn:HOST or turn:HOST:PORT over UDP (port 3478 unless given), with
    /// ?transport=tcp over TCP; turns:HOST over TLS (port 5349), with ?transport=udp over DTLS.
    pub(crate) target: Target,
    /// The user name; with --secret, the name behind the expiry.
    #[arg(long, env = "RELAY_BENCH_USER")]
    user: Option<String>,
    /// The user's password.
    #[arg(long, env = "RELAY_BENCH_PASSWORD", hide_env_values = true, requires = "user")]
    #[arg(conflicts_with = "secret", required_unless_present = "secret")]
    password: Option<String>,
    /// The shared secret to mint time-limited (TURN REST) credentials from.
    #[arg(long, env = "RELAY_BENCH_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Use only server addresses of this family.
    #[arg(long, value_parser = PossibleValuesParser::new(["4", "6"]).map(family))]
    family: Option<Family>,
    #[command(flatten)]
    trust: TrustArgs,
    /// First retransmission timeout of requests (RFC 8489 §6.2.1), milliseconds. A connection
    /// with its handshake, and a request over TCP or TLS, are given up after 79 of it.
    #[arg(long, value_name = "MS", default_value = "500")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=60_000))]
    rto: u64,
}

impl ServerArgs {
    /// The TURN server transport address.
    ///
    /// # Errors
    /// The name has no address, or none of the family that is asked for.
    pub(crate) fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let Self { target, .. } = self;
        target
            .resolve(self.family)
            .with_context(|| format!("no address of {target} to measure (--family?)"))
    }

    /// How to open connections to `server`, which [`ServerArgs::resolve`] found.
    ///
    /// # Errors
    /// The target is a `turns:` one, and `--ca` or this host has no certificate to trust.
    pub(crate) fn links(&self, server: SocketAddr) -> Result<LinkSetup, TrustError> {
        self.link_to(server, self.target.transport())
    }

    /// As [`ServerArgs::links`], over a transport that need not be the target's.
    ///
    /// # Errors
    /// As [`ServerArgs::links`].
    pub(crate) fn link_to(
        &self,
        server: SocketAddr,
        transport: Transport,
    ) -> Result<LinkSetup, TrustError> {
        LinkSetup::new(server, transport, &self.trust, self.target.host(), self.rto_ns())
    }

    /// Whether credentials are minted from a shared secret.
    pub(crate) fn mints(&self) -> bool {
        self.secret.is_some()
    }

    /// The family that is asked for.
    pub(crate) fn wanted_family(&self) -> Option<Family> {
        self.family
    }

    /// The credentials of a run that lasts `run_secs`.
    pub(crate) fn credentials(&self, run_secs: u64) -> Credentials {
        match (&self.secret, &self.password) {
            (Some(secret), _) => {
                let expiry = clock::unix_secs() + run_secs + MINTED_SECS;
                Credentials::minted(secret, self.user.as_deref().unwrap_or("relay-bench"), expiry)
            }
            (None, password) => Credentials::known(
                self.user.clone().unwrap_or_default(),
                password.clone().unwrap_or_default(),
            ),
        }
    }

    /// As [`ServerArgs::credentials`], for a name of the caller's; only a secret makes them.
    pub(crate) fn minted_for(&self, name: &str, run_secs: u64) -> Option<Credentials> {
        let expiry = clock::unix_secs() + run_secs + MINTED_SECS;
        Some(Credentials::minted(self.secret.as_deref()?, name, expiry))
    }

    /// The first retransmission timeout, nanoseconds.
    pub(crate) fn rto_ns(&self) -> u64 {
        self.rto * MILLISECOND_NS
    }
}

/// One of the two values of `--family`.
fn family(value: String) -> Family {
    if value == "6" { Family::V6 } else { Family::V4 }
}

/// A number from 1 up to a limit.
pub(crate) fn from_one_to(max: i64) -> impl TypedValueParser<Value = NonZeroU32> {
    clap::value_parser!(u32).range(1..=max).try_map(NonZeroU32::try_from)
}

/// An address with a port, or without one for any.
pub(crate) fn bind_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    text.parse().or_else(|_| Ok(SocketAddr::new(text.parse()?, 0)))
}

/// Why a text is no limit.
#[derive(Debug)]
pub(crate) struct NotALimit;

impl fmt::Display for NotALimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a limit is a number of 0 or more")
    }
}

impl std::error::Error for NotALimit {}

/// A number of zero or more.
pub(crate) fn limit(text: &str) -> Result<f64, NotALimit> {
    text.parse().ok().filter(|limit: &f64| *limit >= 0.0).ok_or(NotALimit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_address_needs_no_port() {
        assert_eq!(bind_address("127.0.0.2"), Ok("127.0.0.2:0".parse().unwrap()));
        assert_eq!(bind_address("[::1]:5"), Ok("[::1]:5".parse().unwrap()));
        assert_eq!(bind_address("::1"), Ok("[::1]:0".parse().unwrap()));
        assert!(bind_address("host").is_err());
    }
}
