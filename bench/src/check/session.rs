//! One allocation for the checks: authenticates, allocates, asks for permissions and channels,
//! gives it back. Says what the server refused; what that means is the checks' business.

use std::net::SocketAddr;

use relay_common::addr::Family;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::channel_data::ChannelData;
use relay_common::wire::stun::Method;
use relay_common::wire::writer::MessageWriter;

use crate::check::line::Line;
use crate::check::message::{Answer, Request};
use crate::check::probe::Departure;
use crate::check::watch::Trouble;
use crate::clock::SECOND_NS;
use crate::turn::credentials::{Auth, Credentials};
use crate::turn::framing::channel;

/// 438 answers in a row before the server is taken at its word.
const STALE_NONCES_MAX: u32 = 3;
/// How long the deletion at the end is waited for, nanoseconds.
const DELETION_NS: u64 = 2 * SECOND_NS;
/// REQUESTED-TRANSPORT: UDP.
const UDP: [u8; 4] = [17, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY: IPv6 (RFC 8656 §18.6).
const IPV6: [u8; 4] = [2, 0, 0, 0];

/// Why a request did not go well.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// An error response.
    Error {
        /// ERROR-CODE.
        code: u16,
        /// The server's words.
        words: String,
        /// The server to ask instead.
        alternate: Option<SocketAddr>,
    },
    /// A challenge without realm or nonce.
    NoChallenge,
    /// A success response that is not signed with this password.
    NotAuthentic,
    /// No answer.
    Trouble(Trouble),
    /// This host could not even ask.
    Host(anyhow::Error),
}

/// A user of the server.
#[derive(Debug)]
pub(crate) struct Session {
    /// The way to the server.
    pub(crate) line: Line,
    /// Who asks.
    credentials: Credentials,
    auth: Option<Auth>,
    allocated: bool,
}

impl Session {
    /// Nothing is asked yet.
    pub(crate) fn new(line: Line, credentials: Credentials) -> Self {
        Self { line, credentials, auth: None, allocated: false }
    }

    /// The user name.
    pub(crate) fn username(&self) -> &str {
        self.credentials.username()
    }

    /// Realm and nonce of the server's challenge, if there was one.
    pub(crate) fn auth(&self) -> Option<&Auth> {
        self.auth.as_ref()
    }

    /// Allocates a relayed transport address of a family.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn allocate(&mut self, family: Family) -> Result<Answer, Refusal> {
        let answer = self.ask(Method::ALLOCATE, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &UDP);
            if family == Family::V6 {
                writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &IPV6);
            }
        })?;
        self.allocated = true;
        Ok(answer)
    }

    /// CreatePermission.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Result<Answer, Refusal> {
        self.ask(Method::CREATE_PERMISSION, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    /// ChannelBind of the first channel number.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn bind(&mut self, peer: SocketAddr) -> Result<Answer, Refusal> {
        self.ask(Method::CHANNEL_BIND, |writer| {
            let [high, low] = channel().value().to_be_bytes();
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    /// Sends application data over the channel.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(crate) fn send(&mut self, payload: &[u8]) -> Result<Departure, Trouble> {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let header = ChannelData::header(channel(), length);
        self.line.send(&[&header, payload].concat())
    }

    /// Gives the allocation back, if there is one; whether the server confirmed it.
    pub(crate) fn release(&mut self) -> bool {
        if !std::mem::take(&mut self.allocated) {
            return true;
        }
        self.line.hurry(DELETION_NS);
        let deleted = self.ask(Method::REFRESH, |writer| {
            writer.number(AttributeType::LIFETIME, 0);
        });
        deleted.is_ok()
    }

    /// Asks, and follows challenges.
    fn ask(
        &mut self,
        method: Method,
        attributes: impl Fn(&mut MessageWriter<'_>),
    ) -> Result<Answer, Refusal> {
        let mut stale = 0;
        loop {
            let signer = self.auth.as_ref().map(|auth| (&self.credentials, auth));
            let signed = signer.is_some();
            let request = Request::new(method, signer, &attributes).map_err(Refusal::Host)?;
            let answer = self.line.ask(&request).map_err(Refusal::Trouble)?.answer;
            let Some((code, words)) = answer.error() else {
                return if self.authentic(&answer) {
                    Ok(answer)
                } else {
                    Err(Refusal::NotAuthentic)
                };
            };
            let challenge = match code {
                401 => !signed,
                438 => stale < STALE_NONCES_MAX,
                _ => false,
            };
            if !challenge {
                return Err(Refusal::Error { code, words, alternate: answer.alternate() });
            }
            stale += u32::from(code == 438);
            let auth = self.credentials.challenged(answer.message());
            self.auth = Some(auth.ok_or(Refusal::NoChallenge)?);
        }
    }

    /// RFC 8489 §9.2.5: after a challenge, answers are signed.
    fn authentic(&self, answer: &Answer) -> bool {
        self.auth.as_ref().is_none_or(|auth| {
            answer.message().integrity().is_some_and(|integrity| auth.key.verifies(&integrity))
        })
    }
}
