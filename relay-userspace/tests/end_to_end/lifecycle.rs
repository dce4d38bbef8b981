//! The relay while it serves, and what it leaves behind when it ends: nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use aya::programs::loaded_programs;
use relay_common::abi::{Direction, PROGRAM};
use rustix::process::Signal;
use serde_json::Value;

use crate::Test;
use crate::clients::{Run, peer};
use crate::needs::Need::{Clients, Namespaces, Xdp};
use crate::pins::BpfFs;
use crate::relay::{Plan, Relay, Rig, command};
use crate::relaying::IPV4;
use crate::topology::{Namespace, Topology};
use crate::wait;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("healthy_and_ready_while_serving", &[Namespaces], healthy),
    ("the_kernel_path_is_shown", &[Namespaces, Xdp, Clients], shown),
    ("sigint_leaves_nothing_behind", &[Namespaces, Xdp, Clients], |rig| ends(rig, Signal::INT)),
    ("sigterm_leaves_nothing_behind", &[Namespaces, Xdp, Clients], |rig| ends(rig, Signal::TERM)),
    ("sigkill_without_pins_leaves_nothing_behind", &[Namespaces, Xdp, Clients], |rig| {
        ends(rig, Signal::KILL);
    }),
];

/// Closing is milliseconds; the rest is for a busy machine.
const END_MAX: Duration = Duration::from_secs(5);
/// From a started client to its first message.
const START_MAX: Duration = Duration::from_secs(20);

fn healthy(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let relay = Relay::start(rig, &topology.relay, &Plan::two_armed("userspace"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(relay.get(path), Some((200, "ok\n".to_owned())), "{path}");
    }
    assert_eq!(relay.get("/").map(|(status, _)| status), Some(404));
}

/// `turnpike datapath`, for people and scripts, with times and without.
fn shown(rig: &Rig) {
    let topology = Topology::two_armed(Some(rig.object()));
    let namespace = &topology.relay;
    let (done, said) = command(rig, namespace, &["datapath"]);
    assert!(!done && said.contains("no relay answers on 127.0.0.1:9641"), "{said}");
    let shown = || {
        let (done, said) = command(rig, namespace, &["datapath", "--json"]);
        assert!(done, "{said}");
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let relay = Relay::start(rig, namespace, &Plan::two_armed("native"));
    assert_eq!(shown()["times"], serde_json::json!([]), "not measured unless it is asked for");
    assert!(!relay.metrics().0.contains("turnpike_xdp_seconds"));
    drop(relay);

    let measured = Plan { measure_times: true, ..Plan::two_armed("native") };
    let _relay = Relay::start(rig, namespace, &measured);
    let _peer = peer(&topology.peer, IPV4.peer);
    IPV4.pass(&topology.client);
    let shown = shown();
    let modes = shown["interfaces"].as_array().unwrap();
    assert!(modes.len() == 2 && modes.iter().all(|i| i["mode"] == "native"), "{shown:#}");
    assert!(shown["verdicts"]["client_to_peer"].as_u64().unwrap() >= IPV4.total(), "{shown:#}");
    let times = shown["times"].as_array().unwrap();
    let timed: u64 = times.iter().map(|bucket| bucket["packets"].as_u64().unwrap()).sum();
    let seen: u64 =
        shown["verdicts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(timed >= IPV4.total() && timed <= seen + 100, "{timed} of {seen}: {shown:#}");
    let (done, said) = command(rig, namespace, &["datapath"]);
    assert!(done && said.contains("client_to_peer") && said.contains(" ns ") && said.contains('#'));
}

fn ends(rig: &Rig, signal: Signal) {
    let topology = Topology::two_armed(Some(rig.object()));
    let namespace = &topology.relay;
    let before = programs();
    // What is pinned stays when the relay is killed: that is another file's.
    let bpf_fs = (signal != Signal::KILL).then(BpfFs::mount);
    let pin = bpf_fs.as_ref().map(BpfFs::directory);
    let mut relay = Relay::start(rig, namespace, &Plan { pin, ..Plan::two_armed("native") });
    let attached = attached(namespace);
    let ours: BTreeSet<u64> = programs().difference(&before).copied().collect();
    assert_eq!(attached.len(), 2, "on both interfaces: {attached:?}");
    assert!(attached.iter().all(|id| ours.contains(id)), "{attached:?} not all of {ours:?}");

    // Not an idle relay: with allocations, routes, and packets under way.
    let _peer = peer(&topology.peer, IPV4.peer);
    let _traffic = Run { messages: 100_000, ..IPV4 }.start(&topology.client);
    wait::until("packets are relayed by XDP", START_MAX, || {
        let (xdp, _) = relay.metrics().relayed(Direction::PeerToClient);
        (xdp > 0).then_some(())
    });

    let (status, took) = wait::timed(|| relay.end_by(signal, 2 * END_MAX));
    if signal == Signal::KILL {
        assert!(!status.success());
    } else {
        assert!(status.success(), "{status}");
        assert!(took < END_MAX, "{took:?}");
    }
    // The kernel frees links, programs and rings after the last descriptor is gone.
    wait::until("no XDP program is attached", END_MAX, || {
        self::attached(namespace).is_empty().then_some(())
    });
    wait::until("the programs are unloaded", END_MAX, || {
        programs().is_disjoint(&ours).then_some(())
    });
    wait::until("no socket is open", END_MAX, || {
        let sockets = ["-Huan", "-Htln"].map(|which| namespace.output("ss", which));
        sockets.iter().all(String::is_empty).then_some(())
    });
}

/// Programs of our name that are loaded anywhere on this machine.
pub(crate) fn programs() -> BTreeSet<u64> {
    let ours = |info: &aya::programs::ProgramInfo| info.name_as_str() == Some(PROGRAM);
    // One that is gone before it could be looked at is not loaded.
    loaded_programs().filter_map(Result::ok).filter(ours).map(|info| info.id().into()).collect()
}

/// The programs that are attached to interfaces of a namespace, one for each interface.
pub(crate) fn attached(namespace: &Namespace) -> Vec<u64> {
    let links: Value = serde_json::from_str(&namespace.ip("-j link show")).unwrap();
    let links = links.as_array().unwrap();
    assert!(links.len() >= 3, "loopback and two more: {links:?}");
    let with_xdp = links.iter().filter_map(|link| link.get("xdp"));
    with_xdp.map(|xdp| xdp["prog"]["id"].as_u64().unwrap()).collect()
}
