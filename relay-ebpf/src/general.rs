//! The general path: every shape that the straight paths of `v4` and `v6` do not write. Tags in
//! and out, crossings between the families, hairpins, padding, next hops of the kernel's own
//! routing table; and the reason for everything that cannot be relayed by a route.
//!
//! Reads the frame anew: its caller has proven the lengths and found a route that is in force.

use relay_common::abi::{
    ACTION_STRIP, ACTION_SWAP, ACTION_WRAP, Direction, FLAG_POLICED, FLAG_V6, Reason, Route,
};
use relay_common::addr::Family;
use relay_common::wire::checksum;
use relay_common::wire::net::{Channel, Ipv4, Ipv6, PROTOCOL_UDP, Udp, be16};

use crate::decide::{LINK_BYTES, arrived};
use crate::leave::{Cut, Exit, UDP_BYTES, VERSION_IHL, exit, ip_bytes, ipv6, leave, version_class};
use crate::police::{self, Party};
use crate::{FibQuery, Frame, Tables, Verdict};

const CHANNEL_BYTES: u32 = 4;
/// An indication up to its application data, about an IPv4 peer.
pub(crate) const HEAD_V4_BYTES: u32 = 36;
/// The same about an IPv6 peer.
pub(crate) const HEAD_V6_BYTES: u32 = 48;
/// The datagram may not be fragmented, and is none.
const DONT_FRAGMENT: u16 = be16(0x4000);
/// IPv6's version and traffic class, without the flow label behind them.
pub(crate) const VERSION_CLASS_MASK: u16 = be16(0xFFF0);

/// Where and as what a datagram arrived.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where its IP header begins.
    pub ip_at: u16,
    /// The family of that.
    pub family: Family,
    /// On a listening port, as ChannelData.
    pub listening: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self { ip_at: 0, family: Family::V4, listening: false }
    }
}

/// What the frame held. Each field is a whole register: the verifier rejects what is put together
/// in memory at odd places.
struct Old {
    class: u32,
    hop_limit: u32,
    /// IPv4's (wire); zero for IPv6.
    total_len: u32,
    id: u32,
    fragment: u32,
    ip_checksum: u32,
    /// IPv6's first words (wire); for IPv4, those that it gets.
    version_class_flow: u32,
    /// UDP's (wire).
    udp_len: u32,
    udp_checksum: u32,
}

/// What leaves.
struct New {
    /// UDP header and payload.
    udp_len: u16,
    udp_checksum: u16,
    hops: u8,
}

/// What is done to a datagram, beside what a route says.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Where it lies.
    pub place: Place,
    /// As what it is relayed.
    pub reason: Reason,
    /// Bytes between UDP's header and the application data, as it arrived.
    pub head: u32,
    /// Application data.
    pub data: u32,
    /// Behind the application data.
    pub padding: u32,
    /// Bytes between UDP's header and the application data, as it leaves: 0, 4, 36 or 48.
    pub gap: u32,
    /// What stands there.
    pub words: [u16; GAP_WORDS_MAX],
    /// Zeros behind the application data, as it leaves.
    pub zeros: u32,
    /// Relays that it passes here.
    pub hops: u8,
    /// What the new head adds to the sum of UDP's checksum, less what the old one took away.
    pub sum: u32,
}

impl Change {
    /// Nothing yet.
    #[inline(always)]
    pub(crate) const fn new(place: Place, reason: Reason) -> Self {
        Self {
            place,
            reason,
            head: 0,
            data: 0,
            padding: 0,
            gap: 0,
            words: [0; GAP_WORDS_MAX],
            zeros: 0,
            hops: 1,
            sum: 0,
        }
    }
}

impl Default for Change {
    fn default() -> Self {
        Self::new(Place::default(), Reason::ClientToPeer)
    }
}

/// Words of the longest gap: a Data indication about an IPv6 peer.
pub(crate) const GAP_WORDS_MAX: usize = 24;

/// What leaves.
#[derive(Clone, Copy, Default, Debug)]
pub struct Leaving {
    /// For what no map has a route for: composed of a permission.
    pub route: Route,
    /// What is done to it.
    pub change: Change,
}

/// Relays by a route, or says why not.
#[inline(always)]
pub(crate) fn relay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    route: &Route,
    place: Place,
) -> Verdict {
    let Some(mut leaving) = tables.scratch() else { return Verdict::Pass(Reason::NoRoom) };
    let change = &mut leaving.change;
    match act(frame, route, place, change) {
        Ok(()) => forward(frame, tables, route, change),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// Rewrites by a route and a change, or says why not.
#[inline(always)]
pub(crate) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    route: &Route,
    change: &Change,
) -> Verdict {
    Verdict::from_code(by_change(frame, tables, route, change))
}

/// One copy, with a stack of its own.
#[inline(never)]
fn by_change<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    route: &Route,
    change: &Change,
) -> u32 {
    rewrite(frame, tables, route, change).unwrap_or_else(|verdict| verdict).code()
}

#[inline(always)]
fn rewrite<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    route: &Route,
    change: &Change,
) -> Result<Verdict, Verdict> {
    let place = change.place;
    taken(frame, tables, place).map_err(Verdict::Pass)?;
    let old = &read(frame, place).ok_or(Verdict::Pass(Reason::Truncated))?;
    // RFC 8656 §14: the hop limit is decremented; userspace sees what may travel no further.
    if old.hop_limit <= change.hops.into() {
        return Err(Verdict::Pass(Reason::HopLimit));
    }
    let family = if route.terms.flags & FLAG_V6 == 0 { Family::V4 } else { Family::V6 };
    let exit =
        decide(frame, tables, route, old, change, [place.family, family]).map_err(Verdict::Pass)?;
    let payload_at = u32::from(place.ip_at) + ip_bytes(place.family) + UDP_BYTES;
    let kept_at = payload_at + change.head;
    let end = kept_at + change.data;
    let removed = padding(frame, end, change).ok_or(Verdict::Pass(Reason::Length))?;
    let tail = frame.bytes().wrapping_sub(end);
    let gap = change.gap;
    let udp_len = UDP_BYTES + gap + change.data + change.zeros;
    #[allow(clippy::cast_possible_truncation, reason = "`decide` has seen that it fits")]
    let udp_len = udp_len as u16;
    let lengths = 2 * (u32::from(be16(udp_len)) + u32::from(!word(old.udp_len)));
    let added = u32::from(route.terms.udp_delta) + change.sum + removed + lengths;
    let new = New {
        udp_len,
        udp_checksum: udp_checksum(word(old.udp_checksum), added),
        hops: change.hops,
    };
    if !admitted(tables, route, change) {
        return Err(Verdict::Drop(Reason::Policed));
    }
    let udp = Udp {
        src: route.terms.src_port,
        dst: route.terms.dst_port,
        len: be16(new.udp_len),
        checksum: new.udp_checksum,
    };
    let cut = Cut { kept_at, gap, tail, zeros: change.zeros };
    let left = match family {
        Family::V4 => {
            let ip = |ip: &mut Ipv4| *ip = to_ipv4(route, old, &new, place.family);
            leave(frame, exit.hop, ip, &udp, cut)
        }
        Family::V6 => {
            let ip = |ip: &mut Ipv6| *ip = to_ipv6(route, old, &new);
            leave(frame, exit.hop, ip, &udp, cut)
        }
    };
    let at = match left {
        Ok(at) => at,
        Err(verdict) => {
            refund(tables, route, change);
            return Err(verdict);
        }
    };
    write(frame, at, change).ok_or(Verdict::Abort(Reason::Aborted))?;
    count(tables, route, change);
    tables.note(change.reason, change.data);
    Ok(exit.verdict(change.reason))
}

/// An untagged frame is for us. Behind tags that was the first question.
#[inline(always)]
pub(crate) fn taken<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    place: Place,
) -> Result<(), Reason> {
    if u32::from(place.ip_at) != LINK_BYTES {
        return Ok(());
    }
    let dst_mac = frame.headers::<[u16; 3]>().ok_or(Reason::Truncated)?;
    arrived(tables, frame.ingress(), dst_mac)
}

/// Writes what stands in the gap.
#[inline(always)]
fn write<F: Frame>(frame: &mut F, at: u32, change: &Change) -> Option<()> {
    match change.gap {
        0 => {}
        CHANNEL_BYTES => {
            let [number, len, ..] = change.words;
            *frame.at_mut::<Channel>(at)? = Channel { number, len };
        }
        HEAD_V4_BYTES => {
            let (words, _) = change.words.split_first_chunk::<18>()?;
            *frame.at_mut::<[u16; 18]>(at)? = *words;
        }
        _ => *frame.at_mut::<[u16; GAP_WORDS_MAX]>(at)? = change.words,
    }
    Some(())
}

#[inline(always)]
fn read<F: Frame>(frame: &F, place: Place) -> Option<Old> {
    let at = u32::from(place.ip_at);
    let udp_at = at + ip_bytes(place.family);
    let udp = frame.at::<Udp>(udp_at)?;
    let (udp_len, udp_checksum) = (udp.len.into(), udp.checksum.into());
    let (class, hop_limit, total_len, id, fragment, ip_checksum, version_class_flow);
    match place.family {
        Family::V4 => {
            let ip = frame.at::<Ipv4>(at)?;
            (class, hop_limit) = (ip.tos.into(), ip.ttl.into());
            (total_len, id) = (ip.total_len.into(), ip.id.into());
            (fragment, ip_checksum) = (ip.fragment.into(), ip.checksum.into());
            version_class_flow = zerocopy::transmute!(version_class(ip.tos));
        }
        Family::V6 => {
            let ip = frame.at::<Ipv6>(at)?;
            class = u32::from(u16::from_be(ip.version_class_flow[0])) >> 4 & 0xFF;
            hop_limit = ip.hop_limit.into();
            (total_len, id, fragment, ip_checksum) = (0, 0, DONT_FRAGMENT.into(), 0);
            let [first, _] = ip.version_class_flow;
            version_class_flow = zerocopy::transmute!([first & VERSION_CLASS_MASK, 0]);
        }
    }
    Some(Old {
        class,
        hop_limit,
        total_len,
        id,
        fragment,
        ip_checksum,
        version_class_flow,
        udp_len,
        udp_checksum,
    })
}

/// The low word of a register that holds one.
#[inline(always)]
const fn word(register: u32) -> u16 {
    #[allow(clippy::cast_possible_truncation, reason = "holds sixteen bits")]
    let word = register as u16;
    word
}

/// The low byte of a register that holds one.
#[inline(always)]
const fn byte(register: u32) -> u8 {
    #[allow(clippy::cast_possible_truncation, reason = "holds eight bits")]
    let byte = register as u8;
    byte
}

/// What a route's action does.
#[inline(never)]
fn act<F: Frame>(
    frame: &F,
    route: &Route,
    place: Place,
    change: &mut Change,
) -> Result<(), Reason> {
    let at = u32::from(place.ip_at) + ip_bytes(place.family);
    let udp = frame.at::<Udp>(at).ok_or(Reason::Truncated)?;
    let payload = u32::from(u16::from_be(udp.len)).wrapping_sub(UDP_BYTES) & 0xFFFF;
    *change = Change { data: payload, ..Change::new(place, Reason::ClientToPeer) };
    let mut old = Channel { number: 0, len: 0 };
    if place.listening {
        old = *frame.at::<Channel>(at + UDP_BYTES).ok_or(Reason::Truncated)?;
        change.head = CHANNEL_BYTES;
        change.data = u16::from_be(old.len).into();
        change.padding = payload.wrapping_sub(CHANNEL_BYTES).wrapping_sub(change.data);
    }
    #[allow(clippy::cast_possible_truncation, reason = "part of a UDP length")]
    let len = be16(change.data as u16);
    match (place.listening, route.terms.action) {
        (true, ACTION_STRIP) => change.sum = u32::from(!old.number) + u32::from(!old.len),
        (true, ACTION_SWAP) => {
            // The numbers are in the route's delta; the length stays.
            (change.reason, change.hops) = (Reason::Hairpin, 2);
            change.gap = CHANNEL_BYTES;
        }
        (false, ACTION_WRAP) => {
            change.reason = Reason::PeerToClient;
            change.gap = CHANNEL_BYTES;
            change.sum = u32::from(route.terms.channel) + u32::from(len);
        }
        _ => return Err(Reason::UnknownAction),
    }
    (change.words[0], change.words[1]) = (route.terms.channel, len);
    Ok(())
}

#[inline(always)]
fn decide<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
    route: &Route,
    old: &Old,
    change: &Change,
    [from, to]: [Family; 2],
) -> Result<Exit<'t>, Reason> {
    // RFC 8200 §8.1: IPv6 must have one; without it there is nothing to adjust.
    if old.udp_checksum == 0 && (from == Family::V6 || to == Family::V6) {
        return Err(Reason::ChecksumMissing);
    }
    // Nothing of IPv6 would show that the header was damaged on its way here.
    if from == Family::V4 && to == Family::V6 {
        let ip: &Ipv4 = frame.at(change.place.ip_at.into()).ok_or(Reason::Truncated)?;
        let words: &[u16; 10] = zerocopy::transmute_ref!(ip);
        if checksum::fold(checksum::sum_words(words)) != 0xFFFF {
            return Err(Reason::HeaderChecksum);
        }
    }
    let bytes = ip_bytes(to) + UDP_BYTES + change.gap + change.data + change.zeros;
    let query = || FibQuery {
        family: to,
        src: route.src,
        dst: route.dst,
        src_port: route.terms.src_port,
        dst_port: route.terms.dst_port,
        class: byte(old.class),
        bytes: 0,
    };
    // A packet behind tags did not arrive on the interface itself, and other rules may hold there.
    let query = (u32::from(change.place.ip_at) == LINK_BYTES).then_some(query);
    exit(tables, route.terms.next_hop, frame.ingress(), bytes, query)
}

/// What the padding behind the application data takes from the sum of UDP's checksum: it may be
/// anything, and begins at any byte of a word.
#[inline(always)]
fn padding<F: Frame>(frame: &F, at: u32, change: &Change) -> Option<u32> {
    let [a, b, c] = match change.padding {
        0 => return Some(0),
        1 => {
            let [a] = frame.read(at)?;
            [a, 0, 0]
        }
        2 => {
            let [a, b] = frame.read(at)?;
            [a, b, 0]
        }
        _ => {
            // With a byte in front: four are a word, and three are not.
            let [_, a, b, c] = frame.read(at.wrapping_sub(1))?;
            [a, b, c]
        }
    };
    let words = if change.data & 1 == 0 { [[a, b], [c, 0]] } else { [[0, a], [b, c]] };
    Some(u32::from(!u16::from_ne_bytes(words[0])) + u32::from(!u16::from_ne_bytes(words[1])))
}

/// The checksum is adjusted, never computed: what was wrong on the way here stays wrong. Of what
/// is `added`, UDP's length counts twice: in its header and in the pseudo-header.
#[inline(always)]
pub(crate) fn udp_checksum(checksum: u16, added: u32) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match checksum::update(checksum, added) {
        // RFC 768: zero would say that there is none.
        0 => 0xFFFF,
        sum => sum,
    }
}

#[inline(always)]
fn to_ipv4(route: &Route, old: &Old, new: &New, from: Family) -> Ipv4 {
    let total_len = be16(new.udp_len + 20);
    let ttl = byte(old.hop_limit) - new.hops;
    let delta = u32::from(route.terms.ip_delta);
    let checksum = match from {
        Family::V4 => {
            let hops = u32::from(!u16::from_ne_bytes([new.hops, 0]));
            let lengths = u32::from(total_len) + u32::from(!word(old.total_len));
            checksum::update(word(old.ip_checksum), delta + lengths + hops)
        }
        // Nothing to adjust: the sum of the whole header.
        Family::V6 => {
            let first = u32::from(u16::from_ne_bytes([VERSION_IHL, byte(old.class)]));
            let hops = u32::from(u16::from_ne_bytes([ttl, PROTOCOL_UDP]));
            let sum = first + u32::from(total_len) + old.fragment + hops + delta;
            !checksum::fold(sum)
        }
    };
    Ipv4 {
        version_ihl: VERSION_IHL,
        tos: byte(old.class),
        total_len,
        id: word(old.id),
        fragment: word(old.fragment),
        ttl,
        protocol: PROTOCOL_UDP,
        checksum,
        src: zerocopy::transmute!(route.src[0]),
        dst: zerocopy::transmute!(route.dst[0]),
    }
}

#[inline(always)]
fn to_ipv6(route: &Route, old: &Old, new: &New) -> Ipv6 {
    let hop_limit = byte(old.hop_limit) - new.hops;
    ipv6(
        zerocopy::transmute!(old.version_class_flow),
        new.udp_len,
        hop_limit,
        &route.src,
        &route.dst,
    )
}

/// Whether the allocations that a packet passes may have it; both are asked before one is charged.
#[inline(always)]
fn admitted<T: Tables>(tables: &T, route: &Route, change: &Change) -> bool {
    if route.terms.flags & FLAG_POLICED == 0 {
        return true;
    }
    let now_ns = tables.now_ns();
    match parties(route, change) {
        (party, None) => police::admit(tables, party, now_ns, change.data),
        (first, Some(second)) => police::admit_both(tables, [first, second], now_ns, change.data),
    }
}

/// What goes up, or nowhere, is not paid for. Out of line: whether it was is asked of the route
/// again, so that the verifier need not keep it in mind.
#[inline(never)]
fn refund<T: Tables>(tables: &T, route: &Route, change: &Change) {
    if route.terms.flags & FLAG_POLICED == 0 {
        return;
    }
    let (first, second) = parties(route, change);
    police::refund(tables, first.0, first.1, change.data);
    if let Some(second) = second {
        police::refund(tables, second.0, second.1, change.data);
    }
}

#[inline(always)]
fn count<T: Tables>(tables: &T, route: &Route, change: &Change) {
    let (first, second) = parties(route, change);
    tables.count(first.0, first.1, change.data);
    if let Some((slot, direction)) = second {
        tables.count(slot, direction, change.data);
    }
}

/// Which allocations a packet passes, and which way. A hairpin is the sender's packet to a peer,
/// and the receiver's from one.
#[inline(always)]
fn parties(route: &Route, change: &Change) -> (Party, Option<Party>) {
    match change.reason {
        Reason::PeerToClient | Reason::DataIndication => {
            ((route.terms.slot, Direction::PeerToClient), None)
        }
        Reason::Hairpin => (
            (route.terms.slot, Direction::ClientToPeer),
            Some((route.terms.peer_slot, Direction::PeerToClient)),
        ),
        _ => ((route.terms.slot, Direction::ClientToPeer), None),
    }
}
