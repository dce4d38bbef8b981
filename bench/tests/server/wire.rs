//! The messages that the test's server makes and reads, and the payloads that it forges.

use std::net::SocketAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use relay_common::wire::attribute::{self, AttributeType as A};
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;

/// Changes what a packet of the tool says of itself (see its payload): the number within the flow
/// in bytes 8 to 15, when it was due in 16 to 23; the checksum in 24 to 27 leaves out the next one.
pub(crate) fn forge(payload: &mut [u8], round: u64) {
    let (at, value) = match round % 4 {
        0 => (8, u64::MAX),
        1 => (8, u64::MAX - 1),
        2 => (8, 1 << 40),
        _ => (16, 1),
    };
    payload[at..at + 8].copy_from_slice(&value.to_be_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&payload[..24]);
    hasher.update(&payload[29..]);
    payload[24..28].copy_from_slice(&hasher.finalize().to_be_bytes());
}

/// The answer to a Binding request.
pub(crate) fn bound(client: SocketAddr, transaction: TransactionId) -> Vec<u8> {
    write(Class::Success, Method::BINDING, transaction, |w| {
        w.xor_address(A::XOR_MAPPED_ADDRESS, client);
    })
}

pub(crate) fn write(
    class: Class,
    method: Method,
    transaction: TransactionId,
    attributes: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let mut writer = MessageWriter::new(&mut buffer, class, method, transaction);
    attributes(&mut writer);
    let length = writer.finish().unwrap();
    buffer.truncate(length);
    buffer
}

pub(crate) fn address(message: &Message<'_>, kind: A) -> Option<SocketAddr> {
    attribute::xor_address(message.attribute(kind)?, message.transaction_id())
}

pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
