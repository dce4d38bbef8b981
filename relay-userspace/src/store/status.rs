//! What the store counts. Owns the numbers; how they are shown is `metrics.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

use relay_turn::RealmId;

use crate::config::{Config, Logins, Secret};

/// The histogram of what a question to Redis takes.
pub(crate) const ASKING_METRIC: &str = "turnpike_redis_seconds";

/// Upper bounds of its buckets, milliseconds; one more has none.
pub(crate) const BUCKETS_MS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// Counted as it happens.
#[derive(Default)]
pub(crate) struct Status {
    /// In the order of [`RealmId`].
    realms: Vec<Realm>,
    taken: AtomicU64,
    refused: AtomicU64,
    redis: Option<Redis>,
}

#[derive(Default)]
struct Realm {
    users: AtomicU64,
    secrets: AtomicU64,
}

#[derive(Default)]
struct Redis {
    is_up: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_ns: AtomicU64,
}

/// The numbers at one time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sample {
    /// Users that are known without a look-up, in all realms.
    pub(crate) users: u64,
    /// Secrets of time-limited credentials.
    pub(crate) secrets: u64,
    /// How often files were read again and taken.
    pub(crate) taken: u64,
    /// How often they were not taken, for what is wrong with them.
    pub(crate) refused: u64,
    /// Of Redis, if there is one.
    pub(crate) redis: Option<RedisSample>,
}

/// The numbers of Redis.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct RedisSample {
    /// Whether it answers.
    pub(crate) is_up: bool,
    /// Answers by the time they took: up to [`BUCKETS_MS`], and longer.
    pub(crate) buckets: [u64; BUCKETS_MS.len() + 1],
    /// All that time, nanoseconds.
    pub(crate) sum_ns: u64,
}

impl Status {
    pub(crate) fn new(config: &Config) -> Self {
        let every_realm = config.every_realm();
        let redis = config.auth.redis.as_ref().map(|_| Redis::default());
        let realms = every_realm.iter().map(|_| Realm::default()).collect();
        let status = Self { realms, redis, ..Self::default() };
        for (id, realm) in RealmId::first(every_realm.len()).zip(&every_realm) {
            status.hold(id, &realm.listed, &[]);
        }
        status
    }

    /// What is in force in a realm.
    pub(super) fn hold(&self, realm: RealmId, listed: &Logins, shared: &[Secret]) {
        let realm = &self.realms[realm.index()];
        realm.users.store(listed.users.len() as u64, Ordering::Relaxed);
        let secrets = listed.secrets.len() + shared.len();
        realm.secrets.store(secrets as u64, Ordering::Relaxed);
    }

    pub(super) fn count_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Redis answers, or does not.
    pub(super) fn set_up(&self, is_up: bool) {
        if let Some(redis) = &self.redis {
            redis.is_up.store(u64::from(is_up), Ordering::Relaxed);
        }
    }

    /// Redis took that long for an answer.
    pub(super) fn count_answer(&self, took_ns: u64) {
        if let Some(redis) = &self.redis {
            let fits = |bound: &u64| took_ns <= *bound * 1_000_000;
            let bucket = BUCKETS_MS.iter().position(fits).unwrap_or(BUCKETS_MS.len());
            redis.buckets[bucket].fetch_add(1, Ordering::Relaxed);
            redis.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
        }
    }

    /// The numbers now.
    pub(crate) fn sample(&self) -> Sample {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Sample {
            users: self.realms.iter().map(|realm| read(&realm.users)).sum(),
            secrets: self.realms.iter().map(|realm| read(&realm.secrets)).sum(),
            taken: read(&self.taken),
            refused: read(&self.refused),
            redis: self.redis.as_ref().map(|redis| RedisSample {
                is_up: read(&redis.is_up) != 0,
                buckets: redis.buckets.each_ref().map(read),
                sum_ns: read(&redis.sum_ns),
            }),
        }
    }
}
