//! Clients that moved (RFC 8016): a datagram that reaches this shard, of an allocation that another
//! shard has, is handed to it as it came. That shard answers and relays by sockets of its own on
//! the same addresses, and by its entries in the kernel.
//!
//! Owns the ways between shards and what goes on them: datagrams, of which a bounded number waits,
//! and notes on whose a 5-tuple is, which only a request that was authenticated causes. Decides
//! nothing: which shard has an allocation is `relay-turn`'s to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use relay_common::addr::FiveTuple;
use relay_turn::{Input, Now};

use super::{Report, Shard};
use crate::ring::{Datagram, Frame, IpFields, Ring, Socket};

/// Datagrams that wait for a shard, at most.
const PARCELS_MAX: usize = 1024;

/// A datagram on its way to the shard that has its allocation.
pub(crate) struct Parcel {
    five_tuple: FiveTuple,
    fields: IpFields,
    bytes: Box<[u8]>,
    /// The shard that received it.
    via: usize,
}

/// Whose a 5-tuple is.
#[derive(Clone, Copy)]
enum Note {
    /// From now on this shard's.
    Adopted(FiveTuple, usize),
    /// No longer this shard's.
    Disowned(FiveTuple, usize),
}

/// How a shard is reached by the others.
struct Door {
    parcels: SyncSender<Parcel>,
    notes: Sender<Note>,
    wake: OwnedFd,
}

/// A shard's end of the ways between all of them.
pub(crate) struct Post {
    index: usize,
    doors: Arc<[Door]>,
    parcels: Receiver<Parcel>,
    notes: Receiver<Note>,
}

impl Post {
    /// One for each shard, by the eventfds that wake them.
    pub(crate) fn between(wakes: Vec<OwnedFd>) -> Vec<Self> {
        let (mut doors, mut ends) = (Vec::new(), Vec::new());
        for wake in wakes {
            let (parcels, incoming) = sync_channel(PARCELS_MAX);
            let (notes, noted) = channel();
            doors.push(Door { parcels, notes, wake });
            ends.push((incoming, noted));
        }
        let doors: Arc<[Door]> = doors.into();
        let end = |(index, (parcels, notes))| Self { index, doors: doors.clone(), parcels, notes };
        ends.into_iter().enumerate().map(end).collect()
    }

    fn tell(&self, shard: usize, note: Note) {
        if let Some(door) = self.doors.get(shard).filter(|_| shard != self.index) {
            // A shard that is gone has no clients.
            let _ = door.notes.send(note);
            door.wake();
        }
    }
}

impl Door {
    fn wake(&self) {
        // It fails only when the shard is about to be woken some 2^64 times.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// What a shard knows of clients that moved.
pub(super) struct Moves {
    post: Post,
    /// 5-tuples that reach this shard, and which one has their allocations.
    elsewhere: HashMap<FiveTuple, usize>,
    /// 5-tuples of allocations here that reach another shard, and which one, if that is known.
    guests: HashMap<FiveTuple, Option<usize>>,
    /// The shard that received what is being handled, if it is a datagram.
    via: Option<usize>,
    handed_over: u64,
    full: u64,
}

impl Moves {
    pub(super) fn new(post: Post) -> Self {
        let (elsewhere, guests) = (HashMap::new(), HashMap::new());
        Self { post, elsewhere, guests, via: None, handed_over: 0, full: 0 }
    }

    pub(super) fn report(&self, report: &mut Report) {
        report.handed_over = self.handed_over;
        report.hand_over_full = self.full;
        report.elsewhere = self.elsewhere.len() as u64;
    }

    fn adopt(&mut self, five_tuple: FiveTuple) {
        self.elsewhere.remove(&five_tuple);
        if self.via == Some(self.post.index) {
            self.guests.remove(&five_tuple);
            return;
        }
        self.guests.insert(five_tuple, self.via);
        self.tell(self.via, Note::Adopted(five_tuple, self.post.index));
    }

    fn disown(&mut self, five_tuple: &FiveTuple) {
        if let Some(via) = self.guests.remove(five_tuple) {
            self.tell(via, Note::Disowned(*five_tuple, self.post.index));
        }
    }

    /// Tells a shard, or all others.
    fn tell(&self, shard: Option<usize>, note: Note) {
        match shard {
            Some(shard) => self.post.tell(shard, note),
            None => (0..self.post.doors.len()).for_each(|shard| self.post.tell(shard, note)),
        }
    }

    /// Whose a datagram is that this shard received; if no other shard's, it is handled next.
    fn owner(&mut self, five_tuple: &FiveTuple) -> Option<usize> {
        let owner = self.elsewhere.get(five_tuple).copied();
        self.via = owner.is_none().then_some(self.post.index);
        owner
    }

    /// Takes a note. Gives a 5-tuple that is another shard's since.
    fn note(&mut self, note: Note) -> Option<FiveTuple> {
        match note {
            Note::Adopted(five_tuple, owner) => {
                let before = self.elsewhere.insert(five_tuple, owner);
                (before != Some(owner)).then_some(five_tuple)
            }
            Note::Disowned(five_tuple, owner) => {
                // Another one may have adopted it meanwhile.
                if self.elsewhere.get(&five_tuple) == Some(&owner) {
                    self.elsewhere.remove(&five_tuple);
                }
                None
            }
        }
    }

    /// Hands a datagram over, unless too many wait already: the client sends a request again, and
    /// data is lost as in any queue.
    fn hand_over(&mut self, to: usize, parcel: Parcel) {
        let Some(door) = self.post.doors.get(to) else { return };
        match door.parcels.try_send(parcel) {
            Ok(()) => {
                self.handed_over += 1;
                door.wake();
            }
            Err(_) => self.full += 1,
        }
    }
}

/// A datagram that is being handled.
pub(super) enum Carried {
    /// It lies where it was received.
    Received(Datagram),
    /// Another shard received it.
    HandedOver(Parcel),
}

impl Carried {
    /// All of it.
    pub(super) fn bytes<'a>(&'a self, ring: &'a Ring) -> &'a [u8] {
        match self {
            Self::Received(datagram) => ring.bytes(datagram),
            Self::HandedOver(parcel) => &parcel.bytes,
        }
    }

    /// How it came.
    pub(super) const fn fields(&self) -> IpFields {
        match self {
            Self::Received(datagram) => datagram.fields,
            Self::HandedOver(parcel) => parcel.fields,
        }
    }

    /// Sends it on.
    pub(super) fn forward(
        self,
        ring: &mut Ring,
        (socket, to): (Socket, SocketAddr),
        fields: IpFields,
        frame: &Frame<'_>,
    ) {
        match self {
            Self::Received(datagram) => ring.forward(socket, to, fields, datagram, frame),
            // It came from a client: what goes to a peer is a part of it, without a head.
            Self::HandedOver(parcel) => {
                ring.send_with(socket, to, fields, &parcel.bytes[frame.payload.clone()]);
            }
        }
    }

    /// Gives its buffer back.
    pub(super) fn release(self, ring: &mut Ring) {
        match self {
            Self::Received(datagram) => ring.release(datagram),
            Self::HandedOver(_) => {}
        }
    }
}

impl Shard {
    /// Everything of a 5-tuple is to be brought here.
    pub(super) fn adopt(&mut self, five_tuple: FiveTuple) {
        if let Some(moves) = &mut self.moves {
            moves.adopt(five_tuple);
        }
    }

    /// A 5-tuple is nothing to this shard any more.
    pub(super) fn disown(&mut self, five_tuple: &FiveTuple) {
        if let Some(moves) = &mut self.moves {
            moves.disown(five_tuple);
        }
    }

    /// Sends a datagram on, unless its last hop was here.
    pub(super) fn forward(
        &mut self,
        socket: Socket,
        to: SocketAddr,
        datagram: Carried,
        frame: &Frame<'_>,
    ) {
        match datagram.fields().relayed() {
            Some(fields) => datagram.forward(&mut self.ring, (socket, to), fields, frame),
            None => {
                self.hop_limit += 1;
                datagram.release(&mut self.ring);
            }
        }
    }

    /// Hands a datagram to another shard.
    pub(super) fn hand_over(&mut self, to: usize, five_tuple: FiveTuple, datagram: Carried) {
        if let Some(moves) = &mut self.moves {
            let (fields, bytes) = (datagram.fields(), datagram.bytes(&self.ring).into());
            let via = moves.via.unwrap_or(moves.post.index);
            moves.hand_over(to, Parcel { five_tuple, fields, bytes, via });
        }
        datagram.release(&mut self.ring);
    }

    /// Which other shard has the allocation of a 5-tuple; if none has, a datagram of it is handled
    /// here next. Whose it is was noted before its client was told that it moved, and is looked at
    /// before anything that its client sent since.
    pub(super) fn owner(&mut self, now: Now, five_tuple: &FiveTuple) -> Option<usize> {
        self.moves.as_ref()?;
        self.read_notes(now);
        self.moves.as_mut()?.owner(five_tuple)
    }

    /// Learns what 5-tuples are other shards' by now.
    pub(super) fn read_notes(&mut self, now: Now) {
        while let Some(moves) = &mut self.moves
            && let Ok(note) = moves.post.notes.try_recv()
        {
            if let Some(five_tuple) = moves.note(note) {
                moves.via = None;
                self.handle(now, Input::Elsewhere { five_tuple });
            }
        }
    }

    /// Handles what other shards received.
    pub(super) fn open_parcels(&mut self, now: Now) {
        for _ in 0..PARCELS_MAX {
            let Some(moves) = &mut self.moves else { return };
            let Ok(parcel) = moves.post.parcels.try_recv() else { return };
            moves.via = Some(parcel.via);
            let five_tuple = parcel.five_tuple;
            self.turn.handle(now, Input::FromClient { five_tuple, datagram: &parcel.bytes });
            self.drain(now, Some(Carried::HandedOver(parcel)));
            self.between_datagrams();
        }
    }

    /// What is handled next is no datagram of a client.
    pub(super) fn between_datagrams(&mut self) {
        if let Some(moves) = &mut self.moves {
            moves.via = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_common::addr::{ClientAddr, ServerAddr, Transport};
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn five_tuple(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: ClientAddr::new(SocketAddr::from(([192, 0, 2, 1], port))),
            server: ServerAddr::new(SocketAddr::from(([192, 0, 2, 9], 3478))),
        }
    }

    fn shards(count: usize) -> Vec<Moves> {
        let wake = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Post::between((0..count).map(|_| wake()).collect()).into_iter().map(Moves::new).collect()
    }

    /// Everything that a shard was told; the 5-tuples that are another's since.
    fn read(moves: &mut Moves) -> Vec<FiveTuple> {
        let notes: Vec<_> = moves.post.notes.try_iter().collect();
        notes.into_iter().filter_map(|note| moves.note(note)).collect()
    }

    fn elsewhere(shards: &mut [Moves], of: FiveTuple) -> Vec<Option<usize>> {
        let owner = |moves: &mut Moves| {
            read(moves);
            moves.elsewhere.get(&of).copied()
        };
        shards.iter_mut().map(owner).collect()
    }

    #[test]
    fn the_shard_that_received_it_is_told_and_is_told_of_the_end() {
        let (mut shards, moved) = (shards(3), five_tuple(1));
        shards[2].via = Some(0);
        shards[2].adopt(moved);
        shards[2].adopt(moved);
        assert_eq!(read(&mut shards[0]), [moved], "only once is it news");
        assert_eq!(elsewhere(&mut shards, moved), [Some(2), None, None]);
        shards[2].disown(&five_tuple(2));
        assert_eq!(elsewhere(&mut shards, moved), [Some(2), None, None], "not that one");
        shards[2].disown(&moved);
        shards[2].disown(&moved);
        assert_eq!(elsewhere(&mut shards, moved), [None; 3]);
        assert!(shards.iter().all(|moves| moves.guests.is_empty()));
    }

    #[test]
    fn who_does_not_know_where_it_came_in_tells_all() {
        let (mut shards, moved) = (shards(3), five_tuple(1));
        shards[1].adopt(moved);
        assert_eq!(elsewhere(&mut shards, moved), [Some(1), None, Some(1)]);
        shards[1].disown(&moved);
        assert_eq!(elsewhere(&mut shards, moved), [None; 3]);
    }

    /// An answer to a look-up may come right behind a datagram that was handed over.
    #[test]
    fn only_a_datagram_that_is_handled_here_says_where_it_came_in() {
        let (mut shards, moved) = (shards(2), five_tuple(1));
        shards[1].adopt(moved);
        read(&mut shards[0]);
        assert_eq!((shards[0].owner(&moved), shards[0].via), (Some(1), None));
        assert_eq!((shards[0].owner(&five_tuple(2)), shards[0].via), (None, Some(0)));
        assert_eq!((shards[0].owner(&moved), shards[0].via), (Some(1), None));
    }

    #[test]
    fn the_last_who_adopts_a_5_tuple_has_it_whatever_others_say_later() {
        let (mut shards, moved) = (shards(3), five_tuple(1));
        shards[1].via = Some(0);
        shards[1].adopt(moved);
        shards[2].via = Some(0);
        shards[2].adopt(moved);
        shards[1].disown(&moved);
        assert_eq!(elsewhere(&mut shards, moved), [Some(2), None, None]);
        // Back where it comes in: nobody needs to be told.
        shards[0].via = Some(0);
        shards[0].adopt(moved);
        shards[2].disown(&moved);
        assert_eq!(elsewhere(&mut shards, moved), [None; 3]);
        assert!(shards.iter().all(|moves| moves.guests.is_empty()));
    }

    #[test]
    fn so_many_datagrams_wait_for_a_shard_and_no_more() {
        let mut shards = shards(2);
        let parcel = || Parcel {
            five_tuple: five_tuple(1),
            fields: IpFields::default(),
            bytes: Box::from(*b"data"),
            via: 0,
        };
        for _ in 0..=PARCELS_MAX {
            shards[0].hand_over(1, parcel());
        }
        assert_eq!((shards[0].handed_over, shards[0].full), (PARCELS_MAX as u64, 1));
        assert_eq!(shards[1].post.parcels.try_iter().count(), PARCELS_MAX);
        shards[0].hand_over(1, parcel());
        shards[0].hand_over(7, parcel());
        let mut report = Report::default();
        shards[0].report(&mut report);
        let counted = (report.handed_over, report.hand_over_full, report.elsewhere);
        assert_eq!(counted, (PARCELS_MAX as u64 + 1, 1, 0), "there is no seventh");
    }
}
