//! STUN attributes (RFC 8489 §14, RFC 8656 §18): type codes and typed values.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::stun::{MAGIC_COOKIE, TransactionId};

/// An attribute type. Codes below 0x8000 are comprehension-required (RFC 8489 §14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// MAPPED-ADDRESS (RFC 8489 §14.1).
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// CHANGE-REQUEST (RFC 5780 §7.2).
    pub const CHANGE_REQUEST: Self = Self(0x0003);
    /// USERNAME (RFC 8489 §14.3).
    pub const USERNAME: Self = Self(0x0006);
    /// MESSAGE-INTEGRITY (RFC 8489 §14.5).
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// ERROR-CODE (RFC 8489 §14.8).
    pub const ERROR_CODE: Self = Self(0x0009);
    /// UNKNOWN-ATTRIBUTES (RFC 8489 §14.9).
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    /// CHANNEL-NUMBER (RFC 8656 §18.1).
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    /// LIFETIME (RFC 8656 §18.2).
    pub const LIFETIME: Self = Self(0x000D);
    /// XOR-PEER-ADDRESS (RFC 8656 §18.3).
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// DATA (RFC 8656 §18.4).
    pub const DATA: Self = Self(0x0013);
    /// REALM (RFC 8489 §14.9).
    pub const REALM: Self = Self(0x0014);
    /// NONCE (RFC 8489 §14.10).
    pub const NONCE: Self = Self(0x0015);
    /// XOR-RELAYED-ADDRESS (RFC 8656 §18.5).
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6).
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// EVEN-PORT (RFC 8656 §18.7).
    pub const EVEN_PORT: Self = Self(0x0018);
    /// REQUESTED-TRANSPORT (RFC 8656 §18.8).
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// DONT-FRAGMENT (RFC 8656 §18.9).
    pub const DONT_FRAGMENT: Self = Self(0x001A);
    /// ACCESS-TOKEN (RFC 7635 §6.2).
    pub const ACCESS_TOKEN: Self = Self(0x001B);
    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6).
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    /// PASSWORD-ALGORITHM (RFC 8489 §14.12).
    pub const PASSWORD_ALGORITHM: Self = Self(0x001D);
    /// USERHASH (RFC 8489 §14.4).
    pub const USERHASH: Self = Self(0x001E);
    /// XOR-MAPPED-ADDRESS (RFC 8489 §14.2).
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// RESERVATION-TOKEN (RFC 8656 §18.10).
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    /// PADDING (RFC 5780 §7.6).
    pub const PADDING: Self = Self(0x0026);
    /// RESPONSE-PORT (RFC 5780 §7.5).
    pub const RESPONSE_PORT: Self = Self(0x0027);
    /// ADDITIONAL-ADDRESS-FAMILY (RFC 8656 §18.11).
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    /// ADDRESS-ERROR-CODE (RFC 8656 §18.12).
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    /// PASSWORD-ALGORITHMS (RFC 8489 §14.11).
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    /// ALTERNATE-DOMAIN (RFC 8489 §14.16).
    pub const ALTERNATE_DOMAIN: Self = Self(0x8003);
    /// ICMP (RFC 8656 §18.13).
    pub const ICMP: Self = Self(0x8004);
    /// MOBILITY-TICKET (RFC 8016 §3.3).
    pub const MOBILITY_TICKET: Self = Self(0x8030);
    /// SOFTWARE (RFC 8489 §14.14).
    pub const SOFTWARE: Self = Self(0x8022);
    /// ALTERNATE-SERVER (RFC 8489 §14.15).
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// FINGERPRINT (RFC 8489 §14.7).
    pub const FINGERPRINT: Self = Self(0x8028);
    /// RESPONSE-ORIGIN (RFC 5780 §7.3).
    pub const RESPONSE_ORIGIN: Self = Self(0x802B);
    /// OTHER-ADDRESS (RFC 5780 §7.4).
    pub const OTHER_ADDRESS: Self = Self(0x802C);
    /// THIRD-PARTY-AUTHORIZATION (RFC 7635 §6.1).
    pub const THIRD_PARTY_AUTHORIZATION: Self = Self(0x802E);

    /// Whether a receiver that does not know it must refuse the message.
    #[must_use]
    pub const fn comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

/// A transport address XORed with the magic cookie and the transaction id (RFC 8489 §14.2).
/// `None`: a wrong length for the family, or an unknown family.
#[must_use]
pub fn xor_address(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], rest) = value.split_first_chunk::<4>()?;
    let [c0, c1, ..] = MAGIC_COOKIE.to_be_bytes();
    let port = u16::from_be_bytes([p0 ^ c0, p1 ^ c1]);
    let ip = match family {
        0x01 => {
            let bits = u32::from_be_bytes(rest.try_into().ok()?);
            IpAddr::V4(Ipv4Addr::from_bits(bits ^ MAGIC_COOKIE))
        }
        0x02 => {
            let bits = u128::from_be_bytes(rest.try_into().ok()?);
            IpAddr::V6(Ipv6Addr::from_bits(bits ^ xor_mask(transaction)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A transport address as it is (RFC 8489 §14.1, §14.15). `None`: a wrong length for the family, or
/// an unknown family.
#[must_use]
pub fn address(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], rest) = value.split_first_chunk::<4>()?;
    let ip = match family {
        0x01 => IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(rest.try_into().ok()?))),
        0x02 => IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(rest.try_into().ok()?))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

/// The 128 bits that an IPv6 address is XORed with: the cookie, then the transaction id.
pub(super) const fn xor_mask(transaction: TransactionId) -> u128 {
    let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
    let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb] = transaction.0;
    u128::from_be_bytes([c0, c1, c2, c3, t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb])
}

/// A 32-bit number, such as LIFETIME in seconds.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// CHANNEL-NUMBER: the number, and two reserved bytes that are ignored (RFC 8656 §18.1).
#[must_use]
pub fn channel_number(value: &[u8]) -> Option<u16> {
    let [n0, n1, _, _] = *value.first_chunk::<4>().filter(|_| value.len() == 4)?;
    Some(u16::from_be_bytes([n0, n1]))
}

/// The first byte of a four-byte value whose other three are reserved and ignored:
/// REQUESTED-TRANSPORT (a protocol number) and REQUESTED-ADDRESS-FAMILY.
#[must_use]
pub fn leading_byte(value: &[u8]) -> Option<u8> {
    match value {
        [first, _, _, _] => Some(*first),
        _ => None,
    }
}

/// The value of ICMP (RFC 8656 §18.13): why a datagram to a peer did not arrive. What type and code
/// mean depends on the peer's address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// ICMP type, 7 bits on the wire.
    pub kind: u8,
    /// ICMP code, up to 511.
    pub code: u16,
    /// The MTU of the next hop, bytes, when the datagram was too big for it; else 0.
    pub data: u32,
}

impl Icmp {
    /// Bytes of the value.
    pub const BYTES: usize = 8;
    /// Bits of the code.
    const CODE_BITS: u32 = 9;

    /// The value on the wire. A type or a code that does not fit is cut off.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        let code = self.code & ((1 << Self::CODE_BITS) - 1);
        let [k, c] = ((self.kind as u16) << Self::CODE_BITS | code).to_be_bytes();
        let [d0, d1, d2, d3] = self.data.to_be_bytes();
        [0, 0, k, c, d0, d1, d2, d3]
    }

    /// Reads a value; two reserved bytes are ignored. `None`: a wrong length.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let [_, _, k, c, data @ ..]: [u8; Self::BYTES] = value.try_into().ok()?;
        let both = u16::from_be_bytes([k, c]);
        let kind = u8::try_from(both >> Self::CODE_BITS).ok()?;
        let code = both & ((1 << Self::CODE_BITS) - 1);
        Some(Self { kind, code, data: u32::from_be_bytes(data) })
    }
}

/// ERROR-CODE: the code (300–699) and the reason phrase (RFC 8489 §14.8).
#[must_use]
pub fn error_code(value: &[u8]) -> Option<(u16, &str)> {
    let (&[_, _, class, number], reason) = value.split_first_chunk::<4>()?;
    let class = class & 0x07;
    if !(3..=6).contains(&class) || number > 99 {
        return None;
    }
    let reason = core::str::from_utf8(reason).ok()?;
    Some((u16::from(class) * 100 + u16::from(number), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: TransactionId = TransactionId([9; 12]);

    #[test]
    fn addresses_of_the_wrong_length_or_family_are_nothing() {
        assert_eq!(xor_address(&[], TRANSACTION), None);
        assert_eq!(xor_address(&[0, 1, 0, 0, 1, 2, 3], TRANSACTION), None);
        assert_eq!(xor_address(&[0, 1, 0, 0, 1, 2, 3, 4, 5], TRANSACTION), None);
        assert_eq!(xor_address(&[0, 2, 0, 0, 1, 2, 3, 4], TRANSACTION), None);
        assert_eq!(xor_address(&[0, 3, 0, 0, 1, 2, 3, 4], TRANSACTION), None);
    }

    #[test]
    fn fixed_size_values_have_exactly_their_size() {
        assert_eq!(number(&[0, 0, 2, 0x58]), Some(600));
        assert_eq!(number(&[0, 0, 2]), None);
        assert_eq!(number(&[0, 0, 2, 0x58, 0]), None);
        assert_eq!(channel_number(&[0x40, 1, 0xFF, 0xFF]), Some(0x4001));
        assert_eq!(channel_number(&[0x40, 1]), None);
        assert_eq!(channel_number(&[0x40, 1, 0, 0, 0]), None);
        assert_eq!(leading_byte(&[17, 1, 2, 3]), Some(17));
        assert_eq!(leading_byte(&[17]), None);
    }

    #[test]
    fn an_icmp_type_has_seven_bits_and_a_code_nine() {
        let too_big = Icmp { kind: 3, code: 4, data: 1400 };
        assert_eq!(too_big.to_bytes(), [0, 0, 0x06, 0x04, 0, 0, 0x05, 0x78]);
        assert_eq!(Icmp::parse(&[0xFF, 0xFF, 0x06, 0x04, 0, 0, 0x05, 0x78]), Some(too_big));
        let largest = Icmp { kind: 127, code: 511, data: u32::MAX };
        assert_eq!(largest.to_bytes(), [0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(Icmp::parse(&largest.to_bytes()), Some(largest));
        let cut_off = Icmp { kind: 128, code: 512, data: 0 };
        assert_eq!(cut_off.to_bytes(), [0; 8]);
        assert_eq!(Icmp::parse(&[0; 7]), None);
        assert_eq!(Icmp::parse(&[0; 9]), None);
    }

    #[test]
    fn an_error_code_is_a_class_and_a_number() {
        assert_eq!(error_code(&[0, 0, 4, 38, b'h', b'i']), Some((438, "hi")));
        assert_eq!(error_code(&[0, 0, 2, 0]), None);
        assert_eq!(error_code(&[0, 0, 4, 100]), None);
        assert_eq!(error_code(&[0, 0, 4]), None);
    }
}
