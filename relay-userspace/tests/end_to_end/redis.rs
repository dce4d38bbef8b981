//! Users and secrets in a real Redis: looked up, rotated, killed, slow, locked.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Test;
use crate::client::{Ends, Login, with_echo};
use crate::credentials::{
    ELSEWHERE, LONG, LOUD, OTHER_REALM, PEER, assert_unsaid, attempt, attempt_there, relays,
    unix_secs, until_refused, until_taken,
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
    ("redis_has_two_realms_and_may_forbid_one", &[Namespaces, Redis], realms),
    ("redis_with_odd_values_is_read_within_bounds", &[Namespaces, Redis], odd),
    ("redis_by_tls_proves_who_it_is", &[Namespaces, Redis], tls),
    ("redis_that_is_none_lets_nobody_in", &[Namespaces, Redis], garbage),
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

/// A certification authority that only its test trusts.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its certificate, and key and certificate of a server by that name.
    fn write(&self, place: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::write(place.join("ca.pem"), self.0.pem()).unwrap();
        fs::write(place.join("server.pem"), certificate.pem()).unwrap();
        fs::write(place.join("server.key"), key.serialize_pem()).unwrap();
    }
}

impl Server {
    fn start(namespace: &Namespace, password: &'static str) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), namespace, password)
    }

    /// With TLS on port 6380 if there is a certificate in `place`.
    fn start_with(place: TempDir, namespace: &Namespace, password: &'static str) -> Self {
        let path = |name: &str| place.path().join(name);
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(place.path()).arg("--unixsocket").arg(path("socket"));
        if !password.is_empty() {
            command.args(["--requirepass", password]);
        }
        if path("server.pem").exists() {
            command.args(["--tls-port", "6380", "--tls-auth-clients", "no"]);
            command.arg("--tls-cert-file").arg(path("server.pem"));
            command.arg("--tls-key-file").arg(path("server.key"));
            command.arg("--tls-ca-cert-file").arg(path("ca.pem"));
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
    let user =
        "ACL SETUSER turnpike on >hush-acl resetchannels ~turn/* -@all +getrange +scan +ping";
    assert_eq!(redis.ask(&user.split(' ').collect::<Vec<_>>()), "OK");
    let plan = plan("redis://turnpike:hush-acl@127.0.0.1/0", HASTY);
    let relay = Relay::start(rig, &topology.relay, &plan);
    attempt(&topology, &carol).ok().unwrap();
    assert_unsaid(&relay, SECRET_PARTS);
}

fn realms(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let redis = Server::start(&topology.relay, "");
    let users = "turn/realm/elsewhere.test/user";
    let secrets = "turn/realm/elsewhere.test/secret";
    redis.set(&format!("{USERS}/carol/password"), "hush-here");
    redis.set(&format!("{SECRETS}/1"), "hush-west");
    redis.set(&format!("{users}/carol/password"), "hush-there");
    redis.set(&format!("{secrets}/1"), "hush-east");
    let user =
        "ACL SETUSER turnpike on >hush-acl resetchannels ~turn/* -@all +getrange +scan +ping";
    assert_eq!(redis.ask(&user.split(' ').collect::<Vec<_>>()), "OK");
    let plan = plan("redis://turnpike:hush-acl@127.0.0.1/0", &format!("{HASTY}\n{OTHER_REALM}"));
    let relay = Relay::start(rig, &topology.relay, &plan);
    let end = unix_secs() + 3600;
    let here = [Login::new("carol", "hush-here"), Login::limited(end, "hush-west")];
    let there = [
        Login::of(ELSEWHERE, "carol", "hush-there"),
        Login::limited_of(ELSEWHERE, end, "hush-east"),
    ];
    for (here, there) in here.iter().zip(&there) {
        attempt(&topology, here).ok().unwrap();
        attempt_there(&topology, there).ok().unwrap();
        assert_eq!(attempt(&topology, there).err(), Some(401));
        assert_eq!(attempt_there(&topology, here).err(), Some(401));
    }
    for login in [Login::new("carol", "hush-there"), Login::limited(end, "hush-east")] {
        assert_eq!(attempt(&topology, &login).err(), Some(401), "{login:?}");
    }
    assert_eq!(relay.metrics().value("turnpike_credentials{kind=\"secrets\"}"), 2);
    // One realm's keys are forbidden: those who are in the other notice nothing.
    let only = "ACL SETUSER turnpike resetkeys ~turn/realm/end-to-end.test/*";
    assert_eq!(redis.ask(&only.split(' ').collect::<Vec<_>>()), "OK");
    until_up(&relay, 0);
    let dave = Login::of(ELSEWHERE, "dave", "hush-dave");
    assert_eq!(attempt_there(&topology, &dave).err(), Some(500));
    redis.set(&format!("{USERS}/dave/password"), "hush-dave");
    until_taken(&topology, &Login::new("dave", "hush-dave"));
    redis.set(&format!("{SECRETS}/2"), "hush-south");
    until_taken(&topology, &Login::limited(end, "hush-south"));
    attempt_there(&topology, &there[1]).ok().unwrap();
    let log = relay.log();
    assert!(log.contains("its ACL forbids") && log.contains(ELSEWHERE), "{log}");
    assert_eq!(log.matches("Redis fails").count(), 1, "not each time: {log}");
    assert_unsaid(&relay, &[SECRET_PARTS, &["carol", "dave"]].concat());
}

fn odd(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let redis = Server::start(&topology.relay, "");
    let carol = Login::new("carol", "hush-carol");
    let plan = plan("redis://127.0.0.1/0", HASTY);
    let usual = {
        let relay = Relay::start(rig, &topology.relay, &plan);
        assert_eq!(attempt(&topology, &carol).err(), Some(401));
        relay.peak_memory_kib()
    };
    let longest = "h".repeat(1024);
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    redis.set(&format!("{USERS}/long/password"), &longest);
    redis.set(&format!("{USERS}/longer/password"), &format!("{longest}h"));
    redis.set(&format!("{SECRETS}/good"), "hush-west");
    // 100 MB, as a password, as a key and as a secret.
    for key in ["user/vast/password", "user/wide/key", "secret/vast"] {
        let key = format!("turn/realm/end-to-end.test/{key}");
        assert_eq!(redis.ask(&["SETRANGE", &key, "100000000", "x"]), "100000001");
    }
    for key in ["user/listed/password", "secret/listed"] {
        let key = format!("turn/realm/end-to-end.test/{key}");
        assert_eq!(redis.ask(&["LPUSH", &key, "hush-carol"]), "1");
    }
    let relay = Relay::start(rig, &topology.relay, &plan);
    for login in [&carol, &Login::new("long", &longest)] {
        attempt(&topology, login).ok().unwrap();
    }
    for (user, password) in
        [("longer", longest.as_str()), ("vast", "x"), ("wide", "x"), ("listed", "hush-carol")]
    {
        assert_eq!(attempt(&topology, &Login::new(user, password)).err(), Some(401), "{user}");
    }
    attempt(&topology, &Login::limited(unix_secs() + 3600, "hush-west")).ok().unwrap();
    let metrics = relay.metrics();
    assert_eq!(metrics.value("turnpike_redis_up"), 1);
    assert_eq!(metrics.value("turnpike_credentials{kind=\"secrets\"}"), 1);
    assert_eq!(metrics.value("turnpike_look_ups_total{outcome=\"failed\"}"), 0);
    let peak = relay.peak_memory_kib();
    assert!(peak < usual + 60_000, "{peak} KiB, {usual} are usual: a value of 100 MB was read");
    assert_unsaid(&relay, SECRET_PARTS);
}

/// Works while whoever connects to 127.0.0.1:6379 is told `answer` and then nothing.
fn with_impostor<T>(namespace: &Namespace, answer: &[u8], work: impl FnOnce() -> T) -> T {
    let listener = namespace.within(|| TcpListener::bind("127.0.0.1:6379")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                        // Whoever has hung up by now has heard enough.
                        let _ = stream.read(&mut [0; 64]);
                        let _ = stream.write_all(answer);
                    }
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        let _ends = Ends(&is_over);
        work()
    })
}

fn garbage(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let carol = Login::new("carol", "hush-carol");
    let nested = [b"*1\r\n".repeat(200), b"$1\r\nx\r\n".to_vec()].concat();
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\0\x05\0\xff",
        b"+PONG\r\n:1\r\n",
        &nested,
    ];
    for answer in answers {
        with_impostor(&topology.relay, answer, || {
            let plan = plan("redis://127.0.0.1/0", "timeout_ms = 200");
            let mut relay = Relay::start(rig, &topology.relay, &plan);
            attempt(&topology, &Login::new("alice", "wonderland")).ok().unwrap();
            assert_eq!(attempt(&topology, &carol).err(), Some(500));
            until_up(&relay, 0);
            assert!(relay.is_alive() && relay.log().contains("Redis fails"), "{}", relay.log());
            assert_unsaid(&relay, SECRET_PARTS);
        });
    }
    // When the real one comes, nothing of that matters.
    let relay = Relay::start(rig, &topology.relay, &plan("redis://127.0.0.1/0", HASTY));
    let redis = Server::start(&topology.relay, "");
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    until_up(&relay, 1);
    until_taken(&topology, &carol);
}

fn tls(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let carol = Login::new("carol", "hush-carol");
    let place = tempfile::tempdir().unwrap();
    Authority::new().write(place.path(), "127.0.0.1");
    let strangers = tempfile::tempdir().unwrap();
    Authority::new().write(strangers.path(), "127.0.0.1");
    let redis = Server::start_with(place, &topology.relay, "hush-hush");
    redis.set(&format!("{USERS}/carol/password"), "hush-carol");
    redis.set(&format!("{SECRETS}/1"), "hush-west");
    let ca = |place: &TempDir| format!("{HASTY}\nca_file = {:?}", place.path().join("ca.pem"));
    // Who is not spoken to with TLS waits for the end of what he takes for a command.
    let soon = |more: String| more.replace("10_000", "300");
    let url = "rediss://:hush-hush@127.0.0.1:6380/0";
    {
        let relay = Relay::start(rig, &topology.relay, &plan(url, &ca(&redis.place)));
        attempt(&topology, &carol).ok().unwrap();
        attempt(&topology, &Login::limited(unix_secs() + 3600, "hush-west")).ok().unwrap();
        assert_eq!(relay.metrics().value("turnpike_redis_up"), 1);
        assert_unsaid(&relay, SECRET_PARTS);
    }
    // Signed by somebody else; by nobody whom this machine trusts; under another name; no TLS.
    let elsewhere = "rediss://:hush-hush@localhost:6380/0";
    for (url, more, said) in [
        (url, ca(&strangers), "invalid peer certificate"),
        (url, HASTY.to_owned(), "invalid peer certificate"),
        (elsewhere, ca(&redis.place), "invalid peer certificate"),
        ("rediss://:hush-hush@127.0.0.1:6379/0", soon(ca(&redis.place)), "Redis fails"),
        ("redis://:hush-hush@127.0.0.1:6380/0", soon(HASTY.to_owned()), "Redis fails"),
    ] {
        let relay = Relay::start(rig, &topology.relay, &plan(url, &more));
        assert!(relay.log().contains(said), "{url}: {}", relay.log());
        assert_eq!(attempt(&topology, &carol).err(), Some(500), "{url}");
        attempt(&topology, &Login::new("alice", "wonderland")).ok().unwrap();
        assert_eq!(relay.metrics().value("turnpike_redis_up"), 0);
        assert_unsaid(&relay, SECRET_PARTS);
    }
}
