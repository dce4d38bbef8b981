//! MOBILITY-TICKET (RFC 8016 §3.3): what it says, sealed so that nobody else can read, change or
//! make one. Owns the bytes; who may use which ticket when is `mobility.rs`'s.
//!
//! A client that moves mostly reaches another shard than the one that has its allocation. So a
//! ticket says by itself whose it is, under a key that all shards share.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit as _};
use hmac::{Hmac, Mac};
use rand_chacha::rand_core::RngCore;
use sha2::Sha256;

use crate::{AllocationId, Mobility};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const TOLD_BYTES: usize = 2 + 4 + 4 + 4;
const TICKET_BYTES: usize = NONCE_BYTES + TOLD_BYTES + TAG_BYTES;

/// A ticket as it stands in the attribute.
pub(crate) type Ticket = [u8; TICKET_BYTES];

/// What a ticket says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    /// The state machine that has the allocation.
    pub(crate) shard: u16,
    pub(crate) allocation: AllocationId,
    /// Which of the allocation's tickets it is.
    pub(crate) serial: u32,
}

/// Issues and reads tickets.
pub(crate) struct Tickets {
    cipher: Box<Aes256Gcm>,
    shard: u16,
}

impl Tickets {
    /// With a key made of the one that all shards have.
    pub(crate) fn new(key: &[u8; 32], mobility: Option<Mobility>) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
        mac.update(b"MOBILITY-TICKET");
        let key = mac.finalize().into_bytes();
        let cipher = Aes256Gcm::new_from_slice(&key).expect("SHA-256 gives 32 bytes");
        Self { cipher: Box::new(cipher), shard: mobility.map_or(0, |mobility| mobility.shard) }
    }

    /// Whose tickets it issues.
    pub(crate) const fn shard(&self) -> u16 {
        self.shard
    }

    /// A ticket for one of this state machine's allocations. No two are equal: each has a random
    /// nonce, and no allocation has two of one number.
    pub(crate) fn issue(&self, rng: &mut impl RngCore, id: AllocationId, serial: u32) -> Ticket {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let AllocationId { index, generation } = id;
        let numbers = [index, generation, serial].map(u32::to_be_bytes);
        let told = [&self.shard.to_be_bytes()[..], numbers.as_flattened()].concat();
        let sealed = self.cipher.encrypt(&nonce.into(), &*told).expect("short texts can be sealed");
        let mut ticket = [0; TICKET_BYTES];
        ticket[..NONCE_BYTES].copy_from_slice(&nonce);
        ticket[NONCE_BYTES..].copy_from_slice(&sealed);
        ticket
    }

    /// What a ticket of any shard says; `None`: it is none of this server's.
    pub(crate) fn read(&self, ticket: &[u8]) -> Option<Told> {
        let ticket: &Ticket = ticket.try_into().ok()?;
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_BYTES>()?;
        let told = self.cipher.decrypt(nonce.into(), sealed).ok()?;
        let (shard, told) = told.split_first_chunk()?;
        let (index, told) = told.split_first_chunk()?;
        let (generation, serial) = told.split_first_chunk()?;
        let number = u32::from_be_bytes;
        Some(Told {
            shard: u16::from_be_bytes(*shard),
            allocation: AllocationId { index: number(*index), generation: number(*generation) },
            serial: number(serial.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn told() -> Told {
        let allocation = AllocationId { index: 0x0102_0304, generation: 0x0506_0708 };
        Told { shard: 0x090A, allocation, serial: 0x0B0C_0D0E }
    }

    fn issued() -> Ticket {
        let tickets = Tickets::new(&[1; 32], Some(Mobility { shard: told().shard }));
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        tickets.issue(&mut rng, told().allocation, told().serial)
    }

    #[test]
    fn a_ticket_is_read_by_every_shard_of_its_server() {
        let ticket = issued();
        for shard in [0, told().shard] {
            let tickets = Tickets::new(&[1; 32], Some(Mobility { shard }));
            assert_eq!(tickets.read(&ticket), Some(told()));
        }
        assert_eq!(Tickets::new(&[2; 32], None).read(&ticket), None, "of another server");
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_a_ticket() {
        let (tickets, ticket) = (Tickets::new(&[1; 32], None), issued());
        for bit in 0..ticket.len() * 8 {
            let mut forged = ticket;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tickets.read(&forged), None, "{bit}");
        }
        for end in 0..ticket.len() {
            assert_eq!(tickets.read(&ticket[..end]), None, "{end}");
        }
        assert_eq!(tickets.read(&[&ticket[..], &[0]].concat()), None);
        assert_eq!(tickets.read(&[0; 1000]), None);
    }

    /// RFC 8016 §5: nothing is gleaned from the ticket alone.
    #[test]
    fn two_tickets_that_say_the_same_differ_everywhere() {
        let tickets = Tickets::new(&[1; 32], None);
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let mut issue = || tickets.issue(&mut rng, told().allocation, 1);
        let (one, other) = (issue(), issue());
        let equal = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(equal < 8, "{equal} of {TICKET_BYTES} bytes");
    }
}
