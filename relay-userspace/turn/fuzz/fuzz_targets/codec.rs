//! The codec: no bytes make it panic, it reads what the simulation's naive codec reads, and what
//! it writes it reads again.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a panic is a finding")]
#![allow(dead_code, unreachable_pub, reason = "the simulation's own codec, a part of it")]

#[path = "../../tests/sim/model/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;
use relay_common::wire::Demux;
use relay_common::wire::attribute::{self, AttributeType, Icmp};
use relay_common::wire::channel_data::{ChannelData, ChannelRange, HEADER_BYTES};
use relay_common::wire::stun::{Class, Fingerprint, Message};
use relay_common::wire::writer::MessageWriter;
use wire::Stun;

fuzz_target!(|input: &[u8]| {
    let _ = Demux::of(input);
    channel_data(input);
    let (ours, naive) = (Message::parse(input).ok(), Stun::read(input));
    assert_eq!(ours.is_some(), naive.is_some(), "{ours:?}, {naive:?}");
    if let Some((ours, naive)) = ours.zip(naive) {
        same(&ours, &naive);
        typed(&ours, &naive);
        written(&ours);
    }
});

fn channel_data(input: &[u8]) {
    for range in [ChannelRange::Rfc8656, ChannelRange::Rfc5766] {
        let Some(parsed) = ChannelData::parse(input, range) else { continue };
        let length = u16::try_from(parsed.payload.len()).unwrap();
        assert_eq!(ChannelData::header(parsed.number, length), input[..HEADER_BYTES]);
        assert!(input.len() - parsed.payload.end <= 3);
    }
}

/// Both codecs see the same message.
fn same(ours: &Message<'_>, naive: &Stun) {
    let class = match ours.class() {
        Class::Request => wire::REQUEST,
        Class::Indication => wire::INDICATION,
        Class::Success => wire::SUCCESS,
        Class::Error => wire::ERROR,
    };
    let fingerprint = match ours.fingerprint() {
        Fingerprint::Absent => None,
        Fingerprint::Valid => Some(true),
        Fingerprint::Invalid => Some(false),
    };
    assert_eq!((class, ours.method().0), (naive.class, naive.method));
    assert_eq!(ours.transaction_id().0, naive.transaction);
    assert_eq!(fingerprint, naive.fingerprint);
    let all: Vec<_> = ours.attributes().map(|a| (a.kind.0, a.value, a.offset)).collect();
    let theirs: Vec<_> = naive.counting().map(|a| (a.kind, &a.value[..], a.at)).collect();
    assert_eq!(all, theirs);
}

/// Values, as far as both know their types.
fn typed(ours: &Message<'_>, naive: &Stun) {
    let integrity = naive.value(wire::MESSAGE_INTEGRITY).filter(|mac| mac.len() == 20);
    assert_eq!(ours.integrity().is_some(), integrity.is_some());
    for attribute in ours.attributes() {
        let address = attribute::xor_address(attribute.value, ours.transaction_id());
        assert_eq!(address, wire::xored_address(attribute.value, &naive.transaction));
        let _ = attribute::number(attribute.value);
        let _ = attribute::channel_number(attribute.value);
        let _ = attribute::leading_byte(attribute.value);
        let _ = attribute::error_code(attribute.value);
        if let Some(icmp) = Icmp::parse(attribute.value) {
            assert_eq!(Icmp::parse(&icmp.to_bytes()), Some(icmp));
        }
    }
}

/// Written again, attribute by attribute, it is the same message; a short buffer is an error.
fn written(ours: &Message<'_>) {
    let mut buffer = vec![0; ours.len() + 8];
    let write = |buffer: &mut [u8]| {
        let mut writer =
            MessageWriter::new(buffer, ours.class(), ours.method(), ours.transaction_id());
        for attribute in ours.attributes() {
            if attribute.kind != AttributeType::FINGERPRINT {
                writer.attribute(attribute.kind, attribute.value);
            }
        }
        writer.fingerprint();
        writer.finish()
    };
    let length = write(&mut buffer).unwrap();
    let again = Message::parse(&buffer[..length]).unwrap();
    assert_eq!(again.fingerprint(), Fingerprint::Valid);
    let kept = |message: &Message<'_>| -> Vec<(AttributeType, Vec<u8>)> {
        let all = message.attributes().filter(|a| a.kind != AttributeType::FINGERPRINT);
        all.map(|a| (a.kind, a.value.to_vec())).collect()
    };
    assert_eq!(kept(&again), kept(ours));
    assert!(write(&mut buffer[..length - 1]).is_err());
}
