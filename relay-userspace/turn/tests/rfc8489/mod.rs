//! RFC 8489 and RFC 7635, one file per section.

pub(crate) mod credentials;
pub(crate) mod realms;
mod s06_messages;
mod s09_long_term;
mod s10_alternate;
mod s14_attributes;
pub(crate) mod tokens;
