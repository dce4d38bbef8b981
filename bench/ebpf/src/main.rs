//! The kernel programs of `relay-bench`: packet memory and maps around what its library decides.
//!
//! Every unsafe line of the load tool is in this file.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "map values and packet memory are raw pointers in the kernel")]

mod seen;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::btf_maps::{Array, DevMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use relay_bench_ebpf::arrival::Arrival;
use relay_bench_ebpf::pace::{GeneratorConfig, GeneratorState, LEAN_BURST, Pace};
use relay_bench_ebpf::packet::{
    self, Checksum, GeneratorFlow, HEADER_WORDS, IMAGE_WORDS, LeanFlow, Payload, STAMP_WORDS,
    SinkConfig, SinkCounts, SinkFlow,
};
use relay_bench_ebpf::{FLOWS_MAX, stage, state};
use relay_common::wire::checksum::sum_words;
use relay_common::wire::net::{Channel, ETHERNET_BYTES, Ipv4, PROTOCOL_UDP, UDP_BYTES, be16};

use crate::seen::Seen;

/// How often one run of the generator looks at the clock before it gives the CPU back.
const LOOKS_MAX: u32 = 128;
/// Bytes of the largest frame.
const FRAME_BYTES_MAX: u32 = 1514;

#[btf_map]
static GENERATOR_CONFIG: Array<GeneratorConfig, 1> = Array::new();
#[btf_map]
static GENERATOR_STATE: Array<GeneratorState, 1> = Array::new();
#[btf_map]
static GENERATOR_FLOWS: Array<GeneratorFlow, { FLOWS_MAX as usize }> = Array::new();
#[btf_map]
static LEAN_FLOWS: Array<LeanFlow, { FLOWS_MAX as usize }> = Array::new();
#[btf_map]
static IMAGE: Array<[u64; IMAGE_WORDS], 1> = Array::new();
#[btf_map]
static SINK_CONFIG: Array<SinkConfig, 1> = Array::new();
#[btf_map]
static SINK_FLOWS: Array<SinkFlow, { FLOWS_MAX as usize }> = Array::new();
#[btf_map]
static SINK_COUNTS: PerCpuArray<SinkCounts, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<Payload, 1> = PerCpuArray::new();

/// Passes every frame.
#[xdp]
fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sends every frame back, with its MAC addresses exchanged.
#[xdp]
fn reflector(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<[[u16; 3]; 2]>() > end {
        return xdp_action::XDP_PASS;
    }
    let macs = start as *mut [[u16; 3]; 2];
    // SAFETY: both addresses end inside the frame, as just tested; the frame starts at an even
    // address and is this program's alone until it returns.
    unsafe { (*macs).swap(0, 1) };
    xdp_action::XDP_TX
}

/// A flow's line; on pages, so that none lies in more lines of the cache than it has to.
#[btf_map]
static FLOW_STATE: Array<state::Line, { state::LINES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// As `reflector`, but what it adds to the MAC addresses stands in the flow's line: zeros.
#[xdp]
fn stateful_reflector(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + packet::PORTS_AT + size_of::<[u16; 2]>() > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the ports end inside the frame, as just tested; frames start at even addresses.
    let ports = unsafe { *((start + packet::PORTS_AT) as *const [u16; 2]) };
    let Some(line) = FLOW_STATE.get(state::line(ports)) else { return xdp_action::XDP_ABORTED };
    // SAFETY: as in `reflector`, and the addresses stand in front of the ports.
    let macs = unsafe { &mut *(start as *mut [[u16; 3]; 2]) };
    let [dst, src] = *macs;
    for word in 0..3 {
        macs[0][word] = src[word] ^ line[word];
        macs[1][word] = dst[word] ^ line[3 + word];
    }
    xdp_action::XDP_TX
}

#[btf_map]
static REDIRECT_MACS: Array<[u16; 6], 1> = Array::new();
#[btf_map]
static REDIRECT_PORT: DevMap<1> = DevMap::new();

/// Sends every frame out of another interface, with the MAC addresses of that link.
#[xdp]
fn redirector(ctx: XdpContext) -> u32 {
    let Some(macs) = REDIRECT_MACS.get(0) else { return xdp_action::XDP_ABORTED };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of_val(macs) > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: as in `reflector`.
    unsafe { *(start as *mut [u16; 6]) = *macs };
    REDIRECT_PORT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

#[btf_map]
static STAGE_TEMPLATE: Array<stage::Template, 1> = Array::new();
#[btf_map]
static STAGE_SUBJECT: ProgramArray<1> = ProgramArray::new();

/// Restores the frame and calls the subject.
#[xdp]
fn stage(ctx: XdpContext) -> u32 {
    let Some(template) = STAGE_TEMPLATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the only element of the map. Test runs of this program are not run side by side.
    let template = unsafe { &mut *template };
    let mut bytes = (ctx.data_end() - ctx.data()) as i32;
    if template.out_tail != 0 {
        let changed = bytes == i32::from(template.out_bytes);
        // By nothing as well, so that it costs the same after programs that leave the tail alone.
        let tail = if changed { i32::from(template.out_tail) } else { 0 };
        // SAFETY: the context is the program's own; no reference into the frame exists.
        if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -tail) } != 0 {
            return xdp_action::XDP_ABORTED;
        }
        bytes -= tail;
    }
    let surplus = bytes - i32::from(template.frame_bytes);
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, surplus) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 2 + size_of::<[u32; stage::WORDS_MIN]>() > end {
        return xdp_action::XDP_ABORTED;
    }
    let mut random = template.random;
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    template.random = random;
    let picked = (u64::from(random) * u64::from(template.picks)) >> 32;
    let source = template.source.wrapping_add(picked as u32).to_be();
    for index in 0..stage::WORDS_MAX {
        let place = start + 2 + 4 * index;
        if index >= usize::from(template.words_count) || place + 4 > end {
            break;
        }
        // SAFETY: the word ends inside the frame, as just tested. A test run's data begins at a
        // multiple of eight and the frame `LEAD_BYTES` behind that, moved by multiples of four
        // since: `start` is even, and `start + 2` a multiple of four. Volatile, or the loop becomes
        // a call of a `memcpy` by bytes.
        unsafe { core::ptr::write_volatile(place as *mut u32, template.words[index]) };
    }
    let (first, words) = (start as *mut u16, (start + 2) as *mut [u32; stage::WORDS_MIN]);
    // SAFETY: aligned as above; two bytes and `WORDS_MIN` words end inside the frame, as tested
    // before the loop.
    let (first, words) = unsafe { (&mut *first, &mut *words) };
    *first = template.first;
    if template.source_word == stage::SOURCE_WORD_V6 {
        words[stage::SOURCE_WORD_V6 as usize] = source;
    } else {
        words[stage::SOURCE_WORD_V4 as usize] = source;
    }
    // SAFETY: nothing here has a destructor.
    unsafe { STAGE_SUBJECT.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Makes the next packet out of the frame of a test run and sends it, when it is due. A frame
/// without a packet is dropped: the kernel uses it again.
#[xdp]
fn generator(ctx: XdpContext) -> u32 {
    let (Some(config), Some(state)) = (GENERATOR_CONFIG.get(0), GENERATOR_STATE.get_ptr_mut(0))
    else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: an element of a map; one thread runs this program, and nothing else writes it.
    let state = unsafe { &mut *state };
    let Some(now) = wait(config, state) else { return xdp_action::XDP_DROP };
    if stamp(&ctx, config, state).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    state.sent(config, now);
    xdp_action::XDP_TX
}

/// Waits until the next packet is due: the time then, or `None` when it is not due soon or ever.
#[inline(always)]
fn wait(config: &GeneratorConfig, state: &mut GeneratorState) -> Option<u64> {
    for _ in 0..LOOKS_MAX {
        // SAFETY: neither helper takes anything, and neither can fail. Flat out, the end is all
        // that the clock is for, and the coarse one costs less.
        let now = unsafe {
            if config.rate == 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() }
        };
        match state.pace(config, now) {
            Pace::Send => return Some(now),
            Pace::Wait => {}
            Pace::Over => {
                state.is_over = 1;
                return None;
            }
        }
    }
    state.idle += 1;
    None
}

/// Writes the whole frame: one that was sent before still holds what its receivers made of it.
#[inline(always)]
fn stamp(ctx: &XdpContext, config: &GeneratorConfig, state: &GeneratorState) -> Option<()> {
    let flow = GENERATOR_FLOWS.get(state.flow)?;
    // SAFETY: an element of a map; one thread runs this program, and userspace writes the image
    // only before.
    let image = unsafe { &mut *IMAGE.get_ptr_mut(0)? };
    for (word, header) in image.iter_mut().zip(&flow.headers) {
        *word = *header;
    }
    let seal = packet::seal(flow.tag, state.sequence);
    let payload = config.payload_word as usize;
    if payload > HEADER_WORDS {
        return None;
    }
    let stamped = [flow.tag, state.sequence, seal];
    for (index, word) in stamped.iter().enumerate().take(STAMP_WORDS) {
        image[payload + index] = *word;
    }
    let checksum = packet::udp_checksum(flow.sum, state.sequence, seal);
    let place = config.checksum_word as usize;
    if place >= HEADER_WORDS {
        return None;
    }
    image[place] |= u64::from(checksum) << (config.checksum_shift & 63);
    let bytes = config.frame_bytes;
    if bytes == 0 || bytes > FRAME_BYTES_MAX {
        return None;
    }
    let lead = config.lead as usize & 7;
    // SAFETY: lead and bytes stay inside the image (7 + 1514 < 8 × 192); the helper tests that the
    // frame is as large.
    let stored = unsafe {
        let from = image.as_mut_ptr().cast::<u8>().add(lead);
        bpf_xdp_store_bytes(ctx.ctx, 0, from.cast(), bytes)
    };
    (stored == 0).then_some(())
}

/// As `generator`, at less cost: writes only what differs between the frames of a run, and looks
/// at the clock once in [`LEAN_BURST`] packets.
#[xdp]
fn generator_lean(ctx: XdpContext) -> u32 {
    let (Some(config), Some(state)) = (GENERATOR_CONFIG.get(0), GENERATOR_STATE.get_ptr_mut(0))
    else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: as in `generator`.
    let state = unsafe { &mut *state };
    let in_burst = state.sent % LEAN_BURST != 0;
    let now = if in_burst { Some(state.sent_ns) } else { wait(config, state) };
    let Some(now) = now else { return xdp_action::XDP_DROP };
    if stamp_lean(&ctx, config, state).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    state.sent(config, now);
    xdp_action::XDP_TX
}

/// Writes headers and stamp; the rest of the frame is as the test run was given it.
#[inline(always)]
fn stamp_lean(ctx: &XdpContext, config: &GeneratorConfig, state: &GeneratorState) -> Option<()> {
    let (first, flow) = (GENERATOR_FLOWS.get(0)?, LEAN_FLOWS.get(state.flow)?);
    let (start, end) = (ctx.data(), ctx.data_end());
    let head = start as *mut [u64; HEADER_WORDS];
    let number = config.sequence_at.wrapping_sub(packet::LEAN_NUMBER_BEFORE as u32);
    let stamp_at = start + (number & 0x7E) as usize;
    let stamp = stamp_at as *mut [u16; packet::LEAN_STAMP_WORDS];
    if start + size_of_val(&first.headers) > end
        || stamp_at + size_of::<[u16; packet::LEAN_STAMP_WORDS]>() > end
    {
        return None;
    }
    let ports = (start + packet::PORTS_AT) as *mut [u16; 2];
    let checksum = (start + packet::LEAN_CHECKSUM_AT) as *mut u16;
    // SAFETY: headers and stamp end inside the frame, as just tested, and ports and checksum lie
    // in the headers; only one of the pointers is used at a time. A test run's data begins at a
    // multiple of eight, and everything but the headers is at an even offset.
    unsafe {
        for (index, word) in first.headers.iter().enumerate() {
            // Volatile, or the loop becomes a call of a `memmove` by bytes.
            core::ptr::write_volatile(&raw mut (*head)[index], *word);
        }
        *ports = flow.ports;
        *checksum = flow.checksum;
        *stamp = packet::lean_stamp(flow.number, state.sequence);
    }
    Some(())
}

/// Takes the run's packets off the interface and passes everything else.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    let (Some(config), Some(counts)) = (SINK_CONFIG.get(0), SINK_COUNTS.get_ptr_mut(0)) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: an element of a per-CPU map, and XDP does not nest on a CPU.
    let counts = unsafe { &mut *counts };
    let seen = if config.family == 4 { Seen::v4(&ctx) } else { Seen::v6(&ctx) };
    if config.flows == 0 || seen.and_then(|seen| take(&ctx, config, counts, &seen)).is_none() {
        counts.passed += 1;
        return xdp_action::XDP_PASS;
    }
    xdp_action::XDP_DROP
}

/// Judges a packet of the run; `None` if it is none.
#[inline(always)]
fn take(ctx: &XdpContext, config: &SinkConfig, counts: &mut SinkCounts, seen: &Seen) -> Option<()> {
    let framed = config.channel != 0;
    let payload = seen.at + UDP_BYTES + if framed { size_of::<Channel>() } else { 0 };
    let stamp: &[[u16; 4]; STAMP_WORDS] = at(ctx, payload)?;
    let [tag, sequence, seal] = stamp.map(word);
    let is_common = seen.is_common(config);
    let mut sound = seen.is_whole;
    if framed {
        let channel: &Channel = at(ctx, seen.at + UDP_BYTES)?;
        if is_common && channel.number != config.channel {
            return None;
        }
        sound &= u32::from(u16::from_be(channel.len)) == config.payload_bytes;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the tag's two halves")]
    let (run, number) = (tag as u32, (tag >> 32) as u32);
    if run != config.run && !is_common {
        return None;
    }
    counts.packets += 1;
    // Whole words, here and in `is_intact`: the verifier loses a bound over a narrowing.
    let bytes = usize::from(u16::from_be(seen.udp.len)).wrapping_sub(payload - seen.at);
    sound &= packet::is_length(bytes, config.payload_bytes, framed);
    sound &= ctx.data_end() - ctx.data() >= payload.wrapping_add(bytes);
    if run != config.run || packet::seal(tag, sequence) != seal {
        counts.damaged += 1;
        return Some(());
    }
    let Some(flow) = SINK_FLOWS.get_ptr_mut(number).filter(|_| number < config.flows) else {
        counts.damaged += 1;
        return Some(());
    };
    // SAFETY: an element of a map, plain words. A flow's packets come by one receive queue, which
    // one CPU at a time serves. Where they come by several, two CPUs may write the element at
    // once: an update of its window or its counts is lost then, and a duplicate or a reordered
    // packet may be taken for another kind of arrival; what each CPU counts for itself is exact.
    let flow = unsafe { &mut *flow };
    if !sound {
        counts.damaged += 1;
        flow.wrong += 1;
        return Some(());
    }
    if !seen.is_between(&flow.ends, config) {
        counts.misdelivered += 1;
        flow.wrong += 1;
        return Some(());
    }
    // The first one is checked too: a short run has a sample.
    if packet::is_sampled(seal, config.sample) || counts.sampled == 0 {
        counts.sampled += 1;
        // A packet that cannot be looked at is not what was sent.
        let intact = is_intact(ctx, config, counts, seen, payload, bytes).unwrap_or_else(|| {
            counts.corrupted += 1;
            false
        });
        if !intact {
            flow.wrong += 1;
            return Some(());
        }
    }
    arrived(counts, flow, sequence);
    Some(())
}

#[inline(always)]
fn arrived(counts: &mut SinkCounts, flow: &mut SinkFlow, sequence: u64) {
    match flow.window.arrive(sequence) {
        Arrival::InOrder => {
            counts.received += 1;
            flow.received += 1;
        }
        Arrival::Reordered => {
            counts.received += 1;
            counts.reordered += 1;
            flow.received += 1;
            flow.reordered += 1;
        }
        Arrival::Duplicate => {
            counts.duplicates += 1;
            flow.duplicates += 1;
        }
        Arrival::TooLate => {
            counts.too_late += 1;
            flow.too_late += 1;
        }
    }
}

/// As `sink`, for the packets of `generator_lean`: looks at the common end, the lengths and the
/// stamp of every packet, and at flow, addresses and bytes only in the sample.
#[xdp]
fn sink_lean(ctx: XdpContext) -> u32 {
    let (Some(config), Some(counts)) = (SINK_CONFIG.get(0), SINK_COUNTS.get_ptr_mut(0)) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: as in `sink`.
    let counts = unsafe { &mut *counts };
    let seen = Seen::v4(&ctx).filter(|seen| config.flows != 0 && seen.is_common(config));
    if seen.and_then(|seen| take_lean(&ctx, config, counts, &seen)).is_none() {
        counts.passed += 1;
        return xdp_action::XDP_PASS;
    }
    xdp_action::XDP_DROP
}

/// Judges a packet to or from the run's common end; `None` if it is not the run's.
#[inline(always)]
fn take_lean(
    ctx: &XdpContext,
    config: &SinkConfig,
    counts: &mut SinkCounts,
    seen: &Seen,
) -> Option<()> {
    let framed = config.channel != 0;
    let payload = seen.at + UDP_BYTES + if framed { size_of::<Channel>() } else { 0 };
    let stamp: &[[u16; 4]; STAMP_WORDS] = at(ctx, payload)?;
    let [tag, sequence, seal] = stamp.map(word);
    #[allow(clippy::cast_possible_truncation, reason = "the tag's two halves")]
    let (run, number) = (tag as u32, (tag >> 32) as u32);
    if run != config.run {
        return None;
    }
    counts.packets += 1;
    let bytes = usize::from(u16::from_be(seen.udp.len)).wrapping_sub(payload - seen.at);
    let sound = seen.is_whole
        && packet::is_length(bytes, config.payload_bytes, framed)
        && ctx.data_end() - ctx.data() >= payload.wrapping_add(bytes)
        && packet::lean_seal(sequence) == seal;
    let flow = SINK_FLOWS.get(number).filter(|_| sound && number < config.flows);
    let Some(flow) = flow else {
        counts.damaged += 1;
        return Some(());
    };
    if packet::is_sampled(packet::seal(tag, sequence), config.sample) || counts.sampled == 0 {
        counts.sampled += 1;
        let mut channel_holds = true;
        if framed {
            let channel: &Channel = at(ctx, seen.at + UDP_BYTES)?;
            channel_holds = channel.number == config.channel;
        }
        if !seen.is_between(&flow.ends, config) || !channel_holds {
            counts.misdelivered += 1;
            return Some(());
        }
        let intact = is_intact(ctx, config, counts, seen, payload, bytes).unwrap_or_else(|| {
            counts.corrupted += 1;
            false
        });
        if !intact {
            return Some(());
        }
    }
    counts.received += 1;
    Some(())
}

/// Checks every byte and both checksums; counts what is wrong.
#[inline(always)]
fn is_intact(
    ctx: &XdpContext,
    config: &SinkConfig,
    counts: &mut SinkCounts,
    seen: &Seen,
    payload: usize,
    bytes: usize,
) -> Option<bool> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // One value for every test and use below: the verifier does not carry a bound from one to
    // another that the compiler computes again.
    let bytes = core::hint::black_box(bytes);
    // A word less than there is: the verifier does not see that a length is cut to whole words.
    if bytes == 0 || bytes > size_of::<Payload>() - size_of::<u64>() {
        return None;
    }
    // SAFETY: an element of a per-CPU map, and XDP does not nest on a CPU.
    let scratch = unsafe { &mut *scratch };
    // The last word's bytes behind the payload stay zero.
    *scratch.get_mut((bytes - 1) / 8)? = 0;
    // SAFETY: `bytes` are no more than the scratch has, and the helper tests that the frame has
    // them.
    let loaded = unsafe {
        let to = scratch.as_mut_ptr();
        bpf_xdp_load_bytes(ctx.ctx, payload as u32, to.cast(), bytes as u32)
    };
    let (intact, data) = packet::examine(config, scratch, bytes.div_ceil(8));
    let Seen { ends, udp, .. } = seen;
    let addresses = u64::from(sum_words(&ends.src) + sum_words(&ends.dst));
    let pseudo = addresses + u64::from(be16(u16::from(PROTOCOL_UDP))) + u64::from(udp.len);
    let mut rest = data + u64::from(udp.src) + u64::from(udp.dst) + u64::from(udp.len);
    if config.channel != 0 {
        let channel: &Channel = at(ctx, seen.at + UDP_BYTES)?;
        rest += u64::from(channel.number) + u64::from(channel.len);
    }
    let mut sums_hold = true;
    match packet::judge_checksum(udp.checksum, pseudo, rest) {
        Checksum::Right => {}
        Checksum::Partial => counts.partial_checksum += 1,
        Checksum::Absent if config.family == 4 => counts.no_checksum += 1,
        Checksum::Absent | Checksum::Wrong => sums_hold = false,
    }
    if config.family == 4 {
        let header: &[u16; size_of::<Ipv4>() / 2] = at(ctx, ETHERNET_BYTES)?;
        sums_hold &= packet::fold(u64::from(sum_words(header))) == 0xFFFF;
    }
    let intact = intact && loaded == 0;
    counts.corrupted += u64::from(!intact);
    counts.bad_checksum += u64::from(intact && !sums_hold);
    Some(intact && sums_hold)
}

/// A header that begins at an even offset of the frame.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    const { assert!(align_of::<T>() <= 2) };
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: it ends inside the frame, as just tested, any bytes are one (the types here are
    // words), and nobody writes to the frame while the sink looks at it.
    Some(unsafe { &*(start as *const T) })
}

/// A word as it lies in the packet.
#[inline(always)]
fn word(halves: [u16; 4]) -> u64 {
    let [a, b, c, d] = halves.map(u64::from);
    a | b << 16 | c << 32 | d << 48
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
