//! [`PluginCounters`] counts calls, failures and effects of a plugin, in one row per worker so that workers
//! do not contend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::event::Hook;
use super::failure::Cause;
use super::state::{PluginState, Usage};
use crate::histogram::{Observed, Times};

/// Counters of one plugin, from its first load to the end of the process: a reload does not reset them. They
/// also hold the plugin's state in the gateway, which lives as long.
///
/// Every worker writes its own row on separate cache lines, so that counting causes no traffic between cores.
#[derive(Debug)]
pub struct PluginCounters {
    rows: Box<[Row]>,
    log_lines_dropped: AtomicU64,
    state: Arc<PluginState>,
    breaker_opened: AtomicU64,
}

/// Counts of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Row {
    calls: AtomicU64,
    failures: [AtomicU64; Cause::ALL.len()],
    refusals: AtomicU64,
    effects: AtomicU64,
    skipped: AtomicU64,
    attributes_refused: AtomicU64,
    deliveries_dropped: AtomicU64,
    deliveries_replaced: AtomicU64,
    times: [Times; Hook::ALL.len()],
}

/// A snapshot of the counters, summed over the workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of hooks.
    pub calls: u64,
    /// Calls without a usable answer, in the order of [`Cause::ALL`].
    pub failures: [u64; Cause::ALL.len()],
    /// Events that this plugin refused with an error or by closing the connection.
    pub refusals: u64,
    /// Effects of calls that ended normally.
    pub effects: u64,
    /// Events without a call: the breaker was open or there was no instance, so the failure policy applied.
    pub skipped: u64,
    /// Attributes that it tried to set although they belong to another plugin.
    pub attributes_refused: u64,
    /// How often the breaker has opened automatically.
    pub breaker_opened: u64,
    /// Publications that a class of subscribers did not receive because of this plugin, counted on each
    /// worker with such subscribers.
    pub deliveries_dropped: u64,
    /// Publications that it replaced for a class of subscribers, counted on each worker with such
    /// subscribers.
    pub deliveries_replaced: u64,
    /// Log lines and output that exceeded the plugin's limits.
    pub log_lines_dropped: u64,
    /// Use of the plugin's state in the gateway.
    pub state: Usage,
    /// Durations of measured calls, in the order of [`Hook::ALL`].
    pub times: [Observed; Hook::ALL.len()],
}

impl Counts {
    /// Calls that failed because of `cause`.
    pub fn failures_by(&self, cause: Cause) -> u64 {
        self.failures[cause as usize]
    }
}

impl PluginCounters {
    /// Counters for this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            rows: (0..workers.max(1)).map(|_| Row::default()).collect(),
            log_lines_dropped: AtomicU64::new(0),
            state: Arc::default(),
            breaker_opened: AtomicU64::new(0),
        }
    }

    /// The sums. Values of different fields may be a few events apart.
    pub fn read(&self) -> Counts {
        let mut counts = Counts {
            log_lines_dropped: self.log_lines_dropped.load(Relaxed),
            state: self.state.usage(),
            breaker_opened: self.breaker_opened.load(Relaxed),
            ..Counts::default()
        };
        for row in &self.rows {
            counts.calls += row.calls.load(Relaxed);
            counts.refusals += row.refusals.load(Relaxed);
            counts.effects += row.effects.load(Relaxed);
            counts.skipped += row.skipped.load(Relaxed);
            counts.attributes_refused += row.attributes_refused.load(Relaxed);
            counts.deliveries_dropped += row.deliveries_dropped.load(Relaxed);
            counts.deliveries_replaced += row.deliveries_replaced.load(Relaxed);
            for (sum, failures) in counts.failures.iter_mut().zip(&row.failures) {
                *sum += failures.load(Relaxed);
            }
            counts.times.iter_mut().zip(&row.times).for_each(|(sum, times)| sum.add(&times.read()));
        }
        counts
    }

    /// The plugin's state in the gateway.
    pub fn state(&self) -> &Arc<PluginState> {
        &self.state
    }

    /// Counts output beyond the plugin's limit.
    pub fn log_line_dropped(&self) {
        self.log_lines_dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn breaker_opened(&self) {
        self.breaker_opened.fetch_add(1, Relaxed);
    }

    /// The row of a worker. If there are fewer rows than workers, workers without one share the first.
    pub(super) fn row(&self, worker: usize) -> &Row {
        self.rows.get(worker).unwrap_or(&self.rows[0])
    }
}

impl Row {
    pub(super) fn call(&self) {
        add(&self.calls, 1);
    }

    pub(super) fn failure(&self, cause: Cause) {
        add(&self.failures[cause as usize], 1);
    }

    /// A measured call of a hook took this long.
    pub(super) fn took(&self, hook: Hook, time: Duration) {
        self.times[hook as usize].observe(time);
    }

    pub(super) fn refusal(&self) {
        add(&self.refusals, 1);
    }

    pub(super) fn skipped(&self) {
        add(&self.skipped, 1);
    }

    pub(super) fn attributes_refused(&self, count: usize) {
        add(&self.attributes_refused, count as u64);
    }

    pub(super) fn delivery_dropped(&self) {
        add(&self.deliveries_dropped, 1);
    }

    pub(super) fn delivery_replaced(&self) {
        add(&self.deliveries_replaced, 1);
    }

    pub(super) fn effects(&self, count: usize) {
        add(&self.effects, count as u64);
    }
}

/// A row has one writer, its worker, so a separate load and store lose nothing and avoid a locked
/// instruction.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}
