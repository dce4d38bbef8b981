//! RFC 5769: the published messages, read and written byte for byte.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::wire::attribute::{AttributeType, xor_address};
use relay_common::wire::stun::{Class, Fingerprint, Message, Method};
use relay_common::wire::writer::MessageWriter;
use sha1::Sha1;

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// §2.1, in hexadecimal.
const REQUEST: &str = "\
    000100582112a442b7e7a701bc34d686fa87dfae802200105354554e20746573 \
    7420636c69656e74002400046e0001ff80290008932ff9b151263b3600060009 \
    6576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249 \
    c1b571a280280004e57a3bcf";
/// §2.2, in hexadecimal.
const RESPONSE_IPV4: &str = "\
    0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563 \
    746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f9 \
    2af9ba53f06be7d780280004c07d4c96";
/// §2.3, in hexadecimal.
const RESPONSE_IPV6: &str = "\
    010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563 \
    746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014 \
    a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// §2.4, in hexadecimal.
const REQUEST_LONG_TERM: &str = "\
    000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383 \
    aae38383e382afe382b900000015001c662f2f3439396b39353464364f4c3334 \
    6f4c394653547679363473410014000b6578616d706c652e6f72670000080014 \
    f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn signed_with(message: &Message<'_>, key: &[u8]) -> bool {
    let integrity = message.integrity().unwrap();
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(&integrity.header);
    mac.update(integrity.body);
    mac.verify_slice(integrity.mac).is_ok()
}

#[test]
fn the_sample_request() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.attribute(AttributeType::USERNAME).unwrap(), b"evtj:h6vY");
    assert_eq!(message.attribute(AttributeType::SOFTWARE).unwrap(), b"STUN test client");
    assert_eq!(message.fingerprint(), Fingerprint::Valid);
    assert!(signed_with(&message, PASSWORD));
    assert!(!signed_with(&message, b"another"));
}

#[test]
fn the_sample_responses() {
    for (hex, address) in [
        (RESPONSE_IPV4, "192.0.2.1:32853"),
        (RESPONSE_IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let bytes = bytes(hex);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        assert_eq!(message.attribute(AttributeType::SOFTWARE).unwrap(), b"test vector");
        let value = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        let mapped = xor_address(value, message.transaction_id());
        assert_eq!(mapped, Some(address.parse().unwrap()));
        assert_eq!(message.fingerprint(), Fingerprint::Valid);
        assert!(signed_with(&message, PASSWORD));
    }
}

#[test]
fn the_sample_request_with_long_term_credentials() {
    let bytes = bytes(REQUEST_LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let user = message.attribute(AttributeType::USERNAME).unwrap();
    assert_eq!(user, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}".as_bytes());
    assert_eq!(message.attribute(AttributeType::REALM).unwrap(), b"example.org");
    let nonce = message.attribute(AttributeType::NONCE).unwrap();
    assert_eq!(nonce, b"f//499k954d6OL34oL9FSTvy64sA");
    assert_eq!(message.fingerprint(), Fingerprint::Absent);
    let key = Md5::digest([user, b":example.org:TheMatrIX"].concat());
    assert!(signed_with(&message, &key));
}

#[test]
fn what_is_written_equals_what_is_published() {
    for hex in [REQUEST, RESPONSE_IPV4, RESPONSE_IPV6, REQUEST_LONG_TERM] {
        let mut published = bytes(hex);
        let message = Message::parse(&published).unwrap();
        let key = match message.attribute(AttributeType::REALM) {
            Some(realm) => {
                let user = message.attribute(AttributeType::USERNAME).unwrap();
                Md5::digest([user, b":", realm, b":TheMatrIX"].concat()).to_vec()
            }
            None => PASSWORD.to_vec(),
        };
        let sign = |header: &[u8; 20], body: &[u8]| {
            let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
            mac.update(header);
            mac.update(body);
            mac.finalize().into_bytes().into()
        };
        let mut buffer = [0; 256];
        let (class, method) = (message.class(), message.method());
        let mut writer = MessageWriter::new(&mut buffer, class, method, message.transaction_id());
        let mut padding = Vec::new();
        for attribute in message.attributes() {
            match attribute.kind {
                AttributeType::MESSAGE_INTEGRITY => writer.integrity(sign),
                AttributeType::FINGERPRINT => writer.fingerprint(),
                AttributeType::XOR_MAPPED_ADDRESS => {
                    let address = xor_address(attribute.value, message.transaction_id()).unwrap();
                    writer.xor_address(attribute.kind, address);
                }
                kind => writer.attribute(kind, attribute.value),
            }
            let end = attribute.offset + 4 + attribute.value.len();
            padding.extend(end..end.next_multiple_of(4));
        }
        let written = writer.finish().unwrap();
        // The published padding is spaces, which MESSAGE-INTEGRITY and FINGERPRINT cover: with
        // zeros both differ, so they are compared where there is no padding before them.
        let padded = !padding.iter().all(|at| published[*at] == 0);
        let end =
            if padded { message.attributes().find(is_integrity).unwrap().offset } else { written };
        assert_eq!(written, published.len());
        for at in padding {
            published[at] = 0;
        }
        assert_eq!(buffer[..end], published[..end]);
    }
}

fn is_integrity(attribute: &relay_common::wire::stun::Attribute<'_>) -> bool {
    attribute.kind == AttributeType::MESSAGE_INTEGRITY
}
