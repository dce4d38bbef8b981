//! Authentication of requests (RFC 8489 §9.2.4, RFC 7635 §7). Owns the order of its checks; keys,
//! users, nonces, algorithms and tokens have files of their own.

use std::borrow::Cow;

use relay_common::addr::FiveTuple;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{INTEGRITY_SHA256_BYTES, Integrity, Message};

use crate::access_token::Held;
use crate::algorithms::{Choice, PasswordAlgorithm};
use crate::key::{IntegrityKind, Key, Signer};
use crate::proof::{KeyKind, Proof};
use crate::reject::Reject;
use crate::{Now, Turn};

/// In front of the name of who has a token, a fingerprint of its session key. No user has such a
/// name, because it is no UTF-8 and no digit.
const TOKEN_MARK: u8 = 0xFF;

/// Whether what one has made is the other's. A token says nothing of who has it, and an allocation
/// goes on with the next one (RFC 7635 §9): among those who have one, the 5-tuple says who it is,
/// and the nonce that it is not forged.
pub(crate) fn is_same_user(one: &[u8], other: &[u8]) -> bool {
    let has_token = |name: &[u8]| name.first() == Some(&TOKEN_MARK);
    one == other || (has_token(one) && has_token(other))
}

/// Who sent a request, and what is known of them by it.
pub(crate) struct Session<'a> {
    /// Who it is, for [`is_same_user`]: the user name, also of who sent USERHASH, or a name made of
    /// the token.
    pub(crate) username: Cow<'a, [u8]>,
    /// What the response is signed with.
    pub(crate) signer: Signer,
    pub(crate) proof: Proof,
    /// The token that proves it.
    pub(crate) token: Option<Held>,
}

/// What a request shows of its sender, all there and well-formed.
struct Claim<'a> {
    kind: IntegrityKind,
    integrity: Integrity<'a>,
    name: Name<'a>,
    realm: &'a [u8],
    nonce: &'a [u8],
    token: Option<&'a [u8]>,
}

#[derive(Clone, Copy)]
enum Name<'a> {
    Plain(&'a [u8]),
    Hashed(&'a [u8]),
}

impl<'a> Claim<'a> {
    /// The first two checks of §9.2.4.
    fn of(message: &Message<'a>) -> Result<Self, Reject> {
        let has = |kind| message.attribute(kind).is_some();
        // Neither integrity: the first request of a client, which learns realm and nonce.
        let has_sha256 = has(AttributeType::MESSAGE_INTEGRITY_SHA256);
        if !has_sha256 && !has(AttributeType::MESSAGE_INTEGRITY) {
            return Err(Reject::Unauthenticated);
        }
        // One without a name, REALM and NONCE, or of a wrong size. The stronger one is judged where
        // there are both. TURN allows no truncation, so it is whole (§14.6).
        let whole = |integrity: &Integrity<'_>| integrity.mac.len() == INTEGRITY_SHA256_BYTES;
        let (kind, integrity) = if has_sha256 {
            (IntegrityKind::Sha256, message.integrity_sha256().filter(whole))
        } else {
            (IntegrityKind::Sha1, message.integrity())
        };
        let name = message
            .attribute(AttributeType::USERNAME)
            .map(Name::Plain)
            .or_else(|| message.attribute(AttributeType::USERHASH).map(Name::Hashed));
        Ok(Self {
            kind,
            integrity: integrity.ok_or(Reject::BadRequest)?,
            name: name.ok_or(Reject::BadRequest)?,
            realm: message.attribute(AttributeType::REALM).ok_or(Reject::BadRequest)?,
            nonce: message.attribute(AttributeType::NONCE).ok_or(Reject::BadRequest)?,
            token: message.attribute(AttributeType::ACCESS_TOKEN),
        })
    }
}

/// A user that is known, with the right key.
struct Known<'a> {
    username: Cow<'a, [u8]>,
    key: Key,
    key_kind: KeyKind,
    token: Option<Held>,
}

impl Turn {
    /// The checks of RFC 8489 §9.2.4, in its order: the nonce comes last, so that who does not
    /// know the password learns nothing from a stale one.
    pub(crate) fn authenticate<'a>(
        &self,
        now: Now,
        five_tuple: FiveTuple,
        message: &Message<'a>,
    ) -> Result<Session<'a>, Reject> {
        let claim = Claim::of(message)?;
        let choice = self.algorithms.choose(claim.nonce, message)?;
        // A name that is not known, a realm that is not the one of this address; a password or a
        // token that is not right.
        let realm = self.realms.name(self.realms.at(five_tuple.server));
        let known = Some(&claim)
            .filter(|claim| claim.realm == realm.as_bytes())
            .and_then(|claim| self.know(now, (five_tuple, message), choice, claim))
            .ok_or(Reject::Unauthenticated)?;
        // A nonce that is too old, not of this client, or not ours. It is of no realm: it says only
        // that its client hears what is sent to its address; the key is of the realm.
        if !self.nonces.is_good(now.unix_secs, five_tuple.client, claim.nonce) {
            return Err(Reject::StaleNonce);
        }
        let kind = if choice.is_named { IntegrityKind::Sha256 } else { IntegrityKind::Sha1 };
        Ok(Session {
            username: known.username,
            signer: Signer { key: known.key, kind },
            proof: Proof { integrity: claim.kind, key: known.key_kind },
            token: known.token,
        })
    }

    fn know<'a>(
        &self,
        now: Now,
        (five_tuple, message): (FiveTuple, &Message<'_>),
        choice: Choice,
        claim: &Claim<'a>,
    ) -> Option<Known<'a>> {
        let is_right = |key: &Key| key.verifies(claim.kind, &claim.integrity);
        let token = match (claim.token, self.access_tokens(five_tuple.server)) {
            (Some(token), Some(tokens)) => {
                // A token has no hashed name: USERNAME names its key.
                let Name::Plain(kid) = claim.name else { return None };
                let opened = tokens.open(now.unix_secs, kid, token)?;
                let key = opened.keys.into_iter().find(is_right)?;
                Some(Held { key, ends_unix_secs: opened.ends_unix_secs })
            }
            (None, Some(_)) => {
                let allocation = self.tables.by_five_tuple(&five_tuple);
                let allocation = allocation.or_else(|| self.named(message));
                let held = allocation.and_then(|allocation| allocation.token.as_deref().copied());
                held.filter(|held| now.unix_secs < held.ends_unix_secs && is_right(&held.key))
            }
            (_, None) => None,
        };
        if let Some(held) = token {
            return Some(Known {
                username: Cow::Owned([&[TOKEN_MARK][..], &held.key.fingerprint()].concat()),
                key: held.key,
                key_kind: KeyKind::Token,
                token,
            });
        }
        let users = self.users(five_tuple.server);
        let username = match claim.name {
            Name::Plain(username) => Cow::Borrowed(username),
            Name::Hashed(hash) => Cow::Owned(users.name_of(hash)?.to_vec()),
        };
        let key = users
            .passwords(now.unix_secs, &username)
            .filter_map(|secret| secret.key_of(choice.algorithm, &username, users.realm()))
            .find(is_right)?;
        let key_kind = match choice.algorithm {
            PasswordAlgorithm::Md5 => KeyKind::Md5,
            PasswordAlgorithm::Sha256 => KeyKind::Sha256,
        };
        Some(Known { username, key, key_kind, token: None })
    }
}
