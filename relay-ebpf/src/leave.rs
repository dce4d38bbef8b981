//! How a rewritten packet leaves: its next hop, and the writing of its headers with any tags and
//! in either family. What stands in the headers, and whether they may be written, is decided
//! before.

use relay_common::abi::{NEXT_HOP_VALID, NextHop, Reason, TAGS_MAX, Tag};
use relay_common::addr::Family;
use relay_common::wire::net::{Ipv4, Ipv6, PROTOCOL_UDP, Udp, be16, ether_type};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{FibQuery, Frame, Tables, Verdict};

/// The longest IP packet whose lengths fit their fields in both families.
pub(crate) const PACKET_BYTES_MAX: u32 = 0xFFFF;
/// Bytes of the MAC addresses, which tags follow.
pub(crate) const MACS_BYTES: u32 = 12;
pub(crate) const TAG_BYTES: u32 = 4;
const TAGS: u32 = 2;
const _: () = assert!(TAGS_MAX == TAGS as usize);
const ETHER_TYPE_BYTES: u32 = 2;
pub(crate) const UDP_BYTES: u32 = 8;

/// Version 4, no options.
pub(crate) const VERSION_IHL: u8 = 0x45;

/// A network header that can be written.
pub(crate) trait Network: Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// Its EtherType (wire).
    const ETHER_TYPE: u16;
    /// Its bytes.
    const BYTES: u32;
}

impl Network for Ipv4 {
    const ETHER_TYPE: u16 = ether_type::IPV4;
    const BYTES: u32 = 20;
}

impl Network for Ipv6 {
    const ETHER_TYPE: u16 = ether_type::IPV6;
    const BYTES: u32 = 40;
}

const _: () = assert!(size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40);

/// Bytes of a family's header.
#[inline(always)]
pub(crate) const fn ip_bytes(family: Family) -> u32 {
    match family {
        Family::V4 => Ipv4::BYTES,
        Family::V6 => Ipv6::BYTES,
    }
}

/// A packet's way out of the machine.
pub(crate) struct Exit<'t> {
    pub(crate) hop: &'t NextHop,
    /// To another interface, which `Tables::aim` was told of.
    redirected: bool,
}

impl Exit<'_> {
    /// The verdict once the packet is written.
    #[inline(always)]
    pub(crate) const fn verdict(&self, reason: Reason) -> Verdict {
        if self.redirected { Verdict::Redirect(reason) } else { Verdict::Transmit(reason) }
    }
}

/// Finds the way out of a packet of `bytes`, by its next hop, or by the kernel's own routing table
/// when that is not resolved and may be asked. `query`'s length is filled in here.
#[inline(always)]
pub(crate) fn exit<'t, T: Tables>(
    tables: &'t T,
    next_hop: u16,
    ingress: u32,
    bytes: u32,
    query: Option<impl FnOnce() -> FibQuery>,
) -> Result<Exit<'t>, Reason> {
    let Some(bytes) = u16::try_from(bytes).ok() else { return Err(Reason::TooBig) };
    let known = tables.next_hop(next_hop.into()).ok_or(Reason::NextHopUnresolved)?;
    let hop = if known.state == NEXT_HOP_VALID {
        known
    } else {
        let query = query.ok_or(Reason::NextHopUnresolved)?;
        let query = FibQuery { bytes, ..query() };
        tables.fib(&query).ok_or(Reason::NextHopUnresolved)?
    };
    if u32::from(bytes) > hop.mtu {
        return Err(Reason::TooBig);
    }
    if hop.ifindex == ingress {
        Ok(Exit { hop, redirected: false })
    } else if tables.aim(hop.port) {
        Ok(Exit { hop, redirected: true })
    } else {
        Err(Reason::NextHopUnresolved)
    }
}

/// An IPv6 header. `version_class_flow` are its first words (wire), `payload` the UDP datagram's
/// bytes.
#[inline(always)]
pub(crate) fn ipv6(
    version_class_flow: [u16; 2],
    payload: u16,
    hop_limit: u8,
    src: &[u32; 4],
    dst: &[u32; 4],
) -> Ipv6 {
    Ipv6 {
        version_class_flow,
        payload_len: be16(payload),
        next_header: PROTOCOL_UDP,
        hop_limit,
        src: zerocopy::transmute!(*src),
        dst: zerocopy::transmute!(*dst),
    }
}

/// The first words of an IPv6 header without a flow label.
#[inline(always)]
pub(crate) const fn version_class(class: u8) -> [u16; 2] {
    [be16(0x6000 | (class as u16) << 4), 0]
}

/// What stays of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// All from here on.
    pub(crate) kept_at: u32,
    /// Bytes of payload before it, with any content, for the caller to write.
    pub(crate) gap: u32,
    /// Bytes that are cut off the end.
    pub(crate) tail: u32,
    /// Zeros that are put behind the end, after that.
    pub(crate) zeros: u32,
}

/// Puts headers in front of what stays of a frame. Gives the offset of the payload, where the gap
/// begins. The first change happens here: an error before it is a pass, after it an abort.
#[inline(always)]
pub(crate) fn leave<F: Frame, N: Network>(
    frame: &mut F,
    hop: &NextHop,
    ip: impl FnOnce(&mut N),
    udp: &Udp,
    cut: Cut,
) -> Result<u32, Verdict> {
    let Cut { kept_at, gap, mut tail, mut zeros } = cut;
    // The bound is for the verifier: userspace writes no more.
    let tags = u32::from(hop.tag_count).min(TAGS);
    let ip_at = MACS_BYTES + tags * TAG_BYTES + ETHER_TYPE_BYTES;
    let payload_at = ip_at + N::BYTES + UDP_BYTES;
    #[allow(clippy::cast_possible_wrap, reason = "offsets in the headers of one frame")]
    let cut = kept_at as i32 - gap as i32 - payload_at as i32;
    if zeros != 0 {
        // Room behind the frame is found out by taking it, and given back if there is none before.
        move_tail(frame, zeros, Way::Grow).ok_or(Verdict::Pass(Reason::NoRoom))?;
    }
    if frame.move_head(cut).is_none() {
        if zeros != 0 {
            move_tail(frame, zeros, Way::Cut).ok_or(Verdict::Abort(Reason::Aborted))?;
        }
        return Err(Verdict::Pass(Reason::NoRoom));
    }
    if tail == 0 {
        zeros = 0;
    } else {
        tail += zeros;
    }
    shape(frame, hop, tags, ip, udp, [tail, zeros]).ok_or(Verdict::Abort(Reason::Aborted))?;
    Ok(payload_at)
}

/// Which way a frame's end moves.
enum Way {
    Cut,
    Grow,
}

#[inline(always)]
fn move_tail<F: Frame>(frame: &mut F, bytes: u32, way: Way) -> Option<()> {
    #[allow(clippy::cast_possible_wrap, reason = "part of a frame")]
    let bytes = bytes as i32;
    frame.move_tail(match way {
        Way::Cut => bytes,
        Way::Grow => -bytes,
    })
}

/// All that follows the first change.
#[inline(always)]
fn shape<F: Frame, N: Network>(
    frame: &mut F,
    hop: &NextHop,
    tags: u32,
    ip: impl FnOnce(&mut N),
    udp: &Udp,
    [tail, zeros]: [u32; 2],
) -> Option<()> {
    if tail != 0 {
        move_tail(frame, tail, Way::Cut)?;
        if zeros != 0 {
            move_tail(frame, zeros, Way::Grow)?;
        }
    }
    let macs = frame.headers_mut::<[[u16; 3]; 2]>()?;
    *macs = [hop.dst_mac, hop.src_mac];
    let mut at = MACS_BYTES;
    for index in 0..TAGS_MAX {
        if index < tags as usize {
            *frame.at_mut::<Tag>(at)? = hop.tags[index];
            at += TAG_BYTES;
        }
    }
    *frame.at_mut::<u16>(at)? = N::ETHER_TYPE;
    at += ETHER_TYPE_BYTES;
    ip(frame.at_mut::<N>(at)?);
    *frame.at_mut::<Udp>(at + N::BYTES)? = *udp;
    Some(())
}
