//! What is relayed in a guest, leg by leg, and what must become of it.

/// The share of packets that XDP must relay; the first ones may rightly come before a neighbour is
/// known.
const XDP_PERCENT_MIN: u64 = 99;

/// A client, a relay and a peer, each leg with a relay of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub(super) name: &'static str,
    server: Place,
    peer: Place,
}

/// An end of a leg: the family of its address, and the number of its network (see `init.sh`).
#[derive(Clone, Copy, Debug)]
struct Place {
    family: u8,
    net: u8,
}

const fn v4(net: u8) -> Place {
    Place { family: 4, net }
}

const fn v6(net: u8) -> Place {
    Place { family: 6, net }
}

// Networks: 1 and 2 without a tag, 3 and 5 with one, 6 with two.
pub(super) const LEGS: [Leg; 8] = [
    Leg { name: "IPv4", server: v4(1), peer: v4(2) },
    Leg { name: "IPv6", server: v6(1), peer: v6(2) },
    Leg { name: "IPv4-IPv6", server: v4(1), peer: v6(2) },
    Leg { name: "IPv6-IPv4", server: v6(1), peer: v4(2) },
    Leg { name: "IPv4-tagged", server: v4(1), peer: v4(5) },
    Leg { name: "IPv6-tagged", server: v6(1), peer: v6(5) },
    Leg { name: "tagged-IPv4", server: v4(3), peer: v4(2) },
    Leg { name: "IPv4-twice-tagged", server: v4(1), peer: v4(6) },
];

impl Leg {
    /// For the guest's script.
    pub(super) fn words(&self) -> String {
        let Self { name, server, peer } = self;
        format!("{name} {} {} {} {}", server.family, server.net, peer.family, peer.net)
    }

    /// What is wrong with how it went.
    pub(super) fn findings(&self, went: &Went) -> Vec<String> {
        let Went { load_exit, turnpike_exit, native, sent, lost, xdp, userspace } = *went;
        let mut findings = Vec::new();
        let mut check = |wrong: bool, why: String| {
            if wrong {
                findings.push(format!("{}: {why}", self.name));
            }
        };
        check(native != 2, format!("{native} of 2 interfaces are native"));
        check(load_exit != 0, format!("the load ended with {load_exit}"));
        check(turnpike_exit != 0, format!("turnpike ended with {turnpike_exit}"));
        check(sent == 0, "nothing was sent".to_owned());
        check(lost != 0, format!("{lost} of {sent} packets were lost"));
        let relayed = xdp + userspace;
        // There and back.
        check(relayed < 2 * sent, format!("{relayed} packets were relayed for {sent} sent"));
        let too_few = xdp * 100 < relayed * XDP_PERCENT_MIN;
        check(too_few, format!("XDP relayed only {xdp} of {relayed} packets"));
        findings
    }
}

/// How a leg went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Went {
    /// Exit code of `relay-bench load`.
    pub(super) load_exit: u64,
    /// Exit code of `turnpike` after SIGTERM.
    pub(super) turnpike_exit: u64,
    /// Interfaces in native mode.
    pub(super) native: u64,
    /// Packets sent by the client.
    pub(super) sent: u64,
    /// Packets that did not come back.
    pub(super) lost: u64,
    /// Packets relayed by XDP, both directions.
    pub(super) xdp: u64,
    /// The same by userspace.
    pub(super) userspace: u64,
}

impl Went {
    /// Reads `KEY VALUE KEY VALUE …`.
    pub(super) fn parse(words: &str) -> Option<Self> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let (pairs, _) = words.as_chunks::<2>();
        let value = |key: &str| pairs.iter().find(|[k, _]| *k == key)?[1].parse().ok();
        Some(Self {
            load_exit: value("load-exit")?,
            turnpike_exit: value("turnpike-exit")?,
            native: value("native")?,
            sent: value("sent")?,
            lost: value("lost")?,
            xdp: value("xdp")?,
            userspace: value("userspace")?,
        })
    }

    /// The share that XDP relayed, percent.
    pub(super) fn xdp_percent(&self) -> u64 {
        (self.xdp * 100).checked_div(self.xdp + self.userspace).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Went = Went {
        load_exit: 0,
        turnpike_exit: 0,
        native: 2,
        sent: 200,
        lost: 0,
        xdp: 396,
        userspace: 4,
    };
    const LEG: Leg = Leg { name: "a", server: v4(1), peer: v6(2) };

    #[test]
    fn a_good_leg_has_no_findings_and_each_fault_has_one() {
        assert!(LEG.findings(&GOOD).is_empty());
        for (went, why) in [
            (Went { native: 1, ..GOOD }, "a: 1 of 2 interfaces are native"),
            (Went { load_exit: 4, ..GOOD }, "a: the load ended with 4"),
            (Went { turnpike_exit: 137, ..GOOD }, "a: turnpike ended with 137"),
            (Went { sent: 0, ..GOOD }, "a: nothing was sent"),
            (Went { lost: 1, ..GOOD }, "a: 1 of 200 packets were lost"),
            (Went { userspace: 3, ..GOOD }, "a: 399 packets were relayed for 200 sent"),
            (Went { userspace: 5, ..GOOD }, "a: XDP relayed only 396 of 401 packets"),
        ] {
            assert_eq!(LEG.findings(&went), [why]);
        }
    }

    #[test]
    fn figures_are_read_by_name_and_a_missing_one_is_none() {
        let line = "load-exit 0 turnpike-exit 0 native 2 sent 200 lost 0 xdp 396 userspace 4";
        assert_eq!(Went::parse(line), Some(GOOD));
        assert_eq!(Went::parse(line).unwrap().xdp_percent(), 99);
        assert_eq!(Went::parse(&line.replace("lost 0", "lost")), None);
        assert_eq!(Went::parse(""), None);
    }

    #[test]
    fn the_script_is_told_families_and_networks() {
        assert_eq!(LEG.words(), "a 4 1 6 2");
    }
}
