//! coturn's test programs against the relay: its client in every mode that it has over UDP, and
//! the tokens of `turnutils_oauth`. What its discovery programs find is in `discovery.rs`.

use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay_common::abi::Direction;

use crate::Test;
use crate::client::Client;
use crate::clients::{Run, last_number, peer};
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::relay::{Metrics, Plan, Relay, Rig};
use crate::third_party::{TOKENS, proved};
use crate::topology::{Namespace, Topology};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("client_modes_by_native_xdp", &[Namespaces, Xdp, Clients], |rig| modes(rig, "native")),
    ("client_modes_by_userspace", &[Namespaces, Clients], |rig| modes(rig, "userspace")),
    ("tokens_of_turnutils_oauth", &[Namespaces, Clients], tokens),
];

/// One client of the IPv4 server, to the IPv4 peer.
const ONE: Run =
    Run { server: "10.77.1.1", peer: "10.77.2.2", options: "", clients: 1, messages: 20 };
const V6: &str = "fd77:1::1";
const PEER_V6: &str = "fd77:2::2";
/// Two clients that are each other's peers.
const PAIR: Run = Run { peer: "", clients: 2, ..ONE };

/// Modes of the client in which everything that is sent must come back.
const MODES: &[Run] = &[
    // Pairs of ports, as RTP has them: EVEN-PORT with R, RESERVATION-TOKEN.
    ONE,
    Run { options: "-c", ..ONE },
    Run { options: "-c -s", ..ONE },
    // Padded ChannelData.
    Run { options: "-c -D", ..ONE },
    // DONT-FRAGMENT in Allocate and Send.
    Run { options: "-c -g", ..ONE },
    Run { options: "-c -g -s", ..ONE },
    Run { options: "-c -g -x", server: V6, peer: PEER_V6, ..ONE },
    // More permissions and channels than it needs, to addresses of either family.
    Run { options: "-G", ..ONE },
    Run { options: "-c -s -G", ..ONE },
    // Families: as asked for, or not at all.
    Run { options: "-c -X", ..ONE },
    Run { options: "-c -x", peer: PEER_V6, ..ONE },
    Run { options: "-c -X", server: V6, ..ONE },
    Run { options: "-c -x", server: V6, peer: PEER_V6, ..ONE },
    // No CreatePermission: a channel brings a permission.
    Run { options: "-c -I", ..ONE },
    // Attributes that need not be understood: BANDWIDTH's successor, ORIGIN.
    Run { options: "-c -a 100000", ..ONE },
    Run { options: "-c -o https://example.org", ..ONE },
    // Where it sends from and to.
    Run { options: "-c -L 10.77.1.9", ..ONE },
    Run { options: "-c -d eth0", ..ONE },
    Run { options: "-c -p 3479", ..ONE },
    // Credentials: time-limited ones, tokens.
    Run { options: "-c -W south", ..ONE },
    Run { options: "-c -W north -C :", ..ONE },
    Run { options: "-c -J", ..ONE },
    Run { options: "-J -s", ..ONE },
    // Client to client, by relayed addresses.
    Run { options: "-y", ..PAIR },
    Run { options: "-y -c -s", ..PAIR },
    Run { options: "-y -D", ..PAIR },
    Run { options: "-y -c -x", server: V6, ..PAIR },
];

/// Every mode at once, and in their midst clients that misbehave.
fn modes(rig: &Rig, mode: &'static str) {
    let topology = Topology::two_armed(rig.object.as_deref().filter(|_| mode == "native"));
    let auth = format!(
        "users = {{ alice = \"wonderland\" }}\nsecrets = [\"north\", \"south\"]\n\
         tokens = {{ {TOKENS} }}\ntoken_server_name = \"blackdow.carleon.gov\""
    );
    let plan = Plan {
        listen: vec!["10.77.1.1:3478", "10.77.1.1:3479", "[fd77:1::1]:3478"],
        auth: Some(auth),
        shards: 1,
        ..Plan::two_armed(mode)
    };
    let mut relay = Relay::start(rig, &topology.relay, &plan);
    let _peers = [ONE.peer, PEER_V6].map(|ip| peer(&topology.peer, ip));
    let client = &topology.client;
    gone_at_once(&relay, client);
    // A tenth of what they send has wrong bytes: what is not answered they wait for, for ever.
    let damaging = ["-c -R", "-R -y"].map(|options| Run { options, ..PAIR }.start(client));
    thread::scope(|scope| {
        for run in MODES {
            scope.spawn(|| all_comes_back(run, client).unwrap());
        }
        scope.spawn(|| other_numbers_each_time(client));
        scope.spawn(|| disconnects(client));
        scope.spawn(|| draft_of_two_families(client));
        scope.spawn(|| wrong_password(client));
    });
    assert!(relay.is_alive());
    drop(damaging);
    let metrics = relay.metrics();
    let messages: u64 = MODES.iter().map(Run::total).sum();
    for direction in Direction::ALL {
        let (xdp, userspace) = metrics.relayed(direction);
        let shown = format!("{direction:?}: {xdp} by XDP, {userspace} by userspace");
        // Pairs are hairpins, which neither direction counts.
        assert!(xdp + userspace >= messages / 2, "{shown}");
        assert_eq!(mode == "native", xdp > messages / 4, "{shown}");
    }
    assert_eq!(allocations_refused(&metrics, "508"), 0, "{}", metrics.0);
    // Where no tokens are offered, `-J` would go on with the password.
    assert!(proved(&metrics, "token") >= 3 * 3, "{}", metrics.0);
}

fn allocations_refused(metrics: &Metrics, code: &str) -> u64 {
    metrics.value(&format!("turnpike_requests_total{{code=\"{code}\",method=\"allocate\"}}"))
}

/// What it says, if not everything came back that was sent.
fn all_comes_back(run: &Run, client: &Namespace) -> Result<(), String> {
    let (status, text) = run.run(client);
    let number = |label| last_number(&text, label);
    let sent = number("start_mclient: tot_send_msgs=");
    let all = sent.is_some_and(|sent| sent >= run.total())
        && number("tot_recv_msgs=") == sent
        && number("Total lost packets ") == Some(0);
    if status.success() && all { Ok(()) } else { Err(format!("{run:?}: {status}\n{text}")) }
}

/// `-O`: allocates, and is gone before anything is relayed.
fn gone_at_once(relay: &Relay<'_>, client: &Namespace) {
    let run = Run { options: "-c -O", clients: 3, ..ONE };
    let (status, text) = run.run(client);
    assert!(status.success(), "{status}\n{text}");
    let allocated = allocations_refused(&relay.metrics(), "success");
    assert!(allocated >= run.clients, "{allocated} allocations\n{text}");
}

/// `-N`: channel numbers of chance. It ends when it takes one twice, as one run in thousands does.
fn other_numbers_each_time(client: &Namespace) {
    let run = Run { options: "-y -N", ..PAIR };
    let again = |why: String| all_comes_back(&run, client).map_err(|again| why + &again);
    all_comes_back(&run, client).or_else(again).unwrap();
}

/// `-B`: clients that may be gone after their first packets. What came was sent.
fn disconnects(client: &Namespace) {
    let (status, text) = Run { options: "-c -B", clients: 4, ..ONE }.run(client);
    let sent = last_number(&text, "start_mclient: tot_send_msgs=");
    let came = last_number(&text, "tot_recv_msgs=");
    assert!(status.success() && sent >= Some(1) && came <= sent, "{status}\n{text}");
}

/// `-Z`: asks for two families by the number of a draft, which is ignored (RFC 8656 has another):
/// it gets an IPv4 address, and gives up if it then happens to refresh an IPv6 one.
fn draft_of_two_families(client: &Namespace) {
    let run = Run { options: "-Z", ..ONE };
    if let Err(why) = all_comes_back(&run, client) {
        assert!(why.contains("error 443 (Peer Address Family Mismatch)"), "{why}");
    }
}

fn wrong_password(client: &Namespace) {
    let (status, text) = Run { options: "-c -w wrong", ..ONE }.run(client);
    assert!(!status.success() && text.contains("Cannot complete Allocation"), "{text}");
}

/// A token that `turnutils_oauth` makes, reads, and refuses for another server is the relay's too.
fn tokens(rig: &Rig) {
    const KEY: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    let topology = Topology::two_armed(None);
    let auth = Some(format!("tokens = {{ {TOKENS} }}\ntoken_server_name = \"turn.example.org\""));
    let plan = Plan { auth, ..Plan::two_armed("userspace") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs();
    let oauth = |verb: &str, server: &str, more: &str| {
        let words =
            format!("{verb} -i {server} -j oldempire -k {KEY} -l {now} -m 86400 -n A256GCM {more}");
        let output = Command::new("turnutils_oauth").args(words.split(' ')).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let session_key = *b"sixteen bytes ok";
    let make = |server: &str| {
        let key = STANDARD.encode(session_key);
        let (made, text) = oauth("-e", server, &format!("-o MTIzNDU2Nzg5MDEy -p {key} -r 3600"));
        let token =
            text.split("\"access_token\":\"").nth(1).and_then(|rest| rest.split('"').next());
        assert!(made && token.is_some(), "{text}");
        token.unwrap_or_default().to_owned()
    };
    let [right, elsewhere] = ["turn.example.org", "other.example.org"].map(make);
    assert!(oauth("-d", "turn.example.org", &format!("-t {right}")).0);
    assert!(!oauth("-d", "turn.example.org", &format!("-t {elsewhere}")).0);
    let allocate = |kid: &str, token: &str| {
        let token = STANDARD.decode(token).unwrap();
        let way = ["10.77.1.2:0", "10.77.1.1:3478"];
        Client::allocate_by_token(kid, session_key, token, &topology.client, way).map(drop)
    };
    assert_eq!(allocate("oldempire", &right), Ok(()));
    assert_eq!(allocate("oldempire", &elsewhere), Err(401));
    assert_eq!(allocate("north", &right), Err(401), "another key");
    assert_eq!(allocations_refused(&relay.metrics(), "401"), 2 + 3);
}
