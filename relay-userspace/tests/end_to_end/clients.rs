//! The third parties: coturn's test client and its echo server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::topology::Namespace;
use crate::wait;

const PEER_PORT: u16 = 3480;
/// Bytes in each message.
const LENGTH: u32 = 200;

/// A process, killed when dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails for one that ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an echo server and waits until it answers.
pub(crate) fn peer(namespace: &Namespace, ip: &str) -> Running {
    let mut command = Command::new("turnutils_peer");
    command.args(["-L", ip, "-p", &PEER_PORT.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let peer = Running(namespace.within(|| command.spawn()).unwrap());
    let ip: IpAddr = ip.parse().unwrap();
    namespace.within(|| {
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.connect(SocketAddr::new(ip, PEER_PORT)).unwrap();
        wait::until("the peer answers", Duration::from_secs(10), || {
            socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8])).ok()
        });
    });
    peer
}

/// Sends messages through a relay and counts what comes back.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The relay's address.
    pub(crate) server: &'static str,
    /// The echo server's address; empty for relay to relay.
    pub(crate) peer: &'static str,
    /// Options of `turnutils_uclient`, on top of address, credentials and counts.
    pub(crate) options: &'static str,
    /// Clients, each with an allocation or with a pair of them.
    pub(crate) clients: u64,
    /// Messages of each client.
    pub(crate) messages: u64,
}

impl Run {
    /// Messages that are sent, and that must come back.
    pub(crate) const fn total(&self) -> u64 {
        self.clients * self.messages
    }

    /// The client's program with its options.
    fn words(&self) -> Vec<String> {
        let Self { server, peer, options, clients, messages } = self;
        let counts = format!("-n {messages} -m {clients} -l {LENGTH} -z 5 -r {PEER_PORT}");
        let credentials =
            if options.contains("-W") { "-u alice" } else { "-u alice -w wonderland" };
        let peer = if peer.is_empty() { String::new() } else { format!("-e {peer}") };
        let line = format!("turnutils_uclient {counts} {credentials} {options} {peer} {server}");
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Starts it, and leaves it running.
    pub(crate) fn start(&self, namespace: &Namespace) -> Running {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(namespace.within(|| command.spawn()).unwrap())
    }

    /// Runs it to the end; what it said.
    pub(crate) fn run(&self, namespace: &Namespace) -> (ExitStatus, String) {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "60"]).args(self.words()).stdin(Stdio::null());
        let output = namespace.within(|| command.output()).unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
        (output.status, text.join("\n"))
    }

    /// Runs it to the end, and insists that it is content.
    ///
    /// # Panics
    /// Anything was lost, or the client is not content.
    pub(crate) fn pass(&self, namespace: &Namespace) {
        let (status, text) = self.run(namespace);
        assert!(status.success(), "{self:?}: {status}\n{text}");
        for (label, expected) in [
            ("start_mclient: tot_send_msgs=", self.total()),
            ("tot_recv_msgs=", self.total()),
            ("Total lost packets ", 0),
        ] {
            assert_eq!(last_number(&text, label), Some(expected), "{self:?}: {label}\n{text}");
        }
    }
}

/// The number behind the last occurrence of `label`.
pub(crate) fn last_number(text: &str, label: &str) -> Option<u64> {
    let (_, tail) = text.rsplit_once(label)?;
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    tail[..digits].parse().ok()
}
