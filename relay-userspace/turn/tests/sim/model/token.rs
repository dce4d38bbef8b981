//! Third parties' tokens (RFC 7635 §6.2), sealed and opened.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm};

use crate::accounts::{SERVER_NAME, TOKEN_KEYS};

/// How far clocks may be apart (§7).
const SKEW_SECS: u64 = 5;

/// What is in a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub key: Vec<u8>,
    /// Seconds since 1970.
    pub issued: u64,
    pub lifetime_secs: u32,
}

impl Token {
    /// As an authorization server makes it for a server of this name.
    pub fn seal(&self, kid: &str, server: &str, nonce: [u8; 12]) -> Vec<u8> {
        let length = u16::try_from(self.key.len()).unwrap().to_be_bytes();
        let issued = (self.issued << 16).to_be_bytes();
        let block =
            [&length[..], &self.key, &issued, &self.lifetime_secs.to_be_bytes()[..]].concat();
        let payload = Payload { msg: &block, aad: server.as_bytes() };
        let (_, key) = TOKEN_KEYS.iter().find(|(name, _)| *name == kid).unwrap();
        let sealed = match key.len() {
            16 => Aes128Gcm::new_from_slice(key).unwrap().encrypt(&nonce.into(), payload),
            _ => Aes256Gcm::new_from_slice(key).unwrap().encrypt(&nonce.into(), payload),
        };
        [&[0, 12][..], &nonce, &sealed.unwrap()].concat()
    }

    /// `None`: it is not one for us.
    pub fn open(kid: &[u8], sealed: &[u8]) -> Option<Self> {
        let (_, key) = TOKEN_KEYS.iter().find(|(name, _)| name.as_bytes() == kid)?;
        let nonce: [u8; 12] = sealed.strip_prefix(&[0, 12])?.get(..12)?.try_into().unwrap();
        let payload = Payload { msg: &sealed[14..], aad: SERVER_NAME.as_bytes() };
        let block = match key.len() {
            16 => Aes128Gcm::new_from_slice(key).unwrap().decrypt(&nonce.into(), payload),
            _ => Aes256Gcm::new_from_slice(key).unwrap().decrypt(&nonce.into(), payload),
        };
        let block = block.ok()?;
        let length = usize::from(u16::from_be_bytes(block[..2].try_into().unwrap()));
        let (key, times) = (block[2..].get(..length)?, block[2..].get(length..)?);
        Some(Self {
            key: key.to_vec(),
            issued: u64::from_be_bytes(times.get(..8)?.try_into().unwrap()) >> 16,
            lifetime_secs: u32::from_be_bytes(times.get(8..)?.try_into().ok()?),
        })
    }

    /// Until when it is good, if it is now: never for longer than its lifetime.
    pub fn end(&self, unix: u64) -> Option<u64> {
        let lifetime = u64::from(self.lifetime_secs);
        let apart = unix.abs_diff(self.issued);
        let left = (lifetime + SKEW_SECS).checked_sub(apart).filter(|left| *left > 0)?;
        Some(unix + left.min(lifetime.max(1)))
    }
}
