//! `[auth]`: users and secrets, from the file itself and from files that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::document::{Reader, Section, Text};
use super::fault::{Fault, Warning};
use super::offers::prepared;
use super::{Auth, EXAMPLE_SECRET};

/// A password or a shared secret, not empty. Shown to nobody: not by `Debug`, not in an error.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Box<str>);

impl Secret {
    /// Takes anything that is not empty.
    pub(crate) fn new(secret: &str) -> Option<Self> {
        (!secret.is_empty()).then(|| Self(secret.into()))
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

/// Reads `[auth]`.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    warnings: &mut Vec<Warning>,
) -> Auth {
    let mut auth = Auth { users: BTreeMap::new(), secrets: Vec::new() };
    let users = reader.text_table(section, "users");
    let secrets = reader.texts(section, "secrets");
    let attempts = users.len() + secrets.len();
    if attempts > 0 && is_world_readable(reader.file()) {
        warnings.push(Warning::WorldReadable(reader.file().to_owned()));
    }
    for (name, password) in users {
        if let Err(fault) = add_user(&mut auth, name.get_ref(), password.get_ref()) {
            reader.report(&name, fault);
        }
    }
    for secret in secrets {
        if let Err(fault) = add_secret(&mut auth, secret.get_ref()) {
            reader.report(&secret, fault);
        }
    }
    let files = [
        read_lines(reader, section, "users_file", "NAME:PASSWORD", warnings, |line| {
            let (name, password) = line.split_once(':').ok_or(Fault::NoColon)?;
            add_user(&mut auth, name.trim(), password.trim())
        }),
        read_lines(reader, section, "secrets_file", "secrets", warnings, |line| {
            add_secret(&mut auth, line)
        }),
    ];
    // Credentials that are wrong are reported as such, not as absent.
    if attempts == 0 && !files.contains(&Named::Yes) && !section.has("tokens") {
        reader.report_absent(Fault::NoCredentials);
    }
    auth
}

fn add_user(auth: &mut Auth, name: &str, password: &str) -> Result<(), Fault> {
    if !(1..=508).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(Fault::BadUserName);
    }
    if password == EXAMPLE_SECRET {
        return Err(Fault::Placeholder);
    }
    if password.is_empty() {
        return Err(Fault::EmptyPassword(name.to_owned()));
    }
    let name = prepared(name).ok_or(Fault::BadUserName)?;
    let password = prepared(password).and_then(|password| Secret::new(&password));
    let password = password.ok_or_else(|| Fault::BadPassword(name.clone().into_owned()))?;
    match auth.users.insert(name.clone().into_owned(), password) {
        Some(_) => Err(Fault::UserTwice(name.into_owned())),
        None => Ok(()),
    }
}

fn add_secret(auth: &mut Auth, secret: &str) -> Result<(), Fault> {
    if secret == EXAMPLE_SECRET {
        return Err(Fault::Placeholder);
    }
    auth.secrets.push(Secret::new(secret).ok_or(Fault::EmptySecret)?);
    Ok(())
}

/// Whether the configuration names a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

/// Hands over each line of the file that `key` names, without blank lines and `#` comments.
fn read_lines<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    key: &'static str,
    content: &'static str,
    warnings: &mut Vec<Warning>,
    mut take: impl FnMut(&str) -> Result<(), Fault>,
) -> Named {
    let Some(name) = reader.text(section, key) else { return Named::No };
    let path = resolve(reader, &name);
    match fs::read_to_string(&path) {
        Err(error) => reader.report(&name, Fault::UnreadableNamed(path, error)),
        Ok(text) => {
            if is_world_readable(&path) {
                warnings.push(Warning::WorldReadable(path.clone()));
            }
            let lines = text.lines().map(str::trim).enumerate();
            let mut lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).peekable();
            if lines.peek().is_none() {
                reader.report_in(path.clone(), None, Fault::EmptyFile(content));
            }
            for (index, line) in lines {
                if let Err(fault) = take(line) {
                    reader.report_in(path.clone(), Some(index + 1), fault);
                }
            }
        }
    }
    Named::Yes
}

/// A relative name starts at the directory of the configuration file.
pub(super) fn resolve(reader: &Reader<'_>, name: &Text<'_>) -> PathBuf {
    reader.directory().join(Spanned::get_ref(name))
}

fn is_world_readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
