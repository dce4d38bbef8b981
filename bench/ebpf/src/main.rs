//! The kernel programs of `relay-bench`: packet memory and maps around what its library decides.
//!
//! Every unsafe line of the load tool is in this file.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "map values and packet memory are raw pointers in the kernel")]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use relay_bench_ebpf::stage;

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
    let bytes = (ctx.data_end() - ctx.data()) as i32;
    let surplus = bytes - i32::from(template.frame_bytes);
    // SAFETY: the context is the program's own; no reference into the frame exists.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, surplus) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + stage::HEAD_BYTES > end {
        return xdp_action::XDP_ABORTED;
    }
    let mut random = template.random;
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    template.random = random;
    let picked = (u64::from(random) * u64::from(template.picks)) >> 32;
    let source = template.source.wrapping_add(picked as u32).to_be();
    let (first, words) = (start as *mut u16, (start + 2) as *mut [u32; stage::WORDS]);
    // SAFETY: `HEAD_BYTES` end inside the frame, as just tested, and are these two. A test run's
    // data begins at a multiple of eight and the frame `LEAD_BYTES` behind that, moved by
    // multiples of four since: `start` is even, and `start + 2` a multiple of four.
    let (first, words) = unsafe { (&mut *first, &mut *words) };
    *first = template.first;
    for index in 0..stage::WORDS {
        // SAFETY: a reference. Volatile, or the loop becomes a call of a `memcpy` by bytes.
        unsafe { core::ptr::write_volatile(&mut words[index], template.words[index]) };
    }
    if template.source_word == stage::SOURCE_WORD_V6 {
        words[stage::SOURCE_WORD_V6 as usize] = source;
    } else {
        words[stage::SOURCE_WORD_V4 as usize] = source;
    }
    // SAFETY: nothing here has a destructor.
    unsafe { STAGE_SUBJECT.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
