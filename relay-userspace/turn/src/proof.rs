//! How requests prove who sent them, as metrics tell it. Owns names and counts.

use crate::key::IntegrityKind;

/// Where the key of a request comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyKind {
    /// A password, by MD5.
    Md5,
    /// A password, by SHA-256.
    Sha256,
    /// A third party's token (RFC 7635).
    Token,
}

impl KeyKind {
    /// Every kind, in the order used for metrics.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Sha256, Self::Token];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Token => "token",
        }
    }
}

impl IntegrityKind {
    /// Both kinds, in the order used for metrics.
    pub const ALL: [Self; 2] = [Self::Sha1, Self::Sha256];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

/// What an authenticated request was proved with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proof {
    pub(crate) integrity: IntegrityKind,
    pub(crate) key: KeyKind,
}

/// How many requests were proved with what.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Proofs([[u64; KeyKind::ALL.len()]; IntegrityKind::ALL.len()]);

impl Proofs {
    pub(crate) const fn count(&mut self, proof: Proof) {
        self.0[proof.integrity as usize][proof.key as usize] += 1;
    }

    pub(crate) const fn of(&self, integrity: IntegrityKind, key: KeyKind) -> u64 {
        self.0[integrity as usize][key as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_complete_and_in_order() {
        for (index, kind) in KeyKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        for (index, kind) in IntegrityKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn adding_sums_every_count() {
        let mut proofs = Proofs::default();
        proofs.count(Proof { integrity: IntegrityKind::Sha256, key: KeyKind::Token });
        let other = proofs.clone();
        proofs.add(&other);
        assert_eq!(proofs.of(IntegrityKind::Sha256, KeyKind::Token), 2);
        assert_eq!(proofs.of(IntegrityKind::Sha1, KeyKind::Token), 0);
    }
}
