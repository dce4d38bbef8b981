//! The state machine's outside: inputs in, outputs out, and what it holds between them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use relay_common::addr::FiveTuple;
use relay_common::wire::Demux;
use relay_common::wire::channel_data::ChannelRange;
use relay_common::wire::stun::{Class, Fingerprint, Message};

use crate::algorithms::Algorithms;
use crate::nonce::{Features, Nonces};
use crate::peers::Peers;
use crate::police::Rate;
use crate::ports::{Place, Ports};
use crate::realms::Realms;
use crate::reservation::{Token, Tokens};
use crate::tables::{KeyedHash, Tables};
use crate::ticket::Tickets;
use crate::timers::Timers;
use crate::{Config, Discovery, DropReason, Input, Ledger, Limits, Now, Offers, Output, Snapshot};

/// A TURN server.
pub struct Turn {
    pub(crate) limits: Limits,
    pub(crate) channel_range: ChannelRange,
    pub(crate) realms: Realms,
    pub(crate) nonces: Nonces,
    pub(crate) ledger: Ledger,
    pub(crate) algorithms: Algorithms,
    pub(crate) offers: Offers,
    pub(crate) rate: Rate,
    pub(crate) peers: Peers,
    pub(crate) ports: Ports,
    pub(crate) tokens: Tokens,
    pub(crate) tickets: Tickets,
    pub(crate) tables: Tables,
    pub(crate) timers: Timers,
    /// Ports held by EVEN-PORT, by their token (RFC 8656 §7.2).
    pub(crate) reservations: BTreeMap<Token, Reservation>,
    pub(crate) discoveries: Vec<Discovery>,
    pub(crate) rng: ChaCha12Rng,
    pub(crate) outputs: VecDeque<Output>,
    /// Replies of the present input.
    pub(crate) arena: Vec<u8>,
    pub(crate) stats: Snapshot,
}

/// A port that waits for the Allocate request with its token.
pub(crate) struct Reservation {
    pub(crate) place: Place,
    pub(crate) deadline_ns: u64,
}

impl Turn {
    /// A server without allocations.
    ///
    /// # Panics
    /// If a realm has more than 508 bytes, which no 127 characters have.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut rng = ChaCha12Rng::from_seed(config.seed);
        let hash = KeyedHash::new(rng.next_u64(), rng.next_u64());
        let limits = config.limits;
        let offers = config.offers.clone();
        let algorithms = Algorithms::new(&offers.password_algorithms);
        let tickets = Tickets::new(&config.nonce_key, offers.mobility);
        let features = Features {
            password_algorithms: algorithms.list().is_some(),
            username_anonymity: offers.userhash,
        };
        Self {
            limits,
            channel_range: config.channel_range,
            realms: Realms::new(&config),
            nonces: Nonces::new(config.nonce_key, limits.nonce_secs, features),
            algorithms,
            offers,
            ledger: config.ledger.clone(),
            rate: Rate::new(&limits),
            peers: Peers::new(&config),
            ports: Ports::new(&config.relay_addresses, config.relay_ports, config.relay_ports_all),
            tokens: Tokens::new(config.nonce_key),
            tickets,
            tables: Tables::new(limits.allocations_max, hash),
            timers: Timers::default(),
            reservations: BTreeMap::new(),
            discoveries: config.discoveries,
            rng,
            outputs: VecDeque::new(),
            arena: Vec::new(),
            stats: Snapshot::default(),
        }
    }

    /// Takes an input. First ends whatever is over by now.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        debug_assert!(self.outputs.is_empty(), "outputs are drained between inputs");
        self.arena.clear();
        self.expire(now);
        match input {
            Input::FromClient { five_tuple, datagram } => {
                self.client_datagram(now, five_tuple, datagram);
            }
            Input::FromPeer { allocation, peer, datagram } => {
                self.relay_from_peer(now, allocation, peer, datagram);
            }
            Input::PeerIcmp { allocation, peer, icmp } => {
                self.relay_icmp(now, allocation, peer, icmp);
            }
            Input::RelayOpened { allocation, family } => {
                self.relay_opened(now, allocation, family);
            }
            Input::RelayFailed { allocation, family } => {
                self.relay_failed(now, allocation, family);
            }
            Input::Elsewhere { five_tuple } => self.elsewhere(&five_tuple),
            Input::LookedUp { realm, user, answer } => self.looked_up(now, realm, user, answer),
            Input::Deadline => {}
        }
    }

    /// The next output of the last input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The bytes of an [`Output::Reply`], until the next input.
    ///
    /// # Panics
    /// If the range is of another input.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.arena[range]
    }

    /// When [`Input::Deadline`] is due at the latest: CLOCK_MONOTONIC, nanoseconds. `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.timers.deadline()
    }

    /// What was counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.stats.clone()
    }

    /// Ends every allocation: the outputs withdraw every binding and close every relayed
    /// transport address. Inputs may follow; they find a server without allocations.
    pub fn close(&mut self) {
        for id in self.tables.ids() {
            self.deallocate(id);
        }
    }

    pub(crate) fn client_datagram(&mut self, now: Now, five_tuple: FiveTuple, datagram: &[u8]) {
        match Demux::of(datagram) {
            Demux::ChannelData => self.relay_channel_data(now, &five_tuple, datagram),
            Demux::Stun => self.stun(now, five_tuple, datagram),
            Demux::Other => self.stats.count_dropped(DropReason::NotTurn),
        }
    }

    fn stun(&mut self, now: Now, five_tuple: FiveTuple, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            return self.stats.count_dropped(DropReason::MalformedStun);
        };
        let fingerprint = message.fingerprint();
        if fingerprint == Fingerprint::Invalid {
            return self.stats.count_dropped(DropReason::BadFingerprint);
        }
        match message.class() {
            Class::Request if self.is_for_another(now, &five_tuple, &message) => {}
            Class::Request if self.is_held(now, five_tuple, &message, datagram) => {}
            Class::Request => self.request(now, five_tuple, &message, fingerprint),
            Class::Indication => self.indication(now, &five_tuple, &message),
            Class::Success | Class::Error => {
                self.stats.count_dropped(DropReason::UnexpectedClass);
            }
        }
    }
}
