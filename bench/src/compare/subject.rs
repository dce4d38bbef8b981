//! The servers that are compared: how each is configured, started, recognised as ready, and which
//! version it is. Measures nothing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::Context as _;

use crate::compare::lab::{Lab, NETWORK, RELAYED, SERVER};

/// Where every server listens.
pub(crate) const PORT: u16 = 3478;
/// The realm of the credentials.
pub(crate) const REALM: &str = "relay-bench.test";
/// The user that every server knows.
pub(crate) const USER: &str = "bench";
/// Its password. It guards nothing: the server lives in a namespace, for the run.
pub(crate) const PASSWORD: &str = "relay-bench";
/// The shared secret, for servers that want one.
const SECRET: &str = "relay-bench-secret";

/// What is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Turnpike, its packets relayed by its XDP program in the driver.
    TurnpikeXdp,
    /// Turnpike without XDP.
    TurnpikeUserspace,
    /// coturn's turnserver.
    Coturn,
    /// turn-rs.
    TurnRs,
    /// No server: every frame goes back at once. What the rig can carry.
    Reflector,
    /// A server by its command line, with placeholders.
    Other(String),
}

/// A subject by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// How the report calls it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
}

/// Names of the built-in subjects, in the order in which they are measured.
const BUILT_IN: [(&str, Kind); 5] = [
    ("turnpike-xdp", Kind::TurnpikeXdp),
    ("turnpike-userspace", Kind::TurnpikeUserspace),
    ("coturn", Kind::Coturn),
    ("turn-rs", Kind::TurnRs),
    ("reflector", Kind::Reflector),
];

/// Name of the subject that ratios are given to.
pub(crate) const COTURN: &str = BUILT_IN[2].0;
/// Name of the bare rig.
pub(crate) const REFLECTOR: &str = BUILT_IN[4].0;

impl Subject {
    /// All that are built in.
    pub(crate) fn built_in() -> Vec<Self> {
        BUILT_IN.map(|(name, kind)| Self { name: name.to_owned(), kind }).to_vec()
    }

    /// What a reader has to know of it.
    pub(crate) const fn remark(&self) -> &'static str {
        match self.kind {
            Kind::TurnpikeXdp | Kind::TurnpikeUserspace | Kind::Coturn | Kind::Other(_) => "",
            Kind::TurnRs => {
                "It opens no ports for relayed transport addresses and relays between its own \
                 clients only: it takes no permission or channel for a peer elsewhere, so that no \
                 load with a peer can be measured."
            }
            Kind::Reflector => {
                "No server: an XDP program sends every frame back at once, to the clients. What \
                 the rig, the generator and the sink can carry."
            }
        }
    }

    /// Whether it is a TURN server: the bare rig is none.
    pub(crate) fn is_server(&self) -> bool {
        self.kind != Kind::Reflector
    }
}

/// Why a text is no `--subject`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotASubject {
    /// It is not NAME=COMMAND.
    Form,
    /// The name means something else here.
    NameTaken,
}

impl fmt::Display for NotASubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a subject is NAME=COMMAND; the name has letters, digits and -",
            Self::NameTaken => "a built-in subject has this name: choose another one",
        })
    }
}

impl std::error::Error for NotASubject {}

impl FromStr for Subject {
    type Err = NotASubject;

    fn from_str(text: &str) -> Result<Self, NotASubject> {
        let (name, command) = text.split_once('=').ok_or(NotASubject::Form)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_plain) || command.trim().is_empty() {
            return Err(NotASubject::Form);
        }
        if BUILT_IN.iter().any(|(taken, _)| *taken == name) {
            return Err(NotASubject::NameTaken);
        }
        Ok(Self { name: name.to_owned(), kind: Kind::Other(command.to_owned()) })
    }
}

/// Where the servers' programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `turnpike`.
    pub(crate) turnpike: PathBuf,
    /// `turnserver`.
    pub(crate) coturn: PathBuf,
    /// `turn-server`.
    pub(crate) turn_rs: PathBuf,
    /// This tool.
    pub(crate) itself: PathBuf,
}

/// What it takes to start a subject.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The command line.
    pub(crate) words: Vec<String>,
    /// The text of its configuration file; empty when it has none.
    pub(crate) configuration: String,
    /// What its `--version` says.
    pub(crate) version: String,
}

impl Recipe {
    /// Looks a subject's program up, and writes its configuration into `directory`.
    ///
    /// # Errors
    /// The program is not there or does not run, or the configuration cannot be written.
    pub(crate) fn of(
        subject: &Subject,
        programs: &Programs,
        lab: &Lab,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let threads = lab.relay_cores.count();
        let file = directory.join(format!("{}.conf", subject.name));
        let path = file.display().to_string();
        let (program, args, configuration) = match &subject.kind {
            Kind::TurnpikeXdp | Kind::TurnpikeUserspace => {
                let mode = if subject.kind == Kind::TurnpikeXdp { "native" } else { "userspace" };
                let args = vec!["serve".to_owned(), "--config".to_owned(), path];
                (&programs.turnpike, args, turnpike(mode, threads))
            }
            Kind::Coturn => {
                (&programs.coturn, vec!["-c".to_owned(), path], coturn(threads, directory))
            }
            Kind::TurnRs => (&programs.turn_rs, vec![format!("--config={path}")], turn_rs(threads)),
            Kind::Reflector => {
                let args = ["reflect", "--interface", lab.relay.interface(0)].map(str::to_owned);
                (&programs.itself, args.to_vec(), String::new())
            }
            Kind::Other(command) => return Ok(Self::other(command, directory)),
        };
        let version = version(program)?;
        fs::write(&file, &configuration)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut words = vec![program.display().to_string()];
        words.extend(args);
        Ok(Self { words, configuration, version })
    }

    /// A subject by its command line.
    fn other(command: &str, directory: &Path) -> Self {
        let filled = [
            ("{listen}", SERVER.to_string()),
            ("{peer_side}", RELAYED.to_string()),
            ("{port}", PORT.to_string()),
            ("{user}", USER.to_owned()),
            ("{password}", PASSWORD.to_owned()),
            ("{realm}", REALM.to_owned()),
            ("{secret}", SECRET.to_owned()),
            ("{dir}", directory.display().to_string()),
        ];
        let line = filled.iter().fold(command.to_owned(), |line, (name, value)| {
            line.replace(name, value) // Each placeholder as often as it stands there.
        });
        // A shell, so that quotes and variables mean what they mean at a prompt; `exec`, so that
        // the process is the server's.
        let words = ["sh".to_owned(), "-c".to_owned(), format!("exec {line}")].to_vec();
        let version = "not asked: started by --subject".to_owned();
        Self { words, configuration: String::new(), version }
    }
}

/// What a program says to `--version`, in one line.
fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    let lines: Vec<_> = text.iter().flat_map(|text| text.lines()).map(str::trim).collect();
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).take(3).collect();
    Ok(lines.join(", "))
}

/// The limits are out of the way: all clients of the rig share one address.
fn turnpike(mode: &str, threads: usize) -> String {
    format!(
        "realm = \"{REALM}\"\n\n[listen]\nudp = [\"{SERVER}:{PORT}\"]\n\n\
         [relay]\naddresses = [\"{RELAYED}\"]\n\n\
         [auth]\nusers = {{ {USER} = \"{PASSWORD}\" }}\n\n\
         [datapath]\nmode = \"{mode}\"\npin = \"off\"\n\n\
         [peers]\nallow = [\"{NETWORK}\"]\n\n\
         [limits]\nallocations_max = 65536\nuser_allocations_max = 0\n\
         source_allocations_max = 0\nnew_peers_per_sec = 0\n\
         unauthenticated_replies_per_sec = 1000000\n\n\
         [workers]\nshards = {threads}\n\n[log]\nlevel = \"warn\"\n"
    )
}

fn coturn(threads: usize, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "listening-ip={SERVER}\nlistening-port={PORT}\nrelay-ip={RELAYED}\nrealm={REALM}\n\
         lt-cred-mech\nuser={USER}:{PASSWORD}\nrelay-threads={threads}\nno-tls\nno-dtls\nno-tcp\n\
         no-cli\nlog-file={directory}/coturn.log\nsimple-log\nno-stdout-log\n\
         pidfile={directory}/coturn.pid\nuserdb={directory}/coturn.db\n"
    )
}

fn turn_rs(threads: usize) -> String {
    format!(
        "[server]\nport-range = \"49152..65535\"\nmax-threads = {threads}\nrealm = \"{REALM}\"\n\n\
         [[server.interfaces]]\ntransport = \"udp\"\nlisten = \"{SERVER}:{PORT}\"\n\
         external = \"{SERVER}:{PORT}\"\nidle-timeout = 600\n\n\
         [log]\nlevel = \"warn\"\nstdout = true\n\n\
         [auth]\nenable-hooks-auth = false\n\n[auth.static-credentials]\n{USER} = \"{PASSWORD}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_by_command_line_has_a_name_of_its_own() {
        let subject: Subject = "pion=pion-turn --port {port}".parse().unwrap();
        assert_eq!(subject.name, "pion");
        assert_eq!(subject.kind, Kind::Other("pion-turn --port {port}".to_owned()));
        for (text, error) in [
            ("pion", NotASubject::Form),
            ("=x", NotASubject::Form),
            ("a b=x", NotASubject::Form),
            ("../a=x", NotASubject::Form),
            ("pion= ", NotASubject::Form),
            ("coturn=x", NotASubject::NameTaken),
        ] {
            assert_eq!(text.parse::<Subject>(), Err(error), "{text}");
        }
    }

    #[test]
    fn every_placeholder_is_filled() {
        let command =
            "x {listen}:{port} {peer_side} {user}:{password}@{realm} {secret} {dir} {port}";
        let recipe = Recipe::other(command, Path::new("/place"));
        let line = "exec x 10.91.1.1:3478 10.91.2.1 bench:relay-bench@relay-bench.test \
                    relay-bench-secret /place 3478";
        assert_eq!(recipe.words, ["sh", "-c", line]);
    }

    #[test]
    fn only_the_bare_rig_is_no_server() {
        let names: Vec<_> = Subject::built_in().into_iter().filter(|s| !s.is_server()).collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].name, REFLECTOR);
    }
}
