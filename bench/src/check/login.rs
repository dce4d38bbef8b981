//! Do the credentials work, and what address does the server relay from?

use std::net::SocketAddr;

use relay_common::addr::Family;

use crate::check::finding::Findings;
use crate::check::message::Answer;
use crate::check::scope::Scope;
use crate::check::session::{Refusal, Session};
use crate::check::watch::Trouble;
use crate::clock;

/// How the credentials came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Given on the command line.
    Given,
    /// Minted from the shared secret, with an expiry in the future.
    Minted,
}

/// Longest NONCE (RFC 8489 §14.10), bytes.
const NONCE_BYTES_MAX: usize = 763;
/// Clients refresh at half of it or a minute before its end: less than this makes many requests.
const LIFETIME_SECS_SHORT: u32 = 120;

/// Allocates; says what is wrong when it does not work.
///
/// # Errors
/// The user asked for the end, or this host failed.
pub(crate) fn log_in(
    session: &mut Session,
    server: SocketAddr,
    origin: Origin,
    findings: &mut Findings,
) -> anyhow::Result<Option<Answer>> {
    let family = Family::of(server.ip());
    match session.allocate(family) {
        Ok(answer) => {
            judge_success(session, findings);
            Ok(Some(answer))
        }
        Err(Refusal::Trouble(Trouble::Interrupted)) => Err(Trouble::Interrupted.into()),
        Err(Refusal::Host(error)) => Err(error),
        Err(refusal) => {
            judge_refusal(session, &refusal, origin, family, findings);
            Ok(None)
        }
    }
}

fn judge_success(session: &Session, findings: &mut Findings) {
    let Some(auth) = session.auth() else {
        findings.wrong(
            "credentials",
            "the server allocates without asking for credentials: anybody can relay through it",
            "turn authentication on (coturn: --lt-cred-mech with users, or --use-auth-secret)",
        );
        return;
    };
    let realm = String::from_utf8_lossy(&auth.realm);
    findings.fine(
        "credentials",
        format!("user {:?} of realm {realm:?} is accepted", session.username()),
    );
    if auth.realm.is_empty() || auth.nonce.is_empty() || auth.nonce.len() > NONCE_BYTES_MAX {
        findings.suspect(
            "credentials",
            format!("the realm has {} bytes, the nonce {}", auth.realm.len(), auth.nonce.len()),
            "both must hold 1 to 763 bytes (RFC 8489 §14.9, §14.10): set the server's realm",
        );
    }
}

fn judge_refusal(
    session: &Session,
    refusal: &Refusal,
    origin: Origin,
    family: Family,
    findings: &mut Findings,
) {
    let check = "credentials";
    match refusal {
        Refusal::Error { code: 401 | 441, .. } => {
            findings.wrong(check, unauthorized(session, origin), login_advice(session, origin));
        }
        Refusal::Error { code, words, alternate } => {
            let to = alternate.map_or(String::new(), |it| format!(" (ask {it} instead)"));
            let message = format!("Allocate is refused: {code} {words}{to}");
            findings.wrong(check, message, code_advice(*code, family));
        }
        Refusal::NoChallenge => findings.wrong(
            check,
            "the server's 401 or 438 lacks REALM or NONCE: no client can log in",
            "this is no long-term credential mechanism (RFC 8489 §9.2): set a realm",
        ),
        Refusal::NotAuthentic => findings.wrong(
            check,
            "the success response is not signed with this password",
            "something between here and the server answers in its place, or the server is broken",
        ),
        Refusal::Trouble(trouble) => findings.wrong(
            check,
            format!("Binding is answered, Allocate is not: {trouble}"),
            "is it only a STUN server? Or a rate limit or a filter drops Allocate requests",
        ),
        Refusal::Host(_) => {}
    }
}

fn unauthorized(session: &Session, origin: Origin) -> String {
    let user = session.username();
    match (origin, expired_secs(user)) {
        (Origin::Given, Some(ago)) => {
            format!("401: the time-limited user name {user:?} expired {ago} s ago")
        }
        _ => format!("401: user {user:?} and its password are not accepted"),
    }
}

fn login_advice(session: &Session, origin: Origin) -> String {
    let realm = session.auth().map(|auth| String::from_utf8_lossy(&auth.realm).into_owned());
    let realm = realm.unwrap_or_default();
    match (origin, expired_secs(session.username())) {
        (Origin::Given, Some(_)) => "get fresh credentials from the application; if they are \
                                     fresh, the clock of this host or of whoever minted them is \
                                     wrong"
            .to_owned(),
        (Origin::Given, None) => format!(
            "wrong user name or password for realm {realm:?}; if the password was made from a \
             shared secret, use --secret, and compare the clocks: a server whose clock is ahead \
             takes credentials for expired"
        ),
        (Origin::Minted, _) => "wrong --secret, or the server does not use shared secrets, or its \
                                clock is more than an hour ahead of this host's"
            .to_owned(),
    }
}

/// How long ago a `time:name` user name expired, seconds.
fn expired_secs(username: &str) -> Option<u64> {
    let expiry: u64 = username.split_once(':').map_or(username, |(time, _)| time).parse().ok()?;
    // A plain number that is no time of this century is a name.
    let now = clock::unix_secs();
    (expiry > 1_000_000_000 && expiry <= now).then(|| now - expiry)
}

fn code_advice(code: u16, family: Family) -> String {
    match code {
        300 => "the server sends clients to another one: check that one, with the same command",
        403 => "the server's policy forbids this user or this host to allocate",
        420 => "the server does not know an attribute that RFC 8656 clients send: update it",
        437 => {
            "the server believes that this address and port has an allocation: a NAT reused \
                the port, or two servers share one state; run it again"
        }
        438 => {
            "every nonce is called stale: a load balancer spreads the requests of one client \
                over several servers, or the server's clock jumps"
        }
        440 => {
            return format!(
                "the server relays no {}: give it a relay address of that family, or reach it \
                 over the other one (--family)",
                family.name()
            );
        }
        442 => "the server does not relay UDP",
        486 => {
            "the user's quota of allocations is used up: wait until old ones expire, or raise \
                the quota (coturn: --user-quota, --total-quota)"
        }
        508 => {
            "the server has no relayed port or address left: widen its port range (coturn: \
                --min-port, --max-port; turnpike: [relay] ports)"
        }
        500..=599 => "the server has trouble of its own: read its log",
        _ => "read the server's log",
    }
    .to_owned()
}

/// Whether packets can be sent to a relayed transport address over the allocation's family.
pub(crate) fn is_usable(relayed: SocketAddr, server: SocketAddr) -> bool {
    relayed.port() != 0 && Family::of(relayed.ip()) == Family::of(server.ip())
}

/// Is the relayed transport address one that peers can reach?
pub(crate) fn judge_relayed(answer: &Answer, server: SocketAddr, findings: &mut Findings) {
    let check = "relayed";
    let Some(relayed) = answer.relayed() else {
        findings.wrong(
            check,
            "the Allocate response has no relayed address",
            "the server breaks RFC 8656 §7.2: update it",
        );
        return;
    };
    let lifetime = answer.lifetime_secs().unwrap_or(0);
    let (scope, reached_at) = (Scope::of(relayed.ip()), Scope::of(server.ip()));
    let message = format!("{relayed}, {}, for {lifetime} s", scope.title());
    let external = "tell the server its public address (coturn: --external-ip; turnpike: [relay] \
                    external), and forward the relayed ports to it";
    match scope {
        _ if Family::of(relayed.ip()) != Family::of(server.ip()) => findings.wrong(
            check,
            format!("{relayed} is not {}, as was asked for", Family::of(server.ip()).name()),
            "the server ignores REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6)",
        ),
        _ if relayed.port() == 0 => findings.wrong(
            check,
            format!("{relayed} has no port: nobody can send to it"),
            "the server breaks RFC 8656 §7.2: update it",
        ),
        Scope::Public => findings.fine(check, message),
        Scope::Nowhere if reached_at != Scope::Nowhere => findings.wrong(check, message, external),
        _ if reached_at == Scope::Public => findings.wrong(check, message, external),
        Scope::Loopback if reached_at != Scope::Loopback => {
            findings.wrong(check, message, external);
        }
        _ => findings
            .note(check, format!("{message}: only peers in the server's own network reach it")),
    }
    if (1..LIFETIME_SECS_SHORT).contains(&lifetime) {
        findings.suspect(
            check,
            format!("the lifetime of {lifetime} s is short"),
            "clients refresh often, and a short outage costs the allocation; 600 s is usual",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_the_servers_family_with_a_port_is_usable() {
        let server = "192.0.2.1:3478".parse().unwrap();
        let usable = |relayed: &str| is_usable(relayed.parse().unwrap(), server);
        assert!(usable("192.0.2.1:49152"));
        assert!(!usable("192.0.2.1:0"));
        assert!(!usable("[2001:db8::1]:49152"));
    }

    #[test]
    fn only_a_time_in_the_past_is_expired() {
        assert!(expired_secs("1500000000:alice").is_some_and(|ago| ago > 100_000_000));
        assert!(expired_secs("1500000000").is_some());
        assert_eq!(expired_secs("99999999999:alice"), None);
        assert_eq!(expired_secs("alice"), None);
        assert_eq!(expired_secs("12345"), None, "a name of digits");
    }
}
