//! `turnpike serve`: from a configuration to a running relay, and back to nothing at the end.
//!
//! Start-up is in order of cost: what the configuration says about this machine is checked first,
//! then sockets, then the kernel, then threads. Whatever fails is said with what to do about it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use relay_common::addr::{Family, ServerAddr};
use relay_common::wire::channel_data::ChannelRange;
use relay_turn::{
    AccessTokens, Credentials, Ledger, Limits, LookUps, Mobility, Offers, Policy, RelayAddress,
    Rules, TokenKey, Turn,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::cli;
use crate::clock;
use crate::config::{Config, Mode as WantedMode, Pin};
use crate::datapath::{
    self, Answering, DatapathError, Interface, Kernel, Links, Mode, Pins, PinsError, Settings,
};
use crate::hints::Hints;
use crate::interfaces::Interfaces;
use crate::metrics::{Exporter, Process};
use crate::realms::Places;
use crate::scrape::{Relay, ShardHandle};
use crate::shard;
use crate::sockets::{self, Sharing};
use crate::store::{self, Asks, Status};

/// How often a listening address that is in use is tried again: for two seconds and a half. After
/// a kill it is free within some 10 ms on an idle machine.
const IN_USE_TRIES: u32 = 50;
/// How long between two tries.
const IN_USE_RETRY: Duration = Duration::from_millis(50);
/// Descriptors that are not relayed ports.
const DESCRIPTORS_SPARE: u64 = 512;

/// What the configuration means on this machine.
struct Place {
    listen: Vec<SocketAddr>,
    realms: Places,
    relays: Vec<IpAddr>,
    /// Every other address of the machine.
    others: Vec<IpAddr>,
    /// The broadcast addresses of its networks.
    broadcasts: Vec<Ipv4Addr>,
    interfaces: Vec<Interface>,
    links: Links,
}

/// Runs the relay until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps it from starting: an address that is not ours, a port in use, an interface that
/// does not exist, a datapath that was demanded and cannot be had, a lack of privileges.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let place = place(&config).await?;
    check_addresses(&place).await?;
    raise_descriptor_limit(&config, &place);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let hangup = |_| signal(SignalKind::hangup());
    let hangups = config.every_realm().iter().map(hangup).collect::<io::Result<_>>()?;

    let admin = config.metrics_listen.map(Admin::bind).transpose()?;
    let kernel = load_kernel(&config, &place)?;
    // Dropped however this ends, but for a signal that cannot be caught: then the program stays.
    let _pins = kernel.as_ref().map(|(kernel, _)| kernel.unpin_at_end());
    let (ended, mut shard_ended) = unbounded_channel();
    let kernel_ref = kernel.as_ref().map(|(kernel, _)| kernel);
    let (asks, asked) = store::channel();
    let credentials = store::first(&config);
    let shards = start_shards(&config, &place, kernel_ref, (&credentials, &asks), &ended)?;
    drop(asks);
    let userspace = match &kernel {
        Some(_) => Vec::new(),
        None => place.interfaces.clone(),
    };
    let kernel_ref = kernel.as_ref().map(|(kernel, _)| kernel.clone());
    let relay = Relay::new(shards, kernel_ref, userspace, Status::new(&config));
    let relay = Arc::new(relay);
    if let Some((kernel, changes)) = kernel {
        if let Some(log) = kernel.take_log() {
            tokio::spawn(datapath::forward_log(log));
        }
        tokio::spawn(datapath::follow(kernel, changes));
    }
    store::start(&config, credentials, relay.clone(), asked, hangups).await;
    let metrics = admin.map(|admin| {
        let exporter = Exporter::new(Process {
            version: cli::VERSION,
            commit: cli::COMMIT,
            started_unix_secs: clock::unix_secs(),
        });
        let relay = relay.clone();
        tokio::spawn(admin.serve(exporter, move || relay.clone().report()))
    });
    if let Some(listen) = config.metrics_listen {
        info!(%listen, "metrics and health served");
    }
    for listen in &place.listen {
        let realm = place.realms.name(&config, *listen);
        info!(%listen, transport = "udp", realm, "listening");
    }
    info!(datapath = relay.mode().name(), shards = relay.shards(), "ready");

    let lost = tokio::select! {
        _ = interrupt.recv() => { info!("SIGINT: stopping"); None }
        _ = terminate.recv() => { info!("SIGTERM: stopping"); None }
        index = shard_ended.recv() => index,
    };
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    relay.close();
    if let Some(index) = lost {
        // Its 5-tuples would find other shards that know nothing of them: better all start anew.
        bail!("shard {index} ended by itself; the log says why");
    }
    info!("stopped");
    Ok(())
}

async fn place(config: &Config) -> anyhow::Result<Place> {
    let (interfaces, links) =
        Interfaces::read().await.context("reading this machine's interfaces")?;
    let realms = Places::new(config, &interfaces)?;
    let (listen, every_listen) = (realms.all(), config.every_listen());
    let relays = if config.relay.addresses.is_empty() {
        interfaces.reachable(&every_listen)
    } else {
        config.relay.addresses.clone()
    };
    // What a wildcard also stands for (bridges, tunnels) is listened to, but needs no XDP.
    let mut carried = interfaces.reachable(&every_listen);
    carried.extend(&relays);
    let selected = interfaces.select(&config.datapath.interfaces, &carried)?;
    let listening = listen.iter().map(SocketAddr::ip);
    let others: BTreeSet<IpAddr> = interfaces.addresses().chain(listening).collect();
    let others = others.into_iter().filter(|ip| !relays.contains(ip)).collect();
    let broadcasts = interfaces.broadcasts().into_iter().collect();
    Ok(Place { listen, realms, relays, others, broadcasts, interfaces: selected, links })
}

/// Binds everything once, alone: SO_REUSEPORT would let a second server share our ports silently.
async fn check_addresses(place: &Place) -> anyhow::Result<()> {
    for listen in &place.listen {
        until_free(*listen).await.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "another process has it (`ss -ulpn sport = :{}` shows which)",
                    listen.port()
                ),
                io::ErrorKind::AddrNotAvailable => "this machine does not have the address".into(),
                io::ErrorKind::PermissionDenied => {
                    "a port below 1024 needs root or CAP_NET_BIND_SERVICE".into()
                }
                _ => "it cannot be bound".into(),
            };
            anyhow!("{} {listen}: {error}: {hint}", place.realms.key(*listen))
        })?;
    }
    for relay in &place.relays {
        sockets::bind(SocketAddr::new(*relay, 0), Sharing::Exclusive).map_err(|error| {
            anyhow!(
                "[relay] addresses {relay}: {error}: this machine must have the address (behind a \
                 1:1 NAT, give the private one here and the public one in `external`)"
            )
        })?;
    }
    Ok(())
}

/// Binds an address and lets it go again. A process that was killed is gone before its sockets are:
/// its io_uring is taken down by a worker of the kernel. So a restart waits before it believes
/// that somebody else has the port.
async fn until_free(addr: SocketAddr) -> io::Result<()> {
    for _ in 0..IN_USE_TRIES {
        match sockets::bind(addr, Sharing::Exclusive) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                time::sleep(IN_USE_RETRY).await;
            }
            bound => return bound.map(drop),
        }
    }
    sockets::bind(addr, Sharing::Exclusive).map(drop)
}

fn raise_descriptor_limit(config: &Config, place: &Place) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files cannot be raised");
    }
    let has = |family| place.relays.iter().any(|relay| Family::of(*relay) == family);
    let families: u64 = Family::ALL.map(|family| u64::from(has(family))).iter().sum();
    let wanted = families * u64::from(config.limits.allocations_max) + DESCRIPTORS_SPARE;
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have < wanted {
        warn!(
            have,
            wanted,
            "each allocation needs an open file for each address family: raise LimitNOFILE or \
             lower allocations_max"
        );
    }
}

type KernelAndChanges = (Arc<Kernel>, tokio::sync::mpsc::UnboundedReceiver<datapath::Change>);

fn load_kernel(config: &Config, place: &Place) -> anyhow::Result<Option<KernelAndChanges>> {
    let kernel = match config.datapath.mode {
        WantedMode::Auto => try_kernel(config, place, vec![Mode::Native, Mode::Generic])?,
        WantedMode::Native => try_kernel(config, place, vec![Mode::Native])?,
        WantedMode::Generic => try_kernel(config, place, vec![Mode::Generic])?,
        WantedMode::Userspace => None,
    };
    if let (None, Some(directory)) = (&kernel, config.datapath.pin.directory()) {
        datapath::clear_dead(directory);
    }
    Ok(kernel)
}

fn try_kernel(
    config: &Config,
    place: &Place,
    modes: Vec<Mode>,
) -> anyhow::Result<Option<KernelAndChanges>> {
    let mut listen_ports: Vec<u16> = place.listen.iter().map(SocketAddr::port).collect();
    listen_ports.sort_unstable();
    listen_ports.dedup();
    let own = place.relays.iter().chain(&place.others).copied().collect();
    let settings = Settings {
        object: config.datapath.object.as_deref(),
        interfaces: place.interfaces.clone(),
        links: &place.links,
        modes,
        relayed: (*config.relay.ports.start(), *config.relay.ports.end()),
        channel_last: channel_range(config).last(),
        listen_ports,
        own,
        measure_times: config.datapath.measure_times,
        answering: answering(config, place)?,
        limits: datapath::limits(
            config.limits.allocation_bytes_per_sec,
            config.limits.allocation_packets_per_sec,
        ),
        place_key: random_word()?,
    };
    let (sender, changes) = unbounded_channel();
    match Kernel::load(&settings, pins(&config.datapath.pin)?, sender) {
        Ok(kernel) => Ok(Some((Arc::new(kernel), changes))),
        Err(DatapathError::NoInterface) if config.datapath.mode == WantedMode::Auto => {
            info!("only loopback carries the configured addresses: relaying in userspace");
            Ok(None)
        }
        Err(error) if config.datapath.mode == WantedMode::Auto => {
            warn!(%error, "no XDP: falling back to relaying in userspace");
            Ok(None)
        }
        Err(error) => Err(anyhow!(error)).with_context(|| {
            format!("[datapath] mode = \"{}\" (\"auto\" would fall back)", config.datapath.mode)
        }),
    }
}

/// Where to pin; nowhere if the default is not to be had.
fn pins(wanted: &Pin) -> anyhow::Result<Option<Pins>> {
    let Some(directory) = wanted.directory() else { return Ok(None) };
    match (Pins::lock(directory), wanted) {
        (Ok(pins), _) => Ok(Some(pins)),
        (Err(error), Pin::At(_)) => Err(anyhow!(error)).context("[datapath] pin"),
        // Another network namespace's, mostly: both relay, and one of them can be taken over.
        (Err(error @ PinsError::InUse(_)), _) => {
            warn!(%error, "not pinned: no new process can take over from this one");
            Ok(None)
        }
        (Err(error), _) => {
            info!(%error, "not pinned: no new process can take over from this one");
            Ok(None)
        }
    }
}

/// One source's budget for answers in the kernel is beside the one that all shards have together.
fn answering(config: &Config, place: &Place) -> anyhow::Result<Option<Answering>> {
    if !config.datapath.answer_binding {
        return Ok(None);
    }
    // Those answers say more (RFC 5780) and may leave from elsewhere.
    let is_plain = |listen: &&SocketAddr| {
        config.discoveries.iter().all(|discovery| discovery.other(**listen).is_none())
    };
    Ok(Some(Answering {
        servers: place.listen.iter().filter(is_plain).copied().map(ServerAddr::new).collect(),
        replies_per_sec: config.limits.unauthenticated_replies_per_sec,
        budget_key: random_word()?,
    }))
}

fn start_shards(
    config: &Config,
    place: &Place,
    kernel: Option<&Arc<Kernel>>,
    (credentials, asks): (&[Credentials], &Asks),
    ended: &UnboundedSender<u32>,
) -> anyhow::Result<(Vec<ShardHandle>, Vec<thread::JoinHandle<()>>)> {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = config.shards.map_or(cpus, |shards| usize::from(shards.get()));
    let wanted = wanted.min(config.limits.allocations_max as usize);
    let slices = port_slices(&config.relay.ports, wanted);
    let count = u32::try_from(slices.len()).context("shards")?;
    let common = Common::new(config, place, credentials)?;
    // All sockets of an address exist before the first receives: SO_REUSEPORT chooses by their
    // number, and a 5-tuple must stay on its shard.
    let mut listeners = bind_listeners(place, slices.len())?;
    let hints = Arc::new(Hints::default());
    let (ready, started) = mpsc::channel();
    let (mut shards, mut threads) = (Vec::new(), Vec::new());
    let wakes = slices.iter().map(|_| eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from));
    let wakes = wakes.collect::<io::Result<Vec<_>>>().context("eventfd")?;
    let mut posts = posts(config, &wakes).context("eventfd")?.map(Vec::into_iter);
    for ((index, ports), wake) in (0..count).zip(slices).zip(wakes) {
        let turn_config = turn_config(config, place, (index, ports), &common)?;
        let (commands, receiver) = mpsc::channel();
        let parts = shard::Parts {
            post: posts.as_mut().and_then(Iterator::next),
            turn: Turn::new(turn_config),
            listeners: std::mem::take(&mut listeners[index as usize]),
            kernel: kernel.cloned(),
            hints: Arc::clone(&hints),
            store: (index as usize, asks.clone()),
            commands: receiver,
            wake: wake.try_clone().context("eventfd")?,
        };
        let (ready, ended) = (ready.clone(), Ended(index, ended.clone()));
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                let _ended = ended;
                shard::run(parts, ready);
            })
            .context("starting a shard")?;
        shards.push(ShardHandle::new(commands, wake));
        threads.push(thread);
    }
    drop(ready);
    for _ in 0..count {
        started.recv().context("a shard ended while starting")?.map_err(|error| {
            anyhow!(
                "io_uring: {error}: Turnpike needs Linux 6.1 or later, and io_uring allowed \
                 (`sysctl kernel.io_uring_disabled` must be 0 or 1; containers need a seccomp \
                 profile that allows it)"
            )
        })?;
    }
    Ok((shards, threads))
}

/// Tells that a shard's thread ended, however it did.
struct Ended(u32, UnboundedSender<u32>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody listens any more when the relay itself ends.
        let _ = self.1.send(self.0);
    }
}

/// What all shards have in common.
struct Common {
    nonce_key: [u8; 32],
    policy: Arc<Policy>,
    ledger: Ledger,
    /// Of the realms, the default one first.
    credentials: Vec<Credentials>,
}

impl Common {
    fn new(config: &Config, place: &Place, credentials: &[Credentials]) -> anyhow::Result<Self> {
        let [seed @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = random()?;
        let policy = Policy::new(&Rules {
            allow: config.peers.allow.clone(),
            deny: config.peers.deny.clone(),
            loopback: config.peers.loopback,
            broadcasts: place.broadcasts.clone(),
        });
        let (nonce_key, policy, ledger) = (random()?, policy.into(), Ledger::new(seed));
        Ok(Self { nonce_key, policy, ledger, credentials: credentials.to_vec() })
    }
}

/// For each shard a socket on every listening address.
fn bind_listeners(place: &Place, shards: usize) -> anyhow::Result<Vec<Vec<(ServerAddr, OwnedFd)>>> {
    let mut all = Vec::new();
    for _ in 0..shards {
        let bound = place.listen.iter().map(|listen| {
            let socket = sockets::bind(*listen, Sharing::Shards)
                .with_context(|| format!("{} {listen}", place.realms.key(*listen)))?;
            Ok((ServerAddr::new(*listen), socket))
        });
        all.push(bound.collect::<anyhow::Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// Cuts a port range into at most `shards` slices that start on even ports, so that a pair for
/// EVEN-PORT lies in one of them.
fn port_slices(
    ports: &std::ops::RangeInclusive<u16>,
    shards: usize,
) -> Vec<std::ops::RangeInclusive<u16>> {
    let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let even = first - first % 2;
    let each = (last - even + 1).div_ceil(u32::try_from(shards).unwrap_or(1)).max(2);
    let each = each + each % 2;
    let mut slices = Vec::new();
    let mut start = first;
    while start <= last {
        // The first slice of an odd range is one shorter, so that the others start even.
        let end = (start - start % 2 + each - 1).min(last);
        let bound = |port| u16::try_from(port).unwrap_or(u16::MAX);
        slices.push(bound(start)..=bound(end));
        start = end + 1;
    }
    slices
}

fn turn_config(
    config: &Config,
    place: &Place,
    (shard, ports): (u32, std::ops::RangeInclusive<u16>),
    common: &Common,
) -> anyhow::Result<relay_turn::Config> {
    let relay_address = |address: &IpAddr| RelayAddress {
        address: *address,
        external: config.relay.external.get(address).copied(),
    };
    let limits = &config.limits;
    Ok(relay_turn::Config {
        realm: config.realm.clone(),
        credentials: common.credentials[0].clone(),
        realms: place.realms.others(config, &common.credentials),
        relay_addresses: place.relays.iter().map(relay_address).collect(),
        other_addresses: place.others.clone(),
        relay_ports: ports,
        relay_ports_all: config.relay.ports.clone(),
        channel_range: channel_range(config),
        policy: common.policy.clone(),
        listeners: place.listen.iter().copied().chain(config.metrics_listen).collect(),
        ledger: common.ledger.clone(),
        limits: Limits {
            allocations_max: limits.allocations_max,
            user_allocations_max: limits.user_allocations_max,
            source_allocations_max: limits.source_allocations_max,
            source_prefix_v4: limits.source_prefix_ipv4,
            source_prefix_v6: limits.source_prefix_ipv6,
            permissions_per_allocation_max: limits.permissions_per_allocation_max as usize,
            channels_per_allocation_max: limits.channels_per_allocation_max as usize,
            new_peers_per_sec: limits.new_peers_per_sec,
            lifetime_secs_default: limits.lifetime_secs_default,
            lifetime_secs_max: limits.lifetime_secs_max,
            nonce_secs: limits.nonce_secs,
            unauthenticated_replies_per_sec: limits.unauthenticated_replies_per_sec,
            allocation_bytes_per_sec: limits.allocation_bytes_per_sec,
            allocation_packets_per_sec: limits.allocation_packets_per_sec,
            user_bytes_per_sec: limits.user_bytes_per_sec,
            total_bytes_per_sec: limits.total_bytes_per_sec,
            strict_expiry: config.auth.strict_expiry,
            look_ups: config.auth.redis.as_ref().map(|redis| LookUps {
                cache_secs: redis.cache_secs,
                negative_cache_secs: redis.negative_cache_secs,
                stale_secs: redis.stale_secs,
                per_source_per_sec: redis.look_ups_per_sec,
            }),
        },
        offers: offers(config, shard)?,
        nonce_key: common.nonce_key,
        seed: random()?,
        discoveries: config.discoveries.clone(),
    })
}

/// Ways between shards, if they need any.
fn posts(config: &Config, wakes: &[OwnedFd]) -> io::Result<Option<Vec<shard::Post>>> {
    if !config.relay.mobility {
        return Ok(None);
    }
    let wakes = wakes.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
    Ok(Some(shard::Post::between(wakes)))
}

fn offers(config: &Config, shard: u32) -> anyhow::Result<Offers> {
    let offers = &config.offers;
    let access_tokens = offers.tokens.as_ref().map(|tokens| {
        let keys = tokens.keys.iter().filter_map(|(kid, key)| TokenKey::new(kid, &key.0));
        AccessTokens::new(tokens.server_name.clone(), keys.collect())
    });
    let shard = u16::try_from(shard).context("shards")?;
    Ok(Offers {
        password_algorithms: offers.password_algorithms.clone(),
        userhash: offers.userhash,
        software: offers.software.clone(),
        redirect: offers.redirect.clone(),
        access_tokens,
        mobility: config.relay.mobility.then_some(Mobility { shard }),
    })
}

const fn channel_range(config: &Config) -> ChannelRange {
    if config.rfc5766_channel_numbers { ChannelRange::Rfc5766 } else { ChannelRange::Rfc8656 }
}

/// Eight bytes of key material.
fn random_word() -> anyhow::Result<u64> {
    let [a, b, c, d, e, f, g, h, ..] = random()?;
    Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
}

/// Key material from the operating system.
fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_slices_cover_the_range_once_and_start_even() {
        for (ports, shards) in [(49_152..=65_535, 2), (49_152..=65_535, 7), (50_001..=50_010, 3)] {
            let slices = port_slices(&ports, shards);
            assert!(slices.len() <= shards, "{slices:?}");
            let all: Vec<u16> = slices.iter().cloned().flatten().collect();
            assert_eq!(all, ports.clone().collect::<Vec<_>>());
            assert!(slices[1..].iter().all(|slice| slice.start() % 2 == 0), "{slices:?}");
        }
        assert_eq!(port_slices(&(50_001..=50_010), 1), [50_001..=50_010]);
        assert_eq!(port_slices(&(50_000..=50_000), 4), [50_000..=50_000]);
        assert_eq!(port_slices(&(65_535..=65_535), 2), [65_535..=65_535]);
    }
}
