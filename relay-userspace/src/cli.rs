//! The command line, and the commands that end by themselves. Serving is elsewhere.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgGroup, Args, Parser, Subcommand};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::config::{Config, EXAMPLE, METRICS_DEFAULT, Mode, Pin, Realm, Secret};
use crate::datapath::Pins;
use crate::overview;
use crate::store;

/// The version of this binary.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, or "unknown".
pub(crate) const COMMIT: &str = env!("TURNPIKE_COMMIT");

#[cfg(xdp_object_embedded)]
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("TURNPIKE_COMMIT"),
    "\nXDP object: embedded"
);
#[cfg(not(xdp_object_embedded))]
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("TURNPIKE_COMMIT"),
    "\nXDP object: not embedded (build with `cargo xtask build`, or set `[datapath] object`)"
);

/// A TURN relay (RFC 8656) whose packets stay in the kernel
#[derive(Parser, Debug)]
#[command(name = "turnpike", version = LONG_VERSION, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the relay until SIGINT or SIGTERM
    Serve(ServeArgs),
    /// Print an example configuration, or check a file
    Config(ConfigArgs),
    /// Make time-limited credentials for a client
    Credentials(CredentialsArgs),
    /// Show what the kernel path of a running relay does
    Datapath(DatapathArgs),
    /// Detach what a relay that was killed left in the kernel
    Detach(DetachArgs),
}

/// `turnpike serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML); `turnpike config --example` prints one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// How packets are relayed; overrules `[datapath] mode`
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) datapath: Option<Mode>,
}

impl ServeArgs {
    /// The configuration with what the command line overrules.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(&self.config)?;
        config.datapath.mode = self.datapath.unwrap_or(config.datapath.mode);
        Ok(config)
    }
}

/// `turnpike config`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["example", "check"])))]
pub(crate) struct ConfigArgs {
    /// Print a configuration with every key, its meaning and its default
    #[arg(long)]
    example: bool,
    /// Check a file and list all its errors; nothing is started
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

impl ConfigArgs {
    /// Prints the example, or what is wrong with a file.
    ///
    /// # Errors
    ///
    /// If there is anything wrong with it, or standard output is closed.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let Some(path) = &self.check else {
            return out.write_all(EXAMPLE.as_bytes()).context("cannot print the example");
        };
        let config = Config::load(path)?;
        for warning in &config.warnings {
            writeln!(io::stderr(), "warning: {warning}").context("cannot print a warning")?;
        }
        writeln!(out, "{}: no errors", path.display()).context("cannot print the result")
    }
}

/// `turnpike credentials`.
#[derive(Args, Debug)]
pub(crate) struct CredentialsArgs {
    /// Configuration file of the relay: its first secret, or Redis' newest, makes the password
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Whom the credentials are for; becomes a part of the user name
    #[arg(long, value_name = "NAME")]
    user: String,
    /// One of the realms of `[[realms]]` [default: the one at the top]
    #[arg(long, value_name = "NAME")]
    realm: Option<String>,
    /// How long they are good, seconds
    #[arg(long, value_name = "SECS", default_value_t = 86_400)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    lifetime: u64,
    /// Host name or address that clients reach the relay at, for the `iceServers` snippet
    /// [default: the listening addresses, or the realm in place of a wildcard]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl CredentialsArgs {
    /// Prints user name, password and what a browser wants to be told.
    ///
    /// # Errors
    ///
    /// If the configuration has errors, or there is no secret.
    pub(crate) fn run(&self, now_unix_secs: u64) -> anyhow::Result<()> {
        let config = Config::load(&self.config)?;
        let realms = config.every_realm();
        let wanted = self.realm.as_ref().unwrap_or(&config.realm);
        let Some(realm) = realms.into_iter().find(|realm| realm.name == *wanted) else {
            bail!("{} has no realm {wanted}", self.config.display());
        };
        let redis = config.auth.redis.as_ref().filter(|_| realm.redis);
        let secret = match (realm.listed.secrets.first(), redis) {
            (Some(secret), _) => secret.clone(),
            (None, Some(redis)) => store::newest_secret(redis, &realm.name)?,
            (None, None) => bail!(
                "{} has no secret to make credentials of the realm {} with; add `secrets` or \
                 `secrets_file`",
                self.config.display(),
                realm.name
            ),
        };
        let username = format!("{}:{}", now_unix_secs + self.lifetime, self.user);
        let password = rest_password(&secret, &username);
        let servers = serde_json::json!({ "iceServers": [{
            "urls": uris(&config, &realm, self.host.as_deref()),
            "username": username,
            "credential": password,
        }] });
        writeln!(io::stdout(), "username: {username}\npassword: {password}\n{servers:#}")
            .context("cannot print the credentials")
    }
}

/// `turnpike datapath`.
#[derive(Args, Debug)]
pub(crate) struct DatapathArgs {
    /// Configuration file of the relay, for its `[metrics] listen` [default: 127.0.0.1:9641]
    #[arg(long, value_name = "FILE", conflicts_with = "metrics")]
    config: Option<PathBuf>,
    /// Where the relay serves its metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DatapathArgs {
    /// Asks the relay, and prints what it says.
    ///
    /// # Errors
    ///
    /// If the configuration has errors or no metrics, or no relay answers.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let listen = match &self.config {
            Some(path) => Config::load(path)?.metrics_listen,
            None => self.metrics.or(Some(METRICS_DEFAULT)),
        };
        let Some(listen) = listen else {
            bail!("[metrics] listen is \"off\": the relay shows nothing of itself");
        };
        overview::print(listen, self.json)
    }
}

/// `turnpike detach`.
#[derive(Args, Debug)]
pub(crate) struct DetachArgs {
    /// Configuration file of the relay, for its `[datapath] pin` [default: /sys/fs/bpf/turnpike]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl DetachArgs {
    /// Removes the pins, and says what was attached.
    ///
    /// # Errors
    ///
    /// If the configuration has errors, a relay still runs, or the pins cannot be removed.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let pin = match &self.config {
            Some(path) => Config::load(path)?.datapath.pin,
            None => Pin::Default,
        };
        let Some(directory) = pin.directory() else { bail!("`pin` is \"off\": nothing is pinned") };
        let interfaces = match directory.exists() {
            true => Pins::lock(directory)?.clear()?,
            false => Vec::new(),
        };
        let said = if interfaces.is_empty() {
            format!("nothing was attached by pins in {}", directory.display())
        } else {
            format!("detached: {}", interfaces.join(", "))
        };
        writeln!(io::stdout(), "{said}").context("cannot print the result")
    }
}

/// base64 of HMAC-SHA1(secret, user name): what relay and web application agree on.
fn rest_password(secret: &Secret, username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// One `turn:` URI (RFC 7065) for each listening address of a realm, as seen through `external`.
fn uris(config: &Config, realm: &Realm, host: Option<&str>) -> Vec<String> {
    let mut uris = Vec::new();
    for listen in &realm.listen {
        let ip = config.relay.external.get(&listen.ip()).copied().unwrap_or(listen.ip());
        let host = match (host, ip) {
            (Some(host), _) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
            (Some(host), _) => host.to_owned(),
            // What a wildcard is called from outside is unknown; the realm is the best guess.
            (None, ip) if ip.is_unspecified() => realm.name.clone(),
            (None, std::net::IpAddr::V4(ip)) => ip.to_string(),
            (None, std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        let uri = format!("turn:{host}:{}?transport=udp", listen.port());
        if !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    uris
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn config(listen: &str, external: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let text = format!(
            "realm = \"turn.example.org\"\nauth.secrets = [\"north\"]\n\
             [listen]\nudp = [{listen}]\n\
             [relay]\nexternal = {{ {external} }}\n"
        );
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        for wrong in [
            "turnpike serve",
            "turnpike config",
            "turnpike config --example --check x",
            "turnpike serve --config x --datapath fast",
            "turnpike credentials --config x --user a --lifetime 0",
            "turnpike datapath --config x --metrics 127.0.0.1:1",
        ] {
            assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_overrules_the_datapath_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let text = "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\nauth.secrets = [\"s\"]\n\
                    datapath.mode = \"native\"\n";
        std::fs::write(&path, text).unwrap();
        for (datapath, expected) in [(None, Mode::Native), (Some(Mode::Userspace), Mode::Userspace)]
        {
            let args = ServeArgs { config: path.clone(), datapath };
            assert_eq!(args.load().unwrap().datapath.mode, expected);
        }
    }

    #[test]
    fn modes_are_called_the_same_in_the_file_and_on_the_command_line() {
        for (name, mode) in Mode::ALL {
            assert_eq!(mode.to_string(), name);
            let line = ["turnpike", "serve", "--config", "x", "--datapath", name];
            let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("serve is serve")
            };
            assert_eq!(args.datapath, Some(mode));
        }
    }

    #[test]
    fn a_rest_password_is_base64_of_hmac_sha1() {
        // printf %s 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        let secret = Secret::new("north").unwrap();
        assert_eq!(rest_password(&secret, "1700000000:alice"), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn uris_name_what_clients_can_reach() {
        let uris = |config: &Config, host| super::uris(config, &config.every_realm()[0], host);
        let plain = config("\"192.0.2.1:3478\", \"[2001:db8::1]:80\"", "");
        assert_eq!(
            uris(&plain, None),
            ["turn:192.0.2.1:3478?transport=udp", "turn:[2001:db8::1]:80?transport=udp"]
        );
        let mapped = config("\"10.0.0.1:3478\"", "\"10.0.0.1\" = \"203.0.113.7\"");
        assert_eq!(uris(&mapped, None), ["turn:203.0.113.7:3478?transport=udp"]);
        let wildcard = config("\"0.0.0.0:3478\", \"[::]:3478\"", "");
        assert_eq!(uris(&wildcard, None), ["turn:turn.example.org:3478?transport=udp"]);
        assert_eq!(uris(&wildcard, Some("::1")), ["turn:[::1]:3478?transport=udp"]);
    }
}
