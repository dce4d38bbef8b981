//! Links as far as frames on them are concerned: which are up, which are VLAN devices, and what
//! lies below those. Pure: rtnetlink messages in, answers out.

use std::collections::{BTreeMap, HashMap};

use relay_common::abi::{LinkKey, STATIONS_MAX, Station, TAGS_MAX, Tag};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

/// A MAC address.
pub(super) type Mac = [u8; 6];

/// A link.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    name: String,
    mac: Mac,
    mtu: u32,
    is_up: bool,
    /// Of a VLAN device.
    vlan: Option<Vlan>,
    /// Of a port of a bond or the like.
    controller: Option<u32>,
}

/// What makes a link a VLAN device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Vlan {
    /// The link whose frames carry the tag.
    below: u32,
    tag: Tag,
}

/// How frames of a link leave the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Egress {
    /// The link that carries them, below all VLAN devices.
    pub(super) bottom: u32,
    /// Their tags, outermost first.
    pub(super) tags: [Tag; TAGS_MAX],
    /// How many.
    pub(super) tag_count: u16,
    /// Their source.
    pub(super) mac: Mac,
    /// The smallest MTU on the way, bytes.
    pub(super) mtu: u32,
}

/// Every link of this network namespace.
#[derive(Clone, Default, Debug)]
pub(crate) struct Links(HashMap<u32, Link>);

impl Links {
    /// Takes note of a link, new or changed.
    pub(crate) fn insert(&mut self, message: &LinkMessage) {
        if !is_of_bridge(message) {
            self.0.insert(message.header.index, link(message));
        }
    }

    /// Forgets a link.
    pub(super) fn remove(&mut self, message: &LinkMessage) {
        if !is_of_bridge(message) {
            self.0.remove(&message.header.index);
        }
    }

    /// Whether there is such a link.
    pub(super) fn has(&self, index: u32) -> bool {
        self.0.contains_key(&index)
    }

    /// The link of a name.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index)
    }

    /// Forgets every link.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// How frames leave by a link; `None` if it is unknown, or if it or something below it is down,
    /// or if it is a VLAN more than [`TAGS_MAX`] levels deep.
    pub(super) fn egress(&self, index: u32) -> Option<Egress> {
        let top = self.0.get(&index).filter(|link| link.is_up)?;
        let mut egress = Egress {
            bottom: index,
            tags: [Tag::default(); TAGS_MAX],
            tag_count: 0,
            mac: top.mac,
            mtu: top.mtu,
        };
        let mut this = top;
        while let Some(Vlan { below, tag }) = this.vlan {
            if usize::from(egress.tag_count) == TAGS_MAX {
                return None;
            }
            // From the top down, each tag goes around those before.
            egress.tags.rotate_right(1);
            egress.tags[0] = tag;
            egress.tag_count += 1;
            this = self.0.get(&below).filter(|link| link.is_up)?;
            egress.bottom = below;
            egress.mtu = egress.mtu.min(this.mtu);
        }
        Some(egress)
    }

    /// The interface below all VLAN devices, whatever is up or down; the link itself if it is none.
    pub(crate) fn bottom(&self, index: u32) -> u32 {
        let mut bottom = index;
        for _ in 0..TAGS_MAX {
            match self.0.get(&bottom).and_then(|link| link.vlan) {
                Some(vlan) => bottom = vlan.below,
                None => break,
            }
        }
        bottom
    }

    /// The VLANs that tagged frames may be taken from: those that are up on a bottom that
    /// `is_attached`. What the kernel's map `LINKS` is to hold.
    pub(super) fn vlans(&self, is_attached: impl Fn(u32) -> bool) -> HashMap<LinkKey, Station> {
        let mut vlans = HashMap::new();
        for index in self.0.keys() {
            let Some(egress) = self.egress(*index) else { continue };
            if egress.tag_count > 0 && is_attached(egress.bottom) {
                let key = LinkKey::new(egress.bottom, egress.tags);
                vlans.insert(key, station(*index, egress.mac));
            }
        }
        vlans
    }

    /// Whom untagged frames are for, by place: interfaces that are attached, and the ports of a
    /// bond that is, which it takes frames from under its own address. What the kernel's map
    /// `STATIONS` is to hold. The lowest index has a place that two of them meet in.
    pub(super) fn stations(&self, is_attached: impl Fn(u32) -> bool) -> BTreeMap<u32, Station> {
        let mut stations = BTreeMap::<u32, Station>::new();
        for (index, link) in &self.0 {
            let whose = if is_attached(*index) { Some(*index) } else { link.controller };
            let whose = whose.filter(|whose| is_attached(*whose));
            let Some(owner) = whose.and_then(|whose| self.0.get(&whose)) else { continue };
            let place = stations.entry(index % STATIONS_MAX).or_default();
            if place.ifindex == 0 || *index < place.ifindex {
                *place = station(*index, owner.mac);
            }
        }
        stations
    }
}

/// A MAC address as words that lie in memory as it does.
pub(super) fn words([a, b, c, d, e, f]: Mac) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

fn station(ifindex: u32, mac: Mac) -> Station {
    Station { ifindex, mac: words(mac), reserved: 0 }
}

/// Whether a message is what a bridge says of one of its ports: it has not all of the link's
/// attributes, and one that leaves the bridge is still there.
fn is_of_bridge(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Bridge
}

fn link(message: &LinkMessage) -> Link {
    let is_up = message.header.flags.contains(LinkFlags::LowerUp);
    let (mut mac, mut mtu, mut below, mut tag, mut is_foreign) = ([0; 6], 0, None, None, false);
    let (mut controller, mut name) = (None, String::new());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(bytes) => mac = bytes[..].try_into().unwrap_or_default(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::Controller(index) => controller = Some(*index),
            // What it lies on is in another network namespace, where our indexes mean nothing.
            LinkAttribute::LinkNetNsId(_) => is_foreign = true,
            LinkAttribute::LinkInfo(infos) => tag = infos.iter().find_map(tag_of),
            _ => {}
        }
    }
    let vlan = below.zip(tag).map(|(below, tag)| Vlan { below, tag });
    Link { name, mac, mtu, is_up: is_up && !(is_foreign && vlan.is_some()), vlan, controller }
}

/// The tag of a VLAN device.
fn tag_of(info: &LinkInfo) -> Option<Tag> {
    let LinkInfo::Data(InfoData::Vlan(vlan)) = info else { return None };
    let (mut id, mut protocol) = (None, None);
    for info in vlan {
        match info {
            InfoVlan::Id(value) => id = Some(*value),
            InfoVlan::Protocol(value) => protocol = Some(u16::from(*value)),
            _ => {}
        }
    }
    id.zip(protocol).map(|(id, protocol)| Tag { protocol: protocol.to_be(), id: id.to_be() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{InfoKind, VlanProtocol};

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const UP: LinkFlags = LinkFlags::LowerUp;
    const DOWN: LinkFlags = LinkFlags::Up;

    fn message(index: u32, flags: LinkFlags, mtu: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        let mut mac = MAC;
        mac[5] = u8::try_from(index).unwrap();
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message
    }

    fn vlan(index: u32, below: u32, id: u16, protocol: VlanProtocol) -> LinkMessage {
        let mut message = message(index, UP, 1500);
        message.attributes.push(LinkAttribute::Link(below));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)])),
        ]));
        message
    }

    fn tag(protocol: u16, id: u16) -> Tag {
        Tag { protocol: protocol.to_be(), id: id.to_be() }
    }

    /// 2 carries 3 (VLAN 100 of an outer tag), that carries 4 (VLAN 5), that carries 5 (VLAN 6);
    /// 2 also carries 6 (VLAN 7).
    fn links() -> Links {
        let mut links = Links::default();
        for message in [
            message(2, UP, 1600),
            vlan(3, 2, 100, VlanProtocol::Ieee8021Ad),
            vlan(4, 3, 5, VlanProtocol::Ieee8021Q),
            vlan(5, 4, 6, VlanProtocol::Ieee8021Q),
            vlan(6, 2, 7, VlanProtocol::Ieee8021Q),
        ] {
            links.insert(&message);
        }
        links
    }

    #[test]
    fn frames_of_a_vlan_device_leave_by_its_bottom_with_its_tags_and_its_own_address() {
        let links = links();
        let plain = links.egress(2).unwrap();
        assert_eq!((plain.bottom, plain.tag_count, plain.mtu), (2, 0, 1600));
        let one = links.egress(6).unwrap();
        assert_eq!((one.bottom, one.tag_count, one.mtu), (2, 1, 1500), "the smaller MTU");
        assert_eq!(one.tags, [tag(0x8100, 7), Tag::default()]);
        assert_eq!(one.mac, [2, 0, 0, 0, 0, 6]);
        let two = links.egress(4).unwrap();
        assert_eq!((two.bottom, two.tag_count), (2, 2));
        assert_eq!(two.tags, [tag(0x88A8, 100), tag(0x8100, 5)], "outermost first");
        assert_eq!(links.egress(5), None, "three tags are too many");
        assert_eq!(links.egress(9), None);
        assert_eq!([2, 3, 4, 6, 9].map(|index| links.bottom(index)), [2, 2, 2, 2, 9]);
    }

    #[test]
    fn frames_are_taken_from_vlans_that_are_up_on_an_attached_interface() {
        let mut links = links();
        let key = |tags| LinkKey::new(2, tags);
        let outer = key([tag(0x88A8, 100), Tag::default()]);
        let inner = key([tag(0x88A8, 100), tag(0x8100, 5)]);
        let other = key([tag(0x8100, 7), Tag::default()]);
        let of = |index: u8| station(index.into(), [2, 0, 0, 0, 0, index]);
        let all = HashMap::from([(outer, of(3)), (inner, of(4)), (other, of(6))]);
        assert_eq!(links.vlans(|index| index == 2), all);
        assert_eq!(links.vlans(|_| false), HashMap::new());
        let mut down = vlan(3, 2, 100, VlanProtocol::Ieee8021Ad);
        down.header.flags = DOWN;
        links.insert(&down);
        assert_eq!(links.vlans(|index| index == 2), HashMap::from([(other, of(6))]));
        assert_eq!(links.egress(4), None, "nor does anything leave above it");
        links.remove(&message(6, UP, 1500));
        assert_eq!(links.vlans(|_| true), HashMap::new());
    }

    #[test]
    fn what_a_bridge_says_of_its_ports_changes_no_link() {
        let mut links = links();
        let mut port = message(6, UP, 1500);
        port.header.interface_family = AddressFamily::Bridge;
        let before = links.egress(6);
        links.insert(&port);
        assert_eq!(links.egress(6), before, "still a VLAN device");
        links.remove(&port);
        assert!(links.has(6) && links.egress(6) == before, "it left the bridge, not the machine");
        links.remove(&message(6, UP, 1500));
        assert!(!links.has(6));
    }

    #[test]
    fn a_vlan_device_whose_bottom_is_in_another_namespace_leads_nowhere() {
        let mut links = links();
        let mut foreign = vlan(6, 2, 7, VlanProtocol::Ieee8021Q);
        foreign.attributes.push(LinkAttribute::LinkNetNsId(1));
        links.insert(&foreign);
        assert_eq!(links.egress(6), None);
        // One end of a veth pair is none: its other end may be anywhere.
        let mut veth = message(7, UP, 1500);
        veth.attributes.extend([LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(1)]);
        links.insert(&veth);
        assert_eq!(links.egress(7).map(|egress| (egress.bottom, egress.tag_count)), Some((7, 0)));
    }

    #[test]
    fn frames_are_for_attached_interfaces_and_for_the_ports_of_an_attached_bond() {
        let mut links = links();
        let mut port = message(8, UP, 1500);
        port.attributes.push(LinkAttribute::Controller(2));
        links.insert(&port);
        let mac = [2, 0, 0, 0, 0, 2];
        let bond = BTreeMap::from([(2, station(2, mac)), (8, station(8, mac))]);
        assert_eq!(links.stations(|index| index == 2), bond);
        let alone = BTreeMap::from([(8, station(8, [2, 0, 0, 0, 0, 8]))]);
        assert_eq!(links.stations(|index| index == 8), alone, "of something else");
        assert_eq!(links.stations(|_| false), BTreeMap::new());
        let mut far = message(8, UP, 1500);
        far.header.index = 2 + STATIONS_MAX;
        links.insert(&far);
        let both = links.stations(|index| index % STATIONS_MAX == 2);
        assert_eq!(both[&2], station(2, mac), "one place, and the first has it");
    }

    #[test]
    fn a_loop_of_links_ends() {
        let mut links = Links::default();
        links.insert(&vlan(3, 4, 1, VlanProtocol::Ieee8021Q));
        links.insert(&vlan(4, 3, 1, VlanProtocol::Ieee8021Q));
        assert_eq!(links.egress(3), None);
        assert_eq!(links.bottom(3), 3);
    }
}
