//! `relay-bench conform`: asks any TURN server, from outside and over UDP, whether it keeps the
//! sentences of RFC 8489, RFC 8656 and their companions, one case each.
//! Owns the command line, the order of the cases and the exit code; the cases are by section.

mod case;
mod report;
mod s5780;
mod s7635;
mod s8016;
mod s8489_06_basic;
mod s8489_09_algorithms;
mod s8489_09_credentials;
mod s8656_05_general;
mod s8656_07_allocate;
mod s8656_07_families;
mod s8656_08_refresh;
mod s8656_10_create_permission;
mod s8656_11_indications;
mod s8656_12_channels;
mod s8656_18_attributes;
pub(crate) mod table;
mod user;
mod wire;
mod world;

use std::cell::{Cell, OnceCell, RefCell};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::check::watch::{Trouble, Watch};
use crate::cli::{EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_PARTIAL, EXIT_USAGE, ServerArgs};
use crate::clock::{Clock, MILLISECOND_NS};
use crate::conform::case::{Case, Verdict};
use crate::conform::report::Report;
use crate::conform::user::{User, any_port};
use crate::conform::wire::{Answer, kind, method};
use crate::conform::world::World;
use crate::host;
use crate::turn::credentials::Credentials;
use crate::turn::transport::Transport;

/// The exit codes, for the end of the help text.
pub(crate) const CONFORM_EXIT_CODES: &str = "\
Exit codes: 0 no MUST fails; 1 one does; 2 wrong usage; 3 the server does not answer, or does not \
know the user; 4 this host failed midway; 130 Ctrl-C.";

/// All cases, by file.
const FILES: &[&[Case]] = &[
    s5780::CASES,
    s7635::CASES,
    s8016::CASES,
    s8489_06_basic::CASES,
    s8489_09_credentials::CASES,
    s8489_09_algorithms::CASES,
    s8656_05_general::CASES,
    s8656_07_allocate::CASES,
    s8656_07_families::CASES,
    s8656_08_refresh::CASES,
    s8656_10_create_permission::CASES,
    s8656_11_indications::CASES,
    s8656_12_channels::CASES,
    s8656_18_attributes::CASES,
];
/// How long credentials made from a secret have to last, seconds.
const RUN_SECS_MAX: u64 = 3600;

#[derive(Debug, Args)]
pub(crate) struct Conform {
    #[command(flatten)]
    server: ServerArgs,
    /// Another user, for what belongs to one user only; with --secret there is one anyway.
    #[arg(long, value_name = "USER", requires = "other_password")]
    other_user: Option<String>,
    /// The other user's password.
    #[arg(long, value_name = "PASSWORD", env = "RELAY_BENCH_OTHER_PASSWORD")]
    #[arg(hide_env_values = true, requires = "other_user")]
    other_password: Option<String>,
    /// An IPv4 address of this host that the server reaches as a peer [default: the one that
    /// faces the server, if nothing translates it].
    #[arg(long, value_name = "IP")]
    peer: Option<std::net::Ipv4Addr>,
    /// An IPv6 address of this host that the server reaches as a peer.
    #[arg(long, value_name = "IP")]
    peer6: Option<std::net::Ipv6Addr>,
    /// How many allocations the server lets the user have: one more is tried. Best alone, with
    /// --only 8656-7.2-quota: some servers count what is deleted for a while.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    quota: Option<u32>,
    /// Only these: 8656, 8656-7, 8656-7.2, 8656-7.2-quota; may be given again.
    #[arg(long, value_name = "SECTION|ID")]
    only: Vec<String>,
    /// The cases that take minutes too: a permission's 5, a channel's 15.
    #[arg(long)]
    slow: bool,
    /// Say what there is, and ask nobody.
    #[arg(long)]
    list: bool,
    /// How long one answer is waited for, milliseconds.
    #[arg(long, value_name = "MS", default_value = "3000")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=60_000))]
    wait: u64,
    /// Write the result here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Conform {
    /// Runs it and says how to exit.
    ///
    /// # Errors
    /// It cannot begin.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let cases = match self.cases() {
            Ok(cases) => cases,
            Err(error) => {
                eprintln!("relay-bench: {error}");
                return Ok(ExitCode::from(EXIT_USAGE));
            }
        };
        if self.list {
            report::list(&cases);
            return Ok(ExitCode::SUCCESS);
        }
        if self.server.target.transport() != Transport::Udp {
            eprintln!("relay-bench: conform asks over UDP: turn:HOST[:PORT]");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        if let Some(path) = &self.json {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write {} (--json)", path.display()))?;
        }
        let world = self.world()?;
        self.greet(&world)?;
        let mut report = Report::begin(self.server.target.to_string());
        let ended = self.ask_all(&world, &cases, &mut report);
        let interrupted =
            |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Trouble::Interrupted));
        let code = match &ended {
            Err(error) if interrupted(error) => EXIT_INTERRUPTED,
            Err(_) => EXIT_PARTIAL,
            Ok(()) if report.breaks_a_must() => EXIT_LIMIT,
            Ok(()) => 0,
        };
        if let Err(error) = &ended {
            eprintln!("relay-bench: {error:#}");
        }
        report.end(ended.is_ok(), self.json.as_deref())?;
        Ok(ExitCode::from(code))
    }

    /// What was asked for, section by section.
    fn cases(&self) -> anyhow::Result<Vec<&'static Case>> {
        let mut cases: Vec<&Case> = FILES.iter().copied().flatten().collect();
        for only in &self.only {
            if !cases.iter().any(|case| case.is_meant_by(only)) {
                bail!("--only {only}: there is no such case; --list has them all");
            }
        }
        let meant = |case: &Case| {
            self.only.is_empty() || self.only.iter().any(|only| case.is_meant_by(only))
        };
        cases.retain(|case| meant(case));
        cases.sort_by_key(|case| (case.rfc, numbers(case.section)));
        Ok(cases)
    }

    fn world(&self) -> anyhow::Result<World> {
        let server = self.server.resolve()?;
        let user = self.server.credentials(RUN_SECS_MAX);
        let other = match (&self.other_user, &self.other_password) {
            (Some(name), Some(password)) => {
                Some(Credentials::known(name.clone(), password.clone()))
            }
            _ => self.server.minted_for("conform-other", RUN_SECS_MAX),
        };
        Ok(World {
            server,
            local: host::address_towards(server)?,
            user,
            other,
            peers: [self.peer.map(IpAddr::V4), self.peer6.map(IpAddr::V6)],
            quota: self.quota,
            watch: Watch {
                clock: Clock::start(),
                wait_ns: self.wait * MILLISECOND_NS,
                rto_ns: self.server.rto_ns(),
                stop: host::stop_on_signals(EXIT_INTERRUPTED)?,
            },
            reach: OnceCell::new(),
            next: Cell::new(0),
            used: RefCell::default(),
        })
    }

    /// Whether there is a server that knows the user, and whether it reaches peers on this host.
    fn greet(&self, world: &World) -> anyhow::Result<()> {
        let server = world.server;
        let challenged = match User::new(world) {
            Ok(user) => Some(user),
            Err(Verdict::Broken(error)) => return Err(error),
            Err(Verdict::Fail { expected: _, got }) if got == "no answer" => {
                bail!("{server} does not answer an Allocate request")
            }
            Err(_) => None,
        };
        let Some(mut user) = challenged else {
            bail!("{server} does not ask for credentials (401): no TURN server, or an open one")
        };
        let answer = match user.try_allocate(|draft| draft) {
            Err(Verdict::Broken(error)) => return Err(error),
            Err(_) => None,
            Ok(answer) => answer,
        };
        match answer.as_ref().and_then(Answer::code) {
            Some(401) => bail!("{server} does not know this user, or not with this password (401)"),
            Some(code) => bail!("{server} refuses a plain Allocate request: {code}"),
            None => {}
        }
        let reach = self.reach(world, &mut user)?;
        if let Err(why) = &reach {
            let _ = writeln!(io::stdout(), "peers: {why}");
        }
        let _ = world.reach.set(reach);
        Ok(())
    }

    /// Where peers of an IPv4 allocation live, or why nowhere.
    fn reach(&self, world: &World, user: &mut User<'_>) -> anyhow::Result<Result<IpAddr, String>> {
        let ip = match (self.peer, world.local) {
            (Some(ip), _) => IpAddr::V4(ip),
            (None, IpAddr::V6(_)) => {
                return Ok(Err("no IPv4 address for peers is given (--peer)".to_owned()));
            }
            (None, local) => {
                if let Some(mapped) = mapped(world)?.filter(|mapped| mapped.ip() != local) {
                    return Ok(Err(format!(
                        "{local} is {mapped} to the server: a NAT is between, give --peer"
                    )));
                }
                local
            }
        };
        match user.permit(&[any_port(ip)]) {
            Err(Verdict::Broken(error)) => Err(error),
            Ok(Some(answer)) if answer.code() == Some(403) => {
                Ok(Err(format!("the server denies the peer {ip} (403): allow it, or give --peer")))
            }
            // Whatever else is wrong is for the cases to find.
            Ok(_) | Err(_) => Ok(Ok(ip)),
        }
    }

    fn ask_all(&self, world: &World, cases: &[&Case], report: &mut Report) -> anyhow::Result<()> {
        for case in cases {
            let came = if case.slow && !self.slow {
                Err(Verdict::Skipped("it takes minutes (--slow)".to_owned()))
            } else {
                (case.run)(world)
            };
            match came {
                Err(Verdict::Broken(error)) => return Err(error),
                other => report.add(case, other),
            }
        }
        Ok(())
    }
}

/// The client's address as the server sees it; `None` if it does not say.
fn mapped(world: &World) -> anyhow::Result<Option<SocketAddr>> {
    let ask = || world.line()?.ask(&world.draft(method::BINDING)?);
    match ask() {
        Err(Verdict::Broken(error)) => Err(error),
        Ok(answer) => Ok(answer.and_then(|answer| answer.address(kind::XOR_MAPPED_ADDRESS))),
        Err(_) => Ok(None),
    }
}

/// A section as its numbers, to sort by.
fn numbers(section: &str) -> Vec<u32> {
    section.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_case_has_a_name_of_its_own_and_says_its_rule() {
        let mut ids = HashSet::new();
        for case in FILES.iter().copied().flatten() {
            assert!(ids.insert(case.id()), "{} twice", case.id());
            let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            assert!(plain(case.name), "{}", case.id());
            assert!(numbers(case.section).iter().all(|number| *number < 100), "{}", case.id());
            assert!(!case.rule.is_empty() && case.rule.chars().count() <= 90, "{}", case.id());
        }
        assert!(ids.len() > 150, "{} cases", ids.len());
    }

    #[test]
    fn sections_are_sorted_by_number() {
        assert!(numbers("7.2") < numbers("10.2"));
        assert!(numbers("9.2.4") < numbers("14"));
    }
}
