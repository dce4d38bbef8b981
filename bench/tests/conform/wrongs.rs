//! The fake server: one thing wrong at a time, and the case that finds it.

use crate::fake::{Fake, Wrong};
use crate::lab::{Test, tool};
use crate::running::Running;
use crate::{Run, conform};

/// What they are called, what they need, what they do.
pub(crate) const TESTS: &[Test] = &[
    ("what_is_right_passes", &[], right),
    ("what_is_wrong_is_found", &[], wrong),
    ("lost_datagrams_are_no_faults", &[], lossy),
    ("what_cannot_be_tried_is_no_pass", &[], skipped),
    ("a_server_that_is_none_is_said_to_be_none", &[], no_server),
    ("a_wrong_password_is_said_to_be_one", &[], wrong_password),
    ("a_case_that_there_is_not_is_wrong_usage", &[], no_such_case),
    ("the_list_asks_nobody", &[], list),
];

const USER: &str = "--user alice --password north --other-user bob --other-password south";
/// Patience for a server on this host: what stays away is not waited for long, what comes late
/// on a busy machine is.
const PATIENCE: &str = "--rto 60 --wait 2000";

/// A thing done wrong, and the case that is about it.
const WRONGS: &[(Wrong, &str)] = &[
    (Wrong::AnswersIndications, "8489-6.3.2-indication"),
    (Wrong::AnswersResponses, "8489-6.3-response"),
    (Wrong::AnswersDamaged, "8489-6.3-truncated"),
    (Wrong::UnderstandsAnything, "8489-6.3.1-unknown-required"),
    (Wrong::ListsNothing, "8489-6.3.1-unknown-attributes"),
    (Wrong::MappedToAnotherPort, "8489-6.3.1.1-binding"),
    (Wrong::FingerprintOff, "8489-14.7-own-fingerprint"),
    (Wrong::DirtyPadding, "8489-14-padding-zero"),
    (Wrong::TakesAnyPassword, "8489-9.2.4-wrong-password"),
    (Wrong::DoesNotSign, "8489-9.2.4-signed-success"),
    (Wrong::DoesNotSignErrors, "8489-9.2.4-signed-error"),
    (Wrong::RepeatsTheNonce, "8489-9.2.4-success-is-bare"),
    (Wrong::NonceBeforePassword, "8489-9.2.4-password-before-nonce"),
    (Wrong::TakesAnyNonce, "8489-9.2.4-stale-nonce"),
    (Wrong::OneNonceForAll, "8489-9.2.4-own-nonce"),
    (Wrong::MissingIs401, "8489-9.2.4-no-realm"),
    (Wrong::ReadsBehindIntegrity, "8489-9-after-integrity"),
    (Wrong::ReadsBehindIntegrity, "8489-9-required-after-integrity"),
    (Wrong::HidesTheAlgorithms, "8489-9.2.1-algorithms-bit"),
    (Wrong::TakesAnyList, "8489-9.2.4-bid-down"),
    (Wrong::TakesTruncatedMacs, "8489-14.6-truncated"),
    (Wrong::AnswersBySha1, "8489-9.2.4-sha256"),
    (Wrong::IgnoresUserHashes, "8489-9.2.4-userhash"),
    (Wrong::AnybodysAllocation, "8656-5-other-user-refresh"),
    (Wrong::NothingIs400, "8656-5-refresh-nothing"),
    (Wrong::ReplacesAllocations, "8656-7.2-same-5-tuple"),
    (Wrong::ForgetsTransactions, "8656-7.2-retransmission"),
    (Wrong::TakesAnyTransport, "8656-7.2-unknown-transport"),
    (Wrong::SaysNoLifetime, "8656-7.2-lifetime"),
    (Wrong::ShortLifetimes, "8656-7.2-short-lifetime"),
    (Wrong::OddPorts, "8656-7.2-even-port"),
    (Wrong::TakesAnyToken, "8656-7.2-unknown-token"),
    (Wrong::TakesAnyFamily, "8656-7.2-both-families"),
    (Wrong::KeepsWhatIsDeleted, "8656-8.2-deleted"),
    (Wrong::KeepsWhatIsDeleted, "8656-8.2-deleted-data"),
    (Wrong::RefreshesAnyFamily, "8656-8.2-other-family"),
    (Wrong::SaysNothingOfRefresh, "8656-8.2-lifetime"),
    (Wrong::PermitsNobody, "8656-10.2-no-peer"),
    (Wrong::PermitsAnyFamily, "8656-10.2-other-family"),
    (Wrong::SendsWithoutPermission, "8656-11.2-not-permitted"),
    (Wrong::CutsData, "8656-11.2-every-byte"),
    (Wrong::SwapsSources, "8656-11.2-source"),
    (Wrong::DropsEmptyData, "8656-12.6-empty"),
    (Wrong::RelaysFromAnybody, "8656-11.3-data-not-permitted"),
    (Wrong::NamesAnotherPeer, "8656-11.3-data"),
    (Wrong::AnyChannelNumber, "8656-12.2-above"),
    (Wrong::RebindsNumbers, "8656-12.2-number-taken"),
    (Wrong::RebindsPeers, "8656-12.2-peer-taken"),
    (Wrong::RelaysPadding, "8656-12.5-padded"),
    (Wrong::RelaysWhatIsTooShort, "8656-12.6-too-short"),
    (Wrong::IndicatesDespiteChannel, "8656-12.5-from-peer"),
    (Wrong::AnybodysAllocation, "8656-5-other-user-bind"),
    (Wrong::UnderstandsAnything, "7635-7-unexpected"),
    (Wrong::SendsWhatIsReserved, "8489-14.1-first-byte-zero"),
    (Wrong::ReadsWhatIsReserved, "8489-14.1-first-byte-ignored"),
    (Wrong::SendsWhatIsReserved, "8489-14.8-reserved-zero"),
    (Wrong::ReadsWhatIsReserved, "8656-18.1-reserved"),
    (Wrong::ReadsWhatIsReserved, "8656-18.6-reserved"),
    (Wrong::ReadsWhatIsReserved, "8656-18.7-reserved"),
    (Wrong::ReadsWhatIsReserved, "8656-18.8-reserved"),
];

/// What a server may do is not what it has to do: the fake server denies no peer, and its ports
/// are the ones that the kernel gives.
fn nothing_fails(run: &Run) {
    let all = run.outcomes().into_iter();
    let failed: Vec<_> = all
        .filter(|(id, level, outcome)| {
            *outcome == "fail" && *level != "MAY" && *id != "8656-7.2-dynamic-ports"
        })
        .collect();
    assert_eq!(failed, [], "{}", run.text());
}

fn right() {
    let fake = Fake::start(Wrong::Nothing);
    let run = conform(&format!("turn:{} {USER} {PATIENCE}", fake.addr));
    run.ends_with(0);
    nothing_fails(&run);
    assert!(run.with_outcome("pass").len() > 110, "{}", run.text());
    // What only some servers have is said not to be there, not passed.
    for id in ["5780-6.1-change-port", "8016-3.1.2-ticket", "7635-6.1-server-name"] {
        assert!(run.with_outcome("not_supported").contains(&id), "{id}: {}", run.text());
    }
    for (_, id) in WRONGS {
        assert!(run.with_outcome("pass").contains(id), "{id}: {}", run.text());
    }
}

fn wrong() {
    for (wrong, id) in WRONGS {
        let fake = Fake::start(*wrong);
        // Waiting in vain is what some faults come to.
        let words = format!("turn:{} {USER} --rto 60 --wait 400 --only {id}", fake.addr);
        let run = conform(&words);
        assert_eq!(run.with_outcome("fail"), [*id], "{wrong:?}: {}", run.text());
        let is_must = run.outcomes()[0].1 == "MUST";
        run.ends_with(i32::from(is_must));
    }
}

fn lossy() {
    let fake = Fake::start(Wrong::Lossy);
    let only = "--only 8489-6 --only 8656-7 --only 8656-11 --only 8656-12";
    let run = conform(&format!("turn:{} {USER} --rto 20 --wait 3000 {only}", fake.addr));
    run.ends_with(0);
    nothing_fails(&run);
}

fn skipped() {
    let fake = Fake::start(Wrong::Nothing);
    let words = "--user alice --password north --only 8656-5 --only 8656-7.2-quota --only 8656-9";
    let run = conform(&format!("turn:{} {words} {PATIENCE}", fake.addr));
    run.ends_with(0);
    let expected = [
        "8656-5-other-user-refresh",
        "8656-5-other-user-permission",
        "8656-5-other-user-bind",
        "8656-7.2-quota",
        "8656-9-five-minutes",
    ];
    assert_eq!(run.with_outcome("skipped"), expected, "{}", run.text());
    assert!(run.text().contains("no second user is given (--other-user"), "{}", run.text());
}

fn no_server() {
    // A socket that says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let run = conform(&format!("turn:{at} {USER} --rto 50 --wait 300"));
    run.ends_with(3);
    assert!(run.text().contains("does not answer"), "{}", run.text());
}

fn wrong_password() {
    let fake = Fake::start(Wrong::Nothing);
    let words = format!("turn:{} --user alice --password sesame {PATIENCE}", fake.addr);
    let run = conform(&words);
    run.ends_with(3);
    assert!(run.text().contains("does not know this user"), "{}", run.text());
    assert!(!run.text().contains("sesame"), "passwords are not shown: {}", run.text());
}

fn no_such_case() {
    let run = conform("turn:127.0.0.1:9 --user a --password b --only 8656-77");
    run.ends_with(2);
    assert!(run.text().contains("--list has them all"), "{}", run.text());
    conform("turn:127.0.0.1:9?transport=tcp --user a --password b").ends_with(2);
}

fn list() {
    let mut command = tool("conform turn:127.0.0.1:9 --user a --password b --list");
    let output = Running::start(&mut command).end();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for (_, id) in WRONGS {
        assert!(text.contains(&format!("{id} ")), "{id}: {text}");
    }
}
