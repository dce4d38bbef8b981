//! The TURN servers that can stand in the middle of the laboratory: Turnpike and coturn.
//! Both listen on 10.77.1.1:3478 and `[fd77:1::1]:3478` and relay from 10.77.2.1 and fd77:2::1.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use super::counters::Metrics;
use super::namespace::{Lab, Namespace};
use super::process::Process;
use super::{needs, wait};

/// The user that all servers know.
pub(crate) const USER: &str = "alice";
/// The user's password.
pub(crate) const PASSWORD: &str = "wonderland";
/// Another user whom all servers know, with this password.
pub(crate) const OTHER_USER: &str = "bob";
/// The other user's password.
pub(crate) const OTHER_PASSWORD: &str = "builder";
/// On a busy machine the verifier takes seconds.
const START_MAX: Duration = Duration::from_secs(30);
const ADMIN: &str = "127.0.0.1:9641";

/// How Turnpike is set up, where tests differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// `[datapath] mode`: `native`, `generic` or `userspace`.
    pub(crate) mode: &'static str,
    /// `[workers] shards`; 0: one for each CPU.
    pub(crate) shards: u32,
    /// `[limits] lifetime_secs_default`, seconds.
    pub(crate) lifetime_secs: u32,
    /// `[limits] allocations_max`.
    pub(crate) allocations_max: u32,
    /// `[relay] ports`.
    pub(crate) ports: &'static str,
    /// `[relay] mobility`.
    pub(crate) mobility: bool,
    /// `[listen] discovery`.
    pub(crate) discovery: &'static [&'static str],
}

impl Setting {
    /// One shard, allocations of ten minutes, as many as there are ports.
    pub(crate) fn of(mode: &'static str) -> Self {
        Self {
            mode,
            shards: 1,
            lifetime_secs: 600,
            allocations_max: 16_384,
            ports: "20000-65535",
            mobility: false,
            discovery: &[],
        }
    }

    fn text(&self) -> String {
        let Self { mode, shards, lifetime_secs, allocations_max, ports, mobility, discovery } =
            self;
        format!(
            "realm = \"lab.test\"\n\
             [listen]\nudp = [\"10.77.1.1:3478\", \"[fd77:1::1]:3478\"]\n\
             discovery = {discovery:?}\n\
             [relay]\nmobility = {mobility}\nports = \"{ports}\"\n\
             addresses = [\"10.77.2.1\", \"fd77:2::1\"]\n\
             [auth]\nusers = {{ {USER} = \"{PASSWORD}\", {OTHER_USER} = \"{OTHER_PASSWORD}\" }}\n\
             [peers]\nallow = [\"10.77.0.0/16\", \"fd77::/16\"]\n\
             [metrics]\nlisten = \"{ADMIN}\"\n\
             [limits]\nallocations_max = {allocations_max}\n\
             user_allocations_max = 0\nsource_allocations_max = 0\nnew_peers_per_sec = 0\n\
             lifetime_secs_default = {lifetime_secs}\n\
             unauthenticated_replies_per_sec = 1000000\n\
             [workers]\nshards = {shards}\n\
             [datapath]\nmode = \"{mode}\"\ninterfaces = []\npin = \"off\"\n"
        )
    }
}

/// A Turnpike that serves.
pub(crate) struct Turnpike<'l> {
    process: Process,
    namespace: &'l Namespace,
}

impl<'l> Turnpike<'l> {
    /// Starts the binary of `TURNPIKE_BIN` in the relay's namespace and waits until it is ready.
    pub(crate) fn start(lab: &'l Lab, setting: Setting) -> Self {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("turnpike.toml");
        fs::write(&config, setting.text()).unwrap();
        let mut command = Command::new(needs::turnpike().unwrap());
        command.args(["serve", "--config"]).arg(config);
        let namespace = &lab.relay;
        let process = Process::start("turnpike", namespace, command, place);
        let mut relay = Self { process, namespace };
        wait::until("turnpike is ready", START_MAX, || {
            assert!(relay.is_alive(), "turnpike ended");
            relay.ask("/readyz").filter(|(status, _)| *status == 200)
        });
        relay
    }

    /// What it counts now.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, text) = self.ask("/metrics").expect("the admin server answers");
        assert_eq!(status, 200, "{text}");
        Metrics(text)
    }

    /// Status and body of an answer of the admin server; `None` when nobody listens.
    fn ask(&self, path: &str) -> Option<(u16, String)> {
        self.namespace.within(|| {
            let mut stream = TcpStream::connect(ADMIN).ok()?;
            // It may connect long before the start is over, and be answered only then.
            stream.set_read_timeout(Some(START_MAX)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Some((status, body.to_owned()))
        })
    }
}

impl Deref for Turnpike<'_> {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Turnpike<'_> {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A coturn that serves.
pub(crate) struct Coturn {
    process: Process,
}

impl Coturn {
    /// Starts `turnserver` in the relay's namespace, without a configuration file, and waits until
    /// it answers.
    pub(crate) fn start(lab: &Lab) -> Self {
        let place = tempfile::tempdir().unwrap();
        let words = "-n --listening-ip=10.77.1.1 --listening-ip=fd77:1::1 --relay-ip=10.77.2.1 \
             --relay-ip=fd77:2::1 --listening-port=3478 --min-port=20000 --max-port=65535 \
             --lt-cred-mech --realm=lab.test --no-tls --no-dtls --no-cli --no-tcp \
             --log-file=stdout --simple-log";
        let mut command = Command::new("turnserver");
        command.args(words.split_whitespace());
        for (user, password) in [(USER, PASSWORD), (OTHER_USER, OTHER_PASSWORD)] {
            command.arg(format!("--user={user}:{password}"));
        }
        for (option, file) in [("--pidfile", "pid"), ("--userdb", "db")] {
            command.arg(format!("{option}={}", place.path().join(file).display()));
        }
        let mut process = Process::start("turnserver", &lab.relay, command, place);
        lab.client.within(|| {
            let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            wait::until("turnserver answers", START_MAX, || {
                assert!(process.is_alive(), "turnserver ended");
                // A Binding request (RFC 8489 §5): type, length, cookie, any transaction id.
                let request = b"\0\x01\0\0\x21\x12\xa4\x42any old text";
                socket.send_to(request, "10.77.1.1:3478").unwrap();
                socket.recv(&mut [0; 512]).ok()
            });
        });
        Self { process }
    }
}

impl Deref for Coturn {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Coturn {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
