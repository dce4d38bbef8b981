//! What a flood packet is made of, and what is wrong with one that arrived.
//!
//! The payload, in words as they lie in memory: the tag (run and flow), the sequence number, a
//! seal over both, and fill that is the same in every packet of a run. All but the first bytes of
//! a frame are kept in whole words: an image of it begins so many bytes late (`lead`) that the
//! payload begins with a word.

use relay_common::wire::checksum;
use relay_common::wire::net::{ETHERNET_BYTES, IPV4_BYTES};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arrival::Window;

/// Words of a frame's image, the largest frame and its lead included.
pub const IMAGE_WORDS: usize = 192;
/// Words before the payload at most: lead, Ethernet, IPv6, UDP and ChannelData headers.
pub const HEADER_WORDS: usize = 9;
/// Words of the payload that tell what it is.
pub const STAMP_WORDS: usize = 3;
/// The smallest payload, bytes.
pub const PAYLOAD_BYTES_MIN: u32 = 24;
/// The largest payload, bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 1400;
/// Words of the largest payload, with the padding of ChannelData.
pub const PAYLOAD_WORDS_MAX: usize = 176;

/// A flow as the generator needs it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeneratorFlow {
    /// The image up to the payload, the UDP checksum zero.
    pub headers: [u64; HEADER_WORDS],
    /// The first word of the payload: see [`tag`].
    pub tag: u64,
    /// The ones' complement sum of all that the UDP checksum covers but sequence and seal.
    pub sum: u64,
}

impl GeneratorFlow {
    /// What the lean generator needs of it beside the `first`; `None` if that is not all that the
    /// two differ in. `sequence_at` is [`crate::pace::GeneratorConfig`]'s.
    #[must_use]
    pub fn lean(&self, first: &Self, sequence_at: u32) -> Option<LeanFlow> {
        let number_at = (sequence_at as usize).checked_sub(LEAN_NUMBER_BEFORE)?;
        let own: &[u8] = self.headers.as_bytes();
        let pair = |at: usize| Some(u16::from_ne_bytes([*own.get(at)?, *own.get(at + 1)?]));
        let flow = LeanFlow {
            ports: [pair(PORTS_AT)?, pair(PORTS_AT + 2)?],
            checksum: pair(LEAN_CHECKSUM_AT)?,
            number: pair(number_at)?,
        };
        let mut written = first.headers;
        let bytes: &mut [u8] = written.as_mut_bytes();
        for (at, word) in [
            (PORTS_AT, flow.ports[0]),
            (PORTS_AT + 2, flow.ports[1]),
            (LEAN_CHECKSUM_AT, flow.checksum),
            (number_at, flow.number),
        ] {
            bytes.get_mut(at..at + 2)?.copy_from_slice(&word.to_ne_bytes());
        }
        (written == self.headers).then_some(flow)
    }
}

/// What the lean generator writes for a flow; all else of its headers is the first flow's. Small:
/// what the generator reads for each packet, it takes from the caches of the program under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LeanFlow {
    /// Source and destination port (wire).
    pub ports: [u16; 2],
    /// The UDP checksum (wire) of all its packets: see [`lean_seal`].
    pub checksum: u16,
    /// The flow's number, of the [`tag`].
    pub number: u16,
}

/// Where both ports stand in an untagged frame: behind Ethernet and IPv4 without options.
pub const PORTS_AT: usize = ETHERNET_BYTES + IPV4_BYTES;
/// Where a [`LeanFlow`]'s checksum stands.
pub const LEAN_CHECKSUM_AT: usize = PORTS_AT + 6;
/// How far in front of the sequence number a [`LeanFlow`]'s number stands: in the upper half of the
/// tag.
pub const LEAN_NUMBER_BEFORE: usize = 4;

/// The two ends of a packet: addresses and ports as they lie in the packet.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Ends {
    /// Source address; an IPv4 address has two words.
    pub src: [u16; 8],
    /// Destination address.
    pub dst: [u16; 8],
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// Which end of the packets is the same for all flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Common {
    /// The source: the server, for packets to clients.
    Source = 0,
    /// The destination: the peer, or the server that a reflector stands for.
    Destination = 1,
}

/// What the sink expects.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SinkConfig {
    /// The run's number.
    pub run: u32,
    /// Flows; 0: not set up, everything is passed.
    pub flows: u32,
    /// Bytes of application data.
    pub payload_bytes: u32,
    /// One packet in so many is checked whole: see [`is_sampled`].
    pub sample: u32,
    /// [`Common`], as a number.
    pub common: u32,
    /// The channel number as it lies in the packet; 0: no ChannelData header.
    pub channel: u16,
    /// 4 or 6.
    pub family: u16,
    /// The common end; the other half is not looked at.
    pub ends: Ends,
    /// The MAC address of the sink's interface, as it lies in the packet.
    pub mac: [u16; 3],
    /// Zero.
    pub pad: [u16; 3],
    /// The payload's words.
    pub fill: Payload,
    /// Which of their bits are compared: see [`compared`].
    pub compared: Payload,
}

/// A flow as the sink sees it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SinkFlow {
    /// The ends that its packets must have.
    pub ends: Ends,
    /// Zero.
    pub pad: u32,
    /// Packets, each counted once.
    pub received: u64,
    /// Of those, behind a packet with a higher number.
    pub reordered: u64,
    /// Packets that were there before.
    pub duplicates: u64,
    /// Packets too far behind to be judged.
    pub too_late: u64,
    /// Packets of the flow, by their stamp, that were misdelivered or not as they were sent.
    pub wrong: u64,
    /// What was seen.
    pub window: Window,
}

/// What the sink counted over all flows.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SinkCounts {
    /// Packets of the run, whatever their state.
    pub packets: u64,
    /// Packets that arrived as they should, each counted once.
    pub received: u64,
    /// Of those, behind a packet of the flow with a higher number.
    pub reordered: u64,
    /// Packets that were there before.
    pub duplicates: u64,
    /// Packets too far behind to be judged.
    pub too_late: u64,
    /// Packets checked whole.
    pub sampled: u64,
    /// Packets whose lengths, hop limit or stamp, which are looked at in every packet, are not
    /// those of a packet that was sent.
    pub damaged: u64,
    /// Packets of the sample with a byte that was not sent.
    pub corrupted: u64,
    /// Other packets of the sample with a wrong IPv4 or UDP checksum, or none where one must be.
    pub bad_checksum: u64,
    /// Packets of the sample whose UDP checksum is left to hardware that is not there.
    pub partial_checksum: u64,
    /// Packets of the sample without a UDP checksum, on IPv4.
    pub no_checksum: u64,
    /// Packets that carry another flow than their addresses say, or go to another MAC address
    /// than the sink's.
    pub misdelivered: u64,
    /// Frames of others.
    pub passed: u64,
}

/// The first word of a payload.
#[must_use]
#[inline(always)]
pub const fn tag(run: u32, flow: u32) -> u64 {
    (flow as u64) << 32 | run as u64
}

/// The third word of a payload: changes in half of its bits with every packet, so that checksums
/// do too, and tells a damaged stamp.
#[must_use]
#[inline(always)]
pub const fn seal(tag: u64, sequence: u64) -> u64 {
    let mixed = (sequence ^ tag.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// The third word of a lean packet's payload. The two words cancel out in a ones' complement sum,
/// so that all packets of a flow have one checksum.
#[must_use]
#[inline(always)]
pub const fn lean_seal(sequence: u64) -> u64 {
    !sequence
}

/// Words of [`lean_stamp`].
pub const LEAN_STAMP_WORDS: usize = 10;

/// The upper half of a lean packet's tag, the sequence number and the seal, in words as they lie
/// in the packet.
#[must_use]
#[inline(always)]
pub const fn lean_stamp(number: u16, sequence: u64) -> [u16; LEAN_STAMP_WORDS] {
    let [a, b, c, d] = halves(sequence);
    let [e, f, g, h] = halves(lean_seal(sequence));
    let [low, high] = if cfg!(target_endian = "little") { [number, 0] } else { [0, number] };
    [low, high, a, b, c, d, e, f, g, h]
}

/// A word as it lies in the packet, in halfwords.
const fn halves(word: u64) -> [u16; 4] {
    zerocopy::transmute!(word)
}

/// Whether a packet with this seal is one of every `sample` that are checked whole; 0: none is.
///
/// The seal decides, so that the sample goes through all flows and all numbers, and falls in step
/// with nothing that a relay does to every so manyth packet.
#[must_use]
#[inline(always)]
pub const fn is_sampled(seal: u64, sample: u32) -> bool {
    sample != 0 && ((seal >> 32) * sample as u64) >> 32 == 0
}

/// Whether a host takes a packet whose IP header has these fields (wire), `network_bytes` of the
/// header counted in its length: it may still travel, and ends where its datagram ends.
#[must_use]
#[inline(always)]
pub const fn is_whole(hop_limit: u8, length: u16, network_bytes: usize, udp_len: u16) -> bool {
    let ends = u16::from_be(length) as usize == network_bytes + u16::from_be(udp_len) as usize;
    hop_limit != 0 && ends
}

/// Whether a datagram's data of `bytes`, behind the ChannelData header if there is one, can be a
/// payload of `payload_bytes`: a ChannelData message may be padded (RFC 8656 §12.5).
#[must_use]
#[inline(always)]
pub const fn is_length(bytes: usize, payload_bytes: u32, framed: bool) -> bool {
    let excess = bytes.wrapping_sub(payload_bytes as usize);
    excess == 0 || framed && excess == payload_bytes.wrapping_neg() as usize % 4
}

/// Adds a word of eight bytes to a ones' complement sum; room for millions of them.
#[must_use]
#[inline(always)]
pub const fn add(sum: u64, word: u64) -> u64 {
    sum + (word & 0xFFFF_FFFF) + (word >> 32)
}

/// Folds a ones' complement sum into sixteen bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let once = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let twice = (once & 0xFFFF) + (once >> 16 & 0xFFFF) + (once >> 32);
    #[allow(clippy::cast_possible_truncation, reason = "a few times 0xFFFF fits 32 bits")]
    checksum::fold(twice as u32)
}

/// The UDP checksum of a flow's packet, never zero (RFC 768, RFC 8200 §8.1).
#[must_use]
#[inline(always)]
pub const fn udp_checksum(sum: u64, sequence: u64, seal: u64) -> u16 {
    match !fold(add(add(sum, sequence), seal)) {
        0 => 0xFFFF,
        checksum => checksum,
    }
}

/// What a UDP checksum field says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It covers what is there.
    Right,
    /// It does not.
    Wrong,
    /// It covers the pseudo-header only: the sender left the rest to hardware.
    Partial,
    /// The packet has none.
    Absent,
}

/// Judges a UDP checksum field: `pseudo` is the sum of the pseudo-header, `rest` of the header
/// without the field and all data.
#[must_use]
#[inline(always)]
pub const fn judge_checksum(field: u16, pseudo: u64, rest: u64) -> Checksum {
    let expected = match !fold(pseudo + rest) {
        0 => 0xFFFF,
        checksum => checksum,
    };
    if field == 0 {
        Checksum::Absent
    } else if field == expected {
        Checksum::Right
    } else if field == fold(pseudo) {
        Checksum::Partial
    } else {
        Checksum::Wrong
    }
}

/// A received payload, in words; the bytes behind the end are anything.
pub type Payload = [u64; PAYLOAD_WORDS_MAX];

/// Compares a payload with what was sent, where the run's packets are alike, and sums all of it:
/// its first `words`, with zeros behind the last byte.
///
/// Returns whether it is as it was sent, and the sum.
#[inline(always)]
#[must_use]
pub fn examine(config: &SinkConfig, payload: &Payload, words: usize) -> (bool, u64) {
    let (mut difference, mut sum) = (0, 0);
    for (index, word) in payload.iter().enumerate() {
        if index >= words {
            break;
        }
        // No branch on a length: the verifier would walk every combination of them.
        difference |= (word ^ config.fill[index]) & config.compared[index];
        sum = add(sum, *word);
    }
    (difference == 0, sum)
}

/// Which bits of a payload's words are alike in every packet of a run: the fill's.
#[must_use]
pub fn compared(payload_bytes: u32) -> Payload {
    let mut compared = [0; PAYLOAD_WORDS_MAX];
    let mut left = payload_bytes;
    for (index, word) in compared.iter_mut().enumerate() {
        let bits = if left >= 8 { u64::MAX } else { (1 << (left * 8)) - 1 };
        *word = if index < STAMP_WORDS { 0 } else { bits };
        left = left.saturating_sub(8);
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(payload_bytes: u32) -> SinkConfig {
        let mut fill = [0u64; PAYLOAD_WORDS_MAX];
        for (word, value) in fill.iter_mut().zip(1u64..) {
            *word = value.wrapping_mul(0x0123_4567_89AB_CDEF);
        }
        SinkConfig {
            run: 1,
            flows: 1,
            payload_bytes,
            sample: 1,
            common: 0,
            channel: 0,
            family: 4,
            ends: Ends::default(),
            mac: [0; 3],
            pad: [0; 3],
            fill,
            compared: compared(payload_bytes),
        }
    }

    #[test]
    fn a_seal_changes_with_every_bit_of_the_stamp() {
        let sealed = seal(tag(7, 9), 12);
        for bit in 0..64 {
            assert_ne!(seal(tag(7, 9) ^ 1 << bit, 12), sealed);
            assert_ne!(seal(tag(7, 9), 12 ^ 1 << bit), sealed);
        }
    }

    #[test]
    fn the_sample_goes_through_every_flow_and_every_turn_of_numbers() {
        const FLOWS: u32 = 32;
        const SAMPLE: u32 = 64;
        const PACKETS: u64 = 64_000;
        let (mut flows, mut turns) = ([0u32; FLOWS as usize], [0u32; SAMPLE as usize]);
        for (flow, count) in (0..FLOWS).zip(&mut flows) {
            for sequence in 0..PACKETS {
                if is_sampled(seal(tag(7, flow), sequence), SAMPLE) {
                    *count += 1;
                    turns[usize::try_from(sequence).unwrap() % turns.len()] += 1;
                }
            }
        }
        // A thousand are expected of each flow, and half as many at each place of the turn.
        assert!(flows.iter().all(|count| (850..1150).contains(count)), "{flows:?}");
        assert!(turns.iter().all(|count| (400..600).contains(count)), "{turns:?}");
    }

    #[test]
    fn a_sample_of_one_is_everything_and_of_none_is_nothing() {
        for seal in [0, 1, u64::MAX, seal(3, 4)] {
            assert!(is_sampled(seal, 1));
            assert!(!is_sampled(seal, 0));
        }
        assert!(is_sampled(u64::MAX / 2, 2) && !is_sampled(u64::MAX / 2 + 1, 2));
    }

    #[test]
    fn a_host_takes_a_packet_that_ends_with_its_datagram_and_may_travel() {
        let (ip, udp) = (228u16.to_be(), 208u16.to_be());
        assert!(is_whole(1, ip, 20, udp) && is_whole(255, udp, 0, udp));
        for (hop_limit, length, udp_len) in
            [(0, ip, udp), (64, 229u16.to_be(), udp), (64, 227u16.to_be(), udp), (64, ip, 0)]
        {
            assert!(!is_whole(hop_limit, length, 20, udp_len), "{hop_limit} {length} {udp_len}");
        }
        assert!(!is_whole(64, ip, 0, udp));
    }

    #[test]
    fn a_payload_may_be_padded_to_words_of_four_in_channel_data_only() {
        for (payload_bytes, lengths) in [
            (24, &[24][..]),
            (25, &[25, 28]),
            (199, &[199, 200]),
            (1397, &[1397, 1400]),
            (1400, &[1400]),
        ] {
            for bytes in 0..1500 {
                let taken = lengths.contains(&bytes);
                assert_eq!(is_length(bytes, payload_bytes, true), taken, "{bytes}");
                let exact = bytes == payload_bytes as usize;
                assert_eq!(is_length(bytes, payload_bytes, false), exact, "{bytes}");
                assert!(
                    !taken || bytes <= PAYLOAD_BYTES_MAX as usize,
                    "what the sink has room for"
                );
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_internet_checksum() {
        let words = [u64::MAX, 1, 0x8000_FFFF_0001_7FFF, 42];
        let sum = words.iter().fold(0, |sum, word| add(sum, *word));
        assert_eq!(fold(sum), checksum::sum_bytes(words.as_bytes()));
        assert_eq!(fold(u64::MAX - 1), checksum::sum_bytes((u64::MAX - 1).as_bytes()));
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones_and_judged_so() {
        assert_eq!(udp_checksum(0xFFFF, 0, 0), 0xFFFF);
        assert_eq!(judge_checksum(0xFFFF, 0xFFFF, 0), Checksum::Right);
        assert_eq!(judge_checksum(0, 0xFFFF, 0), Checksum::Absent);
        assert_eq!(judge_checksum(!7, 4, 3), Checksum::Right);
        assert_eq!(judge_checksum(4, 4, 3), Checksum::Partial);
        assert_eq!(judge_checksum(9, 4, 3), Checksum::Wrong);
    }

    #[test]
    fn every_byte_behind_the_stamp_is_compared_and_none_behind_the_end() {
        for bytes in [24usize, 25, 100, 1400] {
            let config = config(bytes.try_into().unwrap());
            let whole = config.fill;
            let words = bytes.div_ceil(8);
            assert!(examine(&config, &whole, words).0);
            for at in 0..size_of::<Payload>() {
                let mut damaged = whole;
                damaged.as_mut_bytes()[at] ^= 0x10;
                let judged = (24..bytes).contains(&at);
                assert_eq!(examine(&config, &damaged, words).0, !judged, "byte {at} of {bytes}");
            }
        }
    }

    #[test]
    fn padding_is_summed_and_not_compared() {
        let config = config(30);
        let mut padded = config.fill;
        padded.as_mut_bytes()[31] = 0xAA;
        let (intact, sum) = examine(&config, &padded, 4);
        assert!(intact);
        assert_eq!(fold(sum), checksum::sum_bytes(&padded.as_bytes()[..32]));
    }
}
