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
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use relay_common::abi::{LinkKey, Station};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, warn};

use super::attach::Interface;
use super::kernel::Kernel;
use super::next_hops::Change;
use super::rtnl::{Questions, Via};
use super::tags;
use super::view::{self, View};

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

struct Follower {
    kernel: Arc<Kernel>,
    view: View,
    /// The VLANs that the kernel's map holds.
    vlans: HashMap<LinkKey, Station>,
    /// The interfaces that the kernel's map holds, by place.
    stations: BTreeMap<u32, Station>,
    /// For interfaces whose frames come without their tags, what changes that.
    hidden_tags: HashMap<u32, String>,
    /// Those to look up again, in this order.
    due: VecDeque<u16>,
    /// Where the last refresh ended.
    refreshed: u16,
}

/// Serves `changes` and the kernel's events until the relay ends.
pub(crate) async fn follow(kernel: Arc<Kernel>, mut changes: UnboundedReceiver<Change>) {
    let view = View::new(kernel.attachments().iter().map(|a| a.interface.index).collect());
    let hidden_tags = hidden_tags(&kernel).await;
    let (vlans, stations, due, refreshed) = Default::default();
    let mut follower = Follower { kernel, view, vlans, stations, hidden_tags, due, refreshed };
    while let Err(error) = follower.session(&mut changes).await {
        warn!(%error, "netlink: every next hop is resolved anew; userspace relays meanwhile");
        follower.forget();
        sleep(RECONNECT).await;
    }
}

/// The interfaces whose drivers keep tags from XDP, and the commands that change it.
async fn hidden_tags(kernel: &Kernel) -> HashMap<u32, String> {
    let mut hidden = HashMap::new();
    for Interface { name, index } in kernel.attachments().iter().map(|a| &a.interface) {
        match tags::command_to_show(name).await {
            Ok(None) => {}
            Ok(Some(command)) => {
                debug!(name, command, "the driver keeps VLAN tags from XDP");
                hidden.insert(*index, command);
            }
            Err(error) => debug!(name, %error, "the driver's VLAN offloads are not known"),
        }
    }
    hidden
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
                self.view.want(index, serial, ends);
                self.resolve(&[index], questions).await?;
            }
            Change::Dropped { index, serial } => self.view.unwant(index, serial),
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
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                let changes = self.view.neighbour(&neighbour);
                self.write(changes);
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                let changes = self.view.forget_neighbour(&neighbour);
                self.write(changes);
            }
            RouteNetlinkMessage::NewLink(link) => {
                self.view.links.insert(&link);
                self.write_links();
                return Effect::Routes;
            }
            RouteNetlinkMessage::DelLink(link) => {
                self.view.links.remove(&link);
                self.write_links();
                if !self.view.links.has(link.header.index) {
                    self.lose(link.header.index);
                }
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
        self.view.clear();
        links.iter().for_each(|link| self.view.links.insert(link));
        for neighbour in &neighbours {
            let changes = self.view.neighbour(neighbour);
            self.write(changes);
        }
        self.write_links();
        // A list that was read while links came and went may lack one.
        for index in self.view.unknown() {
            if !questions.has_link(index).await? {
                self.lose(index);
            }
        }
        Ok(())
    }

    /// Brings everything up to date that links decide.
    fn write_links(&mut self) {
        let stations = self.view.links.stations(|index| self.view.port(index).is_some());
        for place in self.stations.keys().filter(|place| !stations.contains_key(place)) {
            self.kernel.set_station(*place, Station::default());
        }
        for (place, station) in &stations {
            if self.stations.get(place) != Some(station) {
                self.kernel.set_station(*place, *station);
            }
        }
        self.stations = stations;
        let vlans = self.view.links.vlans(|bottom| self.view.port(bottom).is_some());
        self.vlans.retain(|key, _| {
            let stays = vlans.contains_key(key);
            if !stays {
                self.kernel.withdraw_vlan(*key);
            }
            stays
        });
        for (key, station) in vlans {
            self.tell_of_hidden_tags(key.ifindex);
            // One that does not fit is tried again with the next change.
            if self.vlans.get(&key) != Some(&station) && self.kernel.set_vlan(key, station) {
                self.vlans.insert(key, station);
            }
        }
        let changes = self.view.all_changes();
        self.write(changes);
    }

    /// Tells once of an interface with VLAN devices whose tags XDP does not see.
    fn tell_of_hidden_tags(&mut self, ifindex: u32) {
        if let Some(command) = self.hidden_tags.remove(&ifindex) {
            warn!(
                command,
                "a driver takes VLAN tags out of frames before XDP sees them: Binding requests are \
                 left to userspace, for an answer would leave without its tag; to have XDP answer \
                 them, and keep VLANs apart, run the command and restart the relay"
            );
            self.kernel.stop_answering();
        }
    }

    /// Tells of an interface with the program that is no more.
    fn lose(&self, index: u32) {
        let attached = self.kernel.attachments().iter().map(|attachment| &attachment.interface);
        for interface in attached.filter(|interface| interface.index == index) {
            self.kernel.lose(interface);
        }
    }

    /// Has every next hop looked up again. What waits for it keeps its place: under a storm of
    /// route changes, all get their turn.
    fn all_due(&mut self) {
        let waiting: HashSet<u16> = self.due.iter().copied().collect();
        self.due.extend(self.view.places().filter(|index| !waiting.contains(index)));
    }

    /// Has the next few looked up again, unless there is enough to do.
    fn some_due(&mut self) {
        if self.due.is_empty() {
            let mut indexes: Vec<u16> = self.view.places().collect();
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
            let Some(ends) = self.view.ends(index) else { continue };
            let via = questions.route(ends).await?;
            let change = self.view.route(index, via);
            self.write(change);
            if let Some(via @ Via { ifindex, gateway, .. }) = via
                && self.view.may_ask_for(via)
                && asked.insert((ifindex, gateway))
            {
                questions.ask_for(ifindex, gateway).await?;
            }
        }
        Ok(())
    }

    /// Forgets everything read, so that every next hop becomes invalid.
    fn forget(&mut self) {
        let changes = self.view.forget();
        self.write(changes);
        self.write_links();
    }

    fn write(&self, changes: impl IntoIterator<Item = view::Change>) {
        for view::Change { index, serial, value } in changes {
            self.kernel.set_next_hop(index, serial, value);
        }
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
