//! The kernel programs of `relay-bench`: packet memory and maps around what its library decides.
//!
//! Every unsafe line of the load tool is in this file.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "map values and packet memory are raw pointers in the kernel")]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
