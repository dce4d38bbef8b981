//! Password algorithms (RFC 8489 §14.11, §14.12, §18.5): which there are, which are offered, and
//! which one a request names. Owns the rules against bidding down; keys are `key.rs`.

use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::Message;

use crate::nonce;
use crate::reject::Reject;

/// How a key is made of a password (RFC 8489 §18.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PasswordAlgorithm {
    /// 0x0001: MD5, what clients of RFC 5389 know.
    Md5,
    /// 0x0002: SHA-256.
    Sha256,
}

/// Bytes of an algorithm on the wire: a number, and the length of parameters that neither has.
const ENTRY_BYTES: usize = 4;

impl PasswordAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Md5, Self::Sha256];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha-256",
        }
    }

    const fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        match self {
            Self::Md5 => [0, 1, 0, 0],
            Self::Sha256 => [0, 2, 0, 0],
        }
    }

    /// The value of PASSWORD-ALGORITHM. `None`: another algorithm, or one with parameters.
    fn parse(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.to_bytes() == value)
    }
}

/// What a request says of algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    /// What its key is made with.
    pub(crate) algorithm: PasswordAlgorithm,
    /// Whether it speaks of algorithms at all: it is then answered with
    /// MESSAGE-INTEGRITY-SHA256, otherwise with MESSAGE-INTEGRITY (§9.2.4, last paragraph).
    pub(crate) is_named: bool,
}

/// The algorithms that are offered; none: PASSWORD-ALGORITHMS is not sent.
#[derive(Clone, Debug)]
pub(crate) struct Algorithms {
    offered: Vec<PasswordAlgorithm>,
    /// The value of PASSWORD-ALGORITHMS.
    list: Vec<u8>,
}

impl Algorithms {
    pub(crate) fn new(offered: &[PasswordAlgorithm]) -> Self {
        let list = offered.iter().flat_map(|algorithm| algorithm.to_bytes()).collect();
        Self { offered: offered.to_vec(), list }
    }

    /// The value of PASSWORD-ALGORITHMS, if it is to be sent.
    pub(crate) fn list(&self) -> Option<&[u8]> {
        (!self.list.is_empty()).then_some(self.list.as_slice())
    }

    /// Which algorithm a request is made with: the third check of §9.2.4. The list is the same
    /// for as long as a nonce is good, so that it is the one that was sent with the nonce.
    pub(crate) fn choose(&self, nonce: &[u8], message: &Message<'_>) -> Result<Choice, Reject> {
        let named = message.attribute(AttributeType::PASSWORD_ALGORITHM);
        let listed = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
        let is_named = named.is_some() || listed.is_some();
        if !is_named {
            return Ok(Choice { algorithm: PasswordAlgorithm::Md5, is_named });
        }
        let algorithm = match named.map(PasswordAlgorithm::parse) {
            Some(Some(algorithm)) => algorithm,
            Some(None) => return Err(Reject::BadRequest),
            None => PasswordAlgorithm::Md5,
        };
        if nonce::promises_algorithms(nonce) {
            let is_ours = listed == self.list() && self.offered.contains(&algorithm);
            if named.is_none() || !is_ours {
                return Err(Reject::BadRequest);
            }
        }
        Ok(Choice { algorithm, is_named })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_rfc_8489_18_5() {
        let both = Algorithms::new(&[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]);
        assert_eq!(both.list(), Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]), "in order of preference");
        assert_eq!(Algorithms::new(&[]).list(), None);
        assert_eq!(PasswordAlgorithm::parse(&[0, 1, 0, 0]), Some(PasswordAlgorithm::Md5));
        assert_eq!(PasswordAlgorithm::parse(&[0, 2, 0, 0]), Some(PasswordAlgorithm::Sha256));
        for other in [&[0, 0, 0, 0][..], &[0, 3, 0, 0], &[0, 1, 0, 4, 1, 2, 3, 4], &[0, 1], &[]] {
            assert_eq!(PasswordAlgorithm::parse(other), None);
        }
    }
}
