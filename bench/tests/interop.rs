//! A server that others wrote: `load` over every transport, both families and both framings
//! against coturn on loopback. Without coturn on the machine nothing runs, and says so.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the functions around the tests are tests too, and the server lives in real time"
)]

#[path = "server/identity.rs"]
mod identity;
mod tool;

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Authority, Validity};
use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;
use tool::load;

/// Packets of a run: 2 allocations × 200 a second × 1 s.
const PACKETS: u64 = 400;

const TESTS: [(&str, &str); 8] = [
    ("coturn_over_udp", "turn:127.0.0.1:PLAIN"),
    ("coturn_over_tcp", "turn:127.0.0.1:PLAIN?transport=tcp"),
    ("coturn_over_tls", "turns:127.0.0.1:SECURE"),
    ("coturn_over_dtls", "turns:127.0.0.1:SECURE?transport=udp"),
    ("coturn_over_udp_on_ipv6", "turn:[::1]:PLAIN"),
    ("coturn_over_tcp_on_ipv6", "turn:[::1]:PLAIN?transport=tcp"),
    ("coturn_over_tls_on_ipv6", "turns:[::1]:SECURE"),
    ("coturn_over_dtls_on_ipv6", "turns:[::1]:SECURE?transport=udp"),
];

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Two at a time would measure each other on a small machine.
    args.test_threads = args.test_threads.or(Some(1));
    let missing = missing();
    let server = match missing {
        None if !args.list => Some(Arc::new(Coturn::start())),
        None | Some(_) => None,
    };
    let trials = TESTS.into_iter().map(|(name, target)| {
        let server = server.clone();
        let run = move || {
            measured_as_clean(&server.unwrap(), target);
            Ok(())
        };
        let trial = Trial::test(name, run).with_ignored_flag(missing.is_some());
        if let Some(why) = missing.filter(|_| !args.list && !args.is_filtered_out(&trial)) {
            println!("SKIPPED: {name}: {why}");
        }
        trial
    });
    let trials = trials.collect();
    let conclusion = libtest_mimic::run(&args, trials);
    drop(server);
    conclusion.exit_code()
}

fn missing() -> Option<&'static str> {
    let mut tool = Command::new("turnserver");
    tool.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tool.status().is_err().then_some("no turnserver here: apt-get install coturn")
}

fn measured_as_clean(server: &Coturn, target: &str) {
    let target = target.replace("PLAIN", &server.plain.to_string());
    let target = target.replace("SECURE", &server.secure.to_string());
    for mode in ["channel", "send"] {
        let arguments = format!("--mode {mode} --max-loss 0 --ca {}", server.ca.display());
        let run = load(&target, &arguments);
        assert_eq!(run.code(), Some(0), "{target} {mode}: {}\n{}", run.stderr(), server.log());
        for (name, expected) in [
            ("delivered", PACKETS),
            ("peer_received", PACKETS),
            ("corrupted", 0),
            ("foreign", 0),
            ("allocations_deleted", 2),
        ] {
            assert_eq!(run.figure(name), expected, "{target} {mode}: {name}");
        }
    }
}

/// A running coturn; it ends with the value.
struct Coturn {
    process: Child,
    plain: u16,
    secure: u16,
    ca: PathBuf,
    place: TempDir,
}

impl Coturn {
    fn start() -> Self {
        let place = TempDir::new().unwrap();
        let authority = Authority::new("coturn's");
        let ca = authority.write_pem(place.path());
        let identity = authority.issue_all(&["127.0.0.1", "::1"], Validity::Now);
        let (certificate, key) = identity.write_pem(place.path());
        let (plain, secure) = (unused_port(), unused_port());
        let path = |name: &str| place.path().join(name);
        let mut settings = vec![
            format!("listening-port={plain}"),
            format!("tls-listening-port={secure}"),
            format!("cert={}", certificate.display()),
            format!("pkey={}", key.display()),
            format!("pidfile={}", path("pid").display()),
            format!("db={}", path("db").display()),
        ];
        for ip in ["127.0.0.1", "::1"] {
            settings.extend([format!("listening-ip={ip}"), format!("relay-ip={ip}")]);
        }
        let fixed = "lt-cred-mech user=alice:north realm=test.example allow-loopback-peers no-cli \
                     log-file=stdout simple-log";
        settings.extend(fixed.split_whitespace().map(str::to_owned));
        fs::write(path("coturn.conf"), settings.join("\n") + "\n").unwrap();
        let log = File::create(path("log")).unwrap();
        let process = Command::new("turnserver")
            .arg("-c")
            .arg(path("coturn.conf"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let server = Self { process, plain, secure, ca, place };
        let end = Instant::now() + Duration::from_secs(20);
        for port in [plain, secure] {
            while TcpStream::connect(("::1", port)).is_err() {
                assert!(Instant::now() < end, "coturn does not listen: {}", server.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // Fails for one that ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nothing listens on now, over either family.
fn unused_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}
