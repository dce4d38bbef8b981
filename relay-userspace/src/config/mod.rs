//! The configuration file: TOML in, [`Config`] out.
//!
//! A [`Config`] holds only values that are valid by themselves and together; no one re-checks them.
//! What the machine has to say (is the address ours, does the interface exist, is the port free)
//! is found out at start, not here: a file can be checked on another machine.

mod auth;
mod checks;
mod discovery;
mod document;
mod fault;
mod limits;
mod offers;
mod peers;
mod realms;
mod sections;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use relay_turn::{Discovery, Listed, Loopback};
use zeroize::Zeroizing;

pub(crate) use auth::{Logins, Secret, Sources};
pub(crate) use fault::{ConfigErrors, Warning};
pub(crate) use offers::{Offers, prepared};

/// The example file: every key, what it means and what it is when it is absent.
pub(crate) const EXAMPLE: &str = include_str!("../../../deploy/turnpike.example.toml");

/// Where metrics are served unless the file says otherwise.
pub(crate) const METRICS_DEFAULT: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9641);

/// What stands in the example where a secret belongs; refused everywhere.
const EXAMPLE_SECRET: &str = "REPLACE-ME";

/// Everything the file says, defaults filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    /// The realm of the long-term credentials (RFC 8489 §9.2), 1–64 bytes, prepared.
    pub(crate) realm: String,
    /// Where its clients send to; at least one, no duplicates, no port 0. Wildcards may be among
    /// them. The four addresses of each discovery are.
    pub(crate) listen_udp: Vec<SocketAddr>,
    /// Where clients can find out about their NATs (RFC 5780): at most one for each family, its
    /// addresses different in address and port, no wildcards.
    pub(crate) discoveries: Vec<Discovery>,
    /// Where relayed transport addresses come from.
    pub(crate) relay: Relay,
    /// Who may allocate; empty only if tokens are taken.
    pub(crate) auth: Auth,
    /// Other realms: no name and no address stands twice, here or above.
    pub(crate) realms: Vec<Realm>,
    /// Extensions that clients are offered.
    pub(crate) offers: Offers,
    /// How packets are relayed.
    pub(crate) datapath: Datapath,
    /// Exceptions from the peers that may be reached.
    pub(crate) peers: Peers,
    /// Where metrics and health are served; `None` is "off".
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// What is logged and how.
    pub(crate) log: Log,
    /// How much of everything there may be.
    pub(crate) limits: Limits,
    /// Whether clients may use RFC 5766's channel numbers, 0x4000–0x7FFF, not only RFC 8656's,
    /// 0x4000–0x4FFF.
    pub(crate) rfc5766_channel_numbers: bool,
    /// How many threads relay; `None` is one for each CPU.
    pub(crate) shards: Option<NonZeroU16>,
    /// What is legal and yet probably not meant. To be logged when there is a log.
    pub(crate) warnings: Vec<Warning>,
}

/// `[relay]`: where relayed transport addresses come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Relay {
    /// No wildcards, no duplicates. Empty: the listening addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The ports, at least 1.
    pub(crate) ports: RangeInclusive<u16>,
    /// Relay address → the address of the same family that clients are told instead.
    pub(crate) external: BTreeMap<IpAddr, IpAddr>,
    /// Whether allocations move with their clients (RFC 8016).
    pub(crate) mobility: bool,
}

/// `[auth]`: at least one user, one secret or one place where there may be some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Auth {
    /// Where users and secrets stand.
    pub(crate) sources: Sources,
    /// Users and secrets when they were read.
    pub(crate) listed: Logins,
    /// Whether no allocation outlives its time-limited credentials.
    pub(crate) strict_expiry: bool,
    /// Where else there are users and secrets.
    pub(crate) redis: Option<Redis>,
}

/// `[[realms]]`: another realm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Realm {
    /// As clients are told: 1–64 bytes, prepared.
    pub(crate) name: String,
    /// Where its clients send to; at least one. A wildcard stands for what no realm names.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where its users and secrets stand.
    pub(crate) sources: Sources,
    /// Its users and secrets when they were read.
    pub(crate) listed: Logins,
    /// Whether there are more of them in Redis.
    pub(crate) redis: bool,
}

/// `[auth.redis]`: users and secrets that several relays share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Redis {
    /// Where it is; may hold a password. Understood by the `redis` crate.
    pub(crate) url: Secret,
    /// With TLS, certificates of who may vouch for it, PEM; `None`: whom the machine trusts.
    pub(crate) ca: Option<Vec<u8>>,
    /// What all keys start with.
    pub(crate) prefix: String,
    /// How secrets are kept there.
    pub(crate) shared_secrets: SharedSecrets,
    /// How long connecting, and an answer, may take.
    pub(crate) timeout_ms: u32,
    /// How long an answer is good that found a user.
    pub(crate) cache_secs: u32,
    /// How long an answer is good that found none.
    pub(crate) negative_cache_secs: u32,
    /// How much longer a user is let in while Redis fails; 0: not.
    pub(crate) stale_secs: u32,
    /// How often secrets are read.
    pub(crate) secrets_refresh_secs: u32,
    /// Look-ups that one IPv4 address or IPv6 /64 may cause per second.
    pub(crate) look_ups_per_sec: u32,
}

/// How secrets are kept in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SharedSecrets {
    /// Each under a key of its own, as coturn has it.
    Keys,
    /// All in one set.
    Set,
    /// Not at all.
    Off,
}

/// `[datapath]`: how packets are relayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Datapath {
    /// Which path, and which fallback.
    pub(crate) mode: Mode,
    /// Interfaces to attach to. Empty: those that carry the listening and relay addresses.
    pub(crate) interfaces: Vec<String>,
    /// The kernel object to load instead of the embedded one.
    pub(crate) object: Option<PathBuf>,
    /// Where maps and program are pinned.
    pub(crate) pin: Pin,
    /// Whether the kernel program measures how long it takes.
    pub(crate) measure_times: bool,
    /// Whether the kernel answers Binding requests.
    pub(crate) answer_binding: bool,
}

/// Where maps and program are pinned, so that they outlive the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pin {
    /// In [`Pin::DEFAULT`] where that can be had, else nowhere.
    Default,
    /// In this directory, or an error.
    At(PathBuf),
    /// Nowhere.
    Off,
}

impl Pin {
    /// Where BPF's file system is on most machines.
    pub(crate) const DEFAULT: &str = "/sys/fs/bpf/turnpike";

    /// The directory, if there is to be one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Default => Some(Path::new(Self::DEFAULT)),
            Self::At(directory) => Some(directory),
            Self::Off => None,
        }
    }
}

/// How packets are relayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Native XDP; generic XDP where the driver has none; userspace where that fails too.
    Auto,
    /// Native XDP (in the driver) or an error.
    Native,
    /// Generic XDP (in the network stack, slower) or an error.
    Generic,
    /// No XDP: everything is relayed in userspace.
    Userspace,
}

impl Mode {
    /// Every mode, by its name in the file.
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
        ("userspace", Self::Userspace),
    ];
}

/// `[peers]`: exceptions from the rule that special-purpose addresses are not relayed to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peers {
    /// May be reached although they are special-purpose.
    pub(crate) allow: Vec<Listed>,
    /// May not be reached.
    pub(crate) deny: Vec<Listed>,
    /// Whether loopback may be reached.
    pub(crate) loopback: Loopback,
}

/// `[log]`: what is logged and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Log {
    /// The least important level that is still logged.
    pub(crate) level: tracing::Level,
    /// The shape of a line.
    pub(crate) format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[limits]`: bounds for the whole server, each at least 1 unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Allocations, all shards together; at most [`relay_common::abi::SLOTS_MAX`].
    pub(crate) allocations_max: u32,
    /// Allocations of one user; 0: not limited.
    pub(crate) user_allocations_max: u32,
    /// Allocations of the clients of one prefix of addresses; 0: not limited.
    pub(crate) source_allocations_max: u32,
    /// How long that prefix is for IPv4, 1–32.
    pub(crate) source_prefix_ipv4: u8,
    /// How long that prefix is for IPv6, 1–128.
    pub(crate) source_prefix_ipv6: u8,
    /// Permissions of one allocation.
    pub(crate) permissions_per_allocation_max: u32,
    /// Channel bindings of one allocation.
    pub(crate) channels_per_allocation_max: u32,
    /// New peers of one allocation, per second; 0: not limited.
    pub(crate) new_peers_per_sec: u32,
    /// LIFETIME when the client asks for none or for less, seconds.
    pub(crate) lifetime_secs_default: u32,
    /// LIFETIME at most, seconds; not below the default.
    pub(crate) lifetime_secs_max: u32,
    /// How long a nonce is good, seconds.
    pub(crate) nonce_secs: u32,
    /// Replies to unauthenticated requests from one IPv4 address or IPv6 /64, per second.
    pub(crate) unauthenticated_replies_per_sec: u32,
    /// Application data of each direction of an allocation, bytes per second; 0: not limited.
    pub(crate) allocation_bytes_per_sec: u32,
    /// The same in packets per second.
    pub(crate) allocation_packets_per_sec: u32,
    /// What one user's allocations may reserve, each `allocation_bytes_per_sec`, bytes per second;
    /// not below that. 0: not limited.
    pub(crate) user_bytes_per_sec: u64,
    /// The same for all allocations.
    pub(crate) total_bytes_per_sec: u64,
}

impl Config {
    /// Reads and checks a file, and the files it names (relative names start at its directory).
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, not only the first.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigErrors::unreadable(path, error))?;
        sections::read(path, &Zeroizing::new(text))
    }

    /// Every realm, that of the top level first.
    pub(crate) fn every_realm(&self) -> Vec<Realm> {
        let first = Realm {
            name: self.realm.clone(),
            listen: self.listen_udp.clone(),
            sources: self.auth.sources.clone(),
            listed: self.auth.listed.clone(),
            redis: self.auth.redis.is_some(),
        };
        [first].into_iter().chain(self.realms.iter().cloned()).collect()
    }

    /// Where clients of any realm send to.
    pub(crate) fn every_listen(&self) -> Vec<SocketAddr> {
        let others = self.realms.iter().flat_map(|realm| &realm.listen);
        self.listen_udp.iter().chain(others).copied().collect()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Userspace => "userspace",
        })
    }
}
