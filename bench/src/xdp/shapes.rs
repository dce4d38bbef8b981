//! Packets in other shapes than the headline's, each relayed by Turnpike alone: what arrives, and
//! what has to leave. One binding each.

use relay_common::abi::Reason;
use relay_common::addr::Family;

use super::frame::{Datagram, channel_data};
use super::path::{Kind, Out, Path, arriving, client_to_peer, data, leaving, peer_to_client};
use super::tables::{self, CHANNEL, Ends, RECEIVER_CHANNEL, Set, VLAN};

/// Bytes behind the application data of the padded path: as many as there may be (RFC 8656 §12.5).
const PADDING_BYTES: i16 = 3;

/// All of them.
pub(super) fn paths(payload: u16) -> Vec<Path> {
    let mut paths = crossings(payload);
    paths.push(hairpin(payload));
    paths.extend(tagged(payload));
    paths.push(padded(payload));
    paths
}

/// Named by the families that a packet has on its way.
fn crossings(payload: u16) -> Vec<Path> {
    let (v4, v6) = (Family::V4, Family::V6);
    let ends = |client, peer| Ends::of(Set::Crossing, [client, peer], 0);
    let up = |name, client, peer| {
        let (arrives, leaves) = client_to_peer(&ends(client, peer), payload);
        Path::new(
            name,
            way(Reason::ClientToPeer),
            payload,
            &arrives,
            Out::Datagram(crossed(leaves)),
        )
    };
    let down = |name, peer, client| {
        let (arrives, leaves) = peer_to_client(&ends(client, peer), payload);
        Path::new(
            name,
            way(Reason::PeerToClient),
            payload,
            &arrives,
            Out::Datagram(crossed(leaves)),
        )
    };
    vec![
        up("ipv4_to_ipv6_client_to_peer", v4, v6),
        down("ipv4_to_ipv6_peer_to_client", v4, v6),
        up("ipv6_to_ipv4_client_to_peer", v6, v4),
        down("ipv6_to_ipv4_peer_to_client", v6, v4),
    ]
}

/// Neither family's header says what the other's needs: no identification (with DF), no flow label.
fn crossed(leaves: Datagram) -> Datagram {
    Datagram { id: 0, flow: 0, ..leaves }
}

/// From client to client, two hops in one.
fn hairpin(payload: u16) -> Path {
    let [from, to] = tables::hairpin_ends();
    let data = data(payload);
    let arrives = arriving(from.client, from.server, channel_data(CHANNEL, &data));
    let leaves = leaving(to.server, to.client, channel_data(RECEIVER_CHANNEL, &data));
    let leaves = Datagram { hop_limit: leaves.hop_limit - 1, ..leaves };
    Path::new("ipv4_hairpin", way(Reason::Hairpin), payload, &arrives, Out::Datagram(leaves))
}

/// Behind a tag of their own, out with one.
fn tagged(payload: u16) -> [Path; 2] {
    let ends = Ends::of(Set::Tagged, [Family::V4; 2], 0);
    let path = |name, reason, (arrives, leaves)| {
        let [arrives, leaves] =
            [arrives, leaves].map(|datagram| Datagram { vlan: Some(VLAN), ..datagram });
        Path::new(name, way(reason), payload, &arrives, Out::Datagram(leaves))
    };
    [
        path("ipv4_vlan_client_to_peer", Reason::ClientToPeer, client_to_peer(&ends, payload)),
        path("ipv4_vlan_peer_to_client", Reason::PeerToClient, peer_to_client(&ends, payload)),
    ]
}

/// A straight binding's ChannelData with padding.
fn padded(payload: u16) -> Path {
    let (arrives, leaves) = client_to_peer(&Ends::straight(Family::V4, 0), payload);
    let padded = [&arrives.payload[..], &[0; PADDING_BYTES as usize]].concat();
    let arrives = Datagram { payload: padded, ..arrives };
    let (way, out) = (way(Reason::ClientToPeer), Out::Datagram(leaves));
    Path::new("ipv4_padded_client_to_peer", way, payload, &arrives, out).tail(-PADDING_BYTES)
}

fn way(reason: Reason) -> (Kind, Reason) {
    (Kind::Other, reason)
}
