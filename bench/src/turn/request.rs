//! One request of a client: its bytes, and when it is sent, sent again and given up (RFC 8489
//! §6.2). Knows no answers.

use relay_common::addr::Family;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::{BufferFull, MessageWriter};

use crate::clock::MILLISECOND_NS;
use crate::turn::client::ClientSetup;
use crate::turn::credentials::Auth;
use crate::turn::framing::channel;
use crate::turn::transport::{PATIENCE_RTOS, Transport};

/// Transmissions of a request before it is given up: Rc of RFC 8489 §6.2.1.
const TRANSMISSIONS_MAX: u32 = 7;
/// How long the last transmission is waited for, in multiples of the RTO: Rm of §6.2.1.
const LAST_WAIT_RTOS: u64 = 16;
/// Transmissions of the request that deletes an allocation: nobody waits for it but the exit.
const RELEASE_TRANSMISSIONS_MAX: u32 = 3;
/// How long a request over TCP or TLS waits for its answer, in multiples of the RTO: Ti of §6.2.2
/// is 39.5 s at the default of 500 ms.
const STREAM_WAIT_RTOS: u64 = PATIENCE_RTOS;
/// The same for the request that deletes an allocation: as long as its three over UDP.
const STREAM_RELEASE_WAIT_RTOS: u64 = 7;
/// Protocol number of UDP in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
/// REQUESTED-ADDRESS-FAMILY for IPv6 (RFC 8656 §18.6).
const FAMILY_IPV6: u8 = 0x02;

/// How long an answer is worth waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// As long as RFC 8489 says.
    Full,
    /// Shorter: it deletes an allocation, and the user waits for the end.
    Release,
}

/// What is to be done with a request now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// It is to be sent.
    First,
    /// It is to be sent again.
    Again,
    /// It is to be given up.
    GiveUp {
        /// How often it was sent.
        transmissions: u32,
        /// From the first transmission to now, milliseconds.
        waited_ms: u64,
    },
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is asked for.
    pub(crate) method: Method,
    transaction: TransactionId,
    /// Bytes of the message.
    pub(crate) length: usize,
    transport: Transport,
    patience: Patience,
    first_at: Option<u64>,
    next_at: u64,
    transmissions: u32,
}

impl Request {
    /// To be sent now.
    pub(crate) fn new(
        now: u64,
        (method, transaction): (Method, TransactionId),
        length: usize,
        transport: Transport,
        patience: Patience,
    ) -> Self {
        Self {
            method,
            transaction,
            length,
            transport,
            patience,
            first_at: None,
            next_at: now,
            transmissions: 0,
        }
    }

    /// When [`Request::due`] is something.
    pub(crate) fn deadline(&self) -> u64 {
        self.next_at
    }

    /// Whether a response is the one to this request.
    pub(crate) fn is_answered_by(&self, response: &Message<'_>) -> bool {
        self.method == response.method() && self.transaction == response.transaction_id()
    }

    /// What is due now; a transmission counts as made.
    pub(crate) fn due(&mut self, now: u64, rto_ns: u64) -> Due {
        if now < self.next_at {
            return Due::Nothing;
        }
        let first_at = *self.first_at.get_or_insert(now);
        if self.transmissions == self.transmissions_max() {
            let waited_ms = (now - first_at) / MILLISECOND_NS;
            return Due::GiveUp { transmissions: self.transmissions, waited_ms };
        }
        self.transmissions += 1;
        self.next_at = now + self.wait_ns(rto_ns);
        if self.transmissions == 1 { Due::First } else { Due::Again }
    }

    fn transmissions_max(&self) -> u32 {
        match self.patience {
            _ if self.transport.is_stream() => 1,
            Patience::Release => RELEASE_TRANSMISSIONS_MAX,
            Patience::Full => TRANSMISSIONS_MAX,
        }
    }

    /// How long to wait after the transmission that was just made.
    fn wait_ns(&self, rto_ns: u64) -> u64 {
        match self.patience {
            Patience::Release if self.transport.is_stream() => rto_ns * STREAM_RELEASE_WAIT_RTOS,
            Patience::Full if self.transport.is_stream() => rto_ns * STREAM_WAIT_RTOS,
            _ if self.transmissions == TRANSMISSIONS_MAX => rto_ns * LAST_WAIT_RTOS,
            _ => rto_ns << (self.transmissions - 1),
        }
    }
}

/// Writes a request into `buffer`; its length. [`Patience::Release`] makes a Refresh a deletion.
///
/// # Errors
/// User name, realm and nonce do not fit.
pub(crate) fn write(
    buffer: &mut [u8],
    (method, transaction): (Method, TransactionId),
    setup: &ClientSetup,
    auth: Option<&Auth>,
    patience: Patience,
) -> Result<usize, BufferFull> {
    let mut writer = MessageWriter::new(buffer, Class::Request, method, transaction);
    if method == Method::ALLOCATE {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
        if setup.peer.family() == Family::V6 {
            let family = [FAMILY_IPV6, 0, 0, 0];
            writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family);
        }
    } else if method == Method::REFRESH {
        if patience == Patience::Release {
            writer.number(AttributeType::LIFETIME, 0);
        }
    } else {
        if method == Method::CHANNEL_BIND {
            let [high, low] = channel().value().to_be_bytes();
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
        }
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, setup.peer.socket());
    }
    if let Some(auth) = auth {
        writer.attribute(AttributeType::USERNAME, setup.credentials.username().as_bytes());
        writer.attribute(AttributeType::REALM, &auth.realm);
        writer.attribute(AttributeType::NONCE, &auth.nonce);
        writer.integrity(|header, body| auth.key.sign(header, body));
    }
    writer.fingerprint();
    writer.finish()
}
