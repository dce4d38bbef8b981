//! coturn's client meets what RFC 8489 and RFC 7635 add: what it knows of it works, and what it
//! does not know does not disturb it.

use crate::Test;
use crate::clients::{Run, peer};
use crate::needs::Need::{Clients, Namespaces};
use crate::relay::{Metrics, Plan, Relay, Rig};
use crate::relaying::IPV4;
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("access_tokens_of_coturns_client", &[Namespaces, Clients], access_tokens),
    ("passwords_where_everything_is_offered", &[Namespaces, Clients], passwords),
];

/// The keys that coturn's client makes its test tokens with, in base64.
pub(crate) const TOKENS: &str = "north = \"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\", \
                      oldempire = \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\", \
                      union = \"MTIzNDU2Nzg5MDEyMzQ1Ng==\"";

/// How many requests were proved with that key.
pub(crate) fn proved(metrics: &Metrics, key: &str) -> u64 {
    let of = |integrity: &str| {
        let labels = format!("{{integrity=\"{integrity}\",key=\"{key}\"}}");
        metrics.value(&format!("turnpike_requests_authenticated_total{labels}"))
    };
    of("sha1") + of("sha256")
}

/// The counters after a client has run with each of the options.
fn run(rig: &Rig, auth: &str, more: &'static str, options: &[&'static str]) -> Metrics {
    let topology = Topology::two_armed(None);
    let auth = Some(format!("users = {{ alice = \"wonderland\" }}\n{auth}"));
    let plan = Plan { auth, more, ..Plan::two_armed("userspace") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let _peer = peer(&topology.peer, IPV4.peer);
    for options in options {
        Run { options, clients: 2, messages: 20, ..IPV4 }.pass(&topology.client);
    }
    relay.metrics()
}

fn access_tokens(rig: &Rig) {
    let tokens = format!("tokens = {{ {TOKENS} }}\ntoken_server_name = \"blackdow.carleon.gov\"");
    let metrics = run(rig, &tokens, "", &["-c -J"]);
    // Each client allocates, binds a channel and refreshes.
    assert!(proved(&metrics, "token") >= 2 * 3, "{}", metrics.0);
    assert_eq!(proved(&metrics, "md5"), 0, "{}", metrics.0);
}

fn passwords(rig: &Rig) {
    let auth = format!("secrets = [\"north\"]\nuserhash = true\ntokens = {{ {TOKENS} }}");
    let more = "software = \"Turnpike\"\nredirect.servers = [\"192.0.2.1:3478\"]\n\
                redirect.domain = \"other.example.org\"";
    let metrics = run(rig, &auth, more, &["-c"]);
    assert!(proved(&metrics, "md5") >= 2 * 3, "{}", metrics.0);
}
