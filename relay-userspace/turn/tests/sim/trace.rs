//! What happened, as one number to compare runs by, and as lines to read when one is replayed.

use std::net::SocketAddr;

use crate::model::wire::{self, Stun};

/// A run's history.
pub struct Trace {
    pub hash: u64,
    is_shown: bool,
}

impl Trace {
    pub const fn new(is_shown: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, is_shown }
    }

    /// A datagram, and where it was seen.
    pub fn datagram(
        &mut self,
        ns: u64,
        what: &str,
        (src, dst): (SocketAddr, SocketAddr),
        payload: &[u8],
    ) {
        self.mix(&ns.to_le_bytes());
        self.mix(what.as_bytes());
        self.mix(&src.port().to_le_bytes());
        self.mix(&dst.port().to_le_bytes());
        self.mix(payload);
        if self.is_shown {
            println!("{} {what:<9} {src} > {dst}: {}", time(ns), described(payload));
        }
    }

    /// Anything else.
    pub fn event(&mut self, ns: u64, what: &str, text: impl FnOnce() -> String) {
        self.mix(&ns.to_le_bytes());
        self.mix(what.as_bytes());
        if self.is_shown {
            println!("{} {what:<9} {}", time(ns), text());
        }
    }

    /// FNV-1a, a word at a time.
    fn mix(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01B3);
            self.hash ^= self.hash >> 29;
        }
    }
}

fn time(ns: u64) -> String {
    format!("{:>5}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// A datagram in a few words.
fn described(payload: &[u8]) -> String {
    let bytes = payload.len();
    if let Some(stun) = Stun::read(payload) {
        let method = match stun.method {
            wire::BINDING => "Binding",
            wire::ALLOCATE => "Allocate",
            wire::REFRESH => "Refresh",
            wire::SEND => "Send",
            wire::DATA_METHOD => "Data",
            wire::CREATE_PERMISSION => "CreatePermission",
            wire::CHANNEL_BIND => "ChannelBind",
            _ => "unknown method",
        };
        let class = ["request", "indication", "success", "error"][usize::from(stun.class)];
        let code = stun.error_code().map_or_else(String::new, |code| format!(" {code}"));
        let peer = stun.address(wire::XOR_PEER_ADDRESS);
        let peer = peer.map_or_else(String::new, |peer| format!(" peer {peer}"));
        let lifetime = stun.number(wire::LIFETIME);
        let lifetime = lifetime.map_or_else(String::new, |secs| format!(" lifetime {secs}"));
        return format!("{method} {class}{code}{peer}{lifetime}, {bytes} bytes");
    }
    match payload {
        [high @ 0x40..=0x7F, low, ..] => format!("ChannelData {high:02x}{low:02x}, {bytes} bytes"),
        _ => format!("{bytes} bytes"),
    }
}
