//! What every subcommand that speaks TURN stands on: the client, its credentials, the target.

pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod failure;
pub(crate) mod framing;
mod request;
pub(crate) mod target;
pub(crate) mod transport;
