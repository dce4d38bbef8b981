//! RFC 8656, RFC 8489 that it stands on and RFC 8016, one file per section, as data for one
//! `check`.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod credentials;
mod describe;
mod random;
#[path = "../rfc8016/mod.rs"]
mod rfc8016;
#[path = "../rfc8489/mod.rs"]
mod rfc8489;
mod s05_general;
mod s07_allocate;
mod s08_refresh;
mod s09_permission;
mod s11_indication;
mod s12_channel;
mod s21_security;
mod script;
mod ssrf;
mod world;

/// A way to be refused or dropped that no test shows is one that nobody has seen.
#[test]
fn every_error_code_and_every_drop_reason_has_a_test() {
    let tests = [
        include_str!("credentials.rs"),
        include_str!("s05_general.rs"),
        include_str!("s07_allocate.rs"),
        include_str!("s08_refresh.rs"),
        include_str!("s09_permission.rs"),
        include_str!("s11_indication.rs"),
        include_str!("s12_channel.rs"),
        include_str!("s21_security.rs"),
        include_str!("../rfc8016/mod.rs"),
        include_str!("../rfc8489/s06_messages.rs"),
        include_str!("../rfc8489/s10_alternate.rs"),
    ]
    .concat();
    let codes = relay_turn::Code::ALL.iter().map(|code| code.name()).filter(|c| *c != "success");
    let reasons = relay_turn::DropReason::ALL.iter().map(|reason| reason.name());
    for name in codes.chain(reasons) {
        assert!(tests.contains(&format!("=> {name}")), "{name}");
    }
    for outcome in relay_turn::IcmpOutcome::ALL {
        let name = outcome.name();
        let is_shown = outcome == relay_turn::IcmpOutcome::Relayed
            || tests.contains(&format!("=> only icmp_{name}"));
        assert!(is_shown, "{name}");
    }
}
