//! The codec against an independent one: the same message written by both is the same bytes, and
//! damaged bytes are read alike. From fixed seeds.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytecodec::{DecodeExt, EncodeExt};
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::wire::attribute::{self, AttributeType};
use relay_common::wire::stun::{self as ours, Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use sha1::Sha1;
use stun_codec::rfc5389::attributes::{
    ErrorCode, Fingerprint, MessageIntegrity, Nonce, Realm, UnknownAttributes, Username,
    XorMappedAddress,
};
use stun_codec::rfc5766::attributes::{
    ChannelNumber, Data, DontFragment, EvenPort, Lifetime, RequestedTransport, ReservationToken,
    XorPeerAddress, XorRelayAddress,
};
use stun_codec::{self as theirs, MessageClass, RawAttribute, define_attribute_enums};

define_attribute_enums!(
    Known,
    KnownDecoder,
    KnownEncoder,
    [
        Username,
        MessageIntegrity,
        ErrorCode,
        UnknownAttributes,
        Realm,
        Nonce,
        XorMappedAddress,
        Fingerprint,
        ChannelNumber,
        Lifetime,
        XorPeerAddress,
        Data,
        XorRelayAddress,
        EvenPort,
        RequestedTransport,
        DontFragment,
        ReservationToken
    ]
);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn u16(&mut self) -> u16 {
        u16::try_from(self.next() & 0xFFFF).unwrap()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_be_bytes()[0])
    }

    fn text(&mut self) -> String {
        (0..self.below(40)).map(|_| char::from(b'a' + self.next().to_be_bytes()[0] % 26)).collect()
    }

    fn addr(&mut self) -> SocketAddr {
        if self.below(2) == 0 {
            (Ipv4Addr::from(self.bytes()), self.u16()).into()
        } else {
            (Ipv6Addr::from(self.bytes::<16>()), self.u16()).into()
        }
    }
}

/// Writes a random attribute with both.
fn attribute(random: &mut Random, writer: &mut MessageWriter<'_>) -> Known {
    match random.below(14) {
        kind @ 0..4 => general(kind, random, writer),
        kind => turn(kind, random, writer),
    }
}

/// One that STUN itself has.
fn general(kind: usize, random: &mut Random, writer: &mut MessageWriter<'_>) -> Known {
    use AttributeType as A;
    match kind {
        0 => {
            let text = random.text();
            writer.attribute(A::USERNAME, text.as_bytes());
            Username::new(text).unwrap().into()
        }
        1 => {
            let text = random.text();
            writer.attribute(A::NONCE, text.as_bytes());
            Nonce::new(text).unwrap().into()
        }
        2 => {
            let (code, text) = (300 + random.u16() % 300, random.text());
            writer.error_code(code, &text);
            ErrorCode::new(code, text).unwrap().into()
        }
        _ => {
            let codes: Vec<u16> = (0..random.below(6)).map(|_| random.u16()).collect();
            writer.unknown_attributes(&codes.iter().map(|code| A(*code)).collect::<Vec<_>>());
            let codes = codes.into_iter().map(theirs::AttributeType::new).collect();
            UnknownAttributes::new(codes).into()
        }
    }
}

/// One that TURN brings, or that both use.
fn turn(kind: usize, random: &mut Random, writer: &mut MessageWriter<'_>) -> Known {
    use AttributeType as A;
    match kind {
        4 => {
            let addr = random.addr();
            writer.xor_address(A::XOR_MAPPED_ADDRESS, addr);
            XorMappedAddress::new(addr).into()
        }
        5 => {
            let number = 0x4000 + random.u16() % 0x1000;
            writer.attribute(A::CHANNEL_NUMBER, &[number.to_be_bytes(), [0, 0]].concat());
            ChannelNumber::new(number).unwrap().into()
        }
        6 => {
            let secs = u32::from(random.u16()) << 3;
            writer.number(A::LIFETIME, secs);
            Lifetime::new(Duration::from_secs(secs.into())).unwrap().into()
        }
        7 => {
            let addr = random.addr();
            writer.xor_address(A::XOR_PEER_ADDRESS, addr);
            XorPeerAddress::new(addr).into()
        }
        8 => {
            let data = vec![random.bytes::<1>()[0]; random.below(700)];
            writer.attribute(A::DATA, &data);
            Data::new(data).unwrap().into()
        }
        9 => {
            let addr = random.addr();
            writer.xor_address(A::XOR_RELAYED_ADDRESS, addr);
            XorRelayAddress::new(addr).into()
        }
        10 => {
            let next = random.below(2) == 1;
            writer.attribute(A::EVEN_PORT, &[if next { 0x80 } else { 0 }]);
            EvenPort::new(next).into()
        }
        11 => {
            let [protocol] = random.bytes();
            writer.attribute(A::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0]);
            RequestedTransport::new(protocol).into()
        }
        12 => {
            writer.attribute(A::DONT_FRAGMENT, &[]);
            DontFragment.into()
        }
        _ => {
            let token = random.next();
            writer.attribute(A::RESERVATION_TOKEN, &token.to_be_bytes());
            ReservationToken::new(token).into()
        }
    }
}

const CLASSES: [(Class, MessageClass); 4] = [
    (Class::Request, MessageClass::Request),
    (Class::Indication, MessageClass::Indication),
    (Class::Success, MessageClass::SuccessResponse),
    (Class::Error, MessageClass::ErrorResponse),
];

/// A random message as both write it.
fn message(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (class, their_class) = CLASSES[random.below(4)];
    // Theirs writes methods from 16 on with their bits in the wrong place, and reads them well.
    let method = random.u16() & 0x000F;
    let transaction: [u8; 12] = random.bytes();
    let mut buffer = vec![0; 16_384];
    let mut writer =
        MessageWriter::new(&mut buffer, class, Method(method), TransactionId(transaction));
    let mut message = theirs::Message::<Known>::new(
        their_class,
        theirs::Method::new(method).unwrap(),
        theirs::TransactionId::new(transaction),
    );
    for _ in 0..random.below(9) {
        message.add_attribute(attribute(random, &mut writer));
    }
    if random.below(2) == 0 {
        let (user, realm, password) = (random.text(), random.text(), random.text());
        let key = Md5::digest([user.as_str(), &realm, &password].join(":"));
        writer.integrity(|header, body| {
            let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
            mac.update(header);
            mac.update(body);
            mac.finalize().into_bytes().into()
        });
        let (user, realm) = (Username::new(user).unwrap(), Realm::new(realm).unwrap());
        let integrity =
            MessageIntegrity::new_long_term_credential(&message, &user, &realm, &password);
        message.add_attribute(integrity.unwrap());
    }
    if random.below(2) == 0 {
        writer.fingerprint();
        message.add_attribute(Fingerprint::new(&message).unwrap());
    }
    let written = writer.finish().unwrap();
    buffer.truncate(written);
    (buffer, theirs::MessageEncoder::new().encode_into_bytes(message).unwrap())
}

#[test]
fn both_write_the_same_bytes() {
    let mut random = Random(1);
    for round in 0..8_000 {
        let (ours, theirs) = message(&mut random);
        assert_eq!(ours, theirs, "round {round}");
    }
}

/// What a reader sees: type field, transaction id, and every attribute up to the first that
/// closes the message.
type Seen = (u16, [u8; 12], Vec<(u16, Vec<u8>)>);

fn we_see(bytes: &[u8]) -> Option<Seen> {
    let message = Message::parse(bytes).ok()?;
    let attributes = message.attributes().map(|a| (a.kind.0, a.value.to_vec()));
    let kind = ours::message_type(message.class(), message.method());
    Some((kind, message.transaction_id().0, until_closed(attributes)))
}

fn they_see(bytes: &[u8]) -> Option<Seen> {
    let mut decoder = theirs::MessageDecoder::<RawAttribute>::new();
    let message = decoder.decode_from_bytes(bytes).ok()?.ok()?;
    let (class, _) = CLASSES.into_iter().find(|(_, their)| *their == message.class())?;
    let kind = ours::message_type(class, Method(message.method().as_u16()));
    let attributes =
        message.attributes().map(|a| (theirs::Attribute::get_type(a).as_u16(), a.value().to_vec()));
    Some((kind, *message.transaction_id().as_bytes(), until_closed(attributes)))
}

fn until_closed(attributes: impl Iterator<Item = (u16, Vec<u8>)>) -> Vec<(u16, Vec<u8>)> {
    let closes = [
        AttributeType::MESSAGE_INTEGRITY.0,
        AttributeType::MESSAGE_INTEGRITY_SHA256.0,
        AttributeType::FINGERPRINT.0,
    ];
    let mut seen = Vec::new();
    for (kind, value) in attributes {
        seen.push((kind, value));
        if closes.contains(&kind) {
            break;
        }
    }
    seen
}

#[test]
fn both_read_damaged_bytes_alike() {
    let mut random = Random(2);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..15_000 {
        let (mut bytes, _) = message(&mut random);
        let kind = ours::message_type(CLASSES[random.below(4)].0, Method(random.u16() & 0x0FFF));
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                _ if bytes.is_empty() => {}
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        let (we, they) = (we_see(&bytes), they_see(&bytes));
        // A length that is no multiple of four is refused by RFC 8489 §5; they read on.
        let odd = bytes.len() % 4 != 0;
        if odd && we.is_none() {
            continue;
        }
        if we.is_some() {
            accepted += 1;
        } else {
            refused += 1;
        }
        assert_eq!(we, they, "round {round}: {bytes:02x?}");
    }
    assert!(accepted > 3_000 && refused > 500, "{accepted} {refused}");
}

#[test]
fn typed_values_are_read_alike() {
    let mut random = Random(3);
    for _ in 0..8_000 {
        let (bytes, _) = message(&mut random);
        let ours = Message::parse(&bytes).unwrap();
        let mut decoder = theirs::MessageDecoder::<Known>::new();
        let theirs = decoder.decode_from_bytes(&bytes).unwrap().unwrap();
        let value = |kind| ours.attribute(kind);
        let addr = |kind| attribute::xor_address(value(kind)?, ours.transaction_id());
        let peer: Option<&XorPeerAddress> = theirs.get_attribute();
        assert_eq!(addr(AttributeType::XOR_PEER_ADDRESS), peer.map(XorPeerAddress::address));
        let lifetime: Option<&Lifetime> = theirs.get_attribute();
        let secs = lifetime.map(|l| u32::try_from(l.lifetime().as_secs()).unwrap());
        assert_eq!(value(AttributeType::LIFETIME).and_then(attribute::number), secs);
        let channel: Option<&ChannelNumber> = theirs.get_attribute();
        let number = value(AttributeType::CHANNEL_NUMBER).and_then(attribute::channel_number);
        assert_eq!(number, channel.map(|channel| channel.value()));
        let error: Option<&ErrorCode> = theirs.get_attribute();
        let read = value(AttributeType::ERROR_CODE).and_then(attribute::error_code);
        assert_eq!(read, error.map(|error| (error.code(), error.reason_phrase())));
        let transport: Option<&RequestedTransport> = theirs.get_attribute();
        let read = value(AttributeType::REQUESTED_TRANSPORT).and_then(attribute::leading_byte);
        assert_eq!(read, transport.map(RequestedTransport::protocol));
        let print: Option<&Fingerprint> = theirs.get_attribute();
        let expected =
            if print.is_some() { ours::Fingerprint::Valid } else { ours::Fingerprint::Absent };
        assert_eq!(ours.fingerprint(), expected);
    }
}
