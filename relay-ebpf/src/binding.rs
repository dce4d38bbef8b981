//! Binding requests (RFC 8489 §7.2) answered where they arrive, as userspace would answer them.
//!
//! Owns two shapes: a request of a header alone, and one with FINGERPRINT behind it. Everything
//! else is userspace's. The response goes back the way the request came, so no way is asked for.
//!
//! No loop can arise: what leaves is a success response, and only requests are answered.

use relay_common::abi::{ACTION_ANSWER, BUDGETS_MAX, Config, Reason, Route};
use relay_common::addr::Family;
use relay_common::police;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::checksum::{fold, sum_words};
use relay_common::wire::crc32;
use relay_common::wire::fixed::{
    COOKIE, Fingerprint, Ipv4Mapped, Ipv4Stun, Ipv6Mapped, Ipv6Stun, MappedV4, MappedV6,
    SealedRequest, Stun, XorAddressV4, XorAddressV6, crc_of,
};
use relay_common::wire::net::{Ethernet, Ipv4, Ipv6, PROTOCOL_UDP, Udp, be16};
use zerocopy::{transmute, transmute_ref};

use crate::decide::in_force;
use crate::general::{Place, taken};
use crate::leave::MACS_BYTES;
use crate::stun::{Way, route};
use crate::{Frame, Tables, Verdict, Word};

const IPV4_BYTES: u16 = 20;
const IPV6_BYTES: u16 = 40;
const UDP_BYTES: u16 = 8;
const STUN_BYTES: u16 = 20;
const SEAL_BYTES: u16 = 8;
const MAPPED_V4_BYTES: u16 = 12;
const MAPPED_V6_BYTES: u16 = 24;
const _: () = assert!(size_of::<Stun>() == 20 && size_of::<Fingerprint>() == 8);
const _: () = assert!(size_of::<XorAddressV4>() == 12 && size_of::<XorAddressV6>() == 24);

/// What a new packet of Linux carries: 64 hops, DF and therefore no identification.
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = be16(0x4000);
const VERSION_IHL: u8 = 0x45;
const VERSION_6: [u16; 2] = [be16(0x6000), 0];
/// The group bit of a MAC address, in its first word.
const GROUP: u16 = u16::from_ne_bytes([1, 0]);
/// Words behind the MAC addresses at most: two tags and the EtherType.
const LINK_WORDS_MAX: u32 = 5;
/// How often a place in `BUDGETS` is tried that another CPU writes.
const TRIES: usize = 4;

/// Answers a request whose IP and UDP lengths are proven, or says why not.
#[inline(always)]
pub(crate) fn answer<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    place: Place,
) -> Verdict {
    if let Err(reason) = taken(frame, tables, place) {
        return Verdict::Pass(reason);
    }
    let link = place.ip_at.into();
    Verdict::from_code(match place.family {
        Family::V4 => to_v4(frame, tables, config, link),
        Family::V6 => to_v6(frame, tables, config, link),
    })
}

#[inline(never)]
fn to_v4<F: Frame, T: Tables>(frame: &mut F, tables: &T, config: &Config, link: u32) -> u32 {
    answer_v4(frame, tables, config, link).unwrap_or_else(Verdict::Pass).code()
}

#[inline(never)]
fn to_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T, config: &Config, link: u32) -> u32 {
    answer_v6(frame, tables, config, link).unwrap_or_else(Verdict::Pass).code()
}

/// Answers an IPv4 client. `link` is the bytes of the link's header.
#[inline(always)]
fn answer_v4<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    link: u32,
) -> Result<Verdict, Reason> {
    one_station(frame)?;
    let old = frame.at::<Ipv4Stun>(link).ok_or(Reason::Stun)?;
    let seal = request(frame, config, &old.udp, &old.stun, link + u32::from(IPV4_BYTES))?;
    let ip: &[u16; 10] = transmute_ref!(&old.ip);
    if !unicast_v4(old.ip.src) || fold(sum_words(ip)) != 0xFFFF {
        return Err(Reason::Stun);
    }
    let addresses = sum_words(&old.ip.src) + sum_words(&old.ip.dst);
    let kept = kept_sum(addresses, &old.udp, &old.stun);
    check_sum(kept, &old.udp, &old.stun, seal)?;
    let port = old.udp.dst;
    let server = |ip: [u16; 2]| {
        let way = Way { src: [0; 4], dst: [transmute!(ip), 0, 0, 0], src_port: 0, dst_port: port };
        route(tables, Family::V4, &way)
    };
    listens(tables, config, server(old.ip.dst))?;
    // From one of our own addresses: nobody who could be told anything.
    if server(old.ip.src).is_some() {
        return Err(Reason::Stun);
    }
    let source: u32 = transmute!(old.ip.src);
    if let Err(verdict) = make_room(frame, tables, config, source.into(), MAPPED_V4_BYTES) {
        return Ok(verdict);
    }
    if write_v4(frame, link, kept, seal).is_none() {
        return Ok(Verdict::Abort(Reason::Aborted));
    }
    tables.note(Reason::BindingAnswered, 0);
    Ok(Verdict::Transmit(Reason::BindingAnswered))
}

#[inline(always)]
fn write_v4<F: Frame>(frame: &mut F, link: u32, kept: u32, seal: Seal) -> Option<()> {
    // All that is needed of the request is read before the response is written over it.
    let Ipv4Stun { ip: Ipv4 { src, dst, .. }, udp, stun } =
        *frame.at(link + u32::from(MAPPED_V4_BYTES))?;
    turn_round(frame, link, MAPPED_V4_BYTES)?;
    let new = frame.at_mut::<Ipv4Mapped>(link)?;
    let udp_len = UDP_BYTES + STUN_BYTES + MAPPED_V4_BYTES + seal.bytes();
    new.ip = Ipv4 {
        version_ihl: VERSION_IHL,
        tos: 0,
        total_len: be16(IPV4_BYTES + udp_len),
        id: 0,
        fragment: DONT_FRAGMENT,
        ttl: HOP_LIMIT,
        protocol: PROTOCOL_UDP,
        checksum: 0,
        src: dst,
        dst: src,
    };
    let ip: &[u16; 10] = transmute_ref!(&new.ip);
    new.ip.checksum = !fold(sum_words(ip));
    let stun = response(&stun, MAPPED_V4_BYTES, seal);
    let kind = AttributeType::XOR_MAPPED_ADDRESS;
    let reflexive = XorAddressV4::new(kind, src, udp.src);
    new.response = MappedV4 { stun, reflexive };
    let words: &[u16; 6] = transmute_ref!(&new.response.reflexive);
    let sum = kept + sum_words(words);
    let seal = seal.with(|| Fingerprint::of(crc32::words(crc_of(&stun), words)));
    new.udp = reply(&udp, udp_len, sum, &stun, seal);
    write_seal(frame, link + u32::from(IPV4_BYTES + udp_len), seal)
}

/// Answers an IPv6 client; as [`answer_v4`].
#[inline(always)]
fn answer_v6<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    link: u32,
) -> Result<Verdict, Reason> {
    one_station(frame)?;
    let old = frame.at::<Ipv6Stun>(link).ok_or(Reason::Stun)?;
    let seal = request(frame, config, &old.udp, &old.stun, link + u32::from(IPV6_BYTES))?;
    if !unicast_v6(&old.ip.src) {
        return Err(Reason::Stun);
    }
    if old.udp.checksum == 0 {
        return Err(Reason::ChecksumMissing);
    }
    let addresses = sum_words(&old.ip.src) + sum_words(&old.ip.dst);
    let kept = kept_sum(addresses, &old.udp, &old.stun);
    check_sum(kept, &old.udp, &old.stun, seal)?;
    let port = old.udp.dst;
    let server = |ip: [u16; 8]| {
        let way = Way { src: [0; 4], dst: transmute!(ip), src_port: 0, dst_port: port };
        route(tables, Family::V6, &way)
    };
    listens(tables, config, server(old.ip.dst))?;
    if server(old.ip.src).is_some() {
        return Err(Reason::Stun);
    }
    let [high, low, ..]: [u32; 4] = transmute!(old.ip.src);
    // No prefix is as small as an IPv4 address: the first half of a source is not zero.
    let source = u64::from(high) << 32 | u64::from(low);
    if let Err(verdict) = make_room(frame, tables, config, source, MAPPED_V6_BYTES) {
        return Ok(verdict);
    }
    if write_v6(frame, link, kept, seal).is_none() {
        return Ok(Verdict::Abort(Reason::Aborted));
    }
    tables.note(Reason::BindingAnswered, 0);
    Ok(Verdict::Transmit(Reason::BindingAnswered))
}

#[inline(always)]
fn write_v6<F: Frame>(frame: &mut F, link: u32, kept: u32, seal: Seal) -> Option<()> {
    let Ipv6Stun { ip: Ipv6 { src, dst, .. }, udp, stun } =
        *frame.at(link + u32::from(MAPPED_V6_BYTES))?;
    turn_round(frame, link, MAPPED_V6_BYTES)?;
    let new = frame.at_mut::<Ipv6Mapped>(link)?;
    let udp_len = UDP_BYTES + STUN_BYTES + MAPPED_V6_BYTES + seal.bytes();
    new.ip = Ipv6 {
        version_class_flow: VERSION_6,
        payload_len: be16(udp_len),
        next_header: PROTOCOL_UDP,
        hop_limit: HOP_LIMIT,
        src: dst,
        dst: src,
    };
    let stun = response(&stun, MAPPED_V6_BYTES, seal);
    let kind = AttributeType::XOR_MAPPED_ADDRESS;
    let reflexive = XorAddressV6::new(kind, src, udp.src, &stun.transaction);
    new.response = MappedV6 { stun, reflexive };
    let words: &[u16; 12] = transmute_ref!(&new.response.reflexive);
    let sum = kept + sum_words(words);
    let seal = seal.with(|| Fingerprint::of(crc32::words(crc_of(&stun), words)));
    new.udp = reply(&udp, udp_len, sum, &stun, seal);
    write_seal(frame, link + u32::from(IPV6_BYTES + udp_len), seal)
}

/// FINGERPRINT, if there is one.
#[derive(Clone, Copy)]
enum Seal {
    Absent,
    Present(Fingerprint),
}

impl Seal {
    #[inline(always)]
    const fn bytes(self) -> u16 {
        match self {
            Self::Absent => 0,
            Self::Present(_) => SEAL_BYTES,
        }
    }

    /// What it adds to a sum.
    #[inline(always)]
    fn sum(self) -> u32 {
        match self {
            Self::Absent => 0,
            Self::Present(seal) => {
                let words: [u16; 4] = transmute!(seal);
                sum_words(&words)
            }
        }
    }

    /// Another one, if there is one.
    #[inline(always)]
    fn with(self, seal: impl FnOnce() -> Fingerprint) -> Self {
        match self {
            Self::Absent => Self::Absent,
            Self::Present(_) => Self::Present(seal()),
        }
    }
}

/// Whether the datagram is a request of ours, as far as UDP's payload says. `udp_at` is where the
/// UDP header lies.
#[inline(always)]
fn request<F: Frame>(
    frame: &F,
    config: &Config,
    udp: &Udp,
    stun: &Stun,
    udp_at: u32,
) -> Result<Seal, Reason> {
    let udp_len = u16::from_be(udp.len);
    // A tail behind the packet would lie where the response goes on.
    if config.answer_cost_ns == 0
        || frame.bytes() != udp_at + u32::from(udp_len)
        || stun.kind != Stun::BINDING_REQUEST
        || stun.cookie != COOKIE
        || udp.src == 0
    {
        return Err(Reason::Stun);
    }
    const BARE: u16 = UDP_BYTES + STUN_BYTES;
    const SEALED: u16 = BARE + SEAL_BYTES;
    match udp_len {
        BARE if stun.len == 0 => Ok(Seal::Absent),
        SEALED if stun.len == be16(SEAL_BYTES) => {
            let at = udp_at + u32::from(UDP_BYTES);
            let found = frame.at::<SealedRequest>(at).ok_or(Reason::Stun)?.fingerprint;
            let right = Fingerprint::of(crc_of(stun));
            if found == right { Ok(Seal::Present(found)) } else { Err(Reason::Stun) }
        }
        _ => Err(Reason::Stun),
    }
}

/// The sum of what request and response have in common: addresses and ports, whose order does not
/// matter, the protocol, cookie and transaction ID.
#[inline(always)]
fn kept_sum(addresses: u32, udp: &Udp, stun: &Stun) -> u32 {
    let sum = addresses + u32::from(udp.src) + u32::from(udp.dst);
    let stun = sum_words(&stun.cookie) + sum_words(&stun.transaction);
    sum + u32::from(be16(PROTOCOL_UDP.into())) + stun
}

/// The sum of the rest but UDP's checksum.
#[inline(always)]
fn other_sum(udp_len: u16, stun: &Stun, seal: Seal) -> u32 {
    // UDP's length counts twice: in its header and in the pseudo-header.
    2 * u32::from(udp_len) + u32::from(stun.kind) + u32::from(stun.len) + seal.sum()
}

/// The stack proves a checksum before userspace sees a datagram, and so must we.
#[inline(always)]
fn check_sum(kept: u32, udp: &Udp, stun: &Stun, seal: Seal) -> Result<(), Reason> {
    let sum = kept + other_sum(udp.len, stun, seal) + u32::from(udp.checksum);
    if udp.checksum == 0 || fold(sum) == 0xFFFF { Ok(()) } else { Err(Reason::Stun) }
}

/// The destination is a TURN server transport address of ours.
#[inline(always)]
fn listens<T: Tables>(tables: &T, config: &Config, route: Option<&Route>) -> Result<(), Reason> {
    let route = route.filter(|route| route.terms.action == ACTION_ANSWER).ok_or(Reason::Stun)?;
    in_force(tables, config, &route.terms)?;
    Ok(())
}

/// Addresses that a host has: not "this network", loopback, multicast or above.
#[inline(always)]
const fn unicast_v4(ip: [u16; 2]) -> bool {
    let [first, _] = ip[0].to_ne_bytes();
    first != 0 && first != 127 && first < 224
}

/// Addresses that a host has: not unspecified, loopback, multicast, nor IPv4 in disguise.
#[inline(always)]
const fn unicast_v6(ip: &[u16; 8]) -> bool {
    let [first, _] = ip[0].to_ne_bytes();
    first != 0xFF && ip[0] | ip[1] | ip[2] | ip[3] | ip[4] != 0
}

/// Makes room for a response, in front of the frame where every driver has some, and takes it out
/// of the source's budget. An error leaves the frame as it was.
#[inline(always)]
fn make_room<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    config: &Config,
    source: u64,
    bytes: u16,
) -> Result<(), Verdict> {
    const OVER: Verdict = Verdict::Drop(Reason::BindingOverBudget);
    const SHIFT: u32 = u64::BITS - BUDGETS_MAX.ilog2();
    const _: () = assert!(BUDGETS_MAX.is_power_of_two());
    // Multiply-shift hashing: two sources meet with twice the chance of a throw of dice at most.
    let hash = source.wrapping_mul(config.budget_key | 1) >> SHIFT;
    let index = u32::try_from(hash).map_err(|_| Verdict::Pass(Reason::Stun))?;
    let budget = tables.budget(index).ok_or(Verdict::Pass(Reason::Stun))?;
    let now = tables.now_ns();
    let (cost, burst) = (config.answer_cost_ns, config.answer_burst_ns);
    if police::admit(budget.load(), now, cost, burst).is_none() {
        return Err(OVER);
    }
    // What goes up for lack of room is not paid for here.
    frame.move_head(-i32::from(bytes)).ok_or(Verdict::Pass(Reason::NoRoom))?;
    for _ in 0..TRIES {
        let seen = budget.load();
        let Some(next) = police::admit(seen, now, cost, burst) else { return Err(OVER) };
        if budget.exchange(seen, next) {
            return Ok(());
        }
    }
    // Other CPUs are faster: userspace has a budget of its own. Nothing is written yet.
    frame.move_head(bytes.into()).ok_or(Verdict::Abort(Reason::Aborted))?;
    Err(Verdict::Pass(Reason::Stun))
}

/// The response's STUN header.
#[inline(always)]
const fn response(request: &Stun, mapped_bytes: u16, seal: Seal) -> Stun {
    Stun::new(Stun::BINDING_SUCCESS, mapped_bytes + seal.bytes(), request.transaction)
}

/// The response's UDP header.
#[inline(always)]
fn reply(request: &Udp, udp_len: u16, sum: u32, stun: &Stun, seal: Seal) -> Udp {
    let len = be16(udp_len);
    let checksum = match !fold(sum + other_sum(len, stun, seal)) {
        // RFC 768: zero would say that there is none.
        0 => 0xFFFF,
        sum => sum,
    };
    Udp { src: request.dst, dst: request.src, len, checksum }
}

/// Writes FINGERPRINT, which ends the packet.
#[inline(always)]
fn write_seal<F: Frame>(frame: &mut F, end: u32, seal: Seal) -> Option<()> {
    if let Seal::Present(seal) = seal {
        *frame.at_mut::<Fingerprint>(end - u32::from(SEAL_BYTES))? = seal;
    }
    Some(())
}

/// The sender is one station, which can be answered. Asked for before headers further inside are:
/// the compiler would deduce from those that the frame has these, and the verifier would not.
#[inline(always)]
fn one_station<F: Frame>(frame: &F) -> Result<(), Reason> {
    let eth = frame.headers::<Ethernet>().ok_or(Reason::Stun)?;
    if eth.src[0] & GROUP == 0 { Ok(()) } else { Err(Reason::Stun) }
}

/// Moves the link's header to the frame's start, from `by` behind it, and exchanges the MAC
/// addresses; tags stay what they are.
#[inline(always)]
fn turn_round<F: Frame>(frame: &mut F, link: u32, by: u16) -> Option<()> {
    let by = u32::from(by);
    // Word by word: a copy of what may overlap would be a call.
    let [a, b, c, d, e, f] = *frame.at::<[u16; 6]>(by)?;
    *frame.headers_mut()? = [d, e, f, a, b, c];
    for word in 0..LINK_WORDS_MAX {
        let at = MACS_BYTES + 2 * word;
        if at < link {
            let old = *frame.at::<u16>(at + by)?;
            *frame.at_mut(at)? = old;
        }
    }
    Some(())
}
