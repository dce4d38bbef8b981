//! RFC 8656 §8: Refresh prolongs an allocation, and ends it.

use super::case::{Case, Check, ensure, must, refused, success};
use super::user::{IPV4, IPV6, User};
use super::wire::{kind, method};
use super::world::World;

/// The rules, in the RFC's order.
pub(crate) const CASES: &[Case] = &[
    must(8656, "8.2", "lifetime", "Refresh answers by LIFETIME", |world| {
        refreshed(world, None, |got, default| got == default)
    }),
    must(8656, "8.2", "short-lifetime", "less than the default becomes the default", |world| {
        refreshed(world, Some(1), |got, default| got == default)
    }),
    must(8656, "8.2", "long-lifetime", "more is granted up to a maximum", |world| {
        refreshed(world, Some(1800), |got, default| (default..=1800).contains(&got))
    }),
    must(8656, "8.2", "delete", "Refresh with LIFETIME 0 succeeds, and says 0", delete),
    must(8656, "8.2", "deleted", "after that there is no allocation: 437", deleted),
    must(8656, "8.2", "delete-and-allocate", "after that the 5-tuple is free again", again),
    must(8656, "8.2", "same-family", "Refresh may name the allocation's family", |world| {
        let (mut user, _) = User::allocated(world)?;
        let answer =
            user.ask(method::REFRESH, |draft| draft.with(kind::REQUESTED_ADDRESS_FAMILY, &IPV4))?;
        success(answer).map(drop)
    }),
    must(8656, "8.2", "other-family", "Refresh that names another family gets 443", |world| {
        let (mut user, _) = User::allocated(world)?;
        let answer =
            user.ask(method::REFRESH, |draft| draft.with(kind::REQUESTED_ADDRESS_FAMILY, &IPV6))?;
        refused(answer, &[443]).map(drop)
    }),
];

fn refreshed(world: &World, asked: Option<u32>, right: fn(u32, u32) -> bool) -> Check {
    let (mut user, answer) = User::allocated(world)?;
    let default = answer.number(kind::LIFETIME).unwrap_or_default();
    let got = success(user.refresh(asked)?)?.number(kind::LIFETIME);
    ensure(
        got.is_some_and(|got| right(got, default)),
        "LIFETIME by the rule for Allocate",
        got.map_or("none".to_owned(), |got| format!("{got} s, the default is {default} s")),
    )
}

fn delete(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    let got = success(user.refresh(Some(0))?)?.number(kind::LIFETIME);
    user.forget();
    ensure(got == Some(0), "LIFETIME 0", format!("{got:?}"))
}

fn deleted(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    success(user.refresh(Some(0))?)?;
    refused(user.refresh(None)?, &[437]).map(drop)
}

fn again(world: &World) -> Check {
    let (mut user, _) = User::allocated(world)?;
    success(user.refresh(Some(0))?)?;
    success(user.allocate(|draft| draft)?).map(drop)
}
