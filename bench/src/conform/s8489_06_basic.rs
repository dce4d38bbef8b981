//! RFC 8489 §5 to §7 and §14: messages, retransmissions, unknown attributes, FINGERPRINT.

use super::case::{Case, Check, Verdict, ensure, fail, may, must, refused, should, success};
use super::wire::{Answer, Class, Draft, kind, method};
use super::world::World;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(
        8489,
        "6.3",
        "first-bits",
        "what does not begin with two zero bits is no STUN",
        first_bits,
    ),
    should(8489, "6.3", "no-cookie", "a request without the magic cookie is discarded", no_cookie),
    must(
        8489,
        "6.3",
        "truncated",
        "a message shorter than its length says is discarded",
        truncated,
    ),
    must(8489, "6.3", "odd-length", "a length that is no multiple of 4 is discarded", odd_length),
    must(8489, "6.3", "unknown-method", "a method that is not supported is discarded", odd_method),
    must(8489, "6.3", "response", "a response to nothing is discarded", response),
    should(8489, "6.3", "wrong-fingerprint", "a wrong FINGERPRINT is discarded", wrong_fingerprint),
    must(
        8489,
        "6.3",
        "unknown-optional",
        "unknown optional attributes are ignored",
        unknown_optional,
    ),
    should(
        8489,
        "6.3",
        "unexpected",
        "known attributes that do not belong there are ignored",
        unexpected,
    ),
    must(
        8489,
        "6.3.1",
        "unknown-required",
        "unknown required attributes get 420",
        unknown_required,
    ),
    must(
        8489,
        "6.3.1",
        "unknown-attributes",
        "420 lists what was not understood, and nothing else",
        unknown_attributes,
    ),
    must(
        8489,
        "6.3.1",
        "retransmission",
        "a request that comes twice gets the same answer",
        retransmission,
    ),
    must(
        8489,
        "6.3.1.1",
        "binding",
        "Binding answers by XOR-MAPPED-ADDRESS, the address it came from",
        binding,
    ),
    must(8489, "6.3.1.1", "error-code", "every error response has an ERROR-CODE", error_code),
    must(
        8489,
        "6.3.1.2",
        "from-where-it-was-asked",
        "the answer comes from the address that was asked",
        same_address,
    ),
    must(8489, "6.3.2", "indication", "an indication gets no answer", indication),
    must(8489, "14", "padding-ignored", "padding of any value is ignored", padding_ignored),
    must(8489, "14", "padding-zero", "padding is sent as zeros", padding_zero),
    should(8489, "14", "duplicates", "of attributes that come twice the first counts", duplicates),
    must(8489, "14.7", "right-fingerprint", "a right FINGERPRINT is accepted", right_fingerprint),
    must(
        8489,
        "14.7",
        "own-fingerprint",
        "FINGERPRINT in answers is right and last",
        own_fingerprint,
    ),
    may(8489, "14.7", "fingerprint-returned", "who sends FINGERPRINT gets one", returned),
];

/// What was said by a server that should have said nothing.
pub(crate) fn silence(heard: Option<Vec<u8>>) -> Check {
    match heard {
        None => Ok(()),
        Some(bytes) => {
            let what = Answer::parse(&bytes).map_or("an answer".to_owned(), |it| it.describe());
            fail("no answer", what)
        }
    }
}

fn provokes(world: &World, bytes: &[u8]) -> Check {
    silence(world.line()?.provokes(bytes)?)
}

fn ask(world: &World, request: &Draft) -> Result<Option<Answer>, Verdict> {
    world.line()?.ask(request)
}

fn first_bits(world: &World) -> Check {
    let mut bytes = world.draft(method::BINDING)?.into_bytes();
    bytes[0] |= 0xC0;
    provokes(world, &bytes)
}

fn no_cookie(world: &World) -> Check {
    let mut bytes = world.draft(method::BINDING)?.into_bytes();
    bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
    provokes(world, &bytes)
}

fn truncated(world: &World) -> Check {
    let bytes = world.draft(method::BINDING)?.with(kind::SOFTWARE, b"conform!").into_bytes();
    provokes(world, &bytes[..bytes.len() - 4])
}

fn odd_length(world: &World) -> Check {
    let mut bytes = world.draft(method::BINDING)?.with(kind::SOFTWARE, b"conform!").into_bytes();
    bytes.truncate(bytes.len() - 2);
    bytes[3] -= 2;
    provokes(world, &bytes)
}

fn odd_method(world: &World) -> Check {
    provokes(world, world.draft(method::UNKNOWN)?.bytes())
}

fn response(world: &World) -> Check {
    let draft = Draft::new(Class::Success, method::BINDING, world.transaction()?);
    provokes(world, draft.bytes())
}

fn wrong_fingerprint(world: &World) -> Check {
    provokes(world, world.draft(method::BINDING)?.fingerprint(1).bytes())
}

fn unknown_optional(world: &World) -> Check {
    let request = world.draft(method::BINDING)?.with(kind::UNKNOWN_OPTIONAL, b"anything");
    success(ask(world, &request)?).map(drop)
}

fn unexpected(world: &World) -> Check {
    let request = world.draft(method::BINDING)?.number(kind::LIFETIME, 600);
    success(ask(world, &request)?).map(drop)
}

fn unknown_required(world: &World) -> Check {
    let request = world.draft(method::BINDING)?.with(kind::UNKNOWN_REQUIRED, b"what");
    refused(ask(world, &request)?, &[420]).map(drop)
}

fn unknown_attributes(world: &World) -> Check {
    let other = kind::UNKNOWN_REQUIRED + 1;
    let request = world
        .draft(method::BINDING)?
        .with(kind::UNKNOWN_REQUIRED, b"what")
        .with(kind::UNKNOWN_OPTIONAL, b"")
        .with(other, b"");
    let answer = refused(ask(world, &request)?, &[420])?;
    let listed = answer.value(kind::UNKNOWN_ATTRIBUTES).unwrap_or_default();
    let mut listed: Vec<u16> =
        listed.chunks_exact(2).map(|it| u16::from_be_bytes([it[0], it[1]])).collect();
    listed.sort_unstable();
    listed.dedup();
    ensure(
        listed == [kind::UNKNOWN_REQUIRED, other],
        format!("UNKNOWN-ATTRIBUTES with {:#06x} and {other:#06x}", kind::UNKNOWN_REQUIRED),
        format!("{listed:#06x?}"),
    )
}

fn retransmission(world: &World) -> Check {
    let line = world.line()?;
    let request = world.draft(method::BINDING)?;
    let first = success(line.ask(&request)?)?;
    let second = success(line.ask(&request)?)?;
    ensure(first == second, "the same answer twice", "two different ones")
}

fn binding(world: &World) -> Check {
    let line = world.line()?;
    let answer = success(line.ask(&world.draft(method::BINDING)?)?)?;
    let Some(mapped) = answer.address(kind::XOR_MAPPED_ADDRESS) else {
        return fail("XOR-MAPPED-ADDRESS", "success without it");
    };
    // Behind a NAT nobody here knows the address better.
    let ours = line.addr()?;
    let translated = mapped.ip() != ours.ip();
    ensure(translated || mapped == ours, ours.to_string(), mapped.to_string())
}

fn error_code(world: &World) -> Check {
    let request = world.draft(method::ALLOCATE)?;
    match ask(world, &request)? {
        Some(answer) if answer.class() == Class::Error => {
            ensure(answer.code().is_some(), "ERROR-CODE of 300 to 699", answer.describe())
        }
        Some(answer) => fail("an error response", answer.describe()),
        None => fail("an error response", "no answer"),
    }
}

fn same_address(world: &World) -> Check {
    let line = world.line()?;
    let request = world.draft(method::BINDING)?;
    match line.ask_at(&request, world.server, |_| true)? {
        Some((_, from)) => ensure(from == world.server, world.server.to_string(), from.to_string()),
        None => fail("an answer", "none"),
    }
}

fn indication(world: &World) -> Check {
    let draft = Draft::new(Class::Indication, method::BINDING, world.transaction()?);
    provokes(world, draft.bytes())
}

fn padding_ignored(world: &World) -> Check {
    let request = world.draft(method::BINDING)?.padded_with(kind::SOFTWARE, b"odd", 0xFF);
    success(ask(world, &request)?).map(drop)
}

fn padding_zero(world: &World) -> Check {
    // An odd number of unknown attributes: their list has to be padded.
    let request = world.draft(method::BINDING)?.with(kind::UNKNOWN_REQUIRED, b"");
    let refusal = refused(ask(world, &request)?, &[420])?;
    let challenge = ask(world, &world.draft(method::ALLOCATE)?)?;
    let zeros = refusal.padding_is_zero() && challenge.is_none_or(|it| it.padding_is_zero());
    ensure(zeros, "zeros", "other bytes")
}

fn duplicates(world: &World) -> Check {
    let (mut user, _) = super::user::User::allocated(world)?;
    let answer = user.ask(method::REFRESH, |draft| {
        draft.number(kind::LIFETIME, 0).number(kind::LIFETIME, 1200)
    })?;
    let lifetime = success(answer)?.number(kind::LIFETIME);
    ensure(
        lifetime == Some(0),
        "a Refresh by the first LIFETIME, 0",
        lifetime.map_or("no LIFETIME".to_owned(), |secs| format!("{secs} s")),
    )
}

fn right_fingerprint(world: &World) -> Check {
    success(ask(world, &world.draft(method::BINDING)?.fingerprint(0))?).map(drop)
}

fn own_fingerprint(world: &World) -> Check {
    let answer = success(ask(world, &world.draft(method::BINDING)?.fingerprint(0))?)?;
    ensure(answer.fingerprint() != Some(false), "none, or a right one at the end", "another")
}

fn returned(world: &World) -> Check {
    let answer = success(ask(world, &world.draft(method::BINDING)?.fingerprint(0))?)?;
    ensure(answer.fingerprint().is_some(), "FINGERPRINT", "none")
}
