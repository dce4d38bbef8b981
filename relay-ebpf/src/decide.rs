//! What both families share: whether a datagram is for us, whether its route is in force, and the
//! straight paths' plan and change. Knows UDP and ChannelData, nothing of IP.

use relay_common::abi::{
    ACTION_STRIP, ACTION_WRAP, Config, Direction, FLAG_POLICED, LISTEN_PORTS_MAX, NEXT_HOP_VALID,
    NextHop, Reason, Station, Terms,
};
use relay_common::wire::channel_data::{ChannelNumber, HEADER_BYTES};
use relay_common::wire::net::{Channel, ETHERNET_BYTES, Ethernet, UDP_BYTES, Udp, be16};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use crate::general::udp_checksum;
use crate::leave::PACKET_BYTES_MAX;
use crate::{Frame, Tables, Verdict, police};

/// The largest untagged frame that may end in something else than its IP packet: Ethernet's
/// minimum without a frame check sequence, and the four bytes of a check sequence or of a channel
/// header put in front. A longer one with a tail is odd enough to go up.
const PADDED_FRAME_BYTES_MAX: u32 = 64;
/// Padding behind the application data at most (RFC 8656 §12.5).
const PADDING_BYTES_MAX: u16 = 3;
const CHANNEL_BYTES: u16 = 4;
/// What a STUN message begins with at most (RFC 7983 §7).
const STUN_FIRST_BYTE_MAX: u8 = 3;
const _: () = assert!(HEADER_BYTES == CHANNEL_BYTES as usize);
const UDP_HEADER_BYTES: u16 = 8;
const _: () = assert!(UDP_BYTES == UDP_HEADER_BYTES as usize);
/// Bytes in front of the IP header of an untagged frame.
pub(crate) const LINK_BYTES: u32 = 14;
const _: () = assert!(ETHERNET_BYTES == LINK_BYTES as usize);

/// The side that a datagram arrived on, and so what is done to it.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// A listening port: ChannelData, with so many bytes of padding.
    Listening(Channel, u16),
    /// A listening port: STUN.
    Stun,
    /// The relayed range: application data from a peer.
    Relayed,
}

/// A map's key as the words that it is stored, hashed and compared in: a word written in parts is
/// slow to read, and the verifier wants words on the stack aligned.
#[repr(C, align(8))]
pub(crate) struct Key<const WORDS: usize>(pub(crate) [u64; WORDS]);

/// The last word of a key: both ports, the channel number, and zeros.
#[inline(always)]
pub(crate) fn key_tail(udp: &Udp, channel: u16) -> u64 {
    zerocopy::transmute!([udp.src, udp.dst, channel, 0])
}

impl<const WORDS: usize> Key<WORDS> {
    /// Word by word: comparing the arrays would be a call that compares bytes.
    #[inline(always)]
    pub(crate) fn is(&self, words: &[u64; WORDS]) -> bool {
        (0..WORDS).all(|index| self.0[index] == words[index])
    }
}

impl Side {
    /// The channel number of a route's key (wire).
    #[inline(always)]
    pub(crate) const fn channel(self) -> u16 {
        match self {
            Self::Listening(channel, _) => channel.number,
            Self::Stun | Self::Relayed => 0,
        }
    }

    #[inline(always)]
    pub(crate) const fn is_listening(self) -> bool {
        matches!(self, Self::Listening(..))
    }
}

/// A UDP datagram as it arrived, its lengths proven.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    /// The frame's interface.
    pub(crate) ingress: u32,
    /// Bytes of the IP header.
    pub(crate) ip_bytes: u16,
    /// Its header.
    pub(crate) udp: Udp,
    /// Hop limit or time to live.
    pub(crate) hop_limit: u8,
}

/// The lengths of frame, IP and UDP agree. `ip_total` is header and payload, bytes, from `ip_at`
/// on.
#[inline(always)]
pub(crate) fn lengths(
    frame: u32,
    ip_at: u32,
    ip_total: u32,
    ip_bytes: u16,
    udp: u16,
) -> Result<(), Reason> {
    let packet_end = ip_total + ip_at;
    let tags = ip_at - LINK_BYTES;
    if u32::from(udp) + u32::from(ip_bytes) != ip_total
        || udp < UDP_HEADER_BYTES
        || packet_end > frame
        || (packet_end < frame && frame > PADDED_FRAME_BYTES_MAX + tags)
    {
        return Err(Reason::Length);
    }
    Ok(())
}

/// Which side a datagram arrived on. `load` fetches the four bytes behind its UDP header.
#[inline(always)]
pub(crate) fn arrival(
    config: &Config,
    udp: &Udp,
    load: impl FnOnce() -> Option<Channel>,
) -> Result<Side, Reason> {
    let port = u16::from_be(udp.dst);
    if (config.relayed_first..=config.relayed_last).contains(&port) {
        return Ok(Side::Relayed);
    }
    if !listens(config, udp.dst) {
        return Err(Reason::NotOurPort);
    }
    let udp_len = u16::from_be(udp.len);
    if udp_len < UDP_HEADER_BYTES + CHANNEL_BYTES {
        return Err(Reason::NotTurn);
    }
    let channel = load().ok_or(Reason::NotTurn)?;
    let [first, _] = channel.number.to_ne_bytes();
    if first <= STUN_FIRST_BYTE_MAX {
        return Ok(Side::Stun);
    }
    if !(ChannelNumber::FIRST..=config.channel_last).contains(&u16::from_be(channel.number)) {
        return Err(Reason::NotTurn);
    }
    let payload = udp_len - UDP_HEADER_BYTES - CHANNEL_BYTES;
    let padding = payload.checked_sub(u16::from_be(channel.len)).ok_or(Reason::ChannelLength)?;
    if padding > PADDING_BYTES_MAX {
        return Err(Reason::ChannelLength);
    }
    Ok(Side::Listening(channel, padding))
}

/// The first place that has the port decides, so it is found at once where there is one port, and
/// where there are few, a miss costs little. The verifier of Linux 6.1 cannot follow a loop to a
/// number that it does not know.
#[inline(always)]
fn listens(config: &Config, port: u16) -> bool {
    const FEW: usize = 4;
    for index in 0..LISTEN_PORTS_MAX {
        if index == FEW && usize::from(config.listen_ports_count) <= FEW {
            return false;
        }
        if config.listen_ports[index] == port {
            return index < usize::from(config.listen_ports_count);
        }
    }
    false
}

/// An untagged frame is for the interface that it arrived on. The stack would not take another
/// either, and whom that one is for may be a relay too.
#[inline(always)]
pub(crate) fn arrived<T: Tables>(
    tables: &T,
    ifindex: u32,
    dst_mac: &[u16; 3],
) -> Result<(), Reason> {
    let station = tables.station(ifindex).filter(|station| station.ifindex == ifindex);
    is_for(dst_mac, station.ok_or(Reason::OtherHost)?)
}

/// A frame is for a station.
#[inline(always)]
pub(crate) fn is_for(dst_mac: &[u16; 3], station: &Station) -> Result<(), Reason> {
    if *dst_mac == station.mac { Ok(()) } else { Err(Reason::OtherHost) }
}

/// A route is of this configuration, and its time is not over. Gives the time.
#[inline(always)]
pub(crate) fn in_force<T: Tables>(
    tables: &T,
    config: &Config,
    terms: &Terms,
) -> Result<u64, Reason> {
    if terms.epoch != config.epoch {
        return Err(Reason::StaleEpoch);
    }
    let now_ns = tables.now_ns();
    if now_ns >= terms.deadline_ns { Err(Reason::Expired) } else { Ok(now_ns) }
}

/// Everything that is needed to rewrite on a straight path, decided.
pub(crate) struct Plan<'t> {
    /// The route's.
    pub(crate) terms: &'t Terms,
    /// The new UDP length (wire).
    pub(crate) udp_len: u16,
    /// What the change of the length adds to a sum that it counts in once.
    pub(crate) length_delta: u16,
    hop: &'t NextHop,
    udp_checksum: u16,
    exit: Verdict,
    direction: Direction,
    /// Application data.
    bytes: u16,
}

impl Plan<'_> {
    /// Whether the allocation's limits let the packet through; it is charged.
    #[inline(always)]
    pub(crate) fn admitted<T: Tables>(&self, tables: &T, now_ns: u64) -> bool {
        let Terms { flags, slot, .. } = *self.terms;
        let bytes = self.bytes.into();
        flags & FLAG_POLICED == 0 || police::admit(tables, (slot, self.direction), now_ns, bytes)
    }

    /// Writes the link header's addresses; a family writes its EtherType.
    #[inline(always)]
    pub(crate) fn write_link(&self, eth: &mut Ethernet) {
        // As words, here and below: fields and arrays are copied in steps of their alignment, which
        // on BPF is sixteen bits at a time.
        let NextHop { dst_mac: [a, b, c], src_mac: [d, e, f], .. } = *self.hop;
        let macs: [u32; 3] = zerocopy::transmute!([a, b, c, d, e, f]);
        [eth.dst, eth.src] = zerocopy::transmute!(macs);
    }

    /// Writes the UDP header.
    #[inline(always)]
    pub(crate) fn write_udp(&self, udp: &mut Udp) {
        let Terms { src_port, dst_port, .. } = *self.terms;
        let ports: u32 = zerocopy::transmute!([src_port, dst_port]);
        let rest: u32 = zerocopy::transmute!([self.udp_len, self.udp_checksum]);
        *udp = zerocopy::transmute!([ports, rest]);
    }

    /// Writes the channel header in front of the application data.
    #[inline(always)]
    pub(crate) fn write_channel(&self, channel: &mut Channel) {
        let word: u32 = zerocopy::transmute!([self.terms.channel, be16(self.bytes)]);
        *channel = zerocopy::transmute!(word);
    }
}

/// Decides what a route does to a datagram that leaves as it came: same wire, no tags, no padding.
/// Whatever is otherwise, or stands in the way, is `None`, and the general path's to judge.
#[inline(always)]
pub(crate) fn plan<'t, T: Tables>(
    tables: &'t T,
    terms: &'t Terms,
    old: &Datagram,
    dst_mac: &[u16; 3],
    side: Side,
) -> Option<Plan<'t>> {
    if old.hop_limit <= 1 {
        return None;
    }
    let change = change(terms, old, side)?;
    let hop = tables.next_hop(terms.next_hop.into())?;
    if [hop.tag_count, hop.state] != [0, NEXT_HOP_VALID] {
        return None;
    }
    let packet_bytes = change.udp_bytes + u32::from(old.ip_bytes);
    if packet_bytes > hop.mtu || packet_bytes > PACKET_BYTES_MAX {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "part of a packet of sixteen bits' length")]
    let udp_len = be16(change.udp_bytes as u16);
    let (direction, reason) = (change.direction, change.reason);
    let exit = if hop.ifindex == old.ingress {
        // Back by the interface that it came in by, whose address this is.
        if *dst_mac != hop.src_mac {
            return None;
        }
        Verdict::Transmit(reason)
    } else if arrived(tables, old.ingress, dst_mac).is_ok() && tables.aim(hop.port) {
        Verdict::Redirect(reason)
    } else {
        return None;
    };
    let length_delta = change.length_delta;
    let added = u32::from(terms.udp_delta) + change.sum + 2 * u32::from(length_delta);
    Some(Plan {
        terms,
        udp_len,
        length_delta,
        hop,
        udp_checksum: udp_checksum(old.udp.checksum, added),
        exit,
        direction,
        bytes: change.bytes,
    })
}

/// What a channel header less or more means.
struct Change {
    direction: Direction,
    reason: Reason,
    /// Application data.
    bytes: u16,
    /// New UDP header and payload; more than UDP can say, at worst.
    udp_bytes: u32,
    /// What the channel header adds to the sum of UDP's checksum.
    sum: u32,
    /// What the length adds to a sum that it counts in once.
    length_delta: u16,
}

#[inline(always)]
fn change(terms: &Terms, old: &Datagram, side: Side) -> Option<Change> {
    let udp_len = u16::from_be(old.udp.len);
    match side {
        Side::Listening(channel, 0) if terms.action == ACTION_STRIP => Some(Change {
            direction: Direction::ClientToPeer,
            reason: Reason::ClientToPeer,
            bytes: udp_len - UDP_HEADER_BYTES - CHANNEL_BYTES,
            udp_bytes: u32::from(udp_len - CHANNEL_BYTES),
            sum: u32::from(!channel.number) + u32::from(!channel.len),
            length_delta: !be16(CHANNEL_BYTES),
        }),
        Side::Relayed if terms.action == ACTION_WRAP => {
            let bytes = udp_len - UDP_HEADER_BYTES;
            Some(Change {
                direction: Direction::PeerToClient,
                reason: Reason::PeerToClient,
                bytes,
                udp_bytes: u32::from(udp_len) + u32::from(CHANNEL_BYTES),
                sum: u32::from(terms.channel) + u32::from(be16(bytes)),
                length_delta: be16(CHANNEL_BYTES),
            })
        }
        Side::Listening(..) | Side::Stun | Side::Relayed => None,
    }
}

/// Moves the frame's start, has the new headers written, and counts. The first change happens
/// here; from it on, only an abort is left.
#[inline(always)]
pub(crate) fn commit<F: Frame, T: Tables, H: FromBytes + IntoBytes + KnownLayout>(
    frame: &mut F,
    tables: &T,
    plan: &Plan<'_>,
    cut: i32,
    write: impl FnOnce(&mut H),
) -> Result<Verdict, Reason> {
    if frame.move_head(cut).is_none() {
        // What goes up is not paid for here.
        if plan.terms.flags & FLAG_POLICED != 0 {
            police::refund(tables, plan.terms.slot, plan.direction, plan.bytes.into());
        }
        return Err(Reason::NoRoom);
    }
    let Some(headers) = frame.headers_mut() else {
        return Ok(Verdict::Abort(Reason::Aborted));
    };
    write(headers);
    tables.count(plan.terms.slot, plan.direction, plan.bytes.into());
    tables.note(plan.exit.reason(), plan.bytes.into());
    Ok(plan.exit)
}

/// [`commit`]'s `cut` for a channel header that is removed.
pub(crate) const STRIP: i32 = CHANNEL_BYTES as i32;
/// [`commit`]'s `cut` for a channel header that is put in front.
pub(crate) const WRAP: i32 = -STRIP;
