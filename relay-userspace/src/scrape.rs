//! The running relay as seen from outside its shards: asks them, reads the kernel's maps, and
//! tells them to end.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use relay_common::abi::{Count, Reason};
use relay_turn::{Credentials, RealmId};
use rustix::fd::OwnedFd;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::error;

use crate::admin::{Health, Report};
use crate::datapath::{Interface, Kernel, Mode};
use crate::metrics::{self, InterfaceMode, Sample};
use crate::shard::{self, Command};
use crate::store::Status;

/// How long a shard may take to answer; it answers between two rounds of packets.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A running shard.
pub(crate) struct ShardHandle {
    commands: Sender<Command>,
    wake: OwnedFd,
}

impl ShardHandle {
    pub(crate) fn new(commands: Sender<Command>, wake: OwnedFd) -> Self {
        Self { commands, wake }
    }

    /// Gives a command, if the shard still lives.
    fn tell(&self, command: Command) -> Option<()> {
        self.commands.send(command).ok()?;
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok().map(|_| ())
    }

    async fn report(&self) -> Option<shard::Report> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Report(reply))?;
        timeout(ANSWER_MAX, answer).await.ok()?.ok()
    }
}

/// The running relay.
pub(crate) struct Relay {
    shards: Vec<ShardHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    kernel: Option<Arc<Kernel>>,
    /// Interfaces whose packets are relayed by sockets, when there is no kernel datapath.
    userspace: Vec<Interface>,
    status: Arc<Status>,
}

impl Relay {
    pub(crate) fn new(
        (shards, threads): (Vec<ShardHandle>, Vec<JoinHandle<()>>),
        kernel: Option<Arc<Kernel>>,
        userspace: Vec<Interface>,
        status: Status,
    ) -> Self {
        let status = Arc::new(status);
        Self { shards, threads: Mutex::new(threads), kernel, userspace, status }
    }

    /// What is counted of users and secrets.
    pub(crate) fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Gives a command to one shard, if it still lives.
    pub(crate) fn tell(&self, shard: usize, command: Command) {
        // One that is gone asks for nothing more.
        let _ = self.shards.get(shard).and_then(|shard| shard.tell(command));
    }

    /// Gives every shard other credentials for a realm.
    pub(crate) fn replace_credentials(&self, realm: RealmId, credentials: &Credentials) {
        for shard in 0..self.shards.len() {
            self.tell(shard, Command::Credentials(realm, credentials.clone()));
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The path that packets take where they can.
    pub(crate) fn mode(&self) -> Mode {
        self.kernel.as_ref().map_or(Mode::Userspace, |kernel| kernel.mode())
    }

    /// Everything that is counted, read now, and how the relay is.
    pub(crate) async fn report(self: Arc<Self>) -> Report {
        let reports = join_all(self.shards.iter().map(ShardHandle::report)).await;
        let failing = reports.iter().enumerate().filter(|(_, report)| report.is_none());
        let failing: Vec<String> =
            failing.map(|(index, _)| format!("shard {index} does not answer")).collect();
        let mut sample = Sample {
            shards: reports,
            xdp: Some([Count::default(); Reason::ALL.len()]),
            interfaces: self.interfaces(),
            store: self.status.sample(),
            ..Sample::default()
        };
        if let Some(kernel) = &self.kernel {
            let report = kernel.report();
            sample.xdp = report.reasons;
            sample.routes = report.routes;
            sample.hairpins = report.hairpins;
            sample.kernel_permissions = report.permissions;
            sample.route_install_failures = report.install_failures;
            sample.next_hops_resolved = report.next_hops_resolved;
            sample.next_hops_unresolved = report.next_hops_unresolved;
            sample.times = kernel.times();
        }
        Report { sample, health: Health { ready: failing.is_empty(), failing } }
    }

    /// Ends every shard: routes go before sockets. Blocks until all are done.
    pub(crate) fn close(&self) {
        for shard in &self.shards {
            // One that is gone has nothing left to close.
            let _ = shard.tell(Command::Close);
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                error!("a shard had panicked: its packets were not relayed since");
            }
        }
    }

    fn interfaces(&self) -> Vec<metrics::Interface> {
        let kernel = self.kernel.iter();
        let attached = kernel.flat_map(|kernel| kernel.attachments());
        let attached = attached.map(|place| (place.interface.name, place.mode));
        let by_sockets = self.userspace.iter().map(|i| (i.name.clone(), Mode::Userspace));
        attached
            .chain(by_sockets)
            .map(|(name, mode)| metrics::Interface {
                name,
                mode: match mode {
                    Mode::Native => InterfaceMode::Native,
                    Mode::Generic => InterfaceMode::Generic,
                    Mode::Userspace => InterfaceMode::Userspace,
                },
            })
            .collect()
    }
}
