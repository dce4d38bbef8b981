//! Follows routes, neighbours and links over rtnetlink, and keeps the next hops in the kernel's
//! map true to them.
//!
//! A next hop is valid only while its route leaves by an attached interface and its neighbour's
//! MAC address is known. Traffic that XDP relays does not refresh the kernel's neighbour table,
//! so neighbours in use are asked for here; nor do path MTUs, redirects and some next-hop objects
//! make events, so routes in use are looked up again and again. Whatever goes wrong with netlink
//! makes every next hop invalid until it is read anew: packets then go through userspace, never to
//! a wrong place.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, warn};

use super::attach::Interface;
use super::error::Chain;
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
/// Pause before the program is attached again to an interface that refused it; each is twice the
/// one before: drivers may interrupt their traffic even to say no.
const REATTACH_MIN: Duration = Duration::from_secs(1);
const REATTACH_MAX: Duration = Duration::from_secs(64);

struct Follower {
    kernel: Arc<Kernel>,
    view: View,
    /// Interfaces that are back and refuse the program, by port.
    refused: HashMap<u32, Refused>,
    /// For interfaces whose frames come without their tags, what changes that.
    hidden_tags: HashMap<u32, String>,
    /// Those to look up again, in this order.
    due: VecDeque<u16>,
    /// Where the last refresh ended.
    refreshed: u16,
}

/// An interface that does not take the program.
struct Refused {
    index: u32,
    due: Instant,
    pause: Duration,
}

/// How a connection's worth of following ended.
enum End {
    /// The relay ends.
    Over,
    /// Events were lost.
    Lost,
}

/// Serves `changes` and the kernel's events until the relay ends.
pub(crate) async fn follow(kernel: Arc<Kernel>, mut changes: UnboundedReceiver<Change>) {
    let interfaces: Vec<Interface> =
        kernel.attachments().into_iter().map(|attachment| attachment.interface).collect();
    let view = View::new(interfaces.iter().cloned());
    let (refused, hidden_tags, due, refreshed) = Default::default();
    let mut follower = Follower { kernel, view, refused, hidden_tags, due, refreshed };
    for interface in &interfaces {
        follower.ask_for_tags(interface).await;
    }
    loop {
        match follower.session(&mut changes).await {
            Ok(End::Over) => return,
            Ok(End::Lost) => debug!("netlink events were lost: everything is read anew"),
            Err(error) => {
                warn!(
                    %error,
                    "netlink: every next hop is resolved anew; userspace relays meanwhile"
                );
                follower.forget();
                sleep(RECONNECT).await;
            }
        }
    }
}

/// What an event means for the next hops.
enum Effect {
    /// Nothing, or it was dealt with.
    None,
    /// Routes changed: resolve again.
    Routes,
    /// Links changed, and with them routes.
    Links,
    /// Events were lost.
    Lost,
}

impl Follower {
    /// One connection's worth of following. It listens before it reads everything, so whatever
    /// changes meanwhile follows. After a loss that takes another connection: on this one wait
    /// events that are older than what would be read, and until they are read further ones are
    /// lost without a word.
    async fn session(&mut self, changes: &mut UnboundedReceiver<Change>) -> io::Result<End> {
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
    ) -> io::Result<End> {
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
                    None => return Ok(End::Over),
                },
                event = events.next() => match event.map(|(message, _)| self.event(message)) {
                    Some(Effect::None) => {}
                    Some(Effect::Routes) => settled = settled.or(Some(Instant::now() + SETTLE)),
                    Some(Effect::Links) => {
                        self.reattach().await;
                        settled = settled.or(Some(Instant::now() + SETTLE));
                    }
                    Some(Effect::Lost) => return Ok(End::Lost),
                    None => return Err(io::Error::other("the connection for events ended")),
                },
                () = sleep_until(at), if settled.is_some() => {
                    settled = None;
                    self.all_due();
                }
                _ = refresh.tick() => {
                    self.reattach().await;
                    self.some_due();
                }
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
                return Effect::Links;
            }
            RouteNetlinkMessage::DelLink(link) => {
                self.view.links.remove(&link);
                if !self.view.links.has(link.header.index) {
                    self.lose(link.header.index);
                }
                self.write_links();
                return Effect::Links;
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
        // A list that was read while links came and went may lack one.
        for index in self.view.unknown() {
            if !questions.has_link(index).await? {
                self.lose(index);
            }
        }
        self.write_links();
        self.reattach().await;
        Ok(())
    }

    /// Brings everything up to date that links decide.
    fn write_links(&mut self) {
        let is_attached = |index| self.view.port(index).is_some();
        self.kernel.write_stations(&self.view.links, is_attached);
        if !self.hidden_tags.is_empty() {
            for key in self.view.links.vlans(is_attached).into_keys() {
                self.tell_of_hidden_tags(key.ifindex);
            }
        }
        let changes = self.view.all_changes();
        self.write(changes);
    }

    /// Attaches to interfaces that are back. One that refuses is left to userspace for a while.
    async fn reattach(&mut self) {
        for (port, interface) in self.view.back() {
            let now = Instant::now();
            let before = self.refused.get(&port).filter(|refused| refused.index == interface.index);
            if before.is_some_and(|refused| refused.due > now) {
                continue;
            }
            match self.kernel.attach(port, interface.index) {
                Ok(()) => {
                    self.refused.remove(&port);
                    self.view.attach(port, interface.index);
                    self.ask_for_tags(&interface).await;
                    self.write_links();
                }
                Err(error) => {
                    let error = Chain(&error);
                    if before.is_none() {
                        let interface = &interface.name;
                        warn!(
                            interface,
                            %error,
                            "the interface is back, and does not take the XDP program: its packets \
                             go through userspace; this is tried again"
                        );
                    }
                    let pause = before.map_or(REATTACH_MIN, |refused| refused.pause * 2);
                    let pause = pause.min(REATTACH_MAX);
                    let refused = Refused { index: interface.index, due: now + pause, pause };
                    self.refused.insert(port, refused);
                }
            }
        }
    }

    /// Finds out whether a driver keeps tags from XDP, and what changes that.
    async fn ask_for_tags(&mut self, Interface { name, index }: &Interface) {
        match tags::command_to_show(name).await {
            Ok(None) => {}
            Ok(Some(command)) => {
                debug!(name, command, "the driver keeps VLAN tags from XDP");
                self.hidden_tags.insert(*index, command);
            }
            Err(error) => debug!(name, %error, "the driver's VLAN offloads are not known"),
        }
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

    /// An interface with the program is no more.
    fn lose(&mut self, index: u32) {
        self.view.lose(index);
        self.kernel.lose(index);
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
