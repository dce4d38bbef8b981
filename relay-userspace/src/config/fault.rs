//! What can be wrong with a configuration file, where, and what to do about it.
//! A message may name keys, users and addresses, never the value of a password or a secret.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Everything that is wrong with a configuration, in order of its place.
#[derive(Debug)]
pub(crate) struct ConfigErrors {
    file: PathBuf,
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Problem {
    /// The file it is in: the configuration, or one that it names.
    pub(super) file: PathBuf,
    /// Line and column, from 1; `None` if something is missing.
    pub(super) place: Option<(usize, usize)>,
    /// What it is.
    pub(super) fault: Fault,
}

/// What is wrong, as a sentence that ends with what to do.
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("cannot be read: {error}; {hint}", error = .0, hint = reading_hint(.0))]
    Unreadable(io::Error),
    #[error(
        "{path} cannot be read: {error}; {hint}",
        path = .0.display(), error = .1, hint = reading_hint(.1)
    )]
    UnreadableNamed(PathBuf, io::Error),
    #[error("{0}")]
    Syntax(String),
    #[error("unknown key `{name}` {place}; {hint}")]
    UnknownKey { name: String, place: String, hint: String },
    #[error("`{key}` must be {expected}, not {found}")]
    WrongType { key: String, expected: &'static str, found: &'static str },
    #[error("`{key}` must be {expected}, not `{found}`{hint}")]
    BadValue { key: &'static str, expected: String, found: String, hint: String },
    #[error("`{key}` must be between {low} and {high}, not {found}")]
    OutOfRange { key: &'static str, low: u64, high: u64, found: String },
    #[error("`realm` is missing; add a line such as: realm = \"turn.example.org\"")]
    NoRealm,
    #[error(
        "`{0}` must have 1 to 64 bytes, and no control characters, quotes or backslashes: each \
         first answer to anybody carries it, and must not be much larger than the question; \
         shorten it"
    )]
    BadRealm(&'static str),
    #[error(
        "no listening address; add: [listen] udp = [\"0.0.0.0:3478\", \"[::]:3478\"], or only \
         the addresses that clients use"
    )]
    NoListen,
    #[error("a realm without `name`; add a line such as: name = \"other.example.org\"")]
    NoRealmName,
    #[error("the realm `{0}` stands twice; give it another name, or all its addresses in one")]
    RealmTwice(String),
    #[error(
        "realms that are in Redis must not have a `/` in their names where there are several, nor \
         may the one at the top; rename it, or set redis = false"
    )]
    SlashInRealm,
    #[error("at most {0} realms are supported; use fewer")]
    TooManyRealms(usize),
    #[error(
        "a realm without a listening address; add: listen = [\"192.0.2.7:3478\"]; the address \
         that a client asks is all that tells which realm it wants"
    )]
    NoRealmListen,
    #[error(
        "{0} is another realm's already; an address belongs to one realm: listen on another \
         address or port"
    )]
    ListenInTwoRealms(SocketAddr),
    #[error(
        "nobody could use the realm `{0}`: no user and no secret; add to it secrets = [\"…\"] with \
         a long random string (openssl rand -hex 32), secrets_file, users = {{ name = \
         \"password\" }} or users_file"
    )]
    NobodyInRealm(String),
    #[error(
        "`discovery` needs two addresses of each family that it names, with different addresses \
         and different ports and no wildcard, such as \
         [\"198.51.100.1:3478\", \"198.51.100.2:3479\"] (RFC 5780 §6)"
    )]
    DiscoveryPair,
    #[error("`{value}` stands twice in `{key}`; remove one")]
    Duplicate { key: &'static str, value: String },
    #[error("`{value}` in `{key}` is {what}; {advice}")]
    UnusableAddress { key: &'static str, value: String, what: &'static str, advice: &'static str },
    #[error("{count} different listening ports, but at most {max} are supported; use fewer")]
    TooManyPorts { count: usize, max: usize },
    #[error(
        "the range must go from a lower to a higher port, from 1 to 65535, not `{0}`; write it \
         like \"49152-65535\""
    )]
    BadPorts(String),
    #[error(
        "listening on {listen}, but its port is one of the relayed ports {first}-{last}; \
         listen on another port or move `[relay] ports`"
    )]
    ListenInRelayed { listen: String, first: u16, last: u16 },
    #[error("{external} is not of the family of {relay}; map IPv4 to IPv4 and IPv6 to IPv6")]
    ExternalFamily { relay: String, external: String },
    #[error("{0} is no relay address; use one of: {1}")]
    ExternalOfNobody(String, String),
    #[error("`{0}` in `allow` is {1}: never relayed to; {2}")]
    NeverAPeer(String, &'static str, &'static str),
    #[error(
        "`{0}` is IPv4-mapped; write `{1}`, which is also meant where an IPv4 address is written \
         into an IPv6 one"
    )]
    MappedNetwork(String, String),
    #[error("`{0}` is no network: host bits are set; write `{1}`, or `{2}` for the one address")]
    HostBits(String, String, String),
    #[error(
        "nobody could use this relay: no user and no secret; add under [auth] either \
         secrets = [\"…\"] with a long random string (openssl rand -hex 32), secrets_file, \
         users = {{ name = \"password\" }}, users_file or a [auth.redis] with `url`"
    )]
    NoCredentials,
    #[error(
        "`url` must be rediss://[USER:PASSWORD@]HOST[:PORT][/DATABASE] (TLS), redis://… the same \
         without TLS, for a network that nobody listens to, or redis+unix:///SOCKET"
    )]
    BadRedisUrl,
    #[error("`ca_file` is for TLS; write `url` as rediss://…, or remove it")]
    CaWithoutTls,
    #[error(
        "{} has no certificates in PEM, or one that is none; put the certificate of the authority \
         there that signed Redis'",
        .0.display()
    )]
    NoCertificates(PathBuf),
    #[error("`prefix` must not be empty or have control characters; \"turn\" is the usual one")]
    BadRedisPrefix,
    #[error(
        "a user name must have 1 to 508 bytes and no control characters (RFC 8489 §14.3); \
         change it"
    )]
    BadUserName,
    #[error(
        "the password has characters that none may have (RFC 8265 §4.2: control characters and \
         such as are not assigned or not shown); set another one"
    )]
    BadPassword,
    #[error("the password is empty; set one")]
    EmptyPassword,
    #[error(
        "a password that starts with `0x` is a key (turnadmin -k prints one), and 32 hexadecimal \
         digits must follow; correct it, or choose another password"
    )]
    BadKey,
    #[error("this is still the example's placeholder; make your own: openssl rand -base64 32")]
    TokenPlaceholder,
    #[error(
        "the key of `{0}` is not 16 or 32 bytes in base64; make one with: openssl rand -base64 32"
    )]
    BadTokenKey(String),
    #[error("there is no key that tokens could be made with; add: tokens = {{ KID = \"BASE64\" }}")]
    NoTokenKey,
    #[error("there is no server to redirect to; add: servers = [\"192.0.2.1:3478\"]")]
    RedirectToNobody,
    #[error("a secret is empty; set one (openssl rand -hex 32) or remove it")]
    EmptySecret,
    #[error("this is still the example's placeholder; make your own: openssl rand -hex 32")]
    Placeholder,
    #[error("this user is defined before; remove one of the definitions")]
    UserTwice,
    #[error("no `:` in this line; a line must be NAME:PASSWORD")]
    NoColon,
    #[error("there is nothing in it; add {0}, one on each line")]
    EmptyFile(&'static str),
    #[error("`{0}` is no name of an interface: 1 to 15 characters, no `/`, no white space")]
    BadInterface(String),
    #[error(
        "`lifetime_secs_default` ({default}) is above `lifetime_secs_max` ({max}); lower the \
         one or raise the other"
    )]
    LifetimeOrder { default: u32, max: u32 },
    #[error(
        "`{0}` is shared out in what each allocation may use; add such a limit, for example: \
         allocation_bytes_per_sec = 500000"
    )]
    NoAllocationRate(&'static str),
    #[error(
        "`{key}` ({all}) is below `allocation_bytes_per_sec` ({each}), so that nobody could \
         allocate; raise the one or lower the other"
    )]
    RateOrder { key: &'static str, all: u64, each: u32 },
}

impl Fault {
    /// Whether it says that something is absent, which a file with syntax errors cannot prove.
    pub(super) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NoRealm
                | Self::NoListen
                | Self::NoCredentials
                | Self::NoRealmName
                | Self::NoRealmListen
                | Self::NobodyInRealm(_)
        )
    }
}

/// Something legal that is probably not meant.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum Warning {
    /// A file with passwords or secrets that every user of the machine can read.
    #[error(
        "{} holds credentials and every user of this machine can read it; chmod o-r it",
        .0.display()
    )]
    WorldReadable(PathBuf),
    /// A client that is told to send USERHASH has no other way.
    #[error(
        "`userhash` with time-limited credentials: a client that knows USERHASH cannot use them, \
         because their user names cannot be found by a hash"
    )]
    UserhashWithSecrets,
    /// RFC 8656 §7.2: who asks for no family gets IPv4, or 440.
    #[error(
        "no IPv4 relay address: a client that does not ask for an IPv6 relayed address \
         (REQUESTED-ADDRESS-FAMILY) is refused with 440"
    )]
    NoIpv4Relay,
    /// For development.
    #[error(
        "[peers] allow_loopback is on: every client reaches what listens on this machine's \
         loopback; never on a server that others can reach"
    )]
    LoopbackAllowed,
}

impl ConfigErrors {
    /// Sorts the problems by file and place, absences last.
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| {
            (problem.file != file, problem.place.unwrap_or((usize::MAX, 0)))
        });
        Self { file: file.to_owned(), problems }
    }

    /// Every problem, as a line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(Problem::to_string)
    }

    /// The file itself could not be read.
    pub(super) fn unreadable(file: &Path, error: io::Error) -> Self {
        let problem =
            Problem { file: file.to_owned(), place: None, fault: Fault::Unreadable(error) };
        Self::new(file, vec![problem])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = if self.problems.len() == 1 { "error" } else { "errors" };
        write!(f, "{} {errors} in {}", self.problems.len(), self.file.display())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

fn reading_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path; `turnpike config --example` prints a file to start from"
        }
        io::ErrorKind::PermissionDenied => "let the user that turnpike runs as read it",
        io::ErrorKind::InvalidData => "it must be UTF-8 text",
        io::ErrorKind::FileTooLarge => "it may have 16 MiB",
        _ => "check the path",
    }
}
