//! Frames as the generator sends them: headers for each flow, and what is alike in all.
//! Builds bytes and sends nothing.

use std::net::{IpAddr, SocketAddr};

use relay_bench_ebpf::packet::{
    self, Ends, GeneratorFlow, HEADER_WORDS, IMAGE_WORDS, PAYLOAD_WORDS_MAX, Payload, STAMP_WORDS,
};
use relay_common::wire::channel_data::{ChannelData, ChannelNumber};
use relay_common::wire::checksum::sum_bytes;
use relay_common::wire::net::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP, UDP_BYTES};

/// Hop limit and TTL of every packet.
const HOP_LIMIT: u8 = 64;
/// IPv4 flags: do not fragment.
const DONT_FRAGMENT: u16 = 0x4000;

/// How much work goes into a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Make {
    /// Every byte is written, and every packet's flow and order are judged.
    Full,
    /// Only headers and stamp are written, and a sample is judged: for rates at which the tool's
    /// own work would hide what is measured. IPv4 only.
    Lean,
}

/// The smallest payload of a lean packet, bytes: the generator writes whole words of the frame.
pub(crate) const LEAN_PAYLOAD_BYTES_MIN: u16 = 32;

/// What all frames of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Mould {
    /// How they are made.
    pub(crate) make: Make,
    /// The next hop.
    pub(crate) dst_mac: [u8; 6],
    /// The interface that they leave by.
    pub(crate) src_mac: [u8; 6],
    /// A ChannelData header with this number before the payload.
    pub(crate) channel: Option<ChannelNumber>,
    /// Bytes of application data.
    pub(crate) payload_bytes: u16,
    /// The payload's words: see [`fill`].
    pub(crate) fill: Payload,
}

/// Where things are in an image of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// Bytes before the frame, so that the payload begins with a word.
    pub(crate) lead: usize,
    /// The payload's first word.
    pub(crate) payload_word: usize,
    /// The UDP checksum's first byte.
    pub(crate) checksum: usize,
    /// Bytes of the frame.
    pub(crate) frame_bytes: usize,
    /// The sequence number's first byte in the frame.
    pub(crate) sequence: usize,
}

/// The fill of a run: bytes without a pattern, zero behind the last one and in the stamp.
pub(crate) fn fill(run: u32, payload_bytes: u16) -> Payload {
    let compared = packet::compared(payload_bytes.into());
    let mut fill = [0; PAYLOAD_WORDS_MAX];
    for (index, (word, bits)) in (0u64..).zip(fill.iter_mut().zip(compared)) {
        *word = packet::seal(run.into(), index) & bits;
    }
    fill
}

/// The ends of packets as they lie in a packet.
pub(crate) fn ends(src: SocketAddr, dst: SocketAddr) -> Ends {
    Ends {
        src: words(src.ip()),
        dst: words(dst.ip()),
        src_port: src.port().to_be(),
        dst_port: dst.port().to_be(),
    }
}

/// A MAC address as it lies in a packet.
pub(crate) fn mac_words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn words(ip: IpAddr) -> [u16; 8] {
    let mut words = [0; 8];
    for (word, pair) in words.iter_mut().zip(octets(ip).chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    words
}

impl Mould {
    /// Where things are in frames to `dst`.
    pub(crate) fn layout(&self, dst: SocketAddr) -> Layout {
        let ip_bytes = if dst.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
        let channel_bytes = self.channel.map_or(0, |_| 4);
        let before = ETHERNET_BYTES + ip_bytes + UDP_BYTES + channel_bytes;
        let payload_word = before.div_ceil(8);
        let lead = match self.make {
            Make::Full => payload_word * 8 - before,
            Make::Lean => 0,
        };
        Layout {
            lead,
            payload_word,
            checksum: lead + ETHERNET_BYTES + ip_bytes + 6,
            frame_bytes: before + usize::from(self.payload_bytes),
            sequence: before + size_of::<u64>(),
        }
    }

    /// The image behind the headers.
    pub(crate) fn image(&self, dst: SocketAddr) -> [u64; IMAGE_WORDS] {
        let at = self.layout(dst).payload_word;
        let mut image = [0; IMAGE_WORDS];
        image[at..at + PAYLOAD_WORDS_MAX].copy_from_slice(&self.fill);
        image
    }

    /// The frames before anything is written into them.
    pub(crate) fn template(&self, dst: SocketAddr) -> Vec<u8> {
        let Layout { frame_bytes, sequence, .. } = self.layout(dst);
        let mut frame = vec![0; frame_bytes];
        if self.make == Make::Lean {
            let payload = &mut frame[sequence - size_of::<u64>()..];
            let fill = self.fill.iter().flat_map(|word| word.to_ne_bytes());
            payload.iter_mut().zip(fill).for_each(|(byte, fill)| *byte = fill);
        }
        frame
    }

    /// A flow's headers and sum. Both ends are of one family.
    pub(crate) fn flow(&self, src: SocketAddr, dst: SocketAddr, tag: u64) -> GeneratorFlow {
        let layout = self.layout(dst);
        let channel = self.channel.map(|number| ChannelData::header(number, self.payload_bytes));
        let channel = channel.as_ref().map_or(&[][..], |header| &header[..]);
        let udp_len = UDP_BYTES + channel.len() + usize::from(self.payload_bytes);
        let udp_len = u16::try_from(udp_len).expect("payloads are limited on the command line");
        let addresses = [octets(src.ip()), octets(dst.ip())].concat();

        let mut bytes = vec![0; layout.lead];
        bytes.extend([self.dst_mac, self.src_mac].concat());
        bytes.extend(network(dst.is_ipv4(), udp_len, &addresses));
        let udp = bytes.len();
        for word in [src.port(), dst.port(), udp_len, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(channel);

        let pseudo = [0, PROTOCOL_UDP, udp_len.to_be_bytes()[0], udp_len.to_be_bytes()[1]];
        let parts = [sum_bytes(&addresses), sum_bytes(&pseudo), sum_bytes(&bytes[udp..])];
        let sum = parts.iter().map(|part| u64::from(*part)).sum();
        let fill = &self.fill[STAMP_WORDS..];
        let sum = fill.iter().fold(packet::add(sum, tag), |sum, word| packet::add(sum, *word));

        if self.make == Make::Lean {
            // What is written into the frame is whole, but for the sequence number and its seal.
            let checksum = packet::udp_checksum(sum, 0, packet::lean_seal(0));
            bytes[layout.checksum..][..2].copy_from_slice(&checksum.to_ne_bytes());
            let payload = [&[tag], &self.fill[1..]].concat();
            bytes.extend(payload.iter().flat_map(|word| word.to_ne_bytes()));
        }
        let mut headers = [0; HEADER_WORDS];
        for (header, chunk) in headers.iter_mut().zip(bytes.chunks_exact(8)) {
            *header = u64::from_ne_bytes(chunk.try_into().expect("a chunk of eight"));
        }
        GeneratorFlow { headers, tag, sum: packet::fold(sum).into() }
    }
}

/// EtherType and IP header.
fn network(is_ipv4: bool, udp_len: u16, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !is_ipv4 {
        bytes.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        bytes.extend(udp_len.to_be_bytes());
        bytes.extend([PROTOCOL_UDP, HOP_LIMIT]);
        bytes.extend(addresses);
        return bytes;
    }
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend((udp_len + 20).to_be_bytes());
    // A packet that may not be fragmented needs no identification (RFC 6864 §4.1).
    bytes.extend([0, 0]);
    bytes.extend(DONT_FRAGMENT.to_be_bytes());
    bytes.extend([HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
    bytes.extend(addresses);
    let checksum = !sum_bytes(&bytes[2..]);
    bytes[12..14].copy_from_slice(&checksum.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_common::wire::channel_data::ChannelRange;

    /// The frame that the generator makes: as the kernel program does, in plain bytes.
    fn frame(mould: &Mould, src: &str, dst: &str, sequence: u64) -> Vec<u8> {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let layout = mould.layout(dst);
        let flow = mould.flow(src, dst, packet::tag(77, 3));
        let seal = packet::seal(flow.tag, sequence);
        let mut image = mould.image(dst);
        image[..layout.payload_word].copy_from_slice(&flow.headers[..layout.payload_word]);
        image[layout.payload_word..][..3].copy_from_slice(&[flow.tag, sequence, seal]);
        let mut bytes: Vec<u8> = image.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let checksum = packet::udp_checksum(flow.sum, sequence, seal);
        bytes[layout.checksum..][..2].copy_from_slice(&checksum.to_ne_bytes());
        bytes[layout.lead..][..layout.frame_bytes].to_vec()
    }

    fn mould(payload_bytes: u16, channel: bool) -> Mould {
        Mould {
            make: Make::Full,
            dst_mac: [2; 6],
            src_mac: [4; 6],
            channel: ChannelNumber::new(0x4000, ChannelRange::Rfc8656).filter(|_| channel),
            payload_bytes,
            fill: fill(77, payload_bytes),
        }
    }

    #[test]
    fn checksums_hold_for_every_length_family_and_framing() {
        for payload_bytes in [24, 25, 31, 200, 1399, 1400] {
            for (channel, sequence) in [(true, 0), (false, 1), (true, u64::MAX), (false, 1 << 40)] {
                let mould = mould(payload_bytes, channel);
                let v4 = frame(&mould, "10.0.0.1:5", "10.0.0.2:3478", sequence);
                assert_eq!(sum_bytes(&v4[14..34]), 0xFFFF, "IPv4 header");
                let v6 = frame(&mould, "[fd00::1]:5", "[fd00::2]:3478", sequence);
                for (frame, addresses, udp) in [(&v4, 26..34, 34), (&v6, 22..54, 54)] {
                    let length = u16::try_from(frame.len() - udp).unwrap().to_be_bytes();
                    assert_eq!(frame[udp + 4..udp + 6], length);
                    let covered = [&frame[addresses], &[0, 17], &length, &frame[udp..]].concat();
                    assert_eq!(sum_bytes(&covered), 0xFFFF, "{payload_bytes} {channel}");
                }
            }
        }
    }

    /// The frame that the lean generator makes for `flow` beside the `first`, as the kernel program
    /// does.
    fn lean_frame(
        mould: &Mould,
        dst: SocketAddr,
        flows: [&GeneratorFlow; 2],
        sequence: u64,
    ) -> Vec<u8> {
        let [first, flow] = flows;
        let at = mould.layout(dst).sequence;
        let lean = flow.lean(first, u32::try_from(at).unwrap()).unwrap();
        let mut frame = mould.template(dst);
        let headers = first.headers.iter().flat_map(|word| word.to_ne_bytes());
        frame.iter_mut().zip(headers).for_each(|(byte, header)| *byte = header);
        let ports: Vec<u8> = lean.ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
        frame[packet::PORTS_AT..][..4].copy_from_slice(&ports);
        frame[packet::LEAN_CHECKSUM_AT..][..2].copy_from_slice(&lean.checksum.to_ne_bytes());
        let stamp = packet::lean_stamp(lean.number, sequence);
        let stamp: Vec<u8> = stamp.iter().flat_map(|word| word.to_ne_bytes()).collect();
        frame[at - packet::LEAN_NUMBER_BEFORE..][..stamp.len()].copy_from_slice(&stamp);
        frame
    }

    #[test]
    fn a_lean_frame_has_one_checksum_for_every_sequence_number() {
        for (payload_bytes, channel) in [(32, true), (33, false), (200, true), (1400, false)] {
            let mould = Mould { make: Make::Lean, ..mould(payload_bytes, channel) };
            let dst = "10.0.0.2:3478".parse().unwrap();
            let flow =
                |src: &str, number| mould.flow(src.parse().unwrap(), dst, packet::tag(77, number));
            let (first, flow) = (flow("10.0.0.1:5", 3), flow("10.0.0.1:64000", 9_999));
            for sequence in [0, 1, 0xFFFF, u64::MAX, 1 << 40] {
                let frame = lean_frame(&mould, dst, [&first, &flow], sequence);
                assert_eq!(sum_bytes(&frame[14..34]), 0xFFFF, "IPv4 header");
                assert_eq!(frame[34..36], 64_000u16.to_be_bytes());
                let length = u16::try_from(frame.len() - 34).unwrap().to_be_bytes();
                let covered = [&frame[26..34], &[0, 17], &length, &frame[34..]].concat();
                assert_eq!(sum_bytes(&covered), 0xFFFF, "{payload_bytes} {channel} {sequence}");
                let payload = if channel { 46 } else { 42 };
                assert_eq!(frame[payload..payload + 8], packet::tag(77, 9_999).to_ne_bytes());
                let stamp = [sequence, packet::lean_seal(sequence)].map(u64::to_ne_bytes).concat();
                assert_eq!(frame[payload + 8..payload + 24], stamp);
                let fill: Vec<u8> =
                    mould.fill[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
                let rest = &frame[payload + 24..];
                assert_eq!(rest, &fill[..rest.len()], "{payload_bytes} {channel}");
            }
        }
    }

    #[test]
    fn lean_flows_differ_in_ports_only() {
        let mould = Mould { make: Make::Lean, ..mould(200, true) };
        let dst = "10.0.0.2:3478".parse().unwrap();
        let flow =
            |src: &str, dst, number| mould.flow(src.parse().unwrap(), dst, packet::tag(77, number));
        let at = u32::try_from(mould.layout(dst).sequence).unwrap();
        let first = flow("10.0.0.1:5", dst, 0);
        let other_port = flow("10.0.0.1:6", "10.0.0.2:3479".parse().unwrap(), 1);
        assert!(other_port.lean(&first, at).is_some());
        assert_eq!(flow("10.0.0.3:5", dst, 1).lean(&first, at), None, "another address");
        assert_eq!(flow("10.0.0.1:5", dst, 1 << 16).lean(&first, at), None, "a number too large");
    }

    #[test]
    fn a_frame_is_what_the_codec_reads() {
        let bytes = frame(&mould(100, true), "10.0.0.1:5", "10.0.0.2:3478", 9);
        assert_eq!(bytes[..14], [[2; 6].to_vec(), vec![4; 6], vec![8, 0]].concat());
        let data = ChannelData::parse(&bytes[42..], ChannelRange::Rfc8656).unwrap();
        assert_eq!((data.number.value(), data.payload.len()), (0x4000, 100));
        assert_eq!(bytes[46..50], 77u32.to_ne_bytes());
        assert_eq!(bytes[54..62], 9u64.to_ne_bytes());
    }
}
