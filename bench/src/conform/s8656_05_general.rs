//! RFC 8656 §5: whose allocation it is, and what is said where there is none.

use super::case::{Case, Check, Verdict, may, must, refused, should, skip, success, unsupported};
use super::s8489_06_basic::silence;
use super::user::{User, any_port};
use super::wire::{Answer, Class, Draft, kind, method};
use super::world::{World, channel_message};

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "5", "refresh-unsigned", "an unsigned Refresh gets 401", |world| {
        unsigned(world, method::REFRESH)
    }),
    must(8656, "5", "permission-unsigned", "an unsigned CreatePermission gets 401", |world| {
        unsigned(world, method::CREATE_PERMISSION)
    }),
    must(8656, "5", "bind-unsigned", "an unsigned ChannelBind gets 401", |world| {
        unsigned(world, method::CHANNEL_BIND)
    }),
    must(8656, "5", "refresh-nothing", "Refresh without allocation gets 437", |world| {
        nothing(world, |user| user.refresh(None))
    }),
    must(8656, "5", "permission-nothing", "CreatePermission without allocation: 437", |world| {
        nothing(world, |user| user.permit(&[any_port([192, 0, 2, 1])]))
    }),
    must(8656, "5", "bind-nothing", "ChannelBind without allocation gets 437", |world| {
        nothing(world, |user| user.bind(0x4000, any_port([192, 0, 2, 1])))
    }),
    must(8656, "5", "send-nothing", "Send without allocation is ignored", send_nothing),
    must(8656, "5", "channel-nothing", "ChannelData without allocation is ignored", data_nothing),
    must(8656, "5", "other-user-refresh", "Refresh by another user gets 441", |world| {
        other_user(world, method::REFRESH, |draft| draft)
    }),
    must(8656, "5", "other-user-permission", "CreatePermission by another user: 441", |world| {
        other_user(world, method::CREATE_PERMISSION, |draft| {
            draft.address(kind::XOR_PEER_ADDRESS, any_port([192, 0, 2, 1]))
        })
    }),
    must(8656, "5", "other-user-bind", "ChannelBind by another user gets 441", |world| {
        other_user(world, method::CHANNEL_BIND, |draft| {
            draft
                .with(kind::CHANNEL_NUMBER, &[0x40, 1, 0, 0])
                .address(kind::XOR_PEER_ADDRESS, any_port([192, 0, 2, 1]))
        })
    }),
    must(8656, "5", "unknown-required", "unknown required attributes get 420 here too", unknown),
    should(8656, "5", "software", "Allocate responses name the SOFTWARE", software),
    may(8656, "5", "fingerprint", "Allocate with FINGERPRINT is answered", fingerprint),
];

fn unsigned(world: &World, method: u16) -> Check {
    refused(world.line()?.ask(&world.draft(method)?)?, &[401]).map(drop)
}

fn nothing(
    world: &World,
    ask: impl FnOnce(&mut User<'_>) -> Result<Option<Answer>, Verdict>,
) -> Check {
    refused(ask(&mut User::new(world)?)?, &[437]).map(drop)
}

fn send_nothing(world: &World) -> Check {
    let draft = Draft::new(Class::Indication, method::SEND, world.transaction()?)
        .address(kind::XOR_PEER_ADDRESS, any_port([192, 0, 2, 1]))
        .with(kind::DATA, b"conform");
    silence(world.line()?.provokes(draft.bytes())?)
}

fn data_nothing(world: &World) -> Check {
    silence(world.line()?.provokes(&channel_message(0x4000, b"conform!"))?)
}

fn other_user(world: &World, method: u16, attributes: fn(Draft) -> Draft) -> Check {
    let Some(other) = &world.other else {
        return skip("no second user is given (--other-user, --other-password)");
    };
    let (mut user, _) = User::allocated(world)?;
    let owner = std::mem::replace(&mut user.who, other);
    let answer = user.ask(method, attributes);
    user.who = owner;
    refused(answer?, &[441]).map(drop)
}

fn unknown(world: &World) -> Check {
    let mut user = User::new(world)?;
    refused(user.allocate(|draft| draft.with(kind::UNKNOWN_REQUIRED, b""))?, &[420]).map(drop)
}

fn software(world: &World) -> Check {
    let (_user, answer) = User::allocated(world)?;
    if answer.has(kind::SOFTWARE) { Ok(()) } else { unsupported("no SOFTWARE") }
}

fn fingerprint(world: &World) -> Check {
    let mut user = User::new(world)?;
    let request = user.signed(method::ALLOCATE, |draft| {
        draft.with(kind::REQUESTED_TRANSPORT, &super::user::UDP)
    })?;
    success(user.ask_with(&request.fingerprint(0))?).map(drop)
}
