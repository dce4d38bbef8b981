//! The tests' language: statements, each with the outcome it must have.
//!
//! `alice allocates; alice binds 4000 to bob => install 4000 600/300, ok; 600s pass;
//! alice binds 4000 to carol => 400`. Without `=>`, a request must succeed and data must arrive;
//! time may do what it wants. An outcome is everything that came of the statement, in order; it is
//! enough to name the end of it (unless it says `only`), and to leave the details away.

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use md5::Digest;
use relay_common::addr::Family;
use relay_common::wire::attribute::{AttributeType, Icmp};
use relay_common::wire::stun::{Class, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use relay_turn::{Config, Ledger, LookedUp};

use super::rfc8489::credentials::claim;
use super::world::{NS_PER_SEC, Opens, REALM, Signed, World, config};

/// Runs a script against the usual server.
pub(crate) fn check(script: &str) {
    check_with(config(), script);
}

/// Runs a script against a server of another configuration, with a ledger of its own.
pub(crate) fn check_with(config: Config, script: &str) {
    let mut world = World::new(Config { ledger: Ledger::new([4; 16]), ..config });
    run(&mut world, script);
}

/// Runs a script in a world, which it leaves for more.
pub(crate) fn run(world: &mut World, script: &str) {
    for statement in script.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        let (said, expected) = match statement.split_once("=>") {
            Some((said, expected)) => (said.trim(), Some(expected.trim())),
            None => (statement, None),
        };
        let outcome = say(world, said);
        let good = match expected {
            Some(expected) => meets(&outcome, expected),
            None => {
                said.ends_with("pass")
                    || said.starts_with("opens")
                    || meets(&outcome, "ok")
                    || outcome.starts_with("to ")
            }
        };
        assert!(good, "{said} => {outcome}, not {expected:?}, in:\n{script}");
    }
}

/// The end of the outcome is what is expected, the last of it perhaps in more detail.
fn meets(outcome: &str, expected: &str) -> bool {
    let outcome: Vec<_> = outcome.split(", ").collect();
    let (all, expected) = match expected.strip_prefix("only ") {
        Some(all) => (true, all),
        None => (false, expected),
    };
    let expected: Vec<_> = expected.split(", ").collect();
    if all && outcome.len() != expected.len() {
        return false;
    }
    let Some(start) = outcome.len().checked_sub(expected.len()) else { return false };
    outcome[start..].iter().zip(&expected).all(|(outcome, expected)| {
        outcome == expected || outcome.starts_with(&format!("{expected} "))
    })
}

/// One statement; gives its outcome.
pub(crate) fn say(world: &mut World, said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    match words.as_slice() {
        [time, "pass"] => {
            let (number, unit) = match time.strip_suffix("ns") {
                Some(number) => (number, 1),
                None => (time.strip_suffix('s').expect("seconds or ns"), NS_PER_SEC),
            };
            world.pass(number.parse::<u64>().unwrap() * unit)
        }
        // The driver is late: nothing is told of the deadlines that pass.
        [time, "pass", "unnoticed"] => {
            let secs: u64 = time.strip_suffix('s').expect("seconds").parse().unwrap();
            world.set_time(world.now.monotonic_ns + secs * NS_PER_SEC);
            "ok".to_owned()
        }
        ["opens", "fail", times] => {
            world.opens = Opens::Fail(times.parse().unwrap());
            "ok".to_owned()
        }
        ["opens", "wait"] => {
            world.opens = Opens::Wait;
            "ok".to_owned()
        }
        ["opened"] => world.answer_opens(false),
        ["failed"] => world.answer_opens(true),
        ["peer", peer, "sends", bytes, "to", client] => {
            let peer = world.addr(peer);
            let allocation = world.clients[*client].allocation.expect("allocated once");
            world.peer_sends(allocation, peer, bytes.parse().unwrap())
        }
        // What was sent to the peer did not arrive, says an ICMP error: type/code/data.
        ["icmp", error, "of", peer, "for", client] => {
            let numbers: Vec<u32> = error.split('/').map(|n| n.parse().unwrap()).collect();
            let [kind, code, data] = numbers[..] else { panic!("what is {error}?") };
            let (kind, code) = (kind.try_into().unwrap(), code.try_into().unwrap());
            let peer = world.addr(peer);
            let allocation = world.clients[*client].allocation.expect("allocated once");
            world.icmp(allocation, peer, Icmp { kind, code, data })
        }
        // The answer to a look-up, for the last request of a client.
        ["find", user, what, "for", client] => {
            let answer = match *what {
                "absent" => LookedUp::Absent,
                "failed" => LookedUp::Failed,
                password => LookedUp::Found(password.to_owned().into()),
            };
            world.answer_look_up(user, &answer, client)
        }
        [client, "sends", bytes, "on", number, options @ ..] => {
            let datagram = channel_data(number, bytes.parse().unwrap(), options);
            world.client_sends(client, &datagram, &UNSIGNED)
        }
        [client, "sends", bytes, "to", peer, options @ ..] => {
            let data = vec![9; bytes.parse().unwrap()];
            let mut request = Request::new(world, client, Class::Indication, Method::SEND, options);
            request.peer(world, peer);
            request.attributes.push((AttributeType::DATA, data));
            let datagram = request.bytes(world);
            world.client_sends(client, &datagram, &request.signed)
        }
        [client, "says", hex] => {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let datagram: Vec<u8> = (0..hex.len() / 2).map(|at| byte(at * 2)).collect();
            world.client_sends(client, &datagram, &UNSIGNED)
        }
        [client, verb, rest @ ..] => request(world, client, verb, rest),
        [] | [_] => panic!("what is {said}?"),
    }
}

/// A datagram that is no request; if it is one, then of transaction 0.
pub(crate) const UNSIGNED: Signed =
    Signed { key: None, fingerprint: false, transaction: 0, family: None };

fn channel_data(number: &str, bytes: usize, options: &[&str]) -> Vec<u8> {
    let number = u16::from_str_radix(number, 16).unwrap();
    let length = u16::try_from(bytes).unwrap();
    let mut datagram = [number.to_be_bytes(), length.to_be_bytes()].concat();
    datagram.resize(4 + bytes, 7);
    for option in options {
        match option.split_once('=').unwrap() {
            ("extra", extra) => datagram.extend(vec![0; extra.parse().unwrap()]),
            ("cut", cut) => datagram.truncate(datagram.len() - cut.parse::<usize>().unwrap()),
            _ => panic!("what is {option}?"),
        }
    }
    datagram
}

/// Options without a value.
const FLAGS: &[&str] = &["again", "fingerprint", "hashed", "modern"];

fn request(world: &mut World, client: &str, verb: &str, rest: &[&str]) -> String {
    let method = match verb {
        "asks" => Method::BINDING,
        "allocates" => Method::ALLOCATE,
        "refreshes" => Method::REFRESH,
        "permits" => Method::CREATE_PERMISSION,
        "binds" => Method::CHANNEL_BIND,
        "tries" => Method(0x00B),
        _ => panic!("what is {verb}?"),
    };
    let (operands, options): (Vec<&str>, Vec<&str>) = match verb {
        "permits" => rest.iter().partition(|word| !word.contains('=') && !FLAGS.contains(word)),
        "binds" => (rest[..1].to_vec(), rest[1..].to_vec()),
        _ => (Vec::new(), rest.to_vec()),
    };
    let plain = options.contains(&"auth=none") || method == Method::BINDING || verb == "tries";
    if !plain && world.client(client).nonce.is_empty() {
        say(world, &format!("{client} allocates auth=none"));
        assert!(!world.client(client).nonce.is_empty(), "challenged");
    }
    let mut request = Request::new(world, client, Class::Request, method, &options);
    for operand in operands {
        if verb == "permits" {
            request.peer(world, operand);
        } else {
            let number = u16::from_str_radix(operand, 16).unwrap();
            let value = [number.to_be_bytes(), [0, 0]].concat();
            request.attributes.push((AttributeType::CHANNEL_NUMBER, value));
        }
    }
    if let Some(at) = options.iter().position(|option| *option == "to") {
        request.peer(world, options[at + 1]);
    }
    let has_transport = options.iter().any(|option| option.starts_with("transport="));
    if method == Method::ALLOCATE && !has_transport {
        request.attributes.push((AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
    }
    if !plain {
        request.authenticate(world, &options);
    }
    let datagram = request.bytes(world);
    world.client_sends(client, &datagram, &request.signed)
}

struct Request {
    class: Class,
    method: Method,
    transaction: TransactionId,
    attributes: Vec<(AttributeType, Vec<u8>)>,
    /// Behind MESSAGE-INTEGRITY.
    late: Vec<(AttributeType, Vec<u8>)>,
    signed: Signed,
    client: String,
}

impl Request {
    fn new(
        world: &mut World,
        client: &str,
        class: Class,
        method: Method,
        options: &[&str],
    ) -> Self {
        if !options.contains(&"again") {
            world.transactions += 1;
            world.client(client).transaction = world.transactions;
        }
        let number = world.client(client).transaction;
        let mut request = Self {
            class,
            method,
            transaction: transaction(number),
            attributes: Vec::new(),
            late: Vec::new(),
            signed: Signed {
                key: None,
                fingerprint: options.contains(&"fingerprint"),
                transaction: number,
                family: match () {
                    () if options.contains(&"family=4") => Some(Family::V4),
                    () if options.contains(&"family=6") => Some(Family::V6),
                    () => None,
                },
            },
            client: client.to_owned(),
        };
        for option in options {
            request.option(world, option);
        }
        request
    }

    fn option(&mut self, world: &World, option: &str) {
        use AttributeType as A;
        let number = |text: &str| text.parse::<u32>().unwrap().to_be_bytes().to_vec();
        let first = |text: &str| vec![text.parse::<u8>().unwrap(), 0, 0, 0];
        let family = |text: &str| {
            vec![
                if text == "4" {
                    1
                } else if text == "6" {
                    2
                } else {
                    9
                },
                0,
                0,
                0,
            ]
        };
        let (kind, value) = match option.split_once('=') {
            Some(("lifetime", text)) => (A::LIFETIME, number(text)),
            Some(("transport", "none")) => return,
            Some(("transport", text)) => (A::REQUESTED_TRANSPORT, first(text)),
            Some(("family", text)) => (A::REQUESTED_ADDRESS_FAMILY, family(text)),
            Some(("additional", text)) => (A::ADDITIONAL_ADDRESS_FAMILY, family(text)),
            Some(("even", "0")) => (A::EVEN_PORT, vec![0]),
            Some(("even", "1")) => (A::EVEN_PORT, vec![0x80]),
            Some(("token", "forged")) => (A::RESERVATION_TOKEN, vec![1; 8]),
            Some(("token", owner)) => {
                (A::RESERVATION_TOKEN, world.clients[owner].token.unwrap().to_vec())
            }
            // Any attribute: type, then its value.
            Some(("value", text)) => {
                let (kind, hex) = text.split_once('/').unwrap();
                let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                let value = (0..hex.len() / 2).map(|at| byte(at * 2)).collect();
                (A(u16::from_str_radix(kind, 16).unwrap()), value)
            }
            Some(("ticket", text)) => (A::MOBILITY_TICKET, world.ticket(text)),
            // Any attribute: type, then how many bytes of zero; behind MESSAGE-INTEGRITY if late.
            Some((which @ ("attribute" | "late"), text)) => {
                let (kind, length) = text.split_once('/').unwrap_or((text, "0"));
                let kind = A(u16::from_str_radix(kind, 16).unwrap());
                let value = (kind, vec![0; length.parse().unwrap()]);
                let list = if which == "late" { &mut self.late } else { &mut self.attributes };
                return list.push(value);
            }
            Some(_) | None => return,
        };
        self.attributes.push((kind, value));
    }

    fn peer(&mut self, world: &World, name: &str) {
        let mut buffer = [0; 64];
        let mut writer = MessageWriter::new(&mut buffer, self.class, self.method, self.transaction);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, world.addr(name));
        let written = writer.finish().unwrap();
        self.attributes.push((AttributeType::XOR_PEER_ADDRESS, buffer[24..written].to_vec()));
    }

    fn authenticate(&mut self, world: &World, options: &[&str]) {
        let option = |name: &str, default: &str| {
            let value = options.iter().filter_map(|option| option.split_once('='));
            let mut value =
                value.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
            value.next_back().unwrap_or_else(|| default.to_owned())
        };
        let user = option("user", "user");
        let realm = option("realm", REALM);
        let password = match option("secret", "").as_str() {
            "" => option("password", "pass"),
            secret => rest_password(secret, &user),
        };
        let mut nonce = world.clients[&self.client].nonce.clone();
        if option("nonce", "") == "forged" {
            let at = nonce.len() - 3;
            nonce[at] ^= 1;
        }
        let without = option("without", "");
        let values = [
            ("username", AttributeType::USERNAME, user.clone().into_bytes()),
            ("realm", AttributeType::REALM, option("names", &realm).into_bytes()),
            ("nonce", AttributeType::NONCE, nonce),
        ];
        for (name, kind, value) in values {
            if without != name {
                self.attributes.push((kind, value));
            }
        }
        let challenge = &world.clients[&self.client].challenge;
        let mut offered =
            challenge.iter().filter(|(kind, _)| *kind == AttributeType::PASSWORD_ALGORITHMS);
        let offered = offered.next().map_or(&[][..], |(_, value)| value);
        let claimed = [user.as_str(), realm.as_str(), password.as_str()];
        self.signed.key = Some(claim(&mut self.attributes, options, offered, claimed));
    }

    fn bytes(&self, _: &World) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let mut writer = MessageWriter::new(&mut buffer, self.class, self.method, self.transaction);
        for (kind, value) in &self.attributes {
            writer.attribute(*kind, value);
        }
        if let Some(key) = self.signed.key {
            key.sign(&mut writer);
        }
        for (kind, value) in &self.late {
            writer.attribute(*kind, value);
        }
        if self.signed.fingerprint {
            writer.fingerprint();
        }
        let written = writer.finish().unwrap();
        buffer.truncate(written);
        buffer
    }
}

pub(crate) fn transaction(number: u64) -> TransactionId {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    TransactionId(id)
}

/// MD5 of parts with colons in between: a key of RFC 5389.
pub(crate) fn md5(parts: &[&str]) -> [u8; 16] {
    md5::Md5::digest(parts.join(":")).into()
}

fn rest_password(secret: &str, user: &str) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(user.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}
