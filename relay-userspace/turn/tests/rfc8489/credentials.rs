//! How a test's client proves who it is: RFC 5389's way unless the options say otherwise.
//!
//! `algorithm=md5|sha-256|HEX` and `algorithms=echo|HEX` add PASSWORD-ALGORITHM and -ALGORITHMS;
//! `proof=sha1|sha256|both` says which integrity, `cut=BYTES` shortens MESSAGE-INTEGRITY-SHA256;
//! `modern` is all that RFC 8489 wants of a client; `hashed` sends USERHASH; `access=NAME` a token.

use hmac::{Hmac, KeyInit, Mac};
use relay_common::wire::attribute::AttributeType as A;
use relay_common::wire::stun::{Integrity, Message};
use relay_common::wire::writer::MessageWriter;
use sha2::{Digest, Sha256};

use crate::script::md5;

/// A key, how the request is signed with it, and how the response must be.
#[derive(Clone, Copy)]
pub(crate) struct Signature {
    key: [u8; 32],
    length: usize,
    sha1: bool,
    /// Bytes of MESSAGE-INTEGRITY-SHA256.
    sha256: Option<usize>,
    /// The response has MESSAGE-INTEGRITY-SHA256, else MESSAGE-INTEGRITY.
    answered_in_sha256: bool,
}

type Attributes = Vec<(A, Vec<u8>)>;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
        .collect()
}

/// The value of the last of the options of a name.
pub(crate) fn option<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    let values = options.iter().filter_map(|option| option.split_once('='));
    values.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

/// Adds to a request what its options say, and gives its signature. `offered` is the
/// PASSWORD-ALGORITHMS that the client has seen.
pub(crate) fn claim(
    attributes: &mut Attributes,
    options: &[&str],
    offered: &[u8],
    [user, realm, password]: [&str; 3],
) -> Signature {
    let modern = options.contains(&"modern");
    let algorithm = option(options, "algorithm").or(modern.then_some("sha-256"));
    let value = match algorithm {
        None => None,
        Some("md5") => Some(vec![0, 1, 0, 0]),
        Some("sha-256") => Some(vec![0, 2, 0, 0]),
        Some(other) => Some(hex(other)),
    };
    let listed = match option(options, "algorithms").or(modern.then_some("echo")) {
        None => None,
        Some("echo") => Some(offered.to_vec()),
        Some(other) => Some(hex(other)),
    };
    let is_named = value.is_some() || listed.is_some();
    attributes.extend(listed.map(|value| (A::PASSWORD_ALGORITHMS, value)));
    attributes.extend(value.map(|value| (A::PASSWORD_ALGORITHM, value)));
    if options.contains(&"hashed") {
        let hash = Sha256::digest(format!("{user}:{realm}")).to_vec();
        for (kind, value) in attributes.iter_mut().filter(|(kind, _)| *kind == A::USERNAME) {
            (*kind, *value) = (A::USERHASH, hash.clone());
        }
    }
    let key = match (option(options, "access"), algorithm) {
        (Some(token), _) => super::tokens::session_key(attributes, token),
        // So many bytes of the session key, without a token.
        (None, _) if option(options, "held").is_some() => {
            vec![3; option(options, "held").unwrap().parse().unwrap()]
        }
        (None, Some("sha-256")) => Sha256::digest(format!("{user}:{realm}:{password}")).to_vec(),
        (None, _) => md5(&[user, realm, password]).to_vec(),
    };
    let proof = option(options, "proof").unwrap_or(if modern { "sha256" } else { "sha1" });
    let whole = 32 - option(options, "cut").map_or(0, |cut| cut.parse::<usize>().unwrap());
    let mut bytes = [0; 32];
    bytes[..key.len()].copy_from_slice(&key);
    Signature {
        key: bytes,
        length: key.len(),
        sha1: proof != "sha256",
        sha256: (proof != "sha1").then_some(whole),
        answered_in_sha256: is_named,
    }
}

impl Signature {
    pub(crate) fn sign(&self, writer: &mut MessageWriter<'_>) {
        if self.sha1 {
            writer.integrity(|header, body| {
                self.mac::<Hmac<sha1::Sha1>>(&[header, body])[..].try_into().unwrap()
            });
        }
        match self.sha256 {
            None => {}
            Some(32) => writer.integrity_sha256(|header, body| {
                self.mac::<Hmac<Sha256>>(&[header, body])[..].try_into().unwrap()
            }),
            // Nobody would take it, were it right.
            Some(bytes) => writer.attribute(A::MESSAGE_INTEGRITY_SHA256, &vec![0; bytes]),
        }
    }

    /// A response is signed, and in the way that its request asks for.
    pub(crate) fn check(&self, response: &Message<'_>) {
        let parts = |integrity: &Integrity<'_>| [integrity.header.to_vec(), integrity.body.into()];
        if self.answered_in_sha256 {
            assert!(response.integrity().is_none());
            let integrity = response.integrity_sha256().unwrap();
            let mac = self.mac::<Hmac<Sha256>>(&parts(&integrity).each_ref().map(Vec::as_slice));
            assert_eq!(mac, integrity.mac);
        } else {
            assert!(response.integrity_sha256().is_none());
            let integrity = response.integrity().unwrap();
            let mac =
                self.mac::<Hmac<sha1::Sha1>>(&parts(&integrity).each_ref().map(Vec::as_slice));
            assert_eq!(mac, integrity.mac);
        }
    }

    fn mac<M: Mac + KeyInit>(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(&self.key[..self.length]).unwrap();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().to_vec()
    }
}
