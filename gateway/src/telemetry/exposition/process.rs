//! The standard metrics of a process, which dashboards and alerts expect from every program.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::writer::Writer;
use crate::clock::{Clock, Now};
use crate::resources;

/// Asks the system at every scrape. What the system does not report is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// Unix time of the start. Constant, because a changed value is how alerts notice a restart.
    started: Duration,
}

impl Process {
    pub(super) fn new() -> Self {
        let Now { at, unix } = Clock::start().now();
        Self { started: Duration::from_millis(unix).saturating_sub(at) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(&mut encoder);
        let used = resources::used();
        let help = "Processor time of all threads, in user and system mode";
        writer.seconds_counter("cpu", help, used.processor_time)?;
        let help = "Unix time at which the process started";
        writer.seconds("start_time", help, self.started)?;
        let bytes = Some(&Unit::Bytes);
        for (name, help, unit, value) in [
            ("resident_memory", "Memory that is in use", bytes, used.resident),
            ("virtual_memory", "Address space that is reserved", bytes, used.reserved),
            ("open_fds", "Open files and sockets", None, used.descriptors),
            ("max_fds", "Files and sockets that may be open", None, used.descriptors_max),
        ] {
            if let Some(value) = value {
                writer.gauge(name, help, unit, value)?;
            }
        }
        Ok(())
    }
}
