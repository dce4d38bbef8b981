//! Who may allocate, and with what: values that the server and the model are both given, and that
//! change while a run goes on. And what clients believe that their passwords are.

use relay_turn::{AccessTokens, Credentials, Secret, TokenKey};

use crate::model::wire;
use crate::random::Random;
use crate::rules::REALM;

/// Secrets that time-limited credentials are made with; a run begins with the first.
pub const SECRETS: [&str; 3] = ["north", "south", "west"];
/// Users and the passwords that they have at one time or another.
pub const USERS: [(&str, [&str; 2]); 3] = [
    ("alice", ["wonderland", "looking-glass"]),
    ("bob", ["builder", "builder"]),
    ("frank", ["stein", "stein"]),
];
/// Users who are looked up.
pub const ELSEWHERE: [(&str, [&str; 2]); 2] =
    [("dora", ["explorer", "backpack"]), ("emil", ["detektiv", "detektiv"])];
/// Those of whom a server has an MD5 key and no password.
const KEYED: [&str; 2] = ["frank", "emil"];

/// The name that authorization servers know this server by (RFC 7635).
pub const SERVER_NAME: &str = "turn.example.org";
/// Names and keys that are shared with an authorization server.
pub const TOKEN_KEYS: [(&str, &[u8]); 2] = [("long", &[7; 32]), ("short", &[8; 16])];

/// What a user proves to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Password {
    Text(String),
    /// Of MD5.
    Key([u8; 16]),
}

impl Password {
    /// As the server has it.
    pub fn of(name: &str, text: &str) -> Self {
        match KEYED.contains(&name) {
            true => Self::Key(wire::md5_key(name.as_bytes(), REALM, text.as_bytes())),
            false => Self::Text(text.to_owned()),
        }
    }

    pub fn secret(&self) -> Secret {
        match self {
            Self::Text(text) => text.clone().into(),
            Self::Key(key) => {
                let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                Secret::key(&digits).unwrap()
            }
        }
    }
}

/// Static users and secrets.
#[derive(Clone, Debug)]
pub struct Accounts {
    pub users: Vec<(String, Password)>,
    pub secrets: Vec<String>,
}

impl Accounts {
    /// What a run begins and ends with.
    pub fn first() -> Self {
        let user = |(name, passwords): &(&str, [&str; 2])| {
            ((*name).to_owned(), Password::of(name, passwords[0]))
        };
        Self { users: USERS.iter().map(user).collect(), secrets: vec![SECRETS[0].to_owned()] }
    }

    /// Others: somebody is gone or has another password, a secret is new or no longer good.
    pub fn choose(random: &mut Random) -> Self {
        let mut users = Vec::new();
        for (name, passwords) in USERS {
            if !random.one_in(6) {
                users.push((name.to_owned(), Password::of(name, random.pick(&passwords))));
            }
        }
        // A name that looks like a time-limited one.
        if random.one_in(3) {
            users.push((STATIC_EXPIRY.to_owned(), Password::Text("static".to_owned())));
        }
        let secrets = match random.index(8) {
            0 => Vec::new(),
            at => vec![SECRETS[at % 3], SECRETS[(at + at / 3) % 3]],
        };
        Self { users, secrets: secrets.into_iter().map(str::to_owned).collect() }
    }

    pub fn credentials(&self, has_userhashes: bool) -> Credentials {
        let users = self.users.iter().map(|(name, password)| (name.clone(), password.secret()));
        let credentials = Credentials::of(users, self.secrets.clone());
        if has_userhashes { credentials.with_userhashes(REALM) } else { credentials }
    }
}

/// A static user now and then; else its credentials are over.
pub const STATIC_EXPIRY: &str = "1600000000:grace";

/// The keys of tokens, as the server has them.
pub fn access_tokens() -> AccessTokens {
    let keys = TOKEN_KEYS.map(|(kid, key)| TokenKey::new(kid, key).unwrap());
    AccessTokens::new(SERVER_NAME.to_owned(), keys.to_vec())
}

/// Who is found elsewhere. Changes too.
#[derive(Clone, Debug)]
pub struct Store(pub Vec<(String, Password)>);

impl Store {
    pub fn choose(random: &mut Random) -> Self {
        let mut users = Vec::new();
        for (name, passwords) in ELSEWHERE {
            if !random.one_in(5) {
                users.push((name.to_owned(), Password::of(name, random.pick(&passwords))));
            }
        }
        Self(users)
    }

    pub fn find(&self, user: &[u8]) -> Option<&Password> {
        self.0.iter().find(|(name, _)| name.as_bytes() == user).map(|(_, password)| password)
    }
}
