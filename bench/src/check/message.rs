//! Requests and answers as the checks need them: any method, any attribute, and what an answer
//! says as plain values. Sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;

use crate::turn::credentials::{Auth, Credentials};

/// Room for the largest datagram that a check sends.
const BYTES_MAX: usize = 65_535;
/// CHANGE-REQUEST (RFC 5780 §7.2).
pub(crate) const CHANGE_REQUEST: AttributeType = AttributeType(0x0003);
/// ALTERNATE-SERVER (RFC 8489 §14.15).
const ALTERNATE_SERVER: AttributeType = AttributeType(0x8023);
/// RESPONSE-ORIGIN (RFC 5780 §7.3).
const RESPONSE_ORIGIN: AttributeType = AttributeType(0x802B);
/// OTHER-ADDRESS (RFC 5780 §7.4).
const OTHER_ADDRESS: AttributeType = AttributeType(0x802C);
/// What CHANGED-ADDRESS of RFC 3489 servers is called since: the same meaning.
const CHANGED_ADDRESS: AttributeType = AttributeType(0x0005);
/// Padding that a server has to ignore: comprehension-optional and assigned to nobody.
pub(crate) const PADDING: AttributeType = AttributeType(0xFFF0);

/// A request ready to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is asked.
    pub(crate) method: Method,
    /// What the answer carries.
    pub(crate) transaction: TransactionId,
    /// The message.
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    /// With these attributes, and signed if there is something to sign with.
    ///
    /// # Errors
    /// No random numbers, or more attributes than a message holds.
    pub(crate) fn new(
        method: Method,
        signer: Option<(&Credentials, &Auth)>,
        attributes: impl FnOnce(&mut MessageWriter<'_>),
    ) -> anyhow::Result<Self> {
        let mut id = [0; 12];
        getrandom::fill(&mut id).context("no random numbers from the operating system")?;
        let transaction = TransactionId(id);
        let mut bytes = vec![0; BYTES_MAX];
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        attributes(&mut writer);
        if let Some((credentials, auth)) = signer {
            writer.attribute(AttributeType::USERNAME, credentials.username().as_bytes());
            writer.attribute(AttributeType::REALM, &auth.realm);
            writer.attribute(AttributeType::NONCE, &auth.nonce);
            writer.integrity(|header, body| auth.key.sign(header, body));
        }
        writer.fingerprint();
        let length = writer.finish().context("a request that is too long")?;
        bytes.truncate(length);
        Ok(Self { method, transaction, bytes })
    }

    /// A Binding request.
    ///
    /// # Errors
    /// As [`Request::new`].
    pub(crate) fn binding() -> anyhow::Result<Self> {
        Self::new(Method::BINDING, None, |_| ())
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    /// The answer to a request; `None` when the datagram is something else.
    pub(crate) fn to(request: &Request, datagram: &[u8]) -> Option<Self> {
        let message = Message::parse(datagram).ok()?;
        let answers = message.method() == request.method
            && message.transaction_id() == request.transaction
            && matches!(message.class(), Class::Success | Class::Error);
        answers.then(|| Self { bytes: datagram.to_vec() })
    }

    /// The message.
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("it was parsed before it was kept")
    }

    /// ERROR-CODE of an error response; 0 without words when an error response has none.
    pub(crate) fn error(&self) -> Option<(u16, String)> {
        if self.message().class() != Class::Error {
            return None;
        }
        let code = self.message().attribute(AttributeType::ERROR_CODE);
        let code = code.and_then(attribute::error_code);
        Some(code.map_or((0, String::new()), |(code, words)| (code, printable(words.trim()))))
    }

    /// The server-reflexive transport address.
    pub(crate) fn reflexive(&self) -> Option<SocketAddr> {
        self.xor_address(AttributeType::XOR_MAPPED_ADDRESS)
            .or_else(|| self.address(AttributeType::MAPPED_ADDRESS))
    }

    /// The relayed transport address.
    pub(crate) fn relayed(&self) -> Option<SocketAddr> {
        self.xor_address(AttributeType::XOR_RELAYED_ADDRESS)
    }

    /// Another address and port of the server, for behaviour tests (RFC 5780).
    pub(crate) fn other_address(&self) -> Option<SocketAddr> {
        self.address(OTHER_ADDRESS).or_else(|| self.address(CHANGED_ADDRESS))
    }

    /// Where the server says that it sent this from (RFC 5780).
    pub(crate) fn origin(&self) -> Option<SocketAddr> {
        self.address(RESPONSE_ORIGIN)
    }

    /// The server that is to be asked instead.
    pub(crate) fn alternate(&self) -> Option<SocketAddr> {
        self.address(ALTERNATE_SERVER)
    }

    /// What the server calls itself.
    pub(crate) fn software(&self) -> Option<String> {
        let text = self.message().attribute(AttributeType::SOFTWARE)?;
        Some(printable(&String::from_utf8_lossy(text)))
    }

    /// LIFETIME, seconds.
    pub(crate) fn lifetime_secs(&self) -> Option<u32> {
        self.message().attribute(AttributeType::LIFETIME).and_then(attribute::number)
    }

    fn xor_address(&self, kind: AttributeType) -> Option<SocketAddr> {
        let message = self.message();
        attribute::xor_address(message.attribute(kind)?, message.transaction_id())
    }

    fn address(&self, kind: AttributeType) -> Option<SocketAddr> {
        plain_address(self.message().attribute(kind)?)
    }
}

/// The server's words without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// An address as MAPPED-ADDRESS has it (RFC 8489 §14.1).
fn plain_address(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, high, low], ip) = value.split_first_chunk::<4>()?;
    let ip: IpAddr = match family {
        0x01 => Ipv4Addr::from_octets(ip.try_into().ok()?).into(),
        0x02 => Ipv6Addr::from_octets(ip.try_into().ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_address_is_a_family_a_port_and_an_ip() {
        let four = [0, 1, 0x0D, 0x96, 192, 0, 2, 1];
        assert_eq!(plain_address(&four), Some("192.0.2.1:3478".parse().unwrap()));
        assert_eq!(plain_address(&four[..7]), None);
        assert_eq!(plain_address(&[0, 3, 0, 0, 1, 2, 3, 4]), None);
        let mut six = [0; 20];
        (six[1], six[3], six[19]) = (2, 9, 1);
        assert_eq!(plain_address(&six), Some("[::1]:9".parse().unwrap()));
    }

    #[test]
    fn only_the_answer_to_the_request_is_its_answer() {
        let request = Request::binding().unwrap();
        assert!(Answer::to(&request, &request.bytes).is_none(), "its own echo");
        let mut buffer = [0; 64];
        let mut answer = |transaction, words: &str| {
            let mut writer =
                MessageWriter::new(&mut buffer, Class::Error, Method::BINDING, transaction);
            writer.error_code(420, words);
            let length = writer.finish().unwrap();
            Answer::to(&request, &buffer[..length]).and_then(|answer| answer.error())
        };
        let transaction = request.transaction;
        assert_eq!(answer(transaction, "Unknown"), Some((420, "Unknown".to_owned())));
        assert_eq!(answer(TransactionId([0; 12]), "Unknown"), None);
        let said = answer(transaction, "Un\x1b[2Jknown\n✗ credentials");
        assert_eq!(said, Some((420, "Un[2Jknown✗ credentials".to_owned())));
    }
}
