//! What both families share: whether a datagram is for us, whether its route may be used, and the
//! writing of the result. Knows UDP and ChannelData, nothing of IP.

use relay_common::abi::{
    ACTION_STRIP, ACTION_WRAP, Config, Direction, LISTEN_PORTS_MAX, NEXT_HOP_VALID, NextHop,
    Reason, Route,
};
use relay_common::wire::channel_data::{ChannelNumber, HEADER_BYTES};
use relay_common::wire::checksum;
use relay_common::wire::net::{Channel, ETHERNET_BYTES, Ethernet, UDP_BYTES, Udp, be16};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use crate::{Frame, Tables, Verdict};

/// The largest frame that may end in something else than its IP packet: Ethernet's minimum without
/// a frame check sequence, and the four bytes of a check sequence or of a channel header put in
/// front. A longer one with a tail is odd enough to go up.
const PADDED_FRAME_BYTES_MAX: u32 = 64;
/// The longest IP packet whose lengths fit their fields in both families.
const PACKET_BYTES_MAX: u32 = 0xFFFF;
const CHANNEL_BYTES: u16 = 4;
const _: () = assert!(HEADER_BYTES == CHANNEL_BYTES as usize);
const UDP_HEADER_BYTES: u16 = 8;
const _: () = assert!(UDP_BYTES == UDP_HEADER_BYTES as usize);
const LINK_HEADER_BYTES: u32 = 14;
const _: () = assert!(ETHERNET_BYTES == LINK_HEADER_BYTES as usize);

/// The side that a datagram arrived on, and so what is done to it.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// A listening port: the channel header is removed.
    Listening(Channel),
    /// The relayed range: a channel header is put in front.
    Relayed,
}

impl Side {
    /// The channel number of a route's key (wire).
    #[inline(always)]
    pub(crate) const fn channel(self) -> u16 {
        match self {
            Self::Listening(channel) => channel.number,
            Self::Relayed => 0,
        }
    }
}

/// A UDP datagram as it arrived, its lengths proven.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    /// The frame's interface.
    pub(crate) ingress: u32,
    /// Bytes of the IP header.
    pub(crate) ip_bytes: u16,
    /// UDP's length field (wire) and checksum.
    pub(crate) len: u16,
    pub(crate) checksum: u16,
    /// Hop limit or time to live.
    pub(crate) hop_limit: u8,
}

/// The lengths of frame, IP and UDP agree. `ip_total` is header and payload, bytes.
#[inline(always)]
pub(crate) fn lengths(frame: u32, ip_total: u32, ip_bytes: u16, udp: u16) -> Result<(), Reason> {
    let packet_end = ip_total + LINK_HEADER_BYTES;
    if u32::from(udp) + u32::from(ip_bytes) != ip_total
        || udp < UDP_HEADER_BYTES
        || packet_end > frame
        || (packet_end < frame && frame > PADDED_FRAME_BYTES_MAX)
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
    if !(ChannelNumber::FIRST..=config.channel_last).contains(&u16::from_be(channel.number)) {
        return Err(Reason::NotTurn);
    }
    // RFC 8656 §12.5 allows padding over UDP; a datagram with any goes up.
    if u16::from_be(channel.len) != udp_len - UDP_HEADER_BYTES - CHANNEL_BYTES {
        return Err(Reason::ChannelLength);
    }
    Ok(Side::Listening(channel))
}

#[inline(always)]
fn listens(config: &Config, port: u16) -> bool {
    for index in 0..LISTEN_PORTS_MAX {
        if index >= usize::from(config.listen_ports_count) {
            return false;
        }
        if config.listen_ports[index] == port {
            return true;
        }
    }
    false
}

/// Everything that is needed to rewrite, decided.
pub(crate) struct Plan<'t> {
    /// The route.
    pub(crate) route: &'t Route,
    /// The new hop limit.
    pub(crate) hop_limit: u8,
    /// The new UDP length (wire).
    pub(crate) udp_len: u16,
    hop: &'t NextHop,
    udp_checksum: u16,
    exit: Verdict,
    direction: Direction,
    /// Application data.
    bytes: u16,
}

impl Plan<'_> {
    /// Writes the link header's addresses; a family writes its EtherType.
    #[inline(always)]
    pub(crate) fn write_link(&self, eth: &mut Ethernet) {
        eth.dst = self.hop.dst_mac;
        eth.src = self.hop.src_mac;
    }

    /// Writes the UDP header.
    #[inline(always)]
    pub(crate) fn write_udp(&self, udp: &mut Udp) {
        udp.src = self.route.src_port;
        udp.dst = self.route.dst_port;
        udp.len = self.udp_len;
        udp.checksum = self.udp_checksum;
    }

    /// Writes the channel header in front of the application data.
    #[inline(always)]
    pub(crate) fn write_channel(&self, channel: &mut Channel) {
        channel.number = self.route.channel;
        channel.len = be16(self.bytes);
    }
}

/// Decides what a route does to a datagram. Nothing is written before this returns.
#[inline(always)]
pub(crate) fn plan<'t, T: Tables>(
    tables: &'t T,
    config: &Config,
    route: &'t Route,
    old: &Datagram,
    side: Side,
) -> Result<Plan<'t>, Reason> {
    if route.epoch != config.epoch {
        return Err(Reason::StaleEpoch);
    }
    if tables.now_ns() >= route.deadline_ns {
        return Err(Reason::Expired);
    }
    // RFC 8656 §14: the hop limit is decremented; userspace sees what may travel no further.
    if old.hop_limit <= 1 {
        return Err(Reason::HopLimit);
    }
    let change = change(route, old, side)?;
    let hop = tables.next_hop(route.next_hop.into()).ok_or(Reason::NextHopUnresolved)?;
    if hop.state != NEXT_HOP_VALID {
        return Err(Reason::NextHopUnresolved);
    }
    let packet_bytes = change.udp_bytes + u32::from(old.ip_bytes);
    if packet_bytes > hop.mtu || packet_bytes > PACKET_BYTES_MAX {
        return Err(Reason::TooBig);
    }
    #[allow(clippy::cast_possible_truncation, reason = "part of a packet of sixteen bits' length")]
    let udp_len = be16(change.udp_bytes as u16);
    let direction = change.direction;
    let reason = match direction {
        Direction::ClientToPeer => Reason::ClientToPeer,
        Direction::PeerToClient => Reason::PeerToClient,
    };
    let bytes = change.bytes.into();
    let exit = if hop.ifindex == old.ingress {
        Verdict::Transmit { reason, bytes }
    } else if tables.aim(hop.port) {
        Verdict::Redirect { reason, bytes, port: hop.port }
    } else {
        return Err(Reason::NextHopUnresolved);
    };
    Ok(Plan {
        route,
        hop_limit: old.hop_limit - 1,
        udp_len,
        hop,
        udp_checksum: udp_checksum(old, udp_len, u32::from(route.udp_delta) + change.sum),
        exit,
        direction,
        bytes: change.bytes,
    })
}

/// What a channel header less or more means.
struct Change {
    direction: Direction,
    /// Application data.
    bytes: u16,
    /// New UDP header and payload; more than UDP can say, at worst.
    udp_bytes: u32,
    /// What it adds to the sum of UDP's checksum.
    sum: u32,
}

#[inline(always)]
fn change(route: &Route, old: &Datagram, side: Side) -> Result<Change, Reason> {
    let udp_len = u16::from_be(old.len);
    match side {
        Side::Listening(channel) if route.action == ACTION_STRIP => Ok(Change {
            direction: Direction::ClientToPeer,
            bytes: udp_len - UDP_HEADER_BYTES - CHANNEL_BYTES,
            udp_bytes: u32::from(udp_len - CHANNEL_BYTES),
            sum: u32::from(!channel.number) + u32::from(!channel.len),
        }),
        Side::Relayed if route.action == ACTION_WRAP => {
            let bytes = udp_len - UDP_HEADER_BYTES;
            Ok(Change {
                direction: Direction::PeerToClient,
                bytes,
                udp_bytes: u32::from(udp_len) + u32::from(CHANNEL_BYTES),
                sum: u32::from(route.channel) + u32::from(be16(bytes)),
            })
        }
        Side::Listening(_) | Side::Relayed => Err(Reason::UnknownAction),
    }
}

/// The checksum is adjusted, never computed: what was wrong on the way here stays wrong.
#[inline(always)]
fn udp_checksum(old: &Datagram, len: u16, added: u32) -> u16 {
    if old.checksum == 0 {
        return 0;
    }
    // UDP's length counts twice: in its header and in the pseudo-header.
    let lengths = 2 * (u32::from(len) + u32::from(!old.len));
    match checksum::update(old.checksum, added + lengths) {
        // RFC 768: zero would say that there is none.
        0 => 0xFFFF,
        sum => sum,
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
    frame.move_head(cut).ok_or(Reason::NoRoom)?;
    let Some(headers) = frame.headers_mut() else {
        return Ok(Verdict::Abort(Reason::Aborted));
    };
    write(headers);
    tables.count(plan.route.slot, plan.direction, u32::from(plan.bytes));
    Ok(plan.exit)
}

/// [`commit`]'s `cut` for a channel header that is removed.
pub(crate) const STRIP: i32 = CHANNEL_BYTES as i32;
/// [`commit`]'s `cut` for a channel header that is put in front.
pub(crate) const WRAP: i32 = -STRIP;
