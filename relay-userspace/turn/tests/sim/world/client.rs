//! A client: what it remembers of the server's answers, and the requests it makes of that, right
//! ones mostly.

use std::net::SocketAddr;

use crate::model::wire::{self, Stun, Writer};
use crate::random::Random;
use crate::rules::{REALM, SECRET, UNIX_START, USERS};

pub struct Client {
    /// Where its NAT lets it send from now.
    pub address: SocketAddr,
    user: Vec<u8>,
    key: [u8; 16],
    nonce: Option<Vec<u8>>,
    /// It asked again after the last nonce that it got.
    has_retried: bool,
    token: Option<Vec<u8>>,
    pub relayed: Option<SocketAddr>,
    /// Its last request.
    pub last: Vec<u8>,
    /// What that asked for.
    pub wanted: Wanted,
    /// Whom it asked to reach, by address or by channel.
    pub friends: Vec<SocketAddr>,
    pub channels: Vec<u16>,
}

/// What a client may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    Binding,
    Allocate,
    Refresh,
    Permission,
    Channel,
}

pub const CHANNELS: [u16; 10] =
    [0x4000, 0x4000, 0x4000, 0x4001, 0x4001, 0x4002, 0x4FFF, 0x5000, 0x7FFF, 0x3FFF];

impl Client {
    pub fn new(random: &mut Random, address: SocketAddr) -> Self {
        let mut client = Self {
            address,
            user: Vec::new(),
            key: [0; 16],
            nonce: None,
            has_retried: false,
            token: None,
            relayed: None,
            last: Vec::new(),
            wanted: Wanted::Allocate,
            friends: Vec::new(),
            channels: Vec::new(),
        };
        client.log_in(random);
        client
    }

    /// Becomes another user, or the same.
    pub fn log_in(&mut self, random: &mut Random) {
        let (user, password) = match random.index(16) {
            0..=6 => (USERS[0].0.to_owned(), USERS[0].1.to_owned()),
            7..=11 => (USERS[1].0.to_owned(), USERS[1].1.to_owned()),
            12 => ("mallory".to_owned(), "guess".to_owned()),
            _ => {
                let expiry = UNIX_START + random.pick(&[100, 1000, 100_000, 100_000]);
                let user = format!("{expiry}:carol");
                let password = crate::model::rest_password(user.as_bytes());
                (user, password)
            }
        };
        let password = if random.one_in(20) { SECRET.to_owned() } else { password };
        self.key = wire::key(user.as_bytes(), REALM, password.as_bytes());
        self.user = user.into_bytes();
    }

    /// Learns from what arrives. Whether it got a nonce, and should ask again.
    pub fn receive(&mut self, payload: &[u8]) -> bool {
        let Some(stun) = Stun::read(payload) else { return false };
        let nonce = stun.value(wire::NONCE);
        if let Some(nonce) = nonce {
            self.nonce = Some(nonce.to_vec());
        }
        match (stun.method, stun.class, stun.error_code()) {
            (wire::ALLOCATE, wire::SUCCESS, _) => {
                self.relayed = stun.address(wire::XOR_RELAYED_ADDRESS);
                self.token = stun.value(wire::RESERVATION_TOKEN).map(<[u8]>::to_vec);
            }
            (wire::REFRESH, wire::SUCCESS, _) if stun.number(wire::LIFETIME) == Some(0) => {
                self.relayed = None;
            }
            (_, wire::ERROR, Some(437)) => self.relayed = None,
            _ => {}
        }
        self.has_retried = nonce.is_some() && !self.has_retried;
        self.has_retried
    }

    /// A request. `peers` are whom it may be about, `tokens` what others were given.
    pub fn request(
        &mut self,
        random: &mut Random,
        wanted: Wanted,
        peers: &[SocketAddr],
        token: Option<&[u8]>,
    ) -> Vec<u8> {
        let transaction = random.bytes(12).try_into().unwrap();
        let mut writer = Writer::new(wire::REQUEST, method(wanted), transaction);
        self.wanted = wanted;
        match wanted {
            Wanted::Binding => {}
            Wanted::Allocate => {
                self.friends.clear();
                self.channels.clear();
                self.allocate(random, &mut writer, token);
            }
            Wanted::Refresh => {
                if !random.one_in(3) {
                    writer.attribute(wire::LIFETIME, &lifetime(random));
                }
                if random.one_in(8) {
                    family(random, &mut writer);
                }
            }
            Wanted::Permission => {
                for peer in peers.iter().take(1 + random.index(2)) {
                    writer.address(wire::XOR_PEER_ADDRESS, *peer);
                    self.friends.push(*peer);
                }
            }
            Wanted::Channel => {
                let number = random.pick(&CHANNELS);
                self.channels.push(number);
                self.friends.push(peers[0]);
                let [high, low] = number.to_be_bytes();
                writer.attribute(wire::CHANNEL_NUMBER, &[high, low, 0, 0]);
                writer.address(wire::XOR_PEER_ADDRESS, peers[0]);
            }
        }
        if random.one_in(24) {
            odd(random, &mut writer);
        }
        let must_sign = wanted != Wanted::Binding || random.one_in(30);
        if must_sign && !random.one_in(30) {
            self.sign(random, &mut writer);
        }
        if random.one_in(3) {
            writer.seal();
        }
        self.last.clone_from(&writer.0);
        writer.0
    }

    fn allocate(&self, random: &mut Random, writer: &mut Writer, token: Option<&[u8]>) {
        let protocol = if random.one_in(30) { 6 } else { 17 };
        writer.attribute(wire::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0]);
        if random.one_in(2) {
            writer.attribute(wire::LIFETIME, &lifetime(random));
        }
        let token = token.or(self.token.as_deref()).filter(|_| random.one_in(3));
        if let Some(token) = token {
            writer.attribute(wire::RESERVATION_TOKEN, token);
            if !random.one_in(10) {
                return;
            }
        }
        if random.one_in(4) {
            writer.attribute(wire::EVEN_PORT, &[random.pick(&[0, 0x80, 0x80])]);
        }
        if random.one_in(3) {
            family(random, writer);
        }
    }

    /// Without a nonce, nothing: the answer brings one.
    fn sign(&self, random: &mut Random, writer: &mut Writer) {
        let Some(nonce) = &self.nonce else { return };
        let is_left_out = |random: &mut Random| random.one_in(60);
        if !is_left_out(random) {
            writer.attribute(wire::USERNAME, &self.user);
        }
        if !is_left_out(random) {
            writer.attribute(wire::REALM, REALM.as_bytes());
        }
        if !is_left_out(random) {
            writer.attribute(wire::NONCE, nonce);
        }
        let mut key = self.key;
        if random.one_in(40) {
            key[0] ^= 1;
        }
        writer.sign(&key);
    }

    pub fn send_indication(random: &mut Random, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
        let transaction = random.bytes(12).try_into().unwrap();
        let mut writer = Writer::new(wire::INDICATION, wire::SEND, transaction);
        if !random.one_in(30) {
            writer.address(wire::XOR_PEER_ADDRESS, peer);
        }
        if random.one_in(20) {
            odd(random, &mut writer);
        }
        if !random.one_in(30) {
            writer.attribute(wire::DATA, data);
        }
        if random.one_in(4) {
            writer.seal();
        }
        writer.0
    }
}

const fn method(wanted: Wanted) -> u16 {
    match wanted {
        Wanted::Binding => wire::BINDING,
        Wanted::Allocate => wire::ALLOCATE,
        Wanted::Refresh => wire::REFRESH,
        Wanted::Permission => wire::CREATE_PERMISSION,
        Wanted::Channel => wire::CHANNEL_BIND,
    }
}

fn lifetime(random: &mut Random) -> [u8; 4] {
    random.pick(&[0_u32, 1, 599, 600, 601, 3600, u32::MAX]).to_be_bytes()
}

fn family(random: &mut Random, writer: &mut Writer) {
    let family = random.pick(&[1, 2, 2, 2, 3]);
    writer.attribute(wire::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
}

/// An attribute that does not belong there, or is wrong.
fn odd(random: &mut Random, writer: &mut Writer) {
    let kind = random.pick(&[
        wire::UNKNOWN,
        0x8022,
        0xC0DE,
        wire::LIFETIME,
        wire::CHANNEL_NUMBER,
        wire::XOR_PEER_ADDRESS,
        wire::EVEN_PORT,
        wire::REQUESTED_TRANSPORT,
    ]);
    let count = random.pick(&[0, 1, 4, 8]);
    let value = random.bytes(count);
    writer.attribute(kind, &value);
}
