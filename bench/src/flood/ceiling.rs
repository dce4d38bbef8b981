//! `relay-bench reflect` and `relay-bench ceiling`: what generator, sink and the link between two
//! machines carry with nothing but a bare reflector at the far end. A flood's figure near its
//! ceiling says nothing of the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use relay_bench_ebpf::packet::Common;

use crate::cli::{EXIT_INTERRUPTED, EXIT_PARTIAL, EXIT_USAGE};
use crate::flood::findings::{Asked, Control, Findings, Name};
use crate::flood::forge::Make;
use crate::flood::kernel::{Attached, Sink};
use crate::flood::place::Place;
use crate::flood::report::Report;
use crate::flood::run::{Ends, Stopped};
use crate::flood::shape::{Shape, parse_mac};
use crate::host;
use crate::turn::framing::channel;

/// Ports that clients of one host have, from [`FIRST_PORT`] on; more flows come from the next host.
const PORTS_PER_HOST: u32 = 60_000;
const FIRST_PORT: u16 = 1024;
/// Where the flows seem to go, and below where from: the block for benchmarks (RFC 2544). The
/// packets go one link and back, and are addressed by MAC.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)), 3478);
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// Bytes of headers around a payload: IPv4, UDP, ChannelData.
const HEADERS: u64 = 32;

/// The client of a flow.
fn client(number: u32) -> SocketAddr {
    let host = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + number / PORTS_PER_HOST);
    let above = u16::try_from(number % PORTS_PER_HOST).expect("fewer than ports");
    SocketAddr::new(IpAddr::V4(host), FIRST_PORT + above)
}

#[derive(Debug, Args)]
pub(crate) struct Reflect {
    /// The interface to send everything back on that comes in by it.
    #[arg(long, value_name = "IF")]
    interface: String,
    /// The interface's network namespace, by name.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

impl Reflect {
    /// Reflects until Ctrl-C.
    ///
    /// # Errors
    /// The program cannot be attached.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let place = Place::new(self.netns.clone());
        let interface = place.interface(&self.interface)?;
        let _attached = Attached::reflector(&place, &interface)?;
        let [a, b, c, d, e, f] = interface.mac;
        println!(
            "reflecting on {} ({}), --mac {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}: the \
             interface carries nothing else until Ctrl-C",
            interface.name, interface.driver
        );
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Ceiling {
    /// The interface to send and to receive on.
    #[arg(long, value_name = "IF")]
    interface: String,
    /// The interface's network namespace, by name.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// The MAC address of the interface that reflects: `relay-bench reflect` prints it.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    mac: [u8; 6],
    #[command(flatten)]
    shape: Shape,
}

impl Ceiling {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// The run cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let place = Place::new(self.netns.clone());
        let interface = place.interface(&self.interface)?;
        let checked = self.shape.check();
        if let Err(unusable) = checked.and_then(|()| self.shape.check_mtu(interface.mtu, HEADERS)) {
            eprintln!("relay-bench: {unusable}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        let flow = |number| {
            let client = client(number);
            Ends { sent: (client, SERVER), seen: (client, SERVER) }
        };
        let flows: Vec<Ends> = (0..self.shape.allocations.get()).map(flow).collect();
        let names: Vec<Name> = flows
            .iter()
            .map(|ends| Name { client: ends.sent.0.to_string(), relayed: None })
            .collect();
        let mut sink = Sink::attach(Make::Full, &place, &interface, self.shape.allocations.get())?;
        let way = (self.mac, Some(channel()), true, Common::Destination);
        let flood = self.shape.flood(&place, &interface, flows, interface.mac, way)?;
        let bar = self.shape.bar();
        let measured = flood
            .run(&mut sink, &stop, &bar, || {
                thread::sleep(Duration::from_millis(50));
                true
            })
            .context("the ceiling cannot be measured")?;
        bar.finish_and_clear();
        let (ending, code) = match measured.stopped {
            Stopped::Done | Stopped::Beside => (("completed", "completed"), None),
            Stopped::Interrupted => (
                ("interrupted", "interrupted: the figures are of the part that ran"),
                Some(EXIT_INTERRUPTED),
            ),
            Stopped::Stalled => (
                (
                    "nothing_reflected",
                    "nothing comes back: is `relay-bench reflect` running on the interface with \
                     that MAC address, at the other end of this link?",
                ),
                Some(EXIT_PARTIAL),
            ),
        };
        let report = Report::new(Findings {
            asked: Asked { server: "a bare reflector".to_owned(), ..self.shape.asked() },
            ending: (ending.0, ending.1.to_owned()),
            control: Control::default(),
            sink_queues: place.receive_queues(&interface.name),
            interfaces: Some((interface.clone(), interface)),
            measured: Some(&measured),
            names: &names,
            max_loss: self.shape.max_loss,
            per_flow: self.shape.per_flow(),
        });
        self.shape.publish(&report)?;
        match code {
            None => Ok(self.shape.verdict(&report)),
            Some(code) => {
                eprintln!("relay-bench: {}", ending.1);
                Ok(ExitCode::from(code))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_own_client() {
        let clients: std::collections::HashSet<_> = (0..65_535).map(client).collect();
        assert_eq!(clients.len(), 65_535);
        assert_eq!(client(59_999), "198.18.1.1:61023".parse().unwrap());
        assert_eq!(client(60_000), "198.18.1.2:1024".parse().unwrap());
    }
}
