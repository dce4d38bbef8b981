//! What a run's server is configured with, chosen anew for every seed: few ports or many, short
//! lifetimes or long. The server and the model get the same values; neither gets the other's code.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use relay_common::wire::channel_data::ChannelRange;
use relay_turn::{
    Config, Discovery, Ledger, Limits, LookUps, Offers, PasswordAlgorithm, Policy, RelayAddress,
};

use crate::accounts::{self, Accounts};
use crate::random::Random;

pub const REALM: &str = "example.org";
pub const RELAY_V4: &str = "11.0.0.1";
pub const RELAY_V4_OUTSIDE: &str = "11.0.0.99";
pub const RELAY_V6: &str = "2a00:1::1";
/// The machine's other address: of discovery, and never of a relayed transport address.
pub const ALTERNATE_V4: &str = "11.0.0.2";
pub const LISTEN_PORT: u16 = 3478;
pub const ALTERNATE_PORT: u16 = 3479;
/// When a run begins, seconds since 1970.
pub const UNIX_START: u64 = 1_700_000_000;

const FIRST_PORT: u16 = 50_000;

/// The configuration of one run.
#[derive(Clone, Debug)]
pub struct Rules {
    pub shards: usize,
    /// Relayed ports of each shard.
    pub ports_each: u16,
    pub channels: ChannelRange,
    pub limits: Limits,
    /// Families of relayed transport addresses: IPv4, IPv6.
    pub families: [bool; 2],
    /// PASSWORD-ALGORITHMS, most preferred first.
    pub algorithms: Vec<PasswordAlgorithm>,
    /// USERHASH is understood.
    pub has_userhashes: bool,
    /// Third parties' tokens are taken (RFC 7635).
    pub has_tokens: bool,
    /// There are two IPv4 addresses and two ports to find out about NATs with (RFC 5780).
    pub is_discovering: bool,
    /// The IPv4 relay address is behind a 1:1 NAT.
    pub is_mapped: bool,
    /// Sources that have not authenticated run into their limit of replies.
    pub is_throttled: bool,
    /// Allocations run into their limits of packets or bytes.
    pub is_policed: bool,
    /// The kernel's datapath is there at all.
    pub has_kernel: bool,
    /// Routes that fit into the kernel.
    pub routes_max: usize,
    /// One in so many things that happen changes all of the server.
    pub calm: u64,
}

impl Rules {
    pub fn choose(random: &mut Random) -> Self {
        let is_throttled = random.one_in(8);
        let is_policed = random.one_in(8);
        let mut limits = limits(random);
        if is_throttled {
            limits.unauthenticated_replies_per_sec = 1;
        }
        if is_policed {
            limits.allocation_bytes_per_sec = 2_000;
            limits.allocation_packets_per_sec = 4;
            // Room for so many allocations, and nearly one more.
            limits.user_bytes_per_sec = random.pick(&[0, 2_000, 5_999]);
            limits.total_bytes_per_sec = random.pick(&[0, 0, 6_000]);
        }
        // Which of a source's requests was answered is told by the order of answers.
        if !is_throttled && random.one_in(4) {
            limits.look_ups = Some(LookUps {
                cache_secs: random.pick(&[1, 1, 30, 300]),
                negative_cache_secs: random.pick(&[1, 1, 10]),
                stale_secs: random.pick(&[0, 60, 600, 600]),
                per_source_per_sec: random.pick(&[1, LOOK_UPS_UNLIMITED, LOOK_UPS_UNLIMITED]),
            });
        }
        let (md5, sha256) = (PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256);
        let algorithms = match random.index(8) {
            0 => Vec::new(),
            1 => vec![md5],
            2 => vec![sha256],
            3 => vec![md5, sha256],
            _ => vec![sha256, md5],
        };
        let families =
            random.pick(&[[true, false], [false, true], [true; 2], [true; 2], [true; 2]]);
        Self {
            shards: 1 + random.index(2),
            ports_each: random.pick(&[1, 2, 4, 6, 64, 64, 64, 64]),
            channels: random.pick(&[ChannelRange::Rfc8656, ChannelRange::Rfc5766]),
            limits,
            families,
            algorithms,
            has_userhashes: random.one_in(2),
            has_tokens: random.one_in(3),
            is_discovering: random.one_in(4),
            is_mapped: families[0] && random.one_in(3),
            is_throttled,
            is_policed,
            has_kernel: !random.one_in(12),
            routes_max: random.pick(&[0, 3, 10, 10_000, 10_000, 10_000]),
            calm: random.pick(&[100, 600, 600, 100_000, 100_000]),
        }
    }

    /// The configuration of a shard; the ledger is all shards'. `life` tells processes apart that
    /// were started one after the other.
    pub fn config(&self, shard: usize, life: u8, ledger: &Ledger, accounts: &Accounts) -> Config {
        let at = |ip: &str| ip.parse().unwrap();
        let external = self.is_mapped.then(|| at(RELAY_V4_OUTSIDE));
        let v4 = RelayAddress { address: at(RELAY_V4), external };
        let v6 = RelayAddress { address: at(RELAY_V6), external: None };
        let relayed = [v4, v6].into_iter().zip(self.families);
        let mut seed = [u8::try_from(shard).unwrap(); 32];
        seed[0] = life;
        Config {
            realm: REALM.to_owned(),
            credentials: accounts.credentials(self.has_userhashes),
            realms: Vec::new(),
            relay_addresses: relayed.filter(|(_, has)| *has).map(|(address, _)| address).collect(),
            other_addresses: self.other_addresses(),
            relay_ports: self.ports(shard),
            relay_ports_all: self.ports_all(),
            channel_range: self.channels,
            policy: Arc::new(Policy::new(&relay_turn::Rules::default())),
            listeners: Self::here().map(|ip| SocketAddr::new(ip, LISTEN_PORT)).to_vec(),
            ledger: ledger.clone(),
            limits: self.limits,
            nonce_key: [1; 32],
            seed,
            discoveries: Vec::from_iter(self.discovery()),
            offers: Offers {
                password_algorithms: self.algorithms.clone(),
                userhash: self.has_userhashes,
                access_tokens: self.has_tokens.then(accounts::access_tokens),
                ..Offers::default()
            },
        }
    }

    fn discovery(&self) -> Option<Discovery> {
        let primary = SocketAddr::new(RELAY_V4.parse().unwrap(), LISTEN_PORT);
        let alternate = SocketAddr::new(ALTERNATE_V4.parse().unwrap(), ALTERNATE_PORT);
        self.is_discovering.then_some(Discovery { primary, alternate })
    }

    /// Addresses of the machine that no relayed transport address is on.
    fn other_addresses(&self) -> Vec<IpAddr> {
        Self::here().into_iter().filter(|ip| !self.is_own(*ip)).collect()
    }

    /// The relayed ports of a shard.
    pub fn ports(&self, shard: usize) -> RangeInclusive<u16> {
        let first = FIRST_PORT + self.ports_each * u16::try_from(shard).unwrap();
        first..=first + self.ports_each - 1
    }

    pub fn ports_all(&self) -> RangeInclusive<u16> {
        FIRST_PORT..=*self.ports(self.shards - 1).end()
    }

    /// Addresses that relayed transport addresses are on.
    pub fn relay_ips(&self) -> Vec<IpAddr> {
        let all = [RELAY_V4, RELAY_V6].into_iter().zip(self.families);
        all.filter(|(_, has)| *has).map(|(ip, _)| ip.parse().unwrap()).collect()
    }

    pub fn is_own(&self, ip: IpAddr) -> bool {
        self.relay_ips().contains(&ip)
    }

    /// The machine's addresses.
    pub fn here() -> [IpAddr; 3] {
        [RELAY_V4, RELAY_V6, ALTERNATE_V4].map(|ip| ip.parse().unwrap())
    }

    pub fn is_here(ip: IpAddr) -> bool {
        Self::here().contains(&ip)
    }

    /// TURN server transport addresses that clients of a family can send to.
    pub fn servers(&self, is_v4: bool) -> Vec<SocketAddr> {
        let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        let all = [
            at(if is_v4 { RELAY_V4 } else { RELAY_V6 }, LISTEN_PORT),
            at(RELAY_V4, ALTERNATE_PORT),
            at(ALTERNATE_V4, LISTEN_PORT),
            at(ALTERNATE_V4, ALTERNATE_PORT),
        ];
        all[..if is_v4 && self.is_discovering { 4 } else { 1 }].to_vec()
    }

    /// Whether a port is one of TURN server transport addresses, not a relayed one.
    pub const fn is_listened(port: u16) -> bool {
        matches!(port, LISTEN_PORT | ALTERNATE_PORT)
    }

    /// An address as packets carry it.
    pub fn inside(&self, address: SocketAddr) -> SocketAddr {
        self.renamed(address, RELAY_V4_OUTSIDE, RELAY_V4)
    }

    /// An address as clients are told of it.
    pub fn outside(&self, address: SocketAddr) -> SocketAddr {
        self.renamed(address, RELAY_V4, RELAY_V4_OUTSIDE)
    }

    fn renamed(&self, address: SocketAddr, from: &str, to: &str) -> SocketAddr {
        let ip = address.ip().to_canonical();
        let is_it = self.is_mapped && ip == from.parse::<IpAddr>().unwrap();
        SocketAddr::new(if is_it { to.parse().unwrap() } else { ip }, address.port())
    }
}

/// What is as good as no limit of look-ups.
pub const LOOK_UPS_UNLIMITED: u32 = 1_000_000;

#[allow(clippy::needless_update, reason = "what is not varied here is as it always is")]
fn limits(random: &mut Random) -> Limits {
    let source_prefix_v4 = random.pick(&[32, 32, 24, 16]);
    let source_prefix_v6 = random.pick(&[64, 64, 48]);
    let mut few = |small: [u64; 3], large: u64| match random.index(12) {
        at @ 0..=2 => small[at],
        _ => large,
    };
    let u32_of = |number: u64| u32::try_from(number).unwrap();
    let usize_of = |number: u64| usize::try_from(number).unwrap();
    let lifetime = u32_of(few([30, 60, 330], 600));
    Limits {
        allocations_max: u32_of(few([1, 2, 5], 64)),
        user_allocations_max: u32_of(few([1, 2, 3], 0)),
        source_allocations_max: u32_of(few([1, 2, 3], 0)),
        source_prefix_v4,
        source_prefix_v6,
        permissions_per_allocation_max: usize_of(few([1, 2, 3], 128)),
        channels_per_allocation_max: usize_of(few([1, 2, 3], 128)),
        lifetime_secs_default: lifetime,
        lifetime_secs_max: lifetime + u32_of(few([0, 1, 300], 3000)),
        new_peers_per_sec: u32_of(few([1, 1, 2], 0)),
        nonce_secs: u32_of(few([1, 30, 400], 3600)),
        unauthenticated_replies_per_sec: 1_000_000,
        allocation_bytes_per_sec: 0,
        allocation_packets_per_sec: 0,
        user_bytes_per_sec: 0,
        total_bytes_per_sec: 0,
        strict_expiry: few([1, 1, 1], 0) == 1,
        look_ups: None,
        ..Limits::default()
    }
}
