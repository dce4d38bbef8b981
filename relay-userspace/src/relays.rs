//! The sockets of the relayed transport addresses: one of each family for an allocation at most.
//! Owns where they are found; opens none and reads none.

use std::os::fd::{AsRawFd, OwnedFd};

use relay_common::addr::Family;
use relay_turn::AllocationId;

use crate::ring::{Socket, Token};

/// Tokens of relayed sockets have it, those of listening sockets do not.
const RELAY_TOKEN: Token = 1 << 55;
/// Where the family stands in a token.
const FAMILY_SHIFT: u32 = 54;
/// As much of the generation as fits.
const GENERATION_MASK: u64 = 0x003F_FFFF;

/// All of them, by the index of their allocation.
#[derive(Default)]
pub(crate) struct Relays {
    places: Vec<[Option<Relay>; Family::ALL.len()]>,
}

struct Relay {
    allocation: AllocationId,
    socket: OwnedFd,
}

impl Relays {
    /// Keeps a socket of an allocation, and names it.
    pub(crate) fn insert(
        &mut self,
        allocation: AllocationId,
        family: Family,
        socket: OwnedFd,
    ) -> Socket {
        let index = allocation.index as usize;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, Default::default);
        }
        let named = Socket { token: token(allocation, family), fd: socket.as_raw_fd() };
        self.places[index][family as usize] = Some(Relay { allocation, socket });
        named
    }

    /// Takes a socket out, with its name.
    pub(crate) fn take(
        &mut self,
        allocation: AllocationId,
        family: Family,
    ) -> Option<(Token, OwnedFd)> {
        let place = &mut self.places.get_mut(allocation.index as usize)?[family as usize];
        let relay = place.take_if(|relay| relay.allocation == allocation)?;
        Some((token(allocation, family), relay.socket))
    }

    /// The socket of an allocation's address of a family.
    pub(crate) fn of(&self, allocation: AllocationId, family: Family) -> Option<Socket> {
        let relay = self.places.get(allocation.index as usize)?[family as usize].as_ref()?;
        let fd = relay.socket.as_raw_fd();
        (relay.allocation == allocation).then_some(Socket { token: token(allocation, family), fd })
    }

    /// Whose socket a token names, and the socket, if it is still open. `None` for a token of a
    /// listening socket.
    pub(crate) fn named(&self, named: Token) -> Option<(AllocationId, &OwnedFd)> {
        if named & RELAY_TOKEN == 0 {
            return None;
        }
        let family = if named >> FAMILY_SHIFT & 1 == 0 { Family::V4 } else { Family::V6 };
        let index = usize::try_from(named & u64::from(u32::MAX)).ok()?;
        let relay = self.places.get(index)?[family as usize].as_ref()?;
        (token(relay.allocation, family) == named).then_some((relay.allocation, &relay.socket))
    }
}

/// A socket's token: the index, and as much of the generation as fits.
fn token(allocation: AllocationId, family: Family) -> Token {
    let generation = u64::from(allocation.generation) & GENERATION_MASK;
    let family = (family as u64) << FAMILY_SHIFT;
    RELAY_TOKEN | family | generation << 32 | u64::from(allocation.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn socket() -> OwnedFd {
        UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_token_leads_to_its_own_socket_as_long_as_that_is_open() {
        let mut relays = Relays::default();
        let first = AllocationId { index: 3, generation: 0 };
        let next = AllocationId { index: 3, generation: 1 };
        let (v4, v6) = (socket(), socket());
        let (fd4, fd6) = (v4.as_raw_fd(), v6.as_raw_fd());
        let v4 = relays.insert(first, Family::V4, v4);
        let v6 = relays.insert(first, Family::V6, v6);
        assert_eq!((v4.fd, v6.fd), (fd4, fd6));
        assert_ne!(v4.token, v6.token);
        assert!(v6.token < 1 << 56, "the ring has the rest");
        let fd = |relays: &Relays, token| relays.named(token).map(|(_, s)| s.as_raw_fd());
        assert_eq!((fd(&relays, v4.token), fd(&relays, v6.token)), (Some(fd4), Some(fd6)));
        assert_eq!(relays.of(first, Family::V6), Some(v6));
        assert_eq!(relays.of(next, Family::V6), None, "another generation");
        assert_eq!(fd(&relays, 3), None, "a listening socket's");
        assert!(relays.take(next, Family::V4).is_none());
        assert_eq!(relays.take(first, Family::V4).map(|(token, _)| token), Some(v4.token));
        assert_eq!((fd(&relays, v4.token), fd(&relays, v6.token)), (None, Some(fd6)));
        let _ = relays.take(first, Family::V6);
        let reused = relays.insert(next, Family::V6, socket());
        assert_eq!(fd(&relays, v6.token), None, "the one before");
        assert_eq!(fd(&relays, reused.token), Some(reused.fd));
    }
}
