//! Authentication of requests (RFC 8489 §9.2.4). Owns the order of its checks; keys, users and
//! nonces have files of their own.

use relay_common::addr::FiveTuple;
use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::Message;

use crate::key::Key;
use crate::reject::Reject;
use crate::{Now, Turn};

impl Turn {
    /// The checks of RFC 8489 §9.2.4, in its order.
    pub(crate) fn authenticate<'a>(
        &self,
        now: Now,
        five_tuple: FiveTuple,
        message: &Message<'a>,
    ) -> Result<(&'a [u8], Key), Reject> {
        // No MESSAGE-INTEGRITY: the first request of a client, which learns realm and nonce.
        if message.attribute(AttributeType::MESSAGE_INTEGRITY).is_none() {
            return Err(Reject::Unauthenticated);
        }
        // MESSAGE-INTEGRITY without all of USERNAME, REALM and NONCE, or of a wrong size.
        let of = |kind| message.attribute(kind).ok_or(Reject::BadRequest);
        let integrity = message.integrity().ok_or(Reject::BadRequest)?;
        let username = of(AttributeType::USERNAME)?;
        let realm = of(AttributeType::REALM)?;
        let nonce = of(AttributeType::NONCE)?;
        // A user that is not known, a password that is not right.
        if realm != self.realm.as_bytes() {
            return Err(Reject::Unauthenticated);
        }
        let key = self
            .users
            .passwords(now.unix_secs, username)
            .map(|password| Key::new(username, &self.realm, &password))
            .find(|key| key.verifies(&integrity))
            .ok_or(Reject::Unauthenticated)?;
        // A nonce that is too old, or not of this client.
        if !self.nonces.is_good(now.unix_secs, five_tuple.client, nonce) {
            return Err(Reject::StaleNonce);
        }
        Ok((username, key))
    }
}
