//! `[[realms]]`: other realms than the one of the top level, each with listening addresses, users
//! and secrets of its own.

use std::net::SocketAddr;

use toml::Spanned;

use super::document::{Reader, Section, Text};
use super::fault::{Fault, Warning};
use super::{Auth, Realm, auth, sections};

/// The section, as messages show it.
const SECTION: &str = "[realms]";
/// Realms of one relay, that of the top level too.
const REALMS_MAX: usize = 256;

/// Reads every `[[realms]]`, and adds their addresses to those that are listened to. Names and
/// addresses must differ from `realm`'s, whose `auth` says whether there is Redis.
pub(super) fn read<'t>(
    reader: &mut Reader<'t>,
    root: &Section<'t>,
    realm: &str,
    auth: &Auth,
    listen: &mut Vec<Spanned<SocketAddr>>,
    warnings: &mut Vec<Warning>,
) -> Vec<Realm> {
    let mut names = vec![realm.to_owned()];
    reader.tables(root, "realms", SECTION, |reader, section| {
        let text = reader.text(section, "name");
        let name = name(reader, section, text.as_ref(), &names);
        names.push(name.clone());
        if names.len() == REALMS_MAX + 1 {
            reader.report_section(section, Fault::TooManyRealms(REALMS_MAX));
        }
        let own = addresses(reader, section, listen);
        let named = auth::logins(reader, section, &name, warnings);
        let redis = reader.boolean(section, "redis").unwrap_or(true) && auth.redis.is_some();
        // Keys of Redis have the realm in them, between slashes: one realm's keys must not be able
        // to be another's.
        if redis && [realm, &name].iter().any(|name| name.contains('/')) {
            reader.report_section(section, Fault::SlashInRealm);
        }
        if !named.is_any && !redis {
            reader.report_section(section, Fault::NobodyInRealm(name.clone()));
        }
        Realm { name, listen: own, sources: named.sources, listed: named.listed, redis }
    })
}

fn name<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    text: Option<&Text<'t>>,
    others: &[String],
) -> String {
    let Some(text) = text else {
        reader.report_section(section, Fault::NoRealmName);
        return String::new();
    };
    let name = sections::realm_name(reader, "name", text);
    if !name.is_empty() && others.contains(&name) {
        reader.report(text, Fault::RealmTwice(name.clone()));
    }
    name
}

/// Where clients of the realm send to. What a realm names goes to it, and a wildcard stands for
/// what nobody names: so only the same text can stand for two realms.
fn addresses<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    listen: &mut Vec<Spanned<SocketAddr>>,
) -> Vec<SocketAddr> {
    const KEY: &str = "realms.listen";
    let texts = reader.texts(section, "listen");
    if texts.is_empty() {
        reader.report_section(section, Fault::NoRealmListen);
    }
    let own = sections::listening(reader, KEY, texts);
    for addr in &own {
        if listen.iter().any(|other| other.get_ref() == addr.get_ref()) {
            reader.report(addr, Fault::ListenInTwoRealms(*addr.get_ref()));
        }
    }
    listen.extend(own.iter().cloned());
    own.into_iter().map(Spanned::into_inner).collect()
}
