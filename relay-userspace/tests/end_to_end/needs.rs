//! What a test needs of the machine, and whether the machine has it. A test whose needs are not
//! met is skipped with the reason, and counted as skipped.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

use crate::relay::Rig;
use crate::topology;

/// Something that not every machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Root, and network namespaces.
    Namespaces,
    /// A kernel object, and a kernel that loads it.
    Xdp,
    /// coturn's test client and echo server.
    Clients,
    /// `setpriv` of util-linux.
    Setpriv,
    /// A Redis server and its client.
    Redis,
}

/// What this machine lacks, as a sentence for each need.
pub(crate) struct Machine {
    namespaces: Option<String>,
    xdp: Option<String>,
    clients: Option<String>,
    setpriv: Option<String>,
    redis: Option<String>,
}

impl Machine {
    /// Tries everything once.
    pub(crate) fn examine(rig: &Rig) -> Self {
        let namespaces = namespaces();
        let xdp = match (&namespaces, &rig.object) {
            (Some(why), _) => Some(why.clone()),
            (None, None) => Some("TURNPIKE_XDP_OBJECT names no object".to_owned()),
            (None, Some(object)) => no_bpf(object),
        };
        Self {
            namespaces,
            xdp,
            clients: tools(&["turnutils_uclient", "turnutils_peer"], "coturn"),
            setpriv: tools(&["setpriv"], "util-linux"),
            redis: tools(&["redis-server", "redis-cli"], "redis-server redis-tools"),
        }
    }

    /// Why a test with these needs cannot run here.
    pub(crate) fn missing(&self, needs: &[Need]) -> Option<&str> {
        let lacks = |need: &Need| match need {
            Need::Namespaces => self.namespaces.as_deref(),
            Need::Xdp => self.xdp.as_deref(),
            Need::Clients => self.clients.as_deref(),
            Need::Setpriv => self.setpriv.as_deref(),
            Need::Redis => self.redis.as_deref(),
        };
        needs.iter().find_map(lacks)
    }
}

fn namespaces() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Some("network namespaces need root".to_owned());
    }
    if let Some(why) = tools(&["ip", "ss"], "iproute2").or_else(|| tools(&["ethtool"], "ethtool")) {
        return Some(why);
    }
    topology::try_namespace().err().map(|why| format!("no network namespaces: {why}"))
}

/// Why this machine loads no BPF. An object that the kernel refuses for what is in it is no
/// reason: that is what the tests are to find.
fn no_bpf(object: &Path) -> Option<String> {
    let error = topology::bystander(object).err()?;
    let mut cause: Option<&dyn Error> = Some(&*error);
    while let Some(this) = cause {
        let code = this.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if matches!(code, Some(libc::EPERM | libc::ENOSYS)) {
            return Some(format!("no BPF here: {error}"));
        }
        cause = this.source();
    }
    None
}

/// The first of `names` that cannot be run, and the Debian package that has it.
fn tools(names: &[&str], package: &str) -> Option<String> {
    let missing = names.iter().find(|name| {
        let mut tool = Command::new(name);
        tool.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tool.status().is_err()
    })?;
    Some(format!("no {missing} here: apt-get install {package}"))
}
