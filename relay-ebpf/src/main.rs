//! The kernel program: maps, packet memory, and verdicts as XDP actions around the step.
//!
//! Every unsafe line of the datapath is in this file. No rule of relaying is.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "map values and packet memory are raw pointers in the kernel")]

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::btf_maps::{Array, DevMap, HashMap, PerCpuArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use relay_common::abi::{
    self, Config, Count, Direction, NextHop, Reason, Route, RouteKeyV4, RouteKeyV6,
};
use relay_ebpf::{Frame, Tables, Verdict, step};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[btf_map]
static ROUTES_V4: HashMap<RouteKeyV4, Route, { abi::ROUTES_MAX as usize }> = HashMap::new();
#[btf_map]
static ROUTES_V6: HashMap<RouteKeyV6, Route, { abi::ROUTES_MAX as usize }> = HashMap::new();
#[btf_map]
static NEXT_HOPS: Array<NextHop, { abi::NEXT_HOPS_MAX as usize }> = Array::new();
#[btf_map]
static PORTS: DevMap<{ abi::PORTS_MAX as usize }> = DevMap::new();
#[btf_map]
static SLOTS: PerCpuArray<Count, { abi::SLOTS_MAX as usize * Direction::ALL.len() }> =
    PerCpuArray::new();
#[btf_map]
static REASONS: PerCpuArray<Count, { Reason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
/// Its size is the ABI version; see `abi::map::ABI`.
#[btf_map]
static ABI: Array<u32, { abi::ABI_VERSION as usize }> = Array::new();

/// The frame behind an XDP context.
struct Packet(*mut xdp_md);

impl Packet {
    #[inline(always)]
    fn start<T>(&self) -> Option<*mut T> {
        // SAFETY: the kernel hands the program a valid context, and the verifier knows its fields.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // Frames start at even addresses, and no header here asks for more.
        const { assert!(align_of::<T>() <= 2) };
        if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn headers<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<&T> {
        let headers = self.start::<T>()?;
        // SAFETY: `start` proved that `T` ends inside the frame, and any bytes are a `T`. The frame
        // is this program's alone until it returns, and it stays where it is until `move_head`,
        // which the borrow excludes.
        Some(unsafe { &*headers })
    }

    #[inline(always)]
    fn headers_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T> {
        let headers = self.start::<T>()?;
        // SAFETY: as in `headers`; XDP lets a program write to its frame.
        Some(unsafe { &mut *headers })
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: the context is the program's own, and no reference into the frame outlives this
        // call: they borrow `self`.
        (unsafe { bpf_xdp_adjust_head(self.0, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        // SAFETY: as in `start`.
        unsafe { (*self.0).data_end - (*self.0).data }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as in `start`.
        unsafe { (*self.0).ingress_ifindex }
    }
}

struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn route_v4(&self, key: &RouteKeyV4) -> Option<&Route> {
        // SAFETY: this program writes no route; docs/datapath.md says what a concurrent write by
        // userspace can show.
        unsafe { ROUTES_V4.get(key) }
    }

    #[inline(always)]
    fn route_v6(&self, key: &RouteKeyV6) -> Option<&Route> {
        // SAFETY: as in `route_v4`.
        unsafe { ROUTES_V6.get(key) }
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(index)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn aim(&self, port: u32) -> bool {
        // The helper only notes the target; the frame moves when XDP_REDIRECT is returned.
        PORTS.redirect(port, 0).is_ok()
    }

    #[inline(always)]
    fn count(&self, slot: u32, direction: Direction, bytes: u32) {
        let index = slot.wrapping_mul(2).wrapping_add(direction as u32);
        add(SLOTS.get_ptr_mut(index), bytes);
        let relayed = match direction {
            Direction::ClientToPeer => Reason::ClientToPeer,
            Direction::PeerToClient => Reason::PeerToClient,
        };
        add(REASONS.get_ptr_mut(relayed as u32), bytes);
    }
}

#[inline(always)]
fn add(count: Option<*mut Count>, bytes: u32) {
    if let Some(count) = count {
        // SAFETY: an element of a per-CPU map, and XDP does not nest on a CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(bytes);
        }
    }
}

/// The entry point, on every frame of an interface.
#[xdp]
fn turnpike(ctx: XdpContext) -> u32 {
    let verdict = step(&mut Packet(ctx.ctx), &Maps);
    let (action, reason) = match verdict {
        Verdict::Transmit { .. } => return xdp_action::XDP_TX,
        Verdict::Redirect { .. } => return xdp_action::XDP_REDIRECT,
        Verdict::Pass(reason) => (xdp_action::XDP_PASS, reason),
        Verdict::Abort(reason) => (xdp_action::XDP_ABORTED, reason),
    };
    add(REASONS.get_ptr_mut(reason as u32), 0);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &ctx,
        "{} {}",
        if action == xdp_action::XDP_PASS { "pass" } else { "abort" },
        reason.name()
    );
    action
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
