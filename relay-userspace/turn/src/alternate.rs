//! Redirection (RFC 8489 §10, RFC 8656 §7.2, check 11): clients are told of another server. Owns
//! which one; that the response is signed is the caller's: nobody unauthenticated is redirected.

use std::net::SocketAddr;

use relay_common::addr::{Family, FiveTuple};
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::TransactionId;
use relay_common::wire::writer::MessageWriter;

use crate::Turn;
use crate::quota::Quota;
use crate::reject::Reject;

/// Where clients are sent, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// The other servers, in any order; each client gets one of each family.
    pub servers: Vec<SocketAddr>,
    /// ALTERNATE-DOMAIN: the name that a TLS certificate of theirs has, at most 255 bytes.
    pub domain: Option<String>,
    /// How many allocations the server has when it begins to redirect; 0: it always does.
    /// `None`: when it has no room or no port.
    pub allocations: Option<u32>,
}

impl Redirect {
    /// The servers for a client: first one of the client's family, then perhaps one of the other.
    /// The transaction decides which, so that a request that comes again is answered alike.
    fn choose(&self, family: Family, transaction: TransactionId) -> [Option<SocketAddr>; 2] {
        let [t0, t1, t2, t3, ..] = transaction.0;
        let draw = u32::from_be_bytes([t0, t1, t2, t3]) as usize;
        let of = |wanted: Family| {
            let mut servers = self.servers.iter().filter(|s| Family::of(s.ip()) == wanted);
            let count = servers.clone().count();
            servers.nth(draw.checked_rem(count)?).copied()
        };
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        [of(family), of(other)]
    }

    /// The attributes of a 300 response.
    pub(crate) fn write(
        &self,
        writer: &mut MessageWriter<'_>,
        five_tuple: &FiveTuple,
        transaction: TransactionId,
    ) {
        let family = Family::of(five_tuple.client.ip());
        for server in self.choose(family, transaction).into_iter().flatten() {
            writer.address(AttributeType::ALTERNATE_SERVER, server);
        }
        if let Some(domain) = &self.domain {
            writer.attribute(AttributeType::ALTERNATE_DOMAIN, domain.as_bytes());
        }
    }

    /// Whether there is a server that the client can reach: §10 wants one of its family.
    fn is_for(&self, five_tuple: &FiveTuple) -> bool {
        let family = Family::of(five_tuple.client.ip());
        self.servers.iter().any(|server| Family::of(server.ip()) == family)
    }
}

impl Turn {
    /// RFC 8656 §7.2, check 11: 300 if there are so many allocations, this one not among them, that
    /// others are to help.
    pub(crate) fn share_load(&self, five_tuple: &FiveTuple) -> Result<(), Reject> {
        let redirect = self.offers.redirect.as_ref().filter(|r| r.is_for(five_tuple));
        match redirect.and_then(|redirect| redirect.allocations) {
            Some(allocations) if self.ledger.allocations() > allocations => {
                Err(Reject::TryAlternate)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A quota is reached: 300 where it is the server's and there is another server.
    pub(crate) fn over(&self, quota: Quota, five_tuple: &FiveTuple) -> Reject {
        match (quota, self.no_room(five_tuple)) {
            (Quota::TotalAllocations | Quota::TotalBandwidth, Reject::TryAlternate) => {
                Reject::TryAlternate
            }
            _ => Reject::Quota(quota),
        }
    }

    /// There is no room or no port for the client: 300 where there is another server, else 508.
    pub(crate) fn no_room(&self, five_tuple: &FiveTuple) -> Reject {
        match &self.offers.redirect {
            Some(redirect) if redirect.is_for(five_tuple) => Reject::TryAlternate,
            Some(_) | None => Reject::InsufficientCapacity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_one_server_of_each_family_its_own_first() {
        let servers = ["192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"];
        let servers = servers.map(|server| server.parse().unwrap()).to_vec();
        let redirect = Redirect { servers, domain: None, allocations: None };
        let choose = |family, byte| {
            let chosen = redirect.choose(family, TransactionId([byte; 12]));
            chosen.map(|server| server.unwrap().to_string())
        };
        assert_eq!(choose(Family::V4, 0), ["192.0.2.1:1", "[2001:db8::1]:1"]);
        assert_eq!(choose(Family::V4, 1), ["192.0.2.2:1", "[2001:db8::1]:1"]);
        assert_eq!(choose(Family::V6, 1), ["[2001:db8::1]:1", "192.0.2.2:1"]);
        let none = Redirect { servers: Vec::new(), ..redirect };
        assert_eq!(none.choose(Family::V4, TransactionId([1; 12])), [None, None]);
    }
}
