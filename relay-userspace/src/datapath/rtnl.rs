//! Questions to the kernel over rtnetlink, on a connection of their own: events on the same socket
//! could crowd an answer out, or be taken for one. Every question has a deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use super::next_hops::Ends;

/// How long an answer may take; a whole table takes milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How packets towards an address leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Via {
    /// Egress interface.
    pub(super) ifindex: u32,
    /// The neighbour they are handed to.
    pub(super) gateway: IpAddr,
    /// The route's own MTU, bytes.
    pub(super) mtu: Option<u32>,
}

/// A connection for questions.
pub(super) struct Questions {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Questions {
    /// Opens the connection.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Every link.
    pub(super) async fn links(&self) -> io::Result<Vec<LinkMessage>> {
        all(self.handle.link().get().execute()).await
    }

    /// Whether there is such a link.
    pub(super) async fn has_link(&self, index: u32) -> io::Result<bool> {
        match all(self.handle.link().get().match_index(index).execute()).await {
            Ok(links) => Ok(!links.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every neighbour.
    pub(super) async fn neighbours(&self) -> io::Result<Vec<NeighbourMessage>> {
        all(self.handle.neighbours().get().execute()).await
    }

    /// How packets between these ends leave, as the kernel's own look-up says. `None`: not at all,
    /// or not by a neighbour.
    pub(super) async fn route(&self, (local, remote): Ends) -> io::Result<Option<Via>> {
        let request = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(remote, 32)
                .source_prefix(local, 32)
                .build(),
            (IpAddr::V6(local), IpAddr::V6(remote)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(remote, 128)
                .source_prefix(local, 128)
                .build(),
            _ => return Ok(None),
        };
        let answers = all(self.handle.route().get(request).execute()).await;
        match answers {
            Ok(routes) => Ok(routes.first().and_then(|route| via(route, remote))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel resolve a neighbour, or confirm it.
    pub(super) async fn ask_for(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute();
        match timeout(ANSWER_MAX, request).await.map_err(io::Error::from)?.map_err(answered) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn all<T>(answers: impl Stream<Item = Result<T, Error>>) -> io::Result<Vec<T>> {
    let all = timeout(ANSWER_MAX, answers.try_collect()).await.map_err(io::Error::from)?;
    all.map_err(answered)
}

/// An answer of the kernel that says no is `NotFound`, whatever its reason; everything else is a
/// failure of the connection.
fn answered(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(answer) => {
            debug!(%answer, "the kernel says no");
            io::Error::new(io::ErrorKind::NotFound, answer.to_string())
        }
        error => io::Error::other(error),
    }
}

/// What a route look-up's answer says. `None`: the packets do not leave the machine.
fn via(route: &RouteMessage, remote: IpAddr) -> Option<Via> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut via = Via { ifindex: 0, gateway: remote, mtu: None };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => via.ifindex = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via.gateway = IpAddr::V4(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip))
            | RouteAttribute::Via(RouteVia::Inet6(ip)) => via.gateway = IpAddr::V6(*ip),
            RouteAttribute::Via(RouteVia::Inet(ip)) => via.gateway = IpAddr::V4(*ip),
            // Tunnels rewrite what leaves: not the fast path's business.
            RouteAttribute::Encap(_) => return None,
            RouteAttribute::Metrics(metrics) => {
                via.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (via.ifindex != 0).then_some(via)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.kind = kind;
        route.attributes = attributes;
        route
    }

    #[test]
    fn a_route_leads_to_its_gateway_or_to_the_remote_itself() {
        let remote: IpAddr = "198.51.100.9".parse().unwrap();
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        let on_link = route(RouteType::Unicast, vec![RouteAttribute::Oif(3)]);
        assert_eq!(via(&on_link, remote), Some(Via { ifindex: 3, gateway: remote, mtu: None }));
        let routed = route(
            RouteType::Unicast,
            vec![
                RouteAttribute::Oif(3),
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
                RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
            ],
        );
        let expected = Via { ifindex: 3, gateway: gateway.into(), mtu: Some(1400) };
        assert_eq!(via(&routed, remote), Some(expected));
        let over_ipv6 = route(
            RouteType::Unicast,
            vec![RouteAttribute::Oif(3), RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST))],
        );
        assert_eq!(
            via(&over_ipv6, remote).map(|via| via.gateway),
            Some(Ipv6Addr::LOCALHOST.into())
        );
    }

    #[test]
    fn what_does_not_leave_by_a_neighbour_has_no_next_hop() {
        let remote: IpAddr = "198.51.100.9".parse().unwrap();
        for kind in [RouteType::Local, RouteType::BlackHole, RouteType::Unreachable] {
            assert_eq!(via(&route(kind, vec![RouteAttribute::Oif(3)]), remote), None);
        }
        assert_eq!(via(&route(RouteType::Unicast, Vec::new()), remote), None, "no interface");
        let tunnel = vec![RouteAttribute::Oif(3), RouteAttribute::Encap(Vec::new())];
        assert_eq!(via(&route(RouteType::Unicast, tunnel), remote), None);
    }
}
