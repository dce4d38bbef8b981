//! `relay-bench check`: what a client sees of a server, in plain words, and what to do about it.
//! Owns its command line, the order of the checks, and the exit code.

mod finding;
mod line;
mod login;
mod measured;
mod message;
mod mtu;
mod nat;
mod path;
mod probe;
mod reach;
mod scope;
mod session;
pub(crate) mod watch;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::check::finding::{Finding, Findings, Verdict};
use crate::check::line::Line;
use crate::check::login::Origin;
use crate::check::measured::Measured;
use crate::check::path::{OwnUdp, Path};
use crate::check::probe::Probe;
use crate::check::reach::{Reached, Role};
use crate::check::session::Session;
use crate::check::watch::{Trouble, Watch};
use crate::cli::{EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, ServerArgs};
use crate::clock::{Clock, MILLISECOND_NS};
use crate::host::{self, Host};
use crate::turn::transport::{LinkSetup, Transport};

/// Server addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// In the order of preference among those that work.
const TRANSPORTS: [Transport; 4] =
    [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];

/// The exit codes, for the end of the help text.
pub(crate) const CHECK_EXIT_CODES: &str = "\
Exit codes: 0 nothing is wrong; 1 something is (✗); 2 wrong usage; 3 set-up failed; 4 this host \
failed midway; 130 Ctrl-C.";

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    server: ServerArgs,
    /// How long one answer is waited for, milliseconds.
    #[arg(long, value_name = "MS", default_value = "3000")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=60_000))]
    wait: u64,
    /// Try only the transport of the target.
    #[arg(long)]
    only: bool,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Asked {
    command: String,
    target: String,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    tool: &'static str,
    host: Host,
    asked: Asked,
    ending: &'static str,
    ok: bool,
    findings: &'a [Finding],
    measured: &'a Measured,
}

impl Check {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// It cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        self.try_files()?;
        let watch = Watch {
            clock: Clock::start(),
            wait_ns: self.wait * MILLISECOND_NS,
            rto_ns: self.server.rto_ns(),
            stop: host::stop_on_signals(EXIT_INTERRUPTED)?,
        };
        // A reader who has gone leaves the JSON document and the exit code.
        let _ = writeln!(io::stdout(), "{}: {}", TOOL, host::command_line());
        let (mut findings, mut measured) = (Findings::default(), Measured::default());
        let result = self.examine(&watch, &mut findings, &mut measured);
        let interrupted =
            |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Trouble::Interrupted));
        let wrong = findings.count(Verdict::Wrong);
        let (ending, code) = match &result {
            Err(error) if interrupted(error) => ("interrupted", EXIT_INTERRUPTED),
            Err(_) => ("host_failed", EXIT_PARTIAL),
            Ok(()) if wrong > 0 => ("completed", EXIT_LIMIT),
            Ok(()) => ("completed", 0),
        };
        if let Some(path) = &self.json {
            let document = self.document(ending, &findings, &measured);
            let text = serde_json::to_string_pretty(&document)?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        match result {
            Err(error) => eprintln!("relay-bench: {error:#}"),
            Ok(()) => {
                let suspect = findings.count(Verdict::Suspect);
                let _ = writeln!(io::stdout(), "{wrong} wrong, {suspect} to look at");
            }
        }
        Ok(ExitCode::from(code))
    }

    /// What cannot be read or written shows before the first finding.
    fn try_files(&self) -> anyhow::Result<()> {
        // Whom to trust depends on the target's host, not on its address.
        self.server.links(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        if let Some(path) = &self.json {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write {} (--json)", path.display()))?;
        }
        Ok(())
    }

    fn document<'a>(
        &self,
        ending: &'static str,
        findings: &'a Findings,
        measured: &'a Measured,
    ) -> Document<'a> {
        let asked = Asked { command: host::command_line(), target: self.server.target.to_string() };
        Document {
            tool: TOOL,
            host: Host::here(),
            asked,
            ending,
            ok: ending == "completed" && findings.count(Verdict::Wrong) == 0,
            findings: findings.list(),
            measured,
        }
    }

    fn examine(
        &self,
        watch: &Watch,
        findings: &mut Findings,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let Some(addresses) = self.resolve(findings)? else { return Ok(()) };
        measured.addresses.clone_from(&addresses);
        let reached = self.reach(&addresses, watch, findings, measured)?;
        let asked = |it: &&Reached| it.transport == self.server.target.transport();
        let Some(best) = reached.iter().find(asked).or(reached.first()) else { return Ok(()) };
        let udp = reached.iter().find(|it| it.transport == Transport::Udp);
        (measured.local, measured.reflexive) = (Some(best.local), best.reflexive);
        reach::judge_reflexive(best, findings);
        let udp_server = udp.map(|it| it.server);
        let hint = match self.relay(best, udp_server, watch, findings, measured) {
            Ok(hint) => hint,
            Err(error) => {
                blame_server(error, findings)?;
                None
            }
        };
        let Some(udp) = udp else {
            findings.note("nat", "not tested, like the MTU: the server is not reached over UDP");
            return Ok(());
        };
        let open = || Probe::open(udp.local.ip(), watch);
        nat::examine(open, udp.server, hint, measured, findings)?;
        mtu::examine(&open()?, udp.server, udp.rtt, watch, measured, findings)
    }

    fn resolve(&self, findings: &mut Findings) -> anyhow::Result<Option<Vec<SocketAddr>>> {
        let target = &self.server.target;
        let mut addresses = match target.resolve_all(self.server.wanted_family()) {
            Ok(addresses) => addresses,
            Err(error) => {
                findings.wrong(
                    "resolve",
                    format!("{} has no address: {error}", target.host()),
                    "correct the name or its DNS records (A, AAAA); --family may exclude it",
                );
                return Ok(None);
            }
        };
        let shown: Vec<_> = addresses.iter().map(|addr| addr.ip().to_string()).collect();
        findings.fine("resolve", format!("{} is {}", target.host(), shown.join(", ")));
        addresses.truncate(ADDRESSES_MAX);
        Ok(Some(addresses))
    }

    fn reach(
        &self,
        addresses: &[SocketAddr],
        watch: &Watch,
        findings: &mut Findings,
        measured: &mut Measured,
    ) -> anyhow::Result<Vec<Reached>> {
        let asked = self.server.target.transport();
        let mut reached = Vec::new();
        for transport in TRANSPORTS {
            let role = if transport == asked { Role::Asked } else { Role::Other };
            if role == Role::Other && self.only {
                continue;
            }
            for address in addresses {
                let server = self.server.target.server_for(*address, transport);
                let setup = match self.server.link_to(server, transport) {
                    Ok(setup) => setup,
                    Err(error) if role == Role::Other => {
                        findings.note("transports", format!("{transport} not tried: {error}"));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let way = (server, transport);
                let (way, this) = reach::try_way(&setup, way, role, watch, findings)?;
                measured.transports.push(way);
                reached.extend(this);
            }
        }
        let over_stream = reached.iter().any(|it| it.transport.is_stream());
        if !self.only && !reached.is_empty() && !over_stream {
            findings.suspect(
                "transports",
                "the server is reached neither over TCP nor over TLS",
                "clients in networks that block UDP cannot use it; offer TLS, best on port 443",
            );
        }
        Ok(reached)
    }

    /// Credentials, the relayed address, and the way through the relay.
    fn relay(
        &self,
        best: &Reached,
        udp_server: Option<SocketAddr>,
        watch: &Watch,
        findings: &mut Findings,
        measured: &mut Measured,
    ) -> anyhow::Result<Option<nat::Hint>> {
        let setup: LinkSetup = self.server.link_to(best.server, best.transport)?;
        let line = Line::open(&setup, best.transport, watch)?;
        let mut session = Session::new(line, self.server.credentials(0));
        let origin = if self.server.mints() { Origin::Minted } else { Origin::Given };
        let answer = login::log_in(&mut session, best.server, origin, findings)?;
        let Some(answer) = answer else { return Ok(None) };
        login::judge_relayed(&answer, best.server, findings);
        measured.relayed = answer.relayed();
        measured.lifetime_secs = answer.lifetime_secs();
        // What is wrong with another one is said above, and nothing can be sent to it.
        let usable = answer.relayed().filter(|relayed| login::is_usable(*relayed, best.server));
        let hint = match usable {
            Some(relayed) => {
                through(&mut session, relayed, best, udp_server, watch, findings, measured)
            }
            None => Ok(None),
        };
        // Whatever happened: the server need not keep what nobody uses.
        if !session.release() {
            findings.suspect(
                "refresh",
                "the server did not confirm the deletion of the allocation",
                "it stays until its lifetime ends; read the server's log",
            );
        }
        hint
    }
}

const TOOL: &str = concat!("relay-bench ", env!("CARGO_PKG_VERSION"));

/// Takes what went wrong behind the first answers as a finding about the server.
///
/// # Errors
/// It is not the server's fault: the user asked for the end, or this host failed.
fn blame_server(error: anyhow::Error, findings: &mut Findings) -> anyhow::Result<()> {
    let trouble = match error.downcast()? {
        trouble @ (Trouble::Interrupted | Trouble::Host(_)) => return Err(trouble.into()),
        trouble @ (Trouble::Silence { .. } | Trouble::Unreachable | Trouble::Link(_)) => trouble,
    };
    findings.wrong(
        "data",
        format!("the server answered at first, and then no more: {trouble}"),
        "it broke down, or it or something on the way ended the conversation: read its log",
    );
    Ok(())
}

/// Packets between the allocation and a second socket of this host.
fn through(
    session: &mut Session,
    relayed: SocketAddr,
    best: &Reached,
    udp_server: Option<SocketAddr>,
    watch: &Watch,
    findings: &mut Findings,
    measured: &mut Measured,
) -> anyhow::Result<Option<nat::Hint>> {
    let probe = Probe::open(best.local.ip(), watch)?;
    let (by_server, own_udp) = match (udp_server, best.reflexive) {
        (Some(server), _) => (path::reflexive(&probe, server)?, OwnUdp::Works),
        // Nobody says how the peer's port is seen: the permission needs only the address.
        (None, Some(reflexive)) => {
            let peer = SocketAddr::new(reflexive.ip(), probe.local()?.port());
            (Some(peer), OwnUdp::Unknown)
        }
        (None, None) => (None, OwnUdp::Unknown),
    };
    let Some(by_server) = by_server else { return Ok(None) };
    let mut path = Path::new(session, probe, relayed, own_udp, watch)?;
    let by_relayed = path.examine(by_server, measured, findings)?;
    let hint = |by_relayed| nat::Hint { by_server, by_relayed, relayed };
    Ok(by_relayed.filter(|_| udp_server.is_some()).map(hint))
}
