//! The loaded program: its maps as the tests fill them, and one run of it at a time.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses a part of this")]

use std::error::Error;
use std::fmt;
use std::path::Path;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, xdp::DevMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{
    self, Config, Count, GROUP_SLOTS, LinkKey, NextHop, Permission, Policer, Reason, Route,
    RouteKeyV4, RouteKeyV6, SlotGroup, Station, StraightV4, StraightV6,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{HostTables, INGRESS, PORT};

type Failure = Box<dyn Error + Send + Sync>;

/// Map values as bytes: what aya takes without a promise that they are plain data.
fn raw<T: IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> [u8; N] {
    value.as_bytes().try_into().expect("N is the size of T")
}

/// The program, loaded and not attached.
pub struct Kernel {
    ebpf: Ebpf,
    out: Vec<u8>,
}

/// What the kernel says of the program.
pub struct Facts {
    pub verified_instructions: u32,
    pub translated_bytes: u32,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verified_instructions, translated_bytes } = self;
        write!(f, "{verified_instructions} instructions verified, {translated_bytes} bytes xlated")
    }
}

impl Kernel {
    /// Loads an object and refuses another ABI before the verifier sees the program.
    pub fn load(object: &Path) -> Result<Self, Failure> {
        Self::load_with(object, 0)
    }

    /// Loads an object, with `TIMES` switched on by 1.
    pub fn load_with(object: &Path, times: u32) -> Result<Self, Failure> {
        let mut ebpf = EbpfLoader::new()
            .override_global(abi::TIMES_SWITCH, &times, true)
            .load(&std::fs::read(object)?)?;
        let abi = ebpf.map(abi::map::ABI).ok_or("the object names no ABI")?;
        let version = Array::<_, u32>::try_from(abi)?.len();
        if version != abi::ABI_VERSION {
            return Err(format!("the object is of ABI {version}").into());
        }
        let program: &mut Xdp =
            ebpf.program_mut(abi::PROGRAM).ok_or("no such program")?.try_into()?;
        program.load()?;
        Ok(Self { ebpf, out: vec![0; 1 << 16] })
    }

    pub fn facts(&self) -> Result<Facts, Failure> {
        let info = self.program()?.info()?;
        Ok(Facts {
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            translated_bytes: info.size_translated().unwrap_or(0),
        })
    }

    fn program(&self) -> Result<&Xdp, Failure> {
        Ok(self.ebpf.program(abi::PROGRAM).ok_or("no such program")?.try_into()?)
    }

    fn array<const N: usize>(
        &mut self,
        name: &str,
    ) -> Result<Array<&mut MapData, [u8; N]>, Failure> {
        Ok(Array::try_from(self.ebpf.map_mut(name).ok_or("no such map")?)?)
    }

    /// Replaces the configuration.
    pub fn configure(&mut self, config: &Config) -> Result<(), Failure> {
        const BYTES: usize = size_of::<Config>();
        Ok(self.array::<BYTES>(abi::map::CONFIG)?.set(0, raw::<_, BYTES>(config), 0)?)
    }

    /// Fills every map as the host's tables are.
    pub fn fill(&mut self, tables: &HostTables) -> Result<(), Failure> {
        const HOP: usize = size_of::<NextHop>();
        const V4: usize = size_of::<RouteKeyV4>();
        const V6: usize = size_of::<RouteKeyV6>();
        const ROUTE: usize = size_of::<Route>();
        const ALLOWED: usize = size_of::<Permission>();
        const POLICER: usize = size_of::<Policer>();
        self.configure(&tables.config)?;
        let mut hops = self.array::<HOP>(abi::map::NEXT_HOPS)?;
        for (index, hop) in (0..).zip(&tables.next_hops) {
            hops.set(index, raw::<_, HOP>(hop), 0)?;
        }
        let ports = self.ebpf.map_mut(abi::map::PORTS).ok_or("no such map")?;
        // Never sent to: a test run does not carry redirects out.
        DevMap::try_from(ports)?.set(PORT, INGRESS, None, 0)?;
        self.hash::<_, _, V4, ROUTE>(abi::map::ROUTES_V4, tables.v4.iter())?;
        self.hash::<_, _, V6, ROUTE>(abi::map::ROUTES_V6, tables.v6.iter())?;
        const STRAIGHT_V4: usize = size_of::<StraightV4>();
        const STRAIGHT_V6: usize = size_of::<StraightV6>();
        let mut places = self.array::<STRAIGHT_V4>(abi::map::STRAIGHT_V4)?;
        for (place, straight) in &tables.places.v4 {
            places.set(*place, raw::<_, STRAIGHT_V4>(straight), 0)?;
        }
        let mut places = self.array::<STRAIGHT_V6>(abi::map::STRAIGHT_V6)?;
        for (place, straight) in &tables.places.v6 {
            places.set(*place, raw::<_, STRAIGHT_V6>(straight), 0)?;
        }
        let (v4, v6) = (tables.permissions_v4.iter(), tables.permissions_v6.iter());
        self.hash::<_, _, V4, ALLOWED>(abi::map::PERMISSIONS_V4, v4)?;
        self.hash::<_, _, V6, ALLOWED>(abi::map::PERMISSIONS_V6, v6)?;
        const STATION: usize = size_of::<Station>();
        let mut stations = self.array::<STATION>(abi::map::STATIONS)?;
        for (place, station) in &tables.stations {
            stations.set(*place, raw::<_, STATION>(station), 0)?;
        }
        self.hash::<_, _, { size_of::<LinkKey>() }, STATION>(abi::map::LINKS, tables.links.iter())?;
        let mut policers = self.array::<POLICER>(abi::map::POLICERS)?;
        for ((slot, direction), policer) in &tables.policers {
            let value = Policer {
                packets_full_ns: policer.packets_full_ns.get(),
                bytes_full_ns: policer.bytes_full_ns.get(),
                ..policer.limits
            };
            policers.set(slot * 2 + *direction as u32, raw::<_, POLICER>(&value), 0)?;
        }
        let mut budgets = self.array::<8>(abi::map::BUDGETS)?;
        for (index, until) in (0..).zip(&tables.budgets).filter(|(_, until)| until.get() != 0) {
            budgets.set(index, until.get().to_ne_bytes(), 0)?;
        }
        Ok(())
    }

    fn hash<'t, K, V, const N: usize, const M: usize>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (&'t K, &'t V)>,
    ) -> Result<(), Failure>
    where
        K: IntoBytes + zerocopy::Immutable + 't,
        V: IntoBytes + zerocopy::Immutable + 't,
    {
        let map = self.ebpf.map_mut(name).ok_or("no such map")?;
        let mut map = HashMap::<_, [u8; N], [u8; M]>::try_from(map)?;
        for (key, value) in entries {
            map.insert(raw::<_, N>(key), raw::<_, M>(value), 0)?;
        }
        Ok(())
    }

    /// Runs the program on a frame: its XDP action, and the frame afterwards.
    pub fn run(&mut self, frame: &[u8]) -> Result<(u32, &[u8]), Failure> {
        let mut out = std::mem::take(&mut self.out);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self.program()?.test_run(options);
        self.out = out;
        let result = result?;
        Ok((result.return_value, &self.out[..usize::try_from(result.data_size_out)?]))
    }

    /// A counter, summed over CPUs.
    fn count(&self, map: &str, index: u32) -> Result<Count, Failure> {
        let map = self.ebpf.map(map).ok_or("no such map")?;
        let map = PerCpuArray::<_, [u8; size_of::<Count>()]>::try_from(map)?;
        let mut total = Count::default();
        for cpu in map.get(&index, 0)?.iter() {
            let count = Count::read_from_bytes(cpu).map_err(|_| "a count's size")?;
            total.packets += count.packets;
            total.bytes += count.bytes;
        }
        Ok(total)
    }

    /// Packets in every bucket of `TIMES`.
    pub fn timed(&self) -> Result<u64, Failure> {
        let map = self.ebpf.map(abi::map::TIMES).ok_or("no such map")?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        let mut total = 0;
        for bucket in 0..abi::TIMES_BUCKETS {
            total += map.get(&bucket, 0)?.iter().sum::<u64>();
        }
        Ok(total)
    }

    /// Every reason's counter.
    pub fn reasons(&self) -> Result<Vec<Count>, Failure> {
        Reason::ALL.iter().map(|reason| self.count(abi::map::REASONS, *reason as u32)).collect()
    }

    /// A slot's counter of one direction.
    pub fn slot(&self, slot: u32, direction: abi::Direction) -> Result<Count, Failure> {
        let map = self.ebpf.map(abi::map::SLOTS).ok_or("no such map")?;
        let map = PerCpuArray::<_, [u8; size_of::<SlotGroup>()]>::try_from(map)?;
        let mut total = Count::default();
        for cpu in map.get(&(slot / GROUP_SLOTS), 0)?.iter() {
            let group = SlotGroup::read_from_bytes(cpu).map_err(|_| "a group's size")?;
            let count = group.counts[direction as usize][(slot % GROUP_SLOTS) as usize];
            total.packets += count.packets;
            total.bytes += count.bytes;
        }
        Ok(total)
    }
}
