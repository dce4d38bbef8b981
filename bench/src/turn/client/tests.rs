//! What the client says and when, against answers made by hand.

use relay_common::wire::writer::MessageWriter;

use super::*;
use crate::clock::MILLISECOND_NS;

const RTO_NS: u64 = 500 * MILLISECOND_NS;

fn client() -> TurnClient {
    client_over(Transport::Udp)
}

fn client_over(transport: Transport) -> TurnClient {
    let credentials = Credentials::known("alice".into(), "north".into());
    let peer = PeerAddr::new("192.0.2.9:9".parse().unwrap());
    let framing = Framing::Channel;
    let setup = ClientSetup { credentials, peer, framing, transport, rto_ns: RTO_NS };
    TurnClient::new(Arc::new(setup))
}

/// The request that is due, as method and transaction.
fn due(client: &mut TurnClient, now: u64) -> Option<(Method, TransactionId)> {
    let message = Message::parse(client.transmit(now)?).unwrap();
    Some((message.method(), message.transaction_id()))
}

/// Takes the request that is due and answers it.
fn answer(
    client: &mut TurnClient,
    now: u64,
    method: Method,
    class: Class,
    attributes: impl FnOnce(&mut MessageWriter<'_>),
) {
    let (asked, transaction) = due(client, now).unwrap();
    assert_eq!(asked, method);
    let mut buffer = [0; 512];
    let mut writer = MessageWriter::new(&mut buffer, class, method, transaction);
    attributes(&mut writer);
    let length = writer.finish().unwrap();
    client.receive(now, &buffer[..length]);
}

fn succeed(client: &mut TurnClient, now: u64, method: Method) {
    answer(client, now, method, Class::Success, |writer| {
        writer.number(AttributeType::LIFETIME, 600);
        let relayed = "192.0.2.1:50000".parse().unwrap();
        writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
    });
}

fn challenge(client: &mut TurnClient, code: u16) {
    answer(client, 0, Method::ALLOCATE, Class::Error, |writer| {
        writer.error_code(code, "");
        writer.attribute(AttributeType::REALM, b"realm");
        writer.attribute(AttributeType::NONCE, b"nonce");
    });
}

#[test]
fn transmissions_double_their_distance_and_end_after_the_seventh() {
    let mut client = client();
    client.allocate(0);
    let mut sent_ms = Vec::new();
    while let Some(at) = client.deadline() {
        assert!(at == 0 || client.transmit(at - 1).is_none(), "not a moment early");
        if due(&mut client, at).is_some() {
            sent_ms.push(at / MILLISECOND_NS);
        }
    }
    assert_eq!(sent_ms, [0, 500, 1500, 3500, 7500, 15_500, 31_500]);
    let failure = TurnFailure::NoAnswer {
        method: Method::ALLOCATE,
        transmissions: 7,
        waited_ms: 39_500,
        transport: Transport::Udp,
        unauthentic: 0,
    };
    assert_eq!(client.failure(), Some(&failure));
}

#[test]
fn over_a_stream_a_request_is_sent_once_and_waits_for_39_5_seconds() {
    let mut client = client_over(Transport::Tcp);
    client.allocate(0);
    assert!(due(&mut client, 0).is_some());
    assert_eq!(client.deadline(), Some(39_500 * MILLISECOND_NS));
    assert!(due(&mut client, 39_500 * MILLISECOND_NS).is_none());
    assert!(matches!(
        client.failure(),
        Some(TurnFailure::NoAnswer { transmissions: 1, waited_ms: 39_500, .. })
    ));
}

#[test]
fn a_connection_that_ends_takes_the_allocation_with_it_unless_it_is_given_back() {
    let mut client = client_over(Transport::Tls);
    client.allocate(0);
    succeed(&mut client, 0, Method::ALLOCATE);
    succeed(&mut client, 0, Method::CHANNEL_BIND);
    client.release(0);
    succeed(&mut client, 0, Method::REFRESH);
    client.disconnected(LinkFailure::Closed);
    assert_eq!((client.stage(), client.failure()), (Stage::Released, None));
    let mut client = client_over(Transport::Tls);
    client.allocate(0);
    client.disconnected(LinkFailure::Closed);
    assert_eq!(client.failure(), Some(&TurnFailure::Link(LinkFailure::Closed)));
}

#[test]
fn permission_binding_and_allocation_are_refreshed_before_they_end() {
    let mut client = client();
    client.allocate(0);
    succeed(&mut client, 0, Method::ALLOCATE);
    succeed(&mut client, 0, Method::CHANNEL_BIND);
    assert_eq!(client.stage(), Stage::Ready);
    assert_eq!(client.deadline(), Some(240 * SECOND_NS), "a permission lasts 300 s");
    succeed(&mut client, 240 * SECOND_NS, Method::CHANNEL_BIND);
    assert_eq!(client.deadline(), Some(300 * SECOND_NS), "half of the lifetime");
    succeed(&mut client, 300 * SECOND_NS, Method::REFRESH);
    assert_eq!(client.deadline(), Some(480 * SECOND_NS));
    client.release(301 * SECOND_NS);
    succeed(&mut client, 301 * SECOND_NS, Method::REFRESH);
    assert_eq!((client.stage(), client.deadline()), (Stage::Released, None));
}

#[test]
fn a_lifetime_of_zero_does_not_make_it_ask_without_end() {
    let mut client = client();
    let answer = |client: &mut TurnClient, now, method| {
        answer(client, now, method, Class::Success, |writer| {
            writer.number(AttributeType::LIFETIME, 0);
            let relayed = "192.0.2.1:50000".parse().unwrap();
            writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
        });
    };
    client.allocate(0);
    answer(&mut client, 0, Method::ALLOCATE);
    answer(&mut client, 0, Method::CHANNEL_BIND);
    assert_eq!(client.deadline(), Some(SECOND_NS / 2));
    answer(&mut client, SECOND_NS / 2, Method::REFRESH);
    assert_eq!(client.deadline(), Some(SECOND_NS));
}

#[test]
fn the_servers_words_do_not_steer_the_terminal() {
    let mut client = client();
    client.allocate(0);
    answer(&mut client, 0, Method::ALLOCATE, Class::Error, |writer| {
        writer.error_code(486, "No\x1b[2J\r\n\u{9b}more");
    });
    let said = client.failure().unwrap().to_string();
    assert!(said.starts_with("Allocate refused: 486 No[2Jmore."), "{said}");
}

#[test]
fn an_allocation_that_is_given_back_has_not_failed() {
    let mut client = client();
    client.allocate(0);
    succeed(&mut client, 0, Method::ALLOCATE);
    answer(&mut client, 0, Method::CHANNEL_BIND, Class::Error, |writer| {
        writer.error_code(403, "Forbidden");
    });
    assert!(client.failure().is_some());
    client.release(0);
    succeed(&mut client, 0, Method::REFRESH);
    assert_eq!((client.stage(), client.failure()), (Stage::Released, None));
}

#[test]
fn an_unsigned_success_after_a_challenge_is_no_answer() {
    let mut client = client();
    client.allocate(0);
    challenge(&mut client, 401);
    succeed(&mut client, 0, Method::ALLOCATE);
    assert_eq!((client.stage(), client.unauthentic), (Stage::Allocating, 1));
    assert!(client.deadline().is_some(), "it asks again");
}

#[test]
fn a_stepwise_client_asks_for_one_thing_at_a_time() {
    let mut client = TurnClient::stepwise(client().setup);
    client.step(0, Step::Challenge);
    challenge(&mut client, 401);
    assert_eq!((client.stage(), client.busy(), client.challenges), (Stage::Idle, false, 0));
    client.step(0, Step::Allocate);
    let request = Message::parse(client.transmit(0).unwrap()).unwrap();
    assert!(request.integrity().is_some(), "the nonce is used, not asked for again");
    client.auth = None;
    for (step, method, stage) in [
        (Step::Allocate, Method::ALLOCATE, Stage::Resting),
        (Step::Permit, Method::CREATE_PERMISSION, Stage::Resting),
        (Step::Bind, Method::CHANNEL_BIND, Stage::Ready),
        (Step::Refresh, Method::REFRESH, Stage::Resting),
        (Step::Delete, Method::REFRESH, Stage::Released),
    ] {
        client.step(0, step);
        assert!(client.busy(), "{step:?}");
        succeed(&mut client, 0, method);
        assert_eq!((client.stage(), client.busy()), (stage, false), "{step:?}");
    }
}

#[test]
fn stale_nonces_end_somewhere() {
    let mut client = client();
    client.allocate(0);
    challenge(&mut client, 401);
    for _ in 0..STALE_NONCES_MAX {
        assert_eq!(client.failure(), None);
        challenge(&mut client, 438);
    }
    challenge(&mut client, 438);
    assert!(matches!(client.failure(), Some(TurnFailure::Refused { code: 438, .. })));
}
