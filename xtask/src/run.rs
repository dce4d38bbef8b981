//! `cargo xtask run`: from a bare machine to a relay on the terminal, with everything that a
//! client needs printed ready to paste. Starts `turnpike` and becomes it.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    credentials::Credentials,
    dev_config::{self, Addresses},
    host,
    objects::Warnings,
    toolchain::{self, Install},
};

/// How long the printed credentials work: a working day and some.
const CREDENTIALS_LIFETIME: Duration = Duration::from_hours(24);

/// `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail with instructions instead of getting a missing toolchain
    #[arg(long)]
    no_install: bool,
    /// Set up, build and print, but do not start the relay
    #[arg(long)]
    dry_run: bool,
    /// Arguments for `turnpike serve`, after `--`
    #[arg(last = true)]
    turnpike: Vec<String>,
}

pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let toolchain = toolchain::require(Install::allowed_if(!args.no_install))?;
    let built = build::all(&toolchain, Profile::Release, Warnings::Shown)?;

    let config = host::root().join("target/dev/turnpike.toml");
    let addresses = Addresses::of_this_machine();
    let secret = dev_config::keep_or_make_secret(&config)?;
    dev_config::write(&config, &dev_config::text(&addresses, &secret))?;

    let credentials = Credentials::derive(&secret, "dev", expires_unix_secs()?);
    print!("{}", instructions(&config, &addresses.listen(), &credentials));
    let privilege = Privilege::of_this_process();
    println!("{}", privilege.data_path());
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    println!("Starting the relay; Ctrl-C stops it.\n");
    let mut relay = privilege.command(&built.turnpike);
    relay.args(["serve", "--config"]).arg(&config).args(args.turnpike);
    // Replaces this process, so that signals and the exit code are the relay's own.
    let error = relay.exec();
    Err(error).with_context(|| format!("cannot start {relay:?}"))
}

#[allow(clippy::disallowed_methods, reason = "xtask's one reading of the wall clock")]
fn expires_unix_secs() -> Result<u64> {
    let now = SystemTime::now();
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).context("the clock is wrong")?;
    Ok((since_epoch + CREDENTIALS_LIFETIME).as_secs())
}

/// What this process may do about loading an XDP program.
enum Privilege {
    Root,
    Sudo(PathBuf),
    None,
}

impl Privilege {
    fn of_this_process() -> Self {
        if host::is_root() {
            return Self::Root;
        }
        host::which("sudo").map_or(Self::None, Self::Sudo)
    }

    fn command(&self, program: &Path) -> Command {
        match self {
            Self::Root | Self::None => host::command(program),
            Self::Sudo(sudo) => {
                let mut command = host::command(sudo);
                command.arg(program);
                command
            }
        }
    }

    fn data_path(&self) -> &'static str {
        match self {
            Self::Root => {
                "Data path: XDP, native where the driver can; the relay logs its choice per \
                 interface and falls back visibly."
            }
            Self::Sudo(_) => {
                "Data path: XDP, through sudo (it may ask for your password); the relay logs its \
                 choice per interface and falls back visibly."
            }
            Self::None => {
                "Data path: userspace. XDP needs root, and there is no sudo here: run this as \
                 root to get it."
            }
        }
    }
}

/// Everything a person pastes somewhere.
fn instructions(config: &Path, listen: &[SocketAddr], credentials: &Credentials) -> String {
    let Credentials { username, password } = credentials;
    let uris: Vec<String> = listen.iter().map(turn_uri).collect();
    let lines = uris.iter().map(|uri| format!("  {uri}\n")).collect::<String>();
    let quoted = uris.iter().map(|uri| format!("\"{uri}\"")).collect::<Vec<_>>().join(", ");
    let hours = CREDENTIALS_LIFETIME.as_secs() / 3600;
    let first = listen.first().map_or_else(|| "127.0.0.1".to_owned(), |a| a.ip().to_string());
    let metrics = dev_config::METRICS;
    format!(
        "
Configuration (generated, private): {config}

TURN URIs:
{lines}
Username (valid {hours} hours):  {username}
Password:                   {password}

For a browser:
  iceServers: [{{ urls: [{quoted}], username: \"{username}\", credential: \"{password}\" }}]

With turnutils_uclient (Debian's coturn; installing that starts a server on this very port:
systemctl disable --now coturn):
  turnutils_uclient -y -c -u {username} -w {password} {first}

Metrics, and the data path of each interface (turnpike_datapath_mode):
  curl http://{metrics}/metrics
",
        config = config.display(),
    )
}

/// RFC 7065; an IPv6 literal stands in brackets. The port is the default one, and stays explicit
/// because some clients insist on it.
fn turn_uri(server: &SocketAddr) -> String {
    format!("turn:{server}?transport=udp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_has_every_uri_and_the_credentials() {
        let listen = ["127.0.0.1:3478".parse().unwrap(), "[2001:db8::7]:3478".parse().unwrap()];
        let credentials = Credentials { username: "17:dev".into(), password: "cGFzcw==".into() };
        let text = instructions(Path::new("dev/turnpike.toml"), &listen, &credentials);
        for expected in [
            "  turn:127.0.0.1:3478?transport=udp\n",
            "  turn:[2001:db8::7]:3478?transport=udp\n",
            "urls: [\"turn:127.0.0.1:3478?transport=udp\", \
             \"turn:[2001:db8::7]:3478?transport=udp\"]",
            "username: \"17:dev\", credential: \"cGFzcw==\"",
            "-u 17:dev -w cGFzcw== 127.0.0.1",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }
}
