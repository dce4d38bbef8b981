//! Files with users and secrets, followed while the relay runs: read again when they changed, and
//! at SIGHUP. A file that is wrong changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use relay_turn::RealmId;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{self, MissedTickBehavior};
use tracing::{error, info, warn};

use super::Store;
use crate::config::Sources;

/// How often files are looked at. One that changed is read when it is the same at the next look:
/// who writes it has finished then.
const LOOK: Duration = Duration::from_secs(1);

/// Mistakes that the log shows of each reading: a file that is none has one in each line.
const FAULTS_MAX: usize = 20;

/// What tells one content of a file from another: whose it is, how long, and when it changed.
/// `None`: there is no file.
type Stamp = Option<[i128; 5]>;

/// Why files are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Change,
    Hangup,
}

/// Follows the files of a realm until the relay ends.
pub(super) async fn follow(
    realm: RealmId,
    sources: Sources,
    mut hangup: Signal,
    store: Arc<Store>,
) {
    let name = store.name(realm).to_owned();
    let files: Arc<[PathBuf]> = sources.files().map(Path::to_owned).collect();
    let sources = Arc::new(sources);
    // What was read at start may have changed since: it is read once more.
    let mut read = None;
    let mut last = None;
    let mut look = time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let cause = tokio::select! {
            _ = look.tick(), if !files.is_empty() => Cause::Change,
            Some(()) = hangup.recv() => Cause::Hangup,
            else => return,
        };
        let files = files.clone();
        let Ok(stamps) = spawn_blocking(move || stamps(&files)).await else { return };
        let is_settled = last.as_ref() == Some(&stamps);
        let is_changed = read.as_ref() != Some(&stamps);
        if cause == Cause::Hangup || (is_changed && is_settled) {
            let sources = sources.clone();
            let Ok(reading) = spawn_blocking(move || sources.read_again()).await else { return };
            match reading {
                Ok(reading) => {
                    for warning in reading.warnings.iter().filter(|_| read.is_some()) {
                        warn!("{warning}");
                    }
                    let (users, secrets) =
                        (reading.listed.users.len(), reading.listed.secrets.len());
                    // Of many users it takes a while, in which others are to be served.
                    let (listed, taking) = (reading.listed, store.clone());
                    let taking = spawn_blocking(move || taking.replace_listed(realm, listed));
                    let Ok(is_new) = taking.await else { return };
                    if is_new || cause == Cause::Hangup {
                        store.status.count_taken();
                        let changed = is_new;
                        info!(
                            realm = name,
                            users, secrets, changed, "users and secrets read again"
                        );
                    }
                }
                Err(errors) => {
                    store.status.count_refused();
                    for line in errors.lines().take(FAULTS_MAX) {
                        error!("{line}");
                    }
                    let more = errors.lines().count().saturating_sub(FAULTS_MAX);
                    let kept = "users and secrets are not read again: what was good before stays";
                    error!(realm = name, more, "{kept}");
                }
            }
            read = Some(stamps.clone());
        }
        last = Some(stamps);
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    let metadata = fs::metadata(file).ok()?;
    let ns = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    Some([
        i128::from(metadata.dev()),
        i128::from(metadata.ino()),
        i128::from(metadata.size()),
        ns(metadata.mtime(), metadata.mtime_nsec()),
        // A replacement may keep the time of what it replaces, but not of its own change.
        ns(metadata.ctime(), metadata.ctime_nsec()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_contents_apart_however_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        assert_eq!(stamp(&file), None);
        fs::write(&file, "a:b").unwrap();
        let first = stamp(&file);
        assert!(first.is_some() && first == stamp(&file));
        let other = dir.path().join("users.new");
        fs::write(&other, "a:c").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_ne!(stamp(&file), first, "another file of the same size");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(stamp(&link), stamp(&file), "a link is what it points to");
    }
}
