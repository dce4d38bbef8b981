//! Servers that are not the test's: Turnpike, of which nothing may fail but what is known to, and
//! coturn, whose known habits have to be found. In namespaces of their own.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::lab::{Lab, Need, Process, Test, until};
use crate::{Run, conform};

/// What they are called, what they need, what they do.
pub(crate) const TESTS: &[Test] = &[
    ("turnpike_in_userspace_conforms", &[Need::Namespaces, Need::Turnpike], userspace),
    ("turnpike_in_the_kernel_conforms", &[Need::Namespaces, Need::Xdp, Need::Turnpike], kernel),
    ("coturn_differs_where_it_is_known_to", &[Need::Namespaces, Need::Coturn], coturn),
];

/// On a busy machine the verifier takes seconds.
const START_MAX: Duration = Duration::from_secs(30);
const ADMIN: &str = "127.0.0.1:9641";
const WORDS: &str = "turn:10.77.1.1 --user alice --password wonderland --other-user bob \
                     --other-password builder --peer6 fd77:1::2";

/// Some of what coturn is known to do otherwise.
const COTURN: &[&str] = &["8489-6.3-unknown-method", "8656-5-bind-nothing", "8656-10.2-multicast"];

/// The relayed addresses are the relay's other ones: the client, who is the peer too, finds them.
fn prepare(lab: &Lab) {
    // NAT behaviour discovery needs a second address to answer from.
    lab.relay.ip("address add 10.77.1.3/24 dev clients");
    lab.relay.ip("address add fd77:1::3/64 dev clients nodad");
    lab.client.ip("route add 10.77.2.0/24 via 10.77.1.1");
    lab.client.ip("route add fd77:2::/64 via fd77:1::1");
}

fn turnpike(lab: &Lab, mode: &str) -> Process {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("turnpike.toml");
    let text = format!(
        "realm = \"lab.test\"\n\
         [listen]\nudp = [\"10.77.1.1:3478\", \"[fd77:1::1]:3478\"]\n\
         discovery = [\"10.77.1.1:3478\", \"10.77.1.3:3479\"]\n\
         [relay]\nports = \"49152-65535\"\naddresses = [\"10.77.2.1\", \"fd77:2::1\"]\n\
         [auth]\nusers = {{ alice = \"wonderland\", bob = \"builder\" }}\n\
         [peers]\nallow = [\"10.77.0.0/16\", \"fd77::/16\"]\n\
         [metrics]\nlisten = \"{ADMIN}\"\n\
         [limits]\nunauthenticated_replies_per_sec = 1000000\n\
         [workers]\nshards = 1\n\
         [datapath]\nmode = \"{mode}\"\ninterfaces = []\npin = \"off\"\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(std::env::var_os("TURNPIKE_BIN").unwrap());
    command.args(["serve", "--config"]).arg(config);
    let mut process = Process::start("turnpike", &lab.relay, command, place);
    until("turnpike is ready", START_MAX, || {
        assert!(process.is_alive(), "turnpike ended");
        lab.relay.within(ready)
    });
    process
}

/// Whether the admin server says that the relay is ready.
fn ready() -> Option<()> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(ADMIN).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: relay\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(())
}

fn nothing_fails(run: &Run) {
    assert_eq!(run.with_outcome("fail"), [""; 0], "{}", run.text());
    assert!(run.with_outcome("pass").len() > 150, "{}", run.text());
}

fn userspace() {
    let lab = Lab::plain();
    prepare(&lab);
    let _relay = turnpike(&lab, "userspace");
    nothing_fails(&lab.client.within(|| conform(WORDS)));
}

fn kernel() {
    let lab = Lab::for_xdp();
    prepare(&lab);
    let _relay = turnpike(&lab, "native");
    nothing_fails(&lab.client.within(|| conform(WORDS)));
}

fn coturn() {
    let lab = Lab::plain();
    prepare(&lab);
    let place = tempfile::tempdir().unwrap();
    let words = "-n --listening-ip=10.77.1.1 --listening-ip=fd77:1::1 --relay-ip=10.77.2.1 \
         --relay-ip=fd77:2::1 --listening-port=3478 --min-port=49152 --max-port=65535 \
         --lt-cred-mech --realm=lab.test --no-tls --no-dtls --no-cli --no-tcp \
         --log-file=stdout --simple-log --user=alice:wonderland --user=bob:builder";
    let mut command = Command::new("turnserver");
    command.args(words.split_whitespace());
    for (option, file) in [("--pidfile", "pid"), ("--userdb", "db")] {
        command.arg(format!("{option}={}", place.path().join(file).display()));
    }
    let mut process = Process::start("turnserver", &lab.relay, command, place);
    lab.client.within(|| {
        let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        until("turnserver answers", START_MAX, || {
            assert!(process.is_alive(), "turnserver ended");
            // A Binding request (RFC 8489 §5): type, length, cookie, any transaction id.
            let request = b"\0\x01\0\0\x21\x12\xa4\x42any old text";
            socket.send_to(request, "10.77.1.1:3478").unwrap();
            socket.recv(&mut [0; 512]).ok()
        });
    });
    let run = lab.client.within(|| conform(WORDS));
    run.ends_with(1);
    for id in COTURN {
        assert!(run.with_outcome("fail").contains(id), "{id}: {}", run.text());
    }
    // Most of TURN is as it should be, from the first request to the last byte.
    assert!(run.with_outcome("pass").len() > 120, "{}", run.text());
}
