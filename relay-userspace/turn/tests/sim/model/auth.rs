//! Requests (RFC 8489 §6.3.1) and the long-term credential mechanism (§9.2.4), with tokens
//! (RFC 7635 §7) beside it.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay_turn::{IntegrityKind, KeyKind, PasswordAlgorithm};

use super::users::Session;
use super::wire::{self, Known, Stun};
use super::{Answer, Effect, Expected, Issued, Model, Signed, Time, Tuple, Who};
use crate::accounts::SERVER_NAME;
use crate::rules::REALM;

/// What a nonce starts with that says what the server can do (RFC 8489 §9.2).
const COOKIE: &[u8] = b"obMatJos2";

impl Model {
    /// A datagram on a TURN server transport address.
    pub fn client_sends(&mut self, now: Time, tuple: Tuple, bytes: &[u8]) -> Expected {
        self.purge(now);
        // RFC 7983 §7, with the ChannelData of RFC 5766.
        match bytes.first() {
            Some(0x00..=0x03) => {}
            Some(0x40..=0x7F) => return self.channel_data(now, tuple, bytes),
            _ => return Expected::Silence,
        }
        let Some(stun) = Stun::read(bytes).filter(|stun| stun.fingerprint != Some(false)) else {
            return Expected::Silence;
        };
        match stun.class {
            wire::REQUEST => self.request(now, tuple, bytes, &stun),
            wire::INDICATION => self.indication(now, tuple, &stun),
            _ => Expected::Silence,
        }
    }

    fn answer_to(&self, tuple: Tuple, bytes: &[u8], stun: &Stun) -> Answer {
        Answer {
            tuple,
            method: stun.method,
            transaction: stun.transaction,
            fingerprint: stun.fingerprint.is_some(),
            asked_bytes: bytes.len(),
            signed: None,
            codes: Vec::new(),
            unknown: self.unknown(stun),
            may_be_silent: self.rules.is_throttled,
            effect: Effect::Nothing,
        }
    }

    fn request(&mut self, now: Time, tuple: Tuple, bytes: &[u8], stun: &Stun) -> Expected {
        let mut answer = self.answer_to(tuple, bytes, stun);
        let known = self.known(stun, &[]);
        match stun.method {
            wire::BINDING => self.binding(stun, &mut answer),
            wire::ALLOCATE | wire::REFRESH | wire::CREATE_PERMISSION | wire::CHANNEL_BIND => {
                let session = match self.held_up(now, tuple, bytes, stun) {
                    Some(Ok(parked)) => return parked,
                    Some(Err(code)) => Err(code),
                    None => self.authenticate(now, tuple, bytes, stun),
                };
                match session {
                    Ok((session, signed)) => {
                        answer.signed = Some(signed);
                        answer.may_be_silent = false;
                        if known == Known::No {
                            answer.codes = vec![420];
                        } else {
                            return self.method(now, stun, &session, answer);
                        }
                    }
                    Err(code) => answer.codes = vec![code],
                }
            }
            // A method that nobody knows: an error, or nothing.
            _ => (answer.codes, answer.may_be_silent) = (vec![400, 420, 401], true),
        }
        if known == Known::Perhaps && answer.signed.is_none() && stun.method != wire::BINDING {
            answer.codes.extend([400, 401, 420, 438]);
        }
        Expected::Answer(Box::new(answer))
    }

    /// Whether a request's attributes are known; `more` are known as well.
    pub(super) fn known(&self, stun: &Stun, more: &[u16]) -> Known {
        stun.known(more, self.refused())
    }

    /// RFC 7635 §7: a token is unknown to who has not asked for one.
    fn refused(&self) -> &'static [u16] {
        if self.rules.has_tokens { &[] } else { &[wire::ACCESS_TOKEN] }
    }

    /// What is certainly not known of a request, each as often as it is there.
    fn unknown(&self, stun: &Stun) -> Vec<u16> {
        let kinds = stun.counting().map(|attribute| attribute.kind);
        kinds.filter(|kind| *kind == wire::UNKNOWN || self.refused().contains(kind)).collect()
    }

    fn method(
        &mut self,
        now: Time,
        stun: &Stun,
        session: &Session,
        mut answer: Answer,
    ) -> Expected {
        if self.known(stun, &[]) == Known::Perhaps {
            answer.codes.push(420);
        }
        match stun.method {
            wire::ALLOCATE => return self.allocate(now, stun, session, answer),
            wire::REFRESH => self.refresh(now, stun, session, &mut answer),
            wire::CREATE_PERMISSION => self.create_permission(now, stun, session, &mut answer),
            _ => self.channel_bind(now, stun, session, &mut answer),
        }
        Expected::Answer(Box::new(answer))
    }

    /// A request whose user could not be looked up: 500, from nobody who is known.
    pub fn not_looked_up(&self, tuple: Tuple, bytes: &[u8]) -> Expected {
        let stun = Stun::read(bytes).expect("it was read before it had to wait");
        let codes = vec![500];
        Expected::Answer(Box::new(Answer { codes, ..self.answer_to(tuple, bytes, &stun) }))
    }

    /// RFC 8489 §9.2.4, in its order: who it is, or the error's code.
    fn authenticate(
        &mut self,
        now: Time,
        tuple: Tuple,
        bytes: &[u8],
        stun: &Stun,
    ) -> Result<(Session, Signed), u16> {
        let (sha1, sha256) = (wire::MESSAGE_INTEGRITY, wire::MESSAGE_INTEGRITY_SHA256);
        let (kind, length) = if stun.value(sha256).is_some() { (sha256, 32) } else { (sha1, 20) };
        let integrity = stun.value(kind).ok_or(401_u16)?;
        let hash = stun.value(wire::USERHASH);
        if stun.value(wire::USERNAME).is_none() && hash.is_none() {
            return Err(400);
        }
        let realm = stun.value(wire::REALM).ok_or(400_u16)?;
        let nonce = stun.value(wire::NONCE).ok_or(400_u16)?;
        if integrity.len() != length {
            return Err(400);
        }
        let (algorithm, says_algorithm) = self.algorithm(stun, nonce)?;
        if realm != REALM.as_bytes() {
            return Err(401);
        }
        let (session, key_kind) =
            self.session(now, tuple, bytes, stun, (kind, algorithm)).ok_or(401_u16)?;
        if !self.is_nonce_good(now, tuple.0, nonce) {
            return Err(438);
        }
        let integrity = if kind == sha256 { IntegrityKind::Sha256 } else { IntegrityKind::Sha1 };
        let kind = if says_algorithm { sha256 } else { sha1 };
        let signed = Signed { kind, key: session.key.clone(), proof: (integrity, key_kind) };
        Ok((session, signed))
    }

    /// Who knows the key that the request is signed with.
    fn session(
        &mut self,
        now: Time,
        tuple: Tuple,
        bytes: &[u8],
        stun: &Stun,
        (kind, algorithm): (u16, PasswordAlgorithm),
    ) -> Option<(Session, KeyKind)> {
        let name = stun.value(wire::USERNAME);
        let sealed = stun.value(wire::ACCESS_TOKEN);
        if self.rules.has_tokens {
            // USERNAME names the token's key: what is hashed names none.
            let kid = name.unwrap_or_default();
            let by_token = self.token(now, tuple, kid, sealed).filter(|_| {
                let is_plain = name.is_some();
                is_plain || sealed.is_none()
            });
            let is_right = |key: &Vec<u8>| stun.is_signed(bytes, kind, key);
            if let Some((keys, end)) = by_token
                && let Some(key) = keys.into_iter().find(is_right)
            {
                let who = Who::Bearer(key.clone());
                return Some((Session { who, key, token_end: Some(end) }, KeyKind::Token));
            }
            if sealed.is_some() {
                return None;
            }
        }
        let user = match name {
            Some(name) => name.to_vec(),
            None => self.name_of(stun.value(wire::USERHASH)?)?,
        };
        let keys = self.keys(now, self.shard_of(tuple), &user, algorithm);
        let key = keys.into_iter().find(|key| stun.is_signed(bytes, kind, key))?;
        let key_kind = match algorithm {
            PasswordAlgorithm::Md5 => KeyKind::Md5,
            PasswordAlgorithm::Sha256 => KeyKind::Sha256,
        };
        Some((Session { who: Who::Named(user), key, token_end: None }, key_kind))
    }

    /// The third check of §9.2.4: which algorithm the key is made with, and whether the request
    /// says so. Whoever stands between must not change what was offered.
    fn algorithm(&self, stun: &Stun, nonce: &[u8]) -> Result<(PasswordAlgorithm, bool), u16> {
        let chosen = stun.value(wire::PASSWORD_ALGORITHM);
        let listed = stun.value(wire::PASSWORD_ALGORITHMS);
        if chosen.is_none() && listed.is_none() {
            return Ok((PasswordAlgorithm::Md5, false));
        }
        let algorithm = match chosen {
            None | Some([0, 1, 0, 0]) => PasswordAlgorithm::Md5,
            Some([0, 2, 0, 0]) => PasswordAlgorithm::Sha256,
            Some(_) => return Err(400),
        };
        let is_offered = self.rules.algorithms.contains(&algorithm);
        let is_ours = listed == Some(&self.offered()) && chosen.is_some() && is_offered;
        match promises_algorithms(nonce) && !is_ours {
            true => Err(400),
            false => Ok((algorithm, true)),
        }
    }

    /// The value of PASSWORD-ALGORITHMS.
    fn offered(&self) -> Vec<u8> {
        let entry = |algorithm: &PasswordAlgorithm| match algorithm {
            PasswordAlgorithm::Md5 => [0, 1, 0, 0],
            PasswordAlgorithm::Sha256 => [0, 2, 0, 0],
        };
        self.rules.algorithms.iter().flat_map(entry).collect()
    }

    pub(super) fn is_nonce_good(&self, now: Time, client: SocketAddr, nonce: &[u8]) -> bool {
        let is_good = |issued: &Issued| {
            let age = now.unix.checked_sub(issued.unix);
            (issued.client, &issued.nonce[..]) == (client, nonce)
                && age.is_some_and(|age| age <= self.rules.limits.nonce_secs.into())
        };
        self.nonces.iter().rev().any(is_good)
    }

    /// 401 and 438 bring a realm and a nonce, and what is offered (RFC 8489 §9.2.4, RFC 7635 §6.1).
    pub(super) fn challenged(
        &mut self,
        now: Time,
        client: SocketAddr,
        code: u16,
        stun: &Stun,
    ) -> Result<(), String> {
        if stun.value(wire::REALM) != Some(REALM.as_bytes()) {
            return Err("REALM".to_owned());
        }
        let nonce = stun.value(wire::NONCE).ok_or("no NONCE")?.to_vec();
        // RFC 8656 §5: another one each time.
        if self.nonces.iter().any(|issued| issued.nonce == nonce) {
            return Err("the same NONCE again".to_owned());
        }
        let offered = Some(self.offered()).filter(|offered| !offered.is_empty());
        if stun.value(wire::PASSWORD_ALGORITHMS) != offered.as_deref() {
            return Err("PASSWORD-ALGORITHMS".to_owned());
        }
        // §9.2, §18.1: the bits are part of every nonce, so that nobody can take them away.
        let bits = u8::from(offered.is_some()) << 7 | u8::from(self.rules.has_userhashes) << 6;
        let promise = [COOKIE, STANDARD.encode([bits, 0, 0]).as_bytes()].concat();
        if !nonce.starts_with(&promise) {
            return Err("the nonce's security features".to_owned());
        }
        let party = stun.value(wire::THIRD_PARTY_AUTHORIZATION);
        let is_told = self.rules.has_tokens && code == 401;
        if party != is_told.then_some(SERVER_NAME.as_bytes()) {
            return Err("THIRD-PARTY-AUTHORIZATION".to_owned());
        }
        self.nonces.push(Issued { client, nonce, unix: now.unix });
        Ok(())
    }
}

/// Whether the nonce says that PASSWORD-ALGORITHMS came with it.
fn promises_algorithms(nonce: &[u8]) -> bool {
    let bits = nonce.strip_prefix(COOKIE).and_then(|rest| STANDARD.decode(rest.get(..4)?).ok());
    bits.is_some_and(|bits| bits[0] & 0x80 != 0)
}
