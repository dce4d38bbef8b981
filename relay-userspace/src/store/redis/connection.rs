//! Connecting to Redis, and what the log says when it fails.

use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use tokio::time;

use crate::config::Redis;

/// Connects, however long looking up a name would take.
pub(super) async fn connect(redis: &Redis) -> Result<MultiplexedConnection, RedisError> {
    let limit = Duration::from_millis(u64::from(redis.timeout_ms));
    time::timeout(limit * 2, open(redis, limit)).await.map_err(|_| timed_out())?
}

async fn open(redis: &Redis, limit: Duration) -> Result<MultiplexedConnection, RedisError> {
    let info = redis.url.expose().into_connection_info()?;
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(settings);
    let client = match info.addr() {
        ConnectionAddr::TcpTls { .. } => {
            // Only the first time; later there is one, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let root_cert = redis.ca.clone();
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
        }
        _ => Client::open(info)?,
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // A server that wants a password takes the connection and refuses the first command.
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

pub(super) fn timed_out() -> RedisError {
    RedisError::from(io::Error::from(io::ErrorKind::TimedOut))
}

/// Whether it is an answer, and the connection is as good as before.
pub(super) fn is_answer(error: &RedisError) -> bool {
    error.code().is_some()
}

/// The address, for the log.
pub(super) fn place(redis: &Redis) -> String {
    let info = redis.url.expose().into_connection_info();
    info.map_or_else(|_| "?".to_owned(), |info| info.addr().to_string())
}

/// Why it failed: the system's words, or the code of the server's.
pub(super) fn reason(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "it wants another user or password: correct `url` in [auth.redis]".to_owned()
        }
        (_, Some("NOPERM")) => {
            "its ACL forbids what is asked: the user needs +getrange +scan +ping (and +smembers \
             for a set) and the keys of every realm"
                .to_owned()
        }
        (_, Some(code)) => format!("it answers {code}"),
        _ if error.is_timeout() => "no answer in time (`timeout_ms` in [auth.redis])".to_owned(),
        (ErrorKind::Io, None) => error.to_string(),
        (_, None) => error.category().to_owned(),
    }
}
