//! What is known of links, neighbours and routes, and the next hops that follow from it. Pure:
//! rtnetlink messages and answers in, entries for the kernel's map out.

use std::collections::HashMap;
use std::net::IpAddr;

use relay_common::abi::{NEXT_HOP_VALID, NextHop};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};

use super::attach::Interface;
use super::links::{Links, Mac};
use super::next_hops::Ends;
use super::rtnl::Via;

/// An entry that is to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    /// Place in the kernel's map.
    pub(super) index: u16,
    /// The use of the place that this is for.
    pub(super) serial: u64,
    /// What the place is to hold.
    pub(super) value: NextHop,
}

/// A neighbour whose MAC address can be used.
struct Neighbour {
    mac: Mac,
    /// It is a person's or another program's to keep.
    is_kept: bool,
}

/// A next hop in use.
struct Hop {
    serial: u64,
    ends: Ends,
    via: Option<Via>,
    written: NextHop,
}

/// Everything known, and the next hops in use.
pub(super) struct View {
    pub(super) links: Links,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    hops: HashMap<u16, Hop>,
    /// By their number.
    ports: Vec<Port>,
}

/// A place for an interface.
struct Port {
    name: String,
    /// The interface with the program; none while it is gone.
    attached: Option<u32>,
}

impl View {
    /// Knows nothing yet but where the program is, by port.
    pub(super) fn new(attached: impl IntoIterator<Item = Interface>) -> Self {
        let (links, neighbours, hops) = Default::default();
        let port = |Interface { name, index }| Port { name, attached: Some(index) };
        Self { links, neighbours, hops, ports: attached.into_iter().map(port).collect() }
    }

    /// A next hop is in use from now on: its place holds nothing.
    pub(super) fn want(&mut self, index: u16, serial: u64, ends: Ends) {
        self.hops.insert(index, Hop { serial, ends, via: None, written: NextHop::default() });
    }

    /// A use of a place ended.
    pub(super) fn unwant(&mut self, index: u16, serial: u64) {
        if self.hops.get(&index).is_some_and(|hop| hop.serial == serial) {
            self.hops.remove(&index);
        }
    }

    /// The places in use.
    pub(super) fn places(&self) -> impl Iterator<Item = u16> {
        self.hops.keys().copied()
    }

    /// What a place is used for.
    pub(super) fn ends(&self, index: u16) -> Option<Ends> {
        self.hops.get(&index).map(|hop| hop.ends)
    }

    /// Takes note of how packets to a next hop leave.
    pub(super) fn route(&mut self, index: u16, via: Option<Via>) -> Option<Change> {
        self.hops.get_mut(&index)?.via = via;
        self.change(index)
    }

    /// Takes note of a neighbour.
    pub(super) fn neighbour(&mut self, message: &NeighbourMessage) -> Vec<Change> {
        let Some(key) = key(message) else { return Vec::new() };
        let is_usable = matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        );
        match mac(message).filter(|_| is_usable) {
            Some(mac) => {
                self.neighbours.insert(key, Neighbour { mac, is_kept: is_kept(message) });
            }
            None => drop(self.neighbours.remove(&key)),
        }
        self.changes(|via| (via.ifindex, via.gateway) == key)
    }

    /// Whether the kernel is to be asked for the neighbour that packets leave by. Not if somebody
    /// else keeps it: asking would make a permanent entry one that has to be resolved, and take the
    /// mark from one that a routing daemon learnt.
    pub(super) fn may_ask_for(&self, via: Via) -> bool {
        let known = self.neighbours.get(&(via.ifindex, via.gateway));
        let is_kept = known.is_some_and(|neighbour| neighbour.is_kept);
        !is_kept && self.port(self.links.bottom(via.ifindex)).is_some()
    }

    /// Forgets a neighbour.
    pub(super) fn forget_neighbour(&mut self, message: &NeighbourMessage) -> Vec<Change> {
        let Some(key) = key(message) else { return Vec::new() };
        self.neighbours.remove(&key);
        self.changes(|via| (via.ifindex, via.gateway) == key)
    }

    /// Forgets links and neighbours, which are about to be read anew. Nothing changes yet.
    pub(super) fn clear(&mut self) {
        self.links.clear();
        self.neighbours.clear();
    }

    /// Forgets everything that was learnt, routes too: they may be others when it can be learnt
    /// again. Every next hop becomes invalid.
    pub(super) fn forget(&mut self) -> Vec<Change> {
        self.clear();
        let changes = self.all_changes();
        self.hops.values_mut().for_each(|hop| hop.via = None);
        changes
    }

    /// Everything that is not as it should be, whatever the reason.
    pub(super) fn all_changes(&mut self) -> Vec<Change> {
        // A link is also what VLAN devices on it leave by.
        self.changes(|_| true)
    }

    /// The port of an interface, if the program is attached to it.
    pub(super) fn port(&self, ifindex: u32) -> Option<u32> {
        let mut ports = (0..).zip(&self.ports);
        ports.find(|(_, port)| port.attached == Some(ifindex)).map(|(number, _)| number)
    }

    /// Interfaces with the program that no link is known of.
    pub(super) fn unknown(&self) -> Vec<u32> {
        let attached = self.ports.iter().filter_map(|port| port.attached);
        attached.filter(|index| !self.links.has(*index)).collect()
    }

    /// An interface with the program is gone.
    pub(super) fn lose(&mut self, ifindex: u32) {
        for port in self.ports.iter_mut().filter(|port| port.attached == Some(ifindex)) {
            port.attached = None;
        }
    }

    /// Ports whose interface is gone, and the link that has its name now.
    pub(super) fn back(&self) -> Vec<(u32, Interface)> {
        let gone = (0..).zip(&self.ports).filter(|(_, port)| port.attached.is_none());
        let back = gone.filter_map(|(number, Port { name, .. })| {
            let index = self.links.named(name)?;
            Some((number, Interface { name: name.clone(), index }))
        });
        back.collect()
    }

    /// The program is on the interface of a port again.
    pub(super) fn attach(&mut self, number: u32, ifindex: u32) {
        let mut ports = (0..).zip(&mut self.ports);
        if let Some((_, port)) = ports.find(|(other, _)| *other == number) {
            port.attached = Some(ifindex);
        }
    }

    fn changes(&mut self, concerned: impl Fn(&Via) -> bool) -> Vec<Change> {
        let concerned = |hop: &Hop| hop.via.as_ref().is_some_and(&concerned);
        let places = self.hops.iter().filter(|(_, hop)| concerned(hop));
        let places: Vec<u16> = places.map(|(index, _)| *index).collect();
        places.into_iter().filter_map(|index| self.change(index)).collect()
    }

    /// What a place is to hold, if it does not yet.
    fn change(&mut self, index: u16) -> Option<Change> {
        let via = self.hops.get(&index)?.via;
        let value = via.and_then(|via| self.next_hop(via)).unwrap_or_default();
        let hop = self.hops.get_mut(&index)?;
        let before = std::mem::replace(&mut hop.written, value);
        (before != value).then_some(Change { index, serial: hop.serial, value })
    }

    fn next_hop(&self, via: Via) -> Option<NextHop> {
        let egress = self.links.egress(via.ifindex)?;
        let port = self.port(egress.bottom)?;
        let neighbour = self.neighbours.get(&(via.ifindex, via.gateway))?;
        Some(NextHop {
            dst_mac: words(neighbour.mac),
            src_mac: words(egress.mac),
            ifindex: egress.bottom,
            port,
            mtu: via.mtu.map_or(egress.mtu, |mtu| mtu.min(egress.mtu)),
            tags: egress.tags,
            tag_count: egress.tag_count,
            state: NEXT_HOP_VALID,
        })
    }
}

/// Which neighbour a message is about. What a bridge knows of its ports is none of ours, though it
/// may come with an IP address.
fn key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    address.map(|address| (message.header.ifindex, address))
}

/// Whether a neighbour is not the kernel's own to resolve, or is already asked for by somebody.
fn is_kept(message: &NeighbourMessage) -> bool {
    let is_managed = message.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::ExtFlags(flags) => flags.contains(NeighbourExtFlags::Managed),
        _ => false,
    });
    message.header.state == NeighbourState::Permanent
        || message.header.flags.contains(NeighbourFlags::ExtLearned)
        || is_managed
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes[..].try_into().ok(),
        _ => None,
    })
}

/// A MAC address as words that lie in memory as it does.
fn words([a, b, c, d, e, f]: Mac) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn link(index: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::LowerUp;
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message
    }

    fn neighbour(index: u32, last: u8, state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = state;
        let address = NeighbourAddress::Inet([10, 0, 0, last].into());
        message.attributes.push(NeighbourAttribute::Destination(address));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 1, last]));
        message
    }

    fn interfaces(indexes: &[u32]) -> Vec<Interface> {
        let interface = |index: &u32| Interface { name: format!("eth{index}"), index: *index };
        indexes.iter().map(interface).collect()
    }

    fn via(gateway: u8) -> Option<Via> {
        Some(Via { ifindex: 5, gateway: ip(gateway), mtu: None })
    }

    /// The program is on interface 5, on which both gateways are neighbours.
    fn learn(view: &mut View) -> Vec<Change> {
        view.links.insert(&link(5));
        let mut changes = view.neighbour(&neighbour(5, 8, NeighbourState::Reachable));
        changes.extend(view.neighbour(&neighbour(5, 9, NeighbourState::Stale)));
        changes
    }

    fn view() -> View {
        let mut view = View::new(interfaces(&[4, 5]));
        assert_eq!(learn(&mut view), []);
        view.want(3, 70, (LOCAL, ip(77)));
        view
    }

    fn gateway(change: Option<Change>) -> u8 {
        let Change { index, serial, value } = change.unwrap();
        assert_eq!((index, serial, value.state), (3, 70, NEXT_HOP_VALID));
        assert_eq!((value.port, value.ifindex, value.mtu), (1, 5, 1500));
        value.dst_mac[2].to_ne_bytes()[1]
    }

    #[test]
    fn a_next_hop_follows_its_route_and_changes_only_when_it_must() {
        let mut view = view();
        assert_eq!(gateway(view.route(3, via(8))), 8);
        assert_eq!(view.route(3, via(8)), None, "nothing new");
        assert_eq!(gateway(view.route(3, via(9))), 9);
        let invalid = view.route(3, None).unwrap();
        assert_eq!(invalid.value, NextHop::default());
        assert_eq!(view.route(4, via(8)), None, "nobody uses it");
    }

    #[test]
    fn a_next_hop_is_valid_only_while_its_neighbour_is_known() {
        let mut view = view();
        assert_eq!(gateway(view.route(3, via(8))), 8);
        assert_eq!(view.neighbour(&neighbour(5, 9, NeighbourState::Failed)), []);
        let gone = view.neighbour(&neighbour(5, 8, NeighbourState::Failed));
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].value, NextHop::default());
        let back = view.neighbour(&neighbour(5, 8, NeighbourState::Probe));
        assert_eq!(gateway(back.first().copied()), 8);
        assert_eq!(view.forget_neighbour(&neighbour(5, 8, NeighbourState::Stale)).len(), 1);
    }

    /// Routes may have changed while nobody was told.
    #[test]
    fn what_was_forgotten_stays_invalid_until_its_route_is_looked_up_again() {
        let mut view = view();
        assert_eq!(gateway(view.route(3, via(8))), 8);
        let forgotten = view.forget();
        assert_eq!(forgotten.len(), 1);
        assert_eq!(forgotten[0].value, NextHop::default());
        assert_eq!(learn(&mut view), [], "neighbours alone say nothing");
        assert_eq!(view.all_changes(), []);
        assert_eq!(gateway(view.route(3, via(9))), 9);
    }

    #[test]
    fn neighbours_that_somebody_keeps_are_not_asked_for() {
        let mut view = view();
        let via = |ifindex, gateway| Via { ifindex, gateway: ip(gateway), mtu: None };
        let kept = |message: NeighbourMessage| {
            let mut view = View::new(interfaces(&[5]));
            view.neighbour(&message);
            !view.may_ask_for(via(5, 8))
        };
        assert!(view.may_ask_for(via(5, 8)) && view.may_ask_for(via(5, 7)), "known or not");
        assert!(!view.may_ask_for(via(6, 8)), "nothing leaves by this interface");
        let permanent = neighbour(5, 8, NeighbourState::Permanent);
        let mut learnt = neighbour(5, 8, NeighbourState::Reachable);
        learnt.header.flags = NeighbourFlags::ExtLearned;
        let mut managed = neighbour(5, 8, NeighbourState::Reachable);
        managed.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        for message in [permanent.clone(), learnt, managed] {
            assert!(kept(message));
        }
        view.neighbour(&permanent);
        assert!(!view.may_ask_for(via(5, 8)));
        view.neighbour(&neighbour(5, 8, NeighbourState::Stale));
        assert!(view.may_ask_for(via(5, 8)));
    }

    /// A tunnel's forwarding table has IP addresses of other tunnel ends in it.
    #[test]
    fn what_a_bridge_knows_is_no_neighbour() {
        let mut view = view();
        assert_eq!(gateway(view.route(3, via(8))), 8);
        let mut entry = neighbour(5, 8, NeighbourState::Permanent);
        entry.header.family = AddressFamily::Bridge;
        entry.attributes.pop();
        assert_eq!(view.neighbour(&entry), []);
        assert_eq!(view.forget_neighbour(&entry), []);
    }

    #[test]
    fn only_interfaces_with_the_program_have_a_port() {
        let view = view();
        assert_eq!([3, 4, 5].map(|index| view.port(index)), [None, Some(0), Some(1)]);
        assert_eq!(view.unknown(), [4], "nobody said anything of it");
    }

    #[test]
    fn an_interface_that_is_back_has_its_port_again_once_the_program_is_on_it() {
        let mut view = view();
        assert_eq!(gateway(view.route(3, via(8))), 8);
        view.links.remove(&link(5));
        view.lose(5);
        assert_eq!(view.unknown(), [4]);
        assert_eq!(view.all_changes()[0].value, NextHop::default());
        assert_eq!(view.back(), [], "no link has its name");
        let mut other = link(9);
        other.attributes.push(LinkAttribute::IfName("eth5".to_owned()));
        view.links.insert(&other);
        assert_eq!(view.back(), [(1, Interface { name: "eth5".to_owned(), index: 9 })]);
        assert_eq!(view.port(9), None, "the program is not on it");
        view.attach(1, 9);
        assert_eq!((view.port(9), view.back()), (Some(1), Vec::new()));
        view.neighbour(&neighbour(9, 8, NeighbourState::Reachable));
        let by_nine = view.route(3, Some(Via { ifindex: 9, gateway: ip(8), mtu: None }));
        assert_eq!(by_nine.map(|change| (change.value.port, change.value.ifindex)), Some((1, 9)));
    }
}
