//! Follows routes, neighbours and links over rtnetlink, and keeps the next hops in the kernel's
//! map true to them.
//!
//! A next hop is valid only while its route leaves by an attached interface and its neighbour's
//! MAC address is known. Traffic that XDP relays does not refresh the kernel's neighbour table,
//! so neighbours in use are asked for here; nor do path MTUs, redirects and some next-hop objects
//! make events, so routes in use are looked up again and again. Whatever goes wrong with netlink
//! makes every next hop invalid until it is read anew: packets then go through userspace, never to
//! a wrong place.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use relay_common::abi::{LinkKey, NEXT_HOP_VALID, NextHop, Station};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::warn;

use super::kernel::Kernel;
use super::links::{Links, Mac, words};
use super::next_hops::{Change, Ends};
use super::rtnl::{Questions, Via};

/// How long route changes are gathered before everything is resolved anew.
const SETTLE: Duration = Duration::from_millis(50);
/// How often some of the next hops in use are looked up again.
const REFRESH: Duration = Duration::from_millis(250);
/// The share of them: each is looked up again every second.
const REFRESH_SHARE: usize = 4;
/// And how many at most, so that a busy relay spends a few per cent of one CPU on it. Beyond four
/// times as many, the second becomes longer for what makes no events.
const REFRESH_MAX: usize = 256;
/// How many are looked up before events are listened to again.
const BATCH: usize = 64;
/// Pause before netlink is tried again after a failure.
const RECONNECT: Duration = Duration::from_secs(1);

/// A next hop in use.
struct Hop {
    serial: u64,
    ends: Ends,
    via: Option<Via>,
    written: NextHop,
}

struct Follower {
    kernel: Arc<Kernel>,
    links: Links,
    /// The VLANs that the kernel's map holds.
    vlans: HashMap<LinkKey, Station>,
    /// The interfaces that the kernel's map holds, by place.
    stations: BTreeMap<u32, Station>,
    /// Those whose MAC address can be used.
    neighbours: HashMap<(u32, IpAddr), Mac>,
    hops: HashMap<u16, Hop>,
    /// Those to look up again, in this order.
    due: VecDeque<u16>,
    /// Where the last refresh ended.
    refreshed: u16,
}

/// Serves `changes` and the kernel's events until the relay ends.
pub(crate) async fn follow(kernel: Arc<Kernel>, mut changes: UnboundedReceiver<Change>) {
    let (links, vlans, stations, neighbours) = Default::default();
    let (hops, due, refreshed) = Default::default();
    let mut follower =
        Follower { kernel, links, vlans, stations, neighbours, hops, due, refreshed };
    while let Err(error) = follower.session(&mut changes).await {
        warn!(%error, "netlink: every next hop is resolved anew; userspace relays meanwhile");
        follower.forget();
        sleep(RECONNECT).await;
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
    /// One connection's worth of following; ends well when the relay does.
    async fn session(&mut self, changes: &mut UnboundedReceiver<Change>) -> io::Result<()> {
        let (connection, _handle, events) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ])?;
        let connection = tokio::spawn(connection);
        let questions = Questions::open()?;
        let result = self.serve(changes, events, &questions).await;
        connection.abort();
        result
    }

    async fn serve(
        &mut self,
        changes: &mut UnboundedReceiver<Change>,
        events: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, impl Sized)>,
        questions: &Questions,
    ) -> io::Result<()> {
        let mut events = std::pin::pin!(events);
        self.read_all(questions).await?;
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settled = Some(Instant::now());
        loop {
            let at = settled.unwrap_or_else(Instant::now);
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.change(change, questions).await?,
                    None => return Ok(()),
                },
                event = events.next() => match event.map(|(message, _)| self.event(message)) {
                    Some(Effect::None) => {}
                    Some(Effect::Routes) => settled = settled.or(Some(Instant::now() + SETTLE)),
                    Some(Effect::Lost) => {
                        self.read_all(questions).await?;
                        settled = Some(Instant::now());
                    }
                    None => return Err(io::Error::other("the connection for events ended")),
                },
                () = sleep_until(at), if settled.is_some() => {
                    settled = None;
                    self.all_due();
                }
                _ = refresh.tick() => self.some_due(),
                () = std::future::ready(()), if !self.due.is_empty() => {
                    let batch = self.due.len().min(BATCH);
                    let batch: Vec<u16> = self.due.drain(..batch).collect();
                    self.resolve(&batch, questions).await?;
                }
            }
        }
    }

    async fn change(&mut self, change: Change, questions: &Questions) -> io::Result<()> {
        match change {
            Change::Wanted { index, serial, ends } => {
                let hop = Hop { serial, ends, via: None, written: NextHop::default() };
                self.hops.insert(index, hop);
                self.resolve(&[index], questions).await?;
            }
            Change::Dropped { index, serial } => {
                if self.hops.get(&index).is_some_and(|hop| hop.serial == serial) {
                    self.hops.remove(&index);
                }
            }
        }
        Ok(())
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
                self.links.insert(&link);
                self.write_links();
                return Effect::Routes;
            }
            RouteNetlinkMessage::DelLink(link) => {
                self.links.remove(link.header.index);
                self.write_links();
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
    async fn read_all(&mut self, questions: &Questions) -> io::Result<()> {
        let links = questions.links().await?;
        let neighbours = questions.neighbours().await?;
        self.links.clear();
        self.neighbours.clear();
        links.iter().for_each(|link| self.links.insert(link));
        neighbours.iter().for_each(|neighbour| self.neighbour(neighbour));
        self.write_links();
        Ok(())
    }

    /// Brings everything up to date that links decide.
    fn write_links(&mut self) {
        let stations = self.links.stations(|index| self.port(index).is_some());
        for place in self.stations.keys().filter(|place| !stations.contains_key(place)) {
            self.kernel.set_station(*place, Station::default());
        }
        for (place, station) in &stations {
            if self.stations.get(place) != Some(station) {
                self.kernel.set_station(*place, *station);
            }
        }
        self.stations = stations;
        let vlans = self.links.vlans(|bottom| self.port(bottom).is_some());
        for key in self.vlans.keys().filter(|key| !vlans.contains_key(key)) {
            self.kernel.withdraw_vlan(*key);
        }
        for (key, station) in &vlans {
            if self.vlans.get(key) != Some(station) {
                self.kernel.set_vlan(*key, *station);
            }
        }
        self.vlans = vlans;
        // A link is also what VLAN devices on it leave by.
        self.write_where(|_| true);
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

    /// Has every next hop looked up again. What waits for it keeps its place: under a storm of
    /// route changes, all get their turn.
    fn all_due(&mut self) {
        let waiting: HashSet<u16> = self.due.iter().copied().collect();
        self.due.extend(self.hops.keys().copied().filter(|index| !waiting.contains(index)));
    }

    /// Has the next few looked up again, unless there is enough to do.
    fn some_due(&mut self) {
        if self.due.is_empty() {
            let mut indexes: Vec<u16> = self.hops.keys().copied().collect();
            indexes.sort_unstable();
            self.due = after(&indexes, self.refreshed).collect();
            self.refreshed = self.due.back().copied().unwrap_or_default();
        }
    }

    /// Looks the routes of some next hops up, and asks for their neighbours, each once. Those
    /// that are fresh cost the kernel nothing.
    async fn resolve(&mut self, indexes: &[u16], questions: &Questions) -> io::Result<()> {
        let mut asked = HashSet::new();
        for index in indexes.iter().copied() {
            let Some(ends) = self.hops.get(&index).map(|hop| hop.ends) else { continue };
            let via = questions.route(ends).await?;
            if let Some(hop) = self.hops.get_mut(&index) {
                hop.via = via;
            }
            self.write(index);
            if let Some(Via { ifindex, gateway, .. }) = via
                && self.port(self.links.bottom(ifindex)).is_some()
                && asked.insert((ifindex, gateway))
            {
                questions.ask_for(ifindex, gateway).await?;
            }
        }
        Ok(())
    }

    /// Forgets everything read, so that every next hop becomes invalid.
    fn forget(&mut self) {
        self.links.clear();
        self.neighbours.clear();
        self.write_links();
    }

    fn write_where(&mut self, concerned: impl Fn(&Via) -> bool) {
        let indexes: Vec<u16> = self
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
    fn write(&mut self, index: u16) {
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
        let egress = self.links.egress(via.ifindex)?;
        let port = self.port(egress.bottom)?;
        let neighbour = self.neighbours.get(&(via.ifindex, via.gateway))?;
        Some(NextHop {
            dst_mac: words(*neighbour),
            src_mac: words(egress.mac),
            ifindex: egress.bottom,
            port,
            mtu: via.mtu.map_or(egress.mtu, |mtu| mtu.min(egress.mtu)),
            tags: egress.tags,
            tag_count: egress.tag_count,
            state: NEXT_HOP_VALID,
        })
    }

    /// The egress index of an interface, if the program is attached to it.
    fn port(&self, ifindex: u32) -> Option<u32> {
        let attachments = self.kernel.attachments();
        (0..).zip(attachments).find(|(_, a)| a.interface.index == ifindex).map(|(port, _)| port)
    }
}

/// The share of the sorted `indexes` that a refresh looks up: those that follow `last`, around.
fn after(indexes: &[u16], last: u16) -> impl Iterator<Item = u16> {
    let start = indexes.partition_point(|index| *index <= last);
    let count = indexes.len().div_ceil(REFRESH_SHARE).min(REFRESH_MAX);
    indexes[start..].iter().chain(&indexes[..start]).copied().take(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_refreshes_go_around_and_a_large_table_takes_more() {
        for (count, rounds) in [(1u16, 1u16), (3, 3), (4, 4), (1000, 4), (1024, 4), (2560, 10)] {
            let indexes: Vec<u16> = (0..count).map(|index| index * 7).collect();
            let (mut last, mut seen) = (0, HashSet::<u16>::new());
            for _ in 0..rounds {
                let some: Vec<u16> = after(&indexes, last).collect();
                assert!(!some.is_empty() && some.len() <= REFRESH_MAX);
                seen.extend(&some);
                last = some[some.len() - 1];
            }
            assert_eq!(seen.len(), indexes.len(), "{count}");
        }
        assert_eq!(after(&[], 9).count(), 0);
    }
}
