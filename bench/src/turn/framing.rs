//! How application data is framed between client and server: ChannelData or indications.
//! Wraps payloads for the way out; the way in is the client's.

use std::net::SocketAddr;

use relay_common::addr::PeerAddr;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::channel_data::{ChannelData, ChannelNumber, ChannelRange, HEADER_BYTES};
use relay_common::wire::stun::{Class, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;

/// Bytes a Send indication needs around the largest payload.
const FRAMING_BYTES_MAX: usize = 64;

/// How application data travels between client and server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// ChannelData, after a ChannelBind.
    Channel,
    /// Send and Data indications, after a CreatePermission.
    Indication,
}

/// The one channel of every allocation.
pub(crate) fn channel() -> ChannelNumber {
    ChannelNumber::new(ChannelNumber::FIRST, ChannelRange::Rfc8656).expect("the first is in range")
}

/// Wraps payloads for the way to the server, without allocating.
#[derive(Debug)]
pub(crate) struct Wrapper {
    framing: Framing,
    peer: SocketAddr,
    payload: Box<[u8]>,
    datagram: Box<[u8]>,
    indications: u64,
}

impl Wrapper {
    /// For payloads of `payload_bytes`.
    pub(crate) fn new(framing: Framing, peer: PeerAddr, payload_bytes: usize) -> Self {
        Self {
            framing,
            peer: peer.socket(),
            payload: vec![0; payload_bytes].into_boxed_slice(),
            datagram: vec![0; payload_bytes + FRAMING_BYTES_MAX].into_boxed_slice(),
            indications: 0,
        }
    }

    /// The datagram around a payload that `fill` writes.
    pub(crate) fn wrap(&mut self, fill: impl FnOnce(&mut [u8])) -> &[u8] {
        fill(&mut self.payload);
        let written = match self.framing {
            Framing::Channel => {
                let range = HEADER_BYTES..HEADER_BYTES + self.payload.len();
                let length =
                    u16::try_from(self.payload.len()).expect("limited on the command line");
                let header = ChannelData::header(channel(), length);
                self.datagram[..range.start].copy_from_slice(&header);
                self.datagram[range.clone()].copy_from_slice(&self.payload);
                range.end
            }
            Framing::Indication => {
                // Nothing answers an indication: its id only has to differ from the others'.
                self.indications += 1;
                let mut id = [0; 12];
                id[4..].copy_from_slice(&self.indications.to_be_bytes());
                let mut writer = MessageWriter::new(
                    &mut self.datagram,
                    Class::Indication,
                    Method::SEND,
                    TransactionId(id),
                );
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, self.peer);
                writer.attribute(AttributeType::DATA, &self.payload);
                writer.finish().expect("the buffer has room for the framing")
            }
        };
        &self.datagram[..written]
    }
}
