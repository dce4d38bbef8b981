//! Turnpike's program, loaded and not attached, with its maps as the relay would fill them.

use anyhow::{Context as _, bail};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{
    self, ABI_VERSION, Config, Count, LISTEN_PORTS_MAX, LinkKey, NextHop, Permission,
    PermissionKeyV4, PermissionKeyV6, Policer, Reason, Route, RouteKeyV4, RouteKeyV6, Station,
};
use relay_common::addr::Family;
use relay_common::route::{Entry, PermissionEntry};
use relay_common::straight;
use relay_common::wire::channel_data::ChannelRange;
use relay_common::wire::net::be16;
use zerocopy::FromBytes as _;

use super::straight::Straight;
use super::tables;

/// The loaded program.
pub(super) struct Relay {
    ebpf: Ebpf,
}

impl Relay {
    /// Loads it and fills its maps with `live` bindings of each family, and those of other shapes.
    pub(super) fn load(object: &[u8], live: u32, routes_max: u32) -> anyhow::Result<Self> {
        let ebpf = EbpfLoader::new()
            .map_max_entries(abi::map::ROUTES_V4, routes_max)
            .map_max_entries(abi::map::ROUTES_V6, routes_max)
            .load(object)?;
        let abi = ebpf.map(abi::map::ABI).context("the object has no map ABI: not Turnpike's")?;
        let version = Array::<_, u32>::try_from(abi)?.len();
        if version != ABI_VERSION {
            bail!("the object is of ABI {version}, this relay-bench knows {ABI_VERSION}");
        }
        let mut relay = Self { ebpf };
        relay.configure()?;
        relay.fill(live)?;
        let program = relay.ebpf.program_mut(abi::PROGRAM);
        let program = program.context("the object has no program turnpike")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        Ok(relay)
    }

    fn map(&mut self, name: &'static str) -> anyhow::Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    fn configure(&mut self) -> anyhow::Result<()> {
        let mut listen_ports = [0; LISTEN_PORTS_MAX];
        listen_ports[0] = be16(tables::LISTEN_PORT);
        let config = Config {
            answer_cost_ns: tables::ANSWER_COST.0,
            answer_burst_ns: tables::ANSWER_COST.1,
            place_key: tables::PLACE_KEY,
            abi_version: ABI_VERSION,
            epoch: tables::EPOCH,
            relayed_first: tables::RELAYED_PORTS.0,
            relayed_last: tables::RELAYED_PORTS.1,
            channel_last: ChannelRange::Rfc8656.last(),
            listen_ports_count: 1,
            listen_ports,
            ..Config::default()
        };
        const CONFIG: usize = size_of::<Config>();
        let config: [u8; CONFIG] = zerocopy::transmute!(config);
        Array::<_, [u8; CONFIG]>::try_from(self.map(abi::map::CONFIG)?)?.set(0, config, 0)?;
        const HOP: usize = size_of::<NextHop>();
        let mut hops = Array::<_, [u8; HOP]>::try_from(self.map(abi::map::NEXT_HOPS)?)?;
        for (index, hop) in tables::next_hops() {
            let hop: [u8; HOP] = zerocopy::transmute!(hop);
            hops.set(index.into(), hop, 0)?;
        }
        const LINK: usize = size_of::<LinkKey>();
        const STATION: usize = size_of::<Station>();
        let (place, station) = tables::station();
        let station: [u8; STATION] = zerocopy::transmute!(station);
        Array::<_, [u8; STATION]>::try_from(self.map(abi::map::STATIONS)?)?
            .set(place, station, 0)?;
        let (link, station) = tables::link();
        let (link, station): ([u8; LINK], [u8; STATION]) =
            (zerocopy::transmute!(link), zerocopy::transmute!(station));
        HashMap::<_, [u8; LINK], [u8; STATION]>::try_from(self.map(abi::map::LINKS)?)?
            .insert(link, station, 0)?;
        Ok(())
    }

    /// All live bindings with their limits, one that has expired, and those of other shapes.
    fn fill(&mut self, live: u32) -> anyhow::Result<()> {
        const POLICER: usize = size_of::<Policer>();
        let policer: [u8; POLICER] = zerocopy::transmute!(tables::policer());
        let mut policers = Array::<_, [u8; POLICER]>::try_from(self.map(abi::map::POLICERS)?)?;
        for index in 0..tables::policed_slots(live) * 2 {
            policers.set(index, policer, 0)?;
        }
        for family in [Family::V4, Family::V6] {
            let bindings = (0..live).map(|index| tables::routes(family, index));
            for entry in bindings.chain([tables::expired_routes(family, live)]).flatten() {
                self.insert(entry)?;
            }
        }
        for entry in tables::other_routes() {
            self.insert(entry)?;
        }
        for entry in tables::permissions() {
            self.permit(entry)?;
        }
        Ok(())
    }

    fn insert(&mut self, entry: Entry) -> anyhow::Result<()> {
        const ROUTE: usize = size_of::<Route>();
        match entry {
            Entry::V4(key, route) => {
                const KEY: usize = size_of::<RouteKeyV4>();
                let (key, route): ([u8; KEY], [u8; ROUTE]) =
                    (zerocopy::transmute!(key), zerocopy::transmute!(route));
                HashMap::<_, [u8; KEY], [u8; ROUTE]>::try_from(self.map(abi::map::ROUTES_V4)?)?
                    .insert(key, route, 0)?;
            }
            Entry::V6(key, route) => {
                const KEY: usize = size_of::<RouteKeyV6>();
                let (key, route): ([u8; KEY], [u8; ROUTE]) =
                    (zerocopy::transmute!(key), zerocopy::transmute!(route));
                HashMap::<_, [u8; KEY], [u8; ROUTE]>::try_from(self.map(abi::map::ROUTES_V6)?)?
                    .insert(key, route, 0)?;
            }
        }
        straight::put(&mut Straight(&mut self.ebpf), tables::PLACE_KEY, &entry)
    }

    fn permit(&mut self, entry: PermissionEntry) -> anyhow::Result<()> {
        const VALUE: usize = size_of::<Permission>();
        match entry {
            PermissionEntry::V4(key, value) => {
                const KEY: usize = size_of::<PermissionKeyV4>();
                let (key, value): ([u8; KEY], [u8; VALUE]) =
                    (zerocopy::transmute!(key), zerocopy::transmute!(value));
                let map = self.map(abi::map::PERMISSIONS_V4)?;
                HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(map)?.insert(key, value, 0)?;
            }
            PermissionEntry::V6(key, value) => {
                const KEY: usize = size_of::<PermissionKeyV6>();
                let (key, value): ([u8; KEY], [u8; VALUE]) =
                    (zerocopy::transmute!(key), zerocopy::transmute!(value));
                let map = self.map(abi::map::PERMISSIONS_V6)?;
                HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(map)?.insert(key, value, 0)?;
            }
        }
        Ok(())
    }

    /// The program, to be called.
    pub(super) fn program(&self) -> anyhow::Result<&Xdp> {
        Ok(self.ebpf.program(abi::PROGRAM).context("loaded above")?.try_into()?)
    }

    /// Packets counted under a reason so far.
    pub(super) fn packets(&self, reason: Reason) -> anyhow::Result<u64> {
        let map = self.ebpf.map(abi::map::REASONS).context("the object has no map REASONS")?;
        let map = PerCpuArray::<_, [u8; size_of::<Count>()]>::try_from(map)?;
        let counts = map.get(&(reason as u32), 0)?;
        let packets = |cpu: &[u8; size_of::<Count>()]| {
            Count::read_from_bytes(cpu).expect("as many bytes as a count has").packets
        };
        Ok(counts.iter().map(packets).sum())
    }
}
