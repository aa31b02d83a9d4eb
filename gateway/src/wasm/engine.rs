//! The one engine of the process and the clock that ends calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The unit of deadlines.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Largest table of one instance, in elements: a table of functions that a large program needs, and the pool's slot.
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Core instances, memories and tables that one component may consist of. A core module that was made a component has
/// four instances: itself, the WASI adapter, and two small ones that connect them.
pub(super) const PARTS_MAX: u32 = 16;

/// Instances of all plugins that may wait.
const STACKS_MAX: u32 = 512;

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the WebAssembly engine: {0}; this machine or its limits do not support it")]
pub struct EngineError(Box<str>);

impl EngineError {
    pub(super) fn new(error: &wasmtime::Error) -> Self {
        Self(format!("{error:#}").into())
    }
}

/// Makes the engine and starts its clock, which ends when the last handle of the engine is dropped.
///
/// Memory for `instances_max` instances is reserved as address space, not as memory. Where the system refuses that, every
/// instance reserves its own when it is made.
pub(super) fn start(instances_max: u32) -> Result<Engine, EngineError> {
    start_with(instances_max, false)
}

/// The same with an engine that counts instructions, which doubles the price of what a plugin computes.
pub(super) fn start_metered(instances_max: u32) -> Result<Engine, EngineError> {
    start_with(instances_max, true)
}

fn start_with(instances_max: u32, metered: bool) -> Result<Engine, EngineError> {
    let config = |pool| {
        let mut config = config(pool);
        config.consume_fuel(metered);
        config
    };
    let engine = Engine::new(&config(Some(instances_max))).or_else(|error| {
        warn!(
            instances_max,
            error = format!("{error:#}"),
            "cannot reserve address space for plugin instances together; each reserves its own, which makes a new \
             instance slower. A limit on virtual memory (ulimit -v) or fewer instances decide this"
        );
        Engine::new(&config(None)).map_err(|error| EngineError::new(&error))
    })?;
    let weak = engine.weak();
    let clock = move || {
        let mut due = Instant::now();
        loop {
            // Not a tick after the last one but a tick after it was due: what a sleep takes longer adds up otherwise, and every
            // call that uses its deadline takes it longer too.
            let now = Instant::now();
            due = if due > now { due } else { due + TICK };
            due = if due > now { due } else { now + TICK };
            thread::sleep(due - now);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    // A thread of its own: on a runtime it would starve exactly when a plugin keeps the runtime busy.
    // And without it no call would ever end, so it is begun again whatever happens in it.
    let started = thread::Builder::new()
        .name("plugin-clock".into())
        .spawn(move || while catch_unwind(AssertUnwindSafe(&clock)).is_err() {});
    started.map_err(|error| EngineError(format!("no thread for the clock of deadlines: {error}").into()))?;
    Ok(engine)
}

fn config(pool: Option<u32>) -> Config {
    let mut config = Config::new();
    // Another crate that asks for wasmtime's default features would switch this on and double the price of a call.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // The compiler's own pool would take all cores away from serving.
    config.parallel_compilation(false);
    if let Some(instances_max) = pool {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances_max)
            .total_core_instances(instances_max.saturating_mul(4))
            .total_memories(instances_max)
            .total_tables(instances_max.saturating_mul(4))
            // One for each store that may wait; the memory is taken when it is used.
            .total_stacks(STACKS_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_core_instances_per_component(PARTS_MAX)
            .max_memories_per_component(PARTS_MAX)
            .max_tables_per_component(PARTS_MAX);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn calls_do_not_pay_for_concurrency() {
        for pool in [Some(10), None] {
            let engine = Engine::new(&config(pool)).unwrap();
            assert!(!engine.get_concurrency_support(), "{pool:?}");
        }
    }

    #[test]
    fn the_clock_ends_with_the_engine() {
        let engine = start(10).unwrap();
        let weak = engine.weak();
        drop(engine);
        // The clock holds the engine only while it counts, so a few ticks decide it.
        let gone = (0..1000).any(|_| {
            thread::sleep(TICK);
            weak.upgrade().is_none()
        });
        assert!(gone);
    }

    #[test]
    fn without_address_space_for_a_pool_every_instance_reserves_its_own() {
        let engine = start(u32::MAX / 8).unwrap();
        assert!(engine.pooling_allocator_metrics().is_none());
    }
}
