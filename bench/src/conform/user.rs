//! A user of the server, with long-term credentials (RFC 8489 §9.2) and at most one allocation,
//! which it gives back. Judges what every signed exchange must satisfy, and leaves the rest to the
//! cases.

use std::net::{IpAddr, SocketAddr};

use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::case::{Check, Verdict, carries, fail, refused, skip, success};
use super::wire::{Answer, Class, Draft, kind, method};
use super::world::{Line, World};
use crate::turn::credentials::Credentials;

/// 438 answers in a row before the server is taken at its word.
const STALE_NONCES_MAX: u32 = 3;
/// REQUESTED-TRANSPORT: UDP (RFC 8656 §18.8).
pub(crate) const UDP: [u8; 4] = [17, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY: IPv4 and IPv6 (RFC 8656 §18.6).
pub(crate) const IPV4: [u8; 4] = [1, 0, 0, 0];
/// See [`IPV4`].
pub(crate) const IPV6: [u8; 4] = [2, 0, 0, 0];
/// A peer that no IPv4 allocation has: of the range for documentation.
pub(crate) const OTHER_FAMILY: [u16; 8] = [0x2001, 0xDB8, 0, 0, 0, 0, 0, 1];
/// What a nonce with security features begins with (RFC 8489 §9.2.1).
const NONCE_COOKIE: &[u8] = b"obMatJos2";

/// What a server asks of those who want in.
#[derive(Clone, Debug)]
pub(crate) struct Challenge {
    /// REALM.
    pub(crate) realm: Vec<u8>,
    /// NONCE.
    pub(crate) nonce: Vec<u8>,
    /// PASSWORD-ALGORITHMS, if the server offers a choice.
    pub(crate) algorithms: Option<Vec<u8>>,
}

impl Challenge {
    /// The challenge in an answer.
    ///
    /// # Errors
    /// REALM or NONCE is missing.
    pub(crate) fn of(answer: &Answer) -> Result<Self, Verdict> {
        Ok(Self {
            realm: carries(answer, kind::REALM, "REALM")?.to_vec(),
            nonce: carries(answer, kind::NONCE, "NONCE")?.to_vec(),
            algorithms: answer.value(kind::PASSWORD_ALGORITHMS).map(<[u8]>::to_vec),
        })
    }

    /// The security features that the nonce announces, as 24 bits, the first of them the highest
    /// (RFC 8489 §18.1); `None` without the cookie.
    pub(crate) fn features(&self) -> Option<u32> {
        use base64::Engine as _;
        let text = self.nonce.strip_prefix(NONCE_COOKIE)?.get(..4)?;
        let bits = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        let [a, b, c] = bits[..] else { return None };
        Some(u32::from_be_bytes([0, a, b, c]))
    }

    /// Whether a security feature is announced: 0 is password algorithms, 1 username anonymity.
    pub(crate) fn has_feature(&self, bit: u32) -> bool {
        self.features().is_some_and(|bits| bits & (0x80_0000 >> bit) != 0)
    }

    /// Whether PASSWORD-ALGORITHMS offers an algorithm, by its number.
    pub(crate) fn offers(&self, algorithm: u16) -> bool {
        self.algorithms.as_deref().and_then(algorithms).is_some_and(|all| all.contains(&algorithm))
    }
}

/// The numbers in PASSWORD-ALGORITHMS (RFC 8489 §14.11); `None` if it is malformed.
pub(crate) fn algorithms(mut value: &[u8]) -> Option<Vec<u16>> {
    let mut found = Vec::new();
    while let [a, b, c, d, rest @ ..] = value {
        found.push(u16::from_be_bytes([*a, *b]));
        let parameters = usize::from(u16::from_be_bytes([*c, *d])).next_multiple_of(4);
        value = rest.get(parameters..)?;
    }
    value.is_empty().then_some(found)
}

/// A key made by MD5 (RFC 8489 §9.2.2).
pub(crate) fn md5_key(user: &Credentials, realm: &[u8]) -> Vec<u8> {
    let text = [user.username().as_bytes(), b":", realm, b":", user.password().as_bytes()];
    Md5::digest(text.concat()).to_vec()
}

/// A key made by SHA-256 (RFC 8489 §18.5.1.2).
pub(crate) fn sha256_key(user: &Credentials, realm: &[u8]) -> Vec<u8> {
    let text = [user.username().as_bytes(), b":", realm, b":", user.password().as_bytes()];
    Sha256::digest(text.concat()).to_vec()
}

/// USERHASH (RFC 8489 §14.4).
pub(crate) fn userhash(user: &Credentials, realm: &[u8]) -> Vec<u8> {
    Sha256::digest([user.username().as_bytes(), b":", realm].concat()).to_vec()
}

/// A user on a 5-tuple.
pub(crate) struct User<'w> {
    /// What there is.
    pub(crate) world: &'w World,
    /// Its socket.
    pub(crate) line: Line<'w>,
    /// Who it is.
    pub(crate) who: &'w Credentials,
    /// What the server asks of it.
    pub(crate) challenge: Challenge,
    allocated: bool,
}

impl<'w> User<'w> {
    /// The user, challenged, without an allocation.
    ///
    /// # Errors
    /// The server does not answer an Allocate request without credentials by 401.
    pub(crate) fn new(world: &'w World) -> Result<Self, Verdict> {
        Self::named(world, &world.user)
    }

    /// As [`User::new`], another user.
    ///
    /// # Errors
    /// As [`User::new`].
    pub(crate) fn named(world: &'w World, who: &'w Credentials) -> Result<Self, Verdict> {
        let line = world.line()?;
        let challenge = challenge(world, &line)?;
        Ok(Self { world, line, who, challenge, allocated: false })
    }

    /// The user, with an IPv4 allocation.
    ///
    /// # Errors
    /// There is none to be had.
    pub(crate) fn allocated(world: &'w World) -> Result<(Self, Answer), Verdict> {
        let mut user = Self::new(world)?;
        let answer = success(user.allocate(|draft| draft)?)?;
        Ok((user, answer))
    }

    /// As [`User::allocated`], with the relayed transport address.
    ///
    /// # Errors
    /// As [`User::allocated`].
    pub(crate) fn relayed(world: &'w World) -> Result<(Self, SocketAddr), Verdict> {
        let (user, answer) = Self::allocated(world)?;
        let relayed = relayed_of(&answer)?;
        Ok((user, relayed))
    }

    /// The key that it signs with.
    pub(crate) fn key(&self) -> Vec<u8> {
        md5_key(self.who, &self.challenge.realm)
    }

    /// A request with some attributes and credentials, signed.
    ///
    /// # Errors
    /// No random numbers.
    pub(crate) fn signed(
        &self,
        method: u16,
        attributes: impl FnOnce(Draft) -> Draft,
    ) -> Result<Draft, Verdict> {
        let draft = attributes(self.world.draft(method)?);
        Ok(self.credentials(draft).sign_sha1(&self.key()))
    }

    /// A message with USERNAME, REALM and NONCE.
    pub(crate) fn credentials(&self, draft: Draft) -> Draft {
        draft
            .with(kind::USERNAME, self.who.username().as_bytes())
            .with(kind::REALM, &self.challenge.realm)
            .with(kind::NONCE, &self.challenge.nonce)
    }

    /// Asks, signed; follows 438 to a new nonce. A success that is not signed fails the case,
    /// whatever it is about.
    ///
    /// # Errors
    /// What the kernel says, or an answer that is not signed.
    pub(crate) fn ask(
        &mut self,
        method: u16,
        attributes: impl Fn(Draft) -> Draft,
    ) -> Result<Option<Answer>, Verdict> {
        for _ in 0..STALE_NONCES_MAX {
            let request = self.signed(method, &attributes)?;
            let answer = self.line.ask(&request)?;
            match answer {
                Some(answer) if answer.code() == Some(438) => {
                    self.challenge = Challenge::of(&answer)?;
                }
                Some(answer) => {
                    self.note(&request, &answer);
                    self.verify(&answer)?;
                    return Ok(Some(answer));
                }
                None => return Ok(None),
            }
        }
        fail("an answer to a request with the nonce of the latest 438", "438 again and again")
    }

    /// Asks with a request made by the case; what it says of the allocation is kept in mind.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn ask_with(&mut self, request: &Draft) -> Result<Option<Answer>, Verdict> {
        let answer = self.line.ask(request)?;
        if let Some(answer) = &answer {
            self.note(request, answer);
        }
        Ok(answer)
    }

    /// Allocate over UDP with more attributes. 486 is always allowed, and leaves a case undecided:
    /// some servers count what is deleted for a while.
    ///
    /// # Errors
    /// As [`User::ask`], or 486.
    pub(crate) fn allocate(
        &mut self,
        attributes: impl Fn(Draft) -> Draft,
    ) -> Result<Option<Answer>, Verdict> {
        let answer = self.try_allocate(attributes)?;
        match answer.as_ref().and_then(Answer::code) {
            Some(486) => skip("486: the user has too many allocations"),
            _ => Ok(answer),
        }
    }

    /// As [`User::allocate`], for whoever counts on 486.
    ///
    /// # Errors
    /// As [`User::ask`].
    pub(crate) fn try_allocate(
        &mut self,
        attributes: impl Fn(Draft) -> Draft,
    ) -> Result<Option<Answer>, Verdict> {
        self.ask(method::ALLOCATE, |draft| attributes(draft.with(kind::REQUESTED_TRANSPORT, &UDP)))
    }

    /// CreatePermission for some addresses.
    ///
    /// # Errors
    /// As [`User::ask`].
    pub(crate) fn permit(&mut self, peers: &[SocketAddr]) -> Result<Option<Answer>, Verdict> {
        self.ask(method::CREATE_PERMISSION, |draft| {
            peers.iter().fold(draft, |draft, peer| draft.address(kind::XOR_PEER_ADDRESS, *peer))
        })
    }

    /// CreatePermission that has to go well.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn permitted(&mut self, peer: SocketAddr) -> Check {
        success(self.permit(&[peer])?).map(drop)
    }

    /// ChannelBind.
    ///
    /// # Errors
    /// As [`User::ask`].
    pub(crate) fn bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
    ) -> Result<Option<Answer>, Verdict> {
        self.ask(method::CHANNEL_BIND, |draft| {
            let [high, low] = number.to_be_bytes();
            draft
                .with(kind::CHANNEL_NUMBER, &[high, low, 0, 0])
                .address(kind::XOR_PEER_ADDRESS, peer)
        })
    }

    /// ChannelBind that has to go well.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn bound(&mut self, number: u16, peer: SocketAddr) -> Check {
        success(self.bind(number, peer)?).map(drop)
    }

    /// Refresh, with a lifetime or without.
    ///
    /// # Errors
    /// As [`User::ask`].
    pub(crate) fn refresh(&mut self, lifetime: Option<u32>) -> Result<Option<Answer>, Verdict> {
        self.ask(method::REFRESH, |draft| match lifetime {
            Some(secs) => draft.number(kind::LIFETIME, secs),
            None => draft,
        })
    }

    /// Sends a Send indication.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn send(&self, peer: SocketAddr, data: &[u8]) -> Check {
        let id = self.world.transaction()?;
        let draft = Draft::new(Class::Indication, method::SEND, id)
            .address(kind::XOR_PEER_ADDRESS, peer)
            .with(kind::DATA, data);
        self.line.send(draft.bytes())
    }

    /// The other's allocation is this one's to give back.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        self.allocated = std::mem::take(&mut other.allocated);
    }

    /// The allocation is nobody's to give back.
    pub(crate) fn forget(&mut self) {
        self.allocated = false;
    }

    fn note(&mut self, request: &Draft, answer: &Answer) {
        let method = answer.method();
        if answer.class() != Class::Success || answer.id() != request.id() {
            return;
        }
        match method {
            method::ALLOCATE => self.allocated = true,
            method::REFRESH if answer.number(kind::LIFETIME) == Some(0) => self.allocated = false,
            _ => {}
        }
    }

    /// RFC 8489 §9.2.4: what answers an authenticated request is signed. Whether refusals are is
    /// a case of its own.
    fn verify(&self, answer: &Answer) -> Check {
        match (answer.sha1_verifies(&self.key()), answer.class()) {
            (Some(true), _) | (None, Class::Error) => Ok(()),
            (None, _) => fail(
                "MESSAGE-INTEGRITY in what answers an authenticated request",
                format!("{} without it", answer.describe()),
            ),
            (Some(false), _) => fail(
                "MESSAGE-INTEGRITY by the user's key",
                format!("{} with another one", answer.describe()),
            ),
        }
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        if std::mem::take(&mut self.allocated) {
            // The case is over; a server that keeps the allocation keeps it for ten minutes.
            let _ = self.refresh(Some(0));
        }
    }
}

/// The server's challenge to whoever asks without credentials.
///
/// # Errors
/// It is no 401 with REALM and NONCE.
pub(crate) fn challenge(world: &World, line: &Line<'_>) -> Result<Challenge, Verdict> {
    let request = world.draft(method::ALLOCATE)?.with(kind::REQUESTED_TRANSPORT, &UDP);
    Challenge::of(&refused(line.ask(&request)?, &[401])?)
}

/// The relayed transport address in an answer.
///
/// # Errors
/// There is none.
pub(crate) fn relayed_of(answer: &Answer) -> Result<SocketAddr, Verdict> {
    answer
        .address(kind::XOR_RELAYED_ADDRESS)
        .map_or_else(|| fail("XOR-RELAYED-ADDRESS in the answer", "none, or a malformed one"), Ok)
}

/// An address with a port that nobody asks about.
pub(crate) fn any_port(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_nonce(nonce: &[u8]) -> Challenge {
        Challenge { realm: Vec::new(), nonce: nonce.to_vec(), algorithms: None }
    }

    #[test]
    fn the_first_security_feature_is_the_highest_bit() {
        let none = with_nonce(b"plain");
        assert_eq!((none.features(), none.has_feature(0)), (None, false));
        let both = with_nonce(b"obMatJos2wAAAmore");
        assert_eq!(both.features(), Some(0xC0_0000));
        assert!(both.has_feature(0) && both.has_feature(1) && !both.has_feature(2));
        let first = with_nonce(b"obMatJos2gAAAmore");
        assert!(first.has_feature(0) && !first.has_feature(1));
        assert_eq!(with_nonce(b"obMatJos2gA").features(), None);
    }

    #[test]
    fn a_list_of_algorithms_is_read_to_its_end() {
        assert_eq!(algorithms(&[0, 2, 0, 0, 0, 1, 0, 0]), Some(vec![2, 1]));
        assert_eq!(algorithms(&[0, 9, 0, 3, 1, 2, 3, 0, 0, 1, 0, 0]), Some(vec![9, 1]));
        assert_eq!(algorithms(&[0, 2, 0]), None);
        assert_eq!(algorithms(&[0, 2, 0, 4, 0]), None);
    }

    /// Reference: `printf user:realm:pass | sha256sum`, and of `user:realm`.
    #[test]
    fn keys_and_user_hashes_are_digests() {
        let user = Credentials::known("user".into(), "pass".into());
        let hex =
            |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        assert_eq!(hex(md5_key(&user, b"realm")), "8493fbc53ba582fb4c044c456bdc40eb");
        assert_eq!(hex(sha256_key(&user, b"realm")), SHA256_KEY);
        assert_eq!(hex(userhash(&user, b"realm")), USERHASH);
    }

    const SHA256_KEY: &str = "07e934117abd40836e7c6329b54731b2b2d2a5f9a71f544922d75e0730d8251b";
    const USERHASH: &str = "6a3029116b47aa98bcaa325399733dc1a23cd57e26b81bef3ff6531ce624e2da";
}
