//! A TURN client of our own, for what the third parties do not show: one allocation, ChannelData,
//! and what the relay says about datagrams that did not arrive. And an echo server.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use relay_common::addr::Family;
use relay_common::wire::attribute::{AttributeType, Icmp, error_code, number, xor_address};
use relay_common::wire::stun::{Class, Message, Method, TransactionId};
use relay_common::wire::writer::MessageWriter;
use sha1::Sha1;
use sha2::Sha256;

use crate::topology::Namespace;

/// The realm of every relay under test.
const REALM: &str = "end-to-end.test";
/// How long an answer may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The channel that [`Client::bind`] binds.
const CHANNEL: u16 = 0x4001;

/// What a relay may send without being asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// ChannelData on our channel.
    Data(Vec<u8>),
    /// A Data indication with DATA: who sent what.
    Indicated(SocketAddr, Vec<u8>),
    /// A Data indication with ICMP and without DATA.
    Icmp(SocketAddr, Icmp),
}

/// Who a client says it is.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    user: String,
    realm: &'static str,
    /// Whether USERHASH is sent in place of USERNAME.
    is_hashed: bool,
    /// MD5 of user name, realm and password (RFC 8489 §9.2.2).
    key: [u8; 16],
}

impl Login {
    /// A user with a password.
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Self::of(REALM, user, password)
    }

    /// A user of another realm.
    pub(crate) fn of(realm: &'static str, user: &str, password: &str) -> Self {
        let key = Md5::digest(format!("{user}:{realm}:{password}")).into();
        Self { user: user.to_owned(), realm, is_hashed: false, key }
    }

    /// The same, and the name is sent as USERHASH (RFC 8489 §14.4).
    pub(crate) fn hashed(self) -> Self {
        Self { is_hashed: true, ..self }
    }

    /// Time-limited credentials: base64 of HMAC-SHA1(secret, user name).
    pub(crate) fn limited(expiry_unix_secs: u64, secret: &str) -> Self {
        Self::limited_of(REALM, expiry_unix_secs, secret)
    }

    /// The same for another realm.
    pub(crate) fn limited_of(realm: &'static str, expiry_unix_secs: u64, secret: &str) -> Self {
        let user = format!("{expiry_unix_secs}:somebody");
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(user.as_bytes());
        Self::of(realm, &user, &STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// When time-limited credentials end, seconds since 1970.
    pub(crate) fn expiry(&self) -> u64 {
        self.user.split(':').next().unwrap().parse().unwrap()
    }

    /// The user that every relay under test has unless it says otherwise.
    fn alice() -> Self {
        Self::new("alice", "wonderland")
    }

    /// The key as `turnadmin -k` prints it, without `0x`.
    pub(crate) fn key(&self) -> String {
        self.key.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A client with an allocation.
pub(crate) struct Client {
    socket: UdpSocket,
    login: Login,
    nonce: Vec<u8>,
    /// MOBILITY-TICKET; perhaps none.
    ticket: Vec<u8>,
    /// The realm that the server named.
    pub(crate) realm: String,
    requests: u8,
    /// Its relayed transport address; of two, that of IPv4.
    pub(crate) relayed: SocketAddr,
    /// Its second relayed transport address.
    pub(crate) relayed_v6: Option<SocketAddr>,
}

impl Client {
    /// Allocates a relayed transport address of the server's family.
    pub(crate) fn allocate(namespace: &Namespace, from: &str, server: &str) -> Self {
        let family = if server.starts_with('[') { Family::V6 } else { Family::V4 };
        Self::allocate_of(family, namespace, from, server)
    }

    /// Allocates a relayed transport address of a family.
    pub(crate) fn allocate_of(
        family: Family,
        namespace: &Namespace,
        from: &str,
        server: &str,
    ) -> Self {
        let wish = (AttributeType::REQUESTED_ADDRESS_FAMILY, family_value(family));
        Self::allocate_by(wish, namespace, from, server)
    }

    /// Allocates a relayed transport address of each family.
    pub(crate) fn allocate_both(namespace: &Namespace, from: &str, server: &str) -> Self {
        let wish = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, family_value(Family::V6));
        Self::allocate_by(wish, namespace, from, server)
    }

    /// Asks for a relayed transport address that is not to be had; the error code.
    pub(crate) fn refused(namespace: &Namespace, from: &str, server: &str) -> Option<u16> {
        let wish = (AttributeType::REQUESTED_ADDRESS_FAMILY, family_value(Family::V4));
        let (_, answer) = Self::ask(wish, namespace, from, server, Login::alice());
        error(&answer)
    }

    /// Allocates a relayed transport address that may move (RFC 8016).
    pub(crate) fn allocate_mobile(namespace: &Namespace, from: &str, server: &str) -> Self {
        let wish = (AttributeType::MOBILITY_TICKET, Vec::new());
        let client = Self::allocate_by(wish, namespace, from, server);
        assert!(!client.ticket.is_empty(), "a ticket");
        client
    }

    /// The same client at another socket, once it was told that it moves there.
    pub(crate) fn moved(
        &self,
        namespace: &Namespace,
        from: &str,
        server: &str,
    ) -> Result<Self, u16> {
        let socket = namespace.within(|| UdpSocket::bind(from)).unwrap();
        namespace.within(|| socket.connect(server)).unwrap();
        let (login, ticket) = (self.login.clone(), self.ticket.clone());
        let mut moved = Self {
            socket,
            login,
            nonce: Vec::new(),
            ticket,
            realm: self.realm.clone(),
            requests: 0,
            ..*self
        };
        let attributes = [(AttributeType::MOBILITY_TICKET, self.ticket.clone())];
        for _ in 0..2 {
            let answer = moved.request(Method::REFRESH, &attributes, None);
            let message = Message::parse(&answer).unwrap();
            match (error(&answer), message.attribute(AttributeType::NONCE)) {
                (None, _) => {
                    moved.keep_ticket(&message);
                    return Ok(moved);
                }
                (Some(401), Some(nonce)) => moved.nonce = nonce.to_vec(),
                (Some(code), _) => return Err(code),
            }
        }
        Err(401)
    }

    /// Allocates anew by the same socket, which has no allocation.
    pub(crate) fn allocate_again(&mut self) {
        let attributes = [(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])];
        success(&self.request(Method::ALLOCATE, &attributes, None));
    }

    fn keep_ticket(&mut self, answer: &Message<'_>) {
        let ticket = answer.attribute(AttributeType::MOBILITY_TICKET);
        self.ticket = ticket.unwrap_or_default().to_vec();
    }

    fn allocate_by(
        wish: (AttributeType, Vec<u8>),
        namespace: &Namespace,
        from: &str,
        server: &str,
    ) -> Self {
        let (client, refused) = Self::try_allocate(wish, namespace, from, server, Login::alice());
        assert_eq!(refused, None);
        client
    }

    /// Allocates for a user. The error code, if it is refused.
    pub(crate) fn allocate_as(
        login: &Login,
        namespace: &Namespace,
        from: &str,
        server: &str,
    ) -> Result<Self, u16> {
        let wish = (AttributeType::REQUESTED_ADDRESS_FAMILY, family_value(Family::V4));
        match Self::try_allocate(wish, namespace, from, server, login.clone()) {
            (client, None) => Ok(client),
            (_, Some(code)) => Err(code),
        }
    }

    /// Allocates with a third party's token (RFC 7635). The error code, if it is refused.
    pub(crate) fn allocate_by_token(
        kid: &str,
        session_key: [u8; 16],
        token: Vec<u8>,
        namespace: &Namespace,
        [from, server]: [&str; 2],
    ) -> Result<Self, u16> {
        let login =
            Login { user: kid.to_owned(), realm: REALM, is_hashed: false, key: session_key };
        let wish = (AttributeType::ACCESS_TOKEN, token);
        match Self::try_allocate(wish, namespace, from, server, login) {
            (client, None) => Ok(client),
            (_, Some(code)) => Err(code),
        }
    }

    fn try_allocate(
        wish: (AttributeType, Vec<u8>),
        namespace: &Namespace,
        from: &str,
        server: &str,
        login: Login,
    ) -> (Self, Option<u16>) {
        let (mut client, answer) = Self::ask(wish, namespace, from, server, login);
        if let Some(code) = error(&answer) {
            return (client, Some(code));
        }
        let message = success(&answer);
        let relayed = message.attributes();
        let relayed = relayed.filter(|a| a.kind == AttributeType::XOR_RELAYED_ADDRESS);
        let mut relayed = relayed.map(|a| xor_address(a.value, message.transaction_id()).unwrap());
        client.relayed = relayed.next().unwrap();
        client.relayed_v6 = relayed.next();
        client.keep_ticket(&message);
        (client, None)
    }

    /// Refreshes the allocation. The lifetime, or the error code if it is refused.
    pub(crate) fn refresh(&mut self) -> Result<u32, u16> {
        let answer = self.request(Method::REFRESH, &[], None);
        if let Some(code) = error(&answer) {
            return Err(code);
        }
        let lifetime = success(&answer).attribute(AttributeType::LIFETIME).and_then(number);
        Ok(lifetime.unwrap())
    }

    /// Asks with credentials for relayed transport addresses.
    fn ask(
        wish: (AttributeType, Vec<u8>),
        namespace: &Namespace,
        from: &str,
        server: &str,
        login: Login,
    ) -> (Self, Vec<u8>) {
        let socket = namespace.within(|| UdpSocket::bind(from)).unwrap();
        namespace.within(|| socket.connect(server)).unwrap();
        let relayed = SocketAddr::from(([0, 0, 0, 0], 0));
        let (nonce, realm) = (Vec::new(), String::new());
        let ticket = Vec::new();
        let mut client =
            Self { socket, login, nonce, ticket, realm, requests: 0, relayed, relayed_v6: None };
        // From IPv4 to IPv6 no relay in userspace can do it (RFC 8656 §3.7).
        let is_crossing = !server.starts_with('[') && wish.1 == family_value(Family::V6);
        let mut attributes = vec![(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]), wish];
        if !is_crossing {
            attributes.push((AttributeType::DONT_FRAGMENT, Vec::new()));
        }
        let answer = client.request(Method::ALLOCATE, &attributes, None);
        let message = Message::parse(&answer).unwrap();
        client.nonce = message.attribute(AttributeType::NONCE).unwrap().to_vec();
        let realm = message.attribute(AttributeType::REALM).unwrap().to_vec();
        client.realm = String::from_utf8(realm).unwrap();
        let answer = client.request(Method::ALLOCATE, &attributes, None);
        (client, answer)
    }

    /// Ends the allocation.
    pub(crate) fn end(&mut self) {
        let attributes = [(AttributeType::LIFETIME, vec![0; 4])];
        success(&self.request(Method::REFRESH, &attributes, None));
    }

    /// Ends the relayed transport address of a family.
    pub(crate) fn end_of(&mut self, family: Family) {
        let attributes = [
            (AttributeType::LIFETIME, vec![0; 4]),
            (AttributeType::REQUESTED_ADDRESS_FAMILY, family_value(family)),
        ];
        success(&self.request(Method::REFRESH, &attributes, None));
    }

    /// Creates a permission.
    pub(crate) fn permit(&mut self, peer: SocketAddr) {
        success(&self.request(Method::CREATE_PERMISSION, &[], Some(peer)));
    }

    /// Binds the channel.
    pub(crate) fn bind(&mut self, peer: SocketAddr) {
        let number = [CHANNEL.to_be_bytes(), [0, 0]].concat();
        let attributes = [(AttributeType::CHANNEL_NUMBER, number)];
        success(&self.request(Method::CHANNEL_BIND, &attributes, Some(peer)));
    }

    /// Asks for a permission or a channel that is not to be had; the error code.
    pub(crate) fn refusal(&mut self, method: Method, peer: SocketAddr) -> Option<u16> {
        let number = [CHANNEL.to_be_bytes(), [0, 0]].concat();
        let attributes = [(AttributeType::CHANNEL_NUMBER, number)];
        error(&self.request(method, &attributes, Some(peer)))
    }

    /// Sends on the channel.
    pub(crate) fn send(&self, data: &[u8]) {
        let length = u16::try_from(data.len()).unwrap();
        let message = [&CHANNEL.to_be_bytes(), &length.to_be_bytes(), data].concat();
        self.socket.send(&message).unwrap();
    }

    /// Sends on the channel, if there is a way.
    pub(crate) fn try_send(&self, data: [u8; 4]) -> bool {
        let message = [&CHANNEL.to_be_bytes()[..], &[0, 4], &data].concat();
        self.socket.send(&message).is_ok()
    }

    /// Sends by a Send indication, its attributes in the RFC's order.
    pub(crate) fn send_to(&self, peer: SocketAddr, data: &[u8]) {
        self.indicate(peer, data, &[]);
    }

    /// Sends by a Send indication with DONT-FRAGMENT.
    pub(crate) fn send_whole_to(&self, peer: SocketAddr, data: &[u8]) {
        self.indicate(peer, data, &[AttributeType::DONT_FRAGMENT]);
    }

    fn indicate(&self, peer: SocketAddr, data: &[u8], flags: &[AttributeType]) {
        let mut buffer = [0; 2_000];
        let transaction = TransactionId([7; 12]);
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, transaction);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
        for flag in flags {
            writer.attribute(*flag, &[]);
        }
        let length = writer.finish().unwrap();
        self.socket.send(&buffer[..length]).unwrap();
    }

    /// What comes within that time.
    pub(crate) fn hear(&self, within: Duration) -> Option<Heard> {
        let datagram = self.receive(within)?;
        if let Some(data) = datagram.strip_prefix(&CHANNEL.to_be_bytes()) {
            let (length, data) = data.split_first_chunk().unwrap();
            assert_eq!(usize::from(u16::from_be_bytes(*length)), data.len());
            return Some(Heard::Data(data.to_vec()));
        }
        let message = Message::parse(&datagram).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
        let peer = xor_address(peer, message.transaction_id()).unwrap();
        if let Some(data) = message.attribute(AttributeType::DATA) {
            return Some(Heard::Indicated(peer, data.to_vec()));
        }
        let icmp = message.attribute(AttributeType::ICMP).unwrap();
        Some(Heard::Icmp(peer, Icmp::parse(icmp).unwrap()))
    }

    /// Lets everything pass by until nothing comes for a while.
    pub(crate) fn ignore_the_rest(&self) {
        for _ in 0..10_000 {
            if self.receive(Duration::from_millis(300)).is_none() {
                return;
            }
        }
        panic!("it does not end");
    }

    fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut datagram = vec![0; 10_000];
        match self.socket.recv(&mut datagram) {
            Ok(length) => {
                datagram.truncate(length);
                Some(datagram)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }

    /// Asks, and gives the answer.
    fn request(
        &mut self,
        method: Method,
        attributes: &[(AttributeType, Vec<u8>)],
        peer: Option<SocketAddr>,
    ) -> Vec<u8> {
        self.requests = self.requests.wrapping_add(1);
        let transaction = TransactionId([self.requests; 12]);
        let mut buffer = [0; 512];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        if let Some(peer) = peer {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        }
        if !self.nonce.is_empty() {
            let Login { user, realm, is_hashed, .. } = &self.login;
            match is_hashed {
                true => {
                    let hash = Sha256::digest(format!("{user}:{realm}"));
                    writer.attribute(AttributeType::USERHASH, &hash);
                }
                false => writer.attribute(AttributeType::USERNAME, user.as_bytes()),
            }
            writer.attribute(AttributeType::REALM, realm.as_bytes());
            writer.attribute(AttributeType::NONCE, &self.nonce);
            writer.integrity(|header, body| {
                let mut mac = Hmac::<Sha1>::new_from_slice(&self.login.key).unwrap();
                mac.update(header);
                mac.update(body);
                mac.finalize().into_bytes().into()
            });
        }
        let length = writer.finish().unwrap();
        self.socket.send(&buffer[..length]).unwrap();
        for _ in 0..1_000 {
            let answer = self.receive(ANSWER_MAX).expect("an answer");
            if Message::parse(&answer).is_ok_and(|m| m.transaction_id() == transaction) {
                return answer;
            }
        }
        panic!("other things come, and no answer");
    }
}

fn family_value(family: Family) -> Vec<u8> {
    let number = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    vec![number, 0, 0, 0]
}

fn error(answer: &[u8]) -> Option<u16> {
    let message = Message::parse(answer).unwrap();
    let code = message.attribute(AttributeType::ERROR_CODE).and_then(error_code);
    code.map(|(code, _)| code)
}

fn success(answer: &[u8]) -> Message<'_> {
    let message = Message::parse(answer).unwrap();
    let error = message.attribute(AttributeType::ERROR_CODE).and_then(error_code);
    assert_eq!((message.class(), error), (Class::Success, None));
    message
}

/// Tells a thread to end, also when its owner panics.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Works while a peer at `address` sends back whatever it gets.
pub(crate) fn with_echo<T>(
    namespace: &Namespace,
    address: SocketAddr,
    work: impl FnOnce() -> T,
) -> T {
    let socket = namespace.within(|| UdpSocket::bind(address)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = vec![0; 10_000];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    socket.send_to(&datagram[..length], from).unwrap();
                }
            }
        });
        let _ends = Ends(&is_over);
        work()
    })
}
