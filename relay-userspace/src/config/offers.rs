//! What clients are offered beyond RFC 5389: keys of RFC 8489 and RFC 7635 at the top, in `[auth]`
//! and in `[redirect]`; and names and passwords as the OpaqueString profile has them (RFC 8265).

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::Profile;
use relay_turn::{PasswordAlgorithm, Redirect};

use super::document::{Reader, Section};
use super::fault::{Fault, Warning};
use super::{EXAMPLE_SECRET, Logins, sections};

/// Characters of SOFTWARE (RFC 8489 §14.14).
const SOFTWARE_CHARS_MAX: usize = 127;
/// Bytes of the longest name of a server or domain (RFC 8489 §14.16: ASCII).
const DOMAIN_BYTES_MAX: usize = 255;

/// Extensions that clients are offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Offers {
    /// `[auth] password_algorithms`: in order of preference, each once; perhaps none.
    pub(crate) password_algorithms: Vec<PasswordAlgorithm>,
    /// `[auth] userhash`: clients send a hash in place of their user name.
    pub(crate) userhash: bool,
    /// `[auth] tokens`: third parties' tokens.
    pub(crate) tokens: Option<Tokens>,
    /// `software`: what clients are told of the server, 1–127 characters.
    pub(crate) software: Option<String>,
    /// `[redirect]`: other servers.
    pub(crate) redirect: Option<Redirect>,
}

/// Third-party authorization (RFC 7635).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tokens {
    /// What clients tell the authorization server, 1–255 bytes.
    pub(crate) server_name: String,
    /// Keys by the names that clients send; never empty.
    pub(crate) keys: Vec<(String, TokenKeyBytes)>,
}

/// A key of 16 or 32 bytes. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TokenKeyBytes(pub(crate) Vec<u8>);

impl fmt::Debug for TokenKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKeyBytes(…)")
    }
}

/// What is read in `[auth]`, put into [`Offers`] with the rest.
pub(super) struct AuthOffers {
    password_algorithms: Vec<PasswordAlgorithm>,
    userhash: bool,
    tokens: Option<Tokens>,
}

/// A text as the OpaqueString profile (RFC 8265 §4.2) has it, as RFC 8489 wants user names (§14.3),
/// realms (§14.9) and passwords (§9.2.2): every space is U+0020, composed characters are composed.
/// `None`: the profile does not allow it.
pub(crate) fn prepared(text: &str) -> Option<Cow<'_, str>> {
    OpaqueString::new().enforce(text).ok()
}

/// Reads the keys of `[auth]`. `server_name` stands for one that is absent.
pub(super) fn read_auth<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    server_name: &str,
) -> AuthOffers {
    let password_algorithms = password_algorithms(reader, section);
    let userhash = reader.boolean(section, "userhash").unwrap_or(false);
    let tokens = tokens(reader, section, server_name);
    AuthOffers { password_algorithms, userhash, tokens }
}

/// Warns where some users cannot be found by USERHASH: time-limited ones.
pub(super) fn userhash_finds<'l>(
    mut realms: impl Iterator<Item = &'l Logins>,
    warnings: &mut Vec<Warning>,
) {
    if realms.any(|listed| !listed.secrets.is_empty()) {
        warnings.push(Warning::UserhashWithSecrets);
    }
}

/// Reads `software` and `[redirect]`.
pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, auth: AuthOffers) -> Offers {
    const KEY: &str = "software";
    let software = reader.text(root, KEY);
    let software = software.filter(|text| !text.get_ref().is_empty()).map(|text| {
        let is_long = text.get_ref().chars().count() > SOFTWARE_CHARS_MAX;
        if is_long || text.get_ref().chars().any(char::is_control) {
            let expected = "at most 127 characters without control characters".to_owned();
            let found = (*text.get_ref()).to_owned();
            reader
                .report(&text, Fault::BadValue { key: KEY, expected, found, hint: String::new() });
        }
        (*text.get_ref()).to_owned()
    });
    let redirect = reader.section(root, "redirect", redirect);
    let AuthOffers { password_algorithms, userhash, tokens } = auth;
    Offers { password_algorithms, userhash, tokens, software, redirect }
}

fn password_algorithms<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
) -> Vec<PasswordAlgorithm> {
    const KEY: &str = "password_algorithms";
    let mut algorithms = Vec::new();
    for text in reader.texts(section, KEY) {
        let name = *text.get_ref();
        match PasswordAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name) {
            Some(algorithm) if algorithms.contains(&algorithm) => {
                reader.report(&text, Fault::Duplicate { key: KEY, value: name.to_owned() });
            }
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let (expected, found) = ("\"sha-256\" or \"md5\"".to_owned(), name.to_owned());
                let hint = String::new();
                reader.report(&text, Fault::BadValue { key: KEY, expected, found, hint });
            }
        }
    }
    if section.has(KEY) { algorithms } else { relay_turn::Offers::default().password_algorithms }
}

fn tokens<'t>(reader: &mut Reader<'t>, section: &Section<'t>, server_name: &str) -> Option<Tokens> {
    let name = domain(reader, section, "token_server_name");
    if name.is_some() && !section.has("tokens") {
        reader.report_key(section, "token_server_name", Fault::NoTokenKey);
    }
    let mut keys = Vec::new();
    for (kid, key) in reader.text_table(section, "tokens") {
        if kid.get_ref().is_empty() || kid.get_ref().len() > 508 {
            reader.report(&kid, Fault::BadUserName);
        }
        if *key.get_ref() == EXAMPLE_SECRET {
            reader.report(&key, Fault::TokenPlaceholder);
            continue;
        }
        match STANDARD.decode(key.get_ref()) {
            Ok(bytes) if matches!(bytes.len(), 16 | 32) => {
                keys.push(((*kid.get_ref()).to_owned(), TokenKeyBytes(bytes)));
            }
            Ok(_) | Err(_) => {
                reader.report(&key, Fault::BadTokenKey((*kid.get_ref()).to_owned()));
            }
        }
    }
    let server_name = name.unwrap_or_else(|| server_name.to_owned());
    (!keys.is_empty()).then_some(Tokens { server_name, keys })
}

fn redirect<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Option<Redirect> {
    const KEY: &str = "redirect.servers";
    let mut servers: Vec<SocketAddr> = Vec::new();
    for text in reader.texts(section, "servers") {
        let Some(server) = sections::socket_addr(reader, &text, KEY) else { continue };
        if server.port() == 0 || server.ip().is_unspecified() {
            let (what, advice) = ("no address that a client can reach", "name the other server's");
            reader.report(&text, sections::unusable(KEY, &text, what, advice));
        } else if !sections::is_usable(reader, &text, KEY, server.ip()) {
        } else if servers.contains(&server) {
            reader.report(&text, Fault::Duplicate { key: KEY, value: server.to_string() });
        } else {
            servers.push(server);
        }
    }
    let domain = domain(reader, section, "domain");
    let allocations = reader.number(section, "allocations", 0..=u32::MAX);
    if !section.has("servers") && (domain.is_some() || allocations.is_some()) {
        reader.report_key(section, "domain", Fault::RedirectToNobody);
    }
    (!servers.is_empty()).then_some(Redirect { servers, domain, allocations })
}

fn domain<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &'static str) -> Option<String> {
    let text = reader.text(section, key)?;
    let name = *text.get_ref();
    let is_name = (1..=DOMAIN_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        let expected = "a name of 1 to 255 ASCII characters without white space".to_owned();
        let found = name.to_owned();
        reader.report(&text, Fault::BadValue { key, expected, found, hint: String::new() });
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8265 §4.3.
    #[test]
    fn the_examples_of_opaque_string() {
        for (text, expected) in [
            ("correct horse battery staple", Some("correct horse battery staple")),
            ("Correct Horse Battery Staple", Some("Correct Horse Battery Staple")),
            ("\u{3C0}\u{DF}\u{E5}", Some("\u{3C0}\u{DF}\u{E5}")),
            ("Jack of \u{2666}s", Some("Jack of \u{2666}s")),
            ("foo\u{1680}bar", Some("foo bar")),
            ("e\u{301}", Some("\u{E9}")),
            ("", None),
            ("my cat is a \u{9}by", None),
            ("soft\u{AD}hyphen", None),
        ] {
            assert_eq!(prepared(text).as_deref(), expected, "{text}");
        }
    }
}
