//! Who may allocate, kept current while the relay runs: files that changed are read again, Redis is
//! asked. Gives every shard what is new, as a value. Never on the path of a packet.

mod files;
mod redis;
mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_turn::{Credentials, LookedUp, RealmId};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time;

use crate::config::{Config, Logins, Realm, Secret};
use crate::scrape::Relay;
use crate::shard::Command;

pub(crate) use redis::newest_secret;
pub(crate) use status::{ASKING_METRIC, BUCKETS_MS, RedisSample, Sample, Status};

/// Users of all shards that wait to be asked for; one more is refused.
const ASKS_MAX: usize = 1024;

/// How long the start waits for Redis' first answer.
const FIRST_MAX: Duration = Duration::from_secs(5);
/// How long credentials are kept that no shard uses any more: shards take new ones between two
/// rounds of packets.
const KEPT: Duration = Duration::from_secs(10);

/// A shard wants to know of a user.
pub(crate) struct Ask {
    /// Which shard.
    pub(crate) shard: usize,
    /// In which realm.
    pub(crate) realm: RealmId,
    /// Who.
    pub(crate) user: Box<[u8]>,
}

/// Where shards ask.
pub(crate) type Asks = mpsc::Sender<Ask>;

/// Where their questions arrive.
pub(crate) type Asked = mpsc::Receiver<Ask>;

/// Both ends.
pub(crate) fn channel() -> (Asks, Asked) {
    mpsc::channel(ASKS_MAX)
}

/// The credentials of every realm at the start, in the order of [`RealmId`].
pub(crate) fn first(config: &Config) -> Vec<Credentials> {
    let realms = config.every_realm();
    let realm = |realm: &Realm| {
        credentials(&realm.listed, &[], config.offers.userhash.then_some(&realm.name))
    };
    realms.iter().map(realm).collect()
}

/// The credentials of a realm: of its files, then those that relays share.
/// With `userhash_realm`, users of files are found by USERHASH too.
fn credentials(listed: &Logins, shared: &[Secret], userhash_realm: Option<&String>) -> Credentials {
    let users = listed.users.iter().map(|(name, password)| (name.clone(), password.clone()));
    let secrets = listed.secrets.iter().chain(shared);
    let secrets = secrets.map(|secret| secret.expose().to_owned()).collect();
    let credentials = Credentials::of(users, secrets);
    match userhash_realm {
        Some(realm) => credentials.with_userhashes(realm),
        None => credentials,
    }
}

/// What is in force, and who must be told when it changes.
struct Store {
    relay: Arc<Relay>,
    status: Arc<Status>,
    /// Whether users are found by USERHASH.
    userhash: bool,
    /// In the order of [`RealmId`].
    realms: Vec<Current>,
}

/// A realm.
struct Current {
    name: String,
    held: Mutex<Held>,
}

struct Held {
    listed: Logins,
    shared: Vec<Secret>,
    credentials: Credentials,
}

impl Store {
    /// What a realm is called, for the log.
    fn name(&self, realm: RealmId) -> &str {
        &self.realms[realm.index()].name
    }

    /// Takes what was read from files of a realm. Whether it is new.
    fn replace_listed(&self, realm: RealmId, listed: Logins) -> bool {
        self.replace(realm, |held| std::mem::replace(&mut held.listed, listed) != held.listed)
    }

    /// Takes the secrets of a realm that relays share. Whether they are new.
    fn replace_shared(&self, realm: RealmId, shared: Vec<Secret>) -> bool {
        self.replace(realm, |held| std::mem::replace(&mut held.shared, shared) != held.shared)
    }

    fn replace(&self, realm: RealmId, change: impl FnOnce(&mut Held) -> bool) -> bool {
        let Current { name, held } = &self.realms[realm.index()];
        // Whoever panicked left a value that is whole.
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = change(&mut held);
        if is_new {
            let new = credentials(&held.listed, &held.shared, self.userhash.then_some(name));
            self.relay.replace_credentials(realm, &new);
            self.status.hold(realm, &held.listed, &held.shared);
            let old = std::mem::replace(&mut held.credentials, new);
            // Wiping many takes time: no shard is to be the last that has them.
            tokio::spawn(async move {
                time::sleep(KEPT).await;
                spawn_blocking(move || drop(old));
            });
        }
        is_new
    }

    /// Tells a shard what it asked.
    fn answer(&self, ask: Ask, answer: LookedUp) {
        let Ask { shard, realm, user } = ask;
        self.relay.tell(shard, Command::LookedUp { realm, user, answer });
    }
}

/// Keeps the credentials of a relay current until its shards are gone: now each realm has the one
/// of `credentials`, and one of `hangups` tells when its files are to be read again. Returns when
/// Redis was asked for the first time, whether it answered or not.
pub(crate) async fn start(
    config: &Config,
    credentials: Vec<Credentials>,
    relay: Arc<Relay>,
    asked: Asked,
    hangups: Vec<Signal>,
) {
    let every_realm = config.every_realm();
    let ids = || RealmId::first(every_realm.len());
    let current = |(realm, credentials): (&Realm, Credentials)| {
        let held = Held { listed: realm.listed.clone(), shared: Vec::new(), credentials };
        Current { name: realm.name.clone(), held: Mutex::new(held) }
    };
    let realms = every_realm.iter().zip(credentials).map(current).collect();
    let (status, userhash) = (relay.status(), config.offers.userhash);
    let store = Arc::new(Store { relay, status, userhash, realms });
    for ((id, realm), hangup) in ids().zip(&every_realm).zip(hangups) {
        tokio::spawn(files::follow(id, realm.sources.clone(), hangup, store.clone()));
    }
    if let Some(redis) = &config.auth.redis {
        let (tried, first) = oneshot::channel();
        let asking = ids().zip(&every_realm).filter(|(_, realm)| realm.redis);
        let asking = asking.map(|(id, realm)| (id, realm.name.clone())).collect();
        tokio::spawn(redis::serve(redis.clone(), asking, asked, store, tried));
        // Whoever is slow is heard later.
        let _ = time::timeout(FIRST_MAX, first).await;
    }
}
