//! A miniature TURN server with faults that are known in advance. Speaks just enough RFC 8656
//! over loopback for one client implementation; judges credentials, counts, and damages the
//! way from client to peer.

#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod front;
pub(crate) mod identity;
mod wire;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use md5::Digest as _;
use relay_common::wire::Demux;
use relay_common::wire::attribute::{self, AttributeType as A};
use relay_common::wire::channel_data::{ChannelData, ChannelNumber, ChannelRange};
use relay_common::wire::stun::{Class, Fingerprint, Message, Method, TransactionId};

use front::Front;
use wire::{address, bound, forge, hmac, write};

/// Receive buffer asked of the kernel, so that a busy machine does not lose packets by itself.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const REALM: &[u8] = b"test.example";

/// What happens to application data from client to peer. `nth`: to every nth packet.
#[derive(Clone, Copy, Default)]
pub(crate) enum Faults {
    /// Nothing.
    #[default]
    None,
    /// It vanishes.
    Drop { nth: u64 },
    /// It goes twice.
    Duplicate { nth: u64 },
    /// It goes behind the next packet of its allocation.
    Reorder { nth: u64 },
    /// One bit of it is flipped, another one each time.
    Corrupt { nth: u64 },
    /// Every packet waits.
    Delay { time: Duration },
    /// Every second packet of an allocation waits.
    Alternate { time: Duration },
    /// What is above a rate, over all allocations, vanishes, but for short bursts.
    Police { per_second: u32 },
    /// It goes twice, or it waits, by turns.
    DuplicateOrDelay { time: Duration },
    /// The tool's number in it is another one, or the time it was due, with a right checksum.
    Forge { nth: u64 },
    /// That of the latest allocation vanishes.
    DropOfOne,
    /// The last byte of every packet of one of a flood's flows, by its number from 0, is another.
    CorruptFlow { flow: u32 },
    /// Its UDP checksum is wrong.
    Checksum { nth: u64 },
    /// It goes out of the relayed address of another allocation.
    Misdeliver { nth: u64 },
    /// The server does nothing at all for some time, once, after so many packets.
    StallOnce { after: u64, time: Duration },
}

/// How the server behaves.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    /// Where it listens over UDP, on any port.
    pub(crate) listen: &'static str,
    /// The address that it relays from, if not the one it listens on.
    pub(crate) relay: Option<&'static str>,
    /// What happens to application data.
    pub(crate) faults: Faults,
    /// LIFETIME of allocations; one that is not refreshed in time is gone.
    pub(crate) lifetime_secs: u32,
    /// How many requests a nonce is good for.
    pub(crate) nonce_uses: u64,
    /// The shared secret, instead of the user alice with the password north.
    pub(crate) secret: Option<&'static str>,
    /// More are refused with 486.
    pub(crate) allocations_max: usize,
    /// Peers are refused with 403.
    pub(crate) denies_peers: bool,
    /// How long an allocation takes; refusals are quick.
    pub(crate) allocates_after: Duration,
    /// A Refresh with lifetime zero is not answered, and deletes nothing.
    pub(crate) ignores_deletions: bool,
    /// Nothing is answered.
    pub(crate) silent: bool,
    /// Nothing is answered or relayed any more after so many packets.
    pub(crate) dies_after: Option<u64>,
    /// Every connection is closed after so many packets.
    pub(crate) hangs_up_after: Option<u64>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1",
            relay: None,
            faults: Faults::None,
            lifetime_secs: 600,
            nonce_uses: 1000,
            secret: None,
            allocations_max: 100,
            denies_peers: false,
            allocates_after: Duration::ZERO,
            ignores_deletions: false,
            silent: false,
            dies_after: None,
            hangs_up_after: None,
        }
    }
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    left: AtomicU64,
    requests: AtomicU64,
    refreshes: AtomicU64,
    stale: AtomicU64,
    packets: AtomicU64,
}

/// A running server; it ends with the value.
pub(crate) struct Server {
    addr: SocketAddr,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Over UDP.
    pub(crate) fn start(manners: Manners) -> Self {
        Self::behind(Front::udp(manners.listen), manners)
    }

    pub(crate) fn behind(front: Front, manners: Manners) -> Self {
        let addr = front.addr();
        let counts = Arc::new(Counts::default());
        let mut state = State {
            manners,
            front,
            ip: manners.relay.map_or(addr.ip(), |ip| ip.parse().unwrap()),
            counts: Arc::clone(&counts),
            allocations: HashMap::new(),
            delayed: BinaryHeap::new(),
            answers: Vec::new(),
            latest: None,
            packets: 0,
            tokens: (Instant::now(), 0.0),
            nonce: 1,
            nonce_used: 0,
        };
        let thread = std::thread::spawn(move || state.run());
        Self { addr, counts, thread: Mutex::new(Some(thread)) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn allocations_left(&self) -> u64 {
        self.counts.left.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Waits until so many requests came.
    #[allow(dead_code, reason = "not every suite waits for requests")]
    pub(crate) fn await_requests(&self, count: u64) {
        await_count(&self.counts.requests, count);
    }

    pub(crate) fn refreshes(&self) -> u64 {
        self.counts.refreshes.load(Ordering::SeqCst)
    }

    pub(crate) fn stale_nonces(&self) -> u64 {
        self.counts.stale.load(Ordering::SeqCst)
    }

    /// Waits until so many packets came from clients.
    pub(crate) fn await_packets(&self, count: u64) {
        await_count(&self.counts.packets, count);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().unwrap().take().unwrap();
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the test's server panicked");
        }
    }
}

struct Allocation {
    socket: UdpSocket,
    peer: Option<SocketAddr>,
    channel: Option<ChannelNumber>,
    deadline: Instant,
    packets: u64,
    held: Option<Vec<u8>>,
}

/// When it goes on, its number, whose it is, and what it carries.
type Delayed = (Instant, u64, SocketAddr, Vec<u8>);

struct State {
    manners: Manners,
    front: Front,
    ip: IpAddr,
    counts: Arc<Counts>,
    allocations: HashMap<SocketAddr, Allocation>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    /// Answers that wait.
    answers: Vec<(Instant, SocketAddr, Vec<u8>)>,
    /// The client with the latest allocation.
    latest: Option<SocketAddr>,
    packets: u64,
    /// When [`Faults::Police`] looked last, and how many packets may pass then.
    tokens: (Instant, f64),
    nonce: u64,
    nonce_used: u64,
}

impl State {
    fn run(&mut self) {
        let mut buffer = [0; 2048];
        while !self.counts.stop.load(Ordering::SeqCst) {
            let mut idle = true;
            while let Some((length, client)) = self.front.receive(&mut buffer) {
                idle = false;
                self.take_from_client(client, &mut buffer[..length]);
            }
            idle &= !self.take_from_peers(&mut buffer);
            while self.delayed.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
                let Reverse((_, _, client, payload)) = self.delayed.pop().unwrap();
                self.to_peer(client, &payload);
            }
            let now = Instant::now();
            for (_, client, answer) in self.answers.extract_if(.., |(at, ..)| *at <= now) {
                self.front.send(client, &answer);
            }
            self.allocations.retain(|_, allocation| allocation.deadline > now);
            self.counts.left.store(self.allocations.len() as u64, Ordering::SeqCst);
            if idle {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn dead(&self) -> bool {
        self.manners.dies_after.is_some_and(|after| self.packets > after)
    }

    fn take_from_client(&mut self, client: SocketAddr, datagram: &mut [u8]) {
        match Demux::of(datagram) {
            Demux::ChannelData => {
                let data = ChannelData::parse(datagram, ChannelRange::Rfc8656).unwrap();
                let Some(allocation) = self.allocations.get(&client) else { return };
                if allocation.channel == Some(data.number) {
                    self.data(client, datagram[data.payload].to_vec());
                }
            }
            Demux::Stun => {
                let message = Message::parse(datagram).unwrap();
                if message.class() == Class::Indication {
                    assert_eq!(message.method(), Method::SEND);
                    let peer = address(&message, A::XOR_PEER_ADDRESS);
                    let Some(allocation) = self.allocations.get(&client) else { return };
                    if allocation.peer == peer {
                        self.data(client, message.attribute(A::DATA).unwrap().to_vec());
                    }
                    return;
                }
                assert_eq!(message.class(), Class::Request);
                assert_eq!(message.fingerprint(), Fingerprint::Valid);
                self.counts.requests.fetch_add(1, Ordering::SeqCst);
                if !self.manners.silent && !self.dead() {
                    let deletes = message.attribute(A::LIFETIME).and_then(attribute::number);
                    if self.manners.ignores_deletions && deletes == Some(0) {
                        return;
                    }
                    let allocations = self.allocations.len();
                    let answer = match message.method() {
                        Method::BINDING => bound(client, message.transaction_id()),
                        _ => self.answer(client, &message),
                    };
                    if self.allocations.len() > allocations
                        && !self.manners.allocates_after.is_zero()
                    {
                        let at = Instant::now() + self.manners.allocates_after;
                        self.answers.push((at, client, answer));
                    } else {
                        self.front.send(client, &answer);
                    }
                }
            }
            Demux::Other => panic!("neither STUN nor ChannelData"),
        }
    }

    fn data(&mut self, client: SocketAddr, mut payload: Vec<u8>) {
        self.packets += 1;
        self.counts.packets.store(self.packets, Ordering::SeqCst);
        if self.dead() {
            return;
        }
        if self.manners.hangs_up_after == Some(self.packets) {
            return self.front.hang_up();
        }
        let count = self.packets;
        match self.manners.faults {
            Faults::Drop { nth } if count.is_multiple_of(nth) => return,
            Faults::Duplicate { nth } if count.is_multiple_of(nth) => {
                self.to_peer(client, &payload);
            }
            Faults::Reorder { nth } => return self.reorder(client, nth, payload),
            Faults::Corrupt { nth } if count.is_multiple_of(nth) => {
                // Everything but the bit that says that the peer has turned the packet round.
                let bit = usize::try_from(count / nth).unwrap() * 13 % (28 * 8);
                payload[bit / 8] ^= 1 << (bit % 8);
            }
            Faults::CorruptFlow { flow } if payload.get(4..8) == Some(&flow.to_ne_bytes()[..]) => {
                *payload.last_mut().unwrap() ^= 1;
            }
            Faults::Delay { time } => {
                self.delayed.push(Reverse((Instant::now() + time, count, client, payload)));
                return;
            }
            Faults::Alternate { time } => {
                let allocation = self.allocations.get_mut(&client).unwrap();
                allocation.packets += 1;
                if allocation.packets % 2 == 1 {
                    self.delayed.push(Reverse((Instant::now() + time, count, client, payload)));
                    return;
                }
            }
            Faults::Police { per_second } => {
                if !self.passes(per_second.into()) {
                    return;
                }
            }
            Faults::Misdeliver { nth } if count.is_multiple_of(nth) => {
                let other = self.allocations.keys().find(|other| **other != client).unwrap();
                return self.to_peer(*other, &payload);
            }
            Faults::Checksum { nth } if count.is_multiple_of(nth) => {
                return self.with_wrong_checksum(client, &payload);
            }
            Faults::DuplicateOrDelay { time } if count.is_multiple_of(2) => {
                self.delayed.push(Reverse((Instant::now() + time, count, client, payload)));
                return;
            }
            Faults::DuplicateOrDelay { .. } => self.to_peer(client, &payload),
            Faults::Forge { nth } if count.is_multiple_of(nth) => forge(&mut payload, count / nth),
            Faults::DropOfOne if self.latest == Some(client) => return,
            Faults::StallOnce { after, time } if count == after => std::thread::sleep(time),
            Faults::None
            | Faults::Forge { .. }
            | Faults::DropOfOne
            | Faults::Checksum { .. }
            | Faults::Misdeliver { .. }
            | Faults::Drop { .. }
            | Faults::Duplicate { .. }
            | Faults::Corrupt { .. }
            | Faults::CorruptFlow { .. }
            | Faults::StallOnce { .. } => {}
        }
        self.to_peer(client, &payload);
    }

    /// Holds every nth packet of the allocation back until the next one has gone.
    fn reorder(&mut self, client: SocketAddr, nth: u64, payload: Vec<u8>) {
        let allocation = self.allocations.get_mut(&client).unwrap();
        allocation.packets += 1;
        if allocation.packets % nth == 1 {
            allocation.held = Some(payload);
            return;
        }
        let held = allocation.held.take();
        self.to_peer(client, &payload);
        if let Some(held) = held {
            self.to_peer(client, &held);
        }
    }

    /// As [`State::to_peer`], by a socket that takes the UDP header as it is.
    fn with_wrong_checksum(&self, client: SocketAddr, payload: &[u8]) {
        use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};
        let Some(allocation) = self.allocations.get(&client) else { return };
        let (from, to) = (allocation.socket.local_addr().unwrap(), allocation.peer.unwrap());
        let length = u16::try_from(8 + payload.len()).unwrap();
        let header = [from.port(), to.port(), length, 1].map(u16::to_be_bytes).concat();
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP)).unwrap();
        bind(&raw, &SocketAddr::new(from.ip(), 0)).unwrap();
        let packet = [&header, payload].concat();
        sendto(&raw, &packet, SendFlags::empty(), &SocketAddr::new(to.ip(), 0)).unwrap();
    }

    /// A token bucket that holds a fifth of a second.
    fn passes(&mut self, per_second: f64) -> bool {
        let (before, tokens) = self.tokens;
        let now = Instant::now();
        let more = now.duration_since(before).as_secs_f64() * per_second;
        let tokens = (tokens + more).min(per_second / 5.0);
        let passes = tokens >= 1.0;
        self.tokens = (now, if passes { tokens - 1.0 } else { tokens });
        passes
    }

    fn to_peer(&self, client: SocketAddr, payload: &[u8]) {
        let Some(allocation) = self.allocations.get(&client) else { return };
        allocation.socket.send_to(payload, allocation.peer.unwrap()).unwrap();
    }

    /// Whether there was anything.
    fn take_from_peers(&mut self, buffer: &mut [u8]) -> bool {
        let mut any = false;
        let dead = self.dead();
        let Self { front, allocations, .. } = self;
        for (client, allocation) in allocations {
            while let Some((length, from)) = receive(&allocation.socket, buffer) {
                any = true;
                if dead || Some(from) != allocation.peer {
                    continue;
                }
                let payload = &buffer[..length];
                let datagram = match allocation.channel {
                    Some(number) => {
                        let header = ChannelData::header(number, u16::try_from(length).unwrap());
                        [&header, payload].concat()
                    }
                    None => write(Class::Indication, Method::DATA, TransactionId([5; 12]), |w| {
                        w.xor_address(A::XOR_PEER_ADDRESS, from);
                        w.attribute(A::DATA, payload);
                    }),
                };
                front.send(*client, &datagram);
            }
        }
        any
    }

    fn answer(&mut self, client: SocketAddr, request: &Message<'_>) -> Vec<u8> {
        let Some(key) = self.authenticate(request) else { return self.refuse(request, 401, "Who") };
        if request.attribute(A::NONCE) != Some(self.nonce.to_string().as_bytes()) {
            self.counts.stale.fetch_add(1, Ordering::SeqCst);
            return self.refuse(request, 438, "Stale Nonce");
        }
        self.nonce_used += 1;
        if self.nonce_used == self.manners.nonce_uses {
            self.nonce += 1;
            self.nonce_used = 0;
        }
        let (transaction, method) = (request.transaction_id(), request.method());
        if method != Method::ALLOCATE && !self.allocations.contains_key(&client) {
            return self.refuse(request, 437, "Allocation Mismatch");
        }
        let lifetime = request.attribute(A::LIFETIME).and_then(attribute::number);
        let lifetime = lifetime.unwrap_or(self.manners.lifetime_secs);
        let deadline = Instant::now() + Duration::from_secs(lifetime.into());
        let mut relayed = None;
        match method {
            Method::ALLOCATE => {
                assert_eq!(request.attribute(A::REQUESTED_TRANSPORT), Some(&[17, 0, 0, 0][..]));
                if self.allocations.len() == self.manners.allocations_max {
                    return self.refuse(request, 486, "Quota");
                }
                let socket = open(self.ip);
                relayed = Some(socket.local_addr().unwrap());
                let fresh = Allocation {
                    socket,
                    peer: None,
                    channel: None,
                    deadline,
                    packets: 0,
                    held: None,
                };
                self.allocations.insert(client, fresh);
                self.latest = Some(client);
            }
            Method::REFRESH => {
                self.counts.refreshes.fetch_add(1, Ordering::SeqCst);
                self.allocations.get_mut(&client).unwrap().deadline = deadline;
                if lifetime == 0 {
                    self.allocations.remove(&client);
                }
            }
            Method::CREATE_PERMISSION | Method::CHANNEL_BIND => {
                if self.manners.denies_peers {
                    return self.refuse(request, 403, "Forbidden");
                }
                let allocation = self.allocations.get_mut(&client).unwrap();
                allocation.peer = address(request, A::XOR_PEER_ADDRESS);
                if method == Method::CHANNEL_BIND {
                    let number = request.attribute(A::CHANNEL_NUMBER).unwrap();
                    let number = attribute::channel_number(number).unwrap();
                    allocation.channel = ChannelNumber::new(number, ChannelRange::Rfc8656);
                    assert!(allocation.channel.is_some());
                }
            }
            other => panic!("unexpected {other:?}"),
        }
        self.counts.left.store(self.allocations.len() as u64, Ordering::SeqCst);
        write(Class::Success, method, transaction, |w| {
            if let Some(relayed) = relayed {
                w.xor_address(A::XOR_RELAYED_ADDRESS, relayed);
                w.xor_address(A::XOR_MAPPED_ADDRESS, client);
            }
            w.number(A::LIFETIME, lifetime);
            w.integrity(|header, body| hmac(&key, &[header, body]));
        })
    }

    /// The key of a request with the right MESSAGE-INTEGRITY.
    fn authenticate(&self, request: &Message<'_>) -> Option<[u8; 16]> {
        let username = request.attribute(A::USERNAME)?;
        let password = match self.manners.secret {
            Some(secret) => {
                let expiry = std::str::from_utf8(username).ok()?.split_once(':')?.0;
                let expiry = Duration::from_secs(expiry.parse().ok()?);
                assert!(std::time::UNIX_EPOCH.elapsed().unwrap() < expiry, "not expired");
                base64::engine::general_purpose::STANDARD
                    .encode(hmac(secret.as_bytes(), &[username]))
            }
            None if username == b"alice" => "north".to_owned(),
            None => return None,
        };
        let secret = [username, b":", REALM, b":", password.as_bytes()].concat();
        let key: [u8; 16] = md5::Md5::digest(secret).into();
        let integrity = request.integrity()?;
        (hmac(&key, &[&integrity.header, integrity.body])[..] == *integrity.mac).then_some(key)
    }

    fn refuse(&self, request: &Message<'_>, code: u16, reason: &str) -> Vec<u8> {
        write(Class::Error, request.method(), request.transaction_id(), |w| {
            w.error_code(code, reason);
            w.attribute(A::REALM, REALM);
            w.attribute(A::NONCE, self.nonce.to_string().as_bytes());
        })
    }
}

fn await_count(counter: &AtomicU64, count: u64) {
    for _ in 0..10_000 {
        if counter.load(Ordering::SeqCst) >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} instead of {count} after 10 s", counter.load(Ordering::SeqCst));
}

fn open(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES).unwrap();
    socket
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error)
            if error.kind() == ErrorKind::WouldBlock
                || error.kind() == ErrorKind::ConnectionRefused =>
        {
            None
        }
        Err(error) => panic!("{error}"),
    }
}
