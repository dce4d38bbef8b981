//! The log: to standard error, as text or as JSON, from one level up.
//! What is worth a line is decided where it happens.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process; once.
///
/// # Errors
///
/// If it was started before.
pub(crate) fn init(log: Log) -> Result<(), TryInitError> {
    let builder = fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(log.level)
        // Where a line comes from is of use to us, not to who runs the relay.
        .with_target(log.level >= Level::DEBUG);
    // Libraries say little below info that an operator could use.
    let ours = Targets::new()
        .with_default(log.level.min(Level::INFO))
        .with_target(env!("CARGO_BIN_NAME"), log.level);
    match log.format {
        LogFormat::Text => builder.finish().with(ours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(ours).try_init(),
    }
}
