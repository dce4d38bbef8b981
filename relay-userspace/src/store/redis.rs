//! Redis, where several relays share users and secrets: one connection for all realms, kept up
//! while the relay runs. Owns when it is asked, and when the log says that it fails.
//!
//! Fails closed: what Redis does not answer is not known. Never shows what it was sent or told; the
//! server's own words neither, for some of them repeat what it was sent.

mod connection;
mod questions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use relay_turn::{LookedUp, RealmId};
use tokio::sync::oneshot;
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};

use super::{Ask, Asked, Status, Store};
use crate::clock;
use crate::config::{Redis, Secret};
use connection::{connect, is_answer, place, reason};
use questions::{Keys, Read, SECRETS_MAX, look_up, secrets};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failure is said that lasts, or comes again.
const REMIND_NS: u64 = 60_000_000_000;

/// What one question gave.
enum Done {
    User(Ask, Result<LookedUp, RedisError>),
    Secrets(Vec<(RealmId, Result<Read, RedisError>)>),
}

/// Why the connection is not used any more.
enum End {
    /// Nobody asks.
    Closed,
    /// It failed.
    Failed(RedisError),
}

/// What the log said of it.
#[derive(Default)]
struct Said {
    /// When it was said that it fails; `None`: never.
    failing_ns: Option<u64>,
    /// Whether that, or nothing, was the last word.
    is_failing: bool,
    /// Users who were told 500 since it works no more.
    refused: u64,
}

struct Service {
    redis: Redis,
    /// Of every realm that is there.
    keys: Arc<BTreeMap<RealmId, Keys>>,
    store: Arc<Store>,
    /// Where it is, without user and password.
    place: String,
    said: Said,
}

/// Answers shards and reads secrets until the last shard is gone. Tells `tried` when it has tried
/// for the first time.
pub(super) async fn serve(
    redis: Redis,
    realms: Vec<(RealmId, String)>,
    mut asked: Asked,
    store: Arc<Store>,
    tried: oneshot::Sender<()>,
) {
    let mut tried = Some(tried);
    let keys = realms.iter().map(|(id, name)| (*id, Keys::new(&redis.prefix, name)));
    let keys = Arc::new(keys.collect());
    let place = place(&redis);
    let said = Said { is_failing: true, ..Said::default() };
    let mut service = Service { redis, keys, store, place, said };
    loop {
        let error = match connect(&service.redis).await {
            Ok(connection) => match service.use_it(connection, &mut asked, &mut tried).await {
                End::Closed => return,
                End::Failed(error) => error,
            },
            Err(error) => error,
        };
        service.failed(None, &error);
        tell(&mut tried);
        let pause = time::sleep(RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                ask = asked.recv() => match ask {
                    Some(ask) => service.refuse(ask),
                    None => return,
                },
            }
        }
    }
}

fn tell(tried: &mut Option<oneshot::Sender<()>>) {
    if let Some(tried) = tried.take() {
        // Who does not wait any more need not be told.
        let _ = tried.send(());
    }
}

impl Service {
    /// Asks over a connection, until a question fails or nobody has one.
    async fn use_it(
        &mut self,
        connection: MultiplexedConnection,
        asked: &mut Asked,
        tried: &mut Option<oneshot::Sender<()>>,
    ) -> End {
        let mut questions: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut refresh =
            time::interval(Duration::from_secs(u64::from(self.redis.secrets_refresh_secs)));
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_reading = false;
        let mut end = None;
        loop {
            let is_open = end.is_none();
            tokio::select! {
                ask = asked.recv(), if is_open => match ask {
                    Some(ask) => questions.push(self.user(connection.clone(), ask)),
                    None => end = Some(End::Closed),
                },
                _ = refresh.tick(), if is_open && !is_reading => {
                    is_reading = true;
                    questions.push(self.secrets(connection.clone()));
                }
                Some(done) = questions.next() => match done {
                    Done::User(ask, Ok(answer)) => self.store.answer(ask, answer),
                    // Of one user or realm: others may still be answered.
                    Done::User(ask, Err(error)) if is_answer(&error) => {
                        self.failed(Some(ask.realm), &error);
                        self.refuse(ask);
                    }
                    Done::User(ask, Err(error)) => {
                        self.refuse(ask);
                        end.get_or_insert(End::Failed(error));
                    }
                    Done::Secrets(readings) => {
                        is_reading = false;
                        match self.take(readings) {
                            Ok(()) => tell(tried),
                            Err(error) => {
                                end.get_or_insert(End::Failed(error));
                            }
                        }
                    }
                },
            }
            // Questions under way end by themselves: each has its time.
            if questions.is_empty()
                && let Some(end) = end.take()
            {
                return end;
            }
        }
    }

    fn user(&self, mut connection: MultiplexedConnection, ask: Ask) -> BoxFuture<'static, Done> {
        let (keys, status) = (self.keys.clone(), self.store.status.clone());
        async move {
            let answer = match keys.get(&ask.realm) {
                Some(keys) => timed(&status, look_up(&mut connection, keys, &ask.user)).await,
                // It is not there: nobody asks for such a user.
                None => Ok(LookedUp::Absent),
            };
            Done::User(ask, answer)
        }
        .boxed()
    }

    /// Reads the secrets of one realm after the other, until the connection fails.
    fn secrets(&self, mut connection: MultiplexedConnection) -> BoxFuture<'static, Done> {
        let (keys, status) = (self.keys.clone(), self.store.status.clone());
        let shared = self.redis.shared_secrets;
        async move {
            let mut readings = Vec::new();
            for (realm, keys) in &*keys {
                let reading = timed(&status, secrets(&mut connection, keys, shared)).await;
                let is_lost = reading.as_ref().is_err_and(|error| !is_answer(error));
                readings.push((*realm, reading));
                if is_lost {
                    break;
                }
            }
            Done::Secrets(readings)
        }
        .boxed()
    }

    /// Takes the secrets of each realm whose could be read. The error, if the connection is lost or
    /// no good for any realm.
    fn take(
        &mut self,
        readings: Vec<(RealmId, Result<Read, RedisError>)>,
    ) -> Result<(), RedisError> {
        let is_any = readings.iter().any(|(_, reading)| reading.is_ok());
        let mut is_whole = true;
        for (realm, reading) in readings {
            match reading {
                Ok(read) => self.take_secrets(realm, read),
                Err(error) if is_any && is_answer(&error) => {
                    is_whole = false;
                    self.failed(Some(realm), &error);
                }
                Err(error) => return Err(error),
            }
        }
        if is_whole {
            self.works();
        }
        Ok(())
    }

    fn take_secrets(&self, realm: RealmId, read: Read) {
        let (name, count) = (self.store.name(realm).to_owned(), read.secrets.len());
        if self.store.replace_shared(realm, read.secrets) {
            info!(realm = name, secrets = count, "secrets read from Redis");
            if read.is_cut {
                warn!(realm = name, max = SECRETS_MAX, "Redis has more secrets than are used");
            }
        }
    }

    fn works(&mut self) {
        self.store.status.set_up(true);
        let refused = std::mem::take(&mut self.said.refused);
        if std::mem::take(&mut self.said.is_failing) {
            info!(redis = self.place, refused, "Redis is connected");
        }
    }

    fn refuse(&mut self, ask: Ask) {
        self.said.refused += 1;
        self.store.answer(ask, LookedUp::Failed);
    }

    /// Says so, but not each time, nor each time that it fails anew.
    fn failed(&mut self, realm: Option<RealmId>, error: &RedisError) {
        self.store.status.set_up(false);
        let now_ns = clock::now().monotonic_ns;
        let is_new = |said_ns| now_ns.saturating_sub(said_ns) >= REMIND_NS;
        if self.said.failing_ns.is_none_or(is_new) {
            self.said.failing_ns = Some(now_ns);
            self.said.is_failing = true;
            warn!(
                redis = self.place,
                realm = realm.map(|realm| self.store.name(realm).to_owned()),
                error = reason(error),
                refused = self.said.refused,
                "Redis fails: users that are only there and not known yet are told 500; tried \
                 again every second"
            );
        }
    }
}

/// Counts how long a question takes that is answered.
async fn timed<T>(
    status: &Status,
    question: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let start_ns = clock::now().monotonic_ns;
    let answer = question.await;
    if answer.is_ok() {
        status.count_answer(clock::now().monotonic_ns.saturating_sub(start_ns));
    }
    answer
}

/// The newest secret that relays share: what new credentials are made with.
///
/// # Errors
/// Redis fails, or has none.
pub(crate) fn newest_secret(redis: &Redis, realm: &str) -> anyhow::Result<Secret> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keys = Keys::new(&redis.prefix, realm);
    let asked = runtime.block_on(async {
        let mut connection = connect(redis).await?;
        secrets(&mut connection, &keys, redis.shared_secrets).await
    });
    let read = asked
        .map_err(|error| anyhow::anyhow!(reason(&error)))
        .with_context(|| format!("asking Redis at {}", place(redis)))?;
    match read.secrets.into_iter().next() {
        Some(secret) => Ok(secret),
        None => bail!("Redis at {} has no secret for the realm {realm}", place(redis)),
    }
}
