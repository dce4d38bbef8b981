//! Users and secrets in a real Redis: looked up, rotated, killed, slow, locked.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Test;
use crate::client::{Login, with_echo};
use crate::credentials::{
    LONG, LOUD, PEER, assert_unsaid, attempt, relays, unix_secs, until_refused, until_taken,
};
use crate::needs::Need::{Namespaces, Redis};
use crate::relay::{Plan, Relay, Rig, command};
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("redis_has_users_and_secrets", &[Namespaces, Redis], used),
    ("redis_killed_stops_only_who_is_not_known", &[Namespaces, Redis], killed),
    ("redis_that_hangs_holds_up_nobody_else", &[Namespaces, Redis], hangs),
    ("redis_that_is_locked_or_not_there_is_no_reason_not_to_start", &[Namespaces, Redis], locked),
];

const USERS: &str = "turn/realm/end-to-end.test/user";
const SECRETS: &str = "turn/realm/end-to-end.test/secret";
/// What must never be logged.
const SECRET_PARTS: &[&str] = &["hush", "wonderland"];

/// A server, killed when dropped. It answers on 127.0.0.1:6379 of a namespace, and on a socket.
struct Server {
    child: Child,
    place: TempDir,
    password: &'static str,
}

impl Server {
    fn start(namespace: &Namespace, password: &'static str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(place.path()).arg("--unixsocket").arg(path("socket"));
        if !password.is_empty() {
            command.args(["--requirepass", password]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = namespace.within(|| command.spawn()).unwrap();
        let server = Self { child, place, password };
        wait::until("Redis answers", LONG, || (server.ask(&["PING"]) == "PONG").then_some(()));
        server
    }

    /// A command, and what Redis says.
    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.place.path().join("socket")).args(words);
        if !self.password.is_empty() {
            command.env("REDISCLI_AUTH", self.password);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn set(&self, key: &str, value: &str) {
        assert_eq!(self.ask(&["SET", key, value]), "OK");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay with a user of its own that asks Redis.
fn plan(url: &str, more: &str) -> Plan {
    let auth = format!(
        "users = {{ alice = \"wonderland\" }}\n[auth.redis]\nurl = \"{url}\"\n\
         secrets_refresh_secs = 1\n{more}\n"
    );
    Plan { auth: Some(auth), more: LOUD, ..Plan::two_armed("userspace") }
}

/// Answers are forgotten fast, and may take long: the machine is busy.
const HASTY: &str = "cache_secs = 1\nnegative_cache_secs = 1\ntimeout_ms = 10_000";

fn until_up(relay: &Relay<'_>, up: u64) {
    wait::until("Redis is seen to be up or down", LONG, || {
        (relay.metrics().value("turnpike_redis_up") == up).then_some(())
    });
}

fn used(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let redis = Server::start(&topology.relay, "");
    let (carol, dave) = (Login::new("carol", "hush-carol"), Login::new("dave", "hush-dave"));
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    redis.set(&format!("{USERS}/dave/key"), &dave.key());
    redis.set(&format!("{USERS}/frank/key"), "hush-is-no-key");
    redis.set("turn/realm/elsewhere/user/mallory/password", "hush-mallory");
    redis.set(&format!("{SECRETS}/1"), "hush-west");
    let relay = Relay::start(rig, &topology.relay, &plan("redis://127.0.0.1/0", HASTY));
    let (end, mallory) = (unix_secs() + 3600, Login::new("mallory", "hush-mallory"));
    for login in [&carol, &dave, &Login::limited(end, "hush-west")] {
        attempt(&topology, login).ok().unwrap();
    }
    for login in [&mallory, &Login::new("carol", "wrong"), &Login::new("frank", "hush-is-no-key")] {
        assert_eq!(attempt(&topology, login).err(), Some(401), "{login:?}");
    }
    assert_eq!(relay.get("/readyz").map(|(status, _)| status), Some(200));

    // The newest secret makes new credentials.
    let words = ["credentials", "--config", &relay.config(), "--user", "x", "--lifetime", "60"];
    let (done, said) = command(rig, &topology.relay, &words);
    let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    assert!(done, "{said}");
    let made = Login::new(value("username: "), value("password: "));
    attempt(&topology, &made).ok().unwrap();

    with_echo(&topology.peer, PEER.parse().unwrap(), || {
        let mut old = attempt(&topology, &Login::limited(end, "hush-west")).ok().unwrap();
        old.bind(PEER.parse().unwrap());
        redis.set(&format!("{SECRETS}/2"), "hush-east");
        until_taken(&topology, &Login::limited(end, "hush-east"));
        assert!(old.refresh().is_ok(), "both are good");
        assert_eq!(redis.ask(&["DEL", &format!("{SECRETS}/1")]), "1");
        until_refused(&topology, &Login::limited(end, "hush-west"), 401);
        relays(&old);
    });
    // Users come, change and go.
    redis.set(&format!("{USERS}/mallory/password"), "hush-mallory");
    until_taken(&topology, &mallory);
    redis.set(&format!("{USERS}/carol/password"), "hush-other");
    until_taken(&topology, &Login::new("carol", "hush-other"));
    until_refused(&topology, &carol, 401);
    assert_eq!(redis.ask(&["DEL", &format!("{USERS}/mallory/password")]), "1");
    until_refused(&topology, &mallory, 401);

    let metrics = relay.metrics();
    assert_eq!(metrics.value("turnpike_redis_up"), 1);
    assert!(metrics.value("turnpike_look_ups_total{outcome=\"found\"}") >= 4);
    assert!(metrics.value("turnpike_look_ups_total{outcome=\"absent\"}") >= 3);
    assert_eq!(metrics.value("turnpike_look_ups_total{outcome=\"failed\"}"), 0);
    assert_eq!(metrics.value("turnpike_credentials{kind=\"secrets\"}"), 1);
    assert!(metrics.value("turnpike_redis_seconds_count") >= 7);
    let key = dave.key();
    assert_unsaid(&relay, &[SECRET_PARTS, &[&key, "carol", "mallory"]].concat());
}

fn killed(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let redis = Server::start(&topology.relay, "");
    let (carol, dave) = (Login::new("carol", "hush-carol"), Login::new("dave", "hush-dave"));
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    redis.set(&format!("{SECRETS}/1"), "hush-west");
    let relay = Relay::start(rig, &topology.relay, &plan("redis://127.0.0.1/0", HASTY));
    let end = unix_secs() + 3600;
    let mut call = attempt(&topology, &carol).ok().unwrap();
    with_echo(&topology.peer, PEER.parse().unwrap(), || {
        call.bind(PEER.parse().unwrap());
        relays(&call);
        drop(redis);
        until_up(&relay, 0);
        // Who was known goes on, and what needs no Redis; who was not is told to try again.
        relays(&call);
        assert!(call.refresh().is_ok());
        assert_eq!(attempt(&topology, &dave).err(), Some(500));
        attempt(&topology, &Login::new("alice", "wonderland")).ok().unwrap();
        attempt(&topology, &Login::limited(end, "hush-west")).ok().unwrap();
        assert_eq!(relay.get("/readyz").map(|(status, _)| status), Some(200));
        wait::until("what is known is stale, and used", LONG, || {
            assert!(call.refresh().is_ok());
            let stale = "turnpike_look_ups_total{outcome=\"stale\"}";
            (relay.metrics().value(stale) > 0).then_some(())
        });

        let redis = Server::start(&topology.relay, "");
        redis.set(&format!("{USERS}/dave/password"), "hush-dave");
        until_up(&relay, 1);
        until_taken(&topology, &dave);
        // The new one has neither.
        until_refused(&topology, &carol, 401);
        until_refused(&topology, &Login::limited(end, "hush-west"), 401);
        relays(&call);
    });
    let log = relay.log();
    assert_eq!(log.matches("Redis fails").count(), 1, "not each time it is tried: {log}");
    assert_eq!(log.matches("Redis is connected").count(), 2, "{log}");
    assert_unsaid(&relay, &[SECRET_PARTS, &["carol", "dave"]].concat());
}

fn hangs(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let redis = Server::start(&topology.relay, "");
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    let more = "timeout_ms = 1000\nsecrets = \"off\"";
    let relay = Relay::start(rig, &topology.relay, &plan("redis://127.0.0.1/0", more));
    until_up(&relay, 1);
    redis.signal(Signal::STOP);
    let carol = Login::new("carol", "hush-carol");
    assert_eq!(attempt(&topology, &carol).err(), Some(500));
    attempt(&topology, &Login::new("alice", "wonderland")).ok().unwrap();
    until_up(&relay, 0);
    assert!(relay.log().contains("no answer in time"), "{}", relay.log());
    redis.signal(Signal::CONT);
    until_taken(&topology, &carol);
    assert_unsaid(&relay, SECRET_PARTS);
}

fn locked(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let carol = Login::new("carol", "hush-carol");
    let alice = Login::new("alice", "wonderland");
    let starts_without = |url: &str, said: &str| {
        let relay = Relay::start(rig, &topology.relay, &plan(url, HASTY));
        assert!(relay.log().contains(said), "{}", relay.log());
        attempt(&topology, &alice).ok().unwrap();
        assert_eq!(attempt(&topology, &carol).err(), Some(500));
        assert_eq!(relay.metrics().value("turnpike_redis_up"), 0);
        assert_unsaid(&relay, SECRET_PARTS);
        relay
    };
    let relay = starts_without("redis://127.0.0.1/0", "refused");
    let redis = Server::start(&topology.relay, "hush-hush");
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    drop(relay);
    let wants = "it wants another user or password";
    drop(starts_without("redis://127.0.0.1/0", wants));
    drop(starts_without("redis://:hush-no@127.0.0.1/0", wants));
    // As little as is needed.
    let user = "ACL SETUSER turnpike on >hush-acl resetchannels ~turn/* -@all +mget +scan +ping";
    assert_eq!(redis.ask(&user.split(' ').collect::<Vec<_>>()), "OK");
    let plan = plan("redis://turnpike:hush-acl@127.0.0.1/0", HASTY);
    let relay = Relay::start(rig, &topology.relay, &plan);
    attempt(&topology, &carol).ok().unwrap();
    assert_unsaid(&relay, SECRET_PARTS);
}
