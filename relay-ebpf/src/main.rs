//! The kernel program: maps, packet memory, and verdicts as XDP actions around the step.
//!
//! Every unsafe line of the datapath is in this file. No rule of relaying is.
#![no_std]
#![no_main]
// The target's `core` has no compare-and-exchange, though the processor has.
#![feature(asm_experimental_arch)]
#![allow(unsafe_code, reason = "map values and packet memory are raw pointers in the kernel")]

use core::arch::asm;
use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, bpf_fib_lookup as FibParams, xdp_action, xdp_md};
use aya_ebpf::btf_maps::{Array, DevMap, HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use relay_common::abi::{
    self, Config, Count, Direction, LinkKey, NEXT_HOP_VALID, NextHop, Permission, PermissionKeyV4,
    PermissionKeyV6, Policer, Reason, Route, RouteKeyV4, RouteKeyV6, SlotGroup, Station,
    StraightV4, StraightV6, TAGS_MAX, Tag,
};
use relay_common::addr::Family;
use relay_common::wire::net::PROTOCOL_UDP;
use relay_ebpf::{FibQuery, Frame, Leaving, Policing, Tables, Verdict, Word, step};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[btf_map]
static ROUTES_V4: HashMap<RouteKeyV4, Route, { abi::ROUTES_MAX as usize }> = HashMap::new();
#[btf_map]
static ROUTES_V6: HashMap<RouteKeyV6, Route, { abi::ROUTES_MAX as usize }> = HashMap::new();
/// Of arrays that could be mapped into a process, none of which is, elements begin where a page
/// does: none lies in more lines of the cache than it has to.
const ON_PAGES: usize = BPF_F_MMAPABLE as usize;
#[btf_map]
static STRAIGHT_V4: Array<StraightV4, { abi::STRAIGHT_V4_MAX as usize }, ON_PAGES> = Array::new();
#[btf_map]
static STRAIGHT_V6: Array<StraightV6, { abi::STRAIGHT_V6_MAX as usize }, ON_PAGES> = Array::new();
#[btf_map]
static PERMISSIONS_V4: HashMap<PermissionKeyV4, Permission, { abi::PERMISSIONS_MAX as usize }> =
    HashMap::new();
#[btf_map]
static PERMISSIONS_V6: HashMap<PermissionKeyV6, Permission, { abi::PERMISSIONS_MAX as usize }> =
    HashMap::new();
#[btf_map]
static NEXT_HOPS: Array<NextHop, { abi::NEXT_HOPS_MAX as usize }> = Array::new();
#[btf_map]
static PORTS: DevMap<{ abi::PORTS_MAX as usize }> = DevMap::new();
#[btf_map]
static EGRESS: HashMap<u32, u32, { abi::PORTS_MAX as usize }> = HashMap::new();
#[btf_map]
static STATIONS: Array<Station, { abi::STATIONS_MAX as usize }> = Array::new();
#[btf_map]
static LINKS: HashMap<LinkKey, Station, { abi::LINKS_MAX as usize }> = HashMap::new();
#[btf_map]
static POLICERS: Array<Policer, { abi::SLOTS_MAX as usize * Direction::ALL.len() }> = Array::new();
#[btf_map]
static BUDGETS: Array<u64, { abi::BUDGETS_MAX as usize }> = Array::new();
#[btf_map]
static SLOTS: PerCpuArray<SlotGroup, { (abi::SLOTS_MAX / abi::GROUP_SLOTS) as usize }> =
    PerCpuArray::new();
#[btf_map]
static REASONS: PerCpuArray<Count, { Reason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static TIMES: PerCpuArray<u64, { abi::TIMES_BUCKETS as usize }> = PerCpuArray::new();
#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
/// Its size is the ABI version; see `abi::map::ABI`.
#[btf_map]
static ABI: Array<u32, { abi::ABI_VERSION as usize }> = Array::new();

/// A question to the kernel's routing table, and its answer; nothing but this program reads it. On
/// the stack, the general path would not fit beside it.
struct Asked {
    params: FibParams,
    answer: NextHop,
}
#[btf_map]
static FIB: PerCpuArray<Asked, 1> = PerCpuArray::new();
/// What the present packet leaves as; nothing but this program reads it.
#[btf_map]
static SCRATCH: PerCpuArray<Leaving, 1> = PerCpuArray::new();

/// The coarse clock as a CPU read it, and the machine's tick (jiffies) that it did so in; nothing
/// but this program reads it.
struct Reading {
    tick: u64,
    now_ns: u64,
}
#[btf_map]
static CLOCK: PerCpuArray<Reading, 1> = PerCpuArray::new();

/// `abi::TIMES_SWITCH`: a loader sets it to 1 before the verifier sees the program.
#[unsafe(no_mangle)]
static MEASURE_TIMES: u32 = 0;

/// The frame behind an XDP context.
struct Packet(*mut xdp_md);

impl Packet {
    /// The furthest that headers may start; the verifier wants a limit.
    const OFFSET_MAX: usize = 0x7FFF;

    #[inline(always)]
    fn place<T>(&self, offset: u32) -> Option<*mut T> {
        let mut offset = offset as usize;
        // SAFETY: moves a register to itself. What the compiler knows of the offset, the verifier
        // need not know: from here on both know the limit only.
        unsafe { asm!("{0} = {0}", inlateout(reg) offset, options(nomem, nostack)) };
        if offset > Self::OFFSET_MAX {
            return None;
        }
        self.within(offset)
    }

    #[inline(always)]
    fn within<T>(&self, offset: usize) -> Option<*mut T> {
        // SAFETY: the kernel hands the program a valid context, and the verifier knows its fields.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // Frames start at even addresses, offsets are even, and no header asks for more.
        const { assert!(align_of::<T>() <= 2) };
        let place = start + offset;
        if place + size_of::<T>() > end { None } else { Some(place as *mut T) }
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn at<T: FromBytes + KnownLayout + Immutable>(&self, offset: u32) -> Option<&T> {
        let headers = self.place::<T>(offset)?;
        // SAFETY: `place` proved that `T` ends inside the frame, and any bytes are a `T`. The
        // frame is this program's alone until it returns, and it stays where it is until
        // `move_head`, which the borrow excludes.
        Some(unsafe { &*headers })
    }

    #[inline(always)]
    fn at_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self, offset: u32) -> Option<&mut T> {
        let headers = self.place::<T>(offset)?;
        // SAFETY: as in `at`; XDP lets a program write to its frame.
        Some(unsafe { &mut *headers })
    }

    #[inline(always)]
    fn headers<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<&T> {
        let headers = self.within::<T>(0)?;
        // SAFETY: as in `at`.
        Some(unsafe { &*headers })
    }

    #[inline(always)]
    fn headers_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> Option<&mut T> {
        let headers = self.within::<T>(0)?;
        // SAFETY: as in `at_mut`.
        Some(unsafe { &mut *headers })
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is the program's own, and the helper writes exactly `N` bytes.
        let result =
            unsafe { bpf_xdp_load_bytes(self.0, offset, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: the context is the program's own, and no reference into the frame outlives this
        // call: they borrow `self`.
        (unsafe { bpf_xdp_adjust_head(self.0, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn move_tail(&mut self, by: i32) -> Option<()> {
        // SAFETY: as in `move_head`.
        (unsafe { bpf_xdp_adjust_tail(self.0, -by) } == 0).then_some(())
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        // SAFETY: as in `place`.
        let (start, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let mut bytes = end - start;
        // SAFETY: moves a register to itself. The compiler may not reorder what is added to the
        // difference of two pointers into one of them: the verifier forbids that.
        unsafe { asm!("{0} = {0}", inlateout(reg) bytes, options(nomem, nostack)) };
        bytes as u32
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as in `place`.
        unsafe { (*self.0).ingress_ifindex }
    }
}

/// A word of a map's value.
struct Shared(*mut u64);

impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: made only of words of map values, which live as long as the program.
        unsafe { ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    fn add(&self, by: u64) {
        // SAFETY: as in `load`; the instruction adds to the word in memory and to nothing else.
        unsafe {
            asm!("lock *(u64 *)({word} + 0) += {by}", word = in(reg) self.0, by = in(reg) by);
        }
    }

    #[inline(always)]
    fn exchange(&self, seen: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: as in `load`; the instruction compares with r0, and returns there what it found.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0,
                new = in(reg) new,
                inlateout("r0") seen => found,
            );
        }
        found == seen
    }
}

/// The maps, with the context for the helper that wants it.
struct Maps(*mut xdp_md);

impl Tables for Maps {
    type Word<'t> = Shared;
    type Scratch<'t> = &'t mut Leaving;

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
    fn straight_v4(&self, place: u32) -> Option<&StraightV4> {
        STRAIGHT_V4.get(place)
    }

    #[inline(always)]
    fn straight_v6(&self, place: u32) -> Option<&StraightV6> {
        STRAIGHT_V6.get(place)
    }

    #[inline(always)]
    fn permission_v4(&self, key: &PermissionKeyV4) -> Option<&Permission> {
        // SAFETY: as in `route_v4`.
        unsafe { PERMISSIONS_V4.get(key) }
    }

    #[inline(always)]
    fn permission_v6(&self, key: &PermissionKeyV6) -> Option<&Permission> {
        // SAFETY: as in `route_v4`.
        unsafe { PERMISSIONS_V6.get(key) }
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(index)
    }

    #[inline(always)]
    fn fib(&self, query: &FibQuery) -> Option<&NextHop> {
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        let asked = FIB.get_ptr_mut(0)?;
        // SAFETY: a per-CPU element of plain integers, and XDP does not nest on a CPU. A packet
        // asks once, so that no reference to an earlier answer is alive. The context is valid, and
        // the helper reads and writes `params` and nothing else.
        unsafe {
            let params = &mut (*asked).params;
            match query.family {
                Family::V4 => {
                    params.family = AF_INET;
                    params.__bindgen_anon_2.flowinfo = 0;
                    params.__bindgen_anon_2.tos = query.class;
                }
                Family::V6 => {
                    params.family = AF_INET6;
                    params.__bindgen_anon_2.flowinfo = (u32::from(query.class) << 20).to_be();
                }
            }
            params.l4_protocol = PROTOCOL_UDP;
            params.sport = query.src_port;
            params.dport = query.dst_port;
            params.__bindgen_anon_1.tot_len = query.bytes;
            params.__bindgen_anon_3.ipv6_src = query.src;
            params.__bindgen_anon_4.ipv6_dst = query.dst;
            params.ifindex = (*self.0).ingress_ifindex;
            let bytes = size_of::<FibParams>() as i32;
            if bpf_fib_lookup(self.0.cast(), params, bytes, 0) != 0 {
                return None;
            }
            (*asked).answer = NextHop {
                dst_mac: core::mem::transmute::<[u8; 6], [u16; 3]>(params.dmac),
                src_mac: core::mem::transmute::<[u8; 6], [u16; 3]>(params.smac),
                ifindex: params.ifindex,
                port: *EGRESS.get(params.ifindex)?,
                mtu: query.bytes.into(),
                tags: [Tag { protocol: 0, id: 0 }; TAGS_MAX],
                tag_count: 0,
                state: NEXT_HOP_VALID,
            };
            Some(&(*asked).answer)
        }
    }

    #[inline(always)]
    fn station(&self, ifindex: u32) -> Option<&Station> {
        STATIONS.get(ifindex % abi::STATIONS_MAX)
    }

    #[inline(always)]
    fn link(&self, key: &LinkKey) -> Option<&Station> {
        // SAFETY: as in `route_v4`.
        unsafe { LINKS.get(key) }
    }

    #[inline(always)]
    fn policer(&self, slot: u32, direction: Direction) -> Option<Policing<Shared>> {
        let policer = POLICERS.get_ptr_mut(slot_index(slot, direction))?;
        // SAFETY: a value of the map. Its costs are replaced as a whole by userspace while packets
        // are weighed; its words are read and written as words.
        unsafe {
            Some(Policing {
                packets_full_ns: Shared(&raw mut (*policer).packets_full_ns),
                bytes_full_ns: Shared(&raw mut (*policer).bytes_full_ns),
                packet_cost: (*policer).packet_cost,
                byte_cost: (*policer).byte_cost,
                burst_ns: (*policer).burst_ns,
            })
        }
    }

    #[inline(always)]
    fn budget(&self, index: u32) -> Option<Shared> {
        BUDGETS.get_ptr_mut(index).map(Shared)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helpers take nothing and cannot fail; the reading is a per-CPU element, and
        // XDP does not nest on a CPU.
        unsafe {
            // The verifier makes a load of this call. The clock moves with the ticks: within one,
            // asking it again gives the same for the price of a call into the kernel.
            let tick = bpf_jiffies64();
            let Some(reading) = CLOCK.get_ptr_mut(0) else { return bpf_ktime_get_coarse_ns() };
            if (*reading).tick != tick {
                (*reading).now_ns = bpf_ktime_get_coarse_ns();
                (*reading).tick = tick;
            }
            (*reading).now_ns
        }
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&mut Leaving> {
        // SAFETY: a per-CPU element, and XDP does not nest on a CPU; a packet takes it once. Zeros,
        // which it begins with, are the first of every enum in it.
        SCRATCH.get_ptr_mut(0).map(|leaving| unsafe { &mut *leaving })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: as in `now_ns`.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn aim(&self, port: u32) -> bool {
        // The helper only notes the target; the frame moves when XDP_REDIRECT is returned.
        PORTS.redirect(port, 0).is_ok()
    }

    #[inline(always)]
    fn note(&self, reason: Reason, bytes: u32) {
        add(REASONS.get_ptr_mut(reason as u32), bytes);
    }

    #[inline(always)]
    fn count(&self, slot: u32, direction: Direction, bytes: u32) {
        let group = SLOTS.get_ptr_mut(slot / abi::GROUP_SLOTS);
        let place = (slot % abi::GROUP_SLOTS) as usize;
        // SAFETY: inside the element: directions are its first index, and the second is smaller
        // than a group.
        add(
            group.map(|group| unsafe { &raw mut (*group).counts[direction as usize][place] }),
            bytes,
        );
    }
}

/// Where a slot's direction stands in `POLICERS`.
#[inline(always)]
const fn slot_index(slot: u32, direction: Direction) -> u32 {
    slot.wrapping_mul(2).wrapping_add(direction as u32)
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
    // SAFETY: a static of this program, initialised. Volatile, because a loader may have replaced
    // its value where the compiler cannot see it.
    let measured = unsafe { ptr::read_volatile(&raw const MEASURE_TIMES) } != 0;
    // SAFETY: the helper takes nothing and cannot fail.
    let start = if measured { unsafe { bpf_ktime_get_ns() } } else { 0 };
    let verdict = step(&mut Packet(ctx.ctx), &Maps(ctx.ctx));
    let action = match verdict {
        Verdict::Transmit(_) => xdp_action::XDP_TX,
        Verdict::Redirect(_) => xdp_action::XDP_REDIRECT,
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Abort(_) => xdp_action::XDP_ABORTED,
    };
    #[cfg(feature = "log")]
    if !matches!(verdict, Verdict::Transmit(_) | Verdict::Redirect(_)) {
        aya_log_ebpf::debug!(&ctx, "{} {}", action, verdict.reason().name());
    }
    if measured {
        // SAFETY: as above.
        note_time(unsafe { bpf_ktime_get_ns() } - start);
    }
    action
}

/// Counts a packet in the bucket of its time.
#[inline(always)]
fn note_time(ns: u64) {
    let bucket = (ns | 1).ilog2().min(abi::TIMES_BUCKETS - 1);
    if let Some(count) = TIMES.get_ptr_mut(bucket) {
        // SAFETY: as in `add`.
        unsafe { *count += 1 };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
