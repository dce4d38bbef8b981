//! The C relay's maps: the same routes as Turnpike's, in its layout (`bench/yardstick/`).

use anyhow::Context as _;
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{Direction, NextHop, Route, RouteKeyV4};
use relay_common::addr::Family;
use relay_common::route::Entry;
use relay_common::wire::checksum;
use relay_common::wire::net::be16;
use zerocopy::{FromBytes as _, Immutable, IntoBytes};

use super::tables;

/// The program's name.
const PROGRAM: &str = "yardstick";
const ROUTES: &str = "ROUTES";
const COUNTS: &str = "COUNTS";

/// What arrives (wire).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Key {
    src: u32,
    dst: u32,
    ports: [u16; 2],
    channel: u16,
    reserved: u16,
}

/// What leaves.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Value {
    deadline_ns: u64,
    src: u32,
    dst: u32,
    ports: [u16; 2],
    macs: [[u16; 3]; 2],
    ip_delta: u16,
    udp_delta: u16,
    channel: u16,
    reserved: u16,
    count: u32,
    reserved_too: u32,
}

const KEY_BYTES: usize = size_of::<Key>();
const VALUE_BYTES: usize = size_of::<Value>();
const COUNT_BYTES: usize = 16;

impl Key {
    fn of(key: &RouteKeyV4) -> Self {
        let RouteKeyV4 { src, dst, src_port, dst_port, channel, .. } = *key;
        Self { src, dst, ports: [src_port, dst_port], channel, reserved: 0 }
    }
}

impl Value {
    /// `number` is the channel's (wire).
    fn of(direction: Direction, number: u16, route: &Route, hop: &NextHop) -> Self {
        // Lengths of any packet change by the same: in ones' complement, by any two such lengths.
        let (shorter, longer) = ([be16(100)], [be16(104)]);
        let (length, channel) = match direction {
            Direction::ClientToPeer => (checksum::delta(&longer, &shorter), !number),
            Direction::PeerToClient => (checksum::delta(&shorter, &longer), number),
        };
        // The hop limit is the first byte of its word.
        let hop_limit = [[2, 0], [1, 0]].map(u16::from_ne_bytes);
        let hop_limit = checksum::delta(&hop_limit[..1], &hop_limit[1..]);
        Self {
            deadline_ns: route.terms.deadline_ns,
            src: route.src[0],
            dst: route.dst[0],
            ports: [route.terms.src_port, route.terms.dst_port],
            macs: [hop.dst_mac, hop.src_mac],
            ip_delta: checksum::fold(checksum::sum_words(&[
                route.terms.ip_delta,
                length,
                hop_limit,
            ])),
            // UDP's length is in its header and in the pseudo-header.
            udp_delta: checksum::fold(checksum::sum_words(&[
                route.terms.udp_delta,
                length,
                length,
                channel,
            ])),
            channel: route.terms.channel,
            reserved: 0,
            count: count_index(route.terms.slot, direction),
            reserved_too: 0,
        }
    }
}

fn count_index(slot: u32, direction: Direction) -> u32 {
    slot * 2 + direction as u32
}

/// The loaded program.
pub(super) struct Yardstick {
    ebpf: Ebpf,
    live: u32,
}

impl Yardstick {
    /// Loads it and fills its maps with `live` bindings.
    pub(super) fn load(object: &[u8], live: u32, routes_max: u32) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().map_max_entries(ROUTES, routes_max).load(object)?;
        let map = ebpf.map_mut(ROUTES).context("the object has no map ROUTES")?;
        let mut map = HashMap::<_, [u8; KEY_BYTES], [u8; VALUE_BYTES]>::try_from(map)?;
        for index in 0..live {
            let [Entry::V4(from_client, to_peer), Entry::V4(from_peer, to_client)] =
                tables::routes(Family::V4, index)
            else {
                unreachable!("addresses of IPv4 make routes of IPv4")
            };
            let number = from_client.channel;
            insert(&mut map, Direction::ClientToPeer, number, &(from_client, to_peer))?;
            insert(&mut map, Direction::PeerToClient, number, &(from_peer, to_client))?;
        }
        let program = ebpf.program_mut(PROGRAM).context("the object has no program yardstick")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        Ok(Self { ebpf, live })
    }

    /// The program, to be called.
    pub(super) fn program(&self) -> anyhow::Result<&Xdp> {
        Ok(self.ebpf.program(PROGRAM).context("loaded above")?.try_into()?)
    }

    /// Packets relayed so far.
    pub(super) fn packets(&self, direction: Direction) -> anyhow::Result<u64> {
        let map = self.ebpf.map(COUNTS).context("the object has no map COUNTS")?;
        let map = PerCpuArray::<_, [u8; COUNT_BYTES]>::try_from(map)?;
        let mut packets = 0;
        for slot in 0..tables::slots(self.live) {
            for cpu in map.get(&count_index(slot, direction), 0)?.iter() {
                let (count, _) = u64::read_from_prefix(cpu).expect("a count is two such words");
                packets += count;
            }
        }
        Ok(packets)
    }
}

fn insert(
    map: &mut HashMap<&mut MapData, [u8; KEY_BYTES], [u8; VALUE_BYTES]>,
    direction: Direction,
    number: u16,
    (key, route): &(RouteKeyV4, Route),
) -> anyhow::Result<()> {
    let value = Value::of(direction, number, route, &tables::next_hop());
    let key: [u8; KEY_BYTES] = zerocopy::transmute!(Key::of(key));
    let value: [u8; VALUE_BYTES] = zerocopy::transmute!(value);
    Ok(map.insert(key, value, 0)?)
}
