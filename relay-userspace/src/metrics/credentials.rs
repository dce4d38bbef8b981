//! What Prometheus is told of users and secrets.

use relay_turn::{LookUpOutcome, Snapshot};

use super::{Page, count, set};
use crate::store::{self, ASKING_METRIC, BUCKETS_MS};

/// Who is known, who was looked up, and how Redis does.
pub(super) fn show(page: &Page, store: &store::Sample, sum: &Snapshot) {
    let help = "Users and secrets that are known without a look-up.";
    let known = page.gauges("turnpike_credentials", help, &["kind"]);
    set(&known, &["users"], store.users);
    set(&known, &["secrets"], store.secrets);
    let help = "Files read again, by what became of it.";
    let reloads = page.counters("turnpike_credentials_reloads_total", help, &["result"]);
    count(&reloads, &["taken"], store.taken);
    count(&reloads, &["refused"], store.refused);
    let help = "Look-ups of users, by how they ended.";
    let look_ups = page.counters("turnpike_look_ups_total", help, &["outcome"]);
    for outcome in LookUpOutcome::ALL {
        count(&look_ups, &[outcome.name()], sum.look_ups(outcome));
    }
    if let Some(redis) = &store.redis {
        page.gauge("turnpike_redis_up", "Whether Redis answers.", u64::from(redis.is_up));
    }
}

/// The histogram of what Redis takes for an answer, line by line.
pub(super) fn asking(redis: &store::RedisSample) -> Vec<String> {
    let help = "Time that Redis took for an answer.";
    let mut lines =
        vec![format!("# HELP {ASKING_METRIC} {help}\n# TYPE {ASKING_METRIC} histogram\n")];
    let bounds = BUCKETS_MS.iter().map(|ms| format!("{}.{:03}", ms / 1000, ms % 1000));
    let mut count = 0;
    for (bound, answers) in bounds.chain(["+Inf".to_owned()]).zip(&redis.buckets) {
        count += answers;
        lines.push(format!("{ASKING_METRIC}_bucket{{le=\"{bound}\"}} {count}\n"));
    }
    let (secs, ns) = (redis.sum_ns / 1_000_000_000, redis.sum_ns % 1_000_000_000);
    lines.push(format!("{ASKING_METRIC}_sum {secs}.{ns:09}\n{ASKING_METRIC}_count {count}\n"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_adds_up() {
        let mut buckets = [0; BUCKETS_MS.len() + 1];
        (buckets[0], buckets[9], buckets[10]) = (3, 4, 5);
        let redis = store::RedisSample { is_up: true, buckets, sum_ns: 2_000_000_003 };
        let text = asking(&redis).concat();
        for (bound, count) in [("0.001", 3), ("0.500", 3), ("1.000", 7), ("+Inf", 12)] {
            let line = format!("turnpike_redis_seconds_bucket{{le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line} {text}");
        }
        assert!(text.contains("turnpike_redis_seconds_sum 2.000000003\n"), "{text}");
        assert!(text.ends_with("turnpike_redis_seconds_count 12\n"), "{text}");
    }
}
