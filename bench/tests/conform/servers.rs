//! Servers that are not the test's: Turnpike, of which nothing may fail, and coturn, whose known
//! habits have to be found. In namespaces of their own.

use crate::lab::{Coturn, Lab, Need, Setting, Test, Turnpike};
use crate::{Run, conform};

/// What they are called, what they need, what they do.
pub(crate) const TESTS: &[Test] = &[
    ("turnpike_in_userspace_conforms", &[Need::Namespaces, Need::Turnpike], userspace),
    ("turnpike_in_the_kernel_conforms", &[Need::Namespaces, Need::Xdp, Need::Turnpike], kernel),
    ("coturn_differs_where_it_is_known_to", &[Need::Namespaces, Need::Coturn], coturn),
];

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

/// Turnpike with a second address to answer from, the ports that RFC 8656 §7.2 asks for, two shards
/// and mobility between them.
fn turnpike<'l>(lab: &'l Lab, mode: &'static str) -> Turnpike<'l> {
    let discovery = &["10.77.1.1:3478", "10.77.1.3:3479"];
    let ports = "49152-65535";
    let setting = Setting { discovery, ports, shards: 2, mobility: true, ..Setting::of(mode) };
    Turnpike::start(lab, setting)
}

fn nothing_fails(run: &Run) {
    assert_eq!(run.with_outcome("fail"), [""; 0], "{}", run.text());
    assert!(run.with_outcome("pass").len() > 150, "{}", run.text());
    let moved = run.with_outcome("pass").into_iter().filter(|id| id.starts_with("8016"));
    assert_eq!(moved.count(), 13, "{}", run.text());
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
    let _server = Coturn::start(&lab);
    let run = lab.client.within(|| conform(WORDS));
    run.ends_with(1);
    for id in COTURN {
        assert!(run.with_outcome("fail").contains(id), "{id}: {}", run.text());
    }
    // Most of TURN is as it should be, from the first request to the last byte.
    assert!(run.with_outcome("pass").len() > 120, "{}", run.text());
}
