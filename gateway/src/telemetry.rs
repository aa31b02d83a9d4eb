//! Log lines on standard error, and metrics for whoever scrapes them.

pub mod backplane;
pub mod exposition;
pub mod metrics;
pub mod seldom;
pub mod upstream;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{Log, LogFormat};

/// Sends log lines of the whole process to standard error. Only the first call has an effect.
pub fn init_logging(log: &Log) {
    // The configuration has checked the filter.
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("logging was set up before; the new settings are not used");
    }
}
