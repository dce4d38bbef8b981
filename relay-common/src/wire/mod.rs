//! The bytes on the wire.
//!
//! A reader checks once, in `parse`, and is infallible afterwards; it borrows and never copies.
//! A writer fills a caller's buffer and reports a full one at the end. Neither can panic on any
//! input from the network.

pub mod attribute;
pub mod channel_data;
pub mod checksum;
pub mod crc32;
pub mod fixed;
pub mod net;
pub mod stun;
pub mod writer;

/// What the first byte of a datagram on a TURN server's port says it is (RFC 8656 §12.5,
/// RFC 7983 §7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demux {
    /// A STUN message: 0..=3.
    Stun,
    /// ChannelData: 64..=79, and up to 127 in the range of RFC 5766.
    ChannelData,
    /// Neither.
    Other,
}

impl Demux {
    /// Looks at the first byte only.
    #[must_use]
    pub const fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(64..=127) => Self::ChannelData,
            _ => Self::Other,
        }
    }
}
