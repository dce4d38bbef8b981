//! What leaves, as the words of a script.

use relay_common::wire::attribute::{self, AttributeType, Icmp};
use relay_common::wire::stun::{Class, Message, Method};
use relay_turn::{DropReason, IcmpOutcome, Snapshot};

use super::world::World;

impl World {
    pub(crate) fn describe_head(&self, head: &[u8], datagram: &[u8], padding: usize) -> String {
        let whole = [head, datagram, &vec![0; padding]].concat();
        if let [n0, n1, l0, l1] = *head {
            assert_eq!(usize::from(u16::from_be_bytes([l0, l1])), datagram.len());
            assert_eq!(padding, 0);
            return format!("{:x} {}", u16::from_be_bytes([n0, n1]), datagram.len());
        }
        let message = Message::parse(&whole).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
        let peer = attribute::xor_address(peer, message.transaction_id()).unwrap();
        assert_eq!(message.attribute(AttributeType::DATA).unwrap(), datagram);
        format!("data {} {}", self.name(peer), datagram.len())
    }

    pub(crate) fn describe_icmp(&self, bytes: &[u8]) -> String {
        let message = Message::parse(bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        let kinds: Vec<_> = message.attributes().map(|attribute| attribute.kind).collect();
        assert_eq!(kinds, [AttributeType::XOR_PEER_ADDRESS, AttributeType::ICMP], "no DATA");
        let value = |kind| message.attribute(kind).unwrap();
        let peer = value(AttributeType::XOR_PEER_ADDRESS);
        let peer = attribute::xor_address(peer, message.transaction_id()).unwrap();
        let Icmp { kind, code, data } = Icmp::parse(value(AttributeType::ICMP)).unwrap();
        format!("icmp {} {kind}/{code} {data}", self.name(peer))
    }
}

/// Which reasons were counted, in words.
pub(crate) fn drops(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let counted = |reason: &DropReason| after.dropped(*reason) > before.dropped(*reason);
    let dropped =
        DropReason::ALL.into_iter().filter(counted).map(|reason| reason.name().to_owned());
    let untold = |outcome: &IcmpOutcome| {
        *outcome != IcmpOutcome::Relayed && after.icmp(*outcome) > before.icmp(*outcome)
    };
    let untold = IcmpOutcome::ALL.into_iter().filter(untold);
    dropped.chain(untold.map(|outcome| format!("icmp_{}", outcome.name()))).collect()
}
