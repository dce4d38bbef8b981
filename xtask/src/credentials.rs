//! Time-limited credentials from a shared secret, as a web backend would make them for its users
//! (draft-uberti-behave-turn-rest-00). Reads no clock: the caller says when they expire.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// What a TURN client is given to log in with.
pub(crate) struct Credentials {
    /// `EXPIRY:NAME`, the expiry in Unix seconds.
    pub(crate) username: String,
    /// Base64 of HMAC-SHA1 over the user name, keyed with the relay's secret.
    pub(crate) password: String,
}

impl Credentials {
    /// Credentials for `name` that the relay accepts until `expires_unix_secs`.
    pub(crate) fn derive(secret: &str, name: &str, expires_unix_secs: u64) -> Self {
        let username = format!("{expires_unix_secs}:{name}");
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        Self { username, password }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_what_openssl_computes() {
        // printf '1767225600:dev' | openssl dgst -sha1 -hmac 'correct horse' -binary | base64
        let credentials = Credentials::derive("correct horse", "dev", 1_767_225_600);
        assert_eq!(credentials.username, "1767225600:dev");
        assert_eq!(credentials.password, "MrKZxJRkBf6igS+cZPVkk6dNHyQ=");
    }
}
