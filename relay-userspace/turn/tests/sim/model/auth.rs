//! Requests (RFC 8489 §6.3.1) and the long-term credential mechanism (§9.2.4).

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::wire::{self, Known, Stun};
use super::{Answer, Effect, Expected, Issued, Model, Time, Tuple};
use crate::rules::{REALM, SECRET, USERS};

/// The password of a time-limited user name.
pub fn rest_password(user: &[u8]) -> String {
    STANDARD.encode(wire::hmac_sha1(SECRET.as_bytes(), user))
}

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

    fn request(&mut self, now: Time, tuple: Tuple, bytes: &[u8], stun: &Stun) -> Expected {
        let mut answer = Answer {
            tuple,
            method: stun.method,
            transaction: stun.transaction,
            fingerprint: stun.fingerprint.is_some(),
            asked_bytes: bytes.len(),
            key: None,
            codes: Vec::new(),
            may_be_silent: self.rules.is_throttled,
            effect: Effect::Nothing,
        };
        let known = stun.known();
        match stun.method {
            wire::BINDING => {
                answer.effect = Effect::Reflexive;
                answer.codes = match known {
                    Known::Yes => vec![0],
                    Known::No => vec![420],
                    Known::Perhaps => vec![0, 420],
                };
            }
            wire::ALLOCATE | wire::REFRESH | wire::CREATE_PERMISSION | wire::CHANNEL_BIND => {
                match self.authenticate(now, tuple.0, bytes, stun) {
                    Ok((user, key)) => {
                        answer.key = Some(key);
                        answer.may_be_silent = false;
                        if known == Known::No {
                            answer.codes = vec![420];
                        } else {
                            return self.method(stun, &user, answer);
                        }
                    }
                    Err(code) => answer.codes = vec![code],
                }
            }
            // A method that nobody knows: an error, or nothing.
            _ => (answer.codes, answer.may_be_silent) = (vec![400, 420, 401], true),
        }
        if known == Known::Perhaps && answer.key.is_none() {
            answer.codes.extend([400, 401, 420, 438]);
        }
        Expected::Answer(Box::new(answer))
    }

    fn method(&mut self, stun: &Stun, user: &[u8], mut answer: Answer) -> Expected {
        if stun.known() == Known::Perhaps {
            answer.codes.push(420);
        }
        match stun.method {
            wire::ALLOCATE => return self.allocate(stun, user, answer),
            wire::REFRESH => self.refresh(stun, user, &mut answer),
            wire::CREATE_PERMISSION => self.create_permission(stun, user, &mut answer),
            _ => self.channel_bind(stun, user, &mut answer),
        }
        Expected::Answer(Box::new(answer))
    }

    /// RFC 8489 §9.2.4: who it is, or the error's code.
    fn authenticate(
        &mut self,
        now: Time,
        client: SocketAddr,
        bytes: &[u8],
        stun: &Stun,
    ) -> Result<(Vec<u8>, [u8; 16]), u16> {
        let integrity = stun.value(wire::MESSAGE_INTEGRITY).ok_or(401_u16)?;
        let user = stun.value(wire::USERNAME).ok_or(400_u16)?;
        let realm = stun.value(wire::REALM).ok_or(400_u16)?;
        let nonce = stun.value(wire::NONCE).ok_or(400_u16)?;
        if integrity.len() != 20 {
            return Err(400);
        }
        let key = self.key(now, user).filter(|_| realm == REALM.as_bytes()).ok_or(401_u16)?;
        if !stun.is_signed(bytes, &key) {
            return Err(401);
        }
        let is_good = |issued: &Issued| {
            let age = now.unix.checked_sub(issued.unix);
            (issued.client, &issued.nonce[..]) == (client, nonce)
                && age.is_some_and(|age| age <= self.rules.limits.nonce_secs.into())
        };
        if self.nonces.iter().rev().any(is_good) { Ok((user.to_vec(), key)) } else { Err(438) }
    }

    /// The key of a user who is one at this time.
    fn key(&mut self, now: Time, user: &[u8]) -> Option<[u8; 16]> {
        let known = USERS.iter().find(|(name, _)| name.as_bytes() == user);
        let password = match known {
            Some((_, password)) => (*password).to_owned(),
            None => {
                let digits = user.split(|byte| *byte == b':').next()?;
                let expiry: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
                if now.unix >= expiry {
                    return None;
                }
                rest_password(user)
            }
        };
        if let Some((_, key)) = self.keys.iter().find(|(name, _)| name == user) {
            return Some(*key);
        }
        let key = wire::key(user, REALM, password.as_bytes());
        self.keys.push((user.to_vec(), key));
        Some(key)
    }

    /// 401 and 438 bring a realm and a nonce (RFC 8489 §9.2.4).
    pub(super) fn challenged(
        &mut self,
        now: Time,
        client: SocketAddr,
        stun: &Stun,
    ) -> Result<(), String> {
        if stun.value(wire::REALM) != Some(REALM.as_bytes()) {
            return Err("REALM".to_owned());
        }
        let nonce = stun.value(wire::NONCE).ok_or("no NONCE")?.to_vec();
        if nonce.is_empty() {
            return Err("an empty NONCE".to_owned());
        }
        self.nonces.push(Issued { client, nonce, unix: now.unix });
        Ok(())
    }
}
