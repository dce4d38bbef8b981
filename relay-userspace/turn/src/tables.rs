//! Where allocations are found: by their id, and by their 5-tuple. Owns the bound on their number
//! and the generations that keep an old id from finding a new allocation.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;

use relay_common::addr::FiveTuple;
use siphasher::sip::SipHasher13;

use crate::AllocationId;
use crate::allocation::Allocation;

/// SipHash with a key of our own: the same seed replays the same run, and nobody outside can
/// aim at a bucket.
#[derive(Clone)]
pub(crate) struct KeyedHash(SipHasher13);

impl KeyedHash {
    pub(crate) fn new(key0: u64, key1: u64) -> Self {
        Self(SipHasher13::new_with_keys(key0, key1))
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        self.0
    }
}

/// All allocations.
pub(crate) struct Tables {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_five_tuple: HashMap<Key, AllocationId, KeyedHash>,
    allocations_max: u32,
}

/// A 5-tuple that is hashed in one piece: it is looked up for every datagram of a client.
#[derive(PartialEq, Eq)]
struct Key(FiveTuple);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 36];
        let (client, server) = bytes.split_at_mut(18);
        write_addr(client, self.0.client.socket());
        write_addr(server, self.0.server.socket());
        state.write(&bytes);
    }
}

fn write_addr(bytes: &mut [u8], addr: SocketAddr) {
    let ip = match addr {
        SocketAddr::V4(addr) => addr.ip().to_ipv6_mapped(),
        SocketAddr::V6(addr) => *addr.ip(),
    };
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&addr.port().to_be_bytes());
}

#[derive(Default)]
struct Slot {
    generation: u32,
    allocation: Option<Allocation>,
}

impl Tables {
    pub(crate) fn new(allocations_max: u32, hash: KeyedHash) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_five_tuple: HashMap::with_hasher(hash),
            allocations_max,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.allocations_max as usize
    }

    /// Adds an allocation for a 5-tuple that has none.
    ///
    /// # Panics
    /// If there is one, or the tables are full: the caller looks before.
    pub(crate) fn insert(
        &mut self,
        five_tuple: FiveTuple,
        make: impl FnOnce(AllocationId) -> Allocation,
    ) -> AllocationId {
        assert!(!self.is_full(), "looked up before");
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("bounded by allocations_max")
        });
        let slot = &mut self.slots[index as usize];
        let id = AllocationId { index, generation: slot.generation };
        slot.allocation = Some(make(id));
        let before = self.by_five_tuple.insert(Key(five_tuple), id);
        assert!(before.is_none(), "looked up before");
        id
    }

    pub(crate) fn by_id(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(id.index as usize)?;
        slot.allocation.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn by_id_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.allocation.as_mut().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn by_five_tuple(&self, five_tuple: &FiveTuple) -> Option<&Allocation> {
        self.by_id(*self.by_five_tuple.get(&Key(*five_tuple))?)
    }

    /// Lets a 5-tuple lead to an allocation too; it leads to no other.
    pub(crate) fn add_five_tuple(&mut self, five_tuple: FiveTuple, id: AllocationId) {
        let before = self.by_five_tuple.insert(Key(five_tuple), id);
        assert!(before.is_none_or(|before| before == id), "looked up before");
    }

    /// Lets a 5-tuple lead nowhere.
    pub(crate) fn remove_five_tuple(&mut self, five_tuple: FiveTuple) {
        self.by_five_tuple.remove(&Key(five_tuple));
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let allocation = slot.allocation.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        self.by_five_tuple.remove(&Key(allocation.five_tuple));
        Some(allocation)
    }

    /// Every allocation, in order of their indices.
    pub(crate) fn ids(&self) -> Vec<AllocationId> {
        self.slots.iter().filter_map(|slot| Some(slot.allocation.as_ref()?.id)).collect()
    }
}
