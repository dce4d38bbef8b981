//! Clients, peers, a driver and a clock around one `Turn`: executes outputs in order and checks,
//! at each of them, what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use relay_common::addr::{
    ClientAddr, Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport,
};
use relay_common::wire::attribute::{self, AttributeType, Icmp};
use relay_common::wire::stun::{Class, Fingerprint, Message, Method};
use relay_turn::{
    AllocationId, Binding, Config, Credentials, Fragments, Input, Ledger, Limits, Listed, LookedUp,
    Now, Offers, Output, Permission, Policy, RealmId, Refusal, RelayAddress, Rules, Turn,
};

use super::describe::drops;
use super::rfc8016::Refreshed;
use super::rfc8489::credentials::Signature;

pub(crate) const NS_PER_SEC: u64 = 1_000_000_000;
pub(crate) const REALM: &str = "example.org";
/// Who is who: clients by what the server sees, peers likewise.
const NAMES: &[(&str, &str)] = &[
    ("alice", "198.51.100.1:5000"),
    ("anna", "198.51.100.1:5001"),
    ("amy", "198.51.100.2:5000"),
    ("alice6", "[2001:db8::1]:5000"),
    ("bob", "9.9.9.1:7000"),
    ("bob2", "9.9.9.1:7001"),
    ("carol", "9.9.9.2:7000"),
    ("dave", "9.9.9.3:7000"),
    ("bob6", "[2a00:9::1]:7000"),
    ("carol6", "[2a00:9::2]:7000"),
];

/// A server with two relayed addresses, ten ports on each, and small limits.
pub(crate) fn config() -> Config {
    let users = [("user", "pass"), ("other", "word")].map(|(u, p)| (u.to_owned(), p.to_owned()));
    let relay = |ip: &str| RelayAddress { address: ip.parse().unwrap(), external: None };
    Config {
        realm: REALM.to_owned(),
        credentials: Credentials::new(users, vec!["north".to_owned(), "south".to_owned()]),
        realms: Vec::new(),
        relay_addresses: vec![relay("11.0.0.1"), relay("2a00:1::1")],
        other_addresses: vec!["13.0.0.1".parse().unwrap()],
        relay_ports: 50_000..=50_009,
        relay_ports_all: 50_000..=50_019,
        channel_range: relay_common::wire::channel_data::ChannelRange::Rfc8656,
        policy: policy("", "9.9.9.66/32").into(),
        listeners: vec!["11.0.0.1:3478".parse().unwrap(), "13.0.0.1:53".parse().unwrap()],
        ledger: Ledger::new([4; 16]),
        limits: Limits {
            allocations_max: 4,
            permissions_per_allocation_max: 3,
            channels_per_allocation_max: 2,
            unauthenticated_replies_per_sec: 1000,
            ..Limits::default()
        },
        offers: Offers::default(),
        nonce_key: [1; 32],
        seed: [2; 32],
        discoveries: Vec::new(),
    }
}

/// The server's config with other limits.
pub(crate) fn limited(limits: Limits) -> Config {
    Config { limits, ..config() }
}

/// Networks that may be reached, and may not.
pub(crate) fn policy(allow: &str, deny: &str) -> Policy {
    let listed = |text: &str| Listed { network: text.parse().unwrap(), line: 0 };
    let all = |list: &str| list.split_whitespace().map(listed).collect();
    Policy::new(&Rules { allow: all(allow), deny: all(deny), ..Rules::default() })
}

/// What the driver does with `OpenRelay`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opens {
    Succeed,
    Fail(u32),
    Wait,
}

pub(crate) struct Client {
    pub(crate) five_tuple: FiveTuple,
    pub(crate) nonce: Vec<u8>,
    /// The attributes of the last 401 or 438.
    pub(crate) challenge: Vec<(AttributeType, Vec<u8>)>,
    /// The last reply, byte for byte.
    pub(crate) reply: Vec<u8>,
    /// Number of the last transaction.
    pub(crate) transaction: u64,
    pub(crate) token: Option<[u8; 8]>,
    /// Every MOBILITY-TICKET that it was given.
    pub(crate) tickets: Vec<Vec<u8>>,
    /// Its relayed transport addresses, in order of [`Family`].
    pub(crate) relayed: [Option<SocketAddr>; 2],
    pub(crate) allocation: Option<AllocationId>,
}

pub(crate) struct World {
    pub(crate) turn: Turn,
    pub(crate) now: Now,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) opens: Opens,
    /// Relayed transport addresses that were asked for and not closed.
    pub(crate) relays: BTreeMap<(AllocationId, Family), (String, RelayedAddr)>,
    waiting: Vec<(AllocationId, Family)>,
    /// What the answer to an Allocate request must be like.
    answers: BTreeMap<AllocationId, Signed>,
    pub(crate) installed: BTreeMap<(AllocationId, u16), Binding>,
    /// By which rules or quotas requests were refused.
    pub(crate) refused: Vec<String>,
    /// The reason phrase of the last reply.
    pub(crate) phrase: String,
    pub(crate) permitted: BTreeMap<(AllocationId, IpAddr), Permission>,
    expiry_ns: BTreeMap<(AllocationId, Family), u64>,
    relayed_ips: BTreeSet<std::net::IpAddr>,
    pub(crate) transactions: u64,
    /// Users that are being looked up.
    pub(crate) looked_up: Vec<String>,
    /// The last datagram of each client, and what the reply to it must be like.
    pub(crate) last: BTreeMap<String, (Vec<u8>, Signed)>,
    /// The allocation of each MOBILITY-TICKET.
    pub(crate) of_ticket: BTreeMap<Vec<u8>, AllocationId>,
    /// Every datagram of a client, if that is wanted.
    pub(crate) record: Option<Vec<Vec<u8>>>,
    software: Option<String>,
}

/// What the reply to a request must be like.
#[derive(Clone, Copy, Default)]
pub(crate) struct Signed {
    pub(crate) key: Option<Signature>,
    pub(crate) fingerprint: bool,
    /// Number of the transaction.
    pub(crate) transaction: u64,
    /// REQUESTED-ADDRESS-FAMILY.
    pub(crate) family: Option<Family>,
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let relayed_ips = config.relay_addresses.iter().map(|relay| relay.address).collect();
        let software = config.offers.software.clone();
        Self {
            software,
            turn: Turn::new(config),
            now: Now { monotonic_ns: 7 * NS_PER_SEC, unix_secs: 1_700_000_000 },
            clients: BTreeMap::new(),
            opens: Opens::Succeed,
            relays: BTreeMap::new(),
            waiting: Vec::new(),
            answers: BTreeMap::new(),
            installed: BTreeMap::new(),
            refused: Vec::new(),
            phrase: String::new(),
            permitted: BTreeMap::new(),
            expiry_ns: BTreeMap::new(),
            relayed_ips,
            transactions: 0,
            looked_up: Vec::new(),
            last: BTreeMap::new(),
            of_ticket: BTreeMap::new(),
            record: None,
        }
    }

    pub(crate) fn client(&mut self, name: &str) -> &mut Client {
        let addr = self.addr(name);
        let server = if addr.is_ipv4() { "11.0.0.1:3478" } else { "[2a00:1::1]:3478" };
        self.clients.entry(name.to_owned()).or_insert_with(|| Client {
            five_tuple: FiveTuple {
                transport: Transport::Udp,
                client: ClientAddr::new(addr),
                server: ServerAddr::new(server.parse().unwrap()),
            },
            nonce: Vec::new(),
            challenge: Vec::new(),
            reply: Vec::new(),
            transaction: 0,
            token: None,
            tickets: Vec::new(),
            relayed: [None; 2],
            allocation: None,
        })
    }

    /// A name, a literal, or a client's relayed transport address: of IPv4, if it has one
    /// (`alice's`), or of IPv6 (`alice's6`).
    pub(crate) fn addr(&self, name: &str) -> SocketAddr {
        if let Some(owner) = name.strip_suffix("'s") {
            return self.clients[owner].relayed.into_iter().flatten().next().unwrap();
        }
        if let Some(owner) = name.strip_suffix("'s6") {
            return self.clients[owner].relayed[1].unwrap();
        }
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, addr)| *addr);
        known.unwrap_or(name).parse().unwrap_or_else(|_| panic!("who is {name}?"))
    }

    pub(crate) fn name(&self, addr: SocketAddr) -> String {
        let relayed = self.clients.iter().find(|(_, client)| client.relayed.contains(&Some(addr)));
        if let Some((owner, _)) = relayed {
            return format!("{owner}'s");
        }
        let known = NAMES.iter().find(|(_, known)| known.parse() == Ok(addr));
        known.map_or_else(|| addr.to_string(), |(name, _)| (*name).to_owned())
    }

    /// A client's datagram, and everything that comes of it, in words.
    pub(crate) fn client_sends(&mut self, name: &str, datagram: &[u8], signed: &Signed) -> String {
        let five_tuple = self.client(name).five_tuple;
        if let Some(record) = &mut self.record {
            record.push(datagram.to_vec());
        }
        self.last.insert(name.to_owned(), (datagram.to_vec(), *signed));
        self.input(name, Input::FromClient { five_tuple, datagram }, datagram, signed)
    }

    /// The driver's answer to a `LookUp`, for the last request of a client.
    pub(crate) fn answer_look_up(&mut self, user: &str, answer: &LookedUp, name: &str) -> String {
        self.looked_up.retain(|other| other != user);
        let (datagram, signed) = self.last[name].clone();
        let (realm, user) = super::rfc8489::realms::read(user);
        let input = Input::LookedUp { realm, user, answer };
        self.input(name, input, &datagram, &signed)
    }

    pub(crate) fn peer_sends(
        &mut self,
        allocation: AllocationId,
        peer: SocketAddr,
        bytes: usize,
    ) -> String {
        let datagram = vec![7; bytes];
        let peer = PeerAddr::new(peer);
        let input = Input::FromPeer { allocation, peer, datagram: &datagram };
        self.input("", input, &datagram, &Signed::default())
    }

    /// An ICMP error about a datagram to a peer.
    pub(crate) fn icmp(
        &mut self,
        allocation: AllocationId,
        peer: SocketAddr,
        icmp: Icmp,
    ) -> String {
        let input = Input::PeerIcmp { allocation, peer: PeerAddr::new(peer), icmp };
        self.input("", input, &[], &Signed::default())
    }

    /// Lets time pass, with an input at each deadline on the way.
    pub(crate) fn pass(&mut self, ns: u64) -> String {
        let end = self.now.monotonic_ns + ns;
        let mut said = Vec::new();
        for _ in 0..10_000 {
            let Some(deadline) = self.turn.deadline().filter(|deadline| *deadline <= end) else {
                break;
            };
            self.set_time(deadline.max(self.now.monotonic_ns));
            let outcome = self.input("", Input::Deadline, &[], &Signed::default());
            said.extend(Some(outcome).filter(|outcome| outcome != "nothing"));
            assert!(self.turn.deadline() > Some(deadline) || self.turn.deadline().is_none());
        }
        self.set_time(end);
        if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
    }

    pub(crate) fn set_time(&mut self, monotonic_ns: u64) {
        let base = 1_700_000_000 - 7;
        self.now = Now { monotonic_ns, unix_secs: base + monotonic_ns / NS_PER_SEC };
    }

    /// The driver's answer to an `OpenRelay` that was kept waiting.
    pub(crate) fn answer_opens(&mut self, fail: bool) -> String {
        let mut said = Vec::new();
        for relayed in std::mem::take(&mut self.waiting) {
            let name = self.relays[&relayed].0.clone();
            said.push(self.answer_open(&name, relayed, fail));
        }
        said.join(", ")
    }

    fn answer_open(
        &mut self,
        name: &str,
        (allocation, family): (AllocationId, Family),
        fail: bool,
    ) -> String {
        let signed = self.answers[&allocation];
        let input = if fail {
            self.relays.remove(&(allocation, family));
            Input::RelayFailed { allocation, family }
        } else {
            Input::RelayOpened { allocation, family }
        };
        self.input(name, input, &[], &signed)
    }

    fn input(&mut self, name: &str, input: Input<'_>, datagram: &[u8], signed: &Signed) -> String {
        let before = self.turn.snapshot();
        self.turn.handle(self.now, input);
        let outputs: Vec<_> = std::iter::from_fn(|| self.turn.poll()).collect();
        let unauthenticated = signed.key.is_none() && Message::parse(datagram).is_ok();
        let replies = outputs.iter().filter(|o| matches!(o, Output::Reply { .. })).count();
        assert!(!unauthenticated || replies <= 1);
        let mut said = Vec::new();
        for output in outputs {
            said.extend(self.execute(name, output, datagram, signed));
        }
        said.extend(drops(&before, &self.turn.snapshot()));
        self.check_installed();
        if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
    }

    /// The kernel must never relay for an allocation that is over.
    fn check_installed(&self) {
        for ((id, _), binding) in &self.installed {
            let family = binding.relayed.family();
            let expiry_ns = self.expiry_ns.get(&(*id, family)).copied().unwrap_or(0);
            assert!(binding.client_to_peer_deadline_ns <= expiry_ns, "{binding:?} {expiry_ns}");
            assert!(binding.peer_to_client_deadline_ns <= binding.client_to_peer_deadline_ns);
        }
        for ((id, _), permission) in &self.permitted {
            let expiry_ns = self.expiry_ns.get(&(*id, permission.relayed.family()));
            assert_eq!(Some(&permission.allocation_deadline_ns), expiry_ns);
            assert!(permission.deadline_ns <= permission.allocation_deadline_ns);
            assert!(permission.deadline_ns > self.now.monotonic_ns, "over, and not taken back");
        }
    }

    pub(crate) fn execute(
        &mut self,
        name: &str,
        output: Output,
        datagram: &[u8],
        signed: &Signed,
    ) -> Vec<String> {
        let text = match output {
            Output::Reply { five_tuple, bytes } if name.is_empty() => {
                let to = self.name(five_tuple.client.socket());
                format!("to {to} {}", self.describe_icmp(self.turn.bytes(bytes)))
            }
            Output::Reply { five_tuple, bytes } => {
                assert_eq!(five_tuple, self.clients[name].five_tuple);
                let bytes = self.turn.bytes(bytes).to_vec();
                self.reply(name, &bytes, signed)
            }
            Output::ToPeer { allocation, peer, fragments, payload } => {
                assert!(self.expiry_ns[&(allocation, peer.family())] > self.now.monotonic_ns);
                let whole = if fragments == Fragments::Forbidden { " whole" } else { "" };
                format!("to {} {}{whole}", self.name(peer.socket()), datagram[payload].len())
            }
            Output::ToClient { five_tuple, head, padding } => {
                let to = self.name(five_tuple.client.socket());
                format!("to {to} {}", self.describe_head(head.as_slice(), datagram, padding))
            }
            Output::OpenRelay { allocation, relayed } => {
                if !datagram.is_empty() {
                    self.answers.insert(allocation, *signed);
                }
                return self.open(name, allocation, relayed);
            }
            Output::CloseRelay { allocation, family } => {
                let key = (allocation, family);
                assert!(self.relays.remove(&key).is_some(), "closed what is not open");
                let is_its = |id, of| (id, of) == key;
                let installed = self.installed.values();
                let mut bound = installed.map(|b| is_its(b.allocation, b.relayed.family()));
                assert!(!bound.any(|its| its), "withdraw first");
                let permitted = self.permitted.values();
                let mut permitted = permitted.map(|p| is_its(p.allocation, p.relayed.family()));
                assert!(!permitted.any(|its| its), "forbid first");
                self.waiting.retain(|waiting| *waiting != key);
                self.expiry_ns.remove(&key);
                "close".to_owned()
            }
            Output::Ended { five_tuple, .. } => {
                let ended = self.clients.values().find(|c| c.five_tuple == five_tuple).unwrap();
                let ended = ended.allocation.expect("it relayed");
                assert!(self.relays.keys().all(|(id, _)| *id != ended), "close first");
                return Vec::new();
            }
            Output::HandOver { .. }
            | Output::Adopt { .. }
            | Output::Disown { .. }
            | Output::Moved { .. } => self.mobility(&output),
            Output::Install(_) | Output::Permit(_) | Output::Forbid(_) | Output::Withdraw(_) => {
                self.datapath(&output)
            }
            Output::HintChannelNumber => "hint".to_owned(),
            Output::LookUp { realm, user } => self.look_up(realm, &user),
            Output::Refused(refusal) => return self.note(&refusal),
        };
        vec![text]
    }

    /// What the datapath is told, and whether it may be.
    fn datapath(&mut self, output: &Output) -> String {
        match *output {
            Output::Install(binding) => {
                let key = (binding.allocation, binding.relayed.family());
                assert_eq!(self.relays[&key].1, binding.relayed);
                assert_eq!(binding.peer.family(), binding.relayed.family());
                self.installed.insert((binding.allocation, binding.number.value()), binding);
                let there = self.left(binding.client_to_peer_deadline_ns);
                let back = self.left(binding.peer_to_client_deadline_ns);
                format!("install {:x} {there}/{back}", binding.number.value())
            }
            Output::Permit(permission) => {
                let key = (permission.allocation, permission.relayed.family());
                assert_eq!(self.relays[&key].1, permission.relayed);
                assert!(!self.relayed_ips.contains(&permission.peer), "a peer of our own");
                assert_eq!(Family::of(permission.peer), permission.relayed.family());
                let key = (permission.allocation, permission.peer);
                let before = self.permitted.insert(key, permission);
                assert_ne!(before, Some(permission), "told twice");
                let (its, of_all) = (permission.deadline_ns, permission.allocation_deadline_ns);
                format!("permit {} {}/{}", permission.peer, self.left(its), self.left(of_all))
            }
            Output::Forbid(permission) => self.forbid(&permission),
            Output::Withdraw(binding) => {
                let number = binding.number.value();
                let installed = self.installed.remove(&(binding.allocation, number)).unwrap();
                assert_eq!(installed.five_tuple, binding.five_tuple);
                format!("withdraw {number:x}")
            }
            _ => panic!("{output:?} is not the datapath's"),
        }
    }

    /// For the log: nothing that is seen on the wire.
    fn note(&mut self, refusal: &Refusal) -> Vec<String> {
        self.refused.push(refusal.to_string());
        Vec::new()
    }

    fn forbid(&mut self, permission: &Permission) -> String {
        let key = (permission.allocation, permission.peer);
        let permitted = self.permitted.remove(&key).unwrap();
        assert_eq!(permitted.five_tuple, permission.five_tuple);
        format!("forbid {}", permission.peer)
    }

    fn look_up(&mut self, realm: RealmId, user: &[u8]) -> String {
        let user = super::rfc8489::realms::name(realm, user);
        assert!(!self.looked_up.contains(&user), "one at a time");
        self.looked_up.push(user.clone());
        format!("look {user}")
    }

    /// Seconds until a deadline.
    fn left(&self, deadline_ns: u64) -> u64 {
        deadline_ns.saturating_sub(self.now.monotonic_ns).div_ceil(NS_PER_SEC)
    }

    fn open(&mut self, name: &str, allocation: AllocationId, relayed: RelayedAddr) -> Vec<String> {
        assert!(self.relays.values().all(|(_, other)| *other != relayed), "ports are unique");
        let key = (allocation, relayed.family());
        assert!(self.relays.insert(key, (name.to_owned(), relayed)).is_none(), "open already");
        match self.opens {
            Opens::Succeed => self.opened(name, key, false),
            Opens::Fail(0) => {
                self.opens = Opens::Succeed;
                self.opened(name, key, false)
            }
            Opens::Fail(times) => {
                self.opens = Opens::Fail(times - 1);
                self.opened(name, key, true)
            }
            Opens::Wait => {
                self.waiting.push(key);
                vec!["opening".to_owned()]
            }
        }
    }

    fn opened(&mut self, name: &str, key: (AllocationId, Family), fail: bool) -> Vec<String> {
        let word = if fail { "fail" } else { "open" };
        let answer = self.answer_open(name, key, fail);
        // Nothing comes of it while the other address is waited for.
        let answer = Some(answer).filter(|answer| answer != "nothing");
        [word.to_owned()].into_iter().chain(answer).collect()
    }

    fn reply(&mut self, name: &str, bytes: &[u8], signed: &Signed) -> String {
        let message = Message::parse(bytes).unwrap();
        let expected = if signed.fingerprint { Fingerprint::Valid } else { Fingerprint::Absent };
        assert_eq!(message.fingerprint(), expected, "answered as asked");
        assert_eq!(message.transaction_id(), super::script::transaction(signed.transaction));
        let value = |kind| message.attribute(kind);
        let code = value(AttributeType::ERROR_CODE).map(|v| attribute::error_code(v).unwrap());
        self.phrase = code.map_or(String::new(), |(_, phrase)| phrase.to_owned());
        let code = code.map(|(code, _)| code);
        assert_eq!(code.is_none(), message.class() == Class::Success);
        let is_signed = message.integrity().or_else(|| message.integrity_sha256()).is_some();
        match (is_signed, signed.key) {
            (true, Some(key)) => {
                key.check(&message);
                assert!(!matches!(code, Some(401 | 438)), "these carry no MESSAGE-INTEGRITY");
            }
            (true, None) => panic!("signed for somebody unknown"),
            (false, Some(_)) => {
                assert!(matches!(code, Some(400 | 401 | 438 | 500)), "{code:?} unsigned");
            }
            (false, None) => assert_ne!(code, Some(300), "RFC 8489 §14.8"),
        }
        let software = self.software.as_deref().filter(|_| is_signed);
        assert_eq!(value(AttributeType::SOFTWARE), software.map(str::as_bytes));
        self.client(name).reply = bytes.to_vec();
        if let Some(nonce) = value(AttributeType::NONCE) {
            let realm = super::rfc8489::realms::of(self.client(name).five_tuple.server);
            assert_eq!(value(AttributeType::REALM), Some(realm.as_bytes()));
            self.client(name).nonce = nonce.to_vec();
            let attributes = message.attributes().map(|a| (a.kind, a.value.to_vec()));
            self.client(name).challenge = attributes.collect();
        }
        match code {
            Some(420) => {
                let unknown = value(AttributeType::UNKNOWN_ATTRIBUTES).unwrap();
                let hex: Vec<_> = unknown.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("420 {}", hex.concat())
            }
            Some(code) => code.to_string(),
            None => self.success(name, &message, signed.family),
        }
    }

    fn success(&mut self, name: &str, message: &Message<'_>, refreshed: Option<Family>) -> String {
        let address = |kind| {
            let value = message.attribute(kind)?;
            attribute::xor_address(value, message.transaction_id())
        };
        let mut text = "ok".to_owned();
        let reflexive = address(AttributeType::XOR_MAPPED_ADDRESS);
        if let Some(reflexive) = reflexive {
            assert_eq!(reflexive, self.clients[name].five_tuple.client.socket());
        }
        let relayed: Vec<SocketAddr> = message
            .attributes()
            .filter(|attribute| attribute.kind == AttributeType::XOR_RELAYED_ADDRESS)
            .map(|a| attribute::xor_address(a.value, message.transaction_id()).unwrap())
            .collect();
        let is_told = !relayed.is_empty() || message.method() == Method::BINDING;
        assert_eq!(reflexive.is_some(), is_told);
        let refreshed_by = self.note_ticket(name, message);
        let its = self.relays.iter().filter(|((id, _), (owner, _))| match refreshed_by {
            Refreshed::Named(moving) => *id == moving,
            Refreshed::Nothing => false,
            Refreshed::Its => owner == name || Some(*id) == self.clients[name].allocation,
        });
        let its: Vec<_> = its.map(|(key, _)| *key).collect();
        if let Some(secs) = message.attribute(AttributeType::LIFETIME).and_then(attribute::number) {
            text += &format!(" {secs}");
            let end = self.now.monotonic_ns + u64::from(secs) * NS_PER_SEC;
            for key in its.iter().filter(|(_, family)| refreshed.is_none_or(|one| one == *family)) {
                let again = message.method() == Method::ALLOCATE;
                if !again || !self.expiry_ns.contains_key(key) {
                    self.expiry_ns.insert(*key, end);
                }
            }
        }
        if !relayed.is_empty() {
            let client = self.client(name);
            client.relayed = [None; 2];
            client.allocation = its.first().map(|(id, _)| *id);
            for address in relayed {
                let family = Family::of(address.ip());
                let parity = if address.port() % 2 == 0 { "even" } else { "odd" };
                text += &format!(" {} {parity}", family.name());
                client.relayed[family as usize] = Some(address);
            }
        }
        if let Some(token) = message.attribute(AttributeType::RESERVATION_TOKEN) {
            self.client(name).token = Some(token.try_into().unwrap());
            text += " token";
        }
        if message.attribute(AttributeType::MOBILITY_TICKET).is_some() {
            text += " ticket";
        }
        if let Some(value) = message.attribute(AttributeType::ADDRESS_ERROR_CODE) {
            let [family, 0, class, number] = *value else { panic!("{value:?}") };
            text += &format!(" without {family} {}", u16::from(class) * 100 + u16::from(number));
        }
        text
    }
}
