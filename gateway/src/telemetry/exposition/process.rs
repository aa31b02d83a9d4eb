//! The standard metrics of a process, which dashboards and alerts expect from every program.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::writer::Writer;
use crate::clock::{Clock, Now};
use crate::resources;

/// How long a number of descriptors is kept that took long to count.
const COUNT_KEPT: Duration = Duration::from_secs(15);

/// Asks the system at every scrape. What the system does not report is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// Unix time of the start. Constant, because a changed value is how alerts notice a restart.
    started: Duration,
    clock: Clock,
    counted: Counted,
}

/// Descriptors that were counted one by one, because the system does not report their number.
#[derive(Debug, Default)]
struct Counted(Mutex<Option<(Duration, u64)>>);

impl Process {
    pub(super) fn new() -> Self {
        let clock = Clock::start();
        let Now { at, unix } = clock.now();
        let started = Duration::from_millis(unix).saturating_sub(at);
        Self { started, clock, counted: Counted::default() }
    }
}

impl Counted {
    /// The number, counted again if it is too old: a scrape holds up the other requests to the gateway.
    fn get(&self, now: Duration, count: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.is_none_or(|(at, _)| now.saturating_sub(at) >= COUNT_KEPT) {
            *counted = count().map(|number| (now, number));
        }
        counted.map(|(_, number)| number)
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(&mut encoder);
        let used = resources::used();
        let descriptors =
            used.descriptors.or_else(|| self.counted.get(self.clock.at(), resources::count_descriptors));
        let help = "Processor time of all threads, in user and system mode";
        writer.seconds_counter("cpu", help, used.processor_time)?;
        let help = "Unix time at which the process started";
        writer.seconds("start_time", help, self.started)?;
        let bytes = Some(&Unit::Bytes);
        for (name, help, unit, value) in [
            ("resident_memory", "Memory that is in use", bytes, used.resident),
            ("virtual_memory", "Address space that is reserved", bytes, used.reserved),
            ("open_fds", "Open files and sockets", None, descriptors),
            ("max_fds", "Files and sockets that may be open", None, used.descriptors_max),
        ] {
            if let Some(value) = value {
                writer.gauge(name, help, unit, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_to_count_is_counted_every_few_seconds() {
        let counted = Counted::default();
        let at = |seconds, number| counted.get(Duration::from_secs(seconds), || number);
        assert_eq!(
            [at(1, Some(7)), at(10, Some(8)), at(16, Some(9)), at(17, None)],
            [Some(7), Some(7), Some(9), Some(9)]
        );
        assert_eq!([at(31, None), at(32, Some(10))], [None, Some(10)]);
    }
}
