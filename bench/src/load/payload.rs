//! What the packets carry, so that a damaged, doubled or foreign one is told apart.
//!
//! Layout, big endian: run (4), flow (4), sequence (8), due time in ns (8), CRC-32 (4), leg (1),
//! zero (3), fill. The CRC covers all but itself and the leg, which the echo peer changes.

use std::ops::Range;

/// Bytes before the fill: the smallest payload.
pub(crate) const HEADER_BYTES: usize = 32;
/// The largest payload: with a Send indication around it and IPv6 it fits an MTU of 1500.
pub(crate) const BYTES_MAX: usize = 1400;

const CRC: Range<usize> = 24..28;
const LEG: usize = 28;
const BEHIND_LEG: usize = 29;
/// The leg from the client to the peer.
const LEG_OUT: u8 = 0x35;
/// Set on the leg from the peer to the client.
const LEG_BACK: u8 = 0x80;

/// What a packet says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// The run it belongs to: a random number.
    pub(crate) run: u32,
    /// The flow, 0-based over the whole run.
    pub(crate) flow: u32,
    /// The number within the flow.
    pub(crate) sequence: u64,
    /// When it was due, nanoseconds after the start of the load.
    pub(crate) due_ns: u64,
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leg {
    /// From the client to the peer.
    Out,
    /// From the peer to the client.
    Back,
}

impl Leg {
    fn byte(self) -> u8 {
        match self {
            Self::Out => LEG_OUT,
            Self::Back => LEG_OUT | LEG_BACK,
        }
    }
}

/// What came back, or arrived at the sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returned {
    /// Every byte as it was sent.
    Intact(Stamp),
    /// Of this run, but not as it was sent.
    Corrupted,
    /// Not of this run.
    Foreign,
}

/// Fills a payload of at least [`HEADER_BYTES`].
pub(crate) fn write(payload: &mut [u8], stamp: Stamp) {
    payload[0..4].copy_from_slice(&stamp.run.to_be_bytes());
    payload[4..8].copy_from_slice(&stamp.flow.to_be_bytes());
    payload[8..16].copy_from_slice(&stamp.sequence.to_be_bytes());
    payload[16..24].copy_from_slice(&stamp.due_ns.to_be_bytes());
    payload[LEG] = LEG_OUT;
    payload[BEHIND_LEG..HEADER_BYTES].fill(0);
    // Every packet has other bytes: an incremental checksum that is wrong for some contents shows.
    let mut state = stamp.due_ns ^ (u64::from(stamp.flow) << 32) | 1;
    for chunk in payload[HEADER_BYTES..].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
    let crc = crc(payload);
    payload[CRC].copy_from_slice(&crc.to_be_bytes());
}

/// Judges a payload at the end of a leg in a `run` that sends `length` bytes.
pub(crate) fn read(payload: &[u8], leg: Leg, run: u32, length: usize) -> Returned {
    let Some(header) = payload.first_chunk::<HEADER_BYTES>() else { return Returned::Foreign };
    let [r0, r1, r2, r3, f0, f1, f2, f3, rest @ ..] = *header;
    let [s0, s1, s2, s3, s4, s5, s6, s7, d0, d1, d2, d3, d4, d5, d6, d7, c0, c1, c2, c3, ..] = rest;
    let stamp = Stamp {
        run: u32::from_be_bytes([r0, r1, r2, r3]),
        flow: u32::from_be_bytes([f0, f1, f2, f3]),
        sequence: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        due_ns: u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]),
    };
    let right = crc(payload) == u32::from_be_bytes([c0, c1, c2, c3]) && payload.len() == length;
    match (stamp.run == run, right && header[LEG] == leg.byte()) {
        (true, true) => Returned::Intact(stamp),
        // Another run's packet is whole; a packet of this run may be damaged in the run number.
        (false, true) => Returned::Foreign,
        (_, false) => Returned::Corrupted,
    }
}

/// Turns a packet round at the peer. `false`: too short, or it was turned round before, and an
/// answer would bounce between two echo peers for ever.
pub(crate) fn turn_round(payload: &mut [u8]) -> bool {
    match payload.get_mut(LEG) {
        Some(leg) if *leg & LEG_BACK == 0 => {
            // One bit and not the whole byte: damage to the others stays visible at the client.
            *leg |= LEG_BACK;
            true
        }
        _ => false,
    }
}

fn crc(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&payload[..CRC.start]);
    hasher.update(&payload[BEHIND_LEG..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, flow: 3, sequence: 1 << 40, due_ns: 12_345 };

    fn returned(bytes: usize) -> Vec<u8> {
        let mut payload = vec![0; bytes];
        write(&mut payload, STAMP);
        assert!(turn_round(&mut payload));
        payload
    }

    #[test]
    fn every_length_comes_back_intact_once_turned_round() {
        for bytes in [HEADER_BYTES, 33, 39, 40, 200, BYTES_MAX] {
            assert_eq!(read(&returned(bytes), Leg::Back, 7, bytes), Returned::Intact(STAMP));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for bit in 0..70 * 8 {
            let mut payload = returned(70);
            payload[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&payload, Leg::Back, 7, 70), Returned::Corrupted, "bit {bit}");
        }
    }

    #[test]
    fn a_flipped_bit_on_the_way_out_is_seen_too() {
        for bit in 0..70 * 8 {
            let mut payload = vec![0; 70];
            write(&mut payload, STAMP);
            payload[bit / 8] ^= 1 << (bit % 8);
            // With the turned bit set the peer keeps it, and it counts as lost.
            let kept = bit == LEG * 8 + 7;
            assert_eq!(turn_round(&mut payload), !kept);
            assert!(kept || read(&payload, Leg::Back, 7, 70) == Returned::Corrupted, "bit {bit}");
        }
    }

    #[test]
    fn another_run_a_short_packet_and_an_unturned_one_are_told_apart() {
        assert_eq!(read(&returned(64), Leg::Back, 8, 64), Returned::Foreign);
        assert_eq!(read(&[0; 31], Leg::Back, 7, 64), Returned::Foreign);
        assert_eq!(read(&returned(64)[..60], Leg::Back, 7, 64), Returned::Corrupted);
        let mut unturned = returned(64);
        assert!(!turn_round(&mut unturned), "once only");
        unturned[LEG] = LEG_OUT;
        assert_eq!(read(&unturned, Leg::Back, 7, 64), Returned::Corrupted);
        assert!(!turn_round(&mut [0; 28]));
        assert_eq!(read(&unturned, Leg::Out, 7, 64), Returned::Intact(STAMP), "as the sink reads");
        assert_eq!(read(&returned(64), Leg::Out, 7, 64), Returned::Corrupted);
    }
}
