//! `relay-bench flood`: packets made in the kernel, through real allocations, at rates that no
//! socket carries. Owns its command line, the order of its set-up, and its exit code.

pub(crate) mod ceiling;
pub(crate) mod clients;
mod ending;
mod findings;
pub(crate) mod forge;
pub(crate) mod kernel;
pub(crate) mod place;
mod report;
pub(crate) mod run;
mod shape;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use relay_bench_ebpf::packet::Common;
use relay_common::addr::PeerAddr;

use crate::cli::{EXIT_INTERRUPTED, EXIT_USAGE, ServerArgs};
use crate::clock::{Clock, MILLISECOND_NS};
use crate::flood::clients::{Addresses, Clients, Trouble};
use crate::flood::ending::Ending;
use crate::flood::findings::{Asked, Control, Findings, Name};
use crate::flood::forge::Make;
use crate::flood::kernel::{Attached, Sink};
use crate::flood::place::{Interface, Place};
use crate::flood::report::Report;
use crate::flood::run::{Ends, Flood, Measured, Stopped};
use crate::flood::shape::{Shape, Unusable, parse_mac};
use crate::host;
use crate::turn::client::{ClientSetup, Stage};
use crate::turn::framing::{Framing, channel};
use crate::turn::transport::Transport;

/// Bytes of headers around a payload at most: IPv6, UDP, ChannelData.
const HEADER_BYTES_MAX: u64 = 52;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Direction {
    /// ChannelData from the clients; the sink is at the peer.
    ToPeer,
    /// UDP from the peer to the relayed addresses; the sink is at the clients.
    ToClient,
}

#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    shape: Shape,
    /// Which way the packets go.
    #[arg(long, value_enum, default_value = "to-peer")]
    direction: Direction,
    /// The clients' interface [default: the one that the route to the server names].
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// The peer's interface [default: the one with the peer's address].
    #[arg(long, value_name = "IF")]
    peer_interface: Option<String>,
    /// The network namespace of the clients, by name.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// The network namespace of the peer [default: the clients'].
    #[arg(long, value_name = "NAME")]
    peer_netns: Option<String>,
    /// The peer's address [default: the first one of the peer's interface, or the clients' own].
    #[arg(long, value_name = "IP")]
    peer_address: Option<IpAddr>,
    /// The peer's port.
    #[arg(long, value_name = "PORT", default_value = "9000")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    peer_port: u16,
    /// The next hop's MAC address [default: from the neighbour table].
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    gateway_mac: Option<[u8; 6]>,
}

/// Where everything is.
struct Rig {
    clients: Place,
    peers: Place,
    client_interface: Interface,
    peer_interface: Interface,
    peer: SocketAddr,
}

/// What a run found out, besides what was measured.
#[derive(Debug)]
struct Outcome {
    ending: Ending,
    control: Control,
    addresses: Vec<Addresses>,
    measured: Option<Measured>,
}

impl FloodArgs {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The run cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        if let Err(unusable) = self.check() {
            return Ok(misused(&unusable));
        }
        host::raise_file_limit();
        let rig = self.rig()?;
        let mtu = rig.client_interface.mtu.min(rig.peer_interface.mtu);
        if let Err(unusable) = self.shape.check_mtu(mtu, HEADER_BYTES_MAX) {
            return Ok(misused(&unusable));
        }
        let outcome = self.flood(&rig, &stop)?;
        let name = |addresses: &Addresses| Name {
            client: addresses.client.to_string(),
            relayed: Some(addresses.relayed.to_string()),
        };
        let names: Vec<Name> = outcome.addresses.iter().map(name).collect();
        let (from, at) = self.ends_of(&rig);
        let report = Report::new(Findings {
            asked: self.asked(&rig)?,
            ending: (outcome.ending.name(), outcome.ending.to_string()),
            control: outcome.control,
            interfaces: Some((from.1.clone(), at.1.clone())),
            sink_queues: at.0.receive_queues(&at.1.name),
            measured: outcome.measured.as_ref(),
            names: &names,
            max_loss: self.shape.max_loss,
            per_flow: self.shape.per_flow(),
        });
        self.shape.publish(&report)?;
        match outcome.ending.code() {
            None => Ok(self.shape.verdict(&report)),
            Some(code) => {
                eprintln!("relay-bench: {}", outcome.ending);
                Ok(ExitCode::from(code))
            }
        }
    }

    /// Whether the arguments make sense together.
    fn check(&self) -> Result<(), Unusable> {
        if self.server.target.transport() != Transport::Udp {
            return Err(Unusable::NotUdp);
        }
        self.shape.check()
    }

    fn rig(&self) -> anyhow::Result<Rig> {
        let clients = Place::new(self.netns.clone());
        let peers = Place::new(self.peer_netns.clone().or_else(|| self.netns.clone()));
        let server = clients.within(|| self.server.resolve())?;
        let client_interface = match &self.interface {
            Some(name) => name.clone(),
            None => clients.next_hop(server.ip())?.interface,
        };
        let peer = match (self.peer_address, &self.peer_interface) {
            (Some(address), _) => address,
            (None, Some(interface)) => peers.address_of(interface, server)?,
            (None, None) => clients.within(|| host::address_towards(server))?,
        };
        anyhow::ensure!(
            peer.is_ipv4() == server.is_ipv4(),
            "the peer {peer} is not of the server's family: flood goes through one family"
        );
        let peer_interface = match &self.peer_interface {
            Some(name) => name.clone(),
            None => peers.interface_of(peer).context("where is the peer? (--peer-interface)")?,
        };
        Ok(Rig {
            client_interface: clients.interface(&client_interface)?,
            peer_interface: peers.interface(&peer_interface)?,
            clients,
            peers,
            peer: SocketAddr::new(peer, self.peer_port),
        })
    }

    /// Where the generator sends, and where the sink is.
    fn ends_of<'a>(
        &self,
        rig: &'a Rig,
    ) -> ((&'a Place, &'a Interface), (&'a Place, &'a Interface)) {
        let client = (&rig.clients, &rig.client_interface);
        let peer = (&rig.peers, &rig.peer_interface);
        match self.direction {
            Direction::ToPeer => (client, peer),
            Direction::ToClient => (peer, client),
        }
    }

    fn flood(&self, rig: &Rig, stop: &AtomicBool) -> anyhow::Result<Outcome> {
        let server = rig.clients.within(|| self.server.resolve())?;
        let ((from_place, from), (at_place, at)) = self.ends_of(rig);
        let mut sink = Sink::attach(Make::Full, at_place, at, self.shape.allocations.get())?;
        let one_interface = (from_place, from.index) == (at_place, at.index);
        // The generator's end too: its veth sends and takes frames only where XDP runs.
        let _empty = if one_interface { None } else { Attached::empty(from_place, from)? };
        let setup = Arc::new(ClientSetup {
            credentials: self.server.credentials(self.shape.duration.get().into()),
            peer: PeerAddr::new(rig.peer),
            framing: Framing::Channel,
            transport: Transport::Udp,
            rto_ns: self.server.rto_ns(),
        });
        // Nothing of the flood reaches this socket; it keeps the peer from saying that its port
        // is closed, and tries the way.
        let peer = rig.peers.within(|| {
            let socket = UdpSocket::bind(rig.peer)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let peer = peer.with_context(|| {
            format!("cannot be the peer {} (--peer-address, --peer-port, --peer-netns)", rig.peer)
        })?;
        let count = self.shape.allocations.get();
        let mut clients = rig.clients.within(|| Ok(Clients::open(setup, server, count)?)).context(
            "cannot open a socket for each allocation: see ulimit -n and \
                 net.ipv4.ip_local_port_range",
        )?;
        let mut outcome = Outcome {
            ending: Ending::Completed,
            control: Control::default(),
            addresses: Vec::new(),
            measured: None,
        };
        let done = self.through(rig, &mut sink, &mut clients, (server, &peer), stop, &mut outcome);
        clients.release();
        let (made, deleted) = clients.made_and_deleted();
        outcome.control.allocations_made = made;
        outcome.control.allocations_deleted = deleted;
        done?;
        // What is answered by nobody at the end was not lost by the relay's choice.
        let silent = made > 0 && deleted == 0;
        if silent && matches!(outcome.ending, Ending::Completed | Ending::NothingRelayed) {
            outcome.ending = Ending::ServerGone;
        }
        Ok(outcome)
    }

    /// From the first Allocate to the last packet.
    fn through(
        &self,
        rig: &Rig,
        sink: &mut Sink,
        clients: &mut Clients,
        (server, peer): (SocketAddr, &UdpSocket),
        stop: &AtomicBool,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let stopped = || stop.load(Ordering::Relaxed);
        let bar = self.shape.bar();
        let clock = Clock::start();
        let set_up = clients.set_up(stopped, |ready| {
            bar.set_length(self.shape.allocations.get().into());
            bar.set_position(ready);
            bar.set_message("allocations ready");
        });
        outcome.control.setup_ms = clock.now() / MILLISECOND_NS;
        outcome.control.allocations_ready = clients.count(Stage::Ready) as u64;
        let tried = match set_up {
            Ok(()) if stopped() => Ok(true),
            Ok(()) => clients.try_the_way(peer, stopped),
            Err(trouble) => Err(trouble),
        };
        match tried {
            Ok(_) if stopped() => {
                outcome.ending = Ending::Interrupted;
                return Ok(());
            }
            Ok(true) => {}
            Ok(false) => {
                outcome.ending = Ending::PeerUnreached;
                return Ok(());
            }
            Err(Trouble::Turn { allocation, failure }) => {
                outcome.ending = Ending::NotSetUp(allocation, failure);
                return Ok(());
            }
            Err(Trouble::Io(error)) => return Err(error).context("a client's socket"),
        }
        outcome.addresses = clients.addresses().context("a client's socket has no address")?;
        let flood = self.prepare(rig, server, &outcome.addresses)?;
        let mut trouble = None;
        let measured = flood.run(sink, stop, &bar, || {
            if trouble.is_none() {
                trouble = clients.step().err();
            }
            trouble.is_none()
        })?;
        bar.finish_and_clear();
        outcome.ending = match (measured.stopped, trouble) {
            (_, Some(Trouble::Turn { allocation, failure })) => {
                Ending::AllocationLost(allocation, failure)
            }
            (_, Some(Trouble::Io(error))) => return Err(error).context("a client's socket"),
            (Stopped::Interrupted, None) => Ending::Interrupted,
            (Stopped::Stalled, None) => Ending::NothingRelayed,
            (Stopped::Done | Stopped::Beside, None) => Ending::Completed,
        };
        outcome.measured = Some(measured);
        Ok(())
    }

    /// The flood through these allocations.
    fn prepare(
        &self,
        rig: &Rig,
        server: SocketAddr,
        allocations: &[Addresses],
    ) -> anyhow::Result<Flood> {
        let ((place, interface), (_, at)) = self.ends_of(rig);
        let peer = rig.peer;
        let flow = |&Addresses { client, relayed }: &Addresses| match self.direction {
            Direction::ToPeer => Ends { sent: (client, server), seen: (relayed, peer) },
            Direction::ToClient => Ends { sent: (peer, relayed), seen: (server, client) },
        };
        let flows: Vec<Ends> = allocations.iter().map(flow).collect();
        let same_family = |ends: &Ends| ends.sent.0.is_ipv4() == ends.sent.1.is_ipv4();
        anyhow::ensure!(
            flows.iter().all(same_family),
            "the server gave a relayed address of another family than the peer's"
        );
        let towards = flows.first().context("no allocation")?.sent.1.ip();
        let hop = place.next_hop(towards)?;
        anyhow::ensure!(
            hop.interface == interface.name,
            "packets to {towards} leave by {}, not by {}: name that one (--interface, \
             --peer-interface)",
            hop.interface,
            interface.name
        );
        let dst_mac = self.gateway_mac.or(hop.mac).with_context(|| {
            format!("the neighbour table has no MAC address on the way to {towards}: --gateway-mac")
        })?;
        let (channel, framed, common) = match self.direction {
            Direction::ToPeer => (Some(channel()), false, Common::Destination),
            Direction::ToClient => (None, true, Common::Source),
        };
        self.shape.flood(place, interface, flows, at.mac, (dst_mac, channel, framed, common))
    }

    fn asked(&self, rig: &Rig) -> anyhow::Result<Asked> {
        Ok(Asked {
            server: rig.clients.within(|| self.server.resolve())?.to_string(),
            peer: Some(rig.peer.to_string()),
            direction: match self.direction {
                Direction::ToPeer => "to-peer",
                Direction::ToClient => "to-client",
            },
            ..self.shape.asked()
        })
    }
}

/// Says what makes no sense; the exit code.
fn misused(unusable: &Unusable) -> ExitCode {
    eprintln!("relay-bench: {unusable}");
    ExitCode::from(EXIT_USAGE)
}
