//! The `turnpike` process under test: its configuration, its log, its metrics, its end.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, thread};

use relay_common::abi::{Direction, Reason};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::topology::Namespace;
use crate::wait;

/// A debug build on a busy machine takes many seconds to have its program verified.
const START_MAX: Duration = Duration::from_secs(60);
const AUTH: &str = "users = { alice = \"wonderland\" }\nsecrets = [\"north\", \"south\"]";
const ADMIN: &str = "127.0.0.1:9641";

/// What is tested.
pub(crate) struct Rig {
    /// The binary.
    binary: PathBuf,
    /// The kernel object, for the far ends of links, and for a binary that does not carry it.
    pub(crate) object: Option<PathBuf>,
    /// Whether the binary is expected to carry the object.
    is_complete: bool,
}

impl Rig {
    /// `TURNPIKE_BIN`, or the binary that cargo built along; `TURNPIKE_XDP_OBJECT`.
    pub(crate) fn from_environment() -> Self {
        let path = |name| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let binary = path("TURNPIKE_BIN");
        Self {
            is_complete: binary.is_some(),
            binary: binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_turnpike").into()),
            object: path("TURNPIKE_XDP_OBJECT"),
        }
    }

    /// The kernel object's path, in tests that need it.
    pub(crate) fn object(&self) -> &Path {
        self.object.as_deref().unwrap()
    }
}

/// A configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `[listen] udp`.
    pub(crate) listen: Vec<&'static str>,
    /// `[listen] discovery`.
    pub(crate) discovery: Vec<&'static str>,
    /// `[relay] addresses`.
    pub(crate) addresses: Vec<&'static str>,
    /// `[datapath] mode`.
    pub(crate) mode: &'static str,
    /// `[datapath] interfaces`.
    pub(crate) interfaces: Vec<&'static str>,
    /// `[datapath] object`; `None`: the one of the rig.
    pub(crate) object: Option<PathBuf>,
    /// `[datapath] measure_times`.
    pub(crate) measure_times: bool,
    /// `[workers] shards`; 0: one for each CPU.
    pub(crate) shards: u32,
    /// More lines, before the first table.
    pub(crate) more: &'static str,
    /// `[auth]` and its sections; `None`: a user alice and two secrets.
    pub(crate) auth: Option<String>,
    /// `[datapath] answer_binding`.
    pub(crate) answer_binding: bool,
    /// What the process is started by.
    pub(crate) wrapper: &'static str,
    /// `[relay] mobility`.
    pub(crate) mobility: bool,
    /// `[datapath] pin`; `None`: "off".
    pub(crate) pin: Option<PathBuf>,
}

impl Plan {
    /// For [`crate::topology::Topology::two_armed`].
    pub(crate) fn two_armed(mode: &'static str) -> Self {
        Self {
            listen: vec!["10.77.1.1:3478", "[fd77:1::1]:3478"],
            discovery: Vec::new(),
            addresses: vec!["10.77.2.1", "fd77:2::1"],
            mode,
            interfaces: Vec::new(),
            object: None,
            measure_times: false,
            shards: 0,
            more: "",
            auth: None,
            answer_binding: true,
            wrapper: "",
            mobility: false,
            pin: None,
        }
    }

    /// For [`crate::topology::Topology::behind_router`].
    pub(crate) fn behind_router(mode: &'static str) -> Self {
        Self {
            listen: vec!["10.77.3.1:3478", "[fd77:3::1]:3478"],
            addresses: Vec::new(),
            ..Self::two_armed(mode)
        }
    }

    fn text(&self, object: Option<&Path>) -> String {
        let Self {
            listen,
            discovery,
            addresses,
            mode,
            interfaces,
            shards,
            more,
            answer_binding,
            pin,
            measure_times,
            mobility,
            ..
        } = self;
        let auth = self.auth.as_deref().unwrap_or(AUTH);
        let pin = pin.as_deref().unwrap_or(Path::new("off"));
        let mut text = format!(
            "realm = \"end-to-end.test\"\n{more}\n[listen]\nudp = {listen:?}\n\
             discovery = {discovery:?}\n\
             [relay]\nports = \"50000-50255\"\naddresses = {addresses:?}\n\
             mobility = {mobility}\n[auth]\n{auth}\n\
             [peers]\nallow = [\"10.77.0.0/16\", \"fd77::/16\"]\n\
             [metrics]\nlisten = \"{ADMIN}\"\n\
             [compat]\nrfc5766_channel_numbers = true\n\
             [workers]\nshards = {shards}\n\
             [datapath]\nmode = \"{mode}\"\ninterfaces = {interfaces:?}\npin = {pin:?}\n\
             measure_times = {measure_times}\nanswer_binding = {answer_binding}\n"
        );
        if let Some(object) = object {
            text.push_str(&format!("object = {object:?}\n"));
        }
        text
    }
}

/// A started process, killed when dropped. Shows its log if the test fails.
struct Process {
    child: Child,
    place: TempDir,
}

impl Process {
    fn start(rig: &Rig, namespace: &Namespace, plan: &Plan) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name| place.path().join(name);
        let (mut binary, mut object) = (rig.binary.clone(), rig.object.clone());
        if !plan.wrapper.is_empty() {
            // Somebody who is not root may not get at where it was built.
            fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
            fs::copy(&binary, path("turnpike")).unwrap();
            binary = path("turnpike");
            object =
                object.map(|from| fs::copy(from, path("object")).map(|_| path("object")).unwrap());
        }
        object = plan.object.clone().or(object.filter(|_| !rig.is_complete));
        fs::write(path("turnpike.toml"), plan.text(object.as_deref())).unwrap();
        let log = File::create(path("log")).unwrap();
        let mut words = plan.wrapper.split_whitespace().map(Into::into).collect::<Vec<PathBuf>>();
        words.extend([binary, "serve".into(), "--config".into(), path("turnpike.toml")]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = namespace.within(|| command.spawn()).unwrap();
        Self { child, place }
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.place.path().join("log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait(&mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait::until("turnpike ends", within, || child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails for one that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("turnpike's log:\n{}", self.log());
        }
    }
}

/// A relay that serves.
pub(crate) struct Relay<'n> {
    process: Process,
    namespace: &'n Namespace,
}

impl<'n> Relay<'n> {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(rig: &Rig, namespace: &'n Namespace, plan: &Plan) -> Self {
        let mut relay = Self { process: Process::start(rig, namespace, plan), namespace };
        wait::until("turnpike is ready", START_MAX, || {
            let ended = relay.process.child.try_wait().unwrap();
            assert!(ended.is_none(), "turnpike ended: {ended:?}");
            relay.get("/readyz").filter(|(status, _)| *status == 200)
        });
        relay
    }

    /// Status and body of an answer of the admin server; `None` when nobody listens, or does not
    /// answer yet: the address is bound early in the start, and served at its end.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.namespace.within(|| {
            let mut stream = TcpStream::connect(ADMIN).ok()?;
            // It may connect long before the start is over, and be answered only then.
            stream.set_read_timeout(Some(START_MAX)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Some((status, body.to_owned()))
        })
    }

    /// What it counts now.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, text) = self.get("/metrics").unwrap();
        assert_eq!(status, 200, "{text}");
        Metrics(text)
    }

    /// Everything that it logged.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// The file of its configuration.
    pub(crate) fn config(&self) -> String {
        self.process.place.path().join("turnpike.toml").display().to_string()
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_none()
    }

    /// The most memory that it ever had, KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.child.id()));
        let status = status.unwrap();
        let mut lines = status.lines().filter_map(|line| line.strip_prefix("VmHWM:"));
        lines.next().unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it dead, and waits until every thread of it has stopped.
    pub(crate) fn halt(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.process.child.id());
        wait::until("every thread has stopped", START_MAX, || {
            let mut tasks = fs::read_dir(&tasks).unwrap();
            let is_stopped = |status: String| status.contains("State:\tT");
            let read = |path: PathBuf| fs::read_to_string(path.join("status")).unwrap_or_default();
            tasks.all(|task| is_stopped(read(task.unwrap().path()))).then_some(())
        });
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end_by(&mut self, signal: Signal, within: Duration) -> ExitStatus {
        self.signal(signal);
        self.process.wait(within)
    }
}

/// Starts a relay that cannot start; what it says.
pub(crate) fn refused(rig: &Rig, namespace: &Namespace, plan: &Plan) -> String {
    let mut process = Process::start(rig, namespace, plan);
    let status = process.wait(START_MAX);
    let log = process.log();
    assert!(!status.success() && status.code().is_some(), "{status}");
    assert!(!log.contains("panicked"), "a panic is no error message");
    log
}

/// What another command of the binary says, and whether it succeeded.
pub(crate) fn command(rig: &Rig, namespace: &Namespace, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(&rig.binary);
    let output = namespace.within(|| command.args(words).output()).unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    (output.status.success(), text.concat())
}

/// A page of metrics.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of a series, as it is written on the page.
    pub(crate) fn value(&self, series: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {}", self.0)).parse().unwrap()
    }

    /// Packets that the kernel program disposed of in a way.
    pub(crate) fn verdicts(&self, reason: Reason) -> u64 {
        self.value(&format!("turnpike_xdp_verdicts_total{{reason=\"{}\"}}", reason.name()))
    }

    /// Packets relayed in a direction by XDP, and by userspace.
    pub(crate) fn relayed(&self, direction: Direction) -> (u64, u64) {
        let value = |path| {
            let direction = direction.name();
            self.value(&format!(
                "turnpike_relayed_packets_total{{direction=\"{direction}\",path=\"{path}\"}}"
            ))
        };
        (value("xdp"), value("userspace"))
    }
}
