//! One thread of the relay: one `Turn`, one io_uring, its sockets. Every table has this one
//! writer. Decides nothing: it carries inputs in and executes outputs in order.

mod errors;
mod handover;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use relay_common::abi::{Count, Direction};
use relay_common::addr::{
    ClientAddr, Family, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport,
};
use relay_turn::{AllocationId, Credentials, Input, LookedUp, Now, Output, RealmId, Turn};
use tokio::sync::oneshot;
use tracing::{debug, error};

use crate::clock;
use crate::datapath::Kernel;
use crate::hints::Hints;
use crate::icmp::{self, Budget};
use crate::refusals::Refusals;
use crate::relays::Relays;
pub(crate) use crate::report::Report;
use crate::ring::{Datagram, Event, Frame, Ring, Socket, Token};
use crate::sockets::{self, IcmpErrors, Sharing};
use crate::store::{Ask, Asks};
use errors::Part;
pub(crate) use handover::Post;
use handover::{Carried, Moves};

/// Asked of a shard from outside.
pub(crate) enum Command {
    /// Tell the counters.
    Report(oneshot::Sender<Report>),
    /// Take other credentials for a realm.
    Credentials(RealmId, Credentials),
    /// The answer to what the shard asked of a user.
    LookedUp {
        /// Of which realm.
        realm: RealmId,
        /// Who.
        user: Box<[u8]>,
        /// What.
        answer: LookedUp,
    },
    /// Withdraw everything, close every socket, end the thread.
    Close,
}

/// What a shard is made of.
pub(crate) struct Parts {
    /// The state machine.
    pub(crate) turn: Turn,
    /// Its listening sockets, and the address of each.
    pub(crate) listeners: Vec<(ServerAddr, OwnedFd)>,
    /// The kernel's datapath, when there is one.
    pub(crate) kernel: Option<Arc<Kernel>>,
    /// What operators are told.
    pub(crate) hints: Arc<Hints>,
    /// Its number, and where it asks for users that it does not know.
    pub(crate) store: (usize, Asks),
    /// Ways to the other shards, if allocations move.
    pub(crate) post: Option<Post>,
    /// Commands, each announced on `wake`.
    pub(crate) commands: Receiver<Command>,
    /// An eventfd.
    pub(crate) wake: OwnedFd,
}

struct Shard {
    turn: Turn,
    ring: Ring,
    listeners: Vec<(ServerAddr, OwnedFd)>,
    /// Which listening socket answers for which address.
    listener_of: HashMap<SocketAddr, usize>,
    relays: Relays,
    kernel: Option<Arc<Kernel>>,
    hints: Arc<Hints>,
    store: (usize, Asks),
    moves: Option<Moves>,
    /// Closed, but possibly named by entries that are not submitted yet: a descriptor's number
    /// must not be used again before they are.
    closing: Vec<OwnedFd>,
    /// Sockets to receive from again, after this round has given buffers back.
    stopped: Vec<Token>,
    icmp: Budget,
    refusals: Refusals,
    hop_limit: u64,
    dont_fragment: u64,
}

/// What a receiving socket is.
enum Origin {
    Listener(ServerAddr),
    Relay(AllocationId),
}

/// Runs a shard until it is told to close. Tells `ready` how its start went.
pub(crate) fn run(parts: Parts, ready: Sender<io::Result<()>>) {
    let Parts { turn, listeners, kernel, hints, store, post, commands, wake } = parts;
    let ring = match Ring::new(wake) {
        Ok(ring) => ring,
        Err(error) => {
            // The receiver waits for every shard; without it the process is ending anyway.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let listener_of =
        listeners.iter().enumerate().map(|(index, (server, _))| (server.socket(), index)).collect();
    let mut shard = Shard {
        turn,
        ring,
        listeners,
        listener_of,
        relays: Relays::default(),
        kernel,
        hints,
        store,
        moves: post.map(Moves::new),
        closing: Vec::new(),
        stopped: Vec::new(),
        icmp: Budget::default(),
        refusals: Refusals::default(),
        hop_limit: 0,
        dont_fragment: 0,
    };
    for (index, (_, socket)) in shard.listeners.iter().enumerate() {
        shard.ring.receive(Socket { token: index as Token, fd: socket.as_raw_fd() });
    }
    let _ = ready.send(Ok(()));
    if let Err(error) = shard.serve(&commands) {
        error!(%error, "a shard ends: io_uring no longer takes submissions");
    }
}

impl Shard {
    fn serve(&mut self, commands: &Receiver<Command>) -> io::Result<()> {
        loop {
            self.ring.wait(self.timeout())?;
            if self.ring.is_submitted() {
                self.closing.clear();
            }
            let now = clock::now();
            self.listen_again(now);
            self.read_notes(now);
            while let Some(event) = self.ring.next() {
                match event {
                    Event::Received(token, datagram) => self.received(now, token, datagram),
                    Event::Stopped(token) => self.stopped.push(token),
                    Event::Failed(token) => {
                        self.read_errors(now, token, None);
                        self.stopped.push(token);
                    }
                    Event::Unsent(token, unsent) => {
                        // While errors are left, the next try would fail as well.
                        self.read_errors(now, token, None);
                        match self.origin(token) {
                            Some((_, socket)) => self.ring.resend(socket.fd, unsent),
                            None => self.ring.give_up(unsent),
                        }
                    }
                    Event::Woken => {}
                }
            }
            self.open_parcels(now);
            if self.turn.deadline().is_some_and(|deadline| deadline <= now.monotonic_ns) {
                self.handle(now, Input::Deadline);
            }
            // Without buffers it would only stop again; a send that completes brings one back.
            if self.ring.has_buffers() {
                for token in std::mem::take(&mut self.stopped) {
                    if let Some((_, socket)) = self.origin(token) {
                        self.ring.receive(socket);
                    }
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(Command::Report(reply)) => {
                        // A scrape that gave up in the meantime is no concern of ours.
                        let _ = reply.send(self.report());
                    }
                    Ok(Command::Credentials(realm, credentials)) => {
                        self.turn.replace_credentials(realm, credentials);
                    }
                    Ok(Command::LookedUp { realm, user, answer }) => {
                        let (user, answer) = (&*user, &answer);
                        self.handle(now, Input::LookedUp { realm, user, answer });
                    }
                    Ok(Command::Close) | Err(TryRecvError::Disconnected) => {
                        self.turn.close();
                        self.drain(now, None);
                        return self.ring.wait(Some(Duration::ZERO));
                    }
                    Err(TryRecvError::Empty) => break,
                }
            }
        }
    }

    /// How long to sleep: until the state machine's deadline, or until muted sockets are heard.
    fn timeout(&self) -> Option<Duration> {
        let deadlines = [self.turn.deadline(), self.icmp.deadline_ns()];
        let deadline = deadlines.into_iter().flatten().min()?;
        let left = deadline.saturating_sub(clock::now().monotonic_ns);
        Some(Duration::from_nanos(left))
    }

    fn report(&self) -> Report {
        let mut report = Report {
            turn: self.turn.snapshot(),
            ring: self.ring.losses(),
            hop_limit: self.hop_limit,
            dont_fragment: self.dont_fragment,
            icmp_muted: self.icmp.muted(),
            ..Report::default()
        };
        if let Some(moves) = &self.moves {
            moves.report(&mut report);
        }
        report
    }

    fn received(&mut self, now: Now, token: Token, datagram: Datagram) {
        let input = match self.origin(token) {
            Some((Origin::Listener(server), _)) => {
                let client = ClientAddr::new(datagram.from);
                let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
                if let Some(owner) = self.owner(now, &five_tuple) {
                    return self.hand_over(owner, five_tuple, Carried::Received(datagram));
                }
                Input::FromClient { five_tuple, datagram: self.ring.bytes(&datagram) }
            }
            Some((Origin::Relay(allocation), _)) => {
                let peer = PeerAddr::new(datagram.from);
                Input::FromPeer { allocation, peer, datagram: self.ring.bytes(&datagram) }
            }
            // It arrived before its allocation went.
            None => return self.ring.release(datagram),
        };
        self.turn.handle(now, input);
        self.drain(now, Some(Carried::Received(datagram)));
        self.between_datagrams();
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        self.turn.handle(now, input);
        self.drain(now, None);
    }

    /// Executes every output in order. `datagram` is the input's, for the output that sends it
    /// on. What was opened is told afterwards, as an input of its own.
    fn drain(&mut self, now: Now, mut datagram: Option<Carried>) {
        let (mut opened, mut unknown) = (Vec::new(), Vec::new());
        let mut whole = None;
        while let Some(output) = self.turn.poll() {
            match output {
                Output::Reply { five_tuple, bytes } => self.reply(&five_tuple, bytes),
                Output::ToPeer { allocation, peer, fragments, payload } => {
                    if let Some(datagram) = datagram.take() {
                        let part = Part { allocation, peer, datagram, payload };
                        whole = self.relay(part, fragments);
                    }
                }
                Output::ToClient { five_tuple, head, padding } => {
                    if let Some(socket) = self.listener_socket(five_tuple.server)
                        && let Some(datagram) = datagram.take()
                    {
                        let payload = 0..datagram.bytes(&self.ring).len();
                        let frame = Frame { head: head.as_slice(), payload, padding };
                        self.forward(socket, five_tuple.client.socket(), datagram, &frame);
                    }
                }
                Output::OpenRelay { allocation, relayed } => {
                    opened.push((allocation, relayed.family(), self.open(allocation, relayed)));
                }
                Output::LookUp { realm, user } => unknown.push((realm, user)),
                Output::Refused(refusal) => self.refusals.tell(now, &refusal),
                Output::CloseRelay { allocation, family } => self.close(allocation, family),
                Output::Ended { five_tuple, counts } => {
                    self.ended(&five_tuple, counts);
                    self.disown(&five_tuple);
                }
                Output::HandOver { shard, five_tuple } => {
                    if let Some(datagram) = datagram.take() {
                        self.hand_over(shard.into(), five_tuple, datagram);
                    }
                }
                Output::Adopt { five_tuple } => self.adopt(five_tuple),
                Output::Disown { five_tuple } => self.disown(&five_tuple),
                Output::Moved { from, to } => {
                    self.in_kernel(|kernel| kernel.change(&from, to));
                    self.disown(&from);
                }
                Output::Install(binding) => self.in_kernel(|kernel| kernel.install(&binding)),
                Output::Withdraw(binding) => self.in_kernel(|kernel| kernel.withdraw(&binding)),
                Output::Permit(permission) => self.in_kernel(|kernel| kernel.permit(&permission)),
                Output::Forbid(permission) => self.in_kernel(|kernel| kernel.forbid(&permission)),
                Output::HintChannelNumber => self.hints.channel_number(now),
            }
        }
        if let Some(datagram) = datagram {
            datagram.release(&mut self.ring);
        }
        if let Some(whole) = whole {
            self.send_whole(now, whole);
        }
        for (allocation, family, result) in opened {
            let input = match result {
                Ok(()) => Input::RelayOpened { allocation, family },
                Err(error) => {
                    debug!(%error, "a relayed port could not be opened");
                    Input::RelayFailed { allocation, family }
                }
            };
            self.handle(now, input);
        }
        for (realm, user) in unknown {
            self.ask(now, realm, user);
        }
    }

    /// Asks for a user. Never waits: what finds no place now has failed.
    fn ask(&mut self, now: Now, realm: RealmId, user: Box<[u8]>) {
        let (shard, asks) = &self.store;
        if let Err(error) = asks.try_send(Ask { shard: *shard, realm, user }) {
            let Ask { user, .. } = error.into_inner();
            self.handle(now, Input::LookedUp { realm, user: &user, answer: &LookedUp::Failed });
        }
    }

    fn in_kernel(&self, change: impl FnOnce(&Kernel)) {
        if let Some(kernel) = &self.kernel {
            change(kernel);
        }
    }

    fn reply(&mut self, five_tuple: &FiveTuple, bytes: Range<usize>) {
        if let Some(socket) = self.listener_socket(five_tuple.server) {
            self.ring.send(socket, five_tuple.client.socket(), self.turn.bytes(bytes));
        }
    }

    fn open(&mut self, allocation: AllocationId, relayed: RelayedAddr) -> io::Result<()> {
        let socket = sockets::bind(relayed.socket(), Sharing::Exclusive)?;
        icmp::hear(&socket, IcmpErrors::Kept);
        let socket = self.relays.insert(allocation, relayed.family(), socket);
        self.ring.receive(socket);
        Ok(())
    }

    fn close(&mut self, allocation: AllocationId, family: Family) {
        if let Some((token, socket)) = self.relays.take(allocation, family) {
            self.ring.cancel(token);
            self.closing.push(socket);
        }
    }

    /// Says what an allocation relayed. `counts` is what was relayed for it here.
    fn ended(&self, five_tuple: &FiveTuple, counts: [Count; Direction::ALL.len()]) {
        let kernel = self.kernel.as_ref();
        let by_kernel = kernel.map_or_else(Default::default, |kernel| kernel.end(five_tuple));
        let [to_peer, to_client] = Direction::ALL.map(|direction| {
            let (here, there) = (counts[direction as usize], by_kernel[direction as usize]);
            (here.packets + there.packets, here.bytes + there.bytes, there.packets)
        });
        debug!(
            to_peer_packets = to_peer.0,
            to_peer_bytes = to_peer.1,
            to_peer_packets_xdp = to_peer.2,
            to_client_packets = to_client.0,
            to_client_bytes = to_client.1,
            to_client_packets_xdp = to_client.2,
            "an allocation ended"
        );
    }

    /// Whose socket a token names, and the socket, if it is still open.
    fn origin(&self, token: Token) -> Option<(Origin, Socket)> {
        if let Some((allocation, socket)) = self.relays.named(token) {
            return Some((Origin::Relay(allocation), Socket { token, fd: socket.as_raw_fd() }));
        }
        let (server, socket) = self.listeners.get(usize::try_from(token).ok()?)?;
        Some((Origin::Listener(*server), Socket { token, fd: socket.as_raw_fd() }))
    }

    fn listener_socket(&self, server: ServerAddr) -> Option<Socket> {
        let index = *self.listener_of.get(&server.socket())?;
        Some(Socket { token: index as Token, fd: self.listeners[index].1.as_raw_fd() })
    }
}
