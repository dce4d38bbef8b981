//! A client: what it remembers of the server's answers, and the requests it makes of that, right
//! ones mostly.

use std::net::SocketAddr;

use super::signing::Signer;
use crate::model::wire::{self, Stun, Writer};
use crate::random::Random;

pub struct Client {
    /// Where its NAT lets it send from now.
    pub address: SocketAddr,
    /// Where it sends to.
    pub server: SocketAddr,
    signer: Signer,
    nonce: Option<Vec<u8>>,
    /// It asked again after the last nonce that it got.
    has_retried: bool,
    /// Responses in a row that wanted to know who it is.
    pub unwelcome: u32,
    token: Option<Vec<u8>>,
    /// Relayed transport addresses that it believes to have.
    pub relayed: Vec<SocketAddr>,
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
    /// Permissions for more peers than anybody needs.
    Many,
    Channel,
    /// How its NAT behaves (RFC 5780).
    Discovery,
}

pub const CHANNELS: [u16; 10] =
    [0x4000, 0x4000, 0x4000, 0x4001, 0x4001, 0x4002, 0x4FFF, 0x5000, 0x7FFF, 0x3FFF];

impl Client {
    pub fn new(
        random: &mut Random,
        (address, server): (SocketAddr, SocketAddr),
        has_tokens: bool,
        unix: u64,
    ) -> Self {
        Self {
            address,
            server,
            signer: Signer::choose(random, has_tokens, unix),
            nonce: None,
            has_retried: false,
            unwelcome: 0,
            token: None,
            relayed: Vec::new(),
            last: Vec::new(),
            wanted: Wanted::Allocate,
            friends: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Becomes another user, or the same.
    pub fn log_in(&mut self, random: &mut Random, has_tokens: bool, unix: u64) {
        self.unwelcome = 0;
        let offered = self.signer.offered.take();
        self.signer = Signer::choose(random, has_tokens, unix);
        self.signer.offered = offered;
    }

    /// Learns from what arrives. Whether it got a nonce, and should ask again.
    pub fn receive(&mut self, payload: &[u8]) -> bool {
        let Some(stun) = Stun::read(payload) else { return false };
        let nonce = stun.value(wire::NONCE);
        if let Some(nonce) = nonce {
            self.nonce = Some(nonce.to_vec());
            self.signer.offered = stun.value(wire::PASSWORD_ALGORITHMS).map(<[u8]>::to_vec);
            let is_list = |list: &Vec<u8>| list.len() >= 4 && list.len().is_multiple_of(4);
            self.signer.offered = self.signer.offered.take().filter(is_list);
        }
        match (stun.method, stun.class, stun.error_code()) {
            (wire::ALLOCATE, wire::SUCCESS, _) => {
                let is_it = |a: &&wire::Attribute| a.kind == wire::XOR_RELAYED_ADDRESS;
                let all = stun.attributes.iter().filter(is_it);
                let all = all.filter_map(|a| wire::xored_address(&a.value, &stun.transaction));
                self.relayed = all.collect();
                self.token = stun.value(wire::RESERVATION_TOKEN).map(<[u8]>::to_vec);
            }
            (wire::REFRESH, wire::SUCCESS, _) if stun.number(wire::LIFETIME) == Some(0) => {
                self.relayed.clear();
            }
            (_, wire::ERROR, Some(437)) => self.relayed.clear(),
            _ => {}
        }
        self.unwelcome = if nonce.is_some() { self.unwelcome + 1 } else { 0 };
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
        unix: u64,
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
                let is_double = self.relayed.len() > 1;
                if is_double && random.one_in(6) {
                    writer.attribute(wire::LIFETIME, &[0; 4]);
                } else if !random.one_in(3) {
                    writer.attribute(wire::LIFETIME, &lifetime(random));
                }
                if random.one_in(if is_double { 2 } else { 8 }) {
                    let family = random.pick(&[1, 2, 2, 1, 1, 3]);
                    writer.attribute(wire::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
                }
            }
            Wanted::Many => {
                for number in 0..4 + random.index(16) {
                    let peer = many(number, self.relayed.first().is_none_or(SocketAddr::is_ipv4));
                    writer.address(wire::XOR_PEER_ADDRESS, peer);
                }
            }
            Wanted::Discovery => discovery(random, &mut writer),
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
        let is_binding = matches!(wanted, Wanted::Binding | Wanted::Discovery);
        if random.one_in(30) == is_binding {
            self.sign(random, &mut writer, unix);
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
        if random.one_in(6) {
            writer.attribute(wire::DONT_FRAGMENT, &[]);
        }
        match random.index(12) {
            0..=2 => family(random, writer),
            3..=7 => {
                let family = random.pick(&[2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 3]);
                writer.attribute(wire::ADDITIONAL_ADDRESS_FAMILY, &[family, 0, 0, 0]);
            }
            _ => {}
        }
    }

    /// Without a nonce, nothing: the answer brings one.
    fn sign(&mut self, random: &mut Random, writer: &mut Writer, unix: u64) {
        let Some(nonce) = &self.nonce else { return };
        // RFC 7635 §9: to allocate and to refresh; the allocation knows it from then on.
        let is_first = matches!(self.wanted, Wanted::Allocate | Wanted::Refresh);
        if is_first && random.one_in(3) {
            self.signer.renew(random, unix);
        }
        let has_token = is_first != random.one_in(12);
        self.signer.sign(random, writer, nonce, has_token);
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
        if random.one_in(5) {
            writer.attribute(wire::DONT_FRAGMENT, &[]);
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
        Wanted::Binding | Wanted::Discovery => wire::BINDING,
        Wanted::Allocate => wire::ALLOCATE,
        Wanted::Refresh => wire::REFRESH,
        Wanted::Permission | Wanted::Many => wire::CREATE_PERMISSION,
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

/// One of many peers that nobody is.
fn many(number: usize, is_v4: bool) -> SocketAddr {
    let number = u16::try_from(number).unwrap();
    match is_v4 {
        true => ([9, 9, 8, number.to_be_bytes()[1]], 7000).into(),
        false => ([0x2A00, 8, 0, 0, 0, 0, 0, number], 7000).into(),
    }
}

/// RFC 5780 §7.2, §7.5, §7.6.
fn discovery(random: &mut Random, writer: &mut Writer) {
    if !random.one_in(4) {
        let flags = random.pick(&[0, 2, 4, 6, 6, 0xFF]);
        writer.attribute(wire::CHANGE_REQUEST, &[0, 0, 0, flags]);
    }
    let [high, low] = random.pick(&[6001_u16, 6002, 9999, 0]).to_be_bytes();
    match random.index(8) {
        0 => writer.attribute(wire::RESPONSE_PORT, &[high, low]),
        1 => writer.attribute(wire::RESPONSE_PORT, &[high, low, 0, 0]),
        2 => writer.attribute(wire::RESPONSE_PORT, &[high]),
        _ => {}
    }
    if random.one_in(4) {
        let bytes = random.pick(&[0, 1, 64, 1200, 1500, 1501, 3000]);
        writer.attribute(wire::PADDING, &vec![0; bytes]);
    }
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
        wire::ADDITIONAL_ADDRESS_FAMILY,
        wire::USERHASH,
        wire::ACCESS_TOKEN,
        wire::PASSWORD_ALGORITHM,
        wire::CHANGE_REQUEST,
    ]);
    let count = random.pick(&[0, 1, 4, 8]);
    let value = random.bytes(count);
    writer.attribute(kind, &value);
}
