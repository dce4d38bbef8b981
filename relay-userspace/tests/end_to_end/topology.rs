//! Network namespaces, the links between them, and the XDP programs on the links' far ends.
//! Everything is removed when its owner is dropped.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, panic, process, thread};

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use relay_common::abi::{PROGRAM, map};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with loopback up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose name tells the process and the role.
    fn new(role: &str) -> Self {
        Self::make(role).unwrap()
    }

    fn make(role: &str) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("turnpike-{}-{count}-{role}", process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        run("ip", &["-n", &namespace.name, "link", "set", "lo", "up"])?;
        // Without duplicate address detection: an interface that has just come up cannot ask for
        // neighbours until its link-local address has passed it, a second or two later.
        namespace.set("ipv6/conf/all/accept_dad", "0");
        namespace.set("ipv6/conf/default/accept_dad", "0");
        // Ways there and back may differ.
        namespace.set("ipv4/conf/all/rp_filter", "0");
        namespace.set("ipv4/conf/default/rp_filter", "0");
        Ok(namespace)
    }

    /// `ip` with these words, in the namespace; what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split(' '));
        run("ip", &args).unwrap()
    }

    /// A program with these words, in the namespace; what it prints.
    pub(crate) fn output(&self, program: &str, words: &str) -> String {
        let args: Vec<&str> = words.split(' ').collect();
        self.within(|| run(program, &args)).unwrap()
    }

    /// Works in the namespace: on a thread of its own, because a namespace is a thread's.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let place = File::open(format!("/run/netns/{}", self.name)).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(place.as_fd(), kind).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Gives an interface addresses and no hardware that computes checksums, and brings it up.
    fn set_up(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            self.ip(&format!("address add {address} dev {interface}"));
        }
        self.ip(&format!("link set {interface} up"));
        self.output("ethtool", &format!("-K {interface} tx off gro on"));
    }

    /// A counter of the namespace, as `/proc/net/snmp` names protocol and field.
    pub(crate) fn counter(&self, protocol: &str, field: &str) -> u64 {
        let text = self.within(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut fields = names.split_whitespace().zip(values.split_whitespace());
        fields.find(|(name, _)| *name == field).unwrap().1.parse().unwrap()
    }

    /// Writes below `net` of the namespace's sysctls.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.within(|| fs::write(format!("/proc/sys/net/{name}"), value)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("{error}");
        }
    }
}

/// Client, relay and peer, and what lies between them.
pub(crate) struct Topology {
    // Goes first: it holds on to interfaces of the namespaces below.
    bystander: Option<Mutex<Ebpf>>,
    /// Where clients run: 10.77.1.2 and fd77:1::2; also 10.77.1.9.
    pub(crate) client: Namespace,
    /// Where the relay runs.
    pub(crate) relay: Namespace,
    /// Where peers run: 10.77.2.2 and fd77:2::2; also 10.77.2.9.
    pub(crate) peer: Namespace,
    /// What is between them, if anything.
    pub(crate) routers: Vec<Namespace>,
}

const CLIENT: [&str; 3] = ["10.77.1.2/24", "10.77.1.9/24", "fd77:1::2/64"];
const CLIENTS: [&str; 3] = ["10.77.1.1/24", "10.77.1.3/24", "fd77:1::1/64"];
const PEER: [&str; 3] = ["10.77.2.2/24", "10.77.2.9/24", "fd77:2::2/64"];

impl Topology {
    /// The relay has one interface for clients (10.77.1.1, 10.77.1.3, fd77:1::1) and one for
    /// peers (10.77.2.1, 10.77.2.3, fd77:2::1). With `object`, the far ends have XDP programs.
    pub(crate) fn two_armed(object: Option<&Path>) -> Self {
        Self::with_queues(object, 1)
    }

    /// The same, and each end of the links has so many queues each way.
    pub(crate) fn two_armed_of(object: &Path, queues: u32) -> Self {
        Self::with_queues(Some(object), queues)
    }

    fn with_queues(object: Option<&Path>, queues: u32) -> Self {
        let (client, relay, peer) =
            (Namespace::new("client"), Namespace::new("relay"), Namespace::new("peer"));
        links((&relay, "clients"), (&client, "eth0"), queues);
        links((&relay, "peers"), (&peer, "eth0"), queues);
        relay.set_up("clients", &CLIENTS);
        relay.set_up("peers", &["10.77.2.1/24", "10.77.2.3/24", "fd77:2::1/64"]);
        client.set_up("eth0", &CLIENT);
        peer.set_up("eth0", &PEER);
        let far_ends = [(&client, "eth0"), (&peer, "eth0")];
        let bystander = object.map(|object| attach_bystander(object, &far_ends));
        Self { bystander, client, relay, peer, routers: Vec::new() }
    }

    /// Of [`Self::two_armed`]: makes a link between client and relay where there is none. The
    /// relay's end has another name for as long as `so_named` works.
    pub(crate) fn plug_in(&self, so_named: impl FnOnce(&str)) {
        link((&self.relay, "unnamed"), (&self.client, "eth0"));
        so_named("unnamed");
        self.relay.ip("link set unnamed name clients");
        self.relay.set_up("clients", &CLIENTS);
        self.client.set_up("eth0", &CLIENT);
        if let Some(bystander) = &self.bystander {
            let far_ends = [(&self.client, "eth0")];
            attach_to(program(&mut bystander.lock().unwrap()), &far_ends);
        }
    }

    /// Of [`Self::two_armed`]: the relay's interface for clients leaves the relay's namespace, and
    /// comes back without its addresses, which it is given again.
    pub(crate) fn send_around(&self) {
        self.relay.ip(&format!("link set clients netns {}", self.peer.name));
        self.peer.ip(&format!("link set clients netns {}", self.relay.name));
        self.relay.set_up("clients", &CLIENTS);
    }

    /// The relay has one interface (10.77.3.1, fd77:3::1) to a router; clients and peers are
    /// behind the router.
    pub(crate) fn behind_router(object: Option<&Path>) -> Self {
        let (client, relay, peer) =
            (Namespace::new("client"), Namespace::new("relay"), Namespace::new("peer"));
        let router = Namespace::new("router");
        router.set("ipv4/ip_forward", "1");
        router.set("ipv6/conf/all/forwarding", "1");
        link((&router, "clients"), (&client, "eth0"));
        link((&router, "peers"), (&peer, "eth0"));
        link((&router, "relay"), (&relay, "eth0"));
        router.set_up("clients", &["10.77.1.1/24", "fd77:1::1/64"]);
        router.set_up("peers", &["10.77.2.1/24", "fd77:2::1/64"]);
        router.set_up("relay", &["10.77.3.254/24", "fd77:3::fe/64"]);
        client.set_up("eth0", &CLIENT);
        peer.set_up("eth0", &PEER);
        relay.set_up("eth0", &["10.77.3.1/24", "fd77:3::1/64"]);
        for (namespace, net) in [(&client, 1), (&peer, 2)] {
            namespace.ip(&format!("route add default via 10.77.{net}.1"));
            namespace.ip(&format!("route add default via fd77:{net}::1"));
        }
        relay.ip("route add default via 10.77.3.254");
        relay.ip("route add default via fd77:3::fe");
        let far_ends = [(&router, "relay")];
        let bystander = object.map(|object| attach_bystander(object, &far_ends));
        Self { bystander, client, relay, peer, routers: vec![router] }
    }

    /// The relay has an interface for clients (10.77.1.1) and one to each of two routers (`way-a`,
    /// 10.77.4.1, and `way-b`, 10.77.5.1), which are 10.77.4.2 and 10.77.5.2 and lead to the peer.
    /// The relay's way to the peer is the first router, the peer's way back the second.
    pub(crate) fn two_gateways(object: &Path) -> Self {
        let (client, relay, peer) =
            (Namespace::new("client"), Namespace::new("relay"), Namespace::new("peer"));
        let routers = vec![Namespace::new("a"), Namespace::new("b")];
        link((&relay, "clients"), (&client, "eth0"));
        relay.set_up("clients", &["10.77.1.1/24"]);
        client.set_up("eth0", &CLIENT);
        for ((router, net), name) in routers.iter().zip([4, 5]).zip(["way-a", "way-b"]) {
            router.set("ipv4/ip_forward", "1");
            link((router, "relay"), (&relay, name));
            link((router, "peer"), (&peer, name));
            relay.set_up(name, &[&format!("10.77.{net}.1/24")]);
            router.set_up("relay", &[&format!("10.77.{net}.2/24")]);
            router.set_up("peer", &[&format!("10.77.1{net}.1/24")]);
            peer.set_up(name, &[&format!("10.77.1{net}.2/24")]);
            router.set("ipv4/conf/relay/arp_notify", "1");
            router.ip(&format!("route add 10.77.1.0/24 via 10.77.{net}.1"));
            router.ip(&format!("route add 10.77.2.0/24 via 10.77.1{net}.2"));
        }
        peer.ip("address add 10.77.2.2/32 dev lo");
        peer.ip("route add default via 10.77.15.1");
        relay.ip("route add 10.77.2.0/24 via 10.77.4.2");
        let far_ends = [(&client, "eth0"), (&routers[0], "relay"), (&routers[1], "relay")];
        let bystander = Some(attach_bystander(object, &far_ends));
        Self { bystander, client, relay, peer, routers }
    }
}

/// Whether this machine lets us make a namespace.
pub(crate) fn try_namespace() -> Result<(), String> {
    Namespace::make("try").map(drop)
}

/// Loads Turnpike's program without a configuration: it passes everything. What XDP sends out of
/// one end of a veth pair arrives only where the other end has an XDP program.
pub(crate) fn bystander(object: &Path) -> Result<Ebpf, Box<dyn Error>> {
    let bytes = fs::read(object)?;
    let mut loader = EbpfLoader::new();
    // Small: there is one for each end.
    let routes = [map::ROUTES_V4, map::ROUTES_V6, map::STRAIGHT_V4, map::STRAIGHT_V6];
    for name in routes.into_iter().chain([map::NEXT_HOPS, map::SLOTS]) {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(&bytes)?;
    program(&mut ebpf).load()?;
    Ok(ebpf)
}

fn attach_bystander(object: &Path, ends: &[(&Namespace, &str)]) -> Mutex<Ebpf> {
    let mut ebpf = bystander(object).unwrap();
    attach_to(program(&mut ebpf), ends);
    Mutex::new(ebpf)
}

/// Attaches a program in the driver.
pub(crate) fn attach_to(program: &mut Xdp, ends: &[(&Namespace, &str)]) {
    for (namespace, interface) in ends {
        namespace.within(|| program.attach(interface, XdpMode::Driver).map(drop)).unwrap();
    }
}

/// The program of a loaded object of Turnpike's.
pub(crate) fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap()
}

fn link(from: (&Namespace, &str), to: (&Namespace, &str)) {
    links(from, to, 1);
}

fn links((from, here): (&Namespace, &str), (to, there): (&Namespace, &str), queues: u32) {
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    let peer = format!("peer name {there} {queues} netns {}", to.name);
    from.ip(&format!("link add {here} {queues} type veth {peer}"));
}

/// Runs a program to its end; what it prints.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let shown = format!("{program} {}", args.join(" "));
    let output =
        Command::new(program).args(args).output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
