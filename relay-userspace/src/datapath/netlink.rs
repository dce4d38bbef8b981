//! Follows routes, neighbours and links over rtnetlink, and keeps the next hops in the kernel's
//! map true to them.
//!
//! A next hop is valid only while its route leaves by an attached interface and its neighbour's
//! MAC address is known. Traffic that XDP relays does not refresh the kernel's neighbour table,
//! so neighbours in use are asked for here.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use relay_common::abi::{NEXT_HOP_VALID, NextHop};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, warn};

use super::kernel::Kernel;
use super::next_hops::{Change, Ends};

/// How long route changes are gathered before everything is resolved anew.
const SETTLE: Duration = Duration::from_millis(50);
/// How often neighbours in use are asked for.
const REFRESH: Duration = Duration::from_secs(15);

type Mac = [u8; 6];

/// A link as far as frames on it are concerned.
#[derive(Clone, Copy)]
struct Link {
    mac: Mac,
    mtu: u32,
    is_up: bool,
}

/// How packets towards an address leave.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Via {
    ifindex: u32,
    gateway: IpAddr,
    mtu: Option<u32>,
}

/// A next hop in use.
struct Hop {
    serial: u64,
    ends: Ends,
    via: Option<Via>,
    written: NextHop,
}

struct Follower {
    kernel: Arc<Kernel>,
    handle: Handle,
    links: HashMap<u32, Link>,
    /// Those whose MAC address can be used.
    neighbours: HashMap<(u32, IpAddr), Mac>,
    hops: HashMap<u32, Hop>,
}

/// Serves `changes` and the kernel's events until the relay ends.
///
/// # Errors
/// The netlink socket cannot be opened.
pub(crate) async fn follow(
    kernel: Arc<Kernel>,
    mut changes: UnboundedReceiver<Change>,
) -> io::Result<()> {
    let (connection, handle, mut events) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])?;
    tokio::spawn(connection);
    let mut follower = Follower {
        kernel,
        handle,
        links: HashMap::new(),
        neighbours: HashMap::new(),
        hops: HashMap::new(),
    };
    follower.read_all().await;
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settled: Option<Instant> = None;
    loop {
        let at = settled.unwrap_or_else(Instant::now);
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => follower.change(change).await,
                None => return Ok(()),
            },
            event = events.next() => match event {
                Some((message, _)) => match follower.event(message) {
                    Effect::None => {}
                    Effect::Routes => settled = settled.or(Some(Instant::now() + SETTLE)),
                    Effect::Lost => {
                        follower.read_all().await;
                        settled = Some(Instant::now());
                    }
                },
                None => return Err(io::Error::other("the netlink connection ended")),
            },
            () = sleep_until(at), if settled.is_some() => {
                settled = None;
                follower.resolve_all().await;
            }
            _ = refresh.tick() => follower.refresh().await,
        }
    }
}

/// What an event means for the next hops.
enum Effect {
    /// Nothing, or it was dealt with.
    None,
    /// Routes changed: resolve again.
    Routes,
    /// Events were lost: read everything again.
    Lost,
}

impl Follower {
    async fn change(&mut self, change: Change) {
        match change {
            Change::Wanted { index, serial, ends } => {
                let hop = Hop { serial, ends, via: None, written: NextHop::default() };
                self.hops.insert(index, hop);
                self.resolve(index).await;
            }
            Change::Dropped { index, serial } => {
                if self.hops.get(&index).is_some_and(|hop| hop.serial == serial) {
                    self.hops.remove(&index);
                }
            }
        }
    }

    fn event(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Effect {
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) => return Effect::Lost,
            _ => return Effect::None,
        };
        match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.neighbour(&neighbour),
            RouteNetlinkMessage::DelNeighbour(mut neighbour) => {
                neighbour.header.state = NeighbourState::Failed;
                self.neighbour(&neighbour);
            }
            RouteNetlinkMessage::NewLink(link) => {
                self.link(&link);
                return Effect::Routes;
            }
            RouteNetlinkMessage::DelLink(link) => {
                self.links.remove(&link.header.index);
                self.write_where(|via| via.ifindex == link.header.index);
                return Effect::Routes;
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => return Effect::Routes,
            _ => {}
        }
        Effect::None
    }

    /// Reads links and neighbours from the start: at first, and after events were lost.
    async fn read_all(&mut self) {
        let links = collect(self.handle.link().get().execute()).await;
        let neighbours = collect(self.handle.neighbours().get().execute()).await;
        self.links.clear();
        self.neighbours.clear();
        links.iter().for_each(|link| self.link(link));
        neighbours.iter().for_each(|neighbour| self.neighbour(neighbour));
        self.write_where(|_| true);
    }

    fn link(&mut self, message: &LinkMessage) {
        let mut link =
            Link { mac: [0; 6], mtu: 0, is_up: message.header.flags.contains(LinkFlags::LowerUp) };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(mac) => {
                    link.mac = mac[..].try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        self.links.insert(message.header.index, link);
        self.write_where(|via| via.ifindex == message.header.index);
    }

    fn neighbour(&mut self, message: &NeighbourMessage) {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(*ip));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(*ip));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes[..].try_into().ok(),
                _ => {}
            }
        }
        let Some(address) = address else { return };
        let is_usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        let key = (message.header.ifindex, address);
        match mac.filter(|_| is_usable) {
            Some(mac) => self.neighbours.insert(key, mac),
            None => self.neighbours.remove(&key),
        };
        self.write_where(|via| (via.ifindex, via.gateway) == key);
    }

    async fn resolve_all(&mut self) {
        let indexes: Vec<u32> = self.hops.keys().copied().collect();
        for index in indexes {
            self.resolve(index).await;
        }
    }

    /// Asks for the route of a next hop, and for its neighbour if that is not known.
    async fn resolve(&mut self, index: u32) {
        let Some(hop) = self.hops.get(&index) else { return };
        let via = self.route(hop.ends).await;
        if let Some(hop) = self.hops.get_mut(&index) {
            hop.via = via;
        }
        self.write(index);
        if let Some(via) = via
            && self.port(via.ifindex).is_some()
            && !self.neighbours.contains_key(&(via.ifindex, via.gateway))
        {
            self.ask_for(via.ifindex, via.gateway).await;
        }
    }

    /// How packets between these ends leave, as the kernel's own look-up says.
    async fn route(&self, (local, remote): Ends) -> Option<Via> {
        let request = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(remote, 32)
                .source_prefix(local, 32)
                .build(),
            (IpAddr::V6(local), IpAddr::V6(remote)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(remote, 128)
                .source_prefix(local, 128)
                .build(),
            _ => return None,
        };
        let answer = self.handle.route().get(request).execute().boxed().try_next().await;
        match answer {
            Ok(route) => via(&route?, remote),
            Err(error) => {
                debug!(%error, "no route for a next hop");
                None
            }
        }
    }

    /// Has the kernel resolve a neighbour, or confirm it.
    async fn ask_for(&self, ifindex: u32, address: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            debug!(%error, "a neighbour cannot be asked for");
        }
    }

    /// Asks for every neighbour in use: those that are fresh cost nothing.
    async fn refresh(&mut self) {
        let used: HashSet<(u32, IpAddr)> = self
            .hops
            .values()
            .filter_map(|hop| hop.via.map(|via| (via.ifindex, via.gateway)))
            .filter(|(ifindex, _)| self.port(*ifindex).is_some())
            .collect();
        for (ifindex, address) in used {
            self.ask_for(ifindex, address).await;
        }
    }

    fn write_where(&mut self, concerned: impl Fn(&Via) -> bool) {
        let indexes: Vec<u32> = self
            .hops
            .iter()
            .filter(|(_, hop)| hop.via.as_ref().is_some_and(&concerned))
            .map(|(index, _)| *index)
            .collect();
        for index in indexes {
            self.write(index);
        }
    }

    /// Brings the kernel's entry up to date, if it changed.
    fn write(&mut self, index: u32) {
        let Some(hop) = self.hops.get(&index) else { return };
        let value = hop.via.and_then(|via| self.next_hop(via)).unwrap_or_default();
        if value != hop.written {
            self.kernel.set_next_hop(index, hop.serial, value);
        }
        if let Some(hop) = self.hops.get_mut(&index) {
            hop.written = value;
        }
    }

    fn next_hop(&self, via: Via) -> Option<NextHop> {
        let port = self.port(via.ifindex)?;
        let link = self.links.get(&via.ifindex).filter(|link| link.is_up)?;
        let neighbour = self.neighbours.get(&(via.ifindex, via.gateway))?;
        Some(NextHop {
            dst_mac: words(*neighbour),
            src_mac: words(link.mac),
            ifindex: via.ifindex,
            port,
            mtu: via.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            vlan: 0,
            state: NEXT_HOP_VALID,
        })
    }

    /// The egress index of an interface, if the program is attached to it.
    fn port(&self, ifindex: u32) -> Option<u32> {
        let attachments = self.kernel.attachments();
        (0..).zip(attachments).find(|(_, a)| a.interface.index == ifindex).map(|(port, _)| port)
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

/// A MAC address as words that lie in memory as it does.
fn words([a, b, c, d, e, f]: Mac) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

async fn collect<T>(answers: impl Stream<Item = Result<T, rtnetlink::Error>> + Send) -> Vec<T> {
    match answers.boxed().try_collect().await {
        Ok(all) => all,
        Err(error) => {
            warn!(%error, "the kernel's network configuration cannot be read");
            Vec::new()
        }
    }
}
