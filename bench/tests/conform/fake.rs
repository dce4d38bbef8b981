//! A small TURN server that does what RFC 8489 and RFC 8656 ask of one, or all of it but one
//! thing. Over loopback, for the user alice with the password north and bob with south.

mod relaying;
mod wrong;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use md5::{Digest as _, Md5};
use sha2::Sha256;

pub(crate) use wrong::Wrong;

use crate::message::{INTEGRITY, INTEGRITY_SHA256, Received, Sent, mac};

const REALM: &[u8] = b"fake.test";
const USERS: [(&str, &str); 2] = [("alice", "north"), ("bob", "south")];
/// PASSWORD-ALGORITHMS: SHA-256, then MD5.
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const LIFETIME_SECS: u32 = 600;
const LIFETIME_SECS_MAX: u32 = 3600;
/// Comprehension-required attributes that are understood.
const KNOWN: [u16; 22] = [
    0x01, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x0D, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A,
    0x1C, 0x1D, 0x1E, 0x20, 0x22, 0x04,
];

/// A running server; it ends with the value.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(wrong: Wrong) -> Self {
        let socket = open();
        let addr = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut state = State {
            wrong,
            socket,
            allocations: HashMap::new(),
            reserved: HashMap::new(),
            received: 0,
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if !state.round() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { addr, stop, thread: Some(thread) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the fake server panicked");
    }
}

struct Allocation {
    socket: UdpSocket,
    user: usize,
    id: [u8; 12],
    answer: Vec<u8>,
    permissions: HashSet<IpAddr>,
    channels: HashMap<u16, SocketAddr>,
}

struct State {
    wrong: Wrong,
    socket: UdpSocket,
    allocations: HashMap<SocketAddr, Allocation>,
    reserved: HashMap<Vec<u8>, UdpSocket>,
    received: u64,
}

/// Who asks.
struct Asker {
    user: usize,
    key: Vec<u8>,
    by_sha256: bool,
}

/// A request that is being answered.
struct Request<'a> {
    client: SocketAddr,
    message: &'a Received<'a>,
    method: u16,
}

impl State {
    /// Whether there was anything to do.
    fn round(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut any = false;
        while let Ok((length, client)) = self.socket.recv_from(&mut buffer) {
            any = true;
            self.received += 1;
            if self.wrong != Wrong::Lossy || !self.received.is_multiple_of(3) {
                self.take(client, &buffer[..length]);
            }
        }
        for (client, allocation) in &self.allocations {
            while let Ok((length, peer)) = allocation.socket.recv_from(&mut buffer) {
                any = true;
                self.take_from_peer(*client, allocation, peer, &buffer[..length]);
            }
        }
        any
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }

    fn send(&self, client: SocketAddr, bytes: &[u8]) {
        let _ = self.socket.send_to(bytes, client);
    }

    fn take(&mut self, client: SocketAddr, bytes: &[u8]) {
        if matches!(bytes.first(), Some(0x40..=0x4F)) {
            return self.channel_data(client, bytes);
        }
        let Some(message) = Received::parse(bytes) else {
            if self.is(Wrong::AnswersDamaged) && bytes.len() >= 20 {
                self.send(client, &Sent::new(0x0111, [0; 12]).0);
            }
            return;
        };
        if !message.fingerprint_is_fine() {
            return;
        }
        let (method, class) = message.kind();
        match (class, method) {
            (1, 6) => self.send_indication(client, &message),
            (1, _) if self.is(Wrong::AnswersIndications) => {
                self.send(client, &Sent::new(0x0101, message.id()).0);
            }
            (2 | 3, _) if self.is(Wrong::AnswersResponses) => {
                self.send(client, &Sent::new(0x0101, message.id()).0);
            }
            (0, 1 | 3 | 4 | 8 | 9) => {
                let request = Request { client, message: &message, method };
                let answer = self.answer(&request);
                if !(method == 4 && self.is(Wrong::SaysNothingOfRefresh)) {
                    self.send(client, &answer);
                }
            }
            _ => {}
        }
    }

    fn attribute<'a>(&self, message: &Received<'a>, kind: u16) -> Option<&'a [u8]> {
        let behind = self.is(Wrong::ReadsBehindIntegrity);
        message.attributes(behind).find(|(it, _)| *it == kind).map(|(_, value)| value)
    }

    fn peers(&self, message: &Received<'_>) -> Option<Vec<SocketAddr>> {
        let all = message.attributes(false).filter(|(kind, _)| *kind == 0x12);
        let all = all.map(|(_, value)| {
            let dirty = value.first().is_some_and(|byte| *byte != 0);
            message.address(value).filter(|_| !(dirty && self.is(Wrong::ReadsWhatIsReserved)))
        });
        all.collect()
    }

    fn unknown(&self, message: &Received<'_>) -> Vec<u8> {
        if self.is(Wrong::UnderstandsAnything) {
            return Vec::new();
        }
        let kinds = message.attributes(self.is(Wrong::ReadsBehindIntegrity)).map(|(kind, _)| kind);
        kinds.filter(|it| *it < 0x8000 && !KNOWN.contains(it)).flat_map(u16::to_be_bytes).collect()
    }

    fn answer(&mut self, request: &Request<'_>) -> Vec<u8> {
        let asker = match request.method {
            1 => None,
            _ => match self.authenticate(request) {
                Ok(asker) => Some(asker),
                Err(code) => return self.refuse(request, code, None),
            },
        };
        let unknown = self.unknown(request.message);
        if !unknown.is_empty() {
            return self.refuse_unknown(request, &unknown, asker.as_ref());
        }
        let Some(asker) = asker else { return self.bound(request) };
        match self.execute(request, &asker) {
            Ok(answer) => answer,
            Err(code) => self.refuse(request, code, Some(&asker)),
        }
    }

    fn bound(&self, request: &Request<'_>) -> Vec<u8> {
        let mut mapped = request.client;
        if self.is(Wrong::MappedToAnotherPort) {
            mapped.set_port(mapped.port() ^ 1);
        }
        let mut answer = Sent::new(0x0101, request.message.id()).address(0x20, mapped);
        if self.is(Wrong::SendsWhatIsReserved) {
            answer.0[24] = 0xFF;
        }
        if !request.message.has_fingerprint() {
            return answer.0;
        }
        answer.fingerprint(u32::from(self.is(Wrong::FingerprintOff))).0
    }

    fn nonce(&self, client: SocketAddr) -> Vec<u8> {
        let port = if self.is(Wrong::OneNonceForAll) { 0 } else { client.port() };
        // The cookie says: password algorithms, and anonymity.
        let cookie = if self.is(Wrong::HidesTheAlgorithms) { "" } else { "obMatJos2wAAA" };
        format!("{cookie}nonce-{port}").into_bytes()
    }

    fn authenticate(&self, request: &Request<'_>) -> Result<Asker, u16> {
        let message = request.message;
        let of = |kind| self.attribute(message, kind);
        if of(INTEGRITY).is_none() && of(INTEGRITY_SHA256).is_none() {
            return Err(401);
        }
        let missing: u16 = if self.is(Wrong::MissingIs401) { 401 } else { 400 };
        let realm = of(0x14).ok_or(missing)?;
        let nonce = of(0x15).ok_or(missing)?;
        let named = of(0x06).or(of(0x1E)).ok_or(missing)?;
        let chosen = match (of(0x1D), of(0x8002)) {
            (None, None) => None,
            (Some([0, number, 0, 0]), Some(list))
                if (list == ALGORITHMS || self.is(Wrong::TakesAnyList))
                    && [1, 2].contains(number) =>
            {
                Some(*number)
            }
            _ => return Err(400),
        };
        let fresh = nonce == self.nonce(request.client) || self.is(Wrong::TakesAnyNonce);
        if !fresh && self.is(Wrong::NonceBeforePassword) {
            return Err(438);
        }
        let hashed = |name: &str| Sha256::digest([name.as_bytes(), b":", REALM].concat()).to_vec();
        let is_named = |name: &str| match of(0x06) {
            Some(given) => given == name.as_bytes(),
            None => named == hashed(name) && !self.is(Wrong::IgnoresUserHashes),
        };
        let user = USERS.iter().position(|(name, _)| is_named(name)).ok_or(401_u16)?;
        let (name, password) = USERS[user];
        let text = [name.as_bytes(), b":", realm, b":", password.as_bytes()].concat();
        let key = match chosen {
            Some(2) => Sha256::digest(text).to_vec(),
            _ => Md5::digest(text).to_vec(),
        };
        let authentic = match message.signed(INTEGRITY_SHA256) {
            Some((signed, given)) => {
                let whole = mac(&key, &signed, true);
                let truncated = given.len() >= 16 && whole.starts_with(given);
                whole == given || truncated && self.is(Wrong::TakesTruncatedMacs)
            }
            None => message
                .signed(INTEGRITY)
                .is_some_and(|(signed, given)| mac(&key, &signed, false) == given),
        };
        if (!authentic || realm != REALM) && !self.is(Wrong::TakesAnyPassword) {
            return Err(401);
        }
        let by_sha256 = chosen.is_some() && !self.is(Wrong::AnswersBySha1);
        if fresh { Ok(Asker { user, key, by_sha256 }) } else { Err(438) }
    }

    fn refuse(&self, request: &Request<'_>, code: u16, asker: Option<&Asker>) -> Vec<u8> {
        let [class, number] = [code / 100, code % 100].map(|it| u8::try_from(it).unwrap());
        let kind = message_type(request.method, 0x0110);
        let reserved = if self.is(Wrong::SendsWhatIsReserved) { 0xFF } else { 0 };
        let mut answer =
            Sent::new(kind, request.message.id()).with(0x09, &[reserved, 0, class, number, b'!']);
        if matches!(code, 401 | 438) {
            answer = answer
                .with(0x14, REALM)
                .with(0x15, &self.nonce(request.client))
                .with(0x8002, &ALGORITHMS);
        }
        self.sign(answer, asker.filter(|_| !self.is(Wrong::DoesNotSignErrors)))
    }

    fn refuse_unknown(
        &self,
        request: &Request<'_>,
        unknown: &[u8],
        asker: Option<&Asker>,
    ) -> Vec<u8> {
        let kind = message_type(request.method, 0x0110);
        let mut answer = Sent::new(kind, request.message.id()).with(0x09, &[0, 0, 4, 20]);
        if !self.is(Wrong::ListsNothing) {
            answer = answer.with(0x0A, unknown);
        }
        if self.is(Wrong::DirtyPadding) && !unknown.len().is_multiple_of(4) {
            *answer.0.last_mut().unwrap() = 0xFF;
        }
        self.sign(answer, asker)
    }

    fn sign(&self, answer: Sent, asker: Option<&Asker>) -> Vec<u8> {
        match asker {
            Some(asker) if !self.is(Wrong::DoesNotSign) => {
                answer.sign(&asker.key, asker.by_sha256).0
            }
            _ => answer.0,
        }
    }

    fn succeed(
        &self,
        request: &Request<'_>,
        asker: &Asker,
        attributes: impl FnOnce(Sent) -> Sent,
    ) -> Vec<u8> {
        let answer = Sent::new(message_type(request.method, 0x0100), request.message.id());
        let mut answer = attributes(answer);
        if self.is(Wrong::RepeatsTheNonce) {
            answer = answer.with(0x15, &self.nonce(request.client));
        }
        self.sign(answer, Some(asker))
    }

    fn execute(&mut self, request: &Request<'_>, asker: &Asker) -> Result<Vec<u8>, u16> {
        if request.method == 3 {
            return self.allocate(request, asker);
        }
        let nothing: u16 = if self.is(Wrong::NothingIs400) { 400 } else { 437 };
        let allocation = self.allocations.get(&request.client).ok_or(nothing)?;
        if allocation.user != asker.user && !self.is(Wrong::AnybodysAllocation) {
            return Err(441);
        }
        match request.method {
            4 => self.refresh(request, asker),
            8 => self.permit(request, asker),
            _ => self.bind(request, asker),
        }
    }

    fn lifetime(&self, request: &Request<'_>) -> u32 {
        let asked = self.attribute(request.message, 0x0D).and_then(|it| it.try_into().ok());
        let asked = asked.map_or(LIFETIME_SECS, u32::from_be_bytes);
        let least = if self.is(Wrong::ShortLifetimes) { 1 } else { LIFETIME_SECS };
        asked.clamp(least, LIFETIME_SECS_MAX)
    }

    fn allocate(&mut self, request: &Request<'_>, asker: &Asker) -> Result<Vec<u8>, u16> {
        let (client, id) = (request.client, request.message.id());
        if let Some(old) = self.allocations.get(&client) {
            if old.id == id && !self.is(Wrong::ForgetsTransactions) {
                return Ok(old.answer.clone());
            }
            if !self.is(Wrong::ReplacesAllocations) {
                return Err(437);
            }
        }
        let (socket, token) = self.relayed(request.message)?;
        let relayed = socket.local_addr().unwrap();
        let lifetime = self.lifetime(request);
        let answer = self.succeed(request, asker, |answer| {
            let mut answer = answer.address(0x16, relayed).address(0x20, client);
            if !self.is(Wrong::SaysNoLifetime) {
                answer = answer.with(0x0D, &lifetime.to_be_bytes());
            }
            token.iter().fold(answer, |answer, token| answer.with(0x22, token))
        });
        let allocation = Allocation {
            socket,
            user: asker.user,
            id,
            answer: answer.clone(),
            permissions: HashSet::new(),
            channels: HashMap::new(),
        };
        self.allocations.insert(client, allocation);
        Ok(answer)
    }

    /// The socket that an Allocate request gets, and the token for the port next to it.
    fn relayed(&mut self, message: &Received<'_>) -> Result<(UdpSocket, Option<Vec<u8>>), u16> {
        let of = |kind| self.attribute(message, kind);
        let strict = self.is(Wrong::ReadsWhatIsReserved);
        let dirty = |value: Option<&[u8]>| value.is_some_and(|it| it[1..].iter().any(|b| *b != 0));
        if strict && (dirty(of(0x19)) || dirty(of(0x17)) || of(0x18) == Some(&[0x7F])) {
            return Err(400);
        }
        match of(0x19) {
            Some([17, _, _, _]) => {}
            Some([_, _, _, _]) if self.is(Wrong::TakesAnyTransport) => {}
            Some([_, _, _, _]) => return Err(442),
            _ => return Err(400),
        }
        let (even, family, additional) = (of(0x18), of(0x17), of(0x8000));
        if let Some(token) = of(0x22) {
            if even.is_some() || family.is_some() || additional.is_some() {
                return Err(400);
            }
            return match self.reserved.remove(token) {
                Some(socket) => Ok((socket, None)),
                None if self.is(Wrong::TakesAnyToken) => Ok((open(), None)),
                None => Err(508),
            };
        }
        self.check_families(family, additional, even)?;
        let Some(bits) = even else { return Ok((open(), None)) };
        let (socket, next) = open_pair(self.is(Wrong::OddPorts));
        if !matches!(bits, [bits] if bits & 0x80 != 0) {
            return Ok((socket, None));
        }
        let token = u64::from(next.local_addr().unwrap().port()).to_be_bytes().to_vec();
        self.reserved.insert(token.clone(), next);
        Ok((socket, Some(token)))
    }

    fn check_families(
        &self,
        family: Option<&[u8]>,
        additional: Option<&[u8]>,
        even: Option<&[u8]>,
    ) -> Result<(), u16> {
        let reserves = matches!(even, Some([bits]) if bits & 0x80 != 0);
        match (family, additional) {
            _ if self.is(Wrong::TakesAnyFamily) => Ok(()),
            (Some(_), Some(_)) | (None, Some([1, ..])) => Err(400),
            (None, Some(_)) if reserves => Err(400),
            (Some([1, _, _, _]) | None, _) => Ok(()),
            (Some([_, _, _, _]), _) => Err(440),
            (Some(_), _) => Err(400),
        }
    }

    fn refresh(&mut self, request: &Request<'_>, asker: &Asker) -> Result<Vec<u8>, u16> {
        let family = self.attribute(request.message, 0x17);
        let other = family.is_some_and(|family| family[0] != 1);
        if other && !self.is(Wrong::RefreshesAnyFamily) {
            return Err(443);
        }
        let asked = self.attribute(request.message, 0x0D);
        let deletes = asked == Some(&[0; 4]);
        let lifetime = if deletes { 0 } else { self.lifetime(request) };
        if deletes && !self.is(Wrong::KeepsWhatIsDeleted) {
            self.allocations.remove(&request.client);
        }
        Ok(self.succeed(request, asker, |answer| answer.with(0x0D, &lifetime.to_be_bytes())))
    }

    fn permit(&mut self, request: &Request<'_>, asker: &Asker) -> Result<Vec<u8>, u16> {
        let peers = self.peers(request.message).ok_or(400_u16)?;
        if peers.is_empty() && !self.is(Wrong::PermitsNobody) {
            return Err(400);
        }
        if peers.iter().any(SocketAddr::is_ipv6) && !self.is(Wrong::PermitsAnyFamily) {
            return Err(443);
        }
        let allocation = self.allocations.get_mut(&request.client).unwrap();
        allocation.permissions.extend(peers.iter().map(SocketAddr::ip));
        Ok(self.succeed(request, asker, |answer| answer))
    }

    fn bind(&mut self, request: &Request<'_>, asker: &Asker) -> Result<Vec<u8>, u16> {
        let number = self.attribute(request.message, 0x0C).ok_or(400_u16)?;
        if number.len() != 4 || number[2] != 0 && self.is(Wrong::ReadsWhatIsReserved) {
            return Err(400);
        }
        let number = u16::from_be_bytes([number[0], number[1]]);
        let peers = self.peers(request.message).ok_or(400_u16)?;
        let peer = *peers.first().ok_or(400_u16)?;
        if !(0x4000..=0x4FFF).contains(&number) && !self.is(Wrong::AnyChannelNumber) {
            return Err(400);
        }
        if peer.is_ipv6() {
            return Err(443);
        }
        let (any_number, any_peer) = (self.is(Wrong::RebindsNumbers), self.is(Wrong::RebindsPeers));
        let allocation = self.allocations.get_mut(&request.client).unwrap();
        let other_peer = allocation.channels.get(&number).is_some_and(|it| *it != peer);
        let other_number = allocation.channels.iter().any(|(n, it)| *it == peer && *n != number);
        if other_peer && !any_number || other_number && !any_peer {
            return Err(400);
        }
        allocation.channels.insert(number, peer);
        allocation.permissions.insert(peer.ip());
        Ok(self.succeed(request, asker, |answer| answer))
    }
}

/// A method with the bits of a class.
fn message_type(method: u16, class: u16) -> u16 {
    // No method here has bits where the class is.
    method | class
}

fn open() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// On a port that is even, or odd, and on the next one.
fn open_pair(odd: bool) -> (UdpSocket, UdpSocket) {
    for _ in 0..1000 {
        let socket = open();
        let port = socket.local_addr().unwrap().port();
        let next = port.checked_add(1).and_then(|it| UdpSocket::bind(("127.0.0.1", it)).ok());
        if let Some(next) = next.filter(|_| (port % 2 == 1) == odd) {
            next.set_nonblocking(true).unwrap();
            return (socket, next);
        }
    }
    panic!("no pair of ports in a thousand")
}
