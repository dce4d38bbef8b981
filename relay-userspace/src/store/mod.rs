//! Who may allocate, kept current while the relay runs: files that changed are read again, Redis is
//! asked. Gives every shard what is new, as a value. Never on the path of a packet.

mod files;
mod redis;
mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_turn::{Credentials, LookedUp};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time;

use crate::config::{Config, Logins, Secret};
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

/// The credentials of a server: of its files, then those that relays share.
/// With `userhash_realm`, users of files are found by USERHASH too.
pub(crate) fn credentials(
    listed: &Logins,
    shared: &[Secret],
    userhash_realm: Option<&str>,
) -> Credentials {
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
    userhash_realm: Option<String>,
    current: Mutex<Current>,
}

struct Current {
    listed: Logins,
    shared: Vec<Secret>,
    credentials: Credentials,
}

impl Store {
    /// Takes what was read from files. Whether it is new.
    fn replace_listed(&self, listed: Logins) -> bool {
        self.replace(|current| std::mem::replace(&mut current.listed, listed) != current.listed)
    }

    /// Takes the secrets that relays share. Whether they are new.
    fn replace_shared(&self, shared: Vec<Secret>) -> bool {
        self.replace(|current| std::mem::replace(&mut current.shared, shared) != current.shared)
    }

    fn replace(&self, change: impl FnOnce(&mut Current) -> bool) -> bool {
        // Whoever panicked left a value that is whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = change(&mut current);
        if is_new {
            let new = credentials(&current.listed, &current.shared, self.userhash_realm.as_deref());
            self.relay.replace_credentials(&new);
            self.status.hold(&current.listed, &current.shared);
            let old = std::mem::replace(&mut current.credentials, new);
            // Wiping many takes time: no shard is to be the last that has them.
            tokio::spawn(async move {
                time::sleep(KEPT).await;
                drop(old);
            });
        }
        is_new
    }

    /// Tells a shard what it asked.
    fn answer(&self, ask: Ask, answer: LookedUp) {
        let Ask { shard, user } = ask;
        self.relay.tell(shard, Command::LookedUp { user, answer });
    }
}

/// Keeps the credentials of a relay current, which are `credentials` now, until its shards are
/// gone. Returns when Redis was asked for the first time, whether it answered or not.
pub(crate) async fn start(
    config: &Config,
    credentials: Credentials,
    relay: Arc<Relay>,
    asked: Asked,
    hangup: Signal,
) {
    let (auth, realm) = (&config.auth, &config.realm);
    let status = relay.status();
    let userhash_realm = config.offers.userhash.then(|| realm.clone());
    let current =
        Mutex::new(Current { listed: auth.listed.clone(), shared: Vec::new(), credentials });
    let store = Arc::new(Store { relay, status, userhash_realm, current });
    tokio::spawn(files::follow(auth.sources.clone(), hangup, store.clone()));
    if let Some(redis) = &auth.redis {
        let (tried, first) = oneshot::channel();
        tokio::spawn(redis::serve(redis.clone(), realm.clone(), asked, store, tried));
        // Whoever is slow is heard later.
        let _ = time::timeout(FIRST_MAX, first).await;
    }
}
