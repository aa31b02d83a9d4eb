//! Writes a plugin's output to the log: its log lines, and its standard output.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tracing::{debug, enabled, error, info, warn};

use super::environment::Environment;
use crate::plugin::counters::PluginCounters;

/// Longest line in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// Longest output on one stream in one call, in bytes.
const CALL_BYTES_MAX: usize = 4096;

/// Severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    /// Whether the log filter accepts lines of plugins at this level.
    fn is_wanted(self) -> bool {
        match self {
            Self::Error => enabled!(target: "plugin", tracing::Level::ERROR),
            Self::Warn => enabled!(target: "plugin", tracing::Level::WARN),
            Self::Info => enabled!(target: "plugin", tracing::Level::INFO),
            Self::Debug => enabled!(target: "plugin", tracing::Level::DEBUG),
        }
    }

    /// Converts a number of the plugin interface; an unknown number of a later version becomes debug.
    pub(super) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Error,
            2 => Self::Warn,
            3 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Lines per second of all instances of a plugin together. Errors and warnings have a separate budget, so
/// that informational lines cannot displace them.
#[derive(Debug)]
pub(super) struct LogBudget {
    lines_per_second: u32,
    begin: Instant,
    serious: Window,
    other: Window,
}

/// Seconds since the beginning in the upper half, lines in that second in the lower.
#[derive(Debug, Default)]
struct Window(AtomicU64);

impl LogBudget {
    pub(super) fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, begin: Instant::now(), serious: Window::default(), other: Window::default() }
    }

    fn take(&self, level: Level) -> bool {
        self.take_at(level, self.begin.elapsed().as_secs())
    }

    fn take_at(&self, level: Level, second: u64) -> bool {
        let window = match level {
            Level::Error | Level::Warn => &self.serious,
            Level::Info | Level::Debug => &self.other,
        };
        window.take(second, self.lines_per_second)
    }
}

impl Window {
    fn take(&self, second: u64, most: u32) -> bool {
        let next = |window: u64| {
            let used = if window >> 32 == second { window & u64::from(u32::MAX) } else { 0 };
            (used < u64::from(most)).then_some(second << 32 | (used + 1))
        };
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// Log output of one instance.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) plugin: Arc<str>,
    pub(super) budget: Arc<LogBudget>,
    pub(super) counters: Arc<PluginCounters>,
    /// Values to mask.
    pub(super) environment: Arc<Environment>,
}

impl Log {
    /// Writes a line, or counts it as dropped if the plugin has used its budget.
    pub(super) fn line(&self, level: Level, text: &str) {
        // A line below the log filter uses no budget.
        if !level.is_wanted() {
            return;
        }
        if !self.budget.take(level) {
            self.counters.log_line_dropped();
            return;
        }
        let plugin = &*self.plugin;
        let text = self.environment.mask(text);
        let line = printable(cut(&text, LINE_BYTES_MAX));
        match level {
            Level::Error => error!(target: "plugin", plugin, "{line}"),
            Level::Warn => warn!(target: "plugin", plugin, "{line}"),
            Level::Info => info!(target: "plugin", plugin, "{line}"),
            Level::Debug => debug!(target: "plugin", plugin, "{line}"),
        }
    }
}

/// Output of one call to a standard stream, kept until the call has ended: if the call fails, its last output
/// is part of the failure.
#[derive(Debug, Default)]
pub(super) struct Stream {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Stream {
    /// Accepts all bytes and keeps the first ones.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let room = CALL_BYTES_MAX - self.bytes.len();
        self.overflowed |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Writes the lines to the log.
    pub(super) fn flush(&mut self, log: &Log, level: Level) {
        if self.bytes.is_empty() {
            return;
        }
        for line in self.text(&log.environment).lines().filter(|line| !line.trim().is_empty()) {
            log.line(level, line);
        }
        if self.overflowed {
            log.counters.log_line_dropped();
        }
        self.clear();
    }

    /// Takes the text as one line.
    pub(super) fn take(&mut self, environment: &Environment) -> String {
        let text = self.text(environment);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_about_backtraces(line));
        let text = lines.collect::<Vec<_>>().join("; ");
        self.clear();
        printable(cut(&text, LINE_BYTES_MAX)).into_owned()
    }

    /// The output with secrets masked.
    fn text(&self, environment: &Environment) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let masked = if self.overflowed { environment.mask_cut(&text) } else { environment.mask(&text) };
        masked.into_owned()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.overflowed = false;
    }
}

/// What Rust appends to a panic: a plugin has no environment to follow it in.
fn is_about_backtraces(line: &str) -> bool {
    line.starts_with("note: run with `RUST_BACKTRACE=")
}

/// The longest prefix of `text` with at most `bytes_max` bytes and whole characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Replaces control characters, so that a plugin cannot move the cursor or forge a line.
fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_full_again_in_the_next_second() {
        let budget = LogBudget::new(2);
        let taken = [0, 0, 0, 1, 1, 1, 7].map(|second| budget.take_at(Level::Info, second));
        assert_eq!(taken, [true, true, false, true, true, false, true]);
        assert!(!LogBudget::new(0).take_at(Level::Error, 3));
    }

    #[test]
    fn what_is_told_for_information_does_not_silence_a_warning() {
        let budget = LogBudget::new(1);
        let taken =
            [Level::Info, Level::Debug, Level::Warn, Level::Error].map(|level| budget.take_at(level, 0));
        assert_eq!(taken, [true, false, true, false]);
    }

    #[test]
    fn what_a_call_writes_is_bounded_and_becomes_one_line() {
        let mut stream = Stream::default();
        let environment = Environment::default();
        stream.write(b"panicked at src/lib.rs:7:\n\x1b[31mno\n");
        assert_eq!(stream.take(&environment), "panicked at src/lib.rs:7:; \u{fffd}[31mno");
        assert_eq!(stream.take(&environment), "");
        for _ in 0..100 {
            stream.write(&[b'x'; 1000]);
        }
        assert_eq!(stream.bytes.len(), CALL_BYTES_MAX);
        assert_eq!(stream.take(&environment).len(), LINE_BYTES_MAX);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 3), "");
    }
}
