//! Quotas hold for the whole server, whichever shard a client comes to.

use crate::Test;
use crate::client::Client;
use crate::needs::Need::Namespaces;
use crate::relay::{Plan, Relay, Rig};
use crate::topology::Topology;

/// The tests of this file.
pub(crate) const TESTS: &[Test] =
    &[("quotas_hold_over_all_shards", &[Namespaces], quotas_hold_over_all_shards)];

/// Any port: which shard it leads to is the kernel's choice.
const FROM: &str = "10.77.1.2:0";
const SERVER: &str = "10.77.1.1:3478";
/// So many more clients that no shard of two is left out.
const REFUSED: u64 = 24;

fn quotas_hold_over_all_shards(rig: &Rig) {
    let topology = Topology::two_armed(None);
    let more = "limits.user_allocations_max = 3";
    let plan = Plan { shards: 2, more, ..Plan::two_armed("userspace") };
    let relay = Relay::start(rig, &topology.relay, &plan);
    let allocate = || Client::allocate(&topology.client, FROM, SERVER);
    let mut clients = [allocate(), allocate(), allocate()];
    for _ in 0..REFUSED {
        assert_eq!(Client::refused(&topology.client, FROM, SERVER), Some(486));
    }
    clients[0].end();
    let _another = allocate();
    assert_eq!(Client::refused(&topology.client, FROM, SERVER), Some(486));
    let metrics = relay.metrics();
    let refused = metrics.value("turnpike_over_quota_total{quota=\"user_allocations\"}");
    assert_eq!(refused, REFUSED + 1);
    let log = relay.log();
    assert!(log.contains("a quota is used up") && log.contains("user_allocations_max"), "{log}");
}
