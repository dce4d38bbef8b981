//! Realms (RFC 8489 §9.2): which users are good at which of our addresses. A server names its realm
//! in its first answer, when all it knows of a client is the address that it asked: so an address
//! belongs to one realm, and with it every 5-tuple and every allocation.
//!
//! Owns the table of addresses. Who a user is, is `credentials.rs`; who is asked elsewhere,
//! `look_up.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_common::addr::ServerAddr;

use crate::credentials::Users;
use crate::look_up::Directory;
use crate::{Config, Credentials, Turn};

/// Names a realm of one [`crate::Config`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RealmId(u16);

impl RealmId {
    /// [`crate::Config::realm`], the realm of every address that no other one has.
    pub const DEFAULT: Self = Self(0);

    /// Each of this many realms: the default one, then [`crate::Config::realms`] in their order.
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        (0..=u16::MAX).map(Self).take(count)
    }

    /// Its place in that order.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// What tells names of this realm from the same names of others.
    pub(crate) const fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

/// A realm, and where it is.
#[derive(Clone, Debug)]
pub struct Realm {
    /// As clients are told: 1–127 characters.
    pub name: String,
    /// The TURN server transport addresses that belong to it, without wildcards.
    pub servers: Vec<SocketAddr>,
    /// Who may allocate there.
    pub credentials: Credentials,
    /// Whether users are also looked up elsewhere, where [`crate::Limits::look_ups`] says how.
    pub is_looked_up: bool,
}

/// Every realm, and what is remembered of users who were looked up.
pub(crate) struct Realms {
    list: Vec<Realm>,
    at: BTreeMap<SocketAddr, RealmId>,
    /// Who is looked up elsewhere; `None`: nobody.
    pub(crate) directory: Option<Directory>,
}

impl Realms {
    /// # Panics
    /// If a realm has more than 508 bytes, which no 127 characters have.
    pub(crate) fn new(config: &Config) -> Self {
        let default = Realm {
            name: config.realm.clone(),
            servers: Vec::new(),
            credentials: config.credentials.clone(),
            is_looked_up: true,
        };
        let list: Vec<_> = [default].into_iter().chain(config.realms.iter().cloned()).collect();
        let is_short = |realm: &Realm| realm.name.len() <= 508;
        assert!(list.iter().all(is_short), "a realm has at most 127 characters");
        let ids = RealmId::first(list.len()).zip(&list);
        let at = ids.flat_map(|(id, realm)| realm.servers.iter().map(move |server| (*server, id)));
        Self { at: at.collect(), list, directory: config.limits.look_ups.map(Directory::new) }
    }

    /// The realm of a server address.
    pub(crate) fn at(&self, server: ServerAddr) -> RealmId {
        // With one realm, which is the rule, there is nothing in it.
        self.at.get(&server.socket()).copied().unwrap_or(RealmId::DEFAULT)
    }

    /// What it is called.
    pub(crate) fn name(&self, id: RealmId) -> &str {
        &self.list[id.index()].name
    }

    /// Who is good there.
    pub(crate) fn users(&self, id: RealmId) -> Users<'_> {
        let realm = &self.list[id.index()];
        let directory = self.directory.as_ref().filter(|_| realm.is_looked_up);
        Users::new(&realm.name, &realm.credentials, directory.map(|directory| (directory, id)))
    }
}

impl Turn {
    /// Takes other credentials for a realm from now on. Allocations stay; their next request is
    /// judged by the new ones. Without such a realm, nothing changes.
    pub fn replace_credentials(&mut self, realm: RealmId, credentials: Credentials) {
        if let Some(realm) = self.realms.list.get_mut(realm.index()) {
            realm.credentials = credentials;
        }
    }

    /// The users of the realm of a server address.
    pub(crate) fn users(&self, server: ServerAddr) -> Users<'_> {
        self.realms.users(self.realms.at(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms_are_counted_from_the_default_one() {
        let ids: Vec<_> = RealmId::first(3).collect();
        assert_eq!(ids[0], RealmId::DEFAULT);
        assert_eq!(ids.iter().map(|id| id.index()).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ids[2].bytes(), [0, 2]);
        assert_eq!(RealmId::first(usize::MAX).count(), 65_536);
    }
}
