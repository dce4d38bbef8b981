//! What a run's server is configured with, chosen anew for every seed: few ports or many, short
//! lifetimes or long. The server and the model get the same values; neither gets the other's code.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use relay_common::wire::channel_data::ChannelRange;
use relay_turn::{Config, Credentials, Ledger, Limits, Offers, Policy, RelayAddress};

use crate::random::Random;

pub const REALM: &str = "example.org";
/// Whoever knows it can make time-limited credentials.
pub const SECRET: &str = "north";
pub const RELAY_V4: &str = "11.0.0.1";
pub const RELAY_V4_OUTSIDE: &str = "11.0.0.99";
pub const RELAY_V6: &str = "2a00:1::1";
pub const LISTEN_PORT: u16 = 3478;
/// When a run begins, seconds since 1970.
pub const UNIX_START: u64 = 1_700_000_000;
/// Static users and their passwords.
pub const USERS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];

const FIRST_PORT: u16 = 50_000;

/// The configuration of one run.
#[derive(Clone, Debug)]
pub struct Rules {
    pub shards: usize,
    /// Relayed ports of each shard.
    pub ports_each: u16,
    pub channels: ChannelRange,
    pub limits: Limits,
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
}

impl Rules {
    #[allow(clippy::needless_update, reason = "what is not varied here is as it always is")]
    pub fn choose(random: &mut Random) -> Self {
        let is_throttled = random.one_in(8);
        let is_policed = random.one_in(8);
        let mut few = |small: [u64; 3], large: u64| match random.index(12) {
            at @ 0..=2 => small[at],
            _ => large,
        };
        let u32_of = |number: u64| u32::try_from(number).unwrap();
        let usize_of = |number: u64| usize::try_from(number).unwrap();
        let lifetime = u32_of(few([30, 60, 330], 600));
        let limits = Limits {
            allocations_max: u32_of(few([1, 2, 5], 64)),
            user_allocations_max: u32_of(few([1, 2, 3], 0)),
            source_allocations_max: u32_of(few([1, 2, 3], 0)),
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            permissions_per_allocation_max: usize_of(few([1, 2, 3], 128)),
            channels_per_allocation_max: usize_of(few([1, 2, 3], 128)),
            lifetime_secs_default: lifetime,
            lifetime_secs_max: lifetime + u32_of(few([0, 1, 300], 3000)),
            new_peers_per_sec: u32_of(few([1, 0, 0], 0)),
            nonce_secs: u32_of(few([1, 30, 400], 3600)),
            unauthenticated_replies_per_sec: if is_throttled { 1 } else { 1_000_000 },
            allocation_bytes_per_sec: if is_policed { 2_000 } else { 0 },
            allocation_packets_per_sec: if is_policed { 4 } else { 0 },
            ..Limits::default()
        };
        Self {
            shards: 1 + random.index(2),
            ports_each: random.pick(&[1, 2, 4, 6, 64, 64, 64, 64]),
            channels: random.pick(&[ChannelRange::Rfc8656, ChannelRange::Rfc5766]),
            limits,
            is_mapped: random.one_in(3),
            is_throttled,
            is_policed,
            has_kernel: !random.one_in(12),
            routes_max: random.pick(&[0, 3, 10, 10_000, 10_000, 10_000]),
        }
    }

    /// The configuration of a shard; the ledger is all shards'.
    pub fn config(&self, shard: usize, ledger: &Ledger) -> Config {
        let at = |ip: &str| ip.parse().unwrap();
        let external = self.is_mapped.then(|| at(RELAY_V4_OUTSIDE));
        let users = USERS.map(|(name, password)| (name.to_owned(), password.to_owned()));
        Config {
            realm: REALM.to_owned(),
            credentials: Credentials::new(users, vec![SECRET.to_owned()]),
            relay_addresses: vec![
                RelayAddress { address: at(RELAY_V4), external },
                RelayAddress { address: at(RELAY_V6), external: None },
            ],
            other_addresses: Vec::new(),
            relay_ports: self.ports(shard),
            relay_ports_all: self.ports_all(),
            channel_range: self.channels,
            policy: Arc::new(Policy::new(&relay_turn::Rules::default())),
            listeners: Self::relay_ips().map(|ip| SocketAddr::new(ip, LISTEN_PORT)).to_vec(),
            ledger: ledger.clone(),
            limits: self.limits,
            nonce_key: [1; 32],
            seed: [u8::try_from(shard).unwrap(); 32],
            discoveries: Vec::new(),
            offers: Offers::default(),
        }
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
    pub fn relay_ips() -> [IpAddr; 2] {
        [RELAY_V4, RELAY_V6].map(|ip| ip.parse().unwrap())
    }

    pub fn is_own(ip: IpAddr) -> bool {
        Self::relay_ips().contains(&ip)
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

/// Who listens where the client's family says.
pub fn server_for(client: SocketAddr) -> SocketAddr {
    let [v4, v6] = Rules::relay_ips();
    SocketAddr::new(if client.is_ipv4() { v4 } else { v6 }, LISTEN_PORT)
}
