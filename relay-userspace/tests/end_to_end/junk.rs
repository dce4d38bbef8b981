//! Datagrams that nobody should send: seeded, so that a run can be repeated.

use std::env;

use relay_common::wire::stun::MAGIC_COOKIE;

/// Set to repeat a run.
const SEED_VARIABLE: &str = "TURNPIKE_END_TO_END_SEED";
const SEED: u64 = 8489;

/// A small seeded generator (SplitMix64).
pub(crate) struct Junk(u64);

impl Junk {
    /// With the seed of the environment, or the usual one.
    pub(crate) fn from_environment() -> Self {
        let seed = env::var(SEED_VARIABLE).ok().and_then(|value| value.parse().ok());
        let seed = seed.unwrap_or(SEED);
        println!("{SEED_VARIABLE}={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.next().to_le_bytes()[0], self.next().to_le_bytes()[0]])
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// A STUN message of one of TURN's methods whose attributes are `body`.
    fn stun(&mut self, length: u16, body: &[u8]) -> Vec<u8> {
        // Requests and indications of Binding, Allocate, Refresh, Send, CreatePermission,
        // ChannelBind; and a response, which no client sends to a server.
        let types = [0x0001u16, 0x0003, 0x0004, 0x0016, 0x0008, 0x0009, 0x0101, 0x0011];
        let mut message = types[self.below(types.len())].to_be_bytes().to_vec();
        message.extend(length.to_be_bytes());
        message.extend(MAGIC_COOKIE.to_be_bytes());
        message.extend(self.bytes(12));
        message.extend(body);
        message
    }

    /// An attribute header that claims `length` bytes, and random bytes behind it.
    fn attribute(&mut self, length: u16) -> Vec<u8> {
        let known = [0x0006u16, 0x0008, 0x000C, 0x000D, 0x0012, 0x0013, 0x0019, 0x8028, 0x7FFE];
        let mut attribute = known[self.below(known.len())].to_be_bytes().to_vec();
        attribute.extend(length.to_be_bytes());
        let count = 4 * self.below(12);
        attribute.extend(self.bytes(count));
        attribute
    }

    /// The next datagram.
    pub(crate) fn datagram(&mut self) -> Vec<u8> {
        let size = self.below(64);
        match self.below(6) {
            0 => self.bytes(9 * size),
            1 => {
                // The header's length is not what follows.
                let (length, body) = (self.word(), self.bytes(size));
                self.stun(length, &body)
            }
            2 => {
                // Cut off.
                let body = self.attribute(8);
                let length = u16::try_from(body.len()).unwrap();
                let message = self.stun(length, &body);
                let end = self.below(message.len());
                message[..end].to_vec()
            }
            3 => {
                // The attribute's length is not what follows, or its content makes no sense.
                let length = self.word() % 64;
                let body = self.attribute(length);
                self.stun(u16::try_from(body.len()).unwrap(), &body)
            }
            4 => {
                // ChannelData on no channel, or of another length.
                let mut data = (0x4000 | self.word() & 0x3FFF).to_be_bytes().to_vec();
                data.extend(self.word().to_be_bytes());
                data.extend(self.bytes(size));
                data
            }
            _ => {
                // No magic cookie.
                let mut message = self.stun(0, &[]);
                message[4] ^= 0xFF;
                message
            }
        }
    }

    /// An IPv4 packet whose UDP or IP header is wrong; the kernel fills in length and checksum.
    pub(crate) fn packet(&mut self, from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let options = usize::from(self.below(4) == 0);
        let fragment: u16 = [0, 0, 0, 0x2000, 0x0010][self.below(5)];
        let mut packet = vec![0x45 + u8::try_from(options).unwrap(), 0, 0, 0, 0, 1];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, 17, 0, 0]);
        packet.extend(from);
        packet.extend(to);
        packet.extend([1, 1, 1, 0].repeat(options));
        let mut udp = 40_000u16.to_be_bytes().to_vec();
        udp.extend(port.to_be_bytes());
        udp.extend(self.word().to_be_bytes());
        udp.extend(self.word().to_be_bytes());
        let size = self.below(40);
        udp.extend(self.bytes(size));
        if self.below(3) == 0 {
            udp.truncate(self.below(8));
        }
        packet.extend(udp);
        packet
    }
}
