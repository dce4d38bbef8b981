//! The TURN server (RFC 8656) as a state machine: values in, values out.
//!
//! One run of it is: [`Turn::handle`] one input, drain [`Turn::poll`] until it is empty, executing
//! each output in order, then sleep until [`Turn::deadline`] or the next input. Never two inputs
//! without draining in between.
//!
//! No socket, clock, thread, file or random source inside: time and seeds come in as values.
#![forbid(unsafe_code)]

mod access_token;
mod algorithms;
mod allocate;
mod allocation;
mod alternate;
mod authenticate;
mod channel;
mod config;
mod credentials;
mod discovery;
mod expire;
mod icmp;
mod io;
mod key;
mod ledger;
mod look_up;
mod mobility;
mod nonce;
mod offers;
mod peers;
mod permission;
mod police;
mod policy;
mod ports;
mod proof;
mod quota;
mod realms;
mod refresh;
mod reject;
mod relay;
mod reply;
mod request;
mod reservation;
mod snapshot;
mod special;
mod tables;
mod throttle;
mod ticket;
mod timers;
mod trie;
mod turn;

pub use access_token::{AccessTokens, TokenKey};
pub use algorithms::PasswordAlgorithm;
pub use alternate::Redirect;
pub use config::{Config, Discovery, Limits, RelayAddress};
pub use credentials::{Credentials, Secret};
pub use io::{AllocationId, Binding, Fragments, Head, Input, Now, Output, Permission, Refusal};
pub use key::IntegrityKind;
pub use ledger::Ledger;
pub use look_up::{LookUps, LookedUp};
pub use mobility::Mobility;
pub use offers::Offers;
pub use police::POLICING_BURST_NS;
pub use policy::{Listed, Loopback, Policy, Rules};
pub use proof::KeyKind;
pub use quota::Quota;
pub use realms::{Realm, RealmId};
pub use snapshot::{Code, DropReason, IcmpOutcome, LookUpOutcome, RequestMethod, Snapshot};
pub use special::{Denial, DeniedBy};
pub use turn::Turn;
