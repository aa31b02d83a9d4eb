//! [`Budget`] compares the memory that the settings may need at most with the memory available.

use tracing::{info, warn};

use crate::config::{Config, Consumer};
use crate::protocol::delta::KEPT_BYTES_MAX;
use crate::resources::{self, Memory, show};

/// Address space for the code and instances of plugins, and for threads that are not workers.
const SPACE_MIN: u64 = 320 << 20;
/// Address space for the allocator and the stack of one worker.
const SPACE_OF_WORKER: u64 = 80 << 20;

/// The address space of the process is too small to serve with plugins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{left} are left of the {total} of address space that `ulimit -v` allows, and a gateway with {workers} workers needs at least \
     {least}: raise it, lower `listen.workers`, or limit memory instead (a control group)"
)]
pub struct NoSpace {
    left: String,
    total: String,
    workers: usize,
    least: String,
}

/// Checks that there is room for plugins: without them a gateway must not serve.
///
/// # Errors
///
/// If the address space of the process is too small.
pub fn check_address_space(workers: usize) -> Result<(), NoSpace> {
    check(workers, resources::address_space())
}

fn check(workers: usize, limit: Option<Memory>) -> Result<(), NoSpace> {
    let least = SPACE_MIN.saturating_add(SPACE_OF_WORKER.saturating_mul(workers as u64));
    match limit {
        Some(Memory { total, free, .. }) if free < least => {
            Err(NoSpace { left: show(free), total: show(total), workers, least: show(least) })
        }
        _ => Ok(()),
    }
}

/// The largest parts, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget(Vec<(&'static str, u64)>);

impl Budget {
    /// The budget of a configuration, with this many bytes for plugins.
    pub fn of(config: &Config, plugins: u64) -> Self {
        let upstreams = config
            .upstreams
            .values()
            .map(|upstream| (upstream.queue_bytes_max as u64).saturating_add(upstream.asks.memory_max()));
        Self(vec![
            ("memory.outbound_bytes_max", config.memory.outbound_bytes_max as u64),
            ("memory.history_bytes_max", config.memory.history_bytes_max as u64),
            (
                "listen.workers x memory.inbox_bytes_max",
                (config.memory.inbox_bytes_max as u64).saturating_mul(config.listen.workers as u64),
            ),
            ("listen.workers x payloads for deltas", kept_for_deltas(config)),
            (
                "redis.questions_bytes_max",
                config.redis.as_ref().map_or(0, |redis| redis.questions_bytes_max as u64),
            ),
            ("upstreams", upstreams.sum()),
            ("consumers", config.consumers.values().map(Consumer::memory_max).sum()),
            ("plugins", plugins),
            ("plugins.compile_bytes_max, for the time of a compile", config.plugins.compile_bytes_max as u64),
        ])
    }

    /// The sum of all parts.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Logs the budget in one line, as a warning if it exceeds the memory available.
    pub fn report(&self, memory: Option<Memory>) {
        let parts: Vec<String> = self
            .0
            .iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(what, bytes)| format!("{what} {}", show(*bytes)))
            .collect();
        let (at_most, parts) = (show(self.sum()), parts.join(", "));
        match memory {
            Some(Memory { total, by, .. }) if self.sum() > total => {
                let there_is = show(total);
                warn!(
                    at_most,
                    there_is,
                    "settings allow more memory than {by} has; lower the largest of these, or give it more: {parts}"
                );
            }
            Some(Memory { total, .. }) => {
                info!(at_most, there_is = show(total), "memory allowed by the settings: {parts}");
            }
            None => info!(at_most, "memory allowed by the settings: {parts}"),
        }
    }
}

/// Bytes of payloads that all workers keep, if deltas are made in any namespace.
fn kept_for_deltas(config: &Config) -> u64 {
    let mut namespaces = config.namespaces.named.values().chain([&config.namespaces.default]);
    let any = namespaces.any(|namespace| namespace.delta);
    if any { (KEPT_BYTES_MAX as u64).saturating_mul(config.listen.workers as u64) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Limit;

    #[test]
    fn address_space_that_is_too_small_is_refused_with_what_is_needed() {
        let memory = |free| Some(Memory { total: 1 << 30, free, by: Limit::AddressSpace });
        assert_eq!(check(2, None), Ok(()));
        assert_eq!(check(2, memory(480 << 20)), Ok(()));
        let error = check(2, memory(479 << 20)).expect_err("too little").to_string();
        assert!(
            error.starts_with("479 MiB are left of the 1.0 GiB") && error.contains("at least 480 MiB"),
            "{error}"
        );
    }

    #[test]
    fn the_parts_are_those_of_the_configuration() {
        let mut config = Config::default();
        config.listen.workers = 2;
        config.memory.outbound_bytes_max = 100 << 20;
        config.memory.inbox_bytes_max = 1 << 20;
        config.memory.history_bytes_max = 5 << 20;
        config.plugins.compile_bytes_max = 64 << 20;
        let budget = Budget::of(&config, 7 << 20);
        assert_eq!(budget.sum(), (100 + 5 + 2 + 7 + 64) << 20);
        let mut namespace = (*config.namespaces.default).clone();
        namespace.delta = true;
        config.namespaces.named.insert("prices".into(), namespace.into());
        assert_eq!(Budget::of(&config, 7 << 20).sum(), (100 + 5 + 2 + 7 + 64 + 32) << 20);
        let text = "[consumers.a]\nkind = 'redis-stream'\nurl = 'redis://h'\nstreams = ['s', 't']";
        config.consumers = Config::parse(text, "test").expect("settings").consumers;
        assert_eq!(Budget::of(&config, 7 << 20).sum(), (100 + 5 + 2 + 7 + 64 + 32 + 16) << 20);
        config.memory.inbox_bytes_max = usize::MAX;
        assert_eq!(Budget::of(&config, 0).sum(), u64::MAX, "and never less because it is too much to count");
    }
}
