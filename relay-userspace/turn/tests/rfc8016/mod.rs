//! RFC 8016: an allocation that moves with its client.

use relay_common::wire::attribute::AttributeType;
use relay_common::wire::stun::{Message, Method};
use relay_turn::{AllocationId, Config, Input, Limits, Mobility, Offers, Output};

use crate::rfc8489::tokens::offering;
use crate::script::{check, check_with, run, say};
use crate::world::{World, config};

/// What an answer's LIFETIME is about.
#[derive(Clone, Copy)]
pub(crate) enum Refreshed {
    /// The client's allocation.
    Its,
    /// One that is to move.
    Named(AllocationId),
    /// It was said before.
    Nothing,
}

impl World {
    /// `none`: no bytes. `alice`: the last ticket of alice. `alice/0`: her first. `alice/bad`: the
    /// last, with a bit changed.
    pub(crate) fn ticket(&self, text: &str) -> Vec<u8> {
        let (owner, which) = text.split_once('/').unwrap_or((text, "last"));
        if owner == "none" {
            return Vec::new();
        }
        let tickets = &self.clients[owner].tickets;
        let mut ticket = match which {
            "last" | "bad" => tickets.last().unwrap().clone(),
            number => tickets[number.parse::<usize>().unwrap()].clone(),
        };
        if which == "bad" {
            ticket[20] ^= 1;
        }
        ticket
    }

    /// What a success response refreshes, by the ticket of its request. Keeps the ticket in it.
    pub(crate) fn note_ticket(&mut self, name: &str, answer: &Message<'_>) -> Refreshed {
        let Some((asked, _)) = self.last.get(name).cloned() else { return Refreshed::Its };
        let Ok(asked) = Message::parse(&asked) else { return Refreshed::Its };
        let Some(ticket) = asked.attribute(AttributeType::MOBILITY_TICKET) else {
            return Refreshed::Its;
        };
        let its = self.relays.iter().find(|(_, (owner, _))| owner == name);
        let its = self.of_ticket.get(ticket).copied().or(its.map(|((id, _), _)| *id));
        let (is_move, id) = (asked.method() == Method::REFRESH, its.unwrap());
        if is_move {
            self.client(name).allocation = Some(id);
        }
        let mut is_again = false;
        if let Some(ticket) = answer.attribute(AttributeType::MOBILITY_TICKET) {
            is_again = self.of_ticket.insert(ticket.to_vec(), id).is_some();
            let tickets = &mut self.client(name).tickets;
            if !is_again {
                tickets.push(ticket.to_vec());
            }
            assert!(tickets.contains(&ticket.to_vec()), "nobody is given another's");
        }
        match (is_move, is_again) {
            (true, true) => Refreshed::Nothing,
            (true, false) => Refreshed::Named(id),
            (false, _) => Refreshed::Its,
        }
    }

    /// What becomes of 5-tuples.
    pub(crate) fn mobility(&mut self, output: &Output) -> String {
        let name =
            |five_tuple: &relay_common::addr::FiveTuple| self.name(five_tuple.client.socket());
        match output {
            Output::HandOver { shard, five_tuple } => {
                assert_eq!(*five_tuple, self.clients["anna"].five_tuple);
                format!("hand over to {shard}")
            }
            Output::Adopt { five_tuple } => format!("adopt {}", name(five_tuple)),
            Output::Disown { five_tuple } => format!("disown {}", name(five_tuple)),
            Output::Moved { from, to } => {
                let id = self.clients[&name(to)].allocation.unwrap();
                assert!(self.installed.keys().all(|(its, _)| *its != id), "withdraw first");
                assert!(self.permitted.keys().all(|(its, _)| *its != id), "forbid first");
                let names = [name(from), name(to)];
                for (_, (owner, _)) in self.relays.iter_mut().filter(|((its, _), _)| *its == id) {
                    owner.clone_from(&names[1]);
                }
                let client = self.clients.get_mut(&names[0]).unwrap();
                client.allocation = None;
                let relayed = std::mem::take(&mut client.relayed);
                self.client(&names[1]).relayed = relayed;
                format!("moved {}", names.join(" "))
            }
            _ => panic!("{output:?} is not of mobility"),
        }
    }
}

fn mobile() -> Config {
    let offers = Offers { mobility: Some(Mobility { shard: 0 }), ..Offers::default() };
    Config { offers, ..config() }
}

fn check_mobile(script: &str) {
    check_with(mobile(), script);
}

const MOVED: &str = "alice allocates ticket=none; alice binds 4000 to bob; alice permits carol; \
                     anna refreshes ticket=alice; anna sends 5 on 4000 => to bob 5";

#[test]
fn where_allocations_do_not_move_a_client_is_told_so() {
    check(
        "alice allocates ticket=none => 405; alice allocates; alice refreshes ticket=none => 405",
    );
    check("alice allocates attribute=8030/9 => 400; alice refreshes attribute=8030/9 => 405");
    // §3.1.2: not before it is known who asks.
    check(
        "alice allocates ticket=none auth=none => 401; \
         alice refreshes attribute=8030/9 auth=none => 401",
    );
    check("alice allocates ticket=none password=wrong => 401");
    // In other requests it means nothing.
    check("alice allocates; alice permits bob attribute=8030/9; alice asks attribute=8030/9");
}

#[test]
fn who_asks_for_a_ticket_gets_one() {
    check_mobile("alice allocates ticket=none even=0 => only open, ok 600 ipv4 even ticket");
    check_mobile(
        "alice allocates ticket=none; alice allocates ticket=none again => only ok 600 ipv4",
    );
    check_mobile(
        "alice allocates attribute=8030/1 => 400; alice allocates attribute=8030/42 => 400",
    );
    check_mobile(
        "alice allocates ticket=none transport=6 => 442; \
         alice allocates ticket=none auth=none => 401",
    );
    // No other answer has one.
    check_mobile(
        "alice allocates even=0 => only open, ok 600 ipv4 even; alice refreshes ticket=none => 400",
    );
    check_mobile(
        "alice allocates ticket=none; alice refreshes => only ok 600; \
         alice permits bob => permit 9.9.9.1 300/600, ok",
    );
}

/// §3.2.2: both 5-tuples, until something comes by the new one.
#[test]
fn a_refresh_with_the_ticket_lets_both_5_tuples_in_and_data_goes_by_the_old_one() {
    check_mobile(
        "alice allocates ticket=none; alice binds 4000 to bob; 100s pass; \
         anna refreshes ticket=alice \
         => only permit 9.9.9.1 200/600, adopt anna, ok 600 ticket; \
         peer bob sends 5 to alice => only to alice 4000 5; \
         alice sends 5 on 4000 => only to bob 5; \
         anna permits carol => only permit 9.9.9.2 300/600, ok; \
         anna binds 4001 to carol => only install 4001 600/300, ok; \
         anna refreshes => ok 600; alice refreshes => ok 600; \
         peer carol sends 5 to alice => only to alice 4001 5; \
         anna allocates => 437; alice allocates => 437",
    );
}

#[test]
fn data_by_the_new_5_tuple_ends_the_old_one() {
    let asked = "alice allocates ticket=none; alice binds 4000 to bob; alice permits carol; \
                 100s pass; anna refreshes ticket=alice";
    let gone = "alice sends 5 on 4000 => only no_allocation; \
                alice sends 5 to bob => only no_allocation; \
                alice refreshes => 437; alice permits bob => 437; \
                peer bob sends 5 to anna => only to anna 4000 5; \
                peer carol sends 5 to anna => only to anna data carol 5; \
                anna sends 5 to carol => only to carol 5; anna refreshes => ok 600; \
                alice allocates; peer bob sends 5 to alice => no_permission";
    let all = "forbid 9.9.9.1, forbid 9.9.9.2, withdraw 4000, moved alice anna, \
               permit 9.9.9.1 200/600, permit 9.9.9.2 200/600, install 4000 500/200";
    check_mobile(&format!("{asked}; anna sends 5 on 4000 => only {all}, to bob 5; {gone}"));
    check_mobile(&format!("{asked}; anna sends 5 to carol => only {all}, to carol 5; {gone}"));
    // Only what may pass shows that the client is there.
    check_mobile(&format!(
        "{asked}; anna sends 5 on 4001 => only unbound_channel; anna sends 5 to dave \
         => only no_permission; anna says 40000008aa => only channel_length; \
         peer bob sends 5 to alice => only to alice 4000 5"
    ));
}

#[test]
fn ports_permissions_channels_and_quotas_stay() {
    let mut limits = mobile();
    limits.limits = Limits { user_allocations_max: 2, source_allocations_max: 2, ..limits.limits };
    let mut world = World::new(limits);
    run(&mut world, MOVED);
    let relayed = world.clients["alice"].relayed;
    // The number is banned, the bindings are counted, as if nothing had moved.
    run(
        &mut world,
        "anna binds 4000 to carol => 400; anna binds 4001 to bob => 400; anna binds 4001 to carol; \
         anna binds 4002 to dave => 508; anna permits dave; \
         amy allocates; alice allocates => 486; amy refreshes lifetime=0; alice allocates",
    );
    assert_ne!(world.clients["alice"].relayed, relayed, "the port is anna's");
    let counted = world.turn.snapshot();
    assert_eq!((counted.moves, counted.channels, counted.permissions), (1, 2, 3));
    run(&mut world, "anna refreshes lifetime=0 => ok 0; 600s pass");
    let counted = world.turn.snapshot();
    assert_eq!((counted.channels, counted.permissions), (0, 0));
    check_mobile(&format!("{MOVED}; 600s pass => close; anna sends 5 on 4000 => no_allocation"));
}

#[test]
fn a_retransmission_is_answered_alike() {
    let mut world = World::new(mobile());
    run(&mut world, "alice allocates ticket=none; anna refreshes ticket=alice lifetime=700");
    let answer = world.client("anna").reply.clone();
    run(
        &mut world,
        "29s pass; anna refreshes ticket=alice lifetime=700 again => only ok 700 ticket",
    );
    assert_eq!(world.client("anna").reply, answer);
    // The answer may have been lost, and a hasty client have gone on.
    let (datagram, signed) = world.last["anna"].clone();
    run(
        &mut world,
        "anna permits bob; anna sends 5 to bob \
         => moved alice anna, permit 9.9.9.1 300/671, to bob 5; 30s pass",
    );
    assert_eq!(world.client_sends("anna", &datagram, &signed), "ok 700 ticket");
    assert_eq!(world.client("anna").reply, answer);
    run(&mut world, "anna refreshes ticket=alice lifetime=700 => 437");
}

#[test]
fn a_ticket_is_good_until_the_next_one_is_used() {
    let asked = "alice allocates ticket=none; anna permits bob => 437; anna refreshes ticket=alice";
    // The answer was lost: the client asks again, from here or from elsewhere.
    check_mobile(&format!(
        "{asked}; anna refreshes ticket=alice => only adopt anna, ok 600 ticket"
    ));
    check_mobile(&format!(
        "{asked}; amy refreshes ticket=alice => only disown anna, adopt amy, ok 600 ticket; \
         anna refreshes => 437; anna refreshes ticket=anna => 437; \
         amy permits bob; amy sends 5 to bob => moved alice amy, permit, to bob 5"
    ));
    // Or it came, and the client is elsewhere again.
    check_mobile(&format!(
        "{asked}; amy refreshes ticket=anna => only disown anna, adopt amy, ok 600 ticket; \
         amy permits bob; amy sends 5 to bob => to bob 5; anna refreshes => 437; \
         alice refreshes => 437"
    ));
    // Then the old one is over.
    check_mobile(&format!(
        "{MOVED}; amy refreshes ticket=alice => 437; alice refreshes ticket=alice => 437; \
         anna refreshes ticket=alice => 437; \
         amy refreshes ticket=anna => only adopt amy, ok 600 ticket; \
         amy sends 5 on 4000 => to bob 5; amy refreshes ticket=anna => 437; \
         alice refreshes ticket=amy => only adopt alice, ok 600 ticket; \
         alice sends 5 on 4000 => to bob 5; peer bob sends 5 to alice => to alice 4000 5"
    ));
}

#[test]
fn a_ticket_moves_nothing_from_where_the_allocation_is() {
    check_mobile(
        "alice allocates ticket=none; alice refreshes ticket=alice => 400; alice refreshes",
    );
    check_mobile(
        "alice allocates ticket=none; anna refreshes ticket=alice; alice refreshes ticket=anna \
         => 400; anna refreshes ticket=anna => 400; alice permits bob; alice sends 5 to bob",
    );
    check_mobile(&format!("{MOVED}; anna refreshes ticket=anna => 400; anna refreshes"));
}

#[test]
fn a_5_tuple_that_has_an_allocation_gets_no_other() {
    check_mobile(
        "alice allocates ticket=none; anna allocates; anna refreshes ticket=alice => 437; \
         anna refreshes; alice refreshes; anna refreshes lifetime=0; anna refreshes ticket=alice",
    );
    check_mobile(
        "alice allocates ticket=none; amy allocates ticket=none; anna refreshes ticket=alice; \
         anna refreshes ticket=amy => 437; anna permits bob; \
         anna sends 5 to bob => moved alice anna, permit, to bob 5; \
         anna refreshes ticket=amy => 437",
    );
}

#[test]
fn a_ticket_that_nobody_gave_is_refused() {
    check_mobile(
        "alice allocates ticket=none; anna refreshes ticket=alice/bad => 400; \
         anna refreshes ticket=none => 400; anna refreshes attribute=8030/42 => 400; \
         anna refreshes attribute=8030/1400 => 400; alice refreshes",
    );
    let mut world = World::new(mobile());
    run(&mut world, "alice allocates ticket=none");
    let ticket = world.ticket("alice");
    let mut restarted = World::new(Config { nonce_key: [9; 32], ..mobile() });
    restarted.client("alice").tickets.push(ticket);
    run(&mut restarted, "alice refreshes ticket=alice => 400");
}

#[test]
fn a_ticket_is_its_users_alone() {
    let other = "user=other password=word";
    check_mobile(&format!(
        "alice allocates ticket=none; anna refreshes ticket=alice {other} => only 441; \
         anna refreshes ticket=alice auth=none => only 401; \
         anna refreshes ticket=alice password=wrong => only 401; \
         anna refreshes => 437; anna refreshes ticket=alice => adopt anna, ok 600 ticket; \
         anna refreshes {other} => 441; anna permits bob {other} => 441"
    ));
    // What it is good for, others are not told either.
    check_mobile(&format!(
        "alice allocates ticket=none; alice refreshes ticket=alice {other} => 441; \
         {MOVED2}; amy refreshes ticket=alice/0 {other} => 441",
        MOVED2 = "anna refreshes ticket=alice; alice permits bob; anna sends 5 to bob => to bob 5"
    ));
}

#[test]
fn a_ticket_ends_with_its_allocation() {
    let allocated = "alice allocates ticket=none";
    check_mobile(&format!("{allocated}; 599s pass; anna refreshes ticket=alice"));
    check_mobile(&format!("{allocated}; 600s pass; anna refreshes ticket=alice => 437"));
    check_mobile(&format!(
        "{allocated}; alice refreshes lifetime=0; amy allocates; anna refreshes ticket=alice => 437"
    ));
    check_mobile(&format!(
        "{allocated}; 500s pass; alice refreshes; 500s pass; \
         anna refreshes ticket=alice => ok 600 ticket"
    ));
}

#[test]
fn an_allocation_that_is_over_leaves_neither_5_tuple() {
    let asked = "alice allocates ticket=none; anna refreshes ticket=alice";
    let free = "anna refreshes => 437; anna allocates; anna refreshes; alice allocates";
    check_mobile(&format!("{asked}; 600s pass => only close, disown anna; {free}"));
    check_mobile(&format!(
        "{asked}; alice refreshes lifetime=0 => close, disown anna, ok 0; {free}"
    ));
    check_mobile(&format!(
        "{asked}; anna refreshes lifetime=0 => close, disown anna, ok 0; {free}"
    ));
    // From elsewhere, with the ticket, at once: there is nothing to move.
    check_mobile(
        "alice allocates ticket=none; alice permits bob; anna refreshes ticket=alice lifetime=0 \
         => only forbid 9.9.9.1, close, ok 0; anna refreshes ticket=alice => 437; alice refreshes \
         => 437; anna allocates",
    );
    check_mobile(&format!("{MOVED}; anna refreshes lifetime=0 => close, ok 0; {free}"));
    let mut world = World::new(mobile());
    run(&mut world, asked);
    world.turn.close();
    let last = std::iter::from_fn(|| world.turn.poll()).last();
    assert!(matches!(last, Some(Output::Ended { .. })), "{last:?}");
    assert_eq!(say(&mut world, "anna refreshes"), "437");
}

#[test]
fn an_allocation_moves_from_one_family_to_the_other_and_so_do_both_its_addresses() {
    check_mobile(
        "alice allocates ticket=none additional=6; alice binds 4000 to bob; \
         alice binds 4001 to bob6; \
         alice6 refreshes ticket=alice => only adopt alice6, ok 600 ticket; \
         alice6 sends 5 on 4001 => only forbid 9.9.9.1, forbid 2a00:9::1, withdraw 4000, \
         withdraw 4001, moved alice alice6, permit 9.9.9.1 300/600, permit 2a00:9::1 300/600, \
         install 4000 600/300, install 4001 600/300, to bob6 5; \
         peer bob sends 5 to alice6 => only to alice6 4000 5; \
         peer bob6 sends 5 to alice6 => only to alice6 4001 5; \
         alice sends 5 on 4000 => no_allocation",
    );
    // A refresh of one family is one, and what cannot be refreshed does not move.
    check_mobile(
        "alice allocates ticket=none; anna refreshes ticket=alice family=6 => only 443; \
         anna refreshes ticket=alice attribute=000d/5 => only 400; anna refreshes => 437; \
         anna refreshes ticket=alice family=4 => only adopt anna, ok 600 ticket",
    );
    check_mobile(
        "alice allocates ticket=none additional=6; \
         anna refreshes ticket=alice family=6 lifetime=0 => only close, adopt anna, ok 0 ticket; \
         anna refreshes => ok 600",
    );
}

#[test]
fn with_access_tokens_the_session_key_says_whose_ticket_it_is() {
    let mut config = offering();
    config.offers.mobility = Some(Mobility { shard: 0 });
    let allocated = "alice allocates ticket=none user=kid access=good";
    check_with(
        config.clone(),
        &format!(
            "{allocated}; anna refreshes ticket=alice user=kid access=short => only 441; \
             anna refreshes ticket=alice => only 441; anna refreshes user=kid held=20 => 401; \
             anna refreshes ticket=alice user=kid access=good => adopt anna, ok 600 ticket"
        ),
    );
    // RFC 7635 §9: it may come without the token.
    check_with(
        config.clone(),
        &format!(
            "{allocated}; anna refreshes ticket=alice user=kid held=16 => only 401; \
             anna refreshes ticket=alice/bad user=kid held=20 => only 401; \
             anna refreshes ticket=alice user=kid held=20 => adopt anna, ok 600 ticket; \
             anna permits bob user=kid held=20"
        ),
    );
    check_with(
        config,
        "alice allocates ticket=none; anna refreshes ticket=alice user=kid access=good => only 441",
    );
}

/// Two state machines of one server.
#[test]
fn another_shards_ticket_is_handed_over_and_answered_there() {
    let shard = |shard| {
        let offers = Offers { mobility: Some(Mobility { shard }), ..Offers::default() };
        World::new(Config { offers, ..config() })
    };
    let (mut owner, mut other) = (shard(7), shard(1));
    run(&mut owner, "alice allocates ticket=none; alice binds 4000 to bob");
    other.client("alice").tickets.push(owner.ticket("alice"));
    other.record = Some(Vec::new());
    // Nothing is kept, and nothing said, of who may not have sent it.
    let before = other.turn.snapshot();
    for said in ["auth=none", "password=wrong", "user=other password=word", ""] {
        let said = format!("anna refreshes ticket=alice {said} => only hand over to 7");
        run(&mut other, &said);
    }
    assert_eq!(other.turn.snapshot().moves, before.moves);
    // Anything else of it is answered here.
    run(
        &mut other,
        "anna refreshes ticket=alice/bad => 400; anna refreshes => 437; anna allocates; \
         anna refreshes ticket=alice => 437; anna refreshes lifetime=0",
    );
    run(&mut other, "anna refreshes ticket=alice => hand over to 7");
    let (datagram, signed) = other.last["anna"].clone();
    assert_eq!(owner.client_sends("anna", &datagram, &signed), "adopt anna, ok 600 ticket");
    let moved = say(&mut owner, "anna sends 5 on 4000");
    assert!(moved.contains("moved alice anna") && moved.ends_with("to bob 5"), "{moved}");
    // Back at a 5-tuple of the other, meanwhile taken there: that one ends.
    run(&mut other, "amy allocates; amy permits bob");
    let five_tuple = other.client("amy").five_tuple;
    other.turn.handle(other.now, Input::Elsewhere { five_tuple });
    let ended: Vec<_> = std::iter::from_fn(|| other.turn.poll()).collect();
    assert!(matches!(
        ended[..],
        [Output::Forbid(_), Output::CloseRelay { .. }, Output::Ended { .. }]
    ));
    other.turn.handle(other.now, Input::Elsewhere { five_tuple });
    assert_eq!(other.turn.poll(), None);
}

#[test]
fn of_those_who_are_not_known_only_so_much_is_handed_over() {
    let mut owner = World::new(mobile());
    run(&mut owner, "alice allocates ticket=none");
    let limits = Limits { unauthenticated_replies_per_sec: 1, ..config().limits };
    let offers = Offers { mobility: Some(Mobility { shard: 1 }), ..Offers::default() };
    let mut other = World::new(Config { limits, offers, ..config() });
    other.client("alice").tickets.push(owner.ticket("alice"));
    let asked = "anna refreshes ticket=alice auth=none";
    let said: Vec<_> = (0..9).map(|_| say(&mut other, asked)).collect();
    assert_eq!(said[0], "hand over to 0");
    assert!(said.ends_with(&["rate_limited".to_owned()]), "{said:?}");
    run(&mut other, "3s pass; anna refreshes ticket=alice auth=none => only hand over to 0");
}
