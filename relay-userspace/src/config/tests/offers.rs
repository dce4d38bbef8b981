//! Extensions that clients are offered, and names and passwords as they are prepared.

use relay_turn::{PasswordAlgorithm, Redirect};

use super::{MINIMAL, check, check_auth, errors, kept, minimal, read};
use crate::config::Warning;

/// MINIMAL, with more in `[auth]` and then whole sections.
fn with(more: &str) -> crate::config::Config {
    read(&format!("{MINIMAL}{more}")).unwrap()
}

#[test]
fn the_defaults_are_what_rfc_8489_asks_for() {
    let offers = minimal().offers;
    let both = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    assert_eq!(offers.password_algorithms, both);
    assert!(!offers.userhash);
    assert_eq!((offers.tokens, offers.software, offers.redirect), (None, None, None));
    assert!(!minimal().relay.mobility);
}

#[test]
fn every_key_is_read() {
    let config = with(
        r#"
        password_algorithms = ["md5"]
        userhash = true
        tokens = { k = "AAECAwQFBgcICQoLDA0ODw==" }
        token_server_name = "name"
        [relay]
        mobility = true
        [redirect]
        servers = ["192.0.2.1:3478", "[2001:db8::1]:3478"]
        domain = "other.example.org"
        allocations = 0
        "#,
    );
    let offers = config.offers;
    assert_eq!(offers.password_algorithms, [PasswordAlgorithm::Md5]);
    assert!(offers.userhash && config.relay.mobility);
    let tokens = offers.tokens.unwrap();
    assert_eq!(tokens.server_name, "name");
    assert_eq!(tokens.keys[0].0, "k");
    assert_eq!(tokens.keys[0].1.0, (0..16).collect::<Vec<u8>>());
    assert!(!format!("{tokens:?}").contains("15"), "{tokens:?}");
    let servers = ["192.0.2.1:3478", "[2001:db8::1]:3478"].map(|s| s.parse().unwrap()).to_vec();
    let domain = Some("other.example.org".to_owned());
    assert_eq!(offers.redirect, Some(Redirect { servers, domain, allocations: Some(0) }));
    assert_eq!(config.warnings, [Warning::UserhashWithSecrets]);
    let named = read(&format!("software = \"Turnpike\"{MINIMAL}")).unwrap();
    assert_eq!(named.offers.software.as_deref(), Some("Turnpike"));
}

#[test]
fn nothing_may_be_offered() {
    assert_eq!(with("password_algorithms = []").offers.password_algorithms, []);
    let tokens = with("tokens = { k = \"AAECAwQFBgcICQoLDA0ODw==\" }").offers.tokens;
    assert_eq!(tokens.unwrap().server_name, "example.org", "the realm");
    let only = "realm = \"r\"\nlisten.udp = [\"192.0.2.1:3478\"]\n\
                auth.tokens = { k = \"AAECAwQFBgcICQoLDA0ODw==\" }";
    assert!(read(only).unwrap().auth.listed.users.is_empty(), "tokens are enough");
}

#[test]
fn what_cannot_be_offered_is_refused() {
    check(
        "password_algorithms = [\"sha256\"]",
        "t.toml:7:24: `password_algorithms` must be \"sha-256\" or \"md5\", not `sha256`",
    );
    check(
        "password_algorithms = [\"md5\", \"md5\"]",
        "t.toml:7:31: `md5` stands twice in `password_algorithms`; remove one",
    );
    let key = "t.toml:7:16: the key of `k` is not 16 or 32 bytes in base64; make one with: openssl \
               rand -base64 32";
    for bad in ["AAECAwQFBgcICQoLDA0O", "AAECAwQFBgcICQoLDA0ODxA=", "not base64", ""] {
        check(&format!("tokens = {{ k = \"{bad}\" }}"), key);
    }
    check(
        "tokens = { k = \"REPLACE-ME\" }",
        "t.toml:7:16: this is still the example's placeholder; make your own: openssl rand -base64 \
         32",
    );
    check(
        "tokens = { k = \"AAECAwQFBgcICQoLDA0ODw==\" }\ntoken_server_name = \"a b\"",
        "t.toml:8:21: `token_server_name` must be a name of 1 to 255 ASCII characters without \
         white space, not `a b`",
    );
    check(
        "token_server_name = \"x\"",
        "t.toml:7:21: there is no key that tokens could be made with; add: tokens = { KID = \
         \"BASE64\" }",
    );
    check(
        "[redirect]\nservers = [\"0.0.0.0:3478\"]",
        "t.toml:8:12: `0.0.0.0:3478` in `redirect.servers` is no address that a client can reach; \
         name the other server's",
    );
    check(
        "[redirect]\ndomain = \"other\"",
        "t.toml:8:10: there is no server to redirect to; add: servers = [\"192.0.2.1:3478\"]",
    );
}

/// RFC 8489 §14.14: fewer than 128 characters; §14.16: ASCII.
#[test]
fn what_is_offered_is_bounded() {
    let software = |count: usize| format!("software = \"{}\"{MINIMAL}", "\u{E9}".repeat(count));
    assert!(read(&software(127)).is_ok());
    assert!(errors(&software(128))[0].contains("at most 127 characters"));
    let domain = |name: &str| {
        let servers = "servers = [\"192.0.2.1:3478\"]";
        read(&format!("{MINIMAL}[redirect]\n{servers}\ndomain = \"{name}\""))
    };
    assert!(domain(&"a".repeat(255)).is_ok());
    for name in [&*"a".repeat(256), "b\u{FC}cher.example", "a b", ""] {
        assert!(domain(name).is_err(), "{name}");
    }
}

#[test]
fn names_passwords_and_the_realm_are_prepared() {
    let config =
        with("users = { \"jose\\u0301\" = \"pass\\u00A0word\", \"a\\u3000b\" = \"e\\u0301\" }");
    let users: Vec<_> = config.auth.listed.users.into_iter().collect();
    let expected = [("a b", "\u{E9}"), ("jos\u{E9}", "pass word")];
    let kept = |(name, text): (&str, &str)| (name.to_owned(), kept(name, text, "example.org"));
    assert_eq!(users, expected.map(kept));
    let realm = MINIMAL.replace("example.org", "re\\u0301alm");
    assert_eq!(read(&realm).unwrap().realm, "r\u{E9}alm");
    // Two ways to write one name are one name.
    check_auth(
        "users = { \"e\\u0301\" = \"x\", \"\\u00E9\" = \"y\" }",
        &["t.toml:4:28: this user is defined before; remove one of the definitions"],
    );
    check_auth(
        "users = { x = \"soft\\u00ADhyphen\" }",
        &["t.toml:4:11: the password has characters that none may have (RFC 8265 §4.2: \
           control characters and such as are not assigned or not shown); set another one"],
    );
    check_auth(
        "users = { \"soft\\u00ADhyphen\" = \"x\" }",
        &["t.toml:4:11: a user name must have 1 to 508 bytes and no control characters (RFC 8489 \
           §14.3); change it"],
    );
}
