//! Network namespaces, the links between them, and the XDP programs on the links' far ends.

use std::fs::File;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, panic, thread};

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use relay_bench_ebpf::program;
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::embedded;

/// A network namespace with loopback up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose name tells the process and the role.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn make(role: &str) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-bench-{}-{count}-{role}", process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        run("ip", &["-n", &namespace.name, "link", "set", "lo", "up"])?;
        // Without duplicate address detection: an interface that has just come up cannot ask for
        // neighbours until its link-local address has passed it, a second or two later.
        namespace.set("ipv6/conf/all/accept_dad", "0");
        namespace.set("ipv6/conf/default/accept_dad", "0");
        Ok(namespace)
    }

    /// As `ip netns` knows it, for `--netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` with these words, in the namespace; what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split(' '));
        run("ip", &args).unwrap()
    }

    /// A program with these words, in the namespace; what it prints.
    pub(crate) fn output(&self, program: &str, words: &str) -> String {
        self.try_output(program, words).unwrap()
    }

    /// As [`Namespace::output`].
    ///
    /// # Errors
    /// The program cannot be run, or fails: what it says.
    pub(crate) fn try_output(&self, program: &str, words: &str) -> Result<String, String> {
        let args: Vec<&str> = words.split(' ').collect();
        self.within(|| run(program, &args))
    }

    /// Works in the namespace: on a thread of its own, because a namespace is a thread's. A
    /// process that is started there stays there.
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
    pub(crate) fn set_up(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            self.ip(&format!("address add {address} dev {interface}"));
        }
        self.ip(&format!("link set {interface} up"));
        self.output("ethtool", &format!("-K {interface} tx off gro on"));
    }

    /// Writes below `net` of the namespace's sysctls.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.within(|| fs::write(format!("/proc/sys/net/{name}"), value)).unwrap();
    }

    /// Makes a pair of interfaces, one here and one in another namespace; both are still down.
    pub(crate) fn link(&self, here: &str, to: &Self, there: &str) {
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", to.name));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("{error}");
        }
    }
}

/// Client, relay and peer, and what lies between them:
///
/// ```text
/// client eth0 ───────── clients relay peers ───────── eth0 peer
/// 10.77.1.2     10.77.1.1           10.77.2.1     10.77.2.2
/// fd77:1::2      fd77:1::1           fd77:2::1      fd77:2::2
/// ```
///
/// All interfaces compute their checksums themselves. There is no route between the two nets.
pub(crate) struct Lab {
    // Goes first: it holds on to interfaces of the namespaces below.
    _bystander: Option<Ebpf>,
    /// Where clients run.
    pub(crate) client: Namespace,
    /// Where the relay runs.
    pub(crate) relay: Namespace,
    /// Where peers run.
    pub(crate) peer: Namespace,
}

/// What the interfaces of client and peer do with frames before the network stack has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FarEnds {
    /// Nothing. Frames that XDP sends back out of the link's other end may not arrive.
    Plain,
    /// An XDP program passes every frame: what XDP sends out of the other end arrives.
    Pass,
}

impl Lab {
    /// With plain far ends: for relays in userspace, and for whoever attaches programs to the
    /// far ends.
    pub(crate) fn plain() -> Self {
        Self::make(FarEnds::Plain)
    }

    /// With an XDP program that passes everything on the interfaces of client and peer.
    pub(crate) fn for_xdp() -> Self {
        Self::make(FarEnds::Pass)
    }

    fn make(far_ends: FarEnds) -> Self {
        let [client, relay, peer] =
            ["client", "relay", "peer"].map(|role| Namespace::make(role).unwrap());
        relay.link("clients", &client, "eth0");
        relay.link("peers", &peer, "eth0");
        relay.set_up("clients", &["10.77.1.1/24", "fd77:1::1/64"]);
        relay.set_up("peers", &["10.77.2.1/24", "fd77:2::1/64"]);
        client.set_up("eth0", &["10.77.1.2/24", "fd77:1::2/64"]);
        peer.set_up("eth0", &["10.77.2.2/24", "fd77:2::2/64"]);
        let bystander = (far_ends == FarEnds::Pass).then(|| {
            let mut ebpf = load_bystander().unwrap();
            for namespace in [&client, &peer] {
                let program = empty(&mut ebpf);
                namespace.within(|| program.attach("eth0", XdpMode::Driver).map(drop)).unwrap();
            }
            ebpf
        });
        Self { _bystander: bystander, client, relay, peer }
    }
}

/// Loads the program that passes every frame.
///
/// # Errors
/// It is not embedded, or the kernel does not take it.
pub(super) fn load_bystander() -> Result<Ebpf, String> {
    let object = embedded::TOOL.ok_or("RELAY_BENCH_XDP_OBJECT named no object at build")?;
    // The ELF parser wants it aligned, and a constant of bytes is not.
    let object = object.to_vec();
    let mut ebpf = Ebpf::load(&object).map_err(|error| error.to_string())?;
    empty(&mut ebpf).load().map_err(|error| format!("no BPF here: {error}"))?;
    Ok(ebpf)
}

fn empty(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(program::EMPTY).unwrap().try_into().unwrap()
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
