//! `relay-bench echo`: the echo peer alone, on the host where `load --peer` expects it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use clap::Args;

use crate::cli::EXIT_INTERRUPTED;
use crate::host;
use crate::load::peer::{self, EchoPeer, PeerCounts};

/// `relay-bench echo`.
#[derive(Debug, Args)]
pub(crate) struct Echo {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
}

impl Echo {
    /// Echoes until Ctrl-C.
    ///
    /// # Errors
    /// The address cannot be bound, or the socket fails.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let stop = host::stop_on_signals(EXIT_INTERRUPTED)?;
        let socket = peer::open(self.listen)
            .with_context(|| format!("cannot listen on {} (--listen)", self.listen))?;
        eprintln!("echo peer on {}; Ctrl-C ends it", socket.local_addr()?);
        let counts = PeerCounts::default();
        EchoPeer::new(&socket)
            .and_then(|peer| peer.run(&stop, &counts))
            .context("the echo peer failed")?;
        // A reader who has gone leaves the exit code.
        let _ = writeln!(
            io::stdout(),
            "received {}, echoed {}, not taken by this host {}",
            counts.received.load(Ordering::Relaxed),
            counts.echoed.load(Ordering::Relaxed),
            counts.unsent.load(Ordering::Relaxed)
        );
        Ok(ExitCode::SUCCESS)
    }
}
