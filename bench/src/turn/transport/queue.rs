//! The two ends of a byte stream that carries TURN (RFC 8656 §12.5): bytes that wait to leave,
//! and bytes that came, cut into messages. Does no input or output of its own but through the
//! reader and writer it is given.

use std::io::{self, Write};

use relay_common::wire::{Demux, channel_data, stun};

use crate::turn::transport::failure::LinkFailure;

/// Bytes that did not fit the kernel's send buffer yet.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Where more bytes go, behind those that wait.
    pub(crate) fn back(&mut self) -> &mut Vec<u8> {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.bytes
    }

    /// Writes what the writer takes now.
    ///
    /// # Errors
    /// What the writer says, other than that it is full.
    pub(crate) fn flush(&mut self, writer: &mut impl Write) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match writer.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Padding that ChannelData of this length has over a stream (RFC 8656 §12.5), bytes.
pub(crate) fn padding(message: &[u8]) -> &'static [u8] {
    &[0; 3][..message.len().next_multiple_of(4) - message.len()]
}

/// Bytes that came and were not taken as messages yet.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    taken: usize,
}

impl Incoming {
    /// Adds bytes behind those that wait.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether [`Incoming::take`] has something to say without more bytes.
    pub(crate) fn holds_message(&self) -> bool {
        !matches!(measure(&self.bytes[self.taken..]), Ok(None))
    }

    /// Copies the next whole message to `buffer`, without padding, and says its length. A message
    /// that is longer than the buffer is cut off.
    ///
    /// # Errors
    /// The bytes are neither STUN nor ChannelData: there is no way to find the next message.
    pub(crate) fn take(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, LinkFailure> {
        let waiting = &self.bytes[self.taken..];
        let Some(Extent { message, padded }) = measure(waiting)? else { return Ok(None) };
        let length = message.min(buffer.len());
        buffer[..length].copy_from_slice(&waiting[..length]);
        self.taken += padded;
        Ok(Some(length))
    }
}

/// How far the first message reaches, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    message: usize,
    padded: usize,
}

/// The first message of a stream, if it is whole.
fn measure(stream: &[u8]) -> Result<Option<Extent>, LinkFailure> {
    let Some([_, _, high, low]) = stream.first_chunk() else {
        return match stream.first() {
            Some(_) if Demux::of(stream) == Demux::Other => Err(LinkFailure::NotTurn),
            _ => Ok(None),
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let message = match Demux::of(stream) {
        Demux::Stun => stun::HEADER_BYTES + length,
        Demux::ChannelData => channel_data::HEADER_BYTES + length,
        Demux::Other => return Err(LinkFailure::NotTurn),
    };
    let padded = message.next_multiple_of(4);
    Ok((stream.len() >= padded).then_some(Extent { message, padded }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Binding request without attributes, and ChannelData of five bytes with its padding.
    const STUN: [u8; 20] =
        [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const DATA: [u8; 12] = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];

    fn taken(incoming: &mut Incoming) -> Vec<Vec<u8>> {
        let mut buffer = [0; 64];
        let mut messages = Vec::new();
        while let Some(length) = incoming.take(&mut buffer).unwrap() {
            messages.push(buffer[..length].to_vec());
        }
        messages
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stream = [&DATA[..], &STUN, &DATA, &DATA].concat();
        for piece in 1..=stream.len() {
            let mut incoming = Incoming::default();
            let mut messages = Vec::new();
            for bytes in stream.chunks(piece) {
                incoming.push(bytes);
                messages.extend(taken(&mut incoming));
            }
            let expected: [&[u8]; 4] = [&DATA[..9], &STUN, &DATA[..9], &DATA[..9]];
            assert_eq!(messages, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn channel_data_without_all_of_its_padding_is_not_whole() {
        let mut incoming = Incoming::default();
        incoming.push(&DATA[..11]);
        assert!(!incoming.holds_message());
        incoming.push(&DATA[11..]);
        assert!(incoming.holds_message());
    }

    #[test]
    fn a_stream_of_something_else_is_told_at_its_first_byte() {
        let mut incoming = Incoming::default();
        incoming.push(&[0x16]);
        assert_eq!(incoming.take(&mut [0; 8]), Err(LinkFailure::NotTurn));
    }

    #[test]
    fn what_does_not_fit_waits_in_order() {
        /// Takes two bytes every second time.
        struct Narrow(Vec<u8>, bool);
        impl Write for Narrow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let taken = bytes.len().min(2);
                self.0.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut outgoing = Outgoing::default();
        let mut narrow = Narrow(Vec::new(), false);
        for bytes in [b"abc", b"def", b"ghi"] {
            outgoing.back().extend_from_slice(bytes);
            outgoing.flush(&mut narrow).unwrap();
        }
        assert_eq!(outgoing.len(), 9 - narrow.0.len());
        while outgoing.len() > 0 {
            outgoing.flush(&mut narrow).unwrap();
        }
        assert_eq!(narrow.0, b"abcdefghi");
    }
}
