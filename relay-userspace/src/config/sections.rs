//! Which keys there are, what they may be, and what they are when they are absent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;
use tracing::Level;

use super::document::{Reader, Section, Text};
use super::fault::{ConfigErrors, Fault};
use super::{
    Config, Datapath, Log, LogFormat, METRICS_DEFAULT, Mode, Pin, Relay, auth, checks, discovery,
    limits, offers, peers, realms,
};

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Reads the text of the file at `path`.
pub(super) fn read(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(path, text, &syntax);
    let config = reader.root(table.get_ref(), document);
    reader.finish()?;
    Ok(config)
}

/// Section ("" is the top level) and name of every key.
#[cfg(test)]
pub(super) fn known_keys() -> Vec<(&'static str, &'static str)> {
    let table = DeTable::parse("[[realms]]").expect("it is TOML");
    let mut reader = Reader::new(Path::new(""), "", &[]);
    reader.root(table.get_ref(), document);
    reader.known().to_vec()
}

/// The whole file. After a reported problem the value means nothing: it is not handed out.
fn document<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Config {
    let mut warnings = Vec::new();
    let realm = realm(reader, root);
    let (mut listen, discoveries) = reader.section(root, "listen", |reader, section| {
        let mut listen = listen(reader, section);
        let discoveries = discovery::read(reader, section, &mut listen);
        (listen, discoveries)
    });
    let listen_udp = listen.iter().map(|addr| *addr.get_ref()).collect();
    let (auth, auth_offers) = reader.section(root, "auth", |reader, section| {
        let offers = offers::read_auth(reader, section, &realm);
        (auth::read(reader, section, &realm, &mut warnings), offers)
    });
    let offers = offers::read(reader, root, auth_offers);
    let realms = realms::read(reader, root, &realm, &auth, &mut listen, &mut warnings);
    if offers.userhash {
        let listed = realms.iter().map(|realm| &realm.listed);
        offers::userhash_finds(listed.chain([&auth.listed]), &mut warnings);
    }
    let relay = reader.section(root, "relay", |reader, section| relay(reader, section, &listen));
    checks::addresses(reader, &listen, &relay, &mut warnings);
    Config {
        realm,
        listen_udp,
        discoveries,
        relay,
        auth,
        realms,
        offers,
        datapath: reader.section(root, "datapath", datapath),
        peers: reader
            .section(root, "peers", |reader, section| peers::read(reader, section, &mut warnings)),
        metrics_listen: reader.section(root, "metrics", metrics_listen),
        log: reader.section(root, "log", |reader, section| Log {
            level: reader.choice(section, "level", &LEVELS).unwrap_or(Level::INFO),
            format: reader.choice(section, "format", &FORMATS).unwrap_or(LogFormat::Text),
        }),
        limits: reader.section(root, "limits", limits::read),
        rfc5766_channel_numbers: reader.section(root, "compat", |reader, section| {
            reader.boolean(section, "rfc5766_channel_numbers").unwrap_or(false)
        }),
        shards: reader.section(root, "workers", |reader, section| {
            let shards = reader.number(section, "shards", 0..=1024)?;
            NonZeroU16::new(u16::try_from(shards).ok()?)
        }),
        warnings,
    }
}

fn realm<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> String {
    let Some(realm) = reader.text(root, "realm") else {
        reader.report_key(root, "realm", Fault::NoRealm);
        return String::new();
    };
    realm_name(reader, "realm", &realm)
}

/// The name of a realm, prepared. Empty if it cannot be one.
pub(super) fn realm_name(reader: &mut Reader<'_>, key: &'static str, text: &Text<'_>) -> String {
    let name = *text.get_ref();
    // What RFC 8489 §14.9 takes from SIP needs quoting for quotes and backslashes.
    let is_odd = |c: char| c.is_control() || matches!(c, '"' | '\\');
    let is_sane = (1..=64).contains(&name.len()) && !name.contains(is_odd);
    if !is_sane {
        reader.report(text, Fault::BadRealm(key));
    }
    match offers::prepared(name) {
        Some(prepared) => prepared.into_owned(),
        None => {
            reader.report(text, Fault::BadRealm(key));
            String::new()
        }
    }
}

fn listen<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Vec<Spanned<SocketAddr>> {
    const KEY: &str = "listen.udp";
    let texts = reader.texts(section, "udp");
    if texts.is_empty() {
        reader.report_key(section, "udp", Fault::NoListen);
    }
    listening(reader, KEY, texts)
}

/// Where clients send to, each once.
pub(super) fn listening(
    reader: &mut Reader<'_>,
    key: &'static str,
    texts: Vec<Text<'_>>,
) -> Vec<Spanned<SocketAddr>> {
    let mut listen: Vec<Spanned<SocketAddr>> = Vec::new();
    for text in texts {
        let Some(addr) = socket_addr(reader, &text, key) else { continue };
        if addr.port() == 0 {
            let (what, advice) = ("on port 0", "clients need a port that they know, such as 3478");
            reader.report(&text, unusable(key, &text, what, advice));
        } else if !is_usable(reader, &text, key, addr.ip()) {
        } else if listen.iter().any(|other| *other.get_ref() == addr) {
            reader.report(&text, Fault::Duplicate { key, value: addr.to_string() });
        } else {
            listen.push(Spanned::new(text.span(), addr));
        }
    }
    listen
}

fn relay<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    listen: &[Spanned<SocketAddr>],
) -> Relay {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in reader.texts(section, "addresses") {
        const KEY: &str = "relay.addresses";
        let Some(ip) = ip_addr(reader, &text, KEY) else { continue };
        if ip.is_unspecified() {
            let advice = "leave `addresses` out to relay on the listening addresses";
            reader.report(&text, unusable(KEY, &text, "a wildcard", advice));
        } else if !is_usable(reader, &text, KEY, ip) {
        } else if addresses.contains(&ip) {
            reader.report(&text, Fault::Duplicate { key: KEY, value: ip.to_string() });
        } else {
            addresses.push(ip);
        }
    }
    let ports = ports(reader, section).unwrap_or(49_152..=65_535);
    let mut external = BTreeMap::new();
    for (internal, text) in reader.text_table(section, "external") {
        const KEY: &str = "relay.external";
        let from = ip_addr(reader, &internal, KEY);
        let Some((from, to)) = from.zip(ip_addr(reader, &text, KEY)) else { continue };
        if to.is_unspecified() {
            let advice = "name the address that clients and peers see";
            reader.report(&text, unusable(KEY, &text, "a wildcard", advice));
        } else if !is_usable(reader, &text, KEY, to) {
        } else if from.is_ipv4() != to.is_ipv4() {
            let (relay, external) = (from.to_string(), to.to_string());
            reader.report(&text, Fault::ExternalFamily { relay, external });
        } else {
            checks::external(reader, &internal, from, &addresses, listen);
            external.insert(from, to);
        }
    }
    let mobility = reader.boolean(section, "mobility").unwrap_or(false);
    Relay { addresses, ports, external, mobility }
}

fn ports<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Option<RangeInclusive<u16>> {
    let text = reader.text(section, "ports")?;
    let parsed = text.get_ref().split_once('-').and_then(|(first, last)| {
        let range = first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?;
        (*range.start() > 0 && !range.is_empty()).then_some(range)
    });
    if parsed.is_none() {
        reader.report(&text, Fault::BadPorts((*text.get_ref()).to_owned()));
    }
    parsed
}

fn datapath<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Datapath {
    let mode = reader.choice(section, "mode", &Mode::ALL).unwrap_or(Mode::Auto);
    let mut interfaces: Vec<String> = Vec::new();
    for text in reader.texts(section, "interfaces") {
        let name = *text.get_ref();
        let is_name = (1..=15).contains(&name.len())
            && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if !is_name {
            reader.report(&text, Fault::BadInterface(name.to_owned()));
        } else if interfaces.iter().any(|other| other == name) {
            let value = name.to_owned();
            reader.report(&text, Fault::Duplicate { key: "datapath.interfaces", value });
        } else {
            interfaces.push(name.to_owned());
        }
    }
    let object = reader.text(section, "object").map(|name| auth::resolve(reader, &name));
    let pin = match reader.text(section, "pin") {
        None => Pin::Default,
        Some(text) if *text.get_ref() == "off" => Pin::Off,
        Some(text) => Pin::At(auth::resolve(reader, &text)),
    };
    let measure_times = reader.boolean(section, "measure_times").unwrap_or(false);
    let answer_binding = reader.boolean(section, "answer_binding").unwrap_or(true);
    Datapath { mode, interfaces, object, pin, measure_times, answer_binding }
}

fn metrics_listen<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Option<SocketAddr> {
    match reader.text(section, "listen") {
        None => Some(METRICS_DEFAULT),
        Some(text) if *text.get_ref() == "off" => None,
        Some(text) => socket_addr(reader, &text, "metrics.listen"),
    }
}

pub(super) fn socket_addr(
    reader: &mut Reader<'_>,
    text: &Text<'_>,
    key: &'static str,
) -> Option<SocketAddr> {
    let name = *text.get_ref();
    let parsed = name.parse().ok();
    if parsed.is_none() {
        let hint = match name.parse() {
            Ok(IpAddr::V4(_)) => format!("; the port is missing: \"{name}:3478\""),
            Ok(IpAddr::V6(_)) => format!("; IPv6 needs brackets: \"[{name}]:3478\""),
            Err(_) => "; names are not looked up".to_owned(),
        };
        let expected = "an address and a port like \"192.0.2.1:3478\"".to_owned();
        reader.report(text, Fault::BadValue { key, expected, found: name.to_owned(), hint });
    }
    parsed
}

fn ip_addr(reader: &mut Reader<'_>, text: &Text<'_>, key: &'static str) -> Option<IpAddr> {
    let name = *text.get_ref();
    let parsed = name.parse().ok();
    if parsed.is_none() {
        let hint = match name.parse::<SocketAddr>() {
            Ok(addr) => format!("; leave the port out: \"{}\"", addr.ip()),
            Err(_) => "; names are not looked up".to_owned(),
        };
        let expected = "an address like \"192.0.2.1\"".to_owned();
        reader.report(text, Fault::BadValue { key, expected, found: name.to_owned(), hint });
    }
    parsed
}

/// Reports what no interface can have.
pub(super) fn is_usable(
    reader: &mut Reader<'_>,
    text: &Text<'_>,
    key: &'static str,
    ip: IpAddr,
) -> bool {
    let problem = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some(("an IPv4-mapped address", "write it as an IPv4 address"))
        }
        IpAddr::V4(v4) if v4.is_broadcast() => Some(("the broadcast address", "use a unicast one")),
        _ if ip.is_multicast() => Some(("a multicast address", "use a unicast one")),
        _ => None,
    };
    if let Some((what, advice)) = problem {
        reader.report(text, unusable(key, text, what, advice));
    }
    problem.is_none()
}

pub(super) fn unusable(
    key: &'static str,
    text: &Text<'_>,
    what: &'static str,
    advice: &'static str,
) -> Fault {
    Fault::UnusableAddress { key, value: (*text.get_ref()).to_owned(), what, advice }
}
