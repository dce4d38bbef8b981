//! Which of this machine's addresses belong to which realm, as the state machine is told.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::bail;
use relay_turn::Credentials;

use crate::config::{Config, Realm};
use crate::interfaces::Interfaces;

/// Where each realm is, in the order of [`relay_turn::RealmId`].
pub(crate) struct Places(Vec<Vec<SocketAddr>>);

impl Places {
    /// Finds them: what a realm names is its own, a wildcard stands for what nobody names.
    ///
    /// # Errors
    /// A realm of nothing but wildcards that stand for no address.
    pub(crate) fn new(config: &Config, interfaces: &Interfaces) -> anyhow::Result<Self> {
        let realms = config.every_realm();
        let places = share(&realms, |listen| interfaces.expand(&[listen]));
        for (realm, place) in realms.iter().zip(&places) {
            if place.is_empty() {
                let key =
                    if realm.name == config.realm { "[listen] udp" } else { "[[realms]] listen" };
                bail!(
                    "{key}: this machine has no address that the wildcards of the realm {} could \
                     stand for",
                    realm.name
                );
            }
        }
        Ok(Self(places))
    }

    /// All addresses.
    pub(crate) fn all(&self) -> Vec<SocketAddr> {
        let all: BTreeSet<_> = self.0.iter().flatten().copied().collect();
        all.into_iter().collect()
    }

    /// The key of the configuration that names an address.
    pub(crate) fn key(&self, listen: SocketAddr) -> &'static str {
        let is_first = self.0.first().is_some_and(|first| first.contains(&listen));
        if is_first { "[listen] udp" } else { "[[realms]] listen" }
    }

    /// What to call the realm of an address in the log, where there are several.
    pub(crate) fn name<'c>(&self, config: &'c Config, listen: SocketAddr) -> Option<&'c str> {
        let names =
            [&config.realm].into_iter().chain(config.realms.iter().map(|realm| &realm.name));
        let mut named = names.zip(&self.0).filter(|(_, place)| place.contains(&listen));
        named.next().filter(|_| !config.realms.is_empty()).map(|(name, _)| name.as_str())
    }

    /// What a state machine is told of other realms than the default one. `credentials` are those
    /// of all realms.
    pub(crate) fn others(
        &self,
        config: &Config,
        credentials: &[Credentials],
    ) -> Vec<relay_turn::Realm> {
        let others = config.realms.iter().zip(&self.0[1..]).zip(&credentials[1..]);
        let other = |((realm, servers), credentials): ((&Realm, &Vec<_>), &Credentials)| {
            relay_turn::Realm {
                name: realm.name.clone(),
                servers: servers.clone(),
                credentials: credentials.clone(),
                is_looked_up: realm.redis,
            }
        };
        others.map(other).collect()
    }
}

fn share(realms: &[Realm], expand: impl Fn(SocketAddr) -> Vec<SocketAddr>) -> Vec<Vec<SocketAddr>> {
    let all = || realms.iter().flat_map(|realm| &realm.listen);
    let named: BTreeSet<_> = all().filter(|listen| !listen.ip().is_unspecified()).collect();
    let of = |listen: &SocketAddr| {
        let mut place = expand(*listen);
        place.retain(|addr| addr == listen || !named.contains(addr));
        place
    };
    realms.iter().map(|realm| realm.listen.iter().flat_map(of).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Logins, Sources};

    /// What realms have where the machine has 192.0.2.1, 192.0.2.2 and 2001:db8::1.
    fn check(listens: &[&str], expected: &[&str]) {
        let addrs = |list: &str| -> Vec<SocketAddr> {
            list.split_whitespace().map(|addr| addr.parse().unwrap()).collect()
        };
        let realms: Vec<_> = listens
            .iter()
            .map(|listen| Realm {
                name: "r".to_owned(),
                listen: addrs(listen),
                sources: Sources::default(),
                listed: Logins::default(),
                redis: false,
            })
            .collect();
        let expand = |listen: SocketAddr| {
            let own = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap());
            let own = own.into_iter().map(|ip| SocketAddr::new(ip, listen.port()));
            match listen.ip().is_unspecified() {
                true => own.filter(|addr| addr.is_ipv4() == listen.is_ipv4()).collect(),
                false => vec![listen],
            }
        };
        let expected: Vec<_> = expected.iter().map(|list| addrs(list)).collect();
        assert_eq!(share(&realms, expand), expected, "{listens:?}");
    }

    #[test]
    fn a_wildcard_stands_for_what_no_realm_names() {
        check(&["0.0.0.0:1"], &["192.0.2.1:1 192.0.2.2:1"]);
        check(
            &["0.0.0.0:1 [::]:1", "192.0.2.2:1"],
            &["192.0.2.1:1 [2001:db8::1]:1", "192.0.2.2:1"],
        );
        check(
            &["192.0.2.2:1", "0.0.0.0:1 0.0.0.0:2"],
            &["192.0.2.2:1", "192.0.2.1:1 192.0.2.1:2 192.0.2.2:2"],
        );
        check(&["0.0.0.0:1", "192.0.2.1:1 192.0.2.2:1"], &["", "192.0.2.1:1 192.0.2.2:1"]);
        check(
            &["0.0.0.0:1", "[::]:1", "198.51.100.7:1"],
            &["192.0.2.1:1 192.0.2.2:1", "[2001:db8::1]:1", "198.51.100.7:1"],
        );
    }
}
