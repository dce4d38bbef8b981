//! Routes into the host's tables and out of them, as the appliance does it.

use relay_common::abi::Route;
use relay_common::route::Entry;
use relay_common::straight;

use super::HostTables;

impl HostTables {
    /// Puts an entry in, in place of what has its key.
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::V4(key, route) => drop(self.v4.insert(key, route)),
            Entry::V6(key, route) => drop(self.v6.insert(key, route)),
        }
        let Ok(()) = straight::put(&mut self.places, self.config.place_key, &entry);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, entry: Entry) {
        let Ok(()) = straight::remove(&mut self.places, self.config.place_key, &entry);
        match entry {
            Entry::V4(key, _) => drop(self.v4.remove(&key)),
            Entry::V6(key, _) => drop(self.v6.remove(&key)),
        }
    }

    /// Every route.
    pub fn entries(&self) -> Vec<Entry> {
        let v4 = self.v4.iter().map(|(key, route)| Entry::V4(*key, *route));
        v4.chain(self.v6.iter().map(|(key, route)| Entry::V6(*key, *route))).collect()
    }

    /// Changes every route.
    pub fn change(&mut self, change: impl Fn(&mut Route)) {
        for mut entry in self.entries() {
            let (Entry::V4(_, route) | Entry::V6(_, route)) = &mut entry;
            change(route);
            self.insert(entry);
        }
    }
}
