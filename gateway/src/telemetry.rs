//! Log lines on standard error, and metrics for scraping.

pub mod backplane;
pub mod consumer;
pub mod exposition;
mod lines;
pub mod metrics;
pub mod target;
pub mod occupancy;
pub mod upstream;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use self::lines::Lines;
use self::metrics::LineLost;
use crate::config::{Log, LogFormat};
use crate::log_users;
use crate::supervisor::panic_message;

/// Maximum time that the end of the process waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The library of HTTP/2 writes no lines: clients could cause as many warnings as they like, and details show
/// parts of their requests. The one of NATS writes some for each attempt to connect, and details show what is
/// sent; a consumer says itself what fails.
const WITHOUT: [&str; 2] = ["h2=off", "async_nats=off"];

/// The log of the process, once it is initialized.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// Sends all log lines of the process to standard error, panics included. Logging never waits and never
/// fails. Only the first call has an effect.
///
/// # Errors
///
/// If the system does not start the thread that writes.
pub fn init_logging(log: &Log) -> io::Result<()> {
    log_users::set(log.users);
    let lines = Lines::to_standard_error()?;
    // The configuration has checked the filter.
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let without = WITHOUT.iter().filter_map(|directive| directive.parse().ok());
    let filter = without.fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(lines.clone())
        // The subscriber would write such errors to standard error directly, and panic if it cannot.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let installed = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("logging already set up; ignoring the new settings");
        return Ok(());
    }
    let _ = LINES.set(lines);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes a text to standard error: through the log's queue, if there is one, so that it neither waits nor
/// splits a log line. A failure is ignored.
pub fn say(text: &str) {
    let line = format!("{text}\n");
    match LINES.get() {
        Some(lines) => lines.put(line.as_bytes()),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits at most a second until every log line is written. For the end of the process.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(FLUSH_MAX);
    }
}

/// Number of log lines of this process that were lost.
fn lines_lost(reason: LineLost) -> u64 {
    LINES.get().map_or(0, |lines| lines.lost(reason))
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name(),
        location = panic.location().map(ToString::to_string),
        backtrace,
        "panicked: {}",
        panic_message(panic.payload()),
    );
}
