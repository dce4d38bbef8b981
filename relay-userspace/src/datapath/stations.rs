//! Whom frames are for, as the kernel's maps `STATIONS` and `LINKS` have it. Knows what they hold,
//! and writes what differs; what they are to hold is decided by [`Links`].

use std::collections::{BTreeMap, HashMap};

use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use relay_common::abi::{LinkKey, Station, map};
use tracing::warn;

use super::error::{Chain, DatapathError};
use super::links::Links;
use super::maps::take;
use super::pod::Plain;

/// Both maps, and what they hold.
pub(super) struct Stations {
    interfaces: Array<MapData, Plain<Station>>,
    vlans: BpfHashMap<MapData, Plain<LinkKey>, Plain<Station>>,
    /// By place.
    written: BTreeMap<u32, Station>,
    written_vlans: HashMap<LinkKey, Station>,
}

impl Stations {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let (interfaces, vlans) = (take(ebpf, map::STATIONS)?, take(ebpf, map::LINKS)?);
        Ok(Self { interfaces, vlans, written: BTreeMap::new(), written_vlans: HashMap::new() })
    }

    /// Has the program take frames as links say that interfaces with it do.
    pub(super) fn write(&mut self, links: &Links, is_attached: impl Fn(u32) -> bool) {
        let stations = links.stations(&is_attached);
        let gone = self.written.keys().filter(|place| !stations.contains_key(place));
        let gone = gone.map(|place| (*place, Station::default()));
        let fresh = stations.iter().map(|(place, station)| (*place, *station));
        let fresh = fresh.filter(|(place, station)| self.written.get(place) != Some(station));
        for (place, station) in gone.chain(fresh) {
            if let Err(error) = self.interfaces.set(place, Plain(station), 0) {
                let error = Chain(&error);
                warn!(%error, "an interface's address could not be written");
            }
        }
        self.written = stations;
        let vlans = links.vlans(is_attached);
        let map = &mut self.vlans;
        self.written_vlans.retain(|key, _| {
            let stays = vlans.contains_key(key);
            if !stays {
                // One that is not there is as good as one that was removed.
                let _ = map.remove(&Plain(*key));
            }
            stays
        });
        for (key, station) in vlans {
            if self.written_vlans.get(&key) == Some(&station) {
                continue;
            }
            match self.vlans.insert(Plain(key), Plain(station), 0) {
                Ok(()) => drop(self.written_vlans.insert(key, station)),
                // It is tried again with the next change.
                Err(error) => {
                    let error = Chain(&error);
                    warn!(
                        %error,
                        "a VLAN does not fit into the kernel: its packets go through userspace"
                    );
                }
            }
        }
    }
}
