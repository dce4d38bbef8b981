//! `[auth]`: users and secrets, and those of each realm, from the file itself and from files that
//! it names, and where else they are. Reads those files again when it is asked to; does not find
//! out when.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redis::{ConnectionAddr, IntoConnectionInfo};
use relay_turn::Secret as Password;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use toml::Spanned;
use zeroize::Zeroizing;

use super::document::{Reader, Section, Text};
use super::fault::{ConfigErrors, Fault, Problem, Warning};
use super::offers::prepared;
use super::{Auth, EXAMPLE_SECRET, Redis, SharedSecrets};

/// Bytes of a file with users or secrets: some hundred thousand of them.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A shared secret, not empty. Shown to nobody: not by `Debug`, not in an error.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes anything that is not empty.
    pub(crate) fn new(secret: &str) -> Option<Self> {
        (!secret.is_empty()).then(|| Self(Zeroizing::new(secret.to_owned())))
    }

    /// The secret itself: only for computing with it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Users and secrets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Logins {
    /// Where they log in: a part of each user's key.
    realm: String,
    /// User name → what is kept of the password or key; no name is empty, and no password was.
    pub(crate) users: BTreeMap<String, Password>,
    /// What time-limited credentials are made with; each is accepted, the first one makes new ones.
    pub(crate) secrets: Vec<Secret>,
}

impl Logins {
    fn add_user(&mut self, name: &str, password: &str) -> Result<(), Fault> {
        if !(1..=508).contains(&name.len()) || name.chars().any(char::is_control) {
            return Err(Fault::BadUserName);
        }
        let name = prepared(name).ok_or(Fault::BadUserName)?;
        let kept = self::password(password)?.sealed(name.as_bytes(), &self.realm);
        match self.users.insert(name.into_owned(), kept) {
            Some(_) => Err(Fault::UserTwice),
            None => Ok(()),
        }
    }

    fn add_secret(&mut self, secret: &str) -> Result<(), Fault> {
        if secret == EXAMPLE_SECRET {
            return Err(Fault::Placeholder);
        }
        self.secrets.push(Secret::new(secret).ok_or(Fault::EmptySecret)?);
        Ok(())
    }
}

/// A password, or behind `0x` a key.
fn password(text: &str) -> Result<Password, Fault> {
    match (text, text.strip_prefix("0x")) {
        ("", _) => Err(Fault::EmptyPassword),
        (EXAMPLE_SECRET, _) => Err(Fault::Placeholder),
        (_, Some(digits)) => Password::key(digits).ok_or(Fault::BadKey),
        (password, None) => {
            let password = prepared(password).ok_or(Fault::BadPassword)?;
            Ok(password.into_owned().into())
        }
    }
}

/// Users and secrets of the file itself, and the files it names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sources {
    inline: Logins,
    users_file: Option<PathBuf>,
    secrets_file: Option<PathBuf>,
}

/// What became of reading the files.
pub(crate) struct Reading {
    /// Everybody, if nothing is wrong.
    pub(crate) listed: Logins,
    /// What is probably not meant.
    pub(crate) warnings: Vec<Warning>,
    problems: Vec<Problem>,
}

impl Sources {
    /// The files that are named.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.users_file, &self.secrets_file].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files again.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub(crate) fn read_again(&self) -> Result<Reading, ConfigErrors> {
        let mut reading = self.read();
        let problems = std::mem::take(&mut reading.problems);
        match problems.first().map(|problem| problem.file.clone()) {
            Some(file) => Err(ConfigErrors::new(&file, problems)),
            None => Ok(reading),
        }
    }

    fn read(&self) -> Reading {
        let listed = self.inline.clone();
        let mut reading = Reading { listed, warnings: Vec::new(), problems: Vec::new() };
        if let Some(path) = &self.users_file {
            reading.lines(path, "NAME:PASSWORD", |listed, line| {
                let (name, password) = line.split_once(':').ok_or(Fault::NoColon)?;
                listed.add_user(name.trim(), password.trim())
            });
        }
        if let Some(path) = &self.secrets_file {
            reading.lines(path, "secrets", Logins::add_secret);
        }
        reading
    }
}

impl Reading {
    /// Takes each line of a file, without blank lines and `#` comments.
    fn lines(
        &mut self,
        path: &Path,
        content: &'static str,
        take: fn(&mut Logins, &str) -> Result<(), Fault>,
    ) {
        let text = match text_of(path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) => {
                return self.report(path, None, Fault::UnreadableNamed(path.to_owned(), error));
            }
        };
        if is_world_readable(path) {
            self.warnings.push(Warning::WorldReadable(path.to_owned()));
        }
        let lines = text.lines().map(str::trim).enumerate();
        let mut lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).peekable();
        if lines.peek().is_none() {
            self.report(path, None, Fault::EmptyFile(content));
        }
        for (index, line) in lines {
            if let Err(fault) = take(&mut self.listed, line) {
                self.report(path, Some(index + 1), fault);
            }
        }
    }

    fn report(&mut self, path: &Path, line: Option<usize>, fault: Fault) {
        let place = line.map(|line| (line, 1));
        self.problems.push(Problem { file: path.to_owned(), place, fault });
    }
}

/// All of a file, unless it is longer than any may be, or has no end.
fn text_of(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len().min(bytes_max) + 1;
    // Of a file that is what it says, no second copy is made that would not be wiped.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(bytes).unwrap_or(0)));
    file.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

/// Users and secrets that a section names.
pub(super) struct Named {
    pub(super) sources: Sources,
    pub(super) listed: Logins,
    /// Whether it names any, right or wrong.
    pub(super) is_any: bool,
}

/// Reads `[auth]`.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    realm: &str,
    warnings: &mut Vec<Warning>,
) -> Auth {
    let redis = reader.section(section, "auth.redis", redis);
    if redis.is_some() {
        warn_if_world_readable(reader.file(), warnings);
    }
    let Named { sources, listed, is_any } = logins(reader, section, realm, warnings);
    // Credentials that are wrong are reported as such, not as absent.
    if !is_any && redis.is_none() && !section.has("tokens") {
        reader.report_absent(Fault::NoCredentials);
    }
    let strict_expiry = reader.boolean(section, "strict_expiry").unwrap_or(false);
    Auth { sources, listed, strict_expiry, redis }
}

/// Reads `users`, `secrets` and the files with more of them, of `[auth]` or of a realm.
pub(super) fn logins<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    realm: &str,
    warnings: &mut Vec<Warning>,
) -> Named {
    let mut inline = Logins { realm: realm.to_owned(), ..Logins::default() };
    let users = reader.text_table(section, "users");
    let secrets = reader.texts(section, "secrets");
    let is_inline = !users.is_empty() || !secrets.is_empty();
    if is_inline {
        warn_if_world_readable(reader.file(), warnings);
    }
    for (name, password) in users {
        if let Err(fault) = inline.add_user(name.get_ref(), password.get_ref()) {
            reader.report(&name, fault);
        }
    }
    for secret in secrets {
        if let Err(fault) = inline.add_secret(secret.get_ref()) {
            reader.report(&secret, fault);
        }
    }
    let names = ["users_file", "secrets_file"].map(|key| reader.text(section, key));
    let [users_file, secrets_file] =
        names.each_ref().map(|name| name.as_ref().map(|name| resolve(reader, name)));
    let sources = Sources { inline, users_file, secrets_file };
    let reading = sources.read();
    warnings.extend(reading.warnings);
    for problem in reading.problems {
        let named = [&sources.users_file, &sources.secrets_file].into_iter().zip(&names);
        let mut named = named.filter(|(path, _)| path.as_ref() == Some(&problem.file));
        match (&problem.fault, named.next()) {
            // It is the name that is wrong.
            (Fault::UnreadableNamed(..), Some((_, Some(name)))) => {
                reader.report(name, problem.fault);
            }
            _ => reader.report_in(problem),
        }
    }
    let is_any = is_inline || names.iter().any(Option::is_some);
    Named { sources, listed: reading.listed, is_any }
}

/// Once for each file.
fn warn_if_world_readable(path: &Path, warnings: &mut Vec<Warning>) {
    let warning = Warning::WorldReadable(path.to_owned());
    if is_world_readable(path) && !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

const SHARED_SECRETS: [(&str, SharedSecrets); 3] =
    [("keys", SharedSecrets::Keys), ("set", SharedSecrets::Set), ("off", SharedSecrets::Off)];

/// Reads `[auth.redis]`: nothing without `url`.
fn redis<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Option<Redis> {
    let url = reader.text(section, "url");
    let ca_file = reader.text(section, "ca_file");
    let ca = ca_file.as_ref().and_then(|name| ca(reader, name));
    let prefix = reader.text(section, "prefix");
    if let Some(prefix) = prefix.as_ref().filter(|prefix| {
        prefix.get_ref().is_empty() || prefix.get_ref().chars().any(char::is_control)
    }) {
        reader.report(prefix, Fault::BadRedisPrefix);
    }
    let prefix = prefix.map_or("turn", Spanned::into_inner).to_owned();
    let shared_secrets = reader.choice(section, "secrets", &SHARED_SECRETS);
    let mut number = |key, default, bounds| reader.number(section, key, bounds).unwrap_or(default);
    let timeout_ms = number("timeout_ms", 500, 10..=10_000);
    let cache_secs = number("cache_secs", 300, 1..=86_400);
    let negative_cache_secs = number("negative_cache_secs", 10, 1..=3600);
    let stale_secs = number("stale_secs", 3600, 0..=604_800);
    let secrets_refresh_secs = number("secrets_refresh_secs", 10, 1..=3600);
    let look_ups_per_sec = number("look_ups_per_sec", 64, 1..=1_000_000);
    let url = url?;
    let info = url.get_ref().into_connection_info().ok();
    let address = info.as_ref().map(|info| info.addr());
    let is_tls = matches!(address, Some(ConnectionAddr::TcpTls { .. }));
    // Not to verify is not to be had: there is `ca_file`.
    let is_insecure = matches!(address, Some(ConnectionAddr::TcpTls { insecure: true, .. }));
    let is_url = info.is_some() && !is_insecure;
    if !is_url {
        // The value may hold a password.
        reader.report(&url, Fault::BadRedisUrl);
    }
    if let Some(name) = ca_file.as_ref().filter(|_| is_url && !is_tls) {
        reader.report(name, Fault::CaWithoutTls);
    }
    Some(Redis {
        url: Secret::new(url.get_ref())?,
        ca,
        prefix,
        shared_secrets: shared_secrets.unwrap_or(SharedSecrets::Keys),
        timeout_ms,
        cache_secs,
        negative_cache_secs,
        stale_secs,
        secrets_refresh_secs,
        look_ups_per_sec,
    })
}

/// The certificates in a file, PEM.
fn ca(reader: &mut Reader<'_>, name: &Text<'_>) -> Option<Vec<u8>> {
    let path = resolve(reader, name);
    let pem = match fs::read(&path) {
        Ok(pem) => pem,
        Err(error) => {
            reader.report(name, Fault::UnreadableNamed(path, error));
            return None;
        }
    };
    let mut roots = RootCertStore::empty();
    let are_good = CertificateDer::pem_slice_iter(&pem)
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    if !are_good || roots.is_empty() {
        reader.report(name, Fault::NoCertificates(path));
    }
    Some(pem)
}

/// A relative name starts at the directory of the configuration file.
pub(super) fn resolve(reader: &Reader<'_>, name: &Text<'_>) -> PathBuf {
    reader.directory().join(Spanned::get_ref(name))
}

fn is_world_readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_not_one_byte_past() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, is_read) in [(0, true), (1000, true), (1001, false)] {
            file.as_file().set_len(bytes).unwrap();
            let length = text_of(file.path(), 1000).ok().map(|text| text.len() as u64);
            assert_eq!(length, is_read.then_some(bytes));
        }
    }
}
