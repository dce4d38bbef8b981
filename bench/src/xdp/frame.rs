//! Frames as plain bytes, with every checksum computed from scratch: what goes in, and what has
//! to come out. Uses none of the code that the kernel programs rewrite frames with.

use std::net::{IpAddr, SocketAddr};

const UDP_BYTES: usize = 8;

/// Protocol numbers.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A datagram in an Ethernet frame.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    /// Destination and source MAC address.
    pub(super) macs: [[u8; 6]; 2],
    /// Identifier of the VLAN that it is tagged with.
    pub(super) vlan: Option<u16>,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    /// IPv4's identification.
    pub(super) id: u16,
    /// IPv6's flow label, twenty bits.
    pub(super) flow: u32,
    pub(super) hop_limit: u8,
    /// [`UDP`], or something else that is laid out as UDP all the same.
    pub(super) protocol: u8,
    pub(super) payload: Vec<u8>,
}

impl Datagram {
    /// The frame. Source and destination are of one family.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let udp_len = length(UDP_BYTES + self.payload.len());
        let mut frame = self.macs.concat();
        if let Some([high, low]) = self.vlan.map(u16::to_be_bytes) {
            frame.extend([0x81, 0x00, high, low]);
        }
        let addresses = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let addresses = [src.octets(), dst.octets()].concat();
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4_header(&addresses));
                addresses
            }
            (src, dst) => {
                let octets = |ip| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                let addresses = [octets(src), octets(dst)].concat();
                frame.extend([0x86, 0xDD]);
                // Version 6, no traffic class.
                frame.extend((0x6000_0000 | self.flow).to_be_bytes());
                frame.extend(udp_len);
                frame.extend([self.protocol, self.hop_limit]);
                frame.extend(&addresses);
                addresses
            }
        };
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let pseudo = [&addresses[..], &[0, self.protocol], &udp_len].concat();
        let checksum = match !sum(&[pseudo, ports.clone(), udp_len.to_vec(), self.payload.clone()])
        {
            0 => 0xFFFF,
            sum => sum,
        };
        frame.extend(ports);
        frame.extend(udp_len);
        frame.extend(checksum.to_be_bytes());
        frame.extend(&self.payload);
        frame
    }

    fn ipv4_header(&self, addresses: &[u8]) -> Vec<u8> {
        let [high, low] = length(20 + UDP_BYTES + self.payload.len());
        let [id, id_low] = self.id.to_be_bytes();
        // DF.
        let before = vec![0x45, 0, high, low, id, id_low, 0x40, 0, self.hop_limit, self.protocol];
        let checksum = (!sum(&[before.clone(), addresses.to_vec()])).to_be_bytes();
        [&before, &checksum[..], addresses].concat()
    }
}

/// The bytes of a length field.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("--payload keeps a packet far below sixteen bits").to_be_bytes()
}

/// A ChannelData message (RFC 8656 §12.4).
pub(super) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &length(data.len()), data].concat()
}

/// The ones' complement sum of parts, each of which is taken from an even place.
fn sum(parts: &[Vec<u8>]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    pairs.fold(0, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_each_family_sums_up() {
        for (src, dst, udp) in [("192.0.2.1:1", "192.0.2.2:2", 34), ("[::1]:1", "[::2]:2", 54)] {
            let datagram = Datagram {
                macs: [[1; 6], [2; 6]],
                vlan: None,
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                id: 0x1D1D,
                flow: 0xA_BCDE,
                hop_limit: 64,
                protocol: UDP,
                payload: vec![7; 5],
            };
            let frame = datagram.bytes();
            assert_eq!(frame.len(), udp + 8 + 5);
            let addresses = if udp == 34 { &frame[26..34] } else { &frame[22..54] };
            let pseudo = [addresses, &[0, UDP, 0, 13]].concat();
            assert_eq!(sum(&[pseudo, frame[udp..].to_vec()]), 0xFFFF);
            if udp == 34 {
                assert_eq!(sum(&[frame[14..34].to_vec()]), 0xFFFF);
            }
        }
    }

    #[test]
    fn an_odd_byte_is_the_upper_half_of_its_word() {
        assert_eq!(sum(&[vec![0x12, 0x34, 0x56]]), 0x6834);
        assert_eq!(sum(&[vec![0xFF, 0xFF, 0x00, 0x01]]), 1);
    }
}
