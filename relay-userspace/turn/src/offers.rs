//! What of RFC 8489, RFC 7635 and RFC 8016 is offered beyond what every client knows.

use crate::{AccessTokens, Mobility, PasswordAlgorithm, Redirect};

/// Extensions, each with its own rule; the default is what RFC 8489 asks for.
#[derive(Clone, Debug)]
pub struct Offers {
    /// PASSWORD-ALGORITHMS in order of preference, each once. None: nothing is offered, and nonces
    /// say nothing of it; clients use MD5.
    pub password_algorithms: Vec<PasswordAlgorithm>,
    /// Whether clients are told to send USERHASH in place of USERNAME. Only static users can be
    /// found by it, and only if the credentials were made with
    /// [`crate::Credentials::with_userhashes`].
    pub userhash: bool,
    /// SOFTWARE, at most 509 bytes. Told to those who have authenticated.
    pub software: Option<String>,
    /// Other servers.
    pub redirect: Option<Redirect>,
    /// Third-party authorization.
    pub access_tokens: Option<AccessTokens>,
    /// Allocations that move with their clients; `None`: they are refused with 405.
    pub mobility: Option<Mobility>,
}

impl Default for Offers {
    fn default() -> Self {
        Self {
            password_algorithms: vec![PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5],
            userhash: false,
            software: None,
            redirect: None,
            access_tokens: None,
            mobility: None,
        }
    }
}
