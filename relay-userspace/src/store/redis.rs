//! Redis, where several relays share users and secrets: one connection, kept up while the relay
//! runs. Owns the names of the keys and what the log says of a failure.
//!
//! Fails closed: what Redis does not answer is not known. Never shows what it was sent or told; the
//! server's own words neither, for some of them repeat what it was sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError};
use relay_turn::{LookedUp, Secret as Password};
use tokio::sync::oneshot;
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{Ask, Asked, Status, Store};
use crate::clock;
use crate::config::{Redis, Secret, SharedSecrets, prepared};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failure that lasts is said again.
const REMIND_NS: u64 = 60_000_000_000;
/// Secrets that are read, at most.
const SECRETS_MAX: usize = 1024;
/// How many keys Redis looks at in one step.
const SCAN_COUNT: u32 = 1000;

/// Names of keys, in coturn's layout.
struct Keys {
    /// What the keys of the realm begin with.
    realm: String,
    /// What the realm is called.
    name: String,
}

impl Keys {
    fn new(prefix: &str, realm: &str) -> Self {
        Self { realm: format!("{prefix}/realm/{realm}"), name: realm.to_owned() }
    }

    /// Where a password or key of a user is.
    fn of_user(&self, user: &[u8], what: &str) -> Vec<u8> {
        let start = format!("{}/user/", self.realm);
        [start.as_bytes(), user, b"/", what.as_bytes()].concat()
    }

    /// The pattern of all keys with secrets.
    fn secrets_pattern(&self) -> String {
        let mut pattern = String::new();
        for c in self.realm.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + "/secret/*"
    }

    /// The set of secrets.
    fn secrets_set(&self) -> String {
        format!("{}/secrets", self.realm)
    }
}

/// What one question gave.
enum Done {
    User(Ask, Result<LookedUp, RedisError>),
    Secrets(Result<Vec<Secret>, RedisError>),
}

/// Why the connection is not used any more.
enum End {
    /// Nobody asks.
    Closed,
    /// It failed.
    Failed(RedisError),
}

/// Since when it fails.
struct Failing {
    said_ns: u64,
    refused: u64,
}

struct Service {
    redis: Redis,
    keys: Arc<Keys>,
    store: Arc<Store>,
    /// Where it is, without user and password.
    place: String,
    failing: Option<Failing>,
}

/// Answers shards and reads secrets until the last shard is gone. Tells `tried` when it has tried
/// for the first time.
pub(super) async fn serve(
    redis: Redis,
    realm: String,
    mut asked: Asked,
    store: Arc<Store>,
    tried: oneshot::Sender<()>,
) {
    let mut tried = Some(tried);
    let keys = Arc::new(Keys::new(&redis.prefix, &realm));
    let place = place(&redis);
    let mut service = Service { redis, keys, store, place, failing: None };
    loop {
        let error = match connect(&service.redis).await {
            Ok(connection) => match service.use_it(connection, &mut asked, &mut tried).await {
                End::Closed => return,
                End::Failed(error) => error,
            },
            Err(error) => error,
        };
        service.failed(&error);
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
        self.works();
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
                    Done::User(ask, Err(error)) => {
                        self.refuse(ask);
                        end.get_or_insert(End::Failed(error));
                    }
                    Done::Secrets(Ok(secrets)) => {
                        is_reading = false;
                        self.take(secrets);
                        tell(tried);
                    }
                    Done::Secrets(Err(error)) => {
                        end.get_or_insert(End::Failed(error));
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
            let answer = timed(&status, look_up(&mut connection, &keys, &ask.user)).await;
            Done::User(ask, answer)
        }
        .boxed()
    }

    fn secrets(&self, mut connection: MultiplexedConnection) -> BoxFuture<'static, Done> {
        let (keys, status) = (self.keys.clone(), self.store.status.clone());
        let shared = self.redis.shared_secrets;
        async move { Done::Secrets(timed(&status, secrets(&mut connection, &keys, shared)).await) }
            .boxed()
    }

    fn take(&self, secrets: Vec<Secret>) {
        let count = secrets.len();
        if self.store.replace_shared(secrets) {
            info!(secrets = count, "secrets read from Redis");
        }
    }

    fn works(&mut self) {
        self.store.status.set_up(true);
        let refused = self.failing.take().map_or(0, |failing| failing.refused);
        info!(redis = self.place, refused, "Redis is connected");
    }

    fn refuse(&mut self, ask: Ask) {
        if let Some(failing) = &mut self.failing {
            failing.refused += 1;
        }
        self.store.answer(ask, LookedUp::Failed);
    }

    /// Says so, but not each time.
    fn failed(&mut self, error: &RedisError) {
        self.store.status.set_up(false);
        let now_ns = clock::now().monotonic_ns;
        let failing = self.failing.get_or_insert(Failing { said_ns: 0, refused: 0 });
        if failing.said_ns == 0 || now_ns - failing.said_ns >= REMIND_NS {
            failing.said_ns = now_ns;
            warn!(
                redis = self.place,
                error = reason(error),
                refused = failing.refused,
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

/// Connects, however long looking up a name would take.
async fn connect(redis: &Redis) -> Result<MultiplexedConnection, RedisError> {
    let limit = Duration::from_millis(u64::from(redis.timeout_ms));
    let timeout = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
    time::timeout(limit * 2, open(redis, limit)).await.map_err(timeout)?
}

async fn open(redis: &Redis, limit: Duration) -> Result<MultiplexedConnection, RedisError> {
    let info = redis.url.expose().into_connection_info()?;
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let client = Client::open(info.set_redis_settings(settings))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // A server that wants a password takes the connection and refuses the first command.
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// A user's password or, without one, key: a password is good for every algorithm.
async fn look_up(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    user: &[u8],
) -> Result<LookedUp, RedisError> {
    let (password, key): (Option<Vec<u8>>, Option<Vec<u8>>) = redis::cmd("MGET")
        .arg(keys.of_user(user, "password"))
        .arg(keys.of_user(user, "key"))
        .query_async(connection)
        .await?;
    let password = password.and_then(text).filter(|password| !password.is_empty());
    let password = password.and_then(|password| {
        prepared(&password).map(|prepared| Zeroizing::new(prepared.into_owned()))
    });
    let key = || {
        let digits = key.and_then(text)?;
        let digits = digits.strip_prefix("0x").unwrap_or(&digits);
        Password::key(digits)
    };
    let found = password.map(Password::Password).or_else(key);
    let kept = found.map(|found| found.sealed(user, &keys.name));
    Ok(kept.map_or(LookedUp::Absent, LookedUp::Found))
}

/// Every secret there is; of those with keys of their own, the last key's first.
async fn secrets(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    shared: SharedSecrets,
) -> Result<Vec<Secret>, RedisError> {
    let values: Vec<Option<Vec<u8>>> = match shared {
        // It shows that Redis still answers.
        SharedSecrets::Off => {
            redis::cmd("PING").query_async::<()>(connection).await?;
            Vec::new()
        }
        SharedSecrets::Set => {
            let set = keys.secrets_set();
            let mut values: Vec<Vec<u8>> =
                redis::cmd("SMEMBERS").arg(set).query_async(connection).await?;
            values.sort();
            values.into_iter().map(Some).collect()
        }
        SharedSecrets::Keys => {
            let names = scan(connection, &keys.secrets_pattern()).await?;
            if names.is_empty() {
                return Ok(Vec::new());
            }
            redis::cmd("MGET").arg(names).query_async(connection).await?
        }
    };
    let texts = values.into_iter().flatten().filter_map(text);
    Ok(texts.filter_map(|text| Secret::new(&text)).take(SECRETS_MAX).collect())
}

/// Names of keys, each once, the last first; in steps, so that Redis serves others meanwhile.
async fn scan(
    connection: &mut MultiplexedConnection,
    pattern: &str,
) -> Result<Vec<Vec<u8>>, RedisError> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0;
    loop {
        let step: (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(connection)
            .await?;
        cursor = step.0;
        names.extend(step.1);
        if cursor == 0 || names.len() > SECRETS_MAX {
            break;
        }
    }
    names.sort();
    names.dedup();
    names.reverse();
    Ok(names)
}

/// Text, wiped when dropped; `None` if it is none.
fn text(bytes: Vec<u8>) -> Option<Zeroizing<String>> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            None
        }
    }
}

/// The address, for the log.
fn place(redis: &Redis) -> String {
    let info = redis.url.expose().into_connection_info();
    info.map_or_else(|_| "?".to_owned(), |info| info.addr().to_string())
}

/// Why it failed: the system's words, or the code of the server's.
fn reason(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "it wants another user or password: correct `url` in [auth.redis]".to_owned()
        }
        (_, Some(code)) => format!("it answers {code}"),
        _ if error.is_timeout() => "no answer in time (`timeout_ms` in [auth.redis])".to_owned(),
        (ErrorKind::Io, None) => error.to_string(),
        (_, None) => error.category().to_owned(),
    }
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
    let secrets = asked
        .map_err(|error| anyhow::anyhow!(reason(&error)))
        .with_context(|| format!("asking Redis at {}", place(redis)))?;
    match secrets.into_iter().next() {
        Some(secret) => Ok(secret),
        None => bail!("Redis at {} has no secret for the realm {realm}", place(redis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_coturn_has_them() {
        let keys = Keys::new("turn", "north.gov");
        assert_eq!(keys.of_user(b"gorst", "key"), b"turn/realm/north.gov/user/gorst/key");
        assert_eq!(keys.secrets_pattern(), "turn/realm/north.gov/secret/*");
        assert_eq!(keys.secrets_set(), "turn/realm/north.gov/secrets");
        let odd = Keys::new("t*", "a[b]?\\c");
        assert_eq!(odd.secrets_pattern(), "t\\*/realm/a\\[b\\]\\?\\\\c/secret/*");
    }
}
