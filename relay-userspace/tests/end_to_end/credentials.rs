//! Users and secrets in files, while the relay runs: read again when they change, and never shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::Test;
use crate::client::{Client, Heard, Login, with_echo};
use crate::needs::Need::Namespaces;
use crate::relay::{Plan, Relay, Rig, command};
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("credential_files_are_followed", &[Namespaces], followed),
    ("a_broken_credential_file_changes_nothing", &[Namespaces], broken),
    ("two_realms_are_served_and_nobody_is_good_in_both", &[Namespaces], realms),
    ("files_of_one_realm_are_read_again_and_the_other_stays", &[Namespaces], reread),
    ("users_of_a_followed_file_are_found_by_a_hash", &[Namespaces], hashed),
    ("a_strict_allocation_ends_with_its_credentials", &[Namespaces], strict),
];

/// For [`Topology::two_armed`].
const CLIENT: &str = "10.77.1.2:0";
const SERVER: &str = "10.77.1.1:3478";
pub(crate) const PEER: &str = "10.77.2.2:7000";
/// Where a second realm listens, and what it is called.
const THERE: &str = "10.77.1.1:3479";
pub(crate) const ELSEWHERE: &str = "elsewhere.test";
/// The lines that every second realm has.
pub(crate) const OTHER_REALM: &str =
    "[[realms]]\nname = \"elsewhere.test\"\nlisten = [\"10.77.1.1:3479\"]";
/// For what takes a second or two.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Everything is logged, so that a secret in the log would be seen.
pub(crate) const LOUD: &str = "log.level = \"trace\"";

/// Allocates for a user; the error code if it is refused.
pub(crate) fn attempt(topology: &Topology, login: &Login) -> Result<Client, u16> {
    Client::allocate_as(login, &topology.client, CLIENT, SERVER)
}

/// The same at the other realm's address.
pub(crate) fn attempt_there(topology: &Topology, login: &Login) -> Result<Client, u16> {
    Client::allocate_as(login, &topology.client, CLIENT, THERE)
}

/// Tries until the answer is as wanted.
pub(crate) fn until_refused(topology: &Topology, login: &Login, code: u16) {
    wait::until("the user is refused", LONG, || {
        (attempt(topology, login).err() == Some(code)).then_some(())
    });
}

/// Tries until it is taken.
pub(crate) fn until_taken(topology: &Topology, login: &Login) -> Client {
    wait::until("the user is taken", LONG, || attempt(topology, login).ok())
}

/// Sends to the echoing peer until it comes back.
pub(crate) fn relays(client: &Client) {
    wait::until("data comes back", LONG, || {
        client.send(b"there and back");
        client.hear(Duration::from_millis(300)).filter(|heard| matches!(heard, Heard::Data(_)))
    });
}

/// No log line holds one of them.
pub(crate) fn assert_unsaid(relay: &Relay<'_>, secrets: &[&str]) {
    let log = relay.log();
    assert!(log.contains("ready"), "the log of another process: {log}");
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is logged");
    }
}

#[allow(clippy::disallowed_methods, reason = "credentials end at a time of the day")]
pub(crate) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Files with users and secrets.
struct Files(TempDir);

impl Files {
    fn new(users: &str, secrets: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.path("users"), users).unwrap();
        fs::write(files.path("secrets"), secrets).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As editors and tools do it: a new file takes the place of the old one.
    fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
    }

    fn plan(&self) -> Plan {
        let [users, secrets] = ["users", "secrets"].map(|name| self.path(name));
        let auth = format!("users_file = {users:?}\nsecrets_file = {secrets:?}\n");
        Plan { auth: Some(auth), more: LOUD, ..Plan::two_armed("userspace") }
    }

    fn start<'n>(&self, rig: &Rig, namespace: &'n Namespace) -> Relay<'n> {
        Relay::start(rig, namespace, &self.plan())
    }
}

fn followed(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let files = Files::new("carol:hush-one\n", "hush-north\n");
    let relay = files.start(rig, &topology.relay);
    let (end, dave) = (unix_secs() + 3600, Login::new("dave", "hush-two"));
    let mut old = attempt(&topology, &Login::limited(end, "hush-north")).ok().unwrap();
    attempt(&topology, &Login::new("carol", "hush-one")).ok().unwrap();
    assert_eq!(attempt(&topology, &dave).err(), Some(401));
    with_echo(&topology.peer, PEER.parse().unwrap(), || {
        old.bind(PEER.parse().unwrap());
        relays(&old);
        // A user by key instead, and a second secret; then the first goes.
        files.replace("users", &format!("dave:0x{}\n", dave.key()));
        until_taken(&topology, &dave);
        assert_eq!(attempt(&topology, &Login::new("carol", "hush-one")).err(), Some(401));
        files.replace("secrets", "hush-south\nhush-north\n");
        until_taken(&topology, &Login::limited(end, "hush-south"));
        assert!(old.refresh().is_ok(), "both are good");
        fs::write(files.path("secrets"), "hush-south\n").unwrap();
        until_refused(&topology, &Login::limited(end, "hush-north"), 401);
        until_taken(&topology, &Login::limited(end, "hush-south"));
        relays(&old);
        assert_eq!(old.refresh().err(), Some(401), "it is not renewed");
        relays(&old);
    });
    let metrics = relay.metrics();
    assert_eq!(metrics.value("turnpike_credentials{kind=\"users\"}"), 1);
    assert_eq!(metrics.value("turnpike_credentials{kind=\"secrets\"}"), 1);
    assert_eq!(metrics.value("turnpike_credentials_reloads_total{result=\"taken\"}"), 3);
    assert_eq!(metrics.value("turnpike_credentials_reloads_total{result=\"refused\"}"), 0);
    let key = dave.key();
    assert_unsaid(&relay, &["hush", &key, "carol", "dave"]);
}

fn broken(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let files = Files::new("carol:hush-one\n", "hush-north\n");
    let mut relay = files.start(rig, &topology.relay);
    let refused = |relay: &Relay<'_>, count: u64| {
        wait::until("the file is refused", LONG, || {
            let refused = "turnpike_credentials_reloads_total{result=\"refused\"}";
            (relay.metrics().value(refused) >= count).then_some(())
        });
    };
    let said = |relay: &Relay<'_>, path: &Path, what: &str| {
        let line = format!("{}{what}", path.display());
        assert!(relay.log().contains(&line), "{line}: {}", relay.log());
    };
    files.replace("users", "dave:hush-two\ncarol hush-three\n");
    refused(&relay, 1);
    said(&relay, &files.path("users"), ":2:1: no `:` in this line");
    fs::remove_file(files.path("secrets")).unwrap();
    refused(&relay, 2);
    said(&relay, &files.path("secrets"), " cannot be read");
    attempt(&topology, &Login::new("carol", "hush-one")).ok().unwrap();
    attempt(&topology, &Login::limited(unix_secs() + 3600, "hush-north")).ok().unwrap();
    assert_eq!(attempt(&topology, &Login::new("dave", "hush-two")).err(), Some(401));
    // SIGHUP reads at once, and does not end the relay.
    relay.signal(Signal::HUP);
    refused(&relay, 3);
    assert!(relay.is_alive());
    // What is no such file at all does not fill the log: 100 lines, and the file that is not there.
    files.replace("users", &"hush\n".repeat(100));
    wait::until("what is left out is said", LONG, || relay.log().contains("more=81").then_some(()));
    files.replace("secrets", "hush-south\n");
    files.replace("users", "dave:hush-two\n");
    relay.signal(Signal::HUP);
    until_taken(&topology, &Login::new("dave", "hush-two"));
    until_taken(&topology, &Login::limited(unix_secs() + 3600, "hush-south"));
    assert_unsaid(&relay, &["hush", "carol", "dave"]);
}

fn realms(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let auth = format!(
        "users = {{ alice = \"wonderland\", bob = \"hush-here\" }}\nsecrets = [\"hush-north\"]\n\
         {OTHER_REALM}\nusers = {{ carol = \"hush-one\", bob = \"hush-there\" }}\n\
         secrets = [\"hush-west\"]"
    );
    let plan = Plan { auth: Some(auth), more: LOUD, ..Plan::two_armed("userspace") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let end = unix_secs() + 3600;
    let (alice, carol) =
        (Login::new("alice", "wonderland"), Login::of(ELSEWHERE, "carol", "hush-one"));
    let north = Login::limited(end, "hush-north");
    let west = Login::limited_of(ELSEWHERE, end, "hush-west");
    let bobs = [Login::new("bob", "hush-here"), Login::of(ELSEWHERE, "bob", "hush-there")];
    // Both at once, and each is told its realm.
    let mut here = attempt(&topology, &alice).ok().unwrap();
    let mut there = attempt_there(&topology, &carol).ok().unwrap();
    assert_eq!((here.realm.as_str(), there.realm.as_str()), ("end-to-end.test", ELSEWHERE));
    with_echo(&topology.peer, PEER.parse().unwrap(), || {
        for client in [&mut here, &mut there] {
            client.bind(PEER.parse().unwrap());
            relays(client);
            assert!(client.refresh().is_ok());
        }
    });
    for login in [&north, &bobs[0]] {
        attempt(&topology, login).ok().unwrap();
        assert_eq!(attempt_there(&topology, login).err(), Some(401), "{login:?}");
    }
    for login in [&west, &bobs[1]] {
        attempt_there(&topology, login).ok().unwrap();
        assert_eq!(attempt(&topology, login).err(), Some(401), "{login:?}");
    }
    // Their names and secrets, under the name of the realm that is asked.
    for login in [
        Login::new("carol", "hush-one"),
        Login::new("bob", "hush-there"),
        Login::limited(end, "hush-west"),
    ] {
        assert_eq!(attempt(&topology, &login).err(), Some(401), "{login:?}");
    }
    for login in [
        Login::of(ELSEWHERE, "alice", "wonderland"),
        Login::of(ELSEWHERE, "bob", "hush-here"),
        Login::limited_of(ELSEWHERE, end, "hush-north"),
    ] {
        assert_eq!(attempt_there(&topology, &login).err(), Some(401), "{login:?}");
    }
    // The command makes credentials of either.
    for (realm, is_good) in [("end-to-end.test", false), (ELSEWHERE, true)] {
        let config = relay.config();
        let words = ["credentials", "--config", &config, "--user", "x", "--realm", realm];
        let (done, said) = command(rig, &topology.relay, &words);
        assert!(done, "{said}");
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let made = Login::of(ELSEWHERE, value("username: "), value("password: "));
        assert_eq!(attempt_there(&topology, &made).is_ok(), is_good, "{realm}");
        assert_eq!(said.contains(":3479?"), is_good, "{said}");
    }
    let metrics = relay.metrics();
    assert_eq!(metrics.value("turnpike_credentials{kind=\"users\"}"), 4, "of all realms");
    assert_eq!(metrics.value("turnpike_credentials{kind=\"secrets\"}"), 2);
    assert!(relay.log().contains(ELSEWHERE), "{}", relay.log());
    assert_unsaid(&relay, &["hush", "alice", "carol"]);
}

fn reread(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let (here, there) = (
        Files::new("carol:hush-one\n", "hush-north\n"),
        Files::new("carol:hush-two\n", "hush-west\n"),
    );
    let mut plan = here.plan();
    let auth = plan.auth.take().unwrap();
    plan.auth = Some(format!("{auth}{OTHER_REALM}\n{}", there.plan().auth.unwrap()));
    let relay = Relay::start(rig, &topology.relay, &plan);
    let end = unix_secs() + 3600;
    let carol = Login::new("carol", "hush-one");
    let other = Login::of(ELSEWHERE, "carol", "hush-two");
    attempt(&topology, &carol).ok().unwrap();
    let mut call = attempt_there(&topology, &other).ok().unwrap();
    let new = Login::of(ELSEWHERE, "dave", "hush-three");
    there.replace("users", "dave:hush-three\n");
    wait::until("the new user is taken", LONG, || attempt_there(&topology, &new).ok());
    assert_eq!(attempt_there(&topology, &other).err(), Some(401));
    assert_eq!(call.refresh().err(), Some(401), "it is not renewed");
    attempt(&topology, &carol).ok().unwrap();
    assert_eq!(attempt(&topology, &Login::new("dave", "hush-three")).err(), Some(401));
    // One that is wrong keeps what was good in its realm; the other changes all the same.
    there.replace("secrets", "");
    here.replace("secrets", "hush-south\n");
    until_taken(&topology, &Login::limited(end, "hush-south"));
    let refused = "turnpike_credentials_reloads_total{result=\"refused\"}";
    relay.signal(Signal::HUP);
    wait::until("the file is refused", LONG, || (relay.metrics().value(refused) > 0).then_some(()));
    attempt_there(&topology, &Login::limited_of(ELSEWHERE, end, "hush-west")).ok().unwrap();
    attempt_there(&topology, &new).ok().unwrap();
    assert_eq!(attempt(&topology, &Login::limited(end, "hush-north")).err(), Some(401));
    let log = relay.log();
    assert!(
        log.lines().any(|line| line.contains("read again") && line.contains(ELSEWHERE)),
        "{log}"
    );
    assert_unsaid(&relay, &["hush", "carol", "dave"]);
}

fn hashed(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let files = Files::new("carol:hush-one\n", "hush-north\n");
    let mut plan = files.plan();
    plan.auth = plan.auth.map(|auth| format!("{auth}userhash = true\n"));
    let relay = Relay::start(rig, &topology.relay, &plan);
    let dave = Login::new("dave", "hush-two").hashed();
    attempt(&topology, &Login::new("carol", "hush-one").hashed()).ok().unwrap();
    assert_eq!(attempt(&topology, &dave).err(), Some(401));
    files.replace("users", "dave:hush-two\n");
    until_taken(&topology, &dave);
    assert_eq!(attempt(&topology, &Login::new("carol", "hush-one").hashed()).err(), Some(401));
    assert_unsaid(&relay, &["hush", "carol", "dave"]);
}

fn strict(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let auth = "secrets = [\"hush-north\"]\nstrict_expiry = true".to_owned();
    let plan = Plan { auth: Some(auth), ..Plan::two_armed("userspace") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    // On a busy machine they may be over before they are used.
    let (login, lifetime) = wait::until("allocated and refreshed in time", LONG, || {
        let login = Login::limited(unix_secs() + 5, "hush-north");
        let lifetime = attempt(&topology, &login).ok()?.refresh().ok()?;
        Some((login, lifetime))
    });
    assert!((1..=5).contains(&lifetime), "{lifetime}");
    // Without it, the lifetime is 600 seconds at least.
    wait::until("the allocation has ended", LONG, || {
        let open = "turnpike_allocations{family=\"ipv4\",transport=\"udp\"}";
        (relay.metrics().value(open) == 0).then_some(())
    });
    assert!(unix_secs() >= login.expiry());
    assert_eq!(attempt(&topology, &login).err(), Some(401));
}
