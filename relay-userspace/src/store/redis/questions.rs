//! What Redis is asked: a user's password or key, and secrets. Owns the names of the keys and how
//! much of a value is read.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use relay_turn::{LookedUp, Secret as Password};
use tokio::time;
use zeroize::Zeroizing;

use super::connection::timed_out;
use crate::config::{Secret, SharedSecrets, prepared};

/// Secrets of a realm that are read, at most.
pub(super) const SECRETS_MAX: usize = 1024;
/// Bytes of a password, key or secret. No more of a value is asked for, whatever Redis holds.
const VALUE_BYTES_MAX: usize = 1024;
/// How many keys Redis looks at in one step.
const SCAN_COUNT: u32 = 1000;
/// How long reading a realm's secrets may take, in all its steps.
const SECRETS_TIME_MAX: Duration = Duration::from_secs(60);

/// Names of keys of a realm, in coturn's layout.
pub(super) struct Keys {
    /// What the keys of the realm begin with.
    realm: String,
    /// What the realm is called.
    name: String,
}

/// Secrets of a realm.
pub(super) struct Read {
    /// Of those with keys of their own, the last key's first.
    pub(super) secrets: Vec<Secret>,
    /// Whether there are more than are read.
    pub(super) is_cut: bool,
}

impl Keys {
    pub(super) fn new(prefix: &str, realm: &str) -> Self {
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

/// A user's password or, without one, key: a password is good for every algorithm.
pub(super) async fn look_up(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    user: &[u8],
) -> RedisResult<LookedUp> {
    let names = ["password", "key"].map(|what| keys.of_user(user, what));
    let mut values = values(connection, &names).await?.into_iter();
    let password = values.next().flatten().filter(|password| !password.is_empty());
    let password = password.and_then(|password| {
        prepared(&password).map(|prepared| Zeroizing::new(prepared.into_owned()))
    });
    let key = || {
        let digits = values.next().flatten()?;
        Password::key(digits.strip_prefix("0x").unwrap_or(&digits))
    };
    let found = password.map(Password::Password).or_else(key);
    let kept = found.map(|found| found.sealed(user, &keys.name));
    Ok(kept.map_or(LookedUp::Absent, LookedUp::Found))
}

/// Every secret there is.
pub(super) async fn secrets(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    shared: SharedSecrets,
) -> RedisResult<Read> {
    let reading = time::timeout(SECRETS_TIME_MAX, read_secrets(connection, keys, shared));
    let (values, is_cut) = reading.await.map_err(|_| timed_out())??;
    let secrets = values.into_iter().filter_map(|text| Secret::new(&text));
    Ok(Read { secrets: secrets.collect(), is_cut })
}

/// Values, and whether there are more than are read.
async fn read_secrets(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    shared: SharedSecrets,
) -> RedisResult<(Vec<Zeroizing<String>>, bool)> {
    match shared {
        // It shows that Redis still answers.
        SharedSecrets::Off => {
            redis::cmd("PING").query_async::<()>(connection).await?;
            Ok((Vec::new(), false))
        }
        SharedSecrets::Set => {
            let set = keys.secrets_set();
            let mut members: Vec<Vec<u8>> =
                redis::cmd("SMEMBERS").arg(set).query_async(connection).await?;
            members.sort();
            let is_cut = members.len() > SECRETS_MAX;
            Ok((members.into_iter().take(SECRETS_MAX).filter_map(text).collect(), is_cut))
        }
        SharedSecrets::Keys => {
            let names = scan(connection, &keys.secrets_pattern()).await?;
            let is_cut = names.len() > SECRETS_MAX;
            let names: Vec<_> = names.into_iter().rev().take(SECRETS_MAX).collect();
            let values = values(connection, &names).await?;
            Ok((values.into_iter().flatten().collect(), is_cut))
        }
    }
}

/// Names of keys, each once, in steps, so that Redis serves others meanwhile.
async fn scan(
    connection: &mut MultiplexedConnection,
    pattern: &str,
) -> RedisResult<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
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
            return Ok(names);
        }
    }
}

/// The text of each key; `None`: there is none, or it is no text, or longer than any may be.
async fn values(
    connection: &mut MultiplexedConnection,
    names: &[Vec<u8>],
) -> RedisResult<Vec<Option<Zeroizing<String>>>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut questions = redis::pipe();
    for name in names {
        // One byte more than is taken shows that it is too long.
        questions.cmd("GETRANGE").arg(name).arg(0).arg(VALUE_BYTES_MAX);
    }
    let answers: Vec<RedisResult<Vec<u8>>> =
        questions.ignore_errors().query_async(connection).await?;
    let mut values = Vec::new();
    for answer in answers {
        match answer {
            Ok(bytes) => values.push(text(bytes)),
            Err(error) if error.code() == Some("WRONGTYPE") => values.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(values)
}

/// Text, wiped when dropped; `None` if it is none, or too long.
fn text(bytes: Vec<u8>) -> Option<Zeroizing<String>> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(Zeroizing::new(text)).filter(|text| text.len() <= VALUE_BYTES_MAX),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            None
        }
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

    #[test]
    fn a_value_is_text_of_so_many_bytes() {
        let is_text = |bytes: Vec<u8>| text(bytes).is_some();
        assert!(is_text(vec![b'a'; VALUE_BYTES_MAX]) && is_text(Vec::new()));
        assert!(!is_text(vec![b'a'; VALUE_BYTES_MAX + 1]), "one past");
        assert!(!is_text(vec![0xFF]));
    }
}
